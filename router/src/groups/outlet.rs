//! Pushes of one history group on their way from the store to the streams, in the order of positions.
//!
//! Publishes run side by side, and the store's answers come back in any order. Each takes a ticket before
//! it asks the store. An answer whose `prev` has left leaves at once; another waits for those whose tickets
//! are older than its answer, since only they can still bring what lies before it. What lies between and
//! came through another router, or was stored without an answer, holds nobody up longer than that: nodes
//! find the gap by `prev`, and ask. No lock is held while the store is asked.

use hawser_proto::id::Position;
use std::collections::{BTreeMap, BTreeSet};

/// What waits is `J`.
#[derive(Debug)]
pub struct Outlet<J> {
    next: u64,
    in_flight: BTreeSet<u64>,
    waiting: BTreeMap<Position, Waiting<J>>,
    last: Position,
}

#[derive(Debug)]
struct Waiting<J> {
    prev: Position,
    /// It waits for tickets up to this one.
    barrier: u64,
    job: J,
}

impl<J> Default for Outlet<J> {
    fn default() -> Self {
        let (in_flight, waiting) = (BTreeSet::new(), BTreeMap::new());
        Self { next: 0, in_flight, waiting, last: Position::START }
    }
}

impl<J> Outlet<J> {
    /// A publish is about to ask the store. Its ticket has to come back, by [`Outlet::stored`] or
    /// [`Outlet::given_up`].
    pub fn begin(&mut self) -> u64 {
        self.next += 1;
        self.in_flight.insert(self.next);
        self.next
    }

    /// The store has the push at this position. Returns what may leave now, in order.
    pub fn stored(&mut self, ticket: u64, position: Position, prev: Position, job: J) -> Vec<J> {
        self.in_flight.remove(&ticket);
        self.waiting.insert(position, Waiting { prev, barrier: self.next, job });
        self.leave()
    }

    /// Nothing was stored, or nobody knows. Returns what may leave now, in order.
    pub fn given_up(&mut self, ticket: u64) -> Vec<J> {
        self.in_flight.remove(&ticket);
        self.leave()
    }

    fn leave(&mut self) -> Vec<J> {
        let mut leaving = Vec::new();
        while let Some(first) = self.waiting.first_entry() {
            let follows = first.get().prev <= self.last;
            let oldest = self.in_flight.first();
            if !follows && oldest.is_some_and(|&oldest| oldest <= first.get().barrier) {
                break;
            }
            self.last = self.last.max(*first.key());
            leaving.push(first.remove().job);
        }
        leaving
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seq: u64) -> Position {
        Position::new(9, seq)
    }

    #[test]
    fn what_follows_leaves_at_once_and_what_overtook_waits() {
        let mut outlet = Outlet::default();
        let (a, b, c) = (outlet.begin(), outlet.begin(), outlet.begin());
        assert_eq!(outlet.stored(b, at(2), at(1), "b"), [""; 0]);
        assert_eq!(outlet.stored(c, at(3), at(2), "c"), [""; 0]);
        assert_eq!(outlet.stored(a, at(1), Position::START, "a"), ["a", "b", "c"]);
        let d = outlet.begin();
        let _slow = outlet.begin();
        assert_eq!(outlet.stored(d, at(4), at(3), "d"), ["d"], "nobody is in between");
    }

    #[test]
    fn what_lies_before_and_never_comes_holds_nobody_up() {
        let mut outlet = Outlet::default();
        let (lost, b) = (outlet.begin(), outlet.begin());
        assert_eq!(outlet.stored(b, at(2), at(1), "b"), [""; 0]);
        let later = outlet.begin();
        assert_eq!(outlet.given_up(lost), ["b"], "the later one cannot lie before it");
        assert_eq!(
            outlet.stored(later, at(9), at(8), "another router's lie between"),
            ["another router's lie between"]
        );
    }

    proptest! {
        /// However the answers come back: all leave, in order.
        #[test]
        fn all_leave_in_order(order in Just((1..=20u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut outlet = Outlet::default();
            let tickets: Vec<u64> = (1..=20).map(|_| outlet.begin()).collect();
            let mut left = Vec::new();
            for seq in order {
                let ticket = tickets[seq as usize - 1];
                if seq % 5 == 0 {
                    left.extend(outlet.given_up(ticket));
                } else {
                    left.extend(outlet.stored(ticket, at(seq), at(seq - 1), seq));
                }
            }
            let expected: Vec<u64> = (1..=20).filter(|seq| seq % 5 != 0).collect();
            prop_assert_eq!(left, expected);
        }
    }
}
