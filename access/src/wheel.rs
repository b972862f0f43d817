//! One coarse wheel of deadlines: an entry a connection, eight bytes, touched once per idle time-out
//! and never per packet. Pure: the lane that owns it says what time it is.

use hawser_proto::id::SlotRef;

/// Buckets; deadlines further away than the wheel is long are looked at again after one turn.
pub(crate) const BUCKETS: usize = 256;

/// The wheel. Times are ticks since the node started.
#[derive(Debug)]
pub(crate) struct Wheel {
    buckets: Box<[Vec<SlotRef>]>,
    /// All ticks up to and including this one were handed out.
    done: u64,
}

impl Wheel {
    pub(crate) fn new(now: u64) -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), done: now }
    }

    /// Asks for `at` to be looked at no earlier than tick `due`, or after one turn if that is sooner.
    pub(crate) fn insert(&mut self, at: SlotRef, due: u64) {
        let due = due.clamp(self.done + 1, self.done + BUCKETS as u64);
        self.buckets[due as usize % BUCKETS].push(at);
    }

    /// Takes everything that is due at tick `now`.
    pub(crate) fn advance(&mut self, now: u64, due: &mut Vec<SlotRef>) {
        let first = self.done + 1;
        // A long pause of the process is one turn of the wheel, not thousands.
        let last = now.min(self.done + BUCKETS as u64);
        for tick in first..=last {
            let bucket = &mut self.buckets[tick as usize % BUCKETS];
            due.append(bucket);
            // A burst of logins must not hold its memory for ever.
            bucket.shrink_to(bucket.len().max(64));
        }
        self.done = self.done.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_early_nothing_is_lost(dues in prop::collection::vec(0u64..600, 0..100), step in 1u64..400) {
            let mut wheel = Wheel::new(0);
            for (n, &due) in dues.iter().enumerate() {
                wheel.insert(SlotRef { slot: n as u32, generation: 1 }, due);
            }
            let mut left: Vec<u32> = (0..dues.len() as u32).collect();
            let mut now = 0;
            while now < 2_000 {
                now += step;
                let mut due = Vec::new();
                wheel.advance(now, &mut due);
                for at in due {
                    let wanted = dues[at.slot as usize];
                    if wanted > now {
                        // Further away than a turn: asked again, as the lane does.
                        wheel.insert(at, wanted);
                    } else {
                        prop_assert!(left.contains(&at.slot));
                        left.retain(|&slot| slot != at.slot);
                    }
                }
            }
            prop_assert!(left.is_empty(), "{left:?}");
        }
    }
}
