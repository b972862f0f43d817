//! A device asks to come in: its proof is checked, access points are chosen, a token is made. The steps
//! are ordered so that nothing is remembered or written for a request that would be refused anyway.

use crate::catalogue::Tenant;
use crate::catalogue::app::{App, ClientSecret, KeyMaterial};
use crate::grant::{self, Grant, Holder};
use crate::placement::{Asker, NODES_PER_PROTOCOL, Placed, place};
use crate::proof::hmac::HmacProof;
use crate::proof::jwt::{self, KeyAlg, ParsedKey};
use crate::proof::nonce::NonceError;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::store::Bound;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, BusinessId, DeviceId};
use std::time::Duration;
use tracing::error;

/// A device that finds all nodes full asks again within so many of the nodes' reports.
const UNTIL_FREE: f64 = 5.0;
/// The same where no node is known.
const UNTIL_KNOWN: f64 = 2.0;

/// How the device proves who it is.
pub(crate) enum Proof {
    Open,
    Hmac(HmacProof),
    Jwt(String),
}

/// A device's wish, in its right form.
pub(crate) struct Ask {
    pub(crate) app: AppId,
    pub(crate) device: DeviceId,
    pub(crate) platform: Option<String>,
    pub(crate) businesses: Vec<BusinessId>,
    pub(crate) proof: Proof,
    /// Of the page that asks, when a browser does.
    pub(crate) origin: Option<String>,
}

/// What the device gets.
pub(crate) struct Admission {
    pub(crate) grant: Grant,
    pub(crate) access_points: Vec<Placed>,
    /// Before it dials.
    pub(crate) start_after: Duration,
    pub(crate) heartbeat_ms: u32,
    pub(crate) idle_timeout_ms: u32,
}

/// Admits a device at `now_ms`, or says why not.
pub(crate) async fn admit(shared: &Shared, ask: &Ask, now_ms: u64) -> Result<Admission, Refusal> {
    let tenant: Tenant = shared.store.look(|catalogue| catalogue.require(&ask.app).cloned())?;
    let app = tenant.app.as_ref();
    if !app.enabled {
        return Err(Refusal::new(ErrorCode::Disabled, "the app is switched off"));
    }
    if ask.origin.as_ref().is_some_and(|origin| !app.allows_origin(origin)) {
        let detail = "the app does not allow pages of this origin";
        return Err(Refusal::new(ErrorCode::PermissionDenied, detail));
    }
    let quota = app.quotas.accesses_per_second_max;
    if !shared.rates.lock().take(&ask.app, quota, now_ms) {
        let detail = "the app's quota of access requests is used up";
        let refusal = Refusal::new(ErrorCode::QuotaExceeded, detail);
        return Err(refusal.retry_after(Duration::from_secs(1)));
    }
    check_proof(shared, app, ask, now_ms)?;

    let freshness = shared.config.node_freshness;
    let (access_points, per_second) = {
        let nodes = shared.nodes.lock();
        let candidates = nodes.candidates(now_ms, freshness);
        let (name, device) = (ask.app.as_str(), ask.device.as_str());
        let asker = Asker { app: name, device, platform: ask.platform.as_deref() };
        let placed = place(&candidates, asker, NODES_PER_PROTOCOL);
        if placed.is_empty() {
            let refusal =
                Refusal::new(ErrorCode::NoAccessPoint, "no access point is free just now");
            let (fresh, report) =
                (nodes.fresh(now_ms, freshness), shared.config.node_report_interval);
            return Err(refusal.retry_after(until_free(fresh, report, rand::random())));
        }
        (placed, nodes.accepts_per_second(None, now_ms, freshness))
    };
    if let Proof::Hmac(proof) = &ask.proof {
        spend(shared, app, ask, proof, now_ms).await?;
    }
    let holder = Holder { app: &ask.app, device: &ask.device, businesses: &ask.businesses };
    let ttl = shared.config.token_ttl;
    let grant = grant::grant(&shared.store, &shared.sealer, holder, ttl, now_ms)?;
    shared.metrics.tokens_issued.inc();
    let start_after = shared.pace.lock().turn(per_second, rand::random(), now_ms);
    if !start_after.is_zero() {
        shared.metrics.starts_delayed.inc();
    }
    let settings = app.settings;
    Ok(Admission {
        grant,
        access_points,
        start_after,
        heartbeat_ms: settings.heartbeat_ms,
        idle_timeout_ms: settings.idle_timeout_ms,
    })
}

/// When to ask again, if there is no access point now: not before the next report can have changed anything, and
/// not all at once. `spread`: 0 to 1. Nodes that are full stay so for longer than nodes that have only not
/// reported yet, to a control that has just started.
fn until_free(fresh_nodes: usize, report_interval: Duration, spread: f64) -> Duration {
    let longest = if fresh_nodes == 0 { UNTIL_KNOWN } else { UNTIL_FREE };
    report_interval.mul_f64(1.0 + spread.clamp(0.0, 1.0) * (longest - 1.0))
}

fn check_proof(shared: &Shared, app: &App, ask: &Ask, now_ms: u64) -> Result<(), Refusal> {
    let allowed = match ask.proof {
        Proof::Open => app.proofs.open && shared.config.allow_open_access,
        Proof::Hmac(_) => app.proofs.hmac,
        Proof::Jwt(_) => app.proofs.jwt,
    };
    if !allowed {
        let detail = "the app does not take this kind of proof";
        return Err(Refusal::new(ErrorCode::Disabled, detail));
    }
    match &ask.proof {
        Proof::Open => Ok(()),
        Proof::Hmac(proof) => {
            let mut secrets = Vec::with_capacity(app.client_secrets.len());
            for secret in app.client_secrets.iter().filter(|secret| secret.is_live(now_ms)) {
                let purpose = ClientSecret::purpose(app.serial, &secret.id);
                secrets.push(open(shared, &purpose, &secret.sealed)?);
            }
            let secrets = secrets.iter().map(|secret| secret.as_slice());
            let window = shared.config.proof_window;
            Ok(proof.check(&ask.app, &ask.device, secrets, window, now_ms)?)
        }
        Proof::Jwt(token) => {
            let kid = jwt::kid(token)?;
            let unknown = || Refusal::new(ErrorCode::ProofInvalid, "the token's kid is not known");
            let key = app.identity_keys.iter().find(|key| key.kid == kid).ok_or_else(unknown)?;
            let (alg, key) = match &key.material {
                KeyMaterial::Hs256(sealed) => {
                    let purpose = KeyMaterial::purpose(app.serial, &key.kid);
                    (KeyAlg::Hs256, ParsedKey::Hmac(open(shared, &purpose, sealed)?))
                }
                KeyMaterial::Rs256(pem) => (KeyAlg::Rs256, ParsedKey::Public(pem.clone())),
                KeyMaterial::Es256(pem) => (KeyAlg::Es256, ParsedKey::Public(pem.clone())),
                KeyMaterial::EdDsa(pem) => (KeyAlg::EdDsa, ParsedKey::Public(pem.clone())),
            };
            Ok(jwt::check(token, alg, &key, &ask.app, &ask.device, now_ms)?)
        }
    }
}

fn open(
    shared: &Shared,
    purpose: &str,
    sealed: &crate::seal::Sealed,
) -> Result<zeroize::Zeroizing<Vec<u8>>, Refusal> {
    shared.sealer.open(purpose, sealed).map_err(|failure| {
        error!(purpose, failure = &failure as &dyn std::error::Error, "stored secret unusable");
        Refusal::internal()
    })
}

/// Uses a good proof up: the device key must be the bound one, and the nonce must be new. The first
/// device key that comes is bound, durably, before the token is given.
async fn spend(
    shared: &Shared,
    app: &App,
    ask: &Ask,
    proof: &HmacProof,
    now_ms: u64,
) -> Result<(), Refusal> {
    let mismatch = || {
        let detail = "the device is bound to another device key";
        Refusal::new(ErrorCode::DeviceKeyMismatch, detail)
    };
    let shown = proof.device_key.as_ref().map(|key| key.public);
    let bound = shared.store.binding(app.serial, &ask.device).await?;
    let bound = bound.map(|binding| binding.device_key);
    if bound.is_some() && bound != shown {
        return Err(mismatch());
    }
    let until_ms = proof.replayable_until_ms(shared.config.proof_window);
    let taken = shared.nonces.lock().take(&ask.app, &ask.device, &proof.nonce, until_ms, now_ms);
    taken.map_err(|error| match error {
        NonceError::Replayed => {
            Refusal::new(ErrorCode::ProofReplayed, "the nonce of the proof was seen before")
        }
        NonceError::Full => Refusal::new(ErrorCode::Overloaded, "too many proofs just now")
            .retry_after(Duration::from_secs(5)),
    })?;
    if let (None, Some(public)) = (bound, shown) {
        // Another first access may have come in between; the store decides.
        if shared.store.bind(app.serial, &ask.device, public).await? == Bound::Other {
            return Err(mismatch());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_find_all_nodes_full_come_back_spread_and_not_before_the_next_report() {
        let report = Duration::from_secs(3);
        for (fresh, first_s, last_s) in [(0, 3, 6), (1, 3, 15), (7, 3, 15)] {
            assert_eq!(until_free(fresh, report, 0.0), Duration::from_secs(first_s), "{fresh}");
            assert_eq!(until_free(fresh, report, 1.0), Duration::from_secs(last_s), "{fresh}");
        }
    }
}
