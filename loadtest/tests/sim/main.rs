//! The whole house in a simulated world: the pure cores of device, node and router, virtual time, faults
//! from a seed, and the judge at the end.
//!
//! `HAWSER_SIM_SEED=<one>` runs one seed with its trace; `HAWSER_SIM_SEEDS=<count>` runs as many as that
//! (from `HAWSER_SIM_FROM`); build with `--release` for a long run.

mod coverage;
mod fault;
mod net;
mod ours;
mod rng;
mod run;

use ours::Ours;
use ours::store::Switches;

/// The everyday seeds begin here.
const BASE: u64 = 1;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.replace('_', "").parse().ok()
}

#[test]
fn thousands_of_seeds_lose_nothing_and_double_nothing() {
    let count = number("HAWSER_SIM_SEEDS").unwrap_or(300);
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

#[test]
fn one_seed() {
    let Some(seed) = number("HAWSER_SIM_SEED") else { return };
    println!("{}", run::explain::<Ours>(seed, Switches::default()));
}
