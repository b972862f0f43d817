//! Whether the tool itself, or this machine, stood in the way of the load: then a run says nothing about
//! what was under load.

use super::count::Counts;
use super::devices::{Devices, Seen};
use super::machine::{Machine, usage};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A loop that was away from its wait for this share of a second had no room left.
const BUSY: f64 = 0.95;
/// So does a machine.
const MACHINE_BUSY: f64 = 0.97;
/// Of what is used, the tool may use so much.
const TOOL_SHARE: f64 = 0.5;
/// Of all seconds, and at least so many, may be like that.
const SECONDS_SHARE: f64 = 0.1;
const SECONDS_LEAST: usize = 3;
/// What left later than this no longer follows the scenario.
const LATE: Duration = Duration::from_millis(100);
/// Of the dials, the kernel may turn away so many, and so many anyway: they are tried again.
const TURNED_AWAY_SHARE: f64 = 0.001;
const TURNED_AWAY_LEAST: u64 = 10;

/// Memory in bytes and CPU in cores, by part.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) memory: BTreeMap<String, u64>,
    pub(super) cores: BTreeMap<String, f64>,
}

/// What is watched beside the load.
pub(super) struct Limits {
    first: Machine,
    before: Machine,
    looked: Instant,
    cpu: BTreeMap<&'static str, f64>,
    parts: Parts,
    seconds: usize,
    /// Seconds in which some device process had no room, and in which the machine had none because of the
    /// tool.
    loops_busy: usize,
    machine_busy: usize,
    turn_longest: Duration,
}

impl Limits {
    pub(super) fn begin() -> Self {
        let now = Machine::now();
        Self {
            first: now,
            before: now,
            looked: Instant::now(),
            cpu: BTreeMap::new(),
            parts: Parts::default(),
            seconds: 0,
            loops_busy: 0,
            machine_busy: 0,
            turn_longest: Duration::ZERO,
        }
    }

    /// A look each second.
    pub(super) fn look(&mut self, seen: &[Seen], devices: &Devices, hawser: Option<u32>) {
        let now = Machine::now();
        let time = self.looked.elapsed().as_secs_f64();
        self.looked = Instant::now();
        self.seconds += 1;
        let tool = usage(devices.ids().chain([std::process::id()]));
        let mut parts = Parts::default();
        let of_hawser = hawser.map(|id| ("hawser", usage([id].into_iter())));
        for (part, (bytes, seconds)) in of_hawser.into_iter().chain([("tool", tool)]) {
            parts.memory.insert(part.to_owned(), bytes);
            if let Some(before) = self.cpu.insert(part, seconds) {
                parts.cores.insert(part.to_owned(), (seconds - before).max(0.0) / time);
            }
        }
        let whole = now.whole - self.before.whole;
        let used = now.busy - self.before.busy;
        let by_tool = parts.cores.get("tool").copied().unwrap_or_default() * time;
        let is_full = whole > 0.0 && used / whole > MACHINE_BUSY;
        self.machine_busy += usize::from(is_full && by_tool > used * TOOL_SHARE);
        let most = seen.iter().map(|one| one.told.busy_us).max().unwrap_or_default();
        self.loops_busy += usize::from(most as f64 / 1e6 > BUSY * time);
        for one in seen {
            let turn = Duration::from_micros(one.told.turn_longest_us);
            self.turn_longest = self.turn_longest.max(turn);
        }
        (self.before, self.parts) = (now, parts);
    }

    /// As of the last look.
    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// What stood in the way, in words.
    pub(super) fn found(&self, counts: &Counts) -> Vec<String> {
        let (told, pushed) = (counts.whole(), counts.pushed());
        let mut found = Vec::new();
        let is_many = |seconds: usize| {
            seconds >= SECONDS_LEAST && seconds as f64 > self.seconds as f64 * SECONDS_SHARE
        };
        if is_many(self.loops_busy) {
            found.push(format!(
                "a device process had no room left in {} of {} seconds, its longest turn was {:.0?}: spread \
                 the devices over more processes (--per-process) or run the tool on another machine",
                self.loops_busy, self.seconds, self.turn_longest
            ));
        }
        if is_many(self.machine_busy) {
            found.push(format!(
                "all processors of this machine were at work in {} of {} seconds, and the tool used most of \
                 them: run it on another machine, or with less load",
                self.machine_busy, self.seconds
            ));
        }
        for (who, late) in [("devices", &told.late_sends), ("backends", &pushed.late_sends)] {
            if late.at(0.99) > LATE {
                found.push(format!(
                    "what {who} of this tool send left late: {:.0?} at the 99th of a hundred",
                    late.at(0.99)
                ));
            }
        }
        let turned_away = self.before.turned_away.saturating_sub(self.first.turned_away);
        let may_be = (told.dials as f64 * TURNED_AWAY_SHARE) as u64;
        for (count, most, what) in [
            (
                told.skipped + pushed.skipped,
                0,
                "requests and calls were over a second late, and left out",
            ),
            (told.no_descriptor, 0, "dials found no descriptor: raise the limit, see ulimit -n"),
            (
                told.no_port,
                0,
                "dials found no free port: more source addresses, or net.ipv4.ip_local_port_range",
            ),
            (
                turned_away,
                may_be.max(TURNED_AWAY_LEAST),
                "connections found a full listen queue on this machine: net.core.somaxconn, or fewer logins \
                 a second",
            ),
        ] {
            if count > most {
                found.push(format!("{count} {what}"));
            }
        }
        found
    }

    #[cfg(test)]
    pub(super) fn after(seconds: usize, loops_busy: usize) -> Self {
        Self { seconds, loops_busy, ..Self::begin() }
    }
}
