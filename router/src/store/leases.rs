//! Leases of nodes and duties, as an engine with one router keeps them: in memory, and gone with it. A router
//! that starts anew gives its nodes a whole lease before it takes any for dead.

use super::{LeaseHeld, NodeLease};
use hawser_proto::id::{BootId, NodeId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// All that are held.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    nodes: Mutex<HashMap<NodeId, (BootId, Instant)>>,
    duties: Mutex<HashMap<Box<str>, (u64, Instant)>>,
}

impl Leases {
    /// See [`super::Store::renew_node`].
    pub(crate) fn renew(
        &self,
        node: &NodeId,
        boot: BootId,
        lease_ms: u64,
    ) -> Result<(), LeaseHeld> {
        let now = Instant::now();
        let mut nodes = self.nodes.lock();
        let mut until = after(now, lease_ms);
        if let Some(&(held, held_until)) = nodes.get(node) {
            if held != boot && held_until > now {
                return Err(LeaseHeld);
            }
            if held == boot {
                until = until.max(held_until);
            }
        }
        nodes.insert(node.clone(), (boot, until));
        Ok(())
    }

    /// See [`super::Store::leave_node`].
    pub(crate) fn leave(&self, node: &NodeId, boot: BootId) {
        let mut nodes = self.nodes.lock();
        if nodes.get(node).is_some_and(|&(held, _)| held == boot) {
            nodes.remove(node);
        }
    }

    /// See [`super::Store::node_leases`].
    pub(crate) fn all(&self) -> Vec<NodeLease> {
        let now = Instant::now();
        let mut nodes = self.nodes.lock();
        nodes.retain(|_, &mut (_, until)| until > now);
        let lease = |(node, &(boot, until)): (&NodeId, &(BootId, Instant))| {
            let left_ms = until.saturating_duration_since(now).as_millis() as u64;
            NodeLease { node: node.clone(), boot, left_ms }
        };
        nodes.iter().map(lease).collect()
    }

    /// See [`super::Store::hold_duty`].
    pub(crate) fn hold(&self, duty: &str, holder: u64, ttl_ms: u64) -> bool {
        let now = Instant::now();
        let mut duties = self.duties.lock();
        if duties.get(duty).is_some_and(|&(held, until)| held != holder && until > now) {
            return false;
        }
        // There are some of each boot of a node: those that are over leave.
        duties.retain(|_, &mut (_, until)| until > now);
        duties.insert(duty.into(), (holder, after(now, ttl_ms)));
        true
    }
}

/// However long it is asked for.
fn after(now: Instant, ms: u64) -> Instant {
    now + Duration::from_millis(ms.min(Duration::from_hours(24).as_millis() as u64))
}
