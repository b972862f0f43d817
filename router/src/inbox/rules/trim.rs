//! Taking away: what was taken by the device, what is over its time, what is purged or forgotten.

use super::{CHUNK, LOOK_INTERVAL, known, known_mut, ms, route};
use crate::inbox::shelf::Shelf;
use crate::inbox::{Entry, Meta, weight};
use hawser_proto::id::{BusinessNo, Position};

/// Empties an inbox. Returns how many entries left; a device that is behind will be told of the gap.
pub fn purge<S: Shelf>(shelf: &mut S, business: BusinessNo) -> Result<u64, S::Error> {
    let Some(mut meta) = shelf.meta(business)? else { return Ok(0) };
    let count = meta.count();
    if count > 0 {
        let tail = meta.tail;
        trim(shelf, business, &mut meta, tail)?;
        meta.purged_to = tail;
        shelf.set_meta(business, meta);
    }
    Ok(count.into())
}

/// Forgets what is over its time: entries, and then what is known of an inbox and of the route. The other
/// operations take all of this for gone, whether it is or not; a store calls this when it has time.
pub fn tidy<S: Shelf>(shelf: &mut S, now_ms: u64) -> Result<(), S::Error> {
    look_everywhere(shelf, now_ms)?;
    for business in shelf.inboxes()? {
        known_mut(shelf, business, now_ms)?;
    }
    if shelf.route()?.is_some() && route(shelf, now_ms)?.is_none() {
        shelf.forget_route();
    }
    Ok(())
}

/// Drops the entries that are over their time, in every inbox where it is worth a look.
pub(super) fn look_everywhere<S: Shelf>(shelf: &mut S, now_ms: u64) -> Result<(), S::Error> {
    for business in shelf.inboxes()? {
        if let Some(mut meta) = known(shelf, business, now_ms)?
            && meta.count() > 0
            && now_ms >= meta.look_at_ms
        {
            drop_expired(shelf, business, &mut meta, now_ms)?;
            shelf.set_meta(business, meta);
        }
    }
    Ok(())
}

/// Removes all that is left of an inbox whose time is over.
pub(super) fn forget<S: Shelf>(shelf: &mut S, business: BusinessNo) -> Result<(), S::Error> {
    if let Some(mut meta) = shelf.meta(business)? {
        let tail = meta.tail;
        trim(shelf, business, &mut meta, tail)?;
        shelf.forget_meta(business);
    }
    Ok(())
}

/// Removes all entries up to and with `upto`.
pub(super) fn trim<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    upto: Position,
) -> Result<(), S::Error> {
    remove_head(shelf, business, meta, |position, _| position <= upto)?;
    meta.floor = meta.floor.max(upto.min(meta.tail));
    if meta.count() == 0 {
        meta.floor = meta.tail;
        meta.overflowed = 0;
    }
    Ok(())
}

/// Removes entries at the head whose time is over.
pub(super) fn trim_head<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    now_ms: u64,
) -> Result<(), S::Error> {
    let count = meta.count();
    remove_head(shelf, business, meta, |_, entry| entry.expires_at_ms <= now_ms)?;
    if meta.count() == count { Ok(()) } else { settle_floor(shelf, business, meta) }
}

/// Removes every entry whose time is over, wherever it stands. Reads the whole inbox, and so does
/// nothing before it is worth a look.
pub(super) fn drop_expired<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    now_ms: u64,
) -> Result<(), S::Error> {
    if now_ms < meta.look_at_ms {
        return Ok(());
    }
    let (mut above, mut next_ms) = (meta.floor, u64::MAX);
    loop {
        let some = shelf.entries(business, above, CHUNK)?;
        let seen = some.len();
        for (position, entry) in some {
            above = position;
            if entry.expires_at_ms <= now_ms {
                drop_entry(shelf, business, meta, position, &entry)?;
            } else {
                next_ms = next_ms.min(entry.expires_at_ms);
            }
        }
        if seen < CHUNK {
            break;
        }
    }
    meta.look_at_ms = next_ms.max(now_ms.saturating_add(ms(LOOK_INTERVAL)));
    settle_floor(shelf, business, meta)
}

/// Removes entries from the head on, as long as they are to leave.
fn remove_head<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    leaves: impl Fn(Position, &Entry) -> bool,
) -> Result<(), S::Error> {
    while meta.count() > 0 {
        let some = shelf.entries(business, meta.floor, CHUNK)?;
        let seen = some.len();
        for (position, entry) in some {
            if !leaves(position, &entry) {
                return Ok(());
            }
            drop_entry(shelf, business, meta, position, &entry)?;
            meta.floor = position;
        }
        if seen < CHUNK {
            return Ok(());
        }
    }
    Ok(())
}

/// Takes one entry away, wherever it stands. The floor is left to the caller.
pub(super) fn drop_entry<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    position: Position,
    entry: &Entry,
) -> Result<(), S::Error> {
    shelf.remove(business, position);
    let priority = entry.priority as usize;
    meta.counts[priority] = meta.counts[priority].saturating_sub(1);
    let bytes = weight(&entry.blob, &entry.collapse_key);
    meta.bytes[priority] = meta.bytes[priority].saturating_sub(bytes);
    if !entry.collapse_key.is_empty()
        && shelf.collapse(business, &entry.collapse_key)? == Some(position)
    {
        shelf.set_collapse(business, entry.collapse_key.clone(), None);
    }
    Ok(())
}

/// After a removal: everything below the first entry is gone.
pub(super) fn settle_floor<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
) -> Result<(), S::Error> {
    let first = shelf.entries(business, meta.floor, 1)?;
    let below = first.first().map_or(meta.tail, |(_, entry)| entry.prev);
    meta.floor = meta.floor.max(below);
    Ok(())
}
