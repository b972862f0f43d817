//! The stream of deliveries from one router: pushes down, outcomes up.

use super::control_stream::hello;
use super::tier::{Deliver, Router};
use super::{GATHER_MAX, asks};
use crate::downlink;
use crate::fanout::{Fanout, Tally};
use crate::frame_out::FrameOut;
use crate::lane::{Work, slow_policy};
use crate::metrics::{PushCounts, StaleReason};
use crate::node::Node;
use crate::outbox::SlowPolicy;
use crate::retry::Retry;
use crate::table::{Target, Written};
use hawser_chassis::peers::Role;
use hawser_proto::id::{AppId, BusinessNo, GroupId, SlotRef};
use hawser_proto::rpc::node::node_client::NodeClient;
use hawser_proto::rpc::node::{Ask, DeliverDown, DeliverUp, Delivery, DeliveryReport, Hello};
use hawser_proto::rpc::push::Outcome;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tonic::Status;

/// Reports that may wait. Fan-outs that find no room lose their report, and the router says `unknown`.
const REPORTS_MAX: usize = 16_384;
/// A push call is at most 4 MiB; what a router gathers adds one more.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Writes between two looks at what else the runtime has to do.
const WRITES_PER_TURN: usize = 128;

/// Keeps the stream up until the node ends, or the router leaves the list.
pub(super) async fn keep(node: Arc<Node>, router: Arc<Router>) {
    let mut retry = Retry::until("router deliver", router.stop.clone());
    while retry.go_on_after(run(&node, &router)).await {}
}

/// Runs the stream until it breaks.
async fn run(node: &Arc<Node>, router: &Arc<Router>) -> Result<(), Status> {
    let channel = node.config.peers.channel(&router.uri, Role::Router);
    let channel = channel.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let mut client = NodeClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (reports, waiting) = mpsc::channel(REPORTS_MAX);
    let (asks, asked) = mpsc::channel(asks::QUEUE_MAX);
    let outbound = Gather { hello: Some(hello(node)), waiting, asked };
    let inbound = client.deliver(outbound).await?.into_inner();
    let stream = node.routers.next_stream();
    let up = Deliver { router: router.clone(), stream, reports: reports.clone(), asks };
    node.routers.deliver_is_up(node, &Arc::new(up));
    let life = Life { node: node.clone(), stream };
    // Wake-ups of before are lost with the stream that carried them.
    node.sweeps.request();
    let ended = receive(node, stream, inbound, &reports).await;
    drop(life);
    ended
}

/// Takes the stream out again, however `run` ends, and fails what was asked on it.
struct Life {
    node: Arc<Node>,
    stream: u64,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.node.routers.deliver_is_down(&self.node, self.stream);
        let (node, stream) = (self.node.clone(), self.stream);
        // Apart: it waits for lanes. A node that stops has nobody left to tell.
        self.node.tasks.spawn_light(async move { asks::stream_broke(&node, stream).await });
    }
}

async fn receive(
    node: &Arc<Node>,
    stream: u64,
    mut inbound: tonic::Streaming<DeliverDown>,
    reports: &mpsc::Sender<DeliveryReport>,
) -> Result<(), Status> {
    let mut wake_next = 1;
    let mut writes = 0;
    while let Some(message) = inbound.message().await? {
        for delivery in message.deliveries {
            writes += delivery.targets.len();
            if delivery.wake != 0 {
                if delivery.wake != wake_next {
                    node.metrics.wakes_lost.inc_by(delivery.wake.saturating_sub(wake_next));
                    node.sweeps.request();
                }
                wake_next = delivery.wake + 1;
            }
            deliver(node, stream, delivery, reports).await;
            if writes >= WRITES_PER_TURN {
                writes = 0;
                tokio::task::yield_now().await;
            }
        }
        for answer in message.answers {
            asks::answered(node, stream, answer).await;
        }
    }
    Ok(())
}

/// Reports and asks as stream messages: whatever waits leaves together.
struct Gather {
    hello: Option<Hello>,
    waiting: mpsc::Receiver<DeliveryReport>,
    asked: mpsc::Receiver<Ask>,
}

impl futures_util::Stream for Gather {
    type Item = DeliverUp;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<DeliverUp>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(DeliverUp { hello: Some(hello), ..Default::default() }));
        }
        let (mut reports, mut asks) = (Vec::new(), Vec::new());
        let reported = self.waiting.poll_recv_many(cx, &mut reports, GATHER_MAX);
        let asked = self.asked.poll_recv_many(cx, &mut asks, GATHER_MAX);
        match (reported, asked) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            // The stream has let go of its ends.
            (Poll::Ready(0), _) | (_, Poll::Ready(0)) => Poll::Ready(None),
            _ => Poll::Ready(Some(DeliverUp { hello: None, reports, asks })),
        }
    }
}

async fn deliver(
    node: &Arc<Node>,
    stream: u64,
    delivery: Delivery,
    reports: &mpsc::Sender<DeliveryReport>,
) {
    let Ok(app) = AppId::new(&delivery.app) else {
        return refuse(delivery.id, reports).await;
    };
    let business = BusinessNo(delivery.business);
    let slow = node
        .catalogue
        .load()
        .business(&app, business)
        .map_or(SlowPolicy::default(), |business| slow_policy(business.slow_policy));
    if delivery.group.is_empty() && delivery.broadcast.is_none() {
        if delivery.place.is_some() {
            return downlink::wake(node, stream, delivery);
        }
        let report = unicast(node, delivery, slow);
        // Waits for room: what follows on this stream waits with it, and the router's queue is bounded.
        let _ = reports.send(report).await;
        return;
    }
    let frame = FrameOut::new(delivery.frame);
    let (lanes, metrics) = (node.lanes.len(), node.metrics.clone());
    if let Some(broadcast) = delivery.broadcast {
        let fanout = Fanout::new(delivery.id, frame, slow, None, lanes, reports.clone(), metrics);
        let per_second = broadcast.targets_per_second.div_ceil(lanes as u32);
        for lane in &node.lanes {
            let (app, fanout) = (app.clone(), fanout.clone());
            let newest = broadcast.newest_epoch;
            lane.send(Work::Broadcast { app, business, per_second, newest, fanout }).await;
        }
        return;
    }
    // A delivery names groups of its own app only, so the boot check is all that is left to do here.
    let Ok(group) = GroupId::new(&delivery.group) else {
        return refuse(delivery.id, reports).await;
    };
    if delivery.boot != node.table.boot.0 {
        node.metrics.stale(StaleReason::Boot);
        return refuse(delivery.id, reports).await;
    }
    let key = (app, group);
    let place = delivery.place.map(downlink::place);
    let fanout = Fanout::new(delivery.id, frame, slow, place, lanes, reports.clone(), metrics);
    let members = node.groups.members(&key);
    for (index, lane) in node.lanes.iter().enumerate() {
        let work = Work::Multicast { key: key.clone(), business, fanout: fanout.clone() };
        if lane.try_send(work).is_err() {
            node.metrics.lane_full.inc();
            if let Some(place) = place {
                lane.missed(&key, place.at);
            }
            let dropped = members.get(index).map_or(0, |&count| u64::from(count));
            fanout.lane_done(Tally { dropped, ..Tally::default() });
        }
    }
}

/// A delivery that names nobody here.
async fn refuse(id: u64, reports: &mpsc::Sender<DeliveryReport>) {
    let _ = reports.send(DeliveryReport { id, done: true, ..Default::default() }).await;
}

/// Writes one frame to each target in turn, at once.
fn unicast(node: &Node, delivery: Delivery, slow: SlowPolicy) -> DeliveryReport {
    let frame = FrameOut::new(delivery.frame);
    let mut tally = Tally::default();
    let mut outcomes = Vec::with_capacity(delivery.targets.len());
    for target in &delivery.targets {
        let named = Target {
            boot: delivery.boot,
            at: SlotRef { slot: target.slot, generation: target.generation },
            app: &delivery.app,
            device: &target.device,
            epoch: target.epoch,
        };
        let outcome = match node.table.push(named, &frame, slow) {
            Ok(written) => {
                tally.count(written);
                match written {
                    Written::Taken | Written::Queued => Outcome::Written,
                    Written::Overflow => Outcome::Overflow,
                    Written::Gone => Outcome::Stale,
                }
            }
            Err(_) => Outcome::Stale,
        };
        outcomes.push(outcome as u32);
    }
    let Tally { written, queued, dropped } = tally;
    node.metrics.pushes(PushCounts { written, queued, dropped });
    DeliveryReport {
        id: delivery.id,
        outcomes,
        members: tally.members(),
        written,
        queued,
        dropped,
        done: true,
    }
}
