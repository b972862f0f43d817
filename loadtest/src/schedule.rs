//! How many of something are due by when: rates that hold, change at once, or ramp, as straight pieces one
//! after the other. Times are seconds since the run began.

use serde::{Deserialize, Serialize};

/// A rate over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Schedule(Vec<Piece>);

/// A stretch of time over which a rate changes evenly, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub(crate) seconds: f64,
    /// Each second, at its begin and at its end.
    pub(crate) from: f64,
    pub(crate) to: f64,
}

impl Piece {
    /// How many fall due in the first `seconds` of it.
    fn due_within(self, seconds: f64) -> f64 {
        let rise = (self.to - self.from) / self.seconds;
        (self.from + rise * seconds / 2.0) * seconds
    }

    /// After how many seconds so many have become due; there are as many.
    fn until_due(self, count: f64) -> f64 {
        let rise = (self.to - self.from) / self.seconds;
        // The usual form of the root divides by the rise, which is mostly zero.
        let root = (self.from * self.from + 2.0 * rise * count).max(0.0).sqrt();
        let sum = self.from + root;
        if sum > 0.0 { 2.0 * count / sum } else { 0.0 }
    }
}

impl Schedule {
    /// The same rate for ever.
    pub(crate) fn steady(per_second: f64) -> Self {
        Self::of([Piece { seconds: f64::MAX, from: per_second, to: per_second }])
    }

    /// These pieces, and nothing after them.
    pub(crate) fn of(pieces: impl IntoIterator<Item = Piece>) -> Self {
        Self(pieces.into_iter().filter(|piece| piece.seconds > 0.0).collect())
    }

    /// The same times with a share of the rates.
    pub(crate) fn share(&self, share: f64) -> Self {
        let part = |piece: &Piece| Piece {
            from: piece.from * share,
            to: piece.to * share,
            seconds: piece.seconds,
        };
        Self(self.0.iter().map(part).collect())
    }

    /// How many are due by then.
    pub(crate) fn due_by(&self, at: f64) -> f64 {
        let (mut left, mut due) = (at.max(0.0), 0.0);
        for piece in &self.0 {
            due += piece.due_within(left.min(piece.seconds));
            left -= piece.seconds;
            if left <= 0.0 {
                break;
            }
        }
        due
    }

    /// When this one is due, the first being 0; `None`: never.
    ///
    /// Each comes half a distance after what it would be by [`Self::due_by`], so that nothing is due at the
    /// very begin, and none falls onto the end of a piece.
    pub(crate) fn at(&self, number: u64) -> Option<f64> {
        let (mut left, mut begin) = (number as f64 + 0.5, 0.0);
        for piece in &self.0 {
            let here = piece.due_within(piece.seconds);
            if left < here {
                return Some(begin + piece.until_due(left));
            }
            left -= here;
            begin += piece.seconds;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(seconds: f64, from: f64, to: f64) -> Piece {
        Piece { seconds, from, to }
    }

    #[test]
    fn a_steady_rate_is_due_at_even_distances_and_for_ever() {
        let steady = Schedule::steady(4.0);
        let times: Vec<_> = (0..4).filter_map(|number| steady.at(number)).collect();
        assert_eq!(times, [0.125, 0.375, 0.625, 0.875]);
        assert!((steady.due_by(1e6) - 4e6).abs() < 1e-3);
        assert_eq!(Schedule::steady(0.0).at(0), None);
    }

    #[test]
    fn a_ramp_is_due_as_its_area_says() {
        let ramp =
            Schedule::of([piece(10.0, 0.0, 20.0), piece(5.0, 20.0, 20.0), piece(5.0, 0.0, 0.0)]);
        assert!((ramp.due_by(5.0) - 25.0).abs() < 1e-9);
        assert!((ramp.due_by(10.0) - 100.0).abs() < 1e-9);
        assert!((ramp.due_by(100.0) - 200.0).abs() < 1e-9);
        for number in 0..200 {
            let at = ramp.at(number).expect("within the area");
            assert!((ramp.due_by(at) - (number as f64 + 0.5)).abs() < 1e-6, "{number} at {at}");
        }
        assert_eq!(ramp.at(200), None);
    }

    #[test]
    fn a_ramp_may_fall_and_a_pause_holds_nothing() {
        let fall =
            Schedule::of([piece(4.0, 10.0, 0.0), piece(6.0, 0.0, 0.0), piece(1.0, 5.0, 5.0)]);
        assert!((fall.due_by(9.0) - 20.0).abs() < 1e-9);
        let first_after_the_pause = fall.at(20).expect("five come after it");
        assert!((first_after_the_pause - 10.1).abs() < 1e-9, "{first_after_the_pause}");
    }

    #[test]
    fn shares_add_up() {
        let whole = Schedule::of([piece(3.0, 10.0, 30.0)]);
        let [one, other] = [0.25, 0.75].map(|share| whole.share(share).due_by(2.0));
        assert!((one + other - whole.due_by(2.0)).abs() < 1e-9);
    }
}
