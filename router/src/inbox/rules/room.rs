//! Room in a full inbox: who leaves for a new entry.

use super::CHUNK;
use super::append::held_by_collapse;
use super::trim::{drop_entry, settle_floor};
use crate::inbox::shelf::{Shelf, View};
use crate::inbox::{Caps, Entry, Meta, NewEntry, Priority, weight};
use hawser_proto::id::{BusinessNo, Position};

pub(super) fn is_full(
    meta: &Meta,
    replaced: Option<&(Position, Entry)>,
    new: &NewEntry,
    caps: Caps,
) -> bool {
    let (mut count, mut bytes) = (u64::from(meta.count()), meta.bytes_total());
    if let Some((_, entry)) = replaced {
        count = count.saturating_sub(1);
        bytes = bytes.saturating_sub(weight(&entry.blob, &entry.collapse_key));
    }
    let added = weight(&new.blob, &new.collapse_key);
    count + 1 > u64::from(caps.entries_max) || bytes + added > caps.bytes_max
}

/// Lets the oldest of the lowest priority go until the new entry fits. False, and nothing has left: the
/// policy forbids it, or not even all that may leave for this one would do.
pub(super) fn make_room<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    new: &NewEntry,
    replaced: Option<&(Position, Entry)>,
    caps: Caps,
) -> Result<bool, S::Error> {
    let mut least = meta.clone();
    for priority in 0..=new.priority as usize {
        least.counts[priority] = 0;
        least.bytes[priority] = 0;
    }
    // What the new one replaces leaves in any case; unless it is among those just left out.
    let kept = replaced.filter(|(_, entry)| entry.priority > new.priority);
    if !caps.drops_oldest || is_full(&least, kept, new, caps) {
        return Ok(false);
    }
    loop {
        let replaced = held_by_collapse(shelf, business, new)?;
        if !is_full(meta, replaced.as_ref(), new, caps) {
            return Ok(true);
        }
        let Some((position, entry)) = oldest_of_lowest(shelf, business, meta)? else {
            return Ok(false);
        };
        drop_entry(shelf, business, meta, position, &entry)?;
        meta.above[entry.priority as usize] = position;
        meta.overflowed += 1;
        meta.overflowed_to = meta.overflowed_to.max(position);
        settle_floor(shelf, business, meta)?;
    }
}

fn oldest_of_lowest<S: View>(
    shelf: &S,
    business: BusinessNo,
    meta: &Meta,
) -> Result<Option<(Position, Entry)>, S::Error> {
    let waits = |priority: &Priority| meta.counts[*priority as usize] > 0;
    let Some(lowest) = Priority::ALL.into_iter().find(waits) else { return Ok(None) };
    let mut above = meta.floor.max(meta.above[lowest as usize]);
    loop {
        let some = shelf.entries(business, above, CHUNK)?;
        let Some(&(last, _)) = some.last() else { return Ok(None) };
        let found = some.into_iter().find(|(_, entry)| entry.priority == lowest);
        if found.is_some() {
            return Ok(found);
        }
        above = last;
    }
}
