//! `hawser control`.

use super::internal::{Internal, InternalTls};
use super::secret_at::SecretAt;
use super::{Admin, Role, Surroundings, cannot_start, reload_peers, warn_if_open};
use crate::bind;
use crate::failure::{Failure, Outcome, chain};
use crate::span::Span;
use hawser_chassis::peers::Peers;
use hawser_chassis::secret::Secret;
use hawser_control::{Backoff, Config, Listeners, MasterKey};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// Control's configuration file; what is left out has its default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    listen: SocketAddr,
    internal_listen: SocketAddr,
    data_dir: PathBuf,
    admin_token: SecretAt,
    cluster_secret: Option<SecretAt>,
    internal_tls: Option<InternalTls>,
    #[serde(default)]
    allow_plain_internal: bool,
    master_key: SecretAt,
    public_url: Option<String>,
    token_ttl: Option<Span>,
    signing_activation_delay: Option<Span>,
    allow_open_access: Option<bool>,
    node_freshness: Option<Span>,
    node_report_interval: Option<Span>,
    reconnect_window: Option<Span>,
    resume_tickets: Option<bool>,
    ticket_key_rotation: Option<Span>,
    patience: Option<Span>,
    access_refresh: Option<Span>,
    audit_retention: Option<Span>,
    backoff: Option<BackoffFile>,
    admin: Admin,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a [backoff] table")]
struct BackoffFile {
    base: Span,
    max: Span,
    factor: f64,
    jitter: f64,
}

impl File {
    /// What the form alone cannot say.
    pub(super) fn check(&self) -> Outcome {
        self.internal().check(Some(self.internal_listen), self.allow_plain_internal, &[])?;
        // What makes no sense does so whatever the secrets are.
        let any = Secret::new("stands in for a secret");
        let peers = Peers::secret(&any).map_err(|failure| Failure::usage(chain(&failure)))?;
        let config = self.settings(any, peers, MasterKey::new([0; 32]));
        config.problem().map_or(Ok(()), |problem| Err(Failure::usage(problem)))
    }

    /// Opens the PEM files.
    pub(super) fn open_files(&self) -> Outcome {
        self.internal().open_files()
    }

    fn internal(&self) -> Internal<'_> {
        Internal { secret: self.cluster_secret.as_ref(), tls: self.internal_tls.as_ref() }
    }

    fn config(&self) -> Outcome<Config> {
        self.check()?;
        let master_key = MasterKey::from_hex(self.master_key.read()?.expose())
            .ok_or_else(|| Failure::usage("the master key is not 64 hexadecimal digits"))?;
        let (admin_token, peers) = (self.admin_token.read()?, self.internal().peers()?);
        Ok(self.settings(admin_token, peers, master_key))
    }

    fn settings(&self, admin_token: Secret, peers: Peers, master_key: MasterKey) -> Config {
        let mut config = Config::new(self.data_dir.clone(), admin_token, peers, master_key);
        config.public_url.clone_from(&self.public_url);
        config.resume_tickets = self.resume_tickets.unwrap_or(config.resume_tickets);
        config.allow_open_access = self.allow_open_access.unwrap_or(config.allow_open_access);
        for (field, given) in [
            (&mut config.token_ttl, self.token_ttl),
            (&mut config.signing_activation_delay, self.signing_activation_delay),
            (&mut config.node_freshness, self.node_freshness),
            (&mut config.node_report_interval, self.node_report_interval),
            (&mut config.reconnect_window, self.reconnect_window),
            (&mut config.ticket_key_rotation, self.ticket_key_rotation),
            (&mut config.access_refresh, self.access_refresh),
            (&mut config.audit_retention, self.audit_retention),
        ] {
            if let Some(Span(given)) = given {
                *field = given;
            }
        }
        if let Some(BackoffFile { base, max, factor, jitter }) = &self.backoff {
            config.backoff = Backoff { base: base.0, max: max.0, factor: *factor, jitter: *jitter };
        }
        config
    }
}

/// Runs control until the process is told to stop.
pub(super) async fn run(file: File) -> Outcome {
    let config = file.config()?;
    let listeners = Listeners {
        http: bind::tcp(file.listen, "the HTTP API", "listen")?,
        internal: bind::tcp(file.internal_listen, "the internal port", "internal_listen")?,
    };
    let around = Surroundings::start(&file.admin)?;
    warn_if_open(file.listen, "listen", "admin tokens, owner keys and the proofs of devices");
    let peers = config.peers.clone();
    peers.watch(&around.tasks, &around.registry);
    around.at_hangup(move || reload_peers(&peers));
    let control = hawser_control::start(config, listeners, &around.registry)
        .await
        .map_err(|failure| cannot_start(Role::Control, &failure))?;
    around.until_terminated().await;
    let patience = file.patience.map_or(PATIENCE, |Span(patience)| patience);
    let calm = control.shutdown(patience).await;
    around.end(calm).await
}
