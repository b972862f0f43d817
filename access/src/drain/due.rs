//! What is due for those who were told to go, and when. Those who have not gone by their deadline are sent away at
//! the drain's pace, however many deadlines are over at once: they all log in elsewhere then. Pure: the time comes
//! in as an argument.

use super::pace::Pacer;
use hawser_proto::id::SlotRef;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use tokio::time::Instant;

/// When, which slot, and in which generation.
type Entry = Reverse<(Instant, u32, u32)>;

/// All that is due some time. An entry may outlive its connection: then nobody is there when its time comes.
#[derive(Debug, Default)]
pub(super) struct Due {
    leave: BinaryHeap<Entry>,
    close: BinaryHeap<Entry>,
}

impl Due {
    /// If it has not gone by then: no new requests, and CLOSE once those in flight are answered.
    pub(super) fn leave_by(&mut self, at: SlotRef, by: Instant) {
        self.leave.push(Reverse((by, at.slot, at.generation)));
    }

    /// If its requests are not answered by then: CLOSE.
    pub(super) fn close_by(&mut self, at: SlotRef, by: Instant) {
        self.close.push(Reverse((by, at.slot, at.generation)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leave.is_empty() && self.close.is_empty()
    }

    /// What was to be later has become this early.
    pub(super) fn no_later_than(&mut self, latest: Instant) {
        for heap in [&mut self.leave, &mut self.close] {
            let all = std::mem::take(heap).into_iter();
            let sooner = all
                .map(|Reverse((by, slot, generation))| Reverse((by.min(latest), slot, generation)));
            *heap = sooner.collect();
        }
    }

    /// Whoever has to be closed by now; they came at the pace of those who leave.
    pub(super) fn next_to_close(&mut self, now: Instant) -> Option<SlotRef> {
        take(&mut self.close, now)
    }

    /// Sends those away whose deadline is over, as far as the pace allows. Whoever is not there any more costs no
    /// turn: `send` says whether it was.
    pub(super) fn leave(
        &mut self,
        now: Instant,
        pacer: &mut Pacer,
        mut tell: impl FnMut(SlotRef) -> bool,
    ) {
        let turns = pacer.turns(now);
        let mut sent = 0;
        while sent < turns
            && let Some(at) = take(&mut self.leave, now)
        {
            sent += u32::from(tell(at));
        }
        pacer.took(sent);
    }
}

fn take(heap: &mut BinaryHeap<Entry>, now: Instant) -> Option<SlotRef> {
    let &Reverse((by, slot, generation)) = heap.peek()?;
    if by > now {
        return None;
    }
    heap.pop();
    Some(SlotRef { slot, generation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const RATE: u32 = 40;
    const TICK: Duration = Duration::from_millis(20);

    fn at(slot: u32) -> SlotRef {
        SlotRef { slot, generation: 1 }
    }

    /// When each was sent away whom a task sends away that looks every 20 ms, until nothing is left.
    fn sent(due: &mut Due, begun: Instant) -> Vec<Instant> {
        let mut pacer = Pacer::new(RATE, begun);
        let (mut now, mut all) = (begun, Vec::new());
        while !due.is_empty() {
            due.leave(now, &mut pacer, |_| {
                all.push(now);
                true
            });
            now += TICK;
        }
        all
    }

    fn most_in_a_second(all: &[Instant]) -> usize {
        let within = |from: &Instant| {
            let until = *from + Duration::from_secs(1);
            all.iter().filter(|&at| at >= from && *at < until).count()
        };
        all.iter().map(within).max().unwrap_or(0)
    }

    #[test]
    fn deadlines_that_fall_together_are_no_crowd() {
        let begun = Instant::now();
        let mut due = Due::default();
        // Told at the rate for 50 s; after half of it there is nowhere to go, and 5 s must do in place of 30.
        for nth in 0..50 * RATE {
            let told = begun + Duration::from_secs(1) * nth / RATE;
            let has = if nth < 25 * RATE { 30 } else { 5 };
            due.leave_by(at(nth), told + Duration::from_secs(has));
        }
        let all = sent(&mut due, begun);
        assert_eq!(all.len(), 50 * RATE as usize);
        assert!(all[0] >= begun + Duration::from_secs(30), "nobody before its time");
        let most = most_in_a_second(&all);
        assert!(most <= RATE as usize * 12 / 10, "{most} in a second");
        // What is paced is not put off for longer than it takes at the rate.
        let last = *all.last().unwrap() - begun;
        assert!(last <= Duration::from_secs(30 + 50 + 4), "{last:?}");
    }

    #[test]
    fn a_drain_that_has_to_end_sooner_keeps_the_pace() {
        let begun = Instant::now();
        let mut due = Due::default();
        for nth in 0..10 * RATE {
            due.leave_by(
                at(nth),
                begun + Duration::from_secs(20) + Duration::from_secs(1) * nth / RATE,
            );
        }
        let latest = begun + Duration::from_secs(5);
        due.no_later_than(latest);
        let all = sent(&mut due, begun);
        assert!(all[0] >= latest && most_in_a_second(&all) <= RATE as usize * 12 / 10);
        assert!(*all.last().unwrap() <= latest + Duration::from_secs(11));
    }

    #[test]
    fn those_who_have_gone_cost_no_turn_and_closes_none_either() {
        let begun = Instant::now();
        let (mut due, mut pacer) = (Due::default(), Pacer::new(1, begun));
        for slot in 0..1_000 {
            due.leave_by(at(slot), begun);
            due.close_by(at(slot), begun + TICK);
        }
        let mut sent = Vec::new();
        due.leave(begun, &mut pacer, |it| {
            let is_there = it.slot % 500 == 499;
            sent.extend(is_there.then_some(it.slot));
            is_there
        });
        assert_eq!(sent, [499]);
        assert_eq!(due.next_to_close(begun), None);
        let closed = std::iter::from_fn(|| due.next_to_close(begun + TICK));
        assert_eq!(closed.count(), 1_000);
    }
}
