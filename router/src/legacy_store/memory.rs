//! A store of plain maps for the tests of the table, where what is flushed when is the test's choice.

use super::{GroupChange, GroupMeta, KeyBytes, Memory, Store, StoreError};
use crate::key::Key;
use parking_lot::Mutex;
use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct InMemory {
    pub(crate) routes: Mutex<BTreeMap<KeyBytes, Memory>>,
}

impl Store for InMemory {
    fn load(&self, key: &Key) -> Result<Option<Memory>, StoreError> {
        Ok(self.routes.lock().get(key.as_bytes()).copied())
    }

    fn remember(&self, writes: &[(KeyBytes, Memory)]) -> Result<(), StoreError> {
        self.routes.lock().extend(writes.iter().cloned());
        Ok(())
    }

    fn change_groups(&self, _changes: &[GroupChange]) -> Result<(), StoreError> {
        Ok(())
    }

    fn groups(&self) -> Result<Vec<(KeyBytes, GroupMeta)>, StoreError> {
        Ok(Vec::new())
    }

    fn groups_of(
        &self,
        _app: &str,
        _owner: u32,
        _after: &str,
        _max: usize,
    ) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    fn forget(
        &self,
        _from: &[u8],
        _before_ms: u64,
        _max: usize,
    ) -> Result<Option<KeyBytes>, StoreError> {
        Ok(None)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
