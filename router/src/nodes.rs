//! Access nodes: their lives, leases and streams.
//!
//! A *life* is one boot of one node, from its first Hello to the end of its lease. Routes name lives by
//! number, so that when a lease ends all its routes are dead at once, without touching one. Steady time
//! comes in as an argument.

use crate::node::control::ControlStream;
use crate::node::deliver::DeliverStream;
use crate::table::{LifeNo, Owner};
use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use hawser_proto::id::{AppId, BootId, NodeId};
use hawser_proto::rpc::node::{SweepNow, down};
use parking_lot::Mutex;
use std::cell::OnceCell;
use std::collections::HashMap;
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
    /// Indexed by [`LifeNo`]; what ended is `None` and its number is never used again.
    lives: ArcSwap<Vec<Option<Arc<Life>>>>,
    by_name: Mutex<HashMap<NodeId, Arc<Life>>>,
}

/// One boot of one node.
pub(crate) struct Life {
    /// Its number, in routes and groups.
    pub(crate) no: LifeNo,
    /// The node's name.
    pub(crate) node: NodeId,
    /// Which of its process starts.
    pub(crate) boot: BootId,
    lease_until: AtomicU64,
    ended: AtomicBool,
    left: AtomicBool,
    stamp: AtomicU16,
    announced_until: AtomicU64,
    control: ArcSwapOption<ControlStream>,
    deliver: ArcSwapOption<DeliverStream>,
    routes: Mutex<HashMap<AppId, u64>>,
    /// The node is to be told to sweep, and when it was told last.
    sweep_due: AtomicBool,
    swept_at: AtomicU64,
}

/// A node is told to sweep no oftener than this; one sweep makes good all that was lost before it.
const SWEEPS_APART_MS: u64 = 1_000;

/// The lives as they are at one moment: for as many look-ups as one call makes.
pub(crate) struct View {
    lives: Guard<Arc<Vec<Option<Arc<Life>>>>>,
    now: u64,
}

/// A view that is taken at its first use. Who decides under a lock looks here from under that lock, and
/// so sees every life that could have left its mark before.
pub(crate) struct LateView<'a> {
    nodes: &'a Nodes,
    now: u64,
    view: OnceCell<View>,
}

impl Nodes {
    /// No nodes yet.
    pub(crate) fn new(lease: Duration) -> Self {
        Self {
            lease_ms: (lease.as_millis() as u64).max(1),
            next: AtomicU32::new(0),
            lives: ArcSwap::default(),
            by_name: Mutex::default(),
        }
    }

    /// A node says hello on one of its streams: its life, which is new for a new boot, and for a boot
    /// whose lease ended meanwhile (its routes were dead, so it has to tell of them again).
    pub(crate) fn admit(&self, node: &NodeId, boot: BootId, now: u64) -> Result<Arc<Life>, Held> {
        let mut by_name = self.by_name.lock();
        if let Some(life) = by_name.get(node) {
            let live = life.is_live(now);
            if live && life.boot == boot {
                life.renew(now, self.lease_ms);
                return Ok(life.clone());
            }
            if live && !life.left.load(Ordering::Acquire) {
                return Err(Held);
            }
            self.end(life);
        }
        let life = Arc::new(Life {
            no: LifeNo(self.next.fetch_add(1, Ordering::Relaxed)),
            node: node.clone(),
            boot,
            lease_until: AtomicU64::new(now + self.lease_ms),
            ended: AtomicBool::new(false),
            left: AtomicBool::new(false),
            stamp: AtomicU16::new(0),
            announced_until: AtomicU64::new(0),
            control: ArcSwapOption::empty(),
            deliver: ArcSwapOption::empty(),
            routes: Mutex::default(),
            sweep_due: AtomicBool::new(false),
            swept_at: AtomicU64::new(0),
        });
        self.lives.rcu(|lives| {
            let mut lives = Vec::clone(lives);
            lives.resize(lives.len().max(life.no.0 as usize + 1), None);
            lives[life.no.0 as usize] = Some(life.clone());
            lives
        });
        by_name.insert(node.clone(), life.clone());
        Ok(life)
    }

    /// The node was heard. False: too late, its lease has ended, and with it this life.
    pub(crate) fn renew(&self, life: &Life, now: u64) -> bool {
        if !life.is_live(now) {
            self.end(life);
            return false;
        }
        life.renew(now, self.lease_ms);
        true
    }

    /// A new control stream takes the place of the one before. Sessions have this long (and longer
    /// while they come in) to be told of again; then those that were not are taken for gone.
    pub(crate) fn attach_control(&self, life: &Life, stream: Arc<ControlStream>, now: u64) -> u16 {
        // First: without it, all that the stream before vouched for would be dead for a moment.
        self.await_announcements(life, now);
        let stamp = life.stamp.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        life.left.store(false, Ordering::Release);
        if let Some(before) = life.control.swap(Some(stream)) {
            before.cut();
        }
        life.tell_sweep(now);
        stamp
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

    /// A session was told of again: more may come.
    pub(crate) fn await_announcements(&self, life: &Life, now: u64) {
        life.announced_until.fetch_max(now + 2 * self.lease_ms, Ordering::AcqRel);
    }

    /// Ends the lives whose leases are over and returns them; their streams are cut.
    pub(crate) fn expire(&self, now: u64) -> Vec<Arc<Life>> {
        let over = |life: &&Arc<Life>| !life.is_live(now);
        let ended: Vec<_> = self.lives.load().iter().flatten().filter(over).cloned().collect();
        for life in &ended {
            self.end(life);
        }
        ended
    }

    fn end(&self, life: &Life) {
        life.ended.store(true, Ordering::Release);
        life.cut();
        self.lives.rcu(|lives| {
            let mut lives = Vec::clone(lives);
            lives[life.no.0 as usize] = None;
            lives
        });
    }

    /// The lives at this moment.
    pub(crate) fn view(&self, now: u64) -> View {
        View { lives: self.lives.load(), now }
    }

    /// The lives at the moment when they are first asked for.
    pub(crate) fn late_view(&self, now: u64) -> LateView<'_> {
        LateView { nodes: self, now, view: OnceCell::new() }
    }

    /// Cuts all streams; the router is stopping.
    pub(crate) fn cut_all(&self) {
        self.lives.load().iter().flatten().for_each(|life| life.cut());
    }
}

impl Life {
    /// Whether the lease holds.
    pub(crate) fn is_live(&self, now: u64) -> bool {
        now < self.lease_until.load(Ordering::Acquire) && !self.ended.load(Ordering::Acquire)
    }

    fn renew(&self, now: u64, lease_ms: u64) {
        self.lease_until.fetch_max(now + lease_ms, Ordering::AcqRel);
    }

    /// The stream for kicks and questions, while there is one.
    pub(crate) fn control(&self) -> Option<Arc<ControlStream>> {
        self.control.load_full()
    }

    /// Whether the node can be heard just now.
    pub(crate) fn is_heard(&self) -> bool {
        self.control.load().is_some()
    }

    /// The stream for pushes, while there is one.
    pub(crate) fn deliver(&self) -> Option<Arc<DeliverStream>> {
        self.deliver.load_full()
    }

    /// A new stream for pushes takes the place of the one before.
    pub(crate) fn attach_deliver(&self, stream: Arc<DeliverStream>) {
        if let Some(before) = self.deliver.swap(Some(stream)) {
            before.cut();
        }
    }

    /// A control stream has ended. `said_goodbye`: the node ended it, so another boot may take its name
    /// at once; its sessions stay until the lease ends, for it may come back.
    pub(crate) fn detach_control(&self, stream: &Arc<ControlStream>, said_goodbye: bool) {
        let before = self.control.compare_and_swap(stream, None);
        if said_goodbye && before.as_ref().is_some_and(|before| Arc::ptr_eq(before, stream)) {
            self.left.store(true, Ordering::Release);
        }
    }

    /// A stream for pushes has ended.
    pub(crate) fn detach_deliver(&self, stream: &Arc<DeliverStream>) {
        self.deliver.compare_and_swap(stream, None);
    }

    /// A wake-up for this node was lost, or may have been: it is to ask for all inboxes and histories. Told
    /// at once, unless it was told just now; then within a second or two.
    pub(crate) fn want_sweep(&self, now: u64) {
        self.sweep_due.store(true, Ordering::SeqCst);
        self.tell_sweep(now);
    }

    fn tell_sweep(&self, now: u64) {
        let Some(stream) = self.control() else { return };
        let told = self.swept_at.load(Ordering::Acquire);
        if (told == 0 || now >= told + SWEEPS_APART_MS)
            && self.sweep_due.swap(false, Ordering::SeqCst)
        {
            self.swept_at.store(now.max(1), Ordering::Release);
            stream.tell(down::What::Sweep(SweepNow {}));
        }
    }

    fn cut(&self) {
        if let Some(stream) = self.control.swap(None) {
            stream.cut();
        }
        if let Some(stream) = self.deliver.swap(None) {
            stream.cut();
        }
    }

    /// One route of the app more, or one less.
    pub(crate) fn count(&self, app: &AppId, more: bool) {
        let mut routes = self.routes.lock();
        if more {
            *routes.entry(app.clone()).or_default() += 1;
        } else if let Some(count) = routes.get_mut(app.as_str()) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                routes.remove(app.as_str());
            }
        }
    }

    /// Routes of one app that lead here.
    pub(crate) fn routes_of(&self, app: &AppId) -> u64 {
        self.routes.lock().get(app.as_str()).copied().unwrap_or(0)
    }

    /// Routes that lead here.
    pub(crate) fn routes(&self) -> u64 {
        self.routes.lock().values().sum()
    }
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
    /// Whether the life has ended for good. False for one that is newer than this view.
    pub(crate) fn is_over(&self, no: LifeNo) -> bool {
        self.lives.get(no.0 as usize).is_some_and(Option::is_none)
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
        self.lives.get(no.0 as usize)?.as_ref().filter(|life| life.is_live(self.now))
    }

    /// All lives whose leases hold.
    pub(crate) fn lives(&self) -> impl Iterator<Item = &Arc<Life>> {
        self.lives.iter().flatten().filter(|life| life.is_live(self.now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::id::SlotRef;

    const LEASE: Duration = Duration::from_secs(10);

    fn name() -> NodeId {
        NodeId::new("node-1").unwrap()
    }

    fn at(life: &Life, stamp: u16) -> Owner {
        Owner { life: life.no, stamp, at: SlotRef { slot: 1, generation: 1 } }
    }

    #[test]
    fn another_boot_waits_for_the_lease_and_ends_the_life_before_it() {
        let nodes = Nodes::new(LEASE);
        let first = nodes.admit(&name(), BootId(1), 0).unwrap();
        assert_eq!(nodes.admit(&name(), BootId(2), 9_999).err(), Some(Held));
        assert!(nodes.renew(&first, 9_999));
        assert_eq!(nodes.admit(&name(), BootId(2), 19_998).err(), Some(Held));
        let second = nodes.admit(&name(), BootId(2), 19_999).unwrap();
        assert_ne!(first.no, second.no);
        assert!(nodes.view(19_999).life(first.no).is_none());
        assert!(!nodes.renew(&first, 19_999), "the dead do not come back");
    }

    #[test]
    fn one_boot_keeps_its_life_over_many_streams() {
        let nodes = Nodes::new(LEASE);
        let first = nodes.admit(&name(), BootId(1), 0).unwrap();
        let again = nodes.admit(&name(), BootId(1), 5_000).unwrap();
        assert_eq!(first.no, again.no);
        assert!(again.is_live(14_999), "a hello renews");
        let later = nodes.admit(&name(), BootId(1), 15_000).unwrap();
        assert_ne!(first.no, later.no, "the lease had ended: its routes are dead");
    }

    #[test]
    fn routes_not_told_of_again_die_after_a_while() {
        let nodes = Nodes::new(LEASE);
        let life = nodes.admit(&name(), BootId(1), 0).unwrap();
        let stamp = nodes.attach_control(&life, ControlStream::loose(), 0);
        let stamp_now = nodes.attach_control(&life, ControlStream::loose(), 1_000);
        for heard in [8_000, 16_000] {
            assert!(nodes.renew(&life, heard));
        }
        assert!(nodes.view(20_999).owner(&at(&life, stamp)).is_some());
        nodes.await_announcements(&life, 2_000);
        assert!(nodes.view(21_999).owner(&at(&life, stamp)).is_some(), "others come in");
        assert!(nodes.view(22_000).owner(&at(&life, stamp)).is_none());
        assert!(nodes.view(22_000).owner(&at(&life, stamp_now)).is_some());
    }

    #[test]
    fn who_said_goodbye_makes_room_for_its_next_boot() {
        let nodes = Nodes::new(LEASE);
        let life = nodes.admit(&name(), BootId(1), 0).unwrap();
        let stream = ControlStream::loose();
        nodes.attach_control(&life, stream.clone(), 0);
        life.detach_control(&stream, true);
        assert!(life.is_live(1) && !life.is_heard());
        assert!(nodes.admit(&name(), BootId(2), 1).is_ok());
        assert!(!life.is_live(1));
    }

    #[test]
    fn a_late_view_knows_who_came_before_its_first_use() {
        let nodes = Nodes::new(LEASE);
        let (early, late) = (nodes.view(0), nodes.late_view(0));
        let life = nodes.admit(&name(), BootId(1), 0).unwrap();
        let stamp = nodes.attach_control(&life, ControlStream::loose(), 0);
        assert!(early.owner(&at(&life, stamp)).is_none());
        assert!(late.is_live(&at(&life, stamp)));
        assert!(!early.is_over(life.no), "it cannot know");
        nodes.expire(10_000);
        assert!(nodes.view(10_000).is_over(life.no));
    }

    #[test]
    fn expired_lives_are_found_once() {
        let nodes = Nodes::new(LEASE);
        nodes.admit(&name(), BootId(1), 0).unwrap();
        assert!(nodes.expire(9_999).is_empty());
        assert_eq!(nodes.expire(10_000).len(), 1);
        assert!(nodes.expire(10_000).is_empty());
    }
}
