//! The engine's own append loop, without any of our rules: what the store is measured against.

use super::disk::engine;
use crate::store::StoreError;
use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use std::path::Path;
use std::time::{Duration, Instant};

/// How to append.
#[derive(Clone, Copy, Debug)]
pub struct BareAppends {
    /// Bytes of each value.
    pub record_bytes: usize,
    /// Records that are committed together.
    pub per_commit: usize,
    /// Whether each commit is synced to disk.
    pub syncs: bool,
}

impl BareAppends {
    /// Appends for about `lasts`, on this thread, to one keyspace of a new database in `folder`. Returns the
    /// records written and the time it took.
    pub fn run(self, folder: &Path, lasts: Duration) -> Result<(u64, Duration), StoreError> {
        let database = Database::builder(folder).worker_threads(2).open().map_err(engine)?;
        let keyspace = database.keyspace("bare", KeyspaceCreateOptions::default).map_err(engine)?;
        let value = vec![b'v'; self.record_bytes];
        let (begun, mut written) = (Instant::now(), 0u64);
        while begun.elapsed() < lasts {
            let mut batch = database.batch();
            for _ in 0..self.per_commit {
                let mut key = *b"d\x0d\x04demodevice-000000000000000000000000";
                let (device, number) = (written % 1_000, written);
                key[15..23].copy_from_slice(&device.to_be_bytes());
                key[23..31].copy_from_slice(&number.to_be_bytes());
                batch.insert(&keyspace, key, value.as_slice());
                written += 1;
            }
            batch.commit().map_err(engine)?;
            if self.syncs {
                database.persist(PersistMode::SyncData).map_err(engine)?;
            }
        }
        Ok((written, begun.elapsed()))
    }
}
