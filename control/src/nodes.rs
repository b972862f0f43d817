//! Access nodes as they report themselves. In memory: after a restart of control every node is known
//! again within one report. Pure: the time comes in as an argument.

use crate::placement::{Asker, Candidate, Endpoint, Placed, Protocol, place};
use crate::refusal::Refusal;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{BootId, NodeId};
use hawser_proto::limits::ALTERNATIVES_MAX;
use hawser_proto::rpc::control as wire;
use std::collections::BTreeMap;
use std::time::Duration;

/// Nodes known at once.
const NODES_MAX: usize = 4_096;
const ACCESS_POINTS_MAX: usize = 16;
const LABEL_BYTES_MAX: usize = 64;
const HOST_BYTES_MAX: usize = 253;
/// A node this full is handed out only where there is no other.
const HOT_SHARE: f64 = 0.9;
/// Nodes named to a device that has to leave: each over every protocol it may speak.
const ALTERNATIVE_NODES: usize = 2;
/// The reconnect window is this much longer than those who come back need at the full rate.
const WINDOW_SLACK: f64 = 1.5;
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// A full node of the default size (200,000 sessions) and one survivor at the default rate need 200 s. Nobody is
/// told to wait longer than this; the nodes' own refusals spread what is above it.
const WINDOW_MAX: Duration = Duration::from_mins(5);
/// Silent nodes are shown to operators for this long.
const SHOWN: Duration = Duration::from_mins(10);

/// One node's last report.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeId,
    pub(crate) boot: BootId,
    pub(crate) cluster: String,
    pub(crate) region: String,
    pub(crate) carrier: String,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) connections: u64,
    pub(crate) connections_max: u64,
    pub(crate) draining: bool,
    /// New connections it takes a second; 0: it does not say.
    pub(crate) accepts_per_second_max: u32,
    /// Connections it turned away since the report before.
    pub(crate) refused: u64,
    pub(crate) drain: DrainProgress,
    pub(crate) reported_at_ms: u64,
}

/// How far a drain is, as the node tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DrainProgress {
    /// The order it follows; 0: none, or one of its own.
    pub(crate) order: u64,
    pub(crate) sessions: u64,
    pub(crate) told: u64,
}

impl Node {
    /// Checks a report.
    fn from_report(report: wire::NodeReport, now_ms: u64) -> Result<Self, Refusal> {
        let name = NodeId::new(&report.node)
            .map_err(|error| Refusal::invalid(format!("node: {error}")))?;
        for (field, value) in
            [("cluster", &report.cluster), ("region", &report.region), ("carrier", &report.carrier)]
        {
            if value.len() > LABEL_BYTES_MAX || value.chars().any(char::is_control) {
                return Err(Refusal::invalid(format!("{field} is not a short text")));
            }
        }
        if report.access_points.len() > ACCESS_POINTS_MAX {
            return Err(Refusal::invalid("more than 16 access points"));
        }
        let endpoints: Result<_, _> = report.access_points.into_iter().map(endpoint).collect();
        Ok(Self {
            name,
            boot: BootId(report.boot),
            cluster: report.cluster,
            region: report.region,
            carrier: report.carrier,
            endpoints: endpoints?,
            connections: report.connections,
            connections_max: report.connections_max,
            draining: report.draining,
            accepts_per_second_max: report.accepts_per_second_max,
            refused: report.refused,
            drain: DrainProgress {
                order: report.drain_order,
                sessions: report.drain_sessions,
                told: report.drain_told,
            },
            reported_at_ms: now_ms,
        })
    }

    pub(crate) fn is_fresh(&self, now_ms: u64, freshness: Duration) -> bool {
        now_ms.saturating_sub(self.reported_at_ms) <= freshness.as_millis() as u64
    }

    fn takes_devices(&self, now_ms: u64, freshness: Duration) -> bool {
        self.is_fresh(now_ms, freshness)
            && !self.draining
            && self.connections < self.connections_max
    }

    /// It would rather have nobody new.
    pub(crate) fn is_hot(&self) -> bool {
        self.refused > 0 || self.connections as f64 >= self.connections_max as f64 * HOT_SHARE
    }
}

fn endpoint(point: wire::AccessPoint) -> Result<Endpoint, Refusal> {
    let text =
        |text: &str| text.len() <= HOST_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    let protocol = Protocol::from_name(&point.protocol)
        .ok_or_else(|| Refusal::invalid("an access point's protocol is not known"))?;
    let port = u16::try_from(point.port).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| Refusal::invalid("an access point's port is not a port"))?;
    if point.host.is_empty() || !text(&point.host) || !text(&point.server_name) {
        return Err(Refusal::invalid("an access point's host or server name is malformed"));
    }
    let server_name = (!point.server_name.is_empty()).then_some(point.server_name);
    Ok(Endpoint { protocol, host: point.host, port, server_name })
}

/// All nodes, by name.
#[derive(Debug, Default)]
pub(crate) struct Nodes(BTreeMap<NodeId, Node>);

impl Nodes {
    /// Takes a report in place of the node's last one, and says which process of which node it is.
    pub(crate) fn report(
        &mut self,
        report: wire::NodeReport,
        now_ms: u64,
    ) -> Result<(NodeId, BootId), Refusal> {
        let node = Node::from_report(report, now_ms)?;
        if !self.0.contains_key(&node.name) && self.0.len() >= NODES_MAX {
            return Err(Refusal::new(ErrorCode::Overloaded, "too many access nodes are known"));
        }
        let who = (node.name.clone(), node.boot);
        self.0.insert(node.name.clone(), node);
        Ok(who)
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<&Node> {
        self.0.get(node)
    }

    /// Those that take devices now.
    pub(crate) fn candidates(&self, now_ms: u64, freshness: Duration) -> Vec<Candidate<'_>> {
        self.0
            .values()
            .filter(|node| node.takes_devices(now_ms, freshness))
            .map(|node| Candidate {
                name: node.name.as_str(),
                endpoints: &node.endpoints,
                free: (node.connections_max - node.connections) as f64
                    / node.connections_max as f64,
                is_hot: node.is_hot(),
            })
            .collect()
    }

    /// New connections that those that take devices take a second, in all. `but`: this one left out.
    pub(crate) fn accepts_per_second(
        &self,
        but: Option<&NodeId>,
        now_ms: u64,
        freshness: Duration,
    ) -> u64 {
        let takers = self.0.values().filter(|node| node.takes_devices(now_ms, freshness));
        let others = takers.filter(|node| Some(&node.name) != but);
        others.map(|node| u64::from(node.accepts_per_second_max)).sum()
    }

    /// Over how long devices of this node should spread their return if it dies, so that the others can take
    /// them; or the node itself, when it is back, where no other is known to take any. Then it is not below
    /// `alone`, which is also the answer where nobody says how fast that goes.
    pub(crate) fn reconnect_window(
        &self,
        node: &NodeId,
        alone: Duration,
        now_ms: u64,
        freshness: Duration,
    ) -> Duration {
        let Some(node) = self.0.get(node) else { return alone };
        let (rate, at_least) = match self.accepts_per_second(Some(&node.name), now_ms, freshness) {
            0 => (u64::from(node.accepts_per_second_max), alone),
            others => (others, WINDOW_MIN),
        };
        if rate == 0 {
            return alone;
        }
        let seconds = WINDOW_SLACK * node.connections as f64 / rate as f64;
        Duration::from_secs_f64(seconds.min(WINDOW_MAX.as_secs_f64())).max(at_least)
    }

    /// Where devices that have to leave this node can go, best first. Others come first with each report,
    /// or a drain would send everybody to the same one.
    pub(crate) fn alternatives(
        &self,
        node: &NodeId,
        now_ms: u64,
        freshness: Duration,
    ) -> Vec<wire::AccessPoint> {
        let mut others = self.candidates(now_ms, freshness);
        others.retain(|candidate| candidate.name != node.as_str());
        let turn = now_ms.to_string();
        let asker = Asker { app: node.as_str(), device: &turn, platform: None };
        let mut placed = place(&others, asker, ALTERNATIVE_NODES);
        placed.truncate(ALTERNATIVES_MAX);
        placed.into_iter().map(Placed::into_wire).collect()
    }

    /// Forgets nodes that have been silent for long, and counts the fresh ones.
    pub(crate) fn sweep(&mut self, now_ms: u64, freshness: Duration) -> usize {
        self.0.retain(|_, node| node.is_fresh(now_ms, SHOWN.max(freshness)));
        self.fresh(now_ms, freshness)
    }

    pub(crate) fn fresh(&self, now_ms: u64, freshness: Duration) -> usize {
        self.0.values().filter(|node| node.is_fresh(now_ms, freshness)).count()
    }

    /// All that are known, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Node> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESHNESS: Duration = Duration::from_secs(10);

    fn report(node: &str) -> wire::NodeReport {
        let point = wire::AccessPoint {
            protocol: "tls".into(),
            host: "a.example".into(),
            port: 443,
            server_name: "a.example".into(),
        };
        wire::NodeReport {
            node: node.into(),
            boot: 1,
            access_points: vec![point],
            connections: 10,
            connections_max: 100,
            accepts_per_second_max: 100,
            ..Default::default()
        }
    }

    fn named(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn the_window_is_what_the_others_need_and_a_half() {
        let mut nodes = Nodes::default();
        let many = wire::NodeReport { connections: 900, connections_max: 1_000, ..report("a") };
        nodes.report(many, 0).unwrap();
        let alone = Duration::from_secs(15);
        let window = |nodes: &Nodes, now_ms| {
            nodes.reconnect_window(&named("a"), alone, now_ms, FRESHNESS).as_millis()
        };
        assert_eq!(window(&nodes, 0), 15_000, "there is no other, and a itself needs no longer");
        nodes.report(report("b"), 0).unwrap();
        assert_eq!(window(&nodes, 0), 13_500, "1.5 x 900 / 100");
        nodes.report(report("c"), 0).unwrap();
        assert_eq!(window(&nodes, 0), 6_750);
        nodes.report(wire::NodeReport { draining: true, ..report("c") }, 0).unwrap();
        assert_eq!(window(&nodes, 0), 13_500, "c leaves itself");
        let of_b = nodes.reconnect_window(&named("b"), alone, 0, FRESHNESS);
        assert_eq!(of_b, WINDOW_MIN, "few sessions");
        let slow = wire::NodeReport { accepts_per_second_max: 1, ..report("b") };
        nodes.report(slow, 0).unwrap();
        assert_eq!(window(&nodes, 0), 300_000);
        let mute = wire::NodeReport { accepts_per_second_max: 0, ..report("b") };
        nodes.report(mute, 0).unwrap();
        assert_eq!(window(&nodes, 0), 15_000, "b does not say how fast it is");
        assert_eq!(window(&nodes, 20_000), 15_000, "all are silent");
        let unknown = nodes.reconnect_window(&named("x"), alone, 0, FRESHNESS);
        assert_eq!(unknown, alone);
    }

    #[test]
    fn the_window_of_a_full_node_is_as_long_as_the_survivors_need() {
        let full = |name| wire::NodeReport {
            connections: 200_000,
            connections_max: 200_001,
            accepts_per_second_max: 1_500,
            ..report(name)
        };
        let alone = Duration::from_secs(15);
        for (others, wanted_s) in [(0, 200), (1, 200), (2, 100), (3, 66)] {
            let mut nodes = Nodes::default();
            for name in ["a", "b", "c", "d"].iter().take(1 + others) {
                nodes.report(full(*name), 0).unwrap();
            }
            let window = nodes.reconnect_window(&named("a"), alone, 0, FRESHNESS);
            assert_eq!(window.as_secs(), wanted_s, "{others} others");
        }
    }

    #[test]
    fn alternatives_are_other_nodes_and_take_turns() {
        let mut nodes = Nodes::default();
        for name in ["a", "b", "c", "d"] {
            let mut report = report(name);
            report.access_points[0].host = name.to_owned();
            nodes.report(report, 0).unwrap();
        }
        let hot = wire::NodeReport { refused: 1, ..report("hot") };
        nodes.report(hot, 0).unwrap();
        let mut first = std::collections::BTreeMap::<String, u32>::new();
        for now_ms in 0..300 {
            let found = nodes.alternatives(&named("a"), now_ms, FRESHNESS);
            assert_eq!(found.len(), 2, "two nodes, one protocol");
            assert!(found.iter().all(|it| it.host != "a" && it.host != "a.example"), "{found:?}");
            *first.entry(found[0].host.clone()).or_default() += 1;
        }
        assert!(["b", "c", "d"].iter().all(|name| first[*name] > 50), "{first:?}");
        let alone = Nodes(nodes.0.into_iter().filter(|(name, _)| *name == named("a")).collect());
        assert!(alone.alternatives(&named("a"), 0, FRESHNESS).is_empty());
    }

    #[test]
    fn nearly_full_and_refusing_nodes_are_hot() {
        let mut nodes = Nodes::default();
        nodes.report(wire::NodeReport { connections: 90, ..report("full") }, 0).unwrap();
        nodes.report(wire::NodeReport { refused: 3, ..report("busy") }, 0).unwrap();
        nodes.report(wire::NodeReport { connections: 89, ..report("fine") }, 0).unwrap();
        let hot: Vec<_> =
            nodes.candidates(0, FRESHNESS).iter().map(|it| (it.name, it.is_hot)).collect();
        assert_eq!(hot, [("busy", true), ("fine", false), ("full", true)]);
    }

    #[test]
    fn only_fresh_free_and_staying_nodes_are_candidates() {
        let mut nodes = Nodes::default();
        let full = wire::NodeReport { connections: 100, ..report("full") };
        let draining = wire::NodeReport { draining: true, ..report("draining") };
        let unlimited = wire::NodeReport { connections_max: 0, ..report("closed") };
        for report in [report("fine"), full, draining, unlimited] {
            nodes.report(report, 1_000).unwrap();
        }
        let names = |now_ms| -> Vec<_> {
            nodes.candidates(now_ms, FRESHNESS).iter().map(|it| it.name.to_owned()).collect()
        };
        assert_eq!(names(1_000), ["fine"]);
        assert_eq!(names(11_000), ["fine"]);
        assert_eq!(names(11_001), [""; 0]);
    }

    #[test]
    fn bad_reports_are_refused_and_change_nothing() {
        let spoil: [fn(&mut wire::NodeReport); 7] = [
            |r| r.node = "Not A Name".into(),
            |r| r.region = "x".repeat(65),
            |r| r.access_points[0].protocol = "smtp".into(),
            |r| r.access_points[0].port = 0,
            |r| r.access_points[0].port = 70_000,
            |r| r.access_points[0].host = String::new(),
            |r| r.access_points = vec![r.access_points[0].clone(); 17],
        ];
        let mut nodes = Nodes::default();
        for (case, spoil) in spoil.iter().enumerate() {
            let mut report = report("a");
            spoil(&mut report);
            let refused = nodes.report(report, 0).unwrap_err();
            assert_eq!(refused.code, ErrorCode::InvalidArgument, "case {case}");
        }
        assert_eq!(nodes.all().count(), 0);
    }

    #[test]
    fn a_silent_node_is_forgotten_after_a_while() {
        let mut nodes = Nodes::default();
        nodes.report(report("a"), 0).unwrap();
        assert_eq!(nodes.sweep(10_000, FRESHNESS), 1);
        assert_eq!(nodes.sweep(10_001, FRESHNESS), 0);
        assert_eq!(nodes.all().count(), 1);
        nodes.sweep(600_001, FRESHNESS);
        assert_eq!(nodes.all().count(), 0);
    }
}
