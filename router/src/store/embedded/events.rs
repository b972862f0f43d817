//! Which devices have to be looked at because a business may have to hear of them. Written in the same step as
//! what it has to hear of.

use super::disk::{Source, Space};
use super::form;
use super::writer::Step;
use crate::inbox::rules;
use crate::key::Key;
use crate::store::{KeyBytes, Marked, StoreError, event_shard};
use std::ops::Bound;

/// Marks counted in one read.
const PAGE: usize = 1_024;

/// Marks the device, if there is something that a business has to hear.
pub(super) fn mark_if_due(
    step: &mut Step<'_, '_>,
    device: &Key,
    now_ms: u64,
) -> Result<(), StoreError> {
    if rules::events_due(&step.device(device), now_ms)?.is_empty() {
        return Ok(());
    }
    take(step, device.as_bytes())?;
    let (at, device) = (step.next_mark(now_ms), device.as_bytes());
    let overlay = step.overlay();
    overlay.set(Space::Marks, form::mark_of(device), form::write_number(at));
    overlay.set(Space::Marks, form::mark(event_shard(device), at, device), Vec::new());
    Ok(())
}

/// Takes the mark of a device away.
fn take(step: &mut Step<'_, '_>, device: &[u8]) -> Result<(), StoreError> {
    let overlay = step.overlay();
    if let Some(at) = overlay.get(Space::Marks, &form::mark_of(device))? {
        let at = form::read_number(&at)?;
        overlay.remove(Space::Marks, form::mark_of(device));
        overlay.remove(Space::Marks, form::mark(event_shard(device), at, device));
    }
    Ok(())
}

/// Takes this mark away, if it is still there.
pub(super) fn unmark(step: &mut Step<'_, '_>, seen: &Marked) -> Result<(), StoreError> {
    let at = step.overlay().get(Space::Marks, &form::mark_of(&seen.device))?;
    match at.map(|at| form::read_number(&at)).transpose()? {
        Some(at) if at == seen.at => take(step, &seen.device),
        _ => Ok(()),
    }
}

/// Marks of a shard after this one, in order.
pub(super) fn marked(
    disk: &impl Source,
    shard: u16,
    after: u64,
    max: usize,
) -> Result<Vec<Marked>, StoreError> {
    let from = Bound::Included(form::mark(shard, after.saturating_add(1), &[]));
    let found = disk.scan(Space::Marks, from, &form::marks(shard), max)?;
    let read = |(key, _): &(fjall::Slice, fjall::Slice)| {
        let (at, device) = form::read_mark(key).ok_or(StoreError::Value)?;
        Ok(Marked { device: KeyBytes::from(device), at })
    };
    found.iter().map(read).collect()
}

/// How many there are.
pub(super) fn count(disk: &impl Source, shard: u16) -> Result<u64, StoreError> {
    let (mut count, mut after) = (0, 0);
    loop {
        let page = marked(disk, shard, after, PAGE)?;
        count += page.len() as u64;
        match page.last() {
            Some(last) if page.len() == PAGE => after = last.at,
            _ => return Ok(count),
        }
    }
}
