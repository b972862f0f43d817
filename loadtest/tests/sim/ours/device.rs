//! A device: the SDK's session machine, its storage, and an app whose handlers take their time.

use super::lane::GROUP;
use super::{APPS, Message, Ours, name_of, number_of};
use crate::fault::{Fault, Trap};
use crate::net::{Happening, LinkId, MS, Net, Ns, Part, SEC};
use crate::rng::Rng;
use bytes::Bytes;
use hawser_loadtest::judge::{Event, Kind};
use hawser_proto::codec::decode_message;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::id::{BusinessNo, Position};
use hawser_proto::params;
use hawser_sdk::cores::{self, Inboxes, Session, Setup};
use hawser_sdk::{AccessPoint, Backoff, Incoming, Installation, Protocol, State};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Where the machines' clocks begin. Only differences are ever looked at.
fn instant(now: Ns) -> Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    *BEGIN.get_or_init(Instant::now) + Duration::from_nanos(now)
}

pub(super) struct Device {
    pub(super) app: &'static str,
    pub(super) name: String,
    // On disk.
    installation: Installation,
    cursors: BTreeMap<Rc<str>, Position>,
    // The process.
    session: Option<Session>,
    process: u64,
    pub(super) link: Option<LinkId>,
    pub(super) epoch: u64,
    pub(super) connection: String,
    is_online: bool,
    shelf: BTreeMap<&'static str, VecDeque<(u64, Incoming)>>,
    handling: BTreeMap<&'static str, u64>,
    pub(super) is_keeping: bool,
    /// `prev` of what came, for the judge.
    prevs: BTreeMap<(&'static str, Position), Position>,
    wake: u64,
    // The app's group.
    pub(super) wants_in: bool,
    leaving: Option<u64>,
    pub(super) is_member: bool,
    pub(super) group_last: Position,
    // Troubles.
    pub(super) trap: Option<Trap>,
    pub(super) slow_until: Ns,
    pub(super) storage_fails_until: Ns,
    pub(super) is_liar: bool,
}

impl Device {
    pub(super) fn new(index: usize, rng: &mut Rng) -> Self {
        let mut device = Self {
            // Two apps with devices of the same names.
            app: APPS[index % 2].0,
            name: format!("d{}", index / 2),
            installation: Installation { instance: [0; 16], attempt: 0, device_key: None },
            cursors: BTreeMap::new(),
            session: None,
            process: 0,
            link: None,
            epoch: 0,
            connection: String::new(),
            is_online: false,
            shelf: BTreeMap::new(),
            handling: BTreeMap::new(),
            is_keeping: false,
            prevs: BTreeMap::new(),
            wake: 0,
            wants_in: true,
            leaving: None,
            is_member: false,
            group_last: Position::START,
            trap: None,
            slow_until: 0,
            storage_fails_until: 0,
            is_liar: false,
        };
        device.install(rng);
        device
    }

    pub(super) fn install(&mut self, rng: &mut Rng) {
        let mut instance = [0; 16];
        instance[..8].copy_from_slice(&rng.next().to_le_bytes());
        self.installation = Installation { instance, attempt: 0, device_key: None };
    }

    pub(super) fn is_online(&self) -> bool {
        self.is_online
    }

    /// What is kept of this inbox.
    pub(super) fn cursor(&self, business: &str) -> Position {
        self.cursors.get(business).copied().unwrap_or_default()
    }

    pub(super) fn is_handling(&self) -> bool {
        !self.handling.is_empty()
    }

    pub(super) fn businesses(&self) -> impl Iterator<Item = (&'static str, u32)> + use<> {
        let app = self.app;
        ["chat", "mail"].into_iter().map(move |name| (name, number_of(app, name).0))
    }

    fn event(&self, kind: Kind, business: &str) -> Event {
        let mut event = Event::new(0, kind).of(self.app, &self.name, business);
        event.process = self.process;
        event.epoch = self.epoch;
        event.node.clone_from(&self.connection);
        event
    }
}

fn business(name: &str) -> &'static str {
    if name == "mail" { "mail" } else { "chat" }
}

impl Ours {
    pub(super) fn start_device(&mut self, net: &mut Net<Message>, index: usize) {
        net.begin(Part::Device(index));
        let seed = net.rng.next();
        let points = (0..self.nodes.len()).map(|node| {
            let mut point = AccessPoint::new(Protocol::Tcp, &format!("n{node}"), 1);
            point.node = Some(format!("n{node}"));
            point
        });
        let mut points: Vec<AccessPoint> = points.collect();
        let first = net.rng.below(points.len() as u64) as usize;
        points.rotate_left(first);
        let device = &mut self.devices[index];
        let backoff = Backoff {
            base: Duration::from_millis(100),
            max: Duration::from_secs(2),
            window: Duration::from_millis(300),
            ..Backoff::default()
        };
        let setup = Setup {
            app: device.app.to_owned(),
            device: device.name.clone(),
            businesses: vec![Arc::from("chat"), Arc::from("mail")],
            client: params::Client::default(),
            protocols: Vec::new(),
            backoff,
            pinned: Some(cores::Advice {
                token: cores::Token { text: "t".into(), refresh_at: None, expires_at: None },
                points,
                backoff,
                start_after: Duration::ZERO,
                stale_at: None,
            }),
        };
        let cursors = device.cursors.iter().map(|(name, at)| (Arc::from(&**name), *at));
        let inboxes = Inboxes::new(cursors);
        let session = Session::new(Arc::new(setup), device.installation.clone(), inboxes, seed);
        device.session = Some(session);
        device.process += 1;
        (device.link, device.is_online, device.is_keeping) = (None, false, false);
        device.connection.clear();
        device.shelf.clear();
        device.handling.clear();
        (device.is_member, device.group_last) = (false, Position::START);
        let event = device.event(Kind::Start, "");
        net.record(event);
        self.feed(net, index, cores::Event::Start);
        if self.devices[index].wants_in {
            self.change_membership(net, index, true);
        }
    }

    /// The app wants in, or out.
    pub(super) fn change_membership(&mut self, net: &mut Net<Message>, index: usize, is_in: bool) {
        self.devices[index].wants_in = is_in;
        let deadline = instant(net.now + 30 * SEC);
        let Some(session) = &mut self.devices[index].session else { return };
        let id = session.next_id();
        self.devices[index].leaving = (!is_in).then_some(id);
        let event = if is_in {
            cores::Event::Join(id, Arc::from("chat"), GROUP.to_owned(), deadline)
        } else {
            cores::Event::Leave(id, GROUP.to_owned(), deadline)
        };
        self.feed(net, index, event);
    }

    /// The link is over, and with it every membership on it.
    fn off_line(&mut self, net: &mut Net<Message>, index: usize) {
        let device = &mut self.devices[index];
        device.is_member = false;
        if !device.connection.is_empty() {
            let event = device.event(Kind::Leave, "");
            device.connection.clear();
            net.record(event);
        }
    }

    pub(super) fn kill_device(&mut self, net: &mut Net<Message>, index: usize, pause: Ns) {
        let part = Part::Device(index);
        if net.life(part).is_none() {
            return;
        }
        net.kill(part);
        let device = &mut self.devices[index];
        device.session = None;
        device.trap = None;
        (device.link, device.is_online, device.is_keeping) = (None, false, false);
        device.connection.clear();
        device.shelf.clear();
        device.handling.clear();
        net.after(pause, Part::World, Message::Rise(part));
    }

    /// The process dies here if it was to die at this point.
    fn trapped(&mut self, net: &mut Net<Message>, index: usize, at: Trap) -> bool {
        if self.devices[index].trap != Some(at) {
            return false;
        }
        net.note(&format!("device {index} dies: {at:?}"));
        let pause = net.rng.between(SEC / 10, 3 * SEC);
        self.kill_device(net, index, pause);
        true
    }

    pub(super) fn at_device(
        &mut self,
        net: &mut Net<Message>,
        index: usize,
        what: Happening<Message>,
    ) {
        match what {
            Happening::Frame(link, bytes) if self.devices[index].link == Some(link) => {
                self.look_at(net, index, &bytes);
                match decode_message(bytes, 1 << 20) {
                    Ok(raw) => self.feed(net, index, cores::Event::Frame(raw)),
                    Err(error) => self.feed(net, index, cores::Event::Broken(error)),
                }
            }
            Happening::Ended(link) if self.devices[index].link == Some(link) => {
                self.devices[index].link = None;
                self.off_line(net, index);
                self.feed(net, index, cores::Event::Ended(None));
            }
            Happening::Due(Message::Dialled(link, is_ok)) => {
                let outcome = if is_ok { Ok(()) } else { Err("refused".to_owned()) };
                if !is_ok || self.devices[index].link == Some(link) {
                    self.feed(net, index, cores::Event::Dialled(outcome));
                }
            }
            Happening::Due(Message::Wake(number)) if self.devices[index].wake == number => {
                self.feed(net, index, cores::Event::Due);
            }
            Happening::Due(Message::Handle(name)) => self.begin_handler(net, index, name),
            Happening::Due(Message::HandlerDone(name, number)) => {
                self.devices[index].handling.remove(name);
                if self.trapped(net, index, Trap::Handled) {
                    return;
                }
                self.feed(net, index, cores::Event::Handled(Arc::from(name), number));
                if net.life(Part::Device(index)).is_some() {
                    self.begin_handler(net, index, name);
                }
            }
            Happening::Due(Message::Keep(cursors)) => self.keep(net, index, cursors),
            _ => {}
        }
    }

    /// What the judge wants to know and the app is not told.
    fn look_at(&mut self, net: &mut Net<Message>, index: usize, bytes: &Bytes) {
        let Ok(raw) = decode_message(bytes.clone(), 1 << 20) else { return };
        let device = &mut self.devices[index];
        match NodeFrame::parse(raw) {
            Ok(NodeFrame::Push(push, _)) if push.term != 0 => {
                let name = name_of(device.app, push.business);
                let at = Position::new(push.term, push.seq);
                // What comes again may name another, and is dropped.
                let prev = Position::new(push.prev_term, push.prev_seq);
                device.prevs.entry((name, at)).or_insert(prev);
            }
            Ok(NodeFrame::LoginOk(ok)) => {
                device.connection = ok.connection;
                device.epoch = ok.epoch;
            }
            Ok(NodeFrame::GroupPush(push, _)) => {
                let at = Position::new(push.term, push.seq);
                device.prevs.insert((GROUP, at), Position::new(push.prev_term, push.prev_seq));
            }
            Ok(NodeFrame::Joined(joined)) if joined.status == 0 => {
                let tail = Position::new(joined.tail_term, joined.tail_seq);
                device.is_member = device.wants_in;
                if device.group_last == Position::START {
                    device.group_last = tail;
                }
                let event = device.event(Kind::Join, GROUP).at(tail);
                net.record(event);
            }
            Ok(NodeFrame::Left(_)) => {
                (device.is_member, device.group_last) = (false, Position::START);
                let event = device.event(Kind::Leave, GROUP);
                net.record(event);
            }
            _ => {}
        }
    }

    /// Tells the machine, and does what it says.
    fn feed(&mut self, net: &mut Net<Message>, index: usize, event: cores::Event) {
        let now = instant(net.now);
        let Some(session) = &mut self.devices[index].session else { return };
        let mut actions = Vec::new();
        session.handle(event, now, &mut actions);
        for action in actions {
            self.act(net, index, action);
            if self.devices[index].session.is_none() {
                return;
            }
        }
        let device = &mut self.devices[index];
        device.wake += 1;
        let at = device.session.as_ref().and_then(Session::wake_at);
        if let Some(at) = at {
            let delay = at.saturating_duration_since(now).as_nanos() as u64;
            net.after(delay + 1, Part::Device(index), Message::Wake(device.wake));
        }
    }

    fn act(&mut self, net: &mut Net<Message>, index: usize, action: cores::Action) {
        use cores::Action as A;
        let part = Part::Device(index);
        let device = &mut self.devices[index];
        match action {
            A::Dial(point, installation) => {
                device.installation = installation;
                let node = point.host.trim_start_matches('n').parse().expect("our own name");
                device.link = net.dial(part, Part::Node(node));
                let delay = net.rng.between(5 * MS, 40 * MS);
                let message =
                    Message::Dialled(device.link.unwrap_or_default(), device.link.is_some());
                net.after(delay, part, message);
            }
            A::HangUp => {
                device.is_online = false;
                if let Some(link) = device.link.take() {
                    net.hang_up(link, part);
                }
                self.off_line(net, index);
            }
            A::Send(bytes) => {
                use hawser_proto::frame::Kind as Frame;
                let is_ack = bytes.get(3) == Some(&(Frame::Ack as u8));
                if bytes.get(3) == Some(&(Frame::Join as u8))
                    && let Ok(raw) = decode_message(bytes.clone(), 1 << 20)
                    && let Ok(DeviceFrame::Join(join)) = DeviceFrame::parse(raw)
                {
                    let seen = Position::new(join.last_term, join.last_seq);
                    if seen == Position::START {
                        device.group_last = Position::START;
                    }
                    let event = device.event(Kind::Join, GROUP).behind(seen);
                    net.record(event);
                }
                if let Some(link) = device.link {
                    net.send(link, part, bytes);
                }
                if is_ack {
                    self.trapped(net, index, Trap::Acked);
                }
            }
            A::Tell(state) => {
                device.is_online = state.is_online();
                if let State::Closed { .. } = state {
                    // The user starts the app again.
                    let pause = net.rng.between(SEC / 5, 2 * SEC);
                    self.kill_device(net, index, pause);
                }
            }
            A::Push(_, push) if push.group.is_some() => {
                let at = push.position.unwrap_or_default();
                let prev = device.prevs.get(&(GROUP, at)).copied().unwrap_or_default();
                device.group_last = at;
                let mut event = device.event(Kind::GroupRecv, GROUP).at(at).behind(prev);
                event.push = String::from_utf8_lossy(&push.id).into_owned();
                event.body = String::from_utf8_lossy(&push.body).into_owned();
                net.record(event);
            }
            A::Reset(_, reset) => {
                device.group_last = device.group_last.max(reset.floor);
                let event = device.event(Kind::GroupReset, GROUP);
                net.record(event.at(reset.tail).behind(reset.floor));
            }
            A::Push(name, push) => {
                let mut event = device.event(Kind::RecvApp, &name);
                event.volatile = true;
                event.push = String::from_utf8_lossy(&push.id).into_owned();
                event.body = String::from_utf8_lossy(&push.body).into_owned();
                net.record(event);
            }
            A::Shelve(name, number, item) => {
                let name = business(&name);
                device.shelf.entry(name).or_default().push_back((number, item));
                if self.trapped(net, index, Trap::Received) {
                    return;
                }
                let delay = net.rng.between(1, 2 * MS);
                net.after(delay, part, Message::Handle(name));
            }
            A::Keep(cursors, _) => {
                device.is_keeping = true;
                if self.trapped(net, index, Trap::Keeping) {
                    return;
                }
                let cursors =
                    cursors.into_iter().map(|(name, at)| (Rc::from(&*name), at)).collect();
                let delay = net.rng.between(MS, 20 * MS);
                net.after(delay, part, Message::Keep(cursors));
            }
            A::Grouped(id, outcome) => {
                // A join that was refused, or took too long: the app tries again.
                if outcome.is_err() && device.leaving != Some(id) && device.wants_in {
                    net.after(SEC, Part::World, Message::Member(index, true));
                }
                // A leave may be answered without the node, which has forgotten the member by itself.
                if device.leaving.take_if(|leaving| *leaving == id).is_some() {
                    (device.is_member, device.group_last) = (false, Position::START);
                    let event = device.event(Kind::Leave, GROUP);
                    net.record(event);
                }
            }
            A::Ask | A::Limit(_) | A::Answer(..) | A::Left(..) => {}
            A::DialBeside(..) | A::HangUpBeside | A::Swap | A::SendBeside(_) => {
                unreachable!("no node here says GO_AWAY")
            }
        }
    }

    fn begin_handler(&mut self, net: &mut Net<Message>, index: usize, name: &'static str) {
        let device = &mut self.devices[index];
        if device.handling.contains_key(name) {
            return;
        }
        let Some((number, item)) = device.shelf.get_mut(name).and_then(VecDeque::pop_front) else {
            return;
        };
        device.handling.insert(name, number);
        let event = match item {
            Incoming::Push(push) => {
                let at = push.position.unwrap_or_default();
                let prev = device.prevs.get(&(name, at)).copied().unwrap_or_default();
                let mut event = device.event(Kind::RecvApp, name).at(at).behind(prev);
                event.push = String::from_utf8_lossy(&push.id).into_owned();
                event.body = String::from_utf8_lossy(&push.body).into_owned();
                event.redelivered = push.redelivered;
                event
            }
            Incoming::Gap(gap) => {
                let mut event = device.event(Kind::Gap, name).at(gap.upto).behind(gap.after);
                event.count = gap.count;
                event
            }
            Incoming::TermChanged(_) => device.event(Kind::TermChanged, name),
            _ => device.event(Kind::Gap, name),
        };
        net.record(event);
        if self.trapped(net, index, Trap::InHandler) {
            return;
        }
        let is_slow = self.devices[index].slow_until > net.now;
        let most = if is_slow { 2 * SEC } else { 15 * MS };
        let delay = net.rng.between(MS / 10, most);
        net.after(delay, Part::Device(index), Message::HandlerDone(name, number));
    }

    fn keep(&mut self, net: &mut Net<Message>, index: usize, cursors: Vec<(Rc<str>, Position)>) {
        let device = &mut self.devices[index];
        device.is_keeping = false;
        let is_ok = device.storage_fails_until <= net.now;
        if is_ok {
            for (name, at) in cursors {
                let event = device.event(Kind::Commit, &name).at(at);
                device.cursors.insert(name, at);
                net.record(event);
            }
            if self.trapped(net, index, Trap::Kept) {
                return;
            }
        }
        self.feed(net, index, cores::Event::Kept(is_ok));
    }

    /// Frames that no honest device would send. From here on its own inboxes are not judged.
    pub(super) fn lie(&mut self, net: &mut Net<Message>, fault: &Fault) {
        let device = &mut self.devices[fault.device];
        let Some(link) = device.link else { return };
        if !std::mem::replace(&mut device.is_liar, true) {
            let mut event = device.event(Kind::FaultOn, "");
            "liar".clone_into(&mut event.fault);
            net.record(event);
        }
        let term = if fault.dice.is_multiple_of(2) { u64::MAX / 4 } else { super::WALL_MS };
        let business = 1 + (fault.dice >> 3) as u32 % 2;
        let position = params::InboxPosition { business, term, seq: fault.dice % 50 };
        let frame = if fault.dice.is_multiple_of(3) {
            DeviceFrame::Resync(params::Resync { after: Some(position) })
        } else {
            DeviceFrame::Ack(params::Ack { inboxes: vec![position] })
        };
        net.send(link, Part::Device(fault.device), frame.encode());
        let name: &str = name_of(self.devices[fault.device].app, BusinessNo(business).0);
        self.devices[fault.device].cursors.insert(Rc::from(name), Position::new(term, 7));
    }
}
