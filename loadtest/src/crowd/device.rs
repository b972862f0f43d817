//! What a crowd knows of one device.

use super::link::Link;
use super::passes::Pass;
use super::plan::Behaviour;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use std::time::{Duration, Instant};

const BACKOFF_BASE: Duration = Duration::from_millis(500);
/// As released: thousands that come more often than this keep down whoever turned them away.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Tries with one pass before control is asked again: it may know better access points.
const TRIES_MAX: u8 = 3;

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has no pass yet.
    New,
    /// It will dial at its time.
    Waiting,
    Dialing,
    LoggingIn,
    Online,
    /// Its link has just ended.
    Lost,
    /// For good.
    Gone,
}

/// One device; about 150 bytes, and 100 more of those that keep a pass.
pub(super) struct Device {
    pub(super) phase: Phase,
    pub(super) behaviour: Behaviour,
    /// It has just come online.
    pub(super) is_new: bool,
    /// Its next login shows a ticket.
    pub(super) has_ticket: bool,
    /// It ended its link because it wanted to.
    pub(super) at_will: bool,
    failures: u8,
    /// A bit for each of its groups that it is in.
    pub(super) joined: u16,
    /// Number of its businesses on the wire.
    pub(super) business: u32,
    pub(super) attempt: u32,
    pub(super) window_ms: u32,
    pub(super) retry_after_ms: u32,
    pub(super) request: u32,
    /// Of the phase.
    pub(super) since: Instant,
    /// When its link was lost.
    pub(super) lost: Option<Instant>,
    pub(super) link: Option<Box<Link>>,
    pub(super) pass: Option<Box<Pass>>,
    pub(super) term: u64,
    pub(super) seq: u64,
}

impl Device {
    pub(super) fn new(behaviour: Behaviour) -> Self {
        Self {
            phase: Phase::New,
            behaviour,
            is_new: false,
            has_ticket: false,
            at_will: false,
            failures: 0,
            joined: 0,
            business: 0,
            attempt: 0,
            window_ms: 0,
            retry_after_ms: 0,
            request: 0,
            since: Instant::now(),
            lost: None,
            link: None,
            pass: None,
            term: 0,
            seq: 0,
        }
    }

    /// Nothing to log in with, or nowhere.
    pub(super) fn needs_pass(&self) -> bool {
        self.pass.is_none()
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    pub(super) fn is_online_now(&mut self) {
        self.enter(Phase::Online);
        self.is_new = true;
        self.failures = 0;
    }

    /// Until the next try. The first after a loss is spread over the window, later ones back off; what a
    /// node said comes first.
    pub(super) fn next_delay(&mut self, dice: &mut SmallRng) -> Duration {
        let at_will = std::mem::take(&mut self.at_will);
        let told = Duration::from_millis(u64::from(std::mem::take(&mut self.retry_after_ms)));
        let failures = self.failures;
        self.failures = failures.saturating_add(1);
        if self.failures.is_multiple_of(TRIES_MAX) {
            self.pass = None;
        }
        let delay = if at_will && failures == 0 {
            Duration::ZERO
        } else if failures == 0 {
            Duration::from_millis(u64::from(self.window_ms)).mul_f64(dice.random())
        } else {
            let grown = BACKOFF_BASE * 2u32.saturating_pow(u32::from(failures - 1));
            grown.min(BACKOFF_MAX).mul_f64(0.5 + 0.5 * dice.random::<f64>())
        };
        delay.max(told.mul_f64(1.0 + 0.5 * dice.random::<f64>()))
    }
}
