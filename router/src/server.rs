//! Start and end of a router.

use crate::auth::Known;
use crate::clock::Clock;
use crate::config::Config;
use crate::core::Core;
use crate::engine;
use crate::events::{self, Events};
use crate::functions::Functions;
use crate::group_writer::{self, GroupWriter};
use crate::groups::{Dropped, Groups};
use crate::incoming::incoming;
use crate::key::Key;
use crate::lost_ends;
use crate::lost_sessions;
use crate::metrics::{Metrics, StoreMetrics};
use crate::node::{NodeService, asks};
use crate::node_leases;
use crate::nodes::Nodes;
use crate::orphans;
use crate::push::{Authenticate, PushService};
use crate::reach::{self, Reach};
use crate::refusal::published;
use crate::releases::{self, Releases};
use crate::report;
use crate::store::{GroupNews, LogMark, Store};
use crate::table::{LifeNo, Table};
use crate::turns::Turns;
use crate::watch;
use crate::whereabouts;
use arc_swap::ArcSwap;
use hawser_chassis::grpc;
use hawser_chassis::peers::{PeersError, Role};
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
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::service::interceptor::InterceptedService;
use tonic_health::ServingStatus;
use tower::util::MapResponseLayer;
use tracing::{error, info};

/// Longest a unary call of the push API may take, its request trickling in included.
const PUSH_CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Then a connection of the push port is told to finish; the calls on it go on to their end.
const PUSH_CONNECTION_AGE: Duration = Duration::from_hours(1);
/// Calls in flight may finish after the stop; a peer that connected and fell silent holds nobody up.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// A login waits for its turn and for the store; one that takes longer is asked for elsewhere.
const BINDS_PATIENCE: Duration = Duration::from_secs(2);
/// Streams that were cut end at once; this is for a busy machine.
const CUT_PATIENCE: Duration = Duration::from_millis(500);
/// One message of a node: reports of many deliveries, or many binds.
const NODE_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Pushes that are on their way into the store, in KiB: what callers may have waiting there in all.
const STORING_KIB_MAX: usize = 128 * 1024;
/// The groups are read before a router serves; a store that hangs is given up on.
const GROUPS_TIMEOUT: Duration = Duration::from_mins(1);
/// What waits for the store gets this long at the end, also when the rest took all the patience.
const STORE_CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// Name under which the health of stored pushes is asked for. `hawser.push.v1.Push` stays healthy while the
/// store is away: volatile pushes, presence and live groups go on, and a store that all routers share must
/// not take all of them out of service at once.
const STORED_HEALTH: &str = "hawser.push.v1.Push.stored";

/// Under which names the health of what a router does is asked for.
const HEALTHS: [(Functions, &str); 4] = [
    (Functions::PUSH, "hawser.push.v1.Push"),
    (Functions::PUSH, STORED_HEALTH),
    (Functions::LOGINS, "hawser.push.v1.Push.presence"),
    (Functions::INBOX, "hawser.push.v1.Push.inbox"),
];

fn served_if(is_served: bool) -> ServingStatus {
    if is_served { ServingStatus::Serving } else { ServingStatus::NotServing }
}

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
    /// The store cannot be opened: another router may have its folder, the disk may be in trouble, the
    /// server may not be there or not be set up for this.
    #[error("{store} cannot be used")]
    Store {
        /// Which one.
        store: String,
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
    Control(#[from] PeersError),
    /// The push API's description cannot be served.
    #[error("reflection cannot be served")]
    Reflection(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A router at work. Dropped, it goes on; end it with [`Running::shutdown`].
pub struct Running {
    core: Arc<Core>,
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
    let store = open_store(&config, registry).await?;
    start_on(config, listeners, registry, store).await
}

/// Opens the store that the configuration names.
pub async fn open_store(
    config: &Config,
    registry: &Registry,
) -> Result<Arc<dyn Store>, StartError> {
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| StartError::Store {
        store: engine::name(config),
        source,
    };
    engine::open(config, registry).await.map_err(unusable)
}

/// Starts a router on these sockets and a store that is open; it is closed in the end.
pub async fn start_on(
    config: Config,
    listeners: Listeners,
    registry: &Registry,
    store: Arc<dyn Store>,
) -> Result<Running, StartError> {
    let (push_addr, internal_addr) =
        (listeners.push.local_addr()?, listeners.internal.local_addr()?);
    let channel = config.peers.channel(&config.control, Role::Control)?;
    let metrics = Metrics::new(registry)?;
    let reach = Reach::new(store.clone(), config.store_call_timeout, StoreMetrics::new(registry)?);
    let (tasks, push_tasks) = (Tasks::new(), Tasks::new());
    let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| StartError::Store {
        store: engine::name(&config),
        source,
    };
    let no_mark = LogMark::default();
    let news = tokio::time::timeout(config.store_call_timeout, store.group_news(&no_mark))
        .await
        .map_err(|late| unreadable(late.into()))?
        .map_err(|source| unreadable(source.into()))?;
    let (GroupNews::Changed(_, mark) | GroupNews::Reload(mark)) = news;
    let stored_groups = tokio::time::timeout(GROUPS_TIMEOUT, store.groups())
        .await
        .map_err(|late| unreadable(late.into()))?
        .map_err(|source| unreadable(source.into()))?;
    let clock = Clock::new();
    let groups = Arc::new(Groups::new(stored_groups, config.groups_per_business_max));
    let nodes = Arc::new(Nodes::new(config.node_lease));
    let dropped = tell_dropped(nodes.clone(), clock.clone());
    let (group_writer, changes) = GroupWriter::new();

    let core = Arc::new(Core {
        name: config.name,
        boot: rand::random(),
        functions: config.functions,
        node_lease: config.node_lease,
        call_timeout: config.call_timeout,
        broadcast_patience: config.broadcast_patience,
        keeps_compressed: config.store_compressed,
        clock,
        known: ArcSwap::from_pointee(Known::default()),
        revision: tokio::sync::watch::Sender::new(0),
        table: Arc::new(Table::default()),
        nodes,
        groups,
        store,
        reach,
        turns: Arc::new(Turns::default()),
        releases: Releases::default(),
        events: Events::new(config.callbacks),
        group_writer,
        route_asks: Semaphore::new(whereabouts::ASKED_MAX),
        sweeping: Semaphore::new(asks::SWEPT_MAX),
        storing_kib: Arc::new(Semaphore::new(STORING_KIB_MAX)),
        metrics,
        push_tasks: push_tasks.clone(),
        bind_tasks: Tasks::new(),
        tasks: tasks.clone(),
    });
    tasks.spawn("group changes", group_writer::run(core.clone(), changes, mark, dropped));
    tasks.spawn("ends of sessions", releases::run(core.clone()));
    events::start(&core);
    tasks.spawn("store changes", reach::follow_changes(core.clone()));
    tasks.spawn("router ticks", core.clone().tick());
    tasks.spawn("lost sessions", lost_sessions::run(core.clone()));
    tasks.spawn("lost ends", lost_ends::run(core.clone()));
    tasks.spawn("node leases", node_leases::run(core.clone()));
    tasks.spawn("orphaned groups", orphans::run(core.clone()));
    let advertised = config.push_advertised.unwrap_or_else(|| format!("http://{push_addr}"));
    tasks.spawn("reports", report::run(core.clone(), channel.clone(), advertised));
    watch::restore(&core, &config.data_dir);
    tasks.spawn("catalogue watch", watch::run(core.clone(), channel));

    let (health, health_service) = tonic_health::server::health_reporter();
    let functions = config.functions;
    for (function, name) in HEALTHS {
        health.set_service_status(name, served_if(functions.contains(function))).await;
    }
    let told = health.clone();
    let tell_health = async move |is_up: bool| {
        let status = if is_up && functions.contains(Functions::PUSH) {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        told.set_service_status(STORED_HEALTH, status).await;
    };
    tasks.spawn("store watch", reach::watch(core.clone(), tell_health));
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
    let guard = config.peers.guard(&[Role::Access]);
    let node_server = config.peers.server().add_service(InterceptedService::new(node, guard));

    // Both servers take nobody new from the same moment on; the streams of nodes that are there go on
    // until the last push has its outcome.
    let stop = push_tasks.stop_signal();
    let push_incoming =
        incoming(listeners.push, config.push_connections_max, config.push_preface_timeout);
    let node_incoming = config.peers.incoming(listeners.internal);
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
    Ok(Running { core, health, push_addr, internal_addr })
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
    Box::new(move |key: &Key, created_ms: u64, lives: &[LifeNo]| {
        let Some((app, group)) = crate::key::split(key.as_bytes()) else { return };
        let view = nodes.view(clock.steady_ms());
        for life in lives.iter().filter_map(|&no| view.life(no)) {
            if let Some(stream) = life.control() {
                let (app, group) = (app.to_owned(), group.to_owned());
                stream.tell(down::What::DropGroup(DropGroup {
                    app,
                    group,
                    created_ms: created_ms.cast_signed(),
                }));
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

    /// Ends in this order: 1. health says no, control hears that this router ends, and nodes that they are to
    /// turn to others; 2. no new call is taken, pushes in flight get their outcomes, and logins under way their
    /// answers; 3. streams of nodes are cut; 4. ends of sessions and changes of groups that wait are written;
    /// 5. the store is closed. False: something was still running at the end of `patience`.
    pub async fn shutdown(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        for name in HEALTHS.iter().map(|(_, name)| *name).chain([""]) {
            self.health.set_service_status(name, ServingStatus::NotServing).await;
        }
        self.core.nodes.tell_leaving();
        let pushes_ended = self.core.push_tasks.shutdown(patience).await;
        // What nodes asked for is answered before their streams end, which they do in good order.
        let left = deadline.saturating_duration_since(Instant::now()).max(CUT_PATIENCE);
        self.core.bind_tasks.shutdown(left.min(BINDS_PATIENCE)).await;
        self.core.nodes.cut_all();
        self.core.tasks.stop();
        let left = deadline.saturating_duration_since(Instant::now()).max(CUT_PATIENCE);
        let ended =
            self.core.tasks.shutdown(left).await && pushes_ended && self.core.bind_tasks.is_empty();
        let left = deadline.saturating_duration_since(Instant::now()).max(STORE_CLOSE_PATIENCE);
        let closed = tokio::time::timeout(left, self.core.store.close()).await.is_ok();
        ended && closed
    }
}
