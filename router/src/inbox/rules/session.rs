//! Who has the session: claim, announce, release, and the fence.

use super::cursor::{is_raised_to, raise_term, take};
use super::{known, known_mut, route, trim};
use crate::inbox::shelf::{Shelf, View};
use crate::inbox::{
    Announced, Claimed, Fenced, InboxState, InboxTail, Login, Priority, Route, Session,
};
use hawser_proto::id::{BootId, BusinessNo, NodeId, Position};

/// A cursor that was brought, and what came of it.
pub(super) type Brought = (BusinessNo, Position, InboxState);

/// A new login wants the session: raises the epoch and trims to what the device has taken, unless the
/// login is an old one that comes late. The same login again (its answer was lost) gets the same answer.
pub fn claim<S: Shelf>(
    shelf: &mut S,
    login: Login,
    cursors: &[(BusinessNo, Position)],
    now_ms: u64,
) -> Result<Claimed, S::Error> {
    let mut displaced = None;
    let mut epoch = now_ms.max(1);
    let mut is_again = false;
    if let Some(route) = route(shelf, now_ms)? {
        let is_same = route.owner.as_ref() == Some(&login.owner);
        if route.instance == login.instance && login.attempt <= route.attempt {
            if route.attempt != login.attempt || !is_same {
                return Ok(Claimed::Stale);
            }
            is_again = true;
            epoch = route.epoch;
        } else {
            epoch = epoch.max(route.epoch.saturating_add(1));
            displaced = route.owner.map(|owner| Session { owner, epoch: route.epoch });
        }
    }
    if displaced.is_some() {
        hand_all(shelf, now_ms)?;
    }
    if !is_again {
        shelf.set_route(Route {
            epoch,
            owner: Some(login.owner),
            instance: login.instance,
            attempt: login.attempt,
            at_ms: now_ms,
            watchers: login.watchers,
            is_lost: false,
        });
    }
    trim::look_everywhere(shelf, now_ms)?;
    let mut brought = Vec::with_capacity(cursors.len());
    for &(business, cursor) in cursors {
        let mut state = take(shelf, business, cursor, now_ms)?;
        if is_again && state == InboxState::Fine && is_raised_to(shelf, business, cursor)? {
            // The first answer said so, and was lost.
            state = InboxState::TermChanged;
        }
        brought.push((business, cursor, state));
    }
    Ok(Claimed::Bound { epoch, displaced, inboxes: tails(shelf, &brought, now_ms)? })
}

/// A live session tells of itself again: taken in place, unless a newer one is known. `sent`: how far
/// each inbox was written to the link; a store that knows less went back in time, and must not give those
/// positions out again.
///
/// One whose end is known was thought to be over while its node could not be heard, and its end may have been
/// told. It comes back above that, or the word of its return would be older than that of its end. Its node may
/// not have heard what became of it, and tell of it by the epoch of before: it is known by its connection, and
/// after its end by its login. `may_raise`: its node hears what epoch it has now.
pub fn announce<S: Shelf>(
    shelf: &mut S,
    epoch: u64,
    login: Login,
    sent: &[(BusinessNo, Position)],
    may_raise: bool,
    now_ms: u64,
) -> Result<Announced, S::Error> {
    let (mut displaced, mut taken) = (None, epoch);
    if let Some(route) = route(shelf, now_ms)? {
        let is_same = route.owner.as_ref() == Some(&login.owner);
        let has_ended = route.owner.is_none();
        let is_its_end = has_ended
            && (route.epoch == epoch
                || (route.instance, route.attempt) == (login.instance, login.attempt));
        if may_raise && route.epoch >= epoch && (is_same || is_its_end) {
            taken = route.epoch;
            if has_ended {
                taken = now_ms.max(route.epoch.saturating_add(1));
            }
        } else if route.epoch > epoch || (route.epoch == epoch && !has_ended && !is_same) {
            return Ok(Announced::Superseded { epoch: route.epoch });
        } else if !is_same {
            displaced = route.owner.map(|owner| Session { owner, epoch: route.epoch });
        }
    }
    if displaced.is_some() {
        hand_all(shelf, now_ms)?;
    }
    for &(business, sent) in sent {
        raise_term(shelf, business, sent, now_ms)?;
    }
    trim::look_everywhere(shelf, now_ms)?;
    shelf.set_route(Route {
        epoch: taken,
        owner: Some(login.owner),
        instance: login.instance,
        attempt: login.attempt,
        at_ms: now_ms,
        watchers: login.watchers,
        is_lost: false,
    });
    let brought: Vec<Brought> =
        sent.iter().map(|&(business, at)| (business, at, InboxState::Fine)).collect();
    let inboxes = tails(shelf, &brought, now_ms)?;
    Ok(Announced::Bound { epoch: taken, displaced, inboxes })
}

/// A claim that was just made goes above a later session that the store has forgotten, if this is still the very
/// claim that it names: a session that is known elsewhere may as well be of a later login, which has taken over
/// since. Raised before: so it is.
pub fn raise<S: Shelf>(
    shelf: &mut S,
    claimed: &Session,
    above: u64,
    now_ms: u64,
) -> Result<Result<(), Fenced>, S::Error> {
    let raised = Session { owner: claimed.owner.clone(), epoch: above };
    if check(shelf, &raised, now_ms)?.is_ok() {
        return Ok(Ok(()));
    }
    let route = match check(shelf, claimed, now_ms)? {
        Ok(route) => route,
        Err(fenced) => return Ok(Err(fenced)),
    };
    shelf.set_route(Route { epoch: above.max(route.epoch), at_ms: now_ms, ..route });
    Ok(Ok(()))
}

/// Ends a session: compare-and-clear on (connection, epoch). `sent`: how far each inbox was written to
/// the link. False: the session is not this one's (any more), and nothing changed.
pub fn release<S: Shelf>(
    shelf: &mut S,
    session: &Session,
    sent: &[(BusinessNo, Position)],
    now_ms: u64,
) -> Result<bool, S::Error> {
    let Some(route) = route(shelf, now_ms)? else { return Ok(false) };
    if route.epoch != session.epoch || route.owner.as_ref() != Some(&session.owner) {
        return Ok(false);
    }
    for &(business, sent) in sent {
        raise_term(shelf, business, sent, now_ms)?;
        if let Some(mut meta) = known(shelf, business, now_ms)? {
            let handed = meta.handed.max(sent.min(meta.tail));
            if handed != meta.handed {
                meta.handed = handed;
                shelf.set_meta(business, meta);
            }
        }
    }
    end(shelf, &route, false, now_ms)?;
    Ok(true)
}

fn end<S: Shelf>(shelf: &mut S, route: &Route, by_loss: bool, now_ms: u64) -> Result<(), S::Error> {
    let is_lost = by_loss && !shelf.heard()?.is_empty();
    shelf.set_route(Route {
        epoch: route.epoch,
        owner: None,
        instance: route.instance,
        attempt: route.attempt,
        at_ms: now_ms,
        watchers: Vec::new(),
        is_lost,
    });
    Ok(())
}

/// The lease of this boot has ended: ends the session if it is there. What it was sent nobody knows. False:
/// the session is elsewhere, or over, and nothing changed.
pub fn end_lost<S: Shelf>(
    shelf: &mut S,
    node: &NodeId,
    boot: BootId,
    now_ms: u64,
) -> Result<bool, S::Error> {
    let Some(route) = route(shelf, now_ms)? else { return Ok(false) };
    let is_there = |owner: &crate::inbox::Owner| owner.node == *node && owner.boot == boot;
    if !route.owner.as_ref().is_some_and(is_there) {
        return Ok(false);
    }
    hand_all(shelf, now_ms)?;
    end(shelf, &route, true, now_ms)?;
    Ok(true)
}

/// Its node lives and knows nothing of this very session: word of its end was lost. What it was sent nobody knows.
/// `None`: the connection has the session under another epoch. False: it does not have it. Nothing changed then.
pub fn end_gone<S: Shelf>(
    shelf: &mut S,
    session: &Session,
    now_ms: u64,
) -> Result<Option<bool>, S::Error> {
    let Some(route) = route(shelf, now_ms)? else { return Ok(Some(false)) };
    if route.owner.as_ref() != Some(&session.owner) {
        return Ok(Some(false));
    }
    if route.epoch != session.epoch {
        return Ok(None);
    }
    hand_all(shelf, now_ms)?;
    end(shelf, &route, false, now_ms)?;
    Ok(Some(true))
}

/// Whether the session is the one that the store names. One that is named with another epoch may have come back
/// above its end, and one that has ended may do so: they have to tell of themselves, and [`announce`] decides.
pub(super) fn check<S: View>(
    shelf: &S,
    session: &Session,
    now_ms: u64,
) -> Result<Result<Route, Fenced>, S::Error> {
    let Some(route) = route(shelf, now_ms)? else { return Ok(Err(Fenced::Forgotten)) };
    let is_owner = route.owner.as_ref() == Some(&session.owner);
    Ok(if route.epoch == session.epoch && is_owner {
        Ok(route)
    } else if route.epoch >= session.epoch && route.owner.is_some() && !is_owner {
        Err(Fenced::Superseded)
    } else {
        Err(Fenced::Forgotten)
    })
}

/// Inboxes that hold something, or of which there is something to say to a device that brought these
/// cursors.
pub(super) fn tails<S: View>(
    shelf: &S,
    brought: &[Brought],
    now_ms: u64,
) -> Result<Vec<InboxTail>, S::Error> {
    let mut found = Vec::new();
    for business in shelf.inboxes()? {
        let Some(meta) = known(shelf, business, now_ms)? else { continue };
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
            let priority = Priority::Normal;
            found.push(InboxTail { business, tail, floor, count: 0, state, priority });
        }
    }
    found.sort_unstable_by_key(|one| one.business);
    Ok(found)
}

/// An owner that nobody released may have sent everything there is.
fn hand_all<S: Shelf>(shelf: &mut S, now_ms: u64) -> Result<(), S::Error> {
    for business in shelf.inboxes()? {
        if let Some(mut meta) = known_mut(shelf, business, now_ms)?
            && meta.handed != meta.tail
        {
            meta.handed = meta.tail;
            shelf.set_meta(business, meta);
        }
    }
    Ok(())
}
