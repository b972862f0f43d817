//! Edits of ticket keys: the first one, rotation with overlap, and rotation that drops the old ones.

use super::Edit;
use crate::catalogue::{Catalogue, Change, TicketKey};
use crate::refusal::Refusal;
use crate::seal::Sealer;
use hawser_proto::code::ErrorCode;
use hawser_proto::limits::{CLOCK_LEEWAY, RESUME_TICKET_LIFE};
use std::sync::Arc;
use std::time::Duration;

/// Keys that verify at once; every access node holds them all.
const TICKET_KEYS_MAX: usize = 8;

/// Whether there is no key, or the newest has served for `rotation`.
pub(crate) fn is_due(catalogue: &Catalogue, rotation: Duration, now_ms: u64) -> bool {
    let serving = catalogue.ticket_keys().filter(|key| key.verify_until_ms.is_none());
    let newest = serving.map(|key| key.active_from_ms).max();
    newest.is_none_or(|since| since + rotation.as_millis() as u64 <= now_ms)
}

/// The key that is due; the first one serves at once. `None`: none is.
pub(crate) fn keep(
    catalogue: &Catalogue,
    sealer: &Sealer,
    delay: Duration,
    rotation: Duration,
    now_ms: u64,
) -> Option<Result<Edit, Refusal>> {
    if !is_due(catalogue, rotation, now_ms) {
        return None;
    }
    let is_first = catalogue.ticket_keys().next().is_none();
    let (delay, action) =
        if is_first { (Duration::ZERO, "ticket-key.create") } else { (delay, "ticket-key.rotate") };
    Some(replace(catalogue, sealer, delay, action, now_ms).map(|(edit, _)| edit))
}

/// A new key that tickets are made with after `delay`. The ones before it verify until the last ticket
/// made with them is dead.
pub(crate) fn rotate(
    catalogue: &Catalogue,
    sealer: &Sealer,
    delay: Duration,
    now_ms: u64,
) -> Result<(Edit, TicketKey), Refusal> {
    replace(catalogue, sealer, delay, "ticket-key.rotate", now_ms)
}

/// A new key at once, and no ticket made before is good any more: for when a key was seen by others.
/// Devices log in with their tokens then.
pub(crate) fn start_over(
    catalogue: &Catalogue,
    sealer: &Sealer,
    now_ms: u64,
) -> Result<(Edit, TicketKey), Refusal> {
    let new = make(catalogue, sealer, now_ms)?;
    let gone = catalogue.ticket_keys().map(|key| Change::RemoveTicketKey(key.kid));
    let put = Change::PutTicketKey(Box::new(new.clone()));
    let edit = Edit::new("ticket-key.start-over", gone.chain([put]).collect());
    Ok((edit.at(&new.kid.to_string()), new))
}

/// Removes all, where resume tickets are switched off. `None`: there are none.
pub(crate) fn remove_all(catalogue: &Catalogue) -> Option<Edit> {
    let gone: Vec<_> =
        catalogue.ticket_keys().map(|key| Change::RemoveTicketKey(key.kid)).collect();
    (!gone.is_empty()).then(|| Edit::new("ticket-key.remove-all", gone))
}

fn replace(
    catalogue: &Catalogue,
    sealer: &Sealer,
    delay: Duration,
    action: &'static str,
    now_ms: u64,
) -> Result<(Edit, TicketKey), Refusal> {
    let verifying = catalogue.ticket_keys().filter(|key| key.verifies(now_ms)).count();
    if verifying >= TICKET_KEYS_MAX {
        let detail = "eight ticket keys still verify tickets; wait for the oldest to end";
        return Err(Refusal::new(ErrorCode::QuotaExceeded, detail));
    }
    let new = make(catalogue, sealer, now_ms + delay.as_millis() as u64)?;
    let until = new.active_from_ms + (RESUME_TICKET_LIFE + CLOCK_LEEWAY).as_millis() as u64;
    let retire = |key: &Arc<TicketKey>| {
        let mut key = key.as_ref().clone();
        key.verify_until_ms = Some(until);
        Change::PutTicketKey(Box::new(key))
    };
    let retired = catalogue.ticket_keys().filter(|key| key.verify_until_ms.is_none()).map(retire);
    let changes =
        [Change::PutTicketKey(Box::new(new.clone()))].into_iter().chain(retired).collect();
    Ok((Edit::new(action, changes).at(&new.kid.to_string()), new))
}

fn make(catalogue: &Catalogue, sealer: &Sealer, active_from_ms: u64) -> Result<TicketKey, Refusal> {
    let is_free = |kid: &u32| *kid != 0 && catalogue.ticket_keys().all(|key| key.kid != *kid);
    // At most nine of four billion are taken.
    let kid = std::iter::repeat_with(rand::random).find(is_free).unwrap_or(1);
    TicketKey::generate(sealer, kid, active_from_ms).map_err(|_| Refusal::internal())
}
