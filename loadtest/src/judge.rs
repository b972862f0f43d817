//! The judge: reads what happened, from one or many histories, and convicts what must not have happened.
//!
//! It knows nothing of how hawser works; it knows what was promised. Each rule is named after the
//! invariant it stands for, each conviction carries the events that prove it. Four kinds of conviction
//! are the four zeros: lost acknowledged stored pushes, wrong-device deliveries, duplicates handed to
//! the app, cross-tenant deliveries.
//!
//! One event format serves all levels, from simulation to real processes: [`Event`]. Whoever writes
//! histories leaves out what it cannot see; a rule that lacks its events says nothing.

mod event;
mod group;
mod inbox;
mod payload;
mod session;
#[cfg(test)]
mod tests;
mod verdict;

pub use event::{Durability, Event, Kind, merge, read};
pub use payload::Payload;
pub use verdict::{Conviction, Rule, Verdict, Zeros};

use std::collections::{HashMap, HashSet};

/// What the judge may take for granted about the histories.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// At the end every device is connected and nothing is on its way, also when no `rest` says so.
    pub at_rest: bool,
    /// Every removal by policy is in the histories (`evict`): a gap that covers more is no excuse.
    pub evictions_known: bool,
    /// Within this many nanoseconds two calls with one push id are one push.
    pub dedup_window: u64,
}

impl Default for Options {
    fn default() -> Self {
        let window = hawser_proto::limits::DEDUP_WINDOW.as_nanos() as u64;
        Self { at_rest: true, evictions_known: false, dedup_window: window }
    }
}

/// One device of one app.
type DeviceKey<'a> = (&'a str, &'a str);

/// A time at which the store went back.
#[derive(Clone, Copy, Debug)]
struct StoreBack {
    since: u64,
    at: u64,
    durability: Durability,
}

/// What all rules look at.
#[derive(Debug)]
struct Court<'a> {
    events: &'a [Event],
    options: Options,
    backs: Vec<StoreBack>,
    liars: HashSet<DeviceKey<'a>>,
    /// Where each device was last said to be at rest, as an index.
    rests: HashMap<DeviceKey<'a>, usize>,
    verdict: Verdict,
}

impl<'a> Court<'a> {
    fn new(events: &'a [Event], options: Options) -> Self {
        let mut court = Self {
            events,
            options,
            backs: Vec::new(),
            liars: HashSet::new(),
            rests: HashMap::new(),
            verdict: Verdict { events: events.len(), ..Verdict::default() },
        };
        for (index, event) in events.iter().enumerate() {
            let device = (event.app.as_str(), event.device.as_str());
            match (event.kind, event.fault.as_str()) {
                (Kind::FaultOn, "store_back") => court.backs.push(StoreBack {
                    since: event.since,
                    at: event.t,
                    durability: event.durability.unwrap_or_default(),
                }),
                (Kind::FaultOn, "liar") => {
                    court.liars.insert(device);
                }
                (Kind::Rest, _) => {
                    court.rests.insert(device, index);
                }
                _ => {}
            }
        }
        court
    }

    fn convict(&mut self, rule: Rule, what: String, proof: &[usize]) {
        let events = proof.iter().map(|index| self.events[*index].clone()).collect();
        self.verdict.add(Conviction { rule, what, events });
    }

    /// Whether the store may have forgotten what it took between these times, at this durability.
    fn may_have_lost(&self, taken: u64, answered: u64, durability: Durability) -> bool {
        let lost =
            |it: &&StoreBack| it.durability >= durability && it.since <= answered && taken <= it.at;
        self.backs.iter().find(lost).is_some()
    }

    /// Whether what the store knew at `from` may be unknown to it at `to`.
    fn went_back_between(&self, from: u64, to: u64) -> bool {
        self.backs.iter().any(|it| it.since <= from && from <= it.at && it.at <= to)
    }

    /// Whether the device took all that was for it by the end; and when that was.
    fn rest_of(&self, device: DeviceKey<'a>) -> Option<u64> {
        match self.rests.get(&device) {
            Some(index) if self.events[*index].node.is_empty() => None,
            Some(index) => Some(self.events[*index].t),
            None if self.options.at_rest => self.events.last().map(|event| event.t),
            None => None,
        }
    }
}

/// Judges a history whose events stand in the order of their times; see [`merge`].
pub fn judge(events: &[Event], options: Options) -> Verdict {
    let mut court = Court::new(events, options);
    inbox::judge(&mut court);
    session::judge(&mut court);
    group::judge(&mut court);
    court.verdict
}
