//! The reference: the rules over plain maps. Nothing here is clever, so that it is right.

use super::{Durability, GroupChange, GroupMeta, KeyBytes, Positions, Store, StoreError};
use crate::inbox::rules;
use crate::inbox::shelf::Memory;
use crate::inbox::{
    Announced, Appended, Batch, Caps, Claimed, Described, Fenced, InboxTail, Limits, Login,
    NewEntry, Session,
};
use crate::key::{self, Key};
use hawser_proto::id::{BusinessNo, Position};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::convert::Infallible;
use tokio::sync::watch;

/// A store of maps. What it has is gone when it is dropped.
pub(crate) struct InMemory {
    held: Mutex<Held>,
    changes: watch::Sender<u64>,
}

/// All of it at one moment, to go back to.
#[derive(Clone, Default)]
pub(crate) struct Held {
    incarnation: u64,
    devices: BTreeMap<KeyBytes, Memory>,
    histories: BTreeMap<KeyBytes, Memory>,
    groups: BTreeMap<KeyBytes, GroupMeta>,
}

impl InMemory {
    pub(crate) fn new() -> Self {
        let held = Held { incarnation: 1, ..Held::default() };
        Self { held: Mutex::new(held), changes: watch::Sender::new(0) }
    }

    /// What it holds now.
    pub(crate) fn snapshot(&self) -> Held {
        self.held.lock().clone()
    }

    /// Goes back in time, as a store does that lost its last writes; another incarnation.
    pub(crate) fn forget_everything_after(&self, snapshot: Held) {
        let mut held = self.held.lock();
        let incarnation = held.incarnation + 1;
        *held = Held { incarnation, ..snapshot };
        self.changes.send_modify(|count| *count += 1);
    }

    /// Starts again with all it has; another incarnation.
    pub(crate) fn restart(&self) {
        self.held.lock().incarnation += 1;
        self.changes.send_modify(|count| *count += 1);
    }

    #[allow(clippy::unnecessary_wraps, reason = "what the trait returns")]
    fn on_device<T>(
        &self,
        key: &Key,
        act: impl FnOnce(&mut Memory, u64) -> Result<T, Infallible>,
    ) -> Result<T, StoreError> {
        let mut held = self.held.lock();
        let incarnation = held.incarnation;
        let Ok(done) = act(held.devices.entry(key.as_bytes().into()).or_default(), incarnation);
        Ok(done)
    }

    #[allow(clippy::unnecessary_wraps, reason = "what the trait returns")]
    fn on_history<T>(
        &self,
        key: &Key,
        act: impl FnOnce(&mut Memory, u64) -> Result<T, Infallible>,
    ) -> Result<T, StoreError> {
        let mut held = self.held.lock();
        let incarnation = held.incarnation;
        let Ok(done) = act(held.histories.entry(key.as_bytes().into()).or_default(), incarnation);
        Ok(done)
    }
}

#[tonic::async_trait]
impl Store for InMemory {
    async fn claim(
        &self,
        device: &Key,
        login: Login,
        cursors: Positions,
        now_ms: u64,
    ) -> Result<Claimed, StoreError> {
        self.on_device(device, |shelf, _| rules::claim(shelf, login, &cursors, now_ms))
    }

    async fn announce(
        &self,
        device: &Key,
        epoch: u64,
        login: Login,
        sent: Positions,
        now_ms: u64,
    ) -> Result<Announced, StoreError> {
        self.on_device(device, |shelf, _| rules::announce(shelf, epoch, login, &sent, now_ms))
    }

    async fn release(
        &self,
        device: &Key,
        session: Session,
        sent: Positions,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.on_device(device, |shelf, _| rules::release(shelf, &session, &sent, now_ms))
    }

    async fn append(
        &self,
        device: &Key,
        business: BusinessNo,
        new: NewEntry,
        caps: Caps,
        _durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError> {
        let done = self.on_device(device, |shelf, incarnation| {
            rules::append(shelf, business, new, caps, incarnation, now_ms)
        })?;
        Ok((done, Durability::Memory))
    }

    async fn fetch(
        &self,
        device: &Key,
        session: &Session,
        business: BusinessNo,
        after: Position,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Result<Batch, Fenced>, StoreError> {
        self.on_device(device, |shelf, _| {
            rules::fetch(shelf, session, business, after, limits, now_ms)
        })
    }

    async fn ack(
        &self,
        device: &Key,
        session: &Session,
        upto: Positions,
        now_ms: u64,
    ) -> Result<Result<(), Fenced>, StoreError> {
        self.on_device(device, |shelf, _| rules::ack(shelf, session, &upto, now_ms))
    }

    async fn sweep(
        &self,
        device: &Key,
        session: &Session,
        acked: Positions,
        now_ms: u64,
    ) -> Result<Result<Vec<InboxTail>, Fenced>, StoreError> {
        self.on_device(device, |shelf, _| rules::sweep(shelf, session, &acked, now_ms))
    }

    async fn describe(&self, device: &Key, business: BusinessNo) -> Result<Described, StoreError> {
        self.on_device(device, |shelf, _| rules::describe(shelf, business))
    }

    async fn purge(&self, device: &Key, business: BusinessNo) -> Result<u64, StoreError> {
        self.on_device(device, |shelf, _| rules::purge(shelf, business))
    }

    async fn publish(
        &self,
        group: &Key,
        new: NewEntry,
        caps: Caps,
        _durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError> {
        let done = self.on_history(group, |shelf, incarnation| {
            rules::publish(shelf, new, caps, incarnation, now_ms)
        })?;
        Ok((done, Durability::Memory))
    }

    async fn history(
        &self,
        group: &Key,
        after: Position,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Batch, StoreError> {
        self.on_history(group, |shelf, _| rules::history(shelf, after, limits, now_ms))
    }

    async fn change_groups(&self, changes: Vec<GroupChange>) -> Result<(), StoreError> {
        let mut held = self.held.lock();
        for change in changes {
            match change {
                GroupChange::Put(key, meta) => {
                    let key: KeyBytes = key.as_bytes().into();
                    if meta.history.is_some() {
                        let history = held.histories.entry(key.clone()).or_default();
                        let Ok(()) = rules::begin_history(history, meta.created_ms);
                    } else {
                        held.histories.remove(&key);
                    }
                    held.groups.insert(key, meta);
                }
                GroupChange::Delete(key, _) => {
                    held.histories.remove(key.as_bytes());
                    held.groups.remove(key.as_bytes());
                }
            }
        }
        Ok(())
    }

    async fn groups(&self) -> Result<Vec<(KeyBytes, GroupMeta)>, StoreError> {
        let held = self.held.lock();
        Ok(held.groups.iter().map(|(key, meta)| (key.clone(), meta.clone())).collect())
    }

    async fn groups_of(
        &self,
        app: &str,
        owner: u32,
        after: &str,
        max: usize,
    ) -> Result<Vec<String>, StoreError> {
        let held = self.held.lock();
        let theirs = held.groups.iter().filter(|(_, meta)| meta.owner == owner);
        let mut ids: Vec<String> = theirs
            .filter_map(|(key, _)| key::split(key))
            .filter(|&(of, id)| of == app && id > after)
            .map(|(_, id)| id.to_owned())
            .collect();
        ids.sort_unstable();
        ids.truncate(max);
        Ok(ids)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests;
