//! How a row ended: the judge's verdict, its figures, and where it missed them.

use super::leaks::Compared;
use hawser_loadtest::judge::Verdict;

/// The end of a row.
pub(super) struct Done {
    /// None: there was no history to judge.
    verdict: Option<Verdict>,
    pub(super) timers: String,
    figures: Vec<String>,
    /// So many of them are the row's own.
    first: usize,
    misses: Vec<String>,
}

impl Done {
    pub(super) fn new(verdict: Verdict, timers: String) -> Self {
        Self { verdict: Some(verdict), ..Self::unjudged(timers) }
    }

    /// One without a history: what was promised is in its figures alone, and the table says so.
    pub(super) fn unjudged(timers: String) -> Self {
        Self { verdict: None, timers, figures: Vec::new(), first: 0, misses: Vec::new() }
    }

    /// The same clocks, and how figures taken with them carry over.
    pub(super) fn carries_over(&mut self, how: &str) {
        if self.timers.starts_with("scaled") {
            self.timers = format!("{} ({how})", self.timers);
        }
    }

    /// A figure that nothing is asked of.
    pub(super) fn say(&mut self, figure: impl Into<String>) {
        self.figures.push(figure.into());
    }

    /// A figure of the row, before the others, with what is asked of it.
    pub(super) fn figure(&mut self, figure: impl Into<String>, holds: bool) {
        let figure = figure.into();
        if holds {
            self.figures.insert(self.first, figure);
            self.first += 1;
        } else {
            self.misses.push(figure);
        }
    }

    /// Something that goes without saying when it holds.
    pub(super) fn must(&mut self, holds: bool, otherwise: impl Into<String>) {
        if !holds {
            self.misses.push(otherwise.into());
        }
    }

    /// Holdings of each process before and after.
    pub(super) fn looked_for_leaks(&mut self, compared: &Compared, is_second_round: bool) {
        let Compared { processes, new, leaks, grown } = compared;
        if leaks.is_empty() && *processes == 0 {
            self.say(format!("nothing to compare for leaks: all {new} processes are new"));
        } else if leaks.is_empty() {
            let mib = |bytes: f64| bytes / f64::from(1 << 20);
            let new = if *new > 0 { format!(", {new} are new") } else { String::new() };
            let before = if is_second_round { "what the first round took, " } else { "" };
            self.say(format!(
                "no leak in {processes} processes that were there before{new}; memory of one grew by {:.1} \
                 MiB at the most, from {before}{:.1}",
                mib(grown.0),
                mib(grown.1)
            ));
        } else {
            self.misses.push(format!("leaks: {}", leaks.join(", ")));
        }
    }

    /// Nothing was found, and nothing missed.
    pub(super) fn passed(&self) -> bool {
        self.verdict.as_ref().is_none_or(Verdict::is_clean) && self.misses.is_empty()
    }

    pub(super) fn figures(&self) -> String {
        let mut line = self.figures.join("; ");
        if !self.misses.is_empty() {
            line = format!("MISSED: {}. KEPT: {line}", self.misses.join("; "));
        }
        line
    }

    /// The four zeros, as a line; or that nobody was asked.
    pub(super) fn zeros(&self) -> String {
        let Some(verdict) = &self.verdict else { return "not judged".to_owned() };
        let zeros = verdict.zeros();
        let others = verdict.convictions.len();
        let line = format!(
            "{} / {} / {} / {}",
            zeros.lost, zeros.wrong_device, zeros.duplicates, zeros.cross_tenant
        );
        if verdict.is_clean() { line } else { format!("{line} ({others} convictions)") }
    }
}
