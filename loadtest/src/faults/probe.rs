//! What the others feel: a few devices on the bare wire that are pushed to, or ask a business, at a steady
//! rate, each delay with the time it was felt at, so that one moment can be laid beside another.

use super::cluster::{APP, Cluster};
use super::history::now;
use crate::wire::{Credential, Wire};
use anyhow::Context;
use hawser_loadtest::delays::Delays;
use hawser_loadtest::stamp::{self, Stamp};
use hawser_proto::frame::NodeFrame;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{Message, Outcome, UnicastRequest};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

const CALL_PATIENCE: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What is felt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feels {
    /// Volatile pushes, from the call to the device.
    Pushes,
    /// Requests, from the device to the business and back.
    Requests,
}

/// Who is asked to feel it, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) feels: Feels,
    /// Devices are named by this and their number.
    pub(crate) name: String,
    pub(crate) devices: usize,
    pub(crate) per_second: u32,
    pub(crate) business: &'static str,
    pub(crate) key: String,
    /// The push API to call.
    pub(crate) push: String,
    /// The access nodes, in turn.
    pub(crate) doors: Vec<SocketAddr>,
}

/// When each was felt, and how long it took; what was not answered or not written counts as lost.
type Felt = Arc<Mutex<Vec<(u64, Option<Duration>)>>>;

/// Devices at work; dropped, they leave.
pub(crate) struct Probe {
    felt: Felt,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Probe {
    /// Logs the devices in and begins.
    pub(crate) async fn start(cluster: &Cluster, plan: Plan) -> anyhow::Result<Self> {
        let felt = Felt::default();
        let mut tasks = JoinSet::new();
        let each = Duration::from_secs(1) * plan.devices as u32 / plan.per_second.max(1);
        for number in 0..plan.devices {
            let device = format!("{}-{number}", plan.name);
            let credential = Credential::get(&cluster.control, APP, &device).await?;
            let door = plan.doors[number % plan.doors.len()];
            let tries = (rand::random(), 1);
            let (wire, _) = Wire::log_in(door, &credential, plan.business, tries).await?;
            let asks = (plan.feels == Feels::Requests).then_some(each);
            tasks.spawn(listen(wire, device, asks, felt.clone()));
        }
        if plan.feels == Feels::Pushes {
            tasks.spawn(push(plan, felt.clone()));
        }
        Ok(Self { felt, tasks })
    }

    /// What was felt between two times.
    pub(crate) fn between(&self, from: u64, to: u64) -> Delays {
        let felt = self.felt.lock().unwrap_or_else(PoisonError::into_inner);
        felt.iter().filter(|(at, _)| (from..to).contains(at)).filter_map(|(_, it)| *it).collect()
    }

    /// What came to nothing between two times.
    pub(crate) fn lost_between(&self, from: u64, to: u64) -> usize {
        let felt = self.felt.lock().unwrap_or_else(PoisonError::into_inner);
        felt.iter().filter(|(at, it)| it.is_none() && (from..to).contains(at)).count()
    }

    /// Fails once a device has lost its link.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.tasks.try_join_next() {
            Some(ended) => ended.context("a probe broke")?.context("a probe ended"),
            None => Ok(()),
        }
    }
}

fn note(felt: &Felt, at: u64, delay: Option<Duration>) {
    felt.lock().unwrap_or_else(PoisonError::into_inner).push((at, delay));
}

async fn listen(
    mut wire: Wire,
    device: String,
    asks: Option<Duration>,
    felt: Felt,
) -> anyhow::Result<()> {
    // No two devices in step.
    let first = asks.unwrap_or(HEARTBEAT).mul_f64(rand::random());
    let mut pace =
        tokio::time::interval_at(tokio::time::Instant::now() + first, asks.unwrap_or(HEARTBEAT));
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut asked = 0;
    loop {
        tokio::select! {
            frame = wire.hear() => match frame? {
                NodeFrame::Push(_, body) => {
                    if let Some(stamp) = Stamp::read(&body) {
                        note(&felt, stamp.left, Some(stamp.age));
                    }
                }
                NodeFrame::Response(response, body) => {
                    let stamp = Stamp::read(&body).filter(|_| response.status == 0);
                    match stamp {
                        Some(stamp) => note(&felt, stamp.left, Some(stamp.age)),
                        None => note(&felt, now(), None),
                    }
                }
                NodeFrame::Close(close) => anyhow::bail!("{device} was closed: {}", close.code),
                _ => {}
            },
            _ = pace.tick() => {
                if asks.is_some() {
                    asked += 1;
                    wire.request(asked, &device).await?;
                } else {
                    wire.ping().await?;
                }
            }
        }
    }
}

async fn push(plan: Plan, felt: Felt) -> anyhow::Result<()> {
    let client = client(&plan.push)?;
    let key = bearer(&plan.key)?;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / plan.per_second.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    for number in 0.. {
        pace.tick().await;
        while calls.try_join_next().is_some() {}
        let device = format!("{}-{}", plan.name, number % plan.devices);
        let (mut client, key, felt) = (client.clone(), key.clone(), felt.clone());
        calls.spawn(async move {
            let at = now();
            let message = Message { body: stamp::body(&device, 64), ..Message::default() };
            let mut request = Request::new(UnicastRequest {
                device,
                message: Some(message),
                ..Default::default()
            });
            request.metadata_mut().insert("authorization", key);
            let answer = tokio::time::timeout(CALL_PATIENCE, client.unicast(request)).await;
            let written = answer
                .is_ok_and(|it| it.is_ok_and(|it| it.get_ref().outcome() == Outcome::Written));
            if !written {
                note(&felt, at, None);
            }
        });
    }
    Ok(())
}

/// A client of a router's push API.
pub(crate) fn client(push: &str) -> anyhow::Result<PushClient<Channel>> {
    let endpoint = Endpoint::from_shared(push.to_owned())?;
    Ok(PushClient::new(endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy()))
}

/// What a business shows with each call.
pub(crate) fn bearer(key: &str) -> anyhow::Result<MetadataValue<Ascii>> {
    Ok(format!("Bearer {key}").parse()?)
}
