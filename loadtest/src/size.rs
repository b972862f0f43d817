//! How large a cluster has to be: what was measured, times what is wanted, divided by what a machine gives.
//!
//! Every figure is one line of arithmetic that is printed with it. What was not measured is an assumption, and
//! stands in [`Terms`].

mod bandwidth;
mod plan;

pub use bandwidth::Wire;
pub use plan::{Plan, Row, plan};

use crate::report::Machine;
use serde::{Deserialize, Serialize};

/// What a run with the router tier by itself saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tier {
    /// When it began.
    pub unix_time: u64,
    /// Where.
    pub machine: Machine,
    /// Access nodes that were played.
    pub nodes: u64,
    /// Routers.
    pub routers: u64,
    /// Growing.
    pub steps: Vec<TierStep>,
}

/// One router with so many devices in its tables: CPU in microseconds for each, system time included.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TierStep {
    /// In its tables.
    pub devices: u64,
    /// Memory of the process for each.
    pub bytes: f64,
    /// A session of which its node tells.
    pub here_us: f64,
    /// A target of a batch of 500, and of 32.
    pub unicast_us: f64,
    /// See there.
    pub unicast_32_us: f64,
    /// A device of a presence call of 500.
    pub presence_us: f64,
    /// A push to one device.
    pub single_us: f64,
    /// One node's part of a multicast.
    pub node_message_us: f64,
    /// A login, without its node.
    pub claim_us: f64,
    /// The same in Redis.
    pub claim_redis_us: f64,
    /// The 99th of a hundred batches of 500, 16 at a time, in milliseconds.
    pub batch_p99_ms: f64,
}

/// What is wanted, a second where it is a rate.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Goal {
    /// Connections that are held.
    #[arg(long, default_value_t = 10_000_000.0)]
    pub devices: f64,
    /// Logins; as many sessions end.
    #[arg(long, default_value_t = 10_000.0)]
    pub connects: f64,
    /// Seconds between two heartbeats of a device.
    #[arg(long, default_value_t = 60.0)]
    pub heartbeat: f64,
    /// Requests of devices.
    #[arg(long, default_value_t = 1_000_000.0)]
    pub requests: f64,
    /// Targets of batch unicasts.
    #[arg(long, default_value_t = 1_000_000.0)]
    pub unicasts: f64,
    /// Deliveries of multicasts.
    #[arg(long, default_value_t = 10_000_000.0)]
    pub deliveries: f64,
    /// Members of a group, as multicasts go: so many deliveries a call.
    #[arg(long, default_value_t = 10_000.0)]
    pub members: f64,
    /// Stored pushes.
    #[arg(long, default_value_t = 0.0)]
    pub stored: f64,
    /// Bytes of a body.
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
}

/// What a machine gives, how much of it is used, and what it costs: assumptions, to be replaced by yours.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Terms {
    /// Cores of a machine.
    #[arg(long, default_value_t = 16.0)]
    pub cores: f64,
    /// Memory of a machine, GiB.
    #[arg(long, default_value_t = 64.0)]
    pub gib: f64,
    /// Share of a core, and of a Redis, that steady work may take: the rest is for peaks.
    #[arg(long, default_value_t = 0.5)]
    pub busy: f64,
    /// Share of the memory that may be taken.
    #[arg(long, default_value_t = 0.8)]
    pub full: f64,
    /// Connections of one access node at the most: they all come back at once when it dies.
    #[arg(long, default_value_t = 250_000.0)]
    pub node_connections: f64,
    /// Share of machines more than needed, so that some may be away.
    #[arg(long, default_value_t = 0.1)]
    pub spare: f64,
    /// Price of a core for an hour.
    #[arg(long, default_value_t = 0.04)]
    pub core_hour: f64,
    /// Price of a GiB of memory for an hour.
    #[arg(long, default_value_t = 0.005)]
    pub gib_hour: f64,
    /// Price of a GiB that leaves for devices.
    #[arg(long, default_value_t = 0.02)]
    pub gib_out: f64,
}
