//! What all calls and streams of one router share.

use crate::auth::{Credential, KeyDigest, Known};
use crate::clock::Clock;
use crate::events::Events;
use crate::functions::Functions;
use crate::group_writer::GroupWriter;
use crate::groups::Groups;
use crate::key::{self, Key};
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::reach::Reach;
use crate::refusal::Refusal;
use crate::releases::Releases;
use crate::sessions;
use crate::store::Store;
use crate::table::{SHARDS, Table};
use crate::turns::Turns;
use arc_swap::ArcSwap;
use hawser_chassis::shutdown::Tasks;
use hawser_proto::id::AppId;
use hawser_proto::rpc::control::Scope;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tonic::Status;
use tracing::{info, warn};

/// How often the table is swept, a shard at a time, and the gauges are refreshed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Everything of one router. No lock in it is held across an await.
pub(crate) struct Core {
    pub(crate) name: String,
    pub(crate) boot: u64,
    pub(crate) functions: Functions,
    pub(crate) node_lease: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) broadcast_patience: Duration,
    pub(crate) keeps_compressed: bool,
    pub(crate) clock: Clock,
    pub(crate) known: ArcSwap<Known>,
    pub(crate) revision: watch::Sender<u64>,
    pub(crate) table: Arc<Table>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) reach: Reach,
    /// What is asked and told about one device, one after the other.
    pub(crate) turns: Arc<Turns>,
    pub(crate) releases: Releases,
    pub(crate) events: Events,
    pub(crate) group_writer: GroupWriter,
    /// Room for questions about devices that have no route here.
    pub(crate) route_asks: Semaphore,
    /// Room for sessions of sweeps that the store is asked about.
    pub(crate) sweeping: Semaphore,
    /// Room for pushes on their way into the store, in KiB.
    pub(crate) storing_kib: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    /// Calls of backends; they end before the streams that they wait on.
    pub(crate) push_tasks: Tasks,
    /// Logins on their way to the store and back; they end before the streams that they are answered on.
    pub(crate) bind_tasks: Tasks,
    /// Everything else.
    pub(crate) tasks: Tasks,
}

impl Core {
    /// Who calls with this key, if it is good and reaches the scope.
    pub(crate) fn caller(&self, key: &KeyDigest, scope: Scope) -> Result<Arc<Credential>, Refusal> {
        self.known.load().credential(key, scope, self.clock.now_ms())
    }

    /// Counts a refusal and makes it a status.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Status {
        self.metrics.refusals.with_label_values(&[refusal.code.name()]).inc();
        refusal.into()
    }

    /// Ends leases in time, sweeps the table, refreshes gauges.
    pub(crate) async fn tick(self: Arc<Self>) {
        let lease_check = (self.node_lease / 10).clamp(Duration::from_millis(10), SWEEP_INTERVAL);
        let mut leases = tokio::time::interval(lease_check);
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        leases.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.tasks.stop_signal();
        let mut shard = 0;
        loop {
            tokio::select! {
                _ = leases.tick() => self.expire(),
                _ = sweep.tick() => {
                    self.nodes.tell_sweeps(self.clock.steady_ms());
                    self.sweep(shard);
                    shard = (shard + 1) % SHARDS;
                }
                () = stop.cancelled() => return,
            }
        }
    }

    fn expire(&self) {
        let now = self.clock.steady_ms();
        if self.nodes.awake(now) {
            warn!("this process stood still: nodes are given a lease to be heard in");
        }
        for life in self.nodes.expire(now) {
            let (node, boot, routes) = (&life.node, life.boot, life.routes());
            if routes > 0 {
                warn!(%node, %boot, routes, "lease ended, its sessions are dead");
            } else {
                info!(%node, %boot, "lease ended");
            }
        }
    }

    fn sweep(self: &Arc<Self>, shard: usize) {
        let view = self.nodes.late_view(self.clock.steady_ms());
        let live = |owner: &crate::table::Owner| view.is_live(owner);
        let mut swept = 0;
        let mut lost = Vec::new();
        self.table.sweep(shard, live, |key, route| {
            swept += 1;
            // Its node may live on, when only this session was not told of again.
            if view.get().life(route.owner().life).is_some() {
                let (owner, serves) = (route.owner(), route.serves.clone());
                lost.extend(
                    key::split(key).map(|(app, id)| {
                        (app.to_owned(), id.to_owned(), owner, route.epoch, serves)
                    }),
                );
            }
        });
        for (name, id, owner, epoch, serves) in lost {
            let Some(node) = view.get().life(owner.life) else { continue };
            let Ok(app) = AppId::new(&name) else { continue };
            node.count(&app, false);
            if let Ok(key) = Key::device(&app, &id) {
                sessions::lost(self, key, node, (owner.at, epoch), &serves);
            }
        }
        if swept > 0 {
            info!(shard, swept, "dead routes swept");
        }
        let (mut nodes, mut routes, mut pending) = (0, 0, 0);
        let (mut complete, mut telling, mut unheard) = (0, 0, 0);
        for life in view.get().lives() {
            nodes += 1;
            *match (life.is_heard(), life.has_told_all()) {
                (false, _) => &mut unheard,
                (true, false) => &mut telling,
                (true, true) => &mut complete,
            } += 1;
            routes += life.routes();
            pending += life.deliver().map_or(0, |stream| stream.pending());
        }
        self.metrics.nodes.set(nodes);
        self.metrics.lives.complete.set(complete);
        self.metrics.lives.telling.set(telling);
        self.metrics.lives.unheard.set(unheard);
        self.metrics.complete.set(self.nodes.is_complete().into());
        self.metrics.routes.set(routes.cast_signed());
        self.metrics.pending.set(pending as i64);
        self.metrics.groups.set(self.groups.len() as i64);
        self.metrics.releases_waiting.set(self.releases.waiting() as i64);
    }
}
