//! The bare append loop of the embedded store's engine: records of the same size under growing keys, one
//! writer, synced as often as the store does when all wait for the disk. What hawser adds is told apart
//! from what the engine costs.

use anyhow::Context;
use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use std::time::Instant;

/// Appends that share a sync.
const GROUP: usize = 64;
/// What an entry takes beside its body, about.
const AROUND_BODY: usize = 100;

/// Appends a second.
pub(crate) fn measure(count: usize, payload: usize, synced: bool) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let database = Database::builder(folder.path()).open().context("the engine does not open")?;
    let entries = database.keyspace("entries", KeyspaceCreateOptions::default)?;
    let record = vec![b'x'; payload + AROUND_BODY];
    let started = Instant::now();
    for group in 0..count.div_ceil(GROUP) {
        let mut batch = database.batch();
        for number in group * GROUP..((group + 1) * GROUP).min(count) {
            batch.insert(&entries, (number as u64).to_be_bytes(), record.as_slice());
        }
        batch.commit()?;
        database.persist(if synced { PersistMode::SyncData } else { PersistMode::Buffer })?;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}
