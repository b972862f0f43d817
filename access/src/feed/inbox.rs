//! One inbox of one session: how far it was written, acknowledged and told, and its window.

use super::{Claim, pause_ms};
use hawser_proto::id::{BusinessNo, Position};
use hawser_proto::limits::{INBOX_WINDOW_BYTES, INBOX_WINDOW_ENTRIES};
use std::collections::VecDeque;

/// An inbox. At rest it is 32 bytes: everything written was acknowledged, and the store knows.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) business: BusinessNo,
    /// The last position written to the link.
    pub(super) sent: Position,
    active: Option<Box<Active>>,
}

#[derive(Debug)]
struct Active {
    /// The device has handled everything up to here.
    acked: Position,
    /// The store knows of it up to here.
    told: Position,
    /// What it is being told.
    telling: Position,
    /// The highest position ever written: above `sent` after a resync.
    high: Position,
    /// The highest position above `sent` that is believed to be in the store.
    beyond: Position,
    /// Written and not acknowledged, with their bytes.
    window: VecDeque<(Position, u32)>,
    window_bytes: usize,
    /// Bytes of the entry that the window had no room for; 0: none. The store hands out one entry
    /// whatever its size, so pulling before there is room for this one brings it here in vain.
    needs: u32,
    /// The end of the highest GAP.
    skipped: Position,
    pull: Option<Pull>,
    priority: u8,
    tries: u32,
    /// No pull before this time; 0: any time.
    not_before_ms: u64,
}

/// A pull in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pull {
    serial: u32,
    pub(super) after: Position,
    /// What was believed when it was sent: true again if it fails.
    pub(super) beyond: Position,
}

/// What a window still takes.
pub(super) struct Left {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Inbox {
    pub(super) fn new(business: BusinessNo) -> Self {
        Self { business, sent: Position::START, active: None }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.active.is_none()
    }

    fn active(&mut self) -> &mut Active {
        let sent = self.sent;
        self.active.get_or_insert_with(|| {
            Box::new(Active {
                acked: sent,
                told: sent,
                telling: sent,
                high: sent,
                beyond: Position::START,
                window: VecDeque::new(),
                window_bytes: 0,
                needs: 0,
                skipped: Position::START,
                pull: None,
                priority: 0,
                tries: 0,
                not_before_ms: 0,
            })
        })
    }

    pub(super) fn acked(&self) -> Position {
        self.active.as_ref().map_or(self.sent, |active| active.acked)
    }

    pub(super) fn high(&self) -> Position {
        self.active.as_ref().map_or(self.sent, |active| active.high)
    }

    pub(super) fn unacked(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.window.len())
    }

    pub(super) fn priority(&self) -> u8 {
        self.active.as_ref().map_or(0, |active| active.priority)
    }

    // === Being behind ===

    pub(super) fn behind(&mut self, beyond: Position, priority: u8) {
        let active = self.active();
        active.beyond = active.beyond.max(beyond);
        active.priority = active.priority.max(priority);
    }

    pub(super) fn is_behind(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.beyond > self.sent)
    }

    pub(super) fn is_pulling(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.pull.is_some())
    }

    pub(super) fn may_pull(&self, now_ms: u64) -> bool {
        self.is_behind()
            && self.active.as_ref().is_some_and(|active| {
                active.pull.is_none() && active.may_go_on() && now_ms >= active.not_before_ms
            })
    }

    /// When a pull that waits for its time may be sent.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let active = self.active.as_ref().filter(|_| self.is_behind())?;
        let waits = active.pull.is_none() && active.not_before_ms > 0 && active.may_go_on();
        waits.then_some(active.not_before_ms)
    }

    /// A pull is sent. Whatever is learned from here on may not be in its answer.
    pub(super) fn pull(&mut self, serial: u32) -> Left {
        let after = self.sent;
        let active = self.active();
        let beyond = std::mem::take(&mut active.beyond);
        active.pull = Some(Pull { serial, after, beyond });
        active.priority = 0;
        Left {
            entries: INBOX_WINDOW_ENTRIES - active.window.len(),
            bytes: INBOX_WINDOW_BYTES.saturating_sub(active.window_bytes).max(1),
        }
    }

    pub(super) fn take_pull(&mut self, serial: u32) -> Option<Pull> {
        self.active.as_mut()?.pull.take_if(|pull| pull.serial == serial)
    }

    /// The pull in flight will not be answered.
    pub(super) fn pull_anew(&mut self) {
        if let Some(active) = &mut self.active
            && let Some(pull) = active.pull.take()
        {
            active.beyond = active.beyond.max(pull.beyond);
        }
    }

    pub(super) fn pause(&mut self, now_ms: u64) {
        let active = self.active();
        active.not_before_ms = now_ms.saturating_add(pause_ms(&mut active.tries));
    }

    pub(super) fn calm(&mut self) {
        if let Some(active) = &mut self.active {
            (active.tries, active.not_before_ms) = (0, 0);
        }
    }

    // === Writing ===

    pub(super) fn has_window(&self, bytes: usize) -> bool {
        self.active.as_ref().is_none_or(|active| active.has_window(bytes))
    }

    /// An entry of so many bytes found no room in the window: nothing is pulled until there is some.
    pub(super) fn lacks_window(&mut self, bytes: usize) {
        self.active().needs = u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    /// Whether the entry at `at` was, or may have been, left out: no word of the device says that it
    /// has handled it then.
    pub(super) fn was_skipped(&self, at: Position) -> bool {
        self.active.as_ref().is_some_and(|active| {
            at <= active.skipped && active.window.binary_search_by_key(&at, |it| it.0).is_err()
        })
    }

    pub(super) fn write(&mut self, at: Position, bytes: usize) {
        let active = self.active();
        active.needs = 0;
        active.window.push_back((at, bytes as u32));
        active.window_bytes += bytes;
        active.high = active.high.max(at);
        self.sent = at;
    }

    /// Nothing up to `upto` will come. It takes no place in the window: the device need not answer a
    /// GAP, and a row of them must not close it.
    pub(super) fn skip(&mut self, upto: Position) {
        let active = self.active();
        active.high = active.high.max(upto);
        active.skipped = active.skipped.max(upto);
        self.sent = upto;
    }

    pub(super) fn resync(&mut self, after: Position) -> Claim {
        if after > self.sent {
            return Claim::Lie;
        }
        let (sent, after) = (self.sent, after.max(self.acked()));
        if after == sent {
            return Claim::Old;
        }
        let active = self.active();
        while let Some((_, bytes)) = active.window.pop_back_if(|(at, _)| *at > after) {
            active.window_bytes -= bytes as usize;
        }
        active.needs = 0;
        active.beyond = active.beyond.max(sent);
        self.sent = after;
        Claim::Taken
    }

    // === Acknowledgements ===

    pub(super) fn ack(&mut self, upto: Position) -> Claim {
        if upto > self.sent {
            return Claim::Lie;
        }
        if upto <= self.acked() {
            return Claim::Old;
        }
        let active = self.active();
        active.acked = upto;
        active.needs = 0;
        while let Some((_, bytes)) = active.window.pop_front_if(|(at, _)| *at <= upto) {
            active.window_bytes -= bytes as usize;
        }
        Claim::Taken
    }

    pub(super) fn has_untold(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.acked > active.told)
    }

    /// What the store does not know yet, on its way from now on.
    pub(super) fn tell(&mut self) -> Option<(BusinessNo, Position)> {
        let business = self.business;
        let active = self.active.as_mut().filter(|active| active.acked > active.told)?;
        active.telling = active.acked;
        Some((business, active.acked))
    }

    pub(super) fn told(&mut self, is_taken: bool) {
        if let Some(active) = &mut self.active {
            if is_taken {
                active.told = active.told.max(active.telling);
            }
            active.telling = active.told;
        }
    }

    /// Forgets pauses that are over, and everything that `sent` alone says as well.
    pub(super) fn rest(&mut self, now_ms: u64) {
        if let Some(active) = self.active.as_mut().filter(|it| it.not_before_ms <= now_ms) {
            active.not_before_ms = 0;
        }
        let sent = self.sent;
        let is_at_rest = self.active.as_ref().is_some_and(|active| {
            [active.acked, active.told, active.telling, active.high] == [sent; 4]
                && active.beyond <= sent
                && active.pull.is_none()
        });
        if is_at_rest {
            self.active = None;
        }
    }
}

impl Active {
    /// Whether what comes next would find room.
    fn may_go_on(&self) -> bool {
        self.has_window(self.needs.max(1) as usize)
    }

    fn has_window(&self, bytes: usize) -> bool {
        self.window.is_empty()
            || self.window.len() < INBOX_WINDOW_ENTRIES
                && self.window_bytes + bytes <= INBOX_WINDOW_BYTES
    }
}
