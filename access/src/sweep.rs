//! Asking for everything, in case a wake-up was lost: all sessions that take stored pushes, in batches,
//! and all histories with members here. A walk in circles: after a loss it goes round once within
//! `sweep_within`, else slowly behind it all. Also where forgotten sessions are announced, at a bounded
//! rate, and where calls run into their deadlines.

use crate::downlink;
use crate::groups::GroupKey;
use crate::node::Node;
use crate::routers::asks::{self, Waits};
use hawser_proto::id::Position;
use hawser_proto::rpc::node as wire;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sessions named in one call.
const BATCH: usize = 64;
/// Slots looked at for one batch: where few sessions take stored pushes, a step is bounded all the same.
const SLOTS_PER_BATCH: u32 = 4 * BATCH as u32;
const TICK: Duration = Duration::from_millis(100);
/// How often one may begin anew while sweeps fail.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is still to be asked.
#[derive(Default)]
struct Round {
    next_slot: u32,
    /// Slots until the circle is closed, when in a hurry.
    slots_left: u32,
    groups: VecDeque<GroupKey>,
    is_wanted: bool,
    begun: Option<Instant>,
    /// Slots the slow walk may still look at, in parts.
    slow: f64,
}

/// The sweeps of one node.
#[derive(Default)]
pub(crate) struct Sweeps {
    round: Mutex<Round>,
}

impl Sweeps {
    /// Something may have been lost just now: everything is asked for once more.
    pub(crate) fn request(&self) {
        self.round.lock().is_wanted = true;
    }
}

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let stop = node.links.stop_signal();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        asks::expire(&node).await;
        let per_tick = TICK.as_secs_f64() * f64::from(node.config.announcements_per_second);
        node.routers.announce_forgotten(&node, per_tick.ceil() as usize);
        step(&node);
    }
}

/// One step of the walk.
fn step(node: &Node) {
    let slots = node.table.slots_used();
    let (mut next, mut budget, groups) = {
        let mut round = node.sweeps.round.lock();
        let rests = round.begun.is_none_or(|begun| begun.elapsed() >= AGAIN_AFTER);
        if round.is_wanted && rests && node.routers.ask_up().is_some() {
            // A whole circle from here: whatever was passed already is asked again.
            *round = Round {
                next_slot: round.next_slot,
                slots_left: slots,
                groups: node.groups.histories().into(),
                is_wanted: false,
                begun: Some(Instant::now()),
                slow: 0.0,
            };
            node.metrics.sweeps.inc();
        }
        let ticks = |within: Duration| (within.as_secs_f64() / TICK.as_secs_f64()).max(1.0);
        // Four fifths of the time, so that the answers are back in it, too.
        let urgent = f64::from(slots) / (ticks(node.config.sweep_within) * 0.8);
        round.slow += f64::from(slots) / ticks(node.config.sweep_interval);
        let budget = if round.slots_left > 0 {
            (urgent.ceil() as u32).max(SLOTS_PER_BATCH).min(round.slots_left)
        } else if round.slow >= f64::from(SLOTS_PER_BATCH.min(slots)) && slots > 0 {
            round.slow = 0.0;
            SLOTS_PER_BATCH.min(slots)
        } else {
            0
        };
        round.slots_left = round.slots_left.saturating_sub(budget);
        if round.next_slot >= slots {
            round.next_slot = 0;
        }
        let next = round.next_slot;
        round.next_slot = (next + budget) % slots.max(1);
        if round.slots_left == 0 && budget > 0 && round.next_slot <= next {
            // The slow walk has come round, too.
            round.groups = node.groups.histories().into();
        }
        if slots == 0 {
            round.slots_left = 0;
        }
        let few = round.groups.len().min(BATCH);
        (next, budget, round.groups.drain(..few).collect::<Vec<_>>())
    };
    while budget > 0 {
        let mut all = Vec::new();
        let mut sessions = Vec::new();
        while budget > 0 && all.len() < BATCH {
            let one = node.table.visit(next, |at, connection| downlink::sweep_one(at, connection));
            if let Some((who, one)) = one.flatten() {
                all.push(who);
                sessions.push(one);
            }
            next = (next + 1) % slots;
            budget -= 1;
        }
        if !all.is_empty() {
            let sweep = wire::ask::What::Sweep(wire::Sweep { sessions });
            if !node.asks.ask(node, sweep, Waits::Sweep { all }) {
                node.sweeps.request();
            }
        }
    }
    for key in groups {
        if !node.asks.ask(node, tail_of(&key, 0, Position::START), Waits::Tail { key }) {
            node.sweeps.request();
        }
    }
}

/// The call for a group's history above a position; with no entries, for its tail alone.
pub(crate) fn tail_of(key: &GroupKey, entries_max: u32, after: Position) -> wire::ask::What {
    wire::ask::What::History(wire::PullHistory {
        app: key.0.as_str().to_owned(),
        group: key.1.as_str().to_owned(),
        term: after.term,
        seq: after.seq,
        entries_max,
        bytes_max: 256 * 1024,
    })
}
