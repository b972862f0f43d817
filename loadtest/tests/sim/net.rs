//! The world that parts live in: virtual time, links between devices and nodes, streams between nodes
//! and routers, lives and deaths. It knows nothing of what is said. Everything that happens waits in one
//! queue; what was sent to a part that has died since, or over a link that was cut, never happens.

use crate::rng::Rng;
use bytes::Bytes;
use hawser_loadtest::judge::Event;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::Debug;

/// Virtual nanoseconds since the world began.
pub(crate) type Ns = u64;
pub(crate) const MS: Ns = 1_000_000;
pub(crate) const SEC: Ns = 1_000 * MS;

/// Bytes that a link which takes nothing still leaves room for.
const OUTBOX_BYTES: usize = 2_000;

/// Someone who lives and may be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    Device(usize),
    Node(usize),
    Router(usize),
    /// The store, the callers, the plan: they do not die.
    World,
}

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    Control,
    Deliver,
}

pub(crate) type LinkId = usize;
pub(crate) type StreamId = usize;

/// What happens to a part.
#[derive(Clone, Debug)]
pub(crate) enum Happening<M> {
    /// A device has dialled this node.
    Accepted(LinkId),
    Frame(LinkId, Bytes),
    /// The other side is gone, as far as this one can see.
    Ended(LinkId),
    /// The link takes bytes again.
    Drained(LinkId),
    /// A node has opened a stream.
    Opened(StreamId),
    Message(StreamId, M),
    Broken(StreamId),
    /// What the part told itself.
    Due(M),
}

/// How a link is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    NodeFirst,
    DeviceFirst,
    /// Nobody is told; one way or both carry nothing any more.
    Silent {
        up: bool,
        down: bool,
    },
}

#[derive(Debug, Default)]
struct Way {
    /// What left under another number never arrives.
    number: u32,
    dead: bool,
    /// Nothing overtakes on one link.
    last: Ns,
}

#[derive(Debug)]
struct Link {
    device: Part,
    node: Part,
    lives: [u32; 2],
    /// Up, down.
    ways: [Way; 2],
    /// As the device, as the node sees it.
    open: [bool; 2],
    stalled: bool,
    pending: VecDeque<Bytes>,
    pending_bytes: usize,
}

#[derive(Debug)]
struct Pipe {
    node: Part,
    router: Part,
    kind: Stream,
    lives: [u32; 2],
    broken: bool,
    last: [Ns; 2],
}

struct Queued<M> {
    at: Ns,
    number: u64,
    part: Part,
    life: u32,
    /// Number of the way, for what travels over a link.
    way: Option<(LinkId, usize, u32)>,
    what: Happening<M>,
}

impl<M> PartialEq for Queued<M> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl<M> Eq for Queued<M> {}
impl<M> PartialOrd for Queued<M> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<M> Ord for Queued<M> {
    /// The soonest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// The world.
pub(crate) struct Net<M> {
    pub(crate) now: Ns,
    pub(crate) rng: Rng,
    pub(crate) history: Vec<Event>,
    /// Happenings that reached a part.
    pub(crate) happened: u64,
    /// Of everything that happened, in order.
    pub(crate) hash: u64,
    /// Lines for people, when they are wanted.
    pub(crate) trace: Option<Vec<String>>,
    queue: BinaryHeap<Queued<M>>,
    number: u64,
    links: Vec<Link>,
    pipes: Vec<Pipe>,
    lives: BTreeMap<Part, (u32, bool)>,
    /// Added to the delay of frames of a device, of messages of a stream, until then.
    slow_frames: BTreeMap<Part, (Ns, Ns)>,
    slow_streams: BTreeMap<(Part, Part, Stream), (Ns, Ns)>,
}

impl<M: Clone + Debug> Net<M> {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        Self {
            now: 0,
            rng: Rng::new(seed),
            history: Vec::new(),
            happened: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            trace: traced.then(Vec::new),
            queue: BinaryHeap::new(),
            number: 0,
            links: Vec::new(),
            pipes: Vec::new(),
            lives: BTreeMap::new(),
            slow_frames: BTreeMap::new(),
            slow_streams: BTreeMap::new(),
        }
    }

    // === Time ===

    /// The next thing that happens, unless it is later than `end`.
    pub(crate) fn next(&mut self, end: Ns) -> Option<(Part, Happening<M>)> {
        while let Some(next) = self.queue.pop_if_at(end) {
            self.now = next.at;
            if next.part != Part::World && self.life(next.part) != Some(next.life) {
                continue;
            }
            if !self.reaches(&next) {
                continue;
            }
            self.happened += 1;
            self.mix(next.at);
            self.mix(next.number);
            if let Happening::Frame(_, bytes) = &next.what {
                self.mix(bytes.len() as u64);
            }
            if self.trace.is_some() {
                let what = match &next.what {
                    Happening::Frame(link, bytes) => format!("frame {link} {}", shown(bytes)),
                    other => format!("{other:?}"),
                };
                self.note(&format!("{:?} <- {what}", next.part));
            }
            return Some((next.part, next.what));
        }
        self.now = self.now.max(end);
        None
    }

    fn reaches(&mut self, next: &Queued<M>) -> bool {
        match next.what {
            Happening::Ended(link) => {
                let side = self.side_of(link, next.part);
                std::mem::replace(&mut self.links[link].open[side], false)
            }
            Happening::Frame(link, _) => {
                let side = self.side_of(link, next.part);
                let alive = next.way.is_some_and(|(link, way, number)| {
                    let way = &self.links[link].ways[way];
                    way.number == number && !way.dead
                });
                alive && self.links[link].open[side]
            }
            Happening::Drained(link) => self.links[link].open[1],
            Happening::Message(stream, _) | Happening::Opened(stream) => !self.pipes[stream].broken,
            Happening::Accepted(_) | Happening::Broken(_) | Happening::Due(_) => true,
        }
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
    }

    /// A line for people.
    pub(crate) fn note(&mut self, line: &str) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} ms  {line}", self.now as f64 / MS as f64));
        }
    }

    /// A line of the history.
    pub(crate) fn record(&mut self, mut event: Event) {
        event.t = self.now;
        self.mix(event.kind as u64 ^ (event.term << 20) ^ event.seq ^ (event.epoch << 8));
        if self.trace.is_some() {
            let line = serde_json::to_string(&event).expect("an event is plain data");
            self.note(&format!("      {line}"));
        }
        self.history.push(event);
    }

    fn push(&mut self, at: Ns, part: Part, life: u32, what: Happening<M>) {
        self.number += 1;
        let number = self.number;
        self.queue.push(Queued { at, number, part, life, way: None, what });
    }

    /// The part is told this in so long, if it lives then.
    pub(crate) fn after(&mut self, delay: Ns, part: Part, what: M) {
        let life = self.lives.get(&part).map_or(0, |life| life.0);
        self.push(self.now + delay, part, life, Happening::Due(what));
    }

    // === Lives ===

    /// The number of its life, while it lives.
    pub(crate) fn life(&self, part: Part) -> Option<u32> {
        self.lives.get(&part).filter(|(_, up)| *up).map(|(number, _)| *number)
    }

    pub(crate) fn begin(&mut self, part: Part) -> u32 {
        let life = self.lives.entry(part).or_default();
        *life = (life.0 + 1, true);
        life.0
    }

    /// Its process ends this moment. The others notice when their system tells them, or not at all.
    pub(crate) fn kill(&mut self, part: Part) {
        let Some(life) = self.life(part) else { return };
        self.lives.insert(part, (life, false));
        for link in 0..self.links.len() {
            let it = &self.links[link];
            let sides = [it.device, it.node];
            if let Some(side) = sides.iter().position(|it| *it == part)
                && self.links[link].open[side]
            {
                self.links[link].open[side] = false;
                let silent = self.rng.percent(25);
                let delay = self.rng.between(MS, 50 * MS);
                if silent {
                    self.links[link].ways.iter_mut().for_each(|way| way.dead = true);
                } else {
                    self.end_at_other_side(link, side, delay);
                }
            }
        }
        for stream in 0..self.pipes.len() {
            if [self.pipes[stream].node, self.pipes[stream].router].contains(&part) {
                self.break_stream(stream);
            }
        }
    }

    // === Links ===

    /// The device dials; the node is told in a moment, if it lives.
    pub(crate) fn dial(&mut self, device: Part, node: Part) -> Option<LinkId> {
        let lives = [self.life(device)?, self.life(node)?];
        let link = self.links.len();
        self.links.push(Link {
            device,
            node,
            lives,
            ways: [Way::default(), Way::default()],
            open: [true, true],
            stalled: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
        });
        let at = self.now + self.rng.between(MS, 10 * MS);
        self.links[link].ways[0].last = at;
        self.push(at, node, lives[1], Happening::Accepted(link));
        Some(link)
    }

    fn side_of(&self, link: LinkId, part: Part) -> usize {
        usize::from(self.links[link].node == part)
    }

    /// Live links of a device, as it sees them or as the node does.
    pub(crate) fn links_of(&self, device: Part) -> Vec<LinkId> {
        let own = |link: &LinkId| {
            let it = &self.links[*link];
            it.device == device && it.open[0] && self.life(device) == Some(it.lives[0])
        };
        (0..self.links.len()).filter(own).collect()
    }

    pub(crate) fn send(&mut self, link: LinkId, from: Part, bytes: Bytes) {
        let side = self.side_of(link, from);
        if !self.links[link].open[side] {
            return;
        }
        if side == 1 && self.links[link].stalled {
            self.links[link].pending_bytes += bytes.len();
            self.links[link].pending.push_back(bytes);
            return;
        }
        self.carry(link, side, bytes);
    }

    fn carry(&mut self, link: LinkId, way: usize, bytes: Bytes) {
        let extra = match self.slow_frames.get(&self.links[link].device) {
            Some((until, by)) if *until > self.now => *by,
            _ => 0,
        };
        let at = self.now + self.rng.between(MS, 30 * MS) + extra;
        let it = &mut self.links[link];
        let at = at.max(it.ways[way].last + 1);
        it.ways[way].last = at;
        let (part, life) = if way == 0 { (it.node, it.lives[1]) } else { (it.device, it.lives[0]) };
        let number = it.ways[way].number;
        self.number += 1;
        self.queue.push(Queued {
            at,
            number: self.number,
            part,
            life,
            way: Some((link, way, number)),
            what: Happening::Frame(link, bytes),
        });
    }

    /// Whether the node may hand so many more bytes to this link.
    pub(crate) fn has_room(&self, link: LinkId, bytes: usize) -> bool {
        let it = &self.links[link];
        it.open[1]
            && (it.pending_bytes == 0 || it.pending_bytes.saturating_add(bytes) <= OUTBOX_BYTES)
    }

    /// The device takes nothing from its link, or takes it again.
    pub(crate) fn stall(&mut self, link: LinkId, stalled: bool) {
        self.links[link].stalled = stalled;
        if !stalled && self.links[link].pending_bytes > 0 {
            let pending = std::mem::take(&mut self.links[link].pending);
            self.links[link].pending_bytes = 0;
            for bytes in pending {
                self.carry(link, 1, bytes);
            }
            let (node, life) = (self.links[link].node, self.links[link].lives[1]);
            self.push(self.now + MS, node, life, Happening::Drained(link));
        }
    }

    /// This side closes; what it sent before still arrives.
    pub(crate) fn hang_up(&mut self, link: LinkId, by: Part) {
        let side = self.side_of(link, by);
        if !std::mem::replace(&mut self.links[link].open[side], false) {
            return;
        }
        let way = &self.links[link].ways[side];
        if !way.dead {
            let delay = (way.last.max(self.now) - self.now) + MS;
            self.end_at_other_side(link, side, delay);
        }
    }

    fn end_at_other_side(&mut self, link: LinkId, side: usize, delay: Ns) {
        let it = &self.links[link];
        let (part, life) =
            if side == 0 { (it.node, it.lives[1]) } else { (it.device, it.lives[0]) };
        self.push(self.now + delay, part, life, Happening::Ended(link));
    }

    pub(crate) fn cut(&mut self, link: LinkId, how: Cut) {
        let late = self.rng.between(50 * MS, 6 * SEC);
        match how {
            Cut::Silent { up, down } => {
                for (way, dead) in [up, down].into_iter().enumerate() {
                    self.links[link].ways[way].dead |= dead;
                }
            }
            Cut::NodeFirst | Cut::DeviceFirst => {
                self.links[link].ways.iter_mut().for_each(|way| way.number += 1);
                let first = usize::from(how == Cut::DeviceFirst);
                self.end_at_other_side(link, first, 0);
                self.end_at_other_side(link, 1 - first, late);
            }
        }
    }

    pub(crate) fn slow_frames(&mut self, device: Part, until: Ns, by: Ns) {
        self.slow_frames.insert(device, (until, by));
    }

    // === Streams ===

    pub(crate) fn open_stream(
        &mut self,
        node: Part,
        router: Part,
        kind: Stream,
    ) -> Option<StreamId> {
        let lives = [self.life(node)?, self.life(router)?];
        let stream = self.pipes.len();
        let at = self.now + self.rng.between(MS, 5 * MS);
        self.pipes.push(Pipe { node, router, kind, lives, broken: false, last: [at; 2] });
        self.push(at, router, lives[1], Happening::Opened(stream));
        Some(stream)
    }

    /// Node, router and kind of a stream.
    pub(crate) fn ends_of(&self, stream: StreamId) -> (Part, Part, Stream) {
        let it = &self.pipes[stream];
        (it.node, it.router, it.kind)
    }

    pub(crate) fn live_streams(&self) -> Vec<StreamId> {
        (0..self.pipes.len()).filter(|stream| !self.pipes[*stream].broken).collect()
    }

    pub(crate) fn say(&mut self, stream: StreamId, from: Part, message: M) {
        let it = &self.pipes[stream];
        if it.broken {
            return;
        }
        let extra = match self.slow_streams.get(&(it.node, it.router, it.kind)) {
            Some((until, by)) if *until > self.now => *by,
            _ => 0,
        };
        let at = self.now + self.rng.between(MS, 8 * MS) + extra;
        let it = &mut self.pipes[stream];
        let way = usize::from(it.router == from);
        let at = at.max(it.last[way] + 1);
        it.last[way] = at;
        let (part, life) = if way == 0 { (it.router, it.lives[1]) } else { (it.node, it.lives[0]) };
        self.push(at, part, life, Happening::Message(stream, message));
    }

    /// What is on its way is lost; each side learns of it when it does.
    pub(crate) fn break_stream(&mut self, stream: StreamId) {
        if std::mem::replace(&mut self.pipes[stream].broken, true) {
            return;
        }
        let (node, router, lives) = {
            let it = &self.pipes[stream];
            (it.node, it.router, it.lives)
        };
        for (part, life) in [(node, lives[0]), (router, lives[1])] {
            let at = self.now + self.rng.between(MS, 900 * MS);
            self.push(at, part, life, Happening::Broken(stream));
        }
    }

    pub(crate) fn slow_stream(&mut self, ends: (Part, Part, Stream), until: Ns, by: Ns) {
        self.slow_streams.insert(ends, (until, by));
    }

    /// Everything is as fast as it can be again.
    pub(crate) fn heal(&mut self) {
        self.slow_frames.clear();
        self.slow_streams.clear();
        for link in 0..self.links.len() {
            self.stall(link, false);
        }
    }
}

trait PopIf<M> {
    fn pop_if_at(&mut self, end: Ns) -> Option<Queued<M>>;
}

impl<M> PopIf<M> for BinaryHeap<Queued<M>> {
    fn pop_if_at(&mut self, end: Ns) -> Option<Queued<M>> {
        if self.peek()?.at > end { None } else { self.pop() }
    }
}

fn shown(bytes: &[u8]) -> String {
    let kind = bytes.get(3).copied().unwrap_or_default();
    let name = hawser_proto::frame::Kind::from_byte(kind).map_or("?", |kind| kind.name());
    format!("{name} ({} bytes)", bytes.len())
}
