//! What of the stored pushes arrived, and when.

use super::links;
use super::pushes::Count;
use hawser_loadtest::judge::{Event, Kind};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

#[derive(Debug, Default)]
pub(super) struct Arrivals {
    pub(super) acknowledged: usize,
    pub(super) missing: usize,
    /// From being answered, or the healing if that was later, to the app; in milliseconds, sorted.
    delays_ms: Vec<u64>,
    redelivered: usize,
    /// Words to apps that something is or may be lost.
    declared: usize,
    tries: u64,
    unknown: u64,
}

impl Arrivals {
    pub(super) fn of(events: &[Event], healed: u64) -> Self {
        let mut answered: HashMap<&str, u64> = HashMap::new();
        let mut arrived: HashMap<&str, u64> = HashMap::new();
        let (mut redelivered, mut declared) = (0, 0);
        for event in events {
            match event.kind {
                Kind::PushOk => drop(answered.entry(&event.push).or_insert(event.t)),
                Kind::RecvApp => {
                    redelivered += usize::from(event.redelivered);
                    arrived.entry(&event.push).or_insert(event.t);
                }
                Kind::Gap | Kind::TermChanged => declared += 1,
                _ => {}
            }
        }
        let mut delays_ms = Vec::new();
        let mut missing = 0;
        for (push, answered) in &answered {
            match arrived.get(push) {
                // Only what the fault held up tells how fast it was over.
                Some(arrived) if *arrived >= healed => {
                    let since = healed.max(*answered);
                    delays_ms.push(arrived.saturating_sub(since) / 1_000_000);
                }
                Some(_) => {}
                None => missing += 1,
            }
        }
        delays_ms.sort_unstable();
        let acknowledged = answered.len();
        Self { acknowledged, missing, delays_ms, redelivered, declared, ..Self::default() }
    }

    pub(super) fn counted(&mut self, count: &Count) {
        self.tries = count.tries.load(Ordering::Relaxed);
        self.unknown = count.unknown.load(Ordering::Relaxed);
    }

    /// The 99th percentile of what arrived after the healing, in milliseconds.
    pub(super) fn p99_ms(&self) -> u64 {
        links::share(&self.delays_ms, 0.99)
    }
}

impl std::fmt::Display for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} stored in {} tries, {} unknown, {} not arrived, {} redelivered, {} words of loss; \
             stored pushes after healing p99 {} ms",
            self.acknowledged,
            self.tries,
            self.unknown,
            self.missing,
            self.redelivered,
            self.declared,
            self.p99_ms()
        )
    }
}
