//! The operations of a device's shelf, each one atomic step. An engine runs them as they stand (the one in
//! the process) or speaks them in its own language (Redis); one contract suite holds both to this.
//!
//! Source: the section on the inbox in ARCHITECTURE.md.
//!
//! What is taken for granted: when a store has lost its last writes, the time that is passed in with what
//! comes next is not behind the time that was passed in with what it lost. Terms are times; without that, a
//! position below what a device has seen can only be avoided once somebody has told of what was sent
//! ([`announce`], [`release`]) or taken ([`claim`], [`ack`], [`sweep`]). A clock that never goes back
//! within a process is therefore worth having.

mod append;
mod cursor;
mod events;
mod read;
mod room;
mod session;
mod trim;

pub use append::{append, begin_history, publish};
pub use cursor::{ack, sweep};
pub use events::{event_heard, events_due};
pub use read::{describe, fetch, history};
pub use session::{announce, claim, end_gone, end_lost, raise, release};
pub use trim::{purge, tidy};

use super::shelf::{GROUP, Shelf, View};
use super::{Meta, Route};
use hawser_proto::id::BusinessNo;
use hawser_proto::limits::INBOX_TTL_MAX;
use std::time::Duration;

/// A route whose session has ended is remembered this long: an old login that comes later than this wins.
pub const ROUTE_KEEP: Duration = Duration::from_hours(24);
/// A route that nobody released is remembered this long after it was last seen in use; the owner's
/// acknowledgements and sweeps count as use.
pub const ROUTE_OWNED_KEEP: Duration = Duration::from_hours(30 * 24);
/// What is known of an inbox is remembered this long after it was last appended to or seen in use. By
/// then every entry is over its time.
pub const META_KEEP: Duration = Duration::from_hours(8 * 24);
/// Use is noted no oftener than this: it costs a write.
pub const TOUCH_INTERVAL: Duration = Duration::from_hours(1);
/// Entries whose time is over are looked for no oftener than this in one inbox; it costs a read of it all.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

const _: () = assert!(META_KEEP.as_secs() > INBOX_TTL_MAX.as_secs());

/// Numbers stay exact in the doubles of every engine's script language.
const SEQ_MAX: u64 = (1 << 53) - 1;
/// Entries looked at in one read.
const CHUNK: usize = 16;

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Whether a route is remembered still.
pub fn is_route_kept(route: &Route, now_ms: u64) -> bool {
    let keep = if route.owner.is_some() { ROUTE_OWNED_KEEP } else { ROUTE_KEEP };
    route.at_ms.saturating_add(ms(keep)) > now_ms
}

/// Whether what is known of an inbox is remembered still. A history ends with its group.
fn is_kept(meta: &Meta, business: BusinessNo, now_ms: u64) -> bool {
    business == GROUP || meta.touched_ms.saturating_add(ms(META_KEEP)) > now_ms
}

/// Whether [`tidy`] would find something in this inbox, or at least has to look.
pub fn is_due(meta: &Meta, business: BusinessNo, now_ms: u64) -> bool {
    !is_kept(meta, business, now_ms) || (meta.count() > 0 && now_ms >= meta.look_at_ms)
}

/// The route, unless its time is over.
fn route<S: View>(shelf: &S, now_ms: u64) -> Result<Option<Route>, S::Error> {
    Ok(shelf.route()?.filter(|route| is_route_kept(route, now_ms)))
}

/// What is known of an inbox, unless its time is over.
fn known<S: View>(shelf: &S, business: BusinessNo, now_ms: u64) -> Result<Option<Meta>, S::Error> {
    Ok(shelf.meta(business)?.filter(|meta| is_kept(meta, business, now_ms)))
}

/// As [`known`], for one that will be written: what is left of a forgotten inbox leaves first.
fn known_mut<S: Shelf>(
    shelf: &mut S,
    business: BusinessNo,
    now_ms: u64,
) -> Result<Option<Meta>, S::Error> {
    let meta = known(shelf, business, now_ms)?;
    if meta.is_none() {
        trim::forget(shelf, business)?;
    }
    Ok(meta)
}
