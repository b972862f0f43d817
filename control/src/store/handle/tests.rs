//! The store over an engine that fails or stalls: nothing is said to be done that was not.

use super::*;
use crate::catalogue::edit::app::{self, AppPatch, OpenAccess};
use crate::config::MasterKey;
use crate::seal::Sealer;
use crate::store::Pair;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::AppId;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Table and key.
type Key = (u8, Vec<u8>);

/// An engine in memory that does as it is told.
#[derive(Default)]
struct Told {
    records: Mutex<BTreeMap<Key, Vec<u8>>>,
    fails: Mutex<bool>,
    /// Commits wait while it is set.
    stalls: Mutex<bool>,
    goes_on: Condvar,
    commits: AtomicUsize,
}

impl Told {
    fn stall(&self) {
        *self.stalls.lock() = true;
    }

    fn go_on(&self) {
        *self.stalls.lock() = false;
        self.goes_on.notify_all();
    }
}

impl Engine for Told {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.records.lock().get(&(table as u8, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        backwards: bool,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError> {
        assert!(after.is_none() && !backwards, "not asked for here");
        let records = self.records.lock();
        let found =
            records.iter().filter(|((it, key), _)| *it == table as u8 && key.starts_with(prefix));
        Ok(found.take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&self, batch: &[Write]) -> Result<(), EngineError> {
        self.goes_on.wait_while(&mut self.stalls.lock(), |stalls| *stalls);
        self.commits.fetch_add(1, Ordering::SeqCst);
        if *self.fails.lock() {
            return Err(EngineError::Engine("the disk is full".into()));
        }
        let mut records = self.records.lock();
        for write in batch {
            match write.clone() {
                Write::Put(table, key, value) => records.insert((table as u8, key), value),
                Write::Remove(table, key) => records.remove(&(table as u8, key)),
            };
        }
        Ok(())
    }
}

struct World {
    engine: Arc<Told>,
    store: Store,
    sealer: Sealer,
}

fn world() -> World {
    let engine = Arc::new(Told::default());
    let settings = StoreSettings { timeout: Duration::from_millis(100), watch_backlog: 16 };
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let sealer = Sealer::new(&MasterKey::new([1; 32])).unwrap();
    let catalogue = records::load(engine.as_ref(), &sealer).unwrap();
    let (store, _writer) = Store::start(engine.clone(), catalogue, settings, metrics).unwrap();
    World { engine, store, sealer }
}

impl World {
    async fn create(&self, name: &str) -> Result<(), Refusal> {
        let (name, sealer) = (AppId::new(name).unwrap(), self.sealer.clone());
        let decide = move |catalogue: &Catalogue, now_ms| {
            let patch = AppPatch::default();
            app::create(catalogue, &sealer, &name, patch, OpenAccess(false), now_ms)
        };
        self.store.edit(Actor::Admin, decide).await.map(|_| ())
    }

    fn has(&self, name: &str) -> bool {
        self.store.look(|it| it.tenant(&AppId::new(name).unwrap()).is_some())
    }
}

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

#[tokio::test]
async fn a_failed_commit_changes_nothing_and_is_not_told_to_watchers() {
    let world = world();
    world.create("a").await.unwrap();
    let (snapshot, mut updates) = world.store.watch();
    *world.engine.fails.lock() = true;
    assert_eq!(world.create("b").await.unwrap_err().code, ErrorCode::Unavailable);
    assert!(world.has("a") && !world.has("b"), "reads go on");
    let bound = world.store.bind(1, &device("d"), [1; 32]).await;
    assert_eq!(bound, Err(StoreError::Failed));
    assert_eq!(world.store.binding(1, &device("d")).await, Ok(None));
    assert!(updates.try_recv().is_err());

    *world.engine.fails.lock() = false;
    world.create("b").await.unwrap();
    assert_eq!(updates.recv().await.unwrap().revision, snapshot.revision + 1, "no gap");
}

#[tokio::test]
async fn a_stalled_disk_is_answered_in_time_and_a_given_up_change_is_not_made() {
    let world = world();
    world.engine.stall();
    // The first one is in the engine when its caller gives up; the second one still waits.
    let (first, second) = tokio::join!(world.create("a"), world.create("b"));
    assert_eq!(first.unwrap_err().code, ErrorCode::DeadlineExceeded);
    assert_eq!(second.unwrap_err().code, ErrorCode::DeadlineExceeded);
    world.engine.go_on();
    world.create("c").await.unwrap();
    assert!(world.has("c") && !world.has("b"));
}

#[tokio::test]
async fn a_full_queue_is_answered_at_once() {
    let world = world();
    world.engine.stall();
    let jobs = (0..QUEUE_MAX + 2).map(|n| {
        let name = format!("a{n}");
        let world = &world;
        async move { world.create(&name).await }
    });
    let answers = futures_util::future::join_all(jobs).await;
    let count =
        |code| answers.iter().filter(|it| it.as_ref().is_err_and(|it| it.code == code)).count();
    assert!(count(ErrorCode::Overloaded) >= 1);
    assert_eq!(count(ErrorCode::Overloaded) + count(ErrorCode::DeadlineExceeded), answers.len());
    world.engine.go_on();
}

#[tokio::test]
async fn a_crowd_of_bindings_shares_syncs_and_the_first_key_stays() {
    let world = world();
    let before = world.engine.commits.load(Ordering::SeqCst);
    let binds = (0..200u8).map(|n| {
        let name = device(&format!("d{}", n / 2));
        let store = world.store.clone();
        async move { store.bind(1, &name, [n; 32]).await.unwrap() }
    });
    world.engine.stall();
    let mut all = std::pin::pin!(futures_util::future::join_all(binds));
    // Every bind is queued before the first commit can end.
    assert!(futures_util::poll!(all.as_mut()).is_pending());
    world.engine.go_on();
    let bound = all.await;
    for pair in bound.chunks(2) {
        assert_eq!(pair, [Bound::Same, Bound::Other]);
    }
    let commits = world.engine.commits.load(Ordering::SeqCst) - before;
    assert!(commits <= 3, "{commits} commits for 100 devices");
    let kept = world.store.binding(1, &device("d7")).await.unwrap().unwrap();
    assert_eq!(kept.device_key, [14; 32]);
    let again = world.store.bind(1, &device("d7"), [14; 32]).await;
    assert_eq!(again, Ok(Bound::Same));
}

#[tokio::test]
async fn what_is_loaded_is_what_was_kept() {
    let world = world();
    world.create("a").await.unwrap();
    let loaded = records::load(world.engine.as_ref(), &world.sealer).unwrap();
    let (kept, _) = world.store.watch();
    assert_eq!(loaded.snapshot(), kept);
    let counters = world.store.look(|catalogue| catalogue.counters);
    assert_eq!(loaded.counters, counters);
    let other = Sealer::new(&MasterKey::new([2; 32])).unwrap();
    let refused = records::load(world.engine.as_ref(), &other).unwrap_err();
    assert!(matches!(refused, records::LoadError::MasterKey));
}

#[tokio::test]
async fn a_closed_store_refuses_and_lets_go_of_its_engine() {
    let world = world();
    world.create("a").await.unwrap();
    world.store.close();
    assert_eq!(world.create("b").await.unwrap_err().code, ErrorCode::Unavailable);
    let World { engine, store, .. } = world;
    drop(engine);
    // The writer drops the last holder a moment after it answered nothing more.
    while store.engine.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.binding(1, &device("d")).await, Err(StoreError::Failed));
}
