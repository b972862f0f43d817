//! `/v1/nodes`: access nodes as they report themselves.

use super::auth::{NodeName, NodePath, Operator};
use super::body::OptionalBody;
use super::page::Page;
use super::problem::Problem;
use crate::catalogue::DrainOrder;
use crate::catalogue::edit::drain as edit;
use crate::clock::now_ms;
use crate::nodes;
use crate::placement::Endpoint;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::store::Actor;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hawser_proto::id::NodeId;
use hawser_proto::limits::DRAIN_PER_SECOND_DEFAULT;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// Faster than any node can.
const PER_SECOND_MAX: u32 = 100_000;

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
    /// It takes no new devices, and sends away those it has.
    draining: bool,
    /// There while it drains, or has an order to.
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<Drain>,
    /// New connections it takes a second; 0: it does not say.
    accepts_per_second_max: u32,
    /// Connections turned away, between its last two reports.
    refused: u64,
    /// Handed out only where there is no other: nearly full, or turning devices away.
    hot: bool,
    reported_at_ms: u64,
    /// Whether its last report is recent enough for it to be handed out.
    fresh: bool,
}

/// How far the drain of a node is.
#[derive(Serialize, ToSchema)]
struct Drain {
    /// The order that was given; left out: the node's process was told to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<u64>,
    /// Sessions told to go in a second, by the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<u32>,
    /// Whether the node follows the order already.
    followed: bool,
    /// Sessions it began with.
    sessions: u64,
    /// Sessions told to go so far.
    told: u64,
}

/// How to drain a node.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainNode {
    /// Sessions told to go in a second, 1 to 100000. Default 500.
    per_second: Option<u32>,
}

/// An order to drain a node.
#[derive(Serialize, ToSchema)]
pub(super) struct Order {
    node: String,
    /// Tells this order from others.
    order: u64,
    per_second: u32,
    /// The process it was given to, 16 hexadecimal digits. Another one of the node is not meant.
    boot: String,
    /// Whether that process has reported lately. One that is silent hears of the order only if it is heard again.
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
    let orders: HashMap<NodeId, DrainOrder> = shared.store.look(|catalogue| {
        catalogue.drains().map(|order| (order.node.clone(), order.clone())).collect()
    });
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
        drain: drain_of(node, orders.get(&node.name).filter(|order| order.is_for(node.boot))),
        accepts_per_second_max: node.accepts_per_second_max,
        refused: node.refused,
        hot: node.is_hot(),
        reported_at_ms: node.reported_at_ms,
        fresh: node.is_fresh(now_ms, freshness),
    };
    let items = shared.nodes.lock().all().map(view).collect();
    Ok(Json(Page { items, next_page_token: None }))
}

fn drain_of(node: &nodes::Node, order: Option<&DrainOrder>) -> Option<Drain> {
    let progress = node.drain;
    (node.draining || order.is_some()).then(|| Drain {
        order: order.map(|order| order.id),
        per_second: order.map(|order| order.sessions_per_second),
        followed: order.is_some_and(|order| order.id == progress.order),
        sessions: progress.sessions,
        told: progress.told,
    })
}

/// Order an access node to drain: it takes no new devices, and sends those it has elsewhere at this rate. It
/// stays up, and drains until the order is taken back or its process ends; the next process of its name takes
/// devices again. A new order takes the place of the one before.
#[utoipa::path(post, path = "/v1/nodes/{node}/drain", tag = "operator", params(NodePath),
    request_body = Option<DrainNode>,
    responses((status = 202, description = "Ordered; the node hears of it with its next report.", body = Order)))]
pub(super) async fn drain(
    State(shared): State<Arc<Shared>>,
    _: Operator,
    NodeName(node): NodeName,
    OptionalBody(body): OptionalBody<DrainNode>,
) -> Result<(StatusCode, Json<Order>), Problem> {
    let per_second = body.per_second.unwrap_or(DRAIN_PER_SECOND_DEFAULT);
    if !(1..=PER_SECOND_MAX).contains(&per_second) {
        return Err(Refusal::invalid("per_second is not between 1 and 100000").into());
    }
    let freshness = shared.config.node_freshness;
    let found =
        shared.nodes.lock().get(&node).map(|it| (it.boot, it.is_fresh(now_ms(), freshness)));
    let (boot, fresh) = found.ok_or_else(|| Refusal::not_found("access node"))?;
    let order = shared
        .store
        .edit(Actor::Admin, move |catalogue, now_ms| {
            Ok(edit::order(catalogue, &node, boot, per_second, now_ms))
        })
        .await?;
    let DrainOrder { node, id, sessions_per_second, .. } = order;
    let order = Order {
        node: node.to_string(),
        order: id,
        per_second: sessions_per_second,
        boot: boot.to_string(),
        fresh,
    };
    Ok((StatusCode::ACCEPTED, Json(order)))
}

/// Take the order to drain back: the node takes devices again. Those that went do not come back by themselves.
#[utoipa::path(delete, path = "/v1/nodes/{node}/drain", tag = "operator", params(NodePath),
    responses((status = 204, description = "Taken back.")))]
pub(super) async fn undrain(
    State(shared): State<Arc<Shared>>,
    _: Operator,
    NodeName(node): NodeName,
) -> Result<StatusCode, Problem> {
    shared.store.edit(Actor::Admin, move |catalogue, _| edit::end(catalogue, &node)).await?;
    Ok(StatusCode::NO_CONTENT)
}
