//! What the judge says: counts, convictions with their proof, a table for people, JSON for programs.

use super::Event;
use comfy_table::Table;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Convictions that are kept with their proof; more are only counted.
const KEPT_MAX: usize = 1_000;

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// S1, S2: an acknowledged stored push never reached its connected device.
    Lost,
    /// M1: an app was handed a payload for another device.
    WrongDevice,
    /// S4: the app was handed one stored push twice.
    Duplicate,
    /// An app was handed a payload of another app or business.
    CrossTenant,
    /// S3: positions did not grow.
    Order,
    /// S5: one push id, two positions.
    TwoPositions,
    /// S6: the store took an acknowledgement of a session that was over.
    StaleAck,
    /// S7: a position was given out that was given out, or seen above, before.
    PositionReused,
    /// S8: the store went back and the device was not told.
    SilentReturn,
    /// S1: an entry left by policy and the device was not told.
    SilentRemoval,
    /// The bytes handed over are not those that were pushed.
    Corrupt,
    /// V1: a volatile push was written or handed over twice.
    VolatileTwice,
    /// V2: a volatile push reached another session than it was written to.
    OutsideSession,
    /// G1: positions of a group did not grow for a member.
    GroupOrder,
    /// G2: a hole in a group's history without a reset.
    GroupHole,
    /// G4: a member received after it had left.
    AfterLeave,
    /// G5: someone received who never joined.
    NotAMember,
    /// P1: at rest the route names something else than the live link.
    WrongRoute,
    /// P2: the route was removed by a session that did not own it.
    StaleRemoval,
    /// P3: two sessions with one epoch, or an epoch that did not grow.
    TwoSessions,
    /// P4: a new word about a session came after word of a newer one, or of its end.
    EventOrder,
    /// P4: at rest a business has not heard what is true of a device.
    Untold,
    /// P5: an old login was taken.
    StaleLogin,
}

/// One thing that must not have happened.
#[derive(Clone, Debug, Serialize)]
pub struct Conviction {
    /// Which rule was broken.
    pub rule: Rule,
    /// In a sentence.
    pub what: String,
    /// The events that prove it.
    pub events: Vec<Event>,
}

/// The four numbers that are zero in every suite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "see the rules of these names")]
pub struct Zeros {
    pub lost: usize,
    pub wrong_device: usize,
    pub duplicates: usize,
    pub cross_tenant: usize,
}

/// The outcome of a judgement.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// Events judged.
    pub events: usize,
    /// Stored pushes that were acknowledged, and those of them that a declared fault or policy took.
    pub stored: usize,
    /// Of them: gone by a fault that was declared to go that far.
    pub lost_as_declared: usize,
    /// Of them: gone by time to live, overflow, collapse or purge.
    pub removed_by_policy: usize,
    /// Handed to apps, everything counted.
    pub handed: usize,
    /// Of them: again after a crash of the device's process, flagged so.
    pub redelivered: usize,
    /// Convictions by rule.
    pub counts: BTreeMap<Rule, usize>,
    /// The first thousand of them.
    pub convictions: Vec<Conviction>,
}

impl Verdict {
    pub(super) fn add(&mut self, conviction: Conviction) {
        *self.counts.entry(conviction.rule).or_default() += 1;
        if self.convictions.len() < KEPT_MAX {
            self.convictions.push(conviction);
        }
    }

    /// Nothing was found.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    /// How often this rule was broken.
    pub fn count(&self, rule: Rule) -> usize {
        self.counts.get(&rule).copied().unwrap_or_default()
    }

    /// The four zeros.
    pub fn zeros(&self) -> Zeros {
        Zeros {
            lost: self.count(Rule::Lost),
            wrong_device: self.count(Rule::WrongDevice),
            duplicates: self.count(Rule::Duplicate) + self.count(Rule::VolatileTwice),
            cross_tenant: self.count(Rule::CrossTenant),
        }
    }

    /// The same for programs.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "clean": self.is_clean(),
            "zeros": self.zeros(),
            "verdict": self,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.set_header(["", "count"]);
        let zeros = self.zeros();
        for (name, count) in [
            ("lost acknowledged stored pushes", zeros.lost),
            ("wrong-device deliveries", zeros.wrong_device),
            ("duplicates handed to the app", zeros.duplicates),
            ("cross-tenant deliveries", zeros.cross_tenant),
        ] {
            table.add_row([name.to_owned(), count.to_string()]);
        }
        for (rule, count) in &self.counts {
            table.add_row([format!("convicted: {rule:?}"), count.to_string()]);
        }
        for (name, count) in [
            ("events", self.events),
            ("stored pushes acknowledged", self.stored),
            ("lost as declared", self.lost_as_declared),
            ("removed by policy", self.removed_by_policy),
            ("handed to apps", self.handed),
            ("redelivered after a crash", self.redelivered),
        ] {
            table.add_row([name.to_owned(), count.to_string()]);
        }
        writeln!(f, "{table}")?;
        for conviction in self.convictions.iter().take(20) {
            writeln!(f, "{:?}: {}", conviction.rule, conviction.what)?;
            for event in &conviction.events {
                let line = serde_json::to_string(event).map_err(|_| fmt::Error)?;
                writeln!(f, "    {line}")?;
            }
        }
        if self.convictions.len() > 20 {
            writeln!(f, "... and {} more", self.convictions.len() - 20)?;
        }
        Ok(())
    }
}
