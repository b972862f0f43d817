//! Where a device is of which nobody has told here.
//!
//! While some node that lives has not told this router of all its sessions, no route here does not mean
//! offline: the store is asked who has the session. It does not know whether the node still hears it, so the
//! best it can say is `unknown`; and `offline` when nobody has the session, or a boot whose lease has ended.

use crate::core::Core;
use crate::inbox::Owner;
use crate::key::Key;
use crate::nodes::leases::Standing;
use crate::reach::Call;
use futures_util::StreamExt as _;
use futures_util::stream;
use tracing::debug;

/// Questions to the store that may be open for all calls of this router. More wait as long as one question may
/// take, and are then answered `unknown`.
pub(crate) const ASKED_MAX: usize = 512;
/// Of these, questions of one call.
const ASKED_BY_ONE_CALL: usize = 64;

/// What the store says of a device that has no route here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// Nobody has its session.
    Offline,
    /// A connection of a node that lives, or may live, under this epoch.
    Elsewhere(Owner, u64),
    /// Nobody can say.
    Unknown,
}

/// Asks about one device. Waits for the store at most as long as any question may.
pub(crate) async fn ask(core: &Core, key: &Key) -> Whereabouts {
    let asks = &core.metrics.route_asks;
    let turn = tokio::time::timeout(core.reach.timeout(), core.route_asks.acquire()).await;
    let Ok(Ok(_turn)) = turn else {
        asks.failed.inc();
        return Whereabouts::Unknown;
    };
    let asked = core.store.route(key, core.clock.now_ms());
    let route = match core.reach.ask(Call::Route, asked).await {
        Ok(route) => route,
        Err(source) => {
            debug!(%source, "nobody can say where a device is");
            asks.failed.inc();
            return Whereabouts::Unknown;
        }
    };
    let Some((owner, epoch)) = route.and_then(|route| Some((route.owner?, route.epoch))) else {
        asks.offline.inc();
        return Whereabouts::Offline;
    };
    match core.nodes.standing(&owner.node, owner.boot, core.clock.steady_ms()) {
        Standing::Dead => {
            asks.offline.inc();
            Whereabouts::Offline
        }
        Standing::Alive => {
            asks.elsewhere.inc();
            Whereabouts::Elsewhere(owner, epoch)
        }
        Standing::Unsure => {
            asks.unsure.inc();
            Whereabouts::Elsewhere(owner, epoch)
        }
    }
}

/// Asks about several, and says in any order which is where.
pub(crate) async fn ask_all<T>(core: &Core, asked: Vec<(T, Key)>) -> Vec<(T, Whereabouts)> {
    let asked = asked.into_iter().map(|(of, key)| async move { (of, ask(core, &key).await) });
    stream::iter(asked).buffer_unordered(ASKED_BY_ONE_CALL).collect().await
}
