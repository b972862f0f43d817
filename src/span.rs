//! Spans and points of time as people write them, in configuration files and on the command line.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const DAY_MS: u64 = 86_400_000;

/// A span of time: a whole number and `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = text[..digits].parse().ok()?;
        let unit_ms = match &text[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => DAY_MS,
            _ => return None,
        };
        Some(Self(Duration::from_millis(count.checked_mul(unit_ms)?)))
    }

    /// In whole milliseconds.
    pub(crate) fn as_millis(self) -> u64 {
        // Every span was made of a `u64` of them.
        self.0.as_millis() as u64
    }
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = "a span of time is a whole number and ms, s, m, h or d, such as 10s";
        Self::parse(text).ok_or(wanted)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SpanText)
    }
}

/// Says what a span is to whoever wrote a bare number.
struct SpanText;

impl Visitor<'_> for SpanText {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a span of time with its unit, such as \"10s\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(E::custom)
    }
}

/// A point in time: milliseconds since 1970, written as such or as `2026-11-21T23:59:07Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instant(pub(crate) u64);

impl Instant {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(ms) = text.parse() {
            return Some(Self(ms));
        }
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            _ => return None,
        };
        let is_real = year >= 1970 && (1..=last).contains(&day);
        if !is_real || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        // Days since 1970, after Howard Hinnant's `days_from_civil`: years begin in March, so that the leap
        // day is the last of its year.
        let shifted = year - u64::from(month <= 2);
        let (era, year_of_era) = (shifted / 400, shifted % 400);
        let month_from_march = (month + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        Some(Self(days * DAY_MS + (hour * 3_600 + minute * 60 + second) * 1_000))
    }
}

/// Three numbers of fixed width.
fn numbers(text: &str, between: char, widths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(between);
    let mut found = [0; 3];
    for (number, width) in found.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

impl FromStr for Instant {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = "a point in time is 2026-11-21T23:59:07Z, or milliseconds since 1970";
        Self::parse(text).ok_or(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_number_and_a_unit() {
        for (text, wanted_ms) in [
            ("0s", 0),
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(Span::parse(text), Some(Span(Duration::from_millis(wanted_ms))), "{text}");
        }
        for bad in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "10 s",
            "1w",
            "99999999999999999999s",
            "9999999999999999999h",
        ] {
            assert_eq!(Span::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn points_in_time_are_a_date_or_milliseconds() {
        for (text, wanted_ms) in [
            ("0", 0),
            ("1795305599999", 1_795_305_599_999),
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("2026-11-21T23:59:59Z", 1_795_305_599_000),
            ("2100-01-01T00:00:00Z", 4_102_444_800_000),
        ] {
            assert_eq!(Instant::parse(text), Some(Instant(wanted_ms)), "{text}");
        }
        for bad in [
            "",
            "-1",
            "tomorrow",
            "2026-11-21",
            "2026-11-21T23:59:59",
            "2026-11-21 23:59:59Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-1-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-01-01-01T00:00:00Z",
            "+026-01-01T00:00:00Z",
        ] {
            assert_eq!(Instant::parse(bad), None, "{bad}");
        }
    }
}
