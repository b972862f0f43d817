//! What a backend does while devices are held: unicasts in batches, stored pushes and multicasts at steady
//! rates; and when devices ask.

use crate::faults::cluster::{BUSINESSES, Cluster};
use crate::faults::presence;
use crate::faults::probe::{bearer, client};
use anyhow::Context;
use bytes::Bytes;
use hawser_loadtest::stamp;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{
    BatchUnicastRequest, Class, CreateGroupRequest, Message, MulticastRequest, Outcome,
    PresenceState, UnicastRequest,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

const CALL_PATIENCE: Duration = Duration::from_secs(5);
const IN_FLIGHT_MAX: usize = 512;
/// Messages of a stream of unicasts that wait to be taken.
const BATCHES_WAITING_MAX: usize = 16;
const BODY_BYTES: usize = 128;
const ASKED: usize = 1_000;

/// How much of what, a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    /// Targets, and how many of them a message of the stream has.
    pub(super) unicasts: u32,
    pub(super) batch: usize,
    pub(super) stored: u32,
    pub(super) multicasts: u32,
    pub(super) requests: u32,
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
    Store,
    Multicast,
}

/// What is being counted.
#[derive(Debug, Default)]
struct Counting {
    stop: AtomicBool,
    unicasts: AtomicU64,
    written: AtomicU64,
    stores: AtomicU64,
    stored: AtomicU64,
    multicasts: AtomicU64,
}

/// At work until it is stopped.
pub(super) struct Load {
    counting: Arc<Counting>,
    tasks: JoinSet<anyhow::Result<()>>,
    /// Devices ask while it is there.
    ask_while: Option<PathBuf>,
}

impl Load {
    /// `ask_while`: the file that lets devices ask, at the rate that their processes were told.
    pub(super) fn start(
        cluster: &Cluster,
        rates: Rates,
        devices: usize,
        group: &str,
        ask_while: &Path,
    ) -> anyhow::Result<Self> {
        let counting = Arc::<Counting>::default();
        let mut tasks = JoinSet::new();
        let key = bearer(&cluster.keys[0])?;
        let router = |number: usize| client(&cluster.push[number % cluster.push.len()]);
        if rates.unicasts > 0 {
            // A stream to each router, which share the rate.
            let streams = cluster.push.len() as u32;
            let batches = f64::from(rates.unicasts) / rates.batch.max(1) as f64;
            for number in 0..streams {
                let stream = Stream {
                    client: router(number as usize)?,
                    key: key.clone(),
                    each: Duration::from_secs_f64(f64::from(streams) / batches),
                    batch: rates.batch.max(1),
                    devices: devices as u64,
                    first: u64::from(number),
                    step: u64::from(streams),
                };
                tasks.spawn(stream.go(counting.clone()));
            }
        }
        for (number, (what, per_second)) in
            [(What::Store, rates.stored), (What::Multicast, rates.multicasts)]
                .into_iter()
                .enumerate()
        {
            if per_second > 0 {
                let (client, key) = (router(number)?, key.clone());
                let one = One { what, client, key, group: group.to_owned() };
                tasks.spawn(one.go(per_second, devices, counting.clone()));
            }
        }
        let ask_while = (rates.requests > 0).then(|| ask_while.to_owned());
        if let Some(file) = &ask_while {
            std::fs::write(file, "")?;
        }
        Ok(Self { counting, tasks, ask_while })
    }

    /// What came of it so far.
    pub(super) fn counts(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counting = &self.counting;
        Counts {
            unicasts: of(&counting.unicasts),
            written: of(&counting.written),
            stores: of(&counting.stores),
            stored: of(&counting.stored),
            multicasts: of(&counting.multicasts),
        }
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<Counts> {
        self.counting.stop.store(true, Ordering::Release);
        if let Some(file) = &self.ask_while {
            std::fs::remove_file(file)?;
        }
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a load broke")??;
        }
        Ok(self.counts())
    }
}

/// Unicasts in batches over one stream.
struct Stream {
    client: PushClient<Channel>,
    key: MetadataValue<Ascii>,
    /// Between two batches.
    each: Duration,
    batch: usize,
    devices: u64,
    /// Number of its first batch, and from one to the next: of all batches that there are.
    first: u64,
    step: u64,
}

impl Stream {
    async fn go(mut self, counting: Arc<Counting>) -> anyhow::Result<()> {
        let (sender, waiting) = mpsc::channel(BATCHES_WAITING_MAX);
        let batches = futures_util::stream::unfold(waiting, |mut waiting| async {
            Some((waiting.recv().await?, waiting))
        });
        let mut request = Request::new(batches);
        request.metadata_mut().insert("authorization", self.key.clone());
        let mut client = self.client.clone();
        let called = client.stream_unicast(request);
        let answers = async {
            let mut stream = called.await?.into_inner();
            while let Some(answer) = stream.message().await? {
                let written = answer.outcomes().filter(|it| *it == Outcome::Written).count();
                counting.written.fetch_add(written as u64, Ordering::Relaxed);
            }
            anyhow::Ok(())
        };
        let (said, heard) = tokio::join!(self.say(sender, &counting), answers);
        said.and(heard)
    }

    async fn say(
        &mut self,
        sender: mpsc::Sender<BatchUnicastRequest>,
        counting: &Counting,
    ) -> anyhow::Result<()> {
        let mut pace = tokio::time::interval(self.each);
        while !counting.stop.load(Ordering::Acquire) {
            pace.tick().await;
            let batch = self.next();
            let targets = batch.devices.len() as u64;
            match sender.try_send(batch) {
                Ok(()) => _ = counting.unicasts.fetch_add(targets, Ordering::Relaxed),
                // It is behind: what is not sent is seen as that.
                Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => anyhow::bail!("the stream has ended"),
            }
        }
        Ok(())
    }

    /// Devices of one class, from all over.
    fn next(&mut self) -> BatchUnicastRequest {
        let (number, classes) = (self.first, u64::from(stamp::CLASSES));
        self.first += self.step;
        let class = number % classes;
        let of_class = (self.devices.saturating_sub(class).div_ceil(classes)).max(1);
        let first = number / classes * self.batch as u64;
        let device = |n: u64| format!("h-{}", class + classes * ((first + n) * STRIDE % of_class));
        let body = stamp::body(&stamp::class(class as u32), BODY_BYTES);
        BatchUnicastRequest {
            message: Some(Message { body, ..Message::default() }),
            devices: (0..of_class.min(self.batch as u64)).map(device).collect(),
            ..BatchUnicastRequest::default()
        }
    }
}

/// Meets every device, in no order.
const STRIDE: u64 = 7_919;

/// One call after the other.
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
        counting: Arc<Counting>,
    ) -> anyhow::Result<()> {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
        let mut calls = JoinSet::new();
        let mut sent = 0;
        while !counting.stop.load(Ordering::Acquire) {
            pace.tick().await;
            while calls.try_join_next().is_some() {}
            if calls.len() >= IN_FLIGHT_MAX {
                continue;
            }
            sent += 1;
            if self.what == What::Store {
                counting.stores.fetch_add(1, Ordering::Relaxed);
            }
            let device = format!("h-{}", sent * STRIDE % (devices as u64).max(1));
            let (one, counting) = (self.clone(), counting.clone());
            calls.spawn(async move {
                let good = match one.what {
                    What::Store => &counting.stored,
                    What::Multicast => &counting.multicasts,
                };
                let done = tokio::time::timeout(CALL_PATIENCE, one.call(device)).await;
                if done.is_ok_and(|it| it.is_ok_and(|good| good)) {
                    good.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        calls.join_all().await;
        Ok(())
    }

    async fn call(mut self, device: String) -> anyhow::Result<bool> {
        if self.what == What::Multicast {
            let body = stamp::body(&self.group, BODY_BYTES);
            let message = Some(Message { body, ..Message::default() });
            let group = self.group.clone();
            let mut request =
                Request::new(MulticastRequest { group, message, ..MulticastRequest::default() });
            request.metadata_mut().insert("authorization", self.key);
            return Ok(self.client.multicast(request).await?.into_inner().members > 0);
        }
        let message =
            Some(Message { body: stamp::body(&device, BODY_BYTES), ..Message::default() });
        let push_id = Bytes::copy_from_slice(&rand::random::<[u8; 16]>());
        let class = Class::Stored.into();
        let request = UnicastRequest { device, message, class, push_id, ..Default::default() };
        let mut request = Request::new(request);
        request.metadata_mut().insert("authorization", self.key);
        Ok(self.client.unicast(request).await?.into_inner().outcome() == Outcome::Stored)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[tokio::test]
    async fn a_batch_names_devices_of_one_class_once_and_all_have_their_turn() {
        let client = client("http://127.0.0.1:1").unwrap();
        let (key, each) = ("k".parse().unwrap(), Duration::from_secs(1));
        let (batch, devices) = (100, 10_007);
        let mut stream = Stream { client, key, each, batch, devices, first: 0, step: 1 };
        let mut all = BTreeSet::new();
        for number in 0..128 {
            let named = stream.next().devices;
            let numbers: BTreeSet<u32> =
                named.iter().map(|it| it.strip_prefix("h-").unwrap().parse().unwrap()).collect();
            assert_eq!(numbers.len(), batch, "each once");
            let class = stamp::class(number % stamp::CLASSES);
            assert!(numbers.iter().all(|n| stamp::class(*n) == class), "{number}: {numbers:?}");
            all.extend(numbers);
        }
        assert_eq!((all.len(), all.last()), (10_007, Some(&10_006)));
    }
}
