//! Device processes: each a handful of devices with their cursors in files, started by the harness, killed
//! by it or by themselves at a chosen point, and started again.

use super::cluster::APP;
use crate::process::Guarded;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
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
    /// This life may end by its own hand.
    may_die: bool,
    /// Lives that ended so.
    deaths: u64,
    /// Ends that nobody had asked for.
    broken: Vec<String>,
    process: Option<Guarded>,
}

impl Keeper {
    pub(super) fn new(plan: Plan, number: usize) -> Self {
        Self {
            plan,
            number,
            lives: 0,
            may_die: false,
            deaths: 0,
            broken: Vec::new(),
            process: None,
        }
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

    /// Lives that ended at the planned point, by the planned signal.
    pub(super) fn deaths(&self) -> u64 {
        self.deaths
    }

    /// Lives that ended by themselves in any other way, and panics that did not end one.
    pub(super) fn broken(&mut self) -> Vec<String> {
        self.look();
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let panics = log.lines().filter(|line| line.contains("panicked at"));
        let panics = panics.map(|line| format!("device process {}: {line}", self.number));
        self.broken.iter().cloned().chain(panics).collect()
    }

    /// Whether it runs; notes how it ended when it does not.
    fn look(&mut self) -> bool {
        let Some(process) = &mut self.process else { return false };
        let Some(ended) = process.ended() else { return true };
        self.process = None;
        if self.may_die && ended.signal() == Some(Signal::KILL.as_raw()) {
            self.deaths += 1;
            return false;
        }
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let last = log.lines().last().unwrap_or("it said nothing");
        self.broken.push(format!("device process {} ended ({ended}): {last}", self.number));
        false
    }

    fn log(&self) -> PathBuf {
        self.plan.folder.join(format!("device-{}.log", self.number))
    }

    /// Starts it if it does not run. `die`: it may kill itself, as planned.
    pub(super) fn keep(&mut self, die: bool) -> anyhow::Result<()> {
        if self.look() {
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
        self.may_die = die && plan.die.is_some();
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
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        command.stderr(Stdio::from(log));
        self.process = Some(Guarded::start(&mut command)?);
        Ok(())
    }

    /// The devices it is for.
    pub(super) fn devices(&self) -> &[String] {
        &self.plan.devices
    }

    /// SIGKILL. Whoever had ended before is not killed.
    pub(super) fn kill(&mut self) {
        self.look();
        self.process = None;
    }
}
