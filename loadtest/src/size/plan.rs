//! The arithmetic: machines, memory, bandwidth and money for a goal.

#[cfg(test)]
mod tests;

use super::{Goal, Terms, Tier, TierStep, Wire};
use crate::costs::{Costs, Measured, QUIET};
use std::fmt::Write as _;

const GIB: f64 = 1_073_741_824.0;
const HOURS_OF_MONTH: f64 = 730.0;
/// Two of each, so that one may go.
const MACHINES_MIN: f64 = 2.0;
/// A tier this large is more than one router has to hear of; the search for its size ends there.
const ROUTERS_MAX: u64 = 10_000;

/// One line: what, how it comes about, and what it comes to.
#[derive(Clone, Debug)]
pub struct Row {
    /// What.
    pub what: &'static str,
    /// The arithmetic, with its numbers.
    pub from: String,
    /// What it comes to.
    pub value: String,
}

/// What it takes.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Machines of each kind, spare ones included.
    pub access_nodes: f64,
    /// See there.
    pub routers: f64,
    /// Redis primaries; each has a replica beside it.
    pub redis_shards: f64,
    /// In money, an hour.
    pub hourly: f64,
    /// How it comes about.
    pub rows: Vec<Row>,
}

impl Plan {
    fn row(&mut self, what: &'static str, from: String, value: String) {
        self.rows.push(Row { what, from, value });
    }

    /// As a table of Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| what | how | comes to |\n|---|---|---|\n");
        for Row { what, from, value } in &self.rows {
            // A string takes all.
            let _ = writeln!(text, "| {what} | {from} | {value} |");
        }
        text
    }
}

/// Micros of CPU, times a rate a second, in cores.
struct Sum {
    cores: f64,
    terms: Vec<String>,
}

impl Sum {
    fn new() -> Self {
        Self { cores: 0.0, terms: Vec::new() }
    }

    fn add(&mut self, what: &str, per_second: f64, micros: f64) {
        let cores = per_second * micros / 1e6;
        if cores > 0.0 {
            self.cores += cores;
            let rate = count(per_second);
            self.terms.push(format!("{what} {rate}/s × {micros:.2} µs = {cores:.1}"));
        }
    }

    fn from(&self) -> String {
        self.terms.join("; ")
    }
}

/// What the goal takes, by what was measured.
pub fn plan(goal: &Goal, terms: &Terms, measured: &Measured, tier: &Tier) -> Plan {
    let costs = Costs::of(measured);
    let step = tier.steps.last().copied().unwrap_or_default();
    let mut plan = Plan::default();
    let egress = devices_side(&mut plan, goal);
    access(&mut plan, goal, terms, measured, &costs);
    routers(&mut plan, goal, terms, &costs, &step);
    redis(&mut plan, goal, terms, measured, &costs, &step);
    control(&mut plan, goal, &costs);
    money(&mut plan, terms, egress);
    plan
}

/// Bandwidth between devices and nodes. Returns the bytes a second that go out.
fn devices_side(plan: &mut Plan, goal: &Goal) -> f64 {
    let beats = goal.devices / goal.heartbeat.max(1.0);
    let (mut out, mut into) = (0.0, 0.0);
    let mut from = Vec::new();
    for (what, rate, wire) in [
        ("heartbeats", beats, Wire::heartbeat()),
        ("requests", goal.requests, Wire::request(goal.payload)),
        ("unicasts", goal.unicasts + goal.stored, Wire::push(goal.payload)),
        ("group deliveries", goal.deliveries, Wire::group_push(goal.payload)),
    ] {
        if rate > 0.0 {
            out += rate * wire.out;
            into += rate * wire.into;
            from.push(format!(
                "{what} {}/s × {:.0} out, {:.0} in",
                count(rate),
                wire.out,
                wire.into
            ));
        }
    }
    let gigabits = |bytes: f64| bytes * 8.0 / 1e9;
    plan.row(
        "bandwidth to and from devices",
        from.join("; ") + " bytes, without TLS",
        format!("{:.1} Gbit/s out, {:.1} in", gigabits(out), gigabits(into)),
    );
    out
}

fn access(plan: &mut Plan, goal: &Goal, terms: &Terms, measured: &Measured, costs: &Costs) {
    let mut cpu = Sum::new();
    let beats = goal.devices / goal.heartbeat.max(1.0);
    for (what, rate, parts) in [
        ("heartbeats", beats, costs.heartbeat),
        ("logins", goal.connects, costs.login),
        ("requests", goal.requests, costs.request),
        ("unicasts", goal.unicasts, costs.unicast),
        ("group deliveries", goal.deliveries, costs.group_delivery),
        ("stored pushes", goal.stored, costs.stored),
    ] {
        cpu.add(what, rate, parts.access * 1e6);
    }
    // The kernel's figure is for both ends, which were on one machine.
    let kernel = measured.kernel_bytes / 2.0;
    let each = measured.connection_bytes.access + kernel;
    let memory = goal.devices * each;
    plan.row("CPU of access nodes", cpu.from(), format!("{:.0} cores", cpu.cores));
    plan.row(
        "memory of access nodes",
        format!(
            "{} × ({:.0} bytes in the process + {kernel:.0} in the kernel, half of what both ends took)",
            count(goal.devices),
            measured.connection_bytes.access
        ),
        format!("{:.0} GiB", memory / GIB),
    );
    let by_cpu = cpu.cores / (terms.cores * terms.busy);
    let by_memory = memory / (terms.gib * GIB * terms.full);
    let by_connections = goal.devices / terms.node_connections;
    let needed = by_cpu.max(by_memory).max(by_connections).max(MACHINES_MIN);
    plan.access_nodes = (needed * (1.0 + terms.spare)).ceil();
    plan.row(
        "access nodes",
        format!(
            "the most of {by_cpu:.1} by CPU ({:.0} cores, {:.0} % busy), {by_memory:.1} by memory ({:.0} GiB, \
             {:.0} % full) and {by_connections:.1} by connections ({} each), and {:.0} % more",
            terms.cores,
            terms.busy * 100.0,
            terms.gib,
            terms.full * 100.0,
            count(terms.node_connections),
            terms.spare * 100.0
        ),
        format!("{:.0} of {:.0} cores, {:.0} GiB", plan.access_nodes, terms.cores, terms.gib),
    );
}

/// What all routers do together, when there are so many: each login is told to all but one.
fn router_cpu(plan: &Plan, goal: &Goal, costs: &Costs, step: &TierStep, routers: f64) -> Sum {
    let mut cpu = Sum::new();
    // Of the two measurements the dearer: one at a time, or by the dozen.
    let claim = step.claim_us.max(costs.login.routers * 1e6);
    cpu.add("claims", goal.connects, claim);
    cpu.add("ends, taken as dear as claims,", goal.connects, claim);
    cpu.add(
        "logins and ends told to the others",
        2.0 * goal.connects * (routers - 1.0),
        step.here_us,
    );
    cpu.add("unicasts", goal.unicasts, step.unicast_us);
    let calls = goal.deliveries / goal.members.max(1.0);
    let reached = plan.access_nodes.min(goal.members);
    cpu.add("multicasts to nodes", calls * reached, step.node_message_us);
    cpu.add("stored pushes", goal.stored, costs.stored.routers * 1e6);
    cpu
}

fn routers(plan: &mut Plan, goal: &Goal, terms: &Terms, costs: &Costs, step: &TierStep) {
    let fits = |routers: u64| {
        let cpu = router_cpu(plan, goal, costs, step, routers as f64);
        cpu.cores / routers as f64 <= terms.cores * terms.busy
    };
    let needed = (MACHINES_MIN as u64..ROUTERS_MAX).find(|routers| fits(*routers));
    let needed = needed.unwrap_or(ROUTERS_MAX) as f64;
    plan.routers = (needed * (1.0 + terms.spare)).ceil();
    let cpu = router_cpu(plan, goal, costs, step, plan.routers);
    plan.row("CPU of routers", cpu.from(), format!("{:.1} cores", cpu.cores));
    plan.row(
        "memory of a router",
        format!("each knows every device: {} × {:.0} bytes", count(goal.devices), step.bytes),
        format!("{:.1} GiB each", goal.devices * step.bytes / GIB),
    );
    plan.row(
        "routers",
        format!(
            "as many as leave each below {:.0} cores ({:.0} % of {:.0}), two at least, and {:.0} % more",
            terms.cores * terms.busy,
            terms.busy * 100.0,
            terms.cores,
            terms.spare * 100.0
        ),
        format!("{:.0}, {:.1} cores each", plan.routers, cpu.cores / plan.routers),
    );
    plan.row(
        "streams",
        format!("two from each of {:.0} nodes to each router", plan.access_nodes),
        format!(
            "{:.0} in all, {:.0} at a router",
            2.0 * plan.access_nodes * plan.routers,
            2.0 * plan.access_nodes
        ),
    );
}

fn redis(
    plan: &mut Plan,
    goal: &Goal,
    terms: &Terms,
    measured: &Measured,
    costs: &Costs,
    step: &TierStep,
) {
    let mut cpu = Sum::new();
    let claim = step.claim_redis_us.max(costs.login.redis * 1e6);
    cpu.add("claims", goal.connects, claim);
    cpu.add("ends, taken as dear as claims,", goal.connects, claim);
    cpu.add("stored pushes", goal.stored, costs.stored.redis * 1e6);
    // What routers look through while nothing happens, by the devices that were held meanwhile.
    if let Some(quiet) = measured.window(QUIET) {
        let cores = quiet.cpu.redis / quiet.seconds.max(1e-9);
        let micros = cores * 1e6 / measured.held.max(1) as f64;
        cpu.add("sweeps of devices", goal.devices, micros);
    }
    let memory = goal.devices * measured.connection_bytes.redis;
    let by_cpu = cpu.cores / terms.busy;
    let by_memory = memory / (terms.gib * GIB * terms.full);
    plan.redis_shards = by_cpu.max(by_memory).max(1.0).ceil();
    plan.row("CPU of Redis", cpu.from(), format!("{:.2} cores", cpu.cores));
    plan.row(
        "memory of Redis",
        format!(
            "{} × {:.0} bytes, without stored pushes",
            count(goal.devices),
            measured.connection_bytes.redis
        ),
        format!("{:.1} GiB", memory / GIB),
    );
    plan.row(
        "Redis shards",
        format!(
            "one thread each, {:.0} % busy: {by_cpu:.1} by CPU, {by_memory:.1} by memory; each with a replica",
            terms.busy * 100.0
        ),
        format!("{:.0} primaries", plan.redis_shards),
    );
}

fn control(plan: &mut Plan, goal: &Goal, costs: &Costs) {
    let mut cpu = Sum::new();
    cpu.add("questions for a token", goal.connects, costs.login.control * 1e6);
    plan.row(
        "CPU of control",
        cpu.from() + ": a device that comes back with a ticket does not ask",
        format!("{:.1} cores at the most", cpu.cores),
    );
}

fn money(plan: &mut Plan, terms: &Terms, egress: f64) {
    let machine = terms.cores * terms.core_hour + terms.gib * terms.gib_hour;
    let machines = plan.access_nodes + plan.routers + 1.0;
    // A primary and its replica: two cores each, one of them for saving.
    let redis = plan.redis_shards * 2.0 * (2.0 * terms.core_hour + terms.gib * terms.gib_hour);
    let traffic = egress * 3_600.0 / GIB * terms.gib_out;
    plan.hourly = machines * machine + redis;
    plan.row(
        "machines, money an hour",
        format!(
            "{machines:.0} machines (control is one) × ({:.0} × {} + {:.0} × {}) + {:.0} Redis × (2 × {} + {:.0} × {})",
            terms.cores,
            terms.core_hour,
            terms.gib,
            terms.gib_hour,
            plan.redis_shards * 2.0,
            terms.core_hour,
            terms.gib,
            terms.gib_hour
        ),
        format!("{:.0}, {:.0} a month", plan.hourly, plan.hourly * HOURS_OF_MONTH),
    );
    plan.row(
        "traffic to devices, money an hour",
        format!("{:.0} GiB × {}", egress * 3_600.0 / GIB, terms.gib_out),
        format!("{traffic:.0}, {:.0} a month at this rate", traffic * HOURS_OF_MONTH),
    );
    plan.hourly += traffic;
}

/// A number as people write it.
fn count(value: f64) -> String {
    let whole = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
