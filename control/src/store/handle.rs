//! The handle to everything durable: looks at the catalogue in memory, hands changes to the writer, and
//! reads single records. Every wait ends at the store's deadline.

use super::records::{self, Binding};
use super::writer::{Actor, BindJob, Bound, Job, Writer};
use super::{Engine, EngineError, StoreError, Table, Write};
use crate::catalogue::Catalogue;
use crate::catalogue::edit::Edit;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use hawser_proto::id::DeviceId;
use hawser_proto::rpc::control as wire;
use parking_lot::RwLock;
use std::fmt;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, broadcast, oneshot};
use tracing::error;

/// Changes that may wait; the next one is answered [`StoreError::Full`].
const QUEUE_MAX: usize = 1_024;
/// Reads at once; each holds a blocking thread.
const READERS_MAX: usize = 32;

/// Bounds of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreSettings {
    /// Longest wait of a caller.
    pub(crate) timeout: Duration,
    /// Changes a watcher may be behind.
    pub(crate) watch_backlog: usize,
}

/// The handle to everything durable. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    catalogue: Arc<RwLock<Catalogue>>,
    updates: broadcast::Sender<Arc<wire::Update>>,
    jobs: SyncSender<Job>,
    /// Open for as long as the writer works.
    engine: Weak<dyn Engine>,
    readers: Arc<Semaphore>,
    timeout: Duration,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Starts the writer thread on a loaded catalogue. It ends after [`Store::close`], or when the last
    /// `Store` is dropped; joining it then waits until the engine is closed.
    pub(crate) fn start(
        engine: Arc<dyn Engine>,
        catalogue: Catalogue,
        settings: StoreSettings,
        metrics: Metrics,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let (updates, _) = broadcast::channel(settings.watch_backlog);
        let catalogue = Arc::new(RwLock::new(catalogue));
        let weak = Arc::downgrade(&engine);
        let writer =
            Writer { engine, catalogue: catalogue.clone(), updates: updates.clone(), metrics };
        let thread = std::thread::Builder::new()
            .name("control-writer".to_owned())
            .spawn(move || writer.run(&queue))?;
        let readers = Arc::new(Semaphore::new(READERS_MAX));
        let timeout = settings.timeout;
        Ok((Self { catalogue, updates, jobs, engine: weak, readers, timeout }, thread))
    }

    /// Lets the writer finish what is queued and close the engine. Blocks while the queue is full.
    pub(crate) fn close(&self) {
        // An error means that it has ended already.
        let _ = self.jobs.send(Job::Close);
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
            let engine = self.engine.upgrade().ok_or(StoreError::Failed)?;
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

#[cfg(test)]
mod tests;
