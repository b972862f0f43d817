//! Before the connection: catalogue, tokens, access points.
//!
//! Control keeps apps, businesses, keys and revocations durably, tells access nodes and routers of
//! every change, and answers devices that ask to come in. It is never on the path of a message: while
//! it is down, connections live, devices with a valid token connect, and pushes flow.

mod admit;
mod catalogue;
mod clock;
mod config;
mod grant;
mod http;
mod key;
mod metrics;
mod nodes;
mod pace;
mod placement;
mod proof;
mod rate;
mod refusal;
mod routers;
mod rpc;
mod seal;
mod shared;
mod store;
mod sweep;

pub use config::{Backoff, Config, MasterKey, TOKEN_TTL_MAX};

use hawser_chassis::peers::Role;
use hawser_chassis::shutdown::{Tasks, served};
use hawser_proto::rpc::control::control_server::ControlServer;
use metrics::Metrics;
use parking_lot::Mutex;
use seal::Sealer;
use shared::Shared;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::embedded::Embedded;
use store::records::LoadError;
use store::{Store, StoreSettings};
use tokio::net::TcpListener;
use tracing::{error, info};

/// A message on the internal port; reports and refreshes are small.
const INTERNAL_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Calls in work may finish after the stop; a peer that connected and fell silent holds nobody up.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// The sockets control serves.
#[derive(Debug)]
pub struct Listeners {
    /// The public HTTP API.
    pub http: TcpListener,
    /// `hawser.control.v1` for access nodes and routers.
    pub internal: TcpListener,
}

/// Why control did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting makes no sense.
    #[error("the configuration cannot be used: {0}")]
    Config(&'static str),
    /// The data folder cannot be opened: another process holds it, it is damaged, or the disk failed.
    #[error("the store cannot be opened")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The data was sealed with another master key.
    #[error("the master key is not the one the data was sealed with")]
    MasterKey,
    /// The data was written by a newer version of hawser.
    #[error("the data was written by a newer version (format {0})")]
    NewerData(u32),
    /// No signing key, or no ticket key, could be made.
    #[error("there is no signing or ticket key and none can be made: {0}")]
    SigningKey(String),
    /// A metric of the same name is registered already.
    #[error("the metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// A listener has no address, or a thread cannot be started.
    #[error("the operating system refused")]
    Os(#[from] std::io::Error),
}

impl From<LoadError> for StartError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Engine(source) => Self::Store(Box::new(source)),
            LoadError::Newer(format) => Self::NewerData(format),
            LoadError::MasterKey => Self::MasterKey,
        }
    }
}

/// A control that serves. Dropping it does not stop it; call [`Running::shutdown`].
#[derive(Debug)]
pub struct Running {
    http_addr: SocketAddr,
    internal_addr: SocketAddr,
    tasks: Tasks,
    shared: Arc<Shared>,
    writer: std::thread::JoinHandle<()>,
}

impl Running {
    /// Where the HTTP API listens.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where `hawser.control.v1` listens.
    pub fn internal_addr(&self) -> SocketAddr {
        self.internal_addr
    }

    /// Stops accepting, lets calls in work finish, and closes the store. False: something was still
    /// busy when the patience ended. What was answered is durable either way.
    pub async fn shutdown(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let ended = self.tasks.shutdown(patience).await;
        let (store, writer) = (self.shared.store.clone(), self.writer);
        let joined = tokio::task::spawn_blocking(move || {
            store.close();
            writer.join().is_ok()
        });
        let left =
            deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        let closed = matches!(tokio::time::timeout(left, joined).await, Ok(Ok(true)));
        info!(ended, closed, "control stopped");
        ended && closed
    }
}

/// Opens the store and serves both listeners. Returns when everything is loaded and listening.
pub async fn start(
    config: Config,
    listeners: Listeners,
    registry: &prometheus::Registry,
) -> Result<Running, StartError> {
    if let Some(problem) = config.problem() {
        return Err(StartError::Config(problem));
    }
    let metrics = Metrics::register(registry)?;
    let sealer = Sealer::new(&config.master_key).map_err(|_| StartError::MasterKey)?;
    let (engine, catalogue) = open(config.data_dir.clone(), sealer.clone()).await?;
    let settings =
        StoreSettings { timeout: config.store_timeout, watch_backlog: config.watch_backlog };
    let (store, writer) = Store::start(Arc::new(engine), catalogue, settings, metrics.clone())?;
    make_first_signing_key(&store, &sealer).await?;
    let of_tickets = sweep::ticket_keys(&store, &sealer, &config).await;
    of_tickets.map_err(|refusal| StartError::SigningKey(refusal.to_string()))?;

    let http_addr = listeners.http.local_addr()?;
    let internal_addr = listeners.internal.local_addr()?;
    let tasks = Tasks::new();
    let shared = Arc::new(Shared {
        nonces: Mutex::new(proof::nonce::Nonces::new(config.nonces_max)),
        config,
        store,
        sealer,
        nodes: Mutex::default(),
        routers: Mutex::default(),
        pace: Mutex::default(),
        rates: Mutex::default(),
        metrics,
        tasks: tasks.clone(),
    });
    tasks.spawn("control sweep", sweep::run(shared.clone()));
    tasks.spawn("control http", http::serve(shared.clone(), listeners.http));
    tasks.spawn("control internal", serve_internal(shared.clone(), listeners.internal));
    info!(http = %http_addr, internal = %internal_addr, "control serves");
    Ok(Running { http_addr, internal_addr, tasks, shared, writer })
}

async fn open(
    folder: std::path::PathBuf,
    sealer: Sealer,
) -> Result<(Embedded, catalogue::Catalogue), StartError> {
    let opening = tokio::task::spawn_blocking(move || {
        let engine = Embedded::open(&folder).map_err(LoadError::from)?;
        let catalogue = store::records::load(&engine, &sealer)?;
        Ok::<_, LoadError>((engine, catalogue))
    });
    let opened = opening.await.map_err(|failure| StartError::Store(Box::new(failure)))?;
    Ok(opened?)
}

async fn make_first_signing_key(store: &Store, sealer: &Sealer) -> Result<(), StartError> {
    let sealer = sealer.clone();
    let made = store.upkeep(move |catalogue, now_ms| {
        catalogue::edit::signing::first(catalogue, &sealer, now_ms).transpose()
    });
    match made.await {
        Ok(made) => {
            if made {
                info!("made the first signing key");
            }
            Ok(())
        }
        Err(refusal) => Err(StartError::SigningKey(refusal.to_string())),
    }
}

async fn serve_internal(shared: Arc<Shared>, listener: TcpListener) {
    let peers = shared.config.peers.clone();
    let stop = shared.tasks.stop_signal();
    let service = ControlServer::new(rpc::ControlRpc(shared))
        .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX);
    let guard = peers.guard(&[Role::Access, Role::Router]);
    let service = tonic::service::interceptor::InterceptedService::new(service, guard);
    let incoming = peers.incoming(listener);
    let serving = peers
        .server()
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    if let Some(Err(failure)) = served(serving, stop, STOP_GRACE).await {
        error!(failure = &failure as &dyn std::error::Error, "the internal port failed");
    }
}
