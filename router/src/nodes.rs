//! Access nodes: their lives, leases and streams.
//!
//! A *life* is one boot of one node, from its first Hello to the end of its lease. Routes name lives by
//! number, so that when a lease ends all its routes are dead at once, without touching one. A node lives
//! while it is heard here or its lease holds in the store, which other routers renew when they hear it
//! ([`leases`]); a store that cannot be asked ends no life. Steady time comes in as an argument.
//!
//! The routes that are known here are *complete* when every node that lives has told of all its sessions on
//! the stream that it keeps now. Only then is a device without a route certainly offline.

pub(crate) mod leases;
mod life;
#[cfg(test)]
mod tests;
mod view;

pub(crate) use life::Life;
pub(crate) use view::{LateView, View};

use crate::node::control::ControlStream;
use crate::store::NodeLease;
use crate::table::LifeNo;
use arc_swap::{ArcSwap, ArcSwapOption};
use hawser_proto::id::{BootId, NodeId};
use hawser_proto::rpc::node::{Leaving, down};
use leases::{Leases, Standing};
use parking_lot::Mutex;
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A node id was shown by another boot while the lease of the one before it still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another boot of this node holds a live lease")]
pub(crate) struct Held;

/// All lives of all nodes.
pub(crate) struct Nodes {
    lease_ms: u64,
    next: AtomicU32,
    lives: ArcSwap<Lives>,
    /// Those that have not ended. What may make the routes complete, or end that, happens under its lock.
    by_name: Mutex<HashMap<NodeId, Arc<Life>>>,
    leases: Arc<Leases>,
    complete: AtomicBool,
    /// When this process was last seen to be awake; 0: not yet.
    awake_at: AtomicU64,
}

/// Those that have not ended, by [`LifeNo`]. A number is never used again.
#[derive(Clone, Default)]
struct Lives {
    /// Above all that are in use, or were.
    next: u32,
    by_no: BTreeMap<u32, Arc<Life>>,
}

impl Nodes {
    /// No nodes yet.
    pub(crate) fn new(lease: Duration) -> Self {
        let lease_ms = (lease.as_millis() as u64).max(1);
        Self {
            lease_ms,
            next: AtomicU32::new(0),
            lives: ArcSwap::default(),
            by_name: Mutex::default(),
            leases: Arc::new(Leases::new(lease_ms)),
            complete: AtomicBool::new(false),
            awake_at: AtomicU64::new(0),
        }
    }

    /// A node says hello on one of its streams: its life, which is new for a new boot, and for a boot
    /// whose lease ended meanwhile (its routes were dead, so it has to tell of them again). `is_granted`: the
    /// store gave it the lease, so that no other boot has it; else what is known here decides.
    pub(crate) fn admit(
        &self,
        node: &NodeId,
        boot: BootId,
        is_granted: bool,
        now: u64,
    ) -> Result<Arc<Life>, Held> {
        let mut by_name = self.by_name.lock();
        if let Some(life) = by_name.get(node).cloned() {
            let live = life.is_live(now);
            if live && life.boot == boot {
                life.hear(now, self.lease_ms);
                return Ok(life);
            }
            if live && !is_granted && !life.left.load(Ordering::Acquire) {
                return Err(Held);
            }
            self.end(&mut by_name, &life);
        }
        let until = now + self.lease_ms;
        let life = Arc::new(Life {
            no: LifeNo(self.next.fetch_add(1, Ordering::Relaxed)),
            node: node.clone(),
            boot,
            lease_until: AtomicU64::new(until),
            heard_until: AtomicU64::new(until),
            renewed_until: AtomicU64::new(if is_granted { until } else { 0 }),
            renewed_at: AtomicU64::new(if is_granted { now } else { 0 }),
            ended: AtomicBool::new(false),
            left: AtomicBool::new(false),
            stamp: AtomicU16::new(0),
            announced_until: AtomicU64::new(0),
            tells_all: AtomicBool::new(false),
            told_all: AtomicBool::new(false),
            leases: self.leases.clone(),
            control: ArcSwapOption::empty(),
            deliver: ArcSwapOption::empty(),
            routes: Mutex::default(),
            sweep_due: Mutex::default(),
            swept_at: AtomicU64::new(0),
        });
        self.lives.rcu(|lives| {
            let mut lives = Lives::clone(lives);
            lives.next = lives.next.max(life.no.0 + 1);
            lives.by_no.insert(life.no.0, life.clone());
            lives
        });
        by_name.insert(node.clone(), life.clone());
        self.look_complete(&by_name, now);
        Ok(life)
    }

    /// The node was heard. False: too late, its lease has ended, and with it this life.
    pub(crate) fn renew(&self, life: &Life, now: u64) -> bool {
        if !life.is_live(now) {
            self.end(&mut self.by_name.lock(), life);
            return false;
        }
        life.hear(now, self.lease_ms);
        true
    }

    /// A new control stream takes the place of the one before. Sessions have this long (and longer
    /// while they come in) to be told of again, and no longer than until the node says that it has told of all;
    /// then those that were not are taken for gone.
    pub(crate) fn attach_control(
        &self,
        life: &Life,
        stream: Arc<ControlStream>,
        tells_all: bool,
        now: u64,
    ) -> u16 {
        let by_name = self.by_name.lock();
        life.told_all.store(false, Ordering::Release);
        life.tells_all.store(tells_all, Ordering::Release);
        // First: without it, all that the stream before vouched for would be dead for a moment.
        life.announced_until.fetch_max(now + 2 * self.lease_ms, Ordering::AcqRel);
        let stamp = life.stamp.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        life.left.store(false, Ordering::Release);
        if let Some(before) = life.control.swap(Some(stream)) {
            before.cut();
        }
        self.look_complete(&by_name, now);
        drop(by_name);
        life.tell_sweep(now);
        stamp
    }

    /// A control stream has ended. `said_goodbye`: the node ended it, so another boot may take its name
    /// at once; its sessions stay until the lease ends, for it may come back. True: it was the one in use.
    pub(crate) fn detach_control(
        &self,
        life: &Life,
        stream: &Arc<ControlStream>,
        said_goodbye: bool,
        now: u64,
    ) -> bool {
        let by_name = self.by_name.lock();
        let before = life.control.compare_and_swap(stream, None);
        let is_this = before.as_ref().is_some_and(|before| Arc::ptr_eq(before, stream));
        if is_this && said_goodbye {
            life.left.store(true, Ordering::Release);
        }
        self.look_complete(&by_name, now);
        is_this
    }

    /// The node has told of all its sessions on the stream with this stamp: whatever it did not tell of is gone.
    pub(crate) fn all_told(&self, life: &Life, stamp: u16, now: u64) {
        let by_name = self.by_name.lock();
        let is_newest = life.stamp.load(Ordering::Acquire) == stamp;
        if is_newest && life.tells_all.load(Ordering::Acquire) {
            life.told_all.store(true, Ordering::Release);
            life.announced_until.store(0, Ordering::Release);
            self.look_complete(&by_name, now);
        }
    }

    /// The node has said that it ends, and that nothing lives there any more.
    pub(crate) fn goodbye(&self, life: &Life, now: u64) {
        let mut by_name = self.by_name.lock();
        life.left.store(true, Ordering::Release);
        self.leases.left(&life.node, life.boot);
        self.end(&mut by_name, life);
        self.look_complete(&by_name, now);
    }

    /// The store has given the lease to another boot.
    pub(crate) fn displaced(&self, life: &Life, now: u64) {
        let mut by_name = self.by_name.lock();
        self.end(&mut by_name, life);
        self.look_complete(&by_name, now);
    }

    /// The store has told of all leases; the question was asked at `began`.
    pub(crate) fn looked(&self, began: u64, now: u64, leases: &[NodeLease]) {
        let by_name = self.by_name.lock();
        for lease in leases {
            let known = by_name.get(&lease.node).filter(|life| life.boot == lease.boot);
            if let Some(life) = known.filter(|life| !life.left.load(Ordering::Acquire)) {
                life.lease_until.fetch_max(now.saturating_add(lease.left_ms), Ordering::AcqRel);
            }
        }
        self.leases.looked(began, now, leases);
        self.look_complete(&by_name, now);
    }

    /// This process is awake; said many times in a lease, and before each look at the leases. When it was not for
    /// long, nobody read what the nodes said, and nobody renewed their leases: those that lived before are given
    /// a lease to be heard in, and nobody is judged meanwhile. True: so it was.
    pub(crate) fn awake(&self, now: u64) -> bool {
        let before = self.awake_at.fetch_max(now, Ordering::AcqRel);
        if before == 0 || now < before + self.lease_ms / 2 {
            return false;
        }
        let by_name = self.by_name.lock();
        self.leases.may_be_lost();
        for life in by_name.values() {
            for until in [&life.lease_until, &life.heard_until] {
                if until.load(Ordering::Acquire) > before {
                    until.fetch_max(now + self.lease_ms, Ordering::AcqRel);
                }
            }
        }
        self.look_complete(&by_name, now);
        true
    }

    /// The store may have lost leases.
    pub(crate) fn leases_may_be_lost(&self) {
        self.leases.may_be_lost();
    }

    /// Lives that were heard since their lease was renewed in the store, a third of it ago or longer; each with
    /// until when it is to hold.
    pub(crate) fn to_renew(&self, now: u64) -> Vec<(Arc<Life>, u64)> {
        let by_name = self.by_name.lock();
        let due = |life: &Arc<Life>| {
            let heard_until = life.heard_until.load(Ordering::Acquire);
            let is_due = heard_until > life.renewed_until.load(Ordering::Acquire)
                && now >= life.renewed_at.load(Ordering::Acquire) + self.lease_ms / 3;
            (is_due && heard_until > now && life.is_heard()).then(|| (life.clone(), heard_until))
        };
        by_name.values().filter_map(due).collect()
    }

    /// Whether the routes that are known are all there are. Asked before a look at the table, or what comes in
    /// between would be missed.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    fn look_complete(&self, by_name: &HashMap<NodeId, Arc<Life>>, now: u64) {
        let told = |life: &Arc<Life>| life.told_all.load(Ordering::Acquire) && life.is_heard();
        let is_complete = self.leases.are_known(now)
            && by_name.values().filter(|life| life.is_live(now)).all(told)
            && self.leases.all(now, |node, boot| {
                by_name.get(node).is_some_and(|life| life.boot == boot && life.is_live(now))
            });
        self.complete.store(is_complete, Ordering::Release);
    }

    /// The boot of the node that has said goodbye here, if it was its last word.
    pub(crate) fn who_left(&self, node: &NodeId) -> Option<BootId> {
        let by_name = self.by_name.lock();
        by_name.get(node).filter(|life| life.has_left()).map(|life| life.boot)
    }

    /// Nodes that live and cannot be heard here, or tell another router alone: what happens there nobody here
    /// can count.
    pub(crate) fn unheard(&self, now: u64) -> Vec<NodeId> {
        if self.is_complete() {
            return Vec::new();
        }
        let by_name = self.by_name.lock();
        let is_heard = |life: &Arc<Life>| {
            life.is_live(now) && life.is_heard() && (life.tells_all() || life.routes() > 0)
        };
        let is_heard = |node: &NodeId| by_name.get(node).is_some_and(is_heard);
        let mut unheard: Vec<NodeId> = self.leases.holders(now);
        unheard.extend(by_name.values().filter(|it| it.is_live(now)).map(|it| it.node.clone()));
        unheard.retain(|node| !is_heard(node));
        unheard.sort_unstable();
        unheard.dedup();
        unheard
    }

    /// What is known of a boot, here and in the store.
    pub(crate) fn standing(&self, node: &NodeId, boot: BootId, now: u64) -> Standing {
        let by_name = self.by_name.lock();
        match by_name.get(node).filter(|life| life.is_live(now)) {
            Some(life) if life.boot == boot => Standing::Alive,
            // Two boots never live at once.
            Some(_) => Standing::Dead,
            None => self.leases.standing(node, boot, now),
        }
    }

    /// The node with this name, if it is in this boot and its lease holds.
    pub(crate) fn find(&self, node: &NodeId, boot: BootId, now: u64) -> Option<Arc<Life>> {
        let by_name = self.by_name.lock();
        by_name.get(node).filter(|life| life.boot == boot && life.is_live(now)).cloned()
    }

    /// Has all nodes ask for what may wait.
    pub(crate) fn sweep_all(&self, now: u64) {
        self.view(now).lives().for_each(|life| life.want_sweep(now));
    }

    /// Tells those nodes to sweep that are due.
    pub(crate) fn tell_sweeps(&self, now: u64) {
        self.view(now).lives().for_each(|life| life.tell_sweep(now));
    }

    /// A session was told of again: more may come, unless the node has said that there are no more.
    pub(crate) fn await_announcements(&self, life: &Life, now: u64) {
        let until = life.announced_until.load(Ordering::Acquire);
        // Said for each session: every time that matters is often enough.
        if life.told_all.load(Ordering::Acquire) || until > now + self.lease_ms + self.lease_ms / 2
        {
            return;
        }
        let _by_name = self.by_name.lock();
        if !life.told_all.load(Ordering::Acquire) {
            life.announced_until.fetch_max(now + 2 * self.lease_ms, Ordering::AcqRel);
        }
    }

    /// Ends the lives whose leases are over and returns them; their streams are cut. So are those of nodes that
    /// were not heard here for a lease, which others hear.
    pub(crate) fn expire(&self, now: u64) -> Vec<Arc<Life>> {
        let mut by_name = self.by_name.lock();
        let over = |life: &&Arc<Life>| !life.is_live(now);
        let ended: Vec<_> = by_name.values().filter(over).cloned().collect();
        for life in &ended {
            self.end(&mut by_name, life);
        }
        for life in by_name.values() {
            if now >= life.heard_until.load(Ordering::Acquire) {
                life.cut();
            }
        }
        self.look_complete(&by_name, now);
        ended
    }

    fn end(&self, by_name: &mut HashMap<NodeId, Arc<Life>>, life: &Life) {
        life.ended.store(true, Ordering::Release);
        life.cut();
        if by_name.get(&life.node).is_some_and(|known| known.no == life.no) {
            by_name.remove(&life.node);
        }
        self.lives.rcu(|lives| {
            let mut lives = Lives::clone(lives);
            lives.by_no.remove(&life.no.0);
            lives
        });
    }

    /// The lives at this moment.
    pub(crate) fn view(&self, now: u64) -> View {
        // First: what became complete has its routes in the table by then.
        let complete = self.is_complete();
        View { lives: self.lives.load(), complete, now }
    }

    /// The lives at the moment when they are first asked for.
    pub(crate) fn late_view(&self, now: u64) -> LateView<'_> {
        LateView { nodes: self, now, view: OnceCell::new() }
    }

    /// Tells all nodes that this router ends.
    pub(crate) fn tell_leaving(&self) {
        for life in self.lives.load().by_no.values() {
            if let Some(stream) = life.control() {
                stream.tell(down::What::Leaving(Leaving {}));
            }
        }
    }

    /// Cuts all streams; the router is stopping.
    pub(crate) fn cut_all(&self) {
        self.lives.load().by_no.values().for_each(|life| life.cut());
    }
}
