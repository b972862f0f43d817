//! Which servers take writes for which slots, kept true by one task: it connects, asks every second what
//! they are, follows Sentinel and the cluster, and begins anew where nothing answers. Calls read the
//! [`Map`] and tell when something was wrong with it.
//!
//! The routing of a cluster is our own and small, since every call is one script on one slot: what the
//! library would bring for many slots, it pays for with recoveries that can hang.

use super::Refusal;
use super::map::{Map, Range};
use super::place::Place;
use super::resolve::{LookError, Resolver};
use super::server::{ConnectError, Facts, Server, Way};
use crate::metrics::RedisMetrics as Metrics;
use futures_util::future::join_all;
use hawser_chassis::shutdown::Tasks;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

/// Servers are asked what they are this often.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// And no oftener than this, whatever happens.
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// While something is wrong.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Whom an ASK named is kept connected this long.
const GUEST_STAYS: Duration = Duration::from_mins(1);
/// So many of them at once.
const GUESTS_MAX: usize = 64;
/// The oldest release whose scripts can say what they may do.
const VERSION_MIN: (u32, u32) = (7, 0);

/// What calls see of the task.
pub(super) struct Servers {
    map: watch::Receiver<Arc<Map>>,
    shared: Arc<Shared>,
}

struct Shared {
    poke: Notify,
    /// Who may know better.
    hint: Mutex<Option<String>>,
    /// Nodes that slots are being moved to, and when each was asked for: they may have no slot yet.
    guests: Mutex<HashMap<String, Instant>>,
    changes: watch::Sender<u64>,
}

impl Servers {
    /// Looks once, refuses what must not be used, and goes on looking. A place where nothing answers is no
    /// reason to refuse.
    pub(super) async fn start(
        place: Place,
        way: Way,
        metrics: Arc<Metrics>,
        tasks: &Tasks,
    ) -> Result<Self, Refusal> {
        let (publish, map) = watch::channel(Arc::default());
        let shared = Arc::new(Shared {
            poke: Notify::new(),
            hint: Mutex::new(None),
            guests: Mutex::default(),
            changes: watch::Sender::new(0),
        });
        let mut watcher = Watcher {
            resolver: Resolver::new(place.clone(), way.clone()),
            place,
            way,
            metrics,
            tasks: tasks.clone(),
            shared: shared.clone(),
            publish,
            lives: HashMap::new(),
            ranges: None,
            warned: HashMap::new(),
        };
        let failure = watcher.look().await.err();
        watcher.refuse()?;
        if let Some(failure) = failure {
            warn!(%failure, "the store does not answer; the start goes on without it");
        }
        tasks.spawn("redis watcher", watcher.run());
        Ok(Self { map, shared })
    }

    /// As it is now.
    pub(super) fn map(&self) -> Arc<Map> {
        self.map.borrow().clone()
    }

    /// Waits until the map differs from this one, but not for long. Cancel-safe.
    pub(super) async fn other_than(&self, generation: u64) {
        let mut map = self.map.clone();
        let differs = map.wait_for(|map| map.generation != generation);
        let _ = tokio::time::timeout(RETRY_INTERVAL, differs).await;
    }

    /// Something was wrong. `hint`: who may know better.
    pub(super) fn poke(&self, hint: Option<&str>) {
        if let Some(hint) = hint {
            *self.shared.hint.lock() = Some(hint.to_owned());
        }
        self.shared.poke.notify_one();
    }

    /// Has a node connected that may have no slot yet.
    pub(super) fn invite(&self, address: &str) {
        let mut guests = self.shared.guests.lock();
        if guests.len() < GUESTS_MAX || guests.contains_key(address) {
            guests.insert(address.to_owned(), Instant::now());
        }
        drop(guests);
        self.poke(Some(address));
    }

    /// See [`crate::store::Store::changes`].
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

struct Watcher {
    resolver: Resolver,
    place: Place,
    way: Way,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    shared: Arc<Shared>,
    publish: watch::Sender<Arc<Map>>,
    /// Incarnation last seen at each address. Whether a connection broke says nothing: what was asked over it and
    /// not answered is in doubt for whoever asked, and for nobody else.
    lives: HashMap<String, u64>,
    /// Whose slots were whose, when last all were known.
    ranges: Option<Vec<Range>>,
    /// What was wrong with each server's settings, so that it is said once.
    warned: HashMap<String, Option<Refusal>>,
}

impl Watcher {
    async fn run(mut self) {
        let stop = self.tasks.stop_signal();
        let mut is_well = true;
        loop {
            let interval = if is_well { PROBE_INTERVAL } else { RETRY_INTERVAL };
            let shared = self.shared.clone();
            tokio::select! {
                () = stop.cancelled() => return,
                () = shared.poke.notified() => {}
                () = tokio::time::sleep(interval) => {}
            }
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = self.look() => looked,
            };
            match (&looked, is_well) {
                (Err(failure), true) => warn!(%failure, "the store cannot be reached"),
                (Err(failure), false) => debug!(%failure, "the store cannot be reached"),
                (Ok(()), false) => info!("the store can be reached again"),
                (Ok(()), true) => {}
            }
            is_well = looked.is_ok();
            tokio::time::sleep(PROBE_INTERVAL_MIN).await;
        }
    }

    /// Finds the primaries, connects to them or asks them what they are, and publishes what came of it.
    async fn look(&mut self) -> Result<(), LookError> {
        let before = self.publish.borrow().clone();
        let hint = self.shared.hint.lock().take();
        let ranges = match self.resolver.resolve(&before, hint).await {
            Ok(ranges) => ranges,
            Err(failure) => {
                // Nobody tells who is primary: those that still are can be used.
                for server in before.servers.values() {
                    if server.probe(self.way.timeout).await.is_err() {
                        server.give_up();
                    }
                }
                return Err(failure);
            }
        };
        let guests: Vec<String> = {
            let mut guests = self.shared.guests.lock();
            guests.retain(|_, asked| asked.elapsed() < GUEST_STAYS);
            guests.keys().cloned().collect()
        };
        let owners: HashSet<&str> = ranges.iter().map(|(.., at)| at.as_str()).collect();
        let mut addresses: Vec<&str> = owners.iter().copied().collect();
        addresses.extend(guests.iter().map(String::as_str));
        addresses.sort_unstable();
        addresses.dedup();
        let reached = join_all(addresses.iter().map(|at| self.reach(&before, at))).await;
        let (mut servers, mut failed) = (HashMap::new(), None);
        for (address, reached) in addresses.iter().zip(reached) {
            match reached {
                Ok(server) => drop(servers.insert((*address).to_owned(), server)),
                // Without the others nothing is missing yet.
                Err(source) if !owners.contains(address) => {
                    debug!(failure = %source, server = address, "slots are moved to it");
                }
                Err(source) => {
                    failed = Some(LookError::Server { address: (*address).to_owned(), source });
                }
            }
        }
        let map = Map { generation: before.generation + 1, servers, ranges };
        self.metrics.servers.set(map.servers.len() as i64);
        self.note(&map);
        let is_whole = map.is_whole();
        if !before.is_same(&map) {
            self.publish.send_replace(Arc::new(map));
        }
        match failed {
            Some(failed) => Err(failed),
            None if is_whole => Ok(()),
            None => Err(LookError::Gaps),
        }
    }

    /// A live connection to a primary: the one there is, or a new one.
    async fn reach(&self, before: &Map, address: &str) -> Result<Arc<Server>, ConnectError> {
        if let Some(server) = before.server_at(address) {
            match server.probe(self.way.timeout).await {
                Ok(()) => return Ok(server.clone()),
                Err(failure) => {
                    debug!(%failure, server = address, "connection given up");
                    server.give_up();
                    if matches!(failure, ConnectError::Replica) {
                        return Err(failure);
                    }
                }
            }
        }
        let server = Server::connect(&self.way, address, &self.tasks).await?;
        self.metrics.connects.inc();
        Ok(Arc::new(server))
    }

    /// Compares with what was seen before, and looks at the settings.
    fn note(&mut self, map: &Map) {
        let mut is_other = false;
        for (address, server) in &map.servers {
            let facts = server.facts.load();
            let last = self.lives.insert(address.clone(), facts.incarnation);
            is_other |= last.is_some_and(|last| last != facts.incarnation);
            let wrong = wrong_with(&self.place, address, &facts);
            if self.warned.get(address) != Some(&wrong) {
                if let Some(wrong) = &wrong {
                    error!(failure = %wrong, "a server of the store is set up dangerously");
                }
                if facts.forgets == Some(true) {
                    warn!(
                        server = address,
                        "this Redis keeps nothing on disk (appendonly no, no save): its restart loses \
                         every session and stored push"
                    );
                }
                self.warned.insert(address.clone(), wrong);
            }
        }
        let wrong = map.servers.keys().filter(|at| matches!(self.warned.get(*at), Some(Some(_))));
        self.metrics.misconfigured.set(wrong.count() as i64);
        if map.is_whole() {
            is_other |= self.ranges.as_ref().is_some_and(|last| *last != map.ranges);
            self.ranges = Some(map.ranges.clone());
        }
        if is_other {
            self.metrics.changes.inc();
            self.shared.changes.send_modify(|count| *count += 1);
        }
    }

    /// What must not be started on.
    fn refuse(&self) -> Result<(), Refusal> {
        self.warned.values().flatten().next().map_or(Ok(()), |wrong| Err(wrong.clone()))
    }
}

fn wrong_with(place: &Place, address: &str, facts: &Facts) -> Option<Refusal> {
    let server = address.to_owned();
    if facts.version < VERSION_MIN {
        let (major, minor) = facts.version;
        return Some(Refusal::TooOld { server, version: format!("{major}.{minor}") });
    }
    if facts.is_cluster != matches!(place, Place::Cluster(_)) {
        return Some(Refusal::Kind { server, is_cluster: facts.is_cluster });
    }
    (facts.eviction != "noeviction")
        .then(|| Refusal::Evicts { server, policy: facts.eviction.clone() })
}
