//! The store in the process, beside the append loop of its engine.

use crate::Wanted;
use crate::load::{DEVICES, Load, Measured, measured};
use anyhow::Context;
use fjall::{Database, KeyspaceCreateOptions};
use hawser_loadtest::bare_store::Appends;
use hawser_loadtest::process;
use hawser_loadtest::report::{Repeats, Row};
use hawser_router::stores::{Durability, Embedded, Settings, Store};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Callers at a time.
const CALLERS: [usize; 2] = [64, 1_000];
/// Entries for each device when room is measured, and devices that have nothing but a route.
const EACH: usize = 10;
const IDLE: usize = 100_000;
/// Longer than any pause of a busy disk.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn rows(wanted: &Wanted) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (durability, name) in [(Durability::Memory, "memory"), (Durability::Disk, "disk")] {
        for callers in CALLERS {
            rows.extend(appends(wanted, durability, name, callers).await?);
        }
    }
    rows.extend(room(wanted).await?);
    Ok(rows)
}

fn open(folder: &Path) -> anyhow::Result<Embedded> {
    let settings = Settings { call_timeout: PATIENCE, ..Settings::new(folder.to_owned()) };
    Embedded::open(settings).context("the store does not open")
}

async fn appends(
    wanted: &Wanted,
    durability: Durability,
    name: &str,
    callers: usize,
) -> anyhow::Result<Vec<Row>> {
    let (mut rate, mut bare, mut ratio) = <(Repeats, Repeats, Repeats)>::default();
    let (mut cpu, mut bare_cpu, mut cpu_ratio) = <(Repeats, Repeats, Repeats)>::default();
    let mut shared = Repeats::default();
    for repeat in 1..=wanted.repeats {
        let folder = wanted.scratch()?;
        let store = Arc::new(open(folder.path())?);
        let load = Load::new(store.clone(), durability, wanted.payload)?;
        // Each inbox has been there before: a first entry is another matter.
        load.fill(0, 1).await?;
        let (commits, _) = store.work_done();
        let ours = load.run(callers, wanted.lasts()).await?;
        let commits = store.work_done().0 - commits;
        store.close().await;
        let per_commit = ours.appends as f64 / commits as f64;
        let theirs = bare_appends(wanted, &load, per_commit, durability).await?;
        eprintln!(
            "embedded, {name}, {callers} callers, {repeat}/{}: {:.0}/s, {:.1} CPU-s per million, \
             {per_commit:.1} a commit; bare {:.0}/s, {:.1} CPU-s per million",
            wanted.repeats,
            ours.per_second,
            ours.cpu_per_million,
            theirs.per_second,
            theirs.cpu_per_million
        );
        rate.add(ours.per_second);
        bare.add(theirs.per_second);
        ratio.add(ours.per_second / theirs.per_second);
        cpu.add(ours.cpu_per_million);
        bare_cpu.add(theirs.cpu_per_million);
        cpu_ratio.add(ours.cpu_per_million / theirs.cpu_per_million);
        shared.add(per_commit);
    }
    let what = |what: &str| {
        format!("embedded, {name}, {callers} callers, {} bytes: {what}", wanted.payload)
    };
    Ok(vec![
        Row::beside(what("rate"), "appends a second", rate, bare, ratio),
        Row::beside(what("CPU"), "CPU-s per million", cpu, bare_cpu, cpu_ratio),
        Row::alone(what("appends that share a commit"), "appends", shared),
    ])
}

/// The engine's own loop, with as many records to a commit as our run had.
async fn bare_appends(
    wanted: &Wanted,
    load: &Load,
    per_commit: f64,
    durability: Durability,
) -> anyhow::Result<Measured> {
    let (folder, lasts) = (wanted.scratch()?, wanted.lasts());
    let appends = Appends {
        record_bytes: load.record_bytes(),
        per_commit: per_commit.round().max(1.0) as usize,
        syncs: durability == Durability::Disk,
    };
    let cpu = process::cpu_seconds(std::process::id())?;
    let (made, took) =
        tokio::task::spawn_blocking(move || appends.run(folder.path(), lasts)).await??;
    measured(made, took, cpu)
}

/// Bytes in tables, once everything has been written to them and each was merged: what is left in the
/// journal, or waits to be merged, comes and goes.
async fn room(wanted: &Wanted) -> anyhow::Result<Vec<Row>> {
    let (mut entry, mut remembered, mut inbox, mut idle) =
        <(Repeats, Repeats, Repeats, Repeats)>::default();
    let folder = wanted.scratch()?;
    let store = Arc::new(open(folder.path())?);
    Load::new(store.clone(), Durability::Memory, wanted.payload)?.fill(0, EACH).await?;
    store.close().await;
    drop(store);
    let entries = (DEVICES * EACH) as f64;
    entry.add(settled_bytes(folder.path(), "entries").await? / entries);
    remembered.add(settled_bytes(folder.path(), "remembered").await? / entries);
    inbox.add(settled_bytes(folder.path(), "shelves").await? / DEVICES as f64);

    let folder = wanted.scratch()?;
    let store = Arc::new(open(folder.path())?);
    Load::new(store.clone(), Durability::Memory, wanted.payload)?.claim(IDLE).await?;
    store.close().await;
    drop(store);
    idle.add(settled_bytes(folder.path(), "shelves").await? / IDLE as f64);
    let what = |what: &str| format!("embedded, on disk, {} bytes: {what}", wanted.payload);
    Ok(vec![
        Row::alone(what("entry"), "bytes a message", entry),
        Row::alone(what("push id, for 10 minutes"), "bytes a message", remembered),
        Row::alone(what("inbox"), "bytes an inbox", inbox),
        Row::alone(what("idle device, a route only"), "bytes a device", idle),
    ])
}

async fn settled_bytes(folder: &Path, keyspace: &'static str) -> anyhow::Result<f64> {
    let folder = folder.to_owned();
    let settle = move || {
        let database = Database::builder(&folder).open()?;
        let keyspace = database.keyspace(keyspace, KeyspaceCreateOptions::default)?;
        keyspace.rotate_memtable_and_wait()?;
        keyspace.major_compact()?;
        anyhow::Ok(keyspace.disk_space() as f64)
    };
    tokio::task::spawn_blocking(settle).await?
}
