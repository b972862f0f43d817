//! The bare append loop of the embedded store's engine, without any of our rules: records of the same size
//! under growing keys of many devices, one writer, as many to a commit and a sync as the store has beside
//! it. What hawser adds is told apart from what the engine costs.

use anyhow::Context;
use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of an entry of the store beside the body of its push, about: push id, business, times, lengths.
pub const AROUND_BODY: usize = 50;

const DEVICES: u64 = 10_000;
/// Of the key before device and number: as long as the store's keys of entries.
const PREFIX: &[u8; 22] = b"d\x18\x04demodevice-00000000";
const NOISE_BYTES: usize = 1 << 20;

/// How to append.
#[derive(Clone, Copy, Debug)]
pub struct Appends {
    /// Bytes of each value.
    pub record_bytes: usize,
    /// Records that are committed together.
    pub per_commit: usize,
    /// Whether each commit is synced to disk. Else it is with the operating system.
    pub syncs: bool,
}

impl Appends {
    /// Appends for about `lasts`, on this thread, to one keyspace of a new database in `folder`. Returns the
    /// records written and the time it took.
    pub fn run(self, folder: &Path, lasts: Duration) -> anyhow::Result<(u64, Duration)> {
        let database = Database::builder(folder)
            .worker_threads(2)
            .open()
            .context("the engine does not open")?;
        let keyspace = database.keyspace("entries", KeyspaceCreateOptions::default)?;
        let persisted = if self.syncs { PersistMode::SyncData } else { PersistMode::Buffer };
        let noise = Noise::default();
        let (begun, mut written) = (Instant::now(), 0u64);
        while begun.elapsed() < lasts {
            let mut batch = database.batch();
            for _ in 0..self.per_commit {
                let (device, number) = (written % DEVICES, written);
                let key = [&PREFIX[..], &device.to_be_bytes(), &number.to_be_bytes()].concat();
                batch.insert(&keyspace, key, noise.some(self.record_bytes));
                written += 1;
            }
            batch.commit()?;
            database.persist(persisted)?;
        }
        Ok((written, begun.elapsed()))
    }
}

/// Bytes that no compression makes smaller.
#[derive(Debug)]
pub struct Noise(Vec<u8>);

impl Default for Noise {
    fn default() -> Self {
        Self((0..NOISE_BYTES / 8).flat_map(|_| rand::random::<u64>().to_le_bytes()).collect())
    }
}

impl Noise {
    /// This many of them, others each time; at most a megabyte.
    pub fn some(&self, bytes: usize) -> &[u8] {
        let bytes = bytes.min(self.0.len());
        let at = rand::random_range(0..=self.0.len() - bytes);
        &self.0[at..at + bytes]
    }
}
