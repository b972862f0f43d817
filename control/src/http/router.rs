//! `/v1/routers`: routers as they report themselves.

use super::auth::Known;
use super::body::Query;
use super::page::Page;
use super::problem::Problem;
use crate::clock::now_ms;
use crate::refusal::Refusal;
use crate::routers::{self, Function};
use crate::shared::Shared;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Which routers.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RouterQuery {
    /// Only those that serve this and are there now: `logins`, `push` or `inbox`.
    function: Option<String>,
}

/// A router.
#[derive(Serialize, ToSchema)]
pub(super) struct Router {
    router: String,
    /// Where backends dial its push API.
    push: String,
    /// What it serves: `logins`, `push`, `inbox`.
    functions: Vec<&'static str>,
    draining: bool,
    /// Whether its last report is recent.
    fresh: bool,
    /// Random per process start, 16 hexadecimal digits. For the operator only, as what follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
    /// Sessions it knows of.
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<u64>,
    /// Access nodes that have streams to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_at_ms: Option<u64>,
}

/// List routers, in one page: for operators, and for backends that look for one that serves a function. Takes
/// the admin token, an owner key, or a business key.
#[utoipa::path(get, path = "/v1/routers", tag = "operator", params(RouterQuery),
    responses((status = 200, description = "As last reported.", body = Page<Router>)))]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    known: Known,
    Query(query): Query<RouterQuery>,
) -> Result<Json<Page<Router>>, Problem> {
    let function = query.function.map(|name| {
        let unknown = || Refusal::invalid("function is none of logins, push and inbox");
        Function::from_name(&name).ok_or_else(unknown)
    });
    let function = function.transpose()?;
    let (now_ms, freshness) = (now_ms(), shared.config.node_freshness);
    let is_wanted = |router: &&routers::Router| {
        let is_there = || router.is_fresh(now_ms, freshness) && !router.draining;
        function.is_none_or(|function| router.serves(function) && is_there())
    };
    let view = |router: &routers::Router| {
        let functions = Function::ALL.into_iter().filter(|function| router.serves(*function));
        let whole = known.is_operator;
        Router {
            router: router.name.clone(),
            push: router.push.clone(),
            functions: functions.map(Function::name).collect(),
            draining: router.draining,
            fresh: router.is_fresh(now_ms, freshness),
            boot: whole.then(|| format!("{:016x}", router.boot)),
            routes: whole.then_some(router.routes),
            nodes: whole.then_some(router.nodes),
            reported_at_ms: whole.then_some(router.reported_at_ms),
        }
    };
    let items = shared.routers.lock().all().filter(is_wanted).map(view).collect();
    Ok(Json(Page { items, next_page_token: None }))
}
