//! `/v1/apps`: apps.

use super::auth::{AppPath, OfApp, Operator};
use super::body::{Body, Query};
use super::page::{Page, PageQuery};
use super::problem::Problem;
use super::text;
use crate::catalogue;
use crate::catalogue::edit::app::{self as edit, AppPatch, OpenAccess};
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::store::Actor;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hawser_proto::id::AppId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A new app. What is left out takes its default.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateApp {
    /// Its name, `[a-z0-9-]{1,32}`.
    app: String,
    /// Origins of pages that may act for it: `*`, or `scheme://host[:port]`. Default none.
    allowed_origins: Option<Vec<String>>,
    proof: Option<ProofChoice>,
    /// A device that has been silent for this long sends a heartbeat. Default 25000.
    heartbeat_ms: Option<u32>,
    /// A connection that has been silent for this long is closed. Default 35000.
    idle_timeout_ms: Option<u32>,
    /// Largest frame, 4096 to 1048576. Default 65536.
    frame_bytes_max: Option<u32>,
    quotas: Option<QuotaChoice>,
}

/// What is to be different of an app.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateApp {
    /// A switched-off app admits no device. Only the operator may change it.
    enabled: Option<bool>,
    /// Origins of pages that may act for it.
    allowed_origins: Option<Vec<String>>,
    proof: Option<ProofChoice>,
    heartbeat_ms: Option<u32>,
    idle_timeout_ms: Option<u32>,
    frame_bytes_max: Option<u32>,
    quotas: Option<QuotaChoice>,
}

/// Which proofs the app takes from its devices.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProofChoice {
    /// Signed with the client secret. Default true.
    hmac: Option<bool>,
    /// A JWT signed by the app's backend. Default true.
    jwt: Option<bool>,
    /// None at all; for development, where the server allows it. Default false.
    open: Option<bool>,
}

/// What the app may use up. Only the operator may change it.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotaChoice {
    /// Default 100.
    businesses_max: Option<u32>,
    /// Live keys of one business. Default 16.
    keys_per_business_max: Option<u32>,
    /// Access requests; 0: no limit. Default 0.
    accesses_per_second_max: Option<u32>,
}

/// An app.
#[derive(Serialize, ToSchema)]
pub(super) struct App {
    app: String,
    enabled: bool,
    created_at_ms: u64,
    allowed_origins: Vec<String>,
    proof: Proofs,
    heartbeat_ms: u32,
    idle_timeout_ms: u32,
    frame_bytes_max: u32,
    quotas: Quotas,
    client_secrets: Vec<ClientSecret>,
}

/// Which proofs an app takes.
#[derive(Serialize, ToSchema)]
struct Proofs {
    hmac: bool,
    jwt: bool,
    open: bool,
}

/// What an app may use up.
#[derive(Serialize, ToSchema)]
struct Quotas {
    businesses_max: u32,
    keys_per_business_max: u32,
    accesses_per_second_max: u32,
}

/// A client secret, without the secret.
#[derive(Serialize, ToSchema)]
struct ClientSecret {
    secret_id: String,
    created_at_ms: u64,
    /// There when it was rotated out.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
}

/// A new app, with what is shown only now.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedApp {
    #[serde(flatten)]
    app: App,
    owner_key_id: String,
    /// `hok_…`: opens this API for the app.
    owner_key: String,
    /// `hcs_…`: its devices sign HMAC proofs with it.
    client_secret: String,
}

impl From<&catalogue::App> for App {
    fn from(app: &catalogue::App) -> Self {
        let secret = |it: &catalogue::app::ClientSecret| ClientSecret {
            secret_id: it.id.clone(),
            created_at_ms: it.created_at_ms,
            expires_at_ms: it.expires_at_ms,
        };
        Self {
            app: app.name.to_string(),
            enabled: app.enabled,
            created_at_ms: app.created_at_ms,
            allowed_origins: app.allowed_origins.clone(),
            proof: Proofs { hmac: app.proofs.hmac, jwt: app.proofs.jwt, open: app.proofs.open },
            heartbeat_ms: app.settings.heartbeat_ms,
            idle_timeout_ms: app.settings.idle_timeout_ms,
            frame_bytes_max: app.settings.frame_bytes_max,
            quotas: Quotas {
                businesses_max: app.quotas.businesses_max,
                keys_per_business_max: app.quotas.keys_per_business_max,
                accesses_per_second_max: app.quotas.accesses_per_second_max,
            },
            client_secrets: app.client_secrets.iter().map(secret).collect(),
        }
    }
}

impl UpdateApp {
    fn patch(self) -> Result<AppPatch, Refusal> {
        let proof = self.proof.unwrap_or_default();
        let quotas = self.quotas.unwrap_or_default();
        Ok(AppPatch {
            enabled: self.enabled,
            allowed_origins: self.allowed_origins.map(text::origins).transpose()?,
            hmac: proof.hmac,
            jwt: proof.jwt,
            open: proof.open,
            heartbeat_ms: self.heartbeat_ms,
            idle_timeout_ms: self.idle_timeout_ms,
            frame_bytes_max: self.frame_bytes_max,
            businesses_max: quotas.businesses_max,
            keys_per_business_max: quotas.keys_per_business_max,
            accesses_per_second_max: quotas.accesses_per_second_max,
        })
    }
}

/// Register an app.
#[utoipa::path(post, path = "/v1/apps", tag = "apps", request_body = CreateApp,
    responses((status = 201, description = "Registered.", body = CreatedApp),
              (status = 409, description = "Refused: `already_exists`.", body = super::problem::ProblemBody,
               content_type = "application/problem+json")))]
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    _: Operator,
    Body(body): Body<CreateApp>,
) -> Result<(StatusCode, Json<CreatedApp>), Problem> {
    let name = AppId::new(&body.app).map_err(|error| Refusal::invalid(format!("app: {error}")))?;
    let patch = UpdateApp {
        enabled: None,
        allowed_origins: body.allowed_origins,
        proof: body.proof,
        heartbeat_ms: body.heartbeat_ms,
        idle_timeout_ms: body.idle_timeout_ms,
        frame_bytes_max: body.frame_bytes_max,
        quotas: body.quotas,
    }
    .patch()?;
    let open_access = OpenAccess(shared.config.allow_open_access);
    let sealer = shared.sealer.clone();
    let made = shared.store.edit(Actor::Admin, move |catalogue, now_ms| {
        edit::create(catalogue, &sealer, &name, patch, open_access, now_ms)
    });
    let edit::NewApp { app, owner, client_secret } = made.await?;
    let created = CreatedApp {
        app: App::from(&app),
        owner_key_id: owner.what.id,
        owner_key: owner.text.as_str().to_owned(),
        client_secret: client_secret.as_str().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// List apps.
#[utoipa::path(get, path = "/v1/apps", tag = "apps", params(PageQuery),
    responses((status = 200, description = "A page of them.", body = Page<App>)))]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    _: Operator,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<App>>, Problem> {
    let size = page.size()?;
    let after = page.after(|bytes| AppId::new(std::str::from_utf8(bytes).ok()?).ok())?;
    let items = shared.store.look(|catalogue| {
        let tenants = catalogue.tenants_after(after.as_ref()).take(size + 1);
        tenants.map(|tenant| App::from(tenant.app.as_ref())).collect()
    });
    Ok(Json(Page::cut(items, size, |app: &App| app.app.clone().into_bytes())))
}

/// Describe an app.
#[utoipa::path(get, path = "/v1/apps/{app}", tag = "apps", params(AppPath),
    responses((status = 200, description = "It.", body = App)))]
pub(super) async fn describe(
    State(shared): State<Arc<Shared>>,
    of: OfApp,
) -> Result<Json<App>, Problem> {
    let app = shared.store.look(|it| Ok::<_, Refusal>(it.require(&of.app)?.app.clone()))?;
    Ok(Json(App::from(app.as_ref())))
}

/// Change an app. What is left out stays as it is.
#[utoipa::path(patch, path = "/v1/apps/{app}", tag = "apps", params(AppPath), request_body = UpdateApp,
    responses((status = 200, description = "As it is now.", body = App)))]
pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    of: OfApp,
    Body(body): Body<UpdateApp>,
) -> Result<Json<App>, Problem> {
    let patch = body.patch()?;
    if patch.is_for_operator() {
        of.require_operator()?;
    }
    let open_access = OpenAccess(shared.config.allow_open_access);
    let app = shared
        .store
        .edit(of.actor, move |catalogue, _| edit::update(catalogue, &of.app, patch, open_access))
        .await?;
    Ok(Json(App::from(&app)))
}

/// Remove an app, its businesses and all keys. Its tokens are revoked.
#[utoipa::path(delete, path = "/v1/apps/{app}", tag = "apps", params(AppPath),
    responses((status = 204, description = "Gone.")))]
pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    _: Operator,
    super::auth::AppName(app): super::auth::AppName,
) -> Result<StatusCode, Problem> {
    let gone = shared
        .store
        .edit(Actor::Admin, move |catalogue, now_ms| edit::remove(catalogue, &app, now_ms));
    gone.await?;
    Ok(StatusCode::NO_CONTENT)
}
