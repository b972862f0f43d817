//! Real processes under faults: a cluster, device processes and backends on this machine, one fault at a
//! time, every word recorded, and the judge to say what was kept of the promises.
//!
//! Each row starts its own cluster, warms up, injects, heals, waits until the inboxes are empty, and is
//! judged. It passes when the judge finds nothing and its own figure holds.

mod cluster;
pub(crate) mod device;
pub(crate) mod devices;
mod history;
mod proxy;
mod pushes;
mod rows;
mod scene;

use crate::Faults;
use crate::system;
use anyhow::{Context, ensure};
use comfy_table::Table;
use rows::Row;
use std::process::ExitCode;
use std::time::Instant;

/// What came of one row.
struct Report {
    name: &'static str,
    verdict: String,
    figure: String,
    seconds: f64,
    passed: bool,
}

/// Runs the wanted rows, one after the other, and prints the table.
pub(crate) async fn run(wanted: &Faults) -> anyhow::Result<ExitCode> {
    if wanted.list {
        for row in Row::ALL {
            println!("{:<28} {}", row.name(), row.about());
        }
        return Ok(ExitCode::SUCCESS);
    }
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the descriptor limit")?;
    let binary = system::binary(wanted.hawser.as_deref())?;
    let rows: Vec<Row> = if wanted.rows.is_empty() {
        Row::ALL.to_vec()
    } else {
        let named = wanted.rows.iter().map(|name| {
            let found = Row::ALL.iter().copied().find(|row| row.name() == name);
            found.with_context(|| format!("no row {name}: --list names them"))
        });
        named.collect::<anyhow::Result<_>>()?
    };
    let place = match &wanted.keep {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("hawser-faults-{}", std::process::id())),
    };
    let mut reports = Vec::new();
    for row in rows {
        let started = Instant::now();
        eprintln!("{}: {}", row.name(), row.about());
        let folder = place.join(row.name());
        std::fs::create_dir_all(&folder)?;
        let done = row.run(wanted, &binary, &folder).await;
        let seconds = started.elapsed().as_secs_f64();
        let report = match done {
            Ok(done) => Report {
                name: row.name(),
                passed: done.verdict.is_clean() && done.shortfall.is_none(),
                verdict: done.zeros(),
                figure: match done.shortfall {
                    Some(why) => format!("{}; MISSED: {why}", done.figure),
                    None => done.figure,
                },
                seconds,
            },
            Err(broke) => Report {
                name: row.name(),
                verdict: "-".to_owned(),
                figure: format!("did not run: {broke:#}"),
                seconds,
                passed: false,
            },
        };
        eprintln!("  {} {}", if report.passed { "passed:" } else { "FAILED:" }, report.figure);
        reports.push(report);
    }
    print(&reports);
    let all_passed = reports.iter().all(|report| report.passed);
    if all_passed && wanted.keep.is_none() {
        std::fs::remove_dir_all(&place)?;
    } else {
        println!("histories and logs: {}", place.display());
    }
    ensure!(!reports.is_empty(), "nothing was run");
    Ok(if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(reports: &[Report]) {
    let mut table = Table::new();
    table.set_header(["fault", "passed", "lost / wrong / doubled / crossed", "figures", "seconds"]);
    for report in reports {
        table.add_row([
            report.name,
            if report.passed { "yes" } else { "NO" },
            &report.verdict,
            &report.figure,
            &format!("{:.0}", report.seconds),
        ]);
    }
    println!("{table}");
}
