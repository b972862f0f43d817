//! What is under load: a `hawser dev` that is started here, or a deployment that is there already.

use super::business;
use crate::control::{ClientSecret, Control};
use crate::dev::{APP, BUSINESS, Dev};
use crate::office::Office;
use crate::push_api::{self, bearer};
use crate::scenario::{Business, Scenario};
use crate::secret;
use crate::system;
use anyhow::{Context, bail, ensure};
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{CreateGroupRequest, DeleteGroupRequest};
use http::Method;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};

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

impl Target {
    /// Starts it, or finds it.
    pub(super) async fn reach(scenario: &Scenario, hawser: Option<&Path>) -> anyhow::Result<Self> {
        let mut offices = Vec::new();
        for business in &scenario.businesses {
            offices.push(business::open(business, scenario.seed).await?);
        }
        match &scenario.target.control {
            None => Self::start(scenario, hawser, offices).await,
            Some(control) => Self::find(scenario, control, offices).await,
        }
    }

    async fn start(
        scenario: &Scenario,
        hawser: Option<&Path>,
        offices: Vec<Office>,
    ) -> anyhow::Result<Self> {
        let dev = Dev::start(&system::binary(hawser)?, "embedded").await?;
        let operator = Control::new(&dev.control, None)?.with_key(&dev.admin_token)?;
        let mut keys = BTreeMap::from([(BUSINESS.to_owned(), bearer(&dev.key)?)]);
        for (office, wanted) in offices.iter().zip(&scenario.businesses) {
            let key = register(&operator, wanted, &office.endpoint()).await?;
            if let Some(key) = key {
                keys.insert(wanted.name.clone(), bearer(&key)?);
            }
        }
        Ok(Self {
            about: "hawser dev, started for this run".to_owned(),
            control: dev.control.clone(),
            app: APP.to_owned(),
            business: BUSINESS.to_owned(),
            trust: Some(dev.trust.clone()),
            client_secret: None,
            push: vec![push_api::endpoint(&dev.push, None)?.connect().await?],
            keys,
            made: std::sync::Mutex::default(),
            dev: Some(dev),
            _offices: offices,
        })
    }

    async fn find(
        scenario: &Scenario,
        control: &str,
        offices: Vec<Office>,
    ) -> anyhow::Result<Self> {
        let wanted = &scenario.target;
        let mut keys = BTreeMap::new();
        let business = wanted.business.clone().context("target.business: missing")?;
        if let Some(key) = &wanted.key {
            keys.insert(business.clone(), bearer(&secret::read(key).context("target.key")?)?);
        }
        for one in &scenario.businesses {
            if let Some(key) = &one.key {
                let key = bearer(&secret::read(key).context("businesses.key")?)?;
                keys.insert(one.name.clone(), key);
            }
        }
        let client_secret = wanted.client_secret.as_deref().map(secret::read).transpose();
        let client_secret = client_secret.context("target.client_secret")?;
        let app = wanted.app.clone().context("target.app: missing")?;
        let trust = wanted.trust.as_deref();
        // Whoever cannot get in learns why from this one, and not from thousands that try for ever.
        let first = scenario.populations.first().context("populations: there is none")?;
        let signs = client_secret.as_deref().map(ClientSecret::new);
        let door = Control::new(control, trust).context("target.trust")?;
        let asked = door.access(&app, &format!("{}-0", first.name), signs.as_ref()).await;
        asked.with_context(|| format!("target.control: {control} lets no device in"))?;
        let mut push = Vec::new();
        for url in &wanted.push {
            let router = push_api::endpoint(url, trust).context("target.push")?.connect().await;
            push.push(router.with_context(|| format!("target.push: {url} cannot be reached"))?);
        }
        Ok(Self {
            about: control.to_owned(),
            control: door.address().to_owned(),
            app,
            business,
            trust: wanted.trust.clone(),
            client_secret,
            push,
            keys,
            made: std::sync::Mutex::default(),
            dev: None,
            _offices: offices,
        })
    }

    /// The process that was started, if one was.
    pub(super) fn process(&self) -> Option<u32> {
        self.dev.as_ref().map(Dev::id)
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
    push_api::request(message, key, CALL_PATIENCE)
}

/// Makes a business of the dev system, or points the one that is there here. The key of a new one.
async fn register(
    operator: &Control,
    wanted: &Business,
    endpoint: &str,
) -> anyhow::Result<Option<String>> {
    let businesses = format!("/v1/apps/{APP}/businesses");
    let endpoints = json!({"endpoints": [endpoint]});
    if wanted.name == BUSINESS {
        operator.call(Method::PATCH, &format!("{businesses}/{BUSINESS}"), &endpoints).await?;
        return Ok(None);
    }
    let body = json!({"business": wanted.name, "endpoints": [endpoint]});
    operator.call(Method::POST, &businesses, &body).await?;
    let scopes = json!({"scopes": ["push", "group", "presence", "admin"]});
    let keys = format!("{businesses}/{}/keys", wanted.name);
    let made = operator.call(Method::POST, &keys, &scopes).await?;
    let key = made["key"].as_str().context("control gives no key")?;
    Ok(Some(key.to_owned()))
}
