//! The system under measurement, driven over its public APIs: control, router and access node, each in a
//! process of its own, so that one sees what each of them costs; or `hawser dev`, all in one.

use crate::control::{Control, token};
use crate::dev::Dev;
use crate::faults::certificate;
use crate::faults::cluster::{self, Cluster, Service, Shape};
use crate::fleet::Credential;
use crate::fleet::link::Protocol;
use crate::process;
use crate::push_api;
use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{CreateGroupRequest, Message, MulticastRequest, MulticastResponse};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

pub(crate) use crate::dev::{APP, BUSINESS};
/// Of calls that are not about stored pushes.
pub(crate) const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// Calls to control under way at once.
const ACCESS_AT_ONCE: usize = 32;

/// CPU or memory by part.
pub(crate) type Parts = BTreeMap<&'static str, f64>;

/// A running hawser; ended with its owner.
pub(crate) struct System {
    house: House,
    app: &'static str,
    control: Control,
    push: PushClient<Channel>,
    key: MetadataValue<Ascii>,
}

enum House {
    Dev(Dev),
    /// Before its folder: its processes end before that goes.
    Apart(Box<Cluster>, tempfile::TempDir),
}

/// The binary beside this program, unless another is named.
pub(crate) fn binary(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("hawser"));
    let binary = named.map(Path::to_owned).or_else(beside).context("no hawser binary named")?;
    if !binary.exists() {
        bail!("{} does not exist: build it, or name one with --hawser", binary.display());
    }
    Ok(binary)
}

/// Name of the device with this number.
pub(crate) fn device(number: usize) -> String {
    format!("bench-{number}")
}

fn sum(
    processes: Vec<(&'static str, u32)>,
    of: impl Fn(u32) -> anyhow::Result<f64>,
) -> anyhow::Result<Parts> {
    let mut parts = Parts::new();
    for (name, id) in processes {
        *parts.entry(name).or_default() += of(id)?;
    }
    Ok(parts)
}

impl System {
    /// Starts the services apart, and waits until they are ready for devices.
    pub(crate) async fn apart(binary: &Path, shape: Shape) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let cluster = Box::new(Cluster::start(binary, data.path(), shape).await?);
        Ok(Self {
            app: cluster::APP,
            control: Control::new(&cluster.control, None)?,
            push: PushClient::new(push_api::endpoint(&cluster.push[0], None)?.connect().await?),
            key: push_api::bearer(&cluster.keys[0])?,
            house: House::Apart(cluster, data),
        })
    }

    /// Starts `hawser dev`.
    pub(crate) async fn start(binary: &Path) -> anyhow::Result<Self> {
        Self::start_on(binary, "embedded").await
    }

    /// Starts it on this store.
    pub(crate) async fn start_on(binary: &Path, store: &str) -> anyhow::Result<Self> {
        let dev = Dev::start(binary, store).await?;
        Ok(Self {
            app: APP,
            control: Control::new(&dev.control, None)?,
            push: PushClient::new(push_api::endpoint(&dev.push, None)?.connect().await?),
            key: push_api::bearer(&dev.key)?,
            house: House::Dev(dev),
        })
    }

    /// The services by what they are, with their process ids.
    fn processes(&self) -> Vec<(&'static str, u32)> {
        match &self.house {
            House::Dev(dev) => vec![("all", dev.id())],
            House::Apart(cluster, _) => cluster
                .services()
                .filter_map(|service| {
                    let name = match service {
                        Service::Control => "control",
                        Service::Router(_) => "router",
                        Service::Access(_) => "access",
                    };
                    Some((name, cluster.process(service)?.0))
                })
                .collect(),
        }
    }

    /// CPU used so far, in seconds, by part.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<Parts> {
        sum(self.processes(), process::cpu_seconds)
    }

    /// Resident memory, in bytes, by part.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<Parts> {
        sum(self.processes(), |id| Ok(process::resident_bytes(id)? as f64))
    }

    /// Where devices come in, by control's word: one address for each access node.
    pub(crate) async fn doors(&self, protocol: Protocol) -> anyhow::Result<Vec<SocketAddr>> {
        let answer = self.control.access(self.app, "door", None).await?;
        let points = answer["access_points"].as_array().context("no access points")?;
        let named = points.iter().filter(|point| point["protocol"] == protocol.name());
        let address = |point: &Value| -> Option<SocketAddr> {
            let port = u16::try_from(point["port"].as_u64()?).ok()?;
            Some(SocketAddr::new(point["host"].as_str()?.parse().ok()?, port))
        };
        let doors: Vec<_> = named.filter_map(address).collect();
        anyhow::ensure!(!doors.is_empty(), "control names no address for {}", protocol.name());
        Ok(doors)
    }

    /// Where devices come in over TCP, by access node.
    pub(crate) fn tcp_doors(&self) -> anyhow::Result<Vec<SocketAddr>> {
        match &self.house {
            House::Dev(_) => bail!("it is all in one"),
            House::Apart(cluster, _) => Ok(cluster.doors.iter().map(|door| door.tcp).collect()),
        }
    }

    /// The business expects so many requests a second; that sizes its pools.
    pub(crate) async fn expect_requests(&self, per_second: u32) -> anyhow::Result<()> {
        let House::Apart(cluster, _) = &self.house else { bail!("it is all in one") };
        let path = format!("/v1/apps/{}/businesses/{BUSINESS}", self.app);
        let body = json!({"expected_requests_per_second": per_second});
        cluster.operator.call(http::Method::PATCH, &path, body).await?;
        Ok(())
    }

    /// What devices are to trust.
    pub(crate) fn authority(&self) -> PathBuf {
        certificate::authority(self.data())
    }

    /// Tokens for `count` devices, each from control's public API; the devices are numbered from 0.
    pub(crate) async fn credentials(&self, count: usize) -> anyhow::Result<Vec<Credential>> {
        let each = (0..count).map(|number| self.credential(number));
        futures_util::stream::iter(each).buffered(ACCESS_AT_ONCE).try_collect().await
    }

    async fn credential(&self, number: usize) -> anyhow::Result<Credential> {
        let device = device(number);
        let answer = self.control.access(self.app, &device, None).await?;
        let token = token(&answer)?.to_owned();
        Ok(Credential {
            app: self.app.to_owned(),
            device,
            token,
            ticket: Bytes::new(),
            attempt: 1,
            instance: rand::random(),
        })
    }

    /// Where its data lies.
    pub(crate) fn data(&self) -> &Path {
        match &self.house {
            House::Dev(dev) => dev.data(),
            House::Apart(_, folder) => folder.path(),
        }
    }

    /// Control's address.
    pub(crate) fn control(&self) -> &str {
        self.control.address()
    }

    /// A client of the push API; see [`System::call`].
    pub(crate) fn push(&self) -> PushClient<Channel> {
        self.push.clone()
    }

    /// A request with the business's key.
    pub(crate) fn call<T>(&self, message: T, patience: Duration) -> Request<T> {
        push_api::request(message, &self.key, patience)
    }

    pub(crate) async fn create_group(&self, group: &str) -> anyhow::Result<()> {
        let request =
            self.call(CreateGroupRequest { group: group.to_owned(), history: None }, CALL_PATIENCE);
        self.push.clone().create_group(request).await?;
        Ok(())
    }

    pub(crate) async fn multicast(
        &self,
        group: &str,
        body: Bytes,
    ) -> anyhow::Result<MulticastResponse> {
        let message = Some(Message { body, ..Default::default() });
        let request =
            MulticastRequest { group: group.to_owned(), message, ..MulticastRequest::default() };
        Ok(self.push.clone().multicast(self.call(request, CALL_PATIENCE)).await?.into_inner())
    }
}
