//! Asking for everything, in case a wake-up was lost: all sessions that take stored pushes, in batches,
//! and all histories with members here. A walk in circles: after a loss it goes round once within
//! `sweep_within`, else slowly behind it all. Also where forgotten sessions are announced, at a bounded
//! rate, what no router has taken is said again, and calls run into their deadlines.

use crate::downlink;
use crate::groups::GroupKey;
use crate::node::Node;
use crate::routers::asks::{self, Waits, Who};
use hawser_proto::id::{Position, SlotRef};
use hawser_proto::rpc::node as wire;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sessions named in one call.
const BATCH: usize = 64;
/// Slots looked at for one batch: where few sessions take stored pushes, a step is bounded all the same.
const SLOTS_PER_BATCH: u32 = 4 * BATCH as u32;
/// Batches that may be unanswered when a circle goes on: the store is asked no faster than it answers, and what a
/// circle costs leaves room for logins. Then it takes longer than it should.
const UNANSWERED_MAX: usize = 2;
const TICK: Duration = Duration::from_millis(100);
/// How often a circle may begin anew while wake-ups are lost.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The first pause before what was refused is asked again; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_DOUBLINGS_MAX: u32 = 5;

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

/// A part of a sweep that was refused, or not answered.
#[derive(Debug)]
pub(crate) enum Unanswered {
    Sessions(Vec<SlotRef>),
    Tail(GroupKey),
}

struct Again {
    due: Instant,
    what: Unanswered,
    tries: u32,
}

/// The sweeps of one node.
#[derive(Default)]
pub(crate) struct Sweeps {
    round: Mutex<Round>,
    /// Refused parts alone: the rest of their circle was answered.
    again: Mutex<Vec<Again>>,
    /// Sessions to be asked for once.
    once: Mutex<HashSet<SlotRef>>,
}

impl Sweeps {
    /// Something may have been lost just now: everything is asked for once more.
    pub(crate) fn request(&self) {
        self.round.lock().is_wanted = true;
    }

    /// A part of a sweep has to be asked again: at once, or after so many tries after a pause. Without a
    /// stream a whole circle comes with the next.
    pub(crate) fn refused(&self, node: &Node, what: Unanswered, tries: Option<u32>) {
        if node.routers.can_ask() {
            let pause = |tries: u32| PAUSE * (1 << tries.min(PAUSE_DOUBLINGS_MAX));
            let due = Instant::now() + tries.map_or(Duration::ZERO, pause);
            let tries = tries.map_or(1, |tries| tries + 1);
            self.again.lock().push(Again { due, what, tries });
        }
    }

    /// What this session has acknowledged may not have reached the store, or it may not have been told of what
    /// waits for it.
    pub(crate) fn once(&self, at: SlotRef) {
        self.once.lock().insert(at);
    }
}

impl Round {
    /// Adds histories behind those that are still to be asked: however often a circle begins, each has
    /// its turn.
    fn add_histories(&mut self, histories: Vec<GroupKey>) {
        let left: HashSet<GroupKey> = self.groups.iter().cloned().collect();
        self.groups.extend(histories.into_iter().filter(|key| !left.contains(key)));
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
        node.routers.ask_for_lost_claims(&node, per_tick.ceil() as usize);
        node.routers.send_kept(&node);
        node.groups.tell_again(&node.routers, Instant::now());
        step(&node);
    }
}

/// One step of the walk.
fn step(node: &Node) {
    let slots = node.table.slots_used();
    let (mut next, mut budget, groups) = {
        let mut round = node.sweeps.round.lock();
        let rests = round.begun.is_none_or(|begun| begun.elapsed() >= AGAIN_AFTER);
        if round.is_wanted && rests && node.routers.can_ask() {
            // A whole circle from here: whatever was passed already is asked again.
            round.add_histories(node.groups.histories());
            (round.slots_left, round.slow, round.is_wanted) = (slots, 0.0, false);
            round.begun = Some(Instant::now());
            node.sweeps.again.lock().clear();
            node.sweeps.once.lock().clear();
            node.metrics.sweeps.inc();
        }
        let ticks = |within: Duration| (within.as_secs_f64() / TICK.as_secs_f64()).max(1.0);
        // Four fifths of the time, so that the answers are back in it, too.
        let urgent = f64::from(slots) / (ticks(node.config.sweep_within) * 0.8);
        round.slow += f64::from(slots) / ticks(node.config.sweep_interval);
        let budget = if round.slots_left > 0 {
            let step = (urgent.ceil() as u32).max(BATCH as u32).min(round.slots_left);
            if node.asks.sweeps() < UNANSWERED_MAX { step } else { 0 }
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
            round.add_histories(node.groups.histories());
        }
        if slots == 0 {
            round.slots_left = 0;
        }
        let few = round.groups.len().min(BATCH);
        (next, budget, round.groups.drain(..few).collect::<Vec<_>>())
    };
    while budget > 0 {
        let mut batch = Vec::new();
        while budget > 0 && batch.len() < BATCH {
            let one = node.table.visit(next, |at, connection| downlink::sweep_one(at, connection));
            batch.extend(one.flatten());
            next = (next + 1) % slots;
            budget -= 1;
        }
        ask_sessions(node, batch, 0);
    }
    for key in groups {
        ask_tail(node, key, 0);
    }
    if node.routers.can_ask() {
        ask_again(node);
        let per_tick = (f64::from(slots) * TICK.as_secs_f64()
            / (node.config.sweep_within.as_secs_f64() * 0.8))
            .ceil() as usize;
        ask_once(node, per_tick.max(BATCH));
    }
}

/// What was refused and has paused, as far as there is leave.
fn ask_again(node: &Node) {
    let now = Instant::now();
    while node.asks.has_leave() {
        let next = {
            let mut again = node.sweeps.again.lock();
            again.iter().position(|again| again.due <= now).map(|index| again.swap_remove(index))
        };
        match next {
            Some(Again { what: Unanswered::Sessions(all), tries, .. }) => {
                ask_named(node, &all, tries);
            }
            Some(Again { what: Unanswered::Tail(key), tries, .. }) => ask_tail(node, key, tries),
            None => return,
        }
    }
}

fn ask_once(node: &Node, most: usize) {
    let some: Vec<SlotRef> = {
        let mut once = node.sweeps.once.lock();
        let some: Vec<SlotRef> = once.iter().take(most).copied().collect();
        for at in &some {
            once.remove(at);
        }
        some
    };
    for batch in some.chunks(BATCH) {
        ask_named(node, batch, 0);
    }
}

/// Asks for sessions as far as they are still there, with what they have acknowledged by now.
fn ask_named(node: &Node, all: &[SlotRef], tries: u32) {
    let one = |&at: &SlotRef| {
        node.table.with(at, |connection| downlink::sweep_one(at, connection)).flatten()
    };
    ask_sessions(node, all.iter().filter_map(one).collect(), tries);
}

fn ask_sessions(node: &Node, batch: Vec<(Who, wire::SweepOne)>, tries: u32) {
    if batch.is_empty() {
        return;
    }
    let (all, sessions): (Vec<Who>, Vec<_>) = batch.into_iter().unzip();
    let slots = all.iter().map(|who| who.at).collect();
    let sweep = wire::ask::What::Sweep(wire::Sweep { sessions });
    if !node.asks.ask(node, sweep, Waits::Sweep { all, tries }) {
        node.sweeps.refused(node, Unanswered::Sessions(slots), Some(tries));
    }
}

fn ask_tail(node: &Node, key: GroupKey, tries: u32) {
    let what = tail_of(&key, 0, Position::START);
    if !node.asks.ask(node, what, Waits::Tail { key: key.clone(), tries }) {
        node.sweeps.refused(node, Unanswered::Tail(key), Some(tries));
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
        // For the tail alone no room is kept at the router.
        bytes_max: if entries_max == 0 { 0 } else { 256 * 1024 },
        takes_compressed: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::id::{AppId, GroupId};

    #[test]
    fn no_history_starves_however_often_a_circle_begins() {
        let all: Vec<GroupKey> = (0..10)
            .map(|n| (AppId::new("app").unwrap(), GroupId::new(&format!("g-{n}")).unwrap()))
            .collect();
        let mut round = Round::default();
        let mut asked = HashSet::new();
        for _ in 0..5 {
            round.add_histories(all.clone());
            assert_eq!(round.groups.len(), all.len(), "each once");
            asked.extend(round.groups.drain(..2));
        }
        assert_eq!(asked.len(), all.len());
    }
}
