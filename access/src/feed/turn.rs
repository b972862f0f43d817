//! One turn of a feed: the things to do, one after the other, until there is none.

use super::entry::gap_before;
use super::inbox::{Inbox, Left};
use super::{Action, Feeds, PULLS_MAX};
use hawser_proto::id::{BusinessNo, Position};
use hawser_proto::limits::INBOX_PULL_ENTRIES;
use std::cmp::Reverse;

/// Room that a GAP asks for, in bytes; a large term and number in each field are below it.
const GAP_BYTES: usize = 96;

impl Feeds {
    /// The next thing to do; to be called until it says `None`, with nothing else in between. `room`
    /// says whether the link takes a frame of so many bytes now, 0: whether it takes any, `usize::MAX`:
    /// whether it is empty. A link that had no room for a frame is not open again before it is empty:
    /// what is pulled sooner may find no room either, and be pulled again. Without `may_ask` no call of
    /// the store is begun.
    pub fn poll(
        &mut self,
        now_ms: u64,
        frame_bytes_max: usize,
        may_ask: bool,
        room: impl Fn(usize) -> bool,
    ) -> Option<Action> {
        self.is_stopped = (self.is_stopped || !room(0)) && !room(usize::MAX);
        let action = self
            .next_tell()
            .or_else(|| self.next_write(frame_bytes_max, &room))
            .or_else(|| if may_ask { self.next_ack(now_ms) } else { None })
            .or_else(|| if may_ask && !self.is_stopped { self.next_pull(now_ms) } else { None });
        if action.is_none() {
            self.is_stopped &= self.inboxes.iter().any(Inbox::is_behind);
            self.rest(now_ms);
        }
        action
    }

    fn next_tell(&mut self) -> Option<Action> {
        let (waiter, is_handled) = self.busy.as_mut()?.to_tell.pop()?;
        Some(Action::Tell(waiter, is_handled))
    }

    /// Writes what is ready, and forgets what finds no room.
    fn next_write(
        &mut self,
        frame_bytes_max: usize,
        room: impl Fn(usize) -> bool,
    ) -> Option<Action> {
        while let Some((business, mut entry, was_pulled)) = self.busy.as_mut()?.ready.pop_front() {
            let inbox = self.inboxes.iter_mut().find(|inbox| inbox.business == business)?;
            let at = entry.place.at;
            if at <= inbox.sent {
                continue;
            }
            if let Some(gap) = gap_before(inbox, &entry, frame_bytes_max) {
                let upto = Position::new(gap.upto_term, gap.upto_seq);
                if room(GAP_BYTES) {
                    let from = inbox.sent;
                    inbox.skip(upto);
                    self.tell_skipped(business, from, upto);
                    (entry.place.prev, entry.lost) = (upto, 0);
                    if upto < at {
                        self.busy().ready.push_front((business, entry, was_pulled));
                    }
                    return Some(Action::Gap(gap));
                }
                self.is_stopped = true;
            } else if !inbox.has_window(entry.frame.len()) {
                inbox.lacks_window(entry.frame.len());
            } else if room(entry.frame.len()) {
                inbox.write(at, entry.frame.len());
                return Some(Action::Write { business, at, frame: entry.frame, was_pulled });
            } else {
                self.is_stopped = true;
            }
            inbox.behind(at, entry.priority);
            // With this one, whatever of its inbox comes behind it: order is kept by forgetting.
            self.busy.as_mut()?.ready.retain(|(of, later, _)| {
                if *of == business {
                    inbox.behind(later.place.at, later.priority);
                }
                *of != business
            });
        }
        None
    }

    /// Entries that others wait for will not come: whatever the device acknowledges, it is not them.
    fn tell_skipped(&mut self, business: BusinessNo, from: Position, upto: Position) {
        let Some(busy) = &mut self.busy else { return };
        let is_skipped = |of, at| of == business && at > from && at <= upto;
        let skipped = busy.waiting.extract_if(.., |&mut (of, at, _)| is_skipped(of, at));
        busy.to_tell.extend(skipped.map(|(.., waiter)| (waiter, false)));
    }

    fn next_ack(&mut self, now_ms: u64) -> Option<Action> {
        if !self.inboxes.iter().any(Inbox::has_untold) {
            return None;
        }
        let busy = self.busy.get_or_insert_default();
        if !busy.may_tell(now_ms) {
            return None;
        }
        busy.is_telling = true;
        Some(Action::Ack(self.inboxes.iter_mut().filter_map(Inbox::tell).collect()))
    }

    pub(super) fn next_to_pull(&self, now_ms: u64) -> Option<usize> {
        if self.inboxes.iter().filter(|inbox| inbox.is_pulling()).count() >= PULLS_MAX {
            return None;
        }
        let able = self.inboxes.iter().enumerate().filter(|(_, inbox)| inbox.may_pull(now_ms));
        // Of equal ones in turn: one that is pulled again and again must not keep others from it.
        let (count, next) = (self.inboxes.len(), usize::from(self.next_inbox));
        let turns_away = |index: usize| (index + count - next % count) % count;
        able.max_by_key(|&(index, inbox)| (inbox.priority(), Reverse(turns_away(index))))
            .map(|(index, _)| index)
    }

    fn next_pull(&mut self, now_ms: u64) -> Option<Action> {
        let index = self.next_to_pull(now_ms)?;
        self.next_inbox = (index + 1) as u16;
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let inbox = &mut self.inboxes[index];
        let Left { entries, bytes } = inbox.pull(serial);
        Some(Action::Pull {
            business: inbox.business,
            serial,
            after: inbox.sent,
            entries_max: entries.min(INBOX_PULL_ENTRIES) as u32,
            bytes_max: bytes as u32,
        })
    }

    /// Gives back what is only needed while something is under way.
    fn rest(&mut self, now_ms: u64) {
        for inbox in &mut self.inboxes {
            inbox.rest(now_ms);
        }
        if let Some(busy) = self.busy.as_mut().filter(|busy| busy.tell_not_before_ms <= now_ms) {
            busy.tell_not_before_ms = 0;
        }
        if self.busy.as_ref().is_some_and(|busy| busy.is_idle()) {
            self.busy = None;
        }
    }
}
