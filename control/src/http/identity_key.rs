//! `/v1/apps/{app}/identity-keys`: what the app's backend signs identity JWTs with.

use super::auth::{AppPath, OfApp};
use super::body::Body;
use super::page::Page;
use super::problem::Problem;
use crate::catalogue::app as catalogue;
use crate::catalogue::app::KeyMaterial;
use crate::catalogue::edit::app as edit;
use crate::proof::jwt::{KeyAlg, ParsedKey, parse_key};
use crate::refusal::Refusal;
use crate::shared::Shared;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;
use utoipa::ToSchema;

const IDENTITY_KEYS_MAX: usize = 16;

/// An algorithm of identity JWTs.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
pub(super) enum IdentityAlg {
    #[serde(rename = "HS256")]
    Hs256,
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// A key to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetIdentityKey {
    /// Tokens name it by this, 1 to 64 bytes.
    kid: String,
    /// The one algorithm its tokens use.
    alg: IdentityAlg,
    /// The public key in PEM; for HS256 32 to 512 bytes in base64.
    key: String,
}

/// A registered key. The public half is shown, an HMAC key is not.
#[derive(Serialize, ToSchema)]
pub(super) struct IdentityKey {
    kid: String,
    alg: IdentityAlg,
    /// PEM; not there for HS256.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl From<&catalogue::IdentityKey> for IdentityKey {
    fn from(key: &catalogue::IdentityKey) -> Self {
        let (alg, pem) = match &key.material {
            KeyMaterial::Hs256(_) => (IdentityAlg::Hs256, None),
            KeyMaterial::Rs256(pem) => (IdentityAlg::Rs256, Some(pem.clone())),
            KeyMaterial::Es256(pem) => (IdentityAlg::Es256, Some(pem.clone())),
            KeyMaterial::EdDsa(pem) => (IdentityAlg::EdDsa, Some(pem.clone())),
        };
        Self { kid: key.kid.clone(), alg, key: pem }
    }
}

fn parse(keys: Vec<SetIdentityKey>) -> Result<Vec<(String, IdentityAlg, ParsedKey)>, Refusal> {
    if keys.len() > IDENTITY_KEYS_MAX {
        return Err(Refusal::invalid("more than 16 identity keys"));
    }
    let mut seen = HashSet::new();
    keys.into_iter()
        .map(|SetIdentityKey { kid, alg, key }| {
            if !(1..=64).contains(&kid.len()) || kid.chars().any(char::is_control) {
                return Err(Refusal::invalid("a kid is not a text of 1 to 64 bytes"));
            }
            if !seen.insert(kid.clone()) {
                return Err(Refusal::invalid("a kid stands there twice"));
            }
            let parsed = match alg {
                IdentityAlg::Hs256 => parse_key(KeyAlg::Hs256, &key),
                IdentityAlg::Rs256 => parse_key(KeyAlg::Rs256, &key),
                IdentityAlg::Es256 => parse_key(KeyAlg::Es256, &key),
                IdentityAlg::EdDsa => parse_key(KeyAlg::EdDsa, &key),
            };
            Ok((kid, alg, parsed?))
        })
        .collect()
}

/// Replace all identity keys of an app.
#[utoipa::path(put, path = "/v1/apps/{app}/identity-keys", tag = "apps", params(AppPath),
    request_body = Vec<SetIdentityKey>,
    responses((status = 200, description = "As they are now.", body = Page<IdentityKey>)))]
pub(super) async fn set(
    State(shared): State<Arc<Shared>>,
    of: OfApp,
    Body(body): Body<Vec<SetIdentityKey>>,
) -> Result<Json<Page<IdentityKey>>, Problem> {
    let parsed = parse(body)?;
    let sealer = shared.sealer.clone();
    let make = move |serial: u64| {
        let key = |(kid, alg, parsed): (String, IdentityAlg, ParsedKey)| {
            let material = match (alg, parsed) {
                (IdentityAlg::Hs256, ParsedKey::Hmac(bytes)) => {
                    let purpose = KeyMaterial::purpose(serial, &kid);
                    let kept = sealer.seal(&purpose, &bytes);
                    KeyMaterial::Hs256(kept.map_err(|_| Refusal::internal())?)
                }
                (IdentityAlg::Rs256, ParsedKey::Public(pem)) => KeyMaterial::Rs256(pem),
                (IdentityAlg::Es256, ParsedKey::Public(pem)) => KeyMaterial::Es256(pem),
                (IdentityAlg::EdDsa, ParsedKey::Public(pem)) => KeyMaterial::EdDsa(pem),
                _ => return Err(Refusal::internal()),
            };
            Ok(catalogue::IdentityKey { kid, material })
        };
        parsed.into_iter().map(key).collect()
    };
    let keys = shared
        .store
        .edit(of.actor, move |catalogue, _| edit::set_identity_keys(catalogue, &of.app, make))
        .await?;
    let items = keys.iter().map(IdentityKey::from).collect();
    Ok(Json(Page { items, next_page_token: None }))
}

/// List an app's identity keys, in one page.
#[utoipa::path(get, path = "/v1/apps/{app}/identity-keys", tag = "apps", params(AppPath),
    responses((status = 200, description = "Without HMAC keys.", body = Page<IdentityKey>)))]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    of: OfApp,
) -> Result<Json<Page<IdentityKey>>, Problem> {
    let app = shared.store.look(|it| Ok::<_, Refusal>(it.require(&of.app)?.app.clone()))?;
    let items = app.identity_keys.iter().map(IdentityKey::from).collect();
    Ok(Json(Page { items, next_page_token: None }))
}
