//! What a case works at: devices and groups of its own, and a clock that it moves.

use super::Harness;
use crate::inbox::{
    Announced, Appended, Batch, Caps, Claimed, Described, Fenced, InboxTail, Limits, Login,
    NewEntry, Owner, Priority, Session,
};
use crate::key::Key;
use crate::store::{GroupMeta, HistoryCaps, Positions, Store};
use bytes::Bytes;
use hawser_proto::id::{AppId, BootId, BusinessNo, NodeId, Position, SlotRef};
use std::sync::Arc;

pub(crate) const CHAT: BusinessNo = BusinessNo(7);
pub(crate) const SHOP: BusinessNo = BusinessNo(70_000);
pub(crate) const WIDE: Caps = Caps { entries_max: 100, bytes_max: 100_000, drops_oldest: true };
pub(crate) const ALL: Limits = Limits { entries_max: 1_000, bytes_max: 10_000_000 };
pub(crate) const HOUR_MS: u64 = 3_600_000;
pub(crate) const DAY_MS: u64 = 24 * HOUR_MS;
/// Far ahead of any clock, so that no walk of an engine by its own clock comes in between.
pub(crate) const BEGIN_MS: u64 = 4_000_000_000_000;

pub(crate) struct Desk<'house> {
    harness: &'house mut dyn Harness,
    case: &'static str,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) now_ms: u64,
}

pub(crate) fn owner(slot: u32) -> Owner {
    let node = NodeId::new(if slot.is_multiple_of(2) { "even" } else { "odd" }).expect("a name");
    Owner { node, boot: BootId(u64::MAX - 5), at: SlotRef { slot, generation: 1 } }
}

pub(crate) fn login(slot: u32, instance: u8, attempt: u64) -> Login {
    Login { owner: owner(slot), instance: [instance; 16], attempt, watchers: Vec::new() }
}

/// A push that lives for a day.
pub(crate) fn entry(id: &str, now_ms: u64) -> NewEntry {
    NewEntry {
        push_id: Bytes::copy_from_slice(id.as_bytes()),
        digest: u64::MAX - 1,
        expires_at_ms: now_ms + DAY_MS,
        collapse_key: Bytes::new(),
        priority: Priority::Normal,
        blob: Bytes::from(format!("body of {id}")),
    }
}

pub(crate) fn capped(entries_max: u32, drops_oldest: bool) -> Caps {
    Caps { entries_max, drops_oldest, ..WIDE }
}

/// Bodies of what came, without "body of ".
pub(crate) fn bodies(batch: &Batch) -> Vec<String> {
    let entries = batch.items.iter().filter_map(|item| item.entry.as_ref());
    let text = |blob: &Bytes| String::from_utf8(blob.to_vec()).expect("text");
    entries.map(|entry| text(&entry.blob).replace("body of ", "")).collect()
}

/// What was bound, or a panic.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) session: Session,
    pub(crate) displaced: Option<Session>,
    pub(crate) inboxes: Vec<InboxTail>,
}

impl<'house> Desk<'house> {
    pub(crate) fn new(harness: &'house mut dyn Harness, case: &'static str) -> Self {
        let store = harness.store();
        Self { harness, case, store, now_ms: BEGIN_MS }
    }

    pub(crate) async fn restart(&mut self) {
        // An engine with a lock on its folder has to be let go of.
        self.store = Arc::new(crate::store::memory::InMemory::new());
        self.harness.restart().await;
        self.store = self.harness.store();
    }

    /// The store as another router has it.
    pub(crate) async fn other(&self) -> Arc<dyn Store> {
        self.harness.other().await
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.harness.is_shared()
    }

    /// An app of this case alone.
    pub(crate) fn app(&self) -> AppId {
        let digest = self.case.bytes().fold(0u64, |sum, byte| {
            sum.wrapping_mul(0x100_0000_01b3).wrapping_add(u64::from(byte))
        });
        AppId::new(&format!("case-{digest:x}")).expect("a name")
    }

    pub(crate) fn device(&self, id: &str) -> Key {
        Key::device(&self.app(), id).expect("an id")
    }

    pub(crate) fn group(&self, id: &str) -> Key {
        Key::group(&self.app(), id).expect("an id")
    }

    pub(crate) fn live_group(owner: u32) -> GroupMeta {
        GroupMeta { owner, created_ms: BEGIN_MS, history: None }
    }

    pub(crate) fn history_group(owner: u32) -> GroupMeta {
        let history = Some(HistoryCaps { entries_max: 10, age_ms_max: HOUR_MS });
        GroupMeta { history, ..Self::live_group(owner) }
    }

    pub(crate) async fn try_claim(&self, key: &Key, login: Login, cursors: Positions) -> Claimed {
        self.store.claim(key, login, cursors, self.now_ms).await.expect("a store")
    }

    pub(crate) async fn claim(&self, key: &Key, login: Login, cursors: Positions) -> Bound {
        let owner = login.owner.clone();
        match self.try_claim(key, login, cursors).await {
            Claimed::Bound { epoch, displaced, inboxes } => {
                Bound { session: Session { owner, epoch }, displaced, inboxes }
            }
            Claimed::Stale => panic!("a claim that was taken for stale"),
        }
    }

    pub(crate) async fn try_announce(
        &self,
        key: &Key,
        epoch: u64,
        login: Login,
        sent: Positions,
    ) -> Announced {
        self.store.announce(key, epoch, login, sent, true, self.now_ms).await.expect("a store")
    }

    pub(crate) async fn announce(
        &self,
        key: &Key,
        epoch: u64,
        login: Login,
        sent: Positions,
    ) -> Bound {
        let owner = login.owner.clone();
        match self.try_announce(key, epoch, login, sent).await {
            Announced::Bound { epoch, displaced, inboxes } => {
                Bound { session: Session { owner, epoch }, displaced, inboxes }
            }
            Announced::Superseded { epoch } => panic!("superseded by {epoch}"),
        }
    }

    pub(crate) async fn release(&self, key: &Key, session: &Session, sent: Positions) -> bool {
        self.store.release(key, session.clone(), sent, false, self.now_ms).await.expect("a store")
    }

    pub(crate) async fn append(&self, key: &Key, new: NewEntry, caps: Caps) -> Appended {
        self.append_to(key, CHAT, new, caps).await
    }

    pub(crate) async fn append_to(
        &self,
        key: &Key,
        business: BusinessNo,
        new: NewEntry,
        caps: Caps,
    ) -> Appended {
        let done = self.store.append(key, business, new, caps, None, self.now_ms).await;
        done.expect("a store").0
    }

    /// Stores a plain push; where.
    pub(crate) async fn push(&self, key: &Key, id: &str) -> Position {
        stored(self.append(key, entry(id, self.now_ms), WIDE).await).0
    }

    pub(crate) async fn push_all(&self, key: &Key, ids: &[&str]) -> Vec<Position> {
        let mut positions = Vec::new();
        for id in ids {
            positions.push(self.push(key, id).await);
        }
        positions
    }

    pub(crate) async fn try_fetch(
        &self,
        key: &Key,
        session: &Session,
        after: Position,
        limits: Limits,
    ) -> Result<Batch, Fenced> {
        let found = self.store.fetch(key, session, CHAT, after, limits, self.now_ms).await;
        found.expect("a store")
    }

    /// All above a position.
    pub(crate) async fn fetch(&self, key: &Key, session: &Session, after: Position) -> Batch {
        self.try_fetch(key, session, after, ALL).await.expect("the owner")
    }

    pub(crate) async fn ack(
        &self,
        key: &Key,
        session: &Session,
        upto: Position,
    ) -> Result<(), Fenced> {
        let done = self.store.ack(key, session, vec![(CHAT, upto)], self.now_ms).await;
        done.expect("a store")
    }

    pub(crate) async fn sweep(
        &self,
        key: &Key,
        session: &Session,
        acked: Positions,
    ) -> Result<Vec<InboxTail>, Fenced> {
        self.store.sweep(key, session, acked, self.now_ms).await.expect("a store")
    }

    pub(crate) async fn describe(&self, key: &Key) -> Described {
        self.store.describe(key, CHAT).await.expect("a store")
    }

    pub(crate) async fn publish(&self, key: &Key, new: NewEntry, caps: Caps) -> Appended {
        let of = self.known(key).await;
        let done = self.store.publish(key, &of, new, caps, None, self.now_ms).await;
        done.expect("a store").0
    }

    pub(crate) async fn history(&self, key: &Key, after: Position) -> Batch {
        let of = self.known(key).await;
        self.store.history(key, &of, after, ALL, self.now_ms).await.expect("a store")
    }

    /// The group as a router knows it that is up to date; some other one where there is none.
    pub(crate) async fn known(&self, key: &Key) -> GroupMeta {
        let known = self.store.group(key).await.expect("a store");
        known.unwrap_or_else(|| Self::history_group(1))
    }
}

/// Position and the one before it.
pub(crate) fn stored(appended: Appended) -> (Position, Position) {
    match appended {
        Appended::Stored { position, prev, .. } => (position, prev),
        other => panic!("not stored: {other:?}"),
    }
}
