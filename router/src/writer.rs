//! The one thread that writes to the store.
//!
//! Claims and releases wait in the table's shards and are written together, without a sync; changes to
//! groups wait here, are synced, and only then answered. One thread, so that the store sees one order.

use crate::clock::Clock;
use crate::groups::{Changed, Dropped, Groups, Refused, Wanted};
use crate::legacy_store::{GroupChange, Store, StoreError};
use crate::table::{SHARDS, Table};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

/// Claims gather for this long before they are written: at a storm's 10,000 a second, 50 in a batch.
const GATHER: Duration = Duration::from_millis(5);
/// Group changes that may wait.
const CHANGES_WAITING_MAX: usize = 1_024;
/// Group changes that share one sync.
const CHANGES_PER_SYNC_MAX: usize = 64;
/// After a failed write, until the next try.
const RETRY: Duration = Duration::from_secs(1);
/// Devices without a session are remembered this long.
const REMEMBER: Duration = Duration::from_hours(24);
const FORGET_INTERVAL: Duration = Duration::from_mins(10);
/// Records looked at in one step of forgetting: a few milliseconds.
const FORGET_STEP: usize = 10_000;

/// Wakes the writer. Ringing twice is ringing once.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Bell {
    /// Says that there is something to write. Costs a load while the writer is awake.
    pub(crate) fn ring(&self) {
        if !self.rung.load(Ordering::Acquire) && !self.rung.swap(true, Ordering::AcqRel) {
            let _held = self.lock.lock();
            self.wake.notify_one();
        }
    }

    /// Waits for the bell, at most this long.
    fn wait(&self, patience: Duration) {
        let mut held = self.lock.lock();
        if !self.rung.load(Ordering::Acquire) {
            self.wake.wait_for(&mut held, patience);
        }
        drop(held);
        self.rung.store(false, Ordering::Release);
    }
}

/// A change to a group that wants to be decided and made durable.
#[derive(Debug)]
pub(crate) struct ChangeRequest {
    pub(crate) wanted: Wanted,
    pub(crate) answer: oneshot::Sender<Result<Changed, ChangeError>>,
}

/// Why a group was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// Decided against.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The disk did not take it.
    #[error("the store did not take the change")]
    Store(#[from] Arc<StoreError>),
    /// Too many changes wait.
    #[error("too many group changes wait")]
    Full,
    /// The writer has ended.
    #[error("the router is stopping")]
    Stopping,
}

/// The way to the writer; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct WriterHandle {
    changes: mpsc::Sender<ChangeRequest>,
    bell: Arc<Bell>,
    stop: Arc<AtomicBool>,
}

impl WriterHandle {
    /// Decides and makes durable one change to a group. Dropped: it may still be made.
    pub(crate) async fn change(&self, wanted: Wanted) -> Result<Changed, ChangeError> {
        let (answer, answered) = oneshot::channel();
        self.changes.try_send(ChangeRequest { wanted, answer }).map_err(|full| match full {
            mpsc::error::TrySendError::Full(_) => ChangeError::Full,
            mpsc::error::TrySendError::Closed(_) => ChangeError::Stopping,
        })?;
        self.bell.ring();
        answered.await.unwrap_or(Err(ChangeError::Stopping))
    }

    /// Tells the writer to write what is left, sync and end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
    }
}

/// The writer's side: everything it owns. [`Writer::run`] is the thread.
pub(crate) struct Writer {
    store: Arc<dyn Store>,
    table: Arc<Table>,
    groups: Arc<Groups>,
    bell: Arc<Bell>,
    stop: Arc<AtomicBool>,
    changes: mpsc::Receiver<ChangeRequest>,
    clock: Clock,
    dropped: Dropped,
    forget_from: Option<Box<[u8]>>,
    forget_due: Instant,
}

impl Writer {
    /// A writer and the way to it.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        table: Arc<Table>,
        groups: Arc<Groups>,
        bell: Arc<Bell>,
        clock: Clock,
        dropped: Dropped,
    ) -> (Self, WriterHandle) {
        let (sender, changes) = mpsc::channel(CHANGES_WAITING_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let handle = WriterHandle { changes: sender, bell: bell.clone(), stop: stop.clone() };
        let forget_due = Instant::now() + FORGET_INTERVAL;
        let writer = Self {
            store,
            table,
            groups,
            bell,
            stop,
            changes,
            clock,
            dropped,
            forget_from: None,
            forget_due,
        };
        (writer, handle)
    }

    /// Writes until told to stop, then what is left, and syncs.
    pub(crate) fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let patience = self.forget_due.saturating_duration_since(Instant::now());
            self.bell.wait(patience.max(Duration::from_millis(1)));
            self.change_groups();
            if !self.stop.load(Ordering::Acquire) {
                std::thread::sleep(GATHER);
            }
            self.write_routes();
            self.change_groups();
            self.forget_a_while();
        }
        self.changes.close();
        self.change_groups();
        self.write_routes();
        match self.store.sync() {
            Ok(()) => info!("everything is on disk"),
            Err(source) => error!(%source, "the last sync failed"),
        }
    }

    fn write_routes(&mut self) {
        for shard in 0..SHARDS {
            let Some(round) = self.table.take_writes(shard) else { continue };
            // A full disk: logins are refused once the backlog is full, until this goes through.
            while let Err(source) = self.store.remember(&round.writes) {
                error!(%source, writes = round.writes.len(), "routes were not written");
                if self.stop.load(Ordering::Acquire) {
                    return;
                }
                std::thread::sleep(RETRY);
            }
            self.table.committed(&round);
        }
    }

    fn change_groups(&mut self) {
        loop {
            let mut waiting = Vec::new();
            while waiting.len() < CHANGES_PER_SYNC_MAX {
                match self.changes.try_recv() {
                    Ok(request) => waiting.push(request),
                    Err(_) => break,
                }
            }
            if waiting.is_empty() {
                return;
            }
            self.change_together(waiting);
        }
    }

    /// Decides each change in turn against what the ones before it will have made, writes them in one
    /// step with one sync, then makes them true in memory and answers.
    fn change_together(&mut self, waiting: Vec<ChangeRequest>) {
        let mut decision = self.groups.decide();
        let mut writes: Vec<GroupChange> = Vec::new();
        let mut decided = Vec::with_capacity(waiting.len());
        for request in waiting {
            match decision.take(&request.wanted) {
                Ok(made) => {
                    writes.extend(made);
                    decided.push(request);
                }
                Err(refused) => {
                    let _ = request.answer.send(Err(refused.into()));
                }
            }
        }
        if decided.is_empty() {
            return;
        }
        match self.store.change_groups(&writes) {
            Ok(()) => {
                for request in decided {
                    let changed = self.groups.apply(&request.wanted, &self.dropped);
                    let _ = request.answer.send(Ok(changed));
                }
            }
            Err(source) => {
                warn!(%source, "groups were not written");
                let source = Arc::new(source);
                for request in decided {
                    let _ = request.answer.send(Err(source.clone().into()));
                }
            }
        }
    }

    fn forget_a_while(&mut self) {
        if Instant::now() < self.forget_due {
            return;
        }
        let before_ms = self.clock.now_ms().saturating_sub(REMEMBER.as_millis() as u64);
        let from = self.forget_from.take().unwrap_or_default();
        match self.store.forget(&from, before_ms, FORGET_STEP) {
            Ok(next) => {
                // Half-way through: go on soon, between the writes.
                let pause =
                    if next.is_some() { Duration::from_millis(50) } else { FORGET_INTERVAL };
                self.forget_from = next;
                self.forget_due = Instant::now() + pause;
            }
            Err(source) => {
                warn!(%source, "old devices were not forgotten");
                self.forget_due = Instant::now() + FORGET_INTERVAL;
            }
        }
    }
}
