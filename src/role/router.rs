//! `hawser router`.

use super::text::{SecretAt, Span};
use super::{Admin, Role, Surroundings, cannot_start};
use crate::bind;
use crate::failure::Outcome;
use hawser_router::{Config, Listeners};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// A router's configuration file; what is left out has its default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    name: String,
    push_listen: SocketAddr,
    internal_listen: SocketAddr,
    data_dir: PathBuf,
    control: String,
    cluster_secret: SecretAt,
    node_lease: Option<Span>,
    call_timeout: Option<Span>,
    admin: Admin,
}

impl File {
    fn config(&self) -> Outcome<Config> {
        let mut config = Config::new(
            &self.name,
            self.data_dir.clone(),
            &self.control,
            self.cluster_secret.read()?,
        );
        if let Some(Span(lease)) = self.node_lease {
            config.node_lease = lease;
        }
        if let Some(Span(timeout)) = self.call_timeout {
            config.call_timeout = timeout;
        }
        Ok(config)
    }
}

/// Runs a router until the process is told to stop.
pub(super) async fn run(file: File) -> Outcome {
    let config = file.config()?;
    let listeners = Listeners {
        push: bind::tcp(file.push_listen, "the push API", "push_listen")?,
        internal: bind::tcp(file.internal_listen, "the internal port", "internal_listen")?,
    };
    let around = Surroundings::start(&file.admin)?;
    let router = hawser_router::start(config, listeners, &around.registry)
        .await
        .map_err(|failure| cannot_start(Role::Router, &failure))?;
    around.until_terminated().await;
    let calm = router.shutdown(PATIENCE).await;
    around.end(calm).await
}
