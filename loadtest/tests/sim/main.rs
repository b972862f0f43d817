//! The whole house in a simulated world: the pure cores of device, node and router, virtual time, faults
//! from a seed, and the judge at the end.
//!
//! `HAWSER_SIM_SEED=<one>` runs one seed with its trace; `HAWSER_SIM_SEEDS=<count>` runs as many as that
//! (from `HAWSER_SIM_FROM`); build with `--release` for a long run.

#![allow(
    clippy::similar_names,
    clippy::needless_pass_by_value,
    clippy::wrong_self_convention,
    reason = "a net and a new entry are told apart; messages are handed over; `from_node` is who spoke"
)]

mod coverage;
mod fault;
mod locking;
mod net;
mod ours;
mod rng;
mod run;

use locking::Locking;
use ours::Ours;
use ours::store::Switches;

/// The everyday seeds begin here.
const BASE: u64 = 1;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.replace('_', "").parse().ok()
}

#[test]
fn thousands_of_seeds_lose_nothing_and_double_nothing() {
    let count = number("HAWSER_SIM_SEEDS").unwrap_or(3_000);
    let from = number("HAWSER_SIM_FROM").unwrap_or(BASE);
    let begun = std::time::Instant::now();
    let sum = run::many::<Ours>(from, count, Switches::default(), 20);
    println!("{}", sum.coverage);
    println!(
        "{} seeds from {from} in {:.1?}: {} happenings (fewest {}), {} stored, {} handed over, {} again \
         after a crash, {} lost as declared, {} removed by policy",
        sum.seeds,
        begun.elapsed(),
        sum.happened,
        sum.fewest,
        sum.stored,
        sum.handed,
        sum.redelivered,
        sum.lost_as_declared,
        sum.removed_by_policy
    );
    let told: Vec<String> = sum
        .failed
        .iter()
        .take(5)
        .map(|seed| run::explain::<Ours>(*seed, Switches::default()))
        .collect();
    assert!(
        sum.failed.is_empty(),
        "{} seeds failed: {:?}\n{}",
        sum.failed.len(),
        sum.failed,
        told.join("\n")
    );
}

/// Seeds until the first that convicts; `None` within the budget.
fn convicted_after<E: run::Engine>(switches: E::Switches) -> Option<(u64, run::Outcome)> {
    let mut outcomes = (BASE..=300).map(|seed| (seed, run::run::<E>(seed, switches, false)));
    outcomes.find(|(_, outcome)| !outcome.verdict.is_clean())
}

#[test]
fn lock_read_push_unlock_look_again_is_convicted() {
    let (seeds, outcome) = convicted_after::<Locking>(()).expect("a scheme that strands and loses");
    println!("convicted after {seeds} seeds\n{}", outcome.summary());
    let sum = run::many::<Locking>(BASE, 300, (), usize::MAX);
    println!("{} of {} seeds convict it", sum.failed.len(), sum.seeds);
    assert!(sum.failed.len() > 30, "found in {} of 300 seeds alone", sum.failed.len());
}

#[test]
fn a_build_that_compares_no_epochs_is_convicted() {
    let switches = Switches { no_fence: true, ..Switches::default() };
    let (seeds, outcome) = convicted_after::<Ours>(switches).expect("the fence is needed");
    println!("convicted after {seeds} seeds\n{}", outcome.summary());
}

#[test]
fn a_build_with_a_plain_counter_is_convicted() {
    let switches = Switches { plain_counter: true, ..Switches::default() };
    let (seeds, outcome) = convicted_after::<Ours>(switches).expect("terms are needed");
    println!("convicted after {seeds} seeds\n{}", outcome.summary());
}

#[test]
fn a_build_that_confirms_before_it_tells_is_convicted() {
    let switches = Switches { confirms_first: true, ..Switches::default() };
    let (seeds, outcome) = convicted_after::<Ours>(switches).expect("the order is needed");
    println!("convicted after {seeds} seeds\n{}", outcome.summary());
}

#[test]
fn a_build_in_which_every_router_tells_is_convicted() {
    let switches = Switches { no_duty: true, ..Switches::default() };
    let (seeds, outcome) = convicted_after::<Ours>(switches).expect("the duty is needed");
    println!("convicted after {seeds} seeds\n{}", outcome.summary());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in BASE..=20 {
        let one = run::run::<Ours>(seed, Switches::default(), false);
        let two = run::run::<Ours>(seed, Switches::default(), false);
        assert_eq!((one.hash, one.happened), (two.hash, two.happened), "seed {seed}");
        assert_eq!(one.history, two.history, "seed {seed}");
        assert!(one.happened >= 500, "seed {seed}: {} happenings", one.happened);
    }
}

#[test]
fn one_seed() {
    let Some(seed) = number("HAWSER_SIM_SEED") else { return };
    println!("{}", run::explain::<Ours>(seed, Switches::default()));
}
