//! Configuration of a router.

use crate::functions::Functions;
use hawser_chassis::callback::Callbacks;
use hawser_chassis::peers::Peers;
use hawser_chassis::secret::Secret;
use hawser_proto::limits::{NODE_CALL_TIMEOUT, NODE_LEASE, STORE_CALL_TIMEOUT};
use std::path::PathBuf;
use std::time::Duration;

/// What a router is told at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name, for access nodes and control.
    pub name: String,
    /// What it does. Default: everything.
    pub functions: Functions,
    /// Where backends dial its push API, as control tells them: `http://host:port` or `https://..`. Default: the
    /// address that it listens on.
    pub push_advertised: Option<String>,
    /// Where sessions, inboxes, groups and histories are kept. Default: embedded.
    pub store: StoreConfig,
    /// How long one call of the store may take. Longer rides over slow moments of it; a login waits as
    /// long, and is answered `router_unavailable` then. Default 500 ms.
    pub store_call_timeout: Duration,
    /// Bodies that are to be compressed stand so in the store, and take less of it. Only where every router of the
    /// store is of this release or a later one: those before cannot read them, and would tell devices that these
    /// pushes are lost. Default: no.
    pub store_compressed: bool,
    /// Where the embedded store lives. One router per folder.
    pub data_dir: PathBuf,
    /// Control's internal port, `http://host:port`, or `https` with certificates. Control may be down; the last catalogue stays.
    pub control: String,
    /// How control is dialled, and access nodes are known.
    pub peers: Peers,
    /// Which addresses may be called for businesses, with connection events. Default: those of the internet.
    pub callbacks: Callbacks,
    /// How long an access node is believed to be alive after it was last heard; it sends word every
    /// third of this. Longer forgives longer pauses, and names dead sessions longer. Default 10 s.
    pub node_lease: Duration,
    /// How long a push or question waits for an access node. Default 1 s.
    pub call_timeout: Duration,
    /// How long a broadcast waits for a node that reports no progress. Default 10 s.
    pub broadcast_patience: Duration,
    /// Groups that one business may have. Each takes some 300 bytes of memory. Default 100,000.
    pub groups_per_business_max: usize,
    /// Connections of backends at a time; more wait to be accepted. Default 4,096.
    pub push_connections_max: usize,
    /// How long a backend that has connected may stay silent. Default 5 s.
    pub push_preface_timeout: Duration,
}

/// Which store, and where it is.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// In the process, in the data directory. One router.
    Embedded,
    /// One Redis primary.
    RedisSingle {
        /// `redis://user:password@host:port/database`.
        url: Secret,
    },
    /// A Redis primary that Sentinel watches.
    RedisSentinel {
        /// Sentinels, `host:port`.
        sentinels: Vec<String>,
        /// Name under which they watch it.
        master: String,
        /// Of the primary.
        username: Option<String>,
        /// Of the primary.
        password: Option<Secret>,
        /// Of the primary.
        database: u32,
    },
    /// Redis Cluster.
    RedisCluster {
        /// Some of its nodes, as `url` of a single one.
        nodes: Vec<Secret>,
    },
}

impl Config {
    /// The defaults for all but what has none.
    pub fn new(name: &str, data_dir: PathBuf, control: &str, peers: Peers) -> Self {
        Self {
            name: name.to_owned(),
            functions: Functions::ALL,
            push_advertised: None,
            store: StoreConfig::Embedded,
            store_call_timeout: STORE_CALL_TIMEOUT,
            store_compressed: false,
            data_dir,
            control: control.to_owned(),
            peers,
            callbacks: Callbacks::public(),
            node_lease: NODE_LEASE,
            call_timeout: NODE_CALL_TIMEOUT,
            broadcast_patience: Duration::from_secs(10),
            groups_per_business_max: 100_000,
            push_connections_max: 4_096,
            push_preface_timeout: Duration::from_secs(5),
        }
    }
}
