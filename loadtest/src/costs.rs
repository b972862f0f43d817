//! What a run measured, and what each kind of work costs by it: CPU by part, bytes by part.
//!
//! A run keeps what it saw as [`Measured`]; [`Costs::of`] is the arithmetic, and whoever sizes a cluster takes
//! it from there ([`crate::size`]).

use crate::report::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::{Add, Mul, Sub};

/// A quantity of each part of a cluster, and of those around it: CPU seconds, or bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parts {
    /// All access nodes.
    pub access: f64,
    /// All routers.
    pub routers: f64,
    /// Control.
    pub control: f64,
    /// Redis.
    pub redis: f64,
    /// The processes that play devices.
    pub devices: f64,
    /// The process that plays backends.
    pub backends: f64,
}

impl Parts {
    fn with(self, other: Self, both: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            access: both(self.access, other.access),
            routers: both(self.routers, other.routers),
            control: both(self.control, other.control),
            redis: both(self.redis, other.redis),
            devices: both(self.devices, other.devices),
            backends: both(self.backends, other.backends),
        }
    }

    /// The same of each part, with what is below nothing taken for noise.
    fn at_least_nothing(self) -> Self {
        self.with(Self::default(), f64::max)
    }

    /// Over all parts.
    pub fn sum(&self) -> f64 {
        self.access + self.routers + self.control + self.redis + self.devices + self.backends
    }
}

impl Add for Parts {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.with(other, |one, other| one + other)
    }
}

impl Sub for Parts {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.with(other, |one, other| one - other)
    }
}

impl Mul<f64> for Parts {
    type Output = Self;
    fn mul(self, by: f64) -> Self {
        self.with(Self::default(), |one, _| one * by)
    }
}

/// What was done in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Work {
    /// Logins that were answered.
    pub logins: f64,
    /// Heartbeats that were answered.
    pub heartbeats: f64,
    /// Requests that were answered.
    pub requests: f64,
    /// Volatile unicasts that arrived.
    pub unicasts: f64,
    /// Stored pushes that arrived.
    pub stored: f64,
    /// Multicasts, and what arrived of them.
    pub multicasts: f64,
    /// See there.
    pub group_deliveries: f64,
}

/// A stretch of time with its work.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Window {
    /// What went on: one of the constants here.
    pub name: String,
    /// How long it was.
    pub seconds: f64,
    /// CPU seconds of each part.
    pub cpu: Parts,
    /// Share of all cores that was busy.
    pub busy: f64,
    /// Bytes and packets on loopback: every hop, both ways.
    pub wire_bytes: f64,
    /// See there.
    pub wire_packets: f64,
    /// What was done.
    pub work: Work,
}

/// Nobody is there.
pub const EMPTY: &str = "empty";
/// Everybody comes.
pub const FILL: &str = "fill";
/// Heartbeats alone.
pub const QUIET: &str = "heartbeats";
/// Heartbeats and requests.
pub const REQUESTS: &str = "requests";
/// Heartbeats and volatile unicasts, in batches.
pub const UNICASTS: &str = "unicasts";
/// Heartbeats and multicasts.
pub const MULTICASTS: &str = "multicasts";
/// Heartbeats and stored pushes.
pub const STORED: &str = "stored pushes";
/// Everything at once.
pub const EVERYTHING: &str = "everything";

/// What a run saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// When it ended.
    pub unix_time: u64,
    /// Where.
    pub machine: Machine,
    /// Devices that were to be held, and that were.
    pub wanted: u64,
    /// See there.
    pub held: u64,
    /// Processes of each kind.
    pub access_nodes: u64,
    /// See there.
    pub routers: u64,
    /// Milliseconds between two heartbeats of a device.
    pub heartbeat_ms: u64,
    /// Bytes of each part before anybody came, over all its processes.
    pub base_bytes: Parts,
    /// Bytes that a connection added to each part.
    pub connection_bytes: Parts,
    /// And to the kernel: its objects and its buffers, both ends of the link.
    pub kernel_bytes: f64,
    /// In order of time.
    pub windows: Vec<Window>,
    /// Delays, ready to be read.
    pub delays: BTreeMap<String, String>,
    /// What was not as it was to be; nothing: all was held.
    pub misses: Vec<String>,
    /// What stood in the way.
    pub limits: Vec<String>,
}

/// CPU of each part: of an idle second over all processes, and of each piece of work, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costs {
    /// One second of the idle cluster.
    pub idle: Parts,
    /// A heartbeat and its answer.
    pub heartbeat: Parts,
    /// A login, from the question for a token on.
    pub login: Parts,
    /// A request through a business and back.
    pub request: Parts,
    /// One target of a batch.
    pub unicast: Parts,
    /// One member of a multicast.
    pub group_delivery: Parts,
    /// One stored push, handled and acknowledged.
    pub stored: Parts,
}

impl Measured {
    /// The window with this name.
    pub fn window(&self, name: &str) -> Option<&Window> {
        self.windows.iter().find(|window| window.name == name)
    }
}

impl Costs {
    /// What was measured apart, from the lightest work to the heaviest: what is known by then is taken off.
    /// Work that had no window of its own costs nothing here.
    pub fn of(measured: &Measured) -> Self {
        let mut costs = Self::default();
        if let Some(empty) = measured.window(EMPTY) {
            costs.idle = empty.cpu * (1.0 / empty.seconds.max(1e-9));
        }
        let each = |costs: &Self, name: &str, count: fn(&Work) -> f64| -> Parts {
            let Some(window) = measured.window(name) else { return Parts::default() };
            let known = costs.idle * window.seconds + costs.heartbeat * window.work.heartbeats;
            (window.cpu - known).at_least_nothing() * (1.0 / count(&window.work).max(1.0))
        };
        costs.heartbeat = each(&costs, QUIET, |work| work.heartbeats);
        costs.login = each(&costs, FILL, |work| work.logins);
        costs.request = each(&costs, REQUESTS, |work| work.requests);
        costs.unicast = each(&costs, UNICASTS, |work| work.unicasts);
        costs.group_delivery = each(&costs, MULTICASTS, |work| work.group_deliveries);
        costs.stored = each(&costs, STORED, |work| work.stored);
        costs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(name: &str, access: f64, work: Work) -> Window {
        let cpu = Parts { access, ..Parts::default() };
        Window { name: name.to_owned(), seconds: 10.0, cpu, work, ..Window::default() }
    }

    #[test]
    fn each_kind_of_work_is_charged_what_the_others_do_not_explain() {
        let beats = Work { heartbeats: 1_000.0, ..Work::default() };
        let windows = vec![
            window(EMPTY, 1.0, Work::default()),
            // A second of CPU for a thousand heartbeats.
            window(QUIET, 2.0, beats),
            window(REQUESTS, 4.0, Work { requests: 500.0, ..beats }),
            // Less than what is known already: noise, and no gain.
            window(STORED, 1.5, Work { stored: 100.0, ..beats }),
        ];
        let costs = Costs::of(&Measured { windows, ..Measured::default() });
        let micros = |parts: Parts| (parts.access * 1e6).round() as u64;
        assert_eq!(micros(costs.idle), 100_000);
        assert_eq!(micros(costs.heartbeat), 1_000);
        assert_eq!(micros(costs.request), 4_000);
        assert_eq!(costs.stored, Parts::default());
        assert_eq!(costs.unicast, Parts::default(), "it was not measured");
    }
}
