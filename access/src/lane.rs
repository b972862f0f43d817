//! A lane: one worker of the downlink. It owns the group memberships of its connections and walks
//! them, writing to each link at once and waking nobody. Lanes share no lock and no member list.
//!
//! Each connection belongs to one lane for life, by its slot. A lane also owns the wheel of its
//! connections' deadlines.

mod broadcast;
mod burial;
mod history;
mod membership;
mod queue;
mod recovery;

pub(crate) use history::{HistoryAnswer, Recovered, Whom};
pub(crate) use queue::{Done, LaneHandle, Queue, Work, queue};

use crate::curse::Part;
use crate::fanout::{Fanout, Tally};
use crate::frame_out::FrameOut;
use crate::groups::GroupKey;
use crate::metrics::StaleReason;
use crate::node::Node;
use crate::outbox::SlowPolicy;
use crate::table::{Check, GATHER_MAX, Written};
use crate::wheel::{self, Wheel};
use broadcast::Broadcast;
use futures_util::FutureExt as _;
use hawser_proto::frame::NodeFrame;
use hawser_proto::id::{BusinessNo, SlotRef};
use hawser_proto::params::Missed;
use history::{History, Recoveries};
use membership::{Memberships, joined};
use slab::Slab;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

/// Writes between two looks at what else the runtime has to do.
const WRITES_PER_TURN: usize = 32;

/// Between two turns of a walk over many members: first whoever waits for this core, another process too, then
/// what waits for this thread. Where nobody does, it costs a microsecond behind 32 writes.
async fn give_way() {
    std::thread::yield_now();
    tokio::task::yield_now().await;
}

/// Runs lane `index` until the node stops. One that panics is buried, and another begins.
pub(crate) async fn run(node: Arc<Node>, index: usize, mut queue: Queue) {
    let stop = node.links.stop_signal();
    loop {
        let mut lane = Lane::new(node.clone(), index);
        if AssertUnwindSafe(work(&mut lane, &mut queue)).catch_unwind().await.is_ok() {
            return;
        }
        // Whatever it left behind may be broken; then this is as far as it goes.
        let _ = AssertUnwindSafe(lane.bury()).catch_unwind().await;
        // What strikes at each turn of the wheel strikes no faster than that.
        tokio::select! {
            () = tokio::time::sleep(node.config.wheel_tick) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn work(lane: &mut Lane, queue: &mut Queue) {
    // Not with the connections: those that finish a request still join, leave and time out.
    let stop = lane.node.links.stop_signal();
    let mut tick = tokio::time::interval(lane.node.config.wheel_tick);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let next_step = lane.next_broadcast_step();
        // Unbiased: a busy queue must not hold back the wheel, nor the other way round.
        tokio::select! {
            work = queue.recv() => match work {
                Some(work) => lane.perform(work, queue).await,
                None => return,
            },
            _ = tick.tick() => lane.turn_wheel().await,
            () = sleep_until(next_step) => lane.step_broadcasts().await,
            // The node stops its connections first, and its lanes when they are gone.
            () = stop.cancelled() => return,
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

struct Group {
    key: GroupKey,
    seq: u64,
    business: BusinessNo,
    /// Tells it from every other group this lane ever had: its members' missed pushes are kept by it.
    number: u32,
    members: Vec<SlotRef>,
    history: Option<Box<History>>,
}

struct Lane {
    node: Arc<Node>,
    index: usize,
    wheel: Wheel,
    groups: Slab<Group>,
    by_key: HashMap<GroupKey, usize, foldhash::fast::RandomState>,
    of_slot: HashMap<u32, Memberships, foldhash::fast::RandomState>,
    broadcasts: Vec<Broadcast>,
    due: Vec<SlotRef>,
    groups_ever: u32,
    recoveries: Recoveries,
    /// The claim of a join that is being worked on, and stands in no group yet.
    in_hand: Option<(GroupKey, u64)>,
}

impl Lane {
    fn new(node: Arc<Node>, index: usize) -> Self {
        let now = node.table.tick();
        let tick_ms = node.config.wheel_tick.as_millis().max(1) as u64;
        Self {
            wheel: Wheel::new(now / tick_ms),
            node,
            index,
            groups: Slab::new(),
            by_key: HashMap::default(),
            of_slot: HashMap::default(),
            broadcasts: Vec::new(),
            due: Vec::new(),
            groups_ever: 0,
            recoveries: Recoveries::default(),
            in_hand: None,
        }
    }

    async fn perform(&mut self, work: Work, queue: &mut Queue) {
        match work {
            Work::Join { at, key, stay, last, done } => self.join(at, &key, stay, last, done),
            Work::Recover { at, key, after } => self.recover(at, &key, after),
            Work::Recovered { key, seq, whom, after, answer } => {
                self.recovered(&key, seq, whom, after, answer).await;
            }
            Work::HistoryTail { key, tail } => self.history_tail(&key, tail),
            Work::Leave { at, key, reason, message, done } => {
                self.leave(at, &key, reason, message, done);
            }
            Work::Ended { at } => self.ended(at),
            Work::DropGroup { key, seq } => self.drop_group(&key, seq),
            Work::Multicast { key, business, fanout } => {
                let mut pushes = vec![fanout];
                while pushes[0].place.is_none() && pushes.len() < GATHER_MAX {
                    let Some(one_more) = queue.one_more_push(&key, business) else { break };
                    pushes.push(one_more);
                }
                self.multicast(&key, business, &pushes).await;
            }
            Work::Broadcast { app, business, per_second, newest, fanout } => {
                self.start_broadcast(app, business, per_second, newest, fanout);
            }
            Work::Describe { at, groups } => {
                let _ = groups.send(self.describe(at));
            }
        }
    }

    // === Deadlines ===

    async fn turn_wheel(&mut self) {
        let ended = std::mem::take(&mut *self.node.lanes[self.index].ended.lock());
        for at in ended {
            self.ended(at);
        }
        let missed = std::mem::take(&mut *self.node.lanes[self.index].missed.lock());
        for (key, tail) in missed {
            self.history_tail(&key, tail);
        }
        self.turn_histories();
        let now_ms = self.node.table.tick();
        let tick_ms = self.node.config.wheel_tick.as_millis().max(1) as u64;
        let horizon_ms = now_ms.saturating_add(tick_ms * (wheel::BUCKETS as u64 - 2));
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now_ms / tick_ms, &mut due);
        // After the turn: a wheel that was late would hand out at once what is planned for its end.
        for (at, due_ms) in self.node.table.take_watched(self.index) {
            let due_ms = self.node.table.plan_within(at, due_ms, horizon_ms);
            self.wheel.insert(at, due_ms.div_ceil(tick_ms));
        }
        for (n, at) in due.drain(..).enumerate() {
            if let Check::Again(next_ms) = self.node.table.check(at, now_ms, horizon_ms) {
                self.wheel.insert(at, next_ms.div_ceil(tick_ms));
            }
            if n % 1024 == 1023 {
                tokio::task::yield_now().await;
            }
        }
        due.shrink_to(1024);
        self.due = due;
    }

    // === Fan-out: the one place that walks members ===

    /// Writes pushes that wait together to every member, to each in one write where its link takes that.
    async fn multicast(&mut self, key: &GroupKey, business: BusinessNo, pushes: &[Arc<Fanout>]) {
        let mut tallies = vec![Tally::default(); pushes.len()];
        let mut gone = Vec::new();
        // A router that has not learned yet that a group is gone, and its name another business's, must not
        // reach the members of that one.
        let found = self.by_key.get(key).copied();
        let index = found.filter(|&index| self.groups[index].business == business);
        if found.is_some() && index.is_none() {
            for _ in pushes {
                self.node.metrics.stale(StaleReason::Business);
            }
        }
        if let Some(index) = index {
            if let [fanout] = pushes
                && let Some(place) = fanout.place
                && self.groups[index].history.is_some()
            {
                let tally = self.multicast_history(index, place, fanout).await;
                fanout.lane_done(tally);
                return;
            }
            let table = &self.node.table;
            let number = self.groups[index].number;
            let missed = |count| FrameOut::from(&missed(key, business, count));
            for turn in self.groups[index].members.chunks(WRITES_PER_TURN) {
                for &at in turn {
                    let mut is_gone = false;
                    table.write_group(at, pushes, number, missed, |push, written| {
                        is_gone |= written == Written::Gone;
                        tallies[push].count(written);
                    });
                    if is_gone {
                        gone.push(at);
                    }
                }
                self.node.config.curse.at(Part::Lane, key.1.as_str());
                give_way().await;
            }
        }
        for (fanout, tally) in pushes.iter().zip(tallies) {
            fanout.lane_done(tally);
        }
        // Their `Ended` comes too, or was lost to a full queue.
        for at in gone {
            if self.node.table.with(at, |_| ()).is_none() {
                self.ended(at);
            }
        }
    }
}

fn missed(key: &GroupKey, business: BusinessNo, count: u64) -> NodeFrame {
    let group = key.1.as_str().to_owned();
    NodeFrame::Missed(Missed { group, business: business.0, count })
}

/// What a business wants done with pushes its devices are too slow for.
pub(crate) fn slow_policy(number: i32) -> SlowPolicy {
    use hawser_proto::rpc::control::SlowPolicy as Wire;
    match Wire::try_from(number) {
        Ok(Wire::DropOldest) => SlowPolicy::DropOldest,
        Ok(Wire::Disconnect) => SlowPolicy::Disconnect,
        Ok(Wire::Unspecified | Wire::DropNewest) | Err(_) => SlowPolicy::DropNewest,
    }
}

#[cfg(test)]
mod tests;
