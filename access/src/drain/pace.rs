//! How fast a drain goes. Pure: sessions, patience and the time come in as arguments.

use std::time::Duration;
use tokio::time::Instant;

/// The most that gathers while nobody takes a turn: a process that stood still does not make up for it.
const WINDOW: Duration = Duration::from_millis(100);
/// What is kept at the end of the patience: requests in flight, the last words to routers.
const RESERVE_MAX: Duration = Duration::from_secs(7);
/// The last session that is told has at least this long to be elsewhere, if the patience has it.
const DEADLINE_MIN: Duration = Duration::from_secs(5);

/// Hands out turns at a rate: in no second more than 1.1 times as many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacer {
    per_second: f64,
    ready: f64,
    at: Instant,
}

impl Pacer {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second: f64::from(per_second.max(1)), ready: 1.0, at: now }
    }

    /// The same, at another rate from now on. What was taken before still counts.
    pub(super) fn at_rate(self, per_second: u32) -> Self {
        Self { per_second: f64::from(per_second.max(1)), ..self }
    }

    /// Turns that may be taken now.
    pub(super) fn turns(&mut self, now: Instant) -> u32 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let most = (self.per_second * WINDOW.as_secs_f64()).max(1.0);
        self.ready = (self.ready + passed * self.per_second).min(most);
        self.at = now;
        self.ready as u32
    }

    /// So many were taken.
    pub(super) fn took(&mut self, turns: u32) {
        self.ready -= f64::from(turns);
    }
}

/// How a drain that has an end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// At least what was set; more, if that would not fit.
    pub(crate) per_second: u32,
    /// How long each session has to be elsewhere.
    pub(crate) deadline: Duration,
    /// From the beginning on: nothing is waited for beyond this.
    pub(crate) end_after: Duration,
}

/// Fits so many sessions into the patience: told at the set rate if that leaves the last one its time, else
/// faster. The deadline is the same for all, so that those who do not go by themselves are closed at the
/// pace at which they were told, and not all at the end.
pub(crate) fn plan(
    sessions: u64,
    per_second: u32,
    deadline_max: Duration,
    patience: Duration,
) -> Plan {
    let reserve = RESERVE_MAX.min(patience / 5);
    let deadline_min = DEADLINE_MIN.min(patience / 10).min(deadline_max);
    let telling_max = patience.saturating_sub(reserve + deadline_min);
    let set = f64::from(per_second.max(1));
    let needed = sessions as f64 / telling_max.as_secs_f64().max(0.001);
    let taken = set.max(needed.ceil());
    let telling = Duration::from_secs_f64(sessions as f64 / taken);
    let left = patience.saturating_sub(reserve).saturating_sub(telling);
    Plan {
        per_second: taken as u32,
        deadline: left.min(deadline_max),
        end_after: patience.saturating_sub(reserve / 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_drain_that_fits_keeps_its_rate_and_gives_what_time_there_is() {
        let plan = |sessions, patience: u64| {
            plan(sessions, 500, 30 * SECOND, Duration::from_secs(patience))
        };
        // 10 s of telling; 7 s are kept.
        let small = plan(5_000, 50);
        assert_eq!((small.per_second, small.deadline), (500, 30 * SECOND));
        assert!(small.end_after < 50 * SECOND && small.end_after > 45 * SECOND);
        let large = plan(15_000, 50);
        assert_eq!((large.per_second, large.deadline), (500, 13 * SECOND), "30 s of telling");
        let just = plan(19_000, 50);
        assert_eq!((just.per_second, just.deadline), (500, 5 * SECOND));
        // Faster than that would be too fast, slower would not fit.
        let raised = plan(200_000, 50);
        assert_eq!(raised.per_second, 5_264);
        assert!(raised.deadline >= 5 * SECOND && raised.deadline < 6 * SECOND);
        assert_eq!(plan(0, 50).deadline, 30 * SECOND);
    }

    #[test]
    fn whatever_the_patience_all_of_it_fits() {
        for patience in [0, 1, 10, 500, 2_000, 12_000, 50_000, 600_000].map(Duration::from_millis) {
            for sessions in [0, 1, 499, 20_000, 1_000_000] {
                let plan = plan(sessions, 500, 30 * SECOND, patience);
                assert!(plan.per_second >= 500);
                assert!(plan.end_after <= patience);
                let telling = Duration::from_secs_f64(sessions as f64 / f64::from(plan.per_second));
                let all = telling + plan.deadline;
                let room = plan.end_after + Duration::from_millis(2);
                assert!(all <= room, "{patience:?} {sessions}: {all:?} of {room:?}");
            }
        }
    }

    /// Turns taken as a task takes them that is woken in `step`s and stands still now and then.
    fn taken(per_second: u32, step: Duration, pauses: &[(u64, Duration)]) -> Vec<(Instant, u32)> {
        let begun = Instant::now();
        let mut pacer = Pacer::new(per_second, begun);
        let (mut now, mut all) = (begun, Vec::new());
        while now < begun + 20 * SECOND {
            let turns = pacer.turns(now);
            pacer.took(turns);
            all.push((now, turns));
            now += step;
            for &(second, pause) in pauses {
                let at = begun + Duration::from_secs(second);
                if now >= at && now < at + step {
                    now += pause;
                }
            }
        }
        all
    }

    #[test]
    fn in_no_second_are_more_taken_than_one_and_a_fifth_of_the_rate() {
        for per_second in [1, 3, 50, 500, 20_000] {
            for step in [1, 20, 33, 170].map(Duration::from_millis) {
                for pauses in [&[][..], &[(3, 700 * SECOND / 1000), (5, 4 * SECOND)]] {
                    let all = taken(per_second, step, pauses);
                    for (nth, &(from, _)) in all.iter().enumerate() {
                        let within = all[nth..].iter().take_while(|(at, _)| *at < from + SECOND);
                        let count: u32 = within.map(|(_, turns)| turns).sum();
                        let most = (f64::from(per_second) * 1.2).max(f64::from(per_second) + 1.0);
                        assert!(f64::from(count) <= most, "{count} of {per_second} in {step:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_rate_is_reached() {
        for per_second in [1, 3, 50, 500, 20_000] {
            let all = taken(per_second, Duration::from_millis(20), &[]);
            let count: u32 = all.iter().map(|(_, turns)| turns).sum();
            assert!(count + per_second / 10 + 1 >= per_second * 20, "{count} at {per_second}");
        }
    }

    #[test]
    fn a_rate_that_changes_brings_no_turns_of_its_own() {
        let begun = Instant::now();
        let mut pacer = Pacer::new(100, begun);
        let turns = pacer.turns(begun + SECOND);
        assert_eq!(turns, 10, "a tenth of a second's");
        pacer.took(turns);
        let mut faster = pacer.at_rate(1_000);
        assert_eq!(faster.turns(begun + SECOND), 0);
        assert_eq!(faster.turns(begun + SECOND + Duration::from_millis(10)), 10);
    }
}
