//! Somebody wants it to end: ctrl-c at a terminal, or SIGTERM, as a time limit or a supervisor sends it. What was
//! started ends with its owners then, and what was measured is told as the part that it is.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of every command that was told to end, as shells tell of one that ctrl-c ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// Hears both from when it is made; without one they end this process at once, and leave its folders behind.
pub(crate) struct Stop {
    interrupts: Signal,
    terminations: Signal,
}

impl Stop {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let heard = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupts: heard(SignalKind::interrupt())?,
            terminations: heard(SignalKind::terminate())?,
        })
    }

    /// Until somebody wants an end, or once more. Cancel-safe.
    pub(crate) async fn wanted(&mut self) {
        tokio::select! {
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
        }
    }

    /// Does this. Nothing comes of it when somebody wants an end: it is dropped where it stands.
    pub(crate) fn or<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> impl Future<Output = Option<T>> {
        // Whole commands are done here, and their futures are large.
        let mut work = Box::pin(work);
        async move {
            tokio::select! {
                // A child that the same ctrl-c has reached is not what the work failed of.
                biased;
                () = self.wanted() => None,
                done = &mut work => Some(done),
            }
        }
    }
}
