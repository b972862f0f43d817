//! Requests of a device process: at a steady rate, from one device after the other, and what became of
//! each.

use super::history::now;
use anyhow::Context;
use hawser_proto::code::ErrorCode;
use hawser_sdk::{Business, RequestError};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

const IN_FLIGHT_MAX: usize = 256;
const DEADLINE: Duration = Duration::from_secs(10);

/// The end of one request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct End {
    /// When it was asked, and when it ended.
    pub(super) t: u64,
    pub(super) ended: u64,
    pub(super) device: String,
    pub(super) business: String,
    /// Empty: answered, with the bytes that were sent.
    pub(super) failure: String,
    /// It certainly was not done: who asked asks again.
    pub(super) safe: bool,
}

/// One file of ends.
#[derive(Debug)]
pub(super) struct Asked(File);

impl Asked {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| format!("cannot write {}", path.display()))?))
    }

    fn write(&self, end: &End) {
        let mut line = serde_json::to_vec(end).unwrap_or_default();
        line.push(b'\n');
        (&self.0).write_all(&line).expect("the file can be written");
    }
}

/// Handles of the process's devices.
#[derive(Clone, Default)]
pub(super) struct Clients(Arc<Mutex<Vec<Handle>>>);

/// A device, a business, and how the one asks the other.
type Handle = (String, &'static str, Business);

impl Clients {
    pub(super) fn add(&self, device: &str, business: &'static str, handle: Business) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((device.to_owned(), business, handle));
    }

    fn pick(&self, dice: &mut SmallRng) -> Option<Handle> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!all.is_empty()).then(|| all[dice.random_range(0..all.len())].clone())
    }
}

/// Asks for ever.
pub(super) async fn ask(
    clients: Clients,
    asked: Asked,
    per_second: u32,
    seed: u64,
) -> anyhow::Result<()> {
    if per_second == 0 {
        return std::future::pending().await;
    }
    let asked = Arc::new(asked);
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut under_way = JoinSet::new();
    for number in 0_u64.. {
        pace.tick().await;
        while under_way.try_join_next().is_some() {}
        let Some((device, business, handle)) = clients.pick(&mut dice) else { continue };
        if under_way.len() >= IN_FLIGHT_MAX {
            continue;
        }
        let asked = asked.clone();
        under_way.spawn(async move {
            let t = now();
            let body = format!("{device} {number}");
            let answer = handle.request("echo", body.clone()).deadline(DEADLINE).await;
            let (failure, safe) = match answer {
                Ok(answer) if answer.body == body => (String::new(), true),
                Ok(_) => ("the answer of another request".to_owned(), false),
                Err(error) => (error.to_string(), was_not_done(&error)),
            };
            let business = business.to_owned();
            asked.write(&End { t, ended: now(), device, business, failure, safe });
        });
    }
    Ok(())
}

/// Whether the business has certainly not seen it, so that asking again is right.
fn was_not_done(error: &RequestError) -> bool {
    match error {
        RequestError::QueueFull | RequestError::Closed => true,
        RequestError::Refused { .. } => matches!(
            error.code(),
            Some(ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::TooManyRequests)
        ),
        _ => false,
    }
}

/// What became of all requests between two times.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    pub(super) answered: usize,
    /// Refused before anything was done.
    pub(super) safe: usize,
    /// Nobody knows whether they were done, by what was said.
    pub(super) doubtful: BTreeMap<String, usize>,
}

impl Requests {
    pub(super) fn read(files: impl IntoIterator<Item = impl AsRef<Path>>, from: u64) -> Self {
        let mut all = Self::default();
        for file in files {
            let Ok(text) = std::fs::read_to_string(file) else { continue };
            let ends = text.lines().filter_map(|line| serde_json::from_str::<End>(line).ok());
            for end in ends.filter(|end| end.t >= from) {
                match (end.failure.is_empty(), end.safe) {
                    (true, _) => all.answered += 1,
                    (false, true) => all.safe += 1,
                    (false, false) => *all.doubtful.entry(end.failure).or_default() += 1,
                }
            }
        }
        all
    }

    pub(super) fn doubtful(&self) -> usize {
        self.doubtful.values().sum()
    }
}
