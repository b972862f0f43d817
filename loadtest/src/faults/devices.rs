//! Device processes: each a handful of devices with their cursors in files, started by the harness, killed
//! by it or by themselves at a chosen point, and started again.

use super::cluster::APP;
use crate::process::Guarded;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Between a device process's death and its next start.
const PAUSE: Duration = Duration::from_millis(200);

/// Before what a device process kills itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Point {
    /// A push was taken from the link; the app has not been handed it.
    Handler,
    /// The app has it; the cursor is not stored.
    Cursor,
    /// The cursor is stored; the acknowledgement has not left.
    Ack,
}

/// What one device process is told.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) control: String,
    pub(super) devices: Vec<String>,
    pub(super) folder: PathBuf,
    /// Where installations and cursors lie.
    pub(super) state: PathBuf,
    pub(super) die: Option<(Point, u32)>,
    /// Moves to another transport and node after a random time up to the first, for as long as the second.
    pub(super) moves: Option<(Duration, Duration)>,
    pub(super) torn: bool,
    pub(super) requests_per_second: u32,
    /// Its devices start over this long.
    pub(super) over: Duration,
    pub(super) trust: Option<PathBuf>,
    /// A group that all are in.
    pub(super) join: Option<String>,
    pub(super) seed: u64,
}

/// Keeps one device process running: whenever it dies it is started again.
pub(super) struct Keeper {
    plan: Plan,
    number: usize,
    lives: u64,
    process: Option<Guarded>,
}

impl Keeper {
    pub(super) fn new(plan: Plan, number: usize) -> Self {
        Self { plan, number, lives: 0, process: None }
    }

    /// Its history.
    pub(super) fn history(&self) -> PathBuf {
        self.plan.folder.join(format!("device-{}.jsonl", self.number))
    }

    /// When its devices were online.
    pub(super) fn links(&self) -> PathBuf {
        self.plan.folder.join(format!("links-{}.jsonl", self.number))
    }

    /// What its devices heard in their group.
    pub(super) fn heard(&self) -> PathBuf {
        self.plan.folder.join(format!("heard-{}.jsonl", self.number))
    }

    /// What became of its requests.
    pub(super) fn requests(&self) -> PathBuf {
        self.plan.folder.join(format!("requests-{}.jsonl", self.number))
    }

    /// Lives so far.
    pub(super) fn lives(&self) -> u64 {
        self.lives
    }

    /// Starts it if it does not run. `die`: it may kill itself, as planned.
    pub(super) fn keep(&mut self, die: bool) -> anyhow::Result<()> {
        if self.process.as_mut().is_some_and(|process| !process.has_ended()) {
            return Ok(());
        }
        if self.lives > 0 {
            std::thread::sleep(PAUSE);
        }
        self.lives += 1;
        let mut command = Command::new(std::env::current_exe()?);
        let plan = &self.plan;
        command.args(["device", "--control", &plan.control, "--app", APP, "--folder"]);
        command.arg(&plan.state).arg("--history").arg(self.history());
        command.args(["--process", &(self.number as u64 * 1_000_000 + self.lives).to_string()]);
        command.args(["--seed", &(plan.seed + self.lives).to_string()]);
        if let Some((point, every)) = plan.die.filter(|_| die) {
            let point = clap::ValueEnum::to_possible_value(&point);
            let name = point.map(|it| it.get_name().to_owned()).unwrap_or_default();
            command.args(["--die-at", &name, "--die-every", &every.to_string()]);
        }
        if let Some(moves) = plan.moves {
            command.args(["--moves-ms", &moves.0.as_millis().to_string()]);
            command.args(["--moves-for-ms", &moves.1.as_millis().to_string()]);
        }
        if plan.torn {
            command.arg("--torn");
        }
        command.arg("--links").arg(self.links());
        if plan.requests_per_second > 0 {
            command.arg("--requests").arg(self.requests());
            command.args(["--requests-per-second", &plan.requests_per_second.to_string()]);
        }
        if let Some(trust) = &plan.trust {
            command.arg("--trust").arg(trust);
        }
        if let Some(group) = &plan.join {
            command.args(["--join", group, "--heard"]).arg(self.heard());
        }
        command.args(["--over-ms", &plan.over.as_millis().to_string()]);
        command.arg("--").args(&plan.devices);
        command.stderr(log(&plan.folder, self.number)?);
        self.process = Some(Guarded::start(&mut command)?);
        Ok(())
    }

    /// The devices it is for.
    pub(super) fn devices(&self) -> &[String] {
        &self.plan.devices
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }
}

fn log(folder: &Path, number: usize) -> anyhow::Result<Stdio> {
    let file = folder.join(format!("device-{number}.log"));
    Ok(Stdio::from(std::fs::File::options().create(true).append(true).open(file)?))
}
