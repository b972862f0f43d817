//! Connection events: businesses that asked for it hear of devices that come and go.
//!
//! What is due is the difference between what a business has heard and what is true now
//! ([`crate::inbox::rules::events_due`]), so that nothing is queued: the store only marks devices that have to
//! be looked at. The marks lie in shards, and each shard is a duty of one router at a time. Its holder reads the
//! marks ([`shard`]), looks at the devices, keeps a line for each business ([`spool`], [`line`]), calls it
//! ([`calls`], [`receiver`]) and tells the store what was heard. All of that is found again by whoever takes the duty over.

mod calls;
mod line;
mod receiver;
mod shard;
mod spool;

use crate::core::Core;
use crate::functions::Functions;
use crate::key::Key;
use crate::store::{EVENT_SHARDS, event_shard};
use hawser_chassis::callback::Callbacks;
use parking_lot::Mutex;
use receiver::Receivers;
use spool::Whom;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use tracing::{info, warn};

/// What the shards of one router share.
pub(crate) struct Events {
    shards: Vec<Shown>,
    receivers: Receivers,
    /// Businesses that are late, and in which shards.
    late: Mutex<HashMap<Whom, u64>>,
}

/// One shard, as seen from outside.
#[derive(Default)]
struct Shown {
    wake: Notify,
    waiting: AtomicU64,
    /// When the oldest that waits was marked, in microseconds; 0: none waits.
    oldest: AtomicU64,
}

impl Events {
    pub(crate) fn new(callbacks: Callbacks) -> Self {
        Self {
            shards: (0..EVENT_SHARDS).map(|_| Shown::default()).collect(),
            receivers: Receivers::new(callbacks),
            late: Mutex::default(),
        }
    }

    /// Something was done to this device that a business may have to hear of.
    pub(crate) fn wake(&self, device: &Key) {
        self.shards[usize::from(event_shard(device.as_bytes()))].wake.notify_one();
    }

    fn shard(&self, shard: u16) -> &Shown {
        &self.shards[usize::from(shard)]
    }

    /// Shows how one shard stands, and with it all.
    fn show(&self, core: &Core, shard: u16, waiting: u64, oldest: u64) {
        self.shard(shard).waiting.store(waiting, Ordering::Relaxed);
        self.shard(shard).oldest.store(oldest, Ordering::Relaxed);
        let waiting: u64 = self.shards.iter().map(|it| it.waiting.load(Ordering::Relaxed)).sum();
        let oldest = self.shards.iter().map(|it| it.oldest.load(Ordering::Relaxed));
        let oldest_ms = oldest.filter(|&at| at > 0).min().map(|at| at / 1_000);
        let age_ms = oldest_ms.map_or(0, |at_ms| core.clock.now_ms().saturating_sub(at_ms));
        core.metrics.events.waiting.set(waiting.cast_signed());
        core.metrics.events.oldest_seconds.set((age_ms / 1_000).cast_signed());
    }

    /// Says once when a business is late, and when it no longer is.
    fn tell_late(&self, whom: &Whom, shard: u16, is_late: bool) {
        let mut late = self.late.lock();
        let before = late.get(whom).copied().unwrap_or(0);
        let bit = 1 << shard;
        let after = if is_late { before | bit } else { before & !bit };
        if after == 0 {
            late.remove(whom);
        } else {
            late.insert(whom.clone(), after);
        }
        drop(late);
        let (app, business) = whom;
        if before == 0 && after != 0 {
            warn!(%app, business = business.0, "a business is more than 30 s behind with connection events");
        } else if before != 0 && after == 0 {
            info!(%app, business = business.0, "a business has caught up with connection events");
        }
    }
}

/// Starts the shards, if this router does inboxes and events at all.
pub(crate) fn start(core: &Arc<Core>) {
    if core.functions.contains(Functions::INBOX) {
        for shard in 0..EVENT_SHARDS {
            core.tasks.spawn("connection events", shard::run(core.clone(), shard));
        }
    }
}
