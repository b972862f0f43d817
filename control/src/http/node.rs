//! `/v1/nodes`: access nodes as they report themselves.

use super::auth::Operator;
use super::page::Page;
use super::problem::Problem;
use crate::clock::now_ms;
use crate::nodes;
use crate::placement::Endpoint;
use crate::shared::Shared;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// An access node.
#[derive(Serialize, ToSchema)]
pub(super) struct Node {
    node: String,
    /// Random per process start, 16 hexadecimal digits.
    boot: String,
    cluster: String,
    region: String,
    carrier: String,
    access_points: Vec<NodeAccessPoint>,
    connections: u64,
    connections_max: u64,
    draining: bool,
    reported_at_ms: u64,
    /// Whether its last report is recent enough for it to be handed out.
    fresh: bool,
}

/// Where a node listens.
#[derive(Serialize, ToSchema)]
struct NodeAccessPoint {
    /// `tcp`, `tls`, `quic`, `ws` or `wss`.
    protocol: &'static str,
    host: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
}

impl From<&Endpoint> for NodeAccessPoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            protocol: endpoint.protocol.name(),
            host: endpoint.host.clone(),
            port: endpoint.port,
            server_name: endpoint.server_name.clone(),
        }
    }
}

/// List access nodes, in one page. Silent ones are shown for ten minutes.
#[utoipa::path(get, path = "/v1/nodes", tag = "operator",
    responses((status = 200, description = "As last reported.", body = Page<Node>)))]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    _: Operator,
) -> Result<Json<Page<Node>>, Problem> {
    let (now_ms, freshness) = (now_ms(), shared.config.node_freshness);
    let view = |node: &nodes::Node| Node {
        node: node.name.to_string(),
        boot: node.boot.to_string(),
        cluster: node.cluster.clone(),
        region: node.region.clone(),
        carrier: node.carrier.clone(),
        access_points: node.endpoints.iter().map(NodeAccessPoint::from).collect(),
        connections: node.connections,
        connections_max: node.connections_max,
        draining: node.draining,
        reported_at_ms: node.reported_at_ms,
        fresh: node.is_fresh(now_ms, freshness),
    };
    let items = shared.nodes.lock().all().map(view).collect();
    Ok(Json(Page { items, next_page_token: None }))
}
