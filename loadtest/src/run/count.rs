//! Everything that is seen of a run, second by second, and what it comes to.

use super::devices::Seen;
use super::limits::Parts;
use super::pushes::Pushed;
use crate::crowd::Told;
use crate::crowd::plan::Protocol;
use crate::scenario::{Bound, Quantity, Scenario};
use hawser_loadtest::delays::Delays;
use hawser_loadtest::outcome::{self, Measured, Outcome, Sample, Span};
use hawser_loadtest::report::Machine;
use std::collections::BTreeMap;

/// Counts of a result by name, each with what it means. Bounds may name them.
pub(crate) const TOTALS: &[(&str, &str)] = &[
    ("dials", "links that devices began to open"),
    ("logins", "logins that were answered with LOGIN_OK"),
    ("logins_by_ticket", "of them, those that showed a resume ticket"),
    ("logins_refused", "logins that were refused, or whose link ended before an answer"),
    ("logins_late", "logins without an answer in time"),
    ("logins_held_back", "logins that began later than the scenario says: too many were under way"),
    ("links_lost", "links that ended while their device was online and did not want it"),
    ("links_ended", "links that devices ended: the end of a session, a flap, or a cut"),
    ("joins_refused", "joins of a group that were not answered with membership"),
    ("requests", "requests of devices"),
    ("answers", "requests that the business answered"),
    ("failures", "requests that were answered with an error"),
    ("unanswered", "requests without any answer"),
    ("calls", "calls of the push API"),
    ("calls_failed", "calls that were answered with an error, or not in time"),
    ("calls_left_out", "calls that were not made since too many waited for an answer"),
    ("unicasts", "devices named in volatile pushes"),
    ("written", "of them, those whose push was written to a link"),
    ("stores", "devices named in stored pushes"),
    ("stored", "of them, those whose push was stored"),
    ("offline", "devices that were not online for a volatile push"),
    ("refused", "devices for which the push API refused a push, or does not know"),
    ("multicasts", "multicasts"),
    ("members", "members that multicasts went to, summed over them"),
    ("dropped", "members that were too slow for a multicast"),
    ("expected", "pushes that were written, stored, or sent to a member"),
    ("deliveries", "pushes that devices took, repeats left out"),
    (
        "lost",
        "volatile pushes and multicasts that were expected and did not arrive, and holes of inboxes",
    ),
    ("waiting", "stored pushes that have not arrived yet"),
    ("caught_up", "stored pushes that came after a time away"),
    ("repeated", "stored pushes that came twice without being marked"),
    ("wrong", "pushes that came to a device or a group that they were not for"),
    ("pings_answered", "answers to heartbeats"),
];

/// Looks without a delivery after which nothing more is expected.
const QUIET_LOOKS: usize = 3;

/// All that was seen so far.
pub(super) struct Counts {
    devices: u64,
    whole: Told,
    by_protocol: BTreeMap<Protocol, Told>,
    pushed: Pushed,
    samples: Vec<Sample>,
    online_most: u64,
    /// Looks in a row in which nothing arrived.
    quiet: usize,
}

impl Counts {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            devices: scenario.populations.iter().map(|it| u64::from(it.count)).sum(),
            whole: Told::default(),
            by_protocol: BTreeMap::new(),
            pushed: Pushed::default(),
            samples: Vec::new(),
            online_most: 0,
            quiet: 0,
        }
    }

    /// What was seen in the last second.
    pub(super) fn add(&mut self, at: f64, seen: &[Seen], pushed: &Pushed, parts: &Parts) {
        let before = self.totals();
        let mut now = Told::default();
        let mut by_protocol = BTreeMap::<Protocol, Told>::new();
        for one in seen {
            now.join(&one.told);
            by_protocol.entry(one.protocol).or_default().join(&one.told);
        }
        for (protocol, told) in by_protocol {
            self.by_protocol.entry(protocol).or_default().merge(&told);
        }
        self.whole.merge(&now);
        self.pushed = pushed.clone();
        self.online_most = self.online_most.max(now.online);
        let after = self.totals();
        let grown = |name: &str| after[name].saturating_sub(before[name]);
        let has_come = grown("deliveries") + grown("answers") + grown("failures") > 0;
        self.quiet = if has_come { 0 } else { self.quiet + 1 };
        let happened = [
            "logins",
            "logins_refused",
            "links_lost",
            "requests",
            "answers",
            "calls",
            "deliveries",
        ];
        let stands =
            [("online", now.online), ("under way", now.under_way), ("members", now.members)];
        self.samples.push(Sample {
            at,
            stands: stands.map(|(name, count)| (name.to_owned(), count)).into(),
            happened: happened.map(|name| (name.to_owned(), grown(name))).into(),
            memory: parts.memory.clone(),
            cores: parts.cores.clone(),
        });
    }

    /// The newest second.
    pub(super) fn newest(&self) -> Option<&Sample> {
        self.samples.last()
    }

    /// Everything that was expected has come, or nothing comes any more.
    pub(super) fn is_settled(&self) -> bool {
        let totals = self.totals();
        totals["deliveries"] >= totals["expected"] && totals["unanswered"] == 0
            || self.quiet >= QUIET_LOOKS
    }

    /// Dials so far.
    pub(super) fn whole(&self) -> &Told {
        &self.whole
    }

    pub(super) fn pushed(&self) -> &Pushed {
        &self.pushed
    }

    /// Every count so far, by name.
    pub(super) fn totals(&self) -> BTreeMap<&'static str, u64> {
        let (told, pushed) = (&self.whole, &self.pushed);
        let sum = |counts: &BTreeMap<u32, u64>| counts.values().sum::<u64>();
        let failures = sum(&told.failures);
        let volatile = told.pushes - told.stored + told.group_pushes;
        let volatile_expected = pushed.written + pushed.members;
        TOTALS
            .iter()
            .map(|(name, _)| {
                let count = match *name {
                    "dials" => told.dials,
                    "logins" => told.logins,
                    "logins_by_ticket" => told.by_ticket,
                    "logins_refused" => sum(&told.refused),
                    "logins_late" => told.late,
                    "logins_held_back" => told.held_back,
                    "links_lost" => told.lost - told.ended,
                    "links_ended" => told.ended,
                    "joins_refused" => told.not_joined,
                    "requests" => told.requests,
                    "answers" => told.answers,
                    "failures" => failures,
                    "unanswered" => told.requests.saturating_sub(told.answers + failures),
                    "calls" => pushed.calls,
                    "calls_failed" => pushed.failed,
                    "calls_left_out" => pushed.unsent,
                    "unicasts" => pushed.unicasts,
                    "written" => pushed.written,
                    "stores" => pushed.stores,
                    "stored" => pushed.stored,
                    "offline" => pushed.offline,
                    "refused" => pushed.refused,
                    "multicasts" => pushed.multicasts,
                    "members" => pushed.members,
                    "dropped" => pushed.dropped,
                    "expected" => volatile_expected + pushed.stored,
                    "deliveries" => volatile + told.stored_new,
                    "lost" => volatile_expected.saturating_sub(volatile) + told.holes,
                    "waiting" => pushed.stored.saturating_sub(told.stored_new),
                    "caught_up" => told.caught_up,
                    "repeated" => told.repeated,
                    "wrong" => told.wrong,
                    "pings_answered" => told.pongs,
                    _ => unreachable!("every name of the list is above"),
                };
                (*name, count)
            })
            .collect()
    }

    /// The delays of one protocol, in the order of the results.
    fn delays(told: &Told) -> [(&'static str, &Delays); 6] {
        [
            ("login", &told.login_delay),
            ("request", &told.request_delay),
            ("unicast", &told.unicast_delay),
            ("stored", &told.stored_delay),
            ("multicast", &told.group_delay),
            ("back online", &told.back),
        ]
    }

    /// All delays so far.
    pub(super) fn measured(&self) -> Vec<Measured> {
        let mut delays = Vec::new();
        for (protocol, told) in &self.by_protocol {
            for (what, some) in Self::delays(told) {
                if some.count() > 0 {
                    delays.push(Measured {
                        what: what.to_owned(),
                        protocol: protocol.name().to_owned(),
                        delays: some.clone(),
                    });
                }
            }
        }
        delays
    }

    /// What was seen of this; `None`: nothing.
    fn seen(&self, of: &Quantity, protocol: Option<Protocol>) -> Option<f64> {
        let totals = self.totals();
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        match *of {
            Quantity::Total(name) => totals.get(name).map(|count| *count as f64),
            Quantity::Share("deliveries") => share(totals["deliveries"], totals["expected"]),
            Quantity::Share("answers") => share(totals["answers"], totals["requests"]),
            Quantity::Share("returned") => {
                share(self.whole.back.count(), self.whole.lost.saturating_sub(self.whole.left))
            }
            Quantity::Share(_) => share(self.online_most, self.devices),
            Quantity::Delay(what, at) => {
                let told = match protocol {
                    Some(protocol) => self.by_protocol.get(&protocol)?,
                    None => &self.whole,
                };
                let (_, delays) = Self::delays(told).into_iter().find(|(name, _)| *name == what)?;
                (delays.count() > 0).then(|| delays.at(at).as_secs_f64())
            }
        }
    }

    fn judge(&self, bound: &Bound) -> outcome::Bound {
        let expect = &bound.expect;
        let over = bound.protocol.map(|it| format!(" over {}", it.name())).unwrap_or_default();
        let seen = self.seen(&expect.of, bound.protocol);
        outcome::Bound {
            wanted: format!("{}{over}", expect.text),
            seen: seen.map_or("nothing was measured".to_owned(), |seen| expect.of.shown(seen)),
            is_kept: seen.is_some_and(|seen| expect.holds(seen)),
        }
    }

    /// What it came to.
    pub(super) fn outcome(
        &self,
        scenario: &Scenario,
        target: &str,
        unix_time: u64,
        limits: Vec<String>,
    ) -> Outcome {
        let mut begin = 0.0;
        let span = |stage: &crate::scenario::Stage| {
            let from = begin;
            begin += stage.seconds;
            Span { name: stage.name.clone(), from, to: begin }
        };
        let stages = scenario.stages.iter().map(span).collect();
        Outcome {
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            seed: scenario.seed,
            unix_time,
            seconds: self.samples.last().map_or(0.0, |sample| sample.at),
            machine: Machine::here(),
            target: target.to_owned(),
            stages,
            samples: self.samples.clone(),
            totals: self.totals().into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
            delays: self.measured(),
            bounds: scenario.bounds.iter().map(|bound| self.judge(bound)).collect(),
            limits,
            is_interrupted: false,
        }
    }
}

#[cfg(test)]
mod tests;
