//! What the others feel: a few devices on the bare wire that are pushed to, or ask a business, at a steady
//! rate. What was sent is held against what was felt, each by the time it left, so that one moment can be
//! laid beside another, and nothing is missed in silence.

use super::cluster::{APP, Cluster};
use super::history::now;
use crate::wire::{Credential, Wire};
use anyhow::Context;
use hawser_loadtest::delays::Delays;
use hawser_loadtest::stamp::{self, Stamp};
use hawser_proto::frame::NodeFrame;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{Message, Outcome, UnicastRequest};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

const CALL_PATIENCE: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What has not come by then will not: longer than a call, or a request, may take.
const FELT_PATIENCE: Duration = Duration::from_secs(12);
const LOOK: Duration = Duration::from_millis(20);

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

/// What became of one push, or request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is on its way; or was answered with `written`, and has not arrived.
    UnderWay,
    Felt(Duration),
    /// Refused, or not answered: its sender counts on nothing.
    Lost,
}

/// What became of each, by the time it left.
#[derive(Debug, Default)]
struct Fates(BTreeMap<u64, Fate>);

impl Fates {
    fn left(&mut self, at: u64) {
        self.0.insert(at, Fate::UnderWay);
    }

    /// An error when it was felt before, or never left.
    fn felt(&mut self, at: u64, age: Duration) -> anyhow::Result<()> {
        match self.0.get_mut(&at).context("something was felt that was never sent")? {
            Fate::Felt(_) => anyhow::bail!("a push came twice"),
            Fate::Lost => {}
            fate @ Fate::UnderWay => *fate = Fate::Felt(age),
        }
        Ok(())
    }

    fn lost(&mut self, at: u64) {
        self.0.insert(at, Fate::Lost);
    }

    fn delays(&self, from: u64, to: u64) -> Delays {
        let felt = |fate: &Fate| match fate {
            Fate::Felt(age) => Some(*age),
            Fate::UnderWay | Fate::Lost => None,
        };
        self.0.range(from..to).filter_map(|(_, fate)| felt(fate)).collect()
    }

    /// At `now`: what has been on its way for less than the patience is neither felt nor lost.
    fn not_felt(&self, from: u64, to: u64, now: u64) -> usize {
        let overdue = now.saturating_sub(FELT_PATIENCE.as_nanos() as u64);
        let missed = |at: u64, fate: Fate| match fate {
            Fate::Felt(_) => false,
            Fate::Lost => true,
            Fate::UnderWay => at <= overdue,
        };
        self.0.range(from..to).filter(|(at, fate)| missed(**at, **fate)).count()
    }

    fn under_way(&self, to: u64) -> bool {
        self.0.range(..to).any(|(_, fate)| *fate == Fate::UnderWay)
    }
}

type Felt = Arc<Mutex<Fates>>;

fn lock(felt: &Felt) -> MutexGuard<'_, Fates> {
    felt.lock().unwrap_or_else(PoisonError::into_inner)
}

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

    /// Waits until nothing that left before then is under way, or has been for too long.
    pub(crate) async fn settled(&self, to: u64) {
        let started = Instant::now();
        while lock(&self.felt).under_way(to) && started.elapsed() < FELT_PATIENCE {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What was felt of what left between two times.
    pub(crate) fn between(&self, from: u64, to: u64) -> Delays {
        lock(&self.felt).delays(from, to)
    }

    /// What left between two times and was not felt, whatever its sender was told; what is under way is
    /// not among it before [`Probe::settled`].
    pub(crate) fn lost_between(&self, from: u64, to: u64) -> usize {
        lock(&self.felt).not_felt(from, to, now())
    }

    /// Fails once a device has lost its link.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.tasks.try_join_next() {
            Some(ended) => ended.context("a probe broke")?.context("a probe ended"),
            None => Ok(()),
        }
    }
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
    // Requests that are not answered: when each left.
    let mut open = HashMap::new();
    let mut asked = 0;
    loop {
        tokio::select! {
            frame = wire.hear() => match frame? {
                NodeFrame::Push(_, body) => {
                    if let Some(stamp) = Stamp::read(&body) {
                        anyhow::ensure!(stamp.is_for(&device), "{device} got another's push");
                        lock(&felt).felt(stamp.left, stamp.age)?;
                    }
                }
                NodeFrame::Response(response, body) => {
                    let left = open.remove(&response.request_id);
                    let left = left.context("an answer to no request")?;
                    match Stamp::read(&body).filter(|_| response.status == 0) {
                        Some(stamp) => lock(&felt).felt(left, stamp.age)?,
                        None => lock(&felt).lost(left),
                    }
                }
                NodeFrame::Close(close) => anyhow::bail!("{device} was closed: {}", close.code),
                _ => {}
            },
            _ = pace.tick() => {
                if asks.is_some() {
                    asked += 1;
                    let left = now();
                    open.insert(asked, left);
                    lock(&felt).left(left);
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
        let body = stamp::body(&device, 64);
        let left = Stamp::read(&body).context("a stamp that was just made")?.left;
        lock(&felt).left(left);
        calls.spawn(async move {
            let message = Message { body, ..Message::default() };
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
                lock(&felt).lost(left);
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

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn what_was_sent_and_never_felt_is_lost_whatever_its_sender_was_told() {
        let mut fates = Fates::default();
        (1..=4).for_each(|at| fates.left(at));
        fates.felt(1, MOMENT).expect("it left");
        // Not written, and there all the same: nobody counted on it.
        fates.lost(3);
        fates.felt(3, MOMENT).expect("it left");
        assert!(fates.under_way(3), "the second is neither felt nor lost");
        let late = 5 + FELT_PATIENCE.as_nanos() as u64;
        assert_eq!(fates.not_felt(1, 5, late), 3);
        assert_eq!(fates.not_felt(1, 5, 5), 1, "two may still come");
        assert_eq!(fates.delays(1, 5).count(), 1);
        assert_eq!(fates.not_felt(1, 2, late), 0, "only what left in time");
    }

    #[test]
    fn what_comes_twice_or_was_never_sent_is_an_error() {
        let mut fates = Fates::default();
        fates.left(1);
        fates.felt(1, MOMENT).expect("it left");
        assert!(fates.felt(1, MOMENT).is_err());
        assert!(fates.felt(2, MOMENT).is_err());
    }
}
