//! Stages: for how long which part of the load is at work.

use super::{Scenario, text};
use crate::schedule::{Piece, Schedule};
use anyhow::ensure;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A stretch of the run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    pub(crate) name: String,
    #[serde(deserialize_with = "text::rate")]
    pub(crate) seconds: f64,
    /// Factors of the rates that populations and pushes name.
    #[serde(default = "as_named", deserialize_with = "text::rate")]
    pub(crate) logins: f64,
    #[serde(default = "as_named", deserialize_with = "text::rate")]
    pub(crate) requests: f64,
    #[serde(default = "as_named", deserialize_with = "text::rate")]
    pub(crate) pushes: f64,
    /// In place of them: the rate of the pushes of this name, or of `POPULATION.logins` or
    /// `POPULATION.requests`.
    #[serde(default)]
    pub(crate) rates: BTreeMap<String, f64>,
    /// Rates change evenly over the stage, from those of the stage before (or none), to its own.
    #[serde(default)]
    pub(crate) ramp: bool,
    /// This share of the links is cut at its begin, without a word; devices that come back do so by the
    /// rules of the protocol.
    #[serde(default, deserialize_with = "text::share")]
    pub(crate) cut: f64,
}

fn as_named() -> f64 {
    1.0
}

impl Stage {
    pub(super) fn check(&self, at: &str, whole: &Scenario) -> anyhow::Result<()> {
        ensure!(self.seconds > 0.0, "{at}.seconds: a stage takes some time");
        for (key, rate) in &self.rates {
            let is_known = whole.pushes.iter().any(|pushes| pushes.name == *key)
                || whole.populations.iter().any(|population| {
                    let rest = key.strip_prefix(population.name.as_str());
                    matches!(rest, Some(".logins" | ".requests"))
                });
            ensure!(
                is_known,
                "{at}.rates.{key}: neither the name of pushes nor POPULATION.logins or .requests"
            );
            ensure!(*rate >= 0.0 && rate.is_finite(), "{at}.rates.{key}: {rate} is no rate");
        }
        Ok(())
    }

    fn rate(&self, named: f64, key: &str, factor: impl Fn(&Self) -> f64) -> f64 {
        self.rates.get(key).copied().unwrap_or_else(|| named * factor(self))
    }
}

/// A rate over all stages.
pub(super) fn schedule(
    stages: &[Stage],
    named: f64,
    key: &str,
    factor: impl Fn(&Stage) -> f64,
) -> Schedule {
    let mut before = 0.0;
    Schedule::of(stages.iter().map(|stage| {
        let to = stage.rate(named, key, &factor);
        let from = if stage.ramp { before } else { to };
        before = to;
        Piece { seconds: stage.seconds, from, to }
    }))
}
