//! Members of history groups that have missed something, one by one; see `history` for why nothing falls
//! between this and what is live.

use super::Lane;
use super::history::{
    HistoryAnswer, PAUSE_MS, PULL_ENTRIES, Recovered, Recovering, Whom, hole_before,
};
use crate::frame_out::FrameOut;
use crate::groups::GroupKey;
use crate::outbox::SlowPolicy;
use crate::routers::asks::Waits;
use crate::sweep::tail_of;
use crate::table::{Table, Written};
use hawser_proto::frame::ability;
use hawser_proto::id::{Position, SlotRef};
use hawser_proto::limits::OUTBOX_BYTES_MAX;

/// Members of one lane that are recovered at once.
const RECOVERIES_MAX: usize = 64;

impl Lane {
    /// A member says what it has; from there it is written again.
    pub(super) fn recover(&mut self, at: SlotRef, key: &GroupKey, after: Position) {
        if !self.is_member(at, key) {
            return;
        }
        let Some(&index) = self.by_key.get(key) else { return };
        let Some(history) = &self.groups[index].history else { return };
        if history.last.is_some_and(|last| after != last) {
            self.begin_recovery(index, at, after);
        }
    }

    pub(super) fn understands_history(&self, at: SlotRef) -> bool {
        self.node.table.with(at, |connection| connection.has(ability::HISTORY)) == Some(true)
    }

    pub(super) fn begin_recovery(&mut self, index: usize, at: SlotRef, after: Position) {
        if !self.understands_history(at) {
            return;
        }
        let key = self.groups[index].key.clone();
        let Some(history) = &mut self.groups[index].history else { return };
        let known = history.recovering.get_mut(&at.slot).filter(|known| known.at == at);
        if let Some(known) = known {
            // A call in flight for another position is not taken when it is answered.
            known.after = after;
            return;
        }
        let recovering = Recovering { at, after, is_pulling: false, not_before_ms: 0 };
        history.recovering.insert(at.slot, recovering);
        self.node.metrics.recoveries.inc();
        self.recoveries.waiting.push_back((key, at));
        self.next_recoveries();
    }

    /// Gives those who wait their turn, as far as there is leave, and their links are empty.
    pub(super) fn next_recoveries(&mut self) {
        let now_ms = self.node.table.now_ms();
        for _ in 0..self.recoveries.waiting.len() {
            if self.recoveries.in_flight >= RECOVERIES_MAX || !self.node.asks.has_leave() {
                return;
            }
            let Some((key, at)) = self.recoveries.waiting.pop_front() else { return };
            let Some(&index) = self.by_key.get(&key) else { continue };
            let seq = self.groups[index].seq;
            let history = self.groups[index].history.as_mut();
            let Some(member) = history.and_then(|history| history.recovering.get_mut(&at.slot))
            else {
                continue;
            };
            if member.at != at || member.is_pulling {
                continue;
            }
            let Some(is_rest) = is_at_rest(&self.node.table, at) else { continue };
            if !is_rest || now_ms < member.not_before_ms {
                self.recoveries.waiting.push_back((key, at));
                continue;
            }
            let after = member.after;
            member.is_pulling = true;
            let ask = tail_of(&key, PULL_ENTRIES, after);
            let whom = Whom::Member(at);
            let waits = Waits::History { lane: self.index, key: key.clone(), seq, whom, after };
            if self.node.asks.ask(&self.node, ask, waits) {
                self.recoveries.in_flight += 1;
            } else {
                member.is_pulling = false;
                member.not_before_ms = now_ms + PAUSE_MS;
                self.recoveries.waiting.push_back((key, at));
            }
        }
    }

    pub(super) fn member_recovered(
        &mut self,
        index: usize,
        at: SlotRef,
        after: Position,
        answer: HistoryAnswer,
    ) {
        let now_ms = self.node.table.now_ms();
        let key = self.groups[index].key.clone();
        let Some(history) = &mut self.groups[index].history else { return };
        let last = history.last.unwrap_or_default();
        let Some(member) = history.recovering.get_mut(&at.slot) else { return };
        if member.at != at || !member.is_pulling {
            return;
        }
        member.is_pulling = false;
        let HistoryAnswer::Entries(answer) = answer else {
            member.not_before_ms = now_ms + PAUSE_MS;
            self.recoveries.waiting.push_back((key, at));
            return;
        };
        // Else it has asked for something else meanwhile.
        let is_wanted = member.after == after;
        let is_over = is_wanted && self.write_recovered(index, at, last, answer);
        let Some(history) = &mut self.groups[index].history else { return };
        if is_over {
            // From here on it is written what the others are: everything above `last`.
            history.recovering.remove(&at.slot);
            return;
        }
        if let Some(member) = history.recovering.get_mut(&at.slot)
            && is_wanted
            && member.after == after
        {
            // Its link was taken meanwhile. The same entries again at once would not fit either.
            member.not_before_ms = now_ms + PAUSE_MS;
        }
        self.recoveries.waiting.push_back((key, at));
    }

    /// Writes a part of the history to one member, up to `last` and as far as its link takes it. True:
    /// it has everything up to `last` now.
    fn write_recovered(
        &mut self,
        index: usize,
        at: SlotRef,
        last: Position,
        answer: Recovered,
    ) -> bool {
        let Recovered { entries, tail, floor } = answer;
        let mut after = self.position_of(index, at);
        if floor > after {
            self.reset_member(index, at, floor, tail);
            after = floor;
        }
        if after > tail && tail > Position::START {
            // Every position that was given out is at most `tail`, which was read after the device
            // named its own: the store went back, or the device lies. It would drop all that comes.
            self.reset_member(index, at, tail, tail);
            after = tail;
        }
        let mut is_over = entries.is_empty();
        for entry in entries {
            if entry.place.at > last {
                is_over = true;
                break;
            }
            if entry.place.at <= after {
                continue;
            }
            if self.is_foreign(index, &entry) {
                after = entry.place.at;
                continue;
            }
            let hole = hole_before(&entry, after);
            let frame = FrameOut::new(entry.frame);
            let takes = self.node.table.with(at, |connection| {
                let fits = frame.len() <= connection.frame_bytes_max as usize && frame.len() > 0;
                fits.then(|| connection.takes_stored(frame.len()))
            });
            match takes {
                None | Some(Some(false)) => break,
                Some(None) => self.reset_member(index, at, entry.place.at, tail),
                Some(Some(true)) => {
                    if let Some(floor) = hole {
                        self.reset_member(index, at, floor, tail);
                        after = floor;
                    }
                    let written = self.node.table.write_history(at, &frame, SlowPolicy::DropNewest);
                    if matches!(written, Written::Overflow | Written::Gone) {
                        // Filled since it was looked at, or closing: it has not got this one.
                        break;
                    }
                }
            }
            after = entry.place.at;
        }
        let history = self.groups[index].history.as_mut();
        if let Some(member) = history.and_then(|history| history.recovering.get_mut(&at.slot)) {
            member.after = after;
        }
        is_over || after >= last
    }

    /// How far a member that recovers was written.
    fn position_of(&self, index: usize, at: SlotRef) -> Position {
        let history = self.groups[index].history.as_ref();
        let member = history.and_then(|history| history.recovering.get(&at.slot));
        member.map_or(Position::START, |member| member.after)
    }
}

/// Whether a part of a history would find an empty outbox, which takes an entry of any size. A fuller one
/// may take none of what is pulled for it, over and over. `None`: the connection has gone.
pub(super) fn is_at_rest(table: &Table, at: SlotRef) -> Option<bool> {
    table.with(at, |connection| connection.takes_stored(OUTBOX_BYTES_MAX))
}
