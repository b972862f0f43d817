//! Taking back what devices hold: their tokens, and the binding of their device key.

use super::auth::{AppPath, DeviceName, DevicePath, OfApp};
use super::body::Body;
use super::problem::Problem;
use crate::catalogue::edit;
use crate::refusal::Refusal;
use crate::shared::Shared;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hawser_proto::id::DeviceId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Whose tokens to revoke.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateRevocation {
    /// One device. Left out: the whole app.
    device: Option<String>,
}

/// Tokens that are refused, and whose sessions are closed.
#[derive(Serialize, ToSchema)]
pub(super) struct Revocation {
    app: String,
    /// Not there: the whole app.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// Tokens issued before this are refused.
    issued_before_ms: u64,
}

/// Revoke the tokens issued until now. Live sessions close; a device that can prove itself may come back.
#[utoipa::path(post, path = "/v1/apps/{app}/revocations", tag = "devices", params(AppPath),
    request_body = CreateRevocation,
    responses((status = 201, description = "Revoked.", body = Revocation)))]
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    of: OfApp,
    Body(body): Body<CreateRevocation>,
) -> Result<(StatusCode, Json<Revocation>), Problem> {
    let device = body.device.map(|device| DeviceId::new(&device)).transpose();
    let device = device.map_err(|error| Refusal::invalid(format!("device: {error}")))?;
    let revocation = shared
        .store
        .edit(of.actor, move |catalogue, now_ms| edit::revoke(catalogue, &of.app, device, now_ms))
        .await?;
    let revocation = Revocation {
        app: revocation.whom.app.to_string(),
        device: revocation.whom.device.map(|device| device.to_string()),
        issued_before_ms: revocation.issued_before_ms,
    };
    Ok((StatusCode::CREATED, Json(revocation)))
}

/// Forget the key a device is bound to, so that it can bind another: it lost the old one.
#[utoipa::path(delete, path = "/v1/apps/{app}/device-keys/{device}", tag = "devices",
    params(AppPath, DevicePath),
    responses((status = 204, description = "The device is bound to no key.")))]
pub(super) async fn release_device_key(
    State(shared): State<Arc<Shared>>,
    of: OfApp,
    DeviceName(device): DeviceName,
) -> Result<StatusCode, Problem> {
    let released = shared
        .store
        .edit(of.actor, move |catalogue, _| edit::release_device_key(catalogue, &of.app, &device));
    released.await?;
    Ok(StatusCode::NO_CONTENT)
}
