//! A node that goes: its sessions are told at a set rate, have until a deadline to be elsewhere, and are
//! closed then. By SIGTERM, which has an end, or by an operator's order, which the node survives.
//!
//! One task walks the slots in circles for as long as the drain lasts, so whoever logs in behind its back
//! is found by the next circle. What a session makes of the word is the session machine's to say
//! (`session/state`); here is only whose turn it is, and when.

mod due;
mod pace;

pub(crate) use pace::{Plan, plan};

use crate::config::Config;
use crate::node::Node;
use crate::table::{Signal, Told};
use due::Due;
use hawser_proto::code::CloseCode;
use hawser_proto::id::SlotRef;
use pace::Pacer;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

/// Where a drain has been called off, those who were told of it have this long for their requests in flight.
const REQUESTS_PATIENCE: Duration = Duration::from_secs(5);
/// Where control knows of no other node, waiting for the device to find one is mostly in vain.
const NOWHERE_TO_GO_DEADLINE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);
/// Slots looked at in one tick: a circle over a million takes a second and a half.
const SLOTS_PER_TICK: u32 = 16_384;
/// The pause after a circle that found nobody. Nobody is taken in any more, so the next one is for the few whose
/// login was under way.
const CIRCLE_PAUSE: Duration = Duration::from_secs(1);
/// How often the sessions there are compared with what the patience has room for.
const FIT_INTERVAL: Duration = Duration::from_secs(10);

/// A drain that is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Order {
    /// Control's number of it; 0: the node's own.
    pub(crate) id: u64,
    pub(crate) per_second: u32,
    /// How long each session has to be elsewhere.
    pub(crate) deadline: Duration,
    /// Nothing is waited for beyond this.
    pub(crate) end_by: Option<Instant>,
}

/// The drain of one node.
pub(crate) struct Drain {
    order: watch::Sender<Option<Order>>,
    due: Mutex<Due>,
    /// Sessions when it began, and those told since.
    sessions: AtomicU64,
    told: AtomicU64,
}

/// How far it is, for control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) order: u64,
    pub(crate) sessions: u64,
    pub(crate) told: u64,
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            order: watch::Sender::new(None),
            due: Mutex::default(),
            sessions: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// Whether the node goes, or is to be empty.
    pub(crate) fn is_on(&self) -> bool {
        self.order.borrow().is_some()
    }

    /// The node's own wish comes before whatever control says.
    pub(crate) fn begin(&self, order: Order) {
        self.order.send_replace(Some(order));
        if let Some(end_by) = order.end_by {
            // Those who were told of a later deadline: it has become an earlier one.
            let latest = (Instant::now() + order.deadline).min(end_by);
            self.due.lock().no_later_than(latest);
        }
    }

    /// Follows what control says: an order, or none. False: that is what holds already, or the node goes by
    /// its own wish.
    pub(crate) fn follow(&self, order: Option<Order>) -> bool {
        self.order.send_if_modified(|current| {
            let is_own = current.is_some_and(|it| it.id == 0);
            if is_own || *current == order {
                return false;
            }
            *current = order;
            true
        })
    }

    /// Ends a drain that has no end of its own.
    pub(crate) fn end(&self) -> bool {
        self.order.send_if_modified(|current| {
            let ends = current.is_some_and(|it| it.end_by.is_none());
            if ends {
                *current = None;
            }
            ends
        })
    }

    pub(crate) fn progress(&self) -> Progress {
        let Some(order) = *self.order.borrow() else { return Progress::default() };
        Progress {
            order: order.id,
            sessions: self.sessions.load(Ordering::Relaxed),
            told: self.told.load(Ordering::Relaxed),
        }
    }

    /// A session is being told: how long it has. Its turn comes again then.
    pub(crate) fn leave_within(&self, node: &Node, at: SlotRef) -> Duration {
        let order = *self.order.borrow();
        let default = node.config.go_away_deadline;
        let mut deadline = order.map_or(default, |order| order.deadline);
        if node.advice.load().alternatives.is_empty() {
            deadline = deadline.min(NOWHERE_TO_GO_DEADLINE);
        }
        self.due.lock().leave_by(at, Instant::now() + deadline);
        self.wake();
        deadline
    }

    /// A connection takes no new requests any more: those in flight have as long to be answered as a device has
    /// to move.
    pub(crate) fn close_soon(&self, at: SlotRef) {
        let order = *self.order.borrow();
        let due = Instant::now() + order.map_or(REQUESTS_PATIENCE, |order| order.deadline);
        let end_by = order.and_then(|order| order.end_by);
        self.due.lock().close_by(at, end_by.map_or(due, |end_by| due.min(end_by)));
        self.wake();
    }

    /// The task may rest: the drain that has something due can be over.
    fn wake(&self) {
        self.order.send_modify(|_| {});
    }

    fn is_quiet(&self) -> bool {
        !self.is_on() && self.due.lock().is_empty()
    }
}

/// The node ends: begins the drain that fits into its patience, and says so loudly when it fits badly.
pub(crate) fn begin_end(node: &Node, begun: Instant, patience: Duration) -> Plan {
    let sessions = node.table.sessions();
    let set = node.config.drain_per_second;
    let plan = plan(sessions, set, node.config.go_away_deadline, patience);
    let Plan { per_second, deadline, end_after } = plan;
    if per_second > set.max(1) {
        error!(
            sessions,
            ?patience,
            per_second_set = set,
            per_second,
            "the patience is too short for the drain: sessions are told to go faster than set"
        );
    }
    node.drain.begin(Order { id: 0, per_second, deadline, end_by: Some(begun + end_after) });
    node.news.notify_one();
    plan
}

/// Says ahead of time when a node has more sessions than can go at the set rate within its patience, once each
/// time that it comes to that; until the node stops.
pub(crate) async fn watch_fit(node: Arc<Node>) {
    let stop = node.links.stop_signal();
    let mut fit = Fit::default();
    let mut tick = tokio::time::interval(FIT_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let connections = node.metrics.connections.get().max(0) as u64;
        let Config { drain_per_second, patience, .. } = node.config;
        if let Some(per_second_needed) = fit.look(&node.config, connections) {
            warn!(
                connections,
                per_second = drain_per_second,
                ?patience,
                per_second_needed,
                "this node could not drain at its rate within its patience: it would go faster; raise the \
                 patience (and the supervisor's), or the rate, or lower connections_max"
            );
        }
    }
}

/// Whether it was said that a drain does not fit.
#[derive(Default)]
struct Fit {
    is_said: bool,
}

impl Fit {
    /// `Some`: it is to be said now that a drain of so many would need this rate.
    fn look(&mut self, config: &Config, connections: u64) -> Option<u32> {
        let Config { drain_per_second, patience, go_away_deadline, .. } = config;
        let is_too_many = |connections| {
            let plan = plan(connections, *drain_per_second, *go_away_deadline, *patience);
            (plan.per_second > (*drain_per_second).max(1)).then_some(plan.per_second)
        };
        let needed = is_too_many(connections);
        if needed.is_none() {
            // A number that swings about the limit is one occasion.
            self.is_said &= is_too_many(connections + connections / 8).is_some();
            return None;
        }
        needed.filter(|_| !std::mem::replace(&mut self.is_said, true))
    }
}

/// Where the walk is.
struct Walk {
    order: Order,
    pacer: Pacer,
    next_slot: u32,
    /// Slots looked at since somebody was told.
    in_vain: u32,
    rests_until: Instant,
}

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let stop = node.links.stop_signal();
    let mut orders = node.drain.order.subscribe();
    let mut walk: Option<Walk> = None;
    // Outlives the drain: whoever was told goes, also when it is over.
    let mut closing = Pacer::new(node.config.drain_per_second, Instant::now());
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let order = *orders.borrow_and_update();
        if walk.as_ref().map(|walk| walk.order) != order {
            walk = order.map(|order| begin(&node, order, walk.take()));
            if let Some(order) = order {
                closing = closing.at_rate(order.per_second);
            }
        }
        let now = Instant::now();
        send_away(&node, now, &mut closing);
        if let Some(walk) = &mut walk {
            walk_on(&node, walk, now);
        }
        let rests = node.drain.is_quiet();
        tokio::select! {
            _ = tick.tick(), if !rests => {}
            changed = orders.changed(), if rests => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Whoever was told and is still there when its time is over has to go.
fn send_away(node: &Node, now: Instant, pacer: &mut Pacer) {
    let order =
        |at, signal| node.table.with(at, |connection| connection.order(signal)) == Some(true);
    let mut due = node.drain.due.lock();
    while let Some(at) = due.next_to_close(now) {
        order(at, Signal::Ordered(CloseCode::Draining, String::new()));
    }
    due.leave(now, pacer, |at| order(at, Signal::LeaveBy));
}

/// A drain begins, or another one takes over: then the pace goes on, so that the two together keep it.
fn begin(node: &Node, order: Order, before: Option<Walk>) -> Walk {
    let sessions = node.table.sessions();
    node.drain.sessions.store(sessions, Ordering::Relaxed);
    node.drain.told.store(0, Ordering::Relaxed);
    node.news.notify_one();
    let Order { id, per_second, deadline, .. } = order;
    info!(order = id, sessions, per_second, ?deadline, "draining");
    let (pacer, next_slot) = match before {
        Some(walk) => (walk.pacer.at_rate(per_second), walk.next_slot),
        None => (Pacer::new(per_second, Instant::now()), 0),
    };
    Walk { order, pacer, next_slot, in_vain: 0, rests_until: Instant::now() }
}

/// Tells those whose turn has come.
fn walk_on(node: &Node, walk: &mut Walk, now: Instant) {
    if now < walk.rests_until {
        return;
    }
    let slots = node.table.slots_used();
    let turns = walk.pacer.turns(now);
    let (mut told, mut sessions) = (0, 0);
    for _ in 0..slots.min(SLOTS_PER_TICK) {
        if told >= turns {
            break;
        }
        walk.next_slot = if walk.next_slot >= slots { 0 } else { walk.next_slot };
        walk.in_vain += 1;
        match node.table.visit(walk.next_slot, |_, connection| connection.tell_to_go()) {
            Some(Told::Session) => (told, sessions, walk.in_vain) = (told + 1, sessions + 1, 0),
            Some(Told::Stranger) => (told, walk.in_vain) = (told + 1, 0),
            Some(Told::Nobody) | None => {}
        }
        walk.next_slot += 1;
    }
    if walk.in_vain >= slots {
        (walk.in_vain, walk.rests_until) = (0, now + CIRCLE_PAUSE);
    }
    walk.pacer.took(told);
    node.drain.told.fetch_add(sessions, Ordering::Relaxed);
    node.metrics.drain_told.inc_by(sessions);
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_chassis::peers::Peers;
    use hawser_chassis::secret::Secret;
    use hawser_proto::id::NodeId;

    #[test]
    fn what_does_not_fit_is_said_once_when_it_comes_to_that() {
        let name = NodeId::new("a1").unwrap();
        let peers = Peers::secret(&Secret::new("a secret of the cluster")).unwrap();
        let config = Config::new(name, "http://127.0.0.1:1", &[], peers);
        let mut fit = Fit::default();
        // 38 s at 500 a second; the rest of 50 is for the last one's deadline and the end.
        for connections in [0, 10_000, 19_000] {
            assert_eq!(fit.look(&config, connections), None, "{connections}");
        }
        assert_eq!(fit.look(&config, 38_000), Some(1_000));
        for connections in [50_000, 18_900, 19_100, 18_900, 38_000] {
            assert_eq!(fit.look(&config, connections), None, "{connections}");
        }
        assert_eq!(fit.look(&config, 10_000), None);
        assert_eq!(fit.look(&config, 38_000), Some(1_000), "again, after it was better");
    }
}
