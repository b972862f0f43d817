//! Stored pushes as the device sees them: what was taken, what the app has handled, what of it is
//! kept, and what the node was told.
//!
//! ```text
//!  PUSH ─► received ─► handed over ─► handled ─► kept (CursorStorage) ─► ACK
//!          dedup        the shelf      by the app   16 pushes or 200 ms     only what is kept
//! ```
//!
//! **Taken once.** A push is taken if it lies above `received` and its `prev` does not; so what comes
//! twice is dropped, and what left something out is asked for again (RESYNC). `received` outlives
//! every link, since what was taken and not yet handed over waits on the app's shelf, which outlives
//! it too: a reconnect or takeover neither loses nor repeats what the process holds.
//!
//! **Never lost.** The cursor moves behind the app, in order, and nothing above the kept cursor is
//! ever acknowledged or named in a LOGIN; nor is anything acknowledged that the link has not brought,
//! which would look like a lie. A process that dies gets again what lies above it.
//!
//! Memory: per business what a node may have unacknowledged (`INBOX_WINDOW_ENTRIES`,
//! `INBOX_WINDOW_BYTES` and one frame above it); what goes beyond is dropped and asked for later.

mod chain;
#[cfg(test)]
mod tests;

pub(super) use chain::Place;

use super::Action;
use crate::incoming::{Gap, GapReason, Incoming, Push, TermChanged};
use chain::{Inbox, SHELF_MAX, Verdict};
use hawser_proto::frame::DeviceFrame;
use hawser_proto::id::Position;
use hawser_proto::limits::{
    ACK_DELAY, ACK_ENTRIES, BUSINESSES_PER_CONNECTION_MAX, INBOX_WINDOW_BYTES,
};
use hawser_proto::params;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Cursors that could not be kept are tried again after this.
const KEEP_AGAIN: Duration = Duration::from_secs(1);
/// Handled bytes that are kept and acknowledged without waiting for more: half a window, so that
/// large pushes do not wait for a timer each.
const ACK_BYTES: usize = INBOX_WINDOW_BYTES / 2;
/// Inboxes one device can have; far above the businesses of an app.
const INBOXES_MAX: usize = 1024;

/// All inboxes of one device, across connections and starts of its client.
#[derive(Debug, Default)]
pub struct Inboxes {
    each: BTreeMap<Arc<str>, Inbox>,
    /// There is a link, and its node understands ACK and RESYNC.
    is_online: bool,
    /// Acknowledgements that are due without anything having been kept: a duplicate came.
    ack_at: Option<Instant>,
    keeper: Keeper,
}

/// Batches what is kept. One storage call at a time, always with all that is newest.
#[derive(Debug, Default)]
struct Keeper {
    keeping: Option<Keeping>,
    keep_at: Option<Instant>,
    /// After a failure nothing is tried before this.
    not_before: Option<Instant>,
    pushes: usize,
    bytes: usize,
    /// The last call failed, or nobody heard of its end.
    is_forced: bool,
    /// Whose kept cursor was refused: it has to go, though the new one is lower.
    refused: BTreeSet<Arc<str>>,
}

/// What a storage call keeps.
#[derive(Debug)]
struct Keeping {
    cursors: Vec<(Arc<str>, Position)>,
    refused: BTreeSet<Arc<str>>,
}

impl Inboxes {
    /// With the cursors that were kept.
    pub fn new(cursors: impl IntoIterator<Item = (Arc<str>, Position)>) -> Self {
        let inbox = |at| Inbox { received: at, handled: at, kept: at, ..Inbox::default() };
        let each = cursors.into_iter().map(|(business, at)| (business, inbox(at))).collect();
        Self { each, ..Self::default() }
    }

    /// The cursors of a LOGIN: kept ones, of these businesses, or of all when none is named.
    pub(super) fn cursors(&self, businesses: &[Arc<str>]) -> Vec<params::Cursor> {
        let wanted = self.each.iter().filter(|(business, inbox)| {
            let is_named = businesses.is_empty() || businesses.contains(business);
            is_named && inbox.kept > Position::START
        });
        let cursor = |(business, inbox): (&Arc<str>, &Inbox)| {
            let Position { term, seq } = inbox.kept;
            params::Cursor { business: business.to_string(), term, seq }
        };
        wanted.take(BUSINESSES_PER_CONNECTION_MAX).map(cursor).collect()
    }

    /// These cursors went out with the LOGIN.
    pub(super) fn logging_in(&mut self, cursors: &[params::Cursor]) {
        for (business, inbox) in &mut self.each {
            let sent = cursors.iter().find(|cursor| *cursor.business == **business);
            inbox.acked = sent.map_or(Position::START, |it| Position::new(it.term, it.seq));
            inbox.seen = inbox.acked;
        }
    }

    /// LOGIN_OK. `businesses`: number, name and error of each.
    pub(super) fn online(
        &mut self,
        businesses: &[(u32, Arc<str>, u32)],
        told: Vec<params::Inbox>,
        has_ability: bool,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.is_online = has_ability;
        for (business, inbox) in &mut self.each {
            let found =
                businesses.iter().find(|(number, name, _)| *number != 0 && name == business);
            inbox.business = found.map_or(0, |(number, ..)| *number);
        }
        for told in told.into_iter().take(businesses.len()) {
            let number = told.business;
            let found = businesses.iter().find(|(it, ..)| *it == number && number != 0);
            if let Some((_, business, _)) = found {
                self.told(business, &told, now, out);
            }
        }
    }

    /// What the login says of one inbox.
    fn told(
        &mut self,
        business: &Arc<str>,
        told: &params::Inbox,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let floor = Position::new(told.floor_term, told.floor_seq);
        let tail = Position::new(told.tail_term, told.tail_seq);
        let state = told.state();
        let Some(inbox) = self.inbox(business, told.business) else { return };
        match state {
            params::InboxState::Unspecified => {}
            params::InboxState::TermChanged => {
                inbox.is_term_told = true;
                let word = TermChanged { from: inbox.received, to: tail };
                inbox.tell(business, Incoming::TermChanged(word), out);
            }
            params::InboxState::CursorRefused => {
                // What is on the shelf is handed over all the same; it no longer moves the cursor.
                inbox.taken.clear();
                (inbox.taken_pushes, inbox.taken_bytes) = (0, 0);
                let from = std::mem::replace(&mut inbox.received, floor);
                (inbox.handled, inbox.kept) = (floor, floor);
                (inbox.acked, inbox.seen) = (floor, floor);
                inbox.tell(business, Incoming::TermChanged(TermChanged { from, to: floor }), out);
                self.keeper.refused.insert(business.clone());
                self.keeper.keep_at = Some(now);
                self.keep(now, out);
            }
        }
    }

    /// The link ended. What was taken stays taken.
    pub(super) fn offline(&mut self) {
        self.is_online = false;
        self.ack_at = None;
        for inbox in self.each.values_mut() {
            inbox.business = 0;
            inbox.ack_again = false;
            inbox.is_missing = false;
            inbox.resync_until = None;
            inbox.is_term_told = false;
        }
    }

    /// A PUSH with a position. `bytes`: those of its frame.
    pub(super) fn push(
        &mut self,
        (number, business): (u32, &Arc<str>),
        place: Place,
        push: Push,
        bytes: usize,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let is_online = self.is_online;
        let Some(inbox) = self.inbox(business, number) else { return };
        match inbox.judge(place) {
            Verdict::Old => {
                // The node has not heard what was acknowledged, or could not be told before.
                inbox.ack_again = true;
                self.ack_at.get_or_insert(now + ACK_DELAY);
            }
            Verdict::Ahead => inbox.resync(is_online, now, out),
            Verdict::Next if !inbox.has_room() => inbox.is_missing = true,
            Verdict::Next => {
                // The word of the login stands for the first push of the new term, and for no later one.
                let is_new_term = place.at.term != inbox.received.term;
                let was_told = is_new_term && std::mem::take(&mut inbox.is_term_told);
                if is_new_term && place.prev < inbox.received && !was_told {
                    let word = TermChanged { from: inbox.received, to: place.at };
                    inbox.tell(business, Incoming::TermChanged(word), out);
                }
                inbox.take(place.at);
                inbox.shelve(business, Incoming::Push(push), bytes, out);
            }
        }
    }

    /// GAP: what lies between will not come.
    pub(super) fn gap(
        &mut self,
        business: &Arc<str>,
        gap: &params::Gap,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let at = Position::new(gap.upto_term, gap.upto_seq);
        let prev = Position::new(gap.after_term, gap.after_seq);
        let reason = match gap.reason() {
            params::GapReason::Overflow => GapReason::Overflow,
            params::GapReason::Expired => GapReason::Expired,
            params::GapReason::TooLarge => GapReason::TooLarge,
            params::GapReason::Purged => GapReason::Purged,
            params::GapReason::Unspecified => GapReason::Unknown,
        };
        let is_online = self.is_online;
        let Some(inbox) = self.inbox(business, gap.business) else { return };
        match inbox.judge(Place { at, prev }) {
            Verdict::Old => {
                inbox.ack_again = true;
                self.ack_at.get_or_insert(now + ACK_DELAY);
            }
            Verdict::Ahead => inbox.resync(is_online, now, out),
            Verdict::Next if inbox.taken.len() >= SHELF_MAX => inbox.is_missing = true,
            Verdict::Next if gap.count == 0 => {
                // Nothing was lost there: nobody need hear of it, and the cursor moves in its turn.
                inbox.take(at);
                if let Some(last) = inbox.taken.back_mut() {
                    last.upto = at;
                } else {
                    inbox.handled = at;
                    self.keeper.keep_at.get_or_insert(now + ACK_DELAY);
                }
            }
            Verdict::Next => {
                let after = inbox.received;
                inbox.take(at);
                let gap = Gap { after, upto: at, count: gap.count, reason };
                inbox.shelve(business, Incoming::Gap(gap), 0, out);
            }
        }
    }

    /// The app has handled everything up to this number of [`Action::Shelve`].
    pub(super) fn handled(
        &mut self,
        business: &str,
        number: u64,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(inbox) = self.each.get_mut(business) else { return };
        while let Some(first) = inbox.taken.pop_front_if(|first| first.number <= number) {
            inbox.taken_bytes -= first.bytes;
            inbox.taken_pushes -= usize::from(first.is_push);
            inbox.handled = inbox.handled.max(first.upto);
            self.keeper.pushes += usize::from(first.is_push);
            self.keeper.bytes += first.bytes;
        }
        if inbox.is_missing && inbox.has_room() {
            inbox.resync(self.is_online, now, out);
        }
        if inbox.handled != inbox.kept {
            let is_full = self.keeper.pushes >= ACK_ENTRIES || self.keeper.bytes >= ACK_BYTES;
            let at = if is_full { now } else { now + ACK_DELAY };
            self.keeper.keep_at = Some(self.keeper.keep_at.map_or(at, |before| before.min(at)));
        }
        self.keep(now, out);
    }

    /// The storage has kept what [`Action::Keep`] gave it, or has not.
    pub(super) fn kept(&mut self, is_ok: bool, now: Instant, out: &mut Vec<Action>) {
        let Some(Keeping { cursors: kept, refused }) = self.keeper.keeping.take() else { return };
        if is_ok {
            self.keeper.not_before = None;
            for (business, at) in kept {
                // Not what was refused while it was being kept.
                if let Some(inbox) = self.each.get_mut(&business)
                    && at <= inbox.handled
                {
                    inbox.kept = at;
                }
            }
            self.send_acks(out);
        } else {
            self.keeper.refused.extend(refused);
            self.keeper.is_forced = true;
            self.keeper.keep_at = Some(now);
            self.keeper.not_before = Some(now + KEEP_AGAIN);
        }
        self.keep(now, out);
    }

    /// The client has ended: a storage call that is still under way is nobody's any more.
    pub(super) fn settle(&mut self, now: Instant) {
        self.offline();
        if let Some(Keeping { refused, .. }) = self.keeper.keeping.take() {
            self.keeper.refused.extend(refused);
            self.keeper.is_forced = true;
            self.keeper.keep_at = Some(now);
        }
    }

    /// Keeps at once what is not kept yet. False: there is nothing, and nothing is under way.
    pub(super) fn flush(&mut self, now: Instant, out: &mut Vec<Action>) -> bool {
        if self.each.values().any(|inbox| inbox.handled != inbox.kept) {
            self.keeper.keep_at = Some(now);
            self.keep(now, out);
        }
        self.keeper.keeping.is_some()
    }

    /// The clocks.
    pub(super) fn due(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.keep(now, out);
        if self.ack_at.is_some_and(|at| at <= now) {
            self.send_acks(out);
        }
        for inbox in self.each.values_mut() {
            if inbox.resync_until.is_some_and(|until| until <= now) {
                inbox.resync_until = None;
                if inbox.is_missing && inbox.has_room() {
                    inbox.resync(self.is_online, now, out);
                }
            }
        }
    }

    /// When [`Self::due`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let Keeper { keeping, keep_at, not_before, .. } = &self.keeper;
        let keep_at = keep_at.filter(|_| keeping.is_none());
        let keep_at = keep_at.map(|at| not_before.map_or(at, |earliest| at.max(earliest)));
        let resyncs = self.each.values().filter_map(|inbox| inbox.resync_until);
        resyncs.chain(keep_at).chain(self.ack_at).min()
    }

    /// Keeps what is due, unless the storage is at work.
    fn keep(&mut self, now: Instant, out: &mut Vec<Action>) {
        let keeper = &mut self.keeper;
        let is_due = keeper.keep_at.is_some_and(|at| at <= now)
            && keeper.not_before.is_none_or(|at| at <= now);
        if keeper.keeping.is_some() || !is_due {
            return;
        }
        (keeper.keep_at, keeper.pushes, keeper.bytes) = (None, 0, 0);
        let refused = std::mem::take(&mut keeper.refused);
        let is_forced = std::mem::take(&mut keeper.is_forced) || !refused.is_empty();
        if !is_forced && self.each.values().all(|inbox| inbox.handled == inbox.kept) {
            return;
        }
        let began = self.each.iter().filter(|(_, inbox)| inbox.handled > Position::START);
        let cursors: Vec<_> =
            began.map(|(business, inbox)| (business.clone(), inbox.handled)).collect();
        out.push(Action::Keep(cursors.clone(), refused.iter().cloned().collect()));
        self.keeper.keeping = Some(Keeping { cursors, refused });
    }

    /// Tells the node what is kept, as far as it does not know.
    fn send_acks(&mut self, out: &mut Vec<Action>) {
        self.ack_at = None;
        if !self.is_online {
            return;
        }
        let mut upto = Vec::new();
        for inbox in self.each.values_mut() {
            let at = inbox.kept.min(inbox.seen);
            let is_due = at > inbox.acked || std::mem::take(&mut inbox.ack_again);
            if inbox.business != 0 && is_due && at > Position::START {
                inbox.acked = at;
                upto.push(inbox.position(at));
            }
        }
        for inboxes in upto.chunks(BUSINESSES_PER_CONNECTION_MAX) {
            let ack = params::Ack { inboxes: inboxes.to_vec() };
            out.push(Action::Send(DeviceFrame::Ack(ack).encode()));
        }
    }

    fn inbox(&mut self, business: &Arc<str>, number: u32) -> Option<&mut Inbox> {
        if self.each.len() >= INBOXES_MAX && !self.each.contains_key(business) {
            return None;
        }
        let inbox = self.each.entry(business.clone()).or_default();
        inbox.business = number;
        Some(inbox)
    }
}
