//! The configuration files of a cluster's services.

use super::shape::Shape;
use anyhow::{Context, ensure};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// What all files of one cluster have in common.
pub(super) struct Settings<'a> {
    pub(super) shape: &'a Shape,
    pub(super) folder: &'a Path,
    /// Control's internal port.
    pub(super) control: SocketAddr,
    /// Internal ports of the routers.
    pub(super) routers: &'a [SocketAddr],
    pub(super) today: &'a Dialect,
}

/// Which settings a release knows, by its own examples: one that it does not know it refuses.
pub(super) struct Dialect(String);

impl Dialect {
    pub(super) fn of(binary: &Path) -> anyhow::Result<Self> {
        let mut all = String::new();
        for role in ["control", "router", "access"] {
            let output = Command::new(binary).args(["config", "example", role]).output();
            let output = output.with_context(|| format!("cannot run {}", binary.display()))?;
            ensure!(output.status.success(), "{} has no example of {role}", binary.display());
            all.push_str(
                &String::from_utf8_lossy(&output.stdout).replace('\n', &format!("\n{role} ")),
            );
        }
        Ok(Self(all))
    }

    /// Whether this setting, or table in brackets, is one of the role's; commented out or not.
    fn knows(&self, role: &str, setting: &str) -> bool {
        self.0.lines().any(|line| {
            let line = line.strip_prefix(role).map(|line| line.trim_start_matches([' ', '#']));
            line.and_then(|line| line.strip_prefix(setting))
                .is_some_and(|rest| setting.starts_with('[') || rest.trim_start().starts_with('='))
        })
    }
}

/// Ports of one access node.
pub(super) struct Doors {
    pub(super) tcp: SocketAddr,
    pub(super) ws: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) quic: SocketAddr,
}

impl Settings<'_> {
    fn scheme(&self) -> &'static str {
        if self.shape.internal_tls { "https" } else { "http" }
    }

    pub(super) fn control(&self, http: SocketAddr) -> String {
        let Self { control, folder, shape, .. } = self;
        format!(
            "listen = \"{http}\"\ninternal_listen = \"{control}\"\ndata_dir = \"{}\"\n\
             admin_token = \"env:FAULTS_ADMIN_TOKEN\"\n{}\
             master_key = \"env:FAULTS_MASTER_KEY\"\nallow_open_access = true\n\
             signing_activation_delay = \"0s\"\nreconnect_window = \"1s\"\ntoken_ttl = \"{}s\"\n\
             node_report_interval = \"1s\"\n{}\
             [backoff]\nbase = \"200ms\"\nmax = \"2s\"\nfactor = 2.0\njitter = 0.5\n{}",
            folder.join("control").display(),
            self.secret(),
            shape.token_life.as_secs(),
            self.plain("control"),
            self.internal_tls("control"),
        )
    }

    pub(super) fn router(&self, number: usize, push: SocketAddr) -> String {
        let Self { control, folder, shape, .. } = self;
        let mut text = format!(
            "name = \"r{number}\"\npush_listen = \"{push}\"\ninternal_listen = \"{}\"\n\
             data_dir = \"{}\"\ncontrol = \"{}://{control}\"\nnode_lease = \"{}ms\"\n{}\
             store = \"{}\"\n{}",
            self.routers[number],
            folder.join(format!("router-{number}")).display(),
            self.scheme(),
            shape.timers.lease.as_millis(),
            self.secret(),
            shape.store,
            self.plain("router"),
        );
        let functions = shape.routers[number];
        if !functions.is_empty() {
            let _ = writeln!(text, "functions = {functions:?}");
        }
        text + &self.internal_tls("router")
    }

    /// In the dialect of the release that reads it.
    pub(super) fn access(&self, number: usize, doors: &Doors, dialect: &Dialect) -> String {
        let Self { control, folder, shape, .. } = self;
        let scheme = self.scheme();
        let routers: Vec<String> =
            self.routers.iter().map(|at| format!("{scheme}://{at}")).collect();
        let mut text = format!(
            "node = \"a{number}\"\ncontrol = \"{scheme}://{control}\"\nrouters = {routers:?}\n{}\
             accepts_per_second = {}\nfailed_logins_max = 100000\n",
            self.secret(),
            shape.accepts_per_second,
        );
        if let Some(most) = shape.connections_max {
            let _ = writeln!(text, "connections_max = {most}");
        }
        if dialect.knows("access", "data_dir") {
            // What it knows of the catalogue survives its process.
            let data = folder.join(format!("access-{number}"));
            let _ = writeln!(text, "data_dir = \"{}\"", data.display());
        }
        if dialect.knows("access", "callbacks") {
            // The businesses of a harness live on loopback.
            let _ = writeln!(text, "callbacks = \"any\"");
        }
        let Doors { tcp, ws, tls, quic } = doors;
        let _ = writeln!(text, "[listen]\ntcp = [\"{tcp}\"]\nws = [\"{ws}\"]");
        if shape.secure_doors {
            let _ = writeln!(text, "tls = [\"{tls}\"]\nquic = [\"{quic}\"]");
            let (chain, key) = (folder.join("door.pem"), folder.join("door.key.pem"));
            let _ = writeln!(
                text,
                "[certificate]\nchain = \"{}\"\nkey = \"{}\"",
                chain.display(),
                key.display()
            );
        }
        if let Some((per_second, patience)) =
            shape.drain.filter(|_| dialect.knows("access", "[drain]"))
        {
            let _ = writeln!(
                text,
                "[drain]\nper_second = {per_second}\npatience = \"{}s\"",
                patience.as_secs()
            );
        }
        text + &self.internal_tls("access")
    }

    fn secret(&self) -> &'static str {
        if self.shape.internal_tls {
            ""
        } else {
            "cluster_secret = \"env:FAULTS_CLUSTER_SECRET\"\n"
        }
    }

    /// Services that stand apart from each other without TLS have to be told that this is meant; and the
    /// businesses of a harness live on loopback.
    fn plain(&self, role: &str) -> String {
        let mut text = String::new();
        let apart = self.shape.apart && !self.shape.internal_tls;
        if apart && self.today.knows(role, "allow_plain_internal") {
            text.push_str("allow_plain_internal = true\n");
        }
        if self.today.knows(role, "callbacks") {
            text.push_str("callbacks = \"any\"\n");
        }
        text
    }

    fn internal_tls(&self, role: &str) -> String {
        if !self.shape.internal_tls {
            return String::new();
        }
        let at = self.folder.join("certificates");
        format!(
            "[internal_tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
            at.join("ca.pem").display(),
            at.join(format!("{role}.pem")).display(),
            at.join(format!("{role}.key")).display(),
        )
    }
}
