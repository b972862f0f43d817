//! Which pictures a page has, made from the outcomes alone: delays of each kind of work, and what was
//! counted each second. Of several runs, the same thing stands in one picture.

use super::Run;
use super::axis::{self, Axis, Unit};
use super::chart::{Band, Line, Picture};
use super::words;
use crate::outcome::{Measured, Sample, Span};
use std::collections::BTreeSet;
use std::time::Duration;

/// Points of a line over time; more seconds than that are drawn together.
const POINTS_MAX: usize = 400;
/// Percentiles that stand out, as far as there were enough delays to speak of them.
pub(super) const PERCENTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 0.9999];

/// Whether so many delays say anything of this percentile: one at least lies above it.
pub(super) fn has_percentile(count: u64, share: f64) -> bool {
    count as f64 * (1.0 - share) >= 0.999
}

/// In microseconds, as axes take it.
pub(super) fn micros(delay: Duration) -> f64 {
    delay.as_secs_f64() * 1e6
}

/// One picture for each kind of work, with a line for each protocol and run.
pub(super) fn of_delays(runs: &[Run<'_>]) -> Vec<Picture> {
    let mut kinds = kinds(runs);
    kinds.retain(|kind| runs.iter().flat_map(measured).any(|it| it.what == *kind));
    let picture = |kind: &&str| {
        let of_kind = |run| measured(run).filter(|it| it.what == *kind);
        let protocols: BTreeSet<&str> =
            runs.iter().flat_map(of_kind).map(|it| it.protocol.as_str()).collect();
        let mut lines = Vec::new();
        for (index, run) in runs.iter().enumerate() {
            for it in of_kind(run) {
                let protocol = protocols.iter().position(|name| *name == it.protocol);
                let tone = if protocols.len() > 1 { protocol.unwrap_or(0) } else { index };
                lines.push(distribution(it, run.called(&it.protocol), tone, index));
            }
        }
        let points = || lines.iter().flat_map(|line| line.points.iter());
        Picture {
            title: format!("Delay: {}", words(kind)),
            about: String::new(),
            x: Axis::over(Unit::Share, "share that took no longer", points().map(|it| it.0)),
            y: Axis::over(Unit::Delay, "delay", points().map(|it| it.1)),
            bands: Vec::new(),
            lines,
        }
    };
    kinds.iter().map(picture).collect()
}

/// What was measured, in the order of the outcomes.
pub(super) fn kinds<'a>(runs: &[Run<'a>]) -> Vec<&'a str> {
    let mut kinds: Vec<&str> = Vec::new();
    for it in runs.iter().flat_map(|run| run.outcome.delays.iter()) {
        if !kinds.contains(&it.what.as_str()) {
            kinds.push(&it.what);
        }
    }
    kinds
}

/// Of which there is anything to draw.
fn measured<'a>(run: &Run<'a>) -> impl Iterator<Item = &'a Measured> + use<'a> {
    run.outcome.delays.iter().filter(|it| it.delays.count() > 0)
}

fn distribution(measured: &Measured, name: String, tone: usize, dash: usize) -> Line {
    let count = measured.delays.count();
    // The longest would stand at 100 %, for which no axis of nines has a place.
    let last = 1.0 - 1.0 / (count as f64 + 1.0);
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (share, delay) in measured.delays.shares() {
        if points.is_empty() {
            points.push((0.0, micros(delay)));
        }
        points.push((share.min(last), micros(delay)));
    }
    let mut dots: Vec<((f64, f64), String)> = PERCENTILES
        .into_iter()
        .filter(|share| has_percentile(count, *share))
        .map(|share| {
            let delay = micros(measured.delays.at(share));
            ((share, delay), format!("{}: {}", axis::share(share), axis::delay(delay)))
        })
        .collect();
    dots.extend(points.last().map(|at| (*at, format!("longest: {}", axis::delay(at.1)))));
    Line { name, tone, dash, points, dots, in_steps: true }
}

/// Something that samples tell by name.
#[derive(Clone, Copy, Debug)]
struct Told {
    unit: Unit,
    label: &'static str,
    /// As in `highest 12 at 0:03`, or the same for what follows a title.
    title: fn(&str) -> String,
    names: fn(&Sample) -> Vec<&str>,
    /// `None`: not seen in this sample.
    value: fn(&Sample, &str) -> Option<f64>,
    /// Of seconds drawn together the mean, else the greatest.
    mean: bool,
}

const HAPPENED: Told = Told {
    unit: Unit::Count,
    label: "a second",
    title: |name| format!("{} a second", capital(&words(name))),
    names: |sample| sample.happened.keys().map(String::as_str).collect(),
    // What is not named did not happen.
    value: |sample, name| Some(sample.happened.get(name).map_or(0.0, |it| *it as f64)),
    mean: true,
};
const STANDS: Told = Told {
    unit: Unit::Count,
    label: "count",
    title: |name| capital(&words(name)),
    names: |sample| sample.stands.keys().map(String::as_str).collect(),
    value: |sample, name| sample.stands.get(name).map(|it| *it as f64),
    mean: false,
};
const MEMORY: Told = Told {
    unit: Unit::Bytes,
    label: "resident memory",
    title: |name| format!("Memory: {}", words(name)),
    names: |sample| sample.memory.keys().map(String::as_str).collect(),
    value: |sample, name| sample.memory.get(name).map(|it| *it as f64),
    mean: false,
};
const CORES: Told = Told {
    unit: Unit::Cores,
    label: "cores in use",
    title: |name| format!("CPU: {}", words(name)),
    names: |sample| sample.cores.keys().map(String::as_str).collect(),
    value: |sample, name| sample.cores.get(name).copied(),
    mean: true,
};

/// What happened, each second.
pub(super) fn of_rates(runs: &[Run<'_>]) -> Vec<Picture> {
    one_for_each_name(runs, HAPPENED)
}

/// How it stood: devices online, members.
pub(super) fn of_states(runs: &[Run<'_>]) -> Vec<Picture> {
    one_for_each_name(runs, STANDS)
}

/// Memory and CPU: by part in one picture; of several runs one picture for each part.
pub(super) fn of_costs(runs: &[Run<'_>]) -> Vec<Picture> {
    if runs.len() > 1 {
        let mut all = one_for_each_name(runs, MEMORY);
        all.extend(one_for_each_name(runs, CORES));
        return all;
    }
    [(MEMORY, "Memory by part"), (CORES, "CPU by part")]
        .into_iter()
        .filter_map(|(told, title)| {
            let run = runs.first()?;
            let lines = names(runs, told).into_iter().enumerate();
            let lines = lines.map(|(tone, name)| series(run, told, name, words(name), tone, 0));
            let lines: Vec<Line> = lines.collect();
            (!lines.is_empty()).then(|| over_time(runs, told, title.to_owned(), lines))
        })
        .collect()
}

fn one_for_each_name(runs: &[Run<'_>], told: Told) -> Vec<Picture> {
    names(runs, told)
        .into_iter()
        .map(|name| {
            let lines = runs.iter().enumerate().map(|(index, run)| {
                let called = if runs.len() > 1 { run.name.clone() } else { words(name) };
                series(run, told, name, called, index, index)
            });
            // A run that never heard of it has nothing to show.
            let lines = lines.filter(|line| !line.points.is_empty()).collect();
            over_time(runs, told, (told.title)(name), lines)
        })
        .collect()
}

fn names<'a>(runs: &'a [Run<'_>], told: Told) -> Vec<&'a str> {
    let samples = runs.iter().flat_map(|run| run.outcome.samples.iter());
    let names: BTreeSet<&str> = samples.flat_map(|it| (told.names)(it)).collect();
    names.into_iter().collect()
}

fn series(run: &Run<'_>, told: Told, name: &str, called: String, tone: usize, dash: usize) -> Line {
    let samples = &run.outcome.samples;
    let together = samples.len().div_ceil(POINTS_MAX).max(1);
    let is_told = samples.iter().any(|sample| (told.names)(sample).contains(&name));
    let points = samples.chunks(together).filter(|_| is_told).filter_map(|seconds| {
        let values: Vec<f64> =
            seconds.iter().filter_map(|sample| (told.value)(sample, name)).collect();
        let value = if told.mean {
            values.iter().sum::<f64>() / values.len() as f64
        } else {
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
        };
        (!values.is_empty()).then_some((seconds[0].at, value))
    });
    Line { name: called, tone, dash, points: points.collect(), dots: Vec::new(), in_steps: false }
}

fn over_time(runs: &[Run<'_>], told: Told, title: String, lines: Vec<Line>) -> Picture {
    // All pictures over time have one axis, so that they can be read beneath each other.
    let ends = runs.iter().flat_map(|run| {
        let samples = run.outcome.samples.iter().map(|it| it.at);
        samples.chain(run.outcome.stages.iter().map(|it| it.to))
    });
    let y = Axis::over(
        told.unit,
        told.label,
        lines.iter().flat_map(|line| line.points.iter()).map(|it| it.1),
    );
    let mut about: Vec<String> =
        lines.iter().filter_map(|line| peak(line, &y, lines.len())).collect();
    let samples = runs.iter().map(|run| run.outcome.samples.len()).max().unwrap_or(0);
    let together = samples.div_ceil(POINTS_MAX);
    if together > 1 {
        let what = if told.mean { "mean" } else { "greatest" };
        about.push(format!("each point is the {what} of {together} s"));
    }
    Picture {
        title,
        about: about.join("; "),
        x: Axis::over(Unit::Time, "time since the start (min:s)", ends),
        y,
        bands: bands(runs),
        lines,
    }
}

/// The highest point of a line, in words.
fn peak(line: &Line, y: &Axis, lines: usize) -> Option<String> {
    let (at, most) = line.points.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let name = if lines > 1 { format!("{}: ", line.name) } else { String::new() };
    Some(format!("{name}highest {} at {}", y.written_in_full(most), axis::clock(at)))
}

/// The stages, when all runs have the same.
fn bands(runs: &[Run<'_>]) -> Vec<Band> {
    let Some((first, others)) = runs.split_first() else { return Vec::new() };
    let stages = &first.outcome.stages;
    let same = |it: &Span, other: &Span| {
        it.name == other.name
            && (it.from - other.from).abs() < 1.0
            && (it.to - other.to).abs() < 1.0
    };
    let agree = others.iter().all(|run| {
        let other = &run.outcome.stages;
        other.len() == stages.len() && stages.iter().zip(other).all(|(a, b)| same(a, b))
    });
    let band = |it: &Span| Band { name: it.name.clone(), from: it.from, to: it.to };
    if agree { stages.iter().map(band).collect() } else { Vec::new() }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
