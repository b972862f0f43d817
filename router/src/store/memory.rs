//! The reference: the rules over plain maps. Nothing here is clever, so that it is right.

use super::leases::Leases;
use super::{
    Against, Durability, GroupChange, GroupChanged, GroupMeta, GroupNews, KeyBytes, LeaseHeld,
    LogMark, Marked, NodeLease, Positions, Registered, Store, StoreError, WalkMark, event_shard,
    next_mark,
};
use crate::inbox::rules;
use crate::inbox::shelf::{Memory, View as _};
use crate::inbox::{
    Announced, Appended, Batch, Caps, Claimed, Described, Event, Fenced, Heard, InboxTail, Limits,
    Login, NewEntry, Owner, Route, Session,
};
use crate::key::{self, Key};
use hawser_proto::id::{BootId, BusinessNo, NodeId, Position, SlotRef};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::convert::Infallible;
use tokio::sync::watch;

/// A store of maps. What it has is gone when it is dropped.
pub(crate) struct InMemory {
    held: Mutex<Held>,
    leases: Leases,
    changes: watch::Sender<u64>,
}

/// All of it at one moment, to go back to.
#[derive(Clone, Default)]
pub(crate) struct Held {
    incarnation: u64,
    devices: BTreeMap<KeyBytes, Memory>,
    histories: BTreeMap<KeyBytes, Memory>,
    groups: BTreeMap<KeyBytes, GroupMeta>,
    /// Groups that were deleted or replaced.
    tombstones: Vec<(KeyBytes, GroupMeta)>,
    /// Groups that were changed.
    news: Vec<KeyBytes>,
    /// Which connection of a boot was registered last for a device.
    sessions: BTreeMap<(String, u64), BTreeMap<KeyBytes, SlotRef>>,
    marks: BTreeMap<KeyBytes, u64>,
    last_mark: u64,
}

impl Held {
    fn register(&mut self, device: &Key, owner: &Owner) {
        let boot = (owner.node.to_string(), owner.boot.0);
        self.sessions.entry(boot).or_default().insert(device.as_bytes().into(), owner.at);
    }

    /// Unless another connection of this boot was registered since.
    fn unregister(&mut self, device: &Key, owner: &Owner) {
        let boot = (owner.node.to_string(), owner.boot.0);
        if let Some(devices) = self.sessions.get_mut(&boot)
            && devices.get(device.as_bytes()) == Some(&owner.at)
        {
            devices.remove(device.as_bytes());
        }
    }

    fn mark_if_due(&mut self, device: &Key, now_ms: u64) {
        let found = self.devices.get(device.as_bytes());
        let Ok(due) = rules::events_due(found.unwrap_or(&Memory::default()), now_ms);
        if !due.is_empty() {
            self.last_mark = next_mark(self.last_mark, now_ms);
            self.marks.insert(device.as_bytes().into(), self.last_mark);
        }
    }

    fn marked(&self, shard: u16) -> Vec<Marked> {
        let of_shard = self.marks.iter().filter(|(device, _)| event_shard(device) == shard);
        let mut marked: Vec<Marked> =
            of_shard.map(|(device, &at)| Marked { device: device.clone(), at }).collect();
        marked.sort_by_key(|it| it.at);
        marked
    }

    fn change_group(&mut self, change: &GroupChange) -> GroupChanged {
        let key: KeyBytes = change.key().as_bytes().into();
        let known = self.groups.get(&key).cloned();
        if let GroupChange::Keep(_, meta) = change
            && known.is_none()
            && self.tombstones.contains(&(key.clone(), meta.clone()))
        {
            return GroupChanged::Differs(None);
        }
        match change.against(known.as_ref()) {
            Against::IsMade => return GroupChanged::Made,
            Against::Differs => return GroupChanged::Differs(known),
            Against::Makes => {}
        }
        self.news.push(key.clone());
        self.tombstones.extend(known.iter().map(|known| (key.clone(), known.clone())));
        match change {
            GroupChange::Put(_, meta, _) | GroupChange::Keep(_, meta) => {
                self.tombstones.retain(|(of, it)| (of, it) != (&key, meta));
                if !known.is_some_and(|known| meta.goes_on_from(&known)) {
                    self.histories.remove(&key);
                }
                if meta.history.is_some() {
                    let history = self.histories.entry(key.clone()).or_default();
                    let Ok(()) = rules::begin_history(history, meta.created_ms);
                }
                self.groups.insert(key, meta.clone());
            }
            GroupChange::Delete(..) => {
                self.histories.remove(&key);
                self.groups.remove(&key);
            }
        }
        GroupChanged::Made
    }
}

impl InMemory {
    pub(crate) fn new() -> Self {
        let held = Held { incarnation: 1, ..Held::default() };
        let (leases, changes) = (Leases::default(), watch::Sender::new(0));
        Self { held: Mutex::new(held), leases, changes }
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

    /// Before a session takes effect.
    fn begin(&self, device: &Key, login: &Login) -> Owner {
        let mut held = self.held.lock();
        held.register(device, &login.owner);
        login.owner.clone()
    }

    /// After a session took another one's place.
    fn displace(&self, device: &Key, displaced: Option<&Session>, owner: &Owner) {
        if let Some(before) = displaced.filter(|before| before.owner != *owner) {
            self.held.lock().unregister(device, &before.owner);
        }
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
        of: &GroupMeta,
        act: impl FnOnce(&mut Memory, u64) -> Result<T, Infallible>,
    ) -> Result<T, StoreError> {
        let mut held = self.held.lock();
        let incarnation = held.incarnation;
        if held.groups.get(key.as_bytes()) != Some(of) {
            let Ok(done) = act(&mut Memory::default(), incarnation);
            return Ok(done);
        }
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
        let owner = self.begin(device, &login);
        let claimed =
            self.on_device(device, |shelf, _| rules::claim(shelf, login, &cursors, now_ms))?;
        if let Claimed::Bound { displaced, .. } = &claimed {
            self.displace(device, displaced.as_ref(), &owner);
        }
        self.held.lock().mark_if_due(device, now_ms);
        Ok(claimed)
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
        let owner = self.begin(device, &login);
        let announced = self.on_device(device, |shelf, _| {
            rules::announce(shelf, epoch, login, &sent, may_raise, now_ms)
        })?;
        if let Announced::Bound { displaced, .. } = &announced {
            self.displace(device, displaced.as_ref(), &owner);
        }
        self.held.lock().mark_if_due(device, now_ms);
        Ok(announced)
    }

    async fn raise(
        &self,
        device: &Key,
        claimed: Session,
        above: u64,
        _is_watched: bool,
        now_ms: u64,
    ) -> Result<Result<(), Fenced>, StoreError> {
        let raised =
            self.on_device(device, |shelf, _| rules::raise(shelf, &claimed, above, now_ms))?;
        self.held.lock().mark_if_due(device, now_ms);
        Ok(raised)
    }

    async fn release(
        &self,
        device: &Key,
        session: Session,
        sent: Positions,
        _is_watched: bool,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let (is_released, is_there) = self.on_device(device, |shelf, _| {
            let is_released = rules::release(shelf, &session, &sent, now_ms)?;
            let route = shelf.route()?;
            Ok((is_released, route.is_some_and(|it| it.owner.as_ref() == Some(&session.owner))))
        })?;
        if !is_there {
            self.held.lock().unregister(device, &session.owner);
        }
        self.held.lock().mark_if_due(device, now_ms);
        Ok(is_released)
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
        let done = self.on_device(device, |shelf, _| rules::ack(shelf, session, &upto, now_ms))?;
        if done.is_ok() {
            self.held.lock().register(device, &session.owner);
        }
        Ok(done)
    }

    async fn sweep(
        &self,
        device: &Key,
        session: &Session,
        acked: Positions,
        now_ms: u64,
    ) -> Result<Result<Vec<InboxTail>, Fenced>, StoreError> {
        let found =
            self.on_device(device, |shelf, _| rules::sweep(shelf, session, &acked, now_ms))?;
        if found.is_ok() {
            self.held.lock().register(device, &session.owner);
        }
        Ok(found)
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
        of: &GroupMeta,
        new: NewEntry,
        caps: Caps,
        _durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError> {
        let done = self.on_history(group, of, |shelf, incarnation| {
            rules::publish(shelf, new, caps, incarnation, now_ms)
        })?;
        Ok((done, Durability::Memory))
    }

    async fn history(
        &self,
        group: &Key,
        of: &GroupMeta,
        after: Position,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Batch, StoreError> {
        self.on_history(group, of, |shelf, _| rules::history(shelf, after, limits, now_ms))
    }

    async fn change_groups(
        &self,
        changes: Vec<GroupChange>,
    ) -> Result<Vec<GroupChanged>, StoreError> {
        let mut held = self.held.lock();
        Ok(changes.iter().map(|change| held.change_group(change)).collect())
    }

    async fn group(&self, group: &Key) -> Result<Option<GroupMeta>, StoreError> {
        Ok(self.held.lock().groups.get(group.as_bytes()).cloned())
    }

    async fn group_news(&self, after: &LogMark) -> Result<GroupNews, StoreError> {
        let held = self.held.lock();
        let mark = format!("{}:{}", held.incarnation, held.news.len()).into();
        let read = || {
            let (incarnation, from) = after.split_once(':')?;
            let is_same = incarnation.parse() == Ok(held.incarnation);
            held.news.get(from.parse().ok().filter(|_| is_same)?..)
        };
        Ok(match read() {
            Some(news) => GroupNews::Changed(news.to_vec(), mark),
            None => GroupNews::Reload(mark),
        })
    }

    async fn route(&self, device: &Key, now_ms: u64) -> Result<Option<Route>, StoreError> {
        let route = self.on_device(device, |shelf, _| shelf.route())?;
        Ok(route.filter(|route| rules::is_route_kept(route, now_ms)))
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
        let held = self.held.lock();
        let boot = |(node, boot): &(String, u64)| {
            let node = NodeId::new(node).map_err(|_| StoreError::Value)?;
            Ok((node, BootId(*boot)))
        };
        held.sessions.keys().map(boot).collect()
    }

    async fn sessions_of(
        &self,
        node: &NodeId,
        boot: BootId,
        max: usize,
    ) -> Result<Vec<KeyBytes>, StoreError> {
        let mut held = self.held.lock();
        let of = (node.to_string(), boot.0);
        let devices: Vec<KeyBytes> = held
            .sessions
            .get(&of)
            .into_iter()
            .flatten()
            .map(|(it, _)| it.clone())
            .take(max)
            .collect();
        if devices.is_empty() {
            held.sessions.remove(&of);
        }
        Ok(devices)
    }

    async fn end_lost(
        &self,
        device: &Key,
        node: &NodeId,
        boot: BootId,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let ended =
            self.on_device(device, |shelf, _| rules::end_lost(shelf, node, boot, now_ms))?;
        let of = (node.to_string(), boot.0);
        if let Some(devices) = self.held.lock().sessions.get_mut(&of) {
            devices.remove(device.as_bytes());
        }
        self.held.lock().mark_if_due(device, now_ms);
        Ok(ended)
    }

    async fn walk_sessions(
        &self,
        node: &NodeId,
        boot: BootId,
        after: &WalkMark,
        max: usize,
    ) -> Result<(Vec<Registered>, Option<WalkMark>), StoreError> {
        let held = self.held.lock();
        let all = held.sessions.get(&(node.to_string(), boot.0)).into_iter().flatten();
        let some: Vec<Registered> = all
            .filter(|(device, _)| ***device > **after)
            .take(max)
            .map(|(device, &at)| Registered { device: device.clone(), at })
            .collect();
        let next = some.last().filter(|_| some.len() == max).map(|last| last.device.clone());
        Ok((some, next))
    }

    async fn end_gone(
        &self,
        device: &Key,
        session: &Session,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let ended = self.on_device(device, |shelf, _| rules::end_gone(shelf, session, now_ms))?;
        let mut held = self.held.lock();
        if ended.is_some() {
            held.unregister(device, &session.owner);
        }
        held.mark_if_due(device, now_ms);
        Ok(ended == Some(true))
    }

    async fn hold_duty(&self, duty: &str, holder: u64, ttl_ms: u64) -> Result<bool, StoreError> {
        Ok(self.leases.hold(duty, holder, ttl_ms))
    }

    async fn marked(&self, shard: u16, after: u64, max: usize) -> Result<Vec<Marked>, StoreError> {
        let mut marked = self.held.lock().marked(shard);
        marked.retain(|it| it.at > after);
        marked.truncate(max);
        Ok(marked)
    }

    async fn events_due(&self, device: &Key, now_ms: u64) -> Result<Vec<Event>, StoreError> {
        self.on_device(device, |shelf, _| rules::events_due(shelf, now_ms))
    }

    async fn event_heard(
        &self,
        device: &Key,
        business: BusinessNo,
        heard: Heard,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let is_over = heard.is_confirmed;
        let is_noted =
            self.on_device(device, |shelf, _| rules::event_heard(shelf, business, heard))?;
        if is_over {
            self.held.lock().mark_if_due(device, now_ms);
        }
        Ok(is_noted)
    }

    async fn unmark(&self, _shard: u16, seen: &Marked) -> Result<(), StoreError> {
        let mut held = self.held.lock();
        if held.marks.get(&seen.device) == Some(&seen.at) {
            held.marks.remove(&seen.device);
        }
        Ok(())
    }

    async fn marks(&self, shard: u16) -> Result<u64, StoreError> {
        Ok(self.held.lock().marked(shard).len() as u64)
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
