//! The slot array: where connections live, and the one place that writes to them.
//!
//! One rule for every writer, be it a lane, an answer or a pong: enter the slot's short lock, compare
//! identity, write, or append if the outbox is not empty. The connection's task drains the outbox
//! under the same lock, and freeing the slot takes it too. So a push that was meant for another
//! connection, another life of the slot or another process never passes.

use crate::clock::{Jump, WallClock};
use crate::config::Guards;
use crate::fanout::Fanout;
use crate::frame_out::{Form, FrameOut, close_message};
use crate::metrics::{Metrics, StaleReason};
use crate::outbox::{Keep, SlowPolicy};
use bytes::Bytes;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::NodeFrame;
use hawser_proto::id::{BootId, SlotRef};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::error;

mod at_once;
mod connection;

pub(crate) use at_once::GATHER_MAX;
pub use connection::Signal;
pub(crate) use connection::{ClientFacts, Connection, Identity, Rights, Told, Written};

/// What the machine's clock says, in milliseconds since 1970.
fn machine_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Slots allocated together.
const CHUNK: usize = 1024;

/// Connections to look at, and when, in wheel time (ms).
pub(crate) type Watched = Vec<(SlotRef, u64)>;

/// One of them, taken or not. What it costs is counted in `idle`.
#[derive(Default)]
struct Slot {
    state: Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    /// Odd while taken.
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// Whom a push or an order names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) boot: u64,
    pub(crate) at: SlotRef,
    pub(crate) app: &'a str,
    pub(crate) device: &'a str,
    pub(crate) epoch: u64,
}

/// What woke a connection's task.
#[derive(Debug)]
pub(crate) enum Wake {
    /// This many bytes were read.
    Bytes(usize),
    /// Someone wants it to end.
    Signal(Signal),
    /// The link has room again, or a pause is over, and stored pushes wait for that.
    Downlink,
    /// The peer ended its side, or the link broke.
    Ended,
}

/// What the wheel should do with a connection it looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Look again at this wheel time (ms).
    Again(u64),
    /// The connection has gone, or was just told to end.
    Forget,
}

/// All slots of one node.
pub(crate) struct Table {
    pub(crate) boot: BootId,
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    free: Mutex<Free>,
    slots_max: u32,
    guards: Guards,
    metrics: Arc<Metrics>,
    /// Per lane: connections whose deadlines its wheel should look at (new, or with an outbox that began
    /// to fill).
    watched: Box<[Mutex<Watched>]>,
    started: Instant,
    /// Milliseconds since `started`, set by the lanes: no clock is read per packet. 64 bits: a node that
    /// is up for 50 days must not lose its deadlines.
    now_ms: AtomicU64,
    wall: WallClock,
    write_timeout_ms: u64,
}

#[derive(Default)]
struct Free {
    /// Freed slots, the last first: few slots stay hot.
    reusable: Vec<u32>,
    never_used: u32,
}

impl Table {
    pub(crate) fn new(
        boot: BootId,
        slots_max: u32,
        lanes: usize,
        guards: Guards,
        write_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let chunks = (slots_max as usize).div_ceil(CHUNK);
        let started = Instant::now();
        let table = Self {
            boot,
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            free: Mutex::default(),
            slots_max,
            guards,
            metrics,
            watched: (0..lanes).map(|_| Mutex::default()).collect(),
            started,
            now_ms: AtomicU64::new(0),
            wall: WallClock::new(machine_ms(), 0),
            write_timeout_ms: write_timeout.as_millis() as u64,
        };
        table.tick();
        table
    }

    /// Reads the clock for everyone; called by the lanes each wheel tick.
    pub(crate) fn tick(&self) -> u64 {
        let now_ms = self.started.elapsed().as_millis() as u64;
        self.now_ms.store(now_ms, Ordering::Relaxed);
        if let Some(Jump { by_ms, followed }) = self.wall.look(machine_ms(), now_ms) {
            error!(by_ms, followed, "the machine's clock has jumped");
        }
        now_ms
    }

    /// Wheel time, in ms: coarse, never goes back.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// Wheel time right now, for deadlines that start now.
    pub(crate) fn exact_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Milliseconds since 1970, coarse.
    pub(crate) fn wall_ms(&self) -> u64 {
        self.wall.at(self.now_ms())
    }

    /// Milliseconds since 1970, right now: for tokens.
    pub(crate) fn exact_wall_ms(&self) -> u64 {
        self.wall.at(self.exact_ms())
    }

    /// Control has told what time it is.
    pub(crate) fn heard_time(&self, control_ms: u64) {
        self.wall.heard(control_ms, self.exact_ms());
    }

    /// The lane a slot belongs to, for life.
    pub(crate) fn lane_of(&self, slot: u32) -> usize {
        slot as usize % self.watched.len()
    }

    fn slot(&self, slot: u32) -> Option<&Slot> {
        self.chunks.get(slot as usize / CHUNK)?.get()?.get(slot as usize % CHUNK)
    }

    /// Takes a slot. `None`: the node is full.
    pub(crate) fn insert(&self, connection: Connection) -> Option<SlotRef> {
        let slot = {
            let mut free = self.free.lock();
            match free.reusable.pop() {
                Some(slot) => slot,
                None if free.never_used < self.slots_max => {
                    free.never_used += 1;
                    free.never_used - 1
                }
                None => return None,
            }
        };
        let chunk = &self.chunks[slot as usize / CHUNK];
        let slots = chunk.get_or_init(|| (0..CHUNK).map(|_| Slot::default()).collect());
        let mut state = slots[slot as usize % CHUNK].state.lock();
        state.generation = state.generation.wrapping_add(1);
        let due_ms = connection.scheduled_ms;
        state.connection = Some(Box::new(connection));
        let at = SlotRef { slot, generation: state.generation };
        drop(state);
        self.watch(at, due_ms);
        Some(at)
    }

    /// Frees a slot, and returns what lived there. The lock is taken, so no writer is in the middle.
    pub(crate) fn remove(&self, at: SlotRef) -> Option<Box<Connection>> {
        let slot = self.slot(at.slot)?;
        let mut state = slot.state.lock();
        if state.generation != at.generation {
            return None;
        }
        let gone = state.connection.take()?;
        state.generation = state.generation.wrapping_add(1);
        drop(state);
        self.free.lock().reusable.push(at.slot);
        Some(gone)
    }

    /// Looks into a connection, under its lock. `None`: it has gone.
    pub(crate) fn with<R>(
        &self,
        at: SlotRef,
        look: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        let mut state = self.slot(at.slot)?.state.lock();
        if state.generation != at.generation {
            return None;
        }
        state.connection.as_deref_mut().map(look)
    }

    /// Writes a frame of the session itself: an answer, a pong, a word about a group.
    pub(crate) fn write(&self, at: SlotRef, frame: &NodeFrame) -> Written {
        let out = FrameOut::from(frame);
        let now_ms = self.now_ms();
        let written = self.with(at, |connection| {
            if !connection.takes(frame) {
                return Written::Gone;
            }
            connection.write(&out, Keep::Always, SlowPolicy::DropNewest, now_ms, &self.metrics)
        });
        self.watch_if_queued(at, written.unwrap_or(Written::Gone))
    }

    /// Writes a frame that others get too. Only for whoever knows that `at` is the right connection
    /// by its generation: its own task, its lane.
    pub(crate) fn write_shared(
        &self,
        at: SlotRef,
        frame: &FrameOut,
        keep: Keep,
        slow: SlowPolicy,
    ) -> Written {
        let now_ms = self.now_ms();
        let written =
            self.with(at, |connection| connection.write(frame, keep, slow, now_ms, &self.metrics));
        self.watch_if_queued(at, written.unwrap_or(Written::Gone))
    }

    /// Writes raw bytes of the transport's own framing (a WebSocket pong).
    pub(crate) fn write_raw(&self, at: SlotRef, bytes: &Bytes) -> Written {
        let now_ms = self.now_ms();
        let written = self.with(at, |connection| {
            if connection.is_closing {
                return Written::Gone;
            }
            connection.write_bytes(
                bytes,
                || bytes.clone(),
                Keep::Always,
                SlowPolicy::DropNewest,
                now_ms,
                &self.metrics,
            )
        });
        self.watch_if_queued(at, written.unwrap_or(Written::Gone))
    }

    fn watch_if_queued(&self, at: SlotRef, written: Written) -> Written {
        if written == Written::Queued {
            self.watch_queued(at);
        }
        written
    }

    /// Something waits in this connection's outbox: its lane looks whether it leaves.
    pub(crate) fn watch_queued(&self, at: SlotRef) {
        self.look_by(at, self.now_ms().saturating_add(self.write_timeout_ms));
    }

    /// Writes pushes of a live group to a member, in their order, and before each `missed` of how many it missed
    /// until then. Says of each, by its place among them, what came of it.
    pub(crate) fn write_group(
        &self,
        at: SlotRef,
        pushes: &[Arc<Fanout>],
        group: u32,
        missed: impl Fn(u64) -> FrameOut,
        mut came: impl FnMut(usize, Written),
    ) {
        let now_ms = self.now_ms();
        let mut is_queued = false;
        let entered = self.with(at, |connection| {
            let at_once = connection.write_at_once(pushes, group, now_ms, &self.metrics);
            for (n, push) in pushes.iter().enumerate() {
                let written = at_once.of(n).unwrap_or_else(|| {
                    let Fanout { frame, slow, .. } = &**push;
                    connection.write_group(frame, group, *slow, &missed, now_ms, &self.metrics)
                });
                is_queued |= written == Written::Queued;
                came(n, written);
            }
        });
        if entered.is_none() {
            (0..pushes.len()).for_each(|n| came(n, Written::Gone));
        }
        if is_queued {
            self.watch_queued(at);
        }
    }

    /// Writes a push of a history group to a live member. `Overflow`: it has to recover it.
    pub(crate) fn write_history(&self, at: SlotRef, frame: &FrameOut, slow: SlowPolicy) -> Written {
        let now_ms = self.now_ms();
        let written = self
            .with(at, |connection| connection.write_history(frame, slow, now_ms, &self.metrics));
        self.watch_if_queued(at, written.unwrap_or(Written::Gone))
    }

    /// Enters the slot that a push or an order names, if everything it names is still so. The reason
    /// of a refusal is counted.
    pub(crate) fn with_target<R>(
        &self,
        target: Target<'_>,
        enter: impl FnOnce(&mut Connection) -> R,
    ) -> Result<R, StaleReason> {
        let entered = self.enter_target(target, enter);
        if let Err(reason) = entered {
            self.metrics.stale(reason);
        }
        entered
    }

    fn enter_target<R>(
        &self,
        target: Target<'_>,
        enter: impl FnOnce(&mut Connection) -> R,
    ) -> Result<R, StaleReason> {
        if self.guards.boot && target.boot != self.boot.0 {
            return Err(StaleReason::Boot);
        }
        let Some(slot) = self.slot(target.at.slot) else { return Err(StaleReason::Free) };
        let mut state = slot.state.lock();
        if self.guards.generation && state.generation != target.at.generation {
            return Err(StaleReason::Generation);
        }
        let Some(connection) = state.connection.as_deref_mut() else {
            return Err(StaleReason::Free);
        };
        let Some(identity) = &connection.identity else { return Err(StaleReason::Free) };
        let is_same =
            identity.app.as_str() == target.app && identity.device.as_str() == target.device;
        if self.guards.identity && !is_same {
            return Err(StaleReason::Identity);
        }
        if self.guards.epoch && identity.epoch.0 != target.epoch {
            return Err(StaleReason::Epoch);
        }
        Ok(enter(connection))
    }

    /// Writes a push to the session it names, or refuses it as stale.
    pub(crate) fn push(
        &self,
        target: Target<'_>,
        frame: &FrameOut,
        slow: SlowPolicy,
    ) -> Result<Written, StaleReason> {
        let now_ms = self.now_ms();
        let written = self.with_target(target, |connection| {
            connection.write(frame, Keep::Droppable, slow, now_ms, &self.metrics)
        })?;
        Ok(self.watch_if_queued(target.at, written))
    }

    /// The whole LOGIN is there, so the deadline of the first frame no longer counts.
    pub(crate) fn extend_login(&self, at: SlotRef, login_by_ms: u64) {
        self.with(at, |connection| connection.deadline_ms = login_by_ms);
    }

    /// The login is done: LOGIN_OK leaves, then whatever is pushed. From now on silence is what ends
    /// the connection.
    pub(crate) fn admit(&self, at: SlotRef, answer: &NodeFrame, idle_timeout: Duration) {
        let frame = FrameOut::from(answer);
        let now_ms = self.exact_ms();
        let idle_ms = idle_timeout.as_millis() as u64;
        let written = self.with(at, |connection| {
            connection.heard_ms = now_ms;
            connection.deadline_ms = idle_ms;
            let written = connection.write(
                &frame,
                Keep::Always,
                SlowPolicy::DropNewest,
                now_ms,
                &self.metrics,
            );
            connection.is_admitted = true;
            written
        });
        self.watch_if_queued(at, written.unwrap_or(Written::Gone));
        self.look_by(at, now_ms.saturating_add(idle_ms));
    }

    /// Makes sure the deadlines are looked at by `due_ms`.
    pub(crate) fn look_by(&self, at: SlotRef, due_ms: u64) {
        if self.with(at, |connection| connection.schedule(due_ms)) == Some(true) {
            self.watch(at, due_ms);
        }
    }

    /// Asks the slot's lane to look at this connection's deadlines.
    fn watch(&self, at: SlotRef, due_ms: u64) {
        self.watched[self.lane_of(at.slot)].lock().push((at, due_ms));
    }

    /// Asks the slot's lane to look at this connection at once: its entry in the wheel is lost.
    pub(crate) fn watch_anew(&self, at: SlotRef) {
        let now_ms = self.now_ms();
        self.with(at, |connection| connection.scheduled_ms = now_ms);
        self.watch(at, now_ms);
    }

    /// Plans a look at `due_ms` for no later than `horizon_ms`, the latest time an entry of the wheel
    /// can stand for. Returns when it is.
    pub(crate) fn plan_within(&self, at: SlotRef, due_ms: u64, horizon_ms: u64) -> u64 {
        if due_ms > horizon_ms {
            self.with(at, |connection| connection.schedule(horizon_ms));
        }
        due_ms.min(horizon_ms)
    }

    /// Takes what [`Table::watch`] gathered for a lane: connections, and when to look at them.
    pub(crate) fn take_watched(&self, lane: usize) -> Watched {
        std::mem::take(&mut *self.watched[lane].lock())
    }

    /// Compares a connection's deadlines with the time, and tells it to end when one is over.
    /// `horizon_ms`: the latest time an entry of the wheel can stand for.
    pub(crate) fn check(&self, at: SlotRef, now_ms: u64, horizon_ms: u64) -> Check {
        let wall_ms = self.wall_ms();
        let checked = self.with(at, |connection| {
            // An entry that a sooner one has replaced; that one has planned the next.
            if connection.scheduled_ms > now_ms || connection.is_closing {
                return Check::Forget;
            }
            match connection.next_deadline(now_ms, wall_ms, self.write_timeout_ms) {
                Ok(mut next_ms) => {
                    if let Some(downlink) = &connection.downlink {
                        if downlink.wants_turn(now_ms) {
                            connection.waker.wake_by_ref();
                        } else if let Some(due_ms) = downlink.feeds.due_ms() {
                            next_ms = next_ms.min(due_ms);
                        }
                    }
                    connection.scheduled_ms = next_ms.min(horizon_ms);
                    Check::Again(connection.scheduled_ms)
                }
                Err(over) => {
                    connection.order(over);
                    Check::Forget
                }
            }
        });
        checked.unwrap_or(Check::Forget)
    }

    /// Waits for the next thing in a connection's life. Reads into `scratch`.
    pub(crate) fn poll_wake(
        &self,
        at: SlotRef,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Wake> {
        let now_ms = self.now_ms();
        let woken = self.with(at, |connection| {
            connection.wakes(cx);
            if let Some(signal) = connection.signal.take() {
                return Poll::Ready(Wake::Signal(*signal));
            }
            let is_drained = match connection.poll_drain(cx, now_ms) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => return Poll::Ready(Wake::Ended),
                Poll::Pending => false,
            };
            if connection.downlink.as_ref().is_some_and(|it| it.wants_turn(now_ms)) && is_drained {
                return Poll::Ready(Wake::Downlink);
            }
            match connection.link.poll_read(cx, scratch) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Wake::Ended),
                Poll::Ready(Ok(read)) => {
                    connection.heard_ms = now_ms;
                    Poll::Ready(Wake::Bytes(read))
                }
            }
        });
        woken.unwrap_or(Poll::Ready(Wake::Ended))
    }

    /// Writes the goodbye, a CLOSE with this code: nothing may follow it. Queued bytes leave first.
    pub(crate) fn begin_close(&self, at: SlotRef, code: CloseCode, goodbye: &NodeFrame) {
        let frame = FrameOut::from(goodbye);
        let now_ms = self.now_ms();
        self.with(at, |connection| {
            if connection.is_closing {
                return;
            }
            connection.write(&frame, Keep::Always, SlowPolicy::DropNewest, now_ms, &self.metrics);
            if connection.form == Form::WebSocket {
                let close = close_message(code.number());
                connection.write_bytes(
                    &close,
                    || close.clone(),
                    Keep::Always,
                    SlowPolicy::DropNewest,
                    now_ms,
                    &self.metrics,
                );
            }
            connection.is_closing = true;
            connection.signal = None;
        });
    }

    /// Gets the last bytes out, ends our side, and waits for the peer's end, so that the goodbye is
    /// not lost in a reset. Stops early when the peer keeps talking: `patience_bytes`.
    pub(crate) fn poll_linger(
        &self,
        at: SlotRef,
        cx: &mut Context<'_>,
        linger: &mut Linger,
        scratch: &mut [u8],
    ) -> Poll<()> {
        let now_ms = self.now_ms();
        let done = self.with(at, |connection| {
            connection.wakes(cx);
            if !linger.is_finished {
                match connection.poll_drain(cx, now_ms) {
                    Poll::Ready(Ok(())) => {
                        connection.link.finish();
                        linger.is_finished = true;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            loop {
                match connection.link.poll_read(cx, scratch) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(read)) => {
                        linger.patience_bytes = linger.patience_bytes.saturating_sub(read);
                        if linger.patience_bytes == 0 {
                            return Poll::Ready(());
                        }
                    }
                }
            }
        });
        done.unwrap_or(Poll::Ready(()))
    }

    /// The link is over.
    pub(crate) fn end_link(&self, at: SlotRef, code: u16) {
        self.with(at, |connection| connection.link.close(code));
    }

    /// Slots that were ever used: what a walk over all connections goes through.
    pub(crate) fn slots_used(&self) -> u32 {
        self.free.lock().never_used
    }

    /// Sessions there are; looks at every slot.
    pub(crate) fn sessions(&self) -> u64 {
        let is_session = |_, connection: &mut Connection| connection.identity.is_some();
        let slots = 0..self.slots_used();
        slots.filter(|&slot| self.visit(slot, is_session) == Some(true)).count() as u64
    }

    /// Looks into whatever connection lives in a slot now.
    pub(crate) fn visit<R>(
        &self,
        slot: u32,
        look: impl FnOnce(SlotRef, &mut Connection) -> R,
    ) -> Option<R> {
        let mut state = self.slot(slot)?.state.lock();
        let at = SlotRef { slot, generation: state.generation };
        state.connection.as_deref_mut().map(|connection| look(at, connection))
    }
}

/// State of a connection's end.
#[derive(Debug)]
pub(crate) struct Linger {
    is_finished: bool,
    patience_bytes: usize,
}

impl Linger {
    /// A peer that sends this much after our goodbye is not listening.
    pub(crate) fn new() -> Self {
        Self { is_finished: false, patience_bytes: 4 * 1024 * 1024 }
    }
}

#[cfg(test)]
mod idle;
#[cfg(test)]
mod tests;
