//! `/v1/apps/{app}/owner-keys`: the operator hands an app over to its owner.

use super::auth::{AppName, AppPath, KeyId, KeyPath, Operator};
use super::page::Page;
use super::problem::Problem;
use crate::catalogue::edit::app as edit;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::store::Actor;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// An owner key, without the key.
#[derive(Serialize, ToSchema)]
pub(super) struct OwnerKey {
    key_id: String,
    created_at_ms: u64,
}

/// A new owner key, shown only now.
#[derive(Serialize, ToSchema)]
pub(super) struct NewOwnerKey {
    key_id: String,
    /// `hok_…`.
    key: String,
}

/// Make an owner key.
#[utoipa::path(post, path = "/v1/apps/{app}/owner-keys", tag = "apps", params(AppPath),
    responses((status = 201, description = "Shown only now.", body = NewOwnerKey)))]
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    _: Operator,
    AppName(app): AppName,
) -> Result<(StatusCode, Json<NewOwnerKey>), Problem> {
    let made = shared
        .store
        .edit(Actor::Admin, move |catalogue, now_ms| edit::add_owner_key(catalogue, &app, now_ms))
        .await?;
    let key = NewOwnerKey { key_id: made.what.id, key: made.text.as_str().to_owned() };
    Ok((StatusCode::CREATED, Json(key)))
}

/// List an app's owner keys, in one page.
#[utoipa::path(get, path = "/v1/apps/{app}/owner-keys", tag = "apps", params(AppPath),
    responses((status = 200, description = "Without the keys.", body = Page<OwnerKey>)))]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    _: Operator,
    AppName(app): AppName,
) -> Result<Json<Page<OwnerKey>>, Problem> {
    let app = shared.store.look(|it| Ok::<_, Refusal>(it.require(&app)?.app.clone()))?;
    let key = |key: &crate::catalogue::app::OwnerKey| OwnerKey {
        key_id: key.id.clone(),
        created_at_ms: key.created_at_ms,
    };
    let items = app.owner_keys.iter().map(key).collect();
    Ok(Json(Page { items, next_page_token: None }))
}

/// Remove an owner key. It opens nothing from now on.
#[utoipa::path(delete, path = "/v1/apps/{app}/owner-keys/{key_id}", tag = "apps",
    params(AppPath, KeyPath),
    responses((status = 204, description = "Gone.")))]
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    _: Operator,
    AppName(app): AppName,
    KeyId(key_id): KeyId,
) -> Result<StatusCode, Problem> {
    let gone = shared
        .store
        .edit(Actor::Admin, move |catalogue, _| edit::remove_owner_key(catalogue, &app, &key_id));
    gone.await?;
    Ok(StatusCode::NO_CONTENT)
}
