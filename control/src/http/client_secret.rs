//! `/v1/apps/{app}/client-secret`: what an app's devices sign HMAC proofs with.

use super::auth::{AppPath, OfApp};
use super::body::OptionalBody;
use super::problem::Problem;
use super::text;
use crate::catalogue::edit::app as edit;
use crate::shared::Shared;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// How to rotate.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Overlap {
    /// How long what is replaced stays good, up to 2592000. Default 86400.
    pub(super) overlap_s: Option<u64>,
}

/// A new client secret, shown only now.
#[derive(Serialize, ToSchema)]
pub(super) struct NewClientSecret {
    secret_id: String,
    /// `hcs_…`.
    client_secret: String,
}

/// Make a new client secret; the ones before it stay good for the overlap.
#[utoipa::path(post, path = "/v1/apps/{app}/client-secret", tag = "apps", params(AppPath),
    request_body = Option<Overlap>,
    responses((status = 200, description = "Shown only now.", body = NewClientSecret)))]
pub(super) async fn rotate(
    State(shared): State<Arc<Shared>>,
    of: OfApp,
    OptionalBody(body): OptionalBody<Overlap>,
) -> Result<Json<NewClientSecret>, Problem> {
    let overlap = text::overlap(body.overlap_s)?;
    let sealer = shared.sealer.clone();
    let made = shared.store.edit(of.actor, move |catalogue, now_ms| {
        edit::rotate_client_secret(catalogue, &sealer, &of.app, overlap, now_ms)
    });
    let made = made.await?;
    Ok(Json(NewClientSecret {
        secret_id: made.what.id,
        client_secret: made.text.as_str().to_owned(),
    }))
}
