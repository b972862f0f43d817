//! The internal port: `hawser.control.v1` for access nodes and routers, behind the cluster secret.

use crate::clock::now_ms;
use crate::grant::{self, Holder};
use crate::refusal::Refusal;
use crate::shared::Shared;
use futures_util::{Stream, StreamExt as _, stream};
use hawser_proto::id::{AppId, BusinessId, DeviceId};
use hawser_proto::limits::BUSINESSES_PER_CONNECTION_MAX;
use hawser_proto::rpc::control as wire;
use hawser_proto::rpc::control::control_server::Control;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};
use tracing::{debug, info, warn};

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
        let from = request.remote_addr();
        let watcher = request.into_inner();
        for text in [&watcher.role, &watcher.node] {
            if text.len() > 64 || text.chars().any(char::is_control) {
                return Err(Refusal::invalid("role or node is not a short text").into());
            }
        }
        let (snapshot, updates) = self.0.store.watch();
        info!(role = watcher.role, node = watcher.node, ?from, "watcher joined");
        let watching = Watching {
            updates,
            stop: self.0.tasks.stop_signal(),
            present: Present::new(self.0.clone(), watcher),
        };
        let changes = stream::unfold(Some(watching), Watching::next);
        Ok(Response::new(Box::pin(stream::iter([Ok(snapshot)]).chain(changes))))
    }

    async fn report(
        &self,
        request: Request<wire::NodeReport>,
    ) -> Result<Response<wire::ReportResponse>, Status> {
        let config = &self.0.config;
        let now_ms = now_ms();
        let fresh = {
            let mut nodes = self.0.nodes.lock();
            nodes.report(request.into_inner(), now_ms)?;
            nodes.fresh(now_ms, config.node_freshness)
        };
        self.0.metrics.nodes.set(fresh as i64);
        let next_report_ms = config.node_report_interval.as_millis() as u32;
        Ok(Response::new(wire::ReportResponse { next_report_ms, ..Default::default() }))
    }

    async fn report_router(
        &self,
        _request: Request<wire::RouterReport>,
    ) -> Result<Response<wire::RouterReportResponse>, Status> {
        Err(Status::unimplemented("routers are not listed"))
    }

    async fn refresh_token(
        &self,
        request: Request<wire::RefreshTokenRequest>,
    ) -> Result<Response<wire::RefreshTokenResponse>, Status> {
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
    present: Present,
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
            Ok(update) => Some((Ok(update.as_ref().clone()), Some(at))),
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
