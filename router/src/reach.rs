//! The way to the store: a deadline and a measure around every call, and whether it answers at all.
//!
//! A store that has answered nothing for [`DOWN_AFTER`] is not asked any more, so that no login and no
//! push waits for its deadline in vain; a question every [`PROBE_INTERVAL`] finds out when it is back.
//! Volatile pushes, presence and live groups need no store and go on.

use crate::core::Core;
use crate::group_writer::ChangeError;
use crate::groups::{Changed, Wanted};
use crate::key::Key;
use crate::metrics::StoreMetrics;
use crate::store::{Store, StoreError};
use futures_util::future::join_all;
use hawser_proto::id::{AppId, BusinessNo};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

/// Without an answer for this long the store is taken for unreachable.
pub(crate) const DOWN_AFTER: Duration = Duration::from_secs(5);
/// How often a store that fails is asked whether it is back.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// Nodes are told to sweep no oftener than this because of the store.
const CHANGES_APART: Duration = Duration::from_secs(1);
/// Between two nodes that are told to sweep.
const NODES_APART: Duration = Duration::from_millis(20);

/// Groups given to the store again come before sweeps, but hold them up no longer than this.
const GROUPS_FIRST: Duration = Duration::from_secs(2);
/// So many at a time, the writer's step; others' changes go in between.
const GROUPS_TOGETHER: usize = 64;
const GROUPS_APART: Duration = Duration::from_millis(5);

/// The most time-outs that any call is waited for.
pub(crate) const PATIENCE_MAX: u32 = 4;

/// What the store is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Claim,
    Announce,
    Release,
    Append,
    Fetch,
    Ack,
    Sweep,
    Describe,
    Purge,
    Publish,
    History,
    ChangeGroups,
    ListGroups,
    Group,
    GroupNews,
    Route,
    RenewNode,
    LeaveNode,
    NodeLeases,
    LostBoots,
    EndLost,
    WalkSessions,
    EndGone,
    HoldDuty,
    Marked,
    EventsDue,
    EventHeard,
    Unmark,
}

impl Call {
    pub(crate) const ALL: [Self; 28] = [
        Self::Claim,
        Self::Announce,
        Self::Release,
        Self::Append,
        Self::Fetch,
        Self::Ack,
        Self::Sweep,
        Self::Describe,
        Self::Purge,
        Self::Publish,
        Self::History,
        Self::ChangeGroups,
        Self::ListGroups,
        Self::Group,
        Self::GroupNews,
        Self::Route,
        Self::RenewNode,
        Self::LeaveNode,
        Self::NodeLeases,
        Self::LostBoots,
        Self::EndLost,
        Self::WalkSessions,
        Self::EndGone,
        Self::HoldDuty,
        Self::Marked,
        Self::EventsDue,
        Self::EventHeard,
        Self::Unmark,
    ];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Announce => "announce",
            Self::Release => "release",
            Self::Append => "append",
            Self::Fetch => "fetch",
            Self::Ack => "ack",
            Self::Sweep => "sweep",
            Self::Describe => "describe",
            Self::Purge => "purge",
            Self::Publish => "publish",
            Self::History => "history",
            Self::ChangeGroups => "change_groups",
            Self::ListGroups => "list_groups",
            Self::Group => "group",
            Self::GroupNews => "group_news",
            Self::Route => "route",
            Self::RenewNode => "renew_node",
            Self::LeaveNode => "leave_node",
            Self::NodeLeases => "node_leases",
            Self::LostBoots => "lost_boots",
            Self::EndLost => "end_lost",
            Self::WalkSessions => "walk_sessions",
            Self::EndGone => "end_gone",
            Self::HoldDuty => "hold_duty",
            Self::Marked => "marked",
            Self::EventsDue => "events_due",
            Self::EventHeard => "event_heard",
            Self::Unmark => "unmark",
        }
    }

    /// How many of the configured time-outs it is waited for. Whoever called for an append or a publish is
    /// answered after one; it is waited for longer so that the device is woken when it was stored late.
    fn patience(self) -> u32 {
        match self {
            Self::Append | Self::Publish | Self::ChangeGroups => PATIENCE_MAX,
            _ => 1,
        }
    }
}

/// The way to one store.
pub(crate) struct Reach {
    store: Arc<dyn Store>,
    timeout: Duration,
    started: Instant,
    /// Since when it has only failed, in milliseconds after `started`; 0: it answers.
    failing_since: AtomicU64,
    metrics: StoreMetrics,
}

impl Reach {
    pub(crate) fn new(store: Arc<dyn Store>, timeout: Duration, metrics: StoreMetrics) -> Self {
        metrics.reachable.set(1);
        Self { store, timeout, started: Instant::now(), failing_since: AtomicU64::new(0), metrics }
    }

    /// Asks the store, in time.
    pub(crate) async fn ask<T, F>(&self, call: Call, ask: F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        if self.is_down() {
            self.metrics.failed(call);
            return Err(StoreError::Unreachable);
        }
        let began = Instant::now();
        let patience = self.timeout * call.patience();
        let done = match tokio::time::timeout(patience, ask).await {
            Ok(done) => done,
            Err(_) => Err(StoreError::Timeout),
        };
        self.metrics.seconds(call).observe(began.elapsed().as_secs_f64());
        self.note(call, &done);
        done
    }

    /// How long a caller waits for one call.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether it has failed for so long that it is not asked any more.
    pub(crate) fn is_down(&self) -> bool {
        match self.failing_since.load(Ordering::Relaxed) {
            0 => false,
            since => self.now() >= since + DOWN_AFTER.as_millis() as u64,
        }
    }

    fn note<T>(&self, call: Call, done: &Result<T, StoreError>) {
        match done {
            Err(StoreError::Engine(_) | StoreError::Timeout | StoreError::Unreachable) => {
                self.metrics.failed(call);
                let now = self.now();
                let _ = self.failing_since.compare_exchange(
                    0,
                    now,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
            // Said on this side of the store: nothing is known of it.
            Err(StoreError::Overloaded) => self.metrics.failed(call),
            // Also a refusal is an answer.
            Err(StoreError::ReadOnly | StoreError::Value) => {
                self.metrics.failed(call);
                self.failing_since.store(0, Ordering::Relaxed);
            }
            Ok(_) => self.failing_since.store(0, Ordering::Relaxed),
        }
    }

    /// Asks something small, whatever the state.
    async fn probe(&self) {
        let Ok(app) = AppId::new("hawser") else { return };
        let Ok(key) = Key::device(&app, "is the store there") else { return };
        let asked = self.store.describe(&key, BusinessNo(1));
        let done = tokio::time::timeout(self.timeout, asked).await;
        if let Ok(Ok(_) | Err(StoreError::ReadOnly | StoreError::Value)) = done {
            self.failing_since.store(0, Ordering::Relaxed);
        }
    }

    /// At least 1.
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }
}

/// Looks after a store that fails, and says so in the health of stored pushes. Ends with the router.
pub(crate) async fn watch(core: Arc<Core>, health: impl AsyncFn(bool) + Send) {
    let reach = &core.reach;
    let stop = core.tasks.stop_signal();
    let mut tick = tokio::time::interval(PROBE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_down = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        if reach.failing_since.load(Ordering::Relaxed) != 0 {
            reach.probe().await;
        }
        let is_down = reach.is_down();
        if is_down == was_down {
            continue;
        }
        was_down = is_down;
        reach.metrics.reachable.set((!is_down).into());
        if is_down {
            warn!("the store does not answer: no logins, no stored pushes; sessions stay");
        } else {
            info!("the store answers again");
            // What was stored meanwhile, by whomever, woke nobody.
            core.nodes.sweep_all(core.clock.steady_ms());
        }
        health(!is_down).await;
    }
}

/// Whenever the store may have lost something, gives it the groups again and has all nodes sweep. Ends with
/// the router.
pub(crate) async fn follow_changes(core: Arc<Core>) {
    let mut losses = core.store.changes();
    let stop = core.tasks.stop_signal();
    losses.mark_unchanged();
    loop {
        tokio::select! {
            lost = losses.changed() => if lost.is_err() { return },
            () = stop.cancelled() => return,
        }
        core.reach.metrics.changes.inc();
        info!("the store may have lost something: it is given its groups, nodes sweep");
        let mut keeping = std::pin::pin!(keep_groups(&core));
        let first = async {
            let is_kept = tokio::time::timeout(GROUPS_FIRST, &mut keeping).await.is_ok();
            sweep_nodes(&core).await;
            is_kept
        };
        let is_kept = tokio::select! {
            is_kept = first => is_kept,
            () = stop.cancelled() => return,
        };
        if !is_kept {
            tokio::select! {
                () = keeping => sweep_nodes(&core).await,
                // All of it again, from the start.
                lost = losses.changed() => match lost {
                    Ok(()) => losses.mark_changed(),
                    Err(_) => return,
                },
                () = stop.cancelled() => return,
            }
        }
        tokio::time::sleep(CHANGES_APART).await;
    }
}

/// Has the store keep all groups as they are known here; it leaves as it is what it has. Tries until it is
/// done: what is lost there could neither be used nor be made again.
async fn keep_groups(core: &Core) {
    let mut keys = core.groups.keys();
    while !keys.is_empty() {
        let some = &keys[keys.len().saturating_sub(GROUPS_TOGETHER)..];
        let kept = some.iter().map(|&key| core.group_writer.change(Wanted::Keep { key }));
        // One that was deleted meanwhile is none to keep.
        let is_failed = |done: &Result<Changed, ChangeError>| {
            matches!(done, Err(ChangeError::Store(_) | ChangeError::Full))
        };
        let left = keys.len() - some.len();
        if join_all(kept).await.iter().any(is_failed) {
            tokio::time::sleep(CHANGES_APART).await;
        } else {
            keys.truncate(left);
            tokio::time::sleep(GROUPS_APART).await;
        }
    }
}

async fn sweep_nodes(core: &Core) {
    let lives: Vec<_> = core.nodes.view(core.clock.steady_ms()).lives().cloned().collect();
    for life in lives {
        life.want_sweep(core.clock.steady_ms());
        tokio::time::sleep(NODES_APART).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::InMemory;

    #[test]
    fn only_the_store_itself_ends_a_failure() {
        let metrics = StoreMetrics::new(&prometheus::Registry::new()).unwrap();
        let reach = Reach::new(Arc::new(InMemory::new()), Duration::from_secs(1), metrics);
        let note = |why| reach.note::<()>(Call::Claim, &Err(why));
        let is_failing = || reach.failing_since.load(Ordering::Relaxed) != 0;
        note(StoreError::Overloaded);
        assert!(!is_failing(), "it is not at fault");
        for why in [StoreError::Unreachable, StoreError::Timeout] {
            note(why);
            assert!(is_failing());
            note(StoreError::Overloaded);
            note(StoreError::Unreachable);
            assert!(is_failing(), "nothing was heard of it");
            note(StoreError::ReadOnly);
            assert!(!is_failing(), "a refusal is an answer");
        }
    }
}
