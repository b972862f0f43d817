//! What businesses have to hear of a device that comes and goes.
//!
//! Nothing is queued: what is due is the difference between what a business has heard and what is true now. So
//! nothing is lost with a router, a device that flaps is told of once, and what waits for a business that does
//! not answer is bounded by its devices.
//!
//! That a session began is noted before a business is told so, and again when it has confirmed it: a business
//! that was told, and whose answer was lost, must hear of the end. One session is noted at a time, so the end of
//! one is heard before the beginning of the next is due.

use super::route;
use crate::inbox::shelf::{Shelf, View};
use crate::inbox::{Event, EventCause, Heard, Owner, Route};
use hawser_proto::id::BusinessNo;

/// What is due, in the order in which each business has to hear it.
pub fn events_due<S: View>(shelf: &S, now_ms: u64) -> Result<Vec<Event>, S::Error> {
    let all_heard = shelf.heard()?;
    let route = route(shelf, now_ms)?;
    let session = route.as_ref().and_then(|route| Some((route, route.owner.as_ref()?)));
    let mut due = Vec::new();
    for (business, heard) in &all_heard {
        let lives = session.filter(|(route, _)| route.watchers.contains(business));
        if lives.is_none_or(|(route, _)| route.epoch > heard.epoch) {
            due.push(offline(*business, heard, route.as_ref()));
        }
    }
    let Some((route, owner)) = session else { return Ok(due) };
    for &business in &route.watchers {
        let heard = all_heard.iter().find(|(of, _)| *of == business).map(|(_, heard)| heard);
        if heard.is_none_or(|heard| heard.epoch == route.epoch && !heard.is_confirmed) {
            due.push(online(business, route, owner));
        }
    }
    Ok(due)
}

fn online(business: BusinessNo, route: &Route, owner: &Owner) -> Event {
    let heard =
        Heard { epoch: route.epoch, is_online: true, owner: owner.clone(), is_confirmed: true };
    // An epoch is the time of its login, unless clocks went back.
    Event { business, heard, at_ms: route.epoch, cause: EventCause::None }
}

fn offline(business: BusinessNo, heard: &Heard, route: Option<&Route>) -> Event {
    let (at_ms, cause) = match route {
        Some(route) if route.epoch > heard.epoch => (route.epoch, EventCause::Superseded),
        Some(route) if route.owner.is_none() && route.is_lost => {
            (route.at_ms, EventCause::NodeLost)
        }
        // It has ended, or goes on without this business.
        Some(route) => (route.at_ms, EventCause::Closed),
        // So long ago that nobody knows.
        None => (heard.epoch, EventCause::Closed),
    };
    let heard = Heard { is_online: false, is_confirmed: true, ..heard.clone() };
    Event { business, heard, at_ms, cause }
}

/// The business has heard this much. Word of an older session changes nothing, nor does the beginning of one
/// that the store does not know: it went back in time, and the session, if it lives, will tell of itself again.
/// That a session began, heard after the word of its end: it ends once more.
///
/// Not confirmed: the business is about to be told that the session began. False: it must not be told so now.
pub fn event_heard<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    heard: Heard,
) -> Result<bool, S::Error> {
    if heard.is_online && shelf.route()?.is_none_or(|route| route.epoch < heard.epoch) {
        return Ok(false);
    }
    let known = shelf.heard()?.into_iter().find(|(of, _)| *of == business).map(|(_, known)| known);
    if let Some(known) = known {
        // The end of another session is due first; what was confirmed stays so.
        let is_too_early = !heard.is_confirmed && known.epoch != heard.epoch;
        if known.epoch > heard.epoch || is_too_early {
            return Ok(false);
        }
        if !heard.is_confirmed && known.is_confirmed {
            return Ok(true);
        }
    }
    // Nothing need be known of a session that is over: the next one is above it in any case.
    shelf.set_heard(business, heard.is_online.then_some(heard));
    Ok(true)
}

#[cfg(test)]
mod tests;
