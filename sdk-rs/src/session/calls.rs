//! Requests of one client: those that wait for a connection or for room, and those in flight.
//!
//! A request is written at most once. It waits while offline, within its deadline; once written it
//! ends with its answer, its deadline or the link, whichever comes first. What was written on a link
//! that the session has moved from is *behind*, and ends with that link.

use crate::request::RequestError;
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Requests that may wait beside those in flight. Full: `RequestError::QueueFull`, at once.
/// Memory: this and those in flight, each at most the frame limit (64 KiB by default).
pub(crate) const WAITING_MAX: usize = 64;

/// A request as the app asked it; its form is checked.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who is asked.
    pub business: Arc<str>,
    /// What is asked for.
    pub method: String,
    /// Small facts beside the body.
    pub metadata: HashMap<String, String>,
    /// W3C trace context; may be empty.
    pub traceparent: String,
    /// Bytes of the app.
    pub body: Bytes,
    /// When nobody waits for the answer any more.
    pub deadline: Instant,
}

/// All requests that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    waiting: VecDeque<(u64, Ask)>,
    in_flight: HashMap<u64, Instant>,
    behind: HashMap<u64, Instant>,
    deadlines: BTreeSet<(Instant, u64)>,
}

impl Calls {
    /// Takes a request in, or answers that there is no room.
    pub(crate) fn push(&mut self, id: u64, ask: Ask) -> Result<(), RequestError> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(RequestError::QueueFull);
        }
        self.deadlines.insert((ask.deadline, id));
        self.waiting.push_back((id, ask));
        Ok(())
    }

    /// The next request to write, while fewer than `in_flight_max` are on the wire. The caller writes
    /// it, or ends it with [`Self::finish`].
    pub(crate) fn next(&mut self, in_flight_max: usize) -> Option<(u64, Ask)> {
        if self.in_flight.len() >= in_flight_max {
            return None;
        }
        let (id, ask) = self.waiting.pop_front()?;
        self.in_flight.insert(id, ask.deadline);
        Some((id, ask))
    }

    /// Ends a request in flight. False: it had ended before; its answer is late.
    pub(crate) fn finish(&mut self, id: u64) -> bool {
        match self.in_flight.remove(&id) {
            Some(deadline) => self.deadlines.remove(&(deadline, id)),
            None => false,
        }
    }

    /// Takes out what is past its deadline.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<u64> {
        let mut over = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            if self.in_flight.remove(&id).is_none() && self.behind.remove(&id).is_none() {
                self.waiting.retain(|(waiting, _)| *waiting != id);
            }
            over.push(id);
        }
        over
    }

    /// Whether nothing is in flight on the link in use.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Takes out what was written: its answer cannot come any more.
    pub(crate) fn take_in_flight(&mut self) -> Vec<u64> {
        let lost = std::mem::take(&mut self.in_flight);
        self.end(lost)
    }

    /// Another link is in use from now on; what was written on the one before may still be answered.
    pub(crate) fn leave_behind(&mut self) {
        self.behind.extend(self.in_flight.drain());
    }

    /// Whether the link left behind owes no answer.
    pub(crate) fn is_quiet_behind(&self) -> bool {
        self.behind.is_empty()
    }

    /// Ends a request that was left behind. False: it had ended before.
    pub(crate) fn finish_behind(&mut self, id: u64) -> bool {
        match self.behind.remove(&id) {
            Some(deadline) => self.deadlines.remove(&(deadline, id)),
            None => false,
        }
    }

    /// Takes out what was left behind: its answer cannot come any more.
    pub(crate) fn take_behind(&mut self) -> Vec<u64> {
        let lost = std::mem::take(&mut self.behind);
        self.end(lost)
    }

    fn end(&mut self, lost: HashMap<u64, Instant>) -> Vec<u64> {
        for (id, deadline) in &lost {
            self.deadlines.remove(&(*deadline, *id));
        }
        let mut ids: Vec<u64> = lost.into_keys().collect();
        ids.sort_unstable();
        ids
    }

    /// Takes out everything.
    pub(crate) fn take_all(&mut self) -> Vec<u64> {
        self.waiting.clear();
        self.in_flight.clear();
        self.behind.clear();
        std::mem::take(&mut self.deadlines).into_iter().map(|(_, id)| id).collect()
    }

    /// The earliest deadline.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ask(deadline: Instant) -> Ask {
        Ask {
            business: "chat".into(),
            method: "echo".into(),
            metadata: HashMap::new(),
            traceparent: String::new(),
            body: Bytes::new(),
            deadline,
        }
    }

    #[test]
    fn a_request_ends_once() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut calls = Calls::default();
        for id in 1..=3 {
            calls.push(id, ask(later)).unwrap();
        }
        assert_eq!(calls.next(2).unwrap().0, 1);
        assert_eq!(calls.next(2).unwrap().0, 2);
        assert!(calls.next(2).is_none(), "no room on the wire");
        assert!(calls.finish(1) && !calls.finish(1) && !calls.finish(3));
        assert!(calls.expire(now).is_empty());
        assert_eq!(calls.expire(later), [2, 3]);
        assert!(calls.take_all().is_empty() && calls.wake_at().is_none());
    }

    #[test]
    fn a_lost_link_ends_only_what_was_written() {
        let later = Instant::now() + Duration::from_secs(1);
        let mut calls = Calls::default();
        calls.push(1, ask(later)).unwrap();
        calls.push(2, ask(later)).unwrap();
        calls.next(1).unwrap();
        assert_eq!(calls.take_in_flight(), [1]);
        assert_eq!(calls.next(1).unwrap().0, 2);
    }

    #[test]
    fn what_is_left_behind_ends_once_too() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut calls = Calls::default();
        for id in 1..=4 {
            calls.push(id, ask(later)).unwrap();
        }
        calls.next(2).unwrap();
        calls.next(2).unwrap();
        calls.leave_behind();
        assert!(calls.is_quiet() && !calls.is_quiet_behind());
        assert_eq!(calls.next(2).unwrap().0, 3, "the new link has room of its own");
        assert!(!calls.finish(1), "the answer of another link");
        assert!(calls.finish_behind(1) && !calls.finish_behind(1) && !calls.finish_behind(3));
        assert_eq!(calls.take_behind(), [2]);
        calls.leave_behind();
        assert_eq!(calls.expire(later), [3, 4]);
        assert!(calls.is_quiet_behind() && calls.wake_at().is_none());
    }

    #[test]
    fn the_queue_has_an_end() {
        let later = Instant::now() + Duration::from_secs(1);
        let mut calls = Calls::default();
        for id in 0..WAITING_MAX as u64 {
            calls.push(id, ask(later)).unwrap();
        }
        assert!(matches!(calls.push(99, ask(later)), Err(RequestError::QueueFull)));
    }
}
