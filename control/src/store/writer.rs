//! The writer: one thread that makes every change, one at a time. It decides on the catalogue as it is,
//! makes the outcome durable, takes it over in memory, and tells watchers, in this order. First
//! bindings of device keys, which come in crowds, share one sync.

use super::records::{self, AuditEntry, Binding};
use super::{Engine, EngineError, StoreError, Table, Write};
use crate::catalogue::edit::Edit;
use crate::catalogue::{Catalogue, Change, Counters};
use crate::clock::now_ms;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use hawser_proto::rpc::control as wire;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;
use tokio::sync::{broadcast, oneshot};
use tracing::error;

/// Bindings that share one sync.
const BINDINGS_PER_COMMIT: usize = 128;

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

/// Whether what was asked for was done.
pub(super) type Verdict = Result<(), Failure>;

#[derive(Debug)]
pub(super) enum Failure {
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

/// Decides what is to change, given the catalogue and the time. `None`: nothing.
pub(super) type Decide = Box<dyn FnOnce(&Catalogue, u64) -> Result<Option<Edit>, Refusal> + Send>;

/// What the writer is asked to do; the answer goes to `done`.
pub(super) enum Job {
    Edit {
        actor: Actor,
        decide: Decide,
        done: oneshot::Sender<Verdict>,
    },
    Bind(BindJob),
    Write {
        batch: Vec<Write>,
        done: oneshot::Sender<Verdict>,
    },
    /// The last one; what comes after it is answered as failed.
    Close,
}

/// A device key to bind, unless its device is bound already.
pub(super) struct BindJob {
    pub(super) key: Vec<u8>,
    pub(super) device_key: [u8; 32],
    pub(super) done: oneshot::Sender<Result<Bound, StoreError>>,
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(_) => Self::Failed,
            Failure::Store(error) => error,
        }
    }
}

/// What the thread holds. It alone writes to the engine and to the catalogue, and keeps the engine open.
pub(super) struct Writer {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) catalogue: Arc<RwLock<Catalogue>>,
    pub(super) updates: broadcast::Sender<Arc<wire::Update>>,
    pub(super) metrics: Metrics,
}

impl Writer {
    /// Works until it is told to close, or every sender of the queue is gone. Then the engine closes.
    pub(super) fn run(&self, queue: &Receiver<Job>) {
        let mut next = queue.recv().ok();
        while let Some(job) = next.take() {
            match job {
                Job::Close => return,
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
        if let Change::PutApp(app) = change {
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
