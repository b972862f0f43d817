//! A login: the device's proof is checked here, offline, and the device is claimed at the router.

mod proof;

use crate::downlink;
use crate::groups::GroupKey;
use crate::node::Node;
use crate::routers::Unbound;
use crate::session::Event;
use crate::table::{ClientFacts, Identity, Rights};
use bytes::Bytes;
use hawser_proto::catalogue::Catalogue;
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::{NodeFrame, ability};
use hawser_proto::id::{AppId, BusinessId, BusinessNo, DeviceId, Epoch, Position, SlotRef};
use hawser_proto::limits::{
    BUSINESSES_PER_CONNECTION_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MAX_DEFAULT,
    GROUPS_PER_CONNECTION_MAX, REQUESTS_IN_FLIGHT_MAX,
};
use hawser_proto::params::{BusinessNumber, Cursor, Inbox, Login, LoginOk};
use hawser_proto::rpc::control::App;
use hawser_proto::rpc::node::InboxTail;
use hawser_proto::token;
use proof::Proven;
pub(crate) use proof::ticket;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes kept of what a device says of itself, each.
const FACT_BYTES_MAX: usize = 64;

/// A login that was taken, and its answer.
pub(crate) struct Admitted {
    pub(crate) answer: NodeFrame,
    pub(crate) idle_timeout: Duration,
    pub(crate) frame_bytes_max: usize,
    /// Abilities in force.
    pub(crate) abilities: u32,
}

type Refusal = (CloseCode, &'static str);

/// The abilities of this release. GO_AWAY only where devices are told.
fn abilities(node: &Node) -> u32 {
    let go_away = if node.config.go_away_deadline.is_zero() { 0 } else { ability::GO_AWAY };
    ability::INBOX | ability::HISTORY | ability::RESUME | ability::ZSTD | go_away
}

/// Checks a login and claims the device for this connection. On success the slot's identity is
/// complete, and pushes may already be on their way; the caller writes the answer.
///
/// Not cancel-safe: a claim that is abandoned is given back when the router's answer arrives.
pub(crate) async fn login(
    node: &Arc<Node>,
    at: SlotRef,
    login: Login,
    origin: Option<&str>,
) -> Result<Admitted, Event> {
    let begun = Instant::now();
    let from = node.table.with(at, |connection| (connection.dialled, connection.remote));
    let taken = match from {
        Some((_, remote)) if node.admission.is_limited(remote) => {
            Err((CloseCode::RateLimited, CloseCode::RateLimited.meaning()))
        }
        _ => match check(node, at, &login, origin) {
            Err(Unproven { refusal, is_fault }) => {
                if let Some((_, remote)) = from
                    && is_fault
                {
                    node.admission.login_failed(remote);
                }
                Err(refusal)
            }
            Ok(checked) => claim(node, at, checked).await,
        },
    };
    if let Some((dialled, _)) = from {
        let result = taken.as_ref().map(|_| begun.elapsed().as_secs_f64());
        node.metrics.login(dialled, result.map_err(|&(code, _)| code));
    }
    taken.map_err(|(code, reason)| Event::Refused(code, reason.to_owned()))
}

/// A login that does not hold, and whether that is the device's own fault, which counts against its address.
struct Unproven {
    refusal: Refusal,
    is_fault: bool,
}

impl From<Refusal> for Unproven {
    fn from(refusal: Refusal) -> Self {
        let is_fault = !matches!(refusal.0, CloseCode::Overloaded | CloseCode::Internal);
        Self { refusal, is_fault }
    }
}

struct Checked {
    app: AppId,
    settings: Arc<App>,
    identity: Identity,
    numbers: Vec<BusinessNumber>,
    abilities: u32,
    /// For the next login; empty: none.
    resume_ticket: Bytes,
    /// Of businesses that are served, by number.
    cursors: Vec<(BusinessNo, Position)>,
}

/// Everything that needs nobody else.
fn check(
    node: &Node,
    at: SlotRef,
    login: &Login,
    origin: Option<&str>,
) -> Result<Checked, Unproven> {
    let app =
        AppId::new(&login.app).map_err(|_| (CloseCode::BadFrame, "the app id is malformed"))?;
    let device = DeviceId::new(&login.device)
        .map_err(|_| (CloseCode::BadFrame, "the device id is malformed"))?;
    let catalogue = node.catalogue.load();
    if catalogue.revision == 0 {
        return Err((CloseCode::Overloaded, "this node has not heard from control yet").into());
    }
    let now_ms = node.table.exact_wall_ms();
    let Proven { identity, is_ticket } = proof::prove(&catalogue, &app, &device, login, now_ms)?;
    // The catalogue's own name of the app, which all its sessions share.
    let (app, settings) = match catalogue.app_entry(&app) {
        Some((app, settings)) if settings.enabled => (app.clone(), settings.clone()),
        Some(_) | None => {
            return Err((CloseCode::AppUnavailable, CloseCode::AppUnavailable.meaning()).into());
        }
    };
    if !allows_origin(&settings, origin) {
        return Err((CloseCode::AppUnavailable, "the app does not allow this origin").into());
    }
    node.metrics.login_proof(is_ticket);
    let abilities = login.abilities & abilities(node);
    let resume_ticket = if abilities & ability::RESUME == 0 {
        Bytes::new()
    } else {
        proof::ticket(&catalogue, &identity, now_ms).unwrap_or_default()
    };
    let instance = <[u8; 16]>::try_from(&login.instance[..])
        .map_err(|_| (CloseCode::BadFrame, "the instance is not 16 bytes"))?;
    let numbers = businesses(&catalogue, &app, &identity, &login.businesses);
    let mut served: Vec<BusinessNo> =
        numbers.iter().filter(|it| it.status == 0).map(|it| BusinessNo(it.number)).collect();
    served.sort_unstable();
    served.dedup();
    let facts = login.client.as_ref().map(|client| ClientFacts {
        sdk: fact(&client.sdk),
        platform: fact(&client.platform),
        app_version: fact(&client.app_version),
    });
    let rights = Rights {
        businesses: served.into_boxed_slice(),
        token_businesses: identity.businesses.into_boxed_slice(),
    };
    let identity = Identity {
        app: app.clone(),
        device,
        epoch: Epoch(0),
        first_epoch: Epoch(0),
        kicked_epoch: None,
        instance,
        attempt: login.attempt,
        rights: node.shared.rights(rights),
        client: node.shared.client(facts.unwrap_or_default()),
        login_at_ms: now_ms,
        token_issued_at_ms: identity.issued_at_ms,
        token_expires_at_ms: identity.expires_at_ms,
        attributes: None,
    };
    node.table.with(at, |_| ()).ok_or((CloseCode::Internal, "the connection has gone"))?;
    let cursors =
        if abilities & ability::INBOX == 0 { Vec::new() } else { cursors(login, &numbers) };
    Ok(Checked { app, settings, identity, numbers, abilities, resume_ticket, cursors })
}

/// The cursors of the businesses that this session serves, by their numbers.
fn cursors(login: &Login, numbers: &[BusinessNumber]) -> Vec<(BusinessNo, Position)> {
    let number = |cursor: &Cursor| {
        let business = numbers.iter().find(|it| it.status == 0 && it.name == cursor.business)?;
        Some((BusinessNo(business.number), Position::new(cursor.term, cursor.seq)))
    };
    login.cursors.iter().filter_map(number).collect()
}

/// An inbox as the device is told of it.
fn inbox(tail: &InboxTail) -> Inbox {
    Inbox {
        business: tail.business,
        tail_term: tail.tail_term,
        tail_seq: tail.tail_seq,
        floor_term: tail.floor_term,
        floor_seq: tail.floor_seq,
        state: tail.state as i32,
    }
}

fn fact(text: &str) -> String {
    let mut kept: String = text.chars().filter(|c| !c.is_control()).collect();
    kept.truncate(kept.floor_char_boundary(FACT_BYTES_MAX));
    kept
}

fn allows_origin(app: &App, origin: Option<&str>) -> bool {
    let Some(origin) = origin else { return true };
    app.allowed_origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
}

/// The numbers of the businesses that were asked for; of all that the token allows, if none was.
fn businesses(
    catalogue: &Catalogue,
    app: &AppId,
    identity: &token::Identity,
    asked: &[String],
) -> Vec<BusinessNumber> {
    if asked.is_empty() {
        let mut all: Vec<BusinessNumber> = catalogue
            .businesses()
            .filter(|((of, _), business)| of == app && identity.allows(&business.business))
            .map(|((_, no), business)| BusinessNumber {
                name: business.business.clone(),
                number: no.0,
                status: 0,
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.truncate(BUSINESSES_PER_CONNECTION_MAX);
        return all;
    }
    let number = |name: &String| {
        let refused = |code: ErrorCode| BusinessNumber {
            name: hawser_proto::frame::cut(name),
            number: 0,
            status: code.number(),
        };
        let found = BusinessId::new(name).ok().and_then(|id| catalogue.number(app, &id));
        match found {
            None => refused(ErrorCode::UnknownBusiness),
            Some(_) if !identity.allows(name) => refused(ErrorCode::PermissionDenied),
            Some(no) => BusinessNumber { name: name.clone(), number: no.0, status: 0 },
        }
    };
    asked.iter().map(number).collect()
}

/// Claims the device at the router.
async fn claim(node: &Arc<Node>, at: SlotRef, checked: Checked) -> Result<Admitted, Refusal> {
    let Checked { app, settings, identity, numbers, abilities, resume_ticket, cursors } = checked;
    let (issued_ms, expires_ms) = (identity.token_issued_at_ms, identity.token_expires_at_ms);
    let (login_at_ms, device) = (identity.login_at_ms, identity.device.clone());
    node.table.with(at, |connection| {
        connection.identity = Some(Box::new(identity));
        connection.abilities = abilities as u8;
        downlink::begin(connection, &cursors);
    });
    let bound = match node.routers.bind(node, at, &app, &device).await {
        Ok(bound) => bound,
        Err(unbound) => {
            return Err(match unbound {
                Unbound::StaleAttempt => (CloseCode::StaleLogin, CloseCode::StaleLogin.meaning()),
                Unbound::Superseded => (CloseCode::Superseded, CloseCode::Superseded.meaning()),
                Unbound::Kicked(code) => (code, code.meaning()),
                Unbound::Unavailable => {
                    (CloseCode::RouterUnavailable, CloseCode::RouterUnavailable.meaning())
                }
            });
        }
    };
    // A revocation that came while the claim was under way has looked at a session without an epoch.
    if node.catalogue.load().is_revoked(&app, &device, issued_ms) {
        return Err((CloseCode::TokenRevoked, CloseCode::TokenRevoked.meaning()));
    }
    let or = |ms: u32, default: Duration| match ms {
        0 => default,
        ms => Duration::from_millis(ms.into()),
    };
    let heartbeat = or(settings.heartbeat_ms, node.config.heartbeat);
    let idle_timeout = or(settings.idle_timeout_ms, node.config.idle_timeout);
    let frame_bytes_max = frame_bytes_max(&settings);
    node.table.with(at, |connection| connection.frame_bytes_max = frame_bytes_max as u32);
    let answer = NodeFrame::LoginOk(LoginOk {
        connection: node.connection_id(at),
        epoch: bound.epoch.0,
        businesses: numbers,
        heartbeat_ms: heartbeat.as_millis() as u32,
        idle_timeout_ms: idle_timeout.as_millis() as u32,
        server_time_ms: login_at_ms,
        frame_bytes_max: frame_bytes_max as u32,
        groups_max: GROUPS_PER_CONNECTION_MAX as u32,
        requests_in_flight_max: REQUESTS_IN_FLIGHT_MAX as u32,
        token_refresh_at_ms: token::refresh_at_ms(&app, &device, issued_ms, expires_ms),
        token_expires_at_ms: expires_ms,
        abilities,
        inboxes: if abilities & ability::INBOX == 0 {
            Vec::new()
        } else {
            bound.inboxes.iter().map(inbox).collect()
        },
        resume_ticket,
        reconnect_window_ms: node.advice.load().reconnect_window_ms,
    });
    Ok(Admitted { answer, idle_timeout, frame_bytes_max, abilities })
}

/// The frame limit of an app, header included.
fn frame_bytes_max(app: &App) -> usize {
    match app.frame_bytes_max as usize {
        0 => FRAME_BYTES_MAX_DEFAULT,
        wanted => wanted.min(FRAME_BYTES_MAX),
    }
}

/// The names of a group that a device asks for.
pub(crate) fn group_key(node: &Node, at: SlotRef, group: &str) -> Result<GroupKey, ErrorCode> {
    let group = hawser_proto::id::GroupId::new(group).map_err(|_| ErrorCode::InvalidArgument)?;
    let app = node
        .table
        .with(at, |connection| connection.identity.as_ref().map(|identity| identity.app.clone()))
        .flatten()
        .ok_or(ErrorCode::Internal)?;
    Ok((app, group))
}
