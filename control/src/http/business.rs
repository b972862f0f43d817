//! `/v1/apps/{app}/businesses`.

use super::auth::{AppPath, BusinessPath, OfApp, OfBusiness};
use super::body::{Body, Query};
use super::inbox::{Inbox, InboxWish};
use super::page::{Page, PageQuery};
use super::problem::Problem;
use super::text;
use crate::catalogue;
use crate::catalogue::edit::business::{self as edit, BusinessPatch};
use crate::catalogue::inbox::InboxPatch;
use crate::refusal::Refusal;
use crate::shared::Shared;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::BusinessId;
use serde::{Deserialize, Serialize};
use std::ops::Bound;
use std::sync::Arc;
use utoipa::ToSchema;

/// A new business. What is left out takes its default.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBusiness {
    /// Its name, `[a-z0-9-]{1,32}`, unique within the app.
    business: String,
    /// Servers of `hawser.business.v1`, as `http://host:port`. None: requests get `unavailable`.
    #[serde(default)]
    endpoints: Vec<String>,
    /// Longest time for a request, 1 to 60000. Default 3000.
    request_timeout_ms: Option<u32>,
    /// Over the whole cluster; sizes its pools. Default 100.
    expected_requests_per_second: Option<u32>,
    slow_policy: Option<SlowPolicy>,
    inbox: Option<InboxWish>,
    /// Its endpoints are told when devices that serve it come and go (`Connections`). Default false.
    connection_events: Option<bool>,
}

/// What is to be different of a business.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBusiness {
    /// A switched-off business gets no requests and pushes nothing.
    enabled: Option<bool>,
    endpoints: Option<Vec<String>>,
    request_timeout_ms: Option<u32>,
    expected_requests_per_second: Option<u32>,
    slow_policy: Option<SlowPolicy>,
    inbox: Option<InboxWish>,
    connection_events: Option<bool>,
}

/// What happens to volatile pushes a device is too slow for. Default `drop_newest`.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SlowPolicy {
    DropNewest,
    DropOldest,
    Disconnect,
}

/// A business.
#[derive(Serialize, ToSchema)]
pub(super) struct Business {
    app: String,
    business: String,
    /// Stands for the business on the wire: unique within the app, never 0, never reused.
    number: u32,
    enabled: bool,
    created_at_ms: u64,
    endpoints: Vec<String>,
    request_timeout_ms: u32,
    expected_requests_per_second: u32,
    slow_policy: SlowPolicy,
    inbox: Inbox,
    /// Whether its endpoints are told when devices that serve it come and go.
    connection_events: bool,
}

impl From<SlowPolicy> for catalogue::business::SlowPolicy {
    fn from(policy: SlowPolicy) -> Self {
        match policy {
            SlowPolicy::DropNewest => Self::DropNewest,
            SlowPolicy::DropOldest => Self::DropOldest,
            SlowPolicy::Disconnect => Self::Disconnect,
        }
    }
}

impl From<catalogue::business::SlowPolicy> for SlowPolicy {
    fn from(policy: catalogue::business::SlowPolicy) -> Self {
        use catalogue::business::SlowPolicy as Kept;
        match policy {
            Kept::DropNewest => Self::DropNewest,
            Kept::DropOldest => Self::DropOldest,
            Kept::Disconnect => Self::Disconnect,
        }
    }
}

impl From<&catalogue::Business> for Business {
    fn from(business: &catalogue::Business) -> Self {
        Self {
            app: business.app.to_string(),
            business: business.name.to_string(),
            number: business.number,
            enabled: business.enabled,
            created_at_ms: business.created_at_ms,
            endpoints: business.endpoints.clone(),
            request_timeout_ms: business.request_timeout_ms,
            expected_requests_per_second: business.expected_requests_per_second,
            slow_policy: business.slow_policy.into(),
            inbox: business.inbox.into(),
            connection_events: business.connection_events,
        }
    }
}

impl UpdateBusiness {
    fn patch(self) -> Result<BusinessPatch, Refusal> {
        Ok(BusinessPatch {
            enabled: self.enabled,
            endpoints: self.endpoints.map(text::endpoints).transpose()?,
            request_timeout_ms: self.request_timeout_ms,
            expected_requests_per_second: self.expected_requests_per_second,
            slow_policy: self.slow_policy.map(Into::into),
            inbox: self.inbox.map(InboxPatch::from).unwrap_or_default(),
            connection_events: self.connection_events,
        })
    }
}

/// Register a business.
#[utoipa::path(post, path = "/v1/apps/{app}/businesses", tag = "businesses", params(AppPath),
    request_body = CreateBusiness,
    responses((status = 201, description = "Registered.", body = Business),
              (status = 409, description = "Refused: `already_exists`.", body = super::problem::ProblemBody,
               content_type = "application/problem+json")))]
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    of: OfApp,
    Body(body): Body<CreateBusiness>,
) -> Result<(StatusCode, Json<Business>), Problem> {
    let name = BusinessId::new(&body.business)
        .map_err(|error| Refusal::invalid(format!("business: {error}")))?;
    let patch = UpdateBusiness {
        enabled: None,
        endpoints: Some(body.endpoints),
        request_timeout_ms: body.request_timeout_ms,
        expected_requests_per_second: body.expected_requests_per_second,
        slow_policy: body.slow_policy,
        inbox: body.inbox,
        connection_events: body.connection_events,
    }
    .patch()?;
    let business = shared
        .store
        .edit(of.actor, move |catalogue, now_ms| {
            edit::create(catalogue, &of.app, &name, patch, now_ms)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(Business::from(&business))))
}

/// List an app's businesses.
#[utoipa::path(get, path = "/v1/apps/{app}/businesses", tag = "businesses",
    params(AppPath, PageQuery),
    responses((status = 200, description = "A page of them.", body = Page<Business>)))]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    of: OfApp,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Business>>, Problem> {
    let size = page.size()?;
    let after = page.after(|bytes| BusinessId::new(std::str::from_utf8(bytes).ok()?).ok())?;
    let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let items = shared.store.look(|catalogue| {
        let businesses = &catalogue.require(&of.app)?.businesses;
        let found = businesses.range::<BusinessId, _>((from, Bound::Unbounded)).take(size + 1);
        Ok::<_, Refusal>(found.map(|(_, it)| Business::from(it.as_ref())).collect())
    })?;
    Ok(Json(Page::cut(items, size, |it: &Business| it.business.clone().into_bytes())))
}

/// Describe a business.
#[utoipa::path(get, path = "/v1/apps/{app}/businesses/{business}", tag = "businesses",
    params(BusinessPath),
    responses((status = 200, description = "It.", body = Business)))]
pub(super) async fn describe(
    State(shared): State<Arc<Shared>>,
    of: OfBusiness,
) -> Result<Json<Business>, Problem> {
    Ok(Json(Business::from(find(&shared, &of)?.as_ref())))
}

/// The business in the path, or the refusal.
pub(super) fn find(shared: &Shared, of: &OfBusiness) -> Result<Arc<catalogue::Business>, Problem> {
    let found = shared.store.look(|catalogue| {
        catalogue.require(&of.app)?;
        Ok::<_, Refusal>(catalogue.business(&of.app, &of.business).cloned())
    })?;
    let unknown = || Problem::new(ErrorCode::UnknownBusiness, "the app has no such business");
    found.ok_or_else(unknown)
}

/// Change a business. What is left out stays as it is.
#[utoipa::path(patch, path = "/v1/apps/{app}/businesses/{business}", tag = "businesses",
    params(BusinessPath), request_body = UpdateBusiness,
    responses((status = 200, description = "As it is now.", body = Business)))]
pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    of: OfBusiness,
    Body(body): Body<UpdateBusiness>,
) -> Result<Json<Business>, Problem> {
    let patch = body.patch()?;
    let business = shared
        .store
        .edit(of.actor, move |catalogue, _| edit::update(catalogue, &of.app, &of.business, patch))
        .await?;
    Ok(Json(Business::from(&business)))
}

/// Remove a business and its keys. Its number is not used again.
#[utoipa::path(delete, path = "/v1/apps/{app}/businesses/{business}", tag = "businesses",
    params(BusinessPath),
    responses((status = 204, description = "Gone.")))]
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    of: OfBusiness,
) -> Result<StatusCode, Problem> {
    let gone = shared
        .store
        .edit(of.actor, move |catalogue, _| edit::remove(catalogue, &of.app, &of.business));
    gone.await?;
    Ok(StatusCode::NO_CONTENT)
}
