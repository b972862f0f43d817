//! As many devices as this machine carries: access and device processes by the dozen, one Redis, two
//! routers; heartbeats, requests, unicasts, stored pushes and multicasts at work; and what each part costs.

mod coming;
mod held;
mod kernel;
mod limits;
mod load;
mod moment;
mod report;
mod wanted;

use crate::crowd::Told;
use crate::faults::cluster::{Cluster, Service, Shape, Timers};
use crate::faults::crowds::{Crowds, Wanted};
use crate::office::{Echo, Office};
use crate::process;
use crate::stop::{INTERRUPTED, Stop};
use crate::system;
use anyhow::Context;
use hawser_loadtest::costs::{self, Measured, Window};
use hawser_loadtest::redis::Redis;
use hawser_loadtest::report::Machine;
use held::Held;
use kernel::Settings;
use limits::Limits;
use load::{Counts, Load, Rates};
use moment::Moment;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub(crate) use wanted::Hold;

const GROUP: &str = "all";
/// Of the descriptors of a process these are for everything that is no device.
const DESCRIPTORS_APART: u64 = 1_000;
/// More that log in at once are served no sooner.
const UNDER_WAY_MAX: usize = 2_000;
/// Ahead of whoever has the usual priority, 0, or less.
const FIRST: i32 = -10;
/// Work runs for so long before it is measured, and what is under way at its end has so long.
const SETTLING: Duration = Duration::from_secs(3);
/// With nobody there, and with everybody and nothing but heartbeats.
const EMPTY_FOR: Duration = Duration::from_secs(5);
const QUIET_FOR: Duration = Duration::from_secs(30);

/// Holds them, and prints what it took. Ends with 0 when all of them were held and none was lost.
pub(crate) async fn run(wanted: &Hold) -> anyhow::Result<ExitCode> {
    let most = rlimit::increase_nofile_limit(u64::MAX).context("no descriptor limit")?;
    let fits = usize::try_from(most.saturating_sub(DESCRIPTORS_APART)).unwrap_or(usize::MAX);
    let per_process = wanted.per_process.unwrap_or(fits).clamp(1, fits.max(1));
    let processes = wanted.devices.div_ceil(per_process);
    println!(
        "{} devices over {processes} access nodes and as many device processes, {per_process} each at \
         most: a process may have {most} descriptors",
        wanted.devices
    );
    let _settings = Settings::require(wanted.devices, !wanted.leave_kernel);
    let binary = system::binary(wanted.hawser.as_deref())?;
    let place = match &wanted.keep {
        Some(folder) => std::path::absolute(folder)?.join("hold"),
        None => std::env::temp_dir().join(format!("hawser-hold-{}", std::process::id())),
    };
    if place.exists() {
        // What an earlier run left in the store would have to be loaded first.
        std::fs::remove_dir_all(&place)?;
    }
    std::fs::create_dir_all(&place)?;
    let (mut stop, mut windows) = (Stop::listen()?, Vec::new());
    let held = stop.or(hold(wanted, &binary, &place, processes, &mut windows)).await;
    if wanted.keep.is_none() && !matches!(held, Some(Err(_))) {
        std::fs::remove_dir_all(&place)?;
    } else {
        println!("logs: {}", place.display());
    }
    let Some(held) = held else {
        report::cpu(&windows);
        println!("interrupted: only these times were measured, and nothing is kept");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    Ok(if held? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn hold(
    wanted: &Hold,
    binary: &Path,
    place: &Path,
    processes: usize,
    windows: &mut Vec<Window>,
) -> anyhow::Result<bool> {
    let persists = ["--appendonly", "yes", "--appendfsync", "everysec"];
    let redis = Redis::start(&place.join("redis"), &persists)?;
    let store = format!("redis://{}", redis.address);
    let timers = Timers { heartbeat: wanted.heartbeat(), idle: wanted.idle(), ..Timers::FULL };
    let mut shape = Shape::sized(&store, timers, wanted.routers.max(1), processes);
    shape.accepts_per_second = wanted.logins_per_second.max(1_500);
    shape.workers = wanted.workers;
    let office = Office::open(None, Echo).await?;
    shape.endpoints = vec![office.endpoint()];
    let cluster = Cluster::start(binary, place, shape).await?;
    put_first(&cluster, &redis);
    load::create_group(&cluster, GROUP).await?;
    let limits = Limits::now();
    // What is allocated once is not a connection's.
    tokio::time::sleep(SETTLING).await;
    let begun = Moment::of(&cluster, &redis, None)?;
    tokio::time::sleep(EMPTY_FOR).await;
    let empty = Moment::of(&cluster, &redis, None)?;
    windows.push(begun.until(&empty, costs::EMPTY, costs::Work::default()));

    let ask_while = place.join("devices-ask");
    let mut plan = Wanted::new(&cluster.control, "h", wanted.devices);
    plan.processes = processes;
    plan.logins_per_second = wanted.logins_per_second;
    plan.heartbeat = wanted.heartbeat();
    plan.nodes = cluster.doors.iter().map(|door| door.tcp).collect();
    (plan.group, plan.group_every) = (Some(GROUP.to_owned()), wanted.group_every);
    plan.requests_per_second = wanted.requests;
    plan.ask_while = Some(ask_while.clone());
    plan.tick = wanted.tick_ms.map(Duration::from_millis);
    // A process of devices for each node: what is sent together arrives together.
    plan.one_node = true;
    plan.sources = true;
    (plan.come_back, plan.forget) = (true, true);
    // Filling it is not what is measured: a moment's slowness must not become a storm.
    plan.under_way_max = Some(UNDER_WAY_MAX);
    let mut site = Site { wanted, cluster, redis, crowds: Crowds::start(plan)?, ask_while };
    let filling = site.moment()?;
    let coming = coming::come_in(wanted, &mut site.crowds).await?;
    let filled = site.moment()?;
    windows.push(filling.until(&filled, costs::FILL, moment::work(&coming.told, 0)));
    println!("{} are in; held quietly for {} s", coming.told.online, QUIET_FOR.as_secs());
    let quiet = site.crowds.during(QUIET_FOR).await?;
    let full = site.moment()?;
    windows.push(filled.until(&full, costs::QUIET, moment::work(&quiet, 0)));
    let mut whole = coming.told.clone();
    whole.merge(&quiet);

    let mut misses = coming.misses(wanted);
    let mut delays = Vec::new();
    if misses.is_empty() {
        for (name, rates) in wanted.apart() {
            let phase = site.phase(name, rates, wanted.apart).await?;
            whole.merge(&phase.told);
            windows.push(phase.window);
        }
        let everything = site.phase(costs::EVERYTHING, wanted.rates(), wanted.seconds).await?;
        whole.merge(&everything.told);
        windows.push(everything.window);
        let presence = load::presence(&site.cluster, wanted.devices).await?;
        let (at_work, told, counts) = (everything.at_work, everything.told, everything.counts);
        delays = report::delays(&whole, &told);
        let held = Held { wanted, at_work, told, whole, counts, presence };
        held.say();
        misses = held.misses();
    }
    let ended = site.moment()?;
    let mut stood =
        limits::of_machine(ended.kernel.available, windows.last().map_or(0.0, |it| it.busy));
    stood.extend(Limits::now().since(&limits));
    drop(office);
    let routers = wanted.routers.max(1) as u64;
    let held = coming.told.online;
    let per_device = 1.0 / held.max(1) as f64;
    let measured = Measured {
        unix_time: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs(),
        machine: Machine::here(),
        wanted: wanted.devices as u64,
        held,
        access_nodes: processes as u64,
        routers,
        heartbeat_ms: wanted.heartbeat_ms,
        base_bytes: empty.bytes(),
        connection_bytes: (full.bytes() - empty.bytes()) * per_device,
        kernel_bytes: full.kernel.bytes_since(&empty.kernel) * per_device,
        windows: std::mem::take(windows),
        delays: delays.into_iter().collect(),
        misses,
        limits: stood,
    };
    report::print(&measured, &empty, &full);
    if let Some(folder) = &wanted.results {
        hawser_loadtest::report::keep_as("hold", measured.unix_time, &measured, folder)?;
    }
    for limit in &measured.limits {
        println!("in the way: {limit}");
    }
    if measured.misses.is_empty() {
        println!("held");
    } else {
        println!("NOT held: {}", measured.misses.join("; "));
    }
    Ok(measured.misses.is_empty())
}

/// What all nodes wait for goes first on cores that all share, as it would on machines of its own.
fn put_first(cluster: &Cluster, redis: &Redis) {
    let first = cluster.services().filter(|it| !matches!(it, Service::Access(_)));
    let ids = first.filter_map(|it| Some(cluster.process(it)?.0)).chain(redis.id());
    for id in ids {
        if let Err(why) = process::prioritize(id, FIRST) {
            println!("process {id} shares cores with all others, which may starve it: {why}");
        }
    }
}

/// Everything that runs.
struct Site<'a> {
    wanted: &'a Hold,
    cluster: Cluster,
    redis: Redis,
    crowds: Crowds,
    ask_while: PathBuf,
}

/// A time with one kind of work, or with all.
struct Phase {
    window: Window,
    /// For so long backends were at it, and what came of it from first to last.
    at_work: Duration,
    counts: Counts,
    told: Told,
}

impl Site<'_> {
    fn moment(&self) -> anyhow::Result<Moment> {
        Moment::of(&self.cluster, &self.redis, Some(&self.crowds))
    }

    async fn phase(&mut self, name: &str, rates: Rates, seconds: u64) -> anyhow::Result<Phase> {
        println!("{name}, for {seconds} s");
        let started = Instant::now();
        let load = Load::start(&self.cluster, rates, self.wanted.devices, GROUP, &self.ask_while)?;
        let mut told = self.crowds.during(SETTLING).await?;
        let (began, before) = (self.moment()?, load.counts());
        let mut in_window = Told::default();
        for step in 0..seconds.div_ceil(10) {
            let left = seconds.saturating_sub(step * 10).min(10);
            let more = self.crowds.during(Duration::from_secs(left)).await?;
            println!(
                "  {} online, {} lost, {} pushes ({} stored), {} group pushes, {} answers, {} pongs",
                more.online,
                more.lost,
                more.pushes,
                more.stored,
                more.group_pushes,
                more.answers,
                more.pongs
            );
            in_window.merge(&more);
        }
        let (ended, after) = (self.moment()?, load.counts());
        let work = moment::work(&in_window, after.multicasts - before.multicasts);
        told.merge(&in_window);
        let at_work = started.elapsed();
        let counts = load.stop().await?;
        told.merge(&self.crowds.during(SETTLING).await?);
        Ok(Phase { window: began.until(&ended, name, work), at_work, counts, told })
    }
}
