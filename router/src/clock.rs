//! The two clocks of the shell: wall time for epochs, terms and times to live, steady time for leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads time. Clones agree.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    started: Instant,
    latest_ms: Arc<AtomicU64>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), latest_ms: Arc::default() }
    }

    /// Milliseconds since 1970. Never goes back while the process lives, also when the machine's clock is
    /// set back: terms are times, and one that lies below what a device has seen would hide its pushes.
    /// It stands still then, until the machine's clock has caught up.
    pub(crate) fn now_ms(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.at_least(wall.as_millis() as u64)
    }

    fn at_least(&self, wall_ms: u64) -> u64 {
        self.latest_ms.fetch_max(wall_ms, Ordering::Relaxed).max(wall_ms)
    }

    /// Milliseconds since this process started; never goes back.
    pub(crate) fn steady_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_stands_still_until_it_has_caught_up() {
        let clock = Clock::new();
        let seen = [5_000, 9_000, 4_000, 8_999, 9_001].map(|wall| clock.clone().at_least(wall));
        assert_eq!(seen, [5_000, 9_000, 9_000, 9_000, 9_001]);
    }
}
