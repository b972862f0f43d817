//! Reading: what waits above a position, and word of what will not come.

use super::session::check;
use super::{CHUNK, known};
use crate::inbox::shelf::{GROUP, View};
use crate::inbox::{Batch, Described, Entry, Fenced, Fetched, Limits, LostReason, Meta, Session};
use hawser_proto::id::{BusinessNo, Position};

/// Entries above a position, for the session that has the device. Changes nothing: what is over its time
/// is passed by, and the gap told.
pub fn fetch<S: View>(
    shelf: &S,
    session: &Session,
    business: BusinessNo,
    after: Position,
    limits: Limits,
    now_ms: u64,
) -> Result<Result<Batch, Fenced>, S::Error> {
    if let Err(fenced) = check(shelf, session, now_ms)? {
        return Ok(Err(fenced));
    }
    read(shelf, business, after, limits, now_ms).map(Ok)
}

/// Entries of a group's history above a position.
pub fn history<S: View>(
    shelf: &S,
    after: Position,
    limits: Limits,
    now_ms: u64,
) -> Result<Batch, S::Error> {
    read(shelf, GROUP, after, limits, now_ms)
}

/// What an operator sees of an inbox.
pub fn describe<S: View>(shelf: &S, business: BusinessNo) -> Result<Described, S::Error> {
    let meta = shelf.meta(business)?.unwrap_or_default();
    let oldest = shelf.entries(business, meta.floor, 1)?;
    Ok(Described {
        entries: meta.count().into(),
        bytes: meta.bytes_total(),
        tail: meta.tail,
        floor: meta.floor,
        oldest_ms: oldest.first().map_or(0, |(_, entry)| entry.at_ms),
        overflowed: meta.overflowed,
    })
}

fn read<S: View>(
    shelf: &S,
    business: BusinessNo,
    after: Position,
    limits: Limits,
    now_ms: u64,
) -> Result<Batch, S::Error> {
    let meta = known(shelf, business, now_ms)?.unwrap_or_default();
    let floor = floor_now(shelf, business, &meta, now_ms)?;
    let mut batch = Batch { items: Vec::new(), tail: meta.tail, floor };
    if limits.entries_max == 0 {
        return Ok(batch);
    }
    let (mut last, mut above, mut bytes) = (after, after.max(floor), 0);
    loop {
        let some = shelf.entries(business, above, CHUNK)?;
        let seen = some.len();
        for (position, entry) in some {
            above = position;
            if entry.expires_at_ms <= now_ms {
                continue;
            }
            bytes += entry.blob.len();
            let is_over = batch.items.len() >= limits.entries_max as usize
                || bytes > limits.bytes_max as usize;
            if is_over && !batch.items.is_empty() {
                return Ok(batch);
            }
            let upto = entry.prev;
            batch.items.push(found(&meta, last, position, Some(entry), upto));
            last = position;
        }
        if seen < CHUNK {
            break;
        }
    }
    if meta.tail > last {
        batch.items.push(found(&meta, last, meta.tail, None, meta.tail));
    }
    Ok(batch)
}

/// The floor, with what is over its time at the head taken as gone.
fn floor_now<S: View>(
    shelf: &S,
    business: BusinessNo,
    meta: &Meta,
    now_ms: u64,
) -> Result<Position, S::Error> {
    let mut floor = meta.floor;
    if meta.count() == 0 || now_ms < meta.look_at_ms {
        return Ok(floor);
    }
    loop {
        let some = shelf.entries(business, floor, CHUNK)?;
        let seen = some.len();
        for (position, entry) in some {
            if entry.expires_at_ms > now_ms {
                return Ok(floor.max(entry.prev));
            }
            floor = position;
        }
        if seen < CHUNK {
            return Ok(meta.tail);
        }
    }
}

/// One item, with what is missing between `last` and `upto`.
fn found(
    meta: &Meta,
    last: Position,
    position: Position,
    entry: Option<Entry>,
    upto: Position,
) -> Fetched {
    let count = lost_between(last.max(meta.acked), upto);
    let reason = if count == 0 {
        LostReason::None
    } else if meta.overflowed_to > last {
        LostReason::Overflow
    } else if meta.purged_to > last {
        LostReason::Purged
    } else {
        LostReason::Expired
    };
    let redelivered = entry.is_some() && position <= meta.handed;
    Fetched { position, prev: last, entry, redelivered, lost: count, reason }
}

/// How many positions above `from` and up to `to` were given out, as far as the numbers tell.
fn lost_between(from: Position, to: Position) -> u64 {
    if to <= from {
        0
    } else if to.term == from.term {
        to.seq - from.seq
    } else {
        to.seq
    }
}
