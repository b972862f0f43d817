//! The system under measurement: `hawser dev` in a process of its own, driven over its public APIs.

use crate::fleet::{self, Credential};
use crate::process::Guarded;
use anyhow::{Context, bail};
use bytes::Bytes;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{CreateGroupRequest, Message, MulticastRequest, MulticastResponse};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

pub(crate) const APP: &str = "demo";
pub(crate) const BUSINESS: &str = "chat";
const START_PATIENCE: Duration = Duration::from_secs(30);
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// Calls to control under way at once.
const ACCESS_AT_ONCE: usize = 32;

/// A running `hawser dev`.
pub(crate) struct System {
    pub(crate) process: Guarded,
    pub(crate) tcp: SocketAddr,
    control: String,
    push: PushClient<Channel>,
    key: MetadataValue<Ascii>,
    http: Client<HttpConnector, Full<Bytes>>,
    data: tempfile::TempDir,
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

impl System {
    /// Starts it, and waits until it is ready for devices.
    pub(crate) async fn start(binary: &Path) -> anyhow::Result<Self> {
        Self::start_on(binary, "embedded").await
    }

    /// Starts it on this store.
    pub(crate) async fn start_on(binary: &Path, store: &str) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let mut process = Guarded::start(
            Command::new(binary)
                .args(["dev", "--ports", "random", "--data-dir"])
                .arg(data.path())
                .env("HAWSER_STORE", store)
                .env("RUST_LOG", "error")
                .stderr(Stdio::inherit()),
        )?;
        let started = tokio::time::Instant::now();
        let dev = loop {
            if let Ok(text) = std::fs::read(data.path().join("dev.json")) {
                break serde_json::from_slice::<Value>(&text)?;
            }
            if process.has_ended() || started.elapsed() > START_PATIENCE {
                bail!("hawser dev did not start");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let text = |value: &Value, name: &str| -> anyhow::Result<String> {
            Ok(value[name].as_str().with_context(|| format!("no {name}"))?.to_owned())
        };
        let credentials: Value =
            serde_json::from_slice(&std::fs::read(data.path().join("credentials.json"))?)?;
        let key = text(&credentials["apps"][APP]["businesses"][BUSINESS], "key")?;
        let push = Channel::from_shared(text(&dev, "push")?)?.connect().await?;
        Ok(Self {
            process,
            tcp: text(&dev, "tcp")?.parse()?,
            control: text(&dev, "control")?,
            push: PushClient::new(push),
            key: format!("Bearer {key}").parse()?,
            http: Client::builder(TokioExecutor::new()).build_http(),
            data,
        })
    }

    /// Tokens for `count` devices, each from control's public API.
    pub(crate) async fn credentials(&self, count: usize) -> anyhow::Result<Vec<Credential>> {
        fleet::all((0..count).map(|n| self.credential(format!("bench-{n}"))), ACCESS_AT_ONCE).await
    }

    async fn credential(&self, device: String) -> anyhow::Result<Credential> {
        let body = json!({"app": APP, "device": device, "proof": {"type": "open"}}).to_string();
        let request = http::Request::post(format!("{}/v1/access", self.control))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = self.http.request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("control answers {status}: {}", String::from_utf8_lossy(&body));
        }
        let answer: Value = serde_json::from_slice(&body)?;
        let token = answer["token"].as_str().context("an answer without a token")?.to_owned();
        Ok(Credential { app: APP.to_owned(), device, token })
    }

    /// Where its data lies.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// Control's address.
    pub(crate) fn control(&self) -> &str {
        &self.control
    }

    /// A client of the push API; see [`System::call`].
    pub(crate) fn push(&self) -> PushClient<Channel> {
        self.push.clone()
    }

    /// A request with the business's key.
    pub(crate) fn call<T>(&self, message: T, patience: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.key.clone());
        request.set_timeout(patience);
        request
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
