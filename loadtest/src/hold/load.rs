//! What a backend does while devices are held: unicasts, stored pushes and multicasts at steady rates.

use crate::faults::businesses::Office;
use crate::faults::cluster::{BUSINESSES, Cluster, Shape};
use crate::faults::history::History;
use crate::faults::presence;
use crate::faults::probe::{bearer, client};
use anyhow::Context;
use bytes::Bytes;
use hawser_loadtest::stamp;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{
    Class, CreateGroupRequest, Message, MulticastRequest, Outcome, PresenceState, UnicastRequest,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

const CALL_PATIENCE: Duration = Duration::from_secs(5);
const IN_FLIGHT_MAX: usize = 512;
const ASKED: usize = 1_000;

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub(super) devices: usize,
    pub(super) unicasts: u32,
    pub(super) stored: u32,
    pub(super) multicasts: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) unicasts: u64,
    pub(super) written: u64,
    pub(super) stores: u64,
    pub(super) stored: u64,
    pub(super) multicasts: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Unicast,
    Store,
    Multicast,
}

/// At work until it is stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<anyhow::Result<(What, u64, u64)>>,
}

impl Load {
    pub(super) fn start(cluster: &Cluster, rates: Rates, group: &str) -> anyhow::Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let mut tasks = JoinSet::new();
        for (number, (what, per_second)) in [
            (What::Unicast, rates.unicasts),
            (What::Store, rates.stored),
            (What::Multicast, rates.multicasts),
        ]
        .into_iter()
        .enumerate()
        {
            if per_second > 0 {
                let one = One {
                    what,
                    client: client(&cluster.push[number % cluster.push.len()])?,
                    key: bearer(&cluster.keys[0])?,
                    group: group.to_owned(),
                };
                tasks.spawn(one.go(per_second, rates.devices, stop.clone()));
            }
        }
        Ok(Self { stop, tasks })
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<Counts> {
        self.stop.store(true, Ordering::Release);
        let mut counts = Counts::default();
        while let Some(ended) = self.tasks.join_next().await {
            let (what, sent, good) = ended.context("a load broke")??;
            match what {
                What::Unicast => (counts.unicasts, counts.written) = (sent, good),
                What::Store => (counts.stores, counts.stored) = (sent, good),
                What::Multicast => counts.multicasts = good,
            }
        }
        Ok(counts)
    }
}

#[derive(Clone)]
struct One {
    what: What,
    client: PushClient<Channel>,
    key: MetadataValue<Ascii>,
    group: String,
}

impl One {
    async fn go(
        self,
        per_second: u32,
        devices: usize,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<(What, u64, u64)> {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
        let good = Arc::<AtomicU64>::default();
        let mut calls = JoinSet::new();
        let mut sent = 0;
        while !stop.load(Ordering::Acquire) {
            pace.tick().await;
            while calls.try_join_next().is_some() {}
            if calls.len() >= IN_FLIGHT_MAX {
                continue;
            }
            sent += 1;
            // A stride that meets every device, in no order.
            let device = format!("h-{}", sent as usize * 7_919 % devices.max(1));
            let (one, good) = (self.clone(), good.clone());
            calls.spawn(async move {
                let done = tokio::time::timeout(CALL_PATIENCE, one.call(device)).await;
                if done.is_ok_and(|it| it.is_ok_and(|good| good)) {
                    good.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        calls.join_all().await;
        Ok((self.what, sent, good.load(Ordering::Relaxed)))
    }

    async fn call(mut self, device: String) -> anyhow::Result<bool> {
        if self.what == What::Multicast {
            let body = stamp::body(&self.group, 128);
            let message = Some(Message { body, ..Message::default() });
            let group = self.group.clone();
            let mut request =
                Request::new(MulticastRequest { group, message, ..MulticastRequest::default() });
            request.metadata_mut().insert("authorization", self.key);
            return Ok(self.client.multicast(request).await?.into_inner().members > 0);
        }
        let stored = self.what == What::Store;
        let message = Some(Message { body: stamp::body(&device, 128), ..Message::default() });
        let mut request = UnicastRequest { device, message, ..UnicastRequest::default() };
        if stored {
            request.class = Class::Stored.into();
            request.push_id = Bytes::copy_from_slice(&rand::random::<[u8; 16]>());
        }
        let mut request = Request::new(request);
        request.metadata_mut().insert("authorization", self.key);
        let outcome = self.client.unicast(request).await?.into_inner().outcome();
        Ok(outcome == if stored { Outcome::Stored } else { Outcome::Written })
    }
}

/// The business that answers the devices' requests; it lives as long as it is held.
pub(super) async fn office(shape: &mut Shape, folder: &Path) -> anyhow::Result<Office> {
    let history = Arc::new(History::open(&folder.join("harness.jsonl"))?);
    let office = Office::open(0, history).await?;
    shape.endpoints = vec![office.endpoint(false)];
    Ok(office)
}

pub(super) async fn create_group(cluster: &Cluster, group: &str) -> anyhow::Result<()> {
    let mut request = Request::new(CreateGroupRequest { group: group.to_owned(), history: None });
    request.metadata_mut().insert("authorization", bearer(&cluster.keys[0])?);
    client(&cluster.push[0])?.create_group(request).await?;
    debug_assert_eq!(BUSINESSES.len(), cluster.keys.len(), "a key each");
    Ok(())
}

/// What the routers say of a sample of the devices.
pub(super) struct Presence {
    pub(super) asked: usize,
    /// How many are online by the word of the router that says so of the fewest.
    pub(super) online: usize,
}

/// Asks every router for a thousand devices, spread over all.
pub(super) async fn presence(cluster: &Cluster, devices: usize) -> anyhow::Result<Presence> {
    let step = (devices / ASKED).max(1);
    let some: Vec<String> =
        (0..devices).step_by(step).take(ASKED).map(|n| format!("h-{n}")).collect();
    let mut all = Presence { asked: some.len(), online: some.len() };
    for router in &cluster.push {
        let said = presence::ask(router, &cluster.keys[0], &some).await?;
        let online = said.iter().filter(|word| word.state() == PresenceState::Online).count();
        all.online = all.online.min(online);
    }
    Ok(all)
}
