//! What survives a restart: sessions, inboxes, groups and their histories.
//!
//! One trait, several engines: `embedded` in the process, `redis` for many routers. Each call is one
//! atomic step of [`crate::inbox::rules`] on one device or group, has a time-out of its own, and is held
//! to one contract suite (`contract`) next to the plain reference `memory`.

#[cfg(test)]
pub(crate) mod contract;
pub(crate) mod embedded;
mod leases;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod redis;

use crate::inbox::{
    Announced, Appended, Batch, Caps, Claimed, Described, Event, Fenced, Heard, InboxTail, Limits,
    Login, NewEntry, Route, Session,
};
use crate::key::Key;
use hawser_proto::id::{BootId, BusinessNo, NodeId, Position, SlotRef};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A stored key: the bytes of a [`Key`].
pub type KeyBytes = Box<[u8]>;

/// Positions by business.
pub type Positions = Vec<(BusinessNo, Position)>;

/// Where a walk over sessions is to go on; each engine's own.
pub type WalkMark = Box<[u8]>;

/// A session as it is registered, so that it is found when its node dies. It may be over, or never have begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The device.
    pub device: KeyBytes,
    /// The connection of the boot that was registered last for it.
    pub at: SlotRef,
}

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

impl GroupMeta {
    /// Whether this, put in place of that, goes on with its history.
    pub(crate) fn goes_on_from(&self, before: &Self) -> bool {
        (self.owner, self.created_ms) == (before.owner, before.created_ms)
            && self.history.is_some()
            && before.history.is_some()
    }
}

/// One change to a group. Each is made only if the store has what the router that decided believes: several
/// routers decide. Deleting a group deletes its history.
#[derive(Clone, Debug)]
pub enum GroupChange {
    /// It is made, where there is none, or in place of exactly this one. Where the store has this very
    /// group already, it is left as it is, and the change counts as made.
    Put(Key, GroupMeta, Option<GroupMeta>),
    /// It is no more, if the store has exactly this one. Where there is none, the change counts as made.
    Delete(Key, GroupMeta),
    /// A store that lost it has it again, as a router knows it. One that has another one, or knows that this one
    /// was deleted or replaced within the last [`TOMBSTONE_KEEP`], keeps to that.
    Keep(Key, GroupMeta),
}

/// How long a store that several routers share remembers that a group was deleted: longer than any of them does
/// not hear of it.
pub(crate) const TOMBSTONE_KEEP: Duration = Duration::from_hours(1);

impl GroupChange {
    /// The group that it is about.
    pub(crate) fn key(&self) -> &Key {
        let (Self::Put(key, ..) | Self::Delete(key, _) | Self::Keep(key, _)) = self;
        key
    }

    /// What it comes to where the store has this group, or none.
    pub(crate) fn against(&self, known: Option<&GroupMeta>) -> Against {
        let (is_made, is_expected) = match self {
            Self::Put(_, meta, replaced) => (known == Some(meta), known == replaced.as_ref()),
            Self::Delete(_, meta) => (known.is_none(), known == Some(meta)),
            Self::Keep(_, meta) => (known == Some(meta), known.is_none()),
        };
        match (is_made, is_expected) {
            (true, _) => Against::IsMade,
            (false, true) => Against::Makes,
            (false, false) => Against::Differs,
        }
    }
}

/// What a change of a group comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// It is as is wanted.
    IsMade,
    /// As was believed: it is made now.
    Makes,
    /// Another router was faster.
    Differs,
}

/// What became of a change to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupChanged {
    /// It is as was wanted.
    Made,
    /// The store has another one, or none where one was to be replaced. Nothing was changed.
    Differs(Option<GroupMeta>),
    /// The part of the store that has this group did not do it, or did not say so. Asked for again it is made,
    /// if it was not.
    Failed(StoreError),
}

/// What other routers changed about groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupNews {
    /// The groups that were changed, in order, each to be read again; and the mark to ask for next.
    Changed(Vec<KeyBytes>, LogMark),
    /// Too much was missed, or the store went back: all groups are to be read again. With the mark to go
    /// on from, taken before they are.
    Reload(LogMark),
}

/// A place in the store's log of group changes; opaque. Empty: the beginning of a router's life.
pub type LogMark = Box<str>;

/// A node's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLease {
    /// The node.
    pub node: NodeId,
    /// Its process start.
    pub boot: BootId,
    /// For how long the lease holds from now on.
    pub left_ms: u64,
}

/// Another boot of the node holds a live lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another boot of this node holds a live lease")]
pub struct LeaseHeld;

/// A device about which a business may have to hear something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The device.
    pub device: KeyBytes,
    /// When it was marked, microseconds since 1970. No two marks of a shard have one time, and a later one is
    /// above all that are there.
    pub at: u64,
}

/// The mark of something that is marked now, where this is the last one.
fn next_mark(last: u64, now_ms: u64) -> u64 {
    now_ms.saturating_mul(1_000).max(last.saturating_add(1))
}

/// Shards of the marks of connection events, so that routers can share them.
pub const EVENT_SHARDS: u16 = 16;

/// In which shard a device is marked: in Redis Cluster, mostly on the primary that has the device.
pub(crate) fn event_shard(device: &[u8]) -> u16 {
    redis::event_shard(device)
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

/// By kind.
impl PartialEq for StoreError {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Eq for StoreError {}

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
    /// to the link, so that a store that went back in time gives no such position out again. `may_raise`:
    /// one that has ended comes back under a new epoch.
    async fn announce(
        &self,
        device: &Key,
        epoch: u64,
        login: Login,
        sent: Positions,
        may_raise: bool,
        now_ms: u64,
    ) -> Result<Announced, StoreError>;

    /// See [`crate::inbox::rules::raise`]. Not synced to disk. `is_watched` as of a release.
    async fn raise(
        &self,
        device: &Key,
        claimed: Session,
        above: u64,
        is_watched: bool,
        now_ms: u64,
    ) -> Result<Result<(), Fenced>, StoreError>;

    /// See [`crate::inbox::rules::release`]. Not synced to disk. `is_watched`: a business may have to hear of
    /// it, so the device is marked first.
    async fn release(
        &self,
        device: &Key,
        session: Session,
        sent: Positions,
        is_watched: bool,
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
    /// [`crate::inbox::rules::publish`]: where there is no history (any more), none begins. So it is, too,
    /// where the store has another group of this name than `of`: another router may have made it anew,
    /// for another business.
    async fn publish(
        &self,
        group: &Key,
        of: &GroupMeta,
        new: NewEntry,
        caps: Caps,
        durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError>;

    /// See [`crate::inbox::rules::history`]. Where the store has another group of this name than `of`, it is
    /// as where there is no history: its tail is at the start.
    async fn history(
        &self,
        group: &Key,
        of: &GroupMeta,
        after: Position,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Batch, StoreError>;

    /// Decides on each of these changes and makes it if nothing speaks against it, those of one group in
    /// their order; syncs them to disk. An answer for each. A group put with a history begins one
    /// ([`crate::inbox::rules::begin_history`]); put without, or deleted: it ends. The engine in the process
    /// makes all or none, Redis some, where a primary is away: each says so. Redis syncs as
    /// it is set up to and waits for no replica: a group that it lost is put again after [`Store::changes`]
    /// moved, one whose deletion it lost may be back after a restart of the routers.
    async fn change_groups(
        &self,
        changes: Vec<GroupChange>,
    ) -> Result<Vec<GroupChanged>, StoreError>;

    /// One group, as it stands: for a router that does not know it (yet).
    async fn group(&self, group: &Key) -> Result<Option<GroupMeta>, StoreError>;

    /// What was changed about groups since this mark. Engines with one router have no news. A change is in
    /// the log when [`Store::change_groups`] has answered; one of a router that died before may be missing until
    /// it is asked for again.
    async fn group_news(&self, after: &LogMark) -> Result<GroupNews, StoreError>;

    /// Who has the device's session, as [`crate::inbox::Route`]; for routers that nobody told.
    async fn route(&self, device: &Key, now_ms: u64) -> Result<Option<Route>, StoreError>;

    /// Begins or renews the lease of a node's boot for this long at least, unless another boot holds one: what
    /// another router, which heard the node later, has asked for is not cut short.
    async fn renew_node(
        &self,
        node: &NodeId,
        boot: BootId,
        lease_ms: u64,
    ) -> Result<Result<(), LeaseHeld>, StoreError>;

    /// The node has said goodbye: ends its lease, if it is this boot's. Its sessions stay registered.
    async fn leave_node(&self, node: &NodeId, boot: BootId) -> Result<(), StoreError>;

    /// All leases that hold. A store that failed over may have lost one that its node still believes in, until
    /// it is renewed: who is missing once need not be dead.
    async fn node_leases(&self) -> Result<Vec<NodeLease>, StoreError>;

    /// The boots of nodes that have, or had, sessions registered: `claim` and `announce` register before
    /// they take effect, `release` and [`Store::end_lost`] remove after. One that has no lease is dead.
    async fn boots_with_sessions(&self) -> Result<Vec<(NodeId, BootId)>, StoreError>;

    /// Some of the devices registered on this boot, which may have gone since; empty: none are left, and the
    /// boot is forgotten. Those on a part of the store that does not answer are left out, unless there are no
    /// others: then it fails.
    async fn sessions_of(
        &self,
        node: &NodeId,
        boot: BootId,
        max: usize,
    ) -> Result<Vec<KeyBytes>, StoreError>;

    /// Ends the device's session if it is on this boot, whose lease has ended, as
    /// [`crate::inbox::rules::end_lost`]; and removes the registration. True: there was one.
    async fn end_lost(
        &self,
        device: &Key,
        node: &NodeId,
        boot: BootId,
        now_ms: u64,
    ) -> Result<bool, StoreError>;

    /// Walks over what is registered on this boot: some that follow `after`, and where to go on; `None`: it is
    /// through. An empty mark: from the start. About `max` at a time, or none at all. What is registered all
    /// the while is met once at least, unless its part of the store does not answer, which is passed over.
    async fn walk_sessions(
        &self,
        node: &NodeId,
        boot: BootId,
        after: &WalkMark,
        max: usize,
    ) -> Result<(Vec<Registered>, Option<WalkMark>), StoreError>;

    /// Ends exactly this session, of which its node knows nothing, as [`crate::inbox::rules::end_gone`]; and
    /// removes the registration of its connection, unless that has the session under another epoch. True: it
    /// was there.
    async fn end_gone(
        &self,
        device: &Key,
        session: &Session,
        now_ms: u64,
    ) -> Result<bool, StoreError>;

    /// Takes a duty that one router of all does at a time, or keeps it, for this long. False: another has it.
    /// After a failover of the store two may have it for as long: it only saves work.
    async fn hold_duty(&self, duty: &str, holder: u64, ttl_ms: u64) -> Result<bool, StoreError>;

    /// Devices of one shard that were marked after this: a business may have to hear of them. In order. Whoever
    /// is marked again is found anew.
    async fn marked(&self, shard: u16, after: u64, max: usize) -> Result<Vec<Marked>, StoreError>;

    /// What businesses have not heard of this device, see [`crate::inbox::rules::events_due`].
    async fn events_due(&self, device: &Key, now_ms: u64) -> Result<Vec<Event>, StoreError>;

    /// The business has heard this much, or is about to; see [`crate::inbox::rules::event_heard`]. False: so it
    /// is not noted.
    async fn event_heard(
        &self,
        device: &Key,
        business: BusinessNo,
        heard: Heard,
        now_ms: u64,
    ) -> Result<bool, StoreError>;

    /// Takes a mark away, if it is still the one that was seen. A claim marks before it takes effect, so whoever
    /// takes a mark away must have seen it, by a clock of its own, for longer than any call may take, and found
    /// nothing due of the device after that. The mark's own time says nothing: it is of another clock.
    async fn unmark(&self, shard: u16, seen: &Marked) -> Result<(), StoreError>;

    /// How many devices of a shard are marked.
    async fn marks(&self, shard: u16) -> Result<u64, StoreError>;

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

    /// Grows whenever the store may have lost or forgotten something: another incarnation, other servers. Whoever
    /// watches has access nodes sweep.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Writes and syncs what is left, and ends the engine's threads and tasks.
    async fn close(&self);
}
