//! Which store a router is started on.

use crate::config::{Config, StoreConfig};
use crate::reach::PATIENCE_MAX;
use crate::store::Store;
use crate::store::embedded::{Embedded, Settings};
use crate::store::redis::Redis;
use prometheus::Registry;
use std::error::Error;
use std::sync::Arc;

/// Opens the store that the configuration names. What it says when it cannot is for whoever set it up.
pub(crate) async fn open(
    config: &Config,
    registry: &Registry,
) -> Result<Arc<dyn Store>, Box<dyn Error + Send + Sync>> {
    if let Some(redis) = Redis::open(&config.store, config.store_call_timeout, registry).await? {
        return Ok(Arc::new(redis));
    }
    let mut settings = Settings::new(config.data_dir.clone());
    // Whoever calls is answered earlier; a slow disk gets the time that it is given here.
    settings.call_timeout = config.store_call_timeout * PATIENCE_MAX;
    let opened = tokio::task::spawn_blocking(move || Embedded::open(settings)).await??;
    Ok(Arc::new(opened))
}

/// What the store is called in a message.
pub(crate) fn name(config: &Config) -> String {
    match &config.store {
        StoreConfig::Embedded => format!("the store in {}", config.data_dir.display()),
        StoreConfig::RedisSingle { .. } => "the Redis server".to_owned(),
        StoreConfig::RedisSentinel { master, .. } => format!("the Redis server {master:?}"),
        StoreConfig::RedisCluster { .. } => "the Redis Cluster".to_owned(),
    }
}
