//! The writer: one thread that makes every change, one at a time. It decides on the catalogue as it is,
//! makes the outcome durable, takes it over in memory, and tells watchers, in this order. First
//! bindings of device keys, which come in crowds, share one sync.

use super::records::{self, AuditEntry, Binding};
use super::{Engine, EngineError, StoreError, Table, Write};
use crate::catalogue::edit::Edit;
use crate::catalogue::{Catalogue, Counters};
use crate::clock::now_ms;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use hawser_proto::id::DeviceId;
use hawser_proto::rpc::control as wire;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, broadcast, oneshot};
use tracing::error;

/// Changes that may wait; the next one is answered [`StoreError::Full`].
const QUEUE_MAX: usize = 1_024;
/// Bindings that share one sync.
const BINDINGS_PER_COMMIT: usize = 128;
/// Reads at once; each holds a blocking thread.
const READERS_MAX: usize = 32;

/// Who makes a change, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    Admin,
    /// An owner key, by its id.
    Owner(String),
    /// Control itself.
    Control,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Owner(key_id) => write!(f, "owner {key_id}"),
            Self::Control => f.write_str("control"),
        }
    }
}

/// What came of binding a device key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// It is bound to this key, now or before.
    Same,
    /// It is bound to another key.
    Other,
}

/// Bounds of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreSettings {
    /// Longest wait of a caller.
    pub(crate) timeout: Duration,
    /// Changes a watcher may be behind.
    pub(crate) watch_backlog: usize,
}

/// Whether an edit was made.
type Verdict = Result<(), Failure>;

#[derive(Debug)]
enum Failure {
    Refused(Refusal),
    Store(StoreError),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Store(error) => error.into(),
        }
    }
}

type Decide = Box<dyn FnOnce(&Catalogue, u64) -> Result<Option<Edit>, Refusal> + Send>;

enum Job {
    Edit { actor: Actor, decide: Decide, done: oneshot::Sender<Verdict> },
    Bind(BindJob),
    Write { batch: Vec<Write>, done: oneshot::Sender<Verdict> },
}

struct BindJob {
    key: Vec<u8>,
    device_key: [u8; 32],
    done: oneshot::Sender<Result<Bound, StoreError>>,
}

/// The handle to everything durable. Cheap to clone; the writer ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Store {
    catalogue: Arc<RwLock<Catalogue>>,
    updates: broadcast::Sender<Arc<wire::Update>>,
    jobs: SyncSender<Job>,
    engine: Arc<dyn Engine>,
    readers: Arc<Semaphore>,
    timeout: Duration,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Starts the writer thread on a loaded catalogue. Joining the handle after the last `Store` was
    /// dropped waits until the engine is closed.
    pub(crate) fn start(
        engine: Arc<dyn Engine>,
        catalogue: Catalogue,
        settings: StoreSettings,
        metrics: Metrics,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let (updates, _) = broadcast::channel(settings.watch_backlog);
        let catalogue = Arc::new(RwLock::new(catalogue));
        let writer = Writer {
            engine: engine.clone(),
            catalogue: catalogue.clone(),
            updates: updates.clone(),
            metrics,
        };
        let thread = std::thread::Builder::new()
            .name("control-writer".to_owned())
            .spawn(move || writer.run(&queue))?;
        let readers = Arc::new(Semaphore::new(READERS_MAX));
        let timeout = settings.timeout;
        Ok((Self { catalogue, updates, jobs, engine, readers, timeout }, thread))
    }

    /// Looks at the catalogue. Short and synchronous: the lock is held meanwhile.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Catalogue) -> T) -> T {
        look(&self.catalogue.read())
    }

    /// The catalogue as it is, and every update after it. A receiver that falls behind is told so.
    pub(crate) fn watch(&self) -> (wire::Update, broadcast::Receiver<Arc<wire::Update>>) {
        // The writer publishes under the write lock: nothing comes between snapshot and updates.
        let catalogue = self.catalogue.read();
        (catalogue.snapshot(), self.updates.subscribe())
    }

    /// Decides on the writer thread and makes the outcome durable. `decide` gets the time of the edit.
    pub(crate) async fn edit<T: Send + 'static>(
        &self,
        actor: Actor,
        decide: impl FnOnce(&Catalogue, u64) -> Result<(Edit, T), Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (send, mut outcome) = oneshot::channel();
        let decide = Box::new(move |catalogue: &Catalogue, now_ms: u64| {
            let (edit, value) = decide(catalogue, now_ms)?;
            let _ = send.send(value);
            Ok(Some(edit))
        });
        let verdict = self.submit(|done| Job::Edit { actor, decide, done }).await?;
        verdict?;
        outcome.try_recv().map_err(|_| StoreError::Failed.into())
    }

    /// As [`Self::edit`], for control's own upkeep: there may be nothing to do. Says whether there was.
    pub(crate) async fn upkeep(
        &self,
        decide: impl FnOnce(&Catalogue, u64) -> Result<Option<Edit>, Refusal> + Send + 'static,
    ) -> Result<bool, Refusal> {
        let (send, mut outcome) = oneshot::channel();
        let decide = Box::new(move |catalogue: &Catalogue, now_ms: u64| {
            let edit = decide(catalogue, now_ms)?;
            let _ = send.send(edit.is_some());
            Ok(edit)
        });
        let actor = Actor::Control;
        let verdict = self.submit(|done| Job::Edit { actor, decide, done }).await?;
        verdict?;
        Ok(outcome.try_recv().unwrap_or(false))
    }

    /// Binds a device key durably, unless the device is bound already.
    pub(crate) async fn bind(
        &self,
        serial: u64,
        device: &DeviceId,
        device_key: [u8; 32],
    ) -> Result<Bound, StoreError> {
        let key = records::binding_key(serial, device);
        self.submit(|done| Job::Bind(BindJob { key, device_key, done })).await?
    }

    /// The device key a device is bound to.
    pub(crate) async fn binding(
        &self,
        serial: u64,
        device: &DeviceId,
    ) -> Result<Option<Binding>, StoreError> {
        let key = records::binding_key(serial, device);
        self.read(move |engine| {
            let value = engine.read(Table::Binding, &key)?;
            Ok(value.map(|value| serde_json::from_slice(&value)).transpose()?)
        })
        .await
    }

    /// Writes that need no decision: cleaning up.
    pub(crate) async fn write(&self, batch: Vec<Write>) -> Result<(), Refusal> {
        Ok(self.submit(|done| Job::Write { batch, done }).await??)
    }

    /// Reads on a blocking thread.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Engine) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.readers.clone().acquire_owned();
        let work = async {
            let permit = permit.await.map_err(|_| StoreError::Failed)?;
            let engine = self.engine.clone();
            let reading = tokio::task::spawn_blocking(move || {
                let found = read(engine.as_ref());
                drop(permit);
                found
            });
            match reading.await {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(failure)) => {
                    error!(failure = &failure as &dyn std::error::Error, "store read failed");
                    Err(StoreError::Failed)
                }
                Err(_) => Err(StoreError::Failed),
            }
        };
        tokio::time::timeout(self.timeout, work).await.map_err(|_| StoreError::Late)?
    }

    async fn submit<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<T>) -> Job,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        self.jobs.try_send(job(done)).map_err(|failure| match failure {
            TrySendError::Full(_) => StoreError::Full,
            TrySendError::Disconnected(_) => StoreError::Failed,
        })?;
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(StoreError::Failed),
            Err(_) => Err(StoreError::Late),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(_) => Self::Failed,
            Failure::Store(error) => error,
        }
    }
}

struct Writer {
    engine: Arc<dyn Engine>,
    catalogue: Arc<RwLock<Catalogue>>,
    updates: broadcast::Sender<Arc<wire::Update>>,
    metrics: Metrics,
}

impl Writer {
    fn run(&self, queue: &Receiver<Job>) {
        let mut next = queue.recv().ok();
        while let Some(job) = next.take() {
            match job {
                // A caller that gave up must not have its change made much later.
                Job::Edit { done, .. } if done.is_closed() => {}
                Job::Edit { actor, decide, done } => {
                    let _ = done.send(self.edit(&actor, decide));
                }
                Job::Write { batch, done } => {
                    let _ = done.send(self.commit(&batch).map_err(Failure::Store));
                }
                Job::Bind(first) => {
                    let mut crowd = vec![first];
                    while crowd.len() < BINDINGS_PER_COMMIT && next.is_none() {
                        match queue.try_recv() {
                            Ok(Job::Bind(job)) => crowd.push(job),
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.bind(crowd);
                }
            }
            if next.is_none() {
                next = queue.recv().ok();
            }
        }
    }

    fn edit(&self, actor: &Actor, decide: Decide) -> Verdict {
        let now_ms = now_ms();
        let Some((edit, heard, batch, counters)) = ({
            let catalogue = self.catalogue.read();
            let edit = decide(&catalogue, now_ms).map_err(Failure::Refused)?;
            edit.map(|edit| prepare(&catalogue, actor, edit, now_ms)).transpose()?
        }) else {
            return Ok(());
        };
        self.commit(&batch).map_err(Failure::Store)?;

        let mut catalogue = self.catalogue.write();
        let mut revision = catalogue.counters.revision;
        for change in edit.changes {
            catalogue.apply(change);
        }
        catalogue.counters = counters;
        for change in heard {
            revision += 1;
            let what = Some(wire::update::What::Change(change));
            // An error means that nobody watches.
            let _ = self.updates.send(Arc::new(wire::Update { revision, what }));
        }
        Ok(())
    }

    fn bind(&self, crowd: Vec<BindJob>) {
        let bound_at_ms = now_ms();
        // Devices of this crowd that will be bound; a second request for one must see the first.
        let mut fresh: HashMap<Vec<u8>, [u8; 32]> = HashMap::new();
        let mut answers = Vec::with_capacity(crowd.len());
        let mut batch = Vec::new();
        for job in crowd {
            if job.done.is_closed() {
                continue;
            }
            let answer = self.bound(&fresh, &job.key).and_then(|bound| match bound {
                Some(key) if key == job.device_key => Ok(Bound::Same),
                Some(_) => Ok(Bound::Other),
                None => {
                    let value =
                        records::json(&Binding { device_key: job.device_key, bound_at_ms })?;
                    batch.push(Write::Put(Table::Binding, job.key.clone(), value));
                    fresh.insert(job.key, job.device_key);
                    Ok(Bound::Same)
                }
            });
            answers.push((job.done, answer));
        }
        let committed = if batch.is_empty() { Ok(()) } else { self.commit(&batch) };
        for (done, answer) in answers {
            let answer = answer.map_err(|failure: EngineError| {
                error!(failure = &failure as &dyn std::error::Error, "device binding unreadable");
                StoreError::Failed
            });
            let _ = done.send(committed.and(answer));
        }
    }

    fn bound(
        &self,
        fresh: &HashMap<Vec<u8>, [u8; 32]>,
        key: &[u8],
    ) -> Result<Option<[u8; 32]>, EngineError> {
        if let Some(device_key) = fresh.get(key) {
            return Ok(Some(*device_key));
        }
        let value = self.engine.read(Table::Binding, key)?;
        let binding: Option<Binding> =
            value.map(|value| serde_json::from_slice(&value)).transpose()?;
        Ok(binding.map(|binding| binding.device_key))
    }

    fn commit(&self, batch: &[Write]) -> Result<(), StoreError> {
        let begun = Instant::now();
        let outcome = self.engine.commit(batch);
        self.metrics.store_write_seconds.observe(begun.elapsed().as_secs_f64());
        outcome.map_err(|failure| {
            error!(failure = &failure as &dyn std::error::Error, "store write failed");
            self.metrics.store_write_failures.inc();
            StoreError::Failed
        })
    }
}

type Prepared = (Edit, Vec<wire::Change>, Vec<Write>, Counters);

/// Everything that follows from an edit, before anything is done.
fn prepare(
    catalogue: &Catalogue,
    actor: &Actor,
    edit: Edit,
    now_ms: u64,
) -> Result<Prepared, Failure> {
    let heard: Vec<_> = edit.changes.iter().flat_map(|change| catalogue.heard(change)).collect();
    let mut counters = catalogue.counters;
    counters.revision += heard.len() as u64;
    counters.audit += 1;
    for change in &edit.changes {
        if let crate::catalogue::Change::PutApp(app) = change {
            counters.serial = counters.serial.max(app.serial);
        }
    }
    let entry = AuditEntry {
        at_ms: now_ms,
        actor: actor.to_string(),
        action: edit.action.to_owned(),
        app: edit.app.as_ref().map(ToString::to_string),
        target: edit.target.clone(),
    };
    let batch = || -> Result<Vec<Write>, EngineError> {
        let mut batch = Vec::new();
        for change in &edit.changes {
            batch.extend(records::writes(catalogue, change)?);
        }
        batch.push(records::audit(counters.audit, &entry)?);
        batch.push(records::counters(&counters)?);
        Ok(batch)
    };
    let batch = batch().map_err(|failure| {
        error!(failure = &failure as &dyn std::error::Error, "a change cannot be written down");
        Failure::Store(StoreError::Failed)
    })?;
    Ok((edit, heard, batch, counters))
}
