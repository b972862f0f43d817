//! The stored pushes of one session: what was written to its link, what the device has acknowledged, and
//! what is to be asked of the store next. Pure: events and times in, actions out; no socket, no clock, no
//! task. The store keeps every entry until it is acknowledged, so whatever does not fit here is simply
//! forgotten and pulled again.
//!
//! An inbox is *behind* while something above `sent` is believed to be in the store. Only a pull that was
//! answered proves the contrary; a wake-up, a tail or an entry that found no room says so again. That is
//! why nothing is stranded: no path forgets `beyond` without having written up to it, or having asked the
//! store after it was learned.

mod entry;
mod inbox;
mod turn;

pub use entry::{Entry, Place, Pulled};

use bytes::Bytes;
use hawser_proto::id::{BusinessNo, Position};
use hawser_proto::params::Gap;
use inbox::Inbox;
use std::collections::VecDeque;

/// Pulls one session may have in flight, one per inbox.
pub const PULLS_MAX: usize = 2;
/// Callers who may wait for acknowledgements of one session.
pub const WAITERS_MAX: usize = 64;
/// The first pause after a call that failed; it doubles.
const PAUSE_MS: u64 = 200;
const PAUSE_DOUBLINGS_MAX: u32 = 5;

/// A caller who waits until the device has handled an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The deliver stream it was asked on: numbers of deliveries mean nothing on another one.
    pub stream: u64,
    /// The router's number for the delivery.
    pub id: u64,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write this encoded PUSH. It counts as written from here on.
    Write {
        /// Whose inbox.
        business: BusinessNo,
        /// Where it stands.
        at: Position,
        /// The bytes.
        frame: Bytes,
        /// It came with an answer of the store, not with a wake-up.
        was_pulled: bool,
    },
    /// Write a GAP.
    Gap(Gap),
    /// Ask the store for entries above a position. Answered by [`Feeds::pulled`] with the same serial.
    Pull {
        /// Whose inbox.
        business: BusinessNo,
        /// To be repeated with the answer.
        serial: u32,
        /// Entries above this one.
        after: Position,
        /// At most so many.
        entries_max: u32,
        /// At most so many bytes, or one entry.
        bytes_max: u32,
    },
    /// Tell the store what was acknowledged. Answered by [`Feeds::ack_told`].
    Ack(Vec<(BusinessNo, Position)>),
    /// Tell a waiter: true, the device has handled it; false, nobody will wait for it here.
    Tell(Waiter, bool),
}

/// What an acknowledgement or a resync was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It moved something.
    Taken,
    /// It said nothing new.
    Old,
    /// It names what was never written here: ignored.
    Lie,
}

/// What a session leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// How far each inbox was ever written.
    pub sent: Vec<(BusinessNo, Position)>,
    /// Those who still wait.
    pub waiters: Vec<Waiter>,
}

/// The inboxes of one session. A session whose inboxes are at rest keeps 32 bytes for each beside this.
#[derive(Debug, Default)]
pub struct Feeds {
    inboxes: Vec<Inbox>,
    /// Only there while something is under way.
    busy: Option<Box<Busy>>,
    serial: u32,
    /// Where the search for the next one to pull begins.
    next_inbox: u16,
    /// The link had no room, and was not empty since.
    is_stopped: bool,
}

#[derive(Debug, Default)]
struct Busy {
    /// To be written, in order, and forgotten at the end of the same turn if it cannot be.
    ready: VecDeque<(BusinessNo, Entry, bool)>,
    waiting: Vec<(BusinessNo, Position, Waiter)>,
    to_tell: Vec<(Waiter, bool)>,
    is_telling: bool,
    tell_tries: u32,
    tell_not_before_ms: u64,
}

impl Feeds {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    // === Events ===

    /// The device has this inbox up to `cursor`; the last word counts. Only before anything else happens
    /// to it.
    pub fn begin(&mut self, business: BusinessNo, cursor: Position) {
        let inbox = self.inbox(business);
        if inbox.is_at_rest() {
            inbox.sent = cursor;
        }
    }

    /// The store says what its newest position is.
    pub fn tail(&mut self, business: BusinessNo, tail: Position, priority: u8) {
        let inbox = self.inbox(business);
        if tail > inbox.sent {
            inbox.behind(tail, priority);
        }
    }

    /// A hint with the entry itself. It is written by the next [`Feeds::poll`] if nothing lies between
    /// it and what was written last, and there is room; else the inbox is behind.
    pub fn wake(&mut self, business: BusinessNo, entry: Entry) {
        let ready = self.busy.as_ref().and_then(|busy| busy.last_ready(business));
        let inbox = self.inbox(business);
        let front = ready.unwrap_or(inbox.sent);
        // `poll` would drop it as well; here it costs no memory.
        if entry.place.at <= front {
            return;
        }
        if entry.place.prev <= front && !inbox.is_pulling() {
            self.busy().ready.push_back((business, entry, false));
        } else {
            inbox.behind(entry.place.at, entry.priority);
        }
    }

    /// The answer of a pull; `None`: it failed, and is tried again after a pause.
    pub fn pulled(
        &mut self,
        business: BusinessNo,
        serial: u32,
        answer: Option<Pulled>,
        now_ms: u64,
    ) {
        let inbox = self.inbox(business);
        let Some(pull) = inbox.take_pull(serial) else { return };
        let Some(answer) = answer else {
            inbox.behind(pull.beyond, 0);
            inbox.pause(now_ms);
            return;
        };
        if pull.after != inbox.sent {
            // The device asked for a resync meanwhile: this continues something else.
            inbox.behind(pull.beyond, 0);
            return;
        }
        if answer.tail > inbox.sent {
            inbox.behind(answer.tail, 0);
        }
        let is_progress = answer.entries.iter().any(|entry| entry.place.at > pull.after);
        if is_progress || !inbox.is_behind() {
            inbox.calm();
        } else {
            // A store that names a tail and hands out nothing: not at full speed for ever.
            inbox.pause(now_ms);
        }
        let entries = answer.entries.into_iter().map(|entry| (business, entry, true));
        self.busy().ready.extend(entries);
    }

    /// The device says that it has handled everything up to here.
    pub fn ack(&mut self, business: BusinessNo, upto: Position) -> Claim {
        let Some(inbox) = self.inboxes.iter_mut().find(|inbox| inbox.business == business) else {
            return if upto == Position::START { Claim::Old } else { Claim::Lie };
        };
        let claim = inbox.ack(upto);
        if claim == Claim::Taken
            && let Some(busy) = &mut self.busy
        {
            busy.waiting.retain(|&(of, at, waiter)| {
                let is_handled = of == business && at <= upto;
                if is_handled {
                    busy.to_tell.push((waiter, true));
                }
                !is_handled
            });
        }
        claim
    }

    /// The device wants everything above `after` again.
    pub fn resync(&mut self, business: BusinessNo, after: Position) -> Claim {
        match self.inboxes.iter_mut().find(|inbox| inbox.business == business) {
            Some(inbox) => inbox.resync(after),
            None => Claim::Lie,
        }
    }

    /// The store has taken the acknowledgements it was told last, or could not be asked.
    pub fn ack_told(&mut self, is_taken: bool, now_ms: u64) {
        let Some(busy) = self.busy.as_deref_mut().filter(|busy| busy.is_telling) else { return };
        busy.is_telling = false;
        for inbox in &mut self.inboxes {
            inbox.told(is_taken);
        }
        if is_taken {
            (busy.tell_tries, busy.tell_not_before_ms) = (0, 0);
        } else {
            busy.tell_not_before_ms = now_ms.saturating_add(pause_ms(&mut busy.tell_tries));
        }
    }

    /// Somebody waits until the device has handled the entry at `at`.
    pub fn wait(&mut self, business: BusinessNo, at: Position, waiter: Waiter) {
        let inbox = self.inbox(business);
        let (is_skipped, is_acked) = (inbox.was_skipped(at), inbox.acked() >= at);
        let is_handled = is_acked && !is_skipped;
        let busy = self.busy();
        if is_acked || is_skipped || busy.waiting.len() >= WAITERS_MAX {
            busy.to_tell.push((waiter, is_handled));
        } else {
            busy.waiting.push((business, at, waiter));
        }
    }

    /// Whatever made calls fail may be over: no more pauses.
    pub fn hurry(&mut self) {
        for inbox in &mut self.inboxes {
            inbox.calm();
        }
        if let Some(busy) = &mut self.busy {
            (busy.tell_tries, busy.tell_not_before_ms) = (0, 0);
        }
    }

    /// Whatever was asked of the store will not be answered: it is asked again. No caller is told anything.
    pub fn ask_anew(&mut self) {
        for inbox in &mut self.inboxes {
            inbox.pull_anew();
            inbox.told(false);
        }
        if let Some(busy) = &mut self.busy {
            busy.is_telling = false;
        }
    }

    /// The session is over.
    pub fn end(self) -> Ended {
        let sent = self.high().collect();
        let busy = self.busy.unwrap_or_default();
        let told = busy.to_tell.iter().map(|&(waiter, _)| waiter);
        Ended {
            sent,
            waiters: busy.waiting.iter().map(|&(.., waiter)| waiter).chain(told).collect(),
        }
    }

    // === How it stands ===

    /// Whether a call of the store waits for leave to be made.
    pub fn wants_to_ask(&self, now_ms: u64) -> bool {
        let acks = self.busy.as_ref().is_none_or(|busy| busy.may_tell(now_ms))
            && self.inboxes.iter().any(Inbox::has_untold);
        acks || !self.is_stopped && self.next_to_pull(now_ms).is_some()
    }

    /// More could be written if the link were empty: to be polled when it is.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// When it should be polled again though nothing happened.
    pub fn due_ms(&self) -> Option<u64> {
        let pulls = self.inboxes.iter().filter_map(Inbox::due_ms);
        let acks =
            self.busy.as_ref().filter(|busy| !busy.is_telling && busy.tell_not_before_ms > 0);
        let acks = acks.filter(|_| self.inboxes.iter().any(Inbox::has_untold));
        pulls.chain(acks.map(|busy| busy.tell_not_before_ms)).min()
    }

    /// Entries written and not acknowledged.
    pub fn unacked(&self) -> usize {
        self.inboxes.iter().map(Inbox::unacked).sum()
    }

    /// How far the device has acknowledged each inbox.
    pub fn acked(&self) -> impl Iterator<Item = (BusinessNo, Position)> + '_ {
        self.inboxes.iter().map(|inbox| (inbox.business, inbox.acked()))
    }

    /// The last position written, by inbox.
    pub fn sent(&self) -> impl Iterator<Item = (BusinessNo, Position)> + '_ {
        self.inboxes.iter().map(|inbox| (inbox.business, inbox.sent))
    }

    /// The highest position ever written, by inbox: above the last after a resync.
    pub fn high(&self) -> impl Iterator<Item = (BusinessNo, Position)> + '_ {
        self.inboxes.iter().map(|inbox| (inbox.business, inbox.high()))
    }

    // === Inside ===

    fn busy(&mut self) -> &mut Busy {
        self.busy.get_or_insert_default()
    }

    fn inbox(&mut self, business: BusinessNo) -> &mut Inbox {
        let known = self.inboxes.iter().position(|inbox| inbox.business == business);
        let index = known.unwrap_or_else(|| {
            self.inboxes.reserve_exact(1);
            self.inboxes.push(Inbox::new(business));
            self.inboxes.len() - 1
        });
        &mut self.inboxes[index]
    }
}

impl Busy {
    fn may_tell(&self, now_ms: u64) -> bool {
        !self.is_telling && now_ms >= self.tell_not_before_ms
    }

    fn last_ready(&self, business: BusinessNo) -> Option<Position> {
        self.ready.iter().rev().find(|it| it.0 == business).map(|(_, entry, _)| entry.place.at)
    }

    fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && self.waiting.is_empty()
            && self.to_tell.is_empty()
            && !self.is_telling
            && self.tell_not_before_ms == 0
    }
}

/// How long to wait after one more failure.
fn pause_ms(tries: &mut u32) -> u64 {
    let pause = PAUSE_MS << (*tries).min(PAUSE_DOUBLINGS_MAX);
    *tries += 1;
    pause
}

#[cfg(test)]
mod tests;
