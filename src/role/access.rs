//! `hawser access`.

use super::internal::{Internal, InternalTls};
use super::secret_at::SecretAt;
use super::{Admin, Role, Surroundings, cannot_start, reload, reload_peers};
use crate::bind;
use crate::failure::{Failure, Outcome, chain};
use crate::span::Span;
use hawser_access::{Config, Listeners};
use hawser_chassis::callback::Callbacks;
use hawser_chassis::tls::Certificate;
use hawser_proto::id::NodeId;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An access node's configuration file; what is left out has its default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    node: String,
    cluster: Option<String>,
    region: Option<String>,
    carrier: Option<String>,
    control: String,
    routers: Vec<String>,
    cluster_secret: Option<SecretAt>,
    internal_tls: Option<InternalTls>,
    callbacks: Option<Callbacks>,
    data_dir: Option<PathBuf>,
    advertised_host: Option<String>,
    server_name: Option<String>,
    connections_max: Option<u32>,
    accepts_per_second: Option<u32>,
    failed_logins_max: Option<u32>,
    lanes: Option<usize>,
    certificate: Option<CertificateFiles>,
    drain: Option<Drain>,
    listen: Listen,
    admin: Admin,
}

/// How the node goes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a [drain] table")]
struct Drain {
    per_second: Option<u32>,
    go_away_deadline: Option<Span>,
    patience: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a [certificate] table")]
struct CertificateFiles {
    chain: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a [listen] table of addresses")]
struct Listen {
    #[serde(default)]
    tcp: Vec<SocketAddr>,
    #[serde(default)]
    tls: Vec<SocketAddr>,
    #[serde(default)]
    quic: Vec<SocketAddr>,
    #[serde(default)]
    ws: Vec<SocketAddr>,
    #[serde(default)]
    wss: Vec<SocketAddr>,
}

impl File {
    /// What the form alone cannot say.
    pub(super) fn check(&self) -> Outcome {
        self.node()?;
        let listen = &self.listen;
        let secure = !(listen.tls.is_empty() && listen.quic.is_empty() && listen.wss.is_empty());
        let plain = !(listen.tcp.is_empty() && listen.ws.is_empty());
        if !secure && !plain {
            return Err(Failure::usage("[listen] names no address: nobody could connect"));
        }
        if secure && self.certificate.is_none() {
            return Err(Failure::usage("tls, quic and wss need a [certificate]"));
        }
        if self.drain.as_ref().is_some_and(|drain| drain.per_second == Some(0)) {
            return Err(Failure::usage("drain.per_second is 0: the node would never be empty"));
        }
        if self.connections_max == Some(0) {
            return Err(Failure::usage("connections_max is 0: the node would never be handed out"));
        }
        if self.routers.is_empty() {
            return Err(Failure::usage("routers is empty: nobody could log in"));
        }
        let dialled: Vec<_> =
            std::iter::once(&self.control).chain(&self.routers).map(String::as_str).collect();
        self.internal().check(None, true, &dialled)
    }

    /// Opens the PEM files.
    pub(super) fn open_files(&self) -> Outcome {
        self.certificate()?;
        self.internal().open_files()
    }

    fn certificate(&self) -> Outcome<Option<Certificate>> {
        let files = self.certificate.as_ref();
        let loaded = files.map(|files| Certificate::load(&files.chain, &files.key)).transpose();
        loaded.map_err(|failure| Failure::usage(chain(&failure)))
    }

    fn internal(&self) -> Internal<'_> {
        Internal { secret: self.cluster_secret.as_ref(), tls: self.internal_tls.as_ref() }
    }

    fn node(&self) -> Outcome<NodeId> {
        NodeId::new(&self.node).map_err(|failure| Failure::usage(format!("node: {failure}")))
    }

    fn config(&self) -> Outcome<Config> {
        self.check()?;
        let peers = self.internal().peers()?;
        let mut config = Config::new(self.node()?, &self.control, &self.routers, peers);
        for (field, given) in [
            (&mut config.cluster, &self.cluster),
            (&mut config.region, &self.region),
            (&mut config.carrier, &self.carrier),
            (&mut config.server_name, &self.server_name),
        ] {
            if let Some(given) = given {
                field.clone_from(given);
            }
        }
        config.data_dir.clone_from(&self.data_dir);
        if let Some(drain) = &self.drain {
            config.drain_per_second = drain.per_second.unwrap_or(config.drain_per_second);
            for (field, given) in [
                (&mut config.go_away_deadline, drain.go_away_deadline),
                (&mut config.patience, drain.patience),
            ] {
                if let Some(Span(given)) = given {
                    *field = given;
                }
            }
        }
        if let Some(callbacks) = &self.callbacks {
            config.callbacks = callbacks.clone();
        }
        config.advertised_host.clone_from(&self.advertised_host);
        config.connections_max = self.connections_max.unwrap_or(config.connections_max);
        config.accepts_per_second = self.accepts_per_second.unwrap_or(config.accepts_per_second);
        config.failed_logins_max = self.failed_logins_max.unwrap_or(config.failed_logins_max);
        config.lanes = self.lanes.unwrap_or(config.lanes);
        config.certificate = self.certificate()?;
        Ok(config)
    }
}

fn all(addresses: &[SocketAddr], name: &str) -> Outcome<Vec<tokio::net::TcpListener>> {
    let bound = addresses.iter().map(|at| bind::tcp(*at, name, &format!("listen.{name}")));
    bound.collect()
}

/// Runs an access node until the process is told to stop. SIGHUP reads the certificates again.
pub(super) async fn run(file: File) -> Outcome {
    let config = file.config()?;
    let quic = file.listen.quic.iter().map(|at| bind::udp(*at, "quic", "listen.quic"));
    let listeners = Listeners {
        tcp: all(&file.listen.tcp, "tcp")?,
        tls: all(&file.listen.tls, "tls")?,
        ws: all(&file.listen.ws, "ws")?,
        wss: all(&file.listen.wss, "wss")?,
        quic: quic.collect::<Outcome<_>>()?,
    };
    let patience = config.patience;
    let around = Surroundings::start(&file.admin)?;
    let (peers, certificate) = (config.peers.clone(), config.certificate.clone());
    peers.watch(&around.tasks, &around.registry);
    around.at_hangup(move || {
        reload_peers(&peers);
        certificate.iter().for_each(reload);
    });
    let access = hawser_access::start(config, listeners, &around.registry)
        .await
        .map_err(|failure| cannot_start(Role::Access, &failure))?;
    // Not while it drains by order, nor while it could take no login.
    around.until_terminated_if(|| access.is_ready()).await;
    let calm = access.shutdown(patience).await;
    around.end(calm).await
}
