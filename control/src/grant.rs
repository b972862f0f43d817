//! Device tokens: made for a proof, and made again for a live session.

use crate::catalogue::revocation::issue_time_ms;
use crate::key;
use crate::refusal::Refusal;
use crate::seal::Sealer;
use crate::store::Store;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, BusinessId, DeviceId};
use hawser_proto::limits::CLOCK_LEEWAY;
use hawser_proto::token::{AUDIENCE, Claims, ISSUER, refresh_at_ms};
use std::time::Duration;
use tracing::error;

/// The placement policy in force. There is one until policies can be edited.
pub(crate) const POLICY_VERSION: u64 = 1;

/// A token and its times, ms since 1970.
#[derive(Clone)]
pub(crate) struct Grant {
    pub(crate) token: String,
    pub(crate) issued_at_ms: u64,
    /// Ask for the next one from here on: spread over devices, so that those who logged in together do
    /// not refresh together.
    pub(crate) refresh_at_ms: u64,
    pub(crate) expires_at_ms: u64,
}

/// Whom a token is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder<'a> {
    pub(crate) app: &'a AppId,
    pub(crate) device: &'a DeviceId,
    /// Empty: all of the app.
    pub(crate) businesses: &'a [BusinessId],
}

/// Makes a token. The caller has checked that the holder may have one.
pub(crate) fn grant(
    store: &Store,
    sealer: &Sealer,
    holder: Holder<'_>,
    ttl: Duration,
    now_ms: u64,
) -> Result<Grant, Refusal> {
    let (revoked_before_ms, signer) = store.look(|catalogue| {
        let revoked = catalogue.revoked_before_ms(holder.app, holder.device);
        (revoked, catalogue.signer(now_ms).cloned())
    });
    let signer = signer.ok_or_else(|| {
        error!("there is no signing key");
        Refusal::internal()
    })?;
    let (claims, grant) = claims(holder, issue_time_ms(now_ms, revoked_before_ms), ttl);
    let key = signer.open(sealer).map_err(|failure| {
        error!(kid = signer.kid, failure = &failure as &dyn std::error::Error, "cannot sign");
        Refusal::internal()
    })?;
    let token = key.sign(&claims).map_err(|failure| {
        error!(kid = signer.kid, failure = &failure as &dyn std::error::Error, "cannot sign");
        Refusal::internal()
    })?;
    Ok(Grant { token, ..grant })
}

/// Claims, and the times that follow from them. The token itself is still to be signed.
fn claims(holder: Holder<'_>, issued_at_ms: u64, ttl: Duration) -> (Claims, Grant) {
    let issued = issued_at_ms / 1000;
    let expires = issued + ttl.as_secs();
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: holder.device.as_str().to_owned(),
        app: holder.app.as_str().to_owned(),
        biz: holder.businesses.iter().map(ToString::to_string).collect(),
        jti: key::new_id(),
        iat: issued,
        exp: expires,
        pol: POLICY_VERSION,
    };
    let grant = Grant {
        token: String::new(),
        issued_at_ms: issued * 1000,
        refresh_at_ms: refresh_at_ms(holder.app, holder.device, issued * 1000, expires * 1000),
        expires_at_ms: expires * 1000,
    };
    (claims, grant)
}

/// Whether a live session may have a new token for the one issued at `issued_at_ms`.
pub(crate) fn check_refresh(
    store: &Store,
    app: &AppId,
    device: &DeviceId,
    issued_at_ms: u64,
    ttl: Duration,
    now_ms: u64,
) -> Result<(), Refusal> {
    let leeway_ms = CLOCK_LEEWAY.as_millis() as u64;
    if issued_at_ms > now_ms + leeway_ms {
        return Err(Refusal::invalid("issued_at_ms is in the future"));
    }
    store.look(|catalogue| {
        if !catalogue.require(app)?.app.enabled {
            return Err(Refusal::new(ErrorCode::Disabled, "the app is switched off"));
        }
        // Before the age: revocations are kept longer than any token lives.
        if issued_at_ms < catalogue.revoked_before_ms(app, device) {
            return Err(Refusal::new(ErrorCode::Revoked, "the device's tokens were revoked"));
        }
        if issued_at_ms + ttl.as_millis() as u64 + leeway_ms <= now_ms {
            return Err(Refusal::new(ErrorCode::ProofExpired, "the token's time is over"));
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_agree_with_the_claims_and_refreshes_spread() {
        let app = AppId::new("demo").unwrap();
        let ttl = Duration::from_hours(1);
        let mut refreshes = Vec::new();
        for n in 0..100 {
            let device = DeviceId::new(&format!("d{n}")).unwrap();
            let holder = Holder { app: &app, device: &device, businesses: &[] };
            let (claims, grant) = claims(holder, 1_700_000_000_000, ttl);
            assert_eq!(
                (claims.iat * 1000, claims.exp * 1000),
                (grant.issued_at_ms, grant.expires_at_ms)
            );
            let into = (grant.refresh_at_ms - grant.issued_at_ms) as f64 / 3_600_000.0;
            assert!((0.7..0.9).contains(&into), "{into}");
            refreshes.push(grant.refresh_at_ms);
        }
        refreshes.sort_unstable();
        assert!(refreshes[99] - refreshes[0] > 500_000, "spread over most of the share");
    }
}
