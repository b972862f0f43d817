use super::*;
use crate::costs::{EMPTY, FILL, Parts, Window, Work};
use clap::Parser as _;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    goal: Goal,
    #[command(flatten)]
    terms: Terms,
}

fn measured() -> Measured {
    let window = |name: &str, cpu, work| Window {
        name: name.to_owned(),
        seconds: 10.0,
        cpu,
        work,
        ..Window::default()
    };
    let beats = Work { heartbeats: 1_000.0, ..Work::default() };
    let logins = Work { logins: 1_000.0, ..Work::default() };
    Measured {
        held: 100_000,
        kernel_bytes: 6_000.0,
        connection_bytes: Parts { access: 1_000.0, redis: 200.0, ..Parts::default() },
        windows: vec![
            window(EMPTY, Parts::default(), Work::default()),
            window(QUIET, Parts { access: 0.01, redis: 0.1, ..Parts::default() }, beats),
            window(FILL, Parts { access: 0.2, control: 0.1, ..Parts::default() }, logins),
        ],
        ..Measured::default()
    }
}

fn tier() -> Tier {
    let step = TierStep {
        devices: 10_000_000,
        bytes: 150.0,
        here_us: 2.0,
        unicast_us: 4.0,
        node_message_us: 20.0,
        claim_us: 40.0,
        claim_redis_us: 25.0,
        ..TierStep::default()
    };
    Tier { steps: vec![step], ..Tier::default() }
}

fn planned(arguments: &str) -> Plan {
    let Arguments { goal, terms } =
        Arguments::parse_from(["size"].into_iter().chain(arguments.split_whitespace()));
    plan(&goal, &terms, &measured(), &tier())
}

fn value<'a>(plan: &'a Plan, what: &str) -> &'a str {
    let row = plan.rows.iter().find(|row| row.what == what).unwrap();
    &row.value
}

#[test]
fn memory_is_the_node_s_half_and_every_router_knows_all() {
    let plan = planned("--requests 0 --unicasts 0 --deliveries 0");
    // 10 million x (1,000 + 3,000) bytes.
    assert_eq!(value(&plan, "memory of access nodes"), "37 GiB");
    assert_eq!(value(&plan, "memory of a router"), "1.4 GiB each");
    // 40 by connections, and a tenth more.
    assert_eq!(plan.access_nodes as u64, 44);
}

#[test]
fn routers_are_as_many_as_the_work_asks_for_and_two_at_least() {
    assert_eq!(planned("--unicasts 0 --deliveries 0 --spare 0").routers as u64, 2);
    // 20 cores for unicasts alone.
    let plan = planned("--unicasts 5000000 --deliveries 0 --spare 0");
    assert_eq!(plan.routers as u64, 3);
}

#[test]
fn redis_is_one_thread_a_shard() {
    // Two scripts a login at 25 us, and what sweeps cost: 0.01 cores for 100,000 devices.
    let plan = planned("--connects 20000");
    assert_eq!(value(&plan, "CPU of Redis"), "2.00 cores");
    assert_eq!(plan.redis_shards as u64, 4);
}

#[test]
fn large_numbers_are_readable() {
    assert_eq!([0.0, 999.0, 1_000.0, 12_345_678.0].map(count), ["0", "999", "1,000", "12,345,678"]);
}
