//! Device → connection: the live routes that this router knows of, for volatile pushes and presence.
//!
//! A cache in front of the store, which alone decides who has a device's session ([`crate::sessions`]
//! brings its word here). No clock, no task, no stream: times come in as arguments, whether a node is
//! alive is asked of the caller ([`crate::nodes`]). The table is cut into shards; each call enters one.

pub(crate) mod route;
mod shard;
#[cfg(test)]
mod tests;

pub use route::{Owner, Route, Serves};

use crate::key::Key;
use foldhash::fast::RandomState;
use hawser_proto::id::SlotRef;
use parking_lot::Mutex;
use shard::Shard;
use std::hash::BuildHasher as _;

/// Number of one life (node and boot) in this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LifeNo(pub u32);

/// Shards: many more than cores, so that two logins seldom meet; each is small enough to be swept in
/// a fraction of a millisecond at a million devices.
pub const SHARDS: usize = 64;

/// What became of a route that was to be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It leads to the connection.
    Taken {
        /// It did not before.
        fresh: bool,
        /// The connection it led to before, if another, and its epoch.
        replaced: Option<(Owner, u64)>,
    },
    /// It leads to a session with a higher epoch, and stays.
    Behind {
        /// That epoch.
        epoch: u64,
    },
}

/// A session as the table is told of it.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its connection.
    pub owner: Owner,
    /// Its epoch.
    pub epoch: u64,
    /// The businesses it serves.
    pub serves: Serves,
    /// Since when it is there, milliseconds since 1970.
    pub since_ms: u64,
}

/// All routes.
pub struct Table {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

impl Default for Table {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::default() }
    }
}

impl Table {
    /// The store has given the device to this session. A route with a higher epoch stays: then word of a
    /// later session was faster, or the store went back in time; or it is of this very connection, which has
    /// not heard yet that its epoch was raised. Told again, the session keeps the time since when it is there.
    pub fn bind(&self, key: &Key, session: Session) -> Bound {
        let (hash, shard) = self.shard(key);
        let mut shard = shard.lock();
        let Some(route) = shard.get_mut(hash, key) else {
            shard.insert(hash, key, Route::new(session), &self.hasher);
            return Bound::Taken { fresh: true, replaced: None };
        };
        if route.epoch > session.epoch {
            let epoch = route.epoch;
            if route.owner().is_same_connection(&session.owner) {
                // It was told of, so it is alive.
                route.vouch(session.owner.stamp);
            }
            return Bound::Behind { epoch };
        }
        let (before, epoch) = (route.owner(), route.epoch);
        if before.is_same_connection(&session.owner) {
            let since_ms = if epoch == session.epoch { route.at_ms } else { session.since_ms };
            *route = Route::new(Session { since_ms, ..session });
            return Bound::Taken { fresh: false, replaced: None };
        }
        *route = Route::new(session);
        Bound::Taken { fresh: true, replaced: Some((before, epoch)) }
    }

    /// The store cannot be asked, and a live session tells of itself: it stays where it is, or comes back
    /// to where nobody is known to be. `None`: the route leads elsewhere. True: it did not lead here before.
    pub fn vouch(&self, key: &Key, session: Session) -> Option<bool> {
        let (hash, shard) = self.shard(key);
        let mut shard = shard.lock();
        let Some(route) = shard.get_mut(hash, key) else {
            shard.insert(hash, key, Route::new(session), &self.hasher);
            return Some(true);
        };
        let is_same = route.owner().is_same_connection(&session.owner);
        if !is_same || route.epoch != session.epoch {
            return None;
        }
        let since_ms = route.at_ms;
        *route = Route::new(Session { since_ms, ..session });
        Some(false)
    }

    /// Ends a session: compare-and-delete on (connection, epoch). False: the route is not this one's
    /// (any more), and stays.
    pub fn release(&self, key: &Key, life: LifeNo, at: SlotRef, epoch: u64) -> bool {
        let (hash, shard) = self.shard(key);
        let mut shard = shard.lock();
        let Some(route) = shard.get(hash, key) else { return false };
        let owner = route.owner();
        if owner.life != life || owner.at != at || route.epoch != epoch {
            return false;
        }
        shard.remove(hash, key);
        true
    }

    /// Whether a later session of the device is known, on another connection.
    pub fn has_later(&self, key: &Key, owner: &Owner, epoch: u64) -> bool {
        let is_later =
            |known: Owner, route: &Route| route.epoch > epoch && !known.is_same_connection(owner);
        self.look(key, is_later) == Some(true)
    }

    /// Reads the route of a device that has one. Whether its node is alive is for the caller to ask.
    pub fn look<R>(&self, key: &Key, read: impl FnOnce(Owner, &Route) -> R) -> Option<R> {
        let (hash, shard) = self.shard(key);
        let shard = shard.lock();
        let route = shard.get(hash, key)?;
        Some(read(route.owner(), route))
    }

    /// Goes over one shard: routes of dead nodes leave. `dead` is told of each.
    pub fn sweep(
        &self,
        shard: usize,
        live: impl Fn(&Owner) -> bool,
        mut dead: impl FnMut(&[u8], &Route),
    ) {
        let mut shard = self.shards[shard % SHARDS].lock();
        let keep = |key: &[u8], route: &Route| {
            let is_live = live(&route.owner());
            if !is_live {
                dead(key, route);
            }
            is_live
        };
        shard.retain(keep, &self.hasher);
    }

    fn shard(&self, key: &Key) -> (u64, &Mutex<Shard>) {
        let hash = self.hasher.hash_one(key.as_bytes());
        // High bits: the low ones choose the bucket inside the shard's table.
        (hash, &self.shards[(hash >> 48) as usize % SHARDS])
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}
