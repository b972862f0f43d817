//! What a run came to, as tables.

use super::moment::Moment;
use crate::crowd::Told;
use comfy_table::Table;
use hawser_loadtest::costs::{Costs, Measured, Parts, Window};

const MEBIBYTE: f64 = 1_048_576.0;

/// Delays by name: of logins from the first on, of the rest while everything was at work.
pub(super) fn delays(whole: &Told, told: &Told) -> Vec<(String, String)> {
    [
        ("login", &whole.login_delay),
        ("unicast and stored push", &told.push_delay),
        ("multicast", &told.group_delay),
        ("request", &told.request_delay),
    ]
    .map(|(name, delays)| (name.to_owned(), delays.to_string()))
    .into()
}

/// Prints memory, CPU by window, and what each kind of work costs.
pub(super) fn print(measured: &Measured, empty: &Moment, full: &Moment) {
    memory(measured, empty, full);
    cpu(&measured.windows);
    work(measured);
}

fn memory(measured: &Measured, empty: &Moment, full: &Moment) {
    let held = measured.held.max(1) as f64;
    let mut table = Table::new();
    table.set_header(["memory", "processes", "bytes a connection", "empty", "full"]);
    let mut sum = 0.0;
    let mebibytes = |bytes: f64| format!("{:.0} MiB", bytes / MEBIBYTE);
    let mut row = |name: &str, processes: usize, before: f64, after: f64| {
        let each = (after - before) / held;
        sum += each;
        let processes = if processes > 0 { processes.to_string() } else { "-".to_owned() };
        table.add_row([
            name.to_owned(),
            processes,
            format!("{each:.0}"),
            mebibytes(before),
            mebibytes(after),
        ]);
    };
    for (name, part) in [
        ("access nodes", (|it| it.access) as fn(&Moment) -> super::moment::Part),
        ("routers", |it| it.routers),
        ("control", |it| it.control),
        ("redis (its data)", |it| it.redis),
        ("device processes", |it| it.crowds),
    ] {
        row(name, part(full).processes, part(empty).bytes, part(full).bytes);
    }
    row("kernel, objects (both ends)", 0, empty.kernel.slab, full.kernel.slab);
    row("kernel, TCP buffers", 0, empty.kernel.buffers, full.kernel.buffers);
    table.add_row(["sum", "-", &format!("{sum:.0}"), "", ""]);
    println!("{table}");
    println!(
        "kernel objects and buffers count both ends of each connection, as both are on this machine: a node \
         alone has about half of them"
    );
    let devices = measured.held.max(1) as usize;
    println!(
        "kernel objects by kind, bytes a connection: {}",
        full.kernel.by_kind(&empty.kernel, devices)
    );
    let taken = (empty.kernel.available - full.kernel.available) / held;
    println!(
        "memory that was available: {} before, {} after: {taken:.0} bytes a connection, everything counted; \
         what is left would hold {:.0} more",
        mebibytes(empty.kernel.available),
        mebibytes(full.kernel.available),
        full.kernel.available / taken.max(1.0)
    );
}

/// Prints who used how much of the processors, and when.
pub(super) fn cpu(windows: &[Window]) {
    let mut table = Table::new();
    table.set_header([
        "cores",
        "s",
        "access",
        "routers",
        "control",
        "redis",
        "devices",
        "backends",
        "busy",
        "work a second",
    ]);
    for window in windows {
        let cores = window.cpu * (1.0 / window.seconds.max(1e-9));
        let rate = |count: f64| count / window.seconds.max(1e-9);
        let work = &window.work;
        let done: Vec<String> = [
            ("logins", work.logins),
            ("heartbeats", work.heartbeats),
            ("requests", work.requests),
            ("unicasts", work.unicasts),
            ("stored", work.stored),
            ("group deliveries", work.group_deliveries),
        ]
        .iter()
        .filter(|(_, count)| *count > 0.0)
        .map(|(name, count)| format!("{:.0} {name}", rate(*count)))
        .collect();
        let mut row = vec![window.name.clone(), format!("{:.0}", window.seconds)];
        row.extend(shown(&cores, |value| format!("{value:.3}")));
        row.push(format!("{:.0} %", window.busy * 100.0));
        row.push(done.join(", "));
        table.add_row(row);
    }
    println!("{table}");
}

fn work(measured: &Measured) {
    let costs = Costs::of(measured);
    let mut table = Table::new();
    table.set_header([
        "CPU, microseconds",
        "access",
        "routers",
        "control",
        "redis",
        "devices",
        "backends",
    ]);
    for (name, parts) in [
        ("a second of the idle cluster", costs.idle),
        ("a login", costs.login),
        ("a heartbeat", costs.heartbeat),
        ("a request", costs.request),
        ("a unicast, in batches", costs.unicast),
        ("a group delivery", costs.group_delivery),
        ("a stored push", costs.stored),
    ] {
        if parts.sum() > 0.0 {
            let mut row = vec![name.to_owned()];
            row.extend(shown(&(parts * 1e6), |value| format!("{value:.1}")));
            table.add_row(row);
        }
    }
    println!("{table}");
}

fn shown(parts: &Parts, form: impl Fn(f64) -> String) -> [String; 6] {
    let Parts { access, routers, control, redis, devices, backends } = *parts;
    [access, routers, control, redis, devices, backends].map(form)
}
