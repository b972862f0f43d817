//! How a row ended: the judge's verdict, its figures, and where it missed them.

use hawser_loadtest::judge::Verdict;

/// The end of a row.
pub(super) struct Done {
    pub(super) verdict: Verdict,
    pub(super) timers: String,
    figures: Vec<String>,
    /// So many of them are the row's own.
    first: usize,
    misses: Vec<String>,
}

impl Done {
    pub(super) fn new(verdict: Verdict, timers: String) -> Self {
        Self { verdict, timers, figures: Vec::new(), first: 0, misses: Vec::new() }
    }

    /// One without a history of its own: what was promised is in its figures.
    pub(super) fn unjudged(timers: String) -> Self {
        Self::new(Verdict::default(), timers)
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

    pub(super) fn looked_for_leaks(&mut self, processes: usize, leaks: &[String]) {
        if leaks.is_empty() {
            self.say(format!("no leak in {processes} processes"));
        } else {
            self.misses.push(format!("leaks: {}", leaks.join(", ")));
        }
    }

    /// Nothing was found, and nothing missed.
    pub(super) fn passed(&self) -> bool {
        self.verdict.is_clean() && self.misses.is_empty()
    }

    pub(super) fn figures(&self) -> String {
        let mut line = self.figures.join("; ");
        if !self.misses.is_empty() {
            line = format!("MISSED: {}. KEPT: {line}", self.misses.join("; "));
        }
        line
    }

    /// The four zeros, as a line.
    pub(super) fn zeros(&self) -> String {
        let zeros = self.verdict.zeros();
        let others = self.verdict.convictions.len();
        let line = format!(
            "{} / {} / {} / {}",
            zeros.lost, zeros.wrong_device, zeros.duplicates, zeros.cross_tenant
        );
        if self.verdict.is_clean() { line } else { format!("{line} ({others} convictions)") }
    }
}
