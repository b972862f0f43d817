//! One row's stage: a cluster, device processes that are kept alive, backends that push, and their
//! histories; and how it ends.

use super::cluster::{Cluster, Service};
use super::devices::{Keeper, Plan, Point};
use super::history::{History, now};
use super::pushes::{Backends, Count, Load};
use crate::Faults;
use anyhow::{Context, ensure};
use hawser_loadtest::judge::{self, Event, Kind, Options, Verdict};
use hawser_proto::rpc::push::Durability;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// After a row has healed, everything must have arrived within this.
const ARRIVAL_PATIENCE: Duration = Duration::from_mins(1);
/// What is missing by then, and no less than before, is not on its way any more.
const STANDSTILL: Duration = Duration::from_secs(15);
/// How often it is looked whether a device process still runs, and whether all has arrived.
const LOOK: Duration = Duration::from_millis(100);

/// How a row wants its devices.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Devices {
    pub(super) die: Option<(Point, u32)>,
    pub(super) moves: Option<(Duration, Duration)>,
}

/// The stage.
pub(super) struct Scene {
    pub(super) cluster: Cluster,
    pub(super) faults: Arc<History>,
    folder: PathBuf,
    keepers: Vec<Keeper>,
    backends: Backends,
    /// When the fault was healed, on the histories' clock.
    healed: Option<u64>,
    logins_before: f64,
}

/// How a row ended.
pub(super) struct Done {
    pub(super) verdict: Verdict,
    pub(super) figure: String,
    pub(super) shortfall: Option<String>,
}

impl Done {
    /// The four zeros, as a line.
    pub(super) fn zeros(&self) -> String {
        let zeros = self.verdict.zeros();
        let others = self.verdict.convictions.len();
        let line = format!(
            "{} / {} / {} / {}",
            zeros.lost, zeros.wrong_device, zeros.duplicates, zeros.cross_tenant
        );
        if self.verdict.is_clean() { line } else { format!("{line} ({others} convictions)") }
    }
}

impl Scene {
    /// Starts everything and warms up: each device has been handed something.
    pub(super) async fn start(
        wanted: &Faults,
        binary: &Path,
        folder: &Path,
        store: &str,
        durabilities: &[Durability],
        devices: Devices,
    ) -> anyhow::Result<Self> {
        let (cluster, keys) = Cluster::start(binary, folder, store).await?;
        let names: Vec<String> = (0..wanted.devices).map(|n| format!("d-{n}")).collect();
        let processes = wanted.processes.clamp(1, wanted.devices.max(1));
        let mut keepers = Vec::new();
        for number in 0..processes {
            let own = names.iter().skip(number).step_by(processes).cloned().collect();
            let plan = Plan {
                control: cluster.control.clone(),
                devices: own,
                folder: folder.to_owned(),
                die: devices.die,
                moves: devices.moves,
                seed: wanted.seed.wrapping_mul(1_000).wrapping_add(number as u64),
            };
            let mut keeper = Keeper::new(plan, number);
            keeper.keep(false)?;
            keepers.push(keeper);
        }
        let faults = Arc::new(History::open(&folder.join("harness.jsonl"))?);
        let load = Load {
            push: cluster.push.clone(),
            keys,
            devices: names,
            per_second: wanted.rate,
            durabilities: durabilities.to_vec(),
            prefix: "p".to_owned(),
            seed: wanted.seed,
        };
        let backends = Backends::start(load, faults.clone())?;
        let folder = folder.to_owned();
        let mut scene =
            Self { cluster, faults, folder, keepers, backends, healed: None, logins_before: 0.0 };
        scene.pass(Duration::from_secs(3), false).await?;
        ensure!(
            scene.backends.count.stored.load(Ordering::Relaxed) > 0,
            "nothing could be stored in the first seconds: see the logs in {}",
            scene.folder.display()
        );
        scene.logins_before = scene.logins().await;
        Ok(scene)
    }

    /// Lets time go by with everything at work. `die`: device processes may kill themselves.
    pub(super) async fn pass(&mut self, time: Duration, die: bool) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            for keeper in &mut self.keepers {
                keeper.keep(die)?;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Kills all device processes; [`Scene::pass`] starts them again.
    pub(super) fn kill_devices(&mut self) {
        self.keepers.iter_mut().for_each(Keeper::kill);
    }

    /// Device processes that were started, all in all.
    pub(super) fn lives(&self) -> u64 {
        self.keepers.iter().map(Keeper::lives).sum()
    }

    /// A fault begins.
    pub(super) fn fault(&self, name: &str) {
        self.faults.write(Event { fault: name.to_owned(), ..Event::new(0, Kind::FaultOn) });
    }

    /// The store may have lost what it took since then, at this durability and below.
    pub(super) fn store_back(&self, since: u64, durability: judge::Durability) {
        self.faults.write(Event {
            fault: "store_back".to_owned(),
            since,
            durability: Some(durability),
            ..Event::new(0, Kind::FaultOn)
        });
    }

    /// The fault is over: from here on, time is taken.
    pub(super) fn healed(&mut self) {
        self.healed = Some(now());
        self.faults.write(Event::new(0, Kind::FaultOff));
    }

    /// Logins taken by both access nodes; a node that is down or new counts from 0.
    async fn logins(&self) -> f64 {
        let mut sum = 0.0;
        for number in 0..2 {
            let name = "hawser_access_logins_total";
            sum += self.cluster.metric(Service::Access(number), name).await.unwrap_or(0.0);
        }
        sum
    }

    /// Logins since the warm-up: each is a connection that was lost before.
    pub(super) async fn logins_since(&self) -> f64 {
        self.logins().await - self.logins_before
    }

    /// Ends the load, waits until all that was stored has been handed over, stops the devices and asks
    /// the judge. `figure` and `shortfall` are for the row to fill in.
    pub(super) async fn end(mut self) -> anyhow::Result<(Done, Arrivals)> {
        let healed = self.healed.unwrap_or_else(now);
        let stop = Box::pin(self.backends.stop());
        let count = {
            tokio::pin!(stop);
            loop {
                tokio::select! {
                    count = &mut stop => break count?,
                    () = tokio::time::sleep(LOOK) => {}
                }
                for keeper in &mut self.keepers {
                    keeper.keep(false)?;
                }
            }
        };
        let started = Instant::now();
        let mut arrivals;
        let (mut least, mut moved) = (usize::MAX, started);
        loop {
            for keeper in &mut self.keepers {
                keeper.keep(false)?;
            }
            let events = gather(&self.folder, &self.keepers)?;
            arrivals = Arrivals::of(&events, healed);
            if arrivals.missing < least {
                (least, moved) = (arrivals.missing, Instant::now());
            }
            let is_still = moved.elapsed() > STANDSTILL;
            if arrivals.missing == 0 || is_still || started.elapsed() > ARRIVAL_PATIENCE {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // What was handled last is acknowledged a moment later.
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.keepers.iter_mut().for_each(Keeper::kill);
        let events = gather(&self.folder, &self.keepers)?;
        let verdict = judge::judge(&events, Options::default());
        std::fs::write(self.folder.join("verdict.txt"), verdict.to_string())?;
        arrivals.counted(&count);
        let done = Done { verdict, figure: arrivals.to_string(), shortfall: None };
        Ok((done, arrivals))
    }
}

fn gather(folder: &Path, keepers: &[Keeper]) -> anyhow::Result<Vec<Event>> {
    let mut files = vec![folder.join("harness.jsonl")];
    files.extend(keepers.iter().map(Keeper::history).filter(|file| file.exists()));
    let histories: anyhow::Result<Vec<_>> = files.iter().map(|file| judge::read(file)).collect();
    Ok(judge::merge(histories.context("a history cannot be read")?))
}

/// What arrived, and when.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    pub(super) acknowledged: usize,
    pub(super) missing: usize,
    /// From being answered, or the healing if that was later, to the app; in milliseconds, sorted.
    delays_ms: Vec<u64>,
    redelivered: usize,
    /// Words to apps that something is or may be lost.
    declared: usize,
    tries: u64,
    unknown: u64,
}

impl Arrivals {
    fn of(events: &[Event], healed: u64) -> Self {
        let mut answered: HashMap<&str, u64> = HashMap::new();
        let mut arrived: HashMap<&str, u64> = HashMap::new();
        let (mut redelivered, mut declared) = (0, 0);
        for event in events {
            match event.kind {
                Kind::PushOk => drop(answered.entry(&event.push).or_insert(event.t)),
                Kind::RecvApp => {
                    redelivered += usize::from(event.redelivered);
                    arrived.entry(&event.push).or_insert(event.t);
                }
                Kind::Gap | Kind::TermChanged => declared += 1,
                _ => {}
            }
        }
        let mut delays_ms = Vec::new();
        let mut missing = 0;
        for (push, answered) in &answered {
            match arrived.get(push) {
                // Only what the fault held up tells how fast it was over.
                Some(arrived) if *arrived >= healed => {
                    let since = healed.max(*answered);
                    delays_ms.push(arrived.saturating_sub(since) / 1_000_000);
                }
                Some(_) => {}
                None => missing += 1,
            }
        }
        delays_ms.sort_unstable();
        let acknowledged = answered.len();
        Self { acknowledged, missing, delays_ms, redelivered, declared, ..Self::default() }
    }

    fn counted(&mut self, count: &Count) {
        self.tries = count.tries.load(Ordering::Relaxed);
        self.unknown = count.unknown.load(Ordering::Relaxed);
    }

    /// The 99th percentile of what arrived after the healing, in milliseconds.
    pub(super) fn p99_ms(&self) -> u64 {
        let at = (self.delays_ms.len() * 99 / 100).min(self.delays_ms.len().saturating_sub(1));
        self.delays_ms.get(at).copied().unwrap_or(0)
    }
}

impl std::fmt::Display for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} stored in {} tries, {} unknown, {} not arrived, {} redelivered, {} words of loss; \
             after healing p99 {} ms",
            self.acknowledged,
            self.tries,
            self.unknown,
            self.missing,
            self.redelivered,
            self.declared,
            self.p99_ms()
        )
    }
}
