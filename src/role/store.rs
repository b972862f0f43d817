//! Which store a router keeps routes, inboxes and histories in: as one text (`--store`, `HAWSER_STORE`,
//! or `store = ".."` in the file), or as a `[store]` table. Both are read into one form, in which secrets
//! do not show.

use super::secret_at::SecretAt;
use crate::control_api::segment;
use crate::failure::{Failure, Outcome};
use crate::span::Span;
use clap::{Args, ValueEnum};
use hawser_chassis::secret::Secret;
use pending::StoreConfig;
use serde::Deserialize;
use serde::de::{Deserializer, Error, value::MapAccessDeserializer};
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const TEXT_FORMS: &str = "embedded, redis://host:port/db, redis-sentinel://host:port,host:port/master \
                          or redis-cluster://host:port,host:port";

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

/// What came before and after the addresses of a text.
struct Parts<'a> {
    server: Server,
    /// Behind the first slash.
    path: Vec<&'a str>,
}

/// Reads `[user:password@]host:port[,host:port..][/path]`. Mistakes never repeat the text, which may
/// hold a password.
fn parts(text: &str) -> Result<Parts<'_>, String> {
    if text.contains(['?', '#']) {
        return Err("a store has no options behind ? or #".to_owned());
    }
    let (authority, path) = match text.split_once('/') {
        Some((authority, path)) => (authority, path.trim_end_matches('/').split('/').collect()),
        None => (text, Vec::new()),
    };
    let path = if path == [""] { Vec::new() } else { path };
    let (user, addresses) = match authority.rsplit_once('@') {
        Some((user, addresses)) => (Some(user), addresses),
        None => (None, authority),
    };
    let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        None => (None, None),
        Some((name, password)) => (some(name)?, some(password)?),
    };
    let addresses = addresses.split(',').map(|at| address(at).map(str::to_owned));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    Ok(Parts { server: Server { addresses, username, password, database: 0 }, path })
}

/// A percent-encoded part, if there is anything in it.
fn some(text: &str) -> Result<Option<String>, String> {
    let wrong = || "user or password is not percent-encoded as in an address".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let (Some(high), Some(low)) = (high, low) else { return Err(wrong()) };
        bytes.push((high * 16 + low) as u8);
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    Ok((!text.is_empty()).then_some(text))
}

/// Checks `host:port`.
fn address(text: &str) -> Result<&str, String> {
    let wrong = || "an address is not of the form host:port".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_v6 = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let host_is_fine = if is_v6 {
        host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !host.is_empty() && host.chars().all(plain)
    };
    match port.parse::<u16>() {
        Ok(1..) if host_is_fine => Ok(text),
        _ => Err(wrong()),
    }
}

fn database(text: Option<&&str>) -> Result<u32, String> {
    text.map_or(Ok(0), |text| {
        text.parse().map_err(|_| "the database behind the / is not a number".to_owned())
    })
}

impl FromStr for Store {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        let unknown = || format!("a store is {TEXT_FORMS}");
        let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
        if scheme.starts_with("rediss") {
            return Err("rediss:// is not supported yet: no TLS between router and Redis".into());
        }
        if !["redis", "redis-sentinel", "redis-cluster"].contains(&scheme) {
            return Err(unknown());
        }
        let Parts { mut server, path } = parts(rest)?;
        match (scheme, &path[..]) {
            ("redis", [] | [_]) if server.addresses.len() == 1 => {
                server.database = database(path.first())?;
                Ok(Self::Redis(server))
            }
            ("redis", [] | [_]) => Err("redis:// has one address; for several there are \
                redis-sentinel:// and redis-cluster://"
                .into()),
            ("redis-sentinel", [master] | [master, _]) if !master.is_empty() => {
                server.database = database(path.get(1))?;
                Ok(Self::Sentinel { master: (*master).to_owned(), server })
            }
            ("redis-sentinel", _) => Err("redis-sentinel:// names the master behind the \
                addresses: redis-sentinel://host:port,host:port/master"
                .into()),
            ("redis-cluster", []) => Ok(Self::Cluster(server)),
            ("redis-cluster", _) => Err("a Redis Cluster has no numbered databases".into()),
            _ => Err(unknown()),
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

/// `store` in a router's file: a text, or a table.
pub(super) enum StoreFile {
    Text(Store),
    Table(Table),
}

/// The `[store]` table, by its kind.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Table {
    Embedded {
        call_timeout: Option<Span>,
    },
    Redis {
        url: String,
        username: Option<String>,
        password: Option<SecretAt>,
        call_timeout: Option<Span>,
    },
    RedisSentinel {
        sentinels: Vec<String>,
        master: String,
        username: Option<String>,
        password: Option<SecretAt>,
        database: Option<u32>,
        call_timeout: Option<Span>,
    },
    RedisCluster {
        nodes: Vec<String>,
        username: Option<String>,
        password: Option<SecretAt>,
        call_timeout: Option<Span>,
    },
}

impl<'de> Deserialize<'de> for StoreFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EitherForm)
    }
}

/// Tells the two forms apart, so that a mistake in one is told in its own words.
struct EitherForm;

impl<'de> serde::de::Visitor<'de> for EitherForm {
    type Value = StoreFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TEXT_FORMS}, or a [store] table")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<StoreFile, E> {
        plain(text).map(StoreFile::Text).map_err(E::custom)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<StoreFile, A::Error> {
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        table.shape().map_err(A::Error::custom)?;
        Ok(StoreFile::Table(table))
    }
}

/// A store as it may stand in a file: without a password.
fn plain(text: &str) -> Result<Store, String> {
    let mut store: Store = text.parse()?;
    if store.server_mut().is_some_and(|server| server.password.is_some()) {
        return Err("a password does not belong in this file: take a [store] table with \
            password = \"env:NAME\" or \"file:/path\", or set HAWSER_STORE"
            .into());
    }
    Ok(store)
}

/// `scheme://a,b` of addresses that may each have a `redis://` before them.
fn joined(scheme: &str, addresses: &[String], field: &str) -> Result<String, String> {
    if addresses.is_empty() {
        return Err(format!("{field} is empty"));
    }
    let one =
        |at: &String| at.strip_prefix("redis://").unwrap_or(at).trim_end_matches('/').to_owned();
    Ok(format!("{scheme}://{}", addresses.iter().map(one).collect::<Vec<_>>().join(",")))
}

impl Table {
    /// The store without its credentials.
    fn shape(&self) -> Result<Store, String> {
        match self {
            Self::Embedded { .. } => Ok(Store::Embedded),
            Self::Redis { url, .. } => match plain(url)? {
                store @ Store::Redis(_) => Ok(store),
                _ => Err("url is not of the form redis://host:port/db".into()),
            },
            Self::RedisSentinel { sentinels, master, database, .. } => {
                let text = joined("redis-sentinel", sentinels, "sentinels")?;
                let fine = |c: char| c.is_ascii_graphic() && !"/?#".contains(c);
                if master.is_empty() || !master.chars().all(fine) {
                    return Err("master is not the name of a primary".into());
                }
                plain(&format!("{text}/{master}/{}", database.unwrap_or(0)))
            }
            Self::RedisCluster { nodes, .. } => plain(&joined("redis-cluster", nodes, "nodes")?),
        }
    }

    fn call_timeout(&self) -> Option<Duration> {
        let (Self::Embedded { call_timeout }
        | Self::Redis { call_timeout, .. }
        | Self::RedisSentinel { call_timeout, .. }
        | Self::RedisCluster { call_timeout, .. }) = self;
        call_timeout.map(|span| span.0)
    }

    fn read(&self) -> Outcome<Store> {
        let mut store = self.shape().map_err(Failure::usage)?;
        if let (
            Self::Redis { username, password, .. }
            | Self::RedisSentinel { username, password, .. }
            | Self::RedisCluster { username, password, .. },
            Some(server),
        ) = (self, store.server_mut())
        {
            if let Some(name) = username {
                server.username = Some(name.clone());
            }
            if let Some(at) = password {
                server.password = Some(at.read()?.expose().to_owned());
            }
        }
        Ok(store)
    }
}

impl StoreFile {
    /// The store with its secrets, and the longest wait for it if the file says one.
    pub(super) fn read(&self) -> Outcome<(Store, Option<Duration>)> {
        match self {
            Self::Text(store) => Ok((store.clone(), None)),
            Self::Table(table) => Ok((table.read()?, table.call_timeout())),
        }
    }
}

pub(crate) fn embedded_only(store: Store) -> Outcome {
    match StoreConfig::from(store) {
        StoreConfig::Embedded => Ok(()),
        _ => Err(Failure::usage("this release serves the embedded store only")),
    }
}

mod pending {
    use hawser_chassis::secret::Secret;
    #[derive(Debug)]
    pub(crate) enum StoreConfig {
        Embedded,
        RedisSingle {
            url: Secret,
        },
        RedisSentinel {
            sentinels: Vec<String>,
            master: String,
            username: Option<String>,
            password: Option<Secret>,
            database: u32,
        },
        RedisCluster {
            nodes: Vec<Secret>,
        },
    }
}

#[cfg(test)]
mod tests;
