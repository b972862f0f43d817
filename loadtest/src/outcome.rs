//! What the run of a scenario came to: kept as JSON, shown as a table and as a page, judged by its bounds.

use crate::delays::Delays;
use crate::report::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that is known of a run once it has ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the scenario, and what it is about.
    pub scenario: String,
    /// One or two sentences of the scenario's file.
    pub about: String,
    /// Of everything random in the load.
    pub seed: u64,
    /// When it began, in seconds of Unix time.
    pub unix_time: u64,
    /// How long it took.
    pub seconds: f64,
    /// Where the tool ran.
    pub machine: Machine,
    /// What was under load, in words: "hawser dev, started for this run" or an address.
    pub target: String,
    /// The stages, in order.
    pub stages: Vec<Span>,
    /// One for each second.
    pub samples: Vec<Sample>,
    /// What was counted over the whole run, by name: `logins`, `unicasts_sent`, `lost`.
    pub totals: BTreeMap<String, u64>,
    /// Delays by what was measured and over which protocol.
    pub delays: Vec<Measured>,
    /// The bounds of the scenario, and whether each was kept.
    pub bounds: Vec<Bound>,
    /// What stood in the way of the load itself: the tool, descriptors, ports, the kernel. Empty: nothing.
    pub limits: Vec<String>,
    /// Somebody ended it before its time: everything else is of the seconds until then.
    #[serde(default)]
    pub is_interrupted: bool,
}

/// The word on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It was ended before its time.
    Interrupted,
    /// The tool or its machine was the limit, not what was under load.
    SaysNothing,
    /// A bound at least was broken.
    NotKept,
    /// Every bound was kept.
    Kept,
}

impl Outcome {
    /// Whether all bounds were kept.
    pub fn has_passed(&self) -> bool {
        self.bounds.iter().all(|bound| bound.is_kept)
    }

    /// The word on it.
    pub fn verdict(&self) -> Verdict {
        if self.is_interrupted {
            Verdict::Interrupted
        } else if !self.limits.is_empty() {
            Verdict::SaysNothing
        } else if self.has_passed() {
            Verdict::Kept
        } else {
            Verdict::NotKept
        }
    }

    /// How long it was to take, in seconds.
    pub fn planned(&self) -> f64 {
        self.stages.last().map_or(0.0, |stage| stage.to)
    }
}

/// A stage of the scenario, in seconds since the run began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Span {
    /// As in the scenario's file.
    pub name: String,
    /// Its begin.
    pub from: f64,
    /// Its end.
    pub to: f64,
}

/// How it stood at one second, and what happened in it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub at: f64,
    /// How it stands, by name: `online`, `members`, `under way`.
    pub stands: BTreeMap<String, u64>,
    /// What happened in this second, by name: `logins`, `deliveries`, `requests`, `lost`.
    pub happened: BTreeMap<String, u64>,
    /// Resident memory in bytes by part, where the tool can see it: `hawser`, `tool`.
    pub memory: BTreeMap<String, u64>,
    /// CPU in cores by part, likewise.
    pub cores: BTreeMap<String, f64>,
}

/// The delays of one kind of work over one protocol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// `login`, `request`, `unicast`, `stored`, `multicast`, `back online`.
    pub what: String,
    /// `tcp`, `tls`, `quic`, `websocket`.
    pub protocol: String,
    /// From the time at which it was due, so that a late send counts as a long delay.
    pub delays: Delays,
}

/// One expected bound, and what was seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Bound {
    /// As in the scenario's file: `multicast p99 <= 500ms`.
    pub wanted: String,
    /// What was seen, in the same unit.
    pub seen: String,
    /// Whether it holds.
    pub is_kept: bool,
}
