//! The keys that sign device tokens: rotation, and the public halves for anyone.

use super::auth::Operator;
use super::problem::Problem;
use crate::catalogue::edit::signing as edit;
use crate::clock::now_ms;
use crate::shared::Shared;
use crate::store::Actor;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// A new signing key.
#[derive(Serialize, ToSchema)]
pub(super) struct NewSigningKey {
    kid: String,
    /// It signs from then on; it is published from now on.
    active_from_ms: u64,
}

/// The public keys that verify device tokens (RFC 7517).
#[derive(Serialize, ToSchema)]
pub(super) struct Jwks {
    keys: Vec<Jwk>,
}

/// An Ed25519 public key (RFC 8037).
#[derive(Serialize, ToSchema)]
struct Jwk {
    /// `OKP`.
    kty: &'static str,
    /// `Ed25519`.
    crv: &'static str,
    /// The key, base64url.
    x: String,
    kid: String,
    /// `sig`.
    #[serde(rename = "use")]
    purpose: &'static str,
    /// `EdDSA`.
    alg: &'static str,
}

/// Make a new signing key. It signs after the activation delay; the old one verifies until its last
/// token is dead.
#[utoipa::path(post, path = "/v1/signing-keys/rotate", tag = "operator",
    responses((status = 201, description = "Published.", body = NewSigningKey)))]
pub(super) async fn rotate(
    State(shared): State<Arc<Shared>>,
    _: Operator,
) -> Result<(StatusCode, Json<NewSigningKey>), Problem> {
    let sealer = shared.sealer.clone();
    let (delay, ttl) = (shared.config.signing_activation_delay, shared.config.token_ttl);
    let key = shared
        .store
        .edit(Actor::Admin, move |catalogue, now_ms| {
            edit::rotate(catalogue, &sealer, delay, ttl, now_ms)
        })
        .await?;
    let key = NewSigningKey { kid: key.kid, active_from_ms: key.active_from_ms };
    Ok((StatusCode::CREATED, Json(key)))
}

/// The public keys that verify device tokens.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "devices",
    responses((status = 200, description = "A JWK set.", body = Jwks)))]
pub(super) async fn jwks(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let now_ms = now_ms();
    let keys = shared.store.look(|catalogue| {
        let keys = catalogue.signing_keys().filter(|key| key.verifies(now_ms));
        let jwk = |key: &Arc<crate::catalogue::SigningKey>| Jwk {
            kty: "OKP",
            crv: "Ed25519",
            x: URL_SAFE_NO_PAD.encode(key.public_key),
            kid: key.kid.clone(),
            purpose: "sig",
            alg: "EdDSA",
        };
        keys.map(jwk).collect()
    });
    // Kept no longer than a new key waits before it signs.
    let seconds = shared.config.signing_activation_delay.as_secs();
    let kept = format!("public, max-age={seconds}");
    ([(header::CACHE_CONTROL, kept)], Json(Jwks { keys }))
}
