//! Edits of signing keys: the first one, and rotation with overlap.

use super::Edit;
use crate::catalogue::{Catalogue, Change, SigningKey};
use crate::refusal::Refusal;
use crate::seal::Sealer;
use hawser_proto::code::ErrorCode;
use hawser_proto::limits::CLOCK_LEEWAY;
use std::time::Duration;

/// Published keys at once; every access node holds them all.
const SIGNING_KEYS_MAX: usize = 8;

/// The first key, active at once. `None`: there is one that signs, or will.
pub(crate) fn first(
    catalogue: &Catalogue,
    sealer: &Sealer,
    now_ms: u64,
) -> Option<Result<Edit, Refusal>> {
    if catalogue.signing_keys().any(|key| key.verify_until_ms.is_none()) {
        return None;
    }
    let made = SigningKey::generate(sealer, now_ms).map_err(|_| Refusal::internal());
    Some(made.map(|key| {
        let kid = key.kid.clone();
        Edit::new("signing-key.create", vec![Change::PutSigningKey(Box::new(key))]).at(&kid)
    }))
}

/// A new key that signs after `delay`. The ones before it verify until the last token they can have
/// signed is dead: activation, plus a token's life, plus the clock leeway.
pub(crate) fn rotate(
    catalogue: &Catalogue,
    sealer: &Sealer,
    delay: Duration,
    token_ttl: Duration,
    now_ms: u64,
) -> Result<(Edit, SigningKey), Refusal> {
    let verifying = catalogue.signing_keys().filter(|key| key.verifies(now_ms)).count();
    if verifying >= SIGNING_KEYS_MAX {
        let detail = "eight signing keys still verify tokens; wait for the oldest to end";
        return Err(Refusal::new(ErrorCode::QuotaExceeded, detail));
    }
    let active_from_ms = now_ms + delay.as_millis() as u64;
    let new = SigningKey::generate(sealer, active_from_ms).map_err(|_| Refusal::internal())?;
    let until = active_from_ms + (token_ttl + CLOCK_LEEWAY).as_millis() as u64;
    let retire = |key: &std::sync::Arc<SigningKey>| {
        let mut key = key.as_ref().clone();
        key.verify_until_ms = Some(until);
        Change::PutSigningKey(Box::new(key))
    };
    let retired = catalogue.signing_keys().filter(|key| key.verify_until_ms.is_none()).map(retire);
    let changes =
        [Change::PutSigningKey(Box::new(new.clone()))].into_iter().chain(retired).collect();
    Ok((Edit::new("signing-key.rotate", changes).at(&new.kid), new))
}
