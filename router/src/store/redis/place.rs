//! Where the servers are, out of the configuration.

use super::Refusal;
use super::server::Way;
use crate::config::StoreConfig;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use std::time::Duration;

/// How the primaries are found.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// There is one, and it stays where it is.
    Single(String),
    /// Sentinels know.
    Sentinel {
        /// Their addresses.
        sentinels: Vec<String>,
        /// Name under which they watch it.
        master: String,
        /// How they are reached.
        way: Way,
    },
    /// The nodes know; these are some of them.
    Cluster(Vec<String>),
}

impl Place {
    /// Place and way, as configured. `None`: another engine.
    pub(super) fn of(
        config: &StoreConfig,
        timeout: Duration,
    ) -> Result<Option<(Self, Way)>, Refusal> {
        Ok(Some(match config {
            StoreConfig::Embedded => return Ok(None),
            StoreConfig::RedisSingle { url } => {
                let (info, address) = read(url.expose())?;
                (Self::Single(address), Way { info, timeout })
            }
            StoreConfig::RedisSentinel { sentinels, master, username, password, database } => {
                let mut settings = RedisConnectionInfo::default().set_db(i64::from(*database));
                if let Some(name) = username {
                    settings = settings.set_username(name);
                }
                if let Some(password) = password {
                    settings = settings.set_password(password.expose());
                }
                let plain = anywhere()?;
                let way = Way { info: plain.clone(), timeout };
                let (sentinels, master) = (sentinels.clone(), master.clone());
                let place = Self::Sentinel { sentinels, master, way };
                (place, Way { info: plain.set_redis_settings(settings), timeout })
            }
            StoreConfig::RedisCluster { nodes } => {
                let read: Result<Vec<_>, _> = nodes.iter().map(|url| read(url.expose())).collect();
                let (infos, addresses): (Vec<_>, Vec<_>) = read?.into_iter().unzip();
                let info = infos.into_iter().next().ok_or(Refusal::Address)?;
                (Self::Cluster(addresses), Way { info, timeout })
            }
        }))
    }
}

fn anywhere() -> Result<ConnectionInfo, Refusal> {
    let address = ConnectionAddr::Tcp("localhost".to_owned(), 6379);
    address.into_connection_info().map_err(|_| Refusal::Address)
}

fn read(url: &str) -> Result<(ConnectionInfo, String), Refusal> {
    let info = url.into_connection_info().map_err(|_| Refusal::Address)?;
    let ConnectionAddr::Tcp(host, port) = info.addr() else { return Err(Refusal::Address) };
    let address =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Ok((info, address))
}
