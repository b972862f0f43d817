//! As many devices as this machine carries: access and device processes by the dozen, one Redis, two
//! routers; heartbeats, requests, unicasts, stored pushes and multicasts at work; and what each part costs.

mod held;
mod kernel;
mod load;

use crate::crowd::Told;
use crate::faults::cluster::{Cluster, Service, Shape, Timers};
use crate::faults::crowds::{Crowds, Wanted};
use crate::process;
use crate::system;
use anyhow::Context;
use comfy_table::Table;
use hawser_loadtest::redis::Redis;
use held::Held;
use kernel::{Kernel, Settings};
use load::{Load, Rates};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const GROUP: &str = "all";
/// Of the descriptors of a process these are for everything that is no device.
const DESCRIPTORS_APART: u64 = 1_000;
const UNDER_WAY_MAX: usize = 2_000;

/// What to hold.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Hold {
    /// Devices, over all processes.
    #[arg(long, default_value_t = 200_000)]
    devices: usize,
    /// Devices of one process, access node or crowd, at the most; default: what its descriptors allow.
    #[arg(long)]
    per_process: Option<usize>,
    #[arg(long, default_value_t = 1_500)]
    logins_per_second: u32,
    #[arg(long, default_value_t = 25_000)]
    heartbeat_ms: u64,
    /// Unicasts a second, volatile.
    #[arg(long, default_value_t = 500)]
    unicasts: u32,
    /// Stored pushes a second.
    #[arg(long, default_value_t = 200)]
    stored: u32,
    /// Multicasts a second, to every hundredth device.
    #[arg(long, default_value_t = 1)]
    multicasts: u32,
    #[arg(long, default_value_t = 100)]
    group_every: usize,
    /// Requests a second, over all devices.
    #[arg(long, default_value_t = 200)]
    requests: u32,
    /// Seconds for which they are held with everything at work.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// The hawser binary; default: the one beside this program.
    #[arg(long, env = "HAWSER_BIN")]
    hawser: Option<PathBuf>,
    /// Folder for logs.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Do not touch the kernel's settings, also where they are too small.
    #[arg(long)]
    leave_kernel: bool,
}

/// Memory and CPU of one kind of process.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    processes: usize,
    resident: f64,
    cpu: f64,
}

impl Part {
    fn of(ids: impl IntoIterator<Item = u32>) -> Self {
        let mut all = Self::default();
        for id in ids {
            all.processes += 1;
            all.resident += process::resident_bytes(id).unwrap_or_default() as f64;
            all.cpu += process::cpu_seconds(id).unwrap_or_default();
        }
        all
    }
}

/// All parts at one time.
struct Moment {
    at: Instant,
    access: Part,
    routers: Part,
    control: Part,
    crowds: Part,
    redis: f64,
    redis_cpu: f64,
    kernel: Kernel,
}

impl Moment {
    fn of(cluster: &Cluster, redis: &Redis, crowds: Option<&Crowds>) -> anyhow::Result<Self> {
        let ids = |wanted: fn(&Service) -> bool| -> Vec<u32> {
            let of = cluster.services().filter(wanted);
            of.filter_map(|service| Some(cluster.process(service)?.0)).collect()
        };
        Ok(Self {
            at: Instant::now(),
            access: Part::of(ids(|it| matches!(it, Service::Access(_)))),
            routers: Part::of(ids(|it| matches!(it, Service::Router(_)))),
            control: Part::of(ids(|it| matches!(it, Service::Control))),
            crowds: Part::of(crowds.map(Crowds::ids).unwrap_or_default()),
            redis: redis.memory_bytes()?,
            redis_cpu: redis.cpu_seconds()?,
            kernel: Kernel::now(),
        })
    }
}

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
    let held = tokio::select! {
        held = hold(wanted, &binary, &place, processes) => held,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("stopped")),
    };
    if wanted.keep.is_none() && held.is_ok() {
        std::fs::remove_dir_all(&place)?;
    } else {
        println!("logs: {}", place.display());
    }
    Ok(if held? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn hold(
    wanted: &Hold,
    binary: &std::path::Path,
    place: &std::path::Path,
    processes: usize,
) -> anyhow::Result<bool> {
    let persists = ["--appendonly", "yes", "--appendfsync", "everysec"];
    let redis = Redis::start(&place.join("redis"), &persists)?;
    let store = format!("redis://{}", redis.address);
    let heartbeat = Duration::from_millis(wanted.heartbeat_ms);
    let timers = Timers { heartbeat, idle: heartbeat * 7 / 5, ..Timers::FULL };
    let mut shape = Shape::sized(&store, timers, 2, processes);
    shape.accepts_per_second = wanted.logins_per_second.max(1_500);
    let office = load::office(&mut shape, place).await?;
    let cluster = Cluster::start(binary, place, shape).await?;
    load::create_group(&cluster, GROUP).await?;
    // What is allocated once is not a connection's.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let empty = Moment::of(&cluster, &redis, None)?;

    let mut plan = Wanted::new(&cluster.control, "h", wanted.devices);
    plan.processes = processes;
    plan.logins_per_second = wanted.logins_per_second;
    plan.heartbeat = heartbeat;
    plan.nodes = cluster.doors.iter().map(|door| door.tcp).collect();
    (plan.group, plan.group_every) = (Some(GROUP.to_owned()), wanted.group_every);
    plan.requests_per_second = wanted.requests;
    plan.sources = true;
    (plan.come_back, plan.forget) = (true, true);
    // Filling it is not what is measured: a moment's slowness must not become a storm.
    plan.under_way_max = Some(UNDER_WAY_MAX);
    let mut crowds = Crowds::start(plan)?;
    let coming = come_in(wanted, &mut crowds).await?;
    let idle_from = Moment::of(&cluster, &redis, Some(&crowds))?;
    println!("all in; held quietly for 30 s, then with everything at work");
    let quiet = crowds.during(Duration::from_secs(30)).await?;
    let full = Moment::of(&cluster, &redis, Some(&crowds))?;

    let rates = Rates {
        devices: wanted.devices,
        unicasts: wanted.unicasts,
        stored: wanted.stored,
        multicasts: wanted.multicasts,
    };
    let load = Load::start(&cluster, rates, GROUP)?;
    let mut told = Told::default();
    let (began, started) = (Moment::of(&cluster, &redis, Some(&crowds))?, Instant::now());
    for _ in 0..wanted.seconds.div_ceil(10) {
        let more = crowds.during(Duration::from_secs(10)).await?;
        println!(
            "  {} online, {} lost, {} pushes ({} stored), {} group pushes, {} pongs",
            more.online, more.lost, more.pushes, more.stored, more.group_pushes, more.pongs
        );
        told.merge(&more);
    }
    let at_work = started.elapsed();
    let counts = load.stop().await?;
    told.merge(&crowds.during(Duration::from_secs(3)).await?);
    let ended = Moment::of(&cluster, &redis, Some(&crowds))?;
    let presence = load::presence(&cluster, wanted.devices).await?;
    drop(office);
    report(wanted, &coming, &empty, &full, &[(&idle_from, &full), (&began, &ended)]);
    let mut whole = coming;
    whole.merge(&quiet);
    whole.merge(&told);
    let held = Held { wanted, at_work, told, whole, counts, presence };
    held.say();
    let misses = held.misses();
    if misses.is_empty() {
        println!("held");
    } else {
        println!("NOT held: {}", misses.join("; "));
    }
    Ok(misses.is_empty())
}

/// One part of a moment.
type Pick = fn(&Moment) -> Part;

/// Waits until all are online.
async fn come_in(wanted: &Hold, crowds: &mut Crowds) -> anyhow::Result<Told> {
    let started = Instant::now();
    let seconds = wanted.devices as u64 / u64::from(wanted.logins_per_second.max(1));
    let patience = Duration::from_secs(4 * seconds + 120);
    let mut all = Told::default();
    loop {
        all.merge(&crowds.during(Duration::from_secs(5)).await?);
        println!(
            "  {:>4.0} s: {} online, {} members, login {}, lost {}, late {}, refused {:?}",
            started.elapsed().as_secs_f64(),
            all.online,
            all.members,
            all.login_delay,
            all.lost,
            all.late,
            all.refused
        );
        if all.online == wanted.devices as u64 {
            println!("{} logins in {:.0} s", all.logins, started.elapsed().as_secs_f64());
            return Ok(all);
        }
        anyhow::ensure!(
            started.elapsed() < patience && all.gone == 0,
            "{} of {} are online after {:.0?}, {} are gone for good: what stands in the way is above",
            all.online,
            wanted.devices,
            started.elapsed(),
            all.gone
        );
    }
}

fn report(
    wanted: &Hold,
    coming: &Told,
    empty: &Moment,
    full: &Moment,
    windows: &[(&Moment, &Moment); 2],
) {
    let each = |before: f64, after: f64| (after - before) / wanted.devices as f64;
    let [idle, busy] = windows;
    let mut table = Table::new();
    table.set_header([
        "part",
        "processes",
        "bytes a connection",
        "in all",
        "cores idle",
        "cores at work",
    ]);
    let cores = |window: &(&Moment, &Moment), cpu: fn(&Moment) -> f64| {
        let time = window.1.at.duration_since(window.0.at).as_secs_f64();
        format!("{:.2}", (cpu(window.1) - cpu(window.0)) / time)
    };
    let mebibytes = |bytes: f64| format!("{:.0} MiB", bytes / 1_048_576.0);
    let mut sum = 0.0;
    let parts: [(&str, Pick); 4] = [
        ("access nodes", |it| it.access),
        ("routers", |it| it.routers),
        ("control", |it| it.control),
        ("device processes", |it| it.crowds),
    ];
    for (name, part) in parts {
        let of = part(full);
        let bytes = each(part(empty).resident, of.resident);
        sum += bytes;
        let cpu = |window: &(&Moment, &Moment)| {
            let time = window.1.at.duration_since(window.0.at).as_secs_f64();
            format!("{:.2}", (part(window.1).cpu - part(window.0).cpu) / time)
        };
        table.add_row([
            name.to_owned(),
            of.processes.to_string(),
            format!("{bytes:.0}"),
            mebibytes(of.resident),
            cpu(idle),
            cpu(busy),
        ]);
    }
    let redis = each(empty.redis, full.redis);
    let slab = each(empty.kernel.slab, full.kernel.slab);
    let buffers = each(empty.kernel.buffers, full.kernel.buffers);
    sum += redis + slab + buffers;
    for (name, bytes, all) in [
        ("redis (its data)", redis, full.redis),
        ("kernel, objects (both ends)", slab, full.kernel.slab),
        ("kernel, TCP buffers", buffers, full.kernel.buffers),
    ] {
        let is_redis = name.starts_with("redis");
        table.add_row([
            name.to_owned(),
            if is_redis { "1".to_owned() } else { "-".to_owned() },
            format!("{bytes:.0}"),
            mebibytes(all),
            if is_redis { cores(idle, |it| it.redis_cpu) } else { "-".to_owned() },
            if is_redis { cores(busy, |it| it.redis_cpu) } else { "-".to_owned() },
        ]);
    }
    table.add_row([
        "sum".to_owned(),
        "-".to_owned(),
        format!("{sum:.0}"),
        String::new(),
        String::new(),
        String::new(),
    ]);
    println!("{table}");
    println!(
        "kernel objects and buffers count both ends of each connection, as both are on this machine: a node \
         alone has about half of them"
    );
    println!(
        "kernel objects by kind, bytes a connection: {}",
        full.kernel.by_kind(&empty.kernel, wanted.devices)
    );
    let taken = empty.kernel.available - full.kernel.available;
    println!(
        "memory that was available: {} before, {} after: {:.0} bytes a connection, everything counted",
        mebibytes(empty.kernel.available),
        mebibytes(full.kernel.available),
        taken / wanted.devices as f64
    );
    let room = full.kernel.available / (taken / wanted.devices as f64).max(1.0);
    println!(
        "what is left would hold {room:.0} more by memory; machine busy {:.0} % idle, {:.0} % at work",
        full.kernel.busy(&idle.0.kernel) * 100.0,
        busy.1.kernel.busy(&busy.0.kernel) * 100.0
    );
    println!("logins: {}, refused {:?}, late {}", coming.login_delay, coming.refused, coming.late);
}
