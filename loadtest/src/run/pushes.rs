//! What backends do in a run: calls of the push API, each at its time whatever became of those before.

use super::target::{Target, request};
use crate::crowd::plan::{Groups, Payloads};
use crate::scenario::{PushKind, Pushes, Scenario, sizes};
use crate::schedule::Schedule;
use anyhow::Context;
use bytes::Bytes;
use hawser_loadtest::delays::Delays;
use hawser_loadtest::stamp;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{
    BatchUnicastRequest, Class, Message, MulticastRequest, Outcome, Target as One, UnicastRequest,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

/// Calls of one kind that may wait for their answer. What is due beyond them is not sent, and counted.
const IN_FLIGHT_MAX: usize = 4_096;
/// Calls that are late by more are left out, and counted.
const BEHIND_MAX: f64 = 1.0;

/// What was sent, and what the push API said to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pushed {
    pub(super) calls: u64,
    pub(super) failed: u64,
    /// Left out because too many calls wait for an answer; and because this process was late.
    pub(super) unsent: u64,
    pub(super) skipped: u64,
    /// Devices named in calls; and by what came of them.
    pub(super) unicasts: u64,
    pub(super) written: u64,
    pub(super) stores: u64,
    pub(super) stored: u64,
    pub(super) offline: u64,
    pub(super) refused: u64,
    pub(super) multicasts: u64,
    pub(super) members: u64,
    pub(super) dropped: u64,
    /// How long after their time calls left.
    pub(super) late_sends: Delays,
    /// From their time to their answer.
    pub(super) call_delay: Delays,
}

/// All of them at work; dropped, they stop.
pub(super) struct Backends {
    counts: Arc<Mutex<Pushed>>,
    tasks: JoinSet<()>,
}

impl Backends {
    /// Starts them; second 0 is at this monotonic time.
    pub(super) fn start(scenario: &Scenario, target: &Target, begins: u64) -> anyhow::Result<Self> {
        let counts = Arc::<Mutex<Pushed>>::default();
        let mut tasks = JoinSet::new();
        for (turn, pushes) in scenario.pushes.iter().enumerate() {
            let backend = Backend {
                kind: pushes.kind,
                to: Whom::of(pushes, scenario)?,
                targets: pushes.targets,
                payloads: sizes(&pushes.payloads),
                client: target.client(turn)?,
                key: target.key(pushes.business.as_deref())?,
                counts: counts.clone(),
            };
            let dice = SmallRng::seed_from_u64(scenario.seed ^ (turn as u64 + 1) << 32);
            tasks.spawn(backend.go(scenario.calls(pushes), begins, dice));
        }
        Ok(Self { counts, tasks })
    }

    /// So far.
    pub(super) fn counts(&self) -> Pushed {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn stop(mut self) {
        self.tasks.abort_all();
    }
}

/// Who is meant.
#[derive(Clone, Debug)]
enum Whom {
    /// Devices of this name, so many.
    Devices(String, u32),
    Groups(Groups),
}

impl Whom {
    fn of(pushes: &Pushes, scenario: &Scenario) -> anyhow::Result<Self> {
        let populations = || scenario.populations.iter();
        if let Some(group) = &pushes.group {
            let mut all = populations().flat_map(crate::scenario::Population::memberships);
            let found = all.find(|groups| groups.name == *group);
            return Ok(Self::Groups(found.context("pushes.group: there is none")?));
        }
        let to = pushes.to.as_deref().unwrap_or_default();
        let found = populations().find(|population| population.name == to);
        let population = found.context("pushes.to: there is none")?;
        Ok(Self::Devices(population.name.clone(), population.count))
    }

    fn draw(&self, dice: &mut SmallRng) -> String {
        match self {
            Self::Devices(name, count) => format!("{name}-{}", dice.random_range(0..*count)),
            Self::Groups(groups) => groups.name_of(dice.random_range(0..groups.count)),
        }
    }
}

#[derive(Clone)]
struct Backend {
    kind: PushKind,
    to: Whom,
    targets: usize,
    payloads: Payloads,
    client: PushClient<Channel>,
    key: MetadataValue<Ascii>,
    counts: Arc<Mutex<Pushed>>,
}

impl Backend {
    async fn go(self, calls: Schedule, begins: u64, mut dice: SmallRng) {
        let mut under_way = JoinSet::new();
        let mut number = 0;
        while let Some(at) = calls.at(number) {
            number += 1;
            let due = begins.saturating_add((at * 1e9) as u64);
            let early = due.saturating_sub(stamp::now());
            if early > 0 {
                tokio::time::sleep(Duration::from_nanos(early)).await;
            }
            while under_way.try_join_next().is_some() {}
            let late = Duration::from_nanos(stamp::now().saturating_sub(due));
            if late.as_secs_f64() > BEHIND_MAX {
                self.count(|counts| counts.skipped += 1);
                continue;
            }
            if under_way.len() >= IN_FLIGHT_MAX {
                self.count(|counts| counts.unsent += 1);
                continue;
            }
            let names: Vec<_> = (0..self.targets).map(|_| self.to.draw(&mut dice)).collect();
            let bytes = self.payloads.at(dice.random());
            let push_id: [u8; 16] = dice.random();
            self.count(|counts| {
                counts.calls += 1;
                counts.late_sends.add(late);
                match self.kind {
                    PushKind::Unicast | PushKind::BatchUnicast => {
                        counts.unicasts += names.len() as u64;
                    }
                    PushKind::Stored => counts.stores += names.len() as u64,
                    PushKind::Multicast => counts.multicasts += 1,
                }
            });
            let one = self.clone();
            under_way.spawn(async move {
                let done = one.call(names, bytes, due, push_id).await;
                let taken = Duration::from_nanos(stamp::now().saturating_sub(due));
                one.count(|counts| {
                    counts.call_delay.add(taken);
                    counts.failed += u64::from(done.is_err());
                });
            });
        }
        while under_way.join_next().await.is_some() {}
    }

    fn count(&self, what: impl FnOnce(&mut Pushed)) {
        what(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn call(
        &self,
        mut names: Vec<String>,
        bytes: usize,
        due: u64,
        push_id: [u8; 16],
    ) -> Result<(), tonic::Status> {
        let mut client = self.client.clone();
        let message =
            |name: &str| Some(Message { body: stamp::due(name, bytes, due), ..Message::default() });
        let class = if self.kind == PushKind::Stored { Class::Stored } else { Class::Volatile };
        if self.kind == PushKind::Multicast {
            let group = names.swap_remove(0);
            let message = message(&group);
            let call = MulticastRequest { group, message, ..MulticastRequest::default() };
            let answer = client.multicast(request(call, &self.key)).await?.into_inner();
            self.count(|counts| {
                counts.members += answer.members;
                counts.dropped += answer.dropped;
            });
            return Ok(());
        }
        if self.kind != PushKind::BatchUnicast && self.targets == 1 {
            let device = names.swap_remove(0);
            let message = message(&device);
            let mut call = UnicastRequest {
                device,
                message,
                class: class.into(),
                ..UnicastRequest::default()
            };
            if class == Class::Stored {
                call.push_id = Bytes::copy_from_slice(&push_id);
            }
            let answer = client.unicast(request(call, &self.key)).await?.into_inner();
            self.came_of(answer.outcome());
            return Ok(());
        }
        // A body of its own for each, since it says for whom it is.
        let target = |(number, device): (usize, String)| {
            let message = message(&device);
            let mut id = push_id;
            id[..4].copy_from_slice(&(number as u32).to_be_bytes());
            let push_id = match class {
                Class::Stored => Bytes::copy_from_slice(&id),
                _ => Bytes::new(),
            };
            One { device, message, push_id }
        };
        let targets = names.into_iter().enumerate().map(target).collect();
        let call =
            BatchUnicastRequest { targets, class: class.into(), ..BatchUnicastRequest::default() };
        let answer = client.batch_unicast(request(call, &self.key)).await?.into_inner();
        answer.outcomes().for_each(|outcome| self.came_of(outcome));
        Ok(())
    }

    fn came_of(&self, outcome: Outcome) {
        self.count(|counts| match outcome {
            Outcome::Written => counts.written += 1,
            Outcome::Stored | Outcome::Acked => counts.stored += 1,
            Outcome::Offline | Outcome::Stale => counts.offline += 1,
            _ => counts.refused += 1,
        });
    }
}
