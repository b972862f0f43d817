//! Device → connection: the routes, and the rules by which they change hands.
//!
//! No clock, no task, no stream: times come in as arguments, what is to be told to nodes goes out
//! through `act`, whether a node is alive is asked of the caller ([`crate::nodes`]). The table is cut
//! into shards; each call enters one. What is remembered of devices without a session is read from the
//! store on a miss, and written to it by [`crate::writer`], which takes the changes shard by shard.

pub(crate) mod route;
#[cfg(test)]
mod tests;

pub(crate) use route::{Owner, Route, Serves};

use crate::key::Key;
use crate::legacy_store::{KeyBytes, Memory, Store, StoreError};
use crate::writer::Bell;
use foldhash::fast::RandomState;
use hawser_proto::id::SlotRef;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of one life (node and boot) in this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LifeNo(pub(crate) u32);

/// Shards: many more than cores, so that two logins seldom meet; each is small enough to be swept in
/// a fraction of a millisecond at a million devices.
pub(crate) const SHARDS: usize = 64;
/// Changes that may wait for the store. 56 bytes and a key each: about 8 MB.
const WRITES_WAITING_MAX: usize = 65_536;
/// A device without a session stays in memory this long, so that a quick return asks no disk.
const LINGER_MS: u64 = 60_000;

/// What a login or an announcement brings.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) owner: Owner,
    pub(crate) instance: [u8; 16],
    pub(crate) attempt: u64,
    pub(crate) serves: Serves,
}

/// What became of a login or an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The connection is the device's session, under this epoch.
    Bound {
        epoch: u64,
        /// The route did not lead to this connection before.
        fresh: bool,
        /// The connection it led to before, if another.
        displaced: Option<Displaced>,
    },
    /// The attempt is not above the remembered one of the same instance.
    Stale,
    /// A newer session is known.
    Superseded { epoch: u64 },
}

/// The connection a session was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Displaced {
    pub(crate) owner: Owner,
    pub(crate) epoch: u64,
    /// It may still be there, and has to be told.
    pub(crate) live: bool,
}

/// Why a login could not be decided. The device comes back later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// The store is too far behind with what was claimed before.
    #[error("too many changes wait for the store")]
    Behind,
    /// What is remembered of the device cannot be read.
    #[error("the store cannot be asked")]
    Store(#[from] StoreError),
}

/// All routes.
pub(crate) struct Table {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    store: Arc<dyn Store>,
    bell: Arc<Bell>,
    writes_waiting: AtomicUsize,
}

struct Shard {
    routes: HashMap<KeyBytes, Route, RandomState>,
    writes: Vec<(KeyBytes, Memory)>,
    /// Round that takes the changes made now, and the last one the store has.
    round: u32,
    committed: u32,
}

/// Changes of one shard on their way to the store; hand the number back to [`Table::committed`].
pub(crate) struct Round {
    shard: usize,
    number: u32,
    pub(crate) writes: Vec<(KeyBytes, Memory)>,
}

impl Table {
    /// An empty table over what the store remembers. `bell` is rung when there is something to write.
    pub(crate) fn new(store: Arc<dyn Store>, bell: Arc<Bell>) -> Self {
        let hasher = RandomState::default();
        let shard = || {
            Mutex::new(Shard {
                routes: HashMap::with_hasher(hasher.clone()),
                writes: Vec::new(),
                round: 0,
                committed: u32::MAX,
            })
        };
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Self { shards, hasher, store, bell, writes_waiting: AtomicUsize::new(0) }
    }

    /// A new login wants to be the device's session: raises the epoch, unless it is an old one that
    /// comes late. The same login again (its answer was lost) gets the same answer.
    ///
    /// `act` runs under the shard's lock: what it sends about this device leaves in the order of the
    /// logins, so that no kick overtakes the answer that made its target a session.
    pub(crate) fn claim(
        &self,
        key: &Key,
        login: Login,
        now_ms: u64,
        live: impl Fn(&Owner) -> bool,
        act: impl FnOnce(Verdict),
    ) -> Result<(), ClaimError> {
        self.enter(key, |shard| {
            let Some(route) = shard.routes.get_mut(key.as_bytes()) else {
                self.check_backlog()?;
                let first = Memory {
                    epoch: now_ms.max(1),
                    instance: login.instance,
                    attempt: login.attempt,
                    at_ms: now_ms,
                };
                let mut route = Route::remembered(first, shard.round);
                route.bind(login.owner);
                route.serves = login.serves;
                shard.routes.insert(key.as_bytes().into(), route);
                self.note(shard, key, first);
                act(Verdict::Bound { epoch: first.epoch, fresh: true, displaced: None });
                return Ok(());
            };
            let before = route.owner();
            let again = before.is_some_and(|owner| owner.is_same_connection(&login.owner));
            if route.instance == login.instance && login.attempt <= route.attempt {
                let verdict = if again && login.attempt == route.attempt {
                    Verdict::Bound { epoch: route.epoch, fresh: false, displaced: None }
                } else {
                    Verdict::Stale
                };
                act(verdict);
                return Ok(());
            }
            self.check_backlog()?;
            let displaced = displaced(route, &login.owner, &live);
            route.epoch = now_ms.max(route.epoch.saturating_add(1));
            route.at_ms = now_ms;
            let epoch = route.epoch;
            let memory = take_over(route, login, shard.round, now_ms);
            self.note(shard, key, memory);
            act(Verdict::Bound { epoch, fresh: !again, displaced });
            Ok(())
        })
    }

    /// A live session tells of itself again, after a stream broke or this router started anew:
    /// accepted in place, unless a newer one is known. `act` as in [`Table::claim`].
    pub(crate) fn announce(
        &self,
        key: &Key,
        epoch: u64,
        login: Login,
        now_ms: u64,
        live: impl Fn(&Owner) -> bool,
        act: impl FnOnce(Verdict),
    ) -> Result<(), ClaimError> {
        self.enter(key, |shard| {
            let Some(route) = shard.routes.get_mut(key.as_bytes()) else {
                self.check_backlog()?;
                let memory = Memory {
                    epoch,
                    instance: login.instance,
                    attempt: login.attempt,
                    at_ms: now_ms,
                };
                let mut route = Route::remembered(memory, shard.round);
                route.bind(login.owner);
                route.serves = login.serves;
                // The epoch is the time of the login, unless clocks were set back in between.
                route.at_ms = epoch.min(now_ms);
                shard.routes.insert(key.as_bytes().into(), route);
                self.note(shard, key, memory);
                act(Verdict::Bound { epoch, fresh: true, displaced: None });
                return Ok(());
            };
            let before = route.owner();
            let again = before.is_some_and(|owner| owner.is_same_connection(&login.owner));
            let taken = !again && route.epoch == epoch && before.is_some_and(|owner| live(&owner));
            if route.epoch > epoch || taken {
                act(Verdict::Superseded { epoch: route.epoch });
                return Ok(());
            }
            if again && route.epoch == epoch {
                route.bind(login.owner);
                route.serves = login.serves;
                act(Verdict::Bound { epoch, fresh: false, displaced: None });
                return Ok(());
            }
            self.check_backlog()?;
            let displaced = displaced(route, &login.owner, &live);
            route.epoch = epoch;
            route.at_ms = epoch.min(now_ms);
            let memory = take_over(route, login, shard.round, now_ms);
            self.note(shard, key, memory);
            act(Verdict::Bound { epoch, fresh: !again, displaced });
            Ok(())
        })
    }

    /// Ends a session: compare-and-delete on (connection, epoch). False: the route is not this one's
    /// (any more), and stays. Epoch, instance and attempt are remembered.
    pub(crate) fn release(
        &self,
        key: &Key,
        life: LifeNo,
        at: SlotRef,
        epoch: u64,
        now_ms: u64,
    ) -> bool {
        let mut guard = self.shard(key).lock();
        let shard = &mut *guard;
        let Some(route) = shard.routes.get_mut(key.as_bytes()) else { return false };
        let owned = route.owner().is_some_and(|owner| owner.life == life && owner.at == at);
        if !owned || route.epoch != epoch {
            return false;
        }
        route.unbind(now_ms);
        route.round = shard.round;
        let memory = route.memory(now_ms);
        self.note(shard, key, memory);
        true
    }

    /// Reads the route of a device that has one. Whether its node is alive is for the caller to ask.
    pub(crate) fn look<R>(&self, key: &Key, read: impl FnOnce(Owner, &Route) -> R) -> Option<R> {
        let shard = self.shard(key).lock();
        let route = shard.routes.get(key.as_bytes())?;
        Some(read(route.owner()?, route))
    }

    /// Goes over one shard: routes of dead nodes become mere memories, and memories that the store has
    /// leave after a while. `dead` is told of each route that was found dead.
    pub(crate) fn sweep(
        &self,
        shard: usize,
        now_ms: u64,
        live: impl Fn(&Owner) -> bool,
        mut dead: impl FnMut(&[u8], Owner),
    ) {
        let mut guard = self.shards[shard % SHARDS].lock();
        let shard = &mut *guard;
        let (round, committed) = (shard.round, shard.committed);
        let waiting_before = shard.writes.len();
        let writes = &mut shard.writes;
        shard.routes.retain(|key, route| {
            if let Some(owner) = route.owner() {
                if live(&owner) {
                    return true;
                }
                dead(key, owner);
                route.unbind(now_ms);
                route.round = round;
                writes.push((key.clone(), route.memory(now_ms)));
                return true;
            }
            let stored = committed.wrapping_sub(route.round).cast_signed() >= 0;
            !stored || now_ms.saturating_sub(route.at_ms) < LINGER_MS
        });
        if shard.routes.capacity() > 4 * shard.routes.len().max(64) {
            shard.routes.shrink_to_fit();
        }
        let more = shard.writes.len() - waiting_before;
        if more > 0 {
            self.writes_waiting.fetch_add(more, Ordering::Relaxed);
            self.bell.ring();
        }
    }

    /// Takes the changes that wait in one shard. `None`: there are none.
    pub(crate) fn take_writes(&self, shard: usize) -> Option<Round> {
        let mut guard = self.shards[shard].lock();
        if guard.writes.is_empty() {
            return None;
        }
        let writes = std::mem::take(&mut guard.writes);
        let round = guard.round;
        guard.round = round.wrapping_add(1);
        Some(Round { shard, number: round, writes })
    }

    /// The store has the changes of this round.
    pub(crate) fn committed(&self, round: &Round) {
        self.shards[round.shard].lock().committed = round.number;
        self.writes_waiting.fetch_sub(round.writes.len(), Ordering::Relaxed);
    }

    /// Changes that wait for the store.
    pub(crate) fn writes_waiting(&self) -> usize {
        self.writes_waiting.load(Ordering::Relaxed)
    }

    /// Asked where something is about to be noted, and only there: what needs no write, such as a
    /// session told of again after a stream broke, is answered however far behind the store is.
    fn check_backlog(&self) -> Result<(), ClaimError> {
        if self.writes_waiting() < WRITES_WAITING_MAX { Ok(()) } else { Err(ClaimError::Behind) }
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        // High bits: the low ones choose the bucket inside the shard's map.
        &self.shards[(self.hasher.hash_one(key.as_bytes()) >> 48) as usize % SHARDS]
    }

    /// Enters the shard of a key after what the store remembers of it was read; the disk is not asked
    /// under the lock. A memory leaves the shard only after the store has it and a minute has gone by,
    /// so what was read is never older than what another login put here meanwhile.
    fn enter(
        &self,
        key: &Key,
        change: impl FnOnce(&mut Shard) -> Result<(), ClaimError>,
    ) -> Result<(), ClaimError> {
        let shard = self.shard(key);
        let mut guard = shard.lock();
        if !guard.routes.contains_key(key.as_bytes()) {
            drop(guard);
            let memory = self.store.load(key)?;
            guard = shard.lock();
            if let Some(memory) = memory
                && !guard.routes.contains_key(key.as_bytes())
            {
                let route = Route::remembered(memory, guard.committed);
                guard.routes.insert(key.as_bytes().into(), route);
            }
        }
        change(&mut guard)
    }

    fn note(&self, shard: &mut Shard, key: &Key, memory: Memory) {
        shard.writes.push((key.as_bytes().into(), memory));
        self.writes_waiting.fetch_add(1, Ordering::Relaxed);
        self.bell.ring();
    }
}

fn displaced(route: &Route, by: &Owner, live: &impl Fn(&Owner) -> bool) -> Option<Displaced> {
    let owner = route.owner().filter(|owner| !owner.is_same_connection(by))?;
    Some(Displaced { owner, epoch: route.epoch, live: live(&owner) })
}

fn take_over(route: &mut Route, login: Login, round: u32, now_ms: u64) -> Memory {
    route.bind(login.owner);
    let same_instance = route.instance == login.instance;
    route.attempt = if same_instance { login.attempt.max(route.attempt) } else { login.attempt };
    route.instance = login.instance;
    route.serves = login.serves;
    route.round = round;
    route.memory(now_ms)
}
