//! What is under load: a `hawser dev` that is started here, or a deployment that is there already.

use super::business::Office;
use super::http::Control;
use crate::leash;
use crate::process::Guarded;
use crate::roots;
use crate::scenario::{Business, Scenario};
use crate::system;
use anyhow::{Context, bail, ensure};
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{CreateGroupRequest, DeleteGroupRequest};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig};
use tonic::{Code, Request};

const START_PATIENCE: Duration = Duration::from_secs(30);
/// A new key takes so long to be known everywhere.
const KEY_PATIENCE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(50);
const CALL_PATIENCE: Duration = Duration::from_secs(10);

/// A deployment, and what is needed to work with it.
pub(super) struct Target {
    /// In words.
    pub(super) about: String,
    pub(super) control: String,
    pub(super) app: String,
    pub(super) business: String,
    pub(super) trust: Option<PathBuf>,
    pub(super) client_secret: Option<String>,
    push: Vec<Channel>,
    keys: BTreeMap<String, MetadataValue<Ascii>>,
    /// Groups that were made for the run, with their business.
    made: std::sync::Mutex<Vec<(String, String)>>,
    dev: Option<Dev>,
    /// They answer as long as they are held.
    _offices: Vec<Office>,
}

/// A `hawser dev` of this run.
struct Dev {
    process: Guarded,
    _data: tempfile::TempDir,
}

impl Target {
    /// Starts it, or finds it.
    pub(super) async fn reach(scenario: &Scenario, hawser: Option<&Path>) -> anyhow::Result<Self> {
        let mut offices = Vec::new();
        for business in &scenario.businesses {
            offices.push(Office::open(business, scenario.seed).await?);
        }
        match &scenario.target.control {
            None => Self::start(scenario, hawser, offices).await,
            Some(control) => Self::find(scenario, control, offices),
        }
    }

    async fn start(
        scenario: &Scenario,
        hawser: Option<&Path>,
        offices: Vec<Office>,
    ) -> anyhow::Result<Self> {
        let binary = system::binary(hawser)?;
        let data = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(leash::arguments(&binary)).args(["dev", "--ports", "random", "--data-dir"]);
        command.arg(data.path()).env("RUST_LOG", "error").stderr(Stdio::inherit());
        let mut process = Guarded::start(&mut command)?;
        let started = Instant::now();
        let dev: Value = loop {
            if let Ok(text) = std::fs::read(data.path().join("dev.json"))
                && let Ok(dev) = serde_json::from_slice(&text)
            {
                break dev;
            }
            if process.has_ended() || started.elapsed() > START_PATIENCE {
                bail!("hawser dev did not start");
            }
            tokio::time::sleep(AGAIN).await;
        };
        let text = |value: &Value, name: &str| -> anyhow::Result<String> {
            Ok(value[name]
                .as_str()
                .with_context(|| format!("hawser dev tells no {name}"))?
                .to_owned())
        };
        let credentials = std::fs::read(data.path().join("credentials.json"))?;
        let credentials: Value = serde_json::from_slice(&credentials)?;
        let (app, business) = (system::APP.to_owned(), system::BUSINESS.to_owned());
        let key = text(&credentials["apps"][&app]["businesses"][&business], "key")?;
        let control = text(&dev, "control")?;
        let operator = Control::new(&control, &text(&credentials, "admin_token")?);
        let mut keys = BTreeMap::from([(business.clone(), bearer(&key)?)]);
        for (office, wanted) in offices.iter().zip(&scenario.businesses) {
            let key = register(&operator, &app, &business, wanted, &office.endpoint()).await?;
            if let Some(key) = key {
                keys.insert(wanted.name.clone(), bearer(&key)?);
            }
        }
        Ok(Self {
            about: "hawser dev, started for this run".to_owned(),
            control,
            app,
            business,
            trust: Some(text(&dev, "ca")?.into()),
            client_secret: None,
            push: vec![channel(&text(&dev, "push")?, None)?],
            keys,
            made: std::sync::Mutex::default(),
            dev: Some(Dev { process, _data: data }),
            _offices: offices,
        })
    }

    fn find(scenario: &Scenario, control: &str, offices: Vec<Office>) -> anyhow::Result<Self> {
        let wanted = &scenario.target;
        let mut keys = BTreeMap::new();
        let business = wanted.business.clone().context("target.business: missing")?;
        if let Some(key) = &wanted.key {
            keys.insert(business.clone(), bearer(&secret("target.key", key)?)?);
        }
        for one in &scenario.businesses {
            if let Some(key) = &one.key {
                let key = bearer(&secret("businesses.key", key)?)?;
                keys.insert(one.name.clone(), key);
            }
        }
        Ok(Self {
            about: control.to_owned(),
            control: control.trim_end_matches('/').to_owned(),
            app: wanted.app.clone().context("target.app: missing")?,
            business,
            trust: wanted.trust.clone(),
            client_secret: match &wanted.client_secret {
                Some(written) => Some(secret("target.client_secret", written)?),
                None => None,
            },
            push: wanted
                .push
                .iter()
                .map(|url| channel(url, wanted.trust.as_deref()))
                .collect::<Result<_, _>>()?,
            keys,
            made: std::sync::Mutex::default(),
            dev: None,
            _offices: offices,
        })
    }

    /// The process that was started, if one was.
    pub(super) fn process(&self) -> Option<u32> {
        self.dev.as_ref().map(|dev| dev.process.id())
    }

    /// Whether devices reach it over loopback, and may come from any address of it.
    pub(super) fn is_on_loopback(&self) -> bool {
        let uri = self.control.parse::<http::Uri>().ok();
        let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// A client of one of the routers, in turn.
    pub(super) fn client(&self, turn: usize) -> anyhow::Result<PushClient<Channel>> {
        ensure!(!self.push.is_empty(), "target.push: missing");
        Ok(PushClient::new(self.push[turn % self.push.len()].clone()))
    }

    /// The key of a business, or of the target's own.
    pub(super) fn key(&self, business: Option<&str>) -> anyhow::Result<MetadataValue<Ascii>> {
        let name = business.unwrap_or(&self.business);
        self.keys.get(name).cloned().with_context(|| format!("there is no key of business {name}"))
    }

    /// Makes all groups of the scenario that are not there.
    pub(super) async fn create_groups(&self, scenario: &Scenario) -> anyhow::Result<()> {
        let mut wanted = BTreeSet::new();
        for population in &scenario.populations {
            for groups in population.memberships() {
                let business = population.business.as_deref().unwrap_or(&self.business);
                for number in 0..groups.count {
                    wanted.insert((business.to_owned(), groups.name_of(number)));
                }
            }
        }
        for (business, group) in wanted {
            // Without the key the groups must be there already.
            let Ok(key) = self.key(Some(&business)) else { continue };
            let deadline = Instant::now() + KEY_PATIENCE;
            loop {
                let call = CreateGroupRequest { group: group.clone(), history: None };
                match self.client(0)?.create_group(request(call, &key)).await {
                    Ok(_) => {
                        let mut made =
                            self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        made.push((business.clone(), group.clone()));
                        break;
                    }
                    Err(status) if status.code() == Code::AlreadyExists => break,
                    Err(status) if Instant::now() > deadline => {
                        bail!("the group {group} cannot be made: {}", status.message());
                    }
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            }
        }
        Ok(())
    }

    /// Deletes what [`Self::create_groups`] made. What cannot be deleted stays, and so does what is in a system
    /// of this run's own, which goes with it.
    pub(super) async fn delete_groups(&self) {
        if self.dev.is_some() {
            return;
        }
        let made = std::mem::take(
            &mut *self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        for (business, group) in made {
            if let (Ok(mut client), Ok(key)) = (self.client(0), self.key(Some(&business))) {
                let call = request(DeleteGroupRequest { group: group.clone() }, &key);
                if let Err(status) = client.delete_group(call).await {
                    eprintln!("the group {group} is still there: {}", status.message());
                }
            }
        }
    }
}

/// A call with a business's key.
pub(super) fn request<T>(message: T, key: &MetadataValue<Ascii>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", key.clone());
    request.set_timeout(CALL_PATIENCE);
    request
}

/// Makes a business of the dev system, or points the one that is there here. The key of a new one.
async fn register(
    operator: &Control,
    app: &str,
    there: &str,
    wanted: &Business,
    endpoint: &str,
) -> anyhow::Result<Option<String>> {
    let businesses = format!("/v1/apps/{app}/businesses");
    let endpoints = json!({"endpoints": [endpoint]});
    if wanted.name == there {
        operator.call("PATCH", &format!("{businesses}/{there}"), &endpoints).await?;
        return Ok(None);
    }
    let body = json!({"business": wanted.name, "endpoints": [endpoint]});
    operator.call("POST", &businesses, &body).await?;
    let scopes = json!({"scopes": ["push", "group", "presence", "admin"]});
    let made =
        operator.call("POST", &format!("{businesses}/{}/keys", wanted.name), &scopes).await?;
    let key = made["key"].as_str().context("control gives no key")?;
    Ok(Some(key.to_owned()))
}

fn channel(address: &str, trust: Option<&Path>) -> anyhow::Result<Channel> {
    let mut endpoint = Channel::from_shared(address.to_owned())
        .with_context(|| format!("target.push: {address} is no address"))?;
    if address.starts_with("https://") {
        let trusted = roots::beside_machine(trust)?.roots;
        endpoint = endpoint.tls_config(ClientTlsConfig::new().trust_anchors(trusted))?;
    }
    Ok(endpoint.connect_timeout(CALL_PATIENCE).tcp_nodelay(true).connect_lazy())
}

fn bearer(key: &str) -> anyhow::Result<MetadataValue<Ascii>> {
    let mut bearer: MetadataValue<Ascii> = format!("Bearer {key}").parse().context("an odd key")?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// What `env:NAME` stands for.
pub(super) fn secret(at: &str, written: &str) -> anyhow::Result<String> {
    let name = written.strip_prefix("env:").with_context(|| format!("{at}: must be env:NAME"))?;
    std::env::var(name).with_context(|| format!("{at}: the environment has no {name}"))
}
