//! What a cluster looks like: how many of what, with which clocks, and how far apart they stand.

use std::path::PathBuf;
use std::time::Duration;

/// How long things take that a figure may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timers {
    pub(crate) lease: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) idle: Duration,
}

impl Timers {
    /// As RELIABILITY names them and releases have them.
    pub(crate) const FULL: Self = Self {
        lease: Duration::from_secs(10),
        heartbeat: Duration::from_secs(25),
        idle: Duration::from_secs(35),
    };
    /// A lease is a third, silence a sixth of what releases have.
    pub(crate) const SCALED: Self = Self {
        lease: Duration::from_secs(3),
        heartbeat: Duration::from_millis(2_500),
        idle: Duration::from_secs(6),
    };

    /// For the table.
    pub(crate) fn shown(self) -> String {
        let name = if self == Self::FULL { "full" } else { "scaled" };
        format!(
            "{name}: lease {:.0?}, heartbeat {:.1?}, idle {:.0?}",
            self.lease, self.heartbeat, self.idle
        )
    }
}

/// What one router does; empty: everything.
pub(crate) type Functions = &'static [&'static str];

/// A cluster to be started.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// `embedded`, or the URL of a Redis.
    pub(crate) store: String,
    pub(crate) routers: Vec<Functions>,
    pub(crate) access: usize,
    pub(crate) timers: Timers,
    /// Each router and access node in a network namespace of its own.
    pub(crate) apart: bool,
    /// Services know each other by certificates.
    pub(crate) internal_tls: bool,
    /// Devices may come over TLS and QUIC too.
    pub(crate) secure_doors: bool,
    pub(crate) accepts_per_second: u32,
    pub(crate) connections_max: Option<u32>,
    /// How long a node that was told to end may take for its drain, and how many it tells to go a second.
    pub(crate) drain: Option<(u32, Duration)>,
    /// The last access node is this binary, of an earlier release.
    pub(crate) older_access: Option<PathBuf>,
    /// Where the businesses answer, by the order of their names; none: they take no requests.
    pub(crate) endpoints: Vec<String>,
    /// The first business hears of devices that come and go.
    pub(crate) events: bool,
    /// Life of a token.
    pub(crate) token_life: Duration,
    /// Threads of each service that run its tasks; none: one per core.
    pub(crate) workers: Option<usize>,
}

impl Shape {
    /// One router that does everything, and two access nodes.
    pub(crate) fn small(store: &str, timers: Timers) -> Self {
        Self {
            store: store.to_owned(),
            routers: vec![&[]],
            access: 2,
            timers,
            apart: false,
            internal_tls: false,
            secure_doors: false,
            accepts_per_second: 20_000,
            connections_max: None,
            drain: None,
            older_access: None,
            endpoints: Vec::new(),
            events: false,
            token_life: Duration::from_hours(1),
            workers: None,
        }
    }

    /// So many routers that do everything, and so many access nodes.
    pub(crate) fn sized(store: &str, timers: Timers, routers: usize, access: usize) -> Self {
        Self { routers: vec![&[]; routers], access, ..Self::small(store, timers) }
    }
}
