//! One axis of a picture: where a number lies on it, where its marks stand, and how numbers are written
//! for people. Pure; pictures and tables write their numbers alike.

/// Marks of a linear axis, about.
const MARKS: f64 = 4.0;
/// Steps between marks in time, in seconds.
const TIME_STEPS: [f64; 16] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 7_200.0,
    21_600.0, 86_400.0,
];
const KIB: f64 = 1024.0;

/// What an axis counts, and so how it is divided and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Seconds since the run began.
    Time,
    /// Of anything.
    Count,
    /// Bytes.
    Bytes,
    /// CPU cores in use.
    Cores,
    /// Microseconds, by decades.
    Delay,
    /// A share below 1, by nines: what matters of delays happens in the last of them.
    Share,
}

/// An axis over what it has to show.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) unit: Unit,
    /// In words, with the unit.
    pub(super) label: String,
    /// Where it begins and ends, as positions.
    ends: (f64, f64),
    /// From mark to mark, where marks are that far apart.
    step: f64,
}

impl Axis {
    /// From zero (delays: from the decade of the least) to the mark above the most.
    pub(super) fn over(
        unit: Unit,
        label: impl Into<String>,
        values: impl Iterator<Item = f64>,
    ) -> Self {
        let (least, most) = values
            .filter(|it| it.is_finite())
            .fold((f64::INFINITY, 0_f64), |(least, most), it| (least.min(it), most.max(it)));
        let step = step(unit, most);
        let ends = match unit {
            Unit::Delay if least.is_finite() => {
                let (low, high) = (position(unit, least).floor(), position(unit, most).ceil());
                (low, high.max(low + 1.0))
            }
            Unit::Delay => (3.0, 4.0),
            Unit::Share => (0.0, position(unit, most).max(1.0)),
            Unit::Time => (0.0, most.max(1.0)),
            Unit::Count | Unit::Bytes | Unit::Cores => (0.0, (most / step).ceil().max(1.0) * step),
        };
        Self { unit, label: label.into(), ends, step }
    }

    /// Where a number lies: 0 at the begin of the axis, 1 at its end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let (from, to) = self.ends;
        ((position(self.unit, value) - from) / (to - from)).clamp(0.0, 1.0)
    }

    /// Where marks stand, and what is written at each.
    pub(super) fn marks(&self) -> Vec<(f64, String)> {
        let (from, to) = self.ends;
        let values: Vec<f64> = match self.unit {
            Unit::Delay => {
                // More decades than fit are marked every other one.
                let every = ((to - from) / 6.0).ceil().max(1.0) as usize;
                (from as i32..=to as i32).step_by(every).map(|it| 10_f64.powi(it)).collect()
            }
            Unit::Share => std::iter::once(0.5)
                .chain((1..=to as i32).map(|nines| 1.0 - 10_f64.powi(-nines)))
                .collect(),
            Unit::Time | Unit::Count | Unit::Bytes | Unit::Cores => {
                let count = (to / self.step + 1e-9) as usize;
                (0..=count).map(|it| it as f64 * self.step).collect()
            }
        };
        values.into_iter().map(|value| (self.at(value), self.written(value))).collect()
    }

    /// As at a mark, but with all digits of a count.
    pub(super) fn written_in_full(&self, value: f64) -> String {
        match self.unit {
            Unit::Count if value.fract() == 0.0 => whole(value as u64),
            Unit::Count => trimmed(value, 1),
            _ => self.written(value),
        }
    }

    fn written(&self, value: f64) -> String {
        match self.unit {
            Unit::Time => clock(value),
            Unit::Count => short(value),
            Unit::Bytes => bytes(value),
            Unit::Cores => trimmed(value, 2),
            Unit::Delay => delay(value),
            Unit::Share => share(value),
        }
    }
}

/// Where a number lies on an axis without ends.
fn position(unit: Unit, value: f64) -> f64 {
    match unit {
        // Nothing is faster than what a clock of microseconds tells.
        Unit::Delay => value.max(1.0).log10(),
        Unit::Share => -(1.0 - value).max(1e-12).log10(),
        _ => value,
    }
}

/// Between two marks: 1, 2 or 5 of a decade, of a power of 1024 for bytes, round times for times.
fn step(unit: Unit, most: f64) -> f64 {
    // A sample that comes a little late must not cost every other mark.
    let wanted = most / MARKS * 0.98;
    match unit {
        Unit::Time => {
            let round = TIME_STEPS.into_iter().find(|step| *step >= wanted);
            round.unwrap_or_else(|| (wanted / 86_400.0).ceil() * 86_400.0)
        }
        Unit::Bytes => {
            let mut unit = 1.0;
            while wanted / unit >= KIB {
                unit *= KIB;
            }
            unit * one_two_five(wanted / unit).max(1.0)
        }
        Unit::Count => one_two_five(wanted).max(1.0),
        _ => one_two_five(wanted),
    }
}

fn one_two_five(wanted: f64) -> f64 {
    if wanted <= 0.0 {
        return 1.0;
    }
    let decade = 10_f64.powf(wanted.log10().floor());
    let round = [1.0, 2.0, 5.0].into_iter().find(|it| it * decade >= wanted * 0.999);
    decade * round.unwrap_or(10.0)
}

/// Seconds as minutes and seconds, or hours.
pub(super) fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (whole / 3_600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// A whole number, in groups of three digits.
pub(super) fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number that may be large, in thousands or millions.
pub(super) fn short(number: f64) -> String {
    match number {
        _ if number >= 1e9 => format!("{} G", trimmed(number / 1e9, 2)),
        _ if number >= 1e6 => format!("{} M", trimmed(number / 1e6, 2)),
        _ if number >= 1e3 => format!("{} k", trimmed(number / 1e3, 1)),
        _ if number >= 100.0 || number.fract() == 0.0 => whole(number.round() as u64),
        _ => trimmed(number, 1),
    }
}

/// Bytes, in powers of 1024.
pub(super) fn bytes(number: f64) -> String {
    let power = [("GiB", 3), ("MiB", 2), ("KiB", 1)]
        .into_iter()
        .find(|(_, power)| number >= KIB.powi(*power));
    match power {
        Some((name, power)) => format!("{} {name}", trimmed(number / KIB.powi(power), 1)),
        None => format!("{} B", trimmed(number, 0)),
    }
}

/// Microseconds, with three digits that count.
pub(super) fn delay(micros: f64) -> String {
    let (value, unit) = match micros {
        _ if micros >= 1e6 => (micros / 1e6, "s"),
        _ if micros >= 1e3 => (micros / 1e3, "ms"),
        _ => (micros, "µs"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{} {unit}", trimmed(value, decimals))
}

/// A share in percent, with as many nines as it has.
pub(super) fn share(share: f64) -> String {
    format!("{} %", trimmed(share * 100.0, 10))
}

/// With at most so many decimals, and no zeros at the end.
pub(super) fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(unit: Unit, values: &[f64]) -> Vec<String> {
        let axis = Axis::over(unit, "", values.iter().copied());
        axis.marks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn marks_are_round_and_reach_the_most() {
        let check = |unit, values: &[f64], expected: &[&str]| {
            assert_eq!(marks(unit, values), expected, "{values:?}");
        };
        check(Unit::Count, &[0.0, 3.0], &["0", "1", "2", "3"]);
        check(Unit::Count, &[57_000.0], &["0", "20 k", "40 k", "60 k"]);
        check(Unit::Count, &[20.3], &["0", "5", "10", "15", "20", "25"]);
        check(Unit::Count, &[], &["0", "1"]);
        check(Unit::Cores, &[0.7], &["0", "0.2", "0.4", "0.6", "0.8"]);
        check(Unit::Bytes, &[300.0 * KIB * KIB], &["0 B", "100 MiB", "200 MiB", "300 MiB"]);
        check(Unit::Time, &[95.0], &["0:00", "0:30", "1:00", "1:30"]);
        check(Unit::Time, &[120.01], &["0:00", "0:30", "1:00", "1:30", "2:00"]);
        check(Unit::Time, &[7_200.0], &["0:00", "30:00", "1:00:00", "1:30:00", "2:00:00"]);
        check(Unit::Delay, &[320.0, 48_000.0], &["100 µs", "1 ms", "10 ms", "100 ms"]);
        check(Unit::Share, &[0.9995], &["50 %", "90 %", "99 %", "99.9 %"]);
    }

    #[test]
    fn each_nine_takes_the_same_room_and_so_does_each_decade() {
        let tail = Axis::over(Unit::Share, "", [0.9999].into_iter());
        assert!((tail.at(0.9) - 0.25).abs() < 1e-9 && (tail.at(0.99) - 0.5).abs() < 1e-9);
        let delays = Axis::over(Unit::Delay, "", [1_000.0, 100_000.0].into_iter());
        assert!((delays.at(10_000.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn what_is_no_number_bends_no_axis() {
        let axis = Axis::over(Unit::Count, "", [f64::NAN, f64::INFINITY, 8.0].into_iter());
        assert!((axis.at(8.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!(whole(1_234_567), "1,234,567");
        assert_eq!(whole(999), "999");
        assert_eq!(short(12_345.0), "12.3 k");
        assert_eq!(delay(999.0), "999 µs");
        assert_eq!(delay(12_345.0), "12.3 ms");
        assert_eq!(delay(2_500_000.0), "2.5 s");
        assert_eq!(share(0.99999), "99.999 %");
        assert_eq!(clock(3_725.0), "1:02:05");
    }
}
