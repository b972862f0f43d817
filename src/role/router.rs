//! `hawser router`.

use super::internal::{Internal, InternalTls};
use super::secret_at::SecretAt;
use super::store::{Store, StoreFile};
use super::{Admin, Role, Surroundings, cannot_start, reload_peers, warn_if_open};
use crate::bind;
use crate::failure::{Failure, Outcome};
use crate::span::Span;
use hawser_chassis::callback::Callbacks;
use hawser_router::{Config, Functions, Listeners};
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
    cluster_secret: Option<SecretAt>,
    internal_tls: Option<InternalTls>,
    #[serde(default)]
    allow_plain_internal: bool,
    node_lease: Option<Span>,
    call_timeout: Option<Span>,
    store_compressed: Option<bool>,
    functions: Option<Vec<String>>,
    push_advertised: Option<String>,
    callbacks: Option<Callbacks>,
    patience: Option<Span>,
    store: Option<StoreFile>,
    admin: Admin,
}

impl File {
    /// What the form alone cannot say.
    pub(super) fn check(&self) -> Outcome {
        if self.name.is_empty() {
            return Err(Failure::usage("name is empty: control would not know the router"));
        }
        self.functions()?;
        let is_base = |uri: &&String| uri.starts_with("http://") || uri.starts_with("https://");
        if let Some(other) = self.push_advertised.as_ref().filter(|uri| !is_base(uri)) {
            return Err(Failure::usage(format!(
                "push_advertised = {other} is not of the form http://host:port or https://host:port"
            )));
        }
        let (listen, dialled) = (Some(self.internal_listen), [self.control.as_str()]);
        self.internal().check(listen, self.allow_plain_internal, &dialled)
    }

    /// Opens the PEM files.
    pub(super) fn open_files(&self) -> Outcome {
        self.internal().open_files()
    }

    fn functions(&self) -> Outcome<Functions> {
        let Some(names) = &self.functions else { return Ok(Functions::ALL) };
        let functions = Functions::named(names.iter().map(String::as_str)).map_err(|name| {
            Failure::usage(format!("functions: there is no {name}; there are logins, push, inbox"))
        })?;
        if functions.is_empty() {
            return Err(Failure::usage("functions is empty: the router would do nothing"));
        }
        Ok(functions)
    }

    fn internal(&self) -> Internal<'_> {
        Internal { secret: self.cluster_secret.as_ref(), tls: self.internal_tls.as_ref() }
    }

    /// `store`: from the command line or the environment, which win.
    fn config(&self, store: Option<Store>) -> Outcome<Config> {
        self.check()?;
        let peers = self.internal().peers()?;
        let mut config = Config::new(&self.name, self.data_dir.clone(), &self.control, peers);
        config.functions = self.functions()?;
        config.push_advertised.clone_from(&self.push_advertised);
        if let Some(callbacks) = &self.callbacks {
            config.callbacks = callbacks.clone();
        }
        if let Some(Span(lease)) = self.node_lease {
            config.node_lease = lease;
        }
        if let Some(Span(timeout)) = self.call_timeout {
            config.call_timeout = timeout;
        }
        config.store_compressed = self.store_compressed.unwrap_or(config.store_compressed);
        let (of_file, timeout) =
            self.store.as_ref().map_or(Ok((Store::Embedded, None)), StoreFile::read)?;
        config.store = store.unwrap_or(of_file).into();
        config.store_call_timeout = timeout.unwrap_or(config.store_call_timeout);
        Ok(config)
    }
}

/// Runs a router until the process is told to stop.
pub(super) async fn run(file: File, store: Option<Store>) -> Outcome {
    let config = file.config(store)?;
    let listeners = Listeners {
        push: bind::tcp(file.push_listen, "the push API", "push_listen")?,
        internal: bind::tcp(file.internal_listen, "the internal port", "internal_listen")?,
    };
    let around = Surroundings::start(&file.admin)?;
    warn_if_open(file.push_listen, "push_listen", "business keys and pushes");
    let peers = config.peers.clone();
    peers.watch(&around.tasks, &around.registry);
    around.at_hangup(move || reload_peers(&peers));
    let router = hawser_router::start(config, listeners, &around.registry)
        .await
        .map_err(|failure| cannot_start(Role::Router, &failure))?;
    around.until_terminated().await;
    let patience = file.patience.map_or(PATIENCE, |Span(patience)| patience);
    let calm = router.shutdown(patience).await;
    around.end(calm).await
}
