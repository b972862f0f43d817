//! Sessions whose nodes have died: ended in the store, so that businesses hear of it and pushes find no owner.
//!
//! One router of all does it, the holder of a duty. A boot is dead when the store shows no lease of it, and did
//! not at the look before either: a lease that was taken back by mistake is renewed by then. A device's
//! session is compared before it is ended, so that one that has moved on stays. Of nodes that live see
//! [`crate::lost_ends`].

use crate::core::Core;
use crate::functions::Functions;
use crate::key::{self, Key};
use crate::nodes::leases::Standing;
use crate::reach::Call;
use crate::store::{KeyBytes, StoreError};
use futures_util::StreamExt as _;
use futures_util::stream;
use hawser_proto::id::{AppId, BootId, NodeId};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

const DUTY: &str = "lost-sessions";
/// Sessions read, and ended, together.
const BATCH: usize = 256;
const TOGETHER: usize = 16;
/// Between two batches: some 5,000 sessions a second, so that the store has time for those that live.
const BATCHES_APART: Duration = Duration::from_millis(50);

/// A boot of a node.
type Boot = (NodeId, BootId);

/// One of them whose sessions are being ended.
struct Lost {
    boot: Boot,
    /// The devices that were looked at last.
    seen: Vec<KeyBytes>,
    ended: u64,
}

impl Lost {
    fn of(boot: Boot) -> Self {
        Self { boot, seen: Vec::new(), ended: 0 }
    }

    fn tell(&self, began: Instant) {
        let (node, boot) = &self.boot;
        if self.ended > 0 {
            let (ended, took) = (self.ended, began.elapsed());
            info!(%node, %boot, ended, ?took, "sessions of a dead node ended");
        }
    }
}

/// Ends them until told to stop.
pub(crate) async fn run(core: Arc<Core>) {
    if !core.functions.contains(Functions::INBOX) {
        return;
    }
    let mut tick = tokio::time::interval((core.node_lease / 3).max(Duration::from_millis(10)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = core.tasks.stop_signal();
    let mut suspects = HashSet::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return give_back(&core).await,
        }
        let looked = tokio::select! {
            looked = look(&core, &suspects) => looked,
            () = stop.cancelled() => return give_back(&core).await,
        };
        suspects = looked.unwrap_or_else(|source| {
            debug!(%source, "sessions of dead nodes cannot be looked for");
            HashSet::new()
        });
    }
}

/// Ends the sessions of those that were dead before and still are. Returns those that are dead now.
async fn look(core: &Arc<Core>, before: &HashSet<Boot>) -> Result<HashSet<Boot>, StoreError> {
    if !hold(core).await? {
        return Ok(HashSet::new());
    }
    let boots = core.reach.ask(Call::LostBoots, core.store.boots_with_sessions()).await?;
    let dead: HashSet<Boot> = boots.into_iter().filter(|boot| is_dead(core, boot)).collect();
    let both = dead.intersection(before).cloned();
    let mut left: VecDeque<Lost> = both.map(Lost::of).collect();
    let began = Instant::now();
    // Each has its turn. Not all of it at once: others may have died meanwhile.
    while began.elapsed() < core.node_lease
        && let Some(mut lost) = left.pop_front()
    {
        match end_some(core, &mut lost).await {
            Ok(true) => left.push_back(lost),
            Ok(false) => lost.tell(began),
            // What another part of the store has does not wait for this one.
            Err(source) => {
                let (node, boot) = &lost.boot;
                debug!(%source, %node, %boot, "not all sessions of a dead node can be ended yet");
                lost.tell(began);
            }
        }
        tokio::time::sleep(BATCHES_APART).await;
    }
    for lost in &left {
        lost.tell(began);
    }
    Ok(dead)
}

/// Takes the duty, or keeps it.
async fn hold(core: &Core) -> Result<bool, StoreError> {
    let ttl_ms = 3 * core.node_lease.as_millis() as u64;
    core.reach.ask(Call::HoldDuty, core.store.hold_duty(DUTY, core.boot, ttl_ms)).await
}

/// Another router need not wait until the duty of this one is over.
async fn give_back(core: &Core) {
    let _ = core.reach.ask(Call::HoldDuty, core.store.hold_duty(DUTY, core.boot, 1)).await;
}

fn is_dead(core: &Core, (node, boot): &Boot) -> bool {
    core.nodes.standing(node, *boot, core.clock.steady_ms()) == Standing::Dead
}

/// Ends some sessions of one boot. True: there may be more.
async fn end_some(core: &Arc<Core>, lost: &mut Lost) -> Result<bool, StoreError> {
    let boot = &lost.boot;
    // A walk may take long: the duty is kept, and the boot may have come back.
    if !is_dead(core, boot) || !hold(core).await? {
        return Ok(false);
    }
    let asked = core.store.sessions_of(&boot.0, boot.1, BATCH);
    let devices = core.reach.ask(Call::LostBoots, asked).await?;
    if devices.is_empty() {
        return Ok(false);
    }
    if devices == lost.seen {
        warn!(node = %boot.0, boot = %boot.1, "sessions of a dead node cannot be ended");
        return Ok(false);
    }
    let keys = devices.iter().filter_map(|bytes| device(bytes));
    let ends: Vec<_> = keys.map(|key| end(core.clone(), boot.clone(), key)).collect();
    let done: Vec<Result<bool, StoreError>> =
        stream::iter(ends).buffer_unordered(TOGETHER).collect().await;
    let (mut failed, mut is_progress) = (None, false);
    for one in done {
        match one {
            Ok(is_ended) => {
                is_progress = true;
                lost.ended += u64::from(is_ended);
                core.metrics.lost_sessions.inc_by(is_ended.into());
            }
            Err(source) => failed = Some(source),
        }
    }
    lost.seen = devices;
    match failed.filter(|_| !is_progress) {
        Some(source) => Err(source),
        None => Ok(true),
    }
}

async fn end(core: Arc<Core>, (node, boot): Boot, key: Key) -> Result<bool, StoreError> {
    let asked = core.store.end_lost(&key, &node, boot, core.clock.now_ms());
    core.reach.ask(Call::EndLost, asked).await
}

fn device(bytes: &[u8]) -> Option<Key> {
    let (app, id) = key::split(bytes)?;
    Key::device(&AppId::new(app).ok()?, id).ok()
}
