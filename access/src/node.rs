//! One access node: its parts, its start and its end.

use crate::accept::{self, Strangers};
use crate::admission::Admission;
use crate::config::Config;
use crate::control::{self, Advice, Control};
use crate::downlink;
use crate::drain::{self, Drain};
use crate::forward::Pools;
use crate::groups::Groups;
use crate::lane::{self, LaneHandle};
use crate::link::{Dialled, Transport};
use crate::metrics::Metrics;
use crate::reactor::{self, Reactor};
use crate::routers::asks::Asks;
use crate::routers::{self, Routers, Unbound};
use crate::sweep::{self, Sweeps};
use crate::table::{ClientFacts, Rights, Signal, Table};
use arc_swap::ArcSwap;
use hawser_chassis::peers::PeersError;
use hawser_chassis::shutdown::Tasks;
use hawser_proto::catalogue::Catalogue;
use hawser_proto::code::CloseCode;
use hawser_proto::id::{BootId, ConnId, Epoch, SlotRef};
use hawser_proto::rpc::control::AccessPoint;
use hawser_proto::rpc::node::InboxTail;
use parking_lot::Mutex;
use prometheus::Registry;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tracing::error;

/// The sockets a node accepts on, bound by whoever starts it. Any of them may be empty.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Plain TCP.
    pub tcp: Vec<TcpListener>,
    /// TLS 1.3 over TCP.
    pub tls: Vec<TcpListener>,
    /// Plain WebSocket.
    pub ws: Vec<TcpListener>,
    /// Secure WebSocket.
    pub wss: Vec<TcpListener>,
    /// QUIC.
    pub quic: Vec<std::net::UdpSocket>,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener for TLS, QUIC or secure WebSocket, and no certificate.
    #[error("{0} needs a certificate")]
    NoCertificate(&'static str),
    /// The certificate cannot be used.
    #[error("the certificate cannot be used")]
    Tls(#[from] hawser_chassis::tls::TlsError),
    /// The certificate cannot be used for QUIC.
    #[error("the certificate cannot be used for QUIC")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// A socket is not usable.
    #[error("a listener cannot be used")]
    Socket(#[from] io::Error),
    /// The address of control, or of a router, cannot be used.
    #[error("an address of another service cannot be used")]
    Address(#[from] PeersError),
}

/// Everything the parts of a node share.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) table: Table,
    pub(crate) lanes: Box<[LaneHandle]>,
    /// One a lane, for the sockets of its connections.
    pub(crate) reactors: Box<[Reactor]>,
    pub(crate) groups: Groups,
    pub(crate) pools: Pools,
    pub(crate) routers: Routers,
    pub(crate) control: Control,
    pub(crate) catalogue: ArcSwap<Catalogue>,
    pub(crate) shared: Shared,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) admission: Admission,
    /// Calls of the store in flight.
    pub(crate) asks: Asks,
    pub(crate) sweeps: Sweeps,
    pub(crate) strangers: Strangers,
    /// Accept loops.
    pub(crate) doors: Tasks,
    /// Connections, requests and lanes.
    pub(crate) tasks: Tasks,
    /// Streams to control and routers: the last to go.
    pub(crate) links: Tasks,
    /// Something changed that control should hear of at once.
    pub(crate) news: Notify,
    pub(crate) drain: Drain,
    /// The catalogue has changed, and is to be kept.
    pub(crate) catalogue_news: watch::Sender<u64>,
    /// What control last said about the other nodes.
    pub(crate) advice: ArcSwap<Advice>,
}

impl Node {
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_on()
    }

    /// Whether logins can succeed: the catalogue is known and a router is there.
    pub(crate) fn is_served(&self) -> bool {
        self.catalogue.load().revision > 0 && self.routers.is_ready()
    }

    /// Whether the node wants devices.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_served() && !self.is_draining()
    }

    /// Text form of a connection id of this node.
    pub(crate) fn connection_id(&self, at: SlotRef) -> String {
        ConnId { node: self.config.node.clone(), boot: self.table.boot, at }.to_string()
    }

    /// Completes a slot with the epoch its claim got, and with what is said of its inboxes. False: the
    /// connection has gone. `Kicked`: a kick for this very session was faster.
    pub(crate) fn set_epoch(
        &self,
        at: SlotRef,
        epoch: Epoch,
        inboxes: &[InboxTail],
    ) -> Result<bool, Unbound> {
        let set = self.table.with(at, |connection| {
            let Some(identity) = &mut connection.identity else { return Ok(false) };
            if let Some((kicked, code)) = identity.kicked_epoch.as_deref().copied()
                && kicked >= epoch
            {
                return Err(Unbound::Kicked(code));
            }
            if identity.epoch.0 != 0 {
                // Another router has answered before: as the store does, the same.
                return Ok(identity.epoch == epoch);
            }
            (identity.epoch, identity.first_epoch) = (epoch, epoch);
            // From here on it is a session, and its end counts it out.
            self.metrics.sessions(&identity.app, connection.dialled).inc();
            downlink::stand(connection, inboxes, downlink::Said::AtLogin);
            Ok(true)
        });
        set.unwrap_or(Ok(false))
    }

    /// A session has told of itself by one epoch, and goes on under the other: the same, or a higher one that
    /// stands for it from now on. What was asked by the one of before is asked anew, its answers come in vain.
    /// `None`: it has gone, or is saying goodbye. False: nothing has changed.
    pub(crate) fn raise_epoch(&self, at: SlotRef, told: Epoch, now: Epoch) -> Option<bool> {
        let raised = self.table.with(at, |connection| {
            let identity = connection.identity.as_mut()?;
            let is_raised = identity.epoch == told && now > told;
            if is_raised {
                identity.epoch = now;
                if let Some(downlink) = &mut connection.downlink {
                    downlink.feeds.ask_anew();
                }
            }
            Some(is_raised)
        });
        raised.flatten()
    }

    /// Keeps a kick for a session whose claim is still being answered. False: it has its answer.
    pub(crate) fn remember_early_kick(
        &self,
        at: SlotRef,
        kick: &hawser_proto::rpc::node::Kick,
        code: CloseCode,
    ) -> bool {
        let kept = self.table.with(at, |connection| {
            let Some(identity) = &mut connection.identity else { return false };
            let is_named = identity.epoch.0 == 0
                && identity.app.as_str() == kick.app
                && identity.device.as_str() == kick.device;
            if is_named {
                identity.kicked_epoch = Some(Box::new((Epoch(kick.epoch), code)));
            }
            is_named
        });
        kept == Some(true)
    }

    /// Tells a session that another one of its device is the right one, if it still has the epoch that it told
    /// of itself by.
    pub(crate) fn supersede(&self, at: SlotRef, told: Epoch) {
        self.table.with(at, |connection| {
            if connection.identity.as_ref().is_some_and(|identity| identity.epoch == told) {
                connection.order(Signal::Ordered(CloseCode::Superseded, String::new()));
            }
        });
    }
}

/// Values that many sessions have in common, held once.
#[derive(Default)]
pub(crate) struct Shared {
    rights: Mutex<HashSet<Arc<Rights>>>,
    clients: Mutex<HashSet<Arc<ClientFacts>>>,
}

/// Different values kept for sharing; beyond this they are simply not shared. What devices say of
/// themselves is theirs to choose, so it must not grow without end.
const SHARED_MAX: usize = 4_096;

impl Shared {
    pub(crate) fn rights(&self, rights: Rights) -> Arc<Rights> {
        share(&self.rights, rights)
    }

    pub(crate) fn client(&self, facts: ClientFacts) -> Arc<ClientFacts> {
        share(&self.clients, facts)
    }
}

fn share<T: Eq + std::hash::Hash>(known: &Mutex<HashSet<Arc<T>>>, value: T) -> Arc<T> {
    let mut known = known.lock();
    if let Some(found) = known.get(&value) {
        return found.clone();
    }
    let new = Arc::new(value);
    if known.len() < SHARED_MAX {
        known.insert(new.clone());
    }
    new
}

/// A node at work.
#[derive(Clone)]
pub struct Running {
    node: Arc<Node>,
    addresses: Vec<(&'static str, SocketAddr)>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("node", &self.node.config.node).finish_non_exhaustive()
    }
}

/// Starts a node on listeners that are bound already. It answers logins once control and a router
/// were heard; see [`Running::is_ready`]. Must be called inside a tokio runtime.
pub async fn start(
    config: Config,
    listeners: Listeners,
    registry: &Registry,
) -> Result<Running, StartError> {
    let lanes = match config.lanes {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        set => set,
    };
    let metrics = Arc::new(Metrics::new(registry));
    let boot = BootId(rand::random());
    let table = Table::new(
        boot,
        config.connections_max,
        lanes,
        config.guards,
        config.write_timeout,
        metrics.clone(),
    );
    let control = Control::new(&config.control, &config.peers)?;
    let (handles, work): (Vec<_>, Vec<_>) =
        (0..lanes).map(|_| lane::queue(config.lane_queue_max)).unzip();
    let (mut reactors, mut sources) = (Vec::new(), Vec::new());
    for _ in 0..lanes {
        let (reactor, source) = Reactor::new()?;
        reactors.push(reactor);
        sources.push(source);
    }
    let node = Arc::new(Node {
        groups: Groups::new(lanes, metrics.clone()),
        table,
        lanes: handles.into(),
        reactors: reactors.into(),
        pools: Pools::new(config.callbacks.clone()),
        routers: Routers::default(),
        control,
        catalogue: ArcSwap::default(),
        shared: Shared::default(),
        metrics,
        admission: Admission::new(&config),
        asks: Asks::default(),
        sweeps: Sweeps::default(),
        strangers: Strangers::default(),
        doors: Tasks::new(),
        tasks: Tasks::new(),
        links: Tasks::new(),
        news: Notify::new(),
        drain: Drain::new(),
        catalogue_news: watch::Sender::new(0),
        advice: ArcSwap::default(),
        config,
    });
    if let Some(kept) = node.config.data_dir.as_deref().and_then(control::kept::read) {
        control::apply(&node, kept).await;
    }
    let addresses = accept::addresses(&listeners)?;
    accept::open(&node, listeners)?;
    for source in sources {
        node.links.spawn("reactor", reactor::run(node.clone(), source));
    }
    for (index, queue) in work.into_iter().enumerate() {
        node.links.spawn("lane", lane::run(node.clone(), index, queue));
    }
    node.links.spawn("control watch", control::watch(node.clone()));
    node.links.spawn("kept catalogue", control::kept::keep(node.clone()));
    node.links
        .spawn("control report", control::report(node.clone(), advertised(&node, &addresses)));
    routers::start(&node);
    node.links.spawn("sweeps", sweep::run(node.clone()));
    node.links.spawn("drain", drain::run(node.clone()));
    node.links.spawn("fit of the drain", drain::watch_fit(node.clone()));
    Ok(Running { node, addresses })
}

fn advertised(node: &Node, addresses: &[(&'static str, SocketAddr)]) -> Vec<AccessPoint> {
    let point = |&(protocol, address): &(&'static str, SocketAddr)| {
        let host = node
            .config
            .advertised_host
            .clone()
            .unwrap_or_else(|| reachable(address.ip()).to_string());
        let is_plain = protocol == Dialled::Tcp.name() || protocol == Dialled::Ws.name();
        AccessPoint {
            protocol: protocol.to_owned(),
            host,
            port: address.port().into(),
            server_name: if is_plain { String::new() } else { node.config.server_name.clone() },
        }
    };
    addresses.iter().map(point).collect()
}

/// A listener on all addresses is reached here by loopback; elsewhere `advertised_host` says how.
fn reachable(ip: IpAddr) -> IpAddr {
    if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip }
}

impl Running {
    /// The bound addresses, each with its protocol: `tcp`, `tls`, `quic`, `ws`, `wss`.
    pub fn addresses(&self) -> &[(&'static str, SocketAddr)] {
        &self.addresses
    }

    /// The first address of a protocol.
    pub fn address(&self, protocol: &str) -> Option<SocketAddr> {
        self.addresses.iter().find(|(name, _)| *name == protocol).map(|&(_, address)| address)
    }

    /// Whether logins can succeed: the catalogue is known and a router is there.
    pub fn is_ready(&self) -> bool {
        self.node.is_ready()
    }

    /// Takes in a link over a transport of the caller's own, as if it had been accepted: for
    /// embedding and tests. False: the node is full, and the link was dropped.
    pub fn attach(&self, transport: Box<dyn Transport>, remote: IpAddr) -> bool {
        accept::attach(&self.node, transport, remote)
    }

    /// Random per start; part of every connection id.
    pub fn boot(&self) -> BootId {
        self.node.table.boot
    }

    /// The parts, for tests of one of them.
    #[cfg(test)]
    pub(crate) fn node(&self) -> Arc<Node> {
        self.node.clone()
    }

    /// Empties the node and stays up: no more is accepted, and sessions are told to go, this many a second;
    /// 0: as configured. Until [`Running::undrain`], or the end.
    pub fn drain(&self, per_second: u32) {
        let per_second =
            if per_second == 0 { self.node.config.drain_per_second } else { per_second };
        let deadline = self.node.config.go_away_deadline;
        self.node.drain.begin(drain::Order { id: 0, per_second, deadline, end_by: None });
        self.node.news.notify_one();
    }

    /// Ends a drain that was ordered: the node accepts again. Those who were told go all the same.
    pub fn undrain(&self) {
        if self.node.drain.end() {
            self.node.news.notify_one();
        }
    }

    fn order_all(&self, order: &Signal) {
        for slot in 0..self.node.table.slots_used() {
            self.node.table.visit(slot, |_, connection| connection.order(order.clone()));
        }
    }

    /// Ends the node. False: something was still there when the patience was over.
    pub async fn shutdown(self, patience: Duration) -> bool {
        let begun = tokio::time::Instant::now();
        let deadline = begun + patience;
        let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
        let node = &self.node;
        // 1. Stop being advertised, and let sessions go at the set rate: each is told, has until its
        //    deadline to be elsewhere, and is closed once its requests are answered.
        let plan = drain::begin_end(node, begun, patience);
        // 2. Stop accepting.
        let mut is_clean = node.doors.shutdown(left().min(patience / 4)).await;
        // 3. Wait until all have gone; whoever is left then is told to.
        let end_by = begun + plan.end_after;
        if !node.tasks.shutdown(end_by.saturating_duration_since(tokio::time::Instant::now())).await
        {
            let (sessions, tasks) = (node.table.sessions(), node.tasks.len());
            error!(sessions, tasks, ?patience, "the patience is over: what is left is cut off");
            self.order_all(&Signal::Ordered(CloseCode::Draining, String::new()));
            is_clean &= node.tasks.shutdown(left() / 2).await;
        }
        // 4. The last unbinds leave with the streams' end: give the queue a moment to run dry.
        node.routers.flush(left().min(Duration::from_millis(500))).await;
        // 5. Close the streams.
        is_clean & node.links.shutdown(left()).await
    }
}
