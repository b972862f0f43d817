//! When to come back. Pure: the caller brings the failures, this brings the delays.
//!
//! The first delay after a session is spread over the reconnect window that the node, or else control,
//! gave, so that the devices of a lost node do not return in one instant; later ones grow, and each is
//! jittered. Source: WIRE.md, "Coming back".

use std::time::Duration;

/// The longest delay anyone can talk a device into.
const DELAY_MAX: Duration = Duration::from_hours(1);
/// The window of a device that was probably the only one to lose its link.
const ALONE: Duration = Duration::from_secs(1);
const DELAY_MIN: Duration = Duration::from_millis(10);

/// How a device comes back after a connection ended. Control's answer overrides what is set here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// First delay after a failure. Default 500 ms, at least 10 ms.
    pub base: Duration,
    /// No delay grows above this. Default 60 s, at most 1 h.
    pub max: Duration,
    /// What a delay is multiplied with after each failure. Default 2, from 1 to 10.
    pub factor: f64,
    /// Share of each delay that is random, from 0 to 1. Default 0.5.
    pub jitter: f64,
    /// The first delay after a session is random within this window, or longer where failures say so.
    /// Zero: within 1 s.
    pub window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            max: Duration::from_mins(1),
            factor: 2.0,
            jitter: 0.5,
            window: Duration::ZERO,
        }
    }
}

impl Settings {
    /// The nearest settings that make sense; they may come from a peer.
    pub(crate) fn sane(self) -> Self {
        let base = self.base.clamp(DELAY_MIN, DELAY_MAX);
        let or = |value: f64, default| if value.is_finite() { value } else { default };
        Self {
            base,
            max: self.max.clamp(base, DELAY_MAX),
            factor: or(self.factor, 2.0).clamp(1.0, 10.0),
            jitter: or(self.jitter, 0.5).clamp(0.0, 1.0),
            window: self.window.min(DELAY_MAX),
        }
    }
}

/// The delays of one device: settings, failures in a row, and its own randomness.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    settings: Settings,
    /// The window that the node of the last login told.
    told_window: Option<Duration>,
    /// No delay was taken since the last login.
    was_online: bool,
    failures: u32,
    random: u64,
}

impl Backoff {
    pub(crate) fn new(settings: Settings, seed: u64) -> Self {
        let settings = settings.sane();
        Self { settings, told_window: None, was_online: false, failures: 0, random: seed }
    }

    /// Control's answer. It is newer than what a node said of the window.
    pub(crate) fn set(&mut self, settings: Settings) {
        self.settings = settings.sane();
        self.told_window = None;
    }

    /// LOGIN_OK, and the window that it told; zero: as control said.
    pub(crate) fn logged_in(&mut self, window: Duration) {
        self.told_window = (!window.is_zero()).then_some(window.min(DELAY_MAX));
        self.was_online = true;
    }

    /// A session held: there were no failures before it.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// After a link that ended, advice *now*: spread over the window, and from the second time in a
    /// row on after [`Self::failed`]. After a session, however short it was, it is the later of both:
    /// a node that took thousands in and dies has them all come back.
    pub(crate) fn now(&mut self, told: Duration) -> Duration {
        let is_first = self.failures == 0;
        let spread = if self.ends_session() || is_first { self.spread() } else { Duration::ZERO };
        let delay = if is_first {
            self.failures = 1;
            spread
        } else {
            self.failures -= 1;
            let delay = self.failed().max(spread);
            self.failures += 1;
            delay
        };
        told.min(DELAY_MAX) + delay
    }

    /// Advice *later*: the told time and up to half of it, or as after a second failure; then after a
    /// session no sooner than the window says.
    pub(crate) fn later(&mut self, told: Duration) -> Duration {
        let is_session = self.ends_session();
        if told.is_zero() {
            let spread = if is_session { self.spread() } else { Duration::ZERO };
            self.failures = self.failures.max(1);
            return self.failed().max(spread);
        }
        self.failures = self.failures.saturating_add(1);
        let told = told.min(DELAY_MAX);
        told + told.mul_f64(self.fraction() / 2.0)
    }

    /// A random part of the window.
    fn spread(&mut self) -> Duration {
        let window = self.told_window.unwrap_or(self.settings.window);
        (if window.is_zero() { ALONE } else { window }).mul_f64(self.fraction())
    }

    /// Whether the delay that is taken now is the first one after a session.
    fn ends_session(&mut self) -> bool {
        std::mem::take(&mut self.was_online)
    }

    /// After a round of access points, or a call, that failed. Counts a failure.
    pub(crate) fn failed(&mut self) -> Duration {
        let Settings { base, max, factor, jitter, .. } = self.settings;
        let power = i32::try_from(self.failures.min(64)).unwrap_or(64);
        let grown = (base.as_secs_f64() * factor.powi(power)).min(max.as_secs_f64());
        self.failures = self.failures.saturating_add(1);
        let random = self.fraction();
        Duration::from_secs_f64(grown * (1.0 - jitter * random))
    }

    /// From 0 to below 1. SplitMix64: enough to keep devices apart, and it needs no state but a word.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        base: Duration::from_secs(1),
        max: Duration::from_secs(30),
        factor: 2.0,
        jitter: 0.5,
        window: Duration::from_secs(15),
    };

    #[test]
    fn the_first_delay_is_spread_over_the_window() {
        let mut eighths = [0u32; 8];
        for seed in 0..4000 {
            let first = Backoff::new(SETTINGS, seed).now(Duration::ZERO);
            assert!(first < SETTINGS.window);
            eighths[(first.as_secs_f64() / 15.0 * 8.0) as usize] += 1;
        }
        assert!(eighths.iter().all(|&n| (400..600).contains(&n)), "{eighths:?}");
    }

    #[test]
    fn later_delays_grow_stay_jittered_and_end_at_the_maximum() {
        for seed in 0..500 {
            let mut backoff = Backoff::new(SETTINGS, seed);
            backoff.now(Duration::ZERO);
            for failures in 0..200i32 {
                let delay = backoff.now(Duration::ZERO).as_secs_f64();
                let grown = 2f64.powi(failures.min(10)).min(30.0);
                assert!((grown / 2.0..=grown).contains(&delay), "{failures}: {delay}");
            }
            backoff.reset();
            assert!(backoff.now(Duration::ZERO) < SETTINGS.window);
            backoff.reset();
            let later = backoff.later(Duration::ZERO).as_secs_f64();
            assert!((1.0..=2.0).contains(&later), "{later}");
        }
    }

    #[test]
    fn a_short_session_is_no_reason_to_come_back_at_once() {
        // All of them lost their first node, and lose the second one ten seconds after they came.
        let mut eighths = [0u32; 8];
        for seed in 0..20_000 {
            let mut backoff = Backoff::new(SETTINGS, seed);
            for _ in 0..2 {
                backoff.logged_in(Duration::ZERO);
                backoff.now(Duration::ZERO);
            }
            backoff.logged_in(Duration::ZERO);
            let third = backoff.now(Duration::ZERO);
            assert!(third >= SETTINGS.base, "two failures");
            eighths[(third.as_secs_f64() / 15.0 * 8.0) as usize] += 1;
            assert!(backoff.now(Duration::ZERO) <= 4 * SETTINGS.base, "the window counts once");
        }
        assert!(eighths.iter().all(|&n| (2_000..3_000).contains(&n)), "{eighths:?}");

        // Advice *later* without a time is no better; a time is the word of who knows.
        let later = |told: Duration| {
            let delays = (0..2000).map(|seed| {
                let mut backoff = Backoff::new(SETTINGS, seed);
                backoff.logged_in(Duration::ZERO);
                backoff.later(told)
            });
            delays.max().unwrap_or_default().as_secs_f64().ceil() as u64
        };
        assert_eq!((later(Duration::ZERO), later(Duration::from_secs(4))), (15, 6));
    }

    #[test]
    fn told_delays_are_kept_and_capped() {
        let mut backoff = Backoff::new(SETTINGS, 1);
        let told = Duration::from_secs(7);
        for _ in 0..20 {
            assert!((told..=told * 3 / 2).contains(&backoff.later(told)));
            assert!(backoff.now(told) >= told);
        }
        assert!(backoff.later(Duration::from_secs(u64::from(u32::MAX))) <= DELAY_MAX * 2);
    }

    #[test]
    fn the_nodes_window_stands_for_controls_until_control_speaks_again() {
        let farthest = |change: &dyn Fn(&mut Backoff)| {
            let firsts = (0..2000).map(|seed| {
                let mut backoff = Backoff::new(SETTINGS, seed);
                change(&mut backoff);
                backoff.now(Duration::ZERO)
            });
            firsts.max().unwrap_or_default().as_secs_f64().ceil() as u64
        };
        let ms = Duration::from_millis;
        assert_eq!(farthest(&|it| it.logged_in(ms(40_000))), 40);
        assert_eq!(farthest(&|it| it.logged_in(ms(3_000))), 3);
        assert_eq!(farthest(&|it| it.logged_in(Duration::ZERO)), 15, "as control said");
        let day = ms(24 * 3600 * 1000);
        assert!((3500..=3600).contains(&farthest(&|it| it.logged_in(day))), "capped");
        let answered_again = |it: &mut Backoff| {
            it.logged_in(ms(40_000));
            it.set(SETTINGS);
        };
        assert_eq!(farthest(&answered_again), 15, "the newest word");
    }

    #[test]
    fn nonsense_becomes_sane() {
        let nonsense = Settings {
            base: Duration::ZERO,
            max: Duration::MAX,
            factor: f64::NAN,
            jitter: f64::INFINITY,
            window: Duration::MAX,
        };
        let mut backoff = Backoff::new(nonsense, 3);
        for _ in 0..1000 {
            assert!(backoff.now(Duration::ZERO) <= DELAY_MAX);
            assert!(backoff.failed() <= DELAY_MAX);
        }
    }
}
