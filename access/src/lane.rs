//! A lane: one worker of the downlink. It owns the group memberships of its connections and walks
//! them, writing to each link at once and waking nobody. Lanes share no lock and no member list.
//!
//! Each connection belongs to one lane for life, by its slot. A lane also owns the wheel of its
//! connections' deadlines.

mod history;
mod recovery;

pub(crate) use history::{HistoryAnswer, Recovered, Whom};

use crate::fanout::{Fanout, Tally};
use crate::frame_out::FrameOut;
use crate::groups::{GroupKey, Stay};
use crate::node::Node;
use crate::outbox::{Keep, SlowPolicy};
use crate::table::{Check, Written};
use crate::wheel::{self, Wheel};
use hawser_proto::code::ErrorCode;
use hawser_proto::frame::NodeFrame;
use hawser_proto::id::{AppId, BusinessNo, Position, SlotRef};
use hawser_proto::limits::GROUPS_PER_CONNECTION_MAX;
use hawser_proto::params::{Joined, Left, LeftReason, Missed};
use history::{History, Recoveries};
use parking_lot::Mutex;
use slab::Slab;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Writes between two looks at what else the runtime has to do.
const WRITES_PER_TURN: usize = 128;
/// A broadcast's pace is kept in steps of this length.
const BROADCAST_STEP: Duration = Duration::from_millis(50);
/// Broadcasts one business may have under way, so that none keeps the others out.
const BROADCASTS_PER_BUSINESS_MAX: usize = 4;
/// Broadcasts one lane works on at once; more are refused.
const BROADCASTS_MAX: usize = 16;

/// Work for a lane.
pub(crate) enum Work {
    /// Take a connection into a group, which has seen its history up to `last`. The claim on the group
    /// (see `Groups::enter`) comes along.
    Join { at: SlotRef, key: GroupKey, stay: Stay, last: Position, done: Done },
    /// Take a connection out.
    Leave { at: SlotRef, key: GroupKey, reason: LeftReason, message: String, done: Done },
    /// The connection has ended: it leaves everything. Sent by [`LaneHandle::ended`] alone.
    Ended { at: SlotRef },
    /// The group is no more.
    DropGroup { key: GroupKey },
    /// Write to every member.
    Multicast { key: GroupKey, fanout: Arc<Fanout> },
    /// Write to every session of an app that serves a business, this many a second. Sessions with an
    /// epoch above `newest` (0: none are) began after it, and may have had it in an earlier life.
    Broadcast {
        app: AppId,
        business: BusinessNo,
        per_second: u32,
        newest: u64,
        fanout: Arc<Fanout>,
    },
    /// A member asks for a history again, from here on.
    Recover { at: SlotRef, key: GroupKey, after: Position },
    /// The answer to a call for a history above `after`.
    Recovered { key: GroupKey, seq: u64, whom: Whom, after: Position, answer: HistoryAnswer },
    /// The newest position of a history, as a sweep found it, or a push that found no room said.
    HistoryTail { key: GroupKey, tail: Position },
    /// Name a connection's groups.
    Describe { at: SlotRef, groups: oneshot::Sender<Vec<String>> },
}

/// Who is told how a membership change went.
pub(crate) enum Done {
    /// The device, which asked with this request id.
    Device(u64),
    /// The router, on behalf of a business. The device is told of the change, too.
    Business(oneshot::Sender<Option<ErrorCode>>),
}

/// The way to one lane.
#[derive(Clone)]
pub(crate) struct LaneHandle {
    queue: mpsc::Sender<Work>,
    /// Connections whose end found the queue full; looked at with each turn of the wheel.
    ended: Arc<Mutex<Vec<SlotRef>>>,
    /// History pushes that found the queue full; looked at likewise.
    missed: Arc<Mutex<HashMap<GroupKey, Position>>>,
}

impl LaneHandle {
    /// Hands work over without waiting. `Err`: the lane's queue is full, and the work comes back.
    pub(crate) fn try_send(&self, work: Work) -> Result<(), Work> {
        self.queue.try_send(work).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Says that a connection has ended. Never waits, and is never lost.
    pub(crate) fn ended(&self, at: SlotRef) {
        if self.queue.try_send(Work::Ended { at }).is_err() {
            self.ended.lock().push(at);
        }
    }

    /// Says that a history push was not handed over: the lane has to ask for it.
    pub(crate) fn missed(&self, key: &GroupKey, at: Position) {
        let mut missed = self.missed.lock();
        let known = missed.entry(key.clone()).or_default();
        *known = at.max(*known);
    }

    /// Hands work over that must not be lost; waits for room.
    pub(crate) async fn send(&self, work: Work) {
        // The lane ends only with the node.
        let _ = self.queue.send(work).await;
    }
}

/// A queue for a lane that is about to start.
pub(crate) fn queue(bound: usize) -> (LaneHandle, mpsc::Receiver<Work>) {
    let (sender, receiver) = mpsc::channel(bound);
    (LaneHandle { queue: sender, ended: Arc::default(), missed: Arc::default() }, receiver)
}

/// Runs lane `index` until the node stops.
pub(crate) async fn run(node: Arc<Node>, index: usize, mut queue: mpsc::Receiver<Work>) {
    // Not with the connections: those that finish a request still join, leave and time out.
    let stop = node.links.stop_signal();
    let mut lane = Lane::new(node, index);
    let mut tick = tokio::time::interval(lane.node.config.wheel_tick);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let next_step = lane.next_broadcast_step();
        // Unbiased: a busy queue must not hold back the wheel, nor the other way round.
        tokio::select! {
            work = queue.recv() => match work {
                Some(work) => lane.perform(work).await,
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

/// A connection's side of its memberships.
struct Memberships {
    generation: u32,
    /// Group, and where in its members this connection stands.
    groups: Vec<(usize, u32)>,
    kicked_from: Vec<GroupKey>,
}

struct Broadcast {
    app: AppId,
    business: BusinessNo,
    per_step: f64,
    allowance: f64,
    next_slot: u32,
    next_step: Instant,
    newest: u64,
    fanout: Arc<Fanout>,
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
        }
    }

    async fn perform(&mut self, work: Work) {
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
            Work::DropGroup { key } => self.drop_group(&key),
            Work::Multicast { key, fanout } => self.multicast(&key, &fanout).await,
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

    // === Membership ===

    fn join(&mut self, at: SlotRef, key: &GroupKey, stay: Stay, last: Position, done: Done) {
        let refused = self.try_join(at, key, stay);
        if refused.is_some() {
            self.node.groups.leave(key, stay.seq, self.index, &self.node.routers);
        }
        // Already in: the claim was given back, and the device hears that it is in.
        let status = refused.filter(|_| !self.is_member(at, key));
        let is_new = refused.is_none();
        let done = match status {
            None => match self.join_history(at, key, last, is_new, done) {
                Some(done) => done,
                None => return,
            },
            Some(_) => done,
        };
        self.answer_join(at, key, is_new, done, joined(0, key, status, stay.business));
    }

    /// Answers whoever wanted the join.
    fn answer_join(
        &self,
        at: SlotRef,
        key: &GroupKey,
        is_new: bool,
        done: Done,
        mut joined: Joined,
    ) {
        joined.request_id = match done {
            Done::Device(request_id) => request_id,
            Done::Business(tell) => {
                let _ = tell.send(ErrorCode::from_number(joined.status));
                0
            }
        };
        if joined.status == 0 {
            self.say_where(key, &mut joined);
        }
        if joined.request_id != 0 || (is_new && joined.status == 0) {
            self.node.table.write(at, &NodeFrame::Joined(joined));
        }
    }

    /// `Some`: not taken in as a new member; `AlreadyExists` when it was one before.
    fn try_join(&mut self, at: SlotRef, key: &GroupKey, stay: Stay) -> Option<ErrorCode> {
        // Nothing but LOGIN_OK may come first, and a word about a group would: it is never dropped.
        let is_live = self
            .node
            .table
            .with(at, |connection| connection.identity.is_some() && connection.is_admitted);
        if is_live != Some(true) {
            return Some(ErrorCode::DeviceOffline);
        }
        // Asked here, in the lane's own order of work: whatever drops the group comes either before,
        // and is seen now, or after, and finds the member.
        if !self.node.groups.lasts(key, stay.seq) {
            return Some(ErrorCode::GroupNotFound);
        }
        if self.is_member(at, key) {
            return Some(ErrorCode::AlreadyExists);
        }
        let memberships = self.memberships(at);
        if memberships.kicked_from.contains(key) {
            return Some(ErrorCode::PermissionDenied);
        }
        if memberships.groups.len() >= GROUPS_PER_CONNECTION_MAX {
            return Some(ErrorCode::TooManyGroups);
        }
        let index = *self.by_key.entry(key.clone()).or_insert_with(|| {
            self.groups_ever = self.groups_ever.wrapping_add(1);
            self.groups.insert(Group {
                key: key.clone(),
                seq: stay.seq,
                business: stay.business,
                number: self.groups_ever,
                members: Vec::new(),
                history: stay.history.then(Box::default),
            })
        });
        let group = &mut self.groups[index];
        let position = group.members.len() as u32;
        group.members.push(at);
        self.memberships(at).groups.push((index, position));
        None
    }

    fn leave(
        &mut self,
        at: SlotRef,
        key: &GroupKey,
        reason: LeftReason,
        message: String,
        done: Done,
    ) {
        let is_kick = reason == LeftReason::Kicked;
        let index = self.by_key.get(key).copied().filter(|_| self.is_member(at, key));
        if is_kick && index.is_some() {
            self.memberships(at).kicked_from.push(key.clone());
        }
        if let Some(index) = index {
            self.remove_member(at, index, ErrorCode::NotMember);
        }
        let refused = if index.is_some() { None } else { Some(ErrorCode::NotMember) };
        let request_id = match done {
            Done::Device(request_id) => request_id,
            Done::Business(tell) => {
                let _ = tell.send(refused);
                0
            }
        };
        if request_id != 0 || refused.is_none() {
            self.node.table.write(at, &left(request_id, key, refused, reason, message));
        }
    }

    fn ended(&mut self, at: SlotRef) {
        let is_current = |memberships: &Memberships| memberships.generation == at.generation;
        if !self.of_slot.get(&at.slot).is_some_and(is_current) {
            return;
        }
        while let Some(&(index, _)) = self.of_slot.get(&at.slot).and_then(|m| m.groups.last()) {
            self.remove_member(at, index, ErrorCode::DeviceOffline);
        }
        self.of_slot.remove(&at.slot);
    }

    fn drop_group(&mut self, key: &GroupKey) {
        let Some(&index) = self.by_key.get(key) else { return };
        let members = self.groups[index].members.clone();
        for at in members {
            self.remove_member(at, index, ErrorCode::GroupNotFound);
            let frame = left(0, key, None, LeftReason::GroupDeleted, String::new());
            self.node.table.write(at, &frame);
        }
    }

    /// The record of a connection; one of an earlier life of the slot is left behind first.
    fn memberships(&mut self, at: SlotRef) -> &mut Memberships {
        let old = self.of_slot.get(&at.slot).map(|m| m.generation).filter(|&g| g != at.generation);
        if let Some(generation) = old {
            self.ended(SlotRef { slot: at.slot, generation });
        }
        self.of_slot.entry(at.slot).or_insert_with(|| Memberships {
            generation: at.generation,
            groups: Vec::new(),
            kicked_from: Vec::new(),
        })
    }

    fn is_member(&self, at: SlotRef, key: &GroupKey) -> bool {
        let Some(&index) = self.by_key.get(key) else { return false };
        self.of_slot.get(&at.slot).is_some_and(|memberships| {
            memberships.generation == at.generation
                && memberships.groups.iter().any(|&(group, _)| group == index)
        })
    }

    /// Takes a member out, in constant time for the group: the last member takes its place. A join of
    /// it that is not answered yet was for nothing, and hears `why`.
    fn remove_member(&mut self, at: SlotRef, index: usize, why: ErrorCode) {
        let Some(memberships) = self.of_slot.get_mut(&at.slot) else { return };
        let Some(nth) = memberships.groups.iter().position(|&(group, _)| group == index) else {
            return;
        };
        let (_, position) = memberships.groups.swap_remove(nth);
        if memberships.groups.is_empty() && memberships.kicked_from.is_empty() {
            self.of_slot.remove(&at.slot);
        }
        let group = &mut self.groups[index];
        let unanswered = match &mut group.history {
            Some(history) => history.forget(at),
            None => Vec::new(),
        };
        let number = group.number;
        self.node.table.with(at, |connection| {
            if let Some(downlink) = &mut connection.downlink {
                downlink.told_missed(number);
            }
        });
        group.members.swap_remove(position as usize);
        if let Some(moved) = group.members.get(position as usize) {
            let theirs = self.of_slot.get_mut(&moved.slot);
            let entry = theirs.and_then(|m| m.groups.iter_mut().find(|(group, _)| *group == index));
            if let Some((_, place)) = entry {
                *place = position;
            }
        }
        self.node.groups.leave(&group.key, group.seq, self.index, &self.node.routers);
        let refused = (!unanswered.is_empty())
            .then(|| (group.key.clone(), joined(0, &group.key, Some(why), group.business)));
        if group.members.is_empty() {
            let group = self.groups.remove(index);
            self.by_key.remove(&group.key);
        }
        let Some((key, refused)) = refused else { return };
        for joining in unanswered {
            self.answer_join(at, &key, joining.is_new, joining.done, refused.clone());
        }
    }

    fn describe(&self, at: SlotRef) -> Vec<String> {
        let Some(memberships) = self.of_slot.get(&at.slot) else { return Vec::new() };
        if memberships.generation != at.generation {
            return Vec::new();
        }
        let name = |&(index, _): &(usize, u32)| self.groups[index].key.1.as_str().to_owned();
        memberships.groups.iter().map(name).collect()
    }

    // === Fan-out: the one place that walks members ===

    async fn multicast(&mut self, key: &GroupKey, fanout: &Fanout) {
        let mut tally = Tally::default();
        let mut gone = Vec::new();
        if let Some(&index) = self.by_key.get(key) {
            if let Some(place) = fanout.place
                && self.groups[index].history.is_some()
            {
                let tally = self.multicast_history(index, place, fanout).await;
                fanout.lane_done(tally);
                return;
            }
            let table = &self.node.table;
            let (number, business) = (self.groups[index].number, self.groups[index].business);
            let missed = |count| FrameOut::from(&missed(key, business, count));
            for turn in self.groups[index].members.chunks(WRITES_PER_TURN) {
                for &at in turn {
                    let written = table.write_group(at, &fanout.frame, number, fanout.slow, missed);
                    if written == Written::Gone {
                        gone.push(at);
                    }
                    tally.count(written);
                }
                tokio::task::yield_now().await;
            }
        }
        fanout.lane_done(tally);
        // Their `Ended` comes too, or was lost to a full queue.
        for at in gone {
            if self.node.table.with(at, |_| ()).is_none() {
                self.ended(at);
            }
        }
    }

    fn start_broadcast(
        &mut self,
        app: AppId,
        business: BusinessNo,
        per_second: u32,
        newest: u64,
        fanout: Arc<Fanout>,
    ) {
        let is_same = |other: &&Broadcast| other.app == app && other.business == business;
        let of_same = self.broadcasts.iter().filter(is_same).count();
        if self.broadcasts.len() >= BROADCASTS_MAX || of_same >= BROADCASTS_PER_BUSINESS_MAX {
            // Never reported as done: the router then says that this node's outcome is unknown.
            self.node.metrics.lane_full.inc();
            return;
        }
        let steps_per_second = 1.0 / BROADCAST_STEP.as_secs_f64();
        let now = Instant::now();
        self.broadcasts.push(Broadcast {
            app,
            business,
            per_step: f64::from(per_second.max(1)) / steps_per_second,
            allowance: 0.0,
            next_slot: self.index as u32,
            next_step: now,
            newest: if newest == 0 { u64::MAX } else { newest },
            fanout,
        });
    }

    fn next_broadcast_step(&self) -> Option<Instant> {
        self.broadcasts.iter().map(|broadcast| broadcast.next_step).min()
    }

    async fn step_broadcasts(&mut self) {
        let now = Instant::now();
        let slots = self.node.table.slots_used();
        let lanes = self.node.lanes.len() as u32;
        for broadcast in &mut self.broadcasts {
            if broadcast.next_step > now {
                continue;
            }
            broadcast.next_step = now + BROADCAST_STEP;
            broadcast.allowance =
                (broadcast.allowance + broadcast.per_step).min(broadcast.per_step.max(1.0));
            let mut tally = Tally::default();
            let mut seen = 0;
            while broadcast.allowance >= 1.0 && broadcast.next_slot < slots {
                let at = self.node.table.visit(broadcast.next_slot, |at, connection| {
                    let identity = connection.identity.as_ref()?;
                    let is_theirs = identity.epoch.0 != 0
                        && identity.epoch.0 <= broadcast.newest
                        && identity.app == broadcast.app
                        && identity.businesses.binary_search(&broadcast.business).is_ok();
                    is_theirs.then_some(at)
                });
                broadcast.next_slot += lanes;
                if let Some(at) = at.flatten() {
                    let Fanout { frame, slow, .. } = &*broadcast.fanout;
                    tally.count(self.node.table.write_shared(at, frame, Keep::Droppable, *slow));
                    broadcast.allowance -= 1.0;
                }
                seen += 1;
                if seen % WRITES_PER_TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            if broadcast.next_slot < slots {
                broadcast.fanout.add(tally);
                broadcast.fanout.report_progress();
            } else {
                broadcast.fanout.lane_done(tally);
            }
        }
        self.broadcasts.retain(|broadcast| broadcast.next_slot < slots);
    }
}

fn joined(
    request_id: u64,
    key: &GroupKey,
    refused: Option<ErrorCode>,
    business: BusinessNo,
) -> Joined {
    Joined {
        request_id,
        group: key.1.as_str().to_owned(),
        status: refused.map_or(0, ErrorCode::number),
        message: refused.map_or_else(String::new, |code| code.meaning().to_owned()),
        business: if refused.is_none() { business.0 } else { 0 },
        ..Default::default()
    }
}

fn missed(key: &GroupKey, business: BusinessNo, count: u64) -> NodeFrame {
    let group = key.1.as_str().to_owned();
    NodeFrame::Missed(Missed { group, business: business.0, count })
}

fn left(
    request_id: u64,
    key: &GroupKey,
    refused: Option<ErrorCode>,
    reason: LeftReason,
    message: String,
) -> NodeFrame {
    NodeFrame::Left(Left {
        request_id,
        group: key.1.as_str().to_owned(),
        status: refused.map_or(0, ErrorCode::number),
        message: refused.map_or(message, |code| code.meaning().to_owned()),
        reason: reason.into(),
    })
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
