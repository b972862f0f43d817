//! The load: callers that each wait for an append before they make the next, to many devices' inboxes.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hawser_loadtest::bare_store::{AROUND_BODY, Noise};
use hawser_loadtest::process;
use hawser_proto::id::{AppId, BootId, BusinessNo, NodeId, SlotRef};
use hawser_proto::limits::{INBOX_BYTES_DEFAULT, INBOX_ENTRIES_DEFAULT, INBOX_TTL_MAX};
use hawser_router::cores::{Appended, Caps, Claimed, Login, NewEntry, Owner, Priority};
use hawser_router::stores::{Durability, Key, Store};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;

/// Devices whose inboxes take everything, at random.
pub(crate) const DEVICES: usize = 10_000;
/// Of what is around a body, the part that the store adds; the rest is the push API's.
const AROUND_BLOB: usize = 16;
pub(crate) const BUSINESS: BusinessNo = BusinessNo(7);
/// As by default, but what is oldest leaves rather than that a long run ends.
pub(crate) const CAPS: Caps =
    Caps { entries_max: INBOX_ENTRIES_DEFAULT, bytes_max: INBOX_BYTES_DEFAULT, drops_oldest: true };
/// Callers of what is no measurement.
const FILLERS: usize = 256;

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) appends: u64,
    pub(crate) per_second: f64,
    /// CPU of this process, callers included.
    pub(crate) cpu_per_million: f64,
}

/// Does something `count` times over and tells what it cost this process.
pub(crate) fn measured(appends: u64, took: Duration, cpu_before: f64) -> anyhow::Result<Measured> {
    ensure!(appends > 0, "nothing was appended");
    let used = process::cpu_seconds(std::process::id())? - cpu_before;
    let count = appends as f64;
    Ok(Measured {
        appends,
        per_second: count / took.as_secs_f64(),
        cpu_per_million: used * 1e6 / count,
    })
}

/// What the callers share.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) store: Arc<dyn Store>,
    durability: Durability,
    app: AppId,
    noise: Arc<Noise>,
    payload: usize,
}

impl Load {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        durability: Durability,
        payload: usize,
    ) -> anyhow::Result<Self> {
        Ok(Self { store, durability, app: AppId::new("demo")?, noise: Arc::default(), payload })
    }

    /// As many callers as this, for as long as this.
    pub(crate) async fn run(&self, callers: usize, lasts: Duration) -> anyhow::Result<Measured> {
        let (cpu, begun) = (process::cpu_seconds(std::process::id())?, Instant::now());
        let mut running = JoinSet::new();
        for caller in 0..callers {
            let load = self.clone();
            running.spawn(async move {
                let mut made = 0;
                while begun.elapsed() < lasts {
                    let device = rand::random_range(0..DEVICES);
                    load.append(device, &format!("{caller:012}-{made:012}"), load.durability)
                        .await?;
                    made += 1;
                }
                anyhow::Ok(made)
            });
        }
        let mut appends = 0;
        while let Some(made) = running.join_next().await {
            appends += made??;
        }
        measured(appends, begun.elapsed(), cpu)
    }

    /// This many entries for each device, in memory. `name` tells fills of one store apart.
    pub(crate) async fn fill(&self, name: u32, each: usize) -> anyhow::Result<()> {
        self.share(DEVICES * each, move |load, number| async move {
            let push_id = format!("fill-{name:07}-{number:012}");
            load.append(number % DEVICES, &push_id, Durability::Memory).await
        })
        .await
    }

    /// A route for each of this many devices, and nothing else. The devices of [`Load::fill`] come first.
    pub(crate) async fn claim(&self, devices: usize) -> anyhow::Result<()> {
        self.share(devices, |load, device| async move {
            let at = SlotRef { slot: u32::try_from(device)?, generation: 1 };
            let owner = Owner { node: NodeId::new("access-1")?, boot: BootId(rand::random()), at };
            let watchers = Vec::new();
            let login = Login { owner, instance: rand::random(), attempt: now_ms(), watchers };
            let key = Key::device(&load.app, &device_id(device))?;
            let claimed = load.store.claim(&key, login, Vec::new(), now_ms()).await?;
            ensure!(matches!(claimed, Claimed::Bound { .. }), "a claim was refused");
            Ok(())
        })
        .await
    }

    async fn share<F>(
        &self,
        count: usize,
        act: impl Fn(Self, usize) -> F + Clone + Send + 'static,
    ) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>> + Send,
    {
        let mut running = JoinSet::new();
        for caller in 0..FILLERS {
            let (load, act) = (self.clone(), act.clone());
            running.spawn(async move {
                for number in (caller..count).step_by(FILLERS) {
                    act(load.clone(), number).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok(())
    }

    async fn append(
        &self,
        device: usize,
        push_id: &str,
        durability: Durability,
    ) -> anyhow::Result<()> {
        let key = Key::device(&self.app, &device_id(device))?;
        let (new, now_ms) = (self.entry(push_id), now_ms());
        match self.store.append(&key, BUSINESS, new, CAPS, Some(durability), now_ms).await? {
            (Appended::Stored { .. }, reached) if reached >= durability => Ok(()),
            (appended, reached) => bail!("{appended:?}, as durable as {reached:?}"),
        }
    }

    /// An entry as a push of the API leaves it, with a body that no compression makes smaller.
    pub(crate) fn entry(&self, push_id: &str) -> NewEntry {
        let bytes = self.record_bytes() - AROUND_BLOB;
        NewEntry {
            push_id: Bytes::copy_from_slice(push_id.as_bytes()),
            // No zero byte in it: it is to fit on a command line.
            digest: rand::random::<u64>() | 0x0101_0101_0101_0101,
            expires_at_ms: now_ms() + INBOX_TTL_MAX.as_millis() as u64,
            collapse_key: Bytes::new(),
            priority: Priority::Normal,
            blob: Bytes::copy_from_slice(self.noise.some(bytes)),
        }
    }

    /// Bytes of one entry's value, about.
    pub(crate) fn record_bytes(&self) -> usize {
        AROUND_BODY + self.payload
    }

    pub(crate) fn device(&self, id: &str) -> anyhow::Result<Key> {
        Key::device(&self.app, id).context("the form of a device id")
    }
}

/// As long as the name that `redis-benchmark` puts twelve digits into.
fn device_id(number: usize) -> String {
    format!("device-{number:012}")
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
