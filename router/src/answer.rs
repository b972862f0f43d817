//! Where reports of access nodes meet the calls that wait for them.
//!
//! An [`Outcomes`] gathers one outcome per target, a [`Tally`] counts per node for groups and
//! broadcasts. Each knows when it is complete; whoever waits decides how long.

use hawser_proto::rpc::node::DeliveryReport;
use hawser_proto::rpc::push::{NodeResult, Outcome};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// Who is told of a report, or that none will come.
#[derive(Clone)]
pub(crate) enum Waiter {
    /// A delivery to one target of a call.
    Target { call: Arc<Outcomes>, at: u32 },
    /// A delivery of one body to several targets of a call.
    Targets { call: Arc<Outcomes>, at: Arc<[u32]> },
    /// A stored push whose caller waits until the device has acknowledged it; it is stored in any case.
    Stored { call: Arc<Outcomes> },
    /// A group or broadcast delivery to one node. `progress`: it reports more than once.
    Node { tally: Arc<Tally>, at: usize, progress: bool },
}

impl Waiter {
    /// Whether it takes reports before the last one.
    pub(crate) fn takes_progress(&self) -> bool {
        matches!(self, Self::Node { progress: true, .. })
    }

    /// The node's word.
    pub(crate) fn reported(self, report: &DeliveryReport) {
        match self {
            Self::Target { call, at } => call.settle(&[at], &report.outcomes),
            Self::Targets { call, at } => call.settle(&at, &report.outcomes),
            Self::Stored { call } => {
                call.acknowledged(report.outcomes.first() == Some(&(Outcome::Acked as u32)));
            }
            Self::Node { tally, at, progress } => {
                tally.reported(at, report, !progress || report.done);
            }
        }
    }

    /// No report will come: the stream has ended.
    pub(crate) fn lost(self) {
        match self {
            Self::Target { call, at } => call.settle(&[at], &[]),
            Self::Targets { call, at } => call.settle(&at, &[]),
            Self::Stored { call } => call.acknowledged(false),
            Self::Node { tally, at, .. } => tally.lost(at),
        }
    }
}

/// One outcome per target of a call, in the order of the targets.
pub(crate) struct Outcomes {
    state: Mutex<OutcomesState>,
    complete: Notify,
}

struct OutcomesState {
    outcomes: Vec<i32>,
    missing: usize,
}

impl Outcomes {
    /// Those known before anything was sent; `missing` of them are still `unknown`.
    pub(crate) fn new(outcomes: Vec<i32>, missing: usize) -> Arc<Self> {
        let state = Mutex::new(OutcomesState { outcomes, missing });
        Arc::new(Self { state, complete: Notify::new() })
    }

    /// Takes what the node says of these targets. What it does not say stays `unknown`.
    pub(crate) fn settle(&self, targets: &[u32], said: &[u32]) {
        let mut state = self.state.lock();
        for (index, &target) in targets.iter().enumerate() {
            if let Some(place) = state.outcomes.get_mut(target as usize) {
                *place = said.get(index).map_or(UNKNOWN, |&outcome| known(outcome));
            }
        }
        state.missing = state.missing.saturating_sub(targets.len());
        if state.missing == 0 {
            self.complete.notify_one();
        }
    }

    /// A stored push that is waited for.
    pub(crate) fn stored() -> Arc<Self> {
        Self::new(vec![Outcome::Stored as i32], 1)
    }

    /// The device has acknowledged what was stored, or will not say so any more.
    fn acknowledged(&self, acked: bool) {
        let mut state = self.state.lock();
        if acked && let Some(place) = state.outcomes.first_mut() {
            *place = Outcome::Acked as i32;
        }
        state.missing = 0;
        self.complete.notify_one();
    }

    /// The outcomes, as soon as all are there, and at the deadline as they are. True: all came.
    pub(crate) async fn wait(&self, deadline: Instant) -> (Vec<i32>, bool) {
        if !self.is_complete() {
            // The last one to settle leaves a permit, so nothing is missed in between.
            let _ = tokio::time::timeout_at(deadline.into(), self.complete.notified()).await;
        }
        let mut state = self.state.lock();
        (std::mem::take(&mut state.outcomes), state.missing == 0)
    }

    fn is_complete(&self) -> bool {
        self.state.lock().missing == 0
    }
}

const UNKNOWN: i32 = Outcome::Unknown as i32;

/// What an access node may say of a target; anything else is `unknown`.
fn known(outcome: u32) -> i32 {
    match Outcome::try_from(outcome.cast_signed()) {
        Ok(
            said @ (Outcome::Written
            | Outcome::Offline
            | Outcome::Stale
            | Outcome::Overflow
            | Outcome::Denied),
        ) => said as i32,
        _ => UNKNOWN,
    }
}

/// Counts of a group or broadcast delivery, per node.
pub(crate) struct Tally {
    state: Mutex<Vec<Line>>,
    changed: Notify,
}

#[derive(Clone)]
struct Line {
    result: NodeResult,
    settled: bool,
    heard: Instant,
}

impl Tally {
    /// Nodes that are asked, by name.
    pub(crate) fn new(nodes: impl IntoIterator<Item = String>, now: Instant) -> Arc<Self> {
        let line = |node| {
            let result = NodeResult { node, ..Default::default() };
            Line { result, settled: false, heard: now }
        };
        let state = Mutex::new(nodes.into_iter().map(line).collect());
        Arc::new(Self { state, changed: Notify::new() })
    }

    fn reported(&self, at: usize, report: &DeliveryReport, last: bool) {
        if let Some(line) = self.state.lock().get_mut(at) {
            line.result.members = report.members;
            line.result.written = report.written;
            line.result.queued = report.queued;
            line.result.dropped = report.dropped;
            line.settled = last;
            line.heard = Instant::now();
        }
        self.changed.notify_one();
    }

    /// No word will come from this node.
    pub(crate) fn lost(&self, at: usize) {
        if let Some(line) = self.state.lock().get_mut(at) {
            line.settled = true;
            line.result.unknown = true;
        }
        self.changed.notify_one();
    }

    /// Gives up on nodes that were not heard since `since`.
    pub(crate) fn give_up(&self, since: Instant) {
        for line in self.state.lock().iter_mut() {
            if !line.settled && line.heard <= since {
                (line.settled, line.result.unknown) = (true, true);
            }
        }
    }

    /// Resolves when all nodes have spoken their last word. Cancel-safe.
    pub(crate) async fn complete(&self) {
        while !self.is_complete() {
            self.changed.notified().await;
        }
    }

    /// Whether all nodes have spoken their last word.
    pub(crate) fn is_complete(&self) -> bool {
        self.state.lock().iter().all(|line| line.settled)
    }

    /// The counts as they are now.
    pub(crate) fn results(&self) -> Vec<NodeResult> {
        self.state.lock().iter().map(|line| line.result.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn outcomes_come_in_the_order_of_the_targets() {
        let (offline, written, stale) = (4, 1, 5);
        let call = Outcomes::new(vec![UNKNOWN, offline, UNKNOWN, UNKNOWN], 3);
        call.settle(&[3, 0], &[written as u32, stale as u32]);
        assert!(!call.is_complete());
        call.settle(&[2], &[77]);
        assert_eq!(call.wait(soon()).await, (vec![stale, offline, UNKNOWN, written], true));
    }

    #[tokio::test]
    async fn what_was_not_said_in_time_is_unknown() {
        let call = Outcomes::new(vec![UNKNOWN, UNKNOWN], 2);
        call.settle(&[0], &[1]);
        assert_eq!(call.wait(Instant::now()).await, (vec![1, UNKNOWN], false));
    }

    #[test]
    fn a_node_cannot_say_what_only_the_router_knows() {
        for outcome in [0, 2, 3, 6, 9, 10, u32::MAX] {
            assert_eq!(known(outcome), UNKNOWN, "{outcome}");
        }
    }

    #[tokio::test]
    async fn a_tally_is_complete_when_each_node_is_done_or_given_up() {
        let start = Instant::now();
        let tally = Tally::new(["a".to_owned(), "b".to_owned()], start);
        let report = DeliveryReport { members: 5, written: 5, ..Default::default() };
        let at = |at, progress| Waiter::Node { tally: tally.clone(), at, progress };
        at(0, false).reported(&report);
        at(1, true).reported(&report);
        assert!(!tally.is_complete(), "that was progress");
        tally.give_up(Instant::now());
        tally.complete().await;
        let unknown: Vec<bool> = tally.results().iter().map(|node| node.unknown).collect();
        assert_eq!(unknown, [false, true]);
    }
}
