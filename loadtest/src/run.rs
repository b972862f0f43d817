//! `run`: a scenario against a deployment, watched while it runs and judged by its bounds at the end.
//!
//! Every delay counts from the time at which a request, a push or a login was *due* by the scenario, and not
//! from the time at which it left: a tool or a system that falls behind shows as long delays.

mod business;
mod count;
mod devices;
mod limits;
mod machine;
mod metrics;
mod pushes;
mod result;
mod target;

pub(crate) use count::TOTALS;

use crate::scenario::{Changes, Scenario, Setting, Shipped, seconds};
use crate::stop::{INTERRUPTED, Stop};
use anyhow::{Context, anyhow};
use count::Counts;
use devices::Devices;
use hawser_loadtest::outcome::{Outcome, Verdict};
use limits::Limits;
use metrics::Metrics;
use pushes::Backends;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use target::Target;

pub(crate) const AFTER_HELP: &str = "Examples:
  hawser-loadtest run --list
  hawser-loadtest run live-room
  hawser-loadtest run multicast --set populations.0.count=20000 --seconds 5m --results results
  hawser-loadtest run --example multicast > mine.toml    # change it, then:
  hawser-loadtest run mine.toml

Delays count from when something was due by the scenario, not from when it left.";

/// A device process holds so many at most, each with a source address of its own on loopback.
const PER_PROCESS: usize = 8_000;
/// From the start of the device processes to second 0, so that all of them are there.
const HEAD_START: Duration = Duration::from_millis(500);
/// What was sent at the very end may still arrive for so long.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// What was made for the run is removed again within this.
const CLEAN_UP_MAX: Duration = Duration::from_secs(30);

/// Exit codes beside 0, every bound kept.
const NOT_KEPT: u8 = 1;
const WRONG: u8 = 2;
const SAYS_NOTHING: u8 = 3;

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Run {
    /// A scenario's file, or the name of one that comes with this tool.
    #[arg(required_unless_present_any = ["list", "example"])]
    scenario: Option<String>,
    /// Print the scenarios that come with this tool, and what each is for.
    #[arg(long)]
    list: bool,
    /// Print one of them, to begin your own with.
    #[arg(long, value_name = "NAME")]
    example: Option<String>,
    /// Change a value of the file; may be given several times. `populations.0.count=20000`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Setting>,
    /// Multiply all counts of devices and all rates; a rate of multicasts stays, since each reaches fewer.
    #[arg(long, value_name = "FACTOR")]
    scale: Option<f64>,
    /// Stretch or shrink the stages, so that all of them take this long: `90` or `5m`. Logins
    /// become as much faster or slower, so that as many devices come in each stage.
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Write the result as NAME-UNIXTIME.json into this folder, and a page with its pictures beside it.
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Serve what was seen so far at this address, in Prometheus' text form, while it runs.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<std::net::SocketAddr>,
    /// Devices of one process at most.
    #[arg(long, default_value_t = PER_PROCESS)]
    per_process: usize,
    /// The hawser binary for a target that is started here; default: the one beside this program.
    #[arg(long, env = "HAWSER_BIN")]
    hawser: Option<PathBuf>,
}

/// Runs it, and says how it ended.
pub(crate) async fn run(wanted: &Run) -> anyhow::Result<ExitCode> {
    if wanted.list {
        for shipped in Shipped::ALL {
            println!("{:<18} {}", shipped.name, shipped.about());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let scenario = match read(wanted) {
        Ok(Read::Example(text)) => {
            print!("{text}");
            return Ok(ExitCode::SUCCESS);
        }
        Ok(Read::Scenario(scenario)) => scenario,
        Err(error) => {
            eprintln!("{error:#}");
            return Ok(ExitCode::from(WRONG));
        }
    };
    let outcome = match perform(&scenario, wanted).await {
        Ok(Some(outcome)) => outcome,
        Ok(None) => {
            eprintln!("{}: interrupted before anything was measured", scenario.name);
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Err(error) => {
            eprintln!("{}: {error:#}", scenario.name);
            return Ok(ExitCode::from(SAYS_NOTHING));
        }
    };
    result::print(&outcome);
    if let Some(folder) = &wanted.results {
        result::keep(&outcome, folder)?;
    }
    Ok(match outcome.verdict() {
        Verdict::Interrupted => ExitCode::from(INTERRUPTED),
        Verdict::SaysNothing => ExitCode::from(SAYS_NOTHING),
        Verdict::NotKept => ExitCode::from(NOT_KEPT),
        Verdict::Kept => ExitCode::SUCCESS,
    })
}

enum Read {
    Example(&'static str),
    Scenario(Box<Scenario>),
}

fn read(wanted: &Run) -> anyhow::Result<Read> {
    let unknown = |name: &str| {
        let names: Vec<_> = Shipped::ALL.iter().map(|shipped| shipped.name).collect();
        anyhow!("{name} is neither a file nor one of the scenarios {}", names.join(", "))
    };
    if let Some(name) = &wanted.example {
        let shipped = Shipped::named(name).ok_or_else(|| unknown(name))?;
        return Ok(Read::Example(shipped.text));
    }
    let name = wanted.scenario.as_deref().context("no scenario")?;
    let text = match Shipped::named(name) {
        Some(shipped) if !Path::new(name).is_file() => shipped.text.to_owned(),
        None if !Path::new(name).is_file() => return Err(unknown(name)),
        _ => std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?,
    };
    let (scale, seconds) = (wanted.scale, wanted.seconds);
    let changes = Changes { set: wanted.set.clone(), scale, seconds };
    Ok(Read::Scenario(Box::new(changes.apply(&text).with_context(|| name.to_owned())?)))
}

/// `None`: somebody wanted an end before anything was measured.
async fn perform(scenario: &Scenario, wanted: &Run) -> anyhow::Result<Option<Outcome>> {
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the descriptor limit")?;
    let mut stop = Stop::listen()?;
    let mut metrics = match wanted.metrics {
        Some(at) => Some(Metrics::serve(at, &scenario.name).await?),
        None => None,
    };
    let Some(target) = stop.or(Target::reach(scenario, wanted.hawser.as_deref())).await else {
        return Ok(None);
    };
    let target = target?;
    eprintln!("{}: {} for {:.0} s", scenario.name, target.about, scenario.seconds());
    let outcome = measure(scenario, wanted, &target, metrics.as_mut(), &mut stop).await;
    // However it went, nothing of it stays; unless somebody wants an end once more.
    let removed = tokio::time::timeout(CLEAN_UP_MAX, stop.or(target.delete_groups())).await;
    if !matches!(removed, Ok(Some(()))) {
        eprintln!("groups of this run are still there");
    }
    outcome
}

async fn measure(
    scenario: &Scenario,
    wanted: &Run,
    target: &Target,
    mut metrics: Option<&mut Metrics>,
    stop: &mut Stop,
) -> anyhow::Result<Option<Outcome>> {
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let Some(made) = stop.or(target.create_groups(scenario)).await else { return Ok(None) };
    made?;
    let begins = hawser_loadtest::stamp::now() + HEAD_START.as_nanos() as u64;
    let mut devices = Devices::start(scenario, target, begins, wanted.per_process)?;
    let backends = Backends::start(scenario, target, begins)?;
    let mut counts = Counts::new(scenario);
    let mut limits = Limits::begin();
    let started = tokio::time::Instant::now() + HEAD_START;
    let mut pace =
        tokio::time::interval_at(started + Duration::from_secs(1), Duration::from_secs(1));
    let end = started + Duration::from_secs_f64(scenario.seconds());
    let is_interrupted = loop {
        let Some(now) = stop.or(pace.tick()).await else { break true };
        let at = started.elapsed().as_secs_f64();
        let seen = devices.take()?;
        limits.look(&seen, &devices, target.process());
        counts.add(at, &seen, &backends.counts(), limits.parts());
        if let Some(newest) = counts.newest() {
            result::show(newest);
        }
        if let Some(metrics) = &mut metrics {
            metrics.set(&counts);
        }
        if now >= end && (counts.is_settled() || now >= end + SETTLE_MAX) {
            break false;
        }
    };
    backends.stop();
    if counts.newest().is_none() {
        return Ok(None);
    }
    let outcome = counts.outcome(scenario, &target.about, unix_time, limits.found(&counts));
    Ok(Some(Outcome { is_interrupted, ..outcome }))
}
