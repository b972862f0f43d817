//! Ends of sessions on their way to the store.
//!
//! The route is gone here at once; that the store knows may take longer. What it did not take waits in a
//! bounded queue and is tried again; when there is no room the oldest leaves, and what waits when the router
//! ends while the store is away is gone with it. Both are counted. The session then stays in the store as that of
//! a connection that is no more until [`crate::lost_ends`] finds it, the next login takes it over or its node ends:
//! businesses hear `offline` only then, and wake-ups are sent in vain.

use crate::core::Core;
use crate::inbox::Session;
use crate::key::Key;
use crate::reach::Call;
use crate::store::{Positions, StoreError};
use crate::turns::Place;
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tracing::{error, warn};

/// Ends that may wait: some 300 bytes each. A node full of devices that loses its uplink while the store is
/// away fits in.
const WAITING_MAX: usize = 65_536;
/// Ends that are told at the same time as they happen; more wait.
const TOLD_AT_ONCE_MAX: usize = 256;
/// Ends of the queue that are told together.
const TOGETHER: usize = 32;
/// Until the next try, doubled up to the second.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The end of one session.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) key: Key,
    pub(crate) session: Session,
    /// How far each inbox was written to its link.
    pub(crate) sent: Positions,
    /// A business may have to hear of it.
    pub(crate) is_watched: bool,
}

/// All that wait.
pub(crate) struct Releases {
    waiting: Mutex<VecDeque<Release>>,
    wake: Notify,
    at_once: Arc<Semaphore>,
}

impl Default for Releases {
    fn default() -> Self {
        let at_once = Arc::new(Semaphore::new(TOLD_AT_ONCE_MAX));
        Self { waiting: Mutex::default(), wake: Notify::new(), at_once }
    }
}

impl Releases {
    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Lets one wait. Returns how many left for it.
    fn push(&self, release: Release) -> u64 {
        let mut waiting = self.waiting.lock();
        waiting.push_back(release);
        let dropped = waiting.len().saturating_sub(WAITING_MAX);
        waiting.drain(..dropped);
        drop(waiting);
        self.wake.notify_one();
        dropped as u64
    }

    fn pop(&self, max: usize) -> Vec<Release> {
        let mut waiting = self.waiting.lock();
        let count = waiting.len().min(max);
        waiting.drain(..count).collect()
    }

    /// Puts those back that were not taken, in front, as far as there is room.
    fn put_back(&self, releases: Vec<Release>) -> u64 {
        let mut waiting = self.waiting.lock();
        let mut dropped = 0;
        for release in releases.into_iter().rev() {
            if waiting.len() < WAITING_MAX {
                waiting.push_front(release);
            } else {
                dropped += 1;
            }
        }
        dropped
    }
}

/// Tells the store of the end of a session, now if there is room, and until it has heard. Never waits.
/// `place`: in the order of what else is known of the device.
pub(crate) fn release(core: &Arc<Core>, release: Release, place: Option<Place>) {
    let Ok(permit) = core.releases.at_once.clone().try_acquire_owned() else {
        core.metrics.releases_dropped.inc_by(core.releases.push(release));
        return;
    };
    let of = core.clone();
    core.tasks.spawn_light(async move {
        let _permit = permit;
        let _turn = match place {
            Some(place) => {
                // Not for ever: it compares what it ends, so that it may come late.
                tokio::time::timeout(of.reach.timeout(), place.turn()).await.ok()
            }
            None => None,
        };
        if !tell(&of, &release).await {
            of.metrics.releases_dropped.inc_by(of.releases.push(release));
        }
    });
}

/// True: the store has heard, or will never understand.
async fn tell(core: &Core, release: &Release) -> bool {
    let (session, sent) = (release.session.clone(), release.sent.clone());
    let asked =
        core.store.release(&release.key, session, sent, release.is_watched, core.clock.now_ms());
    match core.reach.ask(Call::Release, asked).await {
        Ok(_) => {
            if release.is_watched {
                core.events.wake(&release.key);
            }
            true
        }
        Err(source @ StoreError::Value) => {
            warn!(%source, "the end of a session was not stored");
            true
        }
        Err(_) => false,
    }
}

/// Tells the store of what waits, until told to stop; then once more of all that is left.
pub(crate) async fn run(core: Arc<Core>) {
    let stop = core.tasks.stop_signal();
    let mut pause = RETRY_MIN;
    loop {
        let some = core.releases.pop(TOGETHER);
        if some.is_empty() {
            tokio::select! {
                () = core.releases.wake.notified() => continue,
                () = stop.cancelled() => {}
            }
            // What was told of while the last of it was looked at.
            while tell_some(&core).await == Some(true) {}
            return leave(&core);
        }
        if tell_all(&core, some).await {
            pause = RETRY_MIN;
            continue;
        }
        if stop.is_cancelled() {
            return leave(&core);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// What the store has not taken by the end is lost.
fn leave(core: &Core) {
    let lost = core.releases.waiting();
    if lost > 0 {
        core.metrics.releases_dropped.inc_by(lost as u64);
        error!(
            lost,
            "ends of sessions were not stored: these devices count as online until another router finds them"
        );
    }
}

/// `None`: nothing waits. False: the store did not take them.
async fn tell_some(core: &Core) -> Option<bool> {
    let some = core.releases.pop(TOGETHER);
    if some.is_empty() { None } else { Some(tell_all(core, some).await) }
}

async fn tell_all(core: &Core, some: Vec<Release>) -> bool {
    let told = join_all(some.iter().map(|release| tell(core, release))).await;
    let failed: Vec<_> =
        some.into_iter().zip(told).filter(|(_, told)| !told).map(|(release, _)| release).collect();
    let all = failed.is_empty();
    core.metrics.releases_dropped.inc_by(core.releases.put_back(failed));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::Owner;
    use hawser_proto::id::{AppId, BootId, NodeId, SlotRef};

    fn release(epoch: u64) -> Release {
        let owner = Owner {
            node: NodeId::new("node-1").unwrap(),
            boot: BootId(1),
            at: SlotRef { slot: 1, generation: 1 },
        };
        let key = Key::device(&AppId::new("demo").unwrap(), "d").unwrap();
        Release { key, session: Session { owner, epoch }, sent: Vec::new(), is_watched: false }
    }

    #[test]
    fn the_oldest_leave_when_there_is_no_room() {
        let waiting = Releases::default();
        let dropped: u64 =
            (0..WAITING_MAX as u64 + 3).map(|epoch| waiting.push(release(epoch))).sum();
        assert_eq!((dropped, waiting.waiting()), (3, WAITING_MAX));
        let first = waiting.pop(2);
        assert_eq!(first[0].session.epoch, 3);
        waiting.push(release(0));
        assert_eq!(waiting.put_back(first), 1, "room for one");
        assert_eq!(waiting.pop(1)[0].session.epoch, 4);
    }
}
