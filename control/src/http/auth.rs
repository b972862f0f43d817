//! Who calls, and what of. Extractors: a handler that takes [`OfApp`] is reached only by callers that
//! may act on the app in the path. Order: who, then what, then whether it exists, so that nobody learns
//! of another tenant's names.

use super::problem::Problem;
use crate::clock::now_ms;
use crate::key::{self, KeyKind};
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::store::Actor;
use axum::extract::{FromRef, FromRequestParts, RawPathParams};
use axum::http::header;
use axum::http::request::Parts;
use hawser_chassis::secret::bearer;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, BusinessId, DeviceId, NodeId};
use std::sync::Arc;
use utoipa::IntoParams;

enum Caller {
    Operator,
    Owner { app: AppId, key_id: String },
}

fn caller(parts: &Parts, shared: &Shared) -> Result<Caller, Problem> {
    let refused = |detail| Problem::new(ErrorCode::Unauthenticated, detail);
    let shown = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(bearer).ok_or_else(|| refused("there is no bearer token"))?;
    if shared.config.admin_token.matches(shown) {
        return Ok(Caller::Operator);
    }
    if shown.starts_with(KeyKind::Owner.prefix()) {
        let sha256 = key::sha256(shown);
        let owner = shared.store.look(|catalogue| catalogue.owner(&sha256).cloned());
        if let Some((app, key_id)) = owner {
            return Ok(Caller::Owner { app, key_id });
        }
    }
    Err(refused("the bearer token is not known"))
}

async fn param(parts: &mut Parts, name: &str) -> Result<String, Problem> {
    let invalid = || Refusal::invalid(format!("the path has no readable {name}"));
    let params = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| invalid())?;
    let found = params.iter().find(|(key, _)| *key == name);
    Ok(found.map(|(_, value)| value.to_owned()).ok_or_else(invalid)?)
}

/// The operator, with the admin token.
pub(super) struct Operator;

impl<S> FromRequestParts<S> for Operator
where
    Arc<Shared>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match caller(parts, &Arc::from_ref(state))? {
            Caller::Operator => Ok(Self),
            Caller::Owner { .. } => {
                let detail = "an owner key does not open this call";
                Err(Problem::new(ErrorCode::PermissionDenied, detail))
            }
        }
    }
}

/// Anyone whom control gave a credential: the operator, an owner, or a business.
pub(super) struct Known {
    pub(super) is_operator: bool,
}

impl<S> FromRequestParts<S> for Known
where
    Arc<Shared>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let shared: Arc<Shared> = Arc::from_ref(state);
        let shown = parts.headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
        if let Some(key) = shown.and_then(bearer)
            && key.starts_with(KeyKind::Business.prefix())
        {
            let (sha256, now_ms) = (key::sha256(key), now_ms());
            if shared.store.look(|catalogue| catalogue.knows_business_key(&sha256, now_ms)) {
                return Ok(Self { is_operator: false });
            }
        }
        let is_operator = matches!(caller(parts, &shared)?, Caller::Operator);
        Ok(Self { is_operator })
    }
}

/// Someone who may act on the app in the path. It need not exist.
pub(super) struct OfApp {
    pub(super) app: AppId,
    pub(super) actor: Actor,
}

impl OfApp {
    /// The refusal of what only the operator may change.
    pub(super) fn require_operator(&self) -> Result<(), Problem> {
        if self.actor == Actor::Admin {
            return Ok(());
        }
        let detail = "only the operator may change enabled and quotas";
        Err(Problem::new(ErrorCode::PermissionDenied, detail))
    }
}

impl<S> FromRequestParts<S> for OfApp
where
    Arc<Shared>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = caller(parts, &Arc::from_ref(state))?;
        let app = AppId::new(&param(parts, "app").await?)
            .map_err(|error| Refusal::invalid(format!("app: {error}")))?;
        let actor = match caller {
            Caller::Operator => Actor::Admin,
            Caller::Owner { app: own, key_id } if own == app => Actor::Owner(key_id),
            Caller::Owner { .. } => {
                let detail = "the owner key is of another app";
                return Err(Problem::new(ErrorCode::PermissionDenied, detail));
            }
        };
        Ok(Self { app, actor })
    }
}

/// Someone who may act on the business in the path. It need not exist.
pub(super) struct OfBusiness {
    pub(super) app: AppId,
    pub(super) business: BusinessId,
    pub(super) actor: Actor,
}

impl<S> FromRequestParts<S> for OfBusiness
where
    Arc<Shared>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let OfApp { app, actor } = OfApp::from_request_parts(parts, state).await?;
        let business = BusinessId::new(&param(parts, "business").await?)
            .map_err(|error| Refusal::invalid(format!("business: {error}")))?;
        Ok(Self { app, business, actor })
    }
}

/// The key id in the path. Take it after the caller was checked.
pub(super) struct KeyId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for KeyId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        param(parts, "key_id").await.map(Self)
    }
}

/// The app in the path of an operator's call.
pub(super) struct AppName(pub(super) AppId);

impl<S: Send + Sync> FromRequestParts<S> for AppName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let app = AppId::new(&param(parts, "app").await?);
        Ok(Self(app.map_err(|error| Refusal::invalid(format!("app: {error}")))?))
    }
}

/// The access node in the path of an operator's call.
pub(super) struct NodeName(pub(super) NodeId);

impl<S: Send + Sync> FromRequestParts<S> for NodeName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let node = NodeId::new(&param(parts, "node").await?);
        Ok(Self(node.map_err(|error| Refusal::invalid(format!("node: {error}")))?))
    }
}

/// The device in the path. Take it after the caller was checked.
pub(super) struct DeviceName(pub(super) DeviceId);

impl<S: Send + Sync> FromRequestParts<S> for DeviceName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let device = DeviceId::new(&param(parts, "device").await?);
        Ok(Self(device.map_err(|error| Refusal::invalid(format!("device: {error}")))?))
    }
}

/// Path parameters, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "describes what the extractors read")]
pub(super) struct AppPath {
    /// App, `[a-z0-9-]{1,32}`.
    app: String,
}

/// Path parameters, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "describes what the extractors read")]
pub(super) struct BusinessPath {
    /// App, `[a-z0-9-]{1,32}`.
    app: String,
    /// Business, `[a-z0-9-]{1,32}`.
    business: String,
}

/// Path parameters, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "describes what the extractors read")]
pub(super) struct KeyPath {
    /// Id of the key, as given when it was made.
    key_id: String,
}

/// Path parameters, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "describes what the extractors read")]
pub(super) struct NodePath {
    /// Access node.
    node: String,
}

/// Path parameters, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "describes what the extractors read")]
pub(super) struct DevicePath {
    /// Device id, percent-encoded.
    device: String,
}
