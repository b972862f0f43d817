//! Delays by the million in a few kilobytes: counts in buckets three percent apart, that travel between
//! processes and add up.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Buckets of each power of two: neighbours are at most 3.2 % apart.
const STEPS: u64 = 32;

/// Counted delays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Delays(BTreeMap<u32, u64>);

impl Delays {
    /// One more.
    pub fn add(&mut self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        *self.0.entry(bucket(micros)).or_default() += 1;
    }

    /// All of another's.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The delay that this share of them does not exceed; zero when there are none.
    pub fn at(&self, share: f64) -> Duration {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in &self.0 {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros(upper(*bucket));
            }
        }
        Duration::ZERO
    }

    /// The whole distribution, from the shortest: which share of them does not exceed which delay. The last
    /// share is 1. No pairs when there are none.
    pub fn shares(&self) -> impl Iterator<Item = (f64, Duration)> {
        let count = self.count() as f64;
        self.0.iter().scan(0, move |seen, (bucket, here)| {
            *seen += here;
            Some((*seen as f64 / count, Duration::from_micros(upper(*bucket))))
        })
    }

    /// The 99th of a hundred, in milliseconds.
    pub fn p99_ms(&self) -> f64 {
        self.at(0.99).as_secs_f64() * 1e3
    }
}

impl fmt::Display for Delays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| self.at(share).as_secs_f64() * 1e3);
        write!(f, "p50 {p50:.1} ms, p99 {p99:.1} ms, longest {most:.0} ms of {}", self.count())
    }
}

impl Extend<Duration> for Delays {
    fn extend<T: IntoIterator<Item = Duration>>(&mut self, delays: T) {
        delays.into_iter().for_each(|delay| self.add(delay));
    }
}

impl FromIterator<Duration> for Delays {
    fn from_iter<T: IntoIterator<Item = Duration>>(delays: T) -> Self {
        let mut all = Self::default();
        all.extend(delays);
        all
    }
}

fn bucket(micros: u64) -> u32 {
    if micros < STEPS {
        return micros as u32;
    }
    let power = micros.ilog2();
    let step = (micros >> (power - STEPS.ilog2())) - STEPS;
    (power - STEPS.ilog2() + 1) * STEPS as u32 + step as u32
}

/// The largest that falls into a bucket.
fn upper(bucket: u32) -> u64 {
    let (row, step) = (u64::from(bucket) / STEPS, u64::from(bucket) % STEPS);
    if row == 0 { step } else { ((STEPS + step + 1) << (row - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_lies_within_three_percent() {
        for micros in (0..5_000).chain([1 << 20, (1 << 30) + 12_345, 1 << 40]) {
            let upper = upper(bucket(micros));
            assert!(upper >= micros && upper as f64 <= micros as f64 * 1.032, "{micros}: {upper}");
        }
    }

    #[test]
    fn percentiles_are_those_of_all_that_were_merged() {
        let mut all: Delays = (1..=900).map(Duration::from_millis).collect();
        all.merge(&(901..=1_000).map(Duration::from_millis).collect());
        assert_eq!(all.count(), 1_000);
        assert!((all.p99_ms() - 990.0).abs() < 32.0, "{all}");
        assert_eq!(Delays::default().at(0.99), Duration::ZERO);
    }

    #[test]
    fn shares_grow_to_one_and_agree_with_percentiles() {
        let all: Delays = (1..=1_000).map(Duration::from_millis).collect();
        let shares: Vec<_> = all.shares().collect();
        assert!(shares.is_sorted() && shares.last().is_some_and(|(share, _)| *share >= 1.0));
        for (share, delay) in shares {
            // A little less, so that rounding does not ask for one more.
            assert_eq!(all.at(share - 1e-9), delay, "{share}");
        }
        assert_eq!(Delays::default().shares().count(), 0);
    }
}
