//! The store in the process, on fjall: three keyspaces, one journal.
//!
//! `routes`: device key to epoch, instance, attempt and time. `groups`: group key to owner and time.
//! `owned`: app, owner and group id, so that the groups of one business are listed in order.

use super::{GroupChange, GroupMeta, KeyBytes, Memory, Store, StoreError};
use crate::key::{self, Key};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::ops::Bound;
use std::path::Path;

const ROUTE_VALUE_BYTES: usize = 8 + 16 + 8 + 8;
const GROUP_VALUE_BYTES: usize = 4 + 8;
/// Blocks kept in memory: the recently released devices that log in again.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// The engine; clones of its handles share one database.
pub(crate) struct Embedded {
    database: Database,
    routes: Keyspace,
    groups: Keyspace,
    owned: Keyspace,
}

impl Embedded {
    /// Opens or makes the database in `folder`. A torn tail of its journal is cut off by the engine.
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        let database =
            Database::builder(folder).cache_size(CACHE_BYTES).worker_threads(1).open()?;
        Ok(Self {
            routes: database.keyspace("routes", KeyspaceCreateOptions::default)?,
            groups: database.keyspace("groups", KeyspaceCreateOptions::default)?,
            owned: database.keyspace("owned", KeyspaceCreateOptions::default)?,
            database,
        })
    }
}

impl Store for Embedded {
    fn load(&self, key: &Key) -> Result<Option<Memory>, StoreError> {
        self.routes.get(key.as_bytes())?.map(|value| read_route(&value)).transpose()
    }

    fn remember(&self, writes: &[(KeyBytes, Memory)]) -> Result<(), StoreError> {
        let mut batch = self.database.batch();
        for (key, memory) in writes {
            batch.insert(&self.routes, key.as_ref(), write_route(memory).as_slice());
        }
        Ok(batch.commit()?)
    }

    fn change_groups(&self, changes: &[GroupChange]) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for change in changes {
            match change {
                GroupChange::Put(key, meta) => {
                    batch.insert(&self.groups, key.as_bytes(), write_group(meta).as_slice());
                    batch.insert(&self.owned, owned_key(key.as_bytes(), meta.owner), []);
                }
                GroupChange::Delete(key, meta) => {
                    batch.remove(&self.groups, key.as_bytes());
                    batch.remove(&self.owned, owned_key(key.as_bytes(), meta.owner));
                }
            }
        }
        Ok(batch.commit()?)
    }

    fn groups(&self) -> Result<Vec<(KeyBytes, GroupMeta)>, StoreError> {
        let mut all = Vec::new();
        for guard in self.groups.iter() {
            let (key, value) = guard.into_inner()?;
            all.push((key.as_ref().into(), read_group(&value)?));
        }
        Ok(all)
    }

    fn groups_of(
        &self,
        app: &str,
        owner: u32,
        after: &str,
        max: usize,
    ) -> Result<Vec<String>, StoreError> {
        let prefix = owned_prefix(app, owner);
        let from = [prefix.as_slice(), after.as_bytes()].concat();
        let mut found = Vec::new();
        for guard in self.owned.range((Bound::Excluded(from), Bound::Unbounded)) {
            let key = guard.key()?;
            let Some(id) = key.strip_prefix(prefix.as_slice()) else { break };
            found.push(String::from_utf8(id.to_vec()).map_err(|_| StoreError::Value)?);
            if found.len() == max {
                break;
            }
        }
        Ok(found)
    }

    fn forget(
        &self,
        from: &[u8],
        before_ms: u64,
        max: usize,
    ) -> Result<Option<KeyBytes>, StoreError> {
        let mut batch = self.database.batch();
        let mut last = None;
        for (seen, guard) in self.routes.range(from.to_vec()..).enumerate() {
            let (key, value) = guard.into_inner()?;
            if seen == max {
                last = Some(key.as_ref().into());
                break;
            }
            // What cannot be read cannot be used either; it would only be in the way.
            if read_route(&value).map_or(true, |memory| memory.at_ms < before_ms) {
                batch.remove(&self.routes, key);
            }
        }
        batch.commit()?;
        Ok(last)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

fn write_route(memory: &Memory) -> Vec<u8> {
    let mut value = Vec::with_capacity(ROUTE_VALUE_BYTES);
    value.extend(memory.epoch.to_be_bytes());
    value.extend(memory.instance);
    value.extend(memory.attempt.to_be_bytes());
    value.extend(memory.at_ms.to_be_bytes());
    value
}

fn read_route(value: &[u8]) -> Result<Memory, StoreError> {
    let read = || {
        let (epoch, rest) = value.split_first_chunk::<8>()?;
        let (instance, rest) = rest.split_first_chunk::<16>()?;
        let (attempt, rest) = rest.split_first_chunk::<8>()?;
        Some(Memory {
            epoch: u64::from_be_bytes(*epoch),
            instance: *instance,
            attempt: u64::from_be_bytes(*attempt),
            at_ms: u64::from_be_bytes(rest.try_into().ok()?),
        })
    };
    read().ok_or(StoreError::Value)
}

fn write_group(meta: &GroupMeta) -> Vec<u8> {
    let mut value = Vec::with_capacity(GROUP_VALUE_BYTES);
    value.extend(meta.owner.to_be_bytes());
    value.extend(meta.created_ms.to_be_bytes());
    value
}

fn read_group(value: &[u8]) -> Result<GroupMeta, StoreError> {
    let read = || {
        let (owner, created) = value.split_first_chunk::<4>()?;
        let created_ms = u64::from_be_bytes(created.try_into().ok()?);
        Some(GroupMeta { owner: u32::from_be_bytes(*owner), created_ms })
    };
    read().ok_or(StoreError::Value)
}

/// App, owner and group: the app length-prefixed, the owner of fixed width.
fn owned_key(group_key: &[u8], owner: u32) -> Vec<u8> {
    let (app, group) = key::split(group_key).unwrap_or_default();
    let mut bytes = owned_prefix(app, owner);
    bytes.extend(group.as_bytes());
    bytes
}

fn owned_prefix(app: &str, owner: u32) -> Vec<u8> {
    let mut bytes = vec![app.len() as u8];
    bytes.extend(app.as_bytes());
    bytes.extend(owner.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::id::AppId;

    fn memory(epoch: u64, at_ms: u64) -> Memory {
        Memory { epoch, instance: [7; 16], attempt: 3, at_ms }
    }

    fn device(id: &str) -> Key {
        Key::device(&AppId::new("demo").unwrap(), id).unwrap()
    }

    #[test]
    fn what_was_remembered_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let key = device("a");
        let store = Embedded::open(folder.path()).unwrap();
        store.remember(&[(key.as_bytes().into(), memory(9, 1000))]).unwrap();
        store.sync().unwrap();
        drop(store);
        let store = Embedded::open(folder.path()).unwrap();
        assert_eq!(store.load(&key).unwrap(), Some(memory(9, 1000)));
        assert_eq!(store.load(&device("b")).unwrap(), None);
    }

    #[test]
    fn devices_are_forgotten_after_their_time_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(folder.path()).unwrap();
        for (id, at_ms) in [("a", 10), ("b", 20), ("c", 30)] {
            store.remember(&[(device(id).as_bytes().into(), memory(1, at_ms))]).unwrap();
        }
        let on = store.forget(&[], 25, 2).unwrap().expect("there is a third one");
        assert_eq!(store.forget(&on, 25, 2).unwrap(), None);
        let left = ["a", "b", "c"].map(|id| store.load(&device(id)).unwrap().is_some());
        assert_eq!(left, [false, false, true]);
    }

    #[test]
    fn groups_are_listed_by_owner_in_order_and_by_page() {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(folder.path()).unwrap();
        let key = |app: &str, id: &str| Key::group(&AppId::new(app).unwrap(), id).unwrap();
        let meta = |owner| GroupMeta { owner, created_ms: 5 };
        let put = |app, id, owner| GroupChange::Put(key(app, id), meta(owner));
        let all = [
            put("demo", "b", 1),
            put("demo", "a", 1),
            put("demo", "c", 1),
            put("demo", "x", 2),
            put("other", "y", 1),
        ];
        store.change_groups(&all).unwrap();
        assert_eq!(store.groups_of("demo", 1, "", 2).unwrap(), ["a", "b"]);
        assert_eq!(store.groups_of("demo", 1, "b", 2).unwrap(), ["c"]);
        store.change_groups(&[GroupChange::Delete(key("demo", "c"), meta(1))]).unwrap();
        assert_eq!(store.groups_of("demo", 1, "b", 2).unwrap(), [""; 0]);
        assert_eq!(store.groups().unwrap().len(), 4);
    }
}
