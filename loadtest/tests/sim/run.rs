//! One seed, from the beginning to the verdict; and many of them.

use crate::coverage::{Coverage, State};
use crate::fault::{self, Fault, Shape, TROUBLE};
use crate::net::{Happening, Net, Part, SEC};
use hawser_loadtest::judge::{self, Event, Options, Verdict};
use std::fmt::Debug;

/// A delivery engine under test: all its parts.
pub(crate) trait Engine: Sized {
    type Message: Clone + Debug;
    type Switches: Copy + Default + Send + Sync;
    fn new(
        net: &mut Net<Self::Message>,
        shape: Shape,
        faults: &[Fault],
        switches: Self::Switches,
    ) -> Self;
    fn handle(&mut self, net: &mut Net<Self::Message>, part: Part, what: Happening<Self::Message>);
    fn fault(&mut self, net: &mut Net<Self::Message>, fault: &Fault);
    /// All troubles are over.
    fn heal(&mut self, net: &mut Net<Self::Message>);
    /// What is not yet as it should be at rest.
    fn unrest(&self, net: &Net<Self::Message>) -> Vec<String>;
    /// Puts the end into the history.
    fn rest(&mut self, net: &mut Net<Self::Message>);
    fn state_of(&self, net: &Net<Self::Message>, device: usize) -> State;
}

/// How one run went.
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) verdict: Verdict,
    /// What had not come to rest at the end.
    pub(crate) unrest: Vec<String>,
    pub(crate) happened: u64,
    pub(crate) hash: u64,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) history: Vec<Event>,
}

impl Outcome {
    pub(crate) fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.unrest.is_empty()
    }

    pub(crate) fn summary(&self) -> String {
        let mut lines = vec![format!("seed {}: {} happenings", self.seed, self.happened)];
        lines.extend(self.unrest.iter().map(|it| format!("  not at rest: {it}")));
        for conviction in self.verdict.convictions.iter().take(5) {
            lines.push(format!("  {:?}: {}", conviction.rule, conviction.what));
        }
        lines.join("\n")
    }
}

/// A run is at rest when it has been so for this long; it must be within the second.
const CALM: u64 = 6 * SEC;
const PATIENCE: u64 = 90 * SEC;
/// A fault waits so long for the state it wants.
const WAIT: u64 = 3 * SEC;
/// No run is shorter.
const HAPPENINGS_MIN: u64 = 500;

pub(crate) fn run<E: Engine>(seed: u64, switches: E::Switches, traced: bool) -> Outcome {
    let mut net: Net<E::Message> = Net::new(seed, traced);
    let shape = fault::shape(&mut net.rng);
    let faults = fault::plan(&mut net.rng, shape);
    net.note(&format!("seed {seed}: {shape:?}"));
    let mut coverage = Coverage::default();
    let mut engine = E::new(&mut net, shape, &faults, switches);
    let go = |engine: &mut E, net: &mut Net<E::Message>, end| {
        while let Some((part, what)) = net.next(end) {
            engine.handle(net, part, what);
        }
    };
    for fault in &faults {
        go(&mut engine, &mut net, fault.at);
        if let Some(wanted) = fault.wanted {
            let end = (net.now + WAIT).min(TROUBLE);
            while engine.state_of(&net, fault.device) != wanted
                && let Some((part, what)) = net.next(end)
            {
                engine.handle(&mut net, part, what);
            }
        }
        coverage.hit(fault.kind, engine.state_of(&net, fault.device));
        net.note(&format!("FAULT {fault:?}"));
        engine.fault(&mut net, fault);
    }
    go(&mut engine, &mut net, TROUBLE);
    net.note("HEAL");
    engine.heal(&mut net);
    let mut calm_since = None;
    let give_up = net.now + PATIENCE;
    loop {
        let step = net.now + SEC;
        go(&mut engine, &mut net, step);
        let unrest = engine.unrest(&net);
        let since = calm_since.get_or_insert(net.now);
        if !unrest.is_empty() {
            calm_since = None;
        } else if net.now >= *since + CALM && net.happened >= HAPPENINGS_MIN {
            break;
        }
        if net.now >= give_up {
            break;
        }
    }
    let unrest = engine.unrest(&net);
    engine.rest(&mut net);
    let options = Options { at_rest: false, evictions_known: true, ..Options::default() };
    let verdict = judge::judge(&net.history, options);
    Outcome {
        seed,
        verdict,
        unrest,
        happened: net.happened,
        hash: net.hash,
        coverage,
        trace: net.trace,
        history: net.history,
    }
}

/// What many runs came to.
#[derive(Default)]
pub(crate) struct Sum {
    pub(crate) seeds: u64,
    pub(crate) happened: u64,
    pub(crate) fewest: u64,
    pub(crate) stored: usize,
    pub(crate) handed: usize,
    pub(crate) redelivered: usize,
    pub(crate) lost_as_declared: usize,
    pub(crate) removed_by_policy: usize,
    pub(crate) coverage: Coverage,
    pub(crate) failed: Vec<u64>,
}

impl Sum {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.fewest =
            if self.seeds == 0 { outcome.happened } else { self.fewest.min(outcome.happened) };
        self.seeds += 1;
        self.happened += outcome.happened;
        self.stored += outcome.verdict.stored;
        self.handed += outcome.verdict.handed;
        self.redelivered += outcome.verdict.redelivered;
        self.lost_as_declared += outcome.verdict.lost_as_declared;
        self.removed_by_policy += outcome.verdict.removed_by_policy;
        self.coverage.add(&outcome.coverage);
        if !outcome.is_clean() {
            self.failed.push(outcome.seed);
        }
    }

    pub(crate) fn join(&mut self, other: Self) {
        if other.seeds > 0 {
            self.fewest =
                if self.seeds == 0 { other.fewest } else { self.fewest.min(other.fewest) };
        }
        self.seeds += other.seeds;
        self.happened += other.happened;
        self.stored += other.stored;
        self.handed += other.handed;
        self.redelivered += other.redelivered;
        self.lost_as_declared += other.lost_as_declared;
        self.removed_by_policy += other.removed_by_policy;
        self.coverage.add(&other.coverage);
        self.failed.extend(other.failed);
        self.failed.sort_unstable();
    }
}

/// Runs these seeds on all cores. Stops early once so many have failed.
pub(crate) fn many<E: Engine>(
    first: u64,
    count: u64,
    switches: E::Switches,
    failures_max: usize,
) -> Sum {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        let worker = |core: u64| {
            let mut sum = Sum::default();
            for seed in (first + core..first + count).step_by(cores as usize) {
                sum.add(&run::<E>(seed, switches, false));
                if sum.failed.len() >= failures_max {
                    break;
                }
            }
            sum
        };
        let workers: Vec<_> = (0..cores).map(|core| scope.spawn(move || worker(core))).collect();
        for worker in workers {
            sum.join(worker.join().expect("a run does not panic"));
        }
    });
    sum
}

/// Runs a failed seed again with its trace, keeps that, and says how to do the same.
pub(crate) fn explain<E: Engine>(seed: u64, switches: E::Switches) -> String {
    let outcome = run::<E>(seed, switches, true);
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/sim");
    let path = format!("{folder}/seed-{seed}.txt");
    let mut text = format!("{}\n\n{}\n", outcome.summary(), outcome.verdict);
    for line in outcome.trace.iter().flatten() {
        text.push_str(line);
        text.push('\n');
    }
    let kept = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
    let kept = kept.map_or_else(|error| format!("trace not kept: {error}"), |()| path);
    format!(
        "{}\n  trace: {kept}\n  again: HAWSER_SIM_SEED={seed} cargo test -p hawser-loadtest --test sim one_seed -- --nocapture",
        outcome.summary()
    )
}
