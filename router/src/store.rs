//! What survives a restart: sessions, inboxes, groups and their histories.
//!
//! One trait, several engines: `embedded` in the process, `redis` for many routers. Each call is one
//! atomic step of [`crate::inbox::rules`] on one device or group, has a time-out of its own, and is held
//! to one contract suite (`contract`) next to the plain reference `memory`.

#[cfg(test)]
pub(crate) mod contract;
pub(crate) mod embedded;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod redis;

use crate::inbox::{
    Announced, Appended, Batch, Caps, Claimed, Described, Fenced, InboxTail, Limits, Login,
    NewEntry, Session,
};
use crate::key::Key;
use hawser_proto::id::{BusinessNo, Position};
use std::sync::Arc;
use tokio::sync::watch;

/// A stored key: the bytes of a [`Key`].
pub type KeyBytes = Box<[u8]>;

/// Positions by business.
pub type Positions = Vec<(BusinessNo, Position)>;

/// A group as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMeta {
    /// Number of the business that owns it.
    pub owner: u32,
    /// When it was created, milliseconds since 1970.
    pub created_ms: u64,
    /// A history group, with its bounds.
    pub history: Option<HistoryCaps>,
}

/// Bounds of a group's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryCaps {
    /// Entries kept.
    pub entries_max: u32,
    /// How long each is kept, in milliseconds.
    pub age_ms_max: u64,
}

/// One change to a group. Deleting one deletes its history.
#[derive(Clone, Debug)]
pub enum GroupChange {
    /// It is made.
    Put(Key, GroupMeta),
    /// It is no more.
    Delete(Key, GroupMeta),
}

/// What survives which failure. Ordered by what it costs; see [`Store::append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// In the memory of the store.
    Memory,
    /// And of at least one replica.
    Replica,
    /// Synced to disk.
    Disk,
}

/// Why the store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine failed. It may or may not have been done.
    #[error("the store failed")]
    Engine(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// No answer in time. It may or may not have been done.
    #[error("the store did not answer in time")]
    Timeout,
    /// The store takes no writes just now (a full disk, a replica, memory used up). Nothing was done.
    #[error("the store takes no writes")]
    ReadOnly,
    /// Too many calls wait. Nothing was done.
    #[error("too many calls wait for the store")]
    Overloaded,
    /// The store has not answered for a while, and was not asked. Nothing was done.
    #[error("the store cannot be reached")]
    Unreachable,
    /// A value that this version did not write.
    #[error("a stored value cannot be read")]
    Value,
}

impl StoreError {
    /// Whether the call certainly changed nothing.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::ReadOnly | Self::Overloaded | Self::Unreachable)
    }
}

/// The engine. Dropping a call leaves open whether it was done. `now_ms` is the wall clock.
#[tonic::async_trait]
pub trait Store: Send + Sync + 'static {
    /// See [`crate::inbox::rules::claim`]. Not synced to disk.
    async fn claim(
        &self,
        device: &Key,
        login: Login,
        cursors: Positions,
        now_ms: u64,
    ) -> Result<Claimed, StoreError>;

    /// See [`crate::inbox::rules::announce`]. Not synced to disk. `sent`: how far each inbox was written
    /// to the link, so that a store that went back in time gives no such position out again.
    async fn announce(
        &self,
        device: &Key,
        epoch: u64,
        login: Login,
        sent: Positions,
        now_ms: u64,
    ) -> Result<Announced, StoreError>;

    /// See [`crate::inbox::rules::release`]. Not synced to disk.
    async fn release(
        &self,
        device: &Key,
        session: Session,
        sent: Positions,
        now_ms: u64,
    ) -> Result<bool, StoreError>;

    /// See [`crate::inbox::rules::append`]. Answers once the entry is as durable as was asked, or as
    /// durable as this store can make it, with what was reached. `None`: the store's own choice. A
    /// repeated push id is answered with the durability that can be vouched for now.
    async fn append(
        &self,
        device: &Key,
        business: BusinessNo,
        new: NewEntry,
        caps: Caps,
        durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError>;

    /// See [`crate::inbox::rules::fetch`].
    async fn fetch(
        &self,
        device: &Key,
        session: &Session,
        business: BusinessNo,
        after: Position,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Result<Batch, Fenced>, StoreError>;

    /// See [`crate::inbox::rules::ack`]. Not synced to disk: a lost trim is made again.
    async fn ack(
        &self,
        device: &Key,
        session: &Session,
        upto: Positions,
        now_ms: u64,
    ) -> Result<Result<(), Fenced>, StoreError>;

    /// See [`crate::inbox::rules::sweep`].
    async fn sweep(
        &self,
        device: &Key,
        session: &Session,
        acked: Positions,
        now_ms: u64,
    ) -> Result<Result<Vec<InboxTail>, Fenced>, StoreError>;

    /// See [`crate::inbox::rules::describe`].
    async fn describe(&self, device: &Key, business: BusinessNo) -> Result<Described, StoreError>;

    /// See [`crate::inbox::rules::purge`]. Synced to disk by the embedded engine; on Redis as durable as any
    /// write there is.
    async fn purge(&self, device: &Key, business: BusinessNo) -> Result<u64, StoreError>;

    /// Appends to a group's history, as [`Store::append`] does; the group's shelf has no owner. See
    /// [`crate::inbox::rules::publish`]: where there is no history (any more), none begins.
    async fn publish(
        &self,
        group: &Key,
        new: NewEntry,
        caps: Caps,
        durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError>;

    /// See [`crate::inbox::rules::history`].
    async fn history(
        &self,
        group: &Key,
        after: Position,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Batch, StoreError>;

    /// Makes these changes, all or none where the engine can, and syncs them to disk. A group put with a
    /// history begins one ([`crate::inbox::rules::begin_history`]); put without, or deleted: it ends. Redis
    /// syncs as it is set up to and waits for no replica: a group that it lost is put again after
    /// [`Store::changes`] moved, one whose deletion it lost may be back after a restart of the router.
    async fn change_groups(&self, changes: Vec<GroupChange>) -> Result<(), StoreError>;

    /// All groups, for the start.
    async fn groups(&self) -> Result<Vec<(KeyBytes, GroupMeta)>, StoreError>;

    /// Group ids of one business, in order, after `after`; at most `max`.
    async fn groups_of(
        &self,
        app: &str,
        owner: u32,
        after: &str,
        max: usize,
    ) -> Result<Vec<String>, StoreError>;

    /// Grows whenever the store may have lost or forgotten something: another incarnation, a connection
    /// that broke. Whoever watches has access nodes sweep.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Writes and syncs what is left, and ends the engine's threads and tasks.
    async fn close(&self);
}
