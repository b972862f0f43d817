//! Requests on their way to a business: a pool per business with a bounded queue, bounded
//! concurrency and a deadline. The connection's reader only hands over; a slow business holds up
//! nobody but itself.

use crate::curse::Part;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::table::Connection;
use bytes::Bytes;
use futures_util::FutureExt as _;
use hawser_chassis::callback::{self, Callbacks};
use hawser_proto::catalogue::Catalogue;
use hawser_proto::code::ErrorCode;
use hawser_proto::frame::{NodeFrame, check_metadata, cut};
use hawser_proto::id::{AppId, BusinessNo, SlotRef};
use hawser_proto::limits::{ATTRIBUTES_BYTES_MAX, HEADER_BYTES};
use hawser_proto::params;
use hawser_proto::rpc::business::business_client::BusinessClient;
use hawser_proto::rpc::business::{HandleRequest, HandleResponse, Session};
use hawser_proto::rpc::control::Business;
use parking_lot::RwLock;
use prost::Message as _;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tonic::Code;
use tonic::transport::Channel;
use tracing::{debug, error, warn};

/// What a business may have at once when it expects this much a second: half a second of calls.
const CONCURRENCY_MIN: usize = 16;
const CONCURRENCY_MAX: usize = 1_024;
/// What may wait: one second of calls more.
const QUEUE_MIN: usize = 64;
const QUEUE_MAX: usize = 4_096;
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Answers are bounded as requests are; the frame limit is checked when the answer is written.
const ANSWER_BYTES_MAX: usize = 2 * hawser_proto::limits::FRAME_BYTES_MAX;

/// The pool of one business on this node.
struct Pool {
    app: AppId,
    business: Arc<Business>,
    clients: Vec<BusinessClient<Channel>>,
    next: AtomicUsize,
    running: Semaphore,
    /// Requests taken and not answered, waiting ones included.
    taken: AtomicUsize,
    taken_max: usize,
    timeout: Duration,
}

impl Pool {
    fn new(app: &AppId, business: &Arc<Business>, callbacks: &Callbacks) -> Self {
        let expected = business.expected_requests_per_second as usize;
        let concurrency = (expected / 2).clamp(CONCURRENCY_MIN, CONCURRENCY_MAX);
        let connect = |uri: &String| match callback::channel(uri, callbacks) {
            Ok(channel) => Some(
                BusinessClient::new(channel)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .max_encoding_message_size(ANSWER_BYTES_MAX),
            ),
            Err(error) => {
                warn!(%app, business = business.business, %error, "endpoint is not a usable address");
                None
            }
        };
        let timeout = match business.request_timeout_ms {
            0 => TIMEOUT_DEFAULT,
            ms => Duration::from_millis(ms.into()),
        };
        Self {
            app: app.clone(),
            clients: business.endpoints.iter().filter_map(connect).collect(),
            next: AtomicUsize::new(0),
            running: Semaphore::new(concurrency),
            taken: AtomicUsize::new(0),
            taken_max: concurrency + expected.clamp(QUEUE_MIN, QUEUE_MAX),
            timeout,
            business: business.clone(),
        }
    }

    fn take(self: &Arc<Self>) -> Option<Taken> {
        let before = self.taken.fetch_add(1, Ordering::AcqRel);
        let taken = Taken(self.clone());
        (before < self.taken_max).then_some(taken)
    }

    /// Endpoints take turns.
    fn client(&self) -> Option<BusinessClient<Channel>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let index = turn.checked_rem(self.clients.len())?;
        self.clients.get(index).cloned()
    }
}

/// A place in a pool; given back by drop.
struct Taken(Arc<Pool>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All pools of one node, following the catalogue.
pub(crate) struct Pools {
    callbacks: Callbacks,
    by_business: RwLock<HashMap<(AppId, BusinessNo), Arc<Pool>>>,
}

impl Pools {
    /// None yet. `callbacks`: which addresses they may call.
    pub(crate) fn new(callbacks: Callbacks) -> Self {
        Self { callbacks, by_business: RwLock::default() }
    }

    /// Makes, replaces and drops pools as the catalogue says. Calls under way end on their old pool.
    pub(crate) fn follow(&self, catalogue: &Catalogue) {
        let mut pools = self.by_business.write();
        pools.retain(|(app, no), _| catalogue.business(app, *no).is_some());
        for ((app, no), business) in catalogue.businesses() {
            let key = (app.clone(), *no);
            let is_same = pools.get(&key).is_some_and(|pool| pool.business == *business);
            if !is_same {
                pools.insert(key, Arc::new(Pool::new(app, business, &self.callbacks)));
            }
        }
    }

    fn pool(&self, app: &AppId, business: BusinessNo) -> Option<Arc<Pool>> {
        self.by_business.read().get(&(app.clone(), business)).cloned()
    }
}

/// Takes a request off a connection: into its business's pool, or answers at once why not.
pub(crate) fn forward(node: &Arc<Node>, at: SlotRef, request: params::Request, body: Bytes) {
    let request_id = request.request_id;
    let business = BusinessNo(request.business);
    let arrived = Instant::now();
    let taken = node
        .table
        .with(at, |connection| {
            let Some(identity) = &connection.identity else { return Err(ErrorCode::Internal) };
            if !identity.serves(business) {
                return Err(ErrorCode::UnknownBusiness);
            }
            let Some(pool) = node.pools.pool(&identity.app, business) else {
                return Err(ErrorCode::UnknownBusiness);
            };
            if !pool.business.enabled {
                return Err(ErrorCode::Disabled);
            }
            let taken = pool.take().ok_or(ErrorCode::Overloaded)?;
            connection.begin_request()?;
            let call = call_of(node, at, connection, &pool, request, body);
            Ok((taken, call))
        })
        .unwrap_or(Err(ErrorCode::Internal));
    match taken {
        Err(code) => {
            node.table.write(at, &refusal(request_id, code, code.meaning()));
        }
        Ok((taken, call)) => {
            let node = node.clone();
            node.tasks.clone().spawn_light(async move {
                let answered = InFlight { node: &node, at };
                let serving = AssertUnwindSafe(async {
                    node.config.curse.at(Part::Request, &call.method);
                    let answer = run(&taken.0, call, &node.metrics, arrived).await;
                    write_answer(&node, at, &taken.0, request_id, answer);
                });
                if serving.catch_unwind().await.is_err() {
                    node.metrics.panicked(Part::Request);
                    let business = &taken.0.business.business;
                    error!(app = %taken.0.app, business, "a request panicked: it alone is refused");
                    let code = ErrorCode::Internal;
                    node.table.write(at, &refusal(request_id, code, code.meaning()));
                }
                drop(answered);
            });
        }
    }
}

/// Counts a request out of its connection, however its task ends.
pub(crate) struct InFlight<'n> {
    pub(crate) node: &'n Node,
    pub(crate) at: SlotRef,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.node.table.with(self.at, Connection::end_request);
    }
}

fn call_of(
    node: &Node,
    at: SlotRef,
    connection: &Connection,
    pool: &Pool,
    request: params::Request,
    body: Bytes,
) -> HandleRequest {
    let identity = connection.identity.as_deref();
    let business = BusinessNo(pool.business.number);
    let session = identity.map(|identity| Session {
        connection_id: node.connection_id(at),
        epoch: identity.epoch.0,
        login_time_ms: identity.login_at_ms as i64,
        transport: connection.dialled.name().to_owned(),
        remote_ip: connection.remote.to_string(),
        platform: identity.client.platform.clone(),
        sdk: identity.client.sdk.clone(),
        app_version: identity.client.app_version.clone(),
        attributes: identity.attributes_of(business),
    });
    let wanted = match request.deadline_ms {
        0 => pool.timeout,
        ms => pool.timeout.min(Duration::from_millis(ms.into())),
    };
    HandleRequest {
        app: pool.app.as_str().to_owned(),
        business: pool.business.business.clone(),
        device: identity.map_or_else(String::new, |it| it.device.as_str().to_owned()),
        request_id: request.request_id,
        method: request.method,
        metadata: request.metadata,
        traceparent: request.traceparent,
        session,
        deadline_ms: wanted.as_millis() as u32,
        body,
    }
}

type Answer = Result<HandleResponse, (ErrorCode, String)>;

async fn run(pool: &Pool, mut call: HandleRequest, metrics: &Metrics, arrived: Instant) -> Answer {
    let patience = Duration::from_millis(call.deadline_ms.into());
    let answer = tokio::time::timeout_at((arrived + patience).into(), async {
        // The semaphore is never closed; a closed one would mean the pool is gone.
        let running = pool.running.acquire().await;
        let Ok(_running) = running else { return Err(plain(ErrorCode::Unavailable)) };
        let Some(mut client) = pool.client() else { return Err(plain(ErrorCode::Unavailable)) };
        // What is left of it after the wait.
        let left = patience.saturating_sub(arrived.elapsed());
        call.deadline_ms = left.as_millis().max(1) as u32;
        let response = client.handle(call).await.map_err(|status| refused(&status))?;
        Ok(response.into_inner())
    })
    .await
    .unwrap_or_else(|_| Err(plain(ErrorCode::DeadlineExceeded)));
    let status = answer.as_ref().map_or_else(|(code, _)| code.name(), |_| "ok");
    let seconds = arrived.elapsed().as_secs_f64();
    metrics.request(pool.app.as_str(), &pool.business.business, status, seconds);
    answer
}

fn plain(code: ErrorCode) -> (ErrorCode, String) {
    (code, code.meaning().to_owned())
}

/// What a business's gRPC error becomes, as business.proto promises.
fn refused(status: &tonic::Status) -> (ErrorCode, String) {
    let code = match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => ErrorCode::DeadlineExceeded,
        Code::Unavailable => ErrorCode::Unavailable,
        Code::ResourceExhausted => ErrorCode::Overloaded,
        Code::PermissionDenied => ErrorCode::PermissionDenied,
        Code::NotFound => ErrorCode::NotFound,
        Code::InvalidArgument => ErrorCode::InvalidArgument,
        // tonic's own words, and the only sign that it was not the business who said so.
        Code::OutOfRange if status.message().contains("message length too large") => {
            return (ErrorCode::TooLarge, "the answer is above what a node takes in".into());
        }
        _ => ErrorCode::BusinessFailed,
    };
    // What the transport says of an unreachable business is not the device's affair.
    match code {
        ErrorCode::Unavailable => {
            debug!(reason = status.message(), "business cannot be reached");
            plain(code)
        }
        _ => (code, cut(status.message())),
    }
}

fn write_answer(node: &Node, at: SlotRef, pool: &Pool, request_id: u64, answer: Answer) {
    let frame = match answer {
        Ok(response) => match accept(node, at, pool, request_id, &response) {
            Ok(()) => {
                let HandleResponse { body, metadata, .. } = response;
                let params =
                    params::Response { request_id, status: 0, message: String::new(), metadata };
                NodeFrame::Response(params, body)
            }
            Err((code, message)) => refusal(request_id, code, &message),
        },
        Err((code, message)) => refusal(request_id, code, &message),
    };
    node.table.write(at, &frame);
}

/// Checks an answer against the limits, and writes its attributes into the session.
fn accept(
    node: &Node,
    at: SlotRef,
    pool: &Pool,
    request_id: u64,
    response: &HandleResponse,
) -> Result<(), (ErrorCode, String)> {
    let failed = |message: &str| (ErrorCode::BusinessFailed, message.to_owned());
    check_metadata(&response.metadata).map_err(failed)?;
    let told = node.table.with(at, |connection| connection.frame_bytes_max as usize);
    // Nobody is there to read it.
    let Some(frame_bytes_max) = told else { return Ok(()) };
    let metadata = response.metadata.clone();
    let params = params::Response { request_id, metadata, ..Default::default() };
    if HEADER_BYTES + params.encoded_len() + response.body.len() > frame_bytes_max {
        return Err((
            ErrorCode::TooLarge,
            "the answer is above the frame limit of the session".into(),
        ));
    }
    if response.set_attributes.is_empty() && response.remove_attributes.is_empty() {
        return Ok(());
    }
    let business = BusinessNo(pool.business.number);
    let kept = node.table.with(at, |connection| {
        // The session has ended; only its answers are still written.
        let Some(identity) = connection.identity.as_deref_mut() else { return true };
        let all = &mut identity.attributes.get_or_insert_default().by_business;
        let mut next = all.get(&business).cloned().unwrap_or_default();
        for key in &response.remove_attributes {
            next.remove(key);
        }
        next.extend(response.set_attributes.clone());
        let bytes: usize = next.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > ATTRIBUTES_BYTES_MAX {
            return false;
        }
        if next.is_empty() {
            all.remove(&business);
        } else {
            all.insert(business, next);
        }
        if all.is_empty() {
            identity.attributes = None;
        }
        true
    });
    if kept == Some(false) { Err(failed("session attributes above 4 KiB")) } else { Ok(()) }
}

/// The answer to a request that was not served.
pub(crate) fn refusal(request_id: u64, code: ErrorCode, message: &str) -> NodeFrame {
    let params = params::Response {
        request_id,
        status: code.number(),
        message: cut(message),
        ..Default::default()
    };
    NodeFrame::Response(params, Bytes::new())
}
