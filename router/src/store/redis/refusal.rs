//! Why a router does not start on these servers.

/// Why a router must not start on these servers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Keys could vanish.
    #[error(
        "Redis at {server} has maxmemory-policy {policy}: it would throw sessions and stored pushes away \
         when its memory is used up; set `maxmemory-policy noeviction` in its redis.conf, or run \
         `redis-cli CONFIG SET maxmemory-policy noeviction` and `CONFIG REWRITE`"
    )]
    Evicts {
        /// Which one.
        server: String,
        /// What it has.
        policy: String,
    },
    /// The scripts need a newer one.
    #[error("Redis at {server} is of release {version}; 7.0 or later is needed")]
    TooOld {
        /// Which one.
        server: String,
        /// What it is.
        version: String,
    },
    /// A cluster where none was named, or the other way round.
    #[error(
        "Redis at {server} {}", if *is_cluster {
            "belongs to a cluster; name the store as redis-cluster://"
        } else {
            "does not belong to a cluster; name the store as redis:// or redis-sentinel://"
        }
    )]
    Kind {
        /// Which one.
        server: String,
        /// What it is.
        is_cluster: bool,
    },
    /// The configured address.
    #[error("the address of Redis cannot be read")]
    Address,
    /// The metrics are in the registry already.
    #[error("metrics cannot be registered")]
    Metrics,
}
