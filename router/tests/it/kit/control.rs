//! A control that serves a catalogue from memory, and changes it when the test says so.

use super::{SECRET, key_text};
use aws_lc_rs::digest::{SHA256, digest};
use hawser_chassis::grpc::{self, RequireBearer};
use hawser_chassis::secret::Secret;
use hawser_proto::rpc::control::change::Entity;
use hawser_proto::rpc::control::control_server::{Control, ControlServer};
use hawser_proto::rpc::control::update::What;
use hawser_proto::rpc::control::{
    App, Business, BusinessKey, Change, NodeReport, RefreshTokenRequest, RefreshTokenResponse,
    ReportResponse, RouterReport, RouterReportResponse, Scope, Snapshot, Update, WatchRequest,
};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

pub const KEY_BYTES: usize = 43;
pub const CHAT: u32 = 1;
pub const LIVE: u32 = 70;

pub struct FakeControl {
    address: SocketAddr,
    catalogue: Catalogue,
    changed: Arc<watch::Sender<u64>>,
    routers: Arc<Mutex<Vec<RouterReport>>>,
    serving: tokio::task::AbortHandle,
}

/// All there is, and its revision.
type Catalogue = Arc<Mutex<(u64, Snapshot)>>;

struct Service {
    catalogue: Catalogue,
    changed: Arc<watch::Sender<u64>>,
    routers: Arc<Mutex<Vec<RouterReport>>>,
}

impl FakeControl {
    /// Apps `demo` (businesses chat, live, and one that is off), `other` (chat), `off` (switched off).
    /// Each business has a key that may everything, named `<app>-<business>`; chat of demo has also one
    /// per scope, `demo-chat-<scope>`, and one that has expired.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let catalogue = Arc::new(Mutex::new((1, snapshot())));
        let changed = Arc::new(watch::Sender::new(1));
        let routers = Arc::new(Mutex::default());
        let service = Service {
            catalogue: catalogue.clone(),
            changed: changed.clone(),
            routers: Arc::clone(&routers),
        };
        let guard = RequireBearer(Secret::new(SECRET));
        let service = InterceptedService::new(ControlServer::new(service), guard);
        let serving = grpc::server()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let serving = tokio::spawn(serving).abort_handle();
        Self { address, catalogue, changed, routers, serving }
    }

    /// Takes no new watcher any more.
    pub fn stop(&self) {
        self.serving.abort();
    }

    /// What routers have told of themselves so far.
    pub fn routers(&self) -> Vec<RouterReport> {
        self.routers.lock().expect("no test panics here").clone()
    }

    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the catalogue; returns the new revision.
    pub fn change(&self, change: impl FnOnce(&mut Snapshot)) -> u64 {
        let mut held = self.catalogue.lock().expect("no test panics here");
        held.0 += 1;
        change(&mut held.1);
        self.changed.send_replace(held.0);
        held.0
    }
}

/// Revision 1 and every odd one as a snapshot, the others as a change of the first app, so that both
/// forms are read.
fn update(catalogue: &Catalogue) -> Update {
    let held = catalogue.lock().expect("no test panics here");
    let what = if held.0 % 2 == 1 {
        What::Snapshot(held.1.clone())
    } else {
        let entity = held.1.apps.first().cloned().map(Entity::App);
        What::Change(Change { entity, removed: false })
    };
    Update { revision: held.0, what: Some(what) }
}

#[tonic::async_trait]
impl Control for Service {
    type WatchStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<Update, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        assert_eq!(request.get_ref().role, "router");
        let catalogue = self.catalogue.clone();
        let updates = WatchStream::new(self.changed.subscribe());
        let updates = updates.map(move |_| Ok(update(&catalogue)));
        Ok(Response::new(Box::pin(updates)))
    }

    async fn report(
        &self,
        _request: Request<NodeReport>,
    ) -> Result<Response<ReportResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn report_router(
        &self,
        request: Request<RouterReport>,
    ) -> Result<Response<RouterReportResponse>, Status> {
        self.routers.lock().expect("no test panics here").push(request.into_inner());
        Ok(Response::new(RouterReportResponse { next_report_ms: 200 }))
    }

    async fn refresh_token(
        &self,
        _request: Request<RefreshTokenRequest>,
    ) -> Result<Response<RefreshTokenResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

fn snapshot() -> Snapshot {
    let app = |name: &str, enabled| App { app: name.into(), enabled, ..Default::default() };
    let business = |app: &str, name: &str, number, enabled| Business {
        app: app.into(),
        business: name.into(),
        number,
        enabled,
        ..Default::default()
    };
    let all = [Scope::Push, Scope::Group, Scope::Presence, Scope::Admin];
    Snapshot {
        apps: vec![app("demo", true), app("other", true), app("off", false)],
        businesses: vec![
            business("demo", "chat", CHAT, true),
            business("demo", "live", LIVE, true),
            business("demo", "dark", 3, false),
            business("other", "chat", CHAT, true),
            business("off", "chat", CHAT, true),
        ],
        keys: vec![
            key("demo-chat", "demo", "chat", &all, 0),
            key("demo-live", "demo", "live", &all, 0),
            key("demo-dark", "demo", "dark", &all, 0),
            key("other-chat", "other", "chat", &all, 0),
            key("off-chat", "off", "chat", &all, 0),
            key("demo-chat-push", "demo", "chat", &[Scope::Push], 0),
            key("demo-chat-group", "demo", "chat", &[Scope::Group], 0),
            key("demo-chat-presence", "demo", "chat", &[Scope::Presence], 0),
            key("demo-chat-admin", "demo", "chat", &[Scope::Admin], 0),
            key("demo-chat-expired", "demo", "chat", &all, 1),
        ],
        ..Default::default()
    }
}

fn key(name: &str, app: &str, business: &str, scopes: &[Scope], expires_at_ms: i64) -> BusinessKey {
    let sha256 = digest(&SHA256, key_text(name).as_bytes()).as_ref().to_vec().into();
    BusinessKey {
        sha256,
        key_id: name.into(),
        app: app.into(),
        business: business.into(),
        scopes: scopes.iter().map(|&scope| scope.into()).collect(),
        expires_at_ms,
    }
}
