//! The deliver stream of one node: pushes and answers down, reports and questions up.
//!
//! A push waits here in a queue bounded in items and bytes; its caller waits in the pending map for the
//! report. When the stream ends, everybody who waits is told so at once. Wake-ups of stored pushes are
//! numbered in the order in which they leave; one that finds no room has used up its number, so that the
//! node sees what it missed. What nodes ask is answered by [`super::asks`].

use crate::answer::Waiter;
use crate::core::Core;
use crate::node::asks;
use crate::node::outgoing::{Gather, Outgoing};
use crate::nodes::Life;
use foldhash::fast::RandomState;
use hawser_proto::limits::NODE_ASKS_MAX;
use hawser_proto::rpc::node::{Answer, DeliverDown, DeliverUp, Delivery, DeliveryReport};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::{debug, info};

/// Deliveries that may wait for one node, and their bytes.
const DELIVERIES_WAITING_MAX: usize = 16_384;
const BYTES_WAITING_MAX: usize = 32 * 1024 * 1024;
/// Deliveries sent and not yet reported.
const PENDING_MAX: usize = 65_536;
/// Bytes that answers to one node may hold, in KiB: those that the store is asked for, and those that wait.
pub(crate) const ANSWERS_KIB_MAX: usize = 32 * 1024;
/// Refusals that may wait. A node that lets so much lie while it asks on is cut off; it asks again then.
const REFUSALS_MAX: usize = 4_096;
/// One message of the stream: as many items, or this many bytes once there is one.
const MESSAGE_ITEMS_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What tonic sends to the node.
pub(crate) type DeliverDownStream = Outgoing<GatherDeliveries>;

/// The way to one node on its deliver stream.
pub(crate) struct DeliverStream {
    down: mpsc::Sender<Item>,
    waiting: Arc<Waiting>,
    stop: CancellationToken,
    /// The node takes compressed bodies; those of a release before do not.
    pub(crate) takes_compressed: bool,
    pending: Mutex<Pending>,
    /// Places for questions, for the bytes of their answers, and for refusals.
    pub(crate) asks: Arc<Semaphore>,
    pub(crate) answer_kib: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

/// What waits for the node. An answer holds its places until it leaves.
pub(crate) enum Item {
    Delivery(Delivery),
    Answer(Answer, Vec<OwnedSemaphorePermit>),
}

/// Deliveries that wait, and their bytes.
#[derive(Default)]
struct Waiting {
    deliveries: AtomicUsize,
    bytes: AtomicUsize,
}

impl Waiting {
    /// Adds deliveries, unless that is too much. One larger batch is taken when nothing waits.
    fn add(&self, count: usize, bytes: usize) -> bool {
        let deliveries = self.deliveries.fetch_add(count, Ordering::Relaxed);
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = deliveries + count <= DELIVERIES_WAITING_MAX
            && (waiting == 0 || waiting + bytes <= BYTES_WAITING_MAX);
        if !fits {
            self.remove(count, bytes);
        }
        fits
    }

    fn remove(&self, count: usize, bytes: usize) {
        self.deliveries.fetch_sub(count, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Pending {
    next: u64,
    /// Number of the last wake-up.
    wake: u64,
    closed: bool,
    waiters: HashMap<u64, Waiter, RandomState>,
}

/// The queue is full, or the stream has ended. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// The node is slower than its senders.
    Full,
    /// It cannot be reached just now.
    Gone,
}

/// Deliveries whose reports somebody waits for. Dropped, they are waited for no more.
pub(crate) struct Sent {
    stream: Arc<DeliverStream>,
    ids: Range<u64>,
}

impl DeliverStream {
    fn new(stop: CancellationToken, takes_compressed: bool) -> (Arc<Self>, mpsc::Receiver<Item>) {
        let (down, queue) = mpsc::channel(DELIVERIES_WAITING_MAX + NODE_ASKS_MAX + REFUSALS_MAX);
        let places = |max| Arc::new(Semaphore::new(max));
        let stream = Self {
            down,
            waiting: Arc::default(),
            stop,
            takes_compressed,
            pending: Mutex::default(),
            asks: places(NODE_ASKS_MAX),
            answer_kib: places(ANSWERS_KIB_MAX),
            refusals: places(REFUSALS_MAX),
        };
        (Arc::new(stream), queue)
    }

    /// Ends the stream. What was sent and not reported is unknown now.
    pub(crate) fn cut(&self) {
        self.stop.cancel();
        let waiters = {
            let mut pending = self.pending.lock();
            pending.closed = true;
            std::mem::take(&mut pending.waiters)
        };
        waiters.into_values().for_each(Waiter::lost);
    }

    /// Queues deliveries, all or none, each with the one who waits for its report. Their order is kept.
    /// Never waits.
    pub(crate) fn send(
        self: &Arc<Self>,
        deliveries: Vec<(Delivery, Waiter)>,
    ) -> Result<Sent, NotSent> {
        let bytes: usize = deliveries.iter().map(|(delivery, _)| weight(delivery)).sum();
        let count = deliveries.len();
        if !self.waiting.add(count, bytes) {
            return Err(NotSent::Full);
        }
        let refuse = |why| {
            self.waiting.remove(count, bytes);
            Err(why)
        };
        let permits = match self.down.try_reserve_many(count) {
            Ok(permits) => permits,
            Err(mpsc::error::TrySendError::Full(())) => return refuse(NotSent::Full),
            Err(mpsc::error::TrySendError::Closed(())) => return refuse(NotSent::Gone),
        };
        let mut pending = self.pending.lock();
        if pending.closed {
            drop(pending);
            return refuse(NotSent::Gone);
        }
        if pending.waiters.len() + count > PENDING_MAX {
            drop(pending);
            return refuse(NotSent::Full);
        }
        let first = pending.next;
        pending.next += count as u64;
        // Sent under the lock: two callers' deliveries leave in the order of their numbers, and no
        // report can come before its waiter is there.
        for ((mut delivery, waiter), (id, permit)) in
            deliveries.into_iter().zip((first..).zip(permits))
        {
            delivery.id = id;
            pending.waiters.insert(id, waiter);
            permit.send(Item::Delivery(delivery));
        }
        drop(pending);
        Ok(Sent { stream: self.clone(), ids: first..first + count as u64 })
    }

    /// Queues the wake-up of a stored push. `waiter`: who is told when the device has acknowledged it; with
    /// too many who wait it is sent all the same, and nobody is told. Never waits.
    pub(crate) fn wake(
        self: &Arc<Self>,
        mut delivery: Delivery,
        waiter: Option<Waiter>,
    ) -> Result<Option<Sent>, NotSent> {
        let bytes = weight(&delivery);
        let mut pending = self.pending.lock();
        if pending.closed {
            return Err(NotSent::Gone);
        }
        // Used up also when it does not leave.
        pending.wake += 1;
        delivery.wake = pending.wake;
        if !self.waiting.add(1, bytes) {
            return Err(NotSent::Full);
        }
        let permit = match self.down.try_reserve() {
            Ok(permit) => permit,
            Err(refused) => {
                self.waiting.remove(1, bytes);
                return Err(match refused {
                    mpsc::error::TrySendError::Full(()) => NotSent::Full,
                    mpsc::error::TrySendError::Closed(()) => NotSent::Gone,
                });
            }
        };
        delivery.id = pending.next;
        pending.next += 1;
        let id = delivery.id;
        let waiter = waiter.filter(|_| pending.waiters.len() < PENDING_MAX);
        delivery.wants_ack = waiter.is_some();
        let sent = waiter.map(|waiter| {
            pending.waiters.insert(id, waiter);
            Sent { stream: self.clone(), ids: id..id + 1 }
        });
        permit.send(Item::Delivery(delivery));
        Ok(sent)
    }

    /// Queues an answer, with the places that it holds until it leaves. Never waits: whoever has a place
    /// has room.
    pub(crate) fn answer(&self, answer: Answer, places: Vec<OwnedSemaphorePermit>) {
        if self.down.try_send(Item::Answer(answer, places)).is_err() {
            self.cut();
        }
    }

    /// Queues the answer to a question that nobody will look at. A node that does not read is cut off.
    pub(crate) fn refuse(&self, answer: Answer) {
        match self.refusals.clone().try_acquire_owned() {
            Ok(place) => self.answer(answer, vec![place]),
            Err(_) => self.cut(),
        }
    }

    /// Deliveries sent and not yet reported.
    pub(crate) fn pending(&self) -> usize {
        self.pending.lock().waiters.len()
    }

    /// Takes the reports of one message. Returns how many nobody waited for.
    fn reported(&self, reports: Vec<DeliveryReport>) -> usize {
        let mut told = Vec::with_capacity(reports.len());
        let mut unknown = 0;
        {
            let mut pending = self.pending.lock();
            for report in reports {
                // Progress of a broadcast leaves its waiter in place.
                let is_last = report.done || !report.outcomes.is_empty();
                let waiter = match pending.waiters.get(&report.id) {
                    Some(waiter) if waiter.takes_progress() && !is_last => Some(waiter.clone()),
                    Some(_) => pending.waiters.remove(&report.id),
                    None => None,
                };
                match waiter {
                    Some(waiter) => told.push((waiter, report)),
                    None => unknown += 1,
                }
            }
        }
        for (waiter, report) in told {
            waiter.reported(&report);
        }
        unknown
    }
}

impl Sent {
    /// All reports are there; nothing is left to forget.
    pub(crate) fn settled(mut self) {
        self.ids = 0..0;
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let mut pending = self.stream.pending.lock();
        if !pending.waiters.is_empty() {
            self.ids.clone().for_each(|id| drop(pending.waiters.remove(&id)));
        }
    }
}

/// About what a delivery takes on the wire.
fn weight(delivery: &Delivery) -> usize {
    64 + delivery.frame.len()
        + delivery.targets.iter().map(|target| 32 + target.device.len()).sum::<usize>()
}

/// Joins what waits into one message, up to its limits.
pub(crate) struct GatherDeliveries {
    waiting: Arc<Waiting>,
}

impl Gather for GatherDeliveries {
    type Item = Item;
    type Message = DeliverDown;

    fn gather(&mut self, waiting: &mut VecDeque<Item>) -> DeliverDown {
        let mut message = DeliverDown::default();
        let (mut bytes, mut delivered) = (0, 0);
        for _ in 0..MESSAGE_ITEMS_MAX {
            let Some(first) = waiting.front() else { break };
            let more = match first {
                Item::Delivery(delivery) => weight(delivery),
                Item::Answer(answer, _) => answer_weight(answer),
            };
            if bytes > 0 && bytes + more > MESSAGE_BYTES_MAX {
                break;
            }
            bytes += more;
            match waiting.pop_front() {
                Some(Item::Delivery(delivery)) => {
                    delivered += more;
                    message.deliveries.push(delivery);
                }
                Some(Item::Answer(answer, _places)) => message.answers.push(answer),
                None => {}
            }
        }
        self.waiting.remove(message.deliveries.len(), delivered);
        message
    }
}

/// About what an answer takes on the wire.
fn answer_weight(answer: &Answer) -> usize {
    let inboxes: usize = answer.swept.iter().map(|swept| 8 + 48 * swept.inboxes.len()).sum();
    let entries: usize = answer.entries.iter().map(|entry| 64 + entry.frame.len()).sum();
    64 + inboxes + entries
}

/// Takes a deliver stream into service: what the node reports is read by a task of its own.
pub(crate) fn open(
    core: &Arc<Core>,
    life: Arc<Life>,
    first: DeliverUp,
    mut inbound: Streaming<DeliverUp>,
) -> DeliverDownStream {
    let takes_compressed = first.hello.as_ref().is_some_and(|hello| hello.takes_compressed);
    let stop = core.tasks.stop_signal().child_token();
    let (stream, queue) = DeliverStream::new(stop, takes_compressed);
    life.attach_deliver(stream.clone());
    let waiting = stream.waiting.clone();
    info!(node = %life.node, boot = %life.boot, "deliver stream opened");
    let reader = {
        let core = core.clone();
        async move {
            let stop = stream.stop.clone();
            tokio::select! {
                () = read(&core, &life, &stream, first, &mut inbound) => {}
                () = stop.cancelled() => {}
            }
            life.detach_deliver(&stream);
            stream.cut();
            info!(node = %life.node, boot = %life.boot, "deliver stream ended");
        }
    };
    core.tasks.spawn("node deliver stream", reader);
    Outgoing::new(None, queue, GatherDeliveries { waiting })
}

async fn read(
    core: &Arc<Core>,
    life: &Arc<Life>,
    stream: &Arc<DeliverStream>,
    first: DeliverUp,
    inbound: &mut Streaming<DeliverUp>,
) {
    let mut message = first;
    loop {
        let unknown = stream.reported(message.reports);
        core.metrics.reports_stale.inc_by(unknown as u64);
        for ask in message.asks {
            asks::take(core, life, stream, ask);
        }
        message = match inbound.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(status) => return debug!(%status, "deliver stream broke"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Outcomes;
    use bytes::Bytes;
    use std::time::Instant;

    const UNKNOWN: i32 = 9;

    fn one(call: &Arc<Outcomes>, bytes: usize) -> Vec<(Delivery, Waiter)> {
        let delivery = Delivery { frame: Bytes::from(vec![0; bytes]), ..Default::default() };
        vec![(delivery, Waiter::Target { call: call.clone(), at: 0 })]
    }

    fn stream() -> (Arc<DeliverStream>, mpsc::Receiver<Item>) {
        DeliverStream::new(CancellationToken::new(), true)
    }

    #[test]
    fn a_queue_full_of_deliveries_or_bytes_takes_no_more_until_some_have_left() {
        let (stream, mut queue) = stream();
        let call = Outcomes::new(vec![UNKNOWN], 1);
        let large = BYTES_WAITING_MAX / 2;
        let _held = [large, large / 2].map(|bytes| stream.send(one(&call, bytes)).ok().unwrap());
        assert_eq!(stream.send(one(&call, large)).err(), Some(NotSent::Full));
        assert_eq!(stream.pending(), 2, "who was refused does not wait");
        let mut waiting = VecDeque::new();
        while let Ok(delivery) = queue.try_recv() {
            waiting.push_back(delivery);
        }
        let mut gather = GatherDeliveries { waiting: stream.waiting.clone() };
        assert_eq!(gather.gather(&mut waiting).deliveries.len(), 1, "large ones leave alone");
        gather.gather(&mut waiting);
        assert_eq!(stream.waiting.bytes.load(Ordering::Relaxed), 0);
        assert!(stream.send(one(&call, 2 * BYTES_WAITING_MAX)).is_ok(), "one larger when empty");
        let many = (0..DELIVERIES_WAITING_MAX).flat_map(|_| one(&call, 0)).collect();
        assert_eq!(stream.send(many).err(), Some(NotSent::Full));
    }

    #[tokio::test]
    async fn a_cut_tells_everybody_who_waits() {
        let (stream, _queue) = stream();
        let call = Outcomes::new(vec![4, UNKNOWN], 1);
        let delivery = (Delivery::default(), Waiter::Target { call: call.clone(), at: 1 });
        let _sent = stream.send(vec![delivery]).ok().unwrap();
        stream.cut();
        let far = Instant::now() + std::time::Duration::from_hours(1);
        assert_eq!(call.wait(far).await, (vec![4, UNKNOWN], true));
        assert_eq!(stream.send(one(&call, 0)).err(), Some(NotSent::Gone));
    }

    #[test]
    fn who_gave_up_waiting_is_forgotten_and_a_late_report_counted() {
        let (stream, _queue) = stream();
        let call = Outcomes::new(vec![UNKNOWN], 1);
        let sent = stream.send(one(&call, 0)).ok().unwrap();
        drop(sent);
        assert_eq!(stream.pending(), 0);
        assert_eq!(stream.reported(vec![DeliveryReport { id: 0, ..Default::default() }]), 1);
    }
}
