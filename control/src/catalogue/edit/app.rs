//! Edits of apps, their owner keys, client secrets and identity keys.

use super::Edit;
use crate::catalogue::app::{App, ClientSecret, IdentityKey, OwnerKey, Proofs, Quotas, Settings};
use crate::catalogue::{Catalogue, Change, Revocation, Whom};
use crate::key::{self, KeyKind};
use crate::refusal::Refusal;
use crate::seal::Sealer;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::AppId;
use hawser_proto::limits;
use std::time::Duration;
use zeroize::Zeroizing;

const OWNER_KEYS_MAX: usize = 16;
/// A rotation that comes before the last one's overlap has ended leaves more than two.
const CLIENT_SECRETS_MAX: usize = 4;

/// What is to be different; `None`: as it is, or the default for a new app.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppPatch {
    pub(crate) enabled: Option<bool>,
    pub(crate) allowed_origins: Option<Vec<String>>,
    pub(crate) hmac: Option<bool>,
    pub(crate) jwt: Option<bool>,
    pub(crate) open: Option<bool>,
    pub(crate) heartbeat_ms: Option<u32>,
    pub(crate) idle_timeout_ms: Option<u32>,
    pub(crate) frame_bytes_max: Option<u32>,
    pub(crate) businesses_max: Option<u32>,
    pub(crate) keys_per_business_max: Option<u32>,
    pub(crate) accesses_per_second_max: Option<u32>,
}

impl AppPatch {
    /// Whether it holds what only the operator may change.
    pub(crate) fn is_for_operator(&self) -> bool {
        self.enabled.is_some()
            || self.businesses_max.is_some()
            || self.keys_per_business_max.is_some()
            || self.accesses_per_second_max.is_some()
    }

    fn patch(self, app: &mut App) -> Result<(), Refusal> {
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(&mut app.enabled, self.enabled);
        set(&mut app.allowed_origins, self.allowed_origins);
        set(&mut app.proofs.hmac, self.hmac);
        set(&mut app.proofs.jwt, self.jwt);
        set(&mut app.proofs.open, self.open);
        set(&mut app.settings.heartbeat_ms, self.heartbeat_ms);
        set(&mut app.settings.idle_timeout_ms, self.idle_timeout_ms);
        set(&mut app.settings.frame_bytes_max, self.frame_bytes_max);
        set(&mut app.quotas.businesses_max, self.businesses_max);
        set(&mut app.quotas.keys_per_business_max, self.keys_per_business_max);
        set(&mut app.quotas.accesses_per_second_max, self.accesses_per_second_max);
        check(&app.settings)
    }
}

fn check(settings: &Settings) -> Result<(), Refusal> {
    let Settings { heartbeat_ms, idle_timeout_ms, frame_bytes_max } = *settings;
    if !(100..=3_600_000).contains(&heartbeat_ms) {
        return Err(Refusal::invalid("heartbeat_ms is not between 100 and 3600000"));
    }
    if idle_timeout_ms <= heartbeat_ms || idle_timeout_ms > 7_200_000 {
        return Err(Refusal::invalid(
            "idle_timeout_ms is not above heartbeat_ms and at most 7200000",
        ));
    }
    let frame_bytes = limits::LOGIN_FRAME_BYTES_MAX as u32..=limits::FRAME_BYTES_MAX as u32;
    if !frame_bytes.contains(&frame_bytes_max) {
        return Err(Refusal::invalid("frame_bytes_max is not between 4096 and 1048576"));
    }
    Ok(())
}

/// What is shown once.
#[derive(Debug)]
pub(crate) struct Made<T> {
    pub(crate) what: T,
    pub(crate) text: Zeroizing<String>,
}

/// Whether apps may take devices without proof; from the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenAccess(pub(crate) bool);

impl OpenAccess {
    /// Refuses to switch it on where it is not allowed. An app that has it on from before may still be
    /// changed: its devices are refused at the door.
    fn check(self, patch: &AppPatch) -> Result<(), Refusal> {
        if patch.open == Some(true) && !self.0 {
            let detail = "open access is switched off on this server";
            return Err(Refusal::new(ErrorCode::Disabled, detail));
        }
        Ok(())
    }
}

/// A new app, and what is shown once.
#[derive(Debug)]
pub(crate) struct NewApp {
    pub(crate) app: App,
    pub(crate) owner: Made<OwnerKey>,
    pub(crate) client_secret: Zeroizing<String>,
}

/// A new app with an owner key and a client secret.
pub(crate) fn create(
    catalogue: &Catalogue,
    sealer: &Sealer,
    name: &AppId,
    patch: AppPatch,
    open_access: OpenAccess,
    now_ms: u64,
) -> Result<(Edit, NewApp), Refusal> {
    if catalogue.tenant(name).is_some() {
        return Err(Refusal::new(ErrorCode::AlreadyExists, "an app of this name exists"));
    }
    let origins = if open_access.0 { vec!["*".to_owned()] } else { Vec::new() };
    let mut app = App {
        name: name.clone(),
        serial: catalogue.counters.serial + 1,
        created_at_ms: now_ms,
        enabled: true,
        allowed_origins: origins,
        proofs: Proofs { hmac: true, jwt: true, open: false },
        settings: Settings::default(),
        quotas: Quotas::default(),
        owner_keys: Vec::new(),
        client_secrets: Vec::new(),
        identity_keys: Vec::new(),
    };
    open_access.check(&patch)?;
    patch.patch(&mut app)?;
    let owner = new_owner_key(now_ms);
    let (secret, client_secret) = new_client_secret(sealer, app.serial, now_ms)?;
    app.owner_keys.push(owner.what.clone());
    app.client_secrets.push(secret);
    let edit = Edit::new("app.create", vec![Change::PutApp(Box::new(app.clone()))]).of(name);
    Ok((edit, NewApp { app, owner, client_secret }))
}

pub(crate) fn update(
    catalogue: &Catalogue,
    name: &AppId,
    patch: AppPatch,
    open_access: OpenAccess,
) -> Result<(Edit, App), Refusal> {
    let mut app = catalogue.require(name)?.app.as_ref().clone();
    open_access.check(&patch)?;
    patch.patch(&mut app)?;
    let edit = Edit::new("app.update", vec![Change::PutApp(Box::new(app.clone()))]).of(name);
    Ok((edit, app))
}

/// Removes the app with its businesses and all keys, and revokes its tokens, so that they are not taken
/// for those of a later app with the same name.
pub(crate) fn remove(
    catalogue: &Catalogue,
    name: &AppId,
    now_ms: u64,
) -> Result<(Edit, ()), Refusal> {
    catalogue.require(name)?;
    let whom = Whom { app: name.clone(), device: None };
    let changes = vec![
        Change::PutRevocation(Revocation::until_now(whom, now_ms)),
        Change::RemoveApp(name.clone()),
    ];
    Ok((Edit::new("app.delete", changes).of(name), ()))
}

fn new_owner_key(now_ms: u64) -> Made<OwnerKey> {
    let text = key::new_text(KeyKind::Owner);
    let sha256 = key::sha256(&text);
    Made { what: OwnerKey { id: key::new_id(), sha256, created_at_ms: now_ms }, text }
}

fn new_client_secret(
    sealer: &Sealer,
    serial: u64,
    now_ms: u64,
) -> Result<(ClientSecret, Zeroizing<String>), Refusal> {
    let text = key::new_text(KeyKind::Client);
    let id = key::new_id();
    let kept = sealer
        .seal(&ClientSecret::purpose(serial, &id), text.as_bytes())
        .map_err(|_| Refusal::internal())?;
    Ok((ClientSecret { id, sealed: kept, created_at_ms: now_ms, expires_at_ms: None }, text))
}

pub(crate) fn add_owner_key(
    catalogue: &Catalogue,
    name: &AppId,
    now_ms: u64,
) -> Result<(Edit, Made<OwnerKey>), Refusal> {
    let mut app = catalogue.require(name)?.app.as_ref().clone();
    if app.owner_keys.len() >= OWNER_KEYS_MAX {
        return Err(Refusal::new(ErrorCode::QuotaExceeded, "an app has at most 16 owner keys"));
    }
    let made = new_owner_key(now_ms);
    app.owner_keys.push(made.what.clone());
    let edit = Edit::new("owner-key.create", vec![Change::PutApp(Box::new(app))]);
    Ok((edit.of(name).at(&made.what.id), made))
}

pub(crate) fn remove_owner_key(
    catalogue: &Catalogue,
    name: &AppId,
    key_id: &str,
) -> Result<(Edit, ()), Refusal> {
    let mut app = catalogue.require(name)?.app.as_ref().clone();
    let before = app.owner_keys.len();
    app.owner_keys.retain(|key| key.id != key_id);
    if app.owner_keys.len() == before {
        return Err(Refusal::not_found("owner key"));
    }
    let edit = Edit::new("owner-key.delete", vec![Change::PutApp(Box::new(app))]);
    Ok((edit.of(name).at(key_id), ()))
}

/// A new client secret; the ones before it end after the overlap.
pub(crate) fn rotate_client_secret(
    catalogue: &Catalogue,
    sealer: &Sealer,
    name: &AppId,
    overlap: Duration,
    now_ms: u64,
) -> Result<(Edit, Made<ClientSecret>), Refusal> {
    let mut app = catalogue.require(name)?.app.as_ref().clone();
    let end = now_ms + overlap.as_millis() as u64;
    for secret in &mut app.client_secrets {
        secret.expires_at_ms = Some(secret.expires_at_ms.map_or(end, |at| at.min(end)));
    }
    app.client_secrets.retain(|secret| secret.is_live(now_ms));
    if app.client_secrets.len() >= CLIENT_SECRETS_MAX {
        let detail = "four client secrets are still in their overlap";
        return Err(Refusal::new(ErrorCode::QuotaExceeded, detail));
    }
    let (secret, text) = new_client_secret(sealer, app.serial, now_ms)?;
    app.client_secrets.push(secret.clone());
    let edit = Edit::new("client-secret.rotate", vec![Change::PutApp(Box::new(app))]);
    Ok((edit.of(name).at(&secret.id), Made { what: secret, text }))
}

/// Replaces all identity keys. `make` seals the HMAC ones for the app's serial.
pub(crate) fn set_identity_keys(
    catalogue: &Catalogue,
    name: &AppId,
    make: impl FnOnce(u64) -> Result<Vec<IdentityKey>, Refusal>,
) -> Result<(Edit, Vec<IdentityKey>), Refusal> {
    let mut app = catalogue.require(name)?.app.as_ref().clone();
    let keys = make(app.serial)?;
    app.identity_keys.clone_from(&keys);
    let edit = Edit::new("identity-keys.set", vec![Change::PutApp(Box::new(app))]).of(name);
    Ok((edit, keys))
}
