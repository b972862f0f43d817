//! The deliver stream of one node: pushes down, their reports up.
//!
//! A push waits here in a queue bounded in items and bytes; its caller waits in the pending map for the
//! report. When the stream ends, everybody who waits is told so at once.

use crate::answer::Waiter;
use crate::core::Core;
use crate::node::outgoing::{Gather, Outgoing};
use crate::nodes::Life;
use foldhash::fast::RandomState;
use hawser_proto::rpc::node::{DeliverDown, DeliverUp, Delivery, DeliveryReport};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::{debug, info};

/// Deliveries that may wait for one node, and their bytes.
const DELIVERIES_WAITING_MAX: usize = 16_384;
const BYTES_WAITING_MAX: usize = 32 * 1024 * 1024;
/// Deliveries sent and not yet reported.
const PENDING_MAX: usize = 65_536;
/// One message of the stream: as many deliveries, or this many bytes once there is one.
const MESSAGE_DELIVERIES_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// What tonic sends to the node.
pub(crate) type DeliverDownStream = Outgoing<GatherDeliveries>;

/// The way to one node on its deliver stream.
pub(crate) struct DeliverStream {
    down: mpsc::Sender<Delivery>,
    bytes_waiting: Arc<AtomicUsize>,
    stop: CancellationToken,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    next: u64,
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
    fn new(stop: CancellationToken) -> (Arc<Self>, mpsc::Receiver<Delivery>) {
        let (down, queue) = mpsc::channel(DELIVERIES_WAITING_MAX);
        let bytes_waiting = Arc::default();
        (Arc::new(Self { down, bytes_waiting, stop, pending: Mutex::default() }), queue)
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
        let permits = self.down.try_reserve_many(count).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(()) => NotSent::Full,
            mpsc::error::TrySendError::Closed(()) => NotSent::Gone,
        })?;
        let waiting = self.bytes_waiting.fetch_add(bytes, Ordering::Relaxed);
        let refuse = |why| {
            self.bytes_waiting.fetch_sub(bytes, Ordering::Relaxed);
            Err(why)
        };
        // One larger batch is taken when nothing waits.
        if waiting > 0 && waiting + bytes > BYTES_WAITING_MAX {
            return refuse(NotSent::Full);
        }
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
            permit.send(delivery);
        }
        drop(pending);
        Ok(Sent { stream: self.clone(), ids: first..first + count as u64 })
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

/// Joins deliveries into one message, up to its limits.
pub(crate) struct GatherDeliveries {
    bytes_waiting: Arc<AtomicUsize>,
}

impl Gather for GatherDeliveries {
    type Item = Delivery;
    type Message = DeliverDown;

    fn gather(&mut self, waiting: &mut VecDeque<Delivery>) -> DeliverDown {
        let (mut count, mut bytes) = (0, 0);
        for delivery in waiting.iter().take(MESSAGE_DELIVERIES_MAX) {
            let more = weight(delivery);
            if count > 0 && bytes + more > MESSAGE_BYTES_MAX {
                break;
            }
            (count, bytes) = (count + 1, bytes + more);
        }
        self.bytes_waiting.fetch_sub(bytes, Ordering::Relaxed);
        DeliverDown { deliveries: waiting.drain(..count).collect(), answers: Vec::new() }
    }
}

/// Takes a deliver stream into service: what the node reports is read by a task of its own.
pub(crate) fn open(
    core: &Arc<Core>,
    life: Arc<Life>,
    first: DeliverUp,
    mut inbound: Streaming<DeliverUp>,
) -> DeliverDownStream {
    let (stream, queue) = DeliverStream::new(core.tasks.stop_signal().child_token());
    life.attach_deliver(stream.clone());
    let bytes_waiting = stream.bytes_waiting.clone();
    info!(node = %life.node, boot = %life.boot, "deliver stream opened");
    let reader = {
        let core = core.clone();
        async move {
            let stop = stream.stop.clone();
            tokio::select! {
                () = read(&core, &stream, first, &mut inbound) => {}
                () = stop.cancelled() => {}
            }
            life.detach_deliver(&stream);
            stream.cut();
            info!(node = %life.node, boot = %life.boot, "deliver stream ended");
        }
    };
    core.tasks.spawn("node deliver stream", reader);
    Outgoing::new(None, queue, GatherDeliveries { bytes_waiting })
}

async fn read(
    core: &Core,
    stream: &DeliverStream,
    first: DeliverUp,
    inbound: &mut Streaming<DeliverUp>,
) {
    let mut message = first;
    loop {
        let unknown = stream.reported(message.reports);
        core.metrics.reports_stale.inc_by(unknown as u64);
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

    fn stream() -> (Arc<DeliverStream>, mpsc::Receiver<Delivery>) {
        DeliverStream::new(CancellationToken::new())
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
        let mut gather = GatherDeliveries { bytes_waiting: stream.bytes_waiting.clone() };
        assert_eq!(gather.gather(&mut waiting).deliveries.len(), 1, "large ones leave alone");
        gather.gather(&mut waiting);
        assert_eq!(stream.bytes_waiting.load(Ordering::Relaxed), 0);
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
