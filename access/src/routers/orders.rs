//! What routers order: each is answered on the stream it came on, whose router waits for it.

use super::send;
use super::tier::Up;
use crate::groups::GroupKey;
use crate::lane::{Done, Work};
use crate::node::Node;
use crate::table::{Signal, Target};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::id::{AppId, BusinessNo, GroupId, Position, SlotRef};
use hawser_proto::params::LeftReason;
use hawser_proto::rpc::node as wire;
use hawser_proto::rpc::node::membership::Change;
use hawser_proto::rpc::node::{down, up};
use std::sync::Arc;
use tokio::sync::oneshot;

pub(super) async fn obey(node: &Arc<Node>, up: &Arc<Up>, order: down::What) {
    match order {
        down::What::BindResult(result) => node.routers.bound(node, up, result),
        down::What::GroupResult(result) => {
            if let Some((key, seq)) = node.groups.decided(up.stream, &result, &node.routers) {
                drop_in_lanes(node, &key, seq).await;
            }
        }
        down::What::Kick(kick) => {
            let matched = kick_session(node, &kick);
            answer(node, up, up::What::KickDone(wire::KickDone { call: kick.call, matched }));
        }
        down::What::Membership(change) => {
            let (node, up) = (node.clone(), up.clone());
            // Apart: it waits for lanes, and perhaps for a word of this very stream.
            node.tasks
                .clone()
                .spawn_light(async move { change_membership(&node, &up, change).await });
        }
        down::What::DescribeSession(asked) => describe(node, up, asked),
        down::What::CountGroup(asked) => {
            let members = group_key(&asked.app, &asked.group)
                .map_or(0, |key| node.groups.members(&key).iter().map(|&n| u64::from(n)).sum());
            let counted = wire::GroupCounted { call: asked.call, members };
            answer(node, up, up::What::GroupCounted(counted));
        }
        down::What::Sweep(wire::SweepNow { sessions }) if sessions.is_empty() => {
            node.sweeps.request();
        }
        down::What::Sweep(wire::SweepNow { sessions }) => {
            for wire::SessionSlot { slot, generation } in sessions {
                let at = SlotRef { slot, generation };
                if node.table.with(at, |_| ()).is_some() {
                    node.sweeps.once(at);
                }
            }
        }
        down::What::Leaving(wire::Leaving {}) => up.router.leaves(),
        down::What::DropGroup(dropped) => {
            if let Some(key) = group_key(&dropped.app, &dropped.group)
                && let Some(seq) =
                    node.groups.drop_group(up.stream, &key, dropped.created_ms, &node.routers)
            {
                drop_in_lanes(node, &key, seq).await;
            }
        }
    }
}

/// Whoever asked does not wait any longer if its stream has gone.
fn answer(node: &Node, up: &Up, word: up::What) {
    send(node, up, word);
}

fn group_key(app: &str, group: &str) -> Option<GroupKey> {
    Some((AppId::new(app).ok()?, GroupId::new(group).ok()?))
}

async fn drop_in_lanes(node: &Node, key: &GroupKey, seq: u64) {
    for lane in &node.lanes {
        lane.send(Work::DropGroup { key: key.clone(), seq }).await;
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
    // Its epoch may have been raised, and the node has not heard so: nobody else lives at this place.
    let known = node.table.with(at, |connection| connection.identity.as_ref().map(|it| it.epoch.0));
    let epoch = known.flatten().map_or(kick.epoch, |known| known.min(kick.epoch));
    let target = Target { boot: kick.boot, at, app: &kick.app, device: &kick.device, epoch };
    let order = Signal::Ordered(code, kick.reason.clone());
    node.table.with_target(target, |connection| connection.order(order)) == Ok(true)
}

async fn change_membership(node: &Arc<Node>, up: &Up, change: wire::Membership) {
    let mut statuses = Vec::with_capacity(change.targets.len());
    for target in &change.targets {
        let refused = change_one(node, &change, target).await;
        statuses.push(refused.map_or(0, ErrorCode::number));
    }
    let done = wire::MembershipDone { call: change.call, statuses };
    answer(node, up, up::What::MembershipDone(done));
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
        identity.is_some_and(|identity| identity.serves(business))
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

fn describe(node: &Arc<Node>, up: &Arc<Up>, asked: wire::DescribeSession) {
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
            let (node, up) = (node.clone(), up.clone());
            node.tasks.clone().spawn_light(async move {
                described.groups = groups.await.unwrap_or_default();
                answer(&node, &up, up::What::Session(described));
            });
            return;
        }
    }
    answer(node, up, up::What::Session(described));
}
