//! Does a deployment work? Small cases with real devices and a business's key, one thing each, and then
//! all at once, against any hawser; against a `hawser dev` of its own when none is named. Whatever it makes
//! has a random name and is removed again, so that it may run beside real users.

mod cases;
mod place;
mod said;

use crate::dev::{APP, BUSINESS, Dev};
use crate::secret;
use crate::stop::{INTERRUPTED, Stop};
use crate::system;
use anyhow::bail;
use cases::{CASES, Case};
use place::{Named, Place};
use said::{Found, Line, Said};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// From the beginning of a case to its word; the longest take half a minute on a busy machine.
const CASE_PATIENCE: Duration = Duration::from_mins(2);

/// Which cases, and against what.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Check {
    /// Cases, by name; none named: all.
    cases: Vec<String>,
    /// Print the cases, and what each is about.
    #[arg(long)]
    list: bool,
    /// What was found as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Control's public address; none: a `hawser dev` is started for this run.
    #[arg(long, value_name = "URL", requires_all = ["push", "key"])]
    control: Option<String>,
    /// Address of the push API.
    #[arg(long, value_name = "URL", requires = "control")]
    push: Option<String>,
    /// App whose devices are played.
    #[arg(long, default_value = APP)]
    app: String,
    /// Business that the key is of.
    #[arg(long, default_value = BUSINESS)]
    business: String,
    /// Where the business's key is: env:NAME or file:/path. It needs the scopes push, group, presence and admin.
    #[arg(long, value_name = "WHERE", requires = "control")]
    key: Option<String>,
    /// Where the app's client secret is, likewise; none: the app lets devices in without a proof.
    #[arg(long, value_name = "WHERE", requires = "control")]
    client_secret: Option<String>,
    /// PEM file of the CAs that devices trust in place of those of this machine, and control and push beside them.
    #[arg(long, visible_alias = "ca", value_name = "FILE", requires = "control")]
    trust: Option<PathBuf>,
    /// Method of the business that answers any request with its body.
    #[arg(long, default_value = "echo")]
    method: String,
    /// Devices of the combined case.
    #[arg(long, default_value_t = 50)]
    devices: usize,
    /// The hawser binary to start, without --control; default: the one beside this program.
    #[arg(long, env = "HAWSER_BIN")]
    hawser: Option<PathBuf>,
}

/// Runs the cases and says what was found.
pub(crate) async fn run(wanted: &Check) -> anyhow::Result<ExitCode> {
    let cases = chosen(&wanted.cases)?;
    if wanted.list {
        for case in cases {
            println!("{:16} {}", case.name, case.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut stop = Stop::listen()?;
    // Runs as long as it is held.
    let mut dev = None;
    let named = if let (Some(control), Some(push), Some(key)) =
        (&wanted.control, &wanted.push, &wanted.key)
    {
        Named {
            control: control.clone(),
            push: push.clone(),
            key: secret::read(key)?,
            client_secret: wanted.client_secret.as_deref().map(secret::read).transpose()?,
            trust: wanted.trust.clone(),
        }
    } else {
        let binary = system::binary(wanted.hawser.as_deref())?;
        let Some(started) = stop.or(Dev::start(&binary, "embedded")).await else {
            eprintln!("interrupted before the first case");
            return Ok(ExitCode::from(INTERRUPTED));
        };
        let dev = dev.insert(started?);
        Named {
            control: dev.control.clone(),
            push: dev.push.clone(),
            key: dev.key.clone(),
            client_secret: None,
            trust: Some(dev.trust.clone()),
        }
    };
    let place = Place::new(named, wanted)?;
    let mut lines = Vec::new();
    for case in &cases {
        let Some(line) = stop.or(judge(case, &place)).await else { break };
        if !wanted.json {
            eprintln!("{} {} ({:.1} s)", line.name, line.said, line.seconds);
        }
        lines.push(line);
    }
    let is_interrupted = lines.len() < cases.len();
    lines.extend(cases[lines.len()..].iter().map(|case| Line::of(case)));
    // Somebody who wants an end once more does not wait for it.
    let left = stop.or(place.clean_up()).await;
    let left = left.unwrap_or_else(|| vec!["groups and inboxes of this run".to_owned()]);
    if wanted.json {
        println!("{:#}", said::to_json(&lines, &left));
    } else {
        print!("{}", said::to_table(&lines, &left));
    }
    Ok(match (is_interrupted, said::has_passed(&lines)) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    })
}

async fn judge(case: &'static Case, place: &Place) -> Line {
    let begun = Instant::now();
    let said = match tokio::time::timeout(CASE_PATIENCE, (case.run)(place)).await {
        Ok(Ok(Found::Fine(note))) => Said::Passed(note),
        Ok(Ok(Found::Unknown(why))) => Said::NotJudged(why),
        Ok(Err(error)) => said::of_error(&error),
        Err(_) => Said::Failed(format!("not done in {CASE_PATIENCE:?}")),
    };
    Line { said, seconds: begun.elapsed().as_secs_f64(), ..Line::of(case) }
}

/// The cases of these names, in their own order.
fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Case>> {
    for name in names {
        if !CASES.iter().any(|case| case.name == name) {
            let known: Vec<_> = CASES.iter().map(|case| case.name).collect();
            bail!("no case is called {name}; there are: {}", known.join(", "));
        }
    }
    let is_named = |case: &&Case| names.is_empty() || names.iter().any(|name| name == case.name);
    Ok(CASES.iter().filter(is_named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_case_is_told_with_those_that_there_are() {
        let error = chosen(&["presence".to_owned(), "presense".to_owned()]).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("presense") && text.contains("stored-offline"), "{text}");
        assert_eq!(chosen(&["presence".to_owned()]).unwrap().len(), 1);
        assert_eq!(chosen(&[]).unwrap().len(), CASES.len());
    }

    #[test]
    fn names_of_cases_are_told_apart() {
        for (index, case) in CASES.iter().enumerate() {
            let again = CASES[..index].iter().any(|other| other.name == case.name);
            assert!(!again, "{} is there twice", case.name);
        }
    }
}
