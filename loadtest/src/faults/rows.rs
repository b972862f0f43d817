//! The rows of the table: what is broken in each, and what must be seen.

use super::cluster::Service;
use super::devices::Point;
use super::history::now;
use super::proxy::{Proxy, Way};
use super::scene::{Devices, Done, Scene};
use crate::Faults;
use anyhow::Context;
use hawser_loadtest::judge::Durability as Kept;
use hawser_loadtest::redis::{Cluster, Redis};
use hawser_proto::rpc::push::Durability;
use std::path::Path;
use std::time::Duration;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    DeviceBeforeHandler,
    DeviceBeforeCursor,
    DeviceBeforeAck,
    DevicesMove,
    AccessKilled,
    RouterKilled,
    RedisKilledSynced,
    RedisKilledUnsynced,
    RedisForgetsAll,
    RedisUnreachable,
    RedisReplicaPromoted,
    RedisClusterPrimaryKilled,
    RedisClusterSlotsMoved,
}

const MEMORY_AND_DISK: [Durability; 2] = [Durability::Memory, Durability::Disk];
/// Deliveries go on within this after the healing, for 99 of 100.
const RESUMED_MS_MAX: u64 = 5_000;
/// A device's durable cursor may lag by the window of unacknowledged pushes.
const ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
const EVERY_SECOND: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "everysec"];

impl Row {
    pub(super) const ALL: [Self; 13] = [
        Self::DeviceBeforeHandler,
        Self::DeviceBeforeCursor,
        Self::DeviceBeforeAck,
        Self::DevicesMove,
        Self::AccessKilled,
        Self::RouterKilled,
        Self::RedisKilledSynced,
        Self::RedisKilledUnsynced,
        Self::RedisForgetsAll,
        Self::RedisUnreachable,
        Self::RedisReplicaPromoted,
        Self::RedisClusterPrimaryKilled,
        Self::RedisClusterSlotsMoved,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DeviceBeforeHandler => "device-before-handler",
            Self::DeviceBeforeCursor => "device-before-cursor",
            Self::DeviceBeforeAck => "device-before-ack",
            Self::DevicesMove => "devices-move",
            Self::AccessKilled => "access-killed",
            Self::RouterKilled => "router-killed",
            Self::RedisKilledSynced => "redis-killed-synced",
            Self::RedisKilledUnsynced => "redis-killed-unsynced",
            Self::RedisForgetsAll => "redis-forgets-all",
            Self::RedisUnreachable => "redis-unreachable",
            Self::RedisReplicaPromoted => "redis-replica-promoted",
            Self::RedisClusterPrimaryKilled => "redis-cluster-primary",
            Self::RedisClusterSlotsMoved => "redis-cluster-slots",
        }
    }

    pub(super) fn about(self) -> &'static str {
        match self {
            Self::DeviceBeforeHandler => "device processes die between receive and handler",
            Self::DeviceBeforeCursor => "device processes die between handler and cursor",
            Self::DeviceBeforeAck => "device processes die between cursor and acknowledgement",
            Self::DevicesMove => "devices move between nodes and transports all the time",
            Self::AccessKilled => "kill -9 of an access node, three times",
            Self::RouterKilled => "kill -9 of the router on the embedded store, three times",
            Self::RedisKilledSynced => "kill -9 of Redis that syncs each write, three times",
            Self::RedisKilledUnsynced => "kill -9 of Redis that syncs every second",
            Self::RedisForgetsAll => "kill -9 of Redis that keeps nothing on disk, twice",
            Self::RedisUnreachable => "Redis cannot be reached for a minute",
            Self::RedisReplicaPromoted => "the primary is lost, a lagging replica takes its place",
            Self::RedisClusterPrimaryKilled => "a cluster of three primaries loses one",
            Self::RedisClusterSlotsMoved => "slots of a cluster move under load",
        }
    }

    /// Runs the row in its own folder.
    pub(super) async fn run(
        self,
        wanted: &Faults,
        binary: &Path,
        folder: &Path,
    ) -> anyhow::Result<Done> {
        let at = Stage { wanted, binary, folder };
        match self {
            Self::DeviceBeforeHandler => at.devices_die(Point::Handler).await,
            Self::DeviceBeforeCursor => at.devices_die(Point::Cursor).await,
            Self::DeviceBeforeAck => at.devices_die(Point::Ack).await,
            Self::DevicesMove => at.devices_move().await,
            Self::AccessKilled => at.service_killed(Service::Access(0)).await,
            Self::RouterKilled => at.service_killed(Service::Router).await,
            Self::RedisKilledSynced => at.redis_killed(&ALWAYS).await,
            Self::RedisKilledUnsynced => at.redis_killed(&EVERY_SECOND).await,
            Self::RedisForgetsAll => at.redis_forgets().await,
            Self::RedisUnreachable => at.redis_unreachable().await,
            Self::RedisReplicaPromoted => at.replica_promoted().await,
            Self::RedisClusterPrimaryKilled => at.cluster_primary().await,
            Self::RedisClusterSlotsMoved => at.cluster_slots().await,
        }
    }
}

struct Stage<'a> {
    wanted: &'a Faults,
    binary: &'a Path,
    folder: &'a Path,
}

impl Stage<'_> {
    async fn scene(
        &self,
        store: &str,
        durabilities: &[Durability],
        devices: Devices,
    ) -> anyhow::Result<Scene> {
        Scene::start(self.wanted, self.binary, self.folder, store, durabilities, devices).await
    }

    fn load_time(&self) -> Duration {
        Duration::from_secs(self.wanted.seconds)
    }

    async fn devices_die(&self, point: Point) -> anyhow::Result<Done> {
        let devices = Devices { die: Some((point, 40)), ..Devices::default() };
        let mut scene = self.scene("embedded", &MEMORY_AND_DISK, devices).await?;
        let before = scene.lives();
        // Those that warmed up have no wish to die.
        scene.kill_devices();
        scene.pass(self.load_time(), true).await?;
        scene.kill_devices();
        scene.healed();
        let deaths = scene.lives() - before;
        let (mut done, _) = scene.end().await?;
        done.figure = format!("{deaths} deaths; {}", done.figure);
        // Otherwise the row has shown nothing.
        let least = (self.wanted.seconds / 2).max(2);
        if deaths < least {
            done.shortfall = Some(format!("fewer than {least} deaths"));
        }
        Ok(done)
    }

    async fn devices_move(&self) -> anyhow::Result<Done> {
        let moves = Some((Duration::from_millis(700), self.load_time()));
        let devices = Devices { moves, ..Devices::default() };
        let mut scene = self.scene("embedded", &MEMORY_AND_DISK, devices).await?;
        scene.pass(self.load_time(), false).await?;
        scene.healed();
        let logins = scene.logins_since().await;
        let (mut done, _) = scene.end().await?;
        done.figure = format!("{logins} logins; {}", done.figure);
        let least = self.wanted.seconds * 4;
        if logins < least as f64 {
            done.shortfall = Some(format!("fewer than {least} moves"));
        }
        Ok(done)
    }

    async fn service_killed(&self, service: Service) -> anyhow::Result<Done> {
        let mut scene = self.scene("embedded", &MEMORY_AND_DISK, Devices::default()).await?;
        for _ in 0..3 {
            scene.fault(if service == Service::Router { "router killed" } else { "node killed" });
            let since = now();
            scene.cluster.kill(service)?;
            scene.pass(Duration::from_secs(1), false).await?;
            if service == Service::Router {
                // What was answered as `memory` may have been in its queue only.
                scene.store_back(since.saturating_sub(1_000_000_000), Kept::Memory);
            }
            scene.cluster.revive(service).await?;
            scene.healed();
            scene.pass(self.load_time() / 3, false).await?;
        }
        let (mut done, arrivals) = scene.end().await?;
        miss_if_slow(&mut done, arrivals.p99_ms());
        Ok(done)
    }

    async fn redis_killed(&self, arguments: &[&str]) -> anyhow::Result<Done> {
        let mut server = Redis::start(&self.folder.join("redis"), arguments)?;
        let store = format!("redis://{}", server.address);
        let mut scene = self.scene(&store, &MEMORY_AND_DISK, Devices::default()).await?;
        let synced = arguments.contains(&"always");
        for _ in 0..3 {
            scene.fault("redis killed");
            if !synced {
                scene.store_back(now().saturating_sub(2_000_000_000), Kept::Memory);
            }
            server.kill();
            scene.pass(Duration::from_secs(2), false).await?;
            server.revive()?;
            scene.healed();
            scene.pass(self.load_time() / 3, false).await?;
        }
        let logins = scene.logins_since().await;
        let (mut done, arrivals) = scene.end().await?;
        miss_if_slow(&mut done, arrivals.p99_ms());
        miss_if_dropped(&mut done, logins);
        Ok(done)
    }

    async fn redis_forgets(&self) -> anyhow::Result<Done> {
        let mut server = Redis::start(&self.folder.join("redis"), &[])?;
        let store = format!("redis://{}", server.address);
        let mut scene = self.scene(&store, &MEMORY_AND_DISK, Devices::default()).await?;
        for _ in 0..2 {
            scene.fault("redis forgets");
            // Every push that is not handed over yet, and every session.
            scene.store_back(0, Kept::Memory);
            server.kill();
            scene.pass(Duration::from_secs(1), false).await?;
            scene.store_back(0, Kept::Memory);
            server.revive()?;
            scene.healed();
            scene.pass(self.load_time() / 2, false).await?;
        }
        let logins = scene.logins_since().await;
        let (mut done, arrivals) = scene.end().await?;
        done.figure = format!("{} lost with Redis as declared; {}", arrivals.missing, done.figure);
        miss_if_slow(&mut done, arrivals.p99_ms());
        miss_if_dropped(&mut done, logins);
        Ok(done)
    }

    async fn redis_unreachable(&self) -> anyhow::Result<Done> {
        let server = Redis::start(&self.folder.join("redis"), &ALWAYS)?;
        let proxy = Proxy::start(Way::To(server.address)).await?;
        let store = format!("redis://{}", proxy.address);
        let mut scene = self.scene(&store, &MEMORY_AND_DISK, Devices::default()).await?;
        scene.fault("redis unreachable");
        // First as a network that drops everything, then as a host that is gone.
        proxy.set(Way::Stalled(server.address));
        let outage = Duration::from_secs(self.wanted.outage);
        scene.pass(outage / 2, false).await?;
        proxy.set(Way::Cut);
        scene.pass(outage / 2, false).await?;
        proxy.set(Way::To(server.address));
        scene.healed();
        scene.pass(self.load_time() / 2, false).await?;
        let logins = scene.logins_since().await;
        let (mut done, arrivals) = scene.end().await?;
        miss_if_slow(&mut done, arrivals.p99_ms());
        miss_if_dropped(&mut done, logins);
        Ok(done)
    }

    async fn replica_promoted(&self) -> anyhow::Result<Done> {
        let mut primary = Redis::start(&self.folder.join("primary"), &EVERY_SECOND)?;
        let link = Proxy::start(Way::To(primary.address)).await?;
        let port = link.address.port().to_string();
        let replica =
            Redis::start(&self.folder.join("replica"), &["--replicaof", "127.0.0.1", &port])?;
        let up = |info: &str| info.contains("master_link_status:up");
        replica.until(&["INFO", "replication"], Duration::from_secs(20), up)?;
        let front = Proxy::start(Way::To(primary.address)).await?;
        let store = format!("redis://{}", front.address);
        let wanted = [Durability::Memory, Durability::Replica];
        let mut scene = self.scene(&store, &wanted, Devices::default()).await?;
        scene.pass(self.load_time() / 3, false).await?;
        // The replica hears nothing any more; what is answered as `replica` now would be a lie.
        scene.fault("replica lags");
        let since = now();
        link.set(Way::Stalled(primary.address));
        scene.pass(Duration::from_secs(3), false).await?;
        scene.fault("primary lost");
        scene.store_back(since.saturating_sub(200_000_000), Kept::Memory);
        front.set(Way::Cut);
        primary.kill();
        link.set(Way::Cut);
        replica.ask(&["REPLICAOF", "NO", "ONE"]).context("the replica was not promoted")?;
        front.set(Way::To(replica.address));
        scene.healed();
        scene.pass(self.load_time() / 2, false).await?;
        let logins = scene.logins_since().await;
        let (mut done, arrivals) = scene.end().await?;
        // Pushes that only the lost primary had never come; the judge knows which may be gone.
        done.figure =
            format!("{} lost with the primary as declared; {}", arrivals.missing, done.figure);
        miss_if_slow(&mut done, arrivals.p99_ms());
        miss_if_dropped(&mut done, logins);
        Ok(done)
    }

    async fn cluster_primary(&self) -> anyhow::Result<Done> {
        let mut cluster = Cluster::start(&self.folder.join("cluster"))?;
        let store = cluster_store(&cluster);
        let wanted = [Durability::Memory, Durability::Replica];
        let mut scene = self.scene(&store, &wanted, Devices::default()).await?;
        scene.fault("primary killed");
        scene.store_back(now().saturating_sub(1_000_000_000), Kept::Memory);
        let losing = tokio::task::spawn_blocking(move || (cluster.lose_primary(), cluster));
        let (lost, mut cluster) = losing.await?;
        let lost = lost?;
        scene.healed();
        scene.pass(self.load_time() / 2, false).await?;
        cluster.restore(lost)?;
        scene.pass(self.load_time() / 4, false).await?;
        let logins = scene.logins_since().await;
        let (mut done, arrivals) = scene.end().await?;
        miss_if_slow(&mut done, arrivals.p99_ms());
        miss_if_dropped(&mut done, logins);
        Ok(done)
    }

    async fn cluster_slots(&self) -> anyhow::Result<Done> {
        let cluster = Cluster::start(&self.folder.join("cluster"))?;
        let store = cluster_store(&cluster);
        let wanted = [Durability::Memory, Durability::Replica];
        let mut scene = self.scene(&store, &wanted, Devices::default()).await?;
        scene.fault("slots move");
        let moving = tokio::task::spawn_blocking(move || {
            let moved = (0..3).try_for_each(|_| cluster.move_slots(500));
            (moved, cluster)
        });
        while !moving.is_finished() {
            scene.pass(Duration::from_millis(500), false).await?;
        }
        let (moved, _cluster) = moving.await?;
        moved?;
        scene.healed();
        scene.pass(self.load_time() / 2, false).await?;
        let logins = scene.logins_since().await;
        let (mut done, arrivals) = scene.end().await?;
        miss_if_slow(&mut done, arrivals.p99_ms());
        miss_if_dropped(&mut done, logins);
        Ok(done)
    }
}

fn cluster_store(cluster: &Cluster) -> String {
    let nodes: Vec<String> =
        cluster.servers.iter().map(|server| server.address.to_string()).collect();
    format!("redis-cluster://{}", nodes.join(","))
}

fn miss_if_slow(done: &mut Done, p99_ms: u64) {
    if p99_ms > RESUMED_MS_MAX {
        done.shortfall = Some(format!("p99 after healing {p99_ms} ms, above {RESUMED_MS_MAX}"));
    }
}

fn miss_if_dropped(done: &mut Done, logins: f64) {
    done.figure = format!("{logins} connections dropped; {}", done.figure);
    if logins > 0.0 {
        done.shortfall = Some(format!("{logins} devices lost their connection"));
    }
}
