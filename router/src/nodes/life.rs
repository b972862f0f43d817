//! One boot of one node: its lease, its streams, how many routes lead there.

use super::leases::Leases;
use crate::node::control::ControlStream;
use crate::node::deliver::DeliverStream;
use crate::table::LifeNo;
use arc_swap::ArcSwapOption;
use hawser_proto::id::{AppId, BootId, NodeId, SlotRef};
use hawser_proto::rpc::node::{SessionSlot, SweepNow, down};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

/// One boot of one node.
pub(crate) struct Life {
    /// Its number, in routes and groups.
    pub(crate) no: LifeNo,
    /// The node's name.
    pub(crate) node: NodeId,
    /// Which of its process starts.
    pub(crate) boot: BootId,
    /// Its lease holds at least until then: it was heard, or the store said so.
    pub(super) lease_until: AtomicU64,
    /// A lease after it was heard last.
    pub(super) heard_until: AtomicU64,
    /// What `heard_until` was when its lease was renewed in the store last, and when that was.
    pub(super) renewed_until: AtomicU64,
    pub(super) renewed_at: AtomicU64,
    pub(super) ended: AtomicBool,
    pub(super) left: AtomicBool,
    pub(super) stamp: AtomicU16,
    pub(super) announced_until: AtomicU64,
    /// It tells every router of all its sessions, and has done so on the control stream of now.
    pub(super) tells_all: AtomicBool,
    pub(super) told_all: AtomicBool,
    pub(super) leases: Arc<Leases>,
    pub(super) control: ArcSwapOption<ControlStream>,
    pub(super) deliver: ArcSwapOption<DeliverStream>,
    pub(super) routes: Mutex<HashMap<AppId, u64>>,
    /// What the node is to be told to ask for, and when it was told last.
    pub(super) sweep_due: Mutex<SweepDue>,
    pub(super) swept_at: AtomicU64,
}

/// What a node is to ask for, because it may not have been told.
#[derive(Default)]
pub(super) enum SweepDue {
    #[default]
    Nothing,
    /// The inboxes of these sessions.
    Of(HashSet<SlotRef>),
    /// All inboxes and histories.
    All,
}

/// A node is told to sweep no oftener than this; one sweep makes good all that was lost before it.
const SWEEPS_APART_MS: u64 = 1_000;
/// Sessions that it is told to ask for by name; of more it is told to ask for all. They take 12 KiB.
const NAMED_MAX: usize = 1_024;

impl Life {
    /// Whether the lease holds. One that nobody heard of for so long has ended only once the store has said
    /// that no other router did.
    pub(crate) fn is_live(&self, now: u64) -> bool {
        let until = self.lease_until.load(Ordering::Acquire);
        (now < until || self.leases.looked_at() < until) && !self.ended.load(Ordering::Acquire)
    }

    pub(super) fn hear(&self, now: u64, lease_ms: u64) {
        self.lease_until.fetch_max(now + lease_ms, Ordering::AcqRel);
        self.heard_until.fetch_max(now + lease_ms, Ordering::AcqRel);
    }

    /// The store has renewed the lease until then.
    pub(crate) fn renewed(&self, until: u64, now: u64) {
        self.renewed_until.fetch_max(until, Ordering::AcqRel);
        self.renewed_at.fetch_max(now, Ordering::AcqRel);
    }

    /// Whether the store need not be asked for the lease again.
    pub(crate) fn is_just_renewed(&self, lease: Duration, now: u64) -> bool {
        let third = lease.as_millis() as u64 / 3;
        now < self.renewed_at.load(Ordering::Acquire).saturating_add(third)
            && self.renewed_until.load(Ordering::Acquire) > 0
    }

    /// The node has said goodbye.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Whether it has told of all its sessions on the stream of now.
    pub(crate) fn has_told_all(&self) -> bool {
        self.told_all.load(Ordering::Acquire) && self.is_heard()
    }

    /// The stream for kicks and questions, while there is one.
    pub(crate) fn control(&self) -> Option<Arc<ControlStream>> {
        self.control.load_full()
    }

    /// Whether it tells every router of all its sessions, and so is of a release that also hears what epoch a
    /// session of its own has got.
    pub(crate) fn tells_all(&self) -> bool {
        self.tells_all.load(Ordering::Acquire)
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

    /// A stream for pushes has ended.
    pub(crate) fn detach_deliver(&self, stream: &Arc<DeliverStream>) {
        self.deliver.compare_and_swap(stream, None);
    }

    /// A wake-up for this node was lost, or may have been: it is to ask for all inboxes and histories. Told
    /// at once, unless it was told just now; then within a second or two.
    pub(crate) fn want_sweep(&self, now: u64) {
        *self.sweep_due.lock() = SweepDue::All;
        self.tell_sweep(now);
    }

    /// The same of one session: where each of many is in doubt, asking for all of them would be far more.
    pub(crate) fn want_sweep_of(&self, at: SlotRef, now: u64) {
        {
            let mut due = self.sweep_due.lock();
            match &mut *due {
                SweepDue::Nothing => *due = SweepDue::Of(HashSet::from([at])),
                SweepDue::Of(named) if named.len() < NAMED_MAX || named.contains(&at) => {
                    named.insert(at);
                }
                SweepDue::Of(_) => *due = SweepDue::All,
                SweepDue::All => {}
            }
        }
        self.tell_sweep(now);
    }

    pub(super) fn tell_sweep(&self, now: u64) {
        let Some(stream) = self.control() else { return };
        let told = self.swept_at.load(Ordering::Acquire);
        if told != 0 && now < told + SWEEPS_APART_MS {
            return;
        }
        let sessions = match std::mem::take(&mut *self.sweep_due.lock()) {
            SweepDue::Nothing => return,
            SweepDue::Of(named) => named
                .iter()
                .map(|at| SessionSlot { slot: at.slot, generation: at.generation })
                .collect(),
            SweepDue::All => Vec::new(),
        };
        self.swept_at.store(now.max(1), Ordering::Release);
        stream.tell(down::What::Sweep(SweepNow { sessions }));
    }

    pub(super) fn cut(&self) {
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
