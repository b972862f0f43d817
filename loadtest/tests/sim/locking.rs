//! The scheme that hawser does not use, built with care, to see that the judge finds what is wrong with
//! it: whoever has something to push takes the device's lock, reads what lies above the cursor, pushes
//! it to wherever presence says, moves the cursor, unlocks, and looks again. The lock has an expiry, since
//! its holder may die; presence is deleted and set; positions are a plain counter.

use crate::coverage::State;
use crate::fault::{Fault, Kind, Shape, TROUBLE};
use crate::net::{Cut, Happening, LinkId, MS, Net, Ns, Part, SEC, Stream, StreamId};
use crate::run::Engine;
use bytes::Bytes;
use hawser_loadtest::judge::{self, Event, Payload};
use std::collections::BTreeMap;

/// The lock is anybody's after this long.
const LOCK: Ns = 2 * SEC;
/// A pusher that found the lock taken trusts its holder to look again.
const INBOX: &str = "chat";
const BATCH: usize = 16;

#[derive(Clone, Debug)]
pub(crate) enum Message {
    Wish(usize),
    Append(usize, usize),
    /// Router: try to become the device's pusher.
    Push(usize),
    /// The lock was taken, and these lie above the cursor.
    Read {
        device: usize,
        turn: u64,
        entries: Vec<(u64, String)>,
        at: Option<(usize, LinkId)>,
    },
    /// Over the stream to the node and back.
    Write {
        device: usize,
        turn: u64,
        link: LinkId,
        entries: Vec<(u64, String)>,
    },
    Written {
        device: usize,
        turn: u64,
        upto: Option<u64>,
    },
    Present {
        device: usize,
        node: usize,
        link: LinkId,
    },
    Absent {
        device: usize,
    },
    Connect(usize),
    Dial,
    Idle(LinkId),
    Ping,
    Rise(Part),
    Replicate,
    Unstall(LinkId),
}

#[derive(Clone, Debug, Default)]
struct Shelf {
    counter: u64,
    cursor: u64,
    entries: BTreeMap<u64, String>,
    /// Where the device is.
    presence: Option<(usize, LinkId)>,
    /// Taken until then, in this turn.
    locked: Ns,
    turn: u64,
}

#[derive(Debug, Default)]
struct Device {
    app: &'static str,
    name: String,
    link: Option<LinkId>,
    heard: Ns,
    /// On disk, at once: this device is better than ours.
    last: u64,
    process: u64,
}

/// All of it.
pub(crate) struct Locking {
    shelves: Vec<Shelf>,
    replica: (Ns, Vec<Shelf>),
    away_until: Ns,
    devices: Vec<Device>,
    /// Streams from each node to each router, and the links each node has.
    streams: BTreeMap<(usize, usize), StreamId>,
    links: Vec<BTreeMap<LinkId, (usize, Ns)>>,
    routers: usize,
    wishes: Vec<(usize, String, String)>,
    turn: u64,
}

impl Engine for Locking {
    type Message = Message;
    type Switches = ();

    fn new(net: &mut Net<Message>, shape: Shape, _: &[Fault], (): ()) -> Self {
        let device = |index: usize| Device {
            app: ["alpha", "beta"][index % 2],
            name: format!("d{}", index / 2),
            ..Device::default()
        };
        let mut it = Self {
            shelves: vec![Shelf::default(); shape.devices],
            replica: (0, vec![Shelf::default(); shape.devices]),
            away_until: 0,
            devices: (0..shape.devices).map(device).collect(),
            streams: BTreeMap::new(),
            links: vec![BTreeMap::new(); shape.nodes],
            routers: shape.routers,
            wishes: Vec::new(),
            turn: 0,
        };
        for router in 0..shape.routers {
            net.begin(Part::Router(router));
        }
        for node in 0..shape.nodes {
            it.start_node(net, node);
        }
        for device in 0..shape.devices {
            it.start_device(net, device);
        }
        for _ in 0..net.rng.between(60, 130) {
            let device = net.rng.below(shape.devices as u64) as usize;
            let at = net.rng.between(SEC / 5, TROUBLE);
            it.wish(net, device, at);
        }
        net.after(SEC / 2, Part::World, Message::Replicate);
        it
    }

    fn handle(&mut self, net: &mut Net<Message>, part: Part, what: Happening<Message>) {
        match (part, what) {
            (Part::World, Happening::Due(message)) => self.at_store(net, message),
            (Part::Router(router), Happening::Due(message) | Happening::Message(_, message)) => {
                self.at_router(net, router, message);
            }
            (Part::Node(node), what) => self.at_node(net, node, what),
            (Part::Device(device), what) => self.at_device(net, device, what),
            _ => {}
        }
    }

    fn fault(&mut self, net: &mut Net<Message>, fault: &Fault) {
        let device = Part::Device(fault.device);
        let link = self.devices[fault.device].link;
        let how = match fault.kind {
            Kind::CutNodeFirst => Some(Cut::NodeFirst),
            Kind::CutDeviceFirst | Kind::OldLogin => Some(Cut::DeviceFirst),
            Kind::CutSilent | Kind::HalfOpenUp | Kind::HalfOpenDown => {
                Some(Cut::Silent { up: true, down: true })
            }
            _ => None,
        };
        if let (Some(how), Some(link)) = (how, link) {
            net.cut(link, how);
        }
        let kill = |net: &mut Net<Message>, part| {
            net.kill(part);
            net.after(fault.length, Part::World, Message::Rise(part));
        };
        match fault.kind {
            Kind::DeviceKill | Kind::DeviceTrap | Kind::DeviceFrozen | Kind::Reinstalled => {
                kill(net, device);
            }
            Kind::NodeKill => kill(net, Part::Node(fault.node)),
            Kind::RouterKill => kill(net, Part::Router(fault.router)),
            Kind::FramesLate => net.slow_frames(device, net.now + fault.length, fault.dice % SEC),
            Kind::SlowDevice => {
                if let Some(link) = link {
                    net.stall(link, true);
                    net.after(fault.length, Part::World, Message::Unstall(link));
                }
            }
            Kind::DeliverBreaks | Kind::ControlBreaks => {
                if let Some(stream) = self.streams.get(&(fault.node, fault.router)) {
                    net.break_stream(*stream);
                }
            }
            Kind::DeliverLate | Kind::ControlLate => {
                let ends = (Part::Node(fault.node), Part::Router(fault.router), Stream::Deliver);
                net.slow_stream(ends, net.now + fault.length, fault.dice % (3 * SEC));
            }
            Kind::StoreAway => self.away_until = net.now + fault.length,
            Kind::StoreBack => {
                self.shelves.clone_from(&self.replica.1);
                let mut event = Event::new(0, judge::Kind::FaultOn);
                "store_back".clone_into(&mut event.fault);
                event.since = self.replica.0;
                net.record(event);
            }
            Kind::Burst => {
                for _ in 0..20 {
                    let at = net.rng.below(SEC);
                    self.wish(net, fault.device, at);
                }
            }
            _ => {}
        }
    }

    fn heal(&mut self, net: &mut Net<Message>) {
        self.away_until = 0;
        net.heal();
        for router in 0..self.routers {
            self.rise(net, Part::Router(router));
        }
        for node in 0..self.links.len() {
            self.rise(net, Part::Node(node));
        }
        for device in 0..self.devices.len() {
            self.rise(net, Part::Device(device));
        }
    }

    fn unrest(&self, _: &Net<Message>) -> Vec<String> {
        let waits = |(index, shelf): (usize, &Shelf)| {
            let above = shelf.entries.range(shelf.cursor + 1..).count();
            (above > 0).then(|| format!("device {index} has {above} entries above its cursor"))
        };
        self.shelves.iter().enumerate().filter_map(waits).collect()
    }

    fn rest(&mut self, net: &mut Net<Message>) {
        for index in 0..self.devices.len() {
            let mut event = self.event(judge::Kind::Rest, index);
            "somewhere".clone_into(&mut event.node);
            net.record(event);
        }
    }

    fn state_of(&self, _: &Net<Message>, device: usize) -> State {
        if self.devices[device].link.is_some() { State::Idle } else { State::Away }
    }
}

impl Locking {
    fn event(&self, kind: judge::Kind, device: usize) -> Event {
        let it = &self.devices[device];
        let mut event = Event::new(0, kind).of(it.app, &it.name, INBOX);
        event.process = it.process;
        event
    }

    fn wish(&mut self, net: &mut Net<Message>, device: usize, at: Ns) {
        let push = format!("p{}", self.wishes.len());
        let it = &self.devices[device];
        let payload = Payload { push: &push, app: it.app, device: &it.name, inbox: INBOX };
        let body = payload.encode();
        net.after(at, Part::World, Message::Wish(self.wishes.len()));
        self.wishes.push((device, push, body));
    }

    fn start_node(&mut self, net: &mut Net<Message>, node: usize) {
        net.begin(Part::Node(node));
        self.links[node].clear();
        for router in 0..self.routers {
            self.streams.remove(&(node, router));
            net.after(MS, Part::Node(node), Message::Connect(router));
        }
    }

    fn start_device(&mut self, net: &mut Net<Message>, device: usize) {
        net.begin(Part::Device(device));
        self.devices[device].process += 1;
        self.devices[device].link = None;
        net.after(MS, Part::Device(device), Message::Dial);
        net.after(3 * SEC, Part::Device(device), Message::Ping);
    }

    fn rise(&mut self, net: &mut Net<Message>, part: Part) {
        if net.life(part).is_some() {
            return;
        }
        match part {
            Part::Device(device) => self.start_device(net, device),
            Part::Node(node) => self.start_node(net, node),
            part => drop(net.begin(part)),
        }
    }

    // === The store, and what is planned ===

    fn at_store(&mut self, net: &mut Net<Message>, message: Message) {
        match message {
            Message::Wish(wish) => {
                let router = net.rng.below(self.routers as u64) as usize;
                let mut event = self.event(judge::Kind::PushCall, self.wishes[wish].0);
                event.push.clone_from(&self.wishes[wish].1);
                net.record(event);
                let delay = net.rng.between(MS, 5 * MS);
                net.after(delay, Part::World, Message::Append(wish, router));
            }
            Message::Append(wish, router) => {
                if self.away_until > net.now || net.life(Part::Router(router)).is_none() {
                    return;
                }
                let (device, push, _) = self.wishes[wish].clone();
                let shelf = &mut self.shelves[device];
                shelf.counter += 1;
                let number = shelf.counter;
                shelf.entries.insert(number, push.clone());
                let mut event = self.event(judge::Kind::PushOk, device);
                (event.push, event.term, event.seq) = (push, 1, number);
                net.record(event);
                net.after(MS, Part::Router(router), Message::Push(device));
            }
            Message::Rise(part) => self.rise(net, part),
            Message::Unstall(link) => net.stall(link, false),
            Message::Replicate => {
                self.replica = (net.now, self.shelves.clone());
                let lag = net.rng.between(SEC / 10, 4 * SEC);
                net.after(lag, Part::World, Message::Replicate);
            }
            _ => {}
        }
    }

    // === A router: the pusher ===

    fn at_router(&mut self, net: &mut Net<Message>, router: usize, message: Message) {
        let part = Part::Router(router);
        match message {
            Message::Push(device) => {
                if self.away_until > net.now {
                    return net.after(SEC / 2, part, Message::Push(device));
                }
                let shelf = &mut self.shelves[device];
                // Somebody is at it, and will look again when done.
                if shelf.locked > net.now {
                    return;
                }
                self.turn += 1;
                (shelf.locked, shelf.turn) = (net.now + LOCK, self.turn);
                let above = shelf.entries.range(shelf.cursor + 1..).take(BATCH);
                let entries: Vec<_> = above.map(|(at, push)| (*at, push.clone())).collect();
                let at = shelf.presence;
                let delay = net.rng.between(MS, 20 * MS);
                net.after(delay, part, Message::Read { device, turn: self.turn, entries, at });
            }
            Message::Read { device, turn, entries, at } => {
                let way = at.and_then(|(node, link)| {
                    self.streams.get(&(node, router)).map(|stream| (*stream, link))
                });
                match way.filter(|_| !entries.is_empty()) {
                    Some((stream, link)) => {
                        let write = Message::Write { device, turn, link, entries };
                        net.say(stream, part, write);
                        // A node that does not answer.
                        let written = Message::Written { device, turn, upto: None };
                        net.after(3 * SEC, part, written);
                    }
                    None => self.unlock(net, router, device, turn, None),
                }
            }
            Message::Written { device, turn, upto } => {
                self.unlock(net, router, device, turn, upto);
            }
            Message::Present { device, node, link } => {
                self.shelves[device].presence = Some((node, link));
                net.after(MS, part, Message::Push(device));
            }
            Message::Absent { device } => self.shelves[device].presence = None,
            _ => {}
        }
    }

    /// Moves the cursor, lets the lock go if it is still ours, and looks again.
    fn unlock(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        device: usize,
        turn: u64,
        upto: Option<u64>,
    ) {
        let shelf = &mut self.shelves[device];
        if let Some(upto) = upto {
            shelf.cursor = shelf.cursor.max(upto);
        }
        if shelf.turn != turn {
            return;
        }
        (shelf.locked, shelf.turn) = (0, 0);
        let waits = shelf.entries.range(shelf.cursor + 1..).next().is_some();
        if waits && shelf.presence.is_some() {
            // At once after a success, with a pause after a failure.
            let pause = if upto.is_some() { MS } else { SEC };
            net.after(pause, Part::Router(router), Message::Push(device));
        }
    }

    // === A node ===

    fn at_node(&mut self, net: &mut Net<Message>, node: usize, what: Happening<Message>) {
        let part = Part::Node(node);
        match what {
            Happening::Due(Message::Connect(router)) => {
                match net.open_stream(part, Part::Router(router), Stream::Deliver) {
                    Some(stream) => {
                        self.streams.insert((node, router), stream);
                        // What was said of presence on the stream before may be lost.
                        let here: Vec<_> =
                            self.links[node].iter().map(|(link, it)| (*link, it.0)).collect();
                        for (link, device) in here {
                            self.tell(net, node, Message::Present { device, node, link });
                        }
                    }
                    None => net.after(SEC / 2, part, Message::Connect(router)),
                }
            }
            Happening::Broken(stream) => {
                let (_, Part::Router(router), _) = net.ends_of(stream) else { return };
                if self.streams.get(&(node, router)) == Some(&stream) {
                    self.streams.remove(&(node, router));
                    net.after(SEC / 5, part, Message::Connect(router));
                }
            }
            Happening::Frame(link, bytes) => {
                let Some(device) = bytes.first().map(|it| usize::from(*it)) else { return };
                let is_new = self.links[node].insert(link, (device, net.now)).is_none();
                if is_new {
                    net.send(link, part, Bytes::from_static(b"ok"));
                    self.tell(net, node, Message::Present { device, node, link });
                    net.after(SEC, part, Message::Idle(link));
                } else {
                    net.send(link, part, Bytes::from_static(b"pong"));
                }
            }
            Happening::Due(Message::Idle(link)) => match self.links[node].get(&link) {
                Some((_, heard)) if net.now > heard + 7 * SEC => {
                    net.hang_up(link, part);
                    self.gone(net, node, link);
                }
                Some(_) => net.after(SEC, part, Message::Idle(link)),
                None => {}
            },
            Happening::Ended(link) => self.gone(net, node, link),
            Happening::Message(stream, Message::Write { device, turn, link, entries }) => {
                let upto = entries.last().map(|(at, _)| *at);
                let is_there = self.links[node].contains_key(&link);
                if is_there {
                    for (at, push) in entries {
                        net.send(link, part, Bytes::from(format!("{at}\n{push}")));
                    }
                }
                let upto = upto.filter(|_| is_there);
                net.say(stream, part, Message::Written { device, turn, upto });
            }
            _ => {}
        }
    }

    fn tell(&mut self, net: &mut Net<Message>, node: usize, message: Message) {
        let ways = self.streams.iter().filter(|(ends, _)| ends.0 == node);
        let ways: Vec<StreamId> = ways.map(|(_, stream)| *stream).collect();
        if !ways.is_empty() {
            let stream = *net.rng.pick(&ways);
            net.say(stream, Part::Node(node), message);
        }
    }

    fn gone(&mut self, net: &mut Net<Message>, node: usize, link: LinkId) {
        if let Some((device, _)) = self.links[node].remove(&link) {
            self.tell(net, node, Message::Absent { device });
        }
    }

    // === A device ===

    fn at_device(&mut self, net: &mut Net<Message>, index: usize, what: Happening<Message>) {
        let part = Part::Device(index);
        match what {
            Happening::Due(Message::Dial) if self.devices[index].link.is_none() => {
                let node = net.rng.below(self.links.len() as u64) as usize;
                let Some(link) = net.dial(part, Part::Node(node)) else {
                    return net.after(SEC / 2, part, Message::Dial);
                };
                self.devices[index].link = Some(link);
                self.devices[index].heard = net.now;
                net.send(link, part, Bytes::from(vec![index as u8]));
            }
            Happening::Due(Message::Ping) => {
                net.after(3 * SEC, part, Message::Ping);
                let Some(link) = self.devices[index].link else { return };
                if net.now > self.devices[index].heard + 7 * SEC {
                    net.hang_up(link, part);
                    self.devices[index].link = None;
                    net.after(SEC / 5, part, Message::Dial);
                } else {
                    net.send(link, part, Bytes::from(vec![index as u8]));
                }
            }
            Happening::Ended(link) if self.devices[index].link == Some(link) => {
                self.devices[index].link = None;
                net.after(SEC / 5, part, Message::Dial);
            }
            Happening::Frame(link, bytes) if self.devices[index].link == Some(link) => {
                self.devices[index].heard = net.now;
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((at, push)) = text.split_once('\n') else { return };
                let at: u64 = at.parse().expect("our own number");
                if at <= self.devices[index].last {
                    return;
                }
                self.devices[index].last = at;
                let body = self.wishes.iter().find(|it| it.1 == push).map(|it| it.2.clone());
                let mut event = self.event(judge::Kind::RecvApp, index);
                (event.push, event.body) = (push.to_owned(), body.unwrap_or_default());
                (event.term, event.seq) = (1, at);
                net.record(event);
                let mut event = self.event(judge::Kind::Commit, index);
                (event.term, event.seq) = (1, at);
                net.record(event);
            }
            _ => {}
        }
    }
}
