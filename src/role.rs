//! `hawser control`, `hawser access` and `hawser router`: one service each, from a configuration file.

mod access;
mod control;
mod internal;
mod router;
mod secret_at;
pub(crate) mod store;

use crate::admin;
use crate::bind;
use crate::failure::{Failure, Outcome, chain};
use crate::operate::router::RouterCommand;
use crate::output::Output;
use clap::{Args, Subcommand, ValueEnum};
use hawser_chassis::admin::{Readiness, routes};
use hawser_chassis::config::{ConfigError, Override};
use hawser_chassis::peers::Peers;
use hawser_chassis::private;
use hawser_chassis::shutdown::{Tasks, terminated};
use hawser_chassis::telemetry::{self, LogFormat};
use hawser_chassis::tls::Certificate;
use prometheus::Registry;
use serde::Deserialize;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::StoreKind;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// How long the small servers beside a service may take to end.
const ADMIN_PATIENCE: Duration = Duration::from_secs(2);
/// How often a service is asked whether it wants traffic.
const READINESS_INTERVAL: Duration = Duration::from_millis(100);

/// One of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Catalogue, tokens and access points
    Control,
    /// Connections of devices
    Access,
    /// Who is where, and the push API
    Router,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Access => "access",
            Self::Router => "router",
        })
    }
}

/// Arguments of a service.
#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// Configuration file; `hawser config example <service>` prints one to begin from
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: SetArgs,
}

/// Settings on the command line.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// A setting, as key=value or table.key=value; wins over the environment (HAWSER_<SERVICE>_<KEY>, or
    /// HAWSER_<SERVICE>_<TABLE>__<KEY>), which wins over the file; repeat for more
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Arguments of a router.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RouterArgs {
    /// Instead of running one.
    #[command(subcommand)]
    pub(crate) command: Option<RouterCommand>,
    #[command(flatten)]
    role: RoleArgs,
    #[command(flatten)]
    store: store::StoreArg,
}

/// Commands on configuration files.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a file, with the environment over it, as the service would, and say what is wrong with it
    ///
    /// Certificates and keys that it names are opened too, so check on the machine that the service runs on.
    ///
    /// Example: hawser config check access /etc/hawser/access.toml
    #[command(verbatim_doc_comment)]
    Check {
        /// Service
        role: Role,
        /// File
        file: PathBuf,
        #[command(flatten)]
        settings: SetArgs,
    },
    /// Print an example with every setting explained
    ///
    /// Examples:
    ///   hawser config example router > router.toml
    ///   hawser config example router --store redis-sentinel > router.toml
    #[command(verbatim_doc_comment)]
    Example {
        /// Service
        role: Role,
        /// For a router: which store
        #[arg(long, value_enum)]
        store: Option<StoreKind>,
    },
}

/// What every service's file has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an [admin] table")]
struct Admin {
    listen: SocketAddr,
    #[serde(default = "default_log")]
    log: String,
    #[serde(default)]
    log_format: LogFormat,
}

fn default_log() -> String {
    "info".to_owned()
}

/// Checks or prints a configuration.
pub(crate) fn config(output: Output, command: ConfigCommand) -> Outcome {
    match command {
        ConfigCommand::Check { role, file, settings } => {
            let (settings, at) = (settings.over(role)?, Some(file.as_path()));
            match role {
                Role::Control => {
                    let file = load::<control::File>(at, &settings)?;
                    file.check().and_then(|()| file.open_files())?;
                }
                Role::Access => {
                    let file = load::<access::File>(at, &settings)?;
                    file.check().and_then(|()| file.open_files())?;
                }
                Role::Router => {
                    let file = load::<router::File>(at, &settings)?;
                    file.check().and_then(|()| file.open_files())?;
                }
            }
            output.done(&format!("{} is a good configuration of {role}", file.display()));
        }
        ConfigCommand::Example { role: Role::Router, store: Some(kind) } => {
            print!("{}{}", example(Role::Router), kind.example());
        }
        ConfigCommand::Example { store: Some(_), .. } => {
            return Err(Failure::usage("only a router has a --store"));
        }
        ConfigCommand::Example { role, store: None } => print!("{}", example(role)),
    }
    Ok(())
}

/// The commented example of a service.
fn example(role: Role) -> &'static str {
    match role {
        Role::Control => include_str!("role/control.example.toml"),
        Role::Access => include_str!("role/access.example.toml"),
        Role::Router => include_str!("role/router.example.toml"),
    }
}

/// Runs control until it is told to stop.
pub(crate) async fn control(args: RoleArgs) -> Outcome {
    control::run(args.load(Role::Control)?).await
}

/// Runs an access node until it is told to stop.
pub(crate) async fn access(args: RoleArgs) -> Outcome {
    access::run(args.load(Role::Access)?).await
}

/// Runs a router until it is told to stop.
pub(crate) async fn router(args: RouterArgs) -> Outcome {
    router::run(args.role.load(Role::Router)?, args.store.read()?).await
}

impl SetArgs {
    /// What the environment and the command line say, in the order in which they win.
    fn over(&self, role: Role) -> Outcome<Vec<Override>> {
        let prefix = format!("HAWSER_{}", role.to_string().to_uppercase());
        // A variable that is not text is none of ours.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let mut all = Override::of_environment(&prefix, std::env::vars_os().filter_map(text));
        for flag in &self.set {
            all.push(Override::of_flag(flag).map_err(|failure| Failure::usage(chain(&failure)))?);
        }
        Ok(all)
    }
}

impl RoleArgs {
    fn load<T: serde::de::DeserializeOwned>(&self, role: Role) -> Outcome<T> {
        let settings = self.settings.over(role)?;
        if self.config.is_none() && settings.is_empty() {
            return Err(Failure::usage(format!(
                "say how {role} is to run: --config FILE, HAWSER_{}_<KEY> or --set KEY=VALUE",
                role.to_string().to_uppercase()
            )));
        }
        load(self.config.as_deref(), &settings)
    }
}

fn load<T: serde::de::DeserializeOwned>(file: Option<&Path>, settings: &[Override]) -> Outcome<T> {
    hawser_chassis::config::load(file, settings).map_err(|failure| match failure {
        // The library's own text repeats the line, which may hold a secret that should not be there.
        ConfigError::Parse { path, source } => {
            let place = source.span().and_then(|span| place(&path, span.start)).unwrap_or_default();
            Failure::usage(format!("{}{place}: {}", path.display(), source.message()))
        }
        ConfigError::Merged { message } => {
            let file = file.map_or_else(String::new, |file| format!("{}, ", file.display()));
            Failure::usage(format!("{file}the environment and the command line: {message}"))
        }
        other => Failure::usage(chain(&other)),
    })
}

/// Line and key at an offset of a file.
fn place(path: &Path, offset: usize) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let before = text.get(..offset)?;
    let line = before.matches('\n').count() + 1;
    let key = text.lines().nth(line - 1)?.split_once('=').map(|(key, _)| key.trim());
    Some(key.map_or_else(|| format!(", line {line}"), |key| format!(", line {line}, {key}")))
}

/// What surrounds a service: its logs, its admin port, and whether it wants traffic.
struct Surroundings {
    registry: Registry,
    readiness: Readiness,
    tasks: Tasks,
}

impl Surroundings {
    fn start(admin: &Admin) -> Outcome<Self> {
        private::from_now_on();
        telemetry::init(&admin.log, admin.log_format);
        let listener = bind::tcp(admin.listen, "the admin port", "admin.listen")?;
        let (registry, readiness) = (telemetry::registry(), Readiness::default());
        let tasks = Tasks::new();
        admin::serve(&tasks, "admin", listener, routes(registry.clone(), readiness.clone()));
        Ok(Self { registry, readiness, tasks })
    }

    /// At SIGHUP, reads again what `again` reads: certificates mostly.
    fn at_hangup(&self, again: impl Fn() + Send + 'static) {
        let stop = self.tasks.stop_signal();
        self.tasks.spawn("hangups", async move {
            let mut hangups = match signal(SignalKind::hangup()) {
                Ok(hangups) => hangups,
                Err(failure) => return warn!(%failure, "cannot listen for SIGHUP"),
            };
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = hangups.recv() => again(),
                }
            }
        });
    }

    /// Ready from here on, until the process is told to stop.
    async fn until_terminated(&self) {
        self.until_terminated_if(|| true).await;
    }

    /// Ready as long as the service says so, until the process is told to stop.
    async fn until_terminated_if(&self, is_ready: impl Fn() -> bool) {
        let end = terminated();
        let asking = async {
            loop {
                self.readiness.set(is_ready());
                tokio::time::sleep(READINESS_INTERVAL).await;
            }
        };
        tokio::select! {
            () = end => {}
            () = asking => {}
        }
        self.readiness.set(false);
    }

    /// After the service has ended. `calm`: it ended within its patience.
    async fn end(self, calm: bool) -> Outcome {
        let ended = self.tasks.shutdown(ADMIN_PATIENCE).await;
        if calm && ended { Ok(()) } else { Err(Failure::not_done("not everything ended in time")) }
    }
}

/// Warns of a public port that others can reach, which hawser serves without TLS.
fn warn_if_open(listen: SocketAddr, setting: &'static str, what: &str) {
    if let Some(warning) = open_to_others(listen, setting, what) {
        warn!(%listen, setting, "{warning}");
    }
}

fn open_to_others(listen: SocketAddr, setting: &str, what: &str) -> Option<String> {
    (!listen.ip().is_loopback()).then(|| {
        format!(
            "this port has no TLS: {what} can be read and changed on their way to it; put a proxy that ends TLS \
             in front, and let {setting} be loopback, or an address that the proxy alone can reach"
        )
    })
}

/// Reads the certificates between services again.
fn reload_peers(peers: &Peers) {
    match peers.reload() {
        Ok(()) => {}
        Err(failure) => warn!(failure = chain(&failure), "the old internal certificate stays"),
    }
}

/// Reads a certificate again.
fn reload(certificate: &Certificate) {
    match certificate.reload() {
        Ok(()) => info!("certificate read again"),
        Err(failure) => warn!(failure = chain(&failure), "the old certificate stays"),
    }
}

fn cannot_start(role: Role, failure: &dyn std::error::Error) -> Failure {
    Failure::unreachable(format!("{role} cannot start: {}", chain(failure)))
}

#[cfg(test)]
mod tests;
