//! The store on Redis, beside the same script with the same arguments from `redis-benchmark`, and beside
//! it on one plain connection with as much sent at once.

use crate::Wanted;
use crate::load::{BUSINESS, CAPS, DEVICES, Load, now_ms};
use anyhow::{Context, ensure};
use hawser_chassis::peers::Peers;
use hawser_chassis::secret::Secret;
use hawser_loadtest::redis::Redis;
use hawser_loadtest::report::{Repeats, Row};
use hawser_router::stores::{AppendCall, BareScripts, Durability, Store, open_store};
use hawser_router::{Config, StoreConfig};
use prometheus::Registry;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Callers, or clients of `redis-benchmark`, at a time.
const CALLERS: [usize; 2] = [64, 256];
/// Entries for each device when room is measured, and devices that have nothing but a route.
const EACH: u32 = 10;
const IDLE: usize = 100_000;
const PATIENCE: Duration = Duration::from_secs(30);
/// What `redis-benchmark` replaces by twelve digits, each time by others.
const ANY: &str = "__rand_int__";

pub(crate) async fn rows(wanted: &Wanted) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (synced, durability) in [("everysec", Durability::Memory), ("always", Durability::Disk)] {
        for callers in CALLERS {
            rows.extend(appends(wanted, synced, durability, callers).await?);
        }
    }
    rows.extend(room(wanted).await?);
    Ok(rows)
}

/// A server of its own, and a store on it whose inboxes have all been there before.
struct Scene {
    server: Redis,
    load: Load,
    _folder: TempDir,
}

impl Scene {
    async fn new(wanted: &Wanted, synced: &str, durability: Durability) -> anyhow::Result<Self> {
        let folder = wanted.scratch()?;
        let server =
            Redis::start(folder.path(), &["--appendonly", "yes", "--appendfsync", synced])?;
        let store = open(&server).await?;
        let load = Load::new(store, durability, wanted.payload)?;
        load.fill(0, 1).await?;
        Ok(Self { server, load, _folder: folder })
    }

    /// Pushes that it remembers: one for each that was stored.
    fn remembered(&self) -> anyhow::Result<u64> {
        Ok(self.server.ask(&["DBSIZE"])?.parse()?)
    }

    fn call(&self, device: &str, push_id: &str) -> anyhow::Result<AppendCall> {
        let new = self.load.entry(push_id);
        Ok(AppendCall::to_device(&self.load.device(device)?, BUSINESS, new, CAPS, now_ms()))
    }
}

async fn open(server: &Redis) -> anyhow::Result<Arc<dyn Store>> {
    let url = format!("redis://{}", server.address);
    let peers = Peers::secret(&Secret::new("unused"))?;
    let mut config = Config::new("bench", "unused".into(), "http://unused", peers);
    config.store = StoreConfig::RedisSingle { url: Secret::new(&url) };
    config.store_call_timeout = PATIENCE;
    Ok(open_store(&config, &Registry::new()).await?)
}

/// What one way of appending came to.
#[derive(Default)]
struct Way {
    rate: Repeats,
    redis_cpu: Repeats,
}

impl Way {
    fn add(&mut self, per_second: f64, redis_cpu: f64) {
        self.rate.add(per_second);
        self.redis_cpu.add(redis_cpu);
    }
}

async fn appends(
    wanted: &Wanted,
    synced: &str,
    durability: Durability,
    callers: usize,
) -> anyhow::Result<Vec<Row>> {
    let (mut ours, mut clients, mut piped) = <(Way, Way, Way)>::default();
    let (mut ratio, mut cpu_ratio, mut piped_ratio) = <(Repeats, Repeats, Repeats)>::default();
    let mut cpu = Repeats::default();
    for repeat in 1..=wanted.repeats {
        let scene = Scene::new(wanted, synced, durability).await?;
        let before = scene.server.cpu_seconds()?;
        let run = scene.load.run(callers, wanted.lasts()).await?;
        let used = (scene.server.cpu_seconds()? - before) * 1e6 / run.appends as f64;
        scene.load.store.close().await;
        let theirs = driven(wanted, synced, durability, callers, run.appends).await?;
        let plain = sent_plain(wanted, synced, durability, callers).await?;
        eprintln!(
            "Redis, {synced}, {callers} callers, {repeat}/{}: {:.0}/s, {:.1} CPU-s per million and {used:.1} \
             in Redis; redis-benchmark {:.0}/s, {:.1} in Redis; one plain connection {:.0}/s, {:.1} in Redis",
            wanted.repeats,
            run.per_second,
            run.cpu_per_million,
            theirs.0,
            theirs.1,
            plain.0,
            plain.1
        );
        ours.add(run.per_second, used);
        cpu.add(run.cpu_per_million);
        clients.add(theirs.0, theirs.1);
        piped.add(plain.0, plain.1);
        ratio.add(run.per_second / theirs.0);
        cpu_ratio.add(used / theirs.1);
        piped_ratio.add(run.per_second / plain.0);
    }
    let what = |what: &str| {
        format!("Redis, AOF {synced}, {callers} callers, {} bytes: {what}", wanted.payload)
    };
    let per_million = "CPU-s per million";
    Ok(vec![
        Row::beside(
            what("rate, beside redis-benchmark"),
            "appends a second",
            ours.rate.clone(),
            clients.rate,
            ratio,
        ),
        Row::beside(
            what("CPU of Redis, beside redis-benchmark"),
            per_million,
            ours.redis_cpu,
            clients.redis_cpu,
            cpu_ratio,
        ),
        Row::beside(
            what("rate, beside one plain connection, pipelined"),
            "appends a second",
            ours.rate,
            piped.rate,
            piped_ratio,
        ),
        Row::alone(what("CPU of the store's side"), per_million, cpu),
    ])
}

/// `redis-benchmark`: calls a second, and CPU-seconds of Redis per million.
///
/// Its random numbers are others in each key, so that one call touches several devices' keys; all of them
/// are there, and the script does as much as with one device's.
async fn driven(
    wanted: &Wanted,
    synced: &str,
    durability: Durability,
    callers: usize,
    count: u64,
) -> anyhow::Result<(f64, f64)> {
    let scene = Scene::new(wanted, synced, durability).await?;
    let AppendCall { script, sha, keys, args } =
        scene.call(&format!("device-{ANY}"), &format!("{ANY}-{ANY}"))?;
    scene.server.ask(&["SCRIPT", "LOAD", script])?;
    let (held, before) = (scene.remembered()?, scene.server.cpu_seconds()?);
    let mut command = Command::new("redis-benchmark");
    command.args(["-p", &scene.server.address.port().to_string(), "--csv"]);
    command.args(["-c", &callers.to_string(), "-n", &count.to_string()]);
    command.args(["-r", &DEVICES.to_string(), "EVALSHA", sha, &keys.len().to_string()]);
    // The script only stores the entry, whose times have zero bytes that no command line takes.
    let plain = |word: Vec<u8>| word.into_iter().map(|byte| byte.max(1)).collect();
    command.args(keys.into_iter().chain(args).map(|word| OsString::from_vec(plain(word))));
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.context("redis-benchmark is needed here: apt-get install redis-tools")?;
    ensure!(output.status.success(), "redis-benchmark failed");
    let used = (scene.server.cpu_seconds()? - before) * 1e6 / count as f64;
    let stored = scene.remembered()? - held;
    ensure!(stored as f64 > 0.99 * count as f64, "redis-benchmark stored {stored} of {count}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // Name, calls a second, and then the delays: average, least, p50, p95, p99, most.
    let rate = said.trim_end().rsplit(',').nth(6).map(|field| field.trim_matches('"'));
    scene.load.store.close().await;
    Ok((rate.and_then(|rate| rate.parse().ok()).context(said)?, used))
}

/// One plain connection: calls a second, and CPU-seconds of Redis per million.
async fn sent_plain(
    wanted: &Wanted,
    synced: &str,
    durability: Durability,
    callers: usize,
) -> anyhow::Result<(f64, f64)> {
    let scene = Scene::new(wanted, synced, durability).await?;
    let before = scene.server.cpu_seconds()?;
    let mut made = 0u64;
    let next = || {
        made += 1;
        let device = format!("device-{:012}", rand::random_range(0..DEVICES));
        scene.call(&device, &format!("plain-{made:019}")).expect("ids of the right form")
    };
    let url = format!("redis://{}", scene.server.address);
    let scripts = BareScripts { per_pipeline: callers };
    let (count, took) = scripts.run(&url, wanted.lasts(), next).await?;
    let used = (scene.server.cpu_seconds()? - before) * 1e6 / count as f64;
    scene.load.store.close().await;
    Ok((count as f64 / took.as_secs_f64(), used))
}

/// Memory, by what the server says of its data.
async fn room(wanted: &Wanted) -> anyhow::Result<Vec<Row>> {
    let (mut first, mut next, mut remembered, mut idle) =
        <(Repeats, Repeats, Repeats, Repeats)>::default();
    let folder = wanted.scratch()?;
    let server = Redis::start(folder.path(), &["--appendonly", "no"])?;
    let load = Load::new(open(&server).await?, Durability::Memory, wanted.payload)?;
    let empty = server.memory_bytes()?;
    load.fill(0, 1).await?;
    let one = server.memory_bytes()?;
    load.fill(1, EACH as usize).await?;
    let more = server.memory_bytes()?;
    load.claim(IDLE).await?;
    let claimed = server.memory_bytes()?;
    let devices = DEVICES as f64;
    first.add((one - empty) / devices);
    next.add((more - one) / devices / f64::from(EACH));
    idle.add((claimed - more) / IDLE as f64);
    let push = load.entry("fill-0000000-000000000000");
    let device = load.device("device-000000000000")?;
    let AppendCall { keys, .. } = AppendCall::to_device(&device, BUSINESS, push, CAPS, now_ms());
    // The fourth key of the script.
    let push_id = keys.into_iter().nth(3).context("no key for the push id")?;
    remembered.add(server.ask(&["MEMORY", "USAGE", &String::from_utf8(push_id)?])?.parse()?);
    load.store.close().await;
    let what = |what: &str| format!("Redis, memory, {} bytes: {what}", wanted.payload);
    Ok(vec![
        Row::alone(what("first entry of an inbox, with its push id"), "bytes a message", first),
        Row::alone(what("next entry, with its push id"), "bytes a message", next),
        Row::alone(what("of it the push id, for 10 minutes"), "bytes a message", remembered),
        Row::alone(what("idle device, a route only"), "bytes a device", idle),
    ])
}
