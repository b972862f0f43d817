//! The embedded engine: fjall in a folder of our own, one keyspace, every commit synced to disk.

use super::{Engine, EngineError, Pair, Table, Write};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::ops::Bound;
use std::path::Path;

const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Held by one process at a time: the folder is locked.
pub(crate) struct Embedded {
    database: Database,
    records: Keyspace,
}

fn engine(source: fjall::Error) -> EngineError {
    EngineError::Engine(Box::new(source))
}

impl Embedded {
    /// Opens what is in the folder, or makes it. Blocks.
    pub(crate) fn open(folder: &Path) -> Result<Self, EngineError> {
        hawser_chassis::private::data_folder(folder)
            .map_err(|source| EngineError::Engine(Box::new(source)))?;
        let database = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .worker_threads(1)
            .open()
            .map_err(engine)?;
        let records =
            database.keyspace("control", KeyspaceCreateOptions::default).map_err(engine)?;
        Ok(Self { database, records })
    }
}

fn whole(table: Table, key: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(key.len() + 1);
    whole.push(table as u8);
    whole.extend_from_slice(key);
    whole
}

/// The first key above all that begin with `prefix`; a table's number is never 255, so there is one.
fn end_of(mut prefix: Vec<u8>) -> Vec<u8> {
    while prefix.last() == Some(&u8::MAX) {
        prefix.pop();
    }
    if let Some(last) = prefix.last_mut() {
        *last += 1;
    }
    prefix
}

impl Engine for Embedded {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let value = self.records.get(whole(table, key)).map_err(engine)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        backwards: bool,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        let first = whole(table, prefix);
        let end = end_of(first.clone());
        let (mut from, mut to) = (Bound::Included(first), Bound::Excluded(end));
        match after.map(|key| whole(table, key)) {
            Some(key) if backwards => to = Bound::Excluded(key),
            Some(key) => from = Bound::Excluded(key),
            None => {}
        }
        let found = self.records.range((from, to));
        let pair = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner().map_err(engine)?;
            Ok((key[1..].to_vec(), value.to_vec()))
        };
        if backwards {
            found.rev().take(limit).map(pair).collect()
        } else {
            found.take(limit).map(pair).collect()
        }
    }

    fn commit(&self, batch: &[Write]) -> Result<(), EngineError> {
        // The journal is synced before the batch becomes visible to readers.
        let mut out = self.database.batch().durability(Some(PersistMode::SyncData));
        for write in batch {
            match write {
                Write::Put(table, key, value) => {
                    out.insert(&self.records, whole(*table, key), value.as_slice());
                }
                Write::Remove(table, key) => out.remove(&self.records, whole(*table, key)),
            }
        }
        out.commit().map_err(engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_for_its_owner_alone_also_one_that_was_open() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let _engine = Embedded::open(folder.path()).unwrap();
        let mode = folder.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_committed_batch_is_there_after_reopening_and_scans_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let put = |key: &[u8]| Write::Put(Table::Audit, key.to_vec(), b"v".to_vec());
        {
            let engine = Embedded::open(folder.path()).unwrap();
            let other = Write::Put(Table::Binding, b"b".to_vec(), b"w".to_vec());
            engine.commit(&[put(b"a"), put(b"c"), put(b"b"), put(b"\xff\xff"), other]).unwrap();
            engine.commit(&[Write::Remove(Table::Audit, b"c".to_vec())]).unwrap();
        }
        let engine = Embedded::open(folder.path()).unwrap();
        assert_eq!(engine.read(Table::Binding, b"b").unwrap(), Some(b"w".to_vec()));
        assert_eq!(engine.read(Table::Audit, b"c").unwrap(), None);
        let keys = |prefix: &[u8], after: Option<&[u8]>, backwards, limit| -> Vec<Vec<u8>> {
            let found = engine.scan(Table::Audit, prefix, after, backwards, limit).unwrap();
            found.into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(b"", None, false, 9), [&b"a"[..], b"b", b"\xff\xff"]);
        assert_eq!(keys(b"", Some(b"b"), true, 9), [b"a"]);
        assert_eq!(keys(b"", Some(b"a"), false, 1), [b"b"]);
        assert_eq!(keys(b"\xff", None, false, 9), [b"\xff\xff"]);
    }

    #[test]
    fn a_folder_is_opened_once_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Embedded::open(folder.path()).unwrap();
        assert!(Embedded::open(folder.path()).is_err());
    }
}
