//! An access node's shell: slots with generations, one feed per session, two streams to each router.

use super::lane::{Lane, Whom};
use super::{Answer, Ask, Item, Message, Named, No, Ours, name_of, number_of, owner_of};
use crate::net::{Happening, LinkId, MS, Net, Ns, Part, SEC, Stream, StreamId};
use bytes::Bytes;
use hawser_access::cores::feed::{Action, Entry, Feeds, Place, Pulled};
use hawser_access::cores::session::{self, Malformed, Session, Signal};
use hawser_loadtest::judge::{Event, Kind};
use hawser_proto::code::CloseCode;
use hawser_proto::codec::decode_message;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::id::{BusinessNo, Position, SlotRef};
use hawser_proto::limits::FRAME_BYTES_MAX_DEFAULT;
use hawser_proto::params;
use hawser_router::cores::{InboxState, InboxTail};
use std::collections::BTreeMap;

const IDLE: Ns = 7 * SEC;
const HEARTBEAT_MS: u32 = 4_000;
/// One call over the deliver stream.
const CALL: Ns = SEC;
/// From the login to the router's word.
const BIND: Ns = 2 * SEC;
/// A wanted sweep is done within this; the slow one comes round this often.
const SWEEP_WITHIN: Ns = 2 * SEC;
const SLOW_SWEEP: Ns = 30 * SEC;

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    AwaitLogin,
    Binding,
    Active,
}

#[derive(Debug)]
pub(super) struct Conn {
    /// As the device names it, so that the two can be matched.
    pub(super) link: Option<LinkId>,
    stage: Stage,
    session: Session,
    /// Frames behind a LOGIN that is being checked wait in the link.
    held: Vec<Bytes>,
    app: String,
    device: String,
    instance: [u8; 16],
    attempt: u64,
    epoch: u64,
    at: SlotRef,
    heard: Ns,
    cursors: Vec<(BusinessNo, Position)>,
    /// Wake-ups that were faster than the answer to the claim.
    early: Vec<(BusinessNo, Position, u8)>,
    pub(super) feeds: Feeds,
    /// Wants to be announced again.
    is_forgotten: bool,
    due: u64,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    conn: Option<Conn>,
}

#[derive(Debug)]
enum Waits {
    Pull { at: SlotRef, epoch: u64, business: BusinessNo, serial: u32 },
    Ack { at: SlotRef, epoch: u64 },
    Sweep { all: Vec<(SlotRef, u64)> },
    History { app: String, whom: Whom },
}

#[derive(Debug, Default)]
pub(super) struct Node {
    slots: Vec<Slot>,
    streams: BTreeMap<(usize, Stream), StreamId>,
    /// The last wake-up of each deliver stream.
    wakes: BTreeMap<StreamId, u64>,
    binds: BTreeMap<u64, (StreamId, SlotRef, bool)>,
    asks: BTreeMap<u64, (StreamId, Waits)>,
    last_call: u64,
    sweep_is_due: bool,
    /// The groups with members here, by app.
    pub(super) lanes: BTreeMap<String, Lane>,
}

impl Node {
    pub(super) fn link_of(&self, at: SlotRef) -> Option<LinkId> {
        let slot = self.slots.get(at.slot as usize)?;
        slot.conn.as_ref().filter(|_| slot.generation == at.generation)?.link
    }

    /// Sessions in force.
    pub(super) fn active(&self) -> impl Iterator<Item = &Conn> {
        self.slots
            .iter()
            .filter_map(|slot| slot.conn.as_ref())
            .filter(|it| it.stage == Stage::Active)
    }

    fn conn(&mut self, at: SlotRef) -> Option<&mut Conn> {
        let slot = self.slots.get_mut(at.slot as usize)?;
        slot.conn.as_mut().filter(|_| slot.generation == at.generation)
    }

    fn by_link(&self, link: LinkId) -> Option<SlotRef> {
        let conns = self.slots.iter().filter_map(|slot| slot.conn.as_ref());
        conns.into_iter().find(|conn| conn.link == Some(link)).map(|conn| conn.at)
    }

    fn insert(&mut self, link: LinkId, now: Ns) -> SlotRef {
        let free = self.slots.iter().position(|slot| slot.conn.is_none());
        let index = free.unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        slot.generation += 1;
        let at = SlotRef { slot: index as u32, generation: slot.generation };
        slot.conn = Some(Conn {
            link: Some(link),
            stage: Stage::AwaitLogin,
            session: Session::new(),
            held: Vec::new(),
            app: String::new(),
            device: String::new(),
            instance: [0; 16],
            attempt: 0,
            epoch: 0,
            at,
            heard: now,
            cursors: Vec::new(),
            early: Vec::new(),
            feeds: Feeds::new(),
            is_forgotten: false,
            due: 0,
        });
        at
    }
}

impl Ours {
    pub(super) fn start_node(&mut self, net: &mut Net<Message>, node: usize) {
        let part = Part::Node(node);
        net.begin(part);
        self.nodes[node] = Node::default();
        for router in 0..self.routers.len() {
            for kind in [Stream::Control, Stream::Deliver] {
                let pause = net.rng.between(MS, 50 * MS);
                net.after(pause, part, Message::Connect(router, kind));
            }
        }
        if self.slow_sweep {
            let pause = net.rng.between(SEC, SLOW_SWEEP);
            net.after(pause, part, Message::SlowSweep);
        }
    }

    pub(super) fn at_node(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        what: Happening<Message>,
    ) {
        let part = Part::Node(node);
        match what {
            Happening::Accepted(link) => {
                let at = self.nodes[node].insert(link, net.now);
                net.after(SEC, part, Message::Idle(at));
            }
            Happening::Frame(link, bytes) => {
                if let Some(at) = self.nodes[node].by_link(link) {
                    self.from_device(net, node, at, bytes);
                }
            }
            Happening::Ended(link) => {
                if let Some(at) = self.nodes[node].by_link(link) {
                    self.session_event(net, node, at, session::Event::Ended);
                }
            }
            Happening::Drained(link) => {
                if let Some(at) = self.nodes[node].by_link(link) {
                    self.pump(net, node, at);
                }
            }
            Happening::Broken(stream) => self.stream_broke(net, node, stream),
            Happening::Message(stream, message) => self.from_router(net, node, stream, message),
            Happening::Due(message) => self.node_due(net, node, message),
            Happening::Opened(_) => {}
        }
    }

    fn node_due(&mut self, net: &mut Net<Message>, node: usize, message: Message) {
        let part = Part::Node(node);
        match message {
            Message::Connect(router, kind) => self.connect(net, node, router, kind),
            Message::Idle(at) => {
                let Some(conn) = self.nodes[node].conn(at) else { return };
                if net.now >= conn.heard + IDLE {
                    self.order(net, node, at, CloseCode::IdleTimeout);
                } else {
                    net.after(SEC, part, Message::Idle(at));
                }
            }
            Message::BindOverdue(call) => {
                if let Some((_, at, is_login)) = self.nodes[node].binds.remove(&call)
                    && is_login
                {
                    self.refuse(net, node, at, CloseCode::RouterUnavailable);
                }
            }
            Message::Due(at) => self.pump(net, node, at),
            Message::SweepAll => self.sweep(net, node),
            Message::SlowSweep => {
                self.sweep(net, node);
                net.after(SLOW_SWEEP, part, Message::SlowSweep);
            }
            Message::Overdone(call) => {
                if let Some((_, waits)) = self.nodes[node].asks.remove(&call) {
                    self.settle(net, node, waits, Err(No::Unavailable));
                }
            }
            Message::Announce(at) => self.announce(net, node, at, None),
            Message::LaneTurn(app) => self.lane_turn(net, node, &app),
            _ => {}
        }
    }

    // === Streams ===

    fn connect(&mut self, net: &mut Net<Message>, node: usize, router: usize, kind: Stream) {
        let part = Part::Node(node);
        if self.nodes[node].streams.contains_key(&(router, kind)) {
            return;
        }
        let Some(stream) = net.open_stream(part, Part::Router(router), kind) else {
            let pause = net.rng.between(100 * MS, SEC);
            return net.after(pause, part, Message::Connect(router, kind));
        };
        self.nodes[node].streams.insert((router, kind), stream);
        match kind {
            Stream::Control => {
                // Whatever was said on the stream before may be lost: the sessions tell of themselves.
                let all: Vec<SlotRef> = self.nodes[node].active().map(|conn| conn.at).collect();
                for at in all {
                    let pause = net.rng.between(MS, 300 * MS);
                    if router == 0 || net.rng.percent(30) {
                        net.after(pause, part, Message::Announce(at));
                    }
                }
            }
            Stream::Deliver => {
                self.nodes[node].wakes.insert(stream, 0);
                self.want_sweep(net, node);
                self.pump_all(net, node);
            }
        }
    }

    fn stream_broke(&mut self, net: &mut Net<Message>, node: usize, stream: StreamId) {
        let (_, router, kind) = net.ends_of(stream);
        let Part::Router(router) = router else { return };
        let it = &mut self.nodes[node];
        it.streams.retain(|_, own| *own != stream);
        it.wakes.remove(&stream);
        let binds: Vec<u64> =
            it.binds.iter().filter(|(_, bind)| bind.0 == stream).map(|(call, _)| *call).collect();
        let asks: Vec<u64> =
            it.asks.iter().filter(|(_, ask)| ask.0 == stream).map(|(call, _)| *call).collect();
        for call in binds {
            if let Some((_, at, is_login)) = self.nodes[node].binds.remove(&call)
                && is_login
            {
                self.refuse(net, node, at, CloseCode::RouterUnavailable);
            }
        }
        for call in asks {
            if let Some((_, waits)) = self.nodes[node].asks.remove(&call) {
                self.settle(net, node, waits, Err(No::Unavailable));
            }
        }
        let pause = net.rng.between(50 * MS, 500 * MS);
        net.after(pause, Part::Node(node), Message::Connect(router, kind));
    }

    /// A router that can be spoken to; not always the same one.
    fn way(&self, net: &mut Net<Message>, node: usize, kind: Stream) -> Option<StreamId> {
        let it = &self.nodes[node];
        let up: Vec<StreamId> =
            it.streams.iter().filter(|(key, _)| key.1 == kind).map(|(_, id)| *id).collect();
        if up.is_empty() { None } else { Some(*net.rng.pick(&up)) }
    }

    fn next_call(&mut self, node: usize) -> u64 {
        self.nodes[node].last_call += 1;
        self.nodes[node].last_call
    }

    fn named(&mut self, net: &Net<Message>, node: usize, at: SlotRef) -> Option<Named> {
        let boot = net.life(Part::Node(node))?;
        let conn = self.nodes[node].conn(at)?;
        let device = (conn.app.clone(), conn.device.clone());
        Some(Named { device, owner: owner_of(node, boot, at), epoch: conn.epoch })
    }

    // === What devices say ===

    fn from_device(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef, bytes: Bytes) {
        let Some(conn) = self.nodes[node].conn(at) else { return };
        conn.heard = net.now;
        if conn.stage == Stage::Binding {
            return conn.held.push(bytes);
        }
        let frame = decode_message(bytes, conn.session.frame_bytes_max());
        let event = match frame.and_then(DeviceFrame::parse) {
            Ok(frame) => session::Event::Frame(frame),
            Err(error) => session::Event::Malformed(Malformed {
                code: error.close_code(),
                reason: error.to_string(),
            }),
        };
        self.session_event(net, node, at, event);
    }

    /// Tells the session machine, and does the one thing that it says.
    fn session_event(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        event: session::Event,
    ) {
        use session::Action as A;
        let Some(conn) = self.nodes[node].conn(at) else { return };
        let app = conn.app.clone();
        match conn.session.handle(event) {
            A::Authenticate(login) => self.log_in(net, node, at, *login),
            A::Admit => conn.stage = Stage::Active,
            A::Pong { nonce } => {
                let pong = NodeFrame::Pong(params::Ping { nonce });
                self.write(net, node, at, pong.encode());
            }
            A::Ack(ack) => {
                for it in ack.inboxes {
                    let _ = conn.feeds.ack(BusinessNo(it.business), Position::new(it.term, it.seq));
                }
                self.pump(net, node, at);
            }
            A::Resync(resync) => {
                let it = resync.after.unwrap_or_default();
                let _ = conn.feeds.resync(BusinessNo(it.business), Position::new(it.term, it.seq));
                self.pump(net, node, at);
            }
            A::Join(join) => self.join_group(net, node, at, &app, &join),
            A::Leave(leave) => self.leave_group(net, node, at, &app, &leave),
            A::Recover(recover) => {
                let after = Position::new(recover.term, recover.seq);
                self.recover_group(net, node, at, &app, after);
            }
            A::Close { code, .. } => self.close(net, node, at, Some(code)),
            A::Vanish => self.close(net, node, at, None),
            A::Nothing
            | A::Refresh { .. }
            | A::Forward(..)
            | A::RefuseRequest { .. }
            | A::Drain => {}
        }
    }

    /// Somebody wants the session to end.
    fn order(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef, code: CloseCode) {
        let signal = match code {
            CloseCode::IdleTimeout => Signal::Idle,
            code => Signal::Ordered(code, String::new()),
        };
        self.session_event(net, node, at, session::Event::Signal(signal));
    }

    /// The login does not hold.
    fn refuse(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef, code: CloseCode) {
        let event = session::Event::Refused(code, String::new());
        self.session_event(net, node, at, event);
    }

    fn log_in(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef, login: params::Login) {
        let Some(stream) = self.way(net, node, Stream::Control) else {
            return self.refuse(net, node, at, CloseCode::RouterUnavailable);
        };
        let Some(conn) = self.nodes[node].conn(at) else { return };
        conn.stage = Stage::Binding;
        (conn.app, conn.device) = (login.app, login.device);
        conn.instance.copy_from_slice(&login.instance);
        conn.attempt = login.attempt;
        let cursor = |it: &params::Cursor| {
            (number_of(&conn.app, &it.business), Position::new(it.term, it.seq))
        };
        conn.cursors = login.cursors.iter().map(cursor).collect();
        let call = self.next_call(node);
        self.bind(net, node, at, stream, call, true);
        net.after(BIND, Part::Node(node), Message::BindOverdue(call));
    }

    fn bind(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        stream: StreamId,
        call: u64,
        is_login: bool,
    ) {
        let Some(of) = self.named(net, node, at) else { return };
        let Some(conn) = self.nodes[node].conn(at) else { return };
        let cursors = if is_login { conn.cursors.clone() } else { conn.feeds.sent().collect() };
        let (instance, attempt) = (conn.instance, conn.attempt);
        self.nodes[node].binds.insert(call, (stream, at, is_login));
        let message = Message::Bind { call, of, instance, attempt, is_login, cursors };
        net.say(stream, Part::Node(node), message);
    }

    fn announce(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        over: Option<StreamId>,
    ) {
        let Some(stream) = over.or_else(|| self.way(net, node, Stream::Control)) else { return };
        let is_active = self.nodes[node].conn(at).is_some_and(|it| it.stage == Stage::Active);
        if is_active {
            let call = self.next_call(node);
            self.bind(net, node, at, stream, call, false);
            net.after(BIND, Part::Node(node), Message::BindOverdue(call));
        }
    }

    // === What routers say ===

    fn from_router(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        stream: StreamId,
        message: Message,
    ) {
        match message {
            Message::BindResult { call, outcome } => self.bound(net, node, call, outcome),
            Message::Kick { owner, epoch, .. } => {
                let (_, boot) = super::node_of(&owner);
                let matches = net.life(Part::Node(node)) == Some(boot)
                    && self.nodes[node].conn(owner.at).is_some_and(|conn| conn.epoch == epoch);
                if matches {
                    self.order(net, node, owner.at, CloseCode::Superseded);
                }
            }
            Message::SweepNow => self.want_sweep(net, node),
            Message::Group { app, item, wake } => {
                self.count_wake(net, node, stream, wake);
                self.group_push(net, node, &app, &item);
            }
            Message::Delivery { to, business, item, wake } => {
                if wake > 0 {
                    self.count_wake(net, node, stream, wake);
                }
                self.delivered(net, node, &to, business, item);
            }
            Message::Answer { call, answer } => {
                if let Some((_, waits)) = self.nodes[node].asks.remove(&call) {
                    self.settle(net, node, waits, answer);
                }
            }
            _ => {}
        }
    }

    fn count_wake(&mut self, net: &mut Net<Message>, node: usize, stream: StreamId, wake: u64) {
        let last = self.nodes[node].wakes.insert(stream, wake).unwrap_or_default();
        if wake != last + 1 {
            self.want_sweep(net, node);
        }
    }

    fn bound(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        call: u64,
        outcome: Result<(u64, Vec<InboxTail>), Option<No>>,
    ) {
        let Some((_, at, is_login)) = self.nodes[node].binds.remove(&call) else { return };
        match outcome {
            Ok((epoch, inboxes)) if is_login => {
                let Some(conn) = self.nodes[node].conn(at) else {
                    return;
                };
                conn.epoch = epoch;
                let frame_bytes_max = FRAME_BYTES_MAX_DEFAULT;
                let bound = session::Event::Bound { frame_bytes_max, abilities: ability::ALL };
                self.session_event(net, node, at, bound);
                let Some(conn) = self.nodes[node].conn(at) else { return };
                for (business, cursor) in conn.cursors.clone() {
                    if cursor > Position::START {
                        conn.feeds.begin(business, cursor);
                    }
                }
                let ok = self.login_ok(net, node, at, &inboxes);
                self.write(net, node, at, ok);
                self.stand(net, node, at, &inboxes);
                let held = self.nodes[node].conn(at).map(|conn| std::mem::take(&mut conn.held));
                for bytes in held.into_iter().flatten() {
                    self.from_device(net, node, at, bytes);
                }
            }
            Ok((_, inboxes)) => {
                if let Some(conn) = self.nodes[node].conn(at) {
                    conn.is_forgotten = false;
                }
                self.stand(net, node, at, &inboxes);
            }
            Err(None) => self.refuse(net, node, at, CloseCode::StaleLogin),
            Err(Some(No::Superseded)) => {
                self.order(net, node, at, CloseCode::Superseded);
            }
            Err(Some(_)) if is_login => {
                self.refuse(net, node, at, CloseCode::RouterUnavailable);
            }
            Err(Some(_)) => {
                let pause = net.rng.between(100 * MS, SEC);
                net.after(pause, Part::Node(node), Message::Announce(at));
            }
        }
    }

    fn login_ok(
        &mut self,
        net: &Net<Message>,
        node: usize,
        at: SlotRef,
        inboxes: &[InboxTail],
    ) -> Bytes {
        let connection = self
            .named(net, node, at)
            .map_or_else(String::new, |named| super::store::shown(&named.owner));
        let Some(conn) = self.nodes[node].conn(at) else { return Bytes::new() };
        let business = |name: &str| params::BusinessNumber {
            name: name.to_owned(),
            number: number_of(&conn.app, name).0,
            status: 0,
        };
        let inbox = |it: &InboxTail| params::Inbox {
            business: it.business.0,
            tail_term: it.tail.term,
            tail_seq: it.tail.seq,
            floor_term: it.floor.term,
            floor_seq: it.floor.seq,
            state: match it.state {
                InboxState::Fine => 0,
                InboxState::TermChanged => params::InboxState::TermChanged as i32,
                InboxState::CursorRefused => params::InboxState::CursorRefused as i32,
            },
        };
        let ok = params::LoginOk {
            connection,
            epoch: conn.epoch,
            businesses: vec![business("chat"), business("mail")],
            heartbeat_ms: HEARTBEAT_MS,
            idle_timeout_ms: (IDLE / MS) as u32,
            server_time_ms: super::wall_ms(net.now, 0),
            abilities: ability::ALL,
            inboxes: inboxes.iter().map(inbox).collect(),
            ..params::LoginOk::default()
        };
        NodeFrame::LoginOk(ok).encode()
    }

    fn stand(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef, inboxes: &[InboxTail]) {
        let Some(conn) = self.nodes[node].conn(at) else { return };
        for inbox in inboxes {
            if inbox.state == InboxState::CursorRefused {
                conn.feeds.begin(inbox.business, inbox.floor);
            }
            conn.feeds.tail(inbox.business, inbox.tail, inbox.priority as u8);
        }
        for (business, at, priority) in std::mem::take(&mut conn.early) {
            conn.feeds.tail(business, at, priority);
        }
        conn.feeds.hurry();
        self.pump(net, node, at);
    }

    fn delivered(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        to: &Named,
        business: BusinessNo,
        item: Result<Item, (String, Bytes)>,
    ) {
        let boot = net.life(Part::Node(node));
        let (_, of) = super::node_of(&to.owner);
        let no_fence = self.switches.no_fence;
        let at = to.owner.at;
        let Some(conn) = self.nodes[node].conn(at).filter(|_| boot == Some(of)) else { return };
        if conn.stage == Stage::Binding
            && let Ok(item) = &item
        {
            // The claim is done, and its answer on its way: what came after it is not in that answer.
            conn.early.push((business, item.at, item.priority));
            return;
        }
        let is_it = conn.stage == Stage::Active
            && (conn.app.as_str(), conn.device.as_str()) == (&to.device.0, &to.device.1)
            && (conn.epoch == to.epoch || no_fence);
        if !is_it {
            return;
        }
        match item {
            Ok(item) => {
                conn.feeds.wake(business, entry(item));
                self.pump(net, node, at);
            }
            Err((push, frame)) => {
                let name = name_of(&conn.app, business.0);
                let mut event = Event::new(0, Kind::Send).of(&conn.app, &conn.device, name);
                (event.push, event.volatile, event.epoch) = (push, true, conn.epoch);
                let link = conn.link;
                if link.is_some_and(|link| net.has_room(link, frame.len())) {
                    net.record(event);
                    self.write(net, node, at, frame);
                }
            }
        }
    }

    // === Feeds ===

    pub(super) fn write(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef, bytes: Bytes) {
        if let Some(link) = self.nodes[node].conn(at).and_then(|conn| conn.link) {
            net.send(link, Part::Node(node), bytes);
        }
    }

    fn pump_all(&mut self, net: &mut Net<Message>, node: usize) {
        let all: Vec<SlotRef> = self.nodes[node].active().map(|conn| conn.at).collect();
        for at in all {
            self.pump(net, node, at);
        }
    }

    /// Does what the feed of this session wants done.
    fn pump(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef) {
        let now_ms = super::wall_ms(net.now, 0);
        loop {
            let way = self.way(net, node, Stream::Deliver);
            let Some(named) = self.named(net, node, at) else { return };
            let Some(conn) = self.nodes[node].conn(at) else { return };
            let Some(link) = conn.link.filter(|_| conn.stage == Stage::Active) else { return };
            let room = |bytes| net.has_room(link, bytes);
            let epoch = conn.epoch;
            let max = FRAME_BYTES_MAX_DEFAULT;
            let Some(action) = conn.feeds.poll(now_ms, max, way.is_some(), room) else { break };
            match action {
                Action::Write { frame, .. } => net.send(link, Part::Node(node), frame),
                Action::Gap(gap) => {
                    net.send(link, Part::Node(node), NodeFrame::Gap(gap).encode());
                }
                Action::Pull { business, serial, after, entries_max, bytes_max } => {
                    let ask = Ask::Pull { of: named, business, after, entries_max, bytes_max };
                    self.ask(net, node, way, ask, Waits::Pull { at, epoch, business, serial });
                }
                Action::Ack(upto) => {
                    let ask = Ask::Ack { of: named, upto };
                    self.ask(net, node, way, ask, Waits::Ack { at, epoch });
                }
                Action::Tell(..) => {}
            }
        }
        let Some(conn) = self.nodes[node].conn(at) else { return };
        if let Some(due) = conn.feeds.due_ms()
            && due != conn.due
        {
            conn.due = due;
            let pause = due.saturating_sub(now_ms) * MS + MS;
            net.after(pause, Part::Node(node), Message::Due(at));
        }
    }

    fn ask(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        way: Option<StreamId>,
        ask: Ask,
        waits: Waits,
    ) {
        let Some(stream) = way else { return };
        let call = self.next_call(node);
        self.nodes[node].asks.insert(call, (stream, waits));
        net.say(stream, Part::Node(node), Message::Ask { call, ask });
        net.after(CALL, Part::Node(node), Message::Overdone(call));
    }

    /// False: there is no way to a router just now.
    pub(super) fn ask_for_lane(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        ask: Ask,
        whom: Whom,
    ) -> bool {
        let way = self.way(net, node, Stream::Deliver);
        self.ask(net, node, way, ask, Waits::History { app: app.to_owned(), whom });
        way.is_some()
    }

    fn settle(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        waits: Waits,
        answer: Result<Answer, No>,
    ) {
        let now_ms = super::wall_ms(net.now, 0);
        match waits {
            Waits::Pull { at, epoch, business, serial } => {
                let pulled = match answer {
                    Ok(Answer::Pulled { entries, tail }) => {
                        Some(Pulled { entries: entries.into_iter().map(entry).collect(), tail })
                    }
                    Ok(_) => None,
                    Err(no) => {
                        self.judge(net, node, at, epoch, no);
                        None
                    }
                };
                if let Some(conn) = self.nodes[node].conn(at).filter(|it| it.epoch == epoch) {
                    conn.feeds.pulled(business, serial, pulled, now_ms);
                }
                self.pump(net, node, at);
            }
            Waits::Ack { at, epoch } => {
                let is_taken = answer.is_ok();
                if let Err(no) = answer {
                    self.judge(net, node, at, epoch, no);
                }
                if let Some(conn) = self.nodes[node].conn(at).filter(|it| it.epoch == epoch) {
                    conn.feeds.ack_told(is_taken, now_ms);
                }
                self.pump(net, node, at);
            }
            Waits::History { app, whom } => {
                let answer = match answer {
                    Ok(Answer::History { entries, tail, floor }) => Some((entries, tail, floor)),
                    _ => None,
                };
                self.history_answered(net, node, &app, whom, answer);
            }
            Waits::Sweep { all } => {
                let Ok(Answer::Swept(found)) = answer else {
                    return self.want_sweep(net, node);
                };
                for ((at, epoch), one) in all.into_iter().zip(found) {
                    match one {
                        Ok(inboxes) => {
                            if self.nodes[node].conn(at).is_some_and(|it| it.epoch == epoch)
                                && !inboxes.is_empty()
                            {
                                self.stand(net, node, at, &inboxes);
                            }
                        }
                        Err(No::Unavailable) => self.want_sweep(net, node),
                        Err(no) => self.judge(net, node, at, epoch, no),
                    }
                }
            }
        }
    }

    /// What the store thinks of the session that asked.
    fn judge(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef, epoch: u64, no: No) {
        let Some(conn) = self.nodes[node].conn(at).filter(|it| it.epoch == epoch) else { return };
        match no {
            No::Superseded => self.order(net, node, at, CloseCode::Superseded),
            No::Forgotten => {
                if !std::mem::replace(&mut conn.is_forgotten, true) {
                    let pause = net.rng.between(MS, 200 * MS);
                    net.after(pause, Part::Node(node), Message::Announce(at));
                }
            }
            No::Unavailable => {}
        }
    }

    // === Sweeps ===

    pub(super) fn want_sweep(&mut self, net: &mut Net<Message>, node: usize) {
        if !std::mem::replace(&mut self.nodes[node].sweep_is_due, true) {
            let pause = net.rng.between(200 * MS, SWEEP_WITHIN);
            net.after(pause, Part::Node(node), Message::SweepAll);
        }
    }

    fn sweep(&mut self, net: &mut Net<Message>, node: usize) {
        self.nodes[node].sweep_is_due = false;
        self.sweep_lanes(net, node);
        let way = self.way(net, node, Stream::Deliver);
        let mut all = Vec::new();
        let mut sessions = Vec::new();
        let active: Vec<SlotRef> = self.nodes[node].active().map(|conn| conn.at).collect();
        for at in active {
            let Some(named) = self.named(net, node, at) else { continue };
            let Some(conn) = self.nodes[node].conn(at) else { continue };
            all.push((at, conn.epoch));
            let of_all = ["chat", "mail"].map(|name| number_of(&conn.app, name));
            let mut acked: Vec<_> = conn.feeds.acked().collect();
            for business in of_all {
                if !acked.iter().any(|(it, _)| *it == business) {
                    acked.push((business, Position::START));
                }
            }
            sessions.push((named, acked));
        }
        if sessions.is_empty() {
            return;
        }
        if way.is_none() {
            return self.want_sweep(net, node);
        }
        self.ask(net, node, way, Ask::Sweep { sessions }, Waits::Sweep { all });
    }

    // === The end ===

    fn close(&mut self, net: &mut Net<Message>, node: usize, at: SlotRef, code: Option<CloseCode>) {
        let named = self.named(net, node, at);
        let way = self.way(net, node, Stream::Control);
        let Some(slot) = self.nodes[node].slots.get_mut(at.slot as usize) else { return };
        if slot.generation != at.generation {
            return;
        }
        let Some(conn) = slot.conn.take() else { return };
        slot.generation += 1;
        if let Some(link) = conn.link {
            if let Some(code) = code {
                let close = NodeFrame::close(code, "", 0).encode();
                net.send(link, Part::Node(node), close);
            }
            net.hang_up(link, Part::Node(node));
        }
        self.nodes[node].lanes.values_mut().for_each(|lane| lane.forget(at));
        let sent = conn.feeds.end().sent;
        if conn.stage == Stage::Active
            && let (Some(of), Some(stream)) = (named, way)
        {
            net.say(stream, Part::Node(node), Message::Unbind { of, sent });
        }
    }
}

fn entry(item: Item) -> Entry {
    Entry {
        place: Place { at: item.at, prev: item.prev },
        frame: item.frame,
        lost: item.lost,
        lost_reason: item.lost_reason,
        priority: item.priority,
    }
}
