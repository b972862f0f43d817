//! What a device says it has taken: cursors at login, acknowledgements, sweeps.

use super::session::{Brought, check, tails};
use super::trim::{look_everywhere, trim};
use super::{SEQ_MAX, TOUCH_INTERVAL, known_mut, ms};
use crate::inbox::shelf::{Shelf, View};
use crate::inbox::{Fenced, InboxState, InboxTail, Meta, Route, Session};
use hawser_proto::id::{BusinessNo, Position};
use hawser_proto::limits::CURSOR_AHEAD_MAX;

/// The device has handled everything up to these positions: they are trimmed. One that cannot be
/// believed changes nothing.
pub fn ack<S: Shelf>(
    shelf: &mut S,
    session: &Session,
    upto: &[(BusinessNo, Position)],
    now_ms: u64,
) -> Result<Result<(), Fenced>, S::Error> {
    Ok(take_all(shelf, session, upto, now_ms)?.map(drop))
}

/// Acknowledges again, and tells of the inboxes that hold something above that.
pub fn sweep<S: Shelf>(
    shelf: &mut S,
    session: &Session,
    acked: &[(BusinessNo, Position)],
    now_ms: u64,
) -> Result<Result<Vec<InboxTail>, Fenced>, S::Error> {
    match take_all(shelf, session, acked, now_ms)? {
        Ok(brought) => {
            look_everywhere(shelf, now_ms)?;
            tails(shelf, &brought, now_ms).map(Ok)
        }
        Err(fenced) => Ok(Err(fenced)),
    }
}

fn take_all<S: Shelf>(
    shelf: &mut S,
    session: &Session,
    upto: &[(BusinessNo, Position)],
    now_ms: u64,
) -> Result<Result<Vec<Brought>, Fenced>, S::Error> {
    let route = match check(shelf, session, now_ms)? {
        Ok(route) => route,
        Err(fenced) => return Ok(Err(fenced)),
    };
    if is_worth_a_touch(route.at_ms, now_ms) {
        shelf.set_route(Route { at_ms: now_ms, ..route });
    }
    let mut brought = Vec::with_capacity(upto.len());
    for &(business, upto) in upto {
        brought.push((business, upto, take(shelf, business, upto, now_ms)?));
    }
    Ok(Ok(brought))
}

/// The device has taken everything up to `cursor`, as far as it can be believed. One that lies ahead of
/// what the store knows means that the store went back in time: what is appended from now on lies above
/// it (S7).
pub(super) fn take<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    cursor: Position,
    now_ms: u64,
) -> Result<InboxState, S::Error> {
    if cursor == Position::START {
        return Ok(InboxState::Fine);
    }
    let known = known_mut(shelf, business, now_ms)?;
    let is_known = known.is_some();
    let mut meta = known.unwrap_or_default();
    if !is_believable(&meta, cursor, now_ms) {
        return Ok(InboxState::CursorRefused);
    }
    let is_ahead = cursor > meta.tail;
    let is_news = cursor > meta.acked || !is_known;
    if is_news {
        meta.acked = cursor;
        if cursor > meta.floor {
            trim(shelf, business, &mut meta, cursor)?;
        }
        if is_ahead {
            (meta.tail, meta.floor) = (cursor, cursor);
            begin_above(&mut meta, cursor);
        }
    }
    if is_news || is_worth_a_touch(meta.touched_ms, now_ms) {
        meta.touched_ms = now_ms;
        shelf.set_meta(business, meta);
    }
    Ok(if is_ahead { InboxState::TermChanged } else { InboxState::Fine })
}

/// Positions up to `sent` were written to a link. If they lie ahead of what the store knows, what is
/// appended from now on lies above them; what waits is left alone, since nobody has acknowledged it.
pub(super) fn raise_term<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    sent: Position,
    now_ms: u64,
) -> Result<(), S::Error> {
    let mut meta = known_mut(shelf, business, now_ms)?.unwrap_or_default();
    let given = meta.tail.max(Position::new(meta.term, meta.seq));
    if sent > given && is_believable(&meta, sent, now_ms) {
        begin_above(&mut meta, sent);
        meta.touched_ms = now_ms;
        shelf.set_meta(business, meta);
    }
    Ok(())
}

/// The next append begins a term above this position.
fn begin_above(meta: &mut Meta, at: Position) {
    meta.term = meta.term.max(at.term);
    meta.seq = SEQ_MAX;
    meta.incarnation = 0;
}

/// Whether this inbox stands as a cursor ahead of it has left it, with nothing appended since.
pub(super) fn is_raised_to<S: View>(
    shelf: &S,
    business: BusinessNo,
    cursor: Position,
) -> Result<bool, S::Error> {
    let meta = shelf.meta(business)?;
    let is_raised = |meta: Meta| meta.incarnation == 0 && meta.tail == cursor;
    Ok(cursor != Position::START && meta.is_some_and(is_raised))
}

/// A position that an honest device may have seen: given out as far as is known, or not far ahead of the
/// clock. One in a term that this inbox has reached is believed even if the clock was set back since.
fn is_believable(meta: &Meta, at: Position, now_ms: u64) -> bool {
    let latest = now_ms.saturating_add(ms(CURSOR_AHEAD_MAX)).max(meta.term);
    at <= meta.tail || (at.term <= latest && at.seq <= SEQ_MAX)
}

fn is_worth_a_touch(at_ms: u64, now_ms: u64) -> bool {
    at_ms.saturating_add(ms(TOUCH_INTERVAL)) <= now_ms
}
