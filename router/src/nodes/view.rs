//! The lives at one moment, for as many look-ups as one call makes.

use super::{Life, Lives, Nodes};
use crate::table::{LifeNo, Owner};
use arc_swap::Guard;
use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The lives as they are at one moment: for as many look-ups as one call makes.
pub(crate) struct View {
    pub(super) lives: Guard<Arc<Lives>>,
    pub(super) complete: bool,
    pub(super) now: u64,
}

/// A view that is taken at its first use. Who decides under a lock looks here from under that lock, and
/// so sees every life that could have left its mark before.
pub(crate) struct LateView<'a> {
    pub(super) nodes: &'a Nodes,
    pub(super) now: u64,
    pub(super) view: OnceCell<View>,
}

impl LateView<'_> {
    /// The view, taken now unless it was before.
    pub(crate) fn get(&self) -> &View {
        self.view.get_or_init(|| self.nodes.view(self.now))
    }

    /// Whether a route that leads there is live; see [`View::owner`].
    pub(crate) fn is_live(&self, owner: &Owner) -> bool {
        self.get().owner(owner).is_some()
    }
}

impl View {
    /// Whether a device without a route is certainly offline.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the life has ended for good. False for one that is newer than this view.
    pub(crate) fn is_over(&self, no: LifeNo) -> bool {
        no.0 < self.lives.next && !self.lives.by_no.contains_key(&no.0)
    }

    /// The life that a route leads to, if the route is live: its lease holds, and the connection was
    /// told of on the control stream of now, or may still be.
    pub(crate) fn owner(&self, owner: &Owner) -> Option<&Arc<Life>> {
        let life = self.life(owner.life)?;
        let vouched = owner.stamp == life.stamp.load(Ordering::Acquire)
            || self.now < life.announced_until.load(Ordering::Acquire);
        vouched.then_some(life)
    }

    /// A life, while its lease holds.
    pub(crate) fn life(&self, no: LifeNo) -> Option<&Arc<Life>> {
        self.lives.by_no.get(&no.0).filter(|life| life.is_live(self.now))
    }

    /// All lives whose leases hold.
    pub(crate) fn lives(&self) -> impl Iterator<Item = &Arc<Life>> {
        self.lives.by_no.values().filter(|life| life.is_live(self.now))
    }
}
