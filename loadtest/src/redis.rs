//! Redis servers of our own: on free ports, in folders of their own, killed by process id.

use crate::process::Guarded;
use anyhow::{Context, bail, ensure};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const START_PATIENCE: Duration = Duration::from_secs(10);
const CLUSTER_PATIENCE: Duration = Duration::from_secs(30);

/// One server. Killed with its owner; its folder stays until then, so that it can be started again.
#[derive(Debug)]
pub struct Redis {
    /// Where it listens.
    pub address: SocketAddr,
    folder: PathBuf,
    arguments: Vec<String>,
    process: Option<Guarded>,
}

/// Where services of a test listen: below the ports that the kernel takes for outgoing connections, one of which
/// would be in the way of a service that is just starting again. Redis Cluster takes those 10,000 above, too.
const PORTS: Range<u16> = 10_500..20_500;
/// From a port of a cluster's server to that of its bus.
const TO_BUS: u16 = 10_000;

/// Ports that were handed out, to one service each.
static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that was free a moment ago, over TCP and UDP, and that nobody in this process was told of.
pub fn free_port() -> anyhow::Result<u16> {
    let is_free = |port| {
        TcpListener::bind(("0.0.0.0", port)).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok()
    };
    for _ in 0..PORTS.len() {
        let port = rand::random_range(PORTS);
        let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
        if !handed_out.contains(&port) && is_free(port) {
            handed_out.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port from {} to {}", PORTS.start, PORTS.end - 1)
}

/// A port that was free, and the one above it that Redis Cluster takes too.
fn free_cluster_port() -> anyhow::Result<u16> {
    for _ in 0..200 {
        let port = free_port()?;
        if TcpListener::bind(("127.0.0.1", port + TO_BUS)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free pair of ports for a cluster")
}

impl Redis {
    /// Starts a server with these further arguments.
    pub fn start(folder: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_on(folder, free_port()?, arguments)
    }

    fn start_on(folder: &Path, port: u16, arguments: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut server = Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            folder: folder.to_owned(),
            arguments: arguments.iter().map(|&one| one.to_owned()).collect(),
            process: None,
        };
        server.revive()?;
        Ok(server)
    }

    /// Starts it again where it was, on what it left on disk.
    pub fn revive(&mut self) -> anyhow::Result<()> {
        let binary = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let mut command = Command::new(&binary);
        command.args(["--port", &self.address.port().to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--maxmemory-policy", "noeviction", "--dir"]);
        command.arg(&self.folder).args(&self.arguments).stderr(Stdio::null());
        command.args(["--logfile", "redis.log"]);
        let mut process = Guarded::start(&mut command)
            .context("redis-server is needed here: apt-get install redis-server")?;
        let started = Instant::now();
        while self.ask(&["PING"]).is_err() {
            ensure!(
                !process.has_ended(),
                "redis-server did not start: see redis.log in its folder"
            );
            ensure!(started.elapsed() < START_PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = Some(process);
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// What `redis-cli` says to this command.
    pub fn ask(&self, command: &[&str]) -> anyhow::Result<String> {
        ask(self.address, command)
    }

    /// Its process, unless it was killed.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Guarded::id)
    }

    /// CPU it has used, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        self.process.as_ref().context("it was killed")?.cpu_seconds()
    }

    /// Memory its data takes, in bytes.
    pub fn memory_bytes(&self) -> anyhow::Result<f64> {
        let info = self.ask(&["INFO", "memory"])?;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(line.context("INFO says nothing of memory")?.trim().parse()?)
    }

    /// Waits until a command's answer satisfies.
    pub fn until(
        &self,
        command: &[&str],
        patience: Duration,
        good: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let answer = self.ask(command).unwrap_or_default();
            if good(&answer) {
                return Ok(());
            }
            ensure!(started.elapsed() < patience, "{command:?} still answers {answer:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn ask(address: SocketAddr, command: &[&str]) -> anyhow::Result<String> {
    let port = address.port().to_string();
    let output = Command::new("redis-cli").args(["-p", &port]).args(command).output();
    let output = output.context("redis-cli is needed here: apt-get install redis-tools")?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(output.status.success() && !text.is_empty(), "redis-cli {command:?} failed");
    Ok(text)
}

/// Three primaries, each with a replica.
#[derive(Debug)]
pub struct Cluster {
    /// All six.
    pub servers: Vec<Redis>,
}

impl Cluster {
    /// Starts and joins them.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut servers = Vec::new();
        for number in 0..6 {
            let arguments = [
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1500",
                "--appendonly",
                "yes",
                "--cluster-require-full-coverage",
                "no",
            ];
            let folder = folder.join(format!("node-{number}"));
            servers.push(Redis::start_on(&folder, free_cluster_port()?, &arguments)?);
        }
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "create"]);
        command.args(servers.iter().map(|server| server.address.to_string()));
        command.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = command.output().context("redis-cli is needed here")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "the cluster was not made: {said}");
        let cluster = Self { servers };
        cluster.until_well()?;
        Ok(cluster)
    }

    fn until_well(&self) -> anyhow::Result<()> {
        for server in self.servers.iter().filter(|server| server.process.is_some()) {
            server.until(&["CLUSTER", "INFO"], CLUSTER_PATIENCE, |info| {
                info.contains("cluster_state:ok")
            })?;
        }
        let replica = |info: &str| !info.contains("role:slave") || info.contains("link_status:up");
        for server in self.servers.iter().filter(|server| server.process.is_some()) {
            server.until(&["INFO", "replication"], CLUSTER_PATIENCE, replica)?;
        }
        Ok(())
    }

    fn first_primary(&self) -> anyhow::Result<usize> {
        let is_primary = |server: &Redis| {
            server.process.is_some()
                && server.ask(&["ROLE"]).is_ok_and(|role| role.starts_with("master"))
        };
        self.servers.iter().position(is_primary).context("no primary is up")
    }

    /// SIGKILL to a primary; returns which once a replica has taken its place.
    pub fn lose_primary(&mut self) -> anyhow::Result<usize> {
        let lost = self.first_primary()?;
        self.servers[lost].kill();
        let others = || self.servers.iter().filter(|server| server.process.is_some());
        let started = Instant::now();
        loop {
            let primaries = others()
                .filter(|server| server.ask(&["ROLE"]).is_ok_and(|it| it.starts_with("master")))
                .count();
            if primaries == 3 {
                break;
            }
            ensure!(started.elapsed() < CLUSTER_PATIENCE, "no replica took over");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(lost)
    }

    /// Starts a server that was lost again; it comes back as a replica.
    pub fn restore(&mut self, lost: usize) -> anyhow::Result<()> {
        self.servers[lost].revive()?;
        self.until_well()
    }

    /// Moves this many slots from one primary to another, with what is in them.
    pub fn move_slots(&self, count: u32) -> anyhow::Result<()> {
        let primaries: Vec<(String, SocketAddr)> = self
            .servers
            .iter()
            .filter(|server| server.process.is_some())
            .filter(|server| server.ask(&["ROLE"]).is_ok_and(|it| it.starts_with("master")))
            .map(|server| Ok((server.ask(&["CLUSTER", "MYID"])?, server.address)))
            .collect::<anyhow::Result<_>>()?;
        ensure!(primaries.len() >= 2, "nowhere to move slots to");
        let output = Command::new("redis-cli")
            .args(["--cluster", "reshard", &primaries[0].1.to_string()])
            .args(["--cluster-from", &primaries[0].0, "--cluster-to", &primaries[1].0])
            .args(["--cluster-slots", &count.to_string(), "--cluster-yes"])
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "slots were not moved: {said}");
        self.until_well()
    }
}
