//! Pushes: to a group, at a fixed rate or one after the other or many queued; and to single devices.

use super::Bench;
use super::stage::{DELIVERY_PATIENCE, Measured, Stage, Under, frame, unicasts};
use crate::bare::UNICAST;
use crate::fleet::payload;
use crate::system::{CALL_PATIENCE, device};
use anyhow::ensure;
use futures_util::{StreamExt, stream};
use hawser_loadtest::stamp;
use hawser_proto::rpc::push::{
    BatchUnicastRequest, Message, Outcome, Target, UnicastRequest, UnicastResponse,
};
use std::io::Write as _;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Multicasts that are queued at a time.
pub(super) const QUEUED: u64 = 16;
/// Unicasts whose outcome is waited for, and those of one message.
pub(super) const IN_FLIGHT: u64 = 512;
pub(super) const TARGETS: u64 = 32;
/// Single unicasts a second.
pub(super) const SINGLES_PER_SECOND: u64 = 5_000;

/// Multicasts at the rate, whatever becomes of them.
pub(super) async fn paced(stage: &mut Stage, wanted: &Bench) -> anyhow::Result<Measured> {
    stage.warm_up().await?;
    let rounds = u64::from(wanted.rate) * u64::from(wanted.seconds);
    let period = Duration::from_secs(1) / wanted.rate.max(1);
    let begun = stage.begin()?;
    let first = stamp::now();
    let mut pace = tokio::time::interval(period);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for round in 0..rounds {
        pace.tick().await;
        stage.multicast(first + round * period.as_nanos() as u64)?;
    }
    stage.end(begun, rounds * stage.members as u64).await
}

/// So many multicasts at once, the next when all have all of them.
pub(super) async fn closed(
    stage: &mut Stage,
    wanted: &Bench,
    at_once: u64,
) -> anyhow::Result<Measured> {
    stage.warm_up().await?;
    let begun = stage.begin()?;
    let (until, mut sent) = (Instant::now() + wanted.lasts(), 0);
    let before = stage.fleet.received();
    while Instant::now() < until {
        for _ in 0..at_once {
            stage.multicast(stamp::now())?;
        }
        sent += at_once * stage.members as u64;
        stage.fleet.wait_for(before + sent, DELIVERY_PATIENCE).await?;
    }
    stage.end(begun, sent).await
}

/// Unicasts to all devices in turn, a bounded number in flight.
pub(super) async fn streamed(stage: &mut Stage, wanted: &Bench) -> anyhow::Result<Measured> {
    stage.warm_up().await?;
    let begun = stage.begin()?;
    let until = Instant::now() + wanted.lasts();
    let sent = match &mut stage.under {
        Under::Bare { publisher, .. } => {
            let (before, mut sent) = (stage.fleet.received(), 0);
            while Instant::now() < until {
                publisher.write_all(&unicasts(sent, TARGETS, stage.members, wanted.payload)?)?;
                sent += TARGETS;
                let room = (before + sent).saturating_sub(IN_FLIGHT - TARGETS);
                stage.fleet.wait_for(room.max(before), DELIVERY_PATIENCE).await?;
            }
            sent
        }
        Under::Hawser(system) => {
            let room = Arc::new(Semaphore::new((IN_FLIGHT / TARGETS) as usize));
            let (taken, members, bytes) = (room.clone(), stage.members as u64, wanted.payload);
            let batches = (0u64..)
                .take_while(move |_| Instant::now() < until)
                .map(move |batch| batch_of(batch * TARGETS, members, bytes));
            let batches = stream::iter(batches).then(move |batch| {
                let room = taken.clone();
                async move {
                    room.acquire_owned().await.expect("it is never closed").forget();
                    batch
                }
            });
            let call = system.call(batches, wanted.lasts() + DELIVERY_PATIENCE);
            let mut answers = system.push().stream_unicast(call).await?.into_inner();
            let mut written = 0;
            while let Some(answer) = answers.message().await? {
                room.add_permits(1);
                let all = answer.outcomes().all(|outcome| outcome == Outcome::Written);
                ensure!(answer.error == 0 && all, "not all were written: {:?}", answer.totals);
                written += answer.outcomes.len() as u64;
            }
            written
        }
    };
    stage.end(begun, sent).await
}

fn batch_of(from: u64, members: u64, bytes: usize) -> BatchUnicastRequest {
    let targets = (from..from + TARGETS).map(|number| Target {
        device: device((number % members) as usize),
        message: Some(Message { body: payload(bytes, stamp::now(), 0), ..Message::default() }),
        ..Target::default()
    });
    BatchUnicastRequest { targets: targets.collect(), ..BatchUnicastRequest::default() }
}

/// Single unicasts at a fixed rate. A thread of its own paces them: timers of the runtime are too coarse.
pub(super) async fn single(stage: &mut Stage, wanted: &Bench) -> anyhow::Result<Measured> {
    stage.warm_up().await?;
    let sent = SINGLES_PER_SECOND * u64::from(wanted.seconds);
    let (members, bytes) = (stage.members as u64, wanted.payload);
    let begun = stage.begin()?;
    match &mut stage.under {
        Under::Bare { publisher, .. } => {
            let publisher = publisher.try_clone()?;
            paced_thread(sent, publisher, move |publisher, number, due| {
                let device = u32::try_from(number % members)?;
                Ok(publisher.write_all(&frame(UNICAST, &payload(bytes, due, device))?)?)
            })
            .await?;
        }
        Under::Hawser(system) => {
            let (push, runtime) = (system.push(), Handle::current());
            // For its key.
            let bare_call = system.call((), CALL_PATIENCE);
            let mut calls = paced_thread(sent, JoinSet::new(), move |calls, number, due| {
                let request = UnicastRequest {
                    device: device((number % members) as usize),
                    message: Some(Message { body: payload(bytes, due, 0), ..Message::default() }),
                    ..UnicastRequest::default()
                };
                let mut call = tonic::Request::new(request);
                *call.metadata_mut() = bare_call.metadata().clone();
                let mut push = push.clone();
                calls.spawn_on(async move { push.unicast(call).await }, &runtime);
                while let Some(done) = calls.try_join_next() {
                    must_be_written(done??.get_ref())?;
                }
                Ok(())
            })
            .await?;
            while let Some(done) = calls.join_next().await {
                must_be_written(done??.get_ref())?;
            }
        }
    }
    stage.end(begun, sent).await
}

fn must_be_written(answer: &UnicastResponse) -> anyhow::Result<()> {
    ensure!(answer.outcome() == Outcome::Written, "a unicast was {:?}", answer.outcome());
    Ok(())
}

/// Does something so many times, each at its time, on a thread that sleeps exactly; gives back what it did
/// it with.
async fn paced_thread<S: Send + 'static>(
    count: u64,
    mut with: S,
    mut step: impl FnMut(&mut S, u64, u64) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<S> {
    let period = 1_000_000_000 / SINGLES_PER_SECOND;
    let paced = move || {
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let first = stamp::now() + period;
        for number in 0..count {
            let due = first + number * period;
            let early = due.saturating_sub(stamp::now());
            if early > 0 {
                std::thread::sleep(Duration::from_nanos(early));
            }
            step(&mut with, number, due)?;
        }
        anyhow::Ok(with)
    };
    tokio::task::spawn_blocking(paced).await?
}
