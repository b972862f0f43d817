//! Someone who pushes too much: volatile pushes at a rate, while it is let go, and what came of each. A row
//! that lays its neighbours beside it has to ask whether it really was that loud.

use crate::faults::cluster::Cluster;
use crate::faults::probe::{bearer, client};
use hawser_loadtest::stamp;
use hawser_proto::rpc::push::{BatchUnicastRequest, Message, Outcome, UnicastRequest};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::Request;

/// Calls that wait for an answer: whoever is slower than this is not pushed to faster.
const CALLS_MAX: usize = 512;
/// Of the rate that was asked for, this much must be answered, or the flood was none.
const RATE_SHARE: f64 = 0.8;

/// What came of the calls and their targets so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flooded {
    pub(crate) calls: u64,
    pub(crate) answered: u64,
    /// Targets, by what was said of them.
    pub(crate) written: u64,
    pub(crate) overflow: u64,
    pub(crate) offline: u64,
    other: u64,
    /// For so long it was let go, and at this rate.
    on: Duration,
    asked: u32,
}

impl Flooded {
    fn count(&mut self, outcome: Outcome, targets: u64) {
        *match outcome {
            Outcome::Written => &mut self.written,
            Outcome::Overflow => &mut self.overflow,
            Outcome::Offline => &mut self.offline,
            _ => &mut self.other,
        } += targets;
    }

    /// Calls that were answered, a second of those in which it was let go.
    fn rate(&self) -> f64 {
        self.answered as f64 / self.on.as_secs_f64().max(1e-3)
    }

    /// Whether it was as loud as it was meant to be.
    pub(crate) fn was_loud(&self) -> bool {
        self.rate() >= RATE_SHARE * f64::from(self.asked)
    }
}

impl fmt::Display for Flooded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} calls/s answered (at least {:.0}), targets: {} written, {} overflow, {} offline, {} other",
            self.rate(),
            RATE_SHARE * f64::from(self.asked),
            self.written,
            self.overflow,
            self.offline,
            self.other
        )
    }
}

/// At work until it is dropped; begins paused.
pub(crate) struct Flood {
    state: Arc<Mutex<State>>,
    /// Aborted with it.
    _task: JoinSet<anyhow::Result<()>>,
}

#[derive(Default)]
struct State {
    since: Option<Instant>,
    seen: Flooded,
}

impl Flood {
    /// `what`: targets and bytes of the push with this number.
    pub(crate) fn start(
        cluster: &Cluster,
        business: usize,
        per_second: u32,
        what: impl Fn(usize) -> (Vec<String>, usize) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let client = client(&cluster.push[1 % cluster.push.len()])?;
        let key = bearer(&cluster.keys[business])?;
        let state = Arc::<Mutex<State>>::default();
        lock(&state, |state| state.seen.asked = per_second);
        let shared = state.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
            let mut calls = JoinSet::new();
            for number in 0.. {
                pace.tick().await;
                while calls.try_join_next().is_some() {}
                let is_on = lock(&shared, |state| state.since.is_some());
                if !is_on || calls.len() > CALLS_MAX {
                    continue;
                }
                lock(&shared, |state| state.seen.calls += 1);
                let (devices, bytes) = what(number);
                let (mut client, key, shared) = (client.clone(), key.clone(), shared.clone());
                calls.spawn(async move {
                    let body = stamp::body(&devices[0], bytes);
                    let message = Some(Message { body, ..Message::default() });
                    let said: Vec<(Outcome, u64)> = if let [device] = devices.as_slice() {
                        let device = device.clone();
                        let mut request = Request::new(UnicastRequest {
                            device,
                            message,
                            ..UnicastRequest::default()
                        });
                        request.metadata_mut().insert("authorization", key);
                        let Ok(answer) = client.unicast(request).await else { return };
                        vec![(answer.get_ref().outcome(), 1)]
                    } else {
                        let mut request = Request::new(BatchUnicastRequest {
                            message,
                            devices,
                            ..BatchUnicastRequest::default()
                        });
                        request.metadata_mut().insert("authorization", key);
                        let Ok(answer) = client.batch_unicast(request).await else { return };
                        let totals = answer.into_inner().totals;
                        totals.iter().map(|total| (total.outcome(), total.count)).collect()
                    };
                    lock(&shared, |state| {
                        state.seen.answered += 1;
                        for (outcome, targets) in said {
                            state.seen.count(outcome, targets);
                        }
                    });
                });
            }
            Ok(())
        });
        Ok(Self { state, _task: task })
    }

    pub(crate) fn go(&self) {
        lock(&self.state, |state| {
            state.since.get_or_insert_with(Instant::now);
        });
    }

    pub(crate) fn pause(&self) {
        lock(&self.state, |state| {
            if let Some(since) = state.since.take() {
                state.seen.on += since.elapsed();
            }
        });
    }

    /// So far.
    pub(crate) fn seen(&self) -> Flooded {
        lock(&self.state, |state| {
            let now = state.since.map_or(Duration::ZERO, |since| since.elapsed());
            Flooded { on: state.seen.on + now, ..state.seen }
        })
    }
}

fn lock<R>(state: &Mutex<State>, look: impl FnOnce(&mut State) -> R) -> R {
    look(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
}
