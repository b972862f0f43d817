//! Rows in which an access node runs out of what the machine gives it.

use super::Stage;
use super::neighbours::Flood;
use crate::faults::cluster::{BUSINESSES, Cluster, Service, Shape};
use crate::faults::crowds::Crowds;
use crate::faults::done::Done;
use crate::faults::history::now;
use crate::faults::probe::{Feels, Plan, Probe};
use crate::faults::scene::Scene;
use crate::process;
use anyhow::{Context, ensure};
use std::process::Command;
use std::time::{Duration, Instant};

/// A node that turns others away may use this share of a core for it.
const CORE_SHARE_MAX: f64 = 0.6;
/// One that takes 800 pushes of 60 KiB a second besides, and cuts those who do not read them.
const FULL_CORE_SHARE_MAX: f64 = 0.9;
/// What one connection may hold at the most: an outbox and what is on its way.
const CONNECTION_BYTES_MAX: u64 = 320 * 1024;
/// A node that holds less than this share of what it may was not made to hold memory.
const FULL_SHARE: f64 = 0.5;

impl Stage<'_> {
    async fn limited(&self, connections_max: Option<u32>) -> anyhow::Result<(Scene, Probe)> {
        let mut shape = Shape::small("embedded", self.timers());
        shape.connections_max = connections_max;
        shape.accepts_per_second = 1_500;
        let scene = self.judged(shape).await?;
        let cluster = &scene.cluster;
        let plan = Plan {
            feels: Feels::Pushes,
            name: "here".to_owned(),
            devices: 20,
            per_second: 100,
            business: BUSINESSES[1],
            key: cluster.keys[1].clone(),
            push: cluster.push[0].clone(),
            doors: vec![cluster.doors[0].tcp],
        };
        let probe = Probe::start(cluster, plan).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok((scene, probe))
    }

    pub(super) async fn descriptors_exhausted(&self) -> anyhow::Result<Done> {
        let node = Service::Access(0);
        let (mut scene, mut probe) = self.limited(None).await?;
        let (id, _) = scene.cluster.process(node).context("the node is down")?;
        let before = process::descriptors(id)?;
        // Those that stay free are for the node itself: calls to businesses, control and routers.
        let room = 100;
        limit(id, &format!("--nofile={}:", before + room))?;
        let mut wanted = self.crowd(&scene.cluster, "more", 1_000);
        (wanted.nodes, wanted.come_back) = (vec![scene.cluster.doors[0].tcp], true);
        wanted.logins_per_second = 500;
        let mut crowd = Crowds::start(wanted)?;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (from, cpu, begun) = (now(), scene.cluster.cpu_seconds(node)?, Instant::now());
        let told = crowd.during(Duration::from_secs(self.wanted.seconds)).await?;
        let used = (scene.cluster.cpu_seconds(node)? - cpu) / begun.elapsed().as_secs_f64();
        let most = process::descriptors(id)?;
        let to = now();
        ensure!(!scene.cluster.has_ended(node)?, "the node ended");
        probe.settled(to).await;
        probe.check()?;
        let (felt, lost) = (probe.between(from, to), probe.lost_between(from, to));
        // Room again: whoever waited comes in.
        limit(id, "--nofile=16000:")?;
        let healed = Instant::now();
        crowd.until_online(1_000, Duration::from_secs(90)).await?;
        let all_in = healed.elapsed();
        drop(crowd);
        probe.check()?;
        let again = self.falls_back(&scene.cluster, id, before).await?;
        drop(probe);
        let (mut done, _) = scene.end().await?;
        done.figure(
            format!(
                "{} of 1,000 came in, {most} descriptors of {}; devices that were there: pushes {felt}, \
                 {lost} lost (0)",
                told.online,
                before + room
            ),
            lost == 0 && told.online > 0 && told.online < 1_000,
        );
        done.figure(
            format!(
                "{:.0} % of a core while full (at most {:.0}), no exit",
                used * 100.0,
                CORE_SHARE_MAX * 100.0
            ),
            used <= CORE_SHARE_MAX,
        );
        done.figure(
            format!("all in {:.1} s after there was room; descriptors {again} at the end, {before} before", all_in.as_secs_f64()),
            again <= before + before / 20 + 12,
        );
        Ok(done)
    }

    /// As many connections as the node takes, each holding as much as it may, under a limit of memory that
    /// is what this comes to: nothing more is taken in, and nobody who is here feels it.
    pub(super) async fn memory_exhausted(&self) -> anyhow::Result<Done> {
        let node = Service::Access(0);
        let connections = 320;
        let (mut scene, mut probe) = self.limited(Some(connections)).await?;
        let (id, _) = scene.cluster.process(node).context("the node is down")?;
        let before = process::resident_bytes(id)?;
        let bound = before + u64::from(connections) * CONNECTION_BYTES_MAX;
        let cage = Cage::around(id, bound);
        let is_caged = cage.is_some();
        let mut wanted = self.crowd(&scene.cluster, "full", connections as usize + 200);
        (wanted.nodes, wanted.deaf, wanted.come_back) =
            (vec![scene.cluster.doors[0].tcp], true, true);
        let names: Vec<String> = (0..wanted.count).map(|n| format!("full-{n}")).collect();
        let mut crowd = Crowds::start(wanted)?;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let flood = Flood::start(&scene.cluster, 0, 800, move |number| {
            (vec![names[number % names.len()].clone()], 60 * 1024)
        })?;
        flood.go();
        let (from, cpu, begun) = (now(), scene.cluster.cpu_seconds(node)?, Instant::now());
        let (mut most, mut held) = (before, 0.0_f64);
        let mut told = crowd.take()?;
        // A slow link that takes nothing is cut after its write time-out: until then it holds the most.
        let time = Duration::from_secs(self.wanted.seconds.max(9));
        let mut is_first_half = true;
        while begun.elapsed() < time {
            if is_first_half && begun.elapsed() > time / 2 {
                is_first_half = false;
                scene.was_full_once().await;
            }
            told.merge(&crowd.during(Duration::from_millis(250)).await?);
            held = held.max(scene.cluster.metric(node, "hawser_access_connections").await?);
            most = most.max(process::resident_bytes(id).unwrap_or(most));
        }
        let used = (scene.cluster.cpu_seconds(node)? - cpu) / begun.elapsed().as_secs_f64();
        let ended = scene.cluster.has_ended(node)?;
        let to = now();
        flood.pause();
        probe.settled(to).await;
        let check = probe.check();
        let (felt, lost) = (probe.between(from, to), probe.lost_between(from, to));
        let full = (most - before) as f64 / (bound - before) as f64;
        let mebibytes = |bytes: u64| bytes as f64 / 1_048_576.0;
        let flooded = flood.seen();
        drop((flood, probe, crowd, cage));
        let (mut done, _) = scene.end().await?;
        done.figure(
            format!(
                "{held} held at {connections} allowed (all), {:.0} MiB at the most, {:.0} before, bound {:.0} \
                 ({}), {:.0} % of what may be held beyond what was (at least {:.0})",
                mebibytes(most),
                mebibytes(before),
                mebibytes(bound),
                if is_caged { "kept by a control group" } else { "watched, no control group here" },
                full * 100.0,
                FULL_SHARE * 100.0
            ),
            most <= bound && held as u32 == connections && full >= FULL_SHARE && !ended,
        );
        Self::to_the_deaf(&mut done, flooded, &told);
        done.figure(
            format!(
                "devices that were there: pushes {felt}, {lost} lost (0), links kept: {}",
                check.is_ok()
            ),
            lost == 0 && check.is_ok(),
        );
        done.figure(
            format!(
                "{:.0} % of a core (at most {:.0}), no exit: {}",
                used * 100.0,
                FULL_CORE_SHARE_MAX * 100.0,
                !ended
            ),
            used <= FULL_CORE_SHARE_MAX && !ended,
        );
        Ok(done)
    }

    /// Descriptors, once what was over had time to go.
    async fn falls_back(&self, cluster: &Cluster, id: u32, before: u64) -> anyhow::Result<u64> {
        let patience = cluster.shape.timers.idle + Duration::from_secs(10);
        let begun = Instant::now();
        loop {
            let held = process::descriptors(id)?;
            if held <= before + 12 || begun.elapsed() > patience {
                return Ok(held);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

fn limit(process: u32, what: &str) -> anyhow::Result<()> {
    let output = Command::new("prlimit").args(["--pid", &process.to_string(), what]).output();
    let output = output.context("prlimit is needed here: apt-get install util-linux")?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "prlimit: {said}");
    Ok(())
}

/// A control group that holds one process to a bound of memory. Removed with its owner.
struct Cage(std::path::PathBuf);

impl Cage {
    /// `None`: control groups cannot be made here.
    fn around(process: u32, bytes: u64) -> Option<Self> {
        let name = format!("hawser-faults-{process}");
        for (root, setting) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let folder = std::path::Path::new(root).join(&name);
            if !std::path::Path::new(root).join("cgroup.procs").exists()
                || std::fs::create_dir(&folder).is_err()
            {
                continue;
            }
            let cage = Self(folder);
            let made = std::fs::write(cage.0.join(setting), bytes.to_string())
                .and_then(|()| std::fs::write(cage.0.join("cgroup.procs"), process.to_string()));
            if made.is_ok() {
                return Some(cage);
            }
        }
        None
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // What lives in it goes back to the root group, or it could not be removed.
        if let (Ok(inside), Some(root)) =
            (std::fs::read_to_string(self.0.join("cgroup.procs")), self.0.parent())
        {
            for process in inside.lines() {
                let _ = std::fs::write(root.join("cgroup.procs"), process);
            }
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}
