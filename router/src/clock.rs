//! The two clocks of the shell: wall time for epochs, steady time for leases.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads time. Copies agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now() }
    }

    /// Milliseconds since 1970. May be set back by whoever keeps the machine's clock.
    #[allow(clippy::unused_self, reason = "both clocks are read the same way")]
    pub(crate) fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
    }

    /// Milliseconds since this process started; never goes back.
    pub(crate) fn steady_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}
