//! What the store said about the leases of nodes, and what may be concluded from it. Steady time comes in as
//! an argument.
//!
//! Leases live in the store, so that routers which a node cannot reach know that it lives. A store that lost
//! them, or a router that has just begun, must not take nodes for dead that have had no time to renew: nobody
//! is judged before one full lease has passed.

use crate::store::NodeLease;
use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use hawser_proto::id::{BootId, NodeId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The leases of all nodes, as the newest look found them.
#[derive(Debug)]
pub(crate) struct Leases {
    lease_ms: u64,
    held: ArcSwap<Held>,
    /// When the newest look that was answered began; 0: none was yet.
    looked_at: AtomicU64,
    /// From then on a node without a lease was seen to have none: one lease after the first look.
    known_from: AtomicU64,
    /// From then on it is dead: one lease after the first look since the store may have lost leases.
    judged_from: AtomicU64,
}

/// Who holds the lease of a node, and until when.
type Held = HashMap<NodeId, (BootId, u64), RandomState>;

/// What is known of one boot of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its lease holds.
    Alive,
    /// Its lease has ended.
    Dead,
    /// It may be either: the store was not heard lately, or not for long enough.
    Unsure,
}

impl Leases {
    pub(crate) fn new(lease_ms: u64) -> Self {
        Self {
            lease_ms,
            held: ArcSwap::default(),
            looked_at: AtomicU64::new(0),
            known_from: AtomicU64::new(u64::MAX),
            judged_from: AtomicU64::new(u64::MAX),
        }
    }

    /// The store has answered a look that began then.
    pub(crate) fn looked(&self, began: u64, now: u64, leases: &[NodeLease]) {
        let mut held = Held::default();
        if now < self.judged_from.load(Ordering::Acquire) {
            // It may have lost some, which their nodes hold all the same.
            let before = self.held.load();
            let valid = before.iter().filter(|(_, (_, until))| *until > now);
            held.extend(valid.map(|(node, lease)| (node.clone(), *lease)));
        }
        for lease in leases {
            held.insert(lease.node.clone(), (lease.boot, now.saturating_add(lease.left_ms)));
        }
        self.held.store(Arc::new(held));
        self.looked_at.fetch_max(began.max(1), Ordering::AcqRel);
        for from in [&self.known_from, &self.judged_from] {
            let _ = from.compare_exchange(
                u64::MAX,
                now + self.lease_ms,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
    }

    /// The store may have lost leases.
    pub(crate) fn may_be_lost(&self) {
        self.judged_from.store(u64::MAX, Ordering::Release);
    }

    /// When the newest look that was answered began.
    pub(crate) fn looked_at(&self) -> u64 {
        self.looked_at.load(Ordering::Acquire)
    }

    /// Whether all nodes that live are in here: every one had the time to take a lease, and the newest look is
    /// no older than a lease.
    pub(crate) fn are_known(&self, now: u64) -> bool {
        now >= self.known_from.load(Ordering::Acquire) && self.is_fresh(now)
    }

    fn is_fresh(&self, now: u64) -> bool {
        now < self.looked_at().saturating_add(self.lease_ms)
    }

    /// A boot that nothing is known of here but what the store says.
    pub(crate) fn standing(&self, node: &NodeId, boot: BootId, now: u64) -> Standing {
        match self.held.load().get(node) {
            Some(&(held, until)) if until > now => {
                if held == boot {
                    Standing::Alive
                } else {
                    Standing::Dead
                }
            }
            _ if now >= self.judged_from.load(Ordering::Acquire) && self.is_fresh(now) => {
                Standing::Dead
            }
            _ => Standing::Unsure,
        }
    }

    /// Whether all that hold are like this.
    pub(crate) fn all(&self, now: u64, like: impl Fn(&NodeId, BootId) -> bool) -> bool {
        let held = self.held.load();
        held.iter().all(|(node, &(boot, until))| until <= now || like(node, boot))
    }

    /// The nodes whose leases hold.
    pub(crate) fn holders(&self, now: u64) -> Vec<NodeId> {
        let held = self.held.load();
        held.iter().filter(|(_, (_, until))| *until > now).map(|(node, _)| node.clone()).collect()
    }

    /// The node has said that it ends.
    pub(crate) fn left(&self, node: &NodeId, boot: BootId) {
        self.held.rcu(|held| {
            let mut held = Held::clone(held);
            if held.get(node).is_some_and(|(of, _)| *of == boot) {
                held.remove(node);
            }
            held
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 10_000;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    fn lease(name: &str, boot: u64, left_ms: u64) -> NodeLease {
        NodeLease { node: node(name), boot: BootId(boot), left_ms }
    }

    /// What is known of boot 1 of node `a` at these moments.
    fn standings(leases: &Leases, times: &[u64]) -> Vec<Standing> {
        times.iter().map(|&now| leases.standing(&node("a"), BootId(1), now)).collect()
    }

    #[test]
    fn nobody_is_judged_before_one_full_lease_has_passed() {
        use Standing::{Dead, Unsure};
        let leases = Leases::new(LEASE);
        assert_eq!(standings(&leases, &[0, 50_000]), [Unsure, Unsure], "nobody has looked");
        leases.looked(90, 100, &[]);
        assert_eq!(standings(&leases, &[100, 10_089]), [Unsure, Unsure]);
        leases.looked(10_000, 10_001, &[]);
        assert_eq!(standings(&leases, &[10_099, 10_100]), [Unsure, Dead]);
        assert!(!leases.are_known(10_099) && leases.are_known(10_100));
    }

    #[test]
    fn who_holds_the_lease_lives_and_every_other_boot_is_dead() {
        use Standing::{Alive, Dead};
        let leases = Leases::new(LEASE);
        leases.looked(1, 2, &[lease("a", 1, 5_000)]);
        assert_eq!(standings(&leases, &[2, 5_001]), [Alive, Alive]);
        assert_eq!(leases.standing(&node("a"), BootId(2), 2), Dead);
        leases.looked(4_000, 4_001, &[lease("a", 2, 5_000)]);
        assert_eq!(standings(&leases, &[4_001]), [Dead]);
        assert!(!leases.all(4_001, |_, boot| boot == BootId(1)));
        leases.left(&node("a"), BootId(1));
        assert!(!leases.all(4_001, |_, _| false), "that was another boot");
        leases.left(&node("a"), BootId(2));
        assert!(leases.all(4_001, |_, _| false));
    }

    #[test]
    fn a_store_that_is_not_heard_judges_nobody() {
        use Standing::{Dead, Unsure};
        let leases = Leases::new(LEASE);
        leases.looked(1, 2, &[]);
        leases.looked(20_000, 20_001, &[]);
        assert_eq!(standings(&leases, &[29_999, 30_000]), [Dead, Unsure]);
        assert!(leases.are_known(29_999) && !leases.are_known(30_000));
    }

    #[test]
    fn leases_that_the_store_may_have_lost_hold_until_their_time_is_over() {
        use Standing::{Alive, Dead, Unsure};
        let leases = Leases::new(LEASE);
        leases.looked(1, 2, &[]);
        leases.looked(20_000, 20_000, &[lease("a", 1, 8_000)]);
        leases.may_be_lost();
        leases.looked(21_000, 21_000, &[]);
        assert_eq!(standings(&leases, &[27_999]), [Alive]);
        leases.looked(28_000, 28_000, &[]);
        assert_eq!(standings(&leases, &[28_000, 30_999, 31_000]), [Unsure, Unsure, Dead]);
        assert!(leases.are_known(28_000), "what holds is known");
    }
}
