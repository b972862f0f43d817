//! A control that knows one catalogue, changes it when told to, and mints tokens.

use super::{listen, secret, tokens};
use hawser_chassis::grpc::{self, RequireBearer};
use hawser_proto::rpc::control as wire;
use hawser_proto::rpc::control::change::Entity;
use hawser_proto::rpc::control::control_server::{self, ControlServer};
use hawser_proto::rpc::control::update::What;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// How a refresh is answered.
#[derive(Clone, Debug)]
pub enum Refreshing {
    /// With a new token that ends this many seconds from now.
    Token(u64),
    Refused(tonic::Code),
    Never,
}

#[derive(Default)]
struct State {
    revision: u64,
    snapshot: wire::Snapshot,
    watchers: Vec<mpsc::Sender<Result<wire::Update, Status>>>,
    reports: Vec<wire::NodeReport>,
    refreshing: Option<Refreshing>,
    refreshes: Vec<wire::RefreshTokenRequest>,
    /// What reports are answered.
    answer: wire::ReportResponse,
}

#[derive(Clone)]
pub struct Control {
    pub uri: String,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

impl Control {
    pub async fn start(snapshot: wire::Snapshot) -> Self {
        let (listener, _, uri) = listen().await;
        let answer = wire::ReportResponse { next_report_ms: 50, ..Default::default() };
        let state = State { revision: 1, snapshot, answer, ..Default::default() };
        let control =
            Self { uri, state: Arc::new(Mutex::new(state)), stop: CancellationToken::new() };
        let service = ControlServer::with_interceptor(control.clone(), RequireBearer(secret()));
        let stop = control.stop.clone();
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let serving = grpc::server().add_service(service);
            serving.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await.unwrap();
        });
        control
    }

    /// Ends the service: watchers lose their stream, calls are refused.
    pub fn go_away(&self) {
        self.stop.cancel();
        self.state.lock().watchers.clear();
    }

    /// Adds or replaces an entity, and tells every watcher.
    pub fn put(&self, entity: Entity) {
        let mut state = self.state.lock();
        let all = &mut state.snapshot;
        match &entity {
            Entity::App(it) => {
                all.apps.retain(|old| old.app != it.app);
                all.apps.push(it.clone());
            }
            Entity::Business(it) => {
                all.businesses.retain(|old| (&old.app, old.number) != (&it.app, it.number));
                all.businesses.push(it.clone());
            }
            Entity::Key(it) => all.keys.push(it.clone()),
            Entity::SigningKey(it) => {
                all.signing_keys.retain(|old| old.kid != it.kid);
                all.signing_keys.push(it.clone());
            }
            Entity::Revocation(it) => all.revocations.push(it.clone()),
            Entity::TicketKey(it) => all.ticket_keys.push(it.clone()),
        }
        state.revision += 1;
        let change = wire::Change { entity: Some(entity), removed: false };
        let update = wire::Update { revision: state.revision, what: Some(What::Change(change)) };
        state.watchers.retain(|watcher| watcher.try_send(Ok(update.clone())).is_ok());
    }

    pub fn revision(&self) -> u64 {
        self.state.lock().revision
    }

    /// Revokes the tokens of a device, or of the whole app, issued before a time (ms since 1970).
    pub fn revoke(&self, app: &str, device: &str, issued_before_ms: u64) {
        self.put(Entity::Revocation(wire::Revocation {
            app: app.into(),
            device: device.into(),
            issued_before_ms: issued_before_ms as i64,
        }));
    }

    /// The last report of the node.
    pub fn report(&self) -> Option<wire::NodeReport> {
        self.state.lock().reports.last().cloned()
    }

    /// All reports of the node.
    pub fn reports(&self) -> Vec<wire::NodeReport> {
        self.state.lock().reports.clone()
    }

    /// Changes what reports are answered from now on.
    pub fn advise(&self, change: impl FnOnce(&mut wire::ReportResponse)) {
        change(&mut self.state.lock().answer);
    }

    /// Orders a drain, or ends it.
    pub fn order_drain(&self, order: Option<(u64, u32)>) {
        let order =
            order.map(|(id, sessions_per_second)| wire::DrainOrder { id, sessions_per_second });
        self.advise(|answer| answer.drain = order);
    }

    pub fn answer_refreshes(&self, refreshing: Refreshing) {
        self.state.lock().refreshing = Some(refreshing);
    }

    pub fn refreshes(&self) -> Vec<wire::RefreshTokenRequest> {
        self.state.lock().refreshes.clone()
    }
}

#[tonic::async_trait]
impl control_server::Control for Control {
    type WatchStream = ReceiverStream<Result<wire::Update, Status>>;

    async fn watch(
        &self,
        _request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (tell, updates) = mpsc::channel(1024);
        let mut state = self.state.lock();
        let what = Some(What::Snapshot(state.snapshot.clone()));
        tell.try_send(Ok(wire::Update { revision: state.revision, what })).unwrap();
        state.watchers.push(tell);
        Ok(Response::new(ReceiverStream::new(updates)))
    }

    async fn report(
        &self,
        request: Request<wire::NodeReport>,
    ) -> Result<Response<wire::ReportResponse>, Status> {
        let mut state = self.state.lock();
        state.reports.push(request.into_inner());
        Ok(Response::new(state.answer.clone()))
    }

    async fn report_router(
        &self,
        _request: Request<wire::RouterReport>,
    ) -> Result<Response<wire::RouterReportResponse>, Status> {
        Err(Status::unimplemented("routers call this, access nodes never"))
    }

    async fn refresh_token(
        &self,
        request: Request<wire::RefreshTokenRequest>,
    ) -> Result<Response<wire::RefreshTokenResponse>, Status> {
        let asked = request.into_inner();
        let refreshing = {
            let mut state = self.state.lock();
            state.refreshes.push(asked.clone());
            state.refreshing.clone().unwrap_or(Refreshing::Token(3600))
        };
        match refreshing {
            Refreshing::Never => std::future::pending().await,
            Refreshing::Refused(code) => Err(Status::new(code, "on purpose")),
            Refreshing::Token(seconds) => {
                let mut claims = tokens::claims(&asked.app, &asked.device);
                claims.exp = claims.iat + seconds;
                Ok(Response::new(wire::RefreshTokenResponse {
                    token: tokens::sign(&claims),
                    issued_at_ms: claims.iat as i64 * 1000,
                    refresh_at_ms: (claims.iat + seconds / 2) as i64 * 1000,
                    expires_at_ms: claims.exp as i64 * 1000,
                }))
            }
        }
    }
}
