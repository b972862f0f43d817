//! Start and end of a router.

use crate::auth::Known;
use crate::clock::Clock;
use crate::config::Config;
use crate::core::Core;
use crate::groups::{Dropped, Groups};
use crate::incoming::incoming;
use crate::key::Key;
use crate::legacy_store::embedded::Embedded;
use crate::legacy_store::{Store, StoreError};
use crate::metrics::Metrics;
use crate::node::NodeService;
use crate::nodes::Nodes;
use crate::orphans;
use crate::push::{Authenticate, PushService};
use crate::refusal::published;
use crate::table::{LifeNo, Table};
use crate::watch;
use crate::writer::{Bell, Writer};
use arc_swap::ArcSwap;
use hawser_chassis::grpc::{self, RequireBearer, ShowBearer};
use hawser_chassis::shutdown::{Tasks, served};
use hawser_proto::limits::PUSH_CALL_BYTES_MAX;
use hawser_proto::rpc::DESCRIPTORS;
use hawser_proto::rpc::node::node_server::NodeServer;
use hawser_proto::rpc::node::{DropGroup, down};
use hawser_proto::rpc::push::push_server::PushServer;
use prometheus::Registry;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tower::util::MapResponseLayer;
use tracing::{error, info};

/// Longest a unary call of the push API may take, its request trickling in included.
const PUSH_CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Then a connection of the push port is told to finish; the calls on it go on to their end.
const PUSH_CONNECTION_AGE: Duration = Duration::from_hours(1);
/// Calls in flight may finish after the stop; a peer that connected and fell silent holds nobody up.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Streams that were cut end at once; this is for a busy machine.
const CUT_PATIENCE: Duration = Duration::from_millis(500);
/// One message of a node: reports of many deliveries, or many binds.
const NODE_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The sockets a router serves.
#[derive(Debug)]
pub struct Listeners {
    /// `hawser.push.v1`, health and reflection, for backends.
    pub push: TcpListener,
    /// `hawser.node.v1`, for access nodes.
    pub internal: TcpListener,
}

/// Why a router did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened: another router may have it, or the disk is in trouble.
    #[error("the store in {folder} cannot be opened")]
    Store {
        /// Where it should be.
        folder: std::path::PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A socket has no address.
    #[error("a listener cannot be used")]
    Listener(#[from] std::io::Error),
    /// The metrics are in the registry already.
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// `control` is not an address.
    #[error("the address of control cannot be used")]
    Control(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The cluster secret cannot stand in a header.
    #[error("the cluster secret holds characters that cannot be sent")]
    Secret,
    /// The push API's description cannot be served.
    #[error("reflection cannot be served")]
    Reflection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The writer's thread did not start.
    #[error("no thread for the store")]
    Thread(#[source] std::io::Error),
}

/// A router at work. Dropped, it goes on; end it with [`Running::shutdown`].
pub struct Running {
    core: Arc<Core>,
    writer: Option<JoinHandle<()>>,
    health: tonic_health::server::HealthReporter,
    push_addr: SocketAddr,
    internal_addr: SocketAddr,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("push", &self.push_addr)
            .field("internal", &self.internal_addr)
            .finish_non_exhaustive()
    }
}

/// Starts a router on these sockets.
pub async fn start(
    config: Config,
    listeners: Listeners,
    registry: &Registry,
) -> Result<Running, StartError> {
    let (push_addr, internal_addr) =
        (listeners.push.local_addr()?, listeners.internal.local_addr()?);
    let bearer = ShowBearer::new(&config.cluster_secret).ok_or(StartError::Secret)?;
    let channel =
        grpc::channel(&config.control).map_err(|source| StartError::Control(source.into()))?;
    let metrics = Metrics::new(registry)?;
    let (tasks, push_tasks) = (Tasks::new(), Tasks::new());
    let folder = config.data_dir.clone();
    let not_opened = move |source: Box<dyn std::error::Error + Send + Sync>| StartError::Store {
        folder: folder.clone(),
        source,
    };
    let data_dir = config.data_dir.clone();
    let open = move || -> Result<_, StoreError> {
        let store = Embedded::open(&data_dir)?;
        let groups = store.groups()?;
        Ok((store, groups))
    };
    let (store, stored_groups) = tokio::task::spawn_blocking(open)
        .await
        .map_err(|source| not_opened(source.into()))?
        .map_err(|source| not_opened(source.into()))?;
    let store: Arc<dyn Store> = Arc::new(store);
    let clock = Clock::new();
    let bell = Arc::new(Bell::default());
    let table = Arc::new(Table::new(store.clone(), bell.clone()));
    let groups = Arc::new(Groups::new(stored_groups, config.groups_per_business_max));
    let nodes = Arc::new(Nodes::new(config.node_lease));
    let dropped = tell_dropped(nodes.clone(), clock);
    let (writer, handle) =
        Writer::new(store.clone(), table.clone(), groups.clone(), bell, clock, dropped);
    let writer = std::thread::Builder::new()
        .name("router-store".to_owned())
        .spawn(move || writer.run())
        .map_err(StartError::Thread)?;

    let core = Arc::new(Core {
        name: config.name,
        boot: rand::random(),
        node_lease: config.node_lease,
        call_timeout: config.call_timeout,
        broadcast_patience: config.broadcast_patience,
        clock,
        known: ArcSwap::from_pointee(Known::default()),
        revision: tokio::sync::watch::Sender::new(0),
        table,
        nodes,
        groups,
        store,
        writer: handle,
        metrics,
        push_tasks: push_tasks.clone(),
        tasks: tasks.clone(),
    });
    tasks.spawn("router ticks", core.clone().tick());
    tasks.spawn("orphaned groups", orphans::run(core.clone()));
    tasks.spawn("catalogue watch", watch::run(core.clone(), channel, bearer));

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<PushServer<PushService>>().await;
    let push =
        PushServer::new(PushService(core.clone())).max_decoding_message_size(PUSH_CALL_BYTES_MAX);
    let push = InterceptedService::new(push, Authenticate(core.clone()));
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(public_descriptors())
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection =
        described().build_v1().map_err(|source| StartError::Reflection(source.into()))?;
    // Older tools (grpcio-reflection among them) ask in the older form.
    let reflection_old =
        described().build_v1alpha().map_err(|source| StartError::Reflection(source.into()))?;
    let push_server = grpc::server()
        .timeout(PUSH_CALL_TIMEOUT)
        .max_connection_age(PUSH_CONNECTION_AGE)
        .layer(MapResponseLayer::new(published::<tonic::body::Body>))
        .add_service(push)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(reflection_old);
    let node = NodeServer::new(NodeService(core.clone()))
        .max_decoding_message_size(NODE_MESSAGE_BYTES_MAX);
    let guard = RequireBearer(config.cluster_secret);
    let node_server = grpc::server().add_service(InterceptedService::new(node, guard));

    // Both servers take nobody new from the same moment on; the streams of nodes that are there go on
    // until the last push has its outcome.
    let stop = push_tasks.stop_signal();
    let push_incoming =
        incoming(listeners.push, config.push_connections_max, config.push_preface_timeout);
    let node_incoming = TcpIncoming::from(listeners.internal).with_nodelay(Some(true));
    let serve_push =
        push_server.serve_with_incoming_shutdown(push_incoming, stop.clone().cancelled_owned());
    let serve_node =
        node_server.serve_with_incoming_shutdown(node_incoming, stop.clone().cancelled_owned());
    let push_stop = stop.clone();
    push_tasks.spawn("push server", async move {
        report("push", served(serve_push, push_stop, STOP_GRACE).await);
    });
    tasks.spawn("node server", async move {
        report("node", served(serve_node, stop, STOP_GRACE).await);
    });
    info!(push = %push_addr, internal = %internal_addr, "router started");
    Ok(Running { core, writer: Some(writer), health, push_addr, internal_addr })
}

/// What backends may know of: the definitions they call and implement, none of the internal ones.
fn public_descriptors() -> FileDescriptorSet {
    let mut all = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    let public = ["hawser.push.v1", "hawser.business.v1"];
    all.file.retain(|file| public.contains(&file.package()));
    all
}

fn report(server: &'static str, ended: Option<Result<(), tonic::transport::Error>>) {
    if let Some(Err(source)) = ended {
        error!(server, %source, "server ended");
    }
}

/// Sends word of a group's end to the nodes that had members.
fn tell_dropped(nodes: Arc<Nodes>, clock: Clock) -> Dropped {
    Box::new(move |key: &Key, lives: &[LifeNo]| {
        let Some((app, group)) = crate::key::split(key.as_bytes()) else { return };
        let view = nodes.view(clock.steady_ms());
        for life in lives.iter().filter_map(|&no| view.life(no)) {
            if let Some(stream) = life.control() {
                let (app, group) = (app.to_owned(), group.to_owned());
                stream.tell(down::What::DropGroup(DropGroup { app, group }));
            }
        }
    })
}

impl Running {
    /// Where backends dial.
    pub fn push_addr(&self) -> SocketAddr {
        self.push_addr
    }

    /// Where access nodes dial.
    pub fn internal_addr(&self) -> SocketAddr {
        self.internal_addr
    }

    /// Resolves once a catalogue of at least this revision is in use. Cancel-safe. Wait for revision 1
    /// to know that keys are served.
    pub async fn catalogue(&self, revision: u64) {
        let mut seen = self.core.revision.subscribe();
        // Fails only when the sender is gone, and it lives as long as `self`.
        let _ = seen.wait_for(|&now| now >= revision).await;
    }

    /// Ends in this order: 1. health says no; 2. no new call is taken, pushes in flight get their
    /// outcomes; 3. streams of nodes are cut; 4. what waits for the store is written and synced. False:
    /// something was still running at the end of `patience`; what was claimed is on disk nonetheless,
    /// unless the disk hangs.
    pub async fn shutdown(mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.health.set_not_serving::<PushServer<PushService>>().await;
        let pushes_ended = self.core.push_tasks.shutdown(patience).await;
        self.core.tasks.stop();
        self.core.nodes.cut_all();
        let left = deadline.saturating_duration_since(Instant::now()).max(CUT_PATIENCE);
        let ended = self.core.tasks.shutdown(left).await && pushes_ended;
        self.core.writer.stop();
        let Some(writer) = self.writer.take() else { return ended };
        let join = tokio::task::spawn_blocking(move || writer.join().is_ok());
        // The store gets a moment of its own even when the rest took all the patience.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let written = tokio::time::timeout(left, join).await;
        ended && matches!(written, Ok(Ok(true)))
    }
}
