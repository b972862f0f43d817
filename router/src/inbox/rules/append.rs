//! Storing: once per push id, at a position that was never given out before.

use super::room::{is_full, make_room};
use super::trim::{drop_entry, settle_floor, trim_head};
use super::{known_mut, ms, route, trim};
use crate::inbox::shelf::{GROUP, Shelf, View};
use crate::inbox::{Appended, Caps, Entry, Meta, NewEntry, Remembered, Route, Session, weight};
use hawser_proto::id::{BusinessNo, Position};
use hawser_proto::limits::{DEDUP_WINDOW, INBOX_TTL_MAX};

/// Stores a push, once per push id. `incarnation` is the store's, never 0: another one than at the last
/// append begins a new term, above every position that was ever given out here.
pub fn append<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    mut new: NewEntry,
    caps: Caps,
    incarnation: u64,
    now_ms: u64,
) -> Result<Appended, S::Error> {
    if let Some(known) = shelf.remembered(business, &new.push_id)?
        && known.until_ms > now_ms
    {
        return Ok(if known.digest == new.digest {
            Appended::Repeated { position: known.position }
        } else {
            Appended::Reused
        });
    }
    if new.expires_at_ms <= now_ms {
        return Ok(Appended::Expired);
    }
    // What is known of an inbox is kept as long as its entries may live, and no longer.
    new.expires_at_ms = new.expires_at_ms.min(now_ms.saturating_add(ms(INBOX_TTL_MAX)));
    let added = weight(&new.blob, &new.collapse_key);
    if added > caps.bytes_max || caps.entries_max == 0 {
        return Ok(Appended::Overflow);
    }
    let before = known_mut(shelf, business, now_ms)?;
    let mut meta = before.clone().unwrap_or_default();
    if !has_room(shelf, business, &mut meta, &new, caps, now_ms)? {
        if before.is_some_and(|before| before != meta) {
            shelf.set_meta(business, meta);
        }
        return Ok(Appended::Overflow);
    }
    // Making room may have taken it.
    if let Some((position, entry)) = held_by_collapse(shelf, business, &new)? {
        drop_entry(shelf, business, &mut meta, position, &entry)?;
        settle_floor(shelf, business, &mut meta)?;
    }
    let (position, prev) = place(&mut meta, incarnation, now_ms);
    count_in(&mut meta, &new, prev, now_ms);
    let until_ms = now_ms.saturating_add(ms(DEDUP_WINDOW));
    shelf.remember(business, new.push_id, Remembered { position, digest: new.digest, until_ms });
    if !new.collapse_key.is_empty() {
        shelf.set_collapse(business, new.collapse_key.clone(), Some(position));
    }
    let entry = Entry {
        prev,
        at_ms: now_ms,
        expires_at_ms: new.expires_at_ms,
        priority: new.priority,
        collapse_key: new.collapse_key,
        blob: new.blob,
    };
    shelf.put(business, position, entry);
    shelf.set_meta(business, meta);
    Ok(Appended::Stored { position, prev, owner: owner(shelf, business, now_ms)? })
}

fn owner<S: View>(
    shelf: &S,
    business: BusinessNo,
    now_ms: u64,
) -> Result<Option<Session>, S::Error> {
    if business == GROUP {
        return Ok(None);
    }
    Ok(match route(shelf, now_ms)? {
        Some(Route { owner: Some(owner), epoch, .. }) => Some(Session { owner, epoch }),
        Some(_) | None => None,
    })
}

/// Appends to a group's history, if there is one.
pub fn publish<S: Shelf>(
    shelf: &mut S,
    new: NewEntry,
    caps: Caps,
    incarnation: u64,
    now_ms: u64,
) -> Result<Appended, S::Error> {
    if shelf.meta(GROUP)?.is_none() {
        return Ok(Appended::NoHistory);
    }
    append(shelf, GROUP, new, caps, incarnation, now_ms)
}

/// A history begins, unless there is one: empty, with its tail at (`created_ms`, 0) and never at the
/// start, so that a member that has seen nothing yet is told from one that was never there.
pub fn begin_history<S: Shelf>(shelf: &mut S, created_ms: u64) -> Result<(), S::Error> {
    if shelf.meta(GROUP)?.is_none() {
        let begin = Position::new(created_ms, 0);
        let meta = Meta { term: created_ms, tail: begin, floor: begin, ..Meta::default() };
        shelf.set_meta(GROUP, meta);
    }
    Ok(())
}

/// The next position, and the one before it.
fn place(meta: &mut Meta, incarnation: u64, now_ms: u64) -> (Position, Position) {
    if meta.incarnation != incarnation {
        meta.term = now_ms.max(meta.term.saturating_add(1));
        meta.seq = 0;
        meta.incarnation = incarnation;
    }
    meta.seq += 1;
    let position = Position::new(meta.term, meta.seq);
    let prev = std::mem::replace(&mut meta.tail, position);
    if meta.count() == 0 {
        meta.floor = prev;
    }
    (position, prev)
}

fn count_in(meta: &mut Meta, new: &NewEntry, prev: Position, now_ms: u64) {
    let priority = new.priority as usize;
    let look_at_ms = new.expires_at_ms.max(now_ms.saturating_add(ms(super::LOOK_INTERVAL)));
    meta.look_at_ms = if meta.count() == 0 { look_at_ms } else { meta.look_at_ms.min(look_at_ms) };
    if meta.counts[priority] == 0 {
        meta.above[priority] = prev;
    }
    meta.counts[priority] += 1;
    meta.bytes[priority] += weight(&new.blob, &new.collapse_key);
    meta.touched_ms = now_ms;
}

/// Whether the new entry fits: at once, after what is over its time has left, or after older ones of no
/// higher priority have.
fn has_room<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    new: &NewEntry,
    caps: Caps,
    now_ms: u64,
) -> Result<bool, S::Error> {
    let replaced = held_by_collapse(shelf, business, new)?;
    if !is_full(meta, replaced.as_ref(), new, caps) {
        return Ok(true);
    }
    trim_head(shelf, business, meta, now_ms)?;
    let replaced = held_by_collapse(shelf, business, new)?;
    if !is_full(meta, replaced.as_ref(), new, caps) {
        return Ok(true);
    }
    trim::drop_expired(shelf, business, meta, now_ms)?;
    let replaced = held_by_collapse(shelf, business, new)?;
    Ok(!is_full(meta, replaced.as_ref(), new, caps)
        || make_room(shelf, business, meta, new, replaced.as_ref(), caps)?)
}

/// The older entry of the same kind.
pub(super) fn held_by_collapse<S: View>(
    shelf: &S,
    business: BusinessNo,
    new: &NewEntry,
) -> Result<Option<(Position, Entry)>, S::Error> {
    if new.collapse_key.is_empty() {
        return Ok(None);
    }
    let Some(held) = shelf.collapse(business, &new.collapse_key)? else { return Ok(None) };
    let above = Position::new(held.term, held.seq.saturating_sub(1));
    let found = shelf.entries(business, above, 1)?;
    Ok(found.into_iter().next().filter(|(position, _)| *position == held))
}
