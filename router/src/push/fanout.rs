//! Pushes to everyone: in a group, or online in the app. One frame, one delivery per node; each node
//! counts for itself.

use crate::answer::{Tally, Waiter};
use crate::auth::Credential;
use crate::core::Core;
use crate::metrics::Fanout;
use crate::node::deliver::{NotSent, Sent};
use crate::nodes::Life;
use crate::push::encoded::Encoded;
use crate::push::groups::owned;
use crate::push::{history, message};
use crate::refusal::Refusal;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hawser_proto::code::ErrorCode;
use hawser_proto::id::BusinessNo;
use hawser_proto::rpc::node::{Broadcast, Delivery};
use hawser_proto::rpc::push::{
    BroadcastProgress, BroadcastRequest, MulticastRequest, MulticastResponse, NodeResult,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Status;

/// Broadcast pace when the caller names none, over all nodes.
const TARGETS_PER_SECOND_DEFAULT: u32 = 10_000;
/// How often a broadcast tells of its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Pushes to the members of a group of this business.
pub(crate) async fn multicast(
    core: &Arc<Core>,
    by: &Credential,
    request: MulticastRequest,
) -> Result<MulticastResponse, Refusal> {
    let (key, group) = owned(core, by, &request.group).await?;
    if let Some(caps) = group.history {
        return history::multicast(core, by, (key, group, caps), request).await;
    }
    if request.durability != 0 {
        return Err(Refusal::invalid("durability: only for groups that keep a history"));
    }
    let push_id = message::push_id(request.push_id)?;
    let metrics = &core.metrics.compression;
    let (id, name) = (push_id.clone(), request.group.clone());
    let frame = message::group_frame(request.message, id, name, by, metrics)?;
    let steady_ms = core.clock.steady_ms();
    group.pushed(steady_ms);
    let lives = group.nodes(&core.nodes, steady_ms);
    let of = (by.app.as_str(), by.number);
    let (tally, sent) = send(core, of, &frame, &lives, false, |_, delivery| Delivery {
        group: request.group.clone(),
        ..delivery
    });
    let response = MulticastResponse { push_id, ..MulticastResponse::default() };
    Ok(counted(core, &tally, sent, response).await)
}

/// Waits for the nodes, and puts what they counted into the answer.
pub(crate) async fn counted(
    core: &Core,
    tally: &Tally,
    sent: Vec<Sent>,
    response: MulticastResponse,
) -> MulticastResponse {
    if tokio::time::timeout(core.call_timeout, tally.complete()).await.is_err() {
        tally.give_up(Instant::now());
    }
    drop(sent);
    let nodes = with_unheard(core, tally.results());
    count(&core.metrics.multicast, &nodes);
    let sum = |of: fn(&NodeResult) -> u64| nodes.iter().map(of).sum();
    MulticastResponse {
        members: sum(|node| node.members),
        written: sum(|node| node.written),
        queued: sum(|node| node.queued),
        dropped: sum(|node| node.dropped),
        nodes,
        ..response
    }
}

/// Starts a broadcast; the stream tells of its progress. Dropped: the nodes go on, nobody listens.
pub(crate) fn broadcast(
    core: &Arc<Core>,
    by: &Credential,
    request: BroadcastRequest,
) -> Result<impl Stream<Item = Result<BroadcastProgress, Status>> + Send + use<>, Refusal> {
    let push_id = message::push_id(request.push_id)?;
    let metrics = &core.metrics.compression;
    let frame = message::push_frame(request.message, push_id.clone(), by, metrics)?;
    let pace = match request.targets_per_second {
        0 => TARGETS_PER_SECOND_DEFAULT,
        pace => pace,
    };
    // What logs in from now on gets an epoch above this one.
    let newest_epoch = core.clock.now_ms();
    let view = core.nodes.view(core.clock.steady_ms());
    let mut lives: Vec<(u64, Arc<Life>)> =
        view.lives().map(|life| (life.routes_of(&by.app), life.clone())).collect();
    lives.retain(|(routes, _)| *routes > 0);
    lives.sort_by(|(_, a), (_, b)| a.node.cmp(&b.node));
    let total: u64 = lives.iter().map(|(routes, _)| routes).sum();
    let (routes, lives): (Vec<u64>, Vec<Arc<Life>>) = lives.into_iter().unzip();
    let of = (by.app.as_str(), by.number);
    let (tally, sent) = send(core, of, &frame, &lives, true, |at, delivery| {
        let targets_per_second = share(pace, routes[at], total);
        let broadcast = Some(Broadcast { targets_per_second, newest_epoch });
        Delivery { broadcast, ..delivery }
    });
    let running = Running { core: core.clone(), tally, _sent: sent, push_id };
    Ok(stream::unfold(Some(running), |running| async {
        let running = running?;
        Some(match running.progress().await {
            Ok(progress) if progress.done => (Ok(progress), None),
            Ok(progress) => (Ok(progress), Some(running)),
            Err(refusal) => (Err(refusal.into()), None),
        })
    }))
}

/// A node's part of the pace, by its part of the routes; at least one, or it would never end.
fn share(pace: u32, routes: u64, total: u64) -> u32 {
    let part = u128::from(pace) * u128::from(routes) / u128::from(total.max(1));
    (part as u32).max(1)
}

struct Running {
    core: Arc<Core>,
    tally: Arc<Tally>,
    _sent: Vec<Sent>,
    push_id: Bytes,
}

impl Running {
    async fn progress(&self) -> Result<BroadcastProgress, Refusal> {
        tokio::select! {
            () = self.tally.complete() => {}
            () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
            () = self.core.push_tasks.stop_signal().cancelled_owned() => {
                return Err(Refusal::new(ErrorCode::Unavailable, "the router is stopping"));
            }
        }
        if let Some(since) = Instant::now().checked_sub(self.core.broadcast_patience) {
            self.tally.give_up(since);
        }
        let done = self.tally.is_complete();
        let nodes = with_unheard(&self.core, self.tally.results());
        if done {
            count(&self.core.metrics.broadcast, &nodes);
        }
        let sum = |of: fn(&NodeResult) -> u64| nodes.iter().map(of).sum();
        Ok(BroadcastProgress {
            push_id: self.push_id.clone(),
            targets: sum(|node| node.members),
            written: sum(|node| node.written),
            queued: sum(|node| node.queued),
            dropped: sum(|node| node.dropped),
            done,
            nodes,
        })
    }
}

/// One delivery to each node; `complete` fills in whom on the node it is for.
pub(crate) fn send(
    core: &Core,
    (app, business): (&str, BusinessNo),
    frame: &Encoded,
    lives: &[Arc<Life>],
    progress: bool,
    complete: impl Fn(usize, Delivery) -> Delivery,
) -> (Arc<Tally>, Vec<Sent>) {
    let names = lives.iter().map(|life| life.node.to_string());
    let tally = Tally::new(names, Instant::now());
    let mut sent = Vec::with_capacity(lives.len());
    for (at, life) in lives.iter().enumerate() {
        let to = life.deliver();
        let delivery = Delivery {
            boot: life.boot.0,
            app: app.to_owned(),
            business: business.0,
            frame: frame.for_node(to.as_ref().is_some_and(|to| to.takes_compressed)),
            ..Default::default()
        };
        let waiter = Waiter::Node { tally: tally.clone(), at, progress };
        let delivery = complete(at, delivery);
        let is_kept = delivery.place.is_some();
        let done = to.map_or(Err(NotSent::Gone), |to| to.send(vec![(delivery, waiter)]));
        match done {
            Ok(one) => sent.push(one),
            Err(why) => {
                core.metrics.queue_full.inc_by(u64::from(why == NotSent::Full));
                // The next one would tell by its `prev`; there may be no next one.
                if is_kept && why == NotSent::Full {
                    life.want_sweep(core.clock.steady_ms());
                }
                tally.lost(at);
            }
        }
    }
    (tally, sent)
}

/// What nodes counted, and those that live and were not asked since they cannot be heard here.
fn with_unheard(core: &Core, mut nodes: Vec<NodeResult>) -> Vec<NodeResult> {
    for node in core.nodes.unheard(core.clock.steady_ms()) {
        if !nodes.iter().any(|known| known.node == node.as_str()) {
            let node = node.to_string();
            nodes.push(NodeResult { node, unknown: true, ..NodeResult::default() });
        }
    }
    nodes
}

fn count(metrics: &Fanout, nodes: &[NodeResult]) {
    for node in nodes {
        metrics.written.inc_by(node.written);
        metrics.queued.inc_by(node.queued);
        metrics.dropped.inc_by(node.dropped);
        metrics.nodes_unknown.inc_by(u64::from(node.unknown));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_shared_by_routes() {
        for (pace, routes, total, expected) in [
            (10_000, 1, 4, 2_500),
            (10_000, 4, 4, 10_000),
            (10, 1, 1_000, 1),
            (u32::MAX, 9, 9, u32::MAX),
        ] {
            assert_eq!(share(pace, routes, total), expected);
        }
    }
}
