//! A store that fails, hangs and forgets to answer when the test says so, in front of one that does not.

use bytes::Bytes;
use hawser_proto::id::{BootId, BusinessNo, NodeId, Position};
use hawser_router::cores::{
    Announced, Appended, Batch, Caps, Claimed, Described, Event, Fenced, Heard, InboxTail, Limits,
    Login, NewEntry, Route, Session,
};
use hawser_router::stores::{
    Durability, GroupChange, GroupChanged, GroupMeta, GroupNews, Key, KeyBytes, LeaseHeld, LogMark,
    Marked, NodeLease, Positions, Registered, Store, StoreError, WalkMark,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// What the store does just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Answers,
    /// Says at once that it failed, and does nothing.
    Fails,
    /// Says at once that it cannot be reached.
    Unreachable,
    /// Takes no writes.
    ReadOnly,
    /// Neither does nor says anything until the mode is another.
    Hangs,
    /// Does what it is asked and never says so.
    IsSilent,
    /// Does what it is asked, and says so when the mode is another.
    IsLate,
    /// Fails to say what others changed about groups.
    HasNoNews,
    /// Does not say what it did with changes of groups until the mode is another.
    ChangesHang,
    /// Answers publishes late, and each by another measure.
    Dawdles,
}

pub struct Faulty {
    inner: Arc<dyn Store>,
    mode: watch::Sender<Mode>,
    changed: watch::Sender<u64>,
    claims: AtomicU64,
    releases: AtomicU64,
    publishes: AtomicU64,
    news_asked: AtomicU64,
    sweeping: AtomicU64,
    swept_together: AtomicU64,
    told: Mutex<Told>,
}

/// What others changed, and a group that cannot be read.
#[derive(Default)]
struct Told {
    changed: Vec<KeyBytes>,
    unreadable: Option<KeyBytes>,
}

/// One of those that are under way, also when nobody waits for it any more.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn over(now: &'a AtomicU64, most: &AtomicU64) -> Self {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(now)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("on purpose")]
struct OnPurpose;

impl Faulty {
    pub fn before(inner: Arc<dyn Store>) -> Arc<Self> {
        let (mode, changed) = (watch::Sender::new(Mode::Answers), watch::Sender::new(0));
        let (releases, publishes) = (AtomicU64::new(0), AtomicU64::new(0));
        let (claims, news_asked) = (AtomicU64::new(0), AtomicU64::new(0));
        let told = Mutex::default();
        let (sweeping, swept_together) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self {
            inner,
            mode,
            changed,
            claims,
            releases,
            publishes,
            news_asked,
            sweeping,
            swept_together,
            told,
        })
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Says that something may be lost.
    pub fn change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Claims that reached the store.
    pub fn claims(&self) -> u64 {
        self.claims.load(Ordering::SeqCst)
    }

    /// Releases that reached the store.
    pub fn releases(&self) -> u64 {
        self.releases.load(Ordering::SeqCst)
    }

    /// The most sessions that sweeps asked about at the same time.
    pub fn swept_together(&self) -> u64 {
        self.swept_together.load(Ordering::SeqCst)
    }

    /// How often it was asked what others changed.
    pub fn news_asked(&self) -> u64 {
        self.news_asked.load(Ordering::SeqCst)
    }

    /// Says from now on that others changed these groups, of which one cannot be read.
    pub fn tell(&self, changed: &[Key], unreadable: &Key) {
        let changed = changed.iter().map(|key| key.as_bytes().into()).collect();
        let unreadable = Some(unreadable.as_bytes().into());
        *self.told.lock().unwrap() = Told { changed, unreadable };
    }

    async fn gate(&self) -> Result<(), StoreError> {
        let mut mode = self.mode.subscribe();
        let now = *mode.wait_for(|mode| *mode != Mode::Hangs).await.expect("it is held by self");
        match now {
            Mode::Fails => Err(StoreError::Engine(Arc::new(OnPurpose))),
            Mode::Unreachable => Err(StoreError::Unreachable),
            _ => Ok(()),
        }
    }

    async fn gate_write(&self) -> Result<(), StoreError> {
        self.gate().await?;
        let mode = *self.mode.borrow();
        if mode == Mode::ReadOnly { Err(StoreError::ReadOnly) } else { Ok(()) }
    }

    async fn say<T>(&self, done: T) -> T {
        let mut mode = self.mode.subscribe();
        if *mode.borrow() == Mode::IsSilent {
            std::future::pending::<()>().await;
        }
        let _ = mode.wait_for(|mode| *mode != Mode::IsLate).await;
        done
    }
}

#[tonic::async_trait]
impl Store for Faulty {
    async fn claim(
        &self,
        device: &Key,
        login: Login,
        cursors: Positions,
        now_ms: u64,
    ) -> Result<Claimed, StoreError> {
        self.gate_write().await?;
        let done = self.inner.claim(device, login, cursors, now_ms).await;
        self.claims.fetch_add(1, Ordering::SeqCst);
        self.say(done).await
    }

    async fn announce(
        &self,
        device: &Key,
        epoch: u64,
        login: Login,
        sent: Positions,
        may_raise: bool,
        now_ms: u64,
    ) -> Result<Announced, StoreError> {
        self.gate_write().await?;
        let done = self.inner.announce(device, epoch, login, sent, may_raise, now_ms).await;
        self.say(done).await
    }

    async fn raise(
        &self,
        device: &Key,
        claimed: Session,
        above: u64,
        is_watched: bool,
        now_ms: u64,
    ) -> Result<Result<(), Fenced>, StoreError> {
        self.gate_write().await?;
        let done = self.inner.raise(device, claimed, above, is_watched, now_ms).await;
        self.say(done).await
    }

    async fn release(
        &self,
        device: &Key,
        session: Session,
        sent: Positions,
        is_watched: bool,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.gate_write().await?;
        let done = self.inner.release(device, session, sent, is_watched, now_ms).await;
        self.releases.fetch_add(1, Ordering::SeqCst);
        self.say(done).await
    }

    async fn append(
        &self,
        device: &Key,
        business: BusinessNo,
        new: NewEntry,
        caps: Caps,
        durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError> {
        self.gate_write().await?;
        let done = self.inner.append(device, business, new, caps, durability, now_ms).await;
        self.say(done).await
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
        self.gate().await?;
        self.inner.fetch(device, session, business, after, limits, now_ms).await
    }

    async fn ack(
        &self,
        device: &Key,
        session: &Session,
        upto: Positions,
        now_ms: u64,
    ) -> Result<Result<(), Fenced>, StoreError> {
        self.gate_write().await?;
        self.inner.ack(device, session, upto, now_ms).await
    }

    async fn sweep(
        &self,
        device: &Key,
        session: &Session,
        acked: Positions,
        now_ms: u64,
    ) -> Result<Result<Vec<InboxTail>, Fenced>, StoreError> {
        let _over = Counted::over(&self.sweeping, &self.swept_together);
        self.gate_write().await?;
        self.inner.sweep(device, session, acked, now_ms).await
    }

    async fn describe(&self, device: &Key, business: BusinessNo) -> Result<Described, StoreError> {
        self.gate().await?;
        self.inner.describe(device, business).await
    }

    async fn purge(&self, device: &Key, business: BusinessNo) -> Result<u64, StoreError> {
        self.gate_write().await?;
        self.inner.purge(device, business).await
    }

    async fn publish(
        &self,
        group: &Key,
        of: &GroupMeta,
        new: NewEntry,
        caps: Caps,
        durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError> {
        self.gate_write().await?;
        let done = self.inner.publish(group, of, new, caps, durability, now_ms).await;
        let count = self.publishes.fetch_add(1, Ordering::SeqCst);
        if *self.mode.borrow() == Mode::Dawdles {
            // The later ones of each eight are the faster ones.
            tokio::time::sleep(Duration::from_millis(4 * (7 - count % 8))).await;
        }
        self.say(done).await
    }

    async fn history(
        &self,
        group: &Key,
        of: &GroupMeta,
        after: Position,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Batch, StoreError> {
        self.gate().await?;
        self.inner.history(group, of, after, limits, now_ms).await
    }

    async fn change_groups(
        &self,
        changes: Vec<GroupChange>,
    ) -> Result<Vec<GroupChanged>, StoreError> {
        self.gate_write().await?;
        let done = self.inner.change_groups(changes).await;
        let mut mode = self.mode.subscribe();
        let _ = mode.wait_for(|mode| *mode != Mode::ChangesHang).await;
        done
    }

    async fn group(&self, group: &Key) -> Result<Option<GroupMeta>, StoreError> {
        self.gate().await?;
        if self.told.lock().unwrap().unreadable.as_deref() == Some(group.as_bytes()) {
            return Err(StoreError::Engine(Arc::new(OnPurpose)));
        }
        self.inner.group(group).await
    }

    async fn group_news(&self, after: &LogMark) -> Result<GroupNews, StoreError> {
        self.news_asked.fetch_add(1, Ordering::SeqCst);
        self.gate().await?;
        if *self.mode.borrow() == Mode::HasNoNews {
            return Err(StoreError::Engine(Arc::new(OnPurpose)));
        }
        let changed = self.told.lock().unwrap().changed.clone();
        if !changed.is_empty() {
            return Ok(GroupNews::Changed(changed, after.clone()));
        }
        self.inner.group_news(after).await
    }

    async fn route(&self, device: &Key, now_ms: u64) -> Result<Option<Route>, StoreError> {
        self.gate().await?;
        self.inner.route(device, now_ms).await
    }

    async fn renew_node(
        &self,
        node: &NodeId,
        boot: BootId,
        lease_ms: u64,
    ) -> Result<Result<(), LeaseHeld>, StoreError> {
        self.gate_write().await?;
        self.inner.renew_node(node, boot, lease_ms).await
    }

    async fn leave_node(&self, node: &NodeId, boot: BootId) -> Result<(), StoreError> {
        self.gate_write().await?;
        self.inner.leave_node(node, boot).await
    }

    async fn node_leases(&self) -> Result<Vec<NodeLease>, StoreError> {
        self.gate().await?;
        self.inner.node_leases().await
    }

    async fn boots_with_sessions(&self) -> Result<Vec<(NodeId, BootId)>, StoreError> {
        self.gate().await?;
        self.inner.boots_with_sessions().await
    }

    async fn sessions_of(
        &self,
        node: &NodeId,
        boot: BootId,
        max: usize,
    ) -> Result<Vec<KeyBytes>, StoreError> {
        self.gate().await?;
        self.inner.sessions_of(node, boot, max).await
    }

    async fn end_lost(
        &self,
        device: &Key,
        node: &NodeId,
        boot: BootId,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.gate_write().await?;
        let done = self.inner.end_lost(device, node, boot, now_ms).await;
        self.say(done).await
    }

    async fn walk_sessions(
        &self,
        node: &NodeId,
        boot: BootId,
        after: &WalkMark,
        max: usize,
    ) -> Result<(Vec<Registered>, Option<WalkMark>), StoreError> {
        self.gate().await?;
        self.inner.walk_sessions(node, boot, after, max).await
    }

    async fn end_gone(
        &self,
        device: &Key,
        session: &Session,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.gate_write().await?;
        let done = self.inner.end_gone(device, session, now_ms).await;
        self.say(done).await
    }

    async fn hold_duty(&self, duty: &str, holder: u64, ttl_ms: u64) -> Result<bool, StoreError> {
        self.gate_write().await?;
        self.inner.hold_duty(duty, holder, ttl_ms).await
    }

    async fn marked(&self, shard: u16, after: u64, max: usize) -> Result<Vec<Marked>, StoreError> {
        self.gate().await?;
        self.inner.marked(shard, after, max).await
    }

    async fn events_due(&self, device: &Key, now_ms: u64) -> Result<Vec<Event>, StoreError> {
        self.gate().await?;
        self.inner.events_due(device, now_ms).await
    }

    async fn event_heard(
        &self,
        device: &Key,
        business: BusinessNo,
        heard: Heard,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.gate_write().await?;
        self.inner.event_heard(device, business, heard, now_ms).await
    }

    async fn unmark(&self, shard: u16, seen: &Marked) -> Result<(), StoreError> {
        self.gate_write().await?;
        self.inner.unmark(shard, seen).await
    }

    async fn marks(&self, shard: u16) -> Result<u64, StoreError> {
        self.gate().await?;
        self.inner.marks(shard).await
    }

    async fn groups(&self) -> Result<Vec<(KeyBytes, GroupMeta)>, StoreError> {
        self.inner.groups().await
    }

    async fn groups_of(
        &self,
        app: &str,
        owner: u32,
        after: &str,
        max: usize,
    ) -> Result<Vec<String>, StoreError> {
        self.gate().await?;
        self.inner.groups_of(app, owner, after, max).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A push id of the test.
pub fn id(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
