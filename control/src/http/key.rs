//! `/v1/apps/{app}/businesses/{business}/keys`: what a business's backend pushes with.

use super::auth::{BusinessPath, KeyId, KeyPath, OfBusiness};
use super::body::OptionalBody;
use super::business::find;
use super::client_secret::Overlap;
use super::page::Page;
use super::problem::Problem;
use super::text;
use crate::catalogue::business as catalogue;
use crate::catalogue::edit::business as edit;
use crate::refusal::Refusal;
use crate::shared::Shared;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

const EXPIRES_IN_SECONDS_MAX: u64 = 10 * 366 * 86_400;

/// What a key opens.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scope {
    /// Unicast, batch, multicast, broadcast.
    Push,
    /// Group calls.
    Group,
    /// Presence calls.
    Presence,
    /// Disconnect.
    Admin,
}

/// A new key. What is left out takes its default.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateKey {
    /// Default push, group and presence.
    scopes: Option<Vec<Scope>>,
    /// Default: it does not expire.
    expires_in_s: Option<u64>,
}

/// A key, without the key.
#[derive(Serialize, ToSchema)]
pub(super) struct BusinessKey {
    key_id: String,
    scopes: Vec<Scope>,
    created_at_ms: u64,
    /// Not there: it does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
}

/// A new key, shown only now.
#[derive(Serialize, ToSchema)]
pub(super) struct NewBusinessKey {
    key_id: String,
    /// `hbk_…`.
    key: String,
    scopes: Vec<Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
    /// The key it takes the place of, after a rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<BusinessKey>,
}

impl From<Scope> for catalogue::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Push => Self::Push,
            Scope::Group => Self::Group,
            Scope::Presence => Self::Presence,
            Scope::Admin => Self::Admin,
        }
    }
}

impl From<catalogue::Scope> for Scope {
    fn from(scope: catalogue::Scope) -> Self {
        match scope {
            catalogue::Scope::Push => Self::Push,
            catalogue::Scope::Group => Self::Group,
            catalogue::Scope::Presence => Self::Presence,
            catalogue::Scope::Admin => Self::Admin,
        }
    }
}

impl From<&catalogue::BusinessKey> for BusinessKey {
    fn from(key: &catalogue::BusinessKey) -> Self {
        Self {
            key_id: key.id.clone(),
            scopes: key.scopes.iter().copied().map(Into::into).collect(),
            created_at_ms: key.created_at_ms,
            expires_at_ms: key.expires_at_ms,
        }
    }
}

impl NewBusinessKey {
    fn new(
        made: &crate::catalogue::edit::app::Made<catalogue::BusinessKey>,
        replaces: Option<&catalogue::BusinessKey>,
    ) -> Self {
        let BusinessKey { key_id, scopes, expires_at_ms, .. } = BusinessKey::from(&made.what);
        let replaces = replaces.map(BusinessKey::from);
        Self { key_id, key: made.text.as_str().to_owned(), scopes, expires_at_ms, replaces }
    }
}

/// Make a key.
#[utoipa::path(post, path = "/v1/apps/{app}/businesses/{business}/keys", tag = "keys",
    params(BusinessPath), request_body = Option<CreateKey>,
    responses((status = 201, description = "Shown only now.", body = NewBusinessKey)))]
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    of: OfBusiness,
    OptionalBody(body): OptionalBody<CreateKey>,
) -> Result<(StatusCode, Json<NewBusinessKey>), Problem> {
    let scopes = body.scopes.unwrap_or_else(|| vec![Scope::Push, Scope::Group, Scope::Presence]);
    let mut scopes: Vec<catalogue::Scope> = scopes.into_iter().map(Into::into).collect();
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        return Err(Refusal::invalid("a key without a scope opens nothing").into());
    }
    if body.expires_in_s.is_some_and(|life| !(1..=EXPIRES_IN_SECONDS_MAX).contains(&life)) {
        return Err(Refusal::invalid("expires_in_s is not between 1 and 316224000").into());
    }
    let life = body.expires_in_s.map(Duration::from_secs);
    let made = shared
        .store
        .edit(of.actor, move |catalogue, now_ms| {
            edit::add_key(catalogue, &of.app, &of.business, scopes, life, now_ms)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(NewBusinessKey::new(&made, None))))
}

/// List a business's keys, in one page.
#[utoipa::path(get, path = "/v1/apps/{app}/businesses/{business}/keys", tag = "keys",
    params(BusinessPath),
    responses((status = 200, description = "Without the keys.", body = Page<BusinessKey>)))]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    of: OfBusiness,
) -> Result<Json<Page<BusinessKey>>, Problem> {
    let items = find(&shared, &of)?.keys.iter().map(BusinessKey::from).collect();
    Ok(Json(Page { items, next_page_token: None }))
}

/// Remove a key. Routers refuse it as soon as they hear of it.
#[utoipa::path(delete, path = "/v1/apps/{app}/businesses/{business}/keys/{key_id}", tag = "keys",
    params(BusinessPath, KeyPath),
    responses((status = 204, description = "Gone.")))]
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    of: OfBusiness,
    KeyId(key_id): KeyId,
) -> Result<StatusCode, Problem> {
    let gone = shared.store.edit(of.actor, move |catalogue, _| {
        edit::remove_key(catalogue, &of.app, &of.business, &key_id)
    });
    gone.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replace a key by a new one with the same scopes; the old one stays good for the overlap.
#[utoipa::path(post, path = "/v1/apps/{app}/businesses/{business}/keys/{key_id}/rotate", tag = "keys",
    params(BusinessPath, KeyPath), request_body = Option<Overlap>,
    responses((status = 201, description = "Shown only now.", body = NewBusinessKey)))]
pub(super) async fn rotate(
    State(shared): State<Arc<Shared>>,
    of: OfBusiness,
    KeyId(key_id): KeyId,
    OptionalBody(body): OptionalBody<Overlap>,
) -> Result<(StatusCode, Json<NewBusinessKey>), Problem> {
    let overlap = text::overlap(body.overlap_s)?;
    let made = shared.store.edit(of.actor, move |catalogue, now_ms| {
        edit::rotate_key(catalogue, &of.app, &of.business, &key_id, overlap, now_ms)
    });
    let (made, old) = made.await?;
    Ok((StatusCode::CREATED, Json(NewBusinessKey::new(&made, Some(&old)))))
}
