//! The rules of what is stored: one device's route and its inboxes, one group's history.
//!
//! Pure: no clock, no disk, no stream. [`rules`] decides over a [`shelf::Shelf`], which is how an engine
//! shows what it holds of one device or group; [`shelf::Memory`] is the plain one, the reference for the
//! engines in `store` and the one the simulation runs on. Times come in as arguments.

pub mod rules;
pub mod shelf;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use hawser_proto::id::{BootId, BusinessNo, NodeId, Position, SlotRef};

/// A connection, as the store names the owner of a device's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The access node.
    pub node: NodeId,
    /// Which of its process starts.
    pub boot: BootId,
    /// Where on it.
    pub at: SlotRef,
}

/// A session as a fence names it: nothing is trimmed, moved or released by anyone else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The connection.
    pub owner: Owner,
    /// Its epoch.
    pub epoch: u64,
}

/// Who has a device's session, or had it last. Kept for [`rules::ROUTE_KEEP`] after the end of a session,
/// or a delayed old login would win afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The last epoch given out.
    pub epoch: u64,
    /// The connection that has it; `None`: released.
    pub owner: Option<Owner>,
    /// The installation that logged in last.
    pub instance: [u8; 16],
    /// And its attempt.
    pub attempt: u64,
    /// When it was last written or seen in use, milliseconds since 1970.
    pub at_ms: u64,
    /// Businesses that want to hear of this session; in order. Empty once it has ended.
    pub watchers: Vec<BusinessNo>,
    /// It has ended because its node died, and a business has still to hear so.
    pub is_lost: bool,
}

/// What a business has heard of a device. Kept while that is that it is online; that it is not is what is known
/// of everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Of which session.
    pub epoch: u64,
    /// That it began; else that it ended.
    pub is_online: bool,
    /// Its connection.
    pub owner: Owner,
    /// The business has said so. Else it is about to be told, or was told and has not said that it heard.
    pub is_confirmed: bool,
}

/// Something that a business has to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which business.
    pub business: BusinessNo,
    /// What it will have heard then.
    pub heard: Heard,
    /// When it happened, milliseconds since 1970.
    pub at_ms: u64,
    /// Why an offline.
    pub cause: EventCause,
}

/// Why a session is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EventCause {
    /// It is an online.
    #[default]
    None,
    /// The connection ended.
    Closed,
    /// A newer login took over.
    Superseded,
    /// Its node died.
    NodeLost,
}

/// A login that wants the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The connection it came over.
    pub owner: Owner,
    /// The installation.
    pub instance: [u8; 16],
    /// Its attempt.
    pub attempt: u64,
    /// Of the businesses it serves, those that want to hear of it; in order.
    pub watchers: Vec<BusinessNo>,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The session is this connection's.
    Bound {
        /// Its epoch.
        epoch: u64,
        /// The session it was taken from, if there was one that nobody had released.
        displaced: Option<Session>,
        /// Inboxes that hold something, or of which there is something to say; by business.
        inboxes: Vec<InboxTail>,
    },
    /// The attempt is not above the remembered one of the same installation (P5).
    Stale,
}

/// What came of an announcement: a live session that tells of itself again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// It is the session.
    Bound {
        /// Its epoch from now on: as it was, unless it had ended and came back.
        epoch: u64,
        /// The session it was taken from, if there was one that nobody had released.
        displaced: Option<Session>,
        /// As of a claim.
        inboxes: Vec<InboxTail>,
    },
    /// A newer session is known.
    Superseded {
        /// Its epoch.
        epoch: u64,
    },
}

/// One inbox as the owner of the session should know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxTail {
    /// Whose inbox.
    pub business: BusinessNo,
    /// The newest position.
    pub tail: Position,
    /// Everything up to here is gone.
    pub floor: Position,
    /// Entries that wait.
    pub count: u32,
    /// What the device has to be told.
    pub state: InboxState,
    /// Highest priority that waits.
    pub priority: Priority,
}

/// How an inbox stands to the cursor that the device brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InboxState {
    /// As the device left it.
    #[default]
    Fine,
    /// The store went back behind the cursor.
    TermChanged,
    /// The cursor lies too far ahead to be believed; it was not taken.
    CursorRefused,
}

/// Orders between inboxes, and who leaves first at an overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Leaves first.
    Low = 0,
    /// The usual.
    #[default]
    Normal = 1,
    /// Leaves last, comes first.
    High = 2,
}

impl Priority {
    /// All, the lowest first.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// The one with this number; anything unknown is normal.
    pub fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Low,
            2 => Self::High,
            _ => Self::Normal,
        }
    }
}

/// A push that wants to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// The caller's push id: the idempotency key.
    pub push_id: Bytes,
    /// Digest of everything the caller said, so that an id used twice for different things is found.
    pub digest: u64,
    /// When it is worth nothing any more, milliseconds since 1970.
    pub expires_at_ms: u64,
    /// Of one key only the newest stays; empty: none.
    pub collapse_key: Bytes,
    /// See [`Priority`].
    pub priority: Priority,
    /// What reaches the device, opaque here.
    pub blob: Bytes,
}

/// Bounds of one inbox or history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Entries.
    pub entries_max: u32,
    /// Bytes, by [`weight`].
    pub bytes_max: u64,
    /// Full: the oldest of the lowest priority leaves. Else the new one is refused.
    pub drops_oldest: bool,
}

/// An entry as it lies on the shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The position before it when it was stored.
    pub prev: Position,
    /// When it was stored.
    pub at_ms: u64,
    /// See [`NewEntry::expires_at_ms`].
    pub expires_at_ms: u64,
    /// See [`NewEntry::priority`].
    pub priority: Priority,
    /// See [`NewEntry::collapse_key`].
    pub collapse_key: Bytes,
    /// See [`NewEntry::blob`].
    pub blob: Bytes,
}

/// What an entry counts against the byte bound of its inbox: its bytes, and 64 for its place.
pub fn weight(blob: &[u8], collapse_key: &[u8]) -> u64 {
    64 + (blob.len() + collapse_key.len()) as u64
}

/// What is known of an inbox beside its entries. It outlives them: positions are never given twice.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// The store's incarnation at the last append; another one begins a new term. 0 is no store's: the
    /// next append begins a new term in any case.
    pub incarnation: u64,
    /// Term and number of the last position given out.
    pub term: u64,
    /// See `term`.
    pub seq: u64,
    /// The newest position.
    pub tail: Position,
    /// Everything up to here is gone.
    pub floor: Position,
    /// The device has said that it took everything up to here.
    pub acked: Position,
    /// Entries that an earlier session may have been sent already.
    pub handed: Position,
    /// The highest position that left because the inbox was full, and how many did since it was empty.
    pub overflowed_to: Position,
    /// See `overflowed_to`.
    pub overflowed: u64,
    /// The highest position that was purged.
    pub purged_to: Position,
    /// Entries by priority.
    pub counts: [u32; 3],
    /// Their weight by priority.
    pub bytes: [u64; 3],
    /// By priority: no entry of it stands at or below. Where the search for one that may leave begins.
    pub above: [Position; 3],
    /// Before this nothing is worth looking for that is over its time.
    pub look_at_ms: u64,
    /// When it was last appended to or seen in use.
    pub touched_ms: u64,
}

impl Meta {
    /// Entries.
    pub fn count(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Weight of all entries.
    pub fn bytes_total(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// What is remembered of a push id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The position it was given.
    pub position: Position,
    /// See [`NewEntry::digest`].
    pub digest: u64,
    /// Remembered until then.
    pub until_ms: u64,
}

/// What came of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is stored.
    Stored {
        /// Where.
        position: Position,
        /// The position before it.
        prev: Position,
        /// Who has the session, from the same atomic step.
        owner: Option<Session>,
    },
    /// This push id was stored before: the same position, nothing was added (S5).
    Repeated {
        /// Where.
        position: Position,
    },
    /// This push id was used for something else.
    Reused,
    /// Its time was over before it was stored.
    Expired,
    /// The inbox is full, or the entry alone is above its bound.
    Overflow,
    /// There is no such history (any more).
    NoHistory,
}

/// Why a session may not do this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// A newer session is known.
    Superseded,
    /// The store knows an older session, or none: it went back in time.
    Forgotten,
}

/// One thing that a fetch found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Where it stands.
    pub position: Position,
    /// The surviving position before it, at least where the fetch began.
    pub prev: Position,
    /// The entry; `None`: only word that nothing above `prev` and up to `position` will come.
    pub entry: Option<Entry>,
    /// It may have been handed over before.
    pub redelivered: bool,
    /// Entries between `prev` and here that were removed and that the device never said it had, as far
    /// as the numbers tell.
    pub lost: u64,
    /// Why.
    pub reason: LostReason,
}

/// Why entries will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LostReason {
    /// Nothing is lost.
    #[default]
    None,
    /// The inbox was full.
    Overflow,
    /// Their time was over, or a newer one of the same kind took their place.
    Expired,
    /// The business emptied the inbox.
    Purged,
}

/// What a fetch answers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    /// In order.
    pub items: Vec<Fetched>,
    /// The newest position.
    pub tail: Position,
    /// Everything up to here is gone.
    pub floor: Position,
}

/// How much a fetch may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries; 0: only tail and floor are asked for.
    pub entries_max: u32,
    /// Bytes of blobs; one larger entry comes alone.
    pub bytes_max: u32,
}

/// What an operator sees of an inbox.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Described {
    /// Entries.
    pub entries: u64,
    /// Their weight.
    pub bytes: u64,
    /// The newest position.
    pub tail: Position,
    /// Everything up to here is gone.
    pub floor: Position,
    /// When the oldest entry was stored; 0: there is none.
    pub oldest_ms: u64,
    /// Entries that left because the inbox was full, since it was last empty.
    pub overflowed: u64,
}
