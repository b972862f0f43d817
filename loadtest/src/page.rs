//! The page of a load run: the verdict, figures and pictures in one file that needs nothing else: no
//! script, no font, nothing from anywhere. Several runs are laid beside each other.
//!
//! Every text of an outcome may come from a file that someone else wrote: `maud` escapes each.

mod axis;
mod chart;
mod pictures;
#[cfg(test)]
mod tests;

use crate::outcome::{Bound, Measured, Outcome};
use anyhow::Context;
use chart::Picture;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use pictures::{PERCENTILES, has_percentile, micros};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

/// Nothing is loaded and nothing runs, whatever stands in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// What to draw, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct Page {
    /// Results of runs, as JSON.
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// The page; default: named as the first result, with .html.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Reads the results and writes the page.
pub fn run(wanted: &Page) -> anyhow::Result<()> {
    let mut outcomes = Vec::new();
    for path in &wanted.results {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let outcome: Outcome = serde_json::from_str(&text)
            .with_context(|| format!("{} is not the result of a run", path.display()))?;
        outcomes.push((path.display().to_string(), outcome));
    }
    let page = match outcomes.as_slice() {
        [(_, outcome)] => render(outcome)?,
        several => compare(several)?,
    };
    let out = match (&wanted.out, wanted.results.first()) {
        (Some(out), _) => out.clone(),
        (None, first) => first.context("no result is named")?.with_extension("html"),
    };
    std::fs::write(&out, page).with_context(|| format!("cannot write {}", out.display()))?;
    println!("drawn in {}", out.display());
    Ok(())
}

/// The page of one run.
pub fn render(outcome: &Outcome) -> anyhow::Result<String> {
    let run = Run { name: String::new(), file: "", outcome };
    Ok(page(&[run]).into_string())
}

/// The page of several runs beside each other, each with where it was read.
pub fn compare(outcomes: &[(String, Outcome)]) -> anyhow::Result<String> {
    anyhow::ensure!(!outcomes.is_empty(), "there is nothing to compare");
    let runs: Vec<Run<'_>> = outcomes
        .iter()
        .zip(1_u32..)
        .map(|((file, outcome), number)| Run { name: letter(number), file, outcome })
        .collect();
    Ok(page(&runs).into_string())
}

/// A, B, C; those behind Z are numbers.
fn letter(number: u32) -> String {
    let letter = char::from_digit(number + 9, 36).map(|it| it.to_ascii_uppercase());
    letter.map_or_else(|| number.to_string(), String::from)
}

/// A run of the page. Its name is empty when it is the only one.
#[derive(Clone, Debug)]
struct Run<'a> {
    name: String,
    file: &'a str,
    outcome: &'a Outcome,
}

impl Run<'_> {
    /// Something of this run, in a legend or a table.
    fn called(&self, what: &str) -> String {
        if self.name.is_empty() { what.to_owned() } else { format!("{} {what}", self.name) }
    }
}

/// Names of figures, as people write them.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn page(runs: &[Run<'_>]) -> Markup {
    let names: BTreeSet<&str> = runs.iter().map(|it| it.outcome.scenario.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let title = names.join(", ");
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) " · hawser-loadtest" }
                style { (PreEscaped(include_str!("page/page.css"))) }
            }
            body {
                main {
                    h1 { (title) }
                    @if let [run] = runs { p.quiet { (run.outcome.about) } }
                    @for run in runs { (verdict(run)) (limits(run)) }
                    (bounds(runs))
                    (drawn("Delays", "From the time at which each was due, so that a late send counts.", &pictures::of_delays(runs)))
                    (delays(runs))
                    (drawn("Over time", "", &over_time(runs)))
                    @if runs.iter().all(|run| run.outcome.samples.is_empty()) {
                        p.quiet { "Nothing was sampled: there is nothing to draw over time." }
                    }
                    (drawn("What it cost", "As far as the tool could see.", &pictures::of_costs(runs)))
                    (counts(runs))
                    (facts(runs))
                }
            }
        }
    }
}

/// How things stand before how often they happen: devices online explain the rest.
fn over_time(runs: &[Run<'_>]) -> Vec<Picture> {
    let mut all = pictures::of_states(runs);
    all.extend(pictures::of_rates(runs));
    all
}

fn drawn(title: &str, about: &str, pictures: &[Picture]) -> Markup {
    html! {
        @if !pictures.is_empty() {
            h2 { (title) }
            @if !about.is_empty() { p.quiet { (about) } }
            div.pictures { @for picture in pictures { (picture.draw()) } }
        }
    }
}

fn verdict(run: &Run<'_>) -> Markup {
    let bounds = &run.outcome.bounds;
    let broken = bounds.iter().filter(|it| !it.is_kept).count();
    let (class, word, rest) = match (bounds.len(), broken) {
        _ if run.outcome.is_interrupted => {
            let [seen, planned] = [run.outcome.seconds, run.outcome.planned()].map(axis::clock);
            let rest = format!("after {seen} of {planned}; all of this is of that part of it");
            ("none", "Interrupted", rest)
        }
        (0, _) => ("none", "Not judged", "the scenario has no bounds".to_owned()),
        (1, 0) => ("good", "Passed", "the one bound was kept".to_owned()),
        (all, 0) => ("good", "Passed", format!("all {all} bounds were kept")),
        (all, broken) => ("bad", "Failed", format!("{broken} of {all} bounds broken")),
    };
    html! {
        div class={ "verdict " (class) } {
            @if !run.name.is_empty() { strong { (run.name) ": " } }
            strong { (word) } " · " (rest)
            @if !run.name.is_empty() { " · " (run.outcome.scenario) ", " (run.file) }
        }
    }
}

/// What stood in the way of the load: it says how much the figures are worth.
fn limits(run: &Run<'_>) -> Markup {
    let limits = &run.outcome.limits;
    html! {
        @if !limits.is_empty() {
            div.limits {
                strong { @if !run.name.is_empty() { (run.name) ": " } "The load itself was limited" }
                ": what was under load may do better than these figures."
                ul { @for limit in limits { li { (limit) } } }
            }
        }
    }
}

fn bounds(runs: &[Run<'_>]) -> Markup {
    let mut wanted: Vec<&str> = Vec::new();
    for bound in runs.iter().flat_map(|run| run.outcome.bounds.iter()) {
        if !wanted.contains(&bound.wanted.as_str()) {
            wanted.push(&bound.wanted);
        }
    }
    let seen = |run: &Run<'_>, wanted: &str| -> Option<Bound> {
        run.outcome.bounds.iter().find(|it| it.wanted == wanted).cloned()
    };
    html! {
        @if !wanted.is_empty() {
            h2 { "Bounds" }
            div.wide { table {
                thead { tr { th { "wanted" } @for run in runs { th { (run.called("seen")) } } } }
                tbody { @for wanted in &wanted { tr {
                    th scope="row" { (wanted) }
                    @for run in runs { td {
                        @match seen(run, wanted) {
                            Some(it) if it.is_kept => { span.kept { "✓ " (it.seen) " · kept" } },
                            Some(it) => { span.broken { "✗ " (it.seen) " · broken" } },
                            None => "–",
                        }
                    } }
                } } }
            } }
        }
    }
}

fn delays(runs: &[Run<'_>]) -> Markup {
    // The same kind of work of all runs stands together, in the order of the pictures.
    let kinds = pictures::kinds(runs);
    let kind = |it: &Measured| kinds.iter().position(|kind| *kind == it.what);
    let mut rows: Vec<(&Run<'_>, &Measured)> =
        runs.iter().flat_map(|run| run.outcome.delays.iter().map(move |it| (run, it))).collect();
    rows.sort_by(|(_, a), (_, b)| (kind(a), &a.protocol).cmp(&(kind(b), &b.protocol)));
    let at = |it: &Measured, share: f64| {
        let known = has_percentile(it.delays.count(), share);
        if known { axis::delay(micros(it.delays.at(share))) } else { "–".to_owned() }
    };
    let longest = |it: &Measured| match it.delays.count() {
        0 => "–".to_owned(),
        _ => axis::delay(micros(it.delays.at(1.0))),
    };
    html! {
        @if rows.is_empty() {
            h2 { "Delays" }
            p.quiet { "No delay was measured." }
        } @else {
            div.wide { table {
                thead { tr {
                    th { "work" } th { "protocol" }
                    @if runs.len() > 1 { th { "run" } }
                    th.number { "count" }
                    @for share in PERCENTILES { th.number { (axis::share(share)) } }
                    th.number { "longest" }
                } }
                tbody { @for (run, it) in rows { tr {
                    th scope="row" { (words(&it.what)) }
                    td { (it.protocol) }
                    @if runs.len() > 1 { td { (run.name) } }
                    td.number { (axis::whole(it.delays.count())) }
                    @for share in PERCENTILES { td.number { (at(it, share)) } }
                    td.number { (longest(it)) }
                } } }
            } }
        }
    }
}

fn counts(runs: &[Run<'_>]) -> Markup {
    let names: BTreeSet<&str> =
        runs.iter().flat_map(|run| run.outcome.totals.keys().map(String::as_str)).collect();
    let count = |run: &Run<'_>, name: &str| {
        run.outcome.totals.get(name).map_or_else(|| "–".to_owned(), |it| axis::whole(*it))
    };
    html! {
        h2 { "Counts" }
        @if names.is_empty() { p.quiet { "Nothing was counted." } }
        @else {
            div.wide { table {
                thead { tr { th { "over the whole run" } @for run in runs { th.number { (run.called("count")) } } } }
                tbody { @for name in &names { tr {
                    th scope="row" { (words(name)) }
                    @for run in runs { td.number { (count(run, name)) } }
                } } }
            } }
        }
    }
}

/// What was run, where, and with which dice.
fn facts(runs: &[Run<'_>]) -> Markup {
    let mut rows: Vec<(&str, Vec<Markup>)> = Vec::new();
    let mut add = |name, text: fn(&Run<'_>) -> Markup| {
        rows.push((name, runs.iter().map(text).collect()));
    };
    if runs.len() > 1 {
        add("result", |run| html! { (run.file) });
    }
    add("scenario", |run| html! { (run.outcome.scenario) });
    add("about", |run| html! { (run.outcome.about) });
    add("began", |run| {
        let since = Duration::from_secs(run.outcome.unix_time);
        let began =
            UNIX_EPOCH.checked_add(since).filter(|_| run.outcome.unix_time < 250_000_000_000);
        html! { (began.map_or_else(|| "unknown".to_owned(), httpdate::fmt_http_date)) }
    });
    add("took", |run| html! { (axis::trimmed(run.outcome.seconds, 1)) " s" });
    add("stages", |run| {
        html! {
            @for (index, stage) in run.outcome.stages.iter().enumerate() {
                div { (index + 1) ". " (stage.name) ", " (axis::clock(stage.from)) " to " (axis::clock(stage.to)) }
            }
        }
    });
    add("seed", |run| html! { (run.outcome.seed) });
    add("under load", |run| html! { (run.outcome.target) });
    add("machine", |run| {
        let machine = &run.outcome.machine;
        html! { (machine.cores) " cores, " (machine.cpu) ", Linux " (machine.kernel) }
    });
    html! {
        h2 { "The run" }
        div.wide { table.facts {
            @if runs.len() > 1 { thead { tr { th {} @for run in runs { th { (run.name) } } } } }
            tbody { @for (name, cells) in rows { tr {
                th scope="row" { (name) }
                @for cell in cells { td { (cell) } }
            } } }
        } }
    }
}
