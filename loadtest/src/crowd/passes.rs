//! Tokens and access points for a crowd, from control's public API: a thread of its own asks, a bounded
//! number at once, so that the crowd's loop never waits.

use super::Crowd;
use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc as sync;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Calls to control under way, and askers that wait for one.
const ASKED_MAX: usize = 32;
const WAITING_MAX: usize = 1_024;
const CALL_PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(1);

/// What a device logs in with, and where.
pub(super) struct Pass {
    /// The token; or, once there is one, the newest resume ticket.
    pub(super) secret: Box<[u8]>,
    pub(super) points: Box<[SocketAddr]>,
    pub(super) next_point: usize,
    pub(super) start_after: Duration,
    pub(super) window_ms: u32,
}

/// The thread that asks, from outside.
pub(super) struct Passes {
    wanted: mpsc::Sender<u32>,
    given: sync::Receiver<(u32, Pass)>,
    thread: std::thread::JoinHandle<anyhow::Result<()>>,
}

impl Passes {
    pub(super) fn start(crowd: &Crowd) -> anyhow::Result<Self> {
        let (wanted, asked) = mpsc::channel(WAITING_MAX);
        let (give, given) = sync::sync_channel(WAITING_MAX);
        let crowd = crowd.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || runtime.block_on(ask(crowd, asked, give)));
        Ok(Self { wanted, given, thread })
    }

    /// Asks for a device's; false: too many are waiting, come again.
    pub(super) fn ask(&self, number: u32) -> bool {
        self.wanted.try_send(number).is_ok()
    }

    /// The next one that came.
    pub(super) fn take(&self) -> Option<(u32, Pass)> {
        self.given.try_recv().ok()
    }

    /// An error once the thread has ended.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.thread.is_finished() {
            bail!("nobody asks control any more");
        }
        Ok(())
    }
}

async fn ask(
    crowd: Crowd,
    mut asked: mpsc::Receiver<u32>,
    give: sync::SyncSender<(u32, Pass)>,
) -> anyhow::Result<()> {
    let http: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let crowd = Arc::new(crowd);
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            Some(number) = asked.recv(), if calls.len() < ASKED_MAX => {
                let (crowd, http) = (crowd.clone(), http.clone());
                calls.spawn(async move {
                    // Control may be down, or busy: a device asks until it has an answer.
                    loop {
                        let call = tokio::time::timeout(CALL_PATIENCE, one(&crowd, &http, number));
                        if let Ok(Ok(pass)) = call.await {
                            return (number, pass);
                        }
                        tokio::time::sleep(AGAIN).await;
                    }
                });
            }
            Some(done) = calls.join_next() => {
                let Ok(mut pass) = done else { continue };
                while let Err(sync::TrySendError::Full(back)) = give.try_send(pass) {
                    pass = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            else => return Ok(()),
        }
    }
}

async fn one(
    crowd: &Crowd,
    http: &Client<HttpConnector, Full<Bytes>>,
    number: u32,
) -> anyhow::Result<Pass> {
    let device = format!("{}-{}", crowd.name, crowd.first + number);
    let body = json!({"app": crowd.app, "device": device, "proof": {"type": "open"}});
    let request = http::Request::post(format!("{}/v1/access", crowd.control))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let answer = http.request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("control answers {status}");
    }
    let answer: Value = serde_json::from_slice(&body)?;
    let token = answer["token"].as_str().context("an answer without a token")?;
    let points = if crowd.nodes.is_empty() {
        let protocol = if crowd.trust.is_some() { "tls" } else { "tcp" };
        named(&answer, protocol)
    } else {
        let turn = (crowd.first + number) as usize % crowd.nodes.len();
        let (before, from) = crowd.nodes.split_at(turn);
        from.iter().chain(before).copied().collect()
    };
    if points.is_empty() {
        bail!("control names no access point");
    }
    let millis = |name: &str| answer[name].as_u64().unwrap_or_default();
    Ok(Pass {
        secret: token.as_bytes().into(),
        points: points.into(),
        next_point: 0,
        start_after: Duration::from_millis(millis("start_after_ms")),
        window_ms: u32::try_from(millis("reconnect_window_ms")).unwrap_or(u32::MAX),
    })
}

/// The addresses that control names for a protocol, in its order.
pub(crate) fn named(answer: &Value, protocol: &str) -> Vec<SocketAddr> {
    let points = answer["access_points"].as_array().cloned().unwrap_or_default();
    let wanted = points.iter().filter(|point| point["protocol"].as_str() == Some(protocol));
    let address = |point: &Value| -> Option<SocketAddr> {
        let host = point["host"].as_str()?.parse().ok()?;
        Some(SocketAddr::new(host, u16::try_from(point["port"].as_u64()?).ok()?))
    };
    wanted.filter_map(address).collect()
}
