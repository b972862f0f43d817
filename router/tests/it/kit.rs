//! A router with a control and a business, ready to be called.

pub mod business;
pub mod control;
pub mod node;
pub mod redis;
pub mod store;

use control::{FakeControl, KEY_BYTES};
use hawser_chassis::callback::Callbacks;
use hawser_chassis::peers::Peers;
use hawser_chassis::secret::Secret;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{
    BatchUnicastRequest, Class, CreateGroupRequest, Message, MulticastRequest, StoreOptions,
    UnicastRequest,
};
use hawser_router::stores::{open_store, start_on};
use hawser_router::{Config, Listeners, Running};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::Faulty;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::Request;
use tonic::transport::Channel;

pub const SECRET: &str = "the secret of the cluster";
/// Long enough for a slow machine, short enough for a test that waits for it.
pub const LEASE: Duration = Duration::from_millis(1_500);
pub const CALL_TIMEOUT: Duration = Duration::from_millis(400);
/// An end for every wait of a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Client = PushClient<Channel>;

pub struct House {
    pub control: FakeControl,
    pub router: Running,
    pub registry: prometheus::Registry,
    pub store: Arc<Faulty>,
    folder: TempDir,
}

impl House {
    /// A router that knows the catalogue of [`FakeControl`].
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, configured in another way.
    pub async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let control = FakeControl::start().await;
        let registry = prometheus::Registry::new();
        let (router, store) = router(&control, folder.path(), &registry, configure).await;
        Self { control, router, registry, store, folder }
    }

    /// Ends the router in good order and starts another on the same store.
    pub async fn restart(self) -> Self {
        let Self { control, router, folder, .. } = self;
        assert!(router.shutdown(PATIENCE).await, "everything ended in time");
        let registry = prometheus::Registry::new();
        let (router, store) = self::router(&control, folder.path(), &registry, |_| {}).await;
        Self { control, router, registry, store, folder }
    }

    /// Waits until the router knows all routes that there are: every node has to say that it told of all.
    pub async fn complete(&self) {
        complete(&self.registry).await;
    }

    pub fn internal(&self) -> String {
        format!("http://{}", self.router.internal_addr())
    }

    pub async fn client(&self) -> Client {
        let uri = format!("http://{}", self.router.push_addr());
        PushClient::connect(uri).await.expect("the push API listens")
    }
}

/// A router on free ports.
pub async fn router(
    control: &FakeControl,
    folder: &Path,
    registry: &prometheus::Registry,
    configure: impl FnOnce(&mut Config),
) -> (Running, Arc<Faulty>) {
    let listen = || async { TcpListener::bind("127.0.0.1:0").await.expect("a free port") };
    let listeners = Listeners { push: listen().await, internal: listen().await };
    let peers = Peers::secret(&Secret::new(SECRET)).expect("a header value");
    let mut config = Config::new("router-1", folder.to_owned(), &control.uri(), peers);
    config.node_lease = LEASE;
    config.call_timeout = CALL_TIMEOUT;
    config.callbacks = Callbacks::any();
    config.broadcast_patience = Duration::from_millis(1_500);
    // A sync of a busy disk may take its time.
    config.store_call_timeout = Duration::from_secs(5);
    configure(&mut config);
    let store = Faulty::before(open_store(&config, registry).await.expect("the store opens"));
    let started = start_on(config, listeners, registry, store.clone()).await;
    let router = started.expect("the router starts");
    within(router.catalogue(1)).await;
    (router, store)
}

/// Waits until a router knows all routes.
pub async fn complete(registry: &prometheus::Registry) {
    let is_complete =
        async || (gauge(registry, "hawser_router_routes_complete") == 1).then_some(());
    eventually(is_complete).await;
}

/// A gauge without labels.
pub fn gauge(registry: &prometheus::Registry, name: &str) -> i64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).expect("it is registered");
    family.get_metric()[0].get_gauge().get_value() as i64
}

/// Waits, but not for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it came in time")
}

/// Asks again until the answer is the one that must come.
pub async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(asking).await
}

/// The key of a business of the fake catalogue.
pub fn key_text(name: &str) -> String {
    let filler = "x".repeat(KEY_BYTES - name.len());
    format!("hbk_{name}{filler}")
}

/// A call with the key of `name`.
pub fn by<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {}", key_text(name)).parse().expect("a header value");
    request.metadata_mut().insert("authorization", value);
    request
}

pub fn say(text: &str) -> Option<Message> {
    Some(Message { body: text.as_bytes().to_vec().into(), ..Default::default() })
}

pub fn to_one(device: &str) -> UnicastRequest {
    UnicastRequest { device: device.to_owned(), message: say("hello"), ..Default::default() }
}

/// The same, stored, with an id of its own.
pub fn stored(device: &str, push_id: &str) -> UnicastRequest {
    UnicastRequest { class: Class::Stored.into(), push_id: store::id(push_id), ..to_one(device) }
}

/// The same, with options.
pub fn stored_as(device: &str, push_id: &str, options: StoreOptions) -> UnicastRequest {
    UnicastRequest { store: Some(options), ..stored(device, push_id) }
}

pub fn to_many(devices: &[&str]) -> BatchUnicastRequest {
    let devices = devices.iter().map(|&device| device.to_owned()).collect();
    BatchUnicastRequest { message: say("hello"), devices, ..Default::default() }
}

pub fn to_group(group: &str) -> MulticastRequest {
    MulticastRequest { group: group.to_owned(), message: say("hello"), ..Default::default() }
}

pub async fn create_group(client: &mut Client, business: &str, group: &str) {
    let request = CreateGroupRequest { group: group.to_owned(), history: None };
    client.create_group(by(business, request)).await.expect("a new group");
}

/// The published code of a refusal.
#[track_caller]
pub fn code<T: std::fmt::Debug>(refused: Result<T, tonic::Status>) -> String {
    let status = refused.expect_err("a refusal");
    let code = status.metadata().get("hawser-code");
    code.unwrap_or_else(|| panic!("no published code in {status:?}")).to_str().unwrap().to_owned()
}
