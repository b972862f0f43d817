//! Two links at once: while a device moves, a push of a live group may be written to both. It has no
//! position to be known by, so the ids of the last ones are kept, each with the link that brought it;
//! one that the other link has brought is an echo. Twice on one link are two pushes: their sender chose
//! one id for both.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Pushes that are remembered: hashes of eight bytes, and only while a move lasts.
const HEARD_MAX: usize = 4096;
/// A node may be behind the one before it by what a call between router and node may take, and more.
const AFTER: Duration = Duration::from_secs(5);

/// The live group pushes of a move.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    hasher: RandomState,
    heard: HashMap<u64, u32>,
    order: VecDeque<u64>,
    until: Option<Instant>,
}

impl Echoes {
    /// Whether another link than `line` has brought it.
    pub(super) fn is_echo(&mut self, line: u32, group: &str, push_id: &[u8]) -> bool {
        if push_id.is_empty() {
            return false;
        }
        let hash = self.hasher.hash_one((group, push_id));
        if let Some(first) = self.heard.get(&hash) {
            return *first != line;
        }
        if self.order.len() >= HEARD_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.heard.remove(&oldest);
        }
        self.order.push_back(hash);
        self.heard.insert(hash, line);
        false
    }

    /// The move goes on, or another one begins.
    pub(super) fn keep(&mut self) {
        self.until = None;
    }

    /// The move is over: what is late may still come.
    pub(super) fn end(&mut self, now: Instant) {
        self.until.get_or_insert(now + AFTER);
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_other_link_brought_is_an_echo() {
        let mut echoes = Echoes::default();
        assert!(!echoes.is_echo(0, "g", b"1") && !echoes.is_echo(0, "g", b"1"), "two pushes");
        assert!(echoes.is_echo(1, "g", b"1") && !echoes.is_echo(1, "h", b"1"));
        assert!(!echoes.is_echo(1, "g", b"2") && echoes.is_echo(0, "g", b"2"));
        assert!(!echoes.is_echo(0, "g", b"") && !echoes.is_echo(1, "g", b""), "no id, no telling");
        for id in 0..2 * HEARD_MAX as u64 {
            echoes.is_echo(0, "g", &id.to_be_bytes());
        }
        assert_eq!((echoes.heard.len(), echoes.order.len()), (HEARD_MAX, HEARD_MAX));
    }
}
