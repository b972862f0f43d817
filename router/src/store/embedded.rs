//! The store in the process, on fjall: seven keyspaces, one journal, one thread that writes.
//!
//! A call that changes something waits for the [`writer`], which makes many together and syncs once for
//! all that asked for it; what asked for less is with the operating system when it is answered, and so
//! survives the process. A call that only reads is made by one of a few [`readers`] on a view of one moment.
//! Nothing is kept in memory per device.

mod disk;
mod events;
mod form;
mod journal;
mod overlay;
mod queue;
mod readers;
mod sessions;
mod shelf;
mod walk;
mod writer;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;

use super::leases::Leases;
use super::{
    Against, Durability, GroupChange, GroupChanged, GroupMeta, GroupNews, KeyBytes, LeaseHeld,
    LogMark, Marked, NodeLease, Positions, Registered, Store, StoreError, WalkMark,
};
use crate::inbox::rules;
use crate::inbox::shelf::{GROUP, View as _};
use crate::inbox::{
    Announced, Appended, Batch, Caps, Claimed, Described, Event, Fenced, Heard, InboxTail, Limits,
    Login, NewEntry, Route, Session,
};
use crate::key::Key;
use disk::{Disk, Source, Space};
use form::Kind;
use hawser_proto::id::{BootId, BusinessNo, NodeId, Position};
use hawser_proto::limits::STORE_CALL_TIMEOUT;
use overlay::Overlay;
use parking_lot::{Mutex, RwLock};
use queue::{Full, Queue};
use shelf::OnShelf;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use walk::Walk;
use writer::{Ask, Call, Shared, Step, Writer};

/// Reading all groups at the start may take this long.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// Records taken in one read of a long list.
const PAGE: usize = 1_024;
/// Push ids of a history that are forgotten at once with their group; more wait for their time.
const FORGOTTEN_MAX: usize = 100_000;

/// How the embedded store is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where. One store per folder.
    pub folder: PathBuf,
    /// How long a call may take. Longer rides over slow moments of the disk; the caller waits as long.
    /// Default 500 ms.
    pub call_timeout: Duration,
    /// Writes, and reads, that may wait; one more is refused as `Overloaded`. Default 4,096.
    pub calls_waiting_max: usize,
    /// Bytes of the writes that wait. Default 64 MiB.
    pub bytes_waiting_max: usize,
    /// Threads that read. Default 2.
    pub readers: usize,
    /// Between two walks over everything that look for what is over its time. Default 10 min.
    pub walk_interval: Duration,
    /// After a failed write, between tries to open the database anew. Default 500 ms.
    pub mend_interval: Duration,
}

impl Settings {
    /// The defaults.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            call_timeout: STORE_CALL_TIMEOUT,
            calls_waiting_max: 4_096,
            bytes_waiting_max: 64 * 1024 * 1024,
            readers: 2,
            walk_interval: Duration::from_mins(10),
            mend_interval: Duration::from_millis(500),
        }
    }
}

/// The engine. Dropped without [`Store::close`], it still writes what was taken, in its own time.
pub struct Embedded {
    settings: Settings,
    shared: Arc<Shared>,
    writes: Arc<Queue<Box<dyn Call>>>,
    reads: Arc<Queue<readers::Read>>,
    leases: Leases,
    /// Answers when the writer has ended.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Embedded {
    /// Opens or makes the database and starts its threads. Blocks: reading the journal after a crash takes
    /// up to a second or two.
    pub fn open(settings: Settings) -> Result<Self, StoreError> {
        let disk = Disk::open(&settings.folder)?;
        let shared = Arc::new(Shared {
            disk: RwLock::new(Some(Arc::new(disk))),
            is_read_only: AtomicBool::new(false),
            changes: watch::Sender::new(0),
            batches: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        });
        let writes = Arc::new(Queue::new(settings.calls_waiting_max, settings.bytes_waiting_max));
        let reads = Arc::new(Queue::new(settings.calls_waiting_max, settings.bytes_waiting_max));
        let walk = Walk::new(settings.walk_interval);
        let (folder, mend_interval) = (settings.folder.clone(), settings.mend_interval);
        let thread = Writer::new(folder, mend_interval, writes.clone(), shared.clone(), walk);
        let (end, ended) = oneshot::channel();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(run).map_err(disk::engine)
        };
        spawn(
            "store-writer",
            Box::new(move || {
                thread.run();
                let _ = end.send(());
            }),
        )?;
        for _ in 0..settings.readers.max(1) {
            let reads = reads.clone();
            spawn("store-reader", Box::new(move || readers::run(&reads)))?;
        }
        let (leases, ended) = (Leases::default(), Mutex::new(Some(ended)));
        Ok(Self { settings, shared, writes, reads, leases, ended })
    }

    /// Commits and syncs so far: how many calls share one is what group commit is about.
    pub fn work_done(&self) -> (u64, u64) {
        let batches = self.shared.batches.load(Ordering::Relaxed);
        (batches, self.shared.syncs.load(Ordering::Relaxed))
    }

    async fn write<A, T>(&self, bytes: usize, act: A) -> Result<T, StoreError>
    where
        A: FnOnce(&mut Step<'_, '_>) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        self.write_then(bytes, act, |value, _| value).await
    }

    async fn write_then<A, V, T>(
        &self,
        bytes: usize,
        act: A,
        finish: fn(V, bool) -> T,
    ) -> Result<T, StoreError>
    where
        A: FnOnce(&mut Step<'_, '_>) -> Result<V, StoreError> + Send + 'static,
        V: Send + 'static,
        T: Send + 'static,
    {
        if self.shared.is_read_only.load(Ordering::Acquire) {
            return Err(StoreError::ReadOnly);
        }
        let (answer, answered) = oneshot::channel();
        self.writes.push(Box::new(Ask { act, finish, answer }), bytes).map_err(refused)?;
        wait(answered, self.settings.call_timeout).await
    }

    async fn read<A, T>(&self, patience: Duration, act: A) -> Result<T, StoreError>
    where
        A: FnOnce(&Disk) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let shared = self.shared.clone();
        let read = move || {
            if answer.is_closed() {
                return;
            }
            let disk = shared.disk.read().clone();
            let done = match &disk {
                Some(disk) => act(disk),
                None => Err(disk::engine(Closed)),
            };
            // The writer may wait to be alone with it.
            drop(disk);
            let _ = answer.send(done);
        };
        self.reads.push(Box::new(read), 0).map_err(refused)?;
        wait(answered, patience).await
    }

    async fn append_to<A>(
        &self,
        new: NewEntry,
        durability: Option<Durability>,
        append: A,
    ) -> Result<(Appended, Durability), StoreError>
    where
        A: FnOnce(&mut Step<'_, '_>, NewEntry) -> Result<Appended, StoreError> + Send + 'static,
    {
        let wants_disk = durability != Some(Durability::Memory);
        let bytes = new.blob.len() + new.collapse_key.len() + new.push_id.len();
        let act = move |step: &mut Step<'_, '_>| {
            let appended = append(step, new)?;
            match appended {
                Appended::Stored { .. } if wants_disk => step.sync(),
                Appended::Repeated { .. } if wants_disk => step.sync_what_was_before(),
                _ => {}
            }
            Ok(appended)
        };
        let finish = |appended, is_synced| {
            (appended, if is_synced { Durability::Disk } else { Durability::Memory })
        };
        self.write_then(bytes, act, finish).await
    }
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.writes.close();
        self.reads.close();
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the store is not open")]
struct Closed;

fn refused(why: Full) -> StoreError {
    match why {
        Full::Full => StoreError::Overloaded,
        Full::Closed => disk::engine(Closed),
    }
}

async fn wait<T>(
    answered: oneshot::Receiver<Result<T, StoreError>>,
    patience: Duration,
) -> Result<T, StoreError> {
    match tokio::time::timeout(patience, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(disk::engine(Closed)),
        Err(_) => Err(StoreError::Timeout),
    }
}

#[tonic::async_trait]
impl Store for Embedded {
    async fn claim(
        &self,
        device: &Key,
        login: Login,
        cursors: Positions,
        now_ms: u64,
    ) -> Result<Claimed, StoreError> {
        let device = *device;
        self.write(0, move |step| {
            let owner = login.owner.clone();
            let claimed = rules::claim(&mut step.device(&device), login, &cursors, now_ms)?;
            if let Claimed::Bound { displaced, .. } = &claimed {
                sessions::took(step, &device, &owner, displaced.as_ref())?;
                events::mark_if_due(step, &device, now_ms)?;
            }
            Ok(claimed)
        })
        .await
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
        let device = *device;
        self.write(0, move |step| {
            let owner = login.owner.clone();
            let announced =
                rules::announce(&mut step.device(&device), epoch, login, &sent, may_raise, now_ms)?;
            if let Announced::Bound { displaced, .. } = &announced {
                sessions::took(step, &device, &owner, displaced.as_ref())?;
                events::mark_if_due(step, &device, now_ms)?;
            }
            Ok(announced)
        })
        .await
    }

    async fn raise(
        &self,
        device: &Key,
        claimed: Session,
        above: u64,
        _is_watched: bool,
        now_ms: u64,
    ) -> Result<Result<(), Fenced>, StoreError> {
        let device = *device;
        self.write(0, move |step| {
            let raised = rules::raise(&mut step.device(&device), &claimed, above, now_ms)?;
            if raised.is_ok() {
                events::mark_if_due(step, &device, now_ms)?;
            }
            Ok(raised)
        })
        .await
    }

    async fn release(
        &self,
        device: &Key,
        session: Session,
        sent: Positions,
        _is_watched: bool,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let device = *device;
        self.write(0, move |step| {
            let mut place = step.device(&device);
            let is_released = rules::release(&mut place, &session, &sent, now_ms)?;
            // It may have it under another epoch.
            if place.route()?.is_none_or(|route| route.owner.as_ref() != Some(&session.owner)) {
                sessions::left(step, &device, &session.owner)?;
            }
            if is_released {
                events::mark_if_due(step, &device, now_ms)?;
            }
            Ok(is_released)
        })
        .await
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
        let device = *device;
        self.append_to(new, durability, move |step, new| {
            let incarnation = step.incarnation();
            rules::append(&mut step.device(&device), business, new, caps, incarnation, now_ms)
        })
        .await
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
        let (device, session) = (*device, session.clone());
        self.read(self.settings.call_timeout, move |disk| {
            let view = OnShelf::new(disk.glance(), Kind::Device, device.as_bytes());
            rules::fetch(&view, &session, business, after, limits, now_ms)
        })
        .await
    }

    async fn ack(
        &self,
        device: &Key,
        session: &Session,
        upto: Positions,
        now_ms: u64,
    ) -> Result<Result<(), Fenced>, StoreError> {
        let (device, session) = (*device, session.clone());
        self.write(0, move |step| {
            let done = rules::ack(&mut step.device(&device), &session, &upto, now_ms)?;
            if done.is_ok() {
                sessions::used(step, &device, &session, now_ms)?;
            }
            Ok(done)
        })
        .await
    }

    async fn sweep(
        &self,
        device: &Key,
        session: &Session,
        acked: Positions,
        now_ms: u64,
    ) -> Result<Result<Vec<InboxTail>, Fenced>, StoreError> {
        let (device, session) = (*device, session.clone());
        self.write(0, move |step| {
            let found = rules::sweep(&mut step.device(&device), &session, &acked, now_ms)?;
            if found.is_ok() {
                sessions::used(step, &device, &session, now_ms)?;
            }
            Ok(found)
        })
        .await
    }

    async fn describe(&self, device: &Key, business: BusinessNo) -> Result<Described, StoreError> {
        let device = *device;
        self.read(self.settings.call_timeout, move |disk| {
            let view = OnShelf::new(disk.glance(), Kind::Device, device.as_bytes());
            rules::describe(&view, business)
        })
        .await
    }

    async fn purge(&self, device: &Key, business: BusinessNo) -> Result<u64, StoreError> {
        let device = *device;
        self.write(0, move |step| {
            let count = rules::purge(&mut step.device(&device), business)?;
            step.sync();
            Ok(count)
        })
        .await
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
        let (group, of) = (*group, of.clone());
        self.append_to(new, durability, move |step, new| {
            if !is_group(step.overlay(), &group, &of)? {
                return Ok(Appended::NoHistory);
            }
            let incarnation = step.incarnation();
            rules::publish(&mut step.group(group.as_bytes()), new, caps, incarnation, now_ms)
        })
        .await
    }

    async fn history(
        &self,
        group: &Key,
        of: &GroupMeta,
        after: Position,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Batch, StoreError> {
        let (group, of) = (*group, of.clone());
        self.read(self.settings.call_timeout, move |disk| {
            let glance = disk.glance();
            if !is_group(&glance, &group, &of)? {
                return Ok(Batch::default());
            }
            let view = OnShelf::new(glance, Kind::Group, group.as_bytes());
            rules::history(&view, after, limits, now_ms)
        })
        .await
    }

    async fn change_groups(
        &self,
        changes: Vec<GroupChange>,
    ) -> Result<Vec<GroupChanged>, StoreError> {
        self.write(0, move |step| {
            let made: Result<_, _> =
                changes.iter().map(|change| change_group(step, change)).collect();
            step.sync();
            made
        })
        .await
    }

    async fn group(&self, group: &Key) -> Result<Option<GroupMeta>, StoreError> {
        let group = *group;
        self.read(self.settings.call_timeout, move |disk| {
            let value = disk.get(Space::Groups, group.as_bytes())?;
            value.map(|value| form::read_group(&value)).transpose()
        })
        .await
    }

    async fn group_news(&self, after: &LogMark) -> Result<GroupNews, StoreError> {
        Ok(match &**after {
            "" => GroupNews::Reload("alone".into()),
            _ => GroupNews::Changed(Vec::new(), after.clone()),
        })
    }

    async fn route(&self, device: &Key, now_ms: u64) -> Result<Option<Route>, StoreError> {
        let device = *device;
        self.read(self.settings.call_timeout, move |disk| {
            let view = OnShelf::new(disk.glance(), Kind::Device, device.as_bytes());
            Ok(view.route()?.filter(|route| rules::is_route_kept(route, now_ms)))
        })
        .await
    }

    async fn renew_node(
        &self,
        node: &NodeId,
        boot: BootId,
        lease_ms: u64,
    ) -> Result<Result<(), LeaseHeld>, StoreError> {
        Ok(self.leases.renew(node, boot, lease_ms))
    }

    async fn leave_node(&self, node: &NodeId, boot: BootId) -> Result<(), StoreError> {
        self.leases.leave(node, boot);
        Ok(())
    }

    async fn node_leases(&self) -> Result<Vec<NodeLease>, StoreError> {
        Ok(self.leases.all())
    }

    async fn boots_with_sessions(&self) -> Result<Vec<(NodeId, BootId)>, StoreError> {
        self.read(self.settings.call_timeout, |disk| sessions::boots(&disk.glance())).await
    }

    async fn sessions_of(
        &self,
        node: &NodeId,
        boot: BootId,
        max: usize,
    ) -> Result<Vec<KeyBytes>, StoreError> {
        let node = node.clone();
        self.read(self.settings.call_timeout, move |disk| {
            sessions::of(&disk.glance(), &node, boot, max)
        })
        .await
    }

    async fn end_lost(
        &self,
        device: &Key,
        node: &NodeId,
        boot: BootId,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let (device, node) = (*device, node.clone());
        self.write(0, move |step| {
            let is_ended = rules::end_lost(&mut step.device(&device), &node, boot, now_ms)?;
            sessions::forget(step, &device, &node, boot);
            events::mark_if_due(step, &device, now_ms)?;
            Ok(is_ended)
        })
        .await
    }

    async fn walk_sessions(
        &self,
        node: &NodeId,
        boot: BootId,
        after: &WalkMark,
        max: usize,
    ) -> Result<(Vec<Registered>, Option<WalkMark>), StoreError> {
        let (node, after) = (node.clone(), after.clone());
        self.read(self.settings.call_timeout, move |disk| {
            sessions::walk(&disk.glance(), &node, boot, &after, max)
        })
        .await
    }

    async fn end_gone(
        &self,
        device: &Key,
        session: &Session,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let (device, session) = (*device, session.clone());
        self.write(0, move |step| {
            let ended = rules::end_gone(&mut step.device(&device), &session, now_ms)?;
            if ended.is_some() {
                sessions::left(step, &device, &session.owner)?;
            }
            events::mark_if_due(step, &device, now_ms)?;
            Ok(ended == Some(true))
        })
        .await
    }

    async fn hold_duty(&self, duty: &str, holder: u64, ttl_ms: u64) -> Result<bool, StoreError> {
        Ok(self.leases.hold(duty, holder, ttl_ms))
    }

    async fn marked(&self, shard: u16, after: u64, max: usize) -> Result<Vec<Marked>, StoreError> {
        self.read(self.settings.call_timeout, move |disk| {
            events::marked(&disk.glance(), shard, after, max)
        })
        .await
    }

    async fn events_due(&self, device: &Key, now_ms: u64) -> Result<Vec<Event>, StoreError> {
        let device = *device;
        self.read(self.settings.call_timeout, move |disk| {
            let view = OnShelf::new(disk.glance(), Kind::Device, device.as_bytes());
            rules::events_due(&view, now_ms)
        })
        .await
    }

    async fn event_heard(
        &self,
        device: &Key,
        business: BusinessNo,
        heard: Heard,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let device = *device;
        self.write(0, move |step| {
            let is_told = heard.is_confirmed;
            let is_noted = rules::event_heard(&mut step.device(&device), business, heard)?;
            if is_told {
                // It may have ended while that was told.
                events::mark_if_due(step, &device, now_ms)?;
            }
            Ok(is_noted)
        })
        .await
    }

    async fn unmark(&self, _shard: u16, seen: &Marked) -> Result<(), StoreError> {
        let seen = seen.clone();
        self.write(0, move |step| events::unmark(step, &seen)).await
    }

    async fn marks(&self, shard: u16) -> Result<u64, StoreError> {
        self.read(self.settings.call_timeout, move |disk| events::count(&disk.glance(), shard))
            .await
    }

    async fn groups(&self) -> Result<Vec<(KeyBytes, GroupMeta)>, StoreError> {
        self.read(START_TIMEOUT, |disk| {
            let (glance, mut from, mut all) = (disk.glance(), Vec::new(), Vec::new());
            loop {
                let page = glance.scan(Space::Groups, Bound::Excluded(from), &[], PAGE)?;
                for (key, value) in &page {
                    all.push((key.as_ref().into(), form::read_group(value)?));
                }
                match page.last() {
                    Some((last, _)) if page.len() == PAGE => from = last.to_vec(),
                    _ => return Ok(all),
                }
            }
        })
        .await
    }

    async fn groups_of(
        &self,
        app: &str,
        owner: u32,
        after: &str,
        max: usize,
    ) -> Result<Vec<String>, StoreError> {
        let prefix = form::all_owned(app, owner);
        let from = Bound::Excluded([prefix.as_slice(), after.as_bytes()].concat());
        self.read(self.settings.call_timeout, move |disk| {
            let found = disk.scan(Space::Owned, from, &prefix, max)?;
            let id = |(key, _): &(fjall::Slice, _)| {
                String::from_utf8(key[prefix.len()..].to_vec()).map_err(|_| StoreError::Value)
            };
            found.iter().map(id).collect()
        })
        .await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    async fn close(&self) {
        self.writes.close();
        self.reads.close();
        let ended = self.ended.lock().take();
        if let Some(ended) = ended {
            let _ = ended.await;
        }
    }
}

/// Whether it is this very group.
fn is_group(source: &impl Source, key: &Key, of: &GroupMeta) -> Result<bool, StoreError> {
    let known = source.get(Space::Groups, key.as_bytes())?;
    Ok(known.map(|value| form::read_group(&value)).transpose()?.as_ref() == Some(of))
}

fn change_group(step: &mut Step<'_, '_>, change: &GroupChange) -> Result<GroupChanged, StoreError> {
    let key = change.key().as_bytes();
    let overlay = step.overlay();
    let known = overlay.get(Space::Groups, key)?;
    let known = known.map(|value| form::read_group(&value)).transpose()?;
    match change.against(known.as_ref()) {
        Against::IsMade => return Ok(GroupChanged::Made),
        Against::Differs => return Ok(GroupChanged::Differs(known)),
        Against::Makes => {}
    }
    if let Some(known) = &known {
        overlay.remove(Space::Owned, form::owned(key, known.owner));
    }
    match change {
        GroupChange::Delete(..) => {
            overlay.remove(Space::Groups, key.to_vec());
            end_history(overlay, key)?;
        }
        // The one router there is deletes nothing that it does not know of: no tombstones.
        GroupChange::Put(_, meta, _) | GroupChange::Keep(_, meta) => {
            overlay.set(Space::Groups, key.to_vec(), form::write_group(meta));
            overlay.set(Space::Owned, form::owned(key, meta.owner), Vec::new());
            if !known.is_some_and(|known| meta.goes_on_from(&known)) {
                end_history(overlay, key)?;
            }
            if meta.history.is_some() {
                begin_history(step, key, meta.created_ms)?;
            }
        }
    }
    Ok(GroupChanged::Made)
}

/// Begins one, unless there is one, and notes when: push ids that an earlier one left are not its own.
fn begin_history(step: &mut Step<'_, '_>, key: &[u8], created_ms: u64) -> Result<(), StoreError> {
    let mut shelf = step.group(key);
    if shelf.meta(GROUP)?.is_some() {
        return Ok(());
    }
    rules::begin_history(&mut shelf, created_ms)?;
    let born = form::write_position(Position::new(created_ms, 0));
    step.overlay().set(Space::Shelves, form::Prefix::new(Kind::Group, key).born(), born);
    Ok(())
}

/// Removes all of a group's shelf.
fn end_history(overlay: &mut Overlay<'_>, key: &[u8]) -> Result<(), StoreError> {
    let prefix = form::Prefix::new(Kind::Group, key);
    for space in [Space::Shelves, Space::Entries, Space::Remembered] {
        overlay.remove_all(space, prefix.as_bytes(), FORGOTTEN_MAX)?;
    }
    Ok(())
}
