//! A router's shell: what nodes and callers ask becomes calls of the store, and their answers go back.

use super::events::{self, Teller};
use super::lane::GROUP;
use super::store::{Call, Key, Reply};
use super::{Answer, Ask, Item, Message, No, Ours, Then, blob_of, node_of};
use crate::net::{Happening, MS, Net, Ns, Part, SEC, Stream, StreamId};
use crate::ours::caller::{Outcome, What};
use bytes::Bytes;
use hawser_proto::frame::NodeFrame;
use hawser_proto::id::{AppId, BusinessNo, Position};
use hawser_proto::params;
use hawser_router::cores::outlet::Outlet;
use hawser_router::cores::table::{self, Bound, LifeNo, Serves, Table};
use hawser_router::cores::{
    Announced, Appended, Batch, Caps, Claimed, Fenced, Limits, Login, LostReason, NewEntry, Owner,
    Priority, Session,
};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Default)]
pub(super) struct Router {
    /// How wrong its clock is.
    pub(super) clock_ms: i64,
    pub(super) wakes_lost_until: Ns,
    has_lost_wakes: bool,
    control: BTreeMap<usize, StreamId>,
    /// With the number of the last wake-up.
    deliver: BTreeMap<usize, (StreamId, u64)>,
    incarnation: u64,
    /// Sessions it has heard of, for volatile pushes; may be out of date.
    table: Table,
    /// Binds of one device take turns: those that wait for the one that is at the store.
    turns: BTreeMap<Key, VecDeque<(Call, Then)>>,
    /// Pushes to each app's group on their way to the streams.
    outlets: BTreeMap<&'static str, Outlet<Item>>,
    pub(super) teller: Teller,
}

/// Mail is small and lets the oldest go; chat is large and refuses.
pub(super) fn caps(business: &str) -> Caps {
    if business == "mail" {
        Caps { entries_max: 12, bytes_max: 1 << 20, drops_oldest: true }
    } else {
        Caps { entries_max: 150, bytes_max: 1 << 20, drops_oldest: false }
    }
}

/// A stored push as the device is sent it.
fn frame(
    business: BusinessNo,
    blob: &[u8],
    at: Position,
    prev: Position,
    redelivered: bool,
) -> Bytes {
    let text = String::from_utf8_lossy(blob);
    let (push, body) = text.split_once('\n').unwrap_or_default();
    let push = params::Push {
        push_id: Bytes::copy_from_slice(push.as_bytes()),
        business: business.0,
        term: at.term,
        seq: at.seq,
        prev_term: prev.term,
        prev_seq: prev.seq,
        redelivered,
        ..params::Push::default()
    };
    NodeFrame::Push(push, Bytes::copy_from_slice(body.as_bytes())).encode()
}

fn items(business: BusinessNo, batch: Batch) -> Vec<Item> {
    let item = |found: hawser_router::cores::Fetched| {
        let lost_reason = match found.reason {
            LostReason::None => params::GapReason::Unspecified,
            LostReason::Overflow => params::GapReason::Overflow,
            LostReason::Expired => params::GapReason::Expired,
            LostReason::Purged => params::GapReason::Purged,
        };
        let priority = found.entry.as_ref().map_or(0, |entry| entry.priority as u8);
        let frame = found.entry.map_or_else(Bytes::new, |entry| {
            frame(business, &entry.blob, found.position, found.prev, found.redelivered)
        });
        Item {
            at: found.position,
            prev: found.prev,
            frame,
            lost: found.lost,
            lost_reason: lost_reason as i32,
            priority,
        }
    };
    batch.items.into_iter().map(item).collect()
}

/// A push to a group as its members are sent it.
fn group_frame(app: &str, blob: &[u8], at: Position, prev: Position) -> Bytes {
    let text = String::from_utf8_lossy(blob);
    let (push, body) = text.split_once('\n').unwrap_or_default();
    let push = params::GroupPush {
        push_id: Bytes::copy_from_slice(push.as_bytes()),
        business: super::number_of(app, "chat").0,
        group: GROUP.to_owned(),
        term: at.term,
        seq: at.seq,
        prev_term: prev.term,
        prev_seq: prev.seq,
        ..params::GroupPush::default()
    };
    NodeFrame::GroupPush(push, Bytes::copy_from_slice(body.as_bytes())).encode()
}

fn group_items(app: &str, batch: Batch) -> Vec<Item> {
    let item = |found: hawser_router::cores::Fetched| Item {
        at: found.position,
        prev: found.prev,
        frame: found.entry.map_or_else(Bytes::new, |entry| {
            group_frame(app, &entry.blob, found.position, found.prev)
        }),
        lost: found.lost,
        lost_reason: 0,
        priority: 0,
    };
    batch.items.into_iter().map(item).collect()
}

/// Lives of nodes by number, both ways.
fn life_of(owner: &Owner) -> LifeNo {
    let (node, boot) = node_of(owner);
    LifeNo(boot * 16 + node as u32)
}

fn table_key(device: &Key) -> hawser_router::cores::Key {
    let app = AppId::new(&device.0).expect("our own app");
    hawser_router::cores::Key::device(&app, &device.1).expect("our own device")
}

fn table_session(owner: &Owner, epoch: u64) -> table::Session {
    let owner = table::Owner { life: life_of(owner), stamp: 0, at: owner.at };
    table::Session { owner, epoch, serves: Serves::default(), since_ms: epoch }
}

impl Ours {
    pub(super) fn start_router(&mut self, net: &mut Net<Message>, router: usize) {
        let clock_ms = self.routers[router].clock_ms;
        let incarnation = 0;
        self.routers[router] = Router { clock_ms, incarnation, ..Router::default() };
        net.begin(Part::Router(router));
        let pause = net.rng.between(SEC / 10, 2 * SEC);
        net.after(pause, Part::Router(router), Message::LookAgain);
        net.after(pause, Part::Router(router), Message::TellAgain);
    }

    pub(super) fn at_router(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        what: Happening<Message>,
    ) {
        match what {
            Happening::Opened(stream) => {
                let (Part::Node(node), _, kind) = net.ends_of(stream) else { return };
                match kind {
                    Stream::Control => drop(self.routers[router].control.insert(node, stream)),
                    Stream::Deliver => {
                        self.routers[router].deliver.insert(node, (stream, 0));
                    }
                }
            }
            Happening::Broken(stream) => {
                let it = &mut self.routers[router];
                it.control.retain(|_, own| *own != stream);
                it.deliver.retain(|_, own| own.0 != stream);
            }
            Happening::Message(stream, message) => self.from_node(net, router, stream, message),
            Happening::Due(Message::Stored { then, reply, incarnation }) => {
                self.notice(net, router, incarnation);
                self.stored(net, router, then, *reply);
            }
            Happening::Due(Message::Try { wish, call }) => self.push(net, router, wish, call),
            Happening::Due(Message::LookAgain) => {
                Self::ask_store(net, router, Call::Look, Then::Nothing);
                let pause = net.rng.between(SEC, 2 * SEC);
                net.after(pause, Part::Router(router), Message::LookAgain);
            }
            Happening::Due(Message::TellAgain) => self.look_for_events(net, router),
            Happening::Due(Message::ToldOver(call)) => self.told_over(router, call),
            Happening::Due(Message::Told { call, batch }) => {
                self.told(net, router, call, &batch);
            }
            Happening::Due(Message::WakesAgain)
                if std::mem::take(&mut self.routers[router].has_lost_wakes) =>
            {
                self.sweep_all(net, router);
            }
            _ => {}
        }
    }

    /// The store is another one than it was: it may have forgotten sessions and entries.
    fn notice(&mut self, net: &mut Net<Message>, router: usize, incarnation: u64) {
        if incarnation == 0 {
            return;
        }
        if self.routers[router].wakes_lost_until <= net.now
            && std::mem::take(&mut self.routers[router].has_lost_wakes)
        {
            self.sweep_all(net, router);
        }
        let before = std::mem::replace(&mut self.routers[router].incarnation, incarnation);
        if before != 0 && before != incarnation {
            self.sweep_all(net, router);
        }
    }

    fn sweep_all(&mut self, net: &mut Net<Message>, router: usize) {
        for stream in self.routers[router].control.values() {
            net.say(*stream, Part::Router(router), Message::SweepNow);
        }
    }

    pub(super) fn ask_store(net: &mut Net<Message>, router: usize, call: Call, then: Then) {
        let delay = net.rng.between(MS, 5 * MS);
        let message = Message::Store { router, call: Box::new(call), then, tries_on: true };
        net.after(delay, Part::World, message);
    }

    fn from_node(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        stream: StreamId,
        message: Message,
    ) {
        match message {
            Message::Bind { call, of, instance, attempt, is_login, cursors } => {
                let of_device = of.device.clone();
                let then = Then::Bind { stream, call, of: of.clone(), instance, attempt };
                let watchers = events::watchers(&of_device.0);
                let login = Login { owner: of.owner, instance, attempt, watchers };
                let wanted = if is_login {
                    Call::Claim { device: of.device, login, cursors }
                } else {
                    let (key, at) = (table_key(&of.device), table_session(&login.owner, 0).owner);
                    let may_raise = !self.routers[router].table.has_later(&key, &at, of.epoch);
                    let (device, epoch, sent) = (of.device, of.epoch, cursors);
                    Call::Announce { device, epoch, login, sent, may_raise }
                };
                let waiting = self.routers[router].turns.entry(of_device);
                if let Entry::Occupied(mut waiting) = waiting {
                    return waiting.get_mut().push_back((wanted, then));
                }
                waiting.or_default();
                Self::ask_store(net, router, wanted, then);
            }
            Message::Unbind { of, sent } => {
                let session = of.session();
                let (key, life) = (table_key(&of.device), life_of(&of.owner));
                self.routers[router].table.release(&key, life, of.owner.at, of.epoch);
                let release = Call::Release { device: of.device, session, sent };
                Self::ask_store(net, router, release, Then::Nothing);
            }
            Message::Ask { call, ask } => {
                let business = match &ask {
                    Ask::Pull { business, .. } => *business,
                    Ask::Ack { .. } | Ask::Sweep { .. } | Ask::History { .. } => BusinessNo(0),
                };
                let wanted = match ask {
                    Ask::Pull { of, business, after, entries_max, bytes_max } => {
                        let session = of.session();
                        let limits = Limits { entries_max, bytes_max };
                        Call::Fetch { device: of.device, session, business, after, limits }
                    }
                    Ask::Ack { of, upto } => {
                        let session = of.session();
                        Call::Ack { device: of.device, session, upto }
                    }
                    Ask::History { group, after, entries_max } => {
                        let limits = Limits { entries_max, bytes_max: 1 << 18 };
                        Call::History { group, after, limits }
                    }
                    Ask::Sweep { sessions } => {
                        let one = |(of, acked): (super::Named, _)| {
                            let session = of.session();
                            (of.device, session, acked)
                        };
                        Call::Sweep { sessions: sessions.into_iter().map(one).collect() }
                    }
                };
                Self::ask_store(net, router, wanted, Then::Ask { stream, call, business });
            }
            _ => {}
        }
    }

    fn push(&mut self, net: &mut Net<Message>, router: usize, wish: usize, call: u64) {
        let it = &self.wishes[wish];
        let device = (it.app.to_owned(), it.device.clone());
        let business = super::number_of(it.app, it.business);
        match it.what {
            What::Stored { ttl_ms, replica, collapse, priority } => {
                let now_ms = super::wall_ms(net.now, self.routers[router].clock_ms);
                let new = NewEntry {
                    push_id: Bytes::copy_from_slice(it.push.as_bytes()),
                    digest: 1,
                    expires_at_ms: now_ms + if ttl_ms == 0 { 7 * 86_400_000 } else { ttl_ms },
                    collapse_key: Bytes::from_static(if collapse { b"kind" } else { b"" }),
                    priority: Priority::from_number(priority),
                    blob: blob_of(&it.push, &it.body),
                };
                let caps = caps(it.business);
                let append = Call::Append { device, business, new, caps, replica };
                Self::ask_store(net, router, append, Then::Push { wish, call });
            }
            What::Volatile => {
                let known = self.routers[router].table.look(&table_key(&device), |owner, route| {
                    let (node, boot) = (owner.life.0 % 16, owner.life.0 / 16);
                    let owner = super::owner_of(node as usize, boot, owner.at);
                    Session { owner, epoch: route.epoch }
                });
                if let Some(session) = known.filter(|_| net.rng.percent(70)) {
                    self.volatile(net, router, wish, call, Some(session));
                } else {
                    let then = Then::Volatile { wish, call };
                    Self::ask_store(net, router, Call::Route { device }, then);
                }
            }
            What::Group => {
                let app = it.app;
                let new = NewEntry {
                    push_id: Bytes::copy_from_slice(it.push.as_bytes()),
                    digest: 1,
                    expires_at_ms: super::wall_ms(net.now, self.routers[router].clock_ms) + 9_000,
                    collapse_key: Bytes::new(),
                    priority: Priority::Normal,
                    blob: blob_of(&it.push, &it.body),
                };
                let ticket = self.routers[router].outlets.entry(app).or_default().begin();
                let caps = Caps { entries_max: 10, bytes_max: 1 << 20, drops_oldest: true };
                let publish =
                    Call::Publish { group: (app.to_owned(), GROUP.to_owned()), new, caps };
                Self::ask_store(net, router, publish, Then::Group { wish, call, ticket });
            }
            What::Purge => {
                let purge = Call::Purge { device, business };
                Self::ask_store(net, router, purge, Then::Push { wish, call });
            }
        }
    }

    fn volatile(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        wish: usize,
        call: u64,
        session: Option<Session>,
    ) {
        let it = &self.wishes[wish];
        let device = (it.app.to_owned(), it.device.clone());
        let business = super::number_of(it.app, it.business);
        let params = params::Push {
            push_id: Bytes::copy_from_slice(it.push.as_bytes()),
            business: business.0,
            ..params::Push::default()
        };
        let body = Bytes::copy_from_slice(it.body.as_bytes());
        let frame = NodeFrame::Push(params, body).encode();
        let push = it.push.clone();
        let is_on_its_way = session.is_some_and(|session| {
            self.deliver(net, router, &device, &session, business, Err((push, frame)))
        });
        let outcome = if is_on_its_way { Outcome::Unknown } else { Outcome::Refused };
        Self::tell_caller(net, wish, call, outcome);
    }

    /// Hands it to the node that has the session, if there is a way to it.
    fn deliver(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        device: &Key,
        session: &Session,
        business: BusinessNo,
        item: Result<Item, (String, Bytes)>,
    ) -> bool {
        let (node, _) = node_of(&session.owner);
        let it = &mut self.routers[router];
        let Some((stream, wake)) = it.deliver.get_mut(&node) else { return false };
        let number = if item.is_ok() {
            *wake += 1;
            *wake
        } else {
            0
        };
        if it.wakes_lost_until > net.now {
            // The queue to the node is full. It will be told to look by itself.
            it.has_lost_wakes |= item.is_ok();
            return false;
        }
        let to = super::Named {
            device: device.clone(),
            owner: session.owner.clone(),
            epoch: session.epoch,
        };
        let message = Message::Delivery { to, business, item, wake: number };
        net.say(*stream, Part::Router(router), message);
        true
    }

    fn tell_caller(net: &mut Net<Message>, wish: usize, call: u64, outcome: Outcome) {
        let delay = net.rng.between(MS, 5 * MS);
        net.after(delay, Part::World, Message::Outcome { wish, call, outcome });
    }

    fn stored(&mut self, net: &mut Net<Message>, router: usize, then: Then, reply: Reply) {
        match then {
            Then::Nothing => {}
            Then::Events { asked } => self.on_due(net, router, asked, reply),
            Then::Mean { asked, call } => self.on_meant(net, router, asked, call, reply),
            Then::Push { wish, call } => self.push_stored(net, router, wish, call, reply),
            Then::Volatile { wish, call } => match reply {
                Reply::Route(session) => self.volatile(net, router, wish, call, session),
                _ => Self::tell_caller(net, wish, call, Outcome::Refused),
            },
            Then::Group { wish, call, ticket } => {
                self.published(net, router, (wish, call, ticket), reply);
            }
            Then::Bind { stream, call, of, instance, attempt } => {
                let watchers = events::watchers(&of.device.0);
                let login = Login { owner: of.owner.clone(), instance, attempt, watchers };
                self.answer_bind(net, router, (stream, call), &of, login, reply);
            }
            Then::Above { stream, call, inboxes, device, raised } => {
                let outcome = match reply {
                    Reply::Raised(Ok(())) => {
                        let session = table_session(&raised.owner, raised.epoch);
                        self.routers[router].table.bind(&table_key(&device), session);
                        Ok((raised.epoch, inboxes))
                    }
                    Reply::Raised(Err(Fenced::Superseded)) => Err(Some(No::Superseded)),
                    _ => Err(Some(No::Unavailable)),
                };
                net.say(stream, Part::Router(router), Message::BindResult { call, outcome });
                self.next_turn(net, router, &device);
            }
            Then::Ask { stream, call, business } => {
                let answer = match reply {
                    Reply::Fetched(Ok(batch)) => {
                        let tail = batch.tail;
                        Ok(Answer::Pulled { entries: items(business, batch), tail })
                    }
                    Reply::Acked(Ok(())) => Ok(Answer::Acked),
                    Reply::History(app, batch) => {
                        let (tail, floor) = (batch.tail, batch.floor);
                        let entries = group_items(&app, batch);
                        Ok(Answer::History { entries, tail, floor })
                    }
                    Reply::Swept(all) => {
                        let one =
                            |it: Result<_, hawser_router::cores::Fenced>| it.map_err(No::from);
                        Ok(Answer::Swept(all.into_iter().map(one).collect()))
                    }
                    Reply::Fetched(Err(fenced)) | Reply::Acked(Err(fenced)) => Err(fenced.into()),
                    _ => Err(No::Unavailable),
                };
                net.say(stream, Part::Router(router), Message::Answer { call, answer });
            }
        }
    }

    fn push_stored(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        wish: usize,
        call: u64,
        reply: Reply,
    ) {
        let outcome = match reply {
            Reply::Appended(Appended::Stored { position, prev, owner }, durability) => {
                let it = &self.wishes[wish];
                let device = (it.app.to_owned(), it.device.clone());
                let business = super::number_of(it.app, it.business);
                let blob = blob_of(&it.push, &it.body);
                let What::Stored { priority, .. } = it.what else { return };
                if let Some(session) = owner {
                    let item = Item {
                        at: position,
                        prev,
                        frame: frame(business, &blob, position, prev, false),
                        lost: 0,
                        lost_reason: 0,
                        priority: priority as u8,
                    };
                    self.deliver(net, router, &device, &session, business, Ok(item));
                }
                Outcome::Stored(position, durability)
            }
            Reply::Appended(Appended::Repeated { position }, durability) => {
                Outcome::Stored(position, durability)
            }
            Reply::Appended(..) | Reply::Purged => Outcome::Refused,
            _ => {
                // It may be stored, and nobody was woken: as a lost wake-up.
                self.routers[router].has_lost_wakes = true;
                Outcome::Unknown
            }
        };
        Self::tell_caller(net, wish, call, outcome);
    }

    fn published(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        (wish, call, ticket): (usize, u64, u64),
        reply: Reply,
    ) {
        let it = &self.wishes[wish];
        let (app, blob) = (it.app, blob_of(&it.push, &it.body));
        let outlet = self.routers[router].outlets.entry(app).or_default();
        let (leaving, outcome) = match reply {
            Reply::Appended(Appended::Stored { position, prev, .. }, durability) => {
                let frame = group_frame(app, &blob, position, prev);
                let item = Item { at: position, prev, frame, lost: 0, lost_reason: 0, priority: 0 };
                let leaving = outlet.stored(ticket, position, prev, item);
                (leaving, Outcome::Stored(position, durability))
            }
            Reply::Appended(Appended::Repeated { position }, durability) => {
                (outlet.given_up(ticket), Outcome::Stored(position, durability))
            }
            Reply::Failed => {
                let leaving = outlet.given_up(ticket);
                self.routers[router].has_lost_wakes = true;
                (leaving, Outcome::Unknown)
            }
            _ => (outlet.given_up(ticket), Outcome::Refused),
        };
        for item in leaving {
            let it = &mut self.routers[router];
            let is_lost = it.wakes_lost_until > net.now;
            it.has_lost_wakes |= is_lost;
            for (stream, wake) in it.deliver.values_mut() {
                *wake += 1;
                if !is_lost {
                    let group =
                        Message::Group { app: app.to_owned(), item: item.clone(), wake: *wake };
                    net.say(*stream, Part::Router(router), group);
                }
            }
        }
        Self::tell_caller(net, wish, call, outcome);
    }

    /// The bind of this device at the store has its answer.
    fn next_turn(&mut self, net: &mut Net<Message>, router: usize, device: &Key) {
        let turns = &mut self.routers[router].turns;
        match turns.get_mut(device).and_then(VecDeque::pop_front) {
            Some((call, then)) => Self::ask_store(net, router, call, then),
            None => drop(turns.remove(device)),
        }
    }

    fn answer_bind(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        (stream, call): (StreamId, u64),
        of: &super::Named,
        login: Login,
        reply: Reply,
    ) {
        let key = table_key(&of.device);
        let table = &self.routers[router].table;
        let mut ousted: Vec<Session> = Vec::new();
        let outcome = match reply {
            Reply::Claimed(Claimed::Bound { epoch, displaced, inboxes }) => {
                ousted.extend(displaced);
                match table.bind(&key, table_session(&of.owner, epoch)) {
                    Bound::Taken { replaced, .. } => {
                        ousted.extend(replaced.map(known));
                        Ok((epoch, inboxes))
                    }
                    Bound::Behind { epoch: known } => {
                        // The store has forgotten a session that is known here: this one goes above it.
                        let above = known + 1;
                        let claimed = Session { owner: of.owner.clone(), epoch };
                        let raised = Session { owner: of.owner.clone(), epoch: above };
                        let (device, to) = (of.device.clone(), of.device.clone());
                        let raise = Call::Raise { device: to, claimed, above, login };
                        let then = Then::Above { stream, call, inboxes, device, raised };
                        return Self::ask_store(net, router, raise, then);
                    }
                }
            }
            Reply::Claimed(Claimed::Stale) => Err(None),
            Reply::Announced(Announced::Bound { epoch, displaced, inboxes }) => {
                match table.bind(&key, table_session(&of.owner, epoch)) {
                    Bound::Taken { replaced, .. } => {
                        ousted.extend(displaced);
                        ousted.extend(replaced.map(known));
                        Ok((epoch, inboxes))
                    }
                    Bound::Behind { .. } => Err(Some(No::Superseded)),
                }
            }
            Reply::Announced(Announced::Superseded { .. }) => {
                table.release(&key, life_of(&of.owner), of.owner.at, of.epoch);
                Err(Some(No::Superseded))
            }
            _ => Err(Some(No::Unavailable)),
        };
        net.say(stream, Part::Router(router), Message::BindResult { call, outcome });
        self.next_turn(net, router, &of.device);
        for session in ousted {
            let (node, _) = node_of(&session.owner);
            if let Some(control) = self.routers[router].control.get(&node) {
                let kick = Message::Kick { owner: session.owner, epoch: session.epoch };
                net.say(*control, Part::Router(router), kick);
            }
        }
    }
}

/// A session as the table names it.
fn known((owner, epoch): (table::Owner, u64)) -> Session {
    let (node, boot) = (owner.life.0 % 16, owner.life.0 / 16);
    Session { owner: super::owner_of(node as usize, boot, owner.at), epoch }
}
