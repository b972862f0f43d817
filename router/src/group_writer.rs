//! The one task that changes groups: it decides on up to 64 changes, has the store make them durable with
//! one sync, makes them true in memory, and answers. One task, so that the store sees one order.

use crate::core::Core;
use crate::groups::{Changed, Dropped, Refused, Wanted};
use crate::reach::Call;
use crate::store::{GroupChange, StoreError};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

/// Group changes that may wait.
const CHANGES_WAITING_MAX: usize = 1_024;
/// Group changes that share one sync.
const CHANGES_PER_SYNC_MAX: usize = 64;

/// A change to a group that wants to be decided and made durable.
#[derive(Debug)]
pub(crate) struct ChangeRequest {
    wanted: Wanted,
    answer: oneshot::Sender<Result<Changed, ChangeError>>,
}

/// Why a group was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// Decided against.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store did not take it, or did not say so. Asked for again it is made, if it was not.
    #[error("the store did not take the change")]
    Store(#[from] StoreError),
    /// Too many changes wait.
    #[error("too many group changes wait")]
    Full,
    /// The writer has ended.
    #[error("the router is stopping")]
    Stopping,
}

/// The way to the writer; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct GroupWriter(mpsc::Sender<ChangeRequest>);

impl GroupWriter {
    /// The way to a writer that [`run`] makes of the other half.
    pub(crate) fn new() -> (Self, mpsc::Receiver<ChangeRequest>) {
        let (sender, changes) = mpsc::channel(CHANGES_WAITING_MAX);
        (Self(sender), changes)
    }

    /// Decides and makes durable one change to a group. Dropped: it may still be made.
    pub(crate) async fn change(&self, wanted: Wanted) -> Result<Changed, ChangeError> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(ChangeRequest { wanted, answer }).map_err(|full| match full {
            mpsc::error::TrySendError::Full(_) => ChangeError::Full,
            mpsc::error::TrySendError::Closed(_) => ChangeError::Stopping,
        })?;
        answered.await.unwrap_or(Err(ChangeError::Stopping))
    }
}

/// Changes groups until told to stop, then what is left.
pub(crate) async fn run(
    core: Arc<Core>,
    mut changes: mpsc::Receiver<ChangeRequest>,
    dropped: Dropped,
) {
    let stop = core.tasks.stop_signal();
    let mut waiting = Vec::new();
    loop {
        let count = tokio::select! {
            count = changes.recv_many(&mut waiting, CHANGES_PER_SYNC_MAX) => count,
            () = stop.cancelled(), if !changes.is_closed() => {
                changes.close();
                continue;
            }
        };
        if count == 0 {
            return;
        }
        change_together(&core, std::mem::take(&mut waiting), &dropped).await;
    }
}

/// Decides each change in turn against what the ones before it will have made, writes them in one step,
/// then makes them true in memory and answers.
async fn change_together(core: &Core, waiting: Vec<ChangeRequest>, dropped: &Dropped) {
    let mut writes: Vec<GroupChange> = Vec::new();
    let mut decided = Vec::with_capacity(waiting.len());
    {
        let mut decision = core.groups.decide();
        for request in waiting {
            match decision.take(&request.wanted) {
                Ok(made) => {
                    writes.extend(made);
                    decided.push(request);
                }
                Err(refused) => drop(request.answer.send(Err(refused.into()))),
            }
        }
    }
    if decided.is_empty() {
        return;
    }
    match core.reach.ask(Call::ChangeGroups, core.store.change_groups(writes)).await {
        Ok(_) => {
            for request in decided {
                let changed = core.groups.apply(&request.wanted, dropped);
                let _ = request.answer.send(Ok(changed));
            }
        }
        Err(source) => {
            warn!(%source, "groups were not written");
            for request in decided {
                let _ = request.answer.send(Err(source.clone().into()));
            }
        }
    }
}
