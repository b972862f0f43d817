//! The control stream to one router: our words up, its orders down.

use super::{GATHER_MAX, Router};
use crate::groups::GroupKey;
use crate::lane::{Done, Work};
use crate::node::Node;
use crate::table::{Signal, Target};
use hawser_chassis::peers::Role;
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::id::{AppId, BusinessNo, GroupId, Position, SlotRef};
use hawser_proto::params::LeftReason;
use hawser_proto::rpc::node as wire;
use hawser_proto::rpc::node::membership::Change;
use hawser_proto::rpc::node::node_client::NodeClient;
use hawser_proto::rpc::node::{ControlUp, Up, down, up};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Messages between us and the HTTP/2 stream; each may hold many words.
const STREAM_QUEUE: usize = 16;
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Runs the stream until it breaks.
pub(super) async fn run(
    node: &Arc<Node>,
    router: &Router,
    queue: &mut mpsc::Receiver<up::What>,
) -> Result<(), Status> {
    let channel = node.config.peers.channel(&router.uri, Role::Router);
    let channel = channel.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let mut client = NodeClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);

    let (up, outbound) = mpsc::channel(STREAM_QUEUE);
    let hello = wire::Hello {
        node: node.config.node.as_str().to_owned(),
        boot: node.table.boot.0,
        tells_all: false,
    };
    let first = ControlUp { hello: Some(hello), items: Vec::new() };
    // The channel is new, so there is room.
    let _ = up.try_send(first);
    let mut inbound = client.control(ReceiverStream::new(outbound)).await?.into_inner();

    let broken = || Status::unavailable("the stream is gone");
    let welcome = inbound.message().await?.ok_or_else(broken)?.welcome.unwrap_or_default();
    let lease = Duration::from_millis(u64::from(welcome.lease_ms.max(300)));
    let mut renew = tokio::time::interval(lease / 3);
    router.is_up.store(true, Ordering::Release);
    node.metrics.router_streams.inc();
    let _up = scopeguard(node);
    // The order to sweep may have been lost with the stream before.
    node.sweeps.request();

    let announcing = announce(node, router);
    tokio::pin!(announcing);
    let mut is_announced = false;
    let mut words = Vec::with_capacity(GATHER_MAX);
    loop {
        tokio::select! {
            // Words are only taken with room to send them in hand: while there is none, what comes
            // down is still read, or two full streams would wait for each other for ever.
            taken = take_words(&up, queue, &mut words) => {
                let Some(room) = taken.ok_or_else(broken)? else { return Ok(()) };
                // A claim that waited while the stream broke was given up with it; granted now, it
                // would be nobody's.
                let is_wanted = |word: &up::What| match word {
                    up::What::Bind(bind) => node.routers.is_pending(bind.call),
                    _ => true,
                };
                let words = words.drain(..).filter(is_wanted);
                let items = words.map(|what| Up { what: Some(what) }).collect();
                room.send(ControlUp { hello: None, items });
            }
            message = inbound.message() => {
                let Some(message) = message? else { return Ok(()) };
                for item in message.items {
                    if let Some(what) = item.what {
                        obey(node, what).await;
                    }
                }
            }
            _ = renew.tick() => {
                if node.routers.has_lost_unbind() {
                    return Err(Status::resource_exhausted("an unbind was lost; telling all again"));
                }
                node.routers.announce_refused(node, &router.queue);
                // Without room there are words on their way, and each of them renews the lease.
                let items = vec![Up { what: Some(up::What::Lease(wire::Lease {})) }];
                let _ = up.try_send(ControlUp { hello: None, items });
            }
            () = &mut announcing, if !is_announced => is_announced = true,
        }
    }
}

/// Waits for words, and for room to send them. `None`: the stream is gone; `Some(None)`: the node ends.
/// Cancel-safe: a word is only taken when this resolves.
async fn take_words<'s>(
    up: &'s mpsc::Sender<ControlUp>,
    queue: &mut mpsc::Receiver<up::What>,
    words: &mut Vec<up::What>,
) -> Option<Option<mpsc::Permit<'s, ControlUp>>> {
    let room = up.reserve().await.ok()?;
    let count = queue.recv_many(words, GATHER_MAX).await;
    Some((count > 0).then_some(room))
}

async fn announce(node: &Node, router: &Router) {
    node.routers.announce(node, &router.queue).await;
}

/// Counts the stream out again, however `run` ends.
fn scopeguard(node: &Arc<Node>) -> impl Drop {
    struct Down(Arc<Node>);
    impl Drop for Down {
        fn drop(&mut self) {
            self.0.metrics.router_streams.dec();
        }
    }
    Down(node.clone())
}

async fn obey(node: &Arc<Node>, order: down::What) {
    match order {
        down::What::BindResult(result) => node.routers.bound(node, &result),
        down::What::GroupResult(result) => {
            if let Some(key) = node.groups.decided(&result, &node.routers) {
                drop_in_lanes(node, &key).await;
            }
        }
        down::What::Kick(kick) => {
            let matched = kick_session(node, &kick);
            node.routers.send(up::What::KickDone(wire::KickDone { call: kick.call, matched }));
        }
        down::What::Membership(change) => {
            let node = node.clone();
            // Apart: it waits for lanes, and perhaps for a word of this very stream.
            node.tasks.clone().spawn_light(async move { change_membership(&node, change).await });
        }
        down::What::DescribeSession(asked) => describe(node, asked),
        down::What::CountGroup(asked) => {
            let members = group_key(&asked.app, &asked.group)
                .map_or(0, |key| node.groups.members(&key).iter().map(|&n| u64::from(n)).sum());
            let counted = wire::GroupCounted { call: asked.call, members };
            node.routers.send(up::What::GroupCounted(counted));
        }
        down::What::Sweep(wire::SweepNow {}) => node.sweeps.request(),
        // Its streams end soon; nothing is lost by then.
        down::What::Leaving(wire::Leaving {}) => {}
        down::What::DropGroup(dropped) => {
            if let Some(key) = group_key(&dropped.app, &dropped.group)
                && node.groups.drop_group(&key)
            {
                drop_in_lanes(node, &key).await;
            }
        }
    }
}

fn group_key(app: &str, group: &str) -> Option<GroupKey> {
    Some((AppId::new(app).ok()?, GroupId::new(group).ok()?))
}

async fn drop_in_lanes(node: &Node, key: &GroupKey) {
    for lane in &node.lanes {
        lane.send(Work::DropGroup { key: key.clone() }).await;
    }
}

/// Orders one session to end, if the kick names it in full.
fn kick_session(node: &Node, kick: &wire::Kick) -> bool {
    let code = CloseCode::from_number(kick.code).unwrap_or(CloseCode::Disconnected);
    let at = SlotRef { slot: kick.slot, generation: kick.generation };
    // A kick may overtake the answer to the bind it ends: then the session has no epoch yet.
    if kick.boot == node.table.boot.0 && node.remember_early_kick(at, kick, code) {
        return true;
    }
    let target =
        Target { boot: kick.boot, at, app: &kick.app, device: &kick.device, epoch: kick.epoch };
    let order = Signal::Ordered(code, kick.reason.clone());
    node.table.with_target(target, |connection| connection.order(order)) == Ok(true)
}

async fn change_membership(node: &Arc<Node>, change: wire::Membership) {
    let mut statuses = Vec::with_capacity(change.targets.len());
    for target in &change.targets {
        let refused = change_one(node, &change, target).await;
        statuses.push(refused.map_or(0, ErrorCode::number));
    }
    node.routers
        .send(up::What::MembershipDone(wire::MembershipDone { call: change.call, statuses }));
}

async fn change_one(
    node: &Arc<Node>,
    change: &wire::Membership,
    target: &wire::Target,
) -> Option<ErrorCode> {
    let Some(key) = group_key(&change.app, &change.group) else {
        return Some(ErrorCode::InvalidArgument);
    };
    let at = SlotRef { slot: target.slot, generation: target.generation };
    let named = Target {
        boot: change.boot,
        at,
        app: &change.app,
        device: &target.device,
        epoch: target.epoch,
    };
    let business = BusinessNo(change.business);
    let serves = node.table.with_target(named, |connection| {
        let identity = connection.identity.as_ref();
        identity.is_some_and(|identity| identity.businesses.binary_search(&business).is_ok())
    });
    match serves {
        Err(_) => return Some(ErrorCode::DeviceOffline),
        Ok(false) => return Some(ErrorCode::UnknownBusiness),
        Ok(true) => {}
    }
    let lane_index = node.table.lane_of(at.slot);
    let lane = &node.lanes[lane_index];
    let (tell, answer) = oneshot::channel();
    let done = Done::Business(tell);
    let leave = |reason: LeftReason, done: Done| Work::Leave {
        at,
        key: key.clone(),
        reason,
        message: hawser_proto::frame::cut(&change.reason),
        done,
    };
    let work = match change.change() {
        Change::Join => {
            let patience = node.config.router_call_timeout;
            match node.groups.enter(&key, lane_index, &node.routers, patience).await {
                Err(code) => return Some(code),
                // The name is another business's by now.
                Ok(stay) if stay.business != business => {
                    node.groups.leave(&key, stay.seq, lane_index, &node.routers);
                    return Some(ErrorCode::GroupNotFound);
                }
                Ok(stay) => Work::Join { at, key, stay, last: Position::START, done },
            }
        }
        Change::Leave => leave(LeftReason::Removed, done),
        Change::Kick => leave(LeftReason::Kicked, done),
        Change::Unspecified => return Some(ErrorCode::InvalidArgument),
    };
    lane.send(work).await;
    answer.await.unwrap_or(Some(ErrorCode::Internal))
}

fn describe(node: &Arc<Node>, asked: wire::DescribeSession) {
    let mut described = wire::SessionDescribed { call: asked.call, ..Default::default() };
    let target = asked.target.unwrap_or_default();
    let at = SlotRef { slot: target.slot, generation: target.generation };
    let named = Target {
        boot: asked.boot,
        at,
        app: &asked.app,
        device: &target.device,
        epoch: target.epoch,
    };
    let found = node.table.with_target(named, |connection| {
        if let Some(identity) = &connection.identity {
            described.found = true;
            connection.dialled.name().clone_into(&mut described.transport);
            described.remote_ip = connection.remote.to_string();
            described.platform.clone_from(&identity.client.platform);
            described.sdk.clone_from(&identity.client.sdk);
            described.app_version.clone_from(&identity.client.app_version);
        }
    });
    if found.is_ok() {
        let (tell, groups) = oneshot::channel();
        let lane = &node.lanes[node.table.lane_of(at.slot)];
        if lane.try_send(Work::Describe { at, groups: tell }).is_ok() {
            let node = node.clone();
            node.tasks.clone().spawn_light(async move {
                described.groups = groups.await.unwrap_or_default();
                node.routers.send(up::What::Session(described));
            });
            return;
        }
    }
    node.routers.send(up::What::Session(described));
}
