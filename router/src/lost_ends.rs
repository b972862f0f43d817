//! Ends of sessions that the store has not heard of, on nodes that live.
//!
//! A router that is killed, or ends while the store is away, takes those with it that it was about to tell
//! ([`crate::releases`]), and a failover of the store may lose some. The store then names a connection that is no
//! more. So each router walks over what is registered on the nodes that have told it of all their sessions, slowly
//! and in circles, one router at a time over each boot. What it knows nothing of is suspect, and is ended when it
//! is so still some rounds later.
//!
//! Never one that lives. A node tells of its sessions on its control stream, in their order; where a word
//! finds no room it begins the stream anew, and tells of all of them. A stream that brings nothing for a lease is cut,
//! and the node has told of nothing until the next one. So what was claimed some leases ago, and lives, is known
//! here while its node has told of all; a login that is still under way is younger: a node waits for an answer less
//! than a lease. Rounds are counted and not only time, so that a router which stood still reads first what nodes said
//! meanwhile. And the store compares connection and epoch in the step that ends the session. Should all of
//! that be wrong, the node is told to ask for everything, and hears that its session has to be announced.

use crate::core::Core;
use crate::functions::Functions;
use crate::inbox::{Owner, Session};
use crate::key::{self, Key};
use crate::nodes::Life;
use crate::reach::Call;
use crate::store::{KeyBytes, Registered, WalkMark};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use hawser_proto::id::{AppId, BootId, NodeId, SlotRef};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info};

/// Registered sessions read together, and the pause behind them: 2,560 a second in ten reads, so that a
/// million are compared in seven minutes and the store hardly feels it.
const PAGE: usize = 256;
const PAGES_APART: Duration = Duration::from_millis(100);
/// Suspects that are ended together, and the pause behind them, as of the sessions of dead nodes.
const BATCH: usize = 256;
const BATCHES_APART: Duration = Duration::from_millis(50);
/// Calls of the store at a time.
const TOGETHER: usize = 16;
/// Suspects that wait, some 250 bytes each. More than that are found in the next circle.
const SUSPECTS_MAX: usize = 16_384;
/// A suspect is ended in the third round after the one in which it was found, each a lease long: one in which
/// a stream that brings nothing is cut, one for what a login may take, and one that may have passed while this
/// process stood still.
const ROUNDS: u64 = 3;
/// Leases between two circles. A boot is left alone for as long by all routers when it was walked over.
const LEASES_APART: u32 = 3;

/// Looks for them until told to stop.
pub(crate) async fn run(core: Arc<Core>) {
    if !core.functions.contains(Functions::INBOX) {
        return;
    }
    let stop = core.tasks.stop_signal();
    let mut circle = Circle::default();
    tokio::select! {
        () = circle.go(&core) => {}
        () = stop.cancelled() => circle.give_back(&core).await,
    }
}

/// The walk over all boots that are known here, and what it found.
#[derive(Default)]
struct Circle {
    /// Those that it has not been through.
    left: VecDeque<Arc<Life>>,
    /// Where it is in the first of them.
    mark: WalkMark,
    /// Since when that one is this router's to walk over.
    held_at: Option<Instant>,
    /// All that were this router's, to be given back.
    duties: HashSet<String>,
    suspects: Suspects,
}

impl Circle {
    async fn go(&mut self, core: &Arc<Core>) {
        let mut rounds = tokio::time::interval(core.node_lease.max(Duration::from_millis(10)));
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = Instant::now() + core.node_lease;
        loop {
            tokio::select! {
                _ = rounds.tick() => {
                    let due = self.suspects.next_round();
                    end_all(core, due).await;
                }
                () = tokio::time::sleep_until(next) => {
                    let pause = self.step(core).await;
                    next = Instant::now() + pause;
                }
            }
        }
    }

    /// One page. Returns the pause behind it.
    async fn step(&mut self, core: &Arc<Core>) -> Duration {
        if self.left.is_empty() {
            let view = core.nodes.view(core.clock.steady_ms());
            self.left = view.lives().filter(|life| life.has_told_all()).cloned().collect();
            self.duties.clear();
        }
        if let Some(life) = self.left.front().cloned() {
            if let Some(next) = self.page(core, &life).await {
                self.mark = next;
            } else {
                self.left.pop_front();
                (self.mark, self.held_at) = (WalkMark::default(), None);
            }
        }
        if self.left.is_empty() { LEASES_APART * core.node_lease } else { PAGES_APART }
    }

    /// Looks at some sessions of a boot. `None`: it is through, or the rest waits for the next circle.
    async fn page(&mut self, core: &Arc<Core>, life: &Life) -> Option<WalkMark> {
        if !life.has_told_all() || !self.hold(core, life).await {
            return None;
        }
        let asked = core.store.walk_sessions(&life.node, life.boot, &self.mark, PAGE);
        let (found, next) = core.reach.ask(Call::WalkSessions, asked).await.ok()?;
        let unknown = found.into_iter().filter_map(|it| {
            let key = device(&it.device)?;
            (!is_known(core, &key)).then_some((key, it))
        });
        let asked = unknown.map(|(key, it)| session_of(core, life, key, it));
        let asked: Vec<_> = asked.collect();
        let mut named = stream::iter(asked).buffer_unordered(TOGETHER);
        while let Some(named) = named.next().await {
            if let Some((key, session)) = named {
                self.suspects.note(key, session);
            }
        }
        next
    }

    /// Whether the boot is this router's to walk over.
    async fn hold(&mut self, core: &Core, life: &Life) -> bool {
        let now = Instant::now();
        if self.held_at.is_some_and(|at| now.duration_since(at) < core.node_lease) {
            return true;
        }
        let duty = format!("lost-ends:{}:{}", life.node, life.boot);
        let ttl_ms = (LEASES_APART * core.node_lease).as_millis() as u64;
        let held = core.store.hold_duty(&duty, core.boot, ttl_ms);
        let is_held = core.reach.ask(Call::HoldDuty, held).await.unwrap_or(false);
        self.held_at = is_held.then_some(now);
        if is_held {
            self.duties.insert(duty);
        }
        is_held
    }

    /// Another router need not wait until the duties of this one are over.
    async fn give_back(&mut self, core: &Core) {
        let freed = self.duties.drain().map(async |duty| {
            let freed = core.store.hold_duty(&duty, core.boot, 1);
            let _ = core.reach.ask(Call::HoldDuty, freed).await;
        });
        join_all(freed).await;
    }
}

/// Which session the store names where one is registered that nobody has told of here. One that is over, or on
/// another boot: the registration is to go, and is given an epoch that no session has. `None`: it cannot be asked.
async fn session_of(
    core: &Core,
    life: &Life,
    key: Key,
    registered: Registered,
) -> Option<(KeyBytes, Session)> {
    let asked = core.store.route(&key, core.clock.now_ms());
    let route = core.reach.ask(Call::Route, asked).await.ok()?;
    let is_there = |owner: &Owner| owner.node == life.node && owner.boot == life.boot;
    let named = route.and_then(|route| {
        let owner = route.owner.filter(is_there)?;
        Some(Session { owner, epoch: route.epoch })
    });
    let session = named.unwrap_or_else(|| {
        let owner = Owner { node: life.node.clone(), boot: life.boot, at: registered.at };
        Session { owner, epoch: 0 }
    });
    Some((registered.device, session))
}

/// Ends those that nobody has told of still.
async fn end_all(core: &Arc<Core>, due: Vec<(KeyBytes, Session)>) {
    let mut ended = HashMap::<(NodeId, BootId), Vec<SlotRef>>::new();
    for batch in due.chunks(BATCH) {
        let batch: Vec<_> =
            batch.iter().map(|(device, session)| end(core, device, session)).collect();
        let mut done = stream::iter(batch).buffer_unordered(TOGETHER);
        while let Some(of) = done.next().await {
            if let Some(Owner { node, boot, at }) = of {
                ended.entry((node, boot)).or_default().push(at);
            }
        }
        tokio::time::sleep(BATCHES_APART).await;
    }
    let now = core.clock.steady_ms();
    for ((node, boot), ended) in ended {
        info!(%node, %boot, ended = ended.len(), "sessions ended that their node has no more");
        if let Some(life) = core.nodes.find(&node, boot, now) {
            for at in ended {
                life.want_sweep_of(at, now);
            }
        }
    }
}

/// Ends one. Returns where it was, if it was there.
async fn end(core: &Core, device: &[u8], session: &Session) -> Option<Owner> {
    let key = self::device(device)?;
    let Owner { node, boot, .. } = &session.owner;
    let life = core.nodes.find(node, *boot, core.clock.steady_ms())?;
    if !life.has_told_all() || is_known(core, &key) {
        return None;
    }
    let asked = core.store.end_gone(&key, session, core.clock.now_ms());
    match core.reach.ask(Call::EndGone, asked).await {
        Ok(true) => {
            core.metrics.lost_ends.inc();
            core.events.wake(&key);
            Some(session.owner.clone())
        }
        Ok(false) => None,
        Err(source) => {
            debug!(%source, "a session that its node has no more cannot be ended yet");
            None
        }
    }
}

/// Whether somebody has told of a session of this device, wherever it is.
fn is_known(core: &Core, key: &Key) -> bool {
    core.table.look(key, |_, _| ()).is_some()
}

fn device(bytes: &[u8]) -> Option<Key> {
    let (app, id) = key::split(bytes)?;
    Key::device(&AppId::new(app).ok()?, id).ok()
}

/// Sessions that the store names and nobody has told of here, by device, with the round in which each was found.
#[derive(Default)]
struct Suspects {
    round: u64,
    found: HashMap<KeyBytes, (Session, u64)>,
}

impl Suspects {
    /// It was found (again). Another session of the device than before is as good as new.
    fn note(&mut self, device: KeyBytes, session: Session) {
        let is_full = self.found.len() >= SUSPECTS_MAX;
        match self.found.get_mut(&device) {
            Some((known, _)) if *known == session => {}
            Some(known) => *known = (session, self.round),
            None if is_full => {}
            None => {
                self.found.insert(device, (session, self.round));
            }
        }
    }

    /// A round is over: those that were found long enough ago.
    fn next_round(&mut self) -> Vec<(KeyBytes, Session)> {
        self.round += 1;
        let (found, round) = (&mut self.found, self.round);
        let due = found.extract_if(|_, (_, since)| round - *since >= ROUNDS);
        due.map(|(device, (session, _))| (device, session)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::id::SlotRef;

    fn session(slot: u32, epoch: u64) -> Session {
        let at = SlotRef { slot, generation: 1 };
        let owner = Owner { node: NodeId::new("node-1").unwrap(), boot: BootId(1), at };
        Session { owner, epoch }
    }

    fn name(device: &str) -> KeyBytes {
        device.as_bytes().into()
    }

    #[test]
    fn a_suspect_is_due_in_the_third_round_after_it_was_found() {
        let mut suspects = Suspects::default();
        suspects.note(name("a"), session(1, 7));
        assert_eq!(suspects.next_round(), []);
        // Found again by the next walk: it waits no longer for that.
        suspects.note(name("a"), session(1, 7));
        suspects.note(name("b"), session(2, 7));
        assert_eq!(suspects.next_round(), []);
        assert_eq!(suspects.next_round(), [(name("a"), session(1, 7))]);
        assert_eq!(suspects.next_round(), [(name("b"), session(2, 7))]);
        assert_eq!(suspects.next_round(), []);
    }

    #[test]
    fn another_session_of_the_device_waits_from_the_start() {
        let mut suspects = Suspects::default();
        suspects.note(name("a"), session(1, 7));
        assert_eq!((suspects.next_round(), suspects.next_round()), (vec![], vec![]));
        suspects.note(name("a"), session(1, 8));
        assert_eq!((suspects.next_round(), suspects.next_round()), (vec![], vec![]));
        assert_eq!(suspects.next_round(), [(name("a"), session(1, 8))]);
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut suspects = Suspects::default();
        for n in 0..=SUSPECTS_MAX {
            suspects.note(name(&n.to_string()), session(1, 7));
        }
        assert_eq!(suspects.found.len(), SUSPECTS_MAX);
        // What is known changes in place.
        suspects.note(name("0"), session(2, 7));
        assert_eq!(suspects.found[&name("0")].0, session(2, 7));
        suspects.next_round();
        suspects.next_round();
        assert_eq!(suspects.next_round().len(), SUSPECTS_MAX);
        assert_eq!(suspects.found.len(), 0);
    }
}
