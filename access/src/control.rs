//! What an access node hears from control and tells it: the catalogue, reports of itself, new tokens.
//! While control is away the last catalogue stays in force.

pub(crate) mod kept;
mod report;

pub(crate) use report::{Advice, report};

use crate::curse::Part;
use crate::forward::InFlight;
use crate::login;
use crate::node::Node;
use crate::retry::Retry;
use crate::table::{Connection, Signal};
use futures_util::FutureExt as _;
use hawser_chassis::peers::{PeerChannel, Peers, PeersError, Role};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::{NodeFrame, ability};
use hawser_proto::id::SlotRef;
use hawser_proto::params::Refreshed;
use hawser_proto::rpc::control::control_client::ControlClient;
use hawser_proto::rpc::control::update::What;
use hawser_proto::rpc::control::{RefreshTokenRequest, Update, WatchRequest, change::Entity};
use hawser_proto::token::Identity;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Request, Status};
use tracing::error;

const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// A snapshot holds every key of every business.
const UPDATE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A client of control's internal port.
#[derive(Clone)]
pub(crate) struct Control(ControlClient<PeerChannel>);

impl Control {
    /// `Err`: the address cannot be used.
    pub(crate) fn new(uri: &str, peers: &Peers) -> Result<Self, PeersError> {
        let client = ControlClient::new(peers.channel(uri, Role::Control)?);
        Ok(Self(client.max_decoding_message_size(UPDATE_BYTES_MAX)))
    }
}

/// Follows the catalogue until the node stops.
pub(crate) async fn watch(node: Arc<Node>) {
    let mut retry = Retry::new("control watch", &node.links);
    while retry.go_on_after(watch_once(&node)).await {}
}

async fn watch_once(node: &Arc<Node>) -> Result<(), Status> {
    let mut client = node.control.0.clone();
    let who = WatchRequest { role: "access".into(), node: node.config.node.as_str().to_owned() };
    let mut updates = client.watch(who).await?.into_inner();
    while let Some(update) = updates.message().await? {
        apply(node, update).await;
        node.catalogue_news.send_modify(|news| *news += 1);
    }
    Ok(())
}

/// Takes in what control says of the catalogue.
pub(crate) async fn apply(node: &Arc<Node>, update: Update) {
    let ends_sessions = match &update.what {
        Some(What::Snapshot(_)) => true,
        Some(What::Change(change)) => {
            matches!(change.entity, Some(Entity::Revocation(_) | Entity::App(_)))
        }
        None => false,
    };
    let next = node.catalogue.load().apply(update);
    let revision = next.revision;
    node.pools.follow(&next);
    node.catalogue.store(Arc::new(next));
    if ends_sessions {
        sweep(node).await;
    }
    node.metrics.catalogue_revision.set(revision as i64);
}

/// Closes live sessions whose token was revoked or whose app is gone.
async fn sweep(node: &Arc<Node>) {
    let catalogue = node.catalogue.load_full();
    for slot in 0..node.table.slots_used() {
        node.table.visit(slot, |_, connection| {
            let Some(identity) = &connection.identity else { return };
            let is_enabled = catalogue.app(&identity.app).is_some_and(|app| app.enabled);
            let (device, issued_ms) = (&identity.device, identity.token_issued_at_ms);
            if !is_enabled {
                connection.order(Signal::Ordered(CloseCode::AppUnavailable, String::new()));
            } else if catalogue.is_revoked(&identity.app, device, issued_ms) {
                connection.order(Signal::Ordered(CloseCode::TokenRevoked, String::new()));
            }
        });
        if slot % 1024 == 1023 {
            tokio::task::yield_now().await;
        }
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

async fn call<T>(
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// Takes a REFRESH off a connection, or answers at once why not: there is one at a time.
pub(crate) fn begin_refresh(node: &Arc<Node>, at: SlotRef, request_id: u64) {
    if let Some(Err(code)) = node.table.with(at, Connection::begin_refresh) {
        node.table.write(at, &NodeFrame::Refreshed(not_refreshed(request_id, code)));
        return;
    }
    let node = node.clone();
    node.tasks.clone().spawn_light(async move {
        let _counted = InFlight { node: &node, at };
        let refreshing = AssertUnwindSafe(refresh(&node, at, request_id)).catch_unwind();
        if refreshing.await.is_err() {
            node.metrics.panicked(Part::Request);
            error!(part = "refresh", "a request panicked: it alone is refused");
            let refused = not_refreshed(request_id, ErrorCode::Internal);
            node.table.write(at, &NodeFrame::Refreshed(refused));
        }
    });
}

/// Lets the next REFRESH of a connection in, however the task of this one ends.
struct Refreshing<'n> {
    node: &'n Node,
    at: SlotRef,
}

impl Drop for Refreshing<'_> {
    fn drop(&mut self) {
        self.node.table.with(self.at, |connection| connection.is_refreshing = false);
    }
}

/// Gets a new token for a live session, and tells the device.
async fn refresh(node: &Node, at: SlotRef, request_id: u64) {
    let refreshing = Refreshing { node, at };
    let asked = node.table.with(at, |connection| {
        let identity = connection.identity.as_ref()?;
        let businesses = identity.rights.token_businesses.iter();
        Some(RefreshTokenRequest {
            app: identity.app.as_str().to_owned(),
            device: identity.device.as_str().to_owned(),
            issued_at_ms: identity.token_issued_at_ms as i64,
            businesses: businesses.map(|business| business.as_str().to_owned()).collect(),
        })
    });
    let Some(asked) = asked.flatten() else { return };
    let answer = call(node.control.0.clone().refresh_token(timed(asked))).await;
    let refreshed = match answer {
        Ok(token) => {
            let renewed = node.table.with(at, |connection| {
                let has_tickets = connection.has(ability::RESUME);
                let identity = connection.identity.as_mut()?;
                identity.token_issued_at_ms = token.issued_at_ms.max(0) as u64;
                identity.token_expires_at_ms = token.expires_at_ms.max(0) as u64;
                has_tickets.then(|| Identity {
                    app: identity.app.clone(),
                    device: identity.device.clone(),
                    businesses: identity.rights.token_businesses.to_vec(),
                    issued_at_ms: identity.token_issued_at_ms,
                    expires_at_ms: identity.token_expires_at_ms,
                })
            });
            let ticket = renewed.flatten().and_then(|identity| {
                login::ticket(&node.catalogue.load(), &identity, node.table.exact_wall_ms())
            });
            Refreshed {
                resume_ticket: ticket.unwrap_or_default(),
                request_id,
                token: token.token,
                token_refresh_at_ms: token.refresh_at_ms.max(0) as u64,
                token_expires_at_ms: token.expires_at_ms.max(0) as u64,
                ..Default::default()
            }
        }
        Err(status) => {
            let code = match status.code() {
                Code::PermissionDenied => ErrorCode::Revoked,
                _ => ErrorCode::Unavailable,
            };
            not_refreshed(request_id, code)
        }
    };
    // Before the answer: the device may send the next one as soon as it has it.
    drop(refreshing);
    node.table.write(at, &NodeFrame::Refreshed(refreshed));
}

/// The answer to a refresh that was refused.
fn not_refreshed(request_id: u64, code: ErrorCode) -> Refreshed {
    let message = code.meaning().to_owned();
    Refreshed { request_id, status: code.number(), message, ..Default::default() }
}
