//! The public HTTP API. Every route is registered together with its description, so that the OpenAPI
//! document and what is served cannot drift apart; every error is a problem document.
#![allow(clippy::struct_field_names, reason = "fields are named as they stand in the bodies")]

mod access;
mod app;
mod audit;
mod auth;
mod body;
mod business;
mod client_secret;
mod guard;
mod identity_key;
mod inbox;
mod key;
mod node;
mod openapi;
mod owner_key;
mod page;
mod problem;
mod revocation;
mod router;
mod serve;
mod signing_key;
mod text;
mod ticket_key;

pub(crate) use serve::serve;

use crate::shared::Shared;
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef};
use axum::middleware::from_fn_with_state;
use bytes::Bytes;
use hawser_proto::code::ErrorCode;
use hawser_proto::limits::HTTP_BODY_BYTES_MAX;
use problem::Problem;
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What handlers may ask for.
#[derive(Clone)]
struct Http {
    shared: Arc<Shared>,
    document: Bytes,
}

impl FromRef<Http> for Arc<Shared> {
    fn from_ref(http: &Http) -> Self {
        http.shared.clone()
    }
}

/// Every route, with its description.
fn routes() -> (Router<Http>, OpenApi) {
    let (router, document) = OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(app::list, app::create))
        .routes(routes!(app::describe, app::update, app::delete))
        .routes(routes!(owner_key::list, owner_key::create))
        .routes(routes!(owner_key::delete))
        .routes(routes!(client_secret::rotate))
        .routes(routes!(identity_key::list, identity_key::set))
        .routes(routes!(business::list, business::create))
        .routes(routes!(business::describe, business::update, business::delete))
        .routes(routes!(key::list, key::create))
        .routes(routes!(key::delete))
        .routes(routes!(key::rotate))
        .routes(routes!(revocation::create))
        .routes(routes!(revocation::release_device_key))
        .routes(routes!(signing_key::rotate))
        .routes(routes!(signing_key::jwks))
        .routes(routes!(ticket_key::rotate))
        .routes(routes!(node::list))
        .routes(routes!(node::drain, node::undrain))
        .routes(routes!(router::list))
        .routes(routes!(audit::list))
        .routes(routes!(access::create, access::preflight))
        .routes(routes!(openapi::document))
        .routes(routes!(openapi::health))
        .split_for_parts();
    (router, openapi::complete(document))
}

/// The whole service: routes, and what stands around them.
fn service(shared: &Arc<Shared>) -> Router {
    let (router, mut document) = routes();
    if let Some(url) = &shared.config.public_url {
        document.servers = Some(vec![utoipa::openapi::Server::new(url)]);
    }
    let document = document.to_json().unwrap_or_else(|_| "{}".to_owned());
    let guard = guard::Guard::new(shared.clone());
    router
        .fallback(|| async { Problem::new(ErrorCode::NotFound, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(ErrorCode::MethodNotAllowed, "the method is not served at this path")
        })
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(from_fn_with_state(guard, guard::pass))
        .layer(DefaultBodyLimit::max(HTTP_BODY_BYTES_MAX))
        .with_state(Http { shared: shared.clone(), document: document.into() })
}
