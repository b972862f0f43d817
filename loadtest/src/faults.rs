//! Real processes under faults: a cluster, device processes and backends on this machine, one fault at a
//! time, every word recorded, and the judge to say what was kept of the promises.
//!
//! Each row starts its own cluster, warms up, injects, heals, waits until the inboxes are empty, and is
//! judged. It passes when the judge finds nothing and its own figure holds.

mod arrivals;
pub(crate) mod businesses;
pub(crate) mod certificate;
pub(crate) mod cluster;
pub(crate) mod crowds;
mod datagrams;
pub(crate) mod device;
pub(crate) mod devices;
mod done;
pub(crate) mod history;
mod leaks;
mod links;
mod net;
pub(crate) mod presence;
pub(crate) mod probe;
mod proxy;
mod pushes;
mod requests;
mod road;
mod rows;
mod scene;
mod windows;

use crate::Faults;
use crate::stop::{INTERRUPTED, Stop};
use crate::system;
use anyhow::{Context, ensure};
use comfy_table::{ContentArrangement, Table};
use futures_util::FutureExt as _;
use rows::{Row, SHORT};
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// No row takes this long: one that does hangs.
const ROW_PATIENCE: Duration = Duration::from_mins(15);

/// What this machine, or this call, does not offer a row.
#[derive(Debug, thiserror::Error)]
#[error("cannot run here: {0}")]
pub(crate) struct CannotRun(pub(crate) String);

/// What came of one row.
struct Report {
    name: &'static str,
    verdict: String,
    timers: String,
    figure: String,
    seconds: f64,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    NotRun,
}

impl Outcome {
    fn shown(self) -> &'static str {
        match self {
            Self::Passed => "yes",
            Self::Failed => "NO",
            Self::NotRun => "not run",
        }
    }
}

/// Runs the wanted rows, one after the other, and prints the table.
pub(crate) async fn run(wanted: &Faults) -> anyhow::Result<ExitCode> {
    if wanted.list {
        for row in Row::ALL {
            println!("{:<28} {}", row.name(), row.about());
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        wanted.all || wanted.short || !wanted.rows.is_empty(),
        "name rows, or say --all or --short; --list names them"
    );
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the descriptor limit")?;
    let binary = system::binary(wanted.hawser.as_deref())?;
    let rows = named(wanted)?;
    let place = match &wanted.keep {
        Some(folder) => std::path::absolute(folder)?,
        None => std::env::temp_dir().join(format!("hawser-faults-{}", std::process::id())),
    };
    let wanted = Faults { scaled: wanted.scaled || wanted.short, ..wanted.clone() };
    let mut reports = Vec::new();
    let mut stop = Stop::listen()?;
    let mut is_interrupted = false;
    for row in rows {
        eprintln!("{}: {}", row.name(), row.about());
        // Whatever a row has started ends with it, also when it is dropped half done.
        let Some(report) = stop.or(one(row, &wanted, &binary, &place)).await else {
            eprintln!("  interrupted");
            is_interrupted = true;
            break;
        };
        let report = report?;
        eprintln!("  {} in {:.0} s: {}", report.outcome.shown(), report.seconds, report.figure);
        reports.push(report);
    }
    print(&reports);
    let good = |report: &Report| match report.outcome {
        Outcome::Passed => true,
        Outcome::NotRun => wanted.allow_skip,
        Outcome::Failed => false,
    };
    let all_good = reports.iter().all(good);
    if all_good && wanted.keep.is_none() {
        std::fs::remove_dir_all(&place)?;
    } else {
        println!("histories and logs: {}", place.display());
    }
    Ok(match (is_interrupted, all_good) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    })
}

fn named(wanted: &Faults) -> anyhow::Result<Vec<Row>> {
    if wanted.all {
        return Ok(Row::ALL.to_vec());
    }
    let names: Vec<&str> = if wanted.short {
        SHORT.to_vec()
    } else {
        wanted.rows.iter().map(String::as_str).collect()
    };
    let find = |name: &str| {
        let found = Row::ALL.iter().copied().find(|row| row.name() == name);
        found.with_context(|| format!("no row {name}: --list names them"))
    };
    names.into_iter().map(find).collect()
}

async fn one(row: Row, wanted: &Faults, binary: &Path, place: &Path) -> anyhow::Result<Report> {
    let started = Instant::now();
    let folder = place.join(row.name());
    if folder.exists() {
        // What an earlier run left is not this one's history.
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    // A row that panics has failed; those after it are run, and the table is printed.
    let row_run = AssertUnwindSafe(row.run(wanted, binary, &folder)).catch_unwind();
    let done = match tokio::time::timeout(ROW_PATIENCE, row_run).await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => Err(anyhow::anyhow!("the harness panicked: {}", said(&*panic))),
        Err(_) => Err(anyhow::anyhow!("it hangs: {ROW_PATIENCE:?} are over")),
    };
    let seconds = started.elapsed().as_secs_f64();
    Ok(match done {
        Ok(done) => Report {
            name: row.name(),
            outcome: if done.passed() { Outcome::Passed } else { Outcome::Failed },
            verdict: done.zeros(),
            timers: done.timers.clone(),
            figure: done.figures(),
            seconds,
        },
        Err(broke) => Report {
            name: row.name(),
            outcome: match broke.downcast_ref::<CannotRun>() {
                Some(_) => Outcome::NotRun,
                None => Outcome::Failed,
            },
            verdict: "-".to_owned(),
            timers: "-".to_owned(),
            figure: format!("{broke:#}"),
            seconds,
        },
    })
}

/// The words of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

fn print(reports: &[Report]) {
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(180);
    table.set_header([
        "fault",
        "passed",
        "lost / wrong / doubled / crossed",
        "figures (what is asked of them)",
        "clocks",
        "s",
    ]);
    for report in reports {
        table.add_row([
            report.name,
            report.outcome.shown(),
            &report.verdict,
            &report.figure,
            &report.timers,
            &format!("{:.0}", report.seconds),
        ]);
    }
    println!("{table}");
    let failed = reports.iter().filter(|report| report.outcome != Outcome::Passed).count();
    println!("{} rows, {} passed, {failed} did not", reports.len(), reports.len() - failed);
}
