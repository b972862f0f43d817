//! `store` in a router's file: a text, or a table that names the kind of store.

use super::super::secret_at::SecretAt;
use super::{Store, text};
use crate::failure::{Failure, Outcome};
use crate::span::Span;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor, value::MapAccessDeserializer};
use std::fmt;
use std::time::Duration;

/// `store` in a router's file: a text, or a table.
pub(in crate::role) enum StoreFile {
    Text(Store),
    Table(Table),
}

/// The `[store]` table, by its kind.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(in crate::role) enum Table {
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

impl<'de> Visitor<'de> for EitherForm {
    type Value = StoreFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a [store] table", text::FORMS)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<StoreFile, E> {
        plain(text).map(StoreFile::Text).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StoreFile, A::Error> {
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
    pub(in crate::role) fn read(&self) -> Outcome<(Store, Option<Duration>)> {
        match self {
            Self::Text(store) => Ok((store.clone(), None)),
            Self::Table(table) => Ok((table.read()?, table.call_timeout())),
        }
    }
}
