//! One row's stage: a cluster, device processes that are kept alive, businesses, backends that push, and
//! their histories; and how it ends.

use super::arrivals::Arrivals;
use super::businesses::Branch;
use super::certificate;
use super::cluster::{BUSINESSES, Cluster, Shape};
use super::devices::{Keeper, Plan, Point};
use super::done::Done;
use super::history::{History, now};
use super::leaks::Holdings;
use super::links::Links;
use super::probe;
use super::pushes::{Backends, Load};
use super::requests::Requests;
use crate::Faults;
use anyhow::{Context, ensure};
use hawser_loadtest::judge::{self, Event, Kind, Options};
use hawser_proto::rpc::push::{Durability, InboxRequest};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// After a row has healed, everything must have arrived within this.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(90);
/// What is missing by then, and no less than before, is not on its way any more. Longer than a device needs to
/// find out that its link is dead and to be back: nothing tells it over QUIC that its node is gone; it hears so
/// little from it as from one that has nothing to say, until a heartbeat stays without an answer (25 s, and 10 s
/// for the answer).
const STANDSTILL: Duration = Duration::from_secs(45);
/// How often it is looked whether a device process still runs, and whether all has arrived.
const LOOK: Duration = Duration::from_millis(100);
/// Device processes with more devices keep their cursors in memory that outlives them: a sync each would
/// measure the disk.
const DEVICES_ON_DISK_MAX: usize = 500;
/// Devices beside a crowd, and stored pushes to them a second: few enough not to be felt.
const BESIDE_DEVICES: usize = 24;
const BESIDE_RATE: u32 = 40;
/// Devices start at this rate.
const STARTS_PER_SECOND: usize = 300;

/// What a row wants on its stage.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    pub(super) shape: Shape,
    pub(super) devices: usize,
    pub(super) processes: usize,
    /// Stored pushes a second, and how they are to be kept.
    pub(super) rate: u32,
    pub(super) durabilities: Vec<Durability>,
    /// Requests of all devices a second.
    pub(super) requests: u32,
    pub(super) die: Option<(Point, u32)>,
    pub(super) moves: Option<(Duration, Duration)>,
    pub(super) torn: bool,
    /// A group that all devices are in.
    pub(super) join: Option<String>,
}

/// The stage.
pub(super) struct Scene {
    pub(super) cluster: Cluster,
    pub(super) faults: Arc<History>,
    pub(super) offices: Vec<Branch>,
    pub(super) devices: Vec<String>,
    /// When the warm-up was over.
    pub(super) begun: u64,
    folder: PathBuf,
    keepers: Vec<Keeper>,
    /// Behind the keepers: their processes end before it goes.
    _state: State,
    backends: Backends,
    before: Holdings,
    /// What is in it of memory is from the first of two rounds.
    is_second_round: bool,
    /// When the fault was healed, on the histories' clock.
    healed: Option<u64>,
    logins_before: f64,
    timers: String,
}

impl Scene {
    /// A few devices with stored pushes, to stand beside a row's own crowd: what befalls the crowd must not
    /// take anything from them, and [`Scene::end`] has it judged. A row need not call [`Scene::pass`] for
    /// them; it ends its crowd before it ends the scene, since what a crowd holds would be a leak.
    pub(super) async fn beside(
        wanted: &Faults,
        binary: &Path,
        folder: &Path,
        shape: Shape,
    ) -> anyhow::Result<Self> {
        let staging = Staging {
            shape,
            devices: BESIDE_DEVICES,
            processes: 2,
            rate: BESIDE_RATE,
            durabilities: vec![Durability::Memory, Durability::Disk],
            requests: 0,
            die: None,
            moves: None,
            torn: false,
            join: None,
        };
        Self::start(wanted, binary, folder, staging).await
    }

    /// Starts everything and warms up: each device is connected, and something was handed over.
    pub(super) async fn start(
        wanted: &Faults,
        binary: &Path,
        folder: &Path,
        staging: Staging,
    ) -> anyhow::Result<Self> {
        let faults = Arc::new(History::open(&folder.join("harness.jsonl"))?);
        let mut offices = Vec::new();
        for number in 0..BUSINESSES.len() {
            offices.push(Branch::open(number, faults.clone()).await?);
        }
        let mut shape = staging.shape.clone();
        let apart = shape.apart;
        shape.endpoints = offices.iter().map(|office| office.endpoint(apart)).collect();
        let cluster = Cluster::start(binary, folder, shape).await?;
        let state = State::make(folder, staging.devices)?;
        let devices: Vec<String> = (0..staging.devices).map(|n| format!("d-{n}")).collect();
        let processes = staging.processes.clamp(1, staging.devices.max(1));
        let over = Duration::from_secs_f64(staging.devices as f64 / STARTS_PER_SECOND as f64);
        let mut keepers = Vec::new();
        for number in 0..processes {
            let own = devices.iter().skip(number).step_by(processes).cloned().collect();
            let plan = Plan {
                control: cluster.control.clone(),
                devices: own,
                folder: folder.to_owned(),
                state: state.folder.clone(),
                die: staging.die,
                moves: staging.moves,
                torn: staging.torn,
                requests_per_second: staging.requests.div_ceil(processes as u32),
                over,
                join: staging.join.clone(),
                trust: staging.shape.secure_doors.then(|| certificate::authority(folder)),
                seed: wanted.seed.wrapping_mul(1_000).wrapping_add(number as u64),
            };
            let mut keeper = Keeper::new(plan, number);
            keeper.keep(false)?;
            keepers.push(keeper);
        }
        let load = Load {
            push: cluster.push_routers(),
            keys: cluster.keys.clone(),
            devices: devices.clone(),
            per_second: staging.rate,
            durabilities: staging.durabilities.clone(),
            prefix: "p".to_owned(),
            seed: wanted.seed,
        };
        let backends = Backends::start(load, faults.clone())?;
        let mut scene = Self {
            timers: cluster.shape.timers.shown(),
            cluster,
            faults,
            offices,
            devices,
            begun: 0,
            folder: folder.to_owned(),
            keepers,
            _state: state,
            backends,
            before: Holdings::default(),
            is_second_round: false,
            healed: None,
            logins_before: 0.0,
        };
        // Devices that move are never all there at once.
        let all = if staging.moves.is_some() { 0 } else { scene.devices.len() };
        scene.warm_up(over, all).await?;
        Ok(scene)
    }

    async fn warm_up(&mut self, over: Duration, all: usize) -> anyhow::Result<()> {
        let started = Instant::now();
        self.pass(Duration::from_secs(3), false).await?;
        let patience = 4 * over + Duration::from_secs(30);
        loop {
            let online = self.links().at(now()).values().filter(|word| word.is_online()).count();
            let stored = self.backends.count.stored.load(Ordering::Relaxed);
            if online >= all && stored > 0 {
                break;
            }
            ensure!(
                started.elapsed() < patience,
                "after {patience:.0?} {online} of {} devices are online and {stored} pushes are \
                 stored: see the logs in {}",
                self.devices.len(),
                self.folder.display()
            );
            self.pass(Duration::from_millis(300), false).await?;
        }
        self.pass(Duration::from_secs(1), false).await?;
        self.before = Holdings::of(&self.cluster).await;
        self.logins_before = self.logins().await;
        self.begun = now();
        Ok(())
    }

    /// Lets time go by with everything at work. `die`: device processes may kill themselves.
    pub(super) async fn pass(&mut self, time: Duration, die: bool) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.keep(die)?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn keep(&mut self, die: bool) -> anyhow::Result<()> {
        self.keepers.iter_mut().try_for_each(|keeper| keeper.keep(die))
    }

    /// Kills all device processes; [`Scene::pass`] starts them again.
    pub(super) fn kill_devices(&mut self) {
        self.keepers.iter_mut().for_each(Keeper::kill);
    }

    /// Kills one device process; returns its devices.
    pub(super) fn kill_process(&mut self, number: usize) -> Vec<String> {
        self.keepers[number].kill();
        self.keepers[number].devices().to_vec()
    }

    /// Device processes that killed themselves at the planned point so far.
    pub(super) fn deaths(&self) -> u64 {
        self.keepers.iter().map(Keeper::deaths).sum()
    }

    /// Tries of stored pushes so far that ended without a position.
    pub(super) fn refusals(&self) -> u64 {
        self.backends.count.failed.load(Ordering::Relaxed)
    }

    /// Whether an inbox can be looked at.
    pub(super) async fn can_read(&self) -> bool {
        let Ok(mut client) = probe::client(&self.cluster.push[0]) else { return false };
        let mut request = tonic::Request::new(InboxRequest { device: self.devices[0].clone() });
        let Ok(key) = probe::bearer(&self.cluster.keys[0]) else { return false };
        request.metadata_mut().insert("authorization", key);
        let asked = client.describe_inbox(request);
        tokio::time::timeout(Duration::from_secs(2), asked).await.is_ok_and(|it| it.is_ok())
    }

    /// The 99th percentile, in milliseconds, of what was due at a healing and has arrived so far.
    pub(super) fn arrivals_after(&self, healed: u64) -> anyhow::Result<u64> {
        Ok(Arrivals::of(&self.events()?, healed).p99_ms())
    }

    /// Every word of the history so far.
    pub(super) fn events(&self) -> anyhow::Result<Vec<Event>> {
        gather(&self.folder, &self.keepers)
    }

    /// When devices were connected, and where.
    pub(super) fn links(&self) -> Links {
        Links::read(self.keepers.iter().map(Keeper::links))
    }

    /// What was heard in groups.
    pub(super) fn heard(&self) -> Links {
        Links::read(self.keepers.iter().map(Keeper::heard))
    }

    /// What became of requests since then.
    pub(super) fn requests(&self, from: u64) -> Requests {
        Requests::read(self.keepers.iter().map(Keeper::requests), from)
    }

    /// Waits until every device is online, and was for a moment.
    pub(super) async fn until_all_online(&mut self, patience: Duration) -> anyhow::Result<bool> {
        let started = Instant::now();
        loop {
            let links = self.links();
            let online = links.at(now()).values().filter(|word| word.is_online()).count();
            if online == self.devices.len() {
                return Ok(true);
            }
            if started.elapsed() > patience {
                return Ok(false);
            }
            self.pass(Duration::from_millis(300), false).await?;
        }
    }

    /// A fault begins.
    pub(super) fn fault(&self, name: &str) -> u64 {
        let t = now();
        self.faults.write(Event { fault: name.to_owned(), ..Event::new(t, Kind::FaultOn) });
        t
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
    pub(super) fn healed(&mut self) -> u64 {
        let t = now();
        self.healed = Some(t);
        self.faults.write(Event::new(t, Kind::FaultOff));
        t
    }

    /// Logins taken by all access nodes; a node that is down or new counts from 0.
    async fn logins(&self) -> f64 {
        self.cluster.access_metric("hawser_access_logins_total").await
    }

    /// Logins since the warm-up: each is a connection that was lost before.
    pub(super) async fn logins_since(&self) -> f64 {
        self.logins().await - self.logins_before
    }

    /// Logins of its own devices since the warm-up, whoever else comes and goes.
    pub(super) fn returns(&self) -> usize {
        self.links().logins(self.begun, u64::MAX).count()
    }

    /// A first round of what makes nodes full is over, and was felt; the same comes again. From here on memory is
    /// compared with what they have now.
    pub(super) async fn was_full_once(&mut self) {
        self.is_second_round |= self.before.had_at_the_most(&self.cluster).await;
    }

    /// Ends the load, waits until all that was stored has been handed over, looks for leaks, stops the
    /// devices and asks the judge.
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
                self.keepers.iter_mut().try_for_each(|keeper| keeper.keep(false))?;
            }
        };
        let started = Instant::now();
        let mut arrivals;
        let (mut least, mut moved) = (usize::MAX, started);
        loop {
            self.keepers.iter_mut().try_for_each(|keeper| keeper.keep(false))?;
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
        let compared = self.before.leaks(&self.cluster).await;
        let down = self.cluster.down();
        let panics = panics(&self.cluster)?;
        let broken: Vec<String> = self.keepers.iter_mut().flat_map(Keeper::broken).collect();
        self.keepers.iter_mut().for_each(Keeper::kill);
        let events = gather(&self.folder, &self.keepers)?;
        let verdict = judge::judge(&events, Options::default());
        std::fs::write(self.folder.join("verdict.txt"), verdict.to_string())?;
        arrivals = Arrivals::of(&events, healed);
        arrivals.counted(&count);
        let mut done = Done::new(verdict, self.timers);
        done.say(arrivals.to_string());
        done.looked_for_leaks(&compared, self.is_second_round);
        done.must(down.is_empty(), format!("not up at the end: {}", down.join("; ")));
        done.must(panics.is_empty(), format!("panics: {}", panics.join("; ")));
        done.must(broken.is_empty(), format!("devices broke: {}", broken.join("; ")));
        let (refused, unknown) = arrivals.without_position();
        done.must(
            refused + unknown == 0,
            format!("{refused} pushes were refused (0), {unknown} without an answer for good (0)"),
        );
        Ok((done, arrivals))
    }
}

/// What panicked, by the logs.
fn panics(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for service in cluster.services() {
        let log = cluster.log(service)?;
        all.extend(
            log.lines()
                .filter(|line| line.contains("panicked at"))
                .map(|it| format!("{service}: {it}")),
        );
    }
    Ok(all)
}

fn gather(folder: &Path, keepers: &[Keeper]) -> anyhow::Result<Vec<Event>> {
    let mut files = vec![folder.join("harness.jsonl")];
    files.extend(keepers.iter().map(Keeper::history).filter(|file| file.exists()));
    let histories: anyhow::Result<Vec<_>> = files.iter().map(|file| judge::read(file)).collect();
    Ok(judge::merge(histories.context("a history cannot be read")?))
}

/// Where device processes keep their cursors; what is in memory goes with its owner.
struct State {
    folder: PathBuf,
    is_in_memory: bool,
}

impl State {
    fn make(folder: &Path, devices: usize) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        if devices <= DEVICES_ON_DISK_MAX || !memory.is_dir() {
            return Ok(Self { folder: folder.to_owned(), is_in_memory: false });
        }
        let name = folder.file_name().context("a row's folder has a name")?;
        let folder = memory.join(format!("hawser-{}-{}", std::process::id(), name.display()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, is_in_memory: true })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.is_in_memory {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
