//! Where a device is sent: which access points, in which order. Pure: nodes and attributes go in, the
//! order comes out; the same device gets the same order while the nodes stay.

use hawser_proto::rpc::control as wire;
use xxhash_rust::xxh3::xxh3_64;

/// Nodes offered per protocol: enough to survive two dead ones, few enough to keep answers small.
pub(crate) const NODES_PER_PROTOCOL: usize = 3;
/// How protocols are tried; the first that connects is used.
const NATIVE_ORDER: &[Protocol] =
    &[Protocol::Tls, Protocol::Quic, Protocol::Wss, Protocol::Tcp, Protocol::Ws];
/// All that a browser or a mini-program can dial.
const WEB_ORDER: &[Protocol] = &[Protocol::Wss, Protocol::Ws];

/// How an access point is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Tls,
    Quic,
    Ws,
    Wss,
}

impl Protocol {
    const ALL: &[Self] = &[Self::Tcp, Self::Tls, Self::Quic, Self::Ws, Self::Wss];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|it| it.name() == name)
    }
}

/// One address of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) protocol: Protocol,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) server_name: Option<String>,
}

/// A node that takes devices.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) name: &'a str,
    pub(crate) endpoints: &'a [Endpoint],
    /// Share of its capacity that is free, above 0 and at most 1.
    pub(crate) free: f64,
    /// It is nearly full, or turns devices away: better not, but better than nowhere.
    pub(crate) is_hot: bool,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placed {
    pub(crate) endpoint: Endpoint,
    pub(crate) node: String,
    /// 1 to 100, from free capacity.
    pub(crate) weight: u32,
}

impl Placed {
    /// As access nodes are told of it.
    pub(crate) fn into_wire(self) -> wire::AccessPoint {
        let Endpoint { protocol, host, port, server_name } = self.endpoint;
        wire::AccessPoint {
            protocol: protocol.name().to_owned(),
            host,
            port: port.into(),
            server_name: server_name.unwrap_or_default(),
        }
    }
}

/// What is known of a device when it asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) app: &'a str,
    pub(crate) device: &'a str,
    /// `web` and `mini-program` dial WebSocket only.
    pub(crate) platform: Option<&'a str>,
}

/// Orders the access points for a device: by protocol, and within one by a hash of device and node
/// that free nodes win more often, in proportion. Hot nodes come after all others. At most `nodes_max` nodes
/// for each protocol.
pub(crate) fn place(
    candidates: &[Candidate<'_>],
    asker: Asker<'_>,
    nodes_max: usize,
) -> Vec<Placed> {
    let order = match asker.platform {
        Some("web" | "mini-program") => WEB_ORDER,
        _ => NATIVE_ORDER,
    };
    let mut ranked: Vec<_> =
        candidates.iter().map(|candidate| (score(candidate, asker), candidate)).collect();
    ranked.sort_by(|(a, x), (b, y)| {
        let by_score = || b.total_cmp(a).then_with(|| x.name.cmp(y.name));
        x.is_hot.cmp(&y.is_hot).then_with(by_score)
    });
    let of_protocol = |protocol: &Protocol| {
        let protocol = *protocol;
        let nodes = ranked.iter().filter_map(move |(_, candidate)| {
            let endpoint = candidate.endpoints.iter().find(|it| it.protocol == protocol)?;
            Some(Placed {
                endpoint: endpoint.clone(),
                node: candidate.name.to_owned(),
                weight: (candidate.free * 100.0).round().clamp(1.0, 100.0) as u32,
            })
        });
        nodes.take(nodes_max)
    };
    order.iter().flat_map(of_protocol).collect()
}

/// Weighted rendezvous: of two nodes the one with twice the weight comes first twice as often, and a
/// node that comes or goes moves only its own share of the devices.
fn score(candidate: &Candidate<'_>, asker: Asker<'_>) -> f64 {
    let mut key = Vec::with_capacity(192);
    for part in [asker.app, asker.device, candidate.name] {
        key.extend_from_slice(&(part.len() as u32).to_be_bytes());
        key.extend_from_slice(part.as_bytes());
    }
    // In (0, 1): the upper 53 bits, shifted half a step away from zero.
    let unit = ((xxh3_64(&key) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    candidate.free.max(0.01) / -unit.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(port: u16) -> Vec<Endpoint> {
        let endpoint = |protocol: &Protocol| Endpoint {
            protocol: *protocol,
            host: "h".into(),
            port,
            server_name: None,
        };
        Protocol::ALL.iter().map(endpoint).collect()
    }

    fn protocols(platform: Option<&str>) -> Vec<&'static str> {
        let all = endpoints(1);
        let node = Candidate { name: "a", endpoints: &all, free: 1.0, is_hot: false };
        let asker = Asker { app: "demo", device: "d", platform };
        let placed = place(&[node], asker, NODES_PER_PROTOCOL);
        placed.iter().map(|it| it.endpoint.protocol.name()).collect()
    }

    #[test]
    fn the_platform_decides_the_protocols() {
        let native = ["tls", "quic", "wss", "tcp", "ws"];
        assert_eq!(protocols(None), native);
        assert_eq!(protocols(Some("ios")), native);
        assert_eq!(protocols(Some("web")), ["wss", "ws"]);
        assert_eq!(protocols(Some("mini-program")), ["wss", "ws"]);
    }

    #[test]
    fn devices_spread_in_proportion_to_free_capacity_and_stay() {
        let all = endpoints(1);
        let candidate = |name, free| Candidate { name, endpoints: &all, free, is_hot: false };
        let nodes = [candidate("a", 0.9), candidate("b", 0.3), candidate("c", 0.3)];
        let first = |nodes: &[Candidate<'_>], device: u32| {
            let device = format!("device-{device}");
            let asker = Asker { app: "demo", device: &device, platform: None };
            place(nodes, asker, NODES_PER_PROTOCOL)[0].node.clone()
        };
        let count = 10_000;
        let on_a = (0..count).filter(|&device| first(&nodes, device) == "a").count();
        assert!((5_700..6_300).contains(&on_a), "{on_a} of {count} went to the node with 60 %");
        for device in 0..1_000 {
            let before = first(&nodes, device);
            if before != "c" {
                assert_eq!(first(&nodes[..2], device), before, "only c's devices move");
            }
        }
    }

    #[test]
    fn at_most_three_nodes_a_protocol_and_weights_from_capacity() {
        let all = endpoints(1);
        let free = [0.001, 0.5, 0.75, 1.0];
        let names = ["a", "b", "c", "d"];
        let nodes: Vec<_> = names
            .iter()
            .zip(free)
            .map(|(name, free)| Candidate { name, endpoints: &all, free, is_hot: false })
            .collect();
        let asker = Asker { app: "x", device: "y", platform: Some("web") };
        let placed = place(&nodes, asker, NODES_PER_PROTOCOL);
        assert_eq!(placed.len(), 6);
        for line in &placed {
            let at = names.iter().position(|name| *name == line.node).unwrap();
            assert_eq!(line.weight, [1, 50, 75, 100][at]);
        }
        assert!(place(&[], asker, NODES_PER_PROTOCOL).is_empty());
    }

    #[test]
    fn hot_nodes_come_last_and_only_where_there_is_room() {
        let all = endpoints(1);
        let candidate = |name, is_hot| Candidate { name, endpoints: &all, free: 0.5, is_hot };
        let mut nodes = vec![candidate("hot", true), candidate("a", false), candidate("b", false)];
        for device in 0..100 {
            let device = format!("device-{device}");
            let asker = Asker { app: "demo", device: &device, platform: Some("web") };
            let placed = place(&nodes, asker, NODES_PER_PROTOCOL);
            assert_eq!((placed[2].node.as_str(), placed[5].node.as_str()), ("hot", "hot"));
        }
        nodes.push(candidate("c", false));
        let asker = Asker { app: "demo", device: "d", platform: None };
        assert!(place(&nodes, asker, NODES_PER_PROTOCOL).iter().all(|it| it.node != "hot"));
        let alone = place(&nodes[..1], asker, NODES_PER_PROTOCOL);
        assert!(!alone.is_empty() && alone.iter().all(|it| it.node == "hot"));
    }
}
