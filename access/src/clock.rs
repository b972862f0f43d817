//! What time it is, for tokens and tickets: the machine's clock, unless it jumps.
//!
//! A clock that is set an hour ahead by mistake would end every session whose token has less than that left,
//! and one set back would let ended tokens in. So a jump is only followed when control's clock, which signs
//! the tokens, says the same; a clock that drifts or is slewed is followed as ever.

use hawser_proto::limits::CLOCK_LEEWAY;
use std::sync::atomic::{AtomicU64, Ordering};

/// More than this in one look is a jump. Two clocks that are no further apart agree.
const JUMP_MS: u64 = CLOCK_LEEWAY.as_millis() as u64 / 2;

/// Wall time, as offsets to a clock that never jumps: milliseconds since 1970 at its zero.
#[derive(Debug)]
pub(crate) struct WallClock {
    held: AtomicU64,
    /// The machine's own word, to tell of each jump once.
    seen: AtomicU64,
    /// 0: control has not told its time.
    control: AtomicU64,
}

/// The machine's clock has jumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Jump {
    /// By so many milliseconds.
    pub(crate) by_ms: i64,
    /// Control says the same.
    pub(crate) followed: bool,
}

impl WallClock {
    /// The machine's clock says `wall_ms` when the steady one says `steady_ms`.
    pub(crate) fn new(wall_ms: u64, steady_ms: u64) -> Self {
        let offset = wall_ms.saturating_sub(steady_ms);
        Self { held: offset.into(), seen: offset.into(), control: AtomicU64::new(0) }
    }

    /// The time at this steady time.
    pub(crate) fn at(&self, steady_ms: u64) -> u64 {
        self.held.load(Ordering::Relaxed) + steady_ms
    }

    /// Control's clock says so now.
    pub(crate) fn heard(&self, control_ms: u64, steady_ms: u64) {
        self.control.store(control_ms.saturating_sub(steady_ms), Ordering::Relaxed);
    }

    /// The machine's clock says so now. Tells of a jump, once.
    pub(crate) fn look(&self, wall_ms: u64, steady_ms: u64) -> Option<Jump> {
        let seen = wall_ms.saturating_sub(steady_ms);
        let before = self.seen.swap(seen, Ordering::Relaxed);
        let held = self.held.load(Ordering::Relaxed);
        let control = self.control.load(Ordering::Relaxed);
        let followed =
            seen.abs_diff(held) <= JUMP_MS || (control != 0 && seen.abs_diff(control) <= JUMP_MS);
        if followed {
            self.held.store(seen, Ordering::Relaxed);
        }
        let by_ms = seen.cast_signed().wrapping_sub(before.cast_signed());
        (by_ms.unsigned_abs() > JUMP_MS).then_some(Jump { by_ms, followed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOON: u64 = 1_800_000_000_000;

    #[test]
    fn a_jump_by_an_hour_is_not_followed_and_its_end_is_no_second_one() {
        let clock = WallClock::new(NOON, 0);
        clock.heard(NOON + 1_000, 1_000);
        for (steady, shift) in [(2_000, HOUR.cast_signed()), (4_000, -HOUR.cast_signed())] {
            let jumped = (NOON + steady).saturating_add_signed(shift);
            let jump = Jump { by_ms: shift, followed: false };
            assert_eq!(clock.look(jumped, steady), Some(jump));
            assert_eq!(clock.look(jumped + 250, steady + 250), None, "told once");
            assert_eq!(clock.at(steady), NOON + steady);
            assert!(clock.look(NOON + steady + 500, steady + 500).is_some_and(|it| it.followed));
            assert_eq!(clock.at(steady + 500), NOON + steady + 500);
        }
    }

    #[test]
    fn a_clock_that_was_wrong_at_the_start_is_set_right_once_control_agrees() {
        let clock = WallClock::new(NOON - HOUR, 0);
        let back = Jump { by_ms: HOUR.cast_signed(), followed: false };
        assert_eq!(clock.look(NOON + 10, 10), Some(back), "nobody else says so yet");
        clock.heard(NOON + 20, 20);
        clock.look(NOON + 30, 30);
        assert_eq!(clock.at(30), NOON + 30);
    }

    #[test]
    fn control_that_jumps_alone_is_not_believed() {
        let clock = WallClock::new(NOON, 0);
        clock.heard(NOON + HOUR, 0);
        assert_eq!(clock.look(NOON + 250, 250), None);
        assert_eq!(clock.at(250), NOON + 250);
    }

    #[test]
    fn a_clock_that_drifts_is_followed() {
        let clock = WallClock::new(NOON, 0);
        for second in 1..100 {
            assert_eq!(clock.look(NOON + second * 1_020, second * 1_000), None);
            assert_eq!(clock.at(second * 1_000), NOON + second * 1_020);
        }
    }
}
