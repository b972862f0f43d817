//! Claims whose stream broke before they were answered. The store may have made one: if its session has gone by
//! then, and was not told of under any epoch, nobody would ever end it, and the device would stay online.
//!
//! So the session is told of once more, under an epoch below all others. That displaces nobody, and brings back
//! or ends what there may be: the answer names the epoch that stands in the store, and an end under that epoch is
//! compared with the connection there.

use super::Routers;
use super::claims::{Pending, Purpose};
use super::tier::{self, Functions};
use crate::node::Node;
use hawser_proto::id::{AppId, DeviceId, Epoch, SlotRef};
use hawser_proto::rpc::node::Bind;
use std::time::Instant;

/// Claims kept until a router answers for them.
const LOST_MAX: usize = 65_536;
/// Below the epoch of every session.
const LOWEST: Epoch = Epoch(1);

/// A claim that nobody answered.
pub(super) struct LostClaim {
    at: SlotRef,
    quest: Bind,
    since: Instant,
}

/// What is asked for a claim that was lost.
pub(super) fn quest(bind: &Bind) -> Bind {
    Bind { epoch: LOWEST.0, cursors: Vec::new(), ..bind.clone() }
}

/// What has become of the connection that a claim was for.
enum Now {
    /// Its login is not decided.
    Waits,
    /// Its end will be told, under the epoch that it has.
    IsSession,
    HasGone,
}

impl Routers {
    /// The stream of a claim broke, or its router could not take it.
    pub(super) fn claim_is_lost(&self, node: &Node, at: SlotRef, quest: Option<Bind>) {
        let Some(quest) = quest else { return };
        let mut lost = self.lost_claims.lock();
        if lost.len() < LOST_MAX {
            lost.push_back(LostClaim { at, quest, since: Instant::now() });
        } else {
            node.metrics.unbinds_lost.inc();
        }
    }

    /// Asks for some of those whose connections have gone.
    pub(crate) fn ask_for_lost_claims(&self, node: &Node, most: usize) {
        // What is under way at the store is done, or given up, by then.
        let patience = node.config.router_call_timeout;
        let count = self.lost_claims.lock().len().min(most);
        for _ in 0..count {
            let Some(claim) = self.lost_claims.lock().pop_front() else { return };
            let is_due = claim.since.elapsed() >= patience;
            let left = match now(node, claim.at) {
                Now::IsSession => None,
                Now::HasGone if is_due => self.ask_for(node, claim),
                Now::HasGone | Now::Waits => Some(claim),
            };
            self.lost_claims.lock().extend(left);
        }
    }

    fn ask_for(&self, node: &Node, claim: LostClaim) -> Option<LostClaim> {
        let names = AppId::new(&claim.quest.app).ok().zip(DeviceId::new(&claim.quest.device).ok());
        let (app, device) = names?;
        let key = tier::key(&[app.as_str(), device.as_str()]);
        let up = self.pick_up(Functions::LOGINS, key, node.table.now_ms(), &[]);
        let purpose = Purpose::Lost(claim.quest.clone());
        let asked = up.and_then(|up| self.claim(node, &up, claim.at, (&app, &device), purpose));
        asked.is_none().then_some(claim)
    }

    /// The answer: whatever stands in the store under this epoch is ended, if it is this connection's.
    pub(super) fn lost_claim_answered(
        &self,
        node: &Node,
        pending: Pending,
        epoch: Epoch,
        is_answered: bool,
    ) {
        let Pending { at, app, device, purpose, .. } = pending;
        match purpose {
            Purpose::Lost(quest) if !is_answered => self.claim_is_lost(node, at, Some(quest)),
            _ => self.unbind(node, (&app, &device), at, epoch, Vec::new()),
        }
    }
}

fn now(node: &Node, at: SlotRef) -> Now {
    let epoch = node
        .table
        .with(at, |connection| connection.identity.as_ref().map(|identity| identity.epoch));
    match epoch.flatten() {
        None => Now::HasGone,
        Some(Epoch(0)) => Now::Waits,
        Some(_) => Now::IsSession,
    }
}
