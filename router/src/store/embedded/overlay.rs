//! The writes of one batch over the database, before they are committed together.

use super::disk::{Disk, Pairs, Source, Space, end_of, engine};
use crate::store::StoreError;
use fjall::Slice;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A value to be written; `None`: removed.
type Value = Option<Slice>;
type Pending = BTreeMap<Box<[u8]>, Value>;

/// What a batch will have written. Each operation sees what those before it wrote; one that fails takes
/// its own writes back.
pub(super) struct Overlay<'disk> {
    disk: &'disk Disk,
    pending: [Pending; Space::COUNT],
    /// What the operation that runs now wrote over: `None`: nothing was pending there.
    replaced: Vec<(Space, Box<[u8]>, Option<Value>)>,
}

impl<'disk> Overlay<'disk> {
    pub(super) fn new(disk: &'disk Disk) -> Self {
        Self { disk, pending: Default::default(), replaced: Vec::new() }
    }

    pub(super) fn set(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>) {
        self.write(space, key, Some(value.into()));
    }

    pub(super) fn remove(&mut self, space: Space, key: Vec<u8>) {
        self.write(space, key, None);
    }

    /// Removes what has a key with this prefix: all that is pending, and at most `max` of what is stored. No
    /// value is kept in memory for it.
    pub(super) fn remove_all(
        &mut self,
        space: Space,
        prefix: &[u8],
        max: usize,
    ) -> Result<(), StoreError> {
        let range = (Bound::Included(prefix.to_vec()), end_of(prefix));
        let pending = self.pending[space as usize].range::<[u8], _>((
            range.0.as_ref().map(Vec::as_slice),
            range.1.as_ref().map(Vec::as_slice),
        ));
        let pending: Vec<Vec<u8>> = pending.map(|(key, _)| key.to_vec()).collect();
        for key in pending {
            self.remove(space, key);
        }
        for guard in self.disk.space(space).range(range).take(max) {
            self.remove(space, guard.key().map_err(engine)?.to_vec());
        }
        Ok(())
    }

    fn write(&mut self, space: Space, key: Vec<u8>, value: Value) {
        let key = key.into_boxed_slice();
        let before = self.pending[space as usize].insert(key.clone(), value);
        self.replaced.push((space, key, before));
    }

    /// What the operation wrote stays.
    pub(super) fn keep(&mut self) {
        self.replaced.clear();
    }

    /// What the operation wrote is taken back.
    pub(super) fn take_back(&mut self) {
        for (space, key, before) in self.replaced.drain(..).rev() {
            let pending = &mut self.pending[space as usize];
            match before {
                Some(before) => drop(pending.insert(key, before)),
                None => drop(pending.remove(&key)),
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.iter().all(Pending::is_empty)
    }

    /// Writes all of it in one step: to the operating system, not yet to the disk.
    pub(super) fn commit(self) -> Result<(), fjall::Error> {
        let mut batch = self.disk.batch();
        for (space, pending) in SPACES.into_iter().zip(self.pending) {
            let keyspace = self.disk.space(space);
            for (key, value) in pending {
                match value {
                    Some(value) => batch.insert(keyspace, &*key, value),
                    None => batch.remove(keyspace, &*key),
                }
            }
        }
        batch.commit()
    }
}

const SPACES: [Space; Space::COUNT] = [
    Space::Shelves,
    Space::Entries,
    Space::Remembered,
    Space::Groups,
    Space::Owned,
    Space::Sessions,
    Space::Marks,
];

impl Source for Overlay<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        match self.pending[space as usize].get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.disk.get(space, key),
        }
    }

    fn scan(
        &self,
        space: Space,
        from: Bound<Vec<u8>>,
        prefix: &[u8],
        max: usize,
    ) -> Result<Pairs, StoreError> {
        let start = from.as_ref().map(Vec::as_slice);
        let end = end_of(prefix);
        let range = (start, end.as_ref().map(Vec::as_slice));
        let mut pending = self.pending[space as usize].range::<[u8], _>(range).peekable();
        if pending.peek().is_none() {
            return self.disk.scan(space, from, prefix, max);
        }
        let mut stored = self
            .disk
            .space(space)
            .range((from, end.clone()))
            .map(|guard| guard.into_inner().map_err(engine));
        let mut next = stored.next().transpose()?;
        let mut found = Pairs::new();
        while found.len() < max {
            let is_pending_first = match (pending.peek(), &next) {
                (None, None) => break,
                (Some((key, _)), Some((stored, _))) => ***key <= **stored,
                (pending, _) => pending.is_some(),
            };
            if !is_pending_first {
                found.extend(next.take());
                next = stored.next().transpose()?;
                continue;
            }
            let Some((key, value)) = pending.next() else { break };
            if next.as_ref().is_some_and(|(stored, _)| **stored == **key) {
                next = stored.next().transpose()?;
            }
            if let Some(value) = value {
                found.push((Slice::from(&**key), value.clone()));
            }
        }
        Ok(found)
    }
}
