//! Group calls: create, delete, describe, list, and membership by the server.

use crate::auth::Credential;
use crate::core::Core;
use crate::group_writer::{self, Look};
use crate::groups::{Changed, Group, Wanted};
use crate::key::Key;
use crate::node::control::deadline;
use crate::nodes::Life;
use crate::push::history::{self, TAIL_ONLY};
use crate::push::presence::locate;
use crate::reach::Call;
use crate::refusal::Refusal;
use crate::table::LifeNo;
use crate::whereabouts::{self, Whereabouts};
use futures_util::future::{join, join_all};
use hawser_proto::code::ErrorCode;
use hawser_proto::frame::cut;
use hawser_proto::id::{DeviceId, Position};
use hawser_proto::limits::TARGETS_PER_CALL_MAX;
use hawser_proto::rpc::node::{CountGroup, Membership, Target, down, membership::Change, up};
use hawser_proto::rpc::push::{
    CreateGroupRequest, GroupInfo, GroupNode, ListGroupsRequest, ListGroupsResponse,
    MembershipRequest, MembershipResponse, MembershipResult,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;
/// Groups that one call has one node count at the same time.
const COUNTS_OF_NODE_MAX: usize = 32;

/// The group with this id, if it belongs to the caller's business.
pub(crate) async fn owned(
    core: &Core,
    by: &Credential,
    group: &str,
) -> Result<(Key, Arc<Group>), Refusal> {
    let key = Key::group(&by.app, group).map_err(|why| Refusal::id("group", why))?;
    let found = group_writer::find(core, &key, Look::Lately).await?.ok_or_else(no_group)?;
    check_owner(by, &found)?;
    Ok((key, found))
}

fn no_group() -> Refusal {
    Refusal::new(ErrorCode::GroupNotFound, "there is no such group")
}

fn check_owner(by: &Credential, group: &Group) -> Result<(), Refusal> {
    if group.owner != by.number {
        let detail = "the group belongs to another business";
        return Err(Refusal::new(ErrorCode::PermissionDenied, detail));
    }
    Ok(())
}

/// Makes a group that belongs to the caller's business.
pub(crate) async fn create(
    core: &Core,
    by: &Credential,
    request: CreateGroupRequest,
) -> Result<GroupInfo, Refusal> {
    let group = request.group.as_str();
    let key = Key::group(&by.app, group).map_err(|why| Refusal::id("group", why))?;
    let history = history::caps(request.history)?;
    // The group of a business that was deleted may not have been removed yet.
    let gone = core
        .groups
        .find(&key)
        .map(|existing| existing.owner)
        .filter(|&owner| core.known.load().is_gone(&by.app, owner));
    let now_ms = core.clock.now_ms();
    let wanted = Wanted::Create { key, owner: by.number, history, now_ms, gone };
    match core.group_writer.change(wanted).await? {
        Changed::Created(made) => Ok(info(core, by, group, &made, Vec::new())),
        Changed::Deleted | Changed::Kept => {
            Err(Refusal::new(ErrorCode::Internal, "a group was to be created"))
        }
    }
}

/// Ends a group of the caller's business; its members are told.
pub(crate) async fn delete(core: &Core, by: &Credential, group: &str) -> Result<(), Refusal> {
    let key = Key::group(&by.app, group).map_err(|why| Refusal::id("group", why))?;
    core.group_writer.change(Wanted::Delete { key, owner: by.number }).await?;
    Ok(())
}

/// A group of the caller's business, with its members counted by the nodes.
pub(crate) async fn describe(
    core: &Core,
    by: &Credential,
    group: &str,
) -> Result<GroupInfo, Refusal> {
    let (key, mut found) = owned(core, by, group).await?;
    let mut ends = None;
    if found.history.is_some() {
        let read = history::read(core, &key, found, Position::START, TAIL_ONLY).await?;
        (found, ends) = read.ok_or_else(no_group)?;
        check_owner(by, &found)?;
    }
    let counting = Counting::until(deadline(core.call_timeout));
    let nodes = counting.members(core, by, group, &found).await;
    let mut told = info(core, by, group, &found, nodes);
    if let Some(ends) = ends {
        (told.tail_term, told.tail_seq) = (ends.tail.term, ends.tail.seq);
        (told.floor_term, told.floor_seq) = (ends.floor.term, ends.floor.seq);
    }
    Ok(told)
}

/// Groups of the caller's business, in order, a page at a time. Where the histories of those that keep one
/// stand is left to [`describe`].
pub(crate) async fn list(
    core: &Core,
    by: &Credential,
    request: ListGroupsRequest,
) -> Result<ListGroupsResponse, Refusal> {
    let page = match request.page_size as usize {
        0 => PAGE_DEFAULT,
        size => size.min(PAGE_MAX),
    };
    let (app, owner) = (by.app.as_str(), by.number.0);
    let asked = core.store.groups_of(app, owner, &request.page_token, page);
    let ids = core.reach.ask(Call::ListGroups, asked).await?;
    let next_page_token = match ids.last() {
        Some(last) if ids.len() == page => last.clone(),
        _ => String::new(),
    };
    let counting = &Counting::until(deadline(core.call_timeout));
    let described = ids.iter().map(|id| async move {
        // Gone meanwhile: left out.
        let (_, group) = owned(core, by, id).await.ok()?;
        let nodes = counting.members(core, by, id, &group).await;
        Some(info(core, by, id, &group, nodes))
    });
    let groups = join_all(described).await.into_iter().flatten().collect();
    Ok(ListGroupsResponse { groups, next_page_token })
}

fn info(core: &Core, by: &Credential, id: &str, group: &Group, nodes: Vec<GroupNode>) -> GroupInfo {
    GroupInfo {
        group: id.to_owned(),
        business: by.business.to_string(),
        created_ms: group.created_ms.cast_signed(),
        members: nodes.iter().map(|node| node.members).sum(),
        nodes,
        pushes_per_second: group.pushes_per_second(core.clock.steady_ms()),
        history: group.history.map(history::told),
        ..GroupInfo::default()
    }
}

/// The counting of one call. What it asks of one node at a time is bounded, so that a page of groups
/// floods none, and a node that is slow holds up only what it is asked itself.
struct Counting {
    until: Instant,
    asked: Mutex<HashMap<LifeNo, Arc<Semaphore>>>,
}

impl Counting {
    fn until(until: Instant) -> Self {
        Self { until, asked: Mutex::default() }
    }

    /// Asks each node that has members. Those that do not answer in time are left out.
    async fn members(
        &self,
        core: &Core,
        by: &Credential,
        id: &str,
        group: &Group,
    ) -> Vec<GroupNode> {
        let lives = group.nodes(&core.nodes, core.clock.steady_ms());
        let asked = lives.iter().map(|life| self.ask(life, by, id));
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn ask(&self, life: &Life, by: &Credential, id: &str) -> Option<GroupNode> {
        let places = {
            let mut asked = self.asked.lock();
            let new = || Arc::new(Semaphore::new(COUNTS_OF_NODE_MAX));
            asked.entry(life.no).or_insert_with(new).clone()
        };
        let turn = tokio::time::timeout_at(self.until.into(), places.acquire());
        let _place = turn.await.ok()?.ok()?;
        // Its turn may have come only because those before it gave up.
        if Instant::now() >= self.until {
            return None;
        }
        let (app, group) = (by.app.to_string(), id.to_owned());
        let question = |call| down::What::CountGroup(CountGroup { call, app, group });
        match life.control()?.ask(self.until, question).await {
            Ok(up::What::GroupCounted(counted)) => {
                Some(GroupNode { node: life.node.to_string(), members: counted.members })
            }
            _ => None,
        }
    }
}

/// Joins, leaves or kicks online devices, on whatever nodes they are.
pub(crate) async fn change(
    core: &Core,
    by: &Credential,
    request: MembershipRequest,
    change: Change,
) -> Result<MembershipResponse, Refusal> {
    if request.devices.len() > TARGETS_PER_CALL_MAX {
        return Err(Refusal::too_large("more than 1,000 devices in one call"));
    }
    for (index, device) in request.devices.iter().enumerate() {
        DeviceId::check(device).map_err(|why| Refusal::id(&format!("devices[{index}]"), why))?;
    }
    owned(core, by, &request.group).await?;
    let reason = cut(&request.reason);
    let mut statuses = vec![0; request.devices.len()];
    let mut bundles: Vec<(Arc<Life>, Vec<usize>, Vec<Target>)> = Vec::new();
    let mut unrouted = Vec::new();
    {
        let view = core.nodes.view(core.clock.steady_ms());
        for (index, device) in request.devices.iter().enumerate() {
            let Some(found) = locate(core, &view, by, device) else {
                statuses[index] = ErrorCode::DeviceOffline.number();
                if let Ok(key) = Key::device(&by.app, device)
                    && !view.is_complete()
                {
                    unrouted.push((index, key));
                }
                continue;
            };
            if !found.serves.contains(&by.number) {
                statuses[index] = ErrorCode::PermissionDenied.number();
                continue;
            }
            let target = found.target(device);
            match bundles.iter_mut().find(|(life, ..)| life.no == found.life.no) {
                Some((_, at, targets)) => {
                    at.push(index);
                    targets.push(target);
                }
                None => bundles.push((found.life, vec![index], vec![target])),
            }
        }
    }
    let until = deadline(core.call_timeout);
    let (app, group, reason) = (by.app.as_str(), request.group.as_str(), reason.as_str());
    let asked = bundles.into_iter().map(|(life, at, targets)| async move {
        let question = |call| {
            down::What::Membership(Membership {
                call,
                boot: life.boot.0,
                app: app.to_owned(),
                group: group.to_owned(),
                business: by.number.0,
                change: change.into(),
                reason: reason.to_owned(),
                targets,
            })
        };
        let answer = match life.control() {
            Some(stream) => stream.ask(until, question).await.map_err(Refusal::from),
            None => Err(crate::node::control::AskError::Gone.into()),
        };
        (at, answer)
    });
    let (answers, found) = join(join_all(asked), whereabouts::ask_all(core, unrouted)).await;
    for (index, place) in found {
        if place != Whereabouts::Offline {
            statuses[index] = ErrorCode::Unavailable.number();
        }
    }
    for (at, answer) in answers {
        for (order, index) in at.into_iter().enumerate() {
            statuses[index] = match &answer {
                Ok(up::What::MembershipDone(done)) => {
                    done.statuses.get(order).copied().unwrap_or(ErrorCode::Internal.number())
                }
                Ok(_) => ErrorCode::Internal.number(),
                Err(refusal) => refusal.code.number(),
            };
        }
    }
    let results = request.devices.into_iter().zip(statuses);
    let results = results.map(|(device, status)| MembershipResult { device, status }).collect();
    Ok(MembershipResponse { results })
}
