//! Rows in which the store dies, forgets, cannot be reached, fails over, and moves.

use super::Stage;
use crate::faults::CannotRun;
use crate::faults::arrivals::{Arrivals, Waits};
use crate::faults::cluster::{Service, Shape};
use crate::faults::done::Done;
use crate::faults::history::now;
use crate::faults::proxy::{Proxy, Way};
use crate::faults::scene::Staging;
use anyhow::Context;
use hawser_loadtest::judge::Durability as Kept;
use hawser_loadtest::redis::{Cluster, Redis};
use hawser_proto::rpc::push::Durability;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Deliveries go on within this after the healing, for 99 of 100.
const RESUMED_MS_MAX: u64 = 5_000;
pub(super) const ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
pub(super) const EVERY_SECOND: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "everysec"];

impl Stage<'_> {
    /// Two routers over this Redis.
    fn shared(&self, store: &str, durabilities: &[Durability]) -> Staging {
        let mut staging = self.small(store);
        staging.shape = Shape::sized(store, self.timers(), 2, 2);
        staging.durabilities = durabilities.to_vec();
        staging
    }

    /// What was due at each of so many healings came soon after it; and something was due.
    fn resumed(done: &mut Done, arrivals: &Arrivals, healings: usize) {
        let each = arrivals.each_healing();
        let worst = each.iter().map(|it| it.p99).max().unwrap_or(0);
        let least = each.iter().map(|it| it.count).min().unwrap_or(0);
        done.figure(
            format!(
                "{} healings ({healings}), p99 of what was due at the worst {worst} ms (at most \
                 {RESUMED_MS_MAX}), at least {least} pushes due (more than 0)",
                each.len()
            ),
            worst <= RESUMED_MS_MAX && each.len() == healings && least > 0,
        );
    }

    /// Where nothing is down for long there is no backlog: pushes of that time are answered soon.
    fn answered(done: &mut Done, waits: &Waits, when: &str) {
        done.figure(
            format!(
                "{} pushes {when}, answered p99 {} ms (at most {RESUMED_MS_MAX}), {} never (0)",
                waits.count, waits.p99, waits.never
            ),
            waits.p99 <= RESUMED_MS_MAX && waits.never == 0 && waits.count > 0,
        );
    }

    fn dropped(done: &mut Done, logins: f64) {
        done.figure(format!("{logins} connections dropped (0)"), logins == 0.0);
    }

    /// The router on the embedded store is killed again and again; each time it opens by itself.
    pub(super) async fn embedded_killed(&self) -> anyhow::Result<Done> {
        let mut scene = self.scene(self.small("embedded")).await?;
        let kills = (self.wanted.seconds / 4).max(3);
        for _ in 0..kills {
            scene.fault("router killed");
            let since = now();
            scene.cluster.kill(Service::Router(0))?;
            scene.pass(Duration::from_millis(700), false).await?;
            // What was answered as `memory` may have been in its queue only.
            scene.store_back(since.saturating_sub(1_000_000_000), Kept::Memory);
            scene.cluster.revive(Service::Router(0)).await?;
            scene.healed();
            scene.pass(Duration::from_secs(3), false).await?;
        }
        let (mut done, arrivals) = scene.end().await?;
        done.figure(format!("opened by itself {kills} times of {kills}"), true);
        Self::resumed(&mut done, &arrivals, kills as usize);
        Ok(done)
    }

    /// As above, and the end of the newest journal is cut off each time, as a disk does that lost power.
    pub(super) async fn embedded_torn(&self) -> anyhow::Result<Done> {
        let mut staging = self.small("embedded");
        staging.durabilities = vec![Durability::Memory];
        let mut scene = self.scene(staging).await?;
        let mut torn = 0;
        for bytes in [1, 7, 100] {
            scene.fault("journal torn");
            let since = now();
            scene.cluster.kill(Service::Router(0))?;
            torn += tear(&scene.cluster.folder().join("router-0"), bytes)?;
            // A cut may take what came within the last moments before it.
            scene.store_back(since.saturating_sub(3_000_000_000), Kept::Disk);
            scene.cluster.revive(Service::Router(0)).await?;
            scene.healed();
            scene.pass(self.load_time() / 3, false).await?;
        }
        let (mut done, arrivals) = scene.end().await?;
        done.figure(format!("{torn} journals cut short, opened by itself 3 times of 3"), torn > 0);
        Self::resumed(&mut done, &arrivals, 3);
        Ok(done)
    }

    /// The router's folder is a disk that runs full, and gets room again.
    pub(super) async fn embedded_full(&self) -> anyhow::Result<Done> {
        let disk = Disk::mount(&self.folder.join("router-0"), 128)?;
        let mut scene = self.scene(self.small("embedded")).await?;
        scene.fault("disk full");
        let ballast = disk.fill()?;
        scene.pass(Duration::from_secs(2), false).await?;
        let refusals = scene.refusals();
        scene.pass(self.load_time() / 2, false).await?;
        let refused = scene.refusals() - refusals;
        let read = scene.can_read().await;
        std::fs::remove_file(ballast)?;
        scene.healed();
        scene.pass(self.load_time() / 2, false).await?;
        let logins = scene.logins_since().await;
        let (mut done, arrivals) = scene.end().await?;
        done.figure(
            format!("{refused} tries ended without a position while full (more than 0)"),
            refused > 0,
        );
        done.figure(format!("reads go on: {read}"), read);
        Self::resumed(&mut done, &arrivals, 1);
        Self::dropped(&mut done, logins);
        drop(disk);
        Ok(done)
    }

    pub(super) async fn redis_killed(&self, arguments: &[&str]) -> anyhow::Result<Done> {
        let mut server = Redis::start(&self.folder.join("redis"), arguments)?;
        let store = format!("redis://{}", server.address);
        let wanted = [Durability::Memory, Durability::Disk];
        let mut scene = self.scene(self.shared(&store, &wanted)).await?;
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
        Self::resumed(&mut done, &arrivals, 3);
        Self::dropped(&mut done, logins);
        Ok(done)
    }

    pub(super) async fn redis_forgets(&self) -> anyhow::Result<Done> {
        let mut server = Redis::start(&self.folder.join("redis"), &[])?;
        let store = format!("redis://{}", server.address);
        let wanted = [Durability::Memory, Durability::Disk];
        let mut scene = self.scene(self.shared(&store, &wanted)).await?;
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
        done.say(format!("{} lost with Redis as declared", arrivals.missing));
        Self::resumed(&mut done, &arrivals, 2);
        Self::dropped(&mut done, logins);
        Ok(done)
    }

    pub(super) async fn redis_unreachable(&self) -> anyhow::Result<Done> {
        let server = Redis::start(&self.folder.join("redis"), &ALWAYS)?;
        let proxy = Proxy::start(Way::To(server.address)).await?;
        let store = format!("redis://{}", proxy.address);
        let wanted = [Durability::Memory, Durability::Disk];
        let mut scene = self.scene(self.shared(&store, &wanted)).await?;
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
        Self::resumed(&mut done, &arrivals, 1);
        Self::dropped(&mut done, logins);
        Ok(done)
    }

    pub(super) async fn replica_promoted(&self) -> anyhow::Result<Done> {
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
        let mut scene = self.scene(self.shared(&store, &wanted)).await?;
        scene.pass(self.load_time() / 3, false).await?;
        // The replica hears nothing any more; what is answered as `replica` now would be a lie.
        scene.fault("replica lags");
        let since = now();
        link.set(Way::Stalled(primary.address));
        scene.pass(Duration::from_secs(3), false).await?;
        let lost = scene.fault("primary lost");
        scene.store_back(since.saturating_sub(200_000_000), Kept::Memory);
        front.set(Way::Cut);
        primary.kill();
        link.set(Way::Cut);
        replica.ask(&["REPLICAOF", "NO", "ONE"]).context("the replica was not promoted")?;
        front.set(Way::To(replica.address));
        let healed = scene.healed();
        scene.pass(self.load_time() / 2, false).await?;
        let logins = scene.logins_since().await;
        let (mut done, arrivals) = scene.end().await?;
        // Pushes that only the lost primary had never come; the judge knows which may be gone.
        done.say(format!("{} lost with the primary as declared", arrivals.missing));
        // The replica is in place at once.
        let waits = arrivals.answers(lost, healed + 1_000_000_000);
        Self::answered(&mut done, &waits, "within a second of it");
        let due = arrivals.due(healed).p99;
        done.figure(
            format!("p99 of what was due {due} ms after healing (at most {RESUMED_MS_MAX})"),
            due <= RESUMED_MS_MAX,
        );
        Self::dropped(&mut done, logins);
        Ok(done)
    }

    pub(super) async fn cluster_primary(&self) -> anyhow::Result<Done> {
        let mut cluster = Cluster::start(&self.folder.join("cluster"))?;
        let wanted = [Durability::Memory, Durability::Replica];
        let mut scene = self.scene(self.shared(&cluster_store(&cluster), &wanted)).await?;
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
        Self::resumed(&mut done, &arrivals, 1);
        Self::dropped(&mut done, logins);
        Ok(done)
    }

    pub(super) async fn cluster_slots(&self) -> anyhow::Result<Done> {
        let cluster = Cluster::start(&self.folder.join("cluster"))?;
        let wanted = [Durability::Memory, Durability::Replica];
        let mut scene = self.scene(self.shared(&cluster_store(&cluster), &wanted)).await?;
        let from = scene.fault("slots move");
        let moving = tokio::task::spawn_blocking(move || {
            let moved = (0..3).try_for_each(|_| cluster.move_slots(500));
            (moved, cluster)
        });
        while !moving.is_finished() {
            scene.pass(Duration::from_millis(500), false).await?;
        }
        let (moved, _cluster) = moving.await?;
        moved?;
        let to = scene.healed();
        scene.pass(self.load_time() / 2, false).await?;
        let logins = scene.logins_since().await;
        let (mut done, arrivals) = scene.end().await?;
        Self::answered(&mut done, &arrivals.answers(from, to), "while slots moved");
        Self::dropped(&mut done, logins);
        Ok(done)
    }
}

fn cluster_store(cluster: &Cluster) -> String {
    let nodes: Vec<String> =
        cluster.servers.iter().map(|server| server.address.to_string()).collect();
    format!("redis-cluster://{}", nodes.join(","))
}

/// Cuts this many bytes off every journal file below a folder. Returns how many there were.
fn tear(folder: &Path, bytes: u64) -> anyhow::Result<usize> {
    let mut torn = 0;
    for entry in std::fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            torn += tear(&path, bytes)?;
        } else if path.extension().is_some_and(|it| it == "jnl" || it == "journal") {
            // It may be longer than what was written into it.
            let written = std::fs::read(&path)?.iter().rposition(|byte| *byte != 0);
            let Some(end) = written.map(|last| last as u64 + 1).filter(|end| *end > bytes) else {
                continue;
            };
            std::fs::File::options().write(true).open(&path)?.set_len(end - bytes)?;
            torn += 1;
        }
    }
    Ok(torn)
}

/// A small disk of its own. Unmounted with its owner.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(at: &Path, mebibytes: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(at)?;
        let size = format!("size={mebibytes}m");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "hawser"]).arg(at).status()?;
        if !status.success() {
            return Err(CannotRun("a small disk of its own: run as root".to_owned()).into());
        }
        Ok(Self(at.to_owned()))
    }

    /// Fills it; returns the file that does.
    fn fill(&self) -> anyhow::Result<std::path::PathBuf> {
        let path = self.0.join("ballast");
        let mut file = std::fs::File::create(&path)?;
        let block = vec![0; 64 * 1024];
        // Until there is no room for a single byte.
        for size in [block.len(), 4_096, 1] {
            while std::io::Write::write(&mut file, &block[..size]).is_ok_and(|it| it > 0) {}
        }
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
