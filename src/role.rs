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
use crate::output::Output;
use clap::{Args, Subcommand, ValueEnum};
use hawser_chassis::admin::{Readiness, routes};
use hawser_chassis::config::ConfigError;
use hawser_chassis::shutdown::{Tasks, terminated};
use hawser_chassis::telemetry::{self, LogFormat};
use prometheus::Registry;
use serde::Deserialize;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::StoreKind;

/// How long the small servers beside a service may take to end.
const ADMIN_PATIENCE: Duration = Duration::from_secs(2);

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
    config: PathBuf,
}

/// Arguments of a router.
#[derive(Debug, Args)]
pub(crate) struct RouterArgs {
    #[command(flatten)]
    role: RoleArgs,
    #[command(flatten)]
    store: store::StoreArg,
}

/// Commands on configuration files.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a file as the service would, and say what is wrong with it
    ///
    /// Example: hawser config check access /etc/hawser/access.toml
    #[command(verbatim_doc_comment)]
    Check {
        /// Service
        role: Role,
        /// File
        file: PathBuf,
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
#[serde(deny_unknown_fields)]
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
        ConfigCommand::Check { role, file } => {
            match role {
                Role::Control => load::<control::File>(&file)?.check()?,
                Role::Access => load::<access::File>(&file)?.check()?,
                Role::Router => load::<router::File>(&file)?.check()?,
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
    control::run(load(&args.config)?).await
}

/// Runs an access node until it is told to stop.
pub(crate) async fn access(args: RoleArgs) -> Outcome {
    access::run(load(&args.config)?).await
}

/// Runs a router until it is told to stop.
pub(crate) async fn router(args: RouterArgs) -> Outcome {
    router::run(load(&args.role.config)?, args.store.read()?).await
}

fn load<T: serde::de::DeserializeOwned>(file: &Path) -> Outcome<T> {
    hawser_chassis::config::load(file).map_err(|failure| match failure {
        // The library's own text repeats the line, which may hold a secret that should not be there.
        ConfigError::Parse { path, source } => {
            let place = source.span().and_then(|span| place(&path, span.start)).unwrap_or_default();
            Failure::usage(format!("{}{place}: {}", path.display(), source.message()))
        }
        other @ ConfigError::Read { .. } => Failure::usage(chain(&other)),
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
        telemetry::init(&admin.log, admin.log_format);
        let listener = bind::tcp(admin.listen, "the admin port", "admin.listen")?;
        let (registry, readiness) = (telemetry::registry(), Readiness::default());
        let tasks = Tasks::new();
        admin::serve(&tasks, "admin", listener, routes(registry.clone(), readiness.clone()));
        Ok(Self { registry, readiness, tasks })
    }

    /// Ready from here on, until the process is told to stop.
    async fn until_terminated(&self) {
        let end = terminated();
        self.readiness.set(true);
        end.await;
        self.readiness.set(false);
    }

    /// After the service has ended. `calm`: it ended within its patience.
    async fn end(self, calm: bool) -> Outcome {
        let ended = self.tasks.shutdown(ADMIN_PATIENCE).await;
        if calm && ended { Ok(()) } else { Err(Failure::not_done("not everything ended in time")) }
    }
}

fn cannot_start(role: Role, failure: &dyn std::error::Error) -> Failure {
    Failure::unreachable(format!("{role} cannot start: {}", chain(failure)))
}

#[cfg(test)]
mod tests;
