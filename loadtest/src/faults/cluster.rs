//! A cluster of real processes: control, routers and access nodes, each on fixed ports, so that one that
//! was killed comes back where it was; each in a network namespace of its own where the row asks for it.

mod operator;
mod settings;
mod shape;

pub(crate) use operator::Operator;
pub(crate) use shape::{Functions, Shape, Timers};

use super::net::{Host, Net, Side};
use super::proxy::{Proxy, Way};
use crate::leash;
use crate::process::{self, Guarded};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hawser_loadtest::redis::free_port;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustix::process::Signal;
use settings::{Dialect, Doors, Settings};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const APP: &str = "shop";
pub(crate) const BUSINESSES: [&str; 2] = ["chat", "mail"];
pub(crate) const ADMIN_TOKEN: &str = "faults-admin-token-0123456789";
pub(crate) const CLUSTER_SECRET: &str = "faults-cluster-secret-0123456789";
const START_PATIENCE: Duration = Duration::from_secs(30);
const METRICS_PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// One service of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Control,
    Router(usize),
    Access(usize),
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Control => f.write_str("control"),
            Self::Router(number) => write!(f, "router {number}"),
            Self::Access(number) => write!(f, "access node {number}"),
        }
    }
}

struct Place {
    service: Service,
    role: &'static str,
    config: PathBuf,
    /// Where its admin port is reached: by either network.
    admin: Vec<SocketAddr>,
    host: Option<Host>,
    binary: PathBuf,
    environment: BTreeMap<String, String>,
    process: Option<Guarded>,
    /// How often it was started.
    starts: u32,
}

/// Where devices reach an access node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Door {
    pub(crate) tcp: SocketAddr,
    pub(crate) tls: SocketAddr,
}

/// A running cluster; killed with its owner.
pub(crate) struct Cluster {
    folder: PathBuf,
    binary: PathBuf,
    places: Vec<Place>,
    pub(crate) shape: Shape,
    /// Control's public API.
    pub(crate) control: String,
    /// The push API of each router.
    pub(crate) push: Vec<String>,
    /// The internal port of each router.
    pub(crate) internal: Vec<SocketAddr>,
    /// Where devices come in, by access node.
    pub(crate) doors: Vec<Door>,
    pub(crate) operator: Operator,
    /// Of the businesses, in the order of [`BUSINESSES`].
    pub(crate) keys: Vec<String>,
    http: Client<HttpConnector, Full<Bytes>>,
    /// Between the services that stand apart and a store on loopback.
    _bridge: Option<Proxy>,
    /// Last: its processes end before it goes.
    net: Option<Net>,
}

impl Cluster {
    /// Starts everything, and makes an app with two businesses.
    pub(crate) async fn start(
        binary: &Path,
        folder: &Path,
        mut shape: Shape,
    ) -> anyhow::Result<Self> {
        let hosts: Vec<String> = (0..shape.routers.len())
            .map(|number| format!("r{number}"))
            .chain((0..shape.access).map(|number| format!("a{number}")))
            .collect();
        let net = shape.apart.then(|| Net::build(&hosts)).transpose()?;
        let own = |side| net.as_ref().map_or(Ipv4Addr::LOCALHOST, |net| net.own_address(side));
        let bridge = bridge_to_store(&mut shape, net.as_ref()).await?;
        // A business on loopback is reached from namespaces at the harness's own address.
        for endpoint in &mut shape.endpoints {
            *endpoint = endpoint.replace("0.0.0.0", &own(Side::Inner).to_string());
        }
        let at = |host: Option<Host>, side| match (&net, host) {
            (Some(net), Some(host)) => net.address(host, side),
            _ => own(side),
        };
        let spot = |host: Option<Host>, side| -> anyhow::Result<SocketAddr> {
            Ok(SocketAddr::new(IpAddr::V4(at(host, side)), free_port()?))
        };
        let named = |name: String| net.as_ref().map(|net| net.host(&name)).transpose();

        let http = SocketAddr::new(IpAddr::V4(own(Side::Outer)), free_port()?);
        let internal: SocketAddr = spot(None, Side::Inner)?;
        let mut routers = Vec::new();
        let mut pushes = Vec::new();
        for number in 0..shape.routers.len() {
            let host = named(format!("r{number}"))?;
            routers.push(spot(host, Side::Inner)?);
            pushes.push(spot(host, Side::Outer)?);
        }
        if shape.internal_tls {
            make_certificates(binary, folder)?;
        }
        if shape.secure_doors {
            super::certificate::make(folder)?;
        }
        let mut cluster = Self {
            folder: folder.to_owned(),
            binary: binary.to_owned(),
            places: Vec::new(),
            shape: shape.clone(),
            control: format!("http://{http}"),
            push: pushes.iter().map(|at| format!("http://{at}")).collect(),
            internal: routers.clone(),
            doors: Vec::new(),
            operator: Operator::new(&format!("http://{http}"))?,
            keys: Vec::new(),
            http: Client::builder(TokioExecutor::new()).build_http(),
            _bridge: bridge,
            net: None,
        };
        let (today, older) = (Dialect::of(binary)?, shape.older_access.as_deref().map(Dialect::of));
        let older = older.transpose()?;
        let settings =
            Settings { shape: &shape, folder, control: internal, routers: &routers, today: &today };
        let admin = |host: Option<Host>| -> anyhow::Result<Vec<SocketAddr>> {
            let port = free_port()?;
            if host.is_none() {
                return Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]);
            }
            let by = [Side::Outer, Side::Inner];
            Ok(by.map(|side| SocketAddr::new(IpAddr::V4(at(host, side)), port)).to_vec())
        };
        cluster.place(Service::Control, binary, &settings.control(http), admin(None)?, None)?;
        for (number, push) in pushes.into_iter().enumerate() {
            let host = named(format!("r{number}"))?;
            let text = settings.router(number, push);
            cluster.place(Service::Router(number), binary, &text, admin(host)?, host)?;
        }
        for number in 0..shape.access {
            let host = named(format!("a{number}"))?;
            let door = |side| spot(host, side);
            let doors = Doors {
                tcp: door(Side::Outer)?,
                ws: door(Side::Outer)?,
                tls: door(Side::Outer)?,
                quic: door(Side::Outer)?,
            };
            cluster.doors.push(Door { tcp: doors.tcp, tls: doors.tls });
            let is_older = shape.older_access.is_some() && number + 1 == shape.access;
            let dialect = older.as_ref().filter(|_| is_older).unwrap_or(&today);
            let text = settings.access(number, &doors, dialect);
            let binary = shape.older_access.as_deref().filter(|_| is_older).unwrap_or(binary);
            cluster.place(Service::Access(number), binary, &text, admin(host)?, host)?;
        }
        cluster.net = net;
        for place in 0..cluster.places.len() {
            cluster.launch(place)?;
        }
        for place in 0..cluster.places.len() {
            cluster.until_ready(place).await?;
        }
        cluster.keys = cluster.operator.furnish(&cluster.shape).await?;
        Ok(cluster)
    }

    fn place(
        &mut self,
        service: Service,
        binary: &Path,
        text: &str,
        admin: Vec<SocketAddr>,
        host: Option<Host>,
    ) -> anyhow::Result<()> {
        let (role, name) = match service {
            Service::Control => ("control", "control".to_owned()),
            Service::Router(number) => ("router", format!("router-{number}")),
            Service::Access(number) => ("access", format!("access-{number}")),
        };
        let config = self.folder.join(format!("{name}.toml"));
        let port = admin.first().context("no admin port")?.port();
        let all = if host.is_some() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        let text =
            format!("{}\n[admin]\nlisten = \"{all}:{port}\"\nlog = \"warn\"\n", text.trim_end());
        std::fs::write(&config, text)?;
        self.places.push(Place {
            service,
            role,
            config,
            admin,
            host,
            binary: binary.to_owned(),
            environment: BTreeMap::new(),
            process: None,
            starts: 0,
        });
        Ok(())
    }

    fn launch(&mut self, place: usize) -> anyhow::Result<()> {
        let place = &mut self.places[place];
        let log = place.config.with_extension("log");
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let harness = std::env::current_exe()?;
        let mut command = match (&self.net, place.host) {
            (Some(net), Some(host)) => net.command(host, &harness),
            _ => Command::new(harness),
        };
        command.args(leash::arguments(&place.binary));
        command.args([place.role, "--config"]).arg(&place.config);
        command.env("FAULTS_ADMIN_TOKEN", ADMIN_TOKEN).env("FAULTS_MASTER_KEY", "7".repeat(64));
        command.env("FAULTS_CLUSTER_SECRET", CLUSTER_SECRET).env_remove("RUST_LOG");
        if let Some(workers) = self.shape.workers {
            command.env("TOKIO_WORKER_THREADS", workers.to_string());
        }
        command.envs(&place.environment);
        command.stdout(Stdio::null()).stderr(Stdio::from(log));
        place.process = Some(Guarded::start(&mut command)?);
        place.starts += 1;
        Ok(())
    }

    async fn until_ready(&mut self, place: usize) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let place = &mut self.places[place];
            let asked = self.http.get(format!("http://{}/readyz", place.admin[0]).parse()?);
            let answer = tokio::time::timeout(Duration::from_secs(1), asked).await;
            if answer.is_ok_and(|it| it.is_ok_and(|answer| answer.status().is_success())) {
                return Ok(());
            }
            let ended = place.process.as_mut().is_none_or(Guarded::has_ended);
            if ended || started.elapsed() > START_PATIENCE {
                let log = std::fs::read_to_string(place.config.with_extension("log"));
                let said = log.unwrap_or_default();
                let last = said.lines().last().unwrap_or("it said nothing").to_owned();
                bail!("{} did not become ready: {last}", place.service);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn find(&self, service: Service) -> anyhow::Result<usize> {
        let found = self.places.iter().position(|place| place.service == service);
        found.with_context(|| format!("there is no {service}"))
    }

    /// All of them.
    pub(crate) fn services(&self) -> impl Iterator<Item = Service> {
        self.places.iter().map(|place| place.service)
    }

    /// The access nodes.
    pub(crate) fn access_nodes(&self) -> impl Iterator<Item = Service> + use<> {
        (0..self.shape.access).map(Service::Access)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, service: Service) -> anyhow::Result<()> {
        let place = self.find(service)?;
        self.places[place].process = None;
        Ok(())
    }

    /// Starts a service again, and waits until it is ready.
    pub(crate) async fn revive(&mut self, service: Service) -> anyhow::Result<()> {
        let place = self.find(service)?;
        self.launch(place)?;
        self.until_ready(place).await
    }

    /// From its next start on, the service has this in its environment.
    pub(crate) fn set_environment(
        &mut self,
        service: Service,
        name: &str,
        value: &str,
    ) -> anyhow::Result<()> {
        let place = self.find(service)?;
        self.places[place].environment.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Its process id, and how often it was started. Nothing when it is down.
    pub(crate) fn process(&self, service: Service) -> Option<(u32, u32)> {
        let place = &self.places[self.find(service).ok()?];
        Some((place.process.as_ref()?.id(), place.starts))
    }

    /// CPU it has used since its start, in seconds.
    pub(crate) fn cpu_seconds(&self, service: Service) -> anyhow::Result<f64> {
        let (id, _) = self.process(service).context("it is down")?;
        process::cpu_seconds(id)
    }

    /// Whether it has ended without having been told to.
    pub(crate) fn has_ended(&mut self, service: Service) -> anyhow::Result<bool> {
        let place = self.find(service)?;
        Ok(self.places[place].process.as_mut().is_none_or(Guarded::has_ended))
    }

    /// Services that do not run, each with the last that it said.
    pub(crate) fn down(&mut self) -> Vec<String> {
        let mut down = Vec::new();
        for place in &mut self.places {
            if place.process.as_mut().is_some_and(|process| !process.has_ended()) {
                continue;
            }
            let log = std::fs::read_to_string(place.config.with_extension("log"));
            let log = log.unwrap_or_default();
            let last = log.lines().last().unwrap_or("it said nothing");
            down.push(format!("{}: {last}", place.service));
        }
        down
    }

    /// Sends a service a signal.
    pub(crate) fn signal(&self, service: Service, signal: Signal) -> anyhow::Result<()> {
        let place = &self.places[self.find(service)?];
        place.process.as_ref().context("it is down")?.signal(signal)
    }

    /// What it said on standard error.
    pub(crate) fn log(&self, service: Service) -> anyhow::Result<String> {
        let place = &self.places[self.find(service)?];
        Ok(std::fs::read_to_string(place.config.with_extension("log")).unwrap_or_default())
    }

    /// Everything a service counts, as it says it.
    pub(crate) async fn metrics(&self, service: Service) -> anyhow::Result<String> {
        let place = &self.places[self.find(service)?];
        let mut failed = anyhow::anyhow!("{service} has no admin port");
        for admin in &place.admin {
            let asked = self.http.get(format!("http://{admin}/metrics").parse()?);
            match tokio::time::timeout(METRICS_PATIENCE, asked).await {
                Ok(Ok(answer)) => {
                    let text = answer.into_body().collect().await?.to_bytes();
                    return Ok(String::from_utf8_lossy(&text).into_owned());
                }
                Ok(Err(why)) => failed = why.into(),
                Err(why) => failed = why.into(),
            }
        }
        Err(failed)
    }

    /// One number of a service's metrics: the sum over all labels; 0 while it is not there.
    pub(crate) async fn metric(&self, service: Service, name: &str) -> anyhow::Result<f64> {
        Ok(sum(&self.metrics(service).await?, name))
    }

    /// The same over all access nodes; one that is down or new counts from 0.
    pub(crate) async fn access_metric(&self, name: &str) -> f64 {
        let mut all = 0.0;
        for node in self.access_nodes() {
            all += self.metric(node, name).await.unwrap_or(0.0);
        }
        all
    }

    /// The network it stands in.
    pub(crate) fn net(&self) -> anyhow::Result<&Net> {
        self.net.as_ref().context("this cluster has no network of its own")
    }

    /// Where a service stands in it.
    pub(crate) fn host(&self, service: Service) -> anyhow::Result<Host> {
        self.places[self.find(service)?].host.context("it stands with the harness")
    }

    /// The push API of the routers that serve it.
    pub(crate) fn push_routers(&self) -> Vec<String> {
        let serves = |functions: &Functions| functions.is_empty() || functions.contains(&"push");
        let routers = self.push.iter().zip(&self.shape.routers);
        routers.filter(|(_, does)| serves(does)).map(|(at, _)| at.clone()).collect()
    }

    /// The operator's command line, as someone with a terminal has it.
    pub(crate) fn hawser(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("HAWSER_CONTROL", &self.control).env("HAWSER_TOKEN", ADMIN_TOKEN);
        command.env("HAWSER_DATA", &self.folder).stdin(Stdio::null());
        command
    }

    /// Its folder, with all logs.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The sum of one metric over all its labels.
pub(crate) fn sum(metrics: &str, name: &str) -> f64 {
    let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    metrics.lines().filter(of).filter_map(value).sum()
}

/// A store on loopback cannot be reached from namespaces: a proxy at the harness's address can.
async fn bridge_to_store(shape: &mut Shape, net: Option<&Net>) -> anyhow::Result<Option<Proxy>> {
    let (Some(net), Some(address)) = (net, shape.store.strip_prefix("redis://")) else {
        return Ok(None);
    };
    let here = IpAddr::V4(net.own_address(Side::Inner));
    let proxy = Proxy::start_on(here, Way::To(address.parse()?)).await?;
    shape.store = format!("redis://{}", proxy.address);
    Ok(Some(proxy))
}

fn make_certificates(binary: &Path, folder: &Path) -> anyhow::Result<()> {
    let output = Command::new(binary)
        .args(["certificates", "create", "--dir"])
        .arg(folder.join("certificates"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "no certificates: {said}");
    Ok(())
}
