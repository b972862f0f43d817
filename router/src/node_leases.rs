//! Leases of nodes in the store: taken at their Hello, renewed for those that are heard here, and looked at
//! for all, so that a node which only another router hears is known to live.

use crate::core::Core;
use crate::nodes::Life;
use crate::reach::Call;
use futures_util::StreamExt as _;
use futures_util::stream;
use hawser_proto::id::{BootId, NodeId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

/// Leases renewed at the same time.
const TOGETHER: usize = 32;
/// Between two looks at all leases: a tenth of a lease, and no longer than this. A node that begins is known to
/// every router by then, also to those that it cannot reach.
const LOOKS_APART_MAX: Duration = Duration::from_secs(1);
const LOOKS_APART_MIN: Duration = Duration::from_millis(10);

/// What came of asking for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is this boot's.
    Granted,
    /// Another boot has it.
    Held,
    /// The store cannot be asked; what is known here has to do.
    Unasked,
}

/// Takes or renews the lease of a node that says hello.
pub(crate) async fn take(core: &Core, node: &NodeId, boot: BootId) -> Taken {
    let lease_ms = core.node_lease.as_millis() as u64;
    let renew = || core.reach.ask(Call::RenewNode, core.store.renew_node(node, boot, lease_ms));
    match renew().await {
        Ok(Ok(())) => Taken::Granted,
        Ok(Err(_)) => {
            // Its boot before has said goodbye here, which may be on its way to the store still.
            let Some(before) = core.nodes.who_left(node) else { return Taken::Held };
            leave(core, node, before).await;
            if matches!(renew().await, Ok(Ok(()))) { Taken::Granted } else { Taken::Held }
        }
        Err(source) => {
            debug!(%node, %source, "a lease could not be taken");
            core.metrics.leases_failed.inc();
            Taken::Unasked
        }
    }
}

/// Ends the lease of a boot that has said goodbye. What fails here ends by itself.
pub(crate) async fn leave(core: &Core, node: &NodeId, boot: BootId) {
    let _ = core.reach.ask(Call::LeaveNode, core.store.leave_node(node, boot)).await;
}

/// Renews and looks until told to stop.
pub(crate) async fn run(core: Arc<Core>) {
    let apart = (core.node_lease / 10).clamp(LOOKS_APART_MIN, LOOKS_APART_MAX);
    let mut tick = tokio::time::interval(apart);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = core.tasks.stop_signal();
    let mut losses = core.store.changes();
    losses.mark_unchanged();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        if losses.has_changed().unwrap_or(false) {
            losses.mark_unchanged();
            core.nodes.leases_may_be_lost();
        }
        tokio::join!(renew_all(&core), look(&core));
    }
}

async fn renew_all(core: &Core) {
    let due = core.nodes.to_renew(core.clock.steady_ms());
    let renewed = due.into_iter().map(|(life, until)| renew(core, life, until));
    stream::iter(renewed).buffer_unordered(TOGETHER).collect::<()>().await;
}

async fn renew(core: &Core, life: Arc<Life>, until: u64) {
    let left_ms = until.saturating_sub(core.clock.steady_ms()).max(1);
    let asked = core.store.renew_node(&life.node, life.boot, left_ms);
    match core.reach.ask(Call::RenewNode, asked).await {
        Ok(Ok(())) => {
            core.metrics.leases_renewed.inc();
            life.renewed(until, core.clock.steady_ms());
            if life.has_left() {
                // It said goodbye meanwhile.
                leave(core, &life.node, life.boot).await;
            }
        }
        Ok(Err(_)) => {
            warn!(node = %life.node, boot = %life.boot, "another boot has taken the lease");
            core.nodes.displaced(&life, core.clock.steady_ms());
        }
        Err(source) => {
            debug!(node = %life.node, %source, "a lease could not be renewed");
            core.metrics.leases_failed.inc();
        }
    }
}

async fn look(core: &Core) {
    let began = core.clock.steady_ms();
    core.nodes.awake(began);
    if let Ok(leases) = core.reach.ask(Call::NodeLeases, core.store.node_leases()).await {
        core.nodes.looked(began, core.clock.steady_ms(), &leases);
    }
}
