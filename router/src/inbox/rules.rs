//! The operations of a device's shelf, each one atomic step. An engine runs them as they stand (the one in
//! the process) or speaks them in its own language (Redis); one contract suite holds both to this.
//!
//! Source: the section on the inbox in ARCHITECTURE.md.

use super::shelf::{GROUP, Shelf};
use super::{
    Announced, Appended, Batch, Caps, Claimed, Described, Entry, Fenced, Fetched, InboxState,
    InboxTail, Limits, Login, LostReason, Meta, NewEntry, Priority, Remembered, Route, Session,
    weight,
};
use hawser_proto::id::{BusinessNo, Position};
use hawser_proto::limits::{CURSOR_AHEAD_MAX, DEDUP_WINDOW};

/// Numbers stay exact in the doubles of every engine's script language.
const SEQ_MAX: u64 = (1 << 53) - 1;
/// Entries looked at in one read.
const CHUNK: usize = 16;

/// A new login wants the session: raises the epoch and trims to what the device has taken, unless the
/// login is an old one that comes late. The same login again (its answer was lost) gets the same answer.
pub fn claim<S: Shelf>(
    shelf: &mut S,
    login: Login,
    cursors: &[(BusinessNo, Position)],
    now_ms: u64,
) -> Result<Claimed, S::Error> {
    let before = shelf.route()?;
    let mut displaced = None;
    let mut epoch = now_ms.max(1);
    if let Some(route) = before {
        if route.instance == login.instance && login.attempt <= route.attempt {
            let again =
                route.attempt == login.attempt && route.owner.as_ref() == Some(&login.owner);
            if !again {
                return Ok(Claimed::Stale);
            }
            let inboxes = tails(shelf, &[])?;
            return Ok(Claimed::Bound { epoch: route.epoch, displaced: None, inboxes });
        }
        epoch = epoch.max(route.epoch.saturating_add(1));
        displaced = route.owner.map(|owner| Session { owner, epoch: route.epoch });
    }
    if displaced.is_some() {
        hand_all(shelf)?;
    }
    shelf.set_route(Route {
        epoch,
        owner: Some(login.owner),
        instance: login.instance,
        attempt: login.attempt,
        at_ms: now_ms,
    });
    let mut brought = Vec::with_capacity(cursors.len());
    for &(business, cursor) in cursors {
        let state = take_cursor(shelf, business, cursor, now_ms)?;
        brought.push((business, cursor, state));
    }
    Ok(Claimed::Bound { epoch, displaced, inboxes: tails(shelf, &brought)? })
}

/// A live session tells of itself again: taken in place, unless a newer one is known.
pub fn announce<S: Shelf>(
    shelf: &mut S,
    epoch: u64,
    login: Login,
    now_ms: u64,
) -> Result<Announced, S::Error> {
    let mut displaced = None;
    if let Some(route) = shelf.route()? {
        let is_same = route.owner.as_ref() == Some(&login.owner);
        let is_taken = route.epoch == epoch && route.owner.is_some() && !is_same;
        if route.epoch > epoch || is_taken {
            return Ok(Announced::Superseded { epoch: route.epoch });
        }
        if route.epoch == epoch && is_same {
            return Ok(Announced::Bound { displaced: None, inboxes: tails(shelf, &[])? });
        }
        if !is_same {
            displaced = route.owner.map(|owner| Session { owner, epoch: route.epoch });
        }
    }
    if displaced.is_some() {
        hand_all(shelf)?;
    }
    shelf.set_route(Route {
        epoch,
        owner: Some(login.owner),
        instance: login.instance,
        attempt: login.attempt,
        at_ms: now_ms,
    });
    Ok(Announced::Bound { displaced, inboxes: tails(shelf, &[])? })
}

/// Ends a session: compare-and-clear on (connection, epoch). `sent`: how far each inbox was written to
/// the link. False: the session is not this one's (any more), and nothing changed.
pub fn release<S: Shelf>(
    shelf: &mut S,
    session: &Session,
    sent: &[(BusinessNo, Position)],
    now_ms: u64,
) -> Result<bool, S::Error> {
    let Some(route) = shelf.route()? else { return Ok(false) };
    if route.epoch != session.epoch || route.owner.as_ref() != Some(&session.owner) {
        return Ok(false);
    }
    for &(business, sent) in sent {
        if let Some(mut meta) = shelf.meta(business)? {
            let handed = meta.handed.max(sent.min(meta.tail));
            if handed != meta.handed {
                meta.handed = handed;
                shelf.set_meta(business, meta);
            }
        }
    }
    shelf.set_route(Route { owner: None, at_ms: now_ms, ..route });
    Ok(true)
}

/// Stores a push, once per push id. `incarnation` is the store's: another one than at the last append
/// begins a new term, above every position that was ever given out here.
pub fn append<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    new: NewEntry,
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
    let mut meta = shelf.meta(business)?.unwrap_or_default();
    let replaced = held_by_collapse(shelf, business, &new)?;
    let added = weight(&new.blob, &new.collapse_key);
    if is_full(&meta, replaced.as_ref(), added, caps) {
        trim_expired(shelf, business, &mut meta, now_ms)?;
        // Those that were over may have held the collapse key.
        let replaced = held_by_collapse(shelf, business, &new)?;
        if is_full(&meta, replaced.as_ref(), added, caps)
            && !make_room(shelf, business, &mut meta, &new, replaced.as_ref(), caps)?
        {
            shelf.set_meta(business, meta);
            return Ok(Appended::Overflow);
        }
    }
    // Making room may have taken it.
    if let Some((position, entry)) = held_by_collapse(shelf, business, &new)? {
        drop_entry(shelf, business, &mut meta, position, &entry)?;
        settle_floor(shelf, business, &mut meta)?;
    }
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
    meta.counts[new.priority as usize] += 1;
    meta.bytes[new.priority as usize] += added;
    let until_ms = now_ms + DEDUP_WINDOW.as_millis() as u64;
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
    let owner = match shelf.route()? {
        Some(Route { owner: Some(owner), epoch, .. }) => Some(Session { owner, epoch }),
        Some(_) | None => None,
    };
    Ok(Appended::Stored { position, prev, owner })
}

/// Entries above a position, for the session that has the device. Changes nothing: what is over its time
/// is passed by, and the gap told.
pub fn fetch<S: Shelf>(
    shelf: &S,
    session: &Session,
    business: BusinessNo,
    after: Position,
    limits: Limits,
    now_ms: u64,
) -> Result<Result<Batch, Fenced>, S::Error> {
    if let Err(fenced) = check(shelf, session)? {
        return Ok(Err(fenced));
    }
    read(shelf, business, after, limits, now_ms).map(Ok)
}

/// Entries of a group's history above a position.
pub fn history<S: Shelf>(
    shelf: &S,
    after: Position,
    limits: Limits,
    now_ms: u64,
) -> Result<Batch, S::Error> {
    read(shelf, GROUP, after, limits, now_ms)
}

/// The device has handled everything up to these positions: they are trimmed.
pub fn ack<S: Shelf>(
    shelf: &mut S,
    session: &Session,
    upto: &[(BusinessNo, Position)],
    now_ms: u64,
) -> Result<Result<(), Fenced>, S::Error> {
    if let Err(fenced) = check(shelf, session)? {
        return Ok(Err(fenced));
    }
    for &(business, upto) in upto {
        if let Some(mut meta) = shelf.meta(business)?
            && is_believable(&meta, upto, now_ms)
            && upto > meta.floor
        {
            pass(shelf, business, &mut meta, upto)?;
            shelf.set_meta(business, meta);
        }
    }
    Ok(Ok(()))
}

/// Acknowledges again, and tells of the inboxes that hold something above that.
pub fn sweep<S: Shelf>(
    shelf: &mut S,
    session: &Session,
    acked: &[(BusinessNo, Position)],
    now_ms: u64,
) -> Result<Result<Vec<InboxTail>, Fenced>, S::Error> {
    if let Err(fenced) = ack(shelf, session, acked, now_ms)? {
        return Ok(Err(fenced));
    }
    let brought: Vec<_> =
        acked.iter().map(|&(business, at)| (business, at, InboxState::Fine)).collect();
    tails(shelf, &brought).map(Ok)
}

/// What an operator sees of an inbox.
pub fn describe<S: Shelf>(shelf: &S, business: BusinessNo) -> Result<Described, S::Error> {
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

/// Whether the session is the one that the store names.
fn check<S: Shelf>(shelf: &S, session: &Session) -> Result<Result<(), Fenced>, S::Error> {
    let Some(route) = shelf.route()? else { return Ok(Err(Fenced::Forgotten)) };
    let is_owner = route.owner.as_ref() == Some(&session.owner);
    Ok(if route.epoch == session.epoch && is_owner {
        Ok(())
    } else if route.epoch > session.epoch || (route.epoch == session.epoch && route.owner.is_some())
    {
        Err(Fenced::Superseded)
    } else {
        Err(Fenced::Forgotten)
    })
}

/// Inboxes that hold something, or of which there is something to say to a device that brought these
/// cursors.
fn tails<S: Shelf>(
    shelf: &S,
    brought: &[(BusinessNo, Position, InboxState)],
) -> Result<Vec<InboxTail>, S::Error> {
    let mut found = Vec::new();
    for business in shelf.inboxes()? {
        let Some(meta) = shelf.meta(business)? else { continue };
        let brought = brought.iter().find(|(of, ..)| *of == business);
        let state = brought.map_or(InboxState::Fine, |&(.., state)| state);
        let is_behind = brought.is_some_and(|&(_, cursor, _)| cursor < meta.tail);
        let count = meta.count();
        if count > 0 || is_behind || state != InboxState::Fine {
            let waits = |priority: &Priority| meta.counts[*priority as usize] > 0;
            let priority = Priority::ALL.into_iter().rfind(waits).unwrap_or_default();
            let (tail, floor) = (meta.tail, meta.floor);
            found.push(InboxTail { business, tail, floor, count, state, priority });
        }
    }
    // A cursor that was refused, and no inbox: the device has to begin at the start.
    for &(business, _, state) in brought {
        if state == InboxState::CursorRefused && !found.iter().any(|one| one.business == business) {
            let (tail, floor) = (Position::START, Position::START);
            found.push(InboxTail {
                business,
                tail,
                floor,
                count: 0,
                state,
                priority: Priority::Normal,
            });
        }
    }
    Ok(found)
}

/// An owner that nobody released may have sent everything there is.
fn hand_all<S: Shelf>(shelf: &mut S) -> Result<(), S::Error> {
    for business in shelf.inboxes()? {
        if let Some(mut meta) = shelf.meta(business)?
            && meta.handed != meta.tail
        {
            meta.handed = meta.tail;
            shelf.set_meta(business, meta);
        }
    }
    Ok(())
}

/// Trims to the cursor that a device brings, as far as it can be believed.
fn take_cursor<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    cursor: Position,
    now_ms: u64,
) -> Result<InboxState, S::Error> {
    let known = shelf.meta(business)?;
    let is_known = known.is_some();
    let mut meta = known.unwrap_or_default();
    if !is_believable(&meta, cursor, now_ms) {
        return Ok(InboxState::CursorRefused);
    }
    if cursor == Position::START {
        return Ok(InboxState::Fine);
    }
    if !is_known {
        // Nothing is known of what this device has taken: whatever comes now must lie above it.
        let (tail, floor, term, seq) = (cursor, cursor, cursor.term, cursor.seq);
        shelf.set_meta(business, Meta { tail, floor, term, seq, ..Meta::default() });
        return Ok(InboxState::TermChanged);
    }
    if cursor <= meta.floor {
        return Ok(InboxState::Fine);
    }
    let is_ahead = cursor > meta.tail;
    pass(shelf, business, &mut meta, cursor)?;
    shelf.set_meta(business, meta);
    Ok(if is_ahead { InboxState::TermChanged } else { InboxState::Fine })
}

/// A position that an honest device may have seen: not far ahead of the clock and of this inbox.
fn is_believable(meta: &Meta, at: Position, now_ms: u64) -> bool {
    let latest = now_ms.max(meta.term).saturating_add(CURSOR_AHEAD_MAX.as_millis() as u64);
    at.term <= latest && at.seq <= SEQ_MAX
}

/// The device has taken everything up to `upto`. If that lies ahead of what the store knows, the store
/// went back in time: what is appended from now on must lie above it (S7).
fn pass<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    upto: Position,
) -> Result<(), S::Error> {
    if upto > meta.tail {
        meta.term = meta.term.max(upto.term).saturating_add(1);
        meta.seq = 0;
    }
    trim(shelf, business, meta, upto)
}

/// Removes all entries up to and with `upto`.
fn trim<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    upto: Position,
) -> Result<(), S::Error> {
    loop {
        let some = shelf.entries(business, meta.floor, CHUNK)?;
        let seen = some.len();
        for (position, entry) in some {
            if position > upto {
                meta.floor = meta.floor.max(upto.min(meta.tail));
                return Ok(());
            }
            drop_entry(shelf, business, meta, position, &entry)?;
            meta.floor = position;
        }
        if seen < CHUNK {
            meta.floor = meta.floor.max(upto.min(meta.tail));
            if meta.count() == 0 {
                meta.floor = meta.tail;
                meta.overflowed = 0;
            }
            return Ok(());
        }
    }
}

/// Removes entries at the head whose time is over.
fn trim_expired<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    now_ms: u64,
) -> Result<(), S::Error> {
    loop {
        let some = shelf.entries(business, meta.floor, CHUNK)?;
        let seen = some.len();
        for (position, entry) in some {
            if entry.expires_at_ms > now_ms {
                return settle_floor(shelf, business, meta);
            }
            drop_entry(shelf, business, meta, position, &entry)?;
            meta.floor = position;
        }
        if seen < CHUNK {
            return settle_floor(shelf, business, meta);
        }
    }
}

/// Takes one entry away, wherever it stands. The floor is left to the caller.
fn drop_entry<S: Shelf>(
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
fn settle_floor<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
) -> Result<(), S::Error> {
    let first = shelf.entries(business, meta.floor, 1)?;
    let below = first.first().map_or(meta.tail, |(_, entry)| entry.prev);
    meta.floor = meta.floor.max(below);
    Ok(())
}

/// The older entry of the same kind.
fn held_by_collapse<S: Shelf>(
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

fn is_full(meta: &Meta, replaced: Option<&(Position, Entry)>, added: u64, caps: Caps) -> bool {
    let (mut count, mut bytes) = (u64::from(meta.count()), meta.bytes_total());
    if let Some((_, entry)) = replaced {
        count = count.saturating_sub(1);
        bytes = bytes.saturating_sub(weight(&entry.blob, &entry.collapse_key));
    }
    count + 1 > u64::from(caps.entries_max) || bytes + added > caps.bytes_max
}

/// Lets the oldest of the lowest priority go until the new entry fits. False, and nothing has left: the
/// policy forbids it, or not even all that may leave for this one would do.
fn make_room<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    meta: &mut Meta,
    new: &NewEntry,
    replaced: Option<&(Position, Entry)>,
    caps: Caps,
) -> Result<bool, S::Error> {
    let added = weight(&new.blob, &new.collapse_key);
    let mut least = meta.clone();
    for priority in 0..=new.priority as usize {
        least.counts[priority] = 0;
        least.bytes[priority] = 0;
    }
    // What the new one replaces leaves in any case; unless it is among those just left out.
    let kept = replaced.filter(|(_, entry)| entry.priority > new.priority);
    if !caps.drops_oldest || is_full(&least, kept, added, caps) {
        return Ok(false);
    }
    loop {
        let replaced = held_by_collapse(shelf, business, new)?;
        if !is_full(meta, replaced.as_ref(), added, caps) {
            return Ok(true);
        }
        let lowest = Priority::ALL.into_iter().find(|&one| meta.counts[one as usize] > 0);
        let Some(victim) = oldest_of(shelf, business, meta, lowest)? else { return Ok(false) };
        let (position, entry) = victim;
        drop_entry(shelf, business, meta, position, &entry)?;
        meta.overflowed += 1;
        meta.overflowed_to = meta.overflowed_to.max(position);
        settle_floor(shelf, business, meta)?;
    }
}

fn oldest_of<S: Shelf>(
    shelf: &S,
    business: BusinessNo,
    meta: &Meta,
    priority: Option<Priority>,
) -> Result<Option<(Position, Entry)>, S::Error> {
    let mut above = meta.floor;
    loop {
        let some = shelf.entries(business, above, CHUNK)?;
        let Some(&(last, _)) = some.last() else { return Ok(None) };
        let found = some.into_iter().find(|(_, entry)| Some(entry.priority) == priority);
        if found.is_some() {
            return Ok(found);
        }
        above = last;
    }
}

fn read<S: Shelf>(
    shelf: &S,
    business: BusinessNo,
    after: Position,
    limits: Limits,
    now_ms: u64,
) -> Result<Batch, S::Error> {
    let meta = shelf.meta(business)?.unwrap_or_default();
    let mut batch = Batch { items: Vec::new(), tail: meta.tail, floor: meta.floor };
    if limits.entries_max == 0 {
        return Ok(batch);
    }
    let (mut last, mut above, mut bytes) = (after, after, 0);
    loop {
        let some = shelf.entries(business, above, CHUNK)?;
        let seen = some.len();
        for (position, entry) in some {
            above = position;
            if entry.expires_at_ms <= now_ms {
                // At the head it is as good as trimmed.
                if batch.items.is_empty() && entry.prev <= batch.floor {
                    batch.floor = batch.floor.max(position);
                }
                continue;
            }
            bytes += entry.blob.len();
            let is_over = batch.items.len() >= limits.entries_max as usize
                || bytes > limits.bytes_max as usize;
            if is_over && !batch.items.is_empty() {
                return Ok(batch);
            }
            let lost = lost_between(last, entry.prev);
            batch.items.push(Fetched {
                position,
                prev: last,
                redelivered: position <= meta.handed,
                entry: Some(entry),
                lost,
                reason: reason(&meta, last, lost),
            });
            last = position;
        }
        if seen < CHUNK {
            break;
        }
    }
    if meta.tail > last {
        let lost = lost_between(last, meta.tail);
        batch.items.push(Fetched {
            position: meta.tail,
            prev: last,
            entry: None,
            redelivered: false,
            lost,
            reason: reason(&meta, last, lost),
        });
    }
    Ok(batch)
}

/// How many positions above `from` and up to `to` were given out, as far as the numbers tell.
fn lost_between(from: Position, to: Position) -> u64 {
    if to <= from {
        0
    } else if to.term == from.term {
        to.seq - from.seq
    } else {
        to.seq.max(1)
    }
}

fn reason(meta: &Meta, above: Position, lost: u64) -> LostReason {
    if lost == 0 {
        LostReason::None
    } else if meta.overflowed_to > above {
        LostReason::Overflow
    } else if meta.purged_to > above {
        LostReason::Purged
    } else {
        LostReason::Expired
    }
}
