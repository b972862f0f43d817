//! An app as the catalogue keeps it. The stored form is this struct as JSON: fields are only added,
//! each with a default.

use super::Entity;
use crate::seal::Sealed;
use crate::store::text;
use hawser_proto::id::AppId;
use hawser_proto::limits;
use hawser_proto::rpc::control as wire;
use serde::{Deserialize, Serialize};

/// An app: the tenant boundary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct App {
    #[serde(with = "text")]
    pub(crate) name: AppId,
    /// Never used again, also not when an app of the same name is made later.
    pub(crate) serial: u64,
    pub(crate) created_at_ms: u64,
    pub(crate) enabled: bool,
    /// `*` or `scheme://host[:port]`.
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) proofs: Proofs,
    pub(crate) settings: Settings,
    pub(crate) quotas: Quotas,
    pub(crate) owner_keys: Vec<OwnerKey>,
    pub(crate) client_secrets: Vec<ClientSecret>,
    pub(crate) identity_keys: Vec<IdentityKey>,
}

/// Which proofs of identity the app takes from its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proofs {
    pub(crate) hmac: bool,
    pub(crate) jwt: bool,
    pub(crate) open: bool,
}

/// What its connections are told and held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) heartbeat_ms: u32,
    pub(crate) idle_timeout_ms: u32,
    pub(crate) frame_bytes_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_ms: limits::HEARTBEAT.as_millis() as u32,
            idle_timeout_ms: limits::IDLE_TIMEOUT.as_millis() as u32,
            frame_bytes_max: limits::FRAME_BYTES_MAX_DEFAULT as u32,
        }
    }
}

/// What the app may use up; set by the operator alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_field_names, reason = "each is a most, and says so")]
pub(crate) struct Quotas {
    pub(crate) businesses_max: u32,
    /// Live keys of one business.
    pub(crate) keys_per_business_max: u32,
    /// `POST /v1/access` calls; 0: no limit.
    pub(crate) accesses_per_second_max: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { businesses_max: 100, keys_per_business_max: 16, accesses_per_second_max: 0 }
    }
}

/// Opens the app's part of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnerKey {
    pub(crate) id: String,
    #[serde(with = "hex::serde")]
    pub(crate) sha256: [u8; 32],
    pub(crate) created_at_ms: u64,
}

/// What the app's devices sign HMAC proofs with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientSecret {
    pub(crate) id: String,
    pub(crate) sealed: Sealed,
    pub(crate) created_at_ms: u64,
    pub(crate) expires_at_ms: Option<u64>,
}

impl ClientSecret {
    /// What it is sealed for.
    pub(crate) fn purpose(serial: u64, id: &str) -> String {
        format!("client-secret/{serial}/{id}")
    }

    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_none_or(|at| now_ms < at)
    }
}

/// What the app's backend signs identity JWTs with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdentityKey {
    pub(crate) kid: String,
    pub(crate) material: KeyMaterial,
}

/// The algorithm is fixed by the key, never by the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeyMaterial {
    Hs256(Sealed),
    Rs256(String),
    Es256(String),
    EdDsa(String),
}

impl KeyMaterial {
    /// What an HMAC key is sealed for.
    pub(crate) fn purpose(serial: u64, kid: &str) -> String {
        format!("identity-key/{serial}/{kid}")
    }
}

impl App {
    /// As watchers see it: no secrets.
    pub(super) fn wire(&self) -> Entity {
        Entity::App(self.wire_app())
    }

    pub(super) fn wire_app(&self) -> wire::App {
        wire::App {
            app: self.name.as_str().to_owned(),
            enabled: self.enabled,
            allowed_origins: self.allowed_origins.clone(),
            heartbeat_ms: self.settings.heartbeat_ms,
            idle_timeout_ms: self.settings.idle_timeout_ms,
            frame_bytes_max: self.settings.frame_bytes_max,
        }
    }

    /// Whether a page of this origin may act for the app.
    pub(crate) fn allows_origin(&self, origin: &str) -> bool {
        self.allowed_origins
            .iter()
            .any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }
}

/// Only what names an app.
pub(super) fn wire_name(name: &AppId) -> Entity {
    Entity::App(wire::App { app: name.as_str().to_owned(), ..Default::default() })
}
