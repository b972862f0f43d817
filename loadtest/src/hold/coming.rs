//! Until all are online, or something stands in the way.

use super::Hold;
use super::kernel::Kernel;
use super::limits::MEMORY_LEFT_MIN;
use crate::crowd::Told;
use crate::faults::crowds::Crowds;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_secs(5);
/// So many looks without anybody more, and no more will come.
const LOOKS_IN_VAIN_MAX: u32 = 6;

/// How they came in.
pub(super) struct Coming {
    pub(super) told: Told,
    /// Why not all of them did.
    stopped: Option<String>,
}

impl Coming {
    /// What keeps this from being all of them.
    pub(super) fn misses(&self, wanted: &Hold) -> Vec<String> {
        let short =
            |why: &String| format!("{} of {} came in: {why}", self.told.online, wanted.devices);
        self.stopped.iter().map(short).collect()
    }
}

/// Waits for them.
pub(super) async fn come_in(wanted: &Hold, crowds: &mut Crowds) -> anyhow::Result<Coming> {
    let started = Instant::now();
    let seconds = wanted.devices as u64 / u64::from(wanted.logins_per_second.max(1));
    let patience = Duration::from_secs(wanted.fill_seconds.unwrap_or(2 * seconds + 120));
    let mut told = Told::default();
    let (mut before, mut in_vain) = (Kernel::now(), 0);
    loop {
        let online = told.online;
        told.merge(&crowds.during(LOOK).await?);
        in_vain = if told.online > online { 0 } else { in_vain + 1 };
        let now = Kernel::now();
        println!(
            "  {:>4.0} s: {} online, {} members, login {}, lost {}, late {}, refused {:?}, {:.0} MiB left, {:.0} % busy",
            started.elapsed().as_secs_f64(),
            told.online,
            told.members,
            told.login_delay,
            told.lost,
            told.late,
            told.refused,
            now.available / 1_048_576.0,
            now.busy(&before) * 100.0
        );
        if told.online == wanted.devices as u64 {
            println!("{} logins in {:.0} s", told.logins, started.elapsed().as_secs_f64());
            return Ok(Coming { told, stopped: None });
        }
        let stopped = if now.available < MEMORY_LEFT_MIN {
            format!("memory: {:.0} MiB are left", now.available / 1_048_576.0)
        } else if told.gone > 0 {
            format!("{} are gone for good", told.gone)
        } else if in_vain >= LOOKS_IN_VAIN_MAX {
            format!("for {:.0?} nobody more did", LOOK * in_vain)
        } else if started.elapsed() > patience {
            format!("time: {:.0?} have passed", started.elapsed())
        } else {
            before = now;
            continue;
        };
        println!("no further: {stopped}");
        return Ok(Coming { told, stopped: Some(stopped) });
    }
}
