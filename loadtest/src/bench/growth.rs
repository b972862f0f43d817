//! What one delivery costs in a small group, on one access node, and in the largest, over several; the
//! devices are in as many processes of their own, because a process has only so many descriptors.

use super::Bench;
use super::stage::{DELIVERY_PATIENCE, shape};
use crate::fleet::link::{Dialer, Protocol};
use crate::fleet::{Credential, Fleet, Manners, payload};
use crate::process::Guarded;
use crate::report::{Bound, Repeats, Row};
use crate::system::{BUSINESS, Parts, System};
use anyhow::{Context, ensure};
use hawser_loadtest::stamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Members of the groups. The smaller ones fit on one node.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// Devices of one access node, and of one device process.
const PER_NODE: usize = 17_000;
/// Deliveries a second, whatever the size.
const RATE: u64 = 20_000;
const LOGIN_PATIENCE: Duration = Duration::from_mins(4);
const LOOK: Duration = Duration::from_millis(20);

/// What one process of devices is to do.
#[derive(Serialize, Deserialize)]
struct Plan {
    door: SocketAddr,
    credentials: Vec<Credential>,
    /// Groups, each for the first so many of them.
    groups: Vec<(String, usize)>,
}

/// Devices of a bench in a process of their own.
#[derive(clap::Args)]
pub(crate) struct Devices {
    /// What they are to do.
    plan: PathBuf,
}

/// Logs in, joins, and tells how many deliveries have come, each time that more have.
pub(crate) async fn devices(wanted: Devices) -> anyhow::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the descriptor limit")?;
    let plan: Plan = serde_json::from_slice(&std::fs::read(&wanted.plan)?)?;
    let groups: Vec<(&str, usize)> = plan.groups.iter().map(|it| (it.0.as_str(), it.1)).collect();
    let manners = Manners { protocol: Protocol::Tcp, business: BUSINESS, groups: &groups };
    let dialer = Dialer::new(None)?;
    let fleet = Fleet::hawser(&dialer, &[plan.door], plan.credentials, manners).await?;
    let mut told = None;
    loop {
        let received = fleet.received();
        if told != Some(received) {
            println!("{received}");
            std::io::stdout().flush()?;
            told = Some(received);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A process of devices, and what it told last.
struct Crowd {
    _process: Guarded,
    /// `u64::MAX` until all are in.
    received: Arc<AtomicU64>,
}

impl Crowd {
    fn start(plan: &Plan, file: &Path) -> anyhow::Result<Self> {
        std::fs::write(file, serde_json::to_vec(plan)?)?;
        let program = std::env::current_exe()?;
        let mut process = Guarded::start(Command::new(program).arg("bench-devices").arg(file))?;
        let (output, received) = (process.stdout()?, Arc::new(AtomicU64::new(u64::MAX)));
        let told = received.clone();
        // It ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(count) = line.parse() {
                    told.store(count, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { _process: process, received })
    }
}

struct Scene {
    system: System,
    crowds: Vec<Crowd>,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn start(binary: &Path) -> anyhow::Result<Self> {
        let most = SIZES.into_iter().max().unwrap_or_default();
        let nodes = most.div_ceil(PER_NODE);
        let system = System::apart(binary, shape(nodes)).await?;
        for size in SIZES {
            system.create_group(&group(size)).await?;
        }
        let began = Instant::now();
        let mut credentials = system.credentials(most).await?;
        let folder = tempfile::tempdir()?;
        let mut crowds = Vec::new();
        for (node, door) in system.tcp_doors()?.into_iter().enumerate() {
            let before = node * PER_NODE;
            let rest = credentials.split_off(credentials.len().min(PER_NODE));
            let own = std::mem::replace(&mut credentials, rest);
            let of_size = |size: usize| (group(size), size.saturating_sub(before).min(own.len()));
            let groups = SIZES.into_iter().map(of_size).collect();
            let plan = Plan { door, credentials: own, groups };
            crowds.push(Crowd::start(&plan, &folder.path().join(format!("{node}.json")))?);
        }
        let scene = Self { system, crowds, _folder: folder };
        while scene.received().is_none() {
            ensure!(began.elapsed() < LOGIN_PATIENCE, "not all devices came in");
            tokio::time::sleep(LOOK).await;
        }
        eprintln!("growth: {most} devices on {nodes} nodes after {:.0?}", began.elapsed());
        Ok(scene)
    }

    /// Deliveries so far; nothing before all are in.
    fn received(&self) -> Option<u64> {
        let mut all = 0;
        for crowd in &self.crowds {
            all += Some(crowd.received.load(Ordering::Relaxed)).filter(|it| *it != u64::MAX)?;
        }
        Some(all)
    }

    async fn until(&self, received: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let now = self.received().context("a crowd is gone")?;
            if now >= received {
                return Ok(());
            }
            ensure!(began.elapsed() < DELIVERY_PATIENCE, "{now} of {received} deliveries came");
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn multicast(&self, wanted: &Bench, size: usize) -> anyhow::Result<()> {
        let body = payload(wanted.payload, stamp::now(), 0);
        let answer = self.system.multicast(&group(size), body).await?;
        ensure!(
            answer.members == size as u64 && answer.dropped == 0,
            "a multicast reached {} of {size} members and dropped {}",
            answer.members,
            answer.dropped
        );
        Ok(())
    }

    /// CPU-seconds per million deliveries, by part.
    async fn measure(&self, wanted: &Bench, size: usize) -> anyhow::Result<Parts> {
        let members = size as u64;
        let warm = self.received().context("a crowd is gone")?;
        self.multicast(wanted, size).await?;
        self.until(warm + members).await?;
        let rounds = (RATE * u64::from(wanted.seconds)).div_ceil(members).max(2);
        let (before, cpu) = (warm + members, self.system.cpu_seconds()?);
        let mut pace = tokio::time::interval(Duration::from_secs(1) * size as u32 / RATE as u32);
        for _ in 0..rounds {
            pace.tick().await;
            self.multicast(wanted, size).await?;
        }
        self.until(before + rounds * members).await?;
        let mut used = self.system.cpu_seconds()?;
        for (part, used) in &mut used {
            *used = (*used - cpu[part]) * 1e6 / (rounds * members) as f64;
        }
        Ok(used)
    }
}

fn group(size: usize) -> String {
    format!("growth-{size}")
}

/// The larger groups beside the smallest.
pub(super) async fn rows(wanted: &Bench, binary: &Path) -> anyhow::Result<Vec<Row>> {
    let scene = Scene::start(binary).await?;
    let mut all = [(); SIZES.len()].map(|()| Repeats::default());
    let mut ratios = [(); SIZES.len()].map(|()| Repeats::default());
    let mut parts = [(); SIZES.len()].map(|()| BTreeMap::<String, Repeats>::new());
    for repeat in 1..=wanted.repeats {
        let mut least = None;
        for (number, size) in SIZES.into_iter().enumerate() {
            let cpu = scene.measure(wanted, size).await?;
            let sum: f64 = cpu.values().sum();
            eprintln!(
                "growth {repeat}/{}: {size} members {sum:.2} CPU-s per million {cpu:.2?}",
                wanted.repeats
            );
            all[number].add(sum);
            ratios[number].add(sum / *least.get_or_insert(sum));
            for (part, used) in cpu {
                parts[number].entry(part.to_owned()).or_default().add(used);
            }
        }
    }
    let smallest = all[0].clone();
    let rows = SIZES.into_iter().zip(all).zip(ratios).zip(parts).skip(1);
    Ok(rows
        .map(|(((size, each), ratio), parts)| {
            let what = format!("multicast to {size}, beside one to {} on one node", SIZES[0]);
            let mut row = Row::beside(what, super::PER_MILLION, each, smallest.clone(), ratio);
            row.parts = parts;
            row.to_reach(Bound::RatioAtMost(1.2), "")
        })
        .collect())
}
