//! What a case came to, and how it is shown.

use super::cases::Case;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};
use std::fmt;

/// What a case itself finds, when nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All as it has to be; with figures, if there are any.
    Fine(String),
    /// It could not be tried here, for this reason.
    Unknown(String),
}

/// The word on a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Passed(String),
    Failed(String),
    NotJudged(String),
    /// Somebody wanted an end before it was done.
    NotRun,
}

impl Said {
    fn word(&self) -> &'static str {
        match self {
            Self::Passed(_) => "passed",
            Self::Failed(_) => "FAILED",
            Self::NotJudged(_) => "not judged",
            Self::NotRun => "not run",
        }
    }

    fn why(&self) -> &str {
        match self {
            Self::Passed(why) | Self::Failed(why) | Self::NotJudged(why) => why,
            Self::NotRun => "interrupted",
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        if self.why().is_empty() { Ok(()) } else { write!(f, ": {}", self.why()) }
    }
}

/// A key that may not do something says nothing of what the deployment can do.
pub(super) fn of_error(error: &anyhow::Error) -> Said {
    let status = error.chain().find_map(|cause| cause.downcast_ref::<tonic::Status>());
    match status {
        Some(status) if code(status) == "permission_denied" => {
            Said::NotJudged(format!("the key may not: {}", status.message()))
        }
        Some(status) if error.chain().count() == 1 => Said::Failed(refusal(status)),
        _ => Said::Failed(format!("{error:#}")),
    }
}

/// The published code of a refusal; may be empty.
pub(super) fn code(status: &tonic::Status) -> &str {
    status.metadata().get("hawser-code").and_then(|code| code.to_str().ok()).unwrap_or_default()
}

fn refusal(status: &tonic::Status) -> String {
    match code(status) {
        "" => format!("the push API answers {:?}: {}", status.code(), status.message()),
        code => format!("the push API answers {code}: {}", status.message()),
    }
}

/// One case of the table.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) said: Said,
    pub(super) seconds: f64,
}

impl Line {
    /// Of a case on which nothing is known yet.
    pub(super) fn of(case: &Case) -> Self {
        Self { name: case.name, about: case.about, said: Said::NotRun, seconds: 0.0 }
    }
}

/// Nothing failed, nothing was left out by an interruption, and something was seen to work.
pub(super) fn has_passed(lines: &[Line]) -> bool {
    let any = |is: fn(&Said) -> bool| lines.iter().any(|line| is(&line.said));
    !any(|said| matches!(said, Said::Failed(_) | Said::NotRun))
        && any(|said| matches!(said, Said::Passed(_)))
}

/// For people. `left`: what could not be removed again.
pub(super) fn to_table(lines: &[Line], left: &[String]) -> String {
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["case", "what is seen", "", "s"]);
    for Line { name, about, said, seconds } in lines {
        let seconds = format!("{seconds:.1}");
        table.add_row([(*name).to_owned(), (*about).to_owned(), said.to_string(), seconds]);
    }
    let count = |word| lines.iter().filter(|line| line.said.word() == word).count();
    let not_run = match count(Said::NotRun.word()) {
        0 => String::new(),
        some => format!(", {some} not run: interrupted"),
    };
    let left: Vec<String> = left.iter().map(|what| format!("left behind: {what}\n")).collect();
    format!(
        "{table}\n{} passed, {} failed, {} not judged{not_run}\n{}",
        count("passed"),
        count("FAILED"),
        count("not judged"),
        left.concat()
    )
}

/// For programs.
pub(super) fn to_json(lines: &[Line], left: &[String]) -> Value {
    let cases: Vec<Value> = lines
        .iter()
        .map(|line| {
            json!({
                "name": line.name,
                "about": line.about,
                "result": line.said.word().to_lowercase().replace(' ', "_"),
                "why": line.said.why(),
                "seconds": line.seconds,
            })
        })
        .collect();
    json!({"passed": has_passed(lines), "cases": cases, "left_behind": left})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(said: Said) -> Line {
        Line { name: "presence", about: "seen online", said, seconds: 0.5 }
    }

    #[test]
    fn one_failure_fails_the_verdict_and_so_does_nothing_seen() {
        let (good, bad) = (Said::Passed(String::new()), Said::Failed("it was offline".to_owned()));
        let unknown = Said::NotJudged("no such protocol".to_owned());
        let passed = |said: &[&Said]| {
            has_passed(&said.iter().map(|it| line((*it).clone())).collect::<Vec<_>>())
        };
        assert!(passed(&[&good]) && passed(&[&good, &unknown]));
        assert!(!passed(&[&good, &Said::NotRun]), "a part of the cases is not all of them");
        assert!(!passed(&[&good, &bad]) && !passed(&[&unknown]) && !passed(&[]));
    }

    #[test]
    fn table_and_json_say_the_same() {
        let lines =
            [line(Said::Failed("it was offline".to_owned())), line(Said::Passed(String::new()))];
        let left = ["the group g".to_owned()];
        let table = to_table(&lines, &left);
        for part in ["presence", "FAILED", "it was offline", "1 passed, 1 failed, 0 not judged"] {
            assert!(table.contains(part), "{part} in {table}");
        }
        assert!(table.contains("left behind: the group g"), "{table}");
        let json = to_json(&lines, &left);
        assert_eq!(json["passed"], false);
        assert_eq!(json["cases"][0]["result"], "failed");
        assert_eq!(json["cases"][0]["why"], "it was offline");
    }

    #[test]
    fn a_key_without_a_scope_is_no_failure_of_the_deployment() {
        let mut denied = tonic::Status::permission_denied("scope group");
        denied.metadata_mut().insert("hawser-code", "permission_denied".parse().unwrap());
        assert!(matches!(of_error(&denied.into()), Said::NotJudged(_)));
        let away: anyhow::Error = tonic::Status::unavailable("gone").into();
        assert!(matches!(of_error(&away), Said::Failed(why) if why.contains("gone")));
        assert!(matches!(of_error(&anyhow::anyhow!("no push")), Said::Failed(_)));
    }
}
