//! The device processes of a run: as many as descriptors, ports and protocols ask for.

use super::target::Target;
use crate::crowd::Told;
use crate::crowd::plan::{CLIENT_SECRET, Plan, Protocol};
use crate::process::Guarded;
use crate::scenario::{Population, Scenario, sizes};
use anyhow::{Context, ensure};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// Descriptors of a process that are for no device.
const DESCRIPTORS_APART: u64 = 200;
/// Every population may have so many under way in each of its processes.
const UNDER_WAY_MAX: u32 = 4_000;

/// All of them; dropped, they are killed.
pub(super) struct Devices {
    all: Vec<One>,
}

struct One {
    protocol: Protocol,
    process: Guarded,
    heard: Arc<Mutex<Told>>,
    /// As of the newest word.
    stands: Told,
}

/// What one process saw since the last look, and how it stands.
pub(super) struct Seen {
    pub(super) protocol: Protocol,
    pub(super) told: Told,
}

impl Devices {
    /// Starts them; second 0 is at this monotonic time.
    pub(super) fn start(
        scenario: &Scenario,
        target: &Target,
        begins: u64,
        per_process: usize,
    ) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for population in &scenario.populations {
            let mut first = 0;
            for (protocol, count) in population.by_protocol() {
                let most = most_of_process(protocol, per_process)?;
                let processes = count.div_ceil(most);
                for number in 0..processes {
                    let part = split(count, number, processes);
                    let plan = Plan {
                        first,
                        count: part,
                        protocol,
                        source: target.is_on_loopback().then(|| source(all.len())),
                        ..plan(scenario, population, target, begins, part)
                    };
                    first += part;
                    all.push(One::start(&plan, target.client_secret.as_deref())?);
                }
            }
        }
        Ok(Self { all })
    }

    /// What each saw since the last call.
    pub(super) fn take(&mut self) -> anyhow::Result<Vec<Seen>> {
        self.all.iter_mut().map(One::take).collect()
    }

    /// Process ids.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.all.iter().map(|one| one.process.id())
    }
}

/// Everything of a plan that is the same for all processes of a population, but for the rates, which are
/// shared among them by the number of devices.
fn plan(
    scenario: &Scenario,
    population: &Population,
    target: &Target,
    begins: u64,
    part: u32,
) -> Plan {
    let share = f64::from(part) / f64::from(population.count);
    Plan {
        control: target.control.clone(),
        app: target.app.clone(),
        business: population.business.clone().unwrap_or_else(|| target.business.clone()),
        name: population.name.clone(),
        first: 0,
        count: part,
        protocol: Protocol::Tcp,
        nodes: Vec::new(),
        source: None,
        trust: target.trust.clone(),
        begins,
        logins: scenario.logins(population).share(share),
        under_way_max: UNDER_WAY_MAX,
        one_node: false,
        tick_ms: None,
        ask_while: None,
        heartbeat_ms: u64::try_from(population.heartbeat.as_millis()).unwrap_or(u64::MAX),
        groups: population.memberships(),
        requests: scenario.requests(population).share(share),
        method: population.request_method.clone(),
        request_deadline_ms: u32::try_from(population.request_deadline.as_millis())
            .unwrap_or(u32::MAX),
        payloads: sizes(&population.request_payloads),
        come_back: population.comes_back,
        forget: false,
        stay: population.stay(),
        behaviours: population.behaviours(),
        cuts: scenario.cuts(),
        signs: target.client_secret.is_some(),
        seed: scenario.seed,
    }
}

/// Devices that one process can hold.
fn most_of_process(protocol: Protocol, wanted: usize) -> anyhow::Result<u32> {
    let (descriptors, _) = rlimit::Resource::NOFILE.get().context("no descriptor limit")?;
    // Each QUIC device has a pair of sockets between its loop and its driver.
    let each = if protocol == Protocol::Quic { 2 } else { 1 };
    let fits = descriptors.saturating_sub(DESCRIPTORS_APART) / each;
    ensure!(fits > 0, "{descriptors} descriptors are too few for any device");
    Ok(u32::try_from(fits)
        .unwrap_or(u32::MAX)
        .min(u32::try_from(wanted.max(1)).unwrap_or(u32::MAX)))
}

/// The part of this process: all of them add up.
fn split(count: u32, number: u32, processes: u32) -> u32 {
    let upto = |number: u32| (u64::from(count) * u64::from(number) / u64::from(processes)) as u32;
    upto(number + 1) - upto(number)
}

/// The first address that this process dials from.
fn source(process: usize) -> IpAddr {
    let (high, low) = (77 + process / 200, process % 200);
    Ipv4Addr::new(127, high.min(254) as u8, low as u8, 1).into()
}

impl One {
    fn start(plan: &Plan, client_secret: Option<&str>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["planned", &serde_json::to_string(plan)?]).stderr(Stdio::inherit());
        if let Some(secret) = client_secret {
            command.env(CLIENT_SECRET, secret);
        }
        let mut process = Guarded::start(&mut command).context("no device process")?;
        let lines = BufReader::new(process.stdout()?).lines();
        let heard = Arc::<Mutex<Told>>::default();
        let ear = heard.clone();
        // Ends with the process, whose death closes the pipe.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Ok(told) = serde_json::from_str(&line) {
                    ear.lock().unwrap_or_else(PoisonError::into_inner).merge(&told);
                }
            }
        });
        Ok(Self { protocol: plan.protocol, process, heard, stands: Told::default() })
    }

    fn take(&mut self) -> anyhow::Result<Seen> {
        ensure!(!self.process.has_ended(), "a device process ended by itself");
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = std::mem::take(&mut *heard);
        let newer = if told.t == 0 { &self.stands } else { &told };
        let Told { t, online, under_way, gone, members, .. } = *newer;
        let stands = Told { t, online, under_way, gone, members, ..Told::default() };
        (told.t, told.online, told.under_way) = (t, online, under_way);
        (told.gone, told.members) = (gone, members);
        self.stands = stands;
        Ok(Seen { protocol: self.protocol, told })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_processes_add_up() {
        let parts: Vec<_> = (0..3).map(|number| split(20_000, number, 3)).collect();
        assert_eq!(parts, [6_666, 6_667, 6_667]);
    }

    #[test]
    fn each_process_dials_from_an_address_of_its_own() {
        assert_eq!(source(0).to_string(), "127.77.0.1");
        assert_eq!(source(201).to_string(), "127.78.1.1");
    }
}
