//! The one task that changes groups: it decides on up to 64 changes, has the store make them durable with
//! one sync, makes them true in memory, and answers. One task, so that the store sees one order.
//!
//! Several routers decide, each against what it knows: the store compares, and whoever knew wrong learns what
//! is true and decides again. What others changed is brought by the store's news, in this task too, so that no
//! answer of the store that was asked for before a change can undo it in memory. A group that is not known here
//! is read beside it, so that nobody who joins waits for changes; an answer that was overtaken by a change here
//! is asked for again.

mod follower;

use crate::core::Core;
use crate::groups::{Changed, Dropped, Group, Refused, Wanted};
use crate::key::{self, Key};
use crate::reach::Call;
use crate::store::{GroupChange, GroupChanged, LogMark, StoreError};
use follower::Follower;
use futures_util::future::{join, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hawser_proto::id::{AppId, BusinessNo};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tracing::warn;

/// Group changes and readings that may wait.
const WAITING_MAX: usize = 1_024;
/// Group changes that share one sync.
const TOGETHER_MAX: usize = 64;
/// Groups that are read at a time.
const READ_TOGETHER: usize = 256;
/// How often a change is decided, or a group read, anew because another router changed the same group meanwhile.
const DECISIONS_MAX: usize = 3;
/// How often the store is asked for what others changed.
const NEWS_INTERVAL: Duration = Duration::from_millis(250);

/// What somebody wants of the writer.
#[derive(Debug)]
pub(crate) struct Requests {
    changes: mpsc::Receiver<ChangeRequest>,
    reads: mpsc::Receiver<ReadRequest>,
}

/// A change to a group that wants to be decided and made durable.
#[derive(Debug)]
pub(crate) struct ChangeRequest {
    wanted: Wanted,
    answer: oneshot::Sender<Result<Changed, ChangeError>>,
}

/// A group that is not known here.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    key: Key,
    answer: oneshot::Sender<Result<Option<Arc<Group>>, ChangeError>>,
}

/// Why a group was not changed, or not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// Decided against.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store did not take it, or did not say so. Asked for again it is made, if it was not.
    #[error("the store did not take the change")]
    Store(#[from] StoreError),
    /// Too many changes wait, or others change the same group all the time.
    #[error("too many group changes wait")]
    Full,
    /// The writer has ended.
    #[error("the router is stopping")]
    Stopping,
}

/// The way to the writer; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct GroupWriter {
    changes: mpsc::Sender<ChangeRequest>,
    reads: mpsc::Sender<ReadRequest>,
}

impl GroupWriter {
    /// The way to a writer that [`run`] makes of the other half.
    pub(crate) fn new() -> (Self, Requests) {
        let (change, changes) = mpsc::channel(WAITING_MAX);
        let (read, reads) = mpsc::channel(WAITING_MAX);
        (Self { changes: change, reads: read }, Requests { changes, reads })
    }

    /// Decides and makes durable one change to a group. Dropped: it may still be made.
    pub(crate) async fn change(&self, wanted: Wanted) -> Result<Changed, ChangeError> {
        let (answer, answered) = oneshot::channel();
        send(&self.changes, ChangeRequest { wanted, answer })?;
        answered.await.unwrap_or(Err(ChangeError::Stopping))
    }

    /// Reads a group from the store.
    async fn read(&self, key: Key) -> Result<Option<Arc<Group>>, ChangeError> {
        let (answer, answered) = oneshot::channel();
        send(&self.reads, ReadRequest { key, answer })?;
        answered.await.unwrap_or(Err(ChangeError::Stopping))
    }
}

fn send<T>(to: &mpsc::Sender<T>, request: T) -> Result<(), ChangeError> {
    to.try_send(request).map_err(|full| match full {
        mpsc::error::TrySendError::Full(_) => ChangeError::Full,
        mpsc::error::TrySendError::Closed(_) => ChangeError::Stopping,
    })
}

/// Whether what the store said of a name just now will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It will: a group that was made within the last moments may be missed.
    Lately,
    /// It is asked, now.
    Now,
}

/// The group of this name, as it is known here or else in the store.
pub(crate) async fn find(
    core: &Core,
    key: &Key,
    look: Look,
) -> Result<Option<Arc<Group>>, ChangeError> {
    if let Some(known) = core.groups.find(key) {
        return Ok(Some(known));
    }
    if look == Look::Lately && core.groups.is_missing(key, core.clock.steady_ms()) {
        return Ok(None);
    }
    find_anew(core, key).await
}

/// The group of this name as it is in the store, whatever is known here: another router may have changed it. One
/// that is known here and not there stays known: the store may have lost it.
pub(crate) async fn find_anew(core: &Core, key: &Key) -> Result<Option<Arc<Group>>, ChangeError> {
    let read = tokio::time::timeout(core.reach.timeout(), core.group_writer.read(*key));
    let found = read.await.unwrap_or(Err(ChangeError::Store(StoreError::Timeout)))?;
    if found.is_none() {
        core.groups.missed(key, core.clock.steady_ms());
    }
    Ok(found)
}

/// Changes and reads groups and follows the news until told to stop, then does what is left. `mark`: where the
/// news stood before the groups were read.
pub(crate) async fn run(core: Arc<Core>, requests: Requests, mark: LogMark, dropped: Dropped) {
    let Requests { changes, reads } = requests;
    let dropped = Arc::new(dropped);
    let reading = read_all(core.clone(), reads, dropped.clone());
    join(reading, write(core.clone(), changes, mark, dropped)).await;
}

async fn write(
    core: Arc<Core>,
    mut requests: mpsc::Receiver<ChangeRequest>,
    mark: LogMark,
    dropped: Arc<Dropped>,
) {
    let stop = core.tasks.stop_signal();
    let mut writer = Writer { follower: Follower::new(&core, mark), core, dropped };
    let mut news = tokio::time::interval(NEWS_INTERVAL);
    news.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            count = requests.recv_many(&mut waiting, TOGETHER_MAX) => {
                if count == 0 {
                    return;
                }
                writer.take(std::mem::take(&mut waiting)).await;
            }
            _ = news.tick(), if !requests.is_closed() => {
                // Asked for again with the next tick.
                let _ = writer.follower.follow(&writer.core, &writer.dropped).await;
            }
            () = stop.cancelled(), if !requests.is_closed() => requests.close(),
        }
    }
}

async fn read_all(
    core: Arc<Core>,
    mut requests: mpsc::Receiver<ReadRequest>,
    dropped: Arc<Dropped>,
) {
    let stop = core.tasks.stop_signal();
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(request) = requests.recv(), if under_way.len() < READ_TOGETHER => {
                under_way.push(read(core.clone(), request, dropped.clone()));
            }
            Some(()) = under_way.next() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Reads a group, and takes over what there is.
async fn read(core: Arc<Core>, request: ReadRequest, dropped: Arc<Dropped>) {
    let ReadRequest { key, answer } = request;
    let mut done = Err(ChangeError::Full);
    for _ in 0..DECISIONS_MAX {
        // Whoever asked has given up.
        if answer.is_closed() {
            return;
        }
        let reading = core.groups.begin_reading(&key);
        let read = core.reach.ask(Call::Group, core.store.group(&key)).await;
        core.metrics.group_news.read_through.inc();
        let said = read.as_ref().ok().map(Option::as_ref);
        let learned = core.groups.end_reading(&reading, said, &dropped);
        match (read, learned) {
            (Err(source), _) => {
                done = Err(source.into());
                break;
            }
            (Ok(_), Some(learned)) => {
                done = Ok(learned);
                break;
            }
            (Ok(_), None) => {}
        }
    }
    let _ = answer.send(done);
}

struct Writer {
    core: Arc<Core>,
    dropped: Arc<Dropped>,
    follower: Follower,
}

impl Writer {
    async fn take(&mut self, mut changes: Vec<ChangeRequest>) {
        let is_keep = |change: &ChangeRequest| matches!(change.wanted, Wanted::Keep { .. });
        // Or a group that another router has deleted would be made again.
        if changes.iter().any(is_keep)
            && let Err(source) = self.follower.follow(&self.core, &self.dropped).await
        {
            let (keeps, others) = changes.into_iter().partition(is_keep);
            failed(keeps, &source);
            changes = others;
        }
        for _ in 0..DECISIONS_MAX {
            if changes.is_empty() {
                return;
            }
            changes = self.change(changes).await;
        }
        for change in changes {
            let _ = change.answer.send(Err(ChangeError::Full));
        }
    }

    /// Reads what would be refused as it is known here: another router may have changed it just now. Those whose
    /// groups cannot be read are answered so; the others come back.
    async fn read_doubtful(&self, changes: Vec<ChangeRequest>) -> Vec<ChangeRequest> {
        let core = &self.core;
        let read = changes.into_iter().map(async |change| {
            let key = change.wanted.key();
            let known = core.groups.find(key).map(|group| group.owner);
            let would_do = match &change.wanted {
                Wanted::Create { gone, .. } => known.is_none() || known == *gone,
                Wanted::Delete { owner, .. } => known == Some(*owner),
                Wanted::Keep { .. } => true,
            };
            if !would_do {
                match core.reach.ask(Call::Group, core.store.group(key)).await {
                    Ok(meta) => drop(core.groups.learn(key, meta.as_ref(), &self.dropped)),
                    Err(source) => {
                        failed(vec![change], &source);
                        return None;
                    }
                }
            }
            Some(change)
        });
        join_all(read).await.into_iter().flatten().collect()
    }

    /// Decides each change in turn against what the ones before it will have made, writes them in one step,
    /// then makes them true in memory and answers. Returns those to be decided again, since the store knew
    /// better.
    async fn change(&self, waiting: Vec<ChangeRequest>) -> Vec<ChangeRequest> {
        let core = &self.core;
        let waiting = self.read_doubtful(waiting).await;
        let mut writes: Vec<GroupChange> = Vec::new();
        let mut decided = Vec::with_capacity(waiting.len());
        {
            let mut decision = core.groups.decide();
            for request in waiting {
                match decision.take(&request.wanted) {
                    Ok(made) => {
                        writes.push(made);
                        decided.push(request);
                    }
                    Err(refused) => drop(request.answer.send(Err(refused.into()))),
                }
            }
        }
        if decided.is_empty() {
            return Vec::new();
        }
        let done = match core.reach.ask(Call::ChangeGroups, core.store.change_groups(writes)).await
        {
            Ok(done) => done,
            Err(source) => {
                warn!(%source, "groups were not written");
                return failed(decided, &source);
            }
        };
        let mut again = Vec::new();
        for (mut request, changed) in decided.into_iter().zip(done) {
            match changed {
                GroupChanged::Made => {
                    let changed = core.groups.apply(&request.wanted, &self.dropped);
                    let _ = request.answer.send(Ok(changed));
                }
                GroupChanged::Differs(meta) => {
                    core.groups.learn(request.wanted.key(), meta.as_ref(), &self.dropped);
                    let owner = meta.map(|meta| BusinessNo(meta.owner));
                    request.wanted.found(owner.filter(|&owner| self.is_gone(&request, owner)));
                    again.push(request);
                }
                GroupChanged::Failed(source) => {
                    warn!(%source, "a group was not written");
                    failed(vec![request], &source);
                }
            }
        }
        again
    }

    /// Whether the business that has the group is no more.
    fn is_gone(&self, request: &ChangeRequest, owner: BusinessNo) -> bool {
        let app = key::split(request.wanted.key().as_bytes());
        let app = app.and_then(|(app, _)| AppId::new(app).ok());
        app.is_some_and(|app| self.core.known.load().is_gone(&app, owner))
    }
}

fn failed(requests: Vec<ChangeRequest>, source: &StoreError) -> Vec<ChangeRequest> {
    for request in requests {
        let _ = request.answer.send(Err(source.clone().into()));
    }
    Vec::new()
}
