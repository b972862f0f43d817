//! Presence calls: who is online, what is known of a session, and its end by the business.

use crate::auth::Credential;
use crate::core::Core;
use crate::key::Key;
use crate::node::control::{AskError, deadline};
use crate::nodes::{Life, View};
use crate::refusal::Refusal;
use crate::whereabouts::{self, Whereabouts};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::cut;
use hawser_proto::id::{BusinessNo, ConnId, SlotRef};
use hawser_proto::limits::TARGETS_PER_CALL_MAX;
use hawser_proto::rpc::node::{DescribeSession, Kick, SessionDescribed, Target, down, up};
use hawser_proto::rpc::push::{
    DeviceInfo, DevicePresence, DisconnectRequest, DisconnectResponse, PresenceRequest,
    PresenceResponse, PresenceState,
};
use std::sync::Arc;

/// Where a device's session is.
pub(crate) struct Located {
    pub(crate) life: Arc<Life>,
    pub(crate) serves: Vec<BusinessNo>,
    at: SlotRef,
    epoch: u64,
    since_ms: u64,
}

impl Located {
    /// Names the session to its node.
    pub(crate) fn target(&self, device: &str) -> Target {
        let SlotRef { slot, generation } = self.at;
        Target { slot, generation, epoch: self.epoch, device: device.to_owned() }
    }

    fn state(&self) -> PresenceState {
        if self.life.is_heard() { PresenceState::Online } else { PresenceState::Unknown }
    }
}

/// The live session of a device. `None` also for a malformed id: callers have checked the form.
pub(crate) fn locate(core: &Core, view: &View, by: &Credential, device: &str) -> Option<Located> {
    let key = Key::device(&by.app, device).ok()?;
    let (owner, epoch, since_ms, serves) = core.table.look(&key, |owner, route| {
        (owner, route.epoch, route.at_ms, route.serves.iter().collect())
    })?;
    let life = view.owner(&owner)?.clone();
    Some(Located { life, serves, at: owner.at, epoch, since_ms })
}

/// Online state of many devices.
pub(crate) async fn presence(
    core: &Core,
    by: &Credential,
    request: PresenceRequest,
) -> Result<PresenceResponse, Refusal> {
    if request.devices.len() > TARGETS_PER_CALL_MAX {
        return Err(Refusal::too_large("more than 1,000 devices in one call"));
    }
    let mut devices = Vec::with_capacity(request.devices.len());
    let unrouted = known(core, by, request, &mut devices)?;
    // Nobody waits for the store while all routes are known.
    if !unrouted.is_empty() {
        for (index, place) in whereabouts::ask_all(core, unrouted).await {
            let told: &mut DevicePresence = &mut devices[index];
            match place {
                Whereabouts::Offline => {}
                Whereabouts::Elsewhere(_, epoch) => {
                    (told.state, told.epoch) = (PresenceState::Unknown.into(), epoch);
                }
                Whereabouts::Unknown => told.state = PresenceState::Unknown.into(),
            }
        }
    }
    Ok(PresenceResponse { devices })
}

/// What is known here of each. Returns those that may be elsewhere.
fn known(
    core: &Core,
    by: &Credential,
    request: PresenceRequest,
    devices: &mut Vec<DevicePresence>,
) -> Result<Vec<(usize, Key)>, Refusal> {
    let mut unrouted = Vec::new();
    let view = core.nodes.view(core.clock.steady_ms());
    for (index, device) in request.devices.into_iter().enumerate() {
        let key = Key::device(&by.app, &device)
            .map_err(|why| Refusal::id(&format!("devices[{index}]"), why))?;
        let found = core.table.look(&key, |owner, route| (owner, route.epoch, route.at_ms));
        let route = found.filter(|(owner, ..)| view.owner(owner).is_some());
        let (state, epoch, since_ms) = if let Some((owner, epoch, at_ms)) = route {
            let heard = view.owner(&owner).is_some_and(|life| life.is_heard());
            let state = if heard { PresenceState::Online } else { PresenceState::Unknown };
            (state, epoch, at_ms.cast_signed())
        } else {
            if !view.is_complete() {
                unrouted.push((index, key));
            }
            (PresenceState::Offline, 0, 0)
        };
        devices.push(DevicePresence { device, state: state.into(), epoch, since_ms });
    }
    Ok(unrouted)
}

/// What is known of a device's session, its node asked.
pub(crate) async fn describe(
    core: &Core,
    by: &Credential,
    device: String,
) -> Result<DeviceInfo, Refusal> {
    let key = Key::device(&by.app, &device).map_err(|why| Refusal::id("device", why))?;
    let offline =
        |device| DeviceInfo { device, state: PresenceState::Offline.into(), ..Default::default() };
    let (located, is_complete) = {
        let view = core.nodes.view(core.clock.steady_ms());
        (locate(core, &view, by, &device), view.is_complete())
    };
    let found = match located {
        Some(found) => found,
        None if is_complete => return Ok(offline(device)),
        None => {
            let state = PresenceState::Unknown.into();
            return Ok(match whereabouts::ask(core, &key).await {
                Whereabouts::Offline => offline(device),
                Whereabouts::Unknown => DeviceInfo { device, state, ..Default::default() },
                Whereabouts::Elsewhere(owner, epoch) => DeviceInfo {
                    device,
                    state,
                    epoch,
                    node: owner.node.to_string(),
                    connection_id: ConnId { node: owner.node, boot: owner.boot, at: owner.at }
                        .to_string(),
                    ..Default::default()
                },
            });
        }
    };
    let (boot, app) = (found.life.boot.0, by.app.to_string());
    let target = Some(found.target(&device));
    let question = |call| down::What::DescribeSession(DescribeSession { call, boot, app, target });
    let asked = match found.life.control() {
        Some(stream) => stream.ask(deadline(core.call_timeout), question).await,
        None => Err(AskError::Gone),
    };
    let session = match asked {
        Ok(up::What::Session(session)) if session.found => session,
        Ok(_) => return Ok(offline(device)),
        // Its lease holds, so it may well be there: what the route says is still worth telling.
        Err(_) => return Ok(told(core, by, device, &found, PresenceState::Unknown, None)),
    };
    let state = found.state();
    Ok(told(core, by, device, &found, state, Some(session)))
}

fn told(
    core: &Core,
    by: &Credential,
    device: String,
    found: &Located,
    state: PresenceState,
    session: Option<SessionDescribed>,
) -> DeviceInfo {
    let known = core.known.load();
    let name = |&number: &BusinessNo| {
        known.catalogue.business(&by.app, number).map(|business| business.business.clone())
    };
    let session = session.unwrap_or_default();
    let (node, boot, at) = (found.life.node.clone(), found.life.boot, found.at);
    DeviceInfo {
        device,
        state: state.into(),
        connection_id: ConnId { node, boot, at }.to_string(),
        node: found.life.node.to_string(),
        epoch: found.epoch,
        since_ms: found.since_ms.cast_signed(),
        transport: session.transport,
        remote_ip: session.remote_ip,
        platform: session.platform,
        sdk: session.sdk,
        app_version: session.app_version,
        businesses: found.serves.iter().filter_map(name).collect(),
        groups: session.groups,
    }
}

/// Closes the session of a device.
pub(crate) async fn disconnect(
    core: &Core,
    by: &Credential,
    request: DisconnectRequest,
) -> Result<DisconnectResponse, Refusal> {
    let key = Key::device(&by.app, &request.device).map_err(|why| Refusal::id("device", why))?;
    let (located, is_complete) = {
        let view = core.nodes.view(core.clock.steady_ms());
        (locate(core, &view, by, &request.device), view.is_complete())
    };
    let found = match located {
        Some(found) => found,
        None if is_complete => return Ok(DisconnectResponse { was_online: false }),
        None => match whereabouts::ask(core, &key).await {
            Whereabouts::Offline => return Ok(DisconnectResponse { was_online: false }),
            Whereabouts::Unknown => return Err(AskError::Gone.into()),
            // Its node may be heard here, and not have told of it yet.
            Whereabouts::Elsewhere(owner, epoch) => {
                let life = core.nodes.find(&owner.node, owner.boot, core.clock.steady_ms());
                let life = life.ok_or(AskError::Gone)?;
                Located { life, serves: Vec::new(), at: owner.at, epoch, since_ms: epoch }
            }
        },
    };
    let told = if request.eject { CloseCode::Ejected } else { CloseCode::Disconnected };
    let question = |call| {
        down::What::Kick(Kick {
            call,
            app: by.app.to_string(),
            device: request.device,
            slot: found.at.slot,
            generation: found.at.generation,
            epoch: found.epoch,
            code: told.number().into(),
            reason: cut(&request.reason),
            boot: found.life.boot.0,
        })
    };
    let stream = found.life.control().ok_or(AskError::Gone)?;
    match stream.ask(deadline(core.call_timeout), question).await? {
        up::What::KickDone(done) => Ok(DisconnectResponse { was_online: done.matched }),
        _ => Err(Refusal::new(ErrorCode::Internal, "the access node answered something else")),
    }
}
