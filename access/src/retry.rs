//! The pause between two tries of a stream that should always be up: doubling, jittered, and over at
//! once when the node stops.

use hawser_chassis::shutdown::Tasks;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{info, warn};

const PAUSE_MIN: Duration = Duration::from_millis(50);
/// A network that is whole again is noticed within this and the time a dial takes.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Keeps one stream's tries apart.
pub(crate) struct Retry {
    what: &'static str,
    stop: CancellationToken,
    pause: Duration,
}

impl Retry {
    pub(crate) fn new(what: &'static str, tasks: &Tasks) -> Self {
        Self { what, stop: tasks.stop_signal(), pause: PAUSE_MIN }
    }

    /// Like `new`, ended by a signal of its own.
    pub(crate) fn until(what: &'static str, stop: CancellationToken) -> Self {
        Self { what, stop, pause: PAUSE_MIN }
    }

    /// Runs one try, and pauses after it. False: the node stops.
    pub(crate) async fn go_on_after(
        &mut self,
        run: impl Future<Output = Result<(), Status>>,
    ) -> bool {
        let begun = Instant::now();
        let outcome = tokio::select! {
            outcome = run => outcome,
            () = self.stop.cancelled() => return false,
        };
        self.pause_after(begun, outcome).await
    }

    /// Pauses after a try that began then and ended like this. False: the stop signal has come.
    pub(crate) async fn pause_after(
        &mut self,
        begun: Instant,
        outcome: Result<(), Status>,
    ) -> bool {
        if self.stop.is_cancelled() {
            return false;
        }
        match outcome {
            Ok(()) => info!(stream = self.what, "stream ended by the other side"),
            Err(status) => {
                warn!(stream = self.what, code = ?status.code(), reason = status.message(), "stream broke");
            }
        }
        if begun.elapsed() > PAUSE_MAX {
            self.pause = PAUSE_MIN;
        }
        let jittered = self.pause.mul_f64(rand::random_range(0.5..1.0));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        tokio::select! {
            () = tokio::time::sleep(jittered) => true,
            () = self.stop.cancelled() => false,
        }
    }
}
