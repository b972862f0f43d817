//! A queue between callers and a thread, bounded in calls and in bytes.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::Duration;

pub(super) struct Queue<T> {
    held: Mutex<Held<T>>,
    wake: Condvar,
    calls_max: usize,
    bytes_max: usize,
}

struct Held<T> {
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    is_closed: bool,
    sleepers: usize,
}

/// Why it was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Too many wait.
    Full,
    /// The other side has ended.
    Closed,
}

impl<T> Queue<T> {
    pub(super) fn new(calls_max: usize, bytes_max: usize) -> Self {
        let held = Held { waiting: VecDeque::new(), bytes: 0, is_closed: false, sleepers: 0 };
        Self { held: Mutex::new(held), wake: Condvar::new(), calls_max, bytes_max }
    }

    /// Takes it or refuses it, at once.
    pub(super) fn push(&self, item: T, bytes: usize) -> Result<(), Full> {
        let mut held = self.held.lock();
        if held.is_closed {
            return Err(Full::Closed);
        }
        let is_full = held.waiting.len() >= self.calls_max || held.bytes + bytes > self.bytes_max;
        if is_full && !held.waiting.is_empty() {
            return Err(Full::Full);
        }
        held.bytes += bytes;
        held.waiting.push_back((item, bytes));
        let is_asleep = held.sleepers > 0;
        drop(held);
        if is_asleep {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits for something, at most this long. `None`: closed, and nothing is left.
    pub(super) fn wait(&self, patience: Duration) -> Option<()> {
        let mut held = self.held.lock();
        if held.waiting.is_empty() && !held.is_closed {
            held.sleepers += 1;
            self.wake.wait_for(&mut held, patience);
            held.sleepers -= 1;
        }
        (!held.is_closed || !held.waiting.is_empty()).then_some(())
    }

    /// What has waited longest, if anything waits.
    pub(super) fn pop(&self) -> Option<T> {
        let mut held = self.held.lock();
        let (item, bytes) = held.waiting.pop_front()?;
        held.bytes -= bytes;
        Some(item)
    }

    /// Moves what waits to `into`, in order, as long as `takes` says so of the bytes so far.
    pub(super) fn drain(&self, into: &mut Vec<T>, calls_max: usize, bytes_max: usize) {
        let mut held = self.held.lock();
        let mut taken = 0;
        while into.len() < calls_max && taken < bytes_max {
            let Some((item, bytes)) = held.waiting.pop_front() else { return };
            held.bytes -= bytes;
            taken += bytes;
            into.push(item);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.held.lock().waiting.len()
    }

    pub(super) fn close(&self) {
        self.held.lock().is_closed = true;
        self.wake.notify_all();
    }
}
