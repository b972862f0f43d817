//! The pause between two tries of a stream that should always be up: doubling, jittered, and over at
//! once when the node stops.

use hawser_chassis::shutdown::Tasks;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
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
        // What is too much for a stream is too much for the next one, however long this one took to see it.
        let is_overrun =
            outcome.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted);
        match outcome {
            Ok(()) => info!(stream = self.what, "stream ended by the other side"),
            Err(status) => {
                warn!(stream = self.what, code = ?status.code(), reason = status.message(), "stream broke");
            }
        }
        let pause = self.next_pause(begun.elapsed(), is_overrun);
        let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
        tokio::select! {
            () = tokio::time::sleep(jittered) => true,
            () = self.stop.cancelled() => false,
        }
    }

    /// The pause after a stream that held for so long.
    fn next_pause(&mut self, held: Duration, is_overrun: bool) -> Duration {
        if held > PAUSE_MAX && !is_overrun {
            self.pause = PAUSE_MIN;
        }
        let pause = self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_held_begins_anew_at_once_unless_it_was_too_much() {
        const LONG: Duration = Duration::from_mins(1);
        let mut retry = Retry::until("a stream", CancellationToken::new());
        assert_eq!(retry.next_pause(LONG, true), PAUSE_MIN, "the first time");
        let last = (0..5).map(|_| retry.next_pause(LONG, true)).last();
        assert_eq!(last, Some(PAUSE_MAX));
        assert_eq!(retry.next_pause(Duration::ZERO, false), PAUSE_MAX);
        assert_eq!(retry.next_pause(LONG, false), PAUSE_MIN);
    }
}
