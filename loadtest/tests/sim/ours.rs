//! Hawser in the simulated world: the real cores (the SDK's session, the node's feeds, the router's
//! inbox rules), and around them shells as thin as can be, which do what the real ones do.

mod caller;
mod device;
mod events;
mod lane;
mod node;
mod router;
pub(crate) mod store;

use crate::coverage::State;
use crate::fault::{Fault, Kind, Shape};
use crate::net::{Cut, Happening, LinkId, MS, Net, Ns, Part, SEC, Stream, StreamId};
use crate::run::Engine;
use bytes::Bytes;
use caller::Wish;
use device::Device;
use hawser_loadtest::judge::{self, Event};
use hawser_proto::id::{BusinessNo, Position, SlotRef};
use hawser_router::cores::{self, Fenced, InboxTail, Owner, Session};
use node::Node;
use router::Router;
use std::rc::Rc;
use store::{Call, Key, Positions, Reply, Store, Switches};

/// Wall clock at the beginning, milliseconds since 1970.
const WALL_MS: u64 = 1_700_000_000_000;

/// Apps, and the numbers that their businesses have: the same names mean different things.
const APPS: [(&str, [(&str, u32); 2]); 2] =
    [("alpha", [("chat", 1), ("mail", 2)]), ("beta", [("chat", 2), ("mail", 1)])];

fn number_of(app: &str, business: &str) -> BusinessNo {
    let app = APPS.iter().find(|(name, _)| *name == app).map(|(_, businesses)| businesses);
    let found = app.and_then(|it| it.iter().find(|(name, _)| *name == business));
    BusinessNo(found.map_or(0, |(_, number)| *number))
}

fn name_of(app: &str, number: u32) -> &'static str {
    let app = APPS.iter().find(|(name, _)| *name == app).map(|(_, businesses)| businesses);
    app.and_then(|it| it.iter().find(|(_, no)| *no == number)).map_or("", |(name, _)| *name)
}

/// What is stored of a push: its id, and the bytes for the device.
fn blob_of(push: &str, body: &str) -> Bytes {
    Bytes::from(format!("{push}\n{body}"))
}

/// The push id of a stored blob.
pub(crate) fn push_of(blob: &[u8]) -> String {
    let text = String::from_utf8_lossy(blob);
    text.split('\n').next().unwrap_or_default().to_owned()
}

/// A session as a node names it to a router.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    device: Key,
    owner: Owner,
    epoch: u64,
}

impl Named {
    fn session(&self) -> Session {
        Session { owner: self.owner.clone(), epoch: self.epoch }
    }
}

/// What a node asks over the deliver stream.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Pull { of: Named, business: BusinessNo, after: Position, entries_max: u32, bytes_max: u32 },
    Ack { of: Named, upto: Positions },
    Sweep { sessions: Vec<(Named, Positions)> },
    History { group: Key, after: Position, entries_max: u32 },
}

/// Why an answer says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum No {
    Superseded,
    Forgotten,
    Unavailable,
}

impl From<Fenced> for No {
    fn from(fenced: Fenced) -> Self {
        match fenced {
            Fenced::Superseded => Self::Superseded,
            Fenced::Forgotten => Self::Forgotten,
        }
    }
}

/// One entry on its way to a node.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    at: Position,
    prev: Position,
    frame: Bytes,
    lost: u64,
    lost_reason: i32,
    priority: u8,
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Pulled { entries: Vec<Item>, tail: Position },
    Acked,
    Swept(Vec<Result<Vec<InboxTail>, No>>),
    History { entries: Vec<Item>, tail: Position, floor: Position },
}

/// What a router remembers while the store is at work.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    Push {
        wish: usize,
        call: u64,
    },
    /// With the ticket of the outlet.
    Group {
        wish: usize,
        call: u64,
        ticket: u64,
    },
    /// The claim that met a newer session in the table goes above it, unless the store names that one by now.
    Above {
        stream: StreamId,
        call: u64,
        inboxes: Vec<InboxTail>,
        device: Key,
        raised: Session,
    },
    Volatile {
        wish: usize,
        call: u64,
    },
    Bind {
        stream: StreamId,
        call: u64,
        of: Named,
        instance: [u8; 16],
        attempt: u64,
    },
    Ask {
        stream: StreamId,
        call: u64,
        business: BusinessNo,
    },
    Events {
        asked: Ns,
    },
    /// What is about to be told is noted.
    Mean {
        asked: Ns,
        call: u64,
    },
    Nothing,
}

/// Everything that is said.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    // Node to router, control.
    Bind {
        call: u64,
        of: Named,
        instance: [u8; 16],
        attempt: u64,
        is_login: bool,
        cursors: Positions,
    },
    Unbind {
        of: Named,
        sent: Positions,
    },
    // Router to node, control.
    BindResult {
        call: u64,
        outcome: Result<(u64, Vec<InboxTail>), Option<No>>,
    },
    Kick {
        owner: Owner,
        epoch: u64,
    },
    SweepNow,
    // Deliver.
    Delivery {
        to: Named,
        business: BusinessNo,
        /// None: volatile.
        item: Result<Item, (String, Bytes)>,
        wake: u64,
    },
    Group {
        app: String,
        item: Item,
        wake: u64,
    },
    Ask {
        call: u64,
        ask: Ask,
    },
    Answer {
        call: u64,
        answer: Result<Answer, No>,
    },
    // Routers and the store.
    Store {
        router: usize,
        call: Box<Call>,
        then: Then,
        tries_on: bool,
    },
    Stored {
        then: Then,
        reply: Box<Reply>,
        incarnation: u64,
    },
    // Callers.
    Wish(usize),
    Try {
        wish: usize,
        call: u64,
    },
    Outcome {
        wish: usize,
        call: u64,
        outcome: caller::Outcome,
    },
    Overdue {
        wish: usize,
        call: u64,
    },
    // Routers and businesses.
    Tell {
        router: usize,
        call: u64,
        batch: Vec<(Key, Vec<cores::Event>)>,
    },
    Told {
        call: u64,
        batch: Vec<(Key, Vec<cores::Event>)>,
    },
    /// The end of a call, also when nothing was said.
    ToldOver(u64),
    TellAgain,
    /// The lease of this life of a node has ended.
    Lost(usize, u32),
    // What parts tell themselves.
    Rise(Part),
    Replicate,
    Member(usize, bool),
    LaneTurn(String),
    Dialled(LinkId, bool),
    Wake(u64),
    Handle(&'static str),
    HandlerDone(&'static str, u64),
    Keep(Vec<(Rc<str>, Position)>),
    Connect(usize, Stream),
    Idle(SlotRef),
    BindOverdue(u64),
    Due(SlotRef),
    SweepAll,
    SlowSweep,
    Overdone(u64),
    Unstall(LinkId),
    LookAgain,
    WakesAgain,
    Announce(SlotRef),
}

/// The whole of it.
pub(crate) struct Ours {
    store: Store,
    switches: Switches,
    devices: Vec<Device>,
    nodes: Vec<Node>,
    routers: Vec<Router>,
    wishes: Vec<Wish>,
    store_away_until: Ns,
    store_slow_until: Ns,
    /// Clocks differ by more than ttl can be judged at.
    clocks_jump: bool,
    slow_sweep: bool,
    healed: bool,
}

fn wall_ms(now: Ns, offset_ms: i64) -> u64 {
    (WALL_MS + now / MS).saturating_add_signed(offset_ms)
}

impl Engine for Ours {
    type Message = Message;
    type Switches = Switches;

    fn new(net: &mut Net<Message>, shape: Shape, faults: &[Fault], switches: Switches) -> Self {
        let names = APPS.iter().flat_map(|(app, businesses)| {
            businesses
                .iter()
                .map(|(name, no)| ((*app).to_owned(), BusinessNo(*no), (*name).to_owned()))
        });
        let mut ours = Self {
            store: Store::new(switches, names.collect()),
            switches,
            devices: (0..shape.devices).map(|it| Device::new(it, &mut net.rng)).collect(),
            nodes: (0..shape.nodes).map(|_| Node::default()).collect(),
            routers: (0..shape.routers).map(|_| Router::default()).collect(),
            wishes: Vec::new(),
            store_away_until: 0,
            store_slow_until: 0,
            clocks_jump: faults.iter().any(|fault| fault.kind == Kind::ClockJump),
            slow_sweep: net.rng.percent(50),
            healed: false,
        };
        for (app, _) in APPS {
            ours.store.create_group((app.to_owned(), lane::GROUP.to_owned()), WALL_MS);
        }
        for router in 0..shape.routers {
            ours.start_router(net, router);
        }
        for node in 0..shape.nodes {
            ours.start_node(net, node);
        }
        for device in 0..shape.devices {
            ours.start_device(net, device);
        }
        ours.plan_wishes(net);
        net.after(SEC / 2, Part::World, Message::Replicate);
        ours
    }

    fn handle(&mut self, net: &mut Net<Message>, part: Part, what: Happening<Message>) {
        match part {
            Part::Device(device) => self.at_device(net, device, what),
            Part::Node(node) => self.at_node(net, node, what),
            Part::Router(router) => self.at_router(net, router, what),
            Part::World => {
                if let Happening::Due(message) = what {
                    self.at_world(net, message);
                }
            }
        }
        for event in std::mem::take(&mut self.store.events) {
            net.record(event);
        }
    }

    fn fault(&mut self, net: &mut Net<Message>, fault: &Fault) {
        let device = Part::Device(fault.device);
        let until = net.now + fault.length;
        let link = net.links_of(device).pop();
        match fault.kind {
            Kind::CutNodeFirst => cut(net, link, Cut::NodeFirst),
            Kind::CutDeviceFirst => cut(net, link, Cut::DeviceFirst),
            Kind::CutSilent => cut(net, link, Cut::Silent { up: true, down: true }),
            Kind::HalfOpenUp => cut(net, link, Cut::Silent { up: true, down: false }),
            Kind::HalfOpenDown => cut(net, link, Cut::Silent { up: false, down: true }),
            Kind::FramesLate => net.slow_frames(device, until, fault.dice % (2 * SEC)),
            Kind::OldLogin => {
                net.slow_frames(device, net.now + 2 * SEC, 7 * SEC + fault.dice % (8 * SEC));
                cut(net, link, Cut::DeviceFirst);
            }
            Kind::SlowDevice => {
                if let Some(link) = link {
                    net.stall(link, true);
                    net.after(fault.length, Part::World, Message::Unstall(link));
                }
            }
            Kind::SlowHandler => self.devices[fault.device].slow_until = until,
            Kind::DeviceKill => self.kill_device(net, fault.device, fault.length),
            Kind::DeviceTrap => self.devices[fault.device].trap = Some(fault.trap),
            Kind::DeviceFrozen => {
                cut(net, link, Cut::Silent { up: true, down: true });
                self.kill_device(net, fault.device, 200 * MS);
            }
            Kind::Reinstalled => {
                self.kill_device(net, fault.device, 200 * MS);
                self.devices[fault.device].install(&mut net.rng);
            }
            Kind::CursorFails => self.devices[fault.device].storage_fails_until = until,
            Kind::ControlBreaks => break_streams(net, fault, Stream::Control),
            Kind::DeliverBreaks => break_streams(net, fault, Stream::Deliver),
            Kind::ControlLate | Kind::DeliverLate => {
                let kind =
                    if fault.kind == Kind::ControlLate { Stream::Control } else { Stream::Deliver };
                let ends = (Part::Node(fault.node), Part::Router(fault.router), kind);
                net.slow_stream(ends, until, fault.dice % (3 * SEC));
            }
            Kind::WakesLost => {
                self.routers[fault.router].wakes_lost_until = until;
                net.after(fault.length, Part::Router(fault.router), Message::WakesAgain);
            }
            Kind::NodeKill => {
                if let Some(boot) = net.life(Part::Node(fault.node)) {
                    let lease = SEC + fault.dice % (5 * SEC);
                    net.after(lease, Part::World, Message::Lost(fault.node, boot));
                }
                net.kill(Part::Node(fault.node));
                net.after(fault.length, Part::World, Message::Rise(Part::Node(fault.node)));
            }
            Kind::RouterKill => {
                net.kill(Part::Router(fault.router));
                net.after(fault.length, Part::World, Message::Rise(Part::Router(fault.router)));
            }
            Kind::StoreBack => {
                let since = self.store.go_back();
                let mut event = Event::new(0, judge::Kind::FaultOn);
                "store_back".clone_into(&mut event.fault);
                event.since = since;
                event.durability = Some(judge::Durability::Memory);
                net.record(event);
                self.store_away_until = net.now + fault.length / 8;
            }
            Kind::StoreRestart => {
                self.store.restart();
                self.store_away_until = net.now + fault.length / 8;
            }
            Kind::StoreAway => self.store_away_until = until,
            Kind::StoreSlow => self.store_slow_until = until,
            Kind::ClockJump => self.jump(net, fault),
            Kind::Lies => self.lie(net, fault),
            Kind::Purge => self.wish_purge(net, fault.device, fault.dice),
            Kind::Burst => self.wish_burst(net, fault.device, fault.dice),
        }
    }

    fn heal(&mut self, net: &mut Net<Message>) {
        self.healed = true;
        self.store_away_until = 0;
        self.store_slow_until = 0;
        for router in 0..self.routers.len() {
            self.routers[router].wakes_lost_until = 0;
        }
        for device in &mut self.devices {
            device.trap = None;
            device.slow_until = 0;
            device.storage_fails_until = 0;
        }
        net.heal();
        for router in 0..self.routers.len() {
            self.rise(net, Part::Router(router));
        }
        for node in 0..self.nodes.len() {
            self.rise(net, Part::Node(node));
        }
        for device in 0..self.devices.len() {
            self.rise(net, Part::Device(device));
        }
    }

    fn unrest(&self, net: &Net<Message>) -> Vec<String> {
        let mut found = Vec::new();
        for (index, device) in self.devices.iter().enumerate() {
            let name = format!("{}/{}", device.app, device.name);
            if net.life(Part::Device(index)).is_none() || !device.is_online() {
                found.push(format!("{name} is not online"));
            }
            let key = (device.app.to_owned(), device.name.clone());
            let route = self.store.route(&key).map(|session| store::shown(&session.owner));
            if route.as_deref() != Some(&device.connection) {
                found.push(format!("{name} is at {}, the route says {route:?}", device.connection));
            }
            let tail = self.store.group_tail(&(device.app.to_owned(), lane::GROUP.to_owned()));
            if device.is_member && device.group_last < tail {
                found.push(format!(
                    "{name} has the group up to {}, its tail is {tail}",
                    device.group_last
                ));
            }
            if device.wants_in && !device.is_member {
                found.push(format!("{name} is not in its group"));
            }
            let due = self.store.due(&key, wall_ms(net.now, 0));
            if let Some(event) = due.first() {
                found.push(format!("{name} has {} to be told of", event.heard.epoch));
            }
            if device.is_liar {
                continue;
            }
            for (business, number) in device.businesses() {
                let cursor = device.cursor(business);
                let mut waiting = self.store.waiting(&key, BusinessNo(number));
                waiting.retain(|(at, _)| *at > cursor);
                if let Some((first, blob)) = waiting.first() {
                    found.push(format!(
                        "{name} has {} entries waiting in {business}, from {first} ({})",
                        waiting.len(),
                        push_of(blob)
                    ));
                }
            }
        }
        found
    }

    fn rest(&mut self, net: &mut Net<Message>) {
        for device in &self.devices {
            let key = (device.app.to_owned(), device.name.clone());
            let mut route = Event::new(0, judge::Kind::RouteSet).of(device.app, &device.name, "");
            let mut rest = Event::new(0, judge::Kind::Rest).of(device.app, &device.name, "");
            if let Some(session) = self.store.route(&key) {
                route.epoch = session.epoch;
                route.node = store::shown(&session.owner);
            } else {
                route.kind = judge::Kind::RouteDel;
            }
            rest.epoch = device.epoch;
            rest.node.clone_from(&device.connection);
            net.record(route);
            net.record(rest);
        }
    }

    fn state_of(&self, net: &Net<Message>, device: usize) -> State {
        let it = &self.devices[device];
        if net.life(Part::Device(device)).is_none() {
            return State::Down;
        }
        if !it.is_online() {
            return if it.link.is_some() { State::LoggingIn } else { State::Away };
        }
        if it.is_keeping {
            return State::Keeping;
        }
        if it.is_handling() {
            return State::Handling;
        }
        let feeds = self.nodes.iter().flat_map(Node::active).find(|conn| conn.link == it.link);
        let Some(conn) = feeds else { return State::Away };
        let unacked = conn.feeds.unacked();
        let key = (it.app.to_owned(), it.name.clone());
        let behind = conn.feeds.sent().any(|(no, sent)| self.store.is_behind(&key, no, sent));
        match (unacked, behind) {
            (64.., _) => State::WindowFull,
            (_, true) => State::Behind,
            (0, false) => State::Idle,
            _ => State::Sent,
        }
    }
}

impl Ours {
    fn at_world(&mut self, net: &mut Net<Message>, message: Message) {
        match message {
            Message::Wish(wish) => self.try_wish(net, wish),
            Message::Outcome { wish, call, outcome } => self.outcome(net, wish, call, outcome),
            Message::Overdue { wish, call } => self.overdue(net, wish, call),
            Message::Store { router, call, then, tries_on } => {
                self.at_store(net, router, *call, then, tries_on);
            }
            Message::Rise(part) => self.rise(net, part),
            Message::Replicate => {
                self.store.replicate(net.now);
                let lag = net.rng.between(SEC / 10, 4 * SEC);
                net.after(lag, Part::World, Message::Replicate);
            }
            Message::Unstall(link) => net.stall(link, false),
            Message::Tell { router, call, batch } => self.at_business(net, router, call, batch),
            Message::Lost(node, boot) => self.end_lost(net, node, boot),
            Message::Member(device, is_in) => {
                if net.life(Part::Device(device)).is_some() {
                    self.change_membership(net, device, is_in);
                }
            }
            other => unreachable!("nobody tells the world {other:?}"),
        }
    }

    fn rise(&mut self, net: &mut Net<Message>, part: Part) {
        if net.life(part).is_some() {
            return;
        }
        match part {
            Part::Device(device) => self.start_device(net, device),
            Part::Node(node) => self.start_node(net, node),
            Part::Router(router) => self.start_router(net, router),
            Part::World => {}
        }
    }

    fn at_store(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        call: Call,
        then: Then,
        tries_on: bool,
    ) {
        let part = Part::Router(router);
        let answer = |net: &mut Net<Message>, delay, reply, incarnation| {
            let message =
                Message::Stored { then: then.clone(), reply: Box::new(reply), incarnation };
            net.after(delay, part, message);
        };
        let incarnation = self.store.incarnation();
        // Away: most calls are not done, some are and nobody hears of it.
        let is_away = self.store_away_until > net.now;
        if is_away && !(tries_on && net.rng.percent(30)) {
            return answer(net, 400 * MS, Reply::Failed, 0);
        }
        let now_ms = wall_ms(net.now, self.routers[router].clock_ms);
        let reply = self.store.call(call, now_ms, net.now);
        for event in std::mem::take(&mut self.store.events) {
            net.record(event);
        }
        let slow = self.store_slow_until > net.now;
        let delay = net.rng.between(MS, if slow { 450 * MS } else { 8 * MS });
        if is_away {
            answer(net, 400 * MS, Reply::Failed, 0);
        } else {
            answer(net, delay, reply, incarnation);
        }
    }

    fn jump(&mut self, net: &mut Net<Message>, fault: &Fault) {
        let far = fault.dice.is_multiple_of(4);
        // Below the dedup window, which runs on the router's clock.
        let most: i64 = if far { 300_000 } else { 3_000 };
        let by = (fault.dice >> 8) as i64 % most;
        self.routers[fault.router].clock_ms = by;
        // Jumps ahead end entries before their time.
        for (key, business, blob) in self.store.expired(wall_ms(net.now, by)) {
            let name = name_of(&key.0, business.0);
            let mut event = Event::new(0, judge::Kind::Evict).of(&key.0, &key.1, name);
            event.push = push_of(&blob);
            net.record(event);
        }
    }
}

fn cut(net: &mut Net<Message>, link: Option<LinkId>, how: Cut) {
    if let Some(link) = link {
        net.cut(link, how);
    }
}

fn break_streams(net: &mut Net<Message>, fault: &Fault, kind: Stream) {
    let ends = (Part::Node(fault.node), Part::Router(fault.router), kind);
    for stream in net.live_streams() {
        if net.ends_of(stream) == ends {
            net.break_stream(stream);
        }
    }
}

/// The connection id of a slot of a node in this life.
fn owner_of(node: usize, boot: u32, at: SlotRef) -> Owner {
    let name = hawser_proto::id::NodeId::new(&format!("n{node}")).expect("a short name");
    Owner { node: name, boot: hawser_proto::id::BootId(u64::from(boot)), at }
}

/// Which node this is, and which life of it.
fn node_of(owner: &Owner) -> (usize, u32) {
    let index = owner.node.as_str().trim_start_matches('n').parse().expect("our own name");
    (index, owner.boot.0 as u32)
}
