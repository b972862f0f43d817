//! Crowd processes of a row: started, listened to, and ended with it.

use super::cluster::{APP, BUSINESSES};
use crate::crowd::Told;
use crate::process::Guarded;
use anyhow::{Context, ensure};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A crowd that a row wants; the rest as the program has it.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) control: String,
    pub(crate) name: String,
    pub(crate) count: usize,
    pub(crate) processes: usize,
    pub(crate) logins_per_second: u32,
    pub(crate) heartbeat: Duration,
    /// No new device begins while so many that have begun are not online.
    pub(crate) under_way_max: Option<usize>,
    pub(crate) nodes: Vec<SocketAddr>,
    /// The devices of each process dial the next of them.
    pub(crate) one_node: bool,
    pub(crate) tick: Option<Duration>,
    pub(crate) business: usize,
    pub(crate) group: Option<String>,
    pub(crate) group_every: usize,
    pub(crate) requests_per_second: u32,
    /// Only while this file is there.
    pub(crate) ask_while: Option<PathBuf>,
    pub(crate) come_back: bool,
    pub(crate) forget: bool,
    pub(crate) stay: Option<Duration>,
    pub(crate) deaf: bool,
    pub(crate) trust: Option<PathBuf>,
    /// Each process dials from an address of its own.
    pub(crate) sources: bool,
}

impl Wanted {
    /// So many devices that log in and stay.
    pub(crate) fn new(control: &str, name: &str, count: usize) -> Self {
        Self {
            control: control.to_owned(),
            name: name.to_owned(),
            count,
            processes: 1,
            logins_per_second: 500,
            heartbeat: Duration::from_secs(20),
            under_way_max: None,
            nodes: Vec::new(),
            one_node: false,
            tick: None,
            business: 0,
            group: None,
            group_every: 1,
            requests_per_second: 0,
            ask_while: None,
            come_back: false,
            forget: false,
            stay: None,
            deaf: false,
            trust: None,
            sources: false,
        }
    }
}

type Heard = Arc<Mutex<Vec<Told>>>;

struct One {
    process: Guarded,
    heard: Heard,
}

/// Crowds at work; dropped, they are killed.
pub(crate) struct Crowds {
    wanted: Wanted,
    all: Vec<One>,
}

impl Crowds {
    /// Starts them.
    pub(crate) fn start(wanted: Wanted) -> anyhow::Result<Self> {
        let processes = wanted.processes.max(1);
        let mut all = Vec::new();
        for number in 0..processes {
            let first = wanted.count * number / processes;
            let count = wanted.count * (number + 1) / processes - first;
            all.push(One::start(&wanted, number, first, count)?);
        }
        Ok(Self { wanted, all })
    }

    /// Everything heard since the last call, of all of them; how they stand is their newest word.
    pub(crate) fn take(&mut self) -> anyhow::Result<Told> {
        let mut all = Told::default();
        for one in &mut self.all {
            ensure!(!one.process.has_ended(), "a crowd process ended by itself");
            let mut heard = one.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let mut sum = heard.first().cloned().unwrap_or_default();
            heard.iter().skip(1).for_each(|told| sum.merge(told));
            // The newest word stays, with what it says of the present.
            if let Some(newest) = heard.pop() {
                heard.clear();
                let Told { t, online, under_way, gone, members, .. } = newest;
                heard.push(Told { t, online, under_way, gone, members, ..Told::default() });
            }
            all.join(&sum);
        }
        Ok(all)
    }

    /// Waits until so many are online. What was heard meanwhile is returned.
    pub(crate) async fn until_online(
        &mut self,
        count: usize,
        patience: Duration,
    ) -> anyhow::Result<Told> {
        let started = Instant::now();
        let mut all = Told::default();
        loop {
            all.merge(&self.take()?);
            if all.online >= count as u64 {
                return Ok(all);
            }
            ensure!(
                started.elapsed() < patience,
                "only {} of {count} devices of {} are online after {patience:?}; refused {:?}, {} late",
                all.online,
                self.wanted.name,
                all.refused,
                all.late
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Listens for a while.
    pub(crate) async fn during(&mut self, time: Duration) -> anyhow::Result<Told> {
        tokio::time::sleep(time).await;
        self.take()
    }

    /// Process ids.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.all.iter().map(|one| one.process.id()).collect()
    }
}

impl One {
    fn start(wanted: &Wanted, number: usize, first: usize, count: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let share = (wanted.logins_per_second as usize / wanted.processes.max(1)).max(1);
        // Shares that add up, also where there are more processes than requests a second.
        let (rate, processes) = (wanted.requests_per_second as usize, wanted.processes.max(1));
        let requests = rate * (number + 1) / processes - rate * number / processes;
        command.args(["crowd", "--control", &wanted.control, "--app", APP]);
        command.args(["--business", BUSINESSES[wanted.business], "--name", &wanted.name]);
        command.args(["--first", &first.to_string(), "--count", &count.to_string()]);
        command.args(["--logins-per-second", &share.to_string()]);
        command.args(["--heartbeat-ms", &wanted.heartbeat.as_millis().to_string()]);
        command.args(["--requests-per-second", &requests.to_string()]);
        if let Some(most) = wanted.under_way_max {
            let share = (most / wanted.processes.max(1)).max(1);
            command.args(["--under-way-max", &share.to_string()]);
        }
        if let Some(tick) = wanted.tick {
            command.args(["--tick-ms", &tick.as_millis().to_string()]);
        }
        if !wanted.nodes.is_empty() {
            let mut nodes: Vec<String> = wanted.nodes.iter().map(ToString::to_string).collect();
            if wanted.one_node {
                let turn = number % nodes.len();
                nodes.rotate_left(turn);
            }
            command.args(["--nodes", &nodes.join(",")]);
        }
        if let Some(group) = &wanted.group {
            command.args(["--group", group, "--group-every", &wanted.group_every.to_string()]);
        }
        if wanted.sources {
            command.args(["--source", &format!("127.{}.{}.1", 77 + number / 200, number % 200)]);
        }
        if let Some(stay) = wanted.stay {
            command.args(["--stay-ms", &stay.as_millis().to_string()]);
        }
        if let Some(trust) = &wanted.trust {
            command.arg("--trust").arg(trust);
        }
        if let Some(file) = &wanted.ask_while {
            command.arg("--ask-while").arg(file);
        }
        for (flag, on) in [
            ("--come-back", wanted.come_back),
            ("--forget", wanted.forget),
            ("--one-node", wanted.one_node),
            ("--deaf", wanted.deaf),
        ] {
            if on {
                command.arg(flag);
            }
        }
        command.stderr(Stdio::inherit());
        let mut process = Guarded::start(&mut command).context("no crowd")?;
        let lines = BufReader::new(process.stdout()?).lines();
        let heard = Heard::default();
        let ear = heard.clone();
        // Ends with the process, whose death closes the pipe.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Ok(told) = serde_json::from_str(&line) {
                    ear.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                }
            }
        });
        Ok(Self { process, heard })
    }
}
