//! Bounds: what must hold of a run, as `multicast.p99 <= 500ms`, `lost == 0` or `deliveries >= 99.9%`.

use super::text;
use crate::crowd::plan::Protocol;
use serde::{Deserialize, Deserializer, de};
use std::cmp::Ordering;
use std::str::FromStr;
use std::time::Duration;

/// Delays that are measured, by the names that results have.
pub(crate) const DELAYS: &[&str] =
    &["login", "request", "unicast", "stored", "multicast", "back online"];
/// Shares, written with a percent sign: of what was expected that arrived, of the requests that were answered,
/// of the devices that were online at the best moment, and of the links that were cut or lost whose device came back.
pub(crate) const SHARES: &[&str] = &["deliveries", "answers", "online", "returned"];

/// A line of the scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bound {
    pub(crate) expect: Expectation,
    /// Delays over this protocol alone; none: over all of them.
    pub(crate) protocol: Option<Protocol>,
}

/// What must hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expectation {
    /// As it was written, single-spaced.
    pub(crate) text: String,
    pub(crate) of: Quantity,
    relation: Relation,
    /// Seconds, a count, or a share from 0 to 1.
    limit: f64,
}

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Quantity {
    /// The delay that this share of them does not exceed.
    Delay(&'static str, f64),
    /// A count of the result.
    Total(&'static str),
    /// A part of what was wanted.
    Share(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Below,
    AtMost,
    Equal,
    AtLeast,
    Above,
}

impl Relation {
    const ALL: [(&'static str, Self); 5] = [
        ("<=", Self::AtMost),
        (">=", Self::AtLeast),
        ("==", Self::Equal),
        ("<", Self::Below),
        (">", Self::Above),
    ];

    fn holds(self, seen: f64, limit: f64) -> bool {
        // A tenth of a percent is no number that a computer holds exactly.
        let is_same = (seen - limit).abs() < 1e-9;
        let order = if is_same { Some(Ordering::Equal) } else { seen.partial_cmp(&limit) };
        match self {
            Self::Below => order == Some(Ordering::Less),
            Self::AtMost => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::Equal => order == Some(Ordering::Equal),
            Self::AtLeast => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            Self::Above => order == Some(Ordering::Greater),
        }
    }
}

impl Expectation {
    /// Whether it holds for this: seconds, a count, or a share.
    pub(crate) fn holds(&self, seen: f64) -> bool {
        self.relation.holds(seen, self.limit)
    }
}

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Relation::ALL.iter().find_map(|(sign, relation)| {
            let (left, right) = text.split_once(sign)?;
            Some((left.trim(), *sign, *relation, right.trim()))
        });
        let (left, sign, relation, right) =
            found.ok_or_else(|| format!("`{text}` has none of <=, >=, ==, <, >"))?;
        let of = Quantity::named(left, right.ends_with('%'))?;
        let limit = match of {
            Quantity::Delay(..) => text::duration(right)?.as_secs_f64(),
            Quantity::Total(_) => number(right)?,
            Quantity::Share(_) => number(right.trim_end_matches('%'))? / 100.0,
        };
        Ok(Self { text: format!("{left} {sign} {right}"), of, relation, limit })
    }
}

impl Quantity {
    /// What this name stands for where it is compared with a share, or with anything else.
    fn named(name: &str, as_share: bool) -> Result<Self, String> {
        let shares = SHARES.iter().filter(|_| as_share);
        if let Some(share) = shares.into_iter().find(|share| **share == name) {
            return Ok(Self::Share(share));
        }
        let mut totals = crate::run::TOTALS.iter().filter(|_| !as_share);
        if let Some(total) = totals.find(|(total, _)| *total == name) {
            return Ok(Self::Total(total.0));
        }
        let unknown = || {
            let totals: Vec<_> = crate::run::TOTALS.iter().map(|(name, _)| *name).collect();
            format!(
                "`{name}` is nothing that is measured: there are delays ({}) with .p50, .p90, .p99, \
                 .p999 or .max; shares, compared with a percentage ({}); and counts ({})",
                DELAYS.join(", "),
                SHARES.join(", "),
                totals.join(", ")
            )
        };
        let (what, part) = name.rsplit_once('.').ok_or_else(unknown)?;
        // People write `logins.p99` as readily as `login.p99`.
        let is_it = |known: &&&str| **known == what || what.strip_suffix('s') == Some(known);
        let what = DELAYS.iter().find(is_it).ok_or_else(unknown)?;
        let share = match part {
            "p50" => 0.5,
            "p90" => 0.9,
            "p99" => 0.99,
            "p999" => 0.999,
            "max" => 1.0,
            _ => return Err(unknown()),
        };
        Ok(Self::Delay(what, share))
    }

    /// What was seen, in words.
    pub(crate) fn shown(&self, seen: f64) -> String {
        match self {
            Self::Delay(..) => format!("{:.1?}", Duration::from_secs_f64(seen.max(0.0))),
            Self::Total(_) => format!("{seen:.0}"),
            Self::Share(_) => format!("{:.3} %", seen * 100.0),
        }
    }
}

impl<'de> Deserialize<'de> for Expectation {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

fn number(text: &str) -> Result<f64, String> {
    let number = text.trim().replace('_', "").parse::<f64>();
    number.map_err(|_| format!("`{text}` is no number"))
}
