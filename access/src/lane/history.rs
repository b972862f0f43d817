//! Groups with a history, in one lane. The lane keeps `last`, the position up to which all its live members
//! were written, and writes them what comes next: a push whose `prev` is not above `last`. Anything else
//! means that something is missing here; then the lane pulls what lies above `last`, and until it has, it
//! only remembers that more came.
//!
//! A member that has missed something is *recovering*: it is written the history above its own position,
//! and no live push. It becomes live when it has been written everything up to `last`.
//!
//! Why no push falls between "send what was missed" and "live": both are decided here, by one task, which
//! owns `last` and the member's position and does one thing at a time. A push at or below `last` is in the
//! history by the time it is pulled (the store appends before it fans out), and is written by the
//! recovery. A push above `last` reaches this lane later, or is found missing by the next one's `prev`, by
//! the queue that had no room for it, or by a sweep; it is written to all who are live then, and this
//! member is. Entries above `last` in a member's own pull are left alone for that reason.
//!
//! The first member in this lane finds no `last`. It is joined to the group's deliveries first and the
//! tail is asked for then, so that whatever comes meanwhile is remembered; JOINED waits for the answer.

use super::{Done, Lane, WRITES_PER_TURN, give_way, joined};
use crate::fanout::{Fanout, Tally};
use crate::feed::{Entry, Place};
use crate::frame_out::FrameOut;
use crate::groups::GroupKey;
use crate::metrics::StaleReason;
use crate::outbox::SlowPolicy;
use crate::routers::asks::Waits;
use crate::sweep::tail_of;
use crate::table::Written;
use hawser_proto::code::ErrorCode;
use hawser_proto::codec::{self, Flags, Terms};
use hawser_proto::frame::{Kind, NodeFrame};
use hawser_proto::id::{BusinessNo, Position, SlotRef};
use hawser_proto::params::{GroupPush, GroupReset, Joined};
use prost::Message as _;
use std::collections::{HashMap, VecDeque};

/// Entries asked for at once.
pub(super) const PULL_ENTRIES: u32 = 64;
/// After a call that failed.
pub(super) const PAUSE_MS: u64 = 200;

/// For whom a history was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whom {
    /// All live members.
    Lane,
    /// One that is recovering.
    Member(SlotRef),
}

/// What came of a call for a history.
#[derive(Debug)]
pub(crate) enum HistoryAnswer {
    Entries(Recovered),
    NotFound,
    Failed,
}

/// A part of a history, and its ends at that moment.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) entries: Vec<Entry>,
    pub(crate) tail: Position,
    pub(crate) floor: Position,
}

/// A join that waits for the lane to know where the group stands.
pub(super) struct Joining {
    pub(super) at: SlotRef,
    last: Position,
    pub(super) is_new: bool,
    pub(super) done: Done,
}

/// A group's history as this lane has written it.
#[derive(Default)]
pub(super) struct History {
    pub(super) last: Option<Position>,
    floor: Position,
    /// The highest position that is known of; above `last`: the lane is behind.
    beyond: Position,
    /// What was known when the call in flight left.
    pub(super) pulling: Option<Position>,
    pub(super) not_before_ms: u64,
    joining: Vec<Joining>,
    pub(super) recovering: HashMap<u32, Recovering, foldhash::fast::RandomState>,
}

pub(super) struct Recovering {
    pub(super) at: SlotRef,
    /// Everything up to here was written to it.
    pub(super) after: Position,
    pub(super) is_pulling: bool,
    pub(super) not_before_ms: u64,
}

/// The members of one lane that wait for their turn to be recovered.
#[derive(Default)]
pub(super) struct Recoveries {
    pub(super) waiting: VecDeque<(GroupKey, SlotRef)>,
    pub(super) in_flight: usize,
    /// Groups that wait for a pause to be over.
    paused: Vec<GroupKey>,
}

impl History {
    /// Gives back the joins of this member that are not answered yet.
    pub(super) fn forget(&mut self, at: SlotRef) -> Vec<Joining> {
        self.recovering.remove(&at.slot);
        self.joining.extract_if(.., |joining| joining.at == at).collect()
    }

    fn is_behind(&self) -> bool {
        self.last.is_none_or(|last| self.beyond > last)
    }
}

impl Lane {
    // === Joining ===

    /// Places a member in the history, and gives `done` back to be answered. `None`: the lane does not
    /// know where the group stands, and the answer waits.
    pub(super) fn join_history(
        &mut self,
        at: SlotRef,
        key: &GroupKey,
        last: Position,
        is_new: bool,
        done: Done,
    ) -> Option<Done> {
        let Some(&index) = self.by_key.get(key) else { return Some(done) };
        let Some(history) = &mut self.groups[index].history else { return Some(done) };
        if history.last.is_none() {
            history.joining.push(Joining { at, last, is_new, done });
            self.pull_for_lane(index);
            return None;
        }
        self.place_member(index, at, last);
        Some(done)
    }

    /// A member begins with what comes now, or with what it has missed. One that is ahead of this lane
    /// is so because the lane lags, or because the store went back: the store knows.
    fn place_member(&mut self, index: usize, at: SlotRef, seen: Position) {
        let Some(history) = &self.groups[index].history else { return };
        if seen > Position::START && history.last.is_some_and(|last| seen != last) {
            self.begin_recovery(index, at, seen);
        }
    }

    /// The ends of a history, as JOINED tells them.
    pub(super) fn say_where(&self, key: &GroupKey, joined: &mut Joined) {
        let group = self.by_key.get(key).map(|&index| &self.groups[index]);
        let Some(history) = group.and_then(|group| group.history.as_ref()) else { return };
        let tail = history.last.unwrap_or_default();
        joined.history = true;
        (joined.tail_term, joined.tail_seq) = (tail.term, tail.seq);
        (joined.floor_term, joined.floor_seq) = (history.floor.term, history.floor.seq);
    }

    // === Live ===

    pub(super) async fn multicast_history(
        &mut self,
        index: usize,
        place: Place,
        fanout: &Fanout,
    ) -> Tally {
        let members = self.groups[index].members.len() as u64;
        let Some(history) = &mut self.groups[index].history else { return Tally::default() };
        let is_next = match history.last {
            Some(last) if place.at <= last => return Tally::default(),
            Some(last) => place.prev <= last && history.pulling.is_none() && history.beyond <= last,
            None => false,
        };
        if !is_next {
            history.beyond = history.beyond.max(place.at);
            self.pull_for_lane(index);
            return Tally { queued: members, ..Tally::default() };
        }
        let tally = self.write_live(index, place.at, &fanout.frame, fanout.slow).await;
        // Those who recover will be written it, too.
        Tally { queued: tally.queued + members - tally.members().min(members), ..tally }
    }

    /// Writes the next push of a history to all live members. The one place that moves `last` by one.
    async fn write_live(
        &mut self,
        index: usize,
        at: Position,
        frame: &FrameOut,
        slow: SlowPolicy,
    ) -> Tally {
        let mut tally = Tally::default();
        let (mut behind, mut too_small) = (Vec::new(), Vec::new());
        let group = &self.groups[index];
        let Some(history) = &group.history else { return tally };
        for turn in group.members.chunks(WRITES_PER_TURN) {
            for &member in turn {
                if history.recovering.contains_key(&member.slot) {
                    continue;
                }
                let written = self.node.table.write_history(member, frame, slow);
                if written == Written::Overflow && self.understands_history(member) {
                    let fits = self.node.table.with(member, |connection| {
                        frame.len() <= connection.frame_bytes_max as usize
                    });
                    if fits == Some(true) { behind.push(member) } else { too_small.push(member) }
                } else {
                    tally.count(written);
                }
            }
            give_way().await;
        }
        let last = history.last.unwrap_or_default();
        for member in too_small {
            self.reset_member(index, member, at, at);
        }
        for member in behind {
            self.begin_recovery(index, member, last);
        }
        if let Some(history) = &mut self.groups[index].history {
            history.last = Some(at);
        }
        tally
    }

    /// Something exists that did not come here, or may.
    pub(super) fn history_tail(&mut self, key: &GroupKey, tail: Position) {
        let Some(&index) = self.by_key.get(key) else { return };
        let Some(history) = &mut self.groups[index].history else { return };
        history.beyond = history.beyond.max(tail);
        if history.is_behind() {
            self.pull_for_lane(index);
        }
    }

    /// Asks for what lies above `last`, or for the tail where there is no `last`; one call at a time.
    fn pull_for_lane(&mut self, index: usize) {
        let now_ms = self.node.table.now_ms();
        let group = &mut self.groups[index];
        let Some(history) = &mut group.history else { return };
        if history.pulling.is_some() || now_ms < history.not_before_ms {
            return;
        }
        let (after, most) = match history.last {
            Some(last) => (last, PULL_ENTRIES),
            None => (Position::START, 0),
        };
        history.pulling = Some(std::mem::take(&mut history.beyond));
        let key = group.key.clone();
        let waits = Waits::History {
            lane: self.index,
            key: key.clone(),
            seq: group.seq,
            whom: Whom::Lane,
            after,
        };
        if !self.node.asks.ask(&self.node, tail_of(&key, most, after), waits) {
            self.pull_failed(index, ErrorCode::Unavailable);
        }
    }

    fn pull_failed(&mut self, index: usize, code: ErrorCode) {
        let now_ms = self.node.table.now_ms();
        let group = &mut self.groups[index];
        let Some(history) = &mut group.history else { return };
        let known = history.pulling.take().unwrap_or_default();
        history.beyond = history.beyond.max(known);
        history.not_before_ms = now_ms + PAUSE_MS;
        self.recoveries.paused.push(group.key.clone());
        if history.last.is_some() {
            return;
        }
        // Nobody can be told where the group stands: those who want in hear that they are not.
        let (key, business) = (group.key.clone(), group.business);
        for joining in std::mem::take(&mut history.joining) {
            let refused = joined(0, &key, Some(code), business);
            if joining.is_new && self.is_member(joining.at, &key) {
                self.remove_member(joining.at, index, code);
            }
            self.answer_join(joining.at, &key, joining.is_new, joining.done, refused);
        }
    }

    pub(super) async fn recovered(
        &mut self,
        key: &GroupKey,
        seq: u64,
        whom: Whom,
        after: Position,
        answer: HistoryAnswer,
    ) {
        if matches!(whom, Whom::Member(_)) {
            self.recoveries.in_flight = self.recoveries.in_flight.saturating_sub(1);
        }
        let index = self.by_key.get(key).copied().filter(|&index| self.groups[index].seq == seq);
        if let Some(index) = index {
            match whom {
                Whom::Lane => self.lane_recovered(index, answer).await,
                Whom::Member(at) => self.member_recovered(index, at, after, answer),
            }
        }
        self.next_recoveries();
    }

    async fn lane_recovered(&mut self, index: usize, answer: HistoryAnswer) {
        let answer = match answer {
            HistoryAnswer::Entries(answer) => answer,
            HistoryAnswer::NotFound => return self.pull_failed(index, ErrorCode::GroupNotFound),
            HistoryAnswer::Failed => return self.pull_failed(index, ErrorCode::Unavailable),
        };
        let Recovered { entries, tail, floor } = answer;
        let Some(history) = &mut self.groups[index].history else { return };
        if history.pulling.take().is_none() {
            return;
        }
        history.floor = history.floor.max(floor);
        let Some(last) = history.last else {
            history.last = Some(tail);
            self.admit_joining(index);
            return self.go_on_if_behind(index);
        };
        history.beyond = history.beyond.max(tail);
        if floor > last {
            self.reset_live(index, floor, tail);
        }
        let is_progress = floor > last || entries.iter().any(|entry| entry.place.at > last);
        for entry in entries {
            let at = entry.place.at;
            let last = self.groups[index].history.as_ref().and_then(|history| history.last);
            let last = last.unwrap_or_default();
            if at <= last {
                continue;
            }
            if self.is_foreign(index, &entry) {
                if let Some(history) = &mut self.groups[index].history {
                    history.last = Some(at);
                }
                continue;
            }
            if entry.frame.is_empty() {
                self.reset_live(index, at, tail);
                continue;
            }
            if let Some(floor) = hole_before(&entry, last) {
                self.reset_live(index, floor, tail);
            }
            self.write_live(index, at, &FrameOut::new(entry.frame), SlowPolicy::DropNewest).await;
        }
        let now_ms = self.node.table.now_ms();
        let Some(history) = &mut self.groups[index].history else { return };
        if !is_progress && history.is_behind() {
            // A store that names a tail and hands out nothing: not at full speed for ever.
            history.not_before_ms = now_ms + PAUSE_MS;
            self.recoveries.paused.push(self.groups[index].key.clone());
        }
        self.go_on_if_behind(index);
    }

    fn go_on_if_behind(&mut self, index: usize) {
        let history = self.groups[index].history.as_ref();
        if history.is_some_and(|history| history.is_behind()) {
            self.pull_for_lane(index);
        }
    }

    fn admit_joining(&mut self, index: usize) {
        let Some(history) = &mut self.groups[index].history else { return };
        let joining = std::mem::take(&mut history.joining);
        let (key, business) = (self.groups[index].key.clone(), self.groups[index].business);
        for Joining { at, last, is_new, done } in joining {
            self.answer_join(at, &key, is_new, done, joined(0, &key, None, business));
            self.place_member(index, at, last);
        }
    }

    // === Pauses ===

    /// With each turn of the wheel: what had to pause goes on.
    pub(super) fn turn_histories(&mut self) {
        for key in std::mem::take(&mut self.recoveries.paused) {
            let Some(&index) = self.by_key.get(&key) else { continue };
            let now_ms = self.node.table.now_ms();
            let history = self.groups[index].history.as_ref();
            if history.is_some_and(|history| now_ms < history.not_before_ms) {
                self.recoveries.paused.push(key);
            } else {
                self.go_on_if_behind(index);
            }
        }
        self.next_recoveries();
    }

    // === Out of the history ===

    /// Whether what was pulled is a push of another business. It is passed over: the group's name may have become
    /// another business's, and a router or this node not know it yet.
    pub(super) fn is_foreign(&self, index: usize, entry: &Entry) -> bool {
        let BusinessNo(ours) = self.groups[index].business;
        // Its body is of no interest here, and may be compressed.
        let terms = Terms { frame_bytes_max: entry.frame.len(), known: Flags::COMPRESSED };
        let read = codec::decode_message(entry.frame.clone(), terms).ok();
        let push = read.filter(|raw| raw.kind == Kind::GroupPush as u8);
        let push = push.and_then(|raw| GroupPush::decode(raw.params).ok());
        let is_foreign = push.is_some_and(|push| push.business != ours);
        if is_foreign {
            self.node.metrics.stale(StaleReason::Business);
        }
        is_foreign
    }

    /// Live members go on from `floor`: what lies between is gone.
    fn reset_live(&mut self, index: usize, floor: Position, tail: Position) {
        let Some(history) = &mut self.groups[index].history else { return };
        history.last = Some(floor);
        let live: Vec<SlotRef> = self.groups[index]
            .members
            .iter()
            .copied()
            .filter(|member| {
                let history = self.groups[index].history.as_ref();
                history.is_some_and(|history| !history.recovering.contains_key(&member.slot))
            })
            .collect();
        for at in live {
            self.reset_member(index, at, floor, tail);
        }
    }

    pub(super) fn reset_member(&self, index: usize, at: SlotRef, floor: Position, tail: Position) {
        if !self.understands_history(at) {
            return;
        }
        let group = &self.groups[index];
        let reset = NodeFrame::GroupReset(GroupReset {
            group: group.key.1.as_str().to_owned(),
            business: group.business.0,
            floor_term: floor.term,
            floor_seq: floor.seq,
            tail_term: tail.term,
            tail_seq: tail.seq,
        });
        self.node.table.write(at, &reset);
    }
}

/// Where whoever was written up to `last` goes on, if something between there and this entry is gone: as
/// its `prev` says, or, where `prev` only names the survivor before it, the number of those that were lost.
pub(super) fn hole_before(entry: &Entry, last: Position) -> Option<Position> {
    let Place { at, prev } = entry.place;
    let below = Position::new(at.term, at.seq.saturating_sub(1));
    let floor = if entry.lost > 0 { below.max(prev) } else { prev };
    (floor > last && floor < at).then_some(floor)
}
