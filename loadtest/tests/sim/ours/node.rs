//! An access node's shell: slots with generations, one feed per session, two streams to each router.

mod asks;
mod downlink;
mod login;

use super::lane::{Lane, Whom};
use super::{Item, Message, Named, No, Ours, owner_of};
use crate::net::{Happening, LinkId, MS, Net, Ns, Part, SEC, Stream, StreamId};
use bytes::Bytes;
use hawser_access::cores::feed::{Entry, Feeds, Place};
use hawser_access::cores::session::{self, Session};
use hawser_proto::code::CloseCode;
use hawser_proto::frame::NodeFrame;
use hawser_proto::id::{BusinessNo, Position, SlotRef};
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
pub(crate) enum Waits {
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
    /// By whom, and whether it is a login.
    binds: BTreeMap<u64, (StreamId, Named, bool)>,
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
                if let Some((_, of, is_login)) = self.nodes[node].binds.remove(&call)
                    && is_login
                {
                    self.refuse(net, node, of.owner.at, CloseCode::RouterUnavailable);
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
                    net.after(pause, part, Message::Announce(at));
                }
                // And word that wake-ups were lost may be lost itself.
                self.want_sweep(net, node);
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
            if let Some((_, of, is_login)) = self.nodes[node].binds.remove(&call)
                && is_login
            {
                self.refuse(net, node, of.owner.at, CloseCode::RouterUnavailable);
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
