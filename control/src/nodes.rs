//! Access nodes as they report themselves. In memory: after a restart of control every node is known
//! again within one report. Pure: the time comes in as an argument.

use crate::placement::{Candidate, Endpoint, Protocol};
use crate::refusal::Refusal;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{BootId, NodeId};
use hawser_proto::rpc::control as wire;
use std::collections::BTreeMap;
use std::time::Duration;

/// Nodes known at once.
const NODES_MAX: usize = 4_096;
const ACCESS_POINTS_MAX: usize = 16;
const LABEL_BYTES_MAX: usize = 64;
const HOST_BYTES_MAX: usize = 253;
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
    pub(crate) reported_at_ms: u64,
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
    /// Takes a report in place of the node's last one.
    pub(crate) fn report(&mut self, report: wire::NodeReport, now_ms: u64) -> Result<(), Refusal> {
        let node = Node::from_report(report, now_ms)?;
        if !self.0.contains_key(&node.name) && self.0.len() >= NODES_MAX {
            return Err(Refusal::new(ErrorCode::Overloaded, "too many access nodes are known"));
        }
        self.0.insert(node.name.clone(), node);
        Ok(())
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
            })
            .collect()
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
            ..Default::default()
        }
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
