//! The rows of the table: what is broken in each, and what must be seen.

mod clock;
mod devices;
mod functions;
mod limits;
mod neighbours;
mod network;
mod nodes;
mod releases;
mod routers;
mod sessions;
mod store;
mod storm;

use super::cluster::{Shape, Timers};
use super::devices::Point;
use super::done::Done;
use super::scene::{Scene, Staging};
use crate::Faults;
use hawser_loadtest::redis::Redis;
use hawser_proto::rpc::push::Durability;
use std::path::Path;
use std::time::Duration;

macro_rules! rows {
    ($($variant:ident = $name:literal, $about:literal, $run:expr;)+) => {
        /// One fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Row {
            $($variant,)+
        }
        impl Row {
            /// All of them, in the order of the table.
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)+];

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            pub(super) fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)+ }
            }

            /// Runs the row in its own folder.
            pub(super) async fn run(
                self,
                wanted: &Faults,
                binary: &Path,
                folder: &Path,
            ) -> anyhow::Result<Done> {
                let at = Stage { wanted, binary, folder };
                match self { $(Self::$variant => ($run)(&at).await,)+ }
            }
        }
    };
}

rows! {
    DeviceBeforeHandler = "device-before-handler",
        "device processes die between receive and handler",
        async |at: &Stage<'_>| at.devices_die(Point::Handler).await;
    DeviceBeforeCursor = "device-before-cursor",
        "device processes die between handler and cursor",
        async |at: &Stage<'_>| at.devices_die(Point::Cursor).await;
    DeviceBeforeAck = "device-before-ack",
        "device processes die between cursor and acknowledgement",
        async |at: &Stage<'_>| at.devices_die(Point::Ack).await;
    DevicesMove = "devices-move",
        "devices move between nodes and transports all the time",
        async |at: &Stage<'_>| at.devices_move().await;
    LinksTorn = "links-torn",
        "links are slow, lossy, mute, torn and reset, over TCP, TLS, QUIC and WebSocket",
        async |at: &Stage<'_>| at.links_torn().await;
    AccessKilled = "access-killed",
        "kill -9 of one of three access nodes",
        async |at: &Stage<'_>| at.access_killed().await;
    AccessDrained = "access-drained",
        "hawser node drain of one of three access nodes",
        async |at: &Stage<'_>| at.access_drained().await;
    RollingUpgrade = "rolling-upgrade",
        "three access nodes, two routers and control are restarted one after the other",
        async |at: &Stage<'_>| at.rolling_upgrade().await;
    RouterKilled = "router-killed",
        "kill -9 of one of two routers, in turn",
        async |at: &Stage<'_>| at.router_killed().await;
    ControlDown = "control-down",
        "control is away while devices reconnect, and an access node and a router start anew",
        async |at: &Stage<'_>| at.control_down().await;
    EmbeddedKilled = "embedded-killed",
        "kill -9 of the router on the embedded store, again and again",
        async |at: &Stage<'_>| at.embedded_killed().await;
    EmbeddedTorn = "embedded-torn",
        "the embedded store's journal loses its end",
        async |at: &Stage<'_>| at.embedded_torn().await;
    EmbeddedFull = "embedded-full",
        "the embedded store's disk is full",
        async |at: &Stage<'_>| at.embedded_full().await;
    RedisKilledSynced = "redis-killed-synced",
        "kill -9 of Redis that syncs each write, three times",
        async |at: &Stage<'_>| at.redis_killed(&store::ALWAYS).await;
    RedisKilledUnsynced = "redis-killed-unsynced",
        "kill -9 of Redis that syncs every second",
        async |at: &Stage<'_>| at.redis_killed(&store::EVERY_SECOND).await;
    RedisForgetsAll = "redis-forgets-all",
        "kill -9 of Redis that keeps nothing on disk, twice",
        async |at: &Stage<'_>| at.redis_forgets().await;
    RedisUnreachable = "redis-unreachable",
        "Redis cannot be reached for a minute",
        async |at: &Stage<'_>| at.redis_unreachable().await;
    RedisReplicaPromoted = "redis-replica-promoted",
        "the primary is lost, a lagging replica takes its place",
        async |at: &Stage<'_>| at.replica_promoted().await;
    RedisClusterPrimaryKilled = "redis-cluster-primary",
        "a cluster of three primaries loses one",
        async |at: &Stage<'_>| at.cluster_primary().await;
    RedisClusterSlotsMoved = "redis-cluster-slots",
        "slots of a cluster move under load",
        async |at: &Stage<'_>| at.cluster_slots().await;
    DescriptorsExhausted = "descriptors-exhausted",
        "an access node runs out of descriptors",
        async |at: &Stage<'_>| at.descriptors_exhausted().await;
    MemoryExhausted = "memory-exhausted",
        "an access node is full of connections that hold memory",
        async |at: &Stage<'_>| at.memory_exhausted().await;
    AccessPaused = "access-paused",
        "an access node is stopped for 30 s (SIGSTOP), and wakes up",
        async |at: &Stage<'_>| at.access_paused().await;
    AccessRouterPartition = "access-router-partition",
        "an access node hears nothing of the routers, and they nothing of it",
        async |at: &Stage<'_>| at.access_router_partition().await;
    HalfOpen = "half-open",
        "the devices of an access node are cut off without a word",
        async |at: &Stage<'_>| at.half_open().await;
    TwoLogins = "two-logins",
        "one device logs in on two nodes at once, and an old login arrives late",
        async |at: &Stage<'_>| at.two_logins().await;
    SlowDevice = "slow-device",
        "devices that read nothing are pushed to",
        async |at: &Stage<'_>| at.slow_device().await;
    SlowBusiness = "slow-business",
        "one business is slow, silent, then gone",
        async |at: &Stage<'_>| at.slow_business().await;
    ReconnectStorm = "reconnect-storm",
        "thousands of devices lose their node at once and come back over TLS",
        async |at: &Stage<'_>| at.reconnect_storm().await;
    HugeGroup = "huge-group",
        "multicasts to a group of thousands",
        async |at: &Stage<'_>| at.huge_group().await;
    HotDevice = "hot-device",
        "one device gets a thousand pushes a second",
        async |at: &Stage<'_>| at.hot_device().await;
    NoisyTenant = "noisy-tenant",
        "one business floods the push API",
        async |at: &Stage<'_>| at.noisy_tenant().await;
    ClockShifted = "clock-shifted",
        "services wake up an hour ahead, and an hour behind",
        async |at: &Stage<'_>| at.clock_shifted().await;
    FunctionsApart = "functions-apart",
        "a storm of logins while pushes go through routers of their own",
        async |at: &Stage<'_>| at.functions_apart().await;
    ReleasesMixed = "releases-mixed",
        "access node and devices of an earlier release in today's cluster",
        async |at: &Stage<'_>| at.releases_mixed().await;
}

/// Few minutes, for every day.
pub(super) const SHORT: &[&str] = &[
    "device-before-cursor",
    "devices-move",
    "access-killed",
    "access-drained",
    "router-killed",
    "redis-killed-synced",
    "access-router-partition",
];

/// What a row is run with.
struct Stage<'a> {
    wanted: &'a Faults,
    binary: &'a Path,
    folder: &'a Path,
}

impl Stage<'_> {
    async fn scene(&self, staging: Staging) -> anyhow::Result<Scene> {
        Scene::start(self.wanted, self.binary, self.folder, staging).await
    }

    /// A few judged devices in a cluster of this shape, beside the row's own crowd.
    async fn watched(&self, shape: Shape) -> anyhow::Result<Scene> {
        Scene::beside(self.wanted, self.binary, self.folder, shape).await
    }

    fn timers(&self) -> Timers {
        if self.wanted.scaled { Timers::SCALED } else { Timers::FULL }
    }

    fn load_time(&self) -> Duration {
        Duration::from_secs(self.wanted.seconds)
    }

    /// As many devices as the row has at its full size, or the share that was asked for.
    fn scaled_down(&self, full: usize) -> usize {
        ((full as f64 * self.wanted.size) as usize).clamp(self.wanted.devices.min(full), full)
    }

    /// A few devices, one router, two access nodes.
    fn small(&self, store: &str) -> Staging {
        Staging {
            shape: Shape::small(store, self.timers()),
            devices: self.wanted.devices,
            processes: self.wanted.processes,
            rate: self.wanted.rate,
            durabilities: vec![Durability::Memory, Durability::Disk],
            requests: 0,
            die: None,
            moves: None,
            torn: false,
            join: None,
        }
    }

    /// Two routers and three access nodes over a Redis of this row's own, with as many devices. The Redis
    /// lives as long as it is held.
    fn large(&self, devices: usize) -> anyhow::Result<(Staging, Redis)> {
        let redis = Redis::start(&self.folder.join("redis"), &store::EVERY_SECOND)?;
        let address = format!("redis://{}", redis.address);
        let mut staging = self.small(&address);
        staging.shape = Shape::sized(&address, self.timers(), 2, 3);
        staging.shape.events = true;
        staging.devices = devices;
        staging.processes = self.wanted.processes.max(devices.div_ceil(2_000));
        Ok((staging, redis))
    }
}
