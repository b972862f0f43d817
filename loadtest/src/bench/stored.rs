//! What stored pushes cost: through the push API to devices that are away, from the call to the handler of
//! a device that is there, and in bytes; beside the bare append loop of the embedded store's engine.

use super::Bench;
use super::driven::{self, Watch};
use crate::report::{Beside, Bound, Repeats, Row};
use crate::system::{APP, BUSINESS, System};
use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hawser_loadtest::bare_store::{AROUND_BODY, Appends};
use hawser_loadtest::redis::Redis;
use hawser_proto::rpc::push::{
    BatchUnicastRequest, Class, Durability, Message, Outcome, StoreOptions, UnicastRequest,
};
use hawser_sdk::Client;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

/// Devices that are away; their inboxes take everything, in turn.
const AWAY: usize = 10_000;
/// Pushes of one measurement.
const PUSHES: usize = 100_000;
/// Targets of one message of the stream.
const BATCH: usize = 100;
/// Messages whose answers are waited for: what a store takes longer for than its time-out fails.
const BATCHES_IN_FLIGHT: usize = 16;
/// Records of the bare loop that share a commit, and how long it runs.
const GROUP: usize = 64;
const BARE_LASTS: Duration = Duration::from_secs(3);
/// Devices that are there, for the delay, and pushes to them.
const THERE: usize = 100;
const DELAY_PUSHES: usize = 5_000;
const DELAY_RATE: u32 = 500;
const PATIENCE: Duration = Duration::from_mins(1);

/// Rows of stored pushes: embedded at both durabilities, then Redis where there is one.
pub(crate) async fn rows(wanted: &Bench, binary: &Path) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (durability, name) in [(Durability::Memory, "memory"), (Durability::Disk, "disk")] {
        rows.extend(throughput(wanted, binary, durability, name).await?);
    }
    for (durability, name) in [(Durability::Memory, "memory"), (Durability::Disk, "disk")] {
        rows.extend(delay(wanted, binary, durability, name).await?);
    }
    rows.extend(redis(wanted, binary).await?);
    Ok(rows)
}

/// Pushes a second and CPU, embedded, beside the engine's bare loop; and bytes on disk.
async fn throughput(
    wanted: &Bench,
    binary: &Path,
    durability: Durability,
    name: &str,
) -> anyhow::Result<Vec<Row>> {
    let mut rate = Beside::default();
    let (mut cpu, mut bytes) = <(Repeats, Repeats)>::default();
    for repeat in 1..=wanted.repeats {
        let loop_rate = bare(wanted, durability).await?;
        let system = System::start(binary).await?;
        let ours = store_many(wanted, &system, durability).await?;
        eprintln!(
            "stored, {name}, {repeat}/{}: {:.0}/s, {:.1} CPU-s per million; bare loop {loop_rate:.0}/s",
            wanted.repeats, ours.per_second, ours.cpu_per_million
        );
        rate.add(ours.per_second, loop_rate);
        cpu.add(ours.cpu_per_million);
        bytes.add(folder_bytes(&system.data().join("router"))? as f64 / PUSHES as f64);
    }
    let what =
        |what: &str| format!("stored pushes, embedded, {name}, {} bytes: {what}", wanted.payload);
    let beside = what("rate, beside the engine's own append loop");
    let mut rate = rate.row(beside, "pushes a second");
    if durability == Durability::Disk {
        rate = rate.to_reach(Bound::RatioAtLeast(0.5), "");
    }
    Ok(vec![
        rate,
        Row::alone(what("CPU of all parts"), "CPU-s per million", cpu),
        Row::alone(what("on disk"), "bytes a push", bytes),
    ])
}

/// Appends a second of the engine's own loop.
async fn bare(wanted: &Bench, durability: Durability) -> anyhow::Result<f64> {
    let appends = Appends {
        record_bytes: AROUND_BODY + wanted.payload,
        per_commit: GROUP,
        syncs: durability == Durability::Disk,
    };
    let folder = tempfile::tempdir()?;
    let run = move || appends.run(folder.path(), BARE_LASTS);
    let (made, took) = tokio::task::spawn_blocking(run).await??;
    Ok(made as f64 / took.as_secs_f64())
}

struct Stored {
    per_second: f64,
    cpu_per_million: f64,
}

async fn store_many(
    wanted: &Bench,
    system: &System,
    durability: Durability,
) -> anyhow::Result<Stored> {
    let body = Bytes::from(vec![b'x'; wanted.payload]);
    let batches = (0..PUSHES / BATCH).map(move |number| {
        let first = number * BATCH % AWAY;
        BatchUnicastRequest {
            message: Some(Message { body: body.clone(), ..Message::default() }),
            devices: (first..first + BATCH).map(|n| format!("away-{n:012}")).collect(),
            class: Class::Stored.into(),
            store: Some(StoreOptions { durability: durability.into(), ..Default::default() }),
            ..BatchUnicastRequest::default()
        }
    });
    let room = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT));
    let taken = room.clone();
    let batches = stream::iter(batches).then(move |batch| {
        let room = taken.clone();
        async move {
            room.acquire_owned().await.expect("it is never closed").forget();
            batch
        }
    });
    let (cpu, started) = (system.cpu_seconds()?["all"], Instant::now());
    let mut answers =
        system.push().stream_unicast(system.call(batches, PATIENCE)).await?.into_inner();
    let mut outcomes = BTreeMap::new();
    while let Some(answer) = answers.message().await? {
        room.add_permits(1);
        for outcome in answer.outcomes() {
            *outcomes.entry(outcome.as_str_name()).or_insert(0) += 1;
        }
    }
    let stored = outcomes.get(Outcome::Stored.as_str_name());
    ensure!(stored == Some(&PUSHES), "not all of {PUSHES} pushes were stored: {outcomes:?}");
    let seconds = started.elapsed().as_secs_f64();
    let used = system.cpu_seconds()?["all"] - cpu;
    let count = PUSHES as f64;
    Ok(Stored { per_second: count / seconds, cpu_per_million: used * 1e6 / count })
}

/// From the call to the handler, at a steady rate, one push at a time to devices that are there.
async fn delay(
    wanted: &Bench,
    binary: &Path,
    durability: Durability,
    name: &str,
) -> anyhow::Result<Vec<Row>> {
    let (mut middle, mut late) = <(Repeats, Repeats)>::default();
    for repeat in 1..=wanted.repeats {
        let system = System::start(binary).await?;
        let (arrived, mut arrivals) = mpsc::channel(DELAY_PUSHES);
        let mut listeners = JoinSet::new();
        let mut clients = Vec::new();
        for number in 0..THERE {
            let client = Client::builder(system.control(), APP, &format!("there-{number}"))
                .protocol(hawser_sdk::Protocol::Tcp)
                .business(BUSINESS)
                .build()?;
            let mut pushes = client.business(BUSINESS).pushes();
            let arrived = arrived.clone();
            listeners.spawn(async move {
                while let Some(push) = pushes.next_push().await {
                    let _ = arrived.send((push.id, Instant::now())).await;
                }
            });
            client.connect().await?;
            clients.push(client);
        }
        let called = Arc::new(Mutex::new(HashMap::new()));
        let mut pace = tokio::time::interval(Duration::from_secs(1) / DELAY_RATE);
        let mut calls = JoinSet::new();
        for number in 0..DELAY_PUSHES {
            let due = pace.tick().await.into_std();
            let id = Bytes::from(format!("delay-{number}"));
            let body = Bytes::from(vec![b'x'; wanted.payload]);
            let request = UnicastRequest {
                device: format!("there-{}", number % THERE),
                message: Some(Message { body, ..Message::default() }),
                class: Class::Stored.into(),
                push_id: id.clone(),
                store: Some(StoreOptions { durability: durability.into(), ..Default::default() }),
            };
            let (mut push, request) = (system.push(), system.call(request, PATIENCE));
            called.lock().await.insert(id, due);
            calls.spawn(async move { push.unicast(request).await });
        }
        let mut delays = Vec::with_capacity(DELAY_PUSHES);
        while delays.len() < DELAY_PUSHES {
            let next = tokio::time::timeout(PATIENCE, arrivals.recv()).await;
            let (id, at) = next.context("pushes are missing")?.context("all listeners ended")?;
            let called = called.lock().await.remove(&id).context("a push came twice")?;
            delays.push(at.duration_since(called).as_secs_f64() * 1e3);
        }
        while let Some(call) = calls.join_next().await {
            call??;
        }
        delays.sort_by(f64::total_cmp);
        middle.add(delays[delays.len() / 2]);
        late.add(delays[delays.len() * 99 / 100]);
        eprintln!(
            "delay, {name}, {repeat}/{}: p50 {:.2} ms",
            wanted.repeats,
            delays[delays.len() / 2]
        );
    }
    let what = |what| format!("stored push, {name}, {DELAY_RATE}/s, call to handler, {what}");
    Ok(vec![Row::alone(what("p50"), "ms", middle), Row::alone(what("p99"), "ms", late)])
}

/// The same on one Redis with an append-only file, synced each second, beside the script alone.
async fn redis(wanted: &Bench, binary: &Path) -> anyhow::Result<Vec<Row>> {
    let (mut rate, mut redis_cpu) = <(Beside, Beside)>::default();
    let (mut cpu, mut bytes) = <(Repeats, Repeats)>::default();
    for repeat in 1..=wanted.repeats {
        let folder = tempfile::tempdir()?;
        let server =
            Redis::start(folder.path(), &["--appendonly", "yes", "--appendfsync", "everysec"])?;
        let system = System::start_on(binary, &format!("redis://{}", server.address)).await?;
        let watch = Watch::start(&server)?;
        store_one(wanted, &system).await?;
        let script = watch.call()?;
        let (memory, used) = (server.memory_bytes()?, server.cpu_seconds()?);
        let ours = store_many(wanted, &system, Durability::Memory).await?;
        let redis = (server.cpu_seconds()? - used) * 1e6 / PUSHES as f64;
        bytes.add((server.memory_bytes()? - memory) / PUSHES as f64);
        drop(system);
        let theirs = driven::run(&server, script, AWAY, PUSHES).await?;
        eprintln!(
            "stored, Redis, {repeat}/{}: {:.0}/s, {:.1} CPU-s per million, and {redis:.1} in Redis; \
             redis-benchmark {:.0}/s, {:.1} in Redis",
            wanted.repeats, ours.per_second, ours.cpu_per_million, theirs.0, theirs.1
        );
        rate.add(ours.per_second, theirs.0);
        cpu.add(ours.cpu_per_million);
        redis_cpu.add(redis, theirs.1);
    }
    let what =
        |what: &str| format!("stored pushes, Redis, memory, {} bytes: {what}", wanted.payload);
    let beside = "rate, beside the same script from redis-benchmark";
    let in_redis = "CPU of Redis, beside the same";
    Ok(vec![
        rate.row(what(beside), "pushes a second").to_reach(Bound::RatioAtLeast(0.7), ""),
        redis_cpu.row(what(in_redis), "CPU-s per million"),
        Row::alone(what("CPU of hawser"), "CPU-s per million", cpu),
        Row::alone(what("memory of Redis, push ids of 10 minutes included"), "bytes a push", bytes),
    ])
}

/// One push with the names that [`driven`] looks for.
async fn store_one(wanted: &Bench, system: &System) -> anyhow::Result<()> {
    let request = UnicastRequest {
        device: driven::device(),
        message: Some(Message {
            body: Bytes::from(vec![b'x'; wanted.payload]),
            ..Message::default()
        }),
        class: Class::Stored.into(),
        push_id: driven::push_id().into(),
        store: Some(StoreOptions { durability: Durability::Memory.into(), ..Default::default() }),
    };
    let answer = system.push().unicast(system.call(request, PATIENCE)).await?;
    ensure!(answer.get_ref().outcome() == Outcome::Stored, "it was not stored");
    Ok(())
}

fn folder_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let about = entry.metadata()?;
        // Blocks, not length: journals are allocated ahead.
        bytes += if about.is_dir() {
            folder_bytes(&entry.path())?
        } else {
            std::os::unix::fs::MetadataExt::blocks(&about) * 512
        };
    }
    Ok(bytes)
}
