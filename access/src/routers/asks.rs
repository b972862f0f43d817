//! Calls of the store that this node makes through a router: up the deliver stream, and their answers down.
//! Each is answered, runs into its deadline, or fails with its stream; whoever waits is told in all three
//! cases, and an answer is only taken for what it answers.

use super::tier::{self, Router};
use crate::downlink;
use crate::feed::Pulled;
use crate::groups::GroupKey;
use crate::lane::{HistoryAnswer, Recovered, Whom, Work};
use crate::node::Node;
use crate::sweep::{Unanswered, tail_of};
use crate::table::{Signal, Target};
use hawser_proto::code::CloseCode;
use hawser_proto::id::{AppId, BusinessNo, DeviceId, Epoch, Position, SlotRef};
use hawser_proto::limits::NODE_ASKS_MAX;
use hawser_proto::rpc::node as wire;
use hawser_proto::rpc::node::answer::Status;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Calls in flight with leave. A call takes about a millisecond; more at once only wait at the router. What
/// the router takes beyond is left for sweeps and histories, and for calls given up here and not yet there.
const IN_FLIGHT_MAX: usize = NODE_ASKS_MAX / 4 * 3;
/// Sessions that may wait for leave. Without a stream those that end stay in the queue, so it is bounded.
const WAITING_MAX: usize = 262_144;
/// Asks that may wait for the stream: as many as may be in flight, also those given up meanwhile.
pub(super) const QUEUE_MAX: usize = 2 * NODE_ASKS_MAX;

/// A session that asked, named as the store names it.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) at: SlotRef,
    pub(crate) app: AppId,
    pub(crate) device: DeviceId,
    pub(crate) epoch: Epoch,
}

impl Who {
    pub(crate) fn session(&self) -> wire::Session {
        wire::Session {
            app: self.app.as_str().to_owned(),
            device: self.device.as_str().to_owned(),
            slot: self.at.slot,
            generation: self.at.generation,
            epoch: self.epoch.0,
        }
    }

    pub(crate) fn target(&self, node: &Node) -> Target<'_> {
        Target {
            boot: node.table.boot.0,
            at: self.at,
            app: self.app.as_str(),
            device: self.device.as_str(),
            epoch: self.epoch.0,
        }
    }
}

/// Who waits for an answer.
pub(crate) enum Waits {
    Pull {
        who: Who,
        business: BusinessNo,
        serial: u32,
    },
    Ack {
        who: Who,
    },
    Sweep {
        all: Vec<Who>,
        /// How often it was refused.
        tries: u32,
    },
    History {
        lane: usize,
        key: GroupKey,
        seq: u64,
        whom: Whom,
        after: Position,
    },
    /// All lanes, which compare the tail with their own.
    Tail {
        key: GroupKey,
        tries: u32,
    },
}

impl Waits {
    /// Calls with one key go to one router while it is up, so that those of a session keep their order.
    fn key(&self) -> u64 {
        match self {
            Self::Pull { who, .. } | Self::Ack { who } => {
                tier::key(&[who.app.as_str(), who.device.as_str()])
            }
            Self::Sweep { all, .. } => {
                all.first().map_or(0, |who| tier::key(&[who.app.as_str(), who.device.as_str()]))
            }
            Self::History { key: (app, group), .. } | Self::Tail { key: (app, group), .. } => {
                tier::key(&[app.as_str(), group.as_str()])
            }
        }
    }

    /// The history whose tail is asked for because a join waits for it. Nobody else asks a history from
    /// its start for a lane.
    fn joined(&self) -> Option<&GroupKey> {
        match self {
            Self::History { key, whom: Whom::Lane, after: Position::START, .. } => Some(key),
            _ => None,
        }
    }
}

struct Asked {
    /// The stream it left on, and where to.
    stream: u64,
    router: Option<Arc<Router>>,
    deadline: Instant,
    waits: Waits,
}

/// The calls of one node.
#[derive(Default)]
pub(crate) struct Asks {
    in_flight: Mutex<HashMap<u64, Asked>>,
    /// Sessions that wait for leave to ask, each once.
    waiting: Mutex<VecDeque<SlotRef>>,
    /// Calls that joins wait for, refused, and until when they are made again.
    joins: Mutex<Vec<(Instant, Waits)>>,
    count: AtomicUsize,
    calls: AtomicU64,
    /// There is a stream that carries them.
    has_stream: AtomicBool,
}

impl Asks {
    /// Whether one more call may be made now.
    pub(crate) fn has_leave(&self) -> bool {
        self.has_stream.load(Ordering::Acquire)
            && self.count.load(Ordering::Relaxed) < IN_FLIGHT_MAX
    }

    /// Sweeps of sessions that were asked for the first time and are not answered yet. What a part of the store
    /// that is away has refused is asked again and again, and holds up nobody.
    pub(crate) fn sweeps(&self) -> usize {
        let in_flight = self.in_flight.lock();
        let is_first = |asked: &&Asked| matches!(asked.waits, Waits::Sweep { tries: 0, .. });
        in_flight.values().filter(is_first).count()
    }

    /// Remembers a session that wants to ask. It gets its turn when a call has been answered. False: too
    /// many wait; the sweep that follows a stream's return finds who wanted something.
    pub(crate) fn wait(&self, at: SlotRef) -> bool {
        let mut waiting = self.waiting.lock();
        let has_room = waiting.len() < WAITING_MAX;
        if has_room {
            waiting.push_back(at);
        }
        has_room
    }

    /// Sends a call. False: it cannot be made now, and nobody will answer.
    pub(crate) fn ask(&self, node: &Node, what: wire::ask::What, waits: Waits) -> bool {
        let deadline = Instant::now() + node.config.router_call_timeout;
        match self.ask_until(node, what, waits, deadline) {
            Ok(()) => true,
            // Nobody is told to join again for a moment without room.
            Err(waits) if waits.joined().is_some() => {
                self.joins.lock().push((deadline, waits));
                true
            }
            Err(_) => false,
        }
    }

    fn ask_until(
        &self,
        node: &Node,
        what: wire::ask::What,
        waits: Waits,
        deadline: Instant,
    ) -> Result<(), Waits> {
        let now_ms = node.table.now_ms();
        let Some(up) = node.routers.ask_up(waits.key(), now_ms) else { return Err(waits) };
        let stream = up.stream;
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut in_flight = self.in_flight.lock();
            if in_flight.len() >= NODE_ASKS_MAX {
                return Err(waits);
            }
            let router = Some(up.router.clone());
            in_flight.insert(call, Asked { stream, router, deadline, waits });
            self.count.store(in_flight.len(), Ordering::Relaxed);
        }
        if up.asks.try_send(wire::Ask { call, what: Some(what) }).is_ok() {
            return Ok(());
        }
        // If it is not there any more, the stream broke, and whoever waits was told.
        self.take(call, stream).map_or(Ok(()), |asked| Err(asked.waits))
    }

    /// Takes a call that left on this stream. A number that another stream names is none of its calls.
    fn take(&self, call: u64, stream: u64) -> Option<Asked> {
        let mut in_flight = self.in_flight.lock();
        let is_its_own = in_flight.get(&call).is_some_and(|asked| asked.stream == stream);
        let asked = is_its_own.then(|| in_flight.remove(&call)).flatten();
        self.count.store(in_flight.len(), Ordering::Relaxed);
        asked
    }

    /// Takes what `over` picks.
    fn take_all(&self, over: impl Fn(&Asked) -> bool) -> Vec<Asked> {
        let mut in_flight = self.in_flight.lock();
        let all = in_flight.extract_if(|_, asked| over(asked)).map(|(_, asked)| asked).collect();
        self.count.store(in_flight.len(), Ordering::Relaxed);
        all
    }

    /// Gives leave to those who wait for it, as far as there is any.
    pub(crate) fn go_on(&self, node: &Node) {
        while self.has_leave() {
            let next = self.waiting.lock().pop_front();
            let Some(at) = next else { return };
            downlink::granted(node, at);
        }
    }
}

/// A stream has come or gone, or what its router does is known now.
pub(super) fn routers_changed(node: &Node) {
    node.asks.has_stream.store(node.routers.can_ask(), Ordering::Release);
    node.asks.go_on(node);
}

/// A stream is gone: nothing that was asked on it will be answered. Whoever waited asks again elsewhere.
pub(super) async fn stream_broke(node: &Node, stream: u64) {
    for asked in node.asks.take_all(|asked| asked.stream == stream) {
        settle(node, asked, wire::Answer::default()).await;
    }
}

/// Fails the calls whose time is over.
pub(crate) async fn expire(node: &Node) {
    let now = Instant::now();
    let late = node.asks.take_all(|asked| asked.deadline <= now);
    node.metrics.asks_late.inc_by(late.len() as u64);
    let now_ms = node.table.exact_ms();
    for asked in late {
        if let Some(router) = &asked.router {
            router.refused(now_ms);
        }
        settle(node, asked, wire::Answer::default()).await;
    }
    let joins = std::mem::take(&mut *node.asks.joins.lock());
    for (deadline, waits) in joins {
        let Some(key) = waits.joined() else { continue };
        let what = tail_of(key, 0, Position::START);
        if let Err(waits) = node.asks.ask_until(node, what, waits, deadline) {
            let asked = Asked { stream: 0, router: None, deadline, waits };
            settle(node, asked, wire::Answer::default()).await;
        }
    }
    node.asks.go_on(node);
}

/// An answer has come, to whichever of our calls it names.
pub(super) async fn answered(node: &Node, stream: u64, answer: wire::Answer) {
    let Some(asked) = node.asks.take(answer.call, stream) else { return };
    match (&asked.router, answer.status()) {
        (Some(router), Status::Unspecified | Status::Unavailable) => {
            router.refused(node.table.exact_ms());
        }
        (Some(router), _) => router.answered(),
        (None, _) => {}
    }
    settle(node, asked, answer).await;
    node.asks.go_on(node);
}

/// Tells whoever waited. An answer without a status says that there is none.
async fn settle(node: &Node, asked: Asked, answer: wire::Answer) {
    let status = answer.status();
    let is_refused = !matches!(status, Status::Ok | Status::NotFound);
    if is_refused && asked.waits.joined().is_some() && asked.deadline > Instant::now() {
        node.asks.joins.lock().push((asked.deadline, asked.waits));
        return;
    }
    // Another router may do better: no pause then.
    let goes_elsewhere = is_refused && node.routers.can_ask_again(node.table.exact_ms());
    match asked.waits {
        Waits::Pull { who, business, serial } => {
            judge(node, &who, status);
            let tail = Position::new(answer.tail_term, answer.tail_seq);
            let entries = answer.entries.into_iter().map(downlink::entry).collect();
            let pulled = (status == Status::Ok).then_some(Pulled { entries, tail });
            downlink::pulled(node, &who, business, serial, pulled);
            if goes_elsewhere {
                downlink::hurry(node, &who);
            }
        }
        Waits::Ack { who } => {
            judge(node, &who, status);
            downlink::ack_told(node, &who, status == Status::Ok);
            if goes_elsewhere {
                downlink::hurry(node, &who);
            }
        }
        Waits::Sweep { all, tries } => {
            if status != Status::Ok || answer.swept.len() != all.len() {
                let all = all.iter().map(|who| who.at).collect();
                let tries = if goes_elsewhere { None } else { Some(tries) };
                return node.sweeps.refused(node, Unanswered::Sessions(all), tries);
            }
            let mut unanswered = Vec::new();
            for (who, swept) in all.iter().zip(answer.swept) {
                judge(node, who, swept.status());
                match swept.status() {
                    Status::Ok => downlink::swept(node, who, &swept.inboxes),
                    Status::Unavailable => unanswered.push(who.at),
                    _ => {}
                }
            }
            if !unanswered.is_empty() {
                node.sweeps.refused(node, Unanswered::Sessions(unanswered), Some(tries));
            }
        }
        Waits::History { lane, key, seq, whom, after } => {
            let answer = match status {
                Status::Ok => HistoryAnswer::Entries(recovered(answer)),
                Status::NotFound => HistoryAnswer::NotFound,
                _ => HistoryAnswer::Failed,
            };
            node.lanes[lane].send(Work::Recovered { key, seq, whom, after, answer }).await;
        }
        Waits::Tail { key, tries } => match status {
            Status::Ok => {
                let tail = Position::new(answer.tail_term, answer.tail_seq);
                for lane in &node.lanes {
                    lane.send(Work::HistoryTail { key: key.clone(), tail }).await;
                }
            }
            Status::NotFound => {}
            _ => {
                let tries = if goes_elsewhere { None } else { Some(tries) };
                node.sweeps.refused(node, Unanswered::Tail(key), tries);
            }
        },
    }
}

fn recovered(answer: wire::Answer) -> Recovered {
    Recovered {
        tail: Position::new(answer.tail_term, answer.tail_seq),
        floor: Position::new(answer.floor_term, answer.floor_seq),
        entries: answer.entries.into_iter().map(downlink::entry).collect(),
    }
}

/// What the store thinks of the session that asked.
fn judge(node: &Node, who: &Who, status: Status) {
    match status {
        Status::Superseded => {
            let order = Signal::Ordered(CloseCode::Superseded, String::new());
            let _ = node.table.with_target(who.target(node), |connection| connection.order(order));
        }
        Status::Forgotten => node.routers.forgotten(who.at),
        Status::Unspecified | Status::Ok | Status::Unavailable | Status::NotFound => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::id::GroupId;

    #[test]
    fn a_call_is_answered_by_its_own_stream_alone() {
        let asks = Asks::default();
        let key = (AppId::new("app").unwrap(), GroupId::new("g").unwrap());
        let waits = Waits::Tail { key, tries: 0 };
        asks.in_flight
            .lock()
            .insert(7, Asked { stream: 2, router: None, deadline: Instant::now(), waits });
        assert!(asks.take(7, 1).is_none());
        assert!(asks.take(7, 2).is_some(), "an answer of another stream has not taken it");
        assert!(asks.take(7, 2).is_none());
    }

    #[test]
    fn sweeps_that_are_asked_again_hold_up_no_circle() {
        let asks = Asks::default();
        for (call, tries) in [(1, 0), (2, 1), (3, 7)] {
            let waits = Waits::Sweep { all: Vec::new(), tries };
            let asked = Asked { stream: 1, router: None, deadline: Instant::now(), waits };
            asks.in_flight.lock().insert(call, asked);
        }
        assert_eq!(asks.sweeps(), 1);
    }
}
