//! When a device may begin to dial: grants are counted against what the access nodes take in a second, and
//! whoever is above it is told to wait for its turn. Without it a storm of first connections would be
//! refused by the nodes one by one. Pure: the time comes in as an argument.

use std::time::Duration;

/// Nobody is told to wait longer; the nodes' own refusals spread what is above it.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Grants of this long may come at once.
const BURST_MS: f64 = 1_000.0;

/// The turns that were given out.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the next turn is, in milliseconds since 1970.
    next_ms: f64,
}

impl Pace {
    /// Takes a turn, of `per_second` in a second; 0: nobody knows, so nobody waits. `spread`, 0 to 1, says
    /// where in the last half of the longest wait a device goes that finds no turn before it.
    pub(crate) fn turn(&mut self, per_second: u64, spread: f64, now_ms: u64) -> Duration {
        if per_second == 0 {
            return Duration::ZERO;
        }
        let now = now_ms as f64;
        let last = now + WAIT_MAX.as_millis() as f64;
        // A clock that went back must not leave everybody waiting for its old time.
        let turn = self.next_ms.clamp(now - BURST_MS, last);
        if turn >= last {
            return WAIT_MAX.mul_f64(0.5 + spread.clamp(0.0, 1.0) / 2.0);
        }
        self.next_ms = turn + 1_000.0 / per_second as f64;
        Duration::from_millis((turn - now).max(0.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn below_the_rate_nobody_waits_and_above_it_everybody_has_a_turn() {
        let mut pace = Pace::default();
        for second in 0..5 {
            for grant in 0..100 {
                let now_ms = NOW + second * 1_000 + grant * 10;
                assert_eq!(pace.turn(100, 0.0, now_ms), Duration::ZERO);
            }
        }
        let mut pace = Pace::default();
        let waits: Vec<_> = (0..2_000).map(|_| pace.turn(100, 0.0, NOW)).collect();
        assert_eq!(waits.iter().filter(|wait| wait.is_zero()).count(), 101, "one second's at once");
        assert!(waits.is_sorted());
        let last = waits[1_999].as_secs_f64();
        assert!((18.9..19.1).contains(&last), "{last}");
        // In any second as many begin as the nodes take.
        for second in 1..19 {
            let count = waits.iter().filter(|wait| wait.as_secs() == second).count();
            assert!((99..=101).contains(&count), "{count} in second {second}");
        }
    }

    #[test]
    fn the_wait_is_bounded_and_a_clock_that_goes_back_is_forgiven() {
        let mut pace = Pace::default();
        for _ in 0..1_000 {
            assert!(pace.turn(10, 1.0, NOW) <= WAIT_MAX);
        }
        assert_eq!(pace.turn(10, 0.0, NOW), WAIT_MAX / 2);
        assert_eq!(pace.turn(10, 1.0, NOW), WAIT_MAX);
        assert!(pace.turn(10, 0.5, NOW - 3_600_000) <= WAIT_MAX);
        assert_eq!(pace.turn(10, 0.5, NOW + 3_600_000), Duration::ZERO);
        assert_eq!(Pace::default().turn(0, 0.5, NOW), Duration::ZERO);
    }
}
