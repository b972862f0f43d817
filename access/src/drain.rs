//! A node that goes: its sessions are told at a set rate, have until a deadline to be elsewhere, and are
//! closed then. By SIGTERM, which has an end, or by an operator's order, which the node survives.
//!
//! One task walks the slots in circles for as long as the drain lasts, so whoever logs in behind its back
//! is found by the next circle. What a session makes of the word is the session machine's to say
//! (`session/state`); here is only whose turn it is, and when.

mod pace;

pub(crate) use pace::{Plan, plan};

use crate::config::Config;
use crate::node::Node;
use crate::table::{Signal, Told};
use hawser_proto::code::CloseCode;
use hawser_proto::id::SlotRef;
use pace::Pacer;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

/// Requests in flight have this long to be answered, once no new ones are taken.
const REQUESTS_PATIENCE: Duration = Duration::from_secs(5);
/// Where control knows of no other node, waiting for the device to find one is mostly in vain.
const NOWHERE_TO_GO_DEADLINE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);
/// Slots looked at in one tick: a circle over a million takes a second and a half.
const SLOTS_PER_TICK: u32 = 16_384;

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

/// What is due for a session that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// It has not gone: no new requests, and CLOSE once those in flight are answered.
    Leave,
    /// They were not answered in time: CLOSE.
    Close,
}

/// When, which slot in which generation, and what.
type Due = Reverse<(Instant, u32, u32, Step)>;

/// The drain of one node.
pub(crate) struct Drain {
    order: watch::Sender<Option<Order>>,
    due: Mutex<BinaryHeap<Due>>,
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
            let latest = (tokio::time::Instant::now() + order.deadline).min(end_by);
            let mut due = self.due.lock();
            let all = std::mem::take(&mut *due).into_iter();
            *due = all
                .map(|Reverse((at, slot, generation, step))| {
                    Reverse((at.min(latest), slot, generation, step))
                })
                .collect();
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
        self.push(at, Instant::now() + deadline, Step::Leave);
        deadline
    }

    /// A session takes no new requests any more: those in flight have their time.
    pub(crate) fn close_soon(&self, at: SlotRef) {
        let end_by = self.order.borrow().and_then(|order| order.end_by);
        let due = Instant::now() + REQUESTS_PATIENCE;
        self.push(at, end_by.map_or(due, |end_by| due.min(end_by)), Step::Close);
    }

    fn push(&self, at: SlotRef, due: Instant, step: Step) {
        self.due.lock().push(Reverse((due, at.slot, at.generation, step)));
        // The task may rest: the drain whose word this was can be over.
        self.order.send_modify(|_| {});
    }

    /// What is due by now.
    fn take_due(&self, now: Instant) -> Vec<(SlotRef, Step)> {
        let mut due = self.due.lock();
        let mut taken = Vec::new();
        while let Some(&Reverse((at, slot, generation, step))) = due.peek()
            && at <= now
        {
            due.pop();
            taken.push((SlotRef { slot, generation }, step));
        }
        taken
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

/// At start: whether a full node could go at its rate within its patience.
pub(crate) fn warn_of_short_patience(config: &Config) {
    let Config { connections_max, drain_per_second, patience, go_away_deadline, .. } = config;
    let sessions = u64::from(*connections_max);
    let plan = plan(sessions, *drain_per_second, *go_away_deadline, *patience);
    if plan.per_second > (*drain_per_second).max(1) {
        warn!(
            connections_max,
            per_second = drain_per_second,
            ?patience,
            per_second_needed = plan.per_second,
            "a full node could not drain at its rate within its patience: it would go faster; \
             raise the patience (and the supervisor's), or the rate, or lower connections_max"
        );
    }
}

/// Where the walk is.
struct Walk {
    order: Order,
    pacer: Pacer,
    next_slot: u32,
}

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let stop = node.links.stop_signal();
    let mut orders = node.drain.order.subscribe();
    let mut walk: Option<Walk> = None;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let order = *orders.borrow_and_update();
        if walk.as_ref().map(|walk| walk.order) != order {
            walk = order.map(|order| begin(&node, order, walk.take()));
        }
        let now = Instant::now();
        for (at, step) in node.drain.take_due(now) {
            let signal = match step {
                Step::Leave => Signal::LeaveBy,
                Step::Close => Signal::Ordered(CloseCode::Draining, String::new()),
            };
            node.table.with(at, |connection| connection.order(signal));
        }
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
    Walk { order, pacer, next_slot }
}

/// Tells those whose turn has come.
fn walk_on(node: &Node, walk: &mut Walk, now: Instant) {
    let slots = node.table.slots_used();
    let turns = walk.pacer.turns(now);
    let (mut told, mut sessions) = (0, 0);
    for _ in 0..slots.min(SLOTS_PER_TICK) {
        if told >= turns {
            break;
        }
        walk.next_slot = if walk.next_slot >= slots { 0 } else { walk.next_slot };
        match node.table.visit(walk.next_slot, |_, connection| connection.tell_to_go()) {
            Some(Told::Session) => (told, sessions) = (told + 1, sessions + 1),
            Some(Told::Stranger) => told += 1,
            Some(Told::Nobody) | None => {}
        }
        walk.next_slot += 1;
    }
    walk.pacer.took(told);
    node.drain.told.fetch_add(sessions, Ordering::Relaxed);
    node.metrics.drain_told.inc_by(sessions);
}
