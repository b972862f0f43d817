//! Which sessions a boot of a node has, so that they can be ended when it dies. Written in the same step as
//! the route.

use super::disk::{Source, Space, end_of};
use super::form;
use super::writer::Step;
use crate::inbox::shelf::View as _;
use crate::inbox::{Owner, Session};
use crate::key::Key;
use crate::store::{KeyBytes, Registered, StoreError, WalkMark};
use hawser_proto::id::{BootId, NodeId};
use std::ops::Bound;

/// This connection has the session now, and that one no more.
pub(super) fn took(
    step: &mut Step<'_, '_>,
    device: &Key,
    owner: &Owner,
    displaced: Option<&Session>,
) -> Result<(), StoreError> {
    if let Some(before) = displaced {
        left(step, device, &before.owner)?;
    }
    let key = form::session(&owner.node, owner.boot, device.as_bytes());
    step.overlay().set(Space::Sessions, key, form::write_slot(owner.at));
    Ok(())
}

/// The session is in use. Where that was noted just now it is registered again: it may have been claimed by
/// a release that did not.
pub(super) fn used(
    step: &mut Step<'_, '_>,
    device: &Key,
    session: &Session,
    now_ms: u64,
) -> Result<(), StoreError> {
    match step.device(device).route()? {
        Some(route) if route.at_ms == now_ms => took(step, device, &session.owner, None),
        _ => Ok(()),
    }
}

/// This connection has no session any more; another one of its boot may have it.
pub(super) fn left(step: &mut Step<'_, '_>, device: &Key, owner: &Owner) -> Result<(), StoreError> {
    let key = form::session(&owner.node, owner.boot, device.as_bytes());
    let overlay = step.overlay();
    let Some(at) = overlay.get(Space::Sessions, &key)? else { return Ok(()) };
    if form::read_slot(&at)? == owner.at {
        overlay.remove(Space::Sessions, key);
    }
    Ok(())
}

/// The boot has no session of this device any more.
pub(super) fn forget(step: &mut Step<'_, '_>, device: &Key, node: &NodeId, boot: BootId) {
    step.overlay().remove(Space::Sessions, form::session(node, boot, device.as_bytes()));
}

/// All boots that have some.
pub(super) fn boots(disk: &impl Source) -> Result<Vec<(NodeId, BootId)>, StoreError> {
    let mut boots = Vec::new();
    let mut from = Bound::Unbounded;
    // One look for each: from behind the sessions of the last one.
    while let Some((key, _)) = disk.scan(Space::Sessions, from, &[], 1)?.pop() {
        let (node, boot) = form::boot_of(&key).ok_or(StoreError::Value)?;
        from = match end_of(&form::sessions(&node, boot)) {
            Bound::Excluded(end) => Bound::Included(end),
            end => end,
        };
        boots.push((node, boot));
    }
    Ok(boots)
}

/// Some of a boot's.
pub(super) fn of(
    disk: &impl Source,
    node: &NodeId,
    boot: BootId,
    max: usize,
) -> Result<Vec<KeyBytes>, StoreError> {
    let prefix = form::sessions(node, boot);
    let found = disk.scan(Space::Sessions, Bound::Included(prefix.clone()), &prefix, max)?;
    Ok(found.iter().map(|(key, _)| key[prefix.len()..].into()).collect())
}

/// Some of a boot's that follow `after`, and where to go on.
pub(super) fn walk(
    disk: &impl Source,
    node: &NodeId,
    boot: BootId,
    after: &WalkMark,
    max: usize,
) -> Result<(Vec<Registered>, Option<WalkMark>), StoreError> {
    let prefix = form::sessions(node, boot);
    let from = if after.is_empty() {
        Bound::Included(prefix.clone())
    } else {
        Bound::Excluded([&prefix, &**after].concat())
    };
    let found = disk.scan(Space::Sessions, from, &prefix, max)?;
    let mut some = Vec::with_capacity(found.len());
    for (key, at) in &found {
        some.push(Registered { device: key[prefix.len()..].into(), at: form::read_slot(at)? });
    }
    let next = some.last().filter(|_| some.len() == max).map(|last| last.device.clone());
    Ok((some, next))
}
