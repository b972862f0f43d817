//! A cluster of real processes: control, a router and two access nodes, each on fixed ports, so that one
//! that was killed comes back where it was.

use crate::process::Guarded;
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hawser_loadtest::redis::free_port;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(super) const APP: &str = "shop";
pub(super) const BUSINESSES: [&str; 2] = ["chat", "mail"];
const START_PATIENCE: Duration = Duration::from_secs(20);
const ADMIN_TOKEN: &str = "faults-admin-token-0123456789";
const CLUSTER_SECRET: &str = "faults-cluster-secret-0123456789";

/// One service of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Control,
    Router,
    Access(usize),
}

struct Place {
    service: Service,
    role: &'static str,
    config: PathBuf,
    admin: u16,
    process: Option<Guarded>,
}

/// A running cluster; killed with its owner.
pub(super) struct Cluster {
    binary: PathBuf,
    folder: PathBuf,
    places: Vec<Place>,
    /// Control's public API.
    pub(super) control: String,
    /// The push API.
    pub(super) push: String,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Cluster {
    /// Starts everything on the store (`embedded` or a URL), and makes an app with two businesses.
    /// Returns their keys, in the order of [`BUSINESSES`].
    pub(super) async fn start(
        binary: &Path,
        folder: &Path,
        store: &str,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let ports = (0..16).map(|_| free_port()).collect::<anyhow::Result<Vec<_>>>()?;
        let local = |port: u16| format!("127.0.0.1:{port}");
        let [http, internal, push, router] = [0, 1, 2, 3].map(|n| local(ports[n]));
        let mut cluster = Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            places: Vec::new(),
            control: format!("http://{http}"),
            push: format!("http://{push}"),
            http: Client::builder(TokioExecutor::new()).build_http(),
        };
        let text = format!(
            "listen = \"{http}\"\ninternal_listen = \"{internal}\"\ndata_dir = \"{}\"\n\
             admin_token = \"env:FAULTS_ADMIN_TOKEN\"\ncluster_secret = \"env:FAULTS_CLUSTER_SECRET\"\n\
             master_key = \"env:FAULTS_MASTER_KEY\"\nallow_open_access = true\n\
             signing_activation_delay = \"0s\"\nreconnect_window = \"1s\"\n\
             [backoff]\nbase = \"200ms\"\nmax = \"2s\"\nfactor = 2.0\njitter = 0.5\n",
            folder.join("control").display()
        );
        cluster.place(Service::Control, "control", "control", &text, ports[4])?;
        let text = format!(
            "name = \"r1\"\npush_listen = \"{push}\"\ninternal_listen = \"{router}\"\n\
             data_dir = \"{}\"\ncontrol = \"http://{internal}\"\nnode_lease = \"3s\"\n\
             cluster_secret = \"env:FAULTS_CLUSTER_SECRET\"\nstore = \"{store}\"\n",
            folder.join("router").display()
        );
        cluster.place(Service::Router, "router", "router", &text, ports[5])?;
        for number in 0..2 {
            let at = 6 + 3 * number;
            let text = format!(
                "node = \"a{number}\"\ncontrol = \"http://{internal}\"\n\
                 routers = [\"http://{router}\"]\ncluster_secret = \"env:FAULTS_CLUSTER_SECRET\"\n\
                 accepts_per_second = 20000\nfailed_logins_max = 100000\n\
                 [listen]\ntcp = [\"{}\"]\nws = [\"{}\"]\n",
                local(ports[at]),
                local(ports[at + 1]),
            );
            let name = format!("access-{number}");
            cluster.place(Service::Access(number), "access", &name, &text, ports[at + 2])?;
        }
        for place in 0..cluster.places.len() {
            cluster.launch(place)?;
        }
        for place in 0..cluster.places.len() {
            cluster.until_ready(place).await?;
        }
        let keys = cluster.furnish().await?;
        Ok((cluster, keys))
    }

    fn place(
        &mut self,
        service: Service,
        role: &'static str,
        name: &str,
        text: &str,
        admin: u16,
    ) -> anyhow::Result<()> {
        let config = self.folder.join(format!("{name}.toml"));
        let text = format!(
            "{}\n[admin]\nlisten = \"127.0.0.1:{admin}\"\nlog = \"warn\"\n",
            text.trim_end()
        );
        std::fs::write(&config, text)?;
        self.places.push(Place { service, role, config, admin, process: None });
        Ok(())
    }

    fn launch(&mut self, place: usize) -> anyhow::Result<()> {
        let log = self.places[place].config.with_extension("log");
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let place = &mut self.places[place];
        let mut command = Command::new(&self.binary);
        command.args([place.role, "--config"]).arg(&place.config);
        command.env("FAULTS_ADMIN_TOKEN", ADMIN_TOKEN).env("FAULTS_MASTER_KEY", "7".repeat(64));
        command.env("FAULTS_CLUSTER_SECRET", CLUSTER_SECRET).env_remove("RUST_LOG");
        command.stderr(Stdio::from(log));
        place.process = Some(Guarded::start(&mut command)?);
        Ok(())
    }

    async fn until_ready(&mut self, place: usize) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let place = &mut self.places[place];
            if self
                .http
                .get(format!("http://127.0.0.1:{}/readyz", place.admin).parse()?)
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return Ok(());
            }
            let ended = place.process.as_mut().is_none_or(Guarded::has_ended);
            if ended || started.elapsed() > START_PATIENCE {
                bail!("{} did not become ready: see {}", place.role, self.folder.display());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn find(&self, service: Service) -> anyhow::Result<usize> {
        let found = self.places.iter().position(|place| place.service == service);
        found.context("no such service")
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, service: Service) -> anyhow::Result<()> {
        let place = self.find(service)?;
        self.places[place].process = None;
        Ok(())
    }

    /// Starts a service again, and waits until it is ready.
    pub(super) async fn revive(&mut self, service: Service) -> anyhow::Result<()> {
        let place = self.find(service)?;
        self.launch(place)?;
        self.until_ready(place).await
    }

    /// One number of a service's metrics: the sum over all labels; 0 while it is not there.
    pub(super) async fn metric(&self, service: Service, name: &str) -> anyhow::Result<f64> {
        let place = &self.places[self.find(service)?];
        let answer =
            self.http.get(format!("http://127.0.0.1:{}/metrics", place.admin).parse()?).await?;
        let text = answer.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&text);
        let of =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        Ok(text.lines().filter(of).filter_map(value).sum())
    }

    /// Makes the app and its businesses, with a key each.
    async fn furnish(&self) -> anyhow::Result<Vec<String>> {
        self.post("/v1/apps", json!({"app": APP, "proof": {"open": true}})).await?;
        let mut keys = Vec::new();
        for business in BUSINESSES {
            let inbox = json!({"entries_max": 10_000, "bytes_max": 64 << 20});
            let body = json!({"business": business, "inbox": inbox});
            self.post(&format!("/v1/apps/{APP}/businesses"), body).await?;
            let made =
                self.post(&format!("/v1/apps/{APP}/businesses/{business}/keys"), json!({})).await?;
            keys.push(made["key"].as_str().context("an answer without a key")?.to_owned());
        }
        Ok(keys)
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        let request = http::Request::post(format!("{}{path}", self.control))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {ADMIN_TOKEN}"))
            .body(Full::new(Bytes::from(body.to_string())))?;
        let answer = self.http.request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }
}
