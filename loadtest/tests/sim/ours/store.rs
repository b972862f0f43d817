//! The store of the simulation: the router's own rules over plain shelves, with a replica that lags, a
//! way back in time, and times when it cannot be reached.

use super::events::{DUTY, Marked, WATCHING};
use crate::net::Ns;
use bytes::Bytes;
use hawser_loadtest::judge::{Durability, Event, Kind};
use hawser_proto::id::{BusinessNo, Position};
use hawser_router::cores::shelf::{GROUP, Memory, View};
use hawser_router::cores::{
    self, Announced, Appended, Batch, Caps, Claimed, Fenced, Heard, InboxTail, Limits, Login,
    NewEntry, Owner, Session, rules,
};
use std::collections::BTreeMap;

/// App and device, or app and group.
pub(crate) type Key = (String, String);
pub(crate) type Positions = Vec<(BusinessNo, Position)>;

/// What a router asks.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Append {
        device: Key,
        business: BusinessNo,
        new: NewEntry,
        caps: Caps,
        replica: bool,
    },
    Claim {
        device: Key,
        login: Login,
        cursors: Positions,
    },
    Announce {
        device: Key,
        epoch: u64,
        login: Login,
        sent: Positions,
        may_raise: bool,
    },
    /// A claim goes above what its router knows.
    Raise {
        device: Key,
        claimed: Session,
        above: u64,
        login: Login,
    },
    Release {
        device: Key,
        session: Session,
        sent: Positions,
    },
    Fetch {
        device: Key,
        session: Session,
        business: BusinessNo,
        after: Position,
        limits: Limits,
    },
    Ack {
        device: Key,
        session: Session,
        upto: Positions,
    },
    Sweep {
        sessions: Vec<(Key, Session, Positions)>,
    },
    Purge {
        device: Key,
        business: BusinessNo,
    },
    Route {
        device: Key,
    },
    Publish {
        group: Key,
        new: NewEntry,
        caps: Caps,
    },
    History {
        group: Key,
        after: Position,
        limits: Limits,
    },
    /// This router wants the duty of telling businesses, and what there is to tell.
    Marked {
        router: usize,
    },
    Heard {
        device: Key,
        business: BusinessNo,
        heard: Heard,
    },
    /// What businesses are about to be told.
    Mean {
        batch: Vec<(Key, Vec<cores::Event>)>,
    },
    Unmark {
        device: Key,
        at: u64,
    },
    /// Only to see whether the store is the one it was.
    Look,
}

/// What it is told.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Appended(Appended, Durability),
    Claimed(Claimed),
    Announced(Announced),
    Raised(Result<(), Fenced>),
    Released,
    Fetched(Result<Batch, Fenced>),
    Acked(Result<(), Fenced>),
    Swept(Vec<Result<Vec<InboxTail>, Fenced>>),
    Purged,
    Route(Option<Session>),
    History(String, Batch),
    Looked,
    /// None: the duty is another's.
    Marked(Option<Vec<Marked>>),
    /// What may be told.
    Meant(Vec<(Key, Vec<cores::Event>)>),
    /// It may or may not have been done.
    Failed,
}

/// What is turned off, to see that it is needed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Switches {
    /// Nobody compares epochs and connections.
    pub(crate) no_fence: bool,
    /// Positions are a plain counter.
    pub(crate) plain_counter: bool,
    /// Businesses count as having heard before they are told.
    pub(crate) confirms_first: bool,
    /// Every router tells them.
    pub(crate) no_duty: bool,
}

#[derive(Clone, Debug, Default)]
struct Shelves {
    devices: BTreeMap<Key, Memory>,
    groups: BTreeMap<Key, Memory>,
    marks: BTreeMap<Key, u64>,
    last_mark: u64,
    /// Who tells businesses, and until when.
    duty: Option<(usize, Ns)>,
}

#[derive(Debug)]
pub(crate) struct Store {
    now: Shelves,
    replica: Shelves,
    replica_at: Ns,
    incarnation: u64,
    switches: Switches,
    /// What happened to sessions and entries, for the judge.
    pub(crate) events: Vec<Event>,
    business_names: Vec<(String, BusinessNo, String)>,
}

impl Store {
    /// `names`: app, number and name of each business.
    pub(crate) fn new(switches: Switches, names: Vec<(String, BusinessNo, String)>) -> Self {
        Self {
            now: Shelves::default(),
            replica: Shelves::default(),
            replica_at: 0,
            incarnation: 1,
            switches,
            events: Vec::new(),
            business_names: names,
        }
    }

    /// The group is created.
    pub(crate) fn create_group(&mut self, group: Key, now_ms: u64) {
        let Ok(()) = rules::begin_history(self.now.groups.entry(group).or_default(), now_ms);
        self.replica = self.now.clone();
    }

    /// The newest position of a group's history.
    pub(crate) fn group_tail(&self, group: &Key) -> Position {
        let meta = self.now.groups.get(group).and_then(|shelf| {
            let Ok(meta) = shelf.meta(GROUP);
            meta
        });
        meta.map_or(Position::START, |meta| meta.tail)
    }

    /// Which life of the store this is.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The replica has caught up.
    pub(crate) fn replicate(&mut self, now: Ns) {
        self.replica = self.now.clone();
        self.replica_at = now;
    }

    /// The lagging replica takes over. Says how far it had come.
    pub(crate) fn go_back(&mut self) -> Ns {
        self.now = self.replica.clone();
        self.incarnation += 1;
        self.replica_at
    }

    /// It starts again with all it had.
    pub(crate) fn restart(&mut self) {
        self.incarnation += 1;
    }

    fn name(&self, app: &str, business: BusinessNo) -> String {
        let found = self.business_names.iter().find(|it| it.0 == app && it.1 == business);
        found.map_or_else(|| business.0.to_string(), |it| it.2.clone())
    }

    fn event(&self, kind: Kind, key: &Key, business: BusinessNo) -> Event {
        Event::new(0, kind).of(&key.0, &key.1, &self.name(&key.0, business))
    }

    /// The session that the route names.
    pub(crate) fn route(&self, device: &Key) -> Option<Session> {
        let route = self.now.devices.get(device)?.route().ok()??;
        Some(Session { owner: route.owner?, epoch: route.epoch })
    }

    /// What businesses have not heard.
    pub(crate) fn due(&self, device: &Key, now_ms: u64) -> Vec<cores::Event> {
        let Some(shelf) = self.now.devices.get(device) else { return Vec::new() };
        let Ok(due) = rules::events_due(shelf, now_ms);
        due
    }

    /// Whoever has something due is marked, in the step that makes it so.
    fn mark_if_due(&mut self, device: &Key, now_ms: u64) {
        if !self.due(device, now_ms).is_empty() {
            self.now.last_mark += 1;
            self.now.marks.insert(device.clone(), self.now.last_mark);
        }
    }

    fn marked(&mut self, router: usize, now_ms: u64, now: Ns) -> Option<Vec<Marked>> {
        let is_others = self.now.duty.is_some_and(|(by, until)| by != router && until > now);
        if is_others && !self.switches.no_duty {
            return None;
        }
        self.now.duty = Some((router, now + DUTY));
        let marked = |(device, at): (&Key, &u64)| (device.clone(), *at, self.due(device, now_ms));
        Some(self.now.marks.iter().map(marked).collect())
    }

    /// The node of this session has died.
    pub(crate) fn end_lost(&mut self, device: &Key, owner: &Owner, now_ms: u64) {
        let Some(session) = self.route(device) else { return };
        let shelf = self.now.devices.entry(device.clone()).or_default();
        let Ok(is_ended) = rules::end_lost(shelf, &owner.node, owner.boot, now_ms);
        if is_ended {
            let mut event = Event::new(0, Kind::RouteDel).of(&device.0, &device.1, "");
            event.epoch = session.epoch;
            self.events.push(event);
            self.mark_if_due(device, now_ms);
        }
    }

    /// Entries that wait in an inbox, with what the device would be sent.
    pub(crate) fn waiting(&self, device: &Key, business: BusinessNo) -> Vec<(Position, Bytes)> {
        let Some(shelf) = self.now.devices.get(device) else { return Vec::new() };
        let Ok(entries) = shelf.entries(business, Position::START, usize::MAX);
        entries.into_iter().map(|(position, entry)| (position, entry.blob)).collect()
    }

    pub(crate) fn is_behind(&self, device: &Key, business: BusinessNo, sent: Position) -> bool {
        let meta = self.now.devices.get(device).and_then(|shelf| {
            let Ok(meta) = shelf.meta(business);
            meta
        });
        meta.is_some_and(|meta| meta.tail > sent && meta.count() > 0)
    }

    /// Entries that are over on a clock that has jumped ahead.
    pub(crate) fn expired(&self, now_ms: u64) -> Vec<(Key, BusinessNo, Bytes)> {
        let mut found = Vec::new();
        for (key, shelf) in &self.now.devices {
            let Ok(inboxes) = shelf.inboxes();
            for business in inboxes {
                let Ok(entries) = shelf.entries(business, Position::START, usize::MAX);
                let over = entries.into_iter().filter(|(_, it)| it.expires_at_ms <= now_ms);
                found.extend(over.map(|(_, it)| (key.clone(), business, it.blob)));
            }
        }
        found
    }

    /// Who the caller is taken for: with the fence off, whoever it should be.
    fn fence(&self, device: &Key, session: &Session) -> Session {
        match self.switches.no_fence.then(|| self.route(device)).flatten() {
            Some(owner) => owner,
            None => session.clone(),
        }
    }

    /// Does it, in one step. The clock is the asking router's.
    pub(crate) fn call(&mut self, call: Call, now_ms: u64, now: Ns) -> Reply {
        match call {
            Call::Append { device, business, new, caps, replica } => {
                self.append(device, business, new, caps, replica, now_ms, now)
            }
            Call::Claim { device, login, cursors } => {
                let shelf = self.now.devices.entry(device.clone()).or_default();
                let Ok(claimed) = rules::claim(shelf, login.clone(), &cursors, now_ms);
                if let Claimed::Bound { epoch, .. } = &claimed {
                    self.claimed(&device, &login, *epoch, true);
                    self.mark_if_due(&device, now_ms);
                }
                Reply::Claimed(claimed)
            }
            Call::Announce { device, epoch, login, sent, may_raise } => {
                let shelf = self.now.devices.entry(device.clone()).or_default();
                let Ok(announced) =
                    rules::announce(shelf, epoch, login.clone(), &sent, may_raise, now_ms);
                if let &Announced::Bound { epoch, .. } = &announced {
                    self.claimed(&device, &login, epoch, false);
                    self.mark_if_due(&device, now_ms);
                }
                Reply::Announced(announced)
            }
            Call::Raise { device, claimed, above, login } => {
                let shelf = self.now.devices.entry(device.clone()).or_default();
                let Ok(raised) = rules::raise(shelf, &claimed, above, now_ms);
                if raised.is_ok() {
                    self.claimed(&device, &login, above, false);
                    self.mark_if_due(&device, now_ms);
                }
                Reply::Raised(raised)
            }
            Call::Release { device, session, sent } => {
                let fenced = self.fence(&device, &session);
                let shelf = self.now.devices.entry(device.clone()).or_default();
                let Ok(released) = rules::release(shelf, &fenced, &sent, now_ms);
                if released {
                    let mut event = self.event(Kind::RouteDel, &device, GROUP);
                    event.inbox.clear();
                    event.epoch = session.epoch;
                    self.events.push(event);
                    self.mark_if_due(&device, now_ms);
                }
                Reply::Released
            }
            Call::Fetch { device, session, business, after, limits } => {
                let session = self.fence(&device, &session);
                let shelf = self.now.devices.entry(device).or_default();
                let Ok(fetched) = rules::fetch(shelf, &session, business, after, limits, now_ms);
                Reply::Fetched(fetched)
            }
            Call::Ack { device, session, upto } => {
                let fenced = self.fence(&device, &session);
                let shelf = self.now.devices.entry(device.clone()).or_default();
                let Ok(acked) = rules::ack(shelf, &fenced, &upto, now_ms);
                if acked.is_ok() {
                    self.acked(&device, &session, &upto);
                }
                Reply::Acked(acked)
            }
            Call::Sweep { sessions } => {
                let mut all = Vec::new();
                for (device, session, acked) in sessions {
                    let fenced = self.fence(&device, &session);
                    let shelf = self.now.devices.entry(device.clone()).or_default();
                    let Ok(swept) = rules::sweep(shelf, &fenced, &acked, now_ms);
                    if swept.is_ok() {
                        self.acked(&device, &session, &acked);
                    }
                    all.push(swept);
                }
                Reply::Swept(all)
            }
            Call::Purge { device, business } => {
                let gone = self.waiting(&device, business);
                let shelf = self.now.devices.entry(device.clone()).or_default();
                let Ok(_) = rules::purge(shelf, business);
                self.evicted(&device, business, gone, false);
                Reply::Purged
            }
            Call::Route { device } => Reply::Route(self.route(&device)),
            Call::Publish { group, new, caps } => {
                let incarnation = self.position_incarnation();
                let shelf = self.now.groups.entry(group).or_default();
                let Ok(appended) = rules::publish(shelf, new, caps, incarnation, now_ms);
                Reply::Appended(appended, Durability::Memory)
            }
            Call::History { group, after, limits } => {
                let app = group.0.clone();
                let shelf = self.now.groups.entry(group).or_default();
                let Ok(batch) = rules::history(shelf, after, limits, now_ms);
                Reply::History(app, batch)
            }
            Call::Marked { router } => Reply::Marked(self.marked(router, now_ms, now)),
            Call::Heard { device, business, heard } => {
                let shelf = self.now.devices.entry(device.clone()).or_default();
                let Ok(_) = rules::event_heard(shelf, business, heard);
                self.mark_if_due(&device, now_ms);
                Reply::Looked
            }
            Call::Mean { mut batch } => {
                for (device, events) in &mut batch {
                    let shelf = self.now.devices.entry(device.clone()).or_default();
                    events.retain(|event| {
                        let heard = Heard { is_confirmed: false, ..event.heard.clone() };
                        let Ok(is_noted) = if event.heard.is_online {
                            rules::event_heard(shelf, event.business, heard)
                        } else {
                            Ok(true)
                        };
                        is_noted
                    });
                }
                Reply::Meant(batch)
            }
            Call::Unmark { device, at } => {
                if self.now.marks.get(&device) == Some(&at) {
                    self.now.marks.remove(&device);
                }
                Reply::Looked
            }
            Call::Look => Reply::Looked,
        }
    }

    /// A plain counter takes no notice of a store that went back.
    fn position_incarnation(&self) -> u64 {
        if self.switches.plain_counter { 1 } else { self.incarnation }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one call")]
    fn append(
        &mut self,
        device: Key,
        business: BusinessNo,
        new: NewEntry,
        caps: Caps,
        replica: bool,
        now_ms: u64,
        now: Ns,
    ) -> Reply {
        let incarnation = self.position_incarnation();
        let before = self.waiting(&device, business);
        let collapses = !new.collapse_key.is_empty();
        let shelf = self.now.devices.entry(device.clone()).or_default();
        let Ok(appended) = rules::append(shelf, business, new, caps, incarnation, now_ms);
        let is_full = before.len() + 1 >= caps.entries_max as usize;
        if is_full || collapses {
            let after = self.waiting(&device, business);
            let kept = |at: &Position| after.iter().any(|(it, _)| it == at);
            let gone: Vec<_> = before.into_iter().filter(|(at, _)| !kept(at)).collect();
            // With a collapse key one of them may be a collapsed one; either way it was declared.
            self.evicted(&device, business, gone, caps.drops_oldest && !collapses);
        }
        if replica {
            self.replicate(now);
        }
        Reply::Appended(appended, if replica { Durability::Replica } else { Durability::Memory })
    }

    fn claimed(&mut self, device: &Key, login: &Login, epoch: u64, is_login: bool) {
        let node = shown(&login.owner);
        for kind in [Kind::Claim, Kind::RouteSet] {
            let mut event = Event::new(0, kind).of(&device.0, &device.1, "");
            event.epoch = epoch;
            event.node.clone_from(&node);
            if kind == Kind::Claim && !login.watchers.is_empty() {
                WATCHING.clone_into(&mut event.inbox);
            }
            if is_login && kind == Kind::Claim {
                event.instance = format!("{:032x}", u128::from_be_bytes(login.instance));
                event.attempt = login.attempt;
            }
            self.events.push(event);
        }
    }

    fn acked(&mut self, device: &Key, session: &Session, upto: &Positions) {
        for (business, at) in upto {
            let mut event = self.event(Kind::Ack, device, *business).at(*at);
            event.epoch = session.epoch;
            event.node = shown(&session.owner);
            self.events.push(event);
        }
    }

    fn evicted(
        &mut self,
        device: &Key,
        business: BusinessNo,
        gone: Vec<(Position, Bytes)>,
        overflow: bool,
    ) {
        for (at, blob) in gone {
            let mut event = self.event(Kind::Evict, device, business).at(at);
            event.push = super::push_of(&blob);
            event.overflow = overflow;
            self.events.push(event);
        }
    }
}

/// A connection as the histories name it.
pub(crate) fn shown(owner: &Owner) -> String {
    format!("{}/{}/{}.{}", owner.node, owner.boot.0, owner.at.slot, owner.at.generation)
}
