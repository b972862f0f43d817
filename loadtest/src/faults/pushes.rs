//! The backends: stored pushes at a steady rate, each asked again with the same id until it is answered,
//! and every word of it in the history.

use super::cluster::{APP, BUSINESSES};
use super::history::{History, now};
use super::probe;
use anyhow::Context;
use bytes::Bytes;
use hawser_loadtest::judge::{Durability, Event, Kind, Payload};
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{
    Class, Durability as Wanted, Message, Outcome, StoreOptions, UnicastRequest, UnicastResponse,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Pushes without an answer yet.
const IN_FLIGHT_MAX: usize = 256;
/// One try of one push.
const CALL_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(200);
/// A push that has no answer by then is left unknown.
const GIVE_UP: Duration = Duration::from_secs(90);

/// What has come of the pushes so far.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) stored: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) tries: AtomicU64,
    /// Tries that ended without a position.
    pub(super) failed: AtomicU64,
}

/// Backends at work; [`Backends::stop`] ends them once each push has its last word.
pub(super) struct Backends {
    pub(super) count: Arc<Count>,
    stop: Arc<AtomicBool>,
    task: JoinSet<anyhow::Result<()>>,
}

/// What to push, and where.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// The push API of each router; a call that fails goes to the next.
    pub(super) push: Vec<String>,
    /// By the order of [`BUSINESSES`].
    pub(super) keys: Vec<String>,
    pub(super) devices: Vec<String>,
    pub(super) per_second: u32,
    /// Durabilities that are asked for, in turn.
    pub(super) durabilities: Vec<Wanted>,
    /// Begins the ids of its pushes, so that two loads never share one.
    pub(super) prefix: String,
    pub(super) seed: u64,
}

impl Backends {
    /// Begins to push.
    pub(super) fn start(load: Load, history: Arc<History>) -> anyhow::Result<Self> {
        let clients: anyhow::Result<Vec<_>> =
            load.push.iter().map(|at| probe::client(at)).collect();
        let clients = clients?;
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<Count>::default());
        let mut task = JoinSet::new();
        task.spawn(run(load, clients, history, count.clone(), stop.clone()));
        Ok(Self { count, stop, task })
    }

    /// No new pushes; waits for those on their way.
    pub(super) async fn stop(mut self) -> anyhow::Result<Arc<Count>> {
        self.stop.store(true, Ordering::Release);
        if let Some(ended) = self.task.join_next().await {
            ended.context("the backends broke")??;
        }
        Ok(self.count)
    }
}

async fn run(
    load: Load,
    clients: Vec<PushClient<Channel>>,
    history: Arc<History>,
    count: Arc<Count>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(load.seed);
    let mut pace = tokio::time::interval(Duration::from_secs(1) / load.per_second.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut under_way = JoinSet::new();
    let mut number = 0_u64;
    while !stop.load(Ordering::Acquire) {
        pace.tick().await;
        let turn = places.clone().acquire_owned().await?;
        while under_way.try_join_next().is_some() {}
        number += 1;
        let business = random.random_range(0..BUSINESSES.len());
        let one = One {
            id: format!("{}-{number}", load.prefix),
            device: load.devices[random.random_range(0..load.devices.len())].clone(),
            inbox: BUSINESSES[business],
            key: load.keys[business].clone(),
            durability: load.durabilities[number as usize % load.durabilities.len()],
        };
        let (mut clients, history, count) = (clients.clone(), history.clone(), count.clone());
        under_way.spawn(async move {
            let first = number as usize % clients.len();
            clients.rotate_left(first);
            one.push(clients, &history, &count).await;
            drop(turn);
        });
    }
    under_way.join_all().await;
    Ok(())
}

/// One push, whatever it takes.
struct One {
    id: String,
    device: String,
    inbox: &'static str,
    key: String,
    durability: Wanted,
}

enum Said {
    Stored(UnicastResponse),
    Refused(String),
    Nothing,
}

impl One {
    async fn push(&self, mut clients: Vec<PushClient<Channel>>, history: &History, count: &Count) {
        let begun = now();
        let event = |kind| Event {
            push: self.id.clone(),
            ..Event::new(0, kind).of(APP, &self.device, self.inbox)
        };
        history.write(event(Kind::PushCall));
        let give_up = begun + GIVE_UP.as_nanos() as u64;
        let mut doubtful = false;
        loop {
            count.tries.fetch_add(1, Ordering::Relaxed);
            let called = clients[0].unicast(self.request());
            let answer = tokio::time::timeout(CALL_PATIENCE, called).await;
            clients.rotate_left(1);
            let said = answer.map_or(Said::Nothing, read);
            if !matches!(said, Said::Stored(_)) {
                count.failed.fetch_add(1, Ordering::Relaxed);
            }
            match said {
                Said::Stored(answer) => {
                    count.stored.fetch_add(1, Ordering::Relaxed);
                    let stored = answer.stored.unwrap_or_default();
                    let mut event = event(Kind::PushOk);
                    (event.term, event.seq) = (stored.term, stored.seq);
                    event.durability = Some(reached(stored.durability()));
                    return history.write(event);
                }
                Said::Refused(why) if !doubtful => {
                    count.refused.fetch_add(1, Ordering::Relaxed);
                    let mut event = event(Kind::PushFail);
                    event.fault = why;
                    return history.write(event);
                }
                Said::Refused(_) | Said::Nothing => doubtful = true,
            }
            if now() > give_up {
                count.unknown.fetch_add(1, Ordering::Relaxed);
                return history.write(event(Kind::PushUnknown));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn request(&self) -> Request<UnicastRequest> {
        let body = Payload { push: &self.id, app: APP, device: &self.device, inbox: self.inbox };
        let message = Message { body: Bytes::from(body.encode()), ..Message::default() };
        let mut request = Request::new(UnicastRequest {
            device: self.device.clone(),
            message: Some(message),
            class: Class::Stored.into(),
            push_id: Bytes::copy_from_slice(self.id.as_bytes()),
            store: Some(StoreOptions { durability: self.durability.into(), ..Default::default() }),
        });
        if let Ok(key) = format!("Bearer {}", self.key).parse() {
            request.metadata_mut().insert("authorization", key);
        }
        request
    }
}

/// An answer that leaves no doubt, or none.
fn read(answer: Result<tonic::Response<UnicastResponse>, Status>) -> Said {
    match answer {
        Ok(answer) => {
            let answer = answer.into_inner();
            match answer.outcome() {
                Outcome::Stored | Outcome::Acked => Said::Stored(answer),
                Outcome::Unknown | Outcome::Unspecified => Said::Nothing,
                other => Said::Refused(other.as_str_name().to_owned()),
            }
        }
        // Whatever the transport or an overloaded store says, the push may have been taken before.
        Err(_) => Said::Nothing,
    }
}

fn reached(durability: Wanted) -> Durability {
    match durability {
        Wanted::Disk => Durability::Disk,
        Wanted::Replica => Durability::Replica,
        Wanted::Memory | Wanted::Unspecified => Durability::Memory,
    }
}
