//! How a run is told: a line a second, tables at the end, and files to keep.

use anyhow::Context;
use comfy_table::presets::ASCII_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use hawser_loadtest::outcome::{Outcome, Sample, Verdict};
use hawser_loadtest::page;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;

/// One second: on a terminal in place of the one before, else below it.
pub(super) fn show(sample: &Sample) {
    let line = line(sample);
    if std::io::stderr().is_terminal() {
        // Back to the begin, and the rest of what was there is cleared.
        eprint!("\r{line}\x1b[K");
    } else {
        eprintln!("{line}");
    }
}

fn line(sample: &Sample) -> String {
    let stands = |name: &str| sample.stands.get(name).copied().unwrap_or_default();
    let happened = |name: &str| sample.happened.get(name).copied().unwrap_or_default();
    let mut line = format!(
        "{:>5.0} s  {} online, {} under way; {} logins",
        sample.at,
        stands("online"),
        stands("under way"),
        happened("logins")
    );
    for (count, name) in [
        (stands("members"), "members"),
        (happened("requests"), "requests"),
        (happened("calls"), "calls"),
        (happened("deliveries"), "deliveries"),
        (happened("links_lost"), "links lost"),
        (happened("logins_refused"), "refused"),
    ] {
        if count > 0 {
            let _ = write!(line, ", {count} {name}");
        }
    }
    for (part, cores) in &sample.cores {
        let _ = write!(line, "; {part} {cores:.1} cores");
    }
    line
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

/// The whole of it, for people.
pub(super) fn print(outcome: &Outcome) {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    let mut delays = table(&["delay", "over", "count", "p50", "p90", "p99", "p99.9", "longest"]);
    for measured in &outcome.delays {
        let at = |share| {
            let millis = measured.delays.at(share).as_secs_f64() * 1e3;
            if millis < 100.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
        };
        delays.add_row([
            measured.what.clone(),
            measured.protocol.clone(),
            measured.delays.count().to_string(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0),
        ]);
    }
    let mut totals = table(&["count", "", "what it means"]);
    for (name, about) in super::TOTALS {
        let count = outcome.totals.get(*name).copied().unwrap_or_default();
        if count > 0 || *name == "lost" {
            totals.add_row([*name, &count.to_string(), *about]);
        }
    }
    println!("{totals}\n{delays}");
    println!("Delays count from when something was due by the scenario, not from when it left.");
    if !outcome.bounds.is_empty() {
        let mut bounds = table(&["bound", "seen", "kept"]);
        let broken = if outcome.is_interrupted { "not so far" } else { "NO" };
        for bound in &outcome.bounds {
            let kept = if bound.is_kept { "yes" } else { broken };
            bounds.add_row([bound.wanted.as_str(), &bound.seen, kept]);
        }
        println!("{bounds}");
    }
    let verdict = match outcome.verdict() {
        Verdict::Interrupted => format!(
            "interrupted after {:.0} of {:.0} s: this is of that part of it, in which what was on its way counts \
             as not arrived",
            outcome.seconds,
            outcome.planned()
        ),
        Verdict::SaysNothing => "the run says nothing, since the tool was the limit:".to_owned(),
        Verdict::NotKept => "NOT every bound was kept".to_owned(),
        Verdict::Kept => "every bound was kept".to_owned(),
    };
    println!("{}: {verdict}", outcome.scenario);
    outcome.limits.iter().for_each(|limit| println!("  - {limit}"));
}

/// Writes the files.
pub(super) fn keep(outcome: &Outcome, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(format!("{}-{}.json", outcome.scenario, outcome.unix_time));
    let mut json = serde_json::to_value(outcome)?;
    // It follows from the rest: whoever reads the file need not know how.
    json["verdict"] = serde_json::to_value(outcome.verdict())?;
    std::fs::write(&path, format!("{json:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let page = path.with_extension("html");
    std::fs::write(&page, page::render(outcome)?)
        .with_context(|| format!("cannot write {}", page.display()))?;
    println!("kept in {}, with pictures in {}", path.display(), page.display());
    Ok(())
}
