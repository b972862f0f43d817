//! Which store a router keeps routes, inboxes and histories in: as one text (`store/text.rs`: `--store`,
//! `HAWSER_STORE`, or `store = ".."` in the file), or as a `[store]` table (`store/file.rs`). Both are read
//! into one form, in which secrets do not show.

mod file;
mod text;

pub(super) use file::StoreFile;

use crate::control_api::segment;
use crate::failure::{Failure, Outcome};
use clap::{Args, ValueEnum};
use hawser_chassis::secret::Secret;
use hawser_router::StoreConfig;
use std::convert::Infallible;
use std::fmt;

/// Where routes, inboxes and histories are kept.
#[derive(Debug, Args)]
pub(crate) struct StoreArg {
    /// Store, instead of the file's or the embedded one
    ///
    ///   embedded                                   in the process, in its data directory
    ///   redis://host:port/db                       one Redis primary
    ///   redis-sentinel://host:port,host:port/name  the primary that Sentinel knows by this name
    ///   redis-cluster://host:port,host:port        Redis Cluster, by some of its nodes
    ///
    /// Credentials stand before the addresses, as in redis://user:password@host:port; with them, set
    /// HAWSER_STORE rather than this flag, which everyone on the machine can read.
    #[arg(long, env = "HAWSER_STORE", hide_env_values = true, value_name = "STORE")]
    #[arg(verbatim_doc_comment, value_parser = |text: &str| Ok::<_, Infallible>(Secret::new(text)))]
    store: Option<Secret>,
}

impl StoreArg {
    /// The store, if one was named. A mistake is told here and not by the parser of the command line,
    /// which would repeat the text with its password.
    pub(crate) fn read(&self) -> Outcome<Option<Store>> {
        let read = |text: &Secret| {
            text.expose().parse().map_err(|why| Failure::usage(format!("--store: {why}")))
        };
        self.store.as_ref().map(read).transpose()
    }
}

/// A kind of store, for examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// In the process
    Embedded,
    /// One Redis primary
    Redis,
    /// A Redis primary that Sentinel watches
    RedisSentinel,
    /// Redis Cluster
    RedisCluster,
}

impl StoreKind {
    /// What is added to the commented example of a router.
    pub(super) fn example(self) -> &'static str {
        match self {
            Self::Embedded => "",
            Self::Redis => include_str!("store/redis.example.toml"),
            Self::RedisSentinel => include_str!("store/redis-sentinel.example.toml"),
            Self::RedisCluster => include_str!("store/redis-cluster.example.toml"),
        }
    }
}

/// A store, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// In the router's process, in its data directory.
    Embedded,
    /// One Redis primary.
    Redis(Server),
    /// Whatever the sentinels name as the primary of `master`.
    Sentinel {
        /// Name under which they watch it.
        master: String,
        /// The addresses are those of the sentinels; the credentials and the database are the primary's.
        server: Server,
    },
    /// A Redis Cluster, by some of its nodes.
    Cluster(Server),
}

/// Addresses that share credentials.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Server {
    addresses: Vec<String>,
    username: Option<String>,
    password: Option<String>,
    database: u32,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| ".."))
            .field("database", &self.database)
            .finish()
    }
}

impl Server {
    /// `redis://` to one of its addresses.
    fn url(&self, address: &str) -> Secret {
        let text = |it: &Option<String>| it.as_deref().map(segment).unwrap_or_default();
        let user = match (&self.username, &self.password) {
            (None, None) => String::new(),
            (name, password) => format!("{}:{}@", text(name), text(password)),
        };
        Secret::new(&format!("redis://{user}{address}/{}", self.database))
    }
}

impl From<Store> for StoreConfig {
    fn from(store: Store) -> Self {
        match store {
            Store::Embedded => Self::Embedded,
            // Here it has one.
            Store::Redis(server) => {
                Self::RedisSingle { url: server.url(&server.addresses.join(",")) }
            }
            Store::Sentinel { master, server } => Self::RedisSentinel {
                sentinels: server.addresses,
                master,
                username: server.username,
                password: server.password.as_deref().map(Secret::new),
                database: server.database,
            },
            Store::Cluster(server) => Self::RedisCluster {
                nodes: server.addresses.iter().map(|at| server.url(at)).collect(),
            },
        }
    }
}

impl Store {
    fn server_mut(&mut self) -> Option<&mut Server> {
        match self {
            Self::Embedded => None,
            Self::Redis(server) | Self::Cluster(server) | Self::Sentinel { server, .. } => {
                Some(server)
            }
        }
    }
}

#[cfg(test)]
mod tests;
