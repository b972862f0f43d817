//! What became of the stored pushes: when each was answered, and when it arrived.

use super::links;
use super::pushes::Count;
use hawser_loadtest::judge::{Event, Kind};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;

/// The fates of all pushes of a row, and what the apps were told of losses.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    pub(super) acknowledged: usize,
    pub(super) missing: usize,
    fates: Vec<Fate>,
    /// When things were whole again.
    heals: Vec<u64>,
    /// The healing that [`Arrivals::p99_ms`] is about.
    healed: u64,
    redelivered: usize,
    /// Words to apps that something is or may be lost.
    declared: usize,
    tries: u64,
    unknown: u64,
    refused: u64,
}

/// One push: when each thing happened to it, if it did.
#[derive(Clone, Debug, Default)]
struct Fate {
    device: String,
    called: u64,
    answered: Option<u64>,
    /// Refused for good; or given up, and nobody knows.
    failed: Option<u64>,
    arrived: Option<u64>,
}

/// How long some pushes waited for something, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) count: usize,
    pub(super) p99: u64,
    pub(super) longest: u64,
    /// Those for which it never came.
    pub(super) never: usize,
}

impl Waits {
    fn of(waits: impl Iterator<Item = Option<u64>>) -> Self {
        let (mut sorted, mut never) = (Vec::new(), 0);
        for wait in waits {
            match wait {
                Some(wait) => sorted.push(wait / 1_000_000),
                None => never += 1,
            }
        }
        sorted.sort_unstable();
        Self {
            count: sorted.len() + never,
            p99: links::share(&sorted, 0.99),
            longest: sorted.last().copied().unwrap_or(0),
            never,
        }
    }
}

impl Arrivals {
    pub(super) fn of(events: &[Event], healed: u64) -> Self {
        let mut fates: HashMap<&str, Fate> = HashMap::new();
        let mut all = Self { healed, ..Self::default() };
        for event in events {
            match event.kind {
                Kind::PushCall => {
                    let fate = fates.entry(&event.push).or_default();
                    (fate.called, fate.device) = (event.t, event.device.clone());
                }
                Kind::PushOk => {
                    fates.entry(&event.push).or_default().answered.get_or_insert(event.t);
                }
                Kind::PushFail | Kind::PushUnknown => {
                    fates.entry(&event.push).or_default().failed.get_or_insert(event.t);
                }
                Kind::RecvApp => {
                    all.redelivered += usize::from(event.redelivered);
                    fates.entry(&event.push).or_default().arrived.get_or_insert(event.t);
                }
                Kind::Gap | Kind::TermChanged => all.declared += 1,
                Kind::FaultOff => all.heals.push(event.t),
                _ => {}
            }
        }
        // Whatever was handed over without having been called here is another's.
        all.fates = fates.into_values().filter(|fate| fate.called > 0).collect();
        let acknowledged = all.fates.iter().filter(|fate| fate.answered.is_some());
        all.acknowledged = acknowledged.clone().count();
        all.missing = acknowledged.filter(|fate| fate.arrived.is_none()).count();
        all
    }

    pub(super) fn counted(&mut self, count: &Count) {
        self.tries = count.tries.load(Ordering::Relaxed);
        self.unknown = count.unknown.load(Ordering::Relaxed);
        self.refused = count.refused.load(Ordering::Relaxed);
    }

    /// Calls without a position: those refused for good, and those given up.
    pub(super) fn without_position(&self) -> (u64, u64) {
        (self.refused, self.unknown)
    }

    /// The 99th percentile of what was due at the healing, in milliseconds.
    pub(super) fn p99_ms(&self) -> u64 {
        self.due(self.healed).p99
    }

    /// What was due at a healing, having been answered or called before it: from the healing to the app.
    /// What is lost as declared never comes; the judge knows which may be.
    pub(super) fn due(&self, healed: u64) -> Waits {
        let earlier = self.heals.iter().copied().filter(|it| *it < healed).max().unwrap_or(0);
        // What was under way at an earlier healing counts there.
        let due = self.fates.iter().filter(|it| it.called < healed && it.called >= earlier);
        let late = due.filter_map(|it| it.arrived).filter(|arrived| *arrived >= healed);
        Waits::of(late.map(|arrived| Some(arrived - healed)))
    }

    /// The same of each healing.
    pub(super) fn each_healing(&self) -> Vec<Waits> {
        self.heals.iter().map(|healed| self.due(*healed)).collect()
    }

    /// Pushes that were under way at `from`, or called from then to `to`: from then, or the call if that
    /// was later, to the answer with a position. One that was refused or given up never had it.
    pub(super) fn answers(&self, from: u64, to: u64) -> Waits {
        let ended = |it: &Fate| it.answered.or(it.failed);
        let some = self.fates.iter().filter(|it| it.called < to);
        let some = some.filter(|it| ended(it).is_none_or(|ended| ended >= from));
        Waits::of(some.map(|it| it.answered.map(|at| at.saturating_sub(it.called.max(from)))))
    }

    /// Pushes to these devices that had not arrived at `from`, or were called from then to `to`: from
    /// then, or the answer if that was later, to the app. Those without an answer are left out.
    pub(super) fn handed(&self, from: u64, to: u64, devices: &BTreeSet<String>) -> Waits {
        let some = self.fates.iter().filter(|it| it.called < to && devices.contains(&it.device));
        let some = some.filter(|it| it.arrived.is_none_or(|arrived| arrived >= from));
        Waits::of(some.filter_map(|it| {
            let answered = it.answered?;
            Some(it.arrived.map(|arrived| arrived.saturating_sub(answered.max(from))))
        }))
    }
}

impl std::fmt::Display for Arrivals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} stored in {} tries, {} not arrived, {} redelivered, {} words of loss",
            self.acknowledged, self.tries, self.missing, self.redelivered, self.declared,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn event(t: u64, kind: Kind, push: &str) -> Event {
        Event { push: push.to_owned(), device: "x".to_owned(), ..Event::new(t * MS, kind) }
    }

    #[test]
    fn each_healing_has_its_own_backlog_without_what_came_fresh() {
        let mut events = vec![
            event(50, Kind::FaultOn, ""),
            event(60, Kind::PushCall, "held up"),
            event(100, Kind::FaultOff, ""),
            event(3_100, Kind::RecvApp, "held up"),
            event(4_000, Kind::FaultOn, ""),
            event(4_010, Kind::PushCall, "second"),
            event(4_100, Kind::FaultOff, ""),
            event(4_101, Kind::PushOk, "second"),
            event(4_107, Kind::RecvApp, "second"),
        ];
        for number in 0..1_000 {
            let fresh = format!("fresh {number}");
            events.push(event(5_000, Kind::PushCall, &fresh));
            events.push(event(5_001, Kind::RecvApp, &fresh));
        }
        let each = Arrivals::of(&events, 4_100 * MS).each_healing();
        let each: Vec<_> = each.iter().map(|it| (it.count, it.p99)).collect();
        assert_eq!(each, [(1, 3_000), (1, 7)]);
        assert_eq!(Arrivals::of(&[], 7).due(7).count, 0);
    }

    #[test]
    fn a_push_without_an_answer_waits_for_ever() {
        let events = [
            event(10, Kind::PushCall, "before"),
            event(20, Kind::PushOk, "before"),
            event(90, Kind::PushCall, "under way"),
            event(110, Kind::PushCall, "refused"),
            event(120, Kind::PushFail, "refused"),
            event(130, Kind::PushCall, "given up"),
            event(140, Kind::PushCall, "late"),
            event(900, Kind::PushCall, "after"),
            event(2_140, Kind::PushOk, "late"),
            event(7_100, Kind::PushOk, "under way"),
            event(90_000, Kind::PushUnknown, "given up"),
        ];
        let answers = Arrivals::of(&events, 0).answers(100 * MS, 800 * MS);
        assert_eq!(answers, Waits { count: 4, p99: 7_000, longest: 7_000, never: 2 });
    }

    #[test]
    fn what_is_answered_and_not_handed_over_is_counted() {
        let events = [
            event(90, Kind::PushCall, "a"),
            event(95, Kind::PushOk, "a"),
            event(600, Kind::RecvApp, "a"),
            event(200, Kind::PushCall, "b"),
            event(210, Kind::PushOk, "b"),
        ];
        let all = Arrivals::of(&events, 0);
        let here = BTreeSet::from(["x".to_owned()]);
        assert_eq!(
            all.handed(100 * MS, 800 * MS, &here),
            Waits { count: 2, p99: 500, longest: 500, never: 1 }
        );
        assert_eq!(all.handed(100 * MS, 800 * MS, &BTreeSet::new()).count, 0);
    }
}
