//! What waits for one business: a bounded line of devices, one call at a time, and when to try again.

use super::spool::{Look, Members};
use crate::inbox::Event;
use std::collections::VecDeque;
use std::time::Duration;

/// Devices in one line; more are read again later.
const LINE_MAX: usize = 2_048;
/// Events of one call.
const EVENTS_MAX: usize = 256;
/// Until the next try, doubled up to the second; each time anywhere between half of it and all of it.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A device in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) look: Look,
    /// What was due when it was read.
    pub(super) events: Vec<Event>,
    /// When that was, by the steady clock.
    pub(super) read_ms: u64,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: VecDeque<Waiting>,
    /// Those that wait or are told of just now, with the later mark that was looked at meanwhile.
    members: Members,
    /// Marks from this one on were passed over.
    left_from: Option<u64>,
    is_out: bool,
    failures: u32,
    not_before_ms: u64,
}

impl Line {
    /// A device of which something is due. `is_left`: it comes from where marks were passed over.
    pub(super) fn offer(&mut self, it: Waiting, is_left: bool) {
        if let Some(again) = self.members.get_mut(&it.look.mark.device) {
            // The look may be one at an older mark.
            if again.as_ref().is_none_or(|again| again.mark.at <= it.look.mark.at) {
                *again = Some(it.look);
            }
        } else if self.waiting.len() >= LINE_MAX {
            self.leave(it.look.mark.at);
        } else if is_left || self.left_from.is_none_or(|from| it.look.mark.at < from) {
            self.members.insert(it.look.mark.device.clone(), None);
            self.waiting.push_back(it);
        }
    }

    /// A mark is passed over.
    pub(super) fn leave(&mut self, at: u64) {
        self.left_from = Some(self.left_from.map_or(at, |from| from.min(at)));
    }

    /// From where on marks were passed over, if there is room for them now.
    pub(super) fn wants_left(&self) -> Option<u64> {
        let has_room = self.waiting.is_empty() && self.failures == 0;
        self.left_from.filter(|_| has_room)
    }

    /// They were read, up to this one; `None`: all of them.
    pub(super) fn left_read(&mut self, upto: Option<u64>) {
        self.left_from = upto.map(|upto| upto + 1);
    }

    /// Whether a call may be made.
    pub(super) fn is_ready(&self, now_ms: u64) -> bool {
        self.ready_at().is_some_and(|at_ms| at_ms <= now_ms)
    }

    pub(super) fn ready_at(&self) -> Option<u64> {
        (!self.is_out && !self.waiting.is_empty()).then_some(self.not_before_ms)
    }

    /// Those that the next call tells of. One device's events stay together.
    pub(super) fn begin(&mut self) -> Vec<Waiting> {
        let (mut taken, mut events) = (Vec::new(), 0);
        while let Some(first) = self.waiting.front() {
            events += first.events.len().max(2);
            if events > EVENTS_MAX && !taken.is_empty() {
                break;
            }
            taken.extend(self.waiting.pop_front());
        }
        self.is_out = true;
        taken
    }

    /// The call was answered.
    pub(super) fn succeed(&mut self) {
        (self.is_out, self.failures, self.not_before_ms) = (false, 0, 0);
    }

    /// It was not. What is due is read again before the next try: what lies between may be left out then.
    pub(super) fn fail(&mut self, told: Vec<Waiting>, jitter: f64, now_ms: u64) {
        self.is_out = false;
        let pause = BACKOFF_MIN.saturating_mul(1 << self.failures.min(8)).min(BACKOFF_MAX);
        self.failures += 1;
        self.not_before_ms =
            now_ms + pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0).as_millis() as u64;
        for mut it in told.into_iter().rev() {
            it.events.clear();
            self.waiting.push_front(it);
        }
    }

    /// A device is no more in this line; with the later mark that was looked at meanwhile.
    pub(super) fn forget(&mut self, device: &[u8]) -> Option<Look> {
        self.members.remove(device).flatten()
    }

    /// All that wait; none does any more.
    pub(super) fn drain(&mut self) -> Vec<Look> {
        let mut looks: Vec<Look> = self.members.drain().filter_map(|(_, again)| again).collect();
        looks.extend(self.waiting.drain(..).map(|it| it.look));
        looks
    }

    pub(super) fn is_out(&self) -> bool {
        self.is_out
    }

    /// Nothing need be remembered of it.
    pub(super) fn is_idle(&self) -> bool {
        self.members.is_empty() && self.left_from.is_none() && !self.is_out && self.failures == 0
    }

    pub(super) fn has_left(&self) -> bool {
        self.left_from.is_some()
    }

    /// Devices that wait or are told of.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// When the oldest that waits was marked.
    pub(super) fn oldest(&self) -> Option<u64> {
        let first = self.waiting.iter().map(|it| it.look.mark.at).min();
        first.into_iter().chain(self.left_from).min()
    }
}
