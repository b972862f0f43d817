//! The internal port: `hawser.control.v1` for access nodes and routers, behind the guard of `peers`.

use crate::catalogue::DrainOrder;
use crate::clock::now_ms;
use crate::grant::{self, Holder};
use crate::refusal::Refusal;
use crate::shared::Shared;
use futures_util::{Stream, StreamExt as _, stream};
use hawser_chassis::peers::{Caller, Role};
use hawser_proto::id::{AppId, BusinessId, DeviceId};
use hawser_proto::limits::BUSINESSES_PER_CONNECTION_MAX;
use hawser_proto::rpc::control::change::Entity;
use hawser_proto::rpc::control::control_server::Control;
use hawser_proto::rpc::control::update::What;
use hawser_proto::rpc::control::{self as wire};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};
use tracing::{debug, info, warn};

/// What access nodes call themselves when they watch.
const ACCESS: &str = "access";
/// How often a node reports while it follows an order to drain.
const DRAIN_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Answers calls; the state is shared with HTTP.
#[derive(Debug)]
pub(crate) struct ControlRpc(pub(crate) Arc<Shared>);

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = Code::from_i32(refusal.code.grpc_status());
        let mut status = Self::new(code, refusal.detail.into_owned());
        let name = MetadataValue::from_static(refusal.code.name());
        status.metadata_mut().insert("hawser-code", name);
        status
    }
}

type Updates = Pin<Box<dyn Stream<Item = Result<wire::Update, Status>> + Send>>;

#[tonic::async_trait]
impl Control for ControlRpc {
    type WatchStream = Updates;

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Updates>, Status> {
        let caller = Caller::of(&request);
        let from = caller.remote();
        let watcher = request.into_inner();
        let is_access = watcher.role == ACCESS;
        if is_access {
            caller.must_be(Role::Access)?;
        }
        for text in [&watcher.role, &watcher.node] {
            if text.len() > 64 || text.chars().any(char::is_control) {
                return Err(Refusal::invalid("role or node is not a short text").into());
            }
        }
        let (snapshot, updates) = self.0.store.watch();
        let snapshot = if is_access { snapshot } else { without_tickets(snapshot) };
        info!(role = watcher.role, node = watcher.node, ?from, "watcher joined");
        let watching = Watching {
            updates,
            stop: self.0.tasks.stop_signal(),
            is_access,
            present: Present::new(self.0.clone(), watcher),
        };
        let changes = stream::unfold(Some(watching), Watching::next);
        Ok(Response::new(Box::pin(stream::iter([Ok(snapshot)]).chain(changes))))
    }

    async fn report(
        &self,
        request: Request<wire::NodeReport>,
    ) -> Result<Response<wire::ReportResponse>, Status> {
        Caller::of(&request).must_be(Role::Access)?;
        let config = &self.0.config;
        let (freshness, now_ms) = (config.node_freshness, now_ms());
        let (name, boot, fresh, window, alternatives) = {
            let mut nodes = self.0.nodes.lock();
            let (name, boot) = nodes.report(request.into_inner(), now_ms)?;
            let alone = config.reconnect_window;
            let window = nodes.reconnect_window(&name, alone, now_ms, freshness);
            let alternatives = nodes.alternatives(&name, now_ms, freshness);
            (name, boot, nodes.fresh(now_ms, freshness), window, alternatives)
        };
        self.0.metrics.nodes.set(fresh as i64);
        let drain = self
            .0
            .store
            .look(|it| it.drain(&name).filter(|order| order.is_for(boot)).map(DrainOrder::wire));
        // Whoever waits for the end of a drain looks on.
        let interval = match &drain {
            Some(_) => config.node_report_interval.min(DRAIN_REPORT_INTERVAL),
            None => config.node_report_interval,
        };
        Ok(Response::new(wire::ReportResponse {
            next_report_ms: interval.as_millis() as u32,
            drain,
            reconnect_window_ms: window.as_millis() as u32,
            alternatives,
            now_ms: crate::clock::now_ms(),
        }))
    }

    async fn report_router(
        &self,
        request: Request<wire::RouterReport>,
    ) -> Result<Response<wire::RouterReportResponse>, Status> {
        Caller::of(&request).must_be(Role::Router)?;
        self.0.routers.lock().report(request.into_inner(), now_ms())?;
        let next_report_ms = self.0.config.node_report_interval.as_millis() as u32;
        Ok(Response::new(wire::RouterReportResponse { next_report_ms }))
    }

    async fn refresh_token(
        &self,
        request: Request<wire::RefreshTokenRequest>,
    ) -> Result<Response<wire::RefreshTokenResponse>, Status> {
        Caller::of(&request).must_be(Role::Access)?;
        let wish = request.into_inner();
        let app = AppId::new(&wish.app).map_err(|e| Refusal::invalid(format!("app: {e}")))?;
        let device =
            DeviceId::new(&wish.device).map_err(|e| Refusal::invalid(format!("device: {e}")))?;
        let issued_at_ms = u64::try_from(wish.issued_at_ms)
            .map_err(|_| Refusal::invalid("issued_at_ms is negative"))?;
        if wish.businesses.len() > BUSINESSES_PER_CONNECTION_MAX {
            return Err(Refusal::invalid("more than 32 businesses").into());
        }
        let businesses: Result<Vec<_>, _> =
            wish.businesses.iter().map(|name| BusinessId::new(name)).collect();
        let businesses = businesses.map_err(|e| Refusal::invalid(format!("businesses: {e}")))?;

        let (shared, now_ms) = (&self.0, now_ms());
        let ttl = shared.config.token_ttl;
        grant::check_refresh(&shared.store, &app, &device, issued_at_ms, ttl, now_ms)?;
        let holder = Holder { app: &app, device: &device, businesses: &businesses };
        let grant = grant::grant(&shared.store, &shared.sealer, holder, ttl, now_ms)?;
        shared.metrics.tokens_refreshed.inc();
        Ok(Response::new(wire::RefreshTokenResponse {
            token: grant.token,
            issued_at_ms: grant.issued_at_ms as i64,
            refresh_at_ms: grant.refresh_at_ms as i64,
            expires_at_ms: grant.expires_at_ms as i64,
        }))
    }
}

/// One watcher's place in the stream of updates.
struct Watching {
    updates: broadcast::Receiver<Arc<wire::Update>>,
    stop: CancellationToken,
    /// Ticket keys are secrets that access nodes alone may see.
    is_access: bool,
    present: Present,
}

/// What a watcher that is no access node sees of an update: its number, at least.
fn without_tickets(mut update: wire::Update) -> wire::Update {
    match &mut update.what {
        Some(What::Snapshot(snapshot)) => snapshot.ticket_keys.clear(),
        Some(What::Change(change)) if matches!(change.entity, Some(Entity::TicketKey(_))) => {
            update.what = None;
        }
        _ => {}
    }
    update
}

impl Watching {
    /// The next update; after an error the stream is over. Dropped when the watcher goes.
    async fn next(at: Option<Self>) -> Option<(Result<wire::Update, Status>, Option<Self>)> {
        let mut at = at?;
        let update = tokio::select! {
            () = at.stop.cancelled() => return None,
            update = at.updates.recv() => update,
        };
        match update {
            Ok(update) => {
                let update = update.as_ref().clone();
                let seen = if at.is_access { update } else { without_tickets(update) };
                Some((Ok(seen), Some(at)))
            }
            Err(RecvError::Lagged(missed)) => {
                // Its place in the bounded queue is gone; a new snapshot is the way back.
                let watcher = &at.present.watcher;
                warn!(role = watcher.role, node = watcher.node, missed, "watcher cut off");
                at.present.shared.metrics.watchers_cut_off.inc();
                Some((Err(Status::aborted("too slow; watch again")), None))
            }
            Err(RecvError::Closed) => None,
        }
    }
}

/// Counts a watcher for as long as its stream lives.
struct Present {
    shared: Arc<Shared>,
    watcher: wire::WatchRequest,
}

impl Present {
    fn new(shared: Arc<Shared>, watcher: wire::WatchRequest) -> Self {
        shared.metrics.watchers.inc();
        Self { shared, watcher }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.shared.metrics.watchers.dec();
        debug!(role = self.watcher.role, node = self.watcher.node, "watcher left");
    }
}
