//! Who does what: populations of devices, pushes of backends, and businesses that answer.

use super::text;
use crate::crowd::plan::{Behaviours, Groups, Payloads, Protocol, Spread};
use anyhow::ensure;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest body that the wire takes with room for its header and parameters.
const PAYLOAD_BYTES_MAX: usize = 60 * 1_024;
/// Groups of one population: a bit each in a device's memory.
const GROUPS_MAX: usize = 16;
/// Targets of one unary call.
const TARGETS_MAX: usize = 1_000;

/// Devices of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Population {
    pub(crate) name: String,
    pub(crate) count: u32,
    /// Weights by protocol.
    #[serde(default = "tcp")]
    pub(crate) protocols: BTreeMap<Protocol, f64>,
    #[serde(default = "logins", deserialize_with = "text::rate")]
    pub(crate) logins_per_second: f64,
    /// How long a device stays; none: until the end.
    #[serde(default, deserialize_with = "text::maybe")]
    pub(crate) session: Option<Duration>,
    /// By how much of it sessions differ.
    #[serde(default, deserialize_with = "text::share")]
    pub(crate) session_spread: f64,
    /// Whether it comes back after a session or the loss of its link.
    #[serde(default = "yes")]
    pub(crate) comes_back: bool,
    /// Between two pings of a device.
    #[serde(default = "heartbeat", deserialize_with = "text::written")]
    pub(crate) heartbeat: Duration,
    #[serde(default)]
    pub(crate) groups: Vec<Group>,
    /// Over all its devices.
    #[serde(default, deserialize_with = "text::rate")]
    pub(crate) requests_per_second: f64,
    #[serde(default = "method")]
    pub(crate) request_method: String,
    #[serde(default = "request_deadline", deserialize_with = "text::written")]
    pub(crate) request_deadline: Duration,
    #[serde(default = "some_bytes")]
    pub(crate) request_payloads: Vec<Payload>,
    /// Shares of its devices that read nothing, say nothing, or lose their link again and again.
    #[serde(default, deserialize_with = "text::share")]
    pub(crate) deaf: f64,
    #[serde(default, deserialize_with = "text::share")]
    pub(crate) silent: f64,
    #[serde(default, deserialize_with = "text::share")]
    pub(crate) flapping: f64,
    /// How long a link of one that flaps lasts.
    #[serde(default = "flap", deserialize_with = "text::written")]
    pub(crate) flap_after: Duration,
    pub(crate) business: Option<String>,
}

/// A group, or a row of them, that devices join.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// 1: the group of this name; more: NAME-0, NAME-1 and on, and a device is in one of them.
    #[serde(default = "once")]
    pub(crate) count: u32,
    /// Every so many-th device is in it.
    #[serde(default = "once")]
    pub(crate) every: u32,
    /// How long a device stays in it; none: as long as it is online.
    #[serde(default, deserialize_with = "text::maybe")]
    pub(crate) stay: Option<Duration>,
    /// Until it joins again.
    #[serde(default = "away", deserialize_with = "text::written")]
    pub(crate) away: Duration,
    /// By how much of these times they differ.
    #[serde(default = "half", deserialize_with = "text::share")]
    pub(crate) spread: f64,
}

/// A size of bodies.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    pub(crate) bytes: usize,
    #[serde(default = "weight", deserialize_with = "text::rate")]
    pub(crate) weight: f64,
}

/// Calls of the push API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pushes {
    pub(crate) name: String,
    pub(crate) kind: PushKind,
    /// Calls a second.
    #[serde(deserialize_with = "text::rate")]
    pub(crate) per_second: f64,
    /// The population whose devices are meant.
    pub(crate) to: Option<String>,
    /// The group that is meant, by the name that a population gives it.
    pub(crate) group: Option<String>,
    /// Devices of one call.
    #[serde(default = "targets")]
    pub(crate) targets: usize,
    #[serde(default = "some_bytes")]
    pub(crate) payloads: Vec<Payload>,
    pub(crate) business: Option<String>,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PushKind {
    Unicast,
    BatchUnicast,
    Multicast,
    Stored,
}

/// A business that answers requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Business {
    pub(crate) name: String,
    /// Against a deployment: where this tool answers for it. Its endpoint there must lead here.
    pub(crate) listen: Option<SocketAddr>,
    /// Against a deployment: its key, `env:NAME`.
    pub(crate) key: Option<String>,
    /// Before an answer.
    #[serde(default, deserialize_with = "text::written")]
    pub(crate) answers_after: Duration,
    #[serde(default, deserialize_with = "text::share")]
    pub(crate) spread: f64,
    /// Shares of the requests that are never answered, and that fail.
    #[serde(default, deserialize_with = "text::share")]
    pub(crate) stalls: f64,
    #[serde(default, deserialize_with = "text::share")]
    pub(crate) fails: f64,
}

fn tcp() -> BTreeMap<Protocol, f64> {
    BTreeMap::from([(Protocol::Tcp, 1.0)])
}
fn logins() -> f64 {
    200.0
}
fn yes() -> bool {
    true
}
fn heartbeat() -> Duration {
    Duration::from_secs(25)
}
fn method() -> String {
    "echo".to_owned()
}
fn request_deadline() -> Duration {
    Duration::from_secs(10)
}
fn some_bytes() -> Vec<Payload> {
    vec![Payload { bytes: 128, weight: 1.0 }]
}
fn flap() -> Duration {
    Duration::from_secs(5)
}
fn once() -> u32 {
    1
}
fn away() -> Duration {
    Duration::from_secs(1)
}
fn half() -> f64 {
    0.5
}
fn weight() -> f64 {
    1.0
}
fn targets() -> usize {
    1
}

fn spread(time: Duration, share: f64) -> Spread {
    Spread { ms: time.as_secs_f64() * 1e3, share }
}

/// Sizes as the load draws them.
pub(crate) fn sizes(payloads: &[Payload]) -> Payloads {
    Payloads(payloads.iter().map(|payload| (payload.bytes, payload.weight)).collect())
}

fn check_payloads(at: &str, payloads: &[Payload]) -> anyhow::Result<()> {
    let weight: f64 = payloads.iter().map(|payload| payload.weight).sum();
    ensure!(weight > 0.0, "{at}: none has a weight");
    for payload in payloads {
        let bytes = payload.bytes;
        ensure!(bytes <= PAYLOAD_BYTES_MAX, "{at}: {bytes} bytes are above {PAYLOAD_BYTES_MAX}");
    }
    Ok(())
}

impl Population {
    pub(super) fn check(&self, at: &str) -> anyhow::Result<()> {
        ensure!(self.count > 0, "{at}.count: 0 devices do nothing");
        ensure!(!self.name.is_empty(), "{at}.name: empty");
        ensure!(self.protocols.values().sum::<f64>() > 0.0, "{at}.protocols: none has a weight");
        ensure!(self.groups.len() <= GROUPS_MAX, "{at}.groups: at most {GROUPS_MAX}");
        for group in &self.groups {
            ensure!(
                group.count > 0 && group.every > 0,
                "{at}.groups: count and every are 1 or more"
            );
        }
        let odd = self.deaf + self.silent + self.flapping;
        ensure!(odd <= 1.0, "{at}: deaf, silent and flapping are above 1 together");
        ensure!(!self.heartbeat.is_zero(), "{at}.heartbeat: must be above zero");
        check_payloads(&format!("{at}.request_payloads"), &self.request_payloads)
    }

    /// How many devices come over each protocol; together all of them.
    pub(crate) fn by_protocol(&self) -> Vec<(Protocol, u32)> {
        let whole: f64 = self.protocols.values().sum();
        let (mut weights, mut before) = (0.0, 0);
        let mut parts = Vec::new();
        for (protocol, weight) in &self.protocols {
            weights += weight;
            let upto = (f64::from(self.count) * weights / whole).round() as u32;
            parts.push((*protocol, upto - before));
            before = upto;
        }
        parts.retain(|(_, count)| *count > 0);
        parts
    }

    /// Its groups as a device knows them.
    pub(crate) fn memberships(&self) -> Vec<Groups> {
        let of = |group: &Group| Groups {
            name: group.name.clone(),
            count: group.count,
            every: group.every,
            stay: group.stay.map(|stay| spread(stay, group.spread)),
            away: spread(group.away, group.spread),
        };
        self.groups.iter().map(of).collect()
    }

    pub(crate) fn stay(&self) -> Option<Spread> {
        self.session.map(|session| spread(session, self.session_spread))
    }

    pub(crate) fn behaviours(&self) -> Behaviours {
        let (deaf, silent, flapping) = (self.deaf, self.silent, self.flapping);
        Behaviours { deaf, silent, flapping, flap: spread(self.flap_after, 0.5) }
    }
}

impl Pushes {
    pub(super) fn check(&self, at: &str, populations: &[Population]) -> anyhow::Result<()> {
        if self.kind == PushKind::Multicast {
            let group = self.group.as_deref().unwrap_or_default();
            let groups = || populations.iter().flat_map(|population| &population.groups);
            ensure!(self.to.is_none(), "{at}.to: a multicast is to a group");
            ensure!(
                groups().any(|one| one.name == group),
                "{at}.group: no population has a group {group:?}"
            );
        } else {
            let to = self.to.as_deref().unwrap_or_default();
            ensure!(self.group.is_none(), "{at}.group: only a multicast is to a group");
            ensure!(
                populations.iter().any(|population| population.name == to),
                "{at}.to: there is no population {to:?}"
            );
        }
        ensure!((1..=TARGETS_MAX).contains(&self.targets), "{at}.targets: from 1 to {TARGETS_MAX}");
        ensure!(
            self.targets == 1 || matches!(self.kind, PushKind::BatchUnicast | PushKind::Stored),
            "{at}.targets: only batch-unicast and stored have several"
        );
        check_payloads(&format!("{at}.payloads"), &self.payloads)
    }
}

impl Business {
    pub(super) fn check(&self, at: &str, is_deployment: bool) -> anyhow::Result<()> {
        ensure!(self.stalls + self.fails <= 1.0, "{at}: stalls and fails are above 1 together");
        ensure!(
            is_deployment || (self.listen.is_none() && self.key.is_none()),
            "{at}: listen and key are for a target with control"
        );
        Ok(())
    }

    /// Before an answer.
    pub(crate) fn delay(&self) -> Spread {
        spread(self.answers_after, self.spread)
    }
}
