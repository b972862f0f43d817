//! Tasks as children: each is named, tracked, told to stop, and waited for. Nobody is orphaned.

use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

/// A family of tasks that end together. Clones name the same family.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// An empty family.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a child. A panic in it ends only itself, and is logged with its name.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // The inner task catches a panic, the outer one reports it. Only long-lived or rare tasks go
        // through here; what is spawned per connection or request uses `spawn_light`.
        let inner = tokio::spawn(self.tracker.track_future(future));
        self.tracker.spawn(async move {
            match inner.await {
                Ok(()) => debug!(task = name, "task ended"),
                Err(failure) if failure.is_panic() => error!(task = name, "task panicked"),
                Err(_) => {}
            }
        });
    }

    /// Spawns a child that is one of many: tracked, but its panic shows only in the panic hook's
    /// line and counter (see [`crate::telemetry`]).
    pub fn spawn_light<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(future);
    }

    /// Resolves when the family is told to stop. Cancel-safe. Cheap to clone and to ask.
    pub fn stop_signal(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Whether the family was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells all children to stop, without waiting.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Children that have not ended.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether all children have ended.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Tells all children to stop and waits for them. False: some were still there at the deadline.
    pub async fn shutdown(&self, patience: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait()).await.is_ok()
    }
}

/// Waits for a server that ends gracefully by itself after `stop`, but no longer than `grace` after it: a
/// peer that opened a connection and then fell silent holds nobody up. `None`: it was left behind; its
/// open connections end with the process.
pub async fn served<F: Future>(
    serving: F,
    stop: CancellationToken,
    grace: Duration,
) -> Option<F::Output> {
    tokio::select! {
        ended = serving => Some(ended),
        () = async { stop.cancelled().await; tokio::time::sleep(grace).await } => None,
    }
}

/// Resolves at the first SIGINT or SIGTERM after this call, awaited or not: call it before telling
/// anybody that the process is ready, or a signal that follows at once ends it without a word.
pub fn terminated() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let [terminate, interrupt] = [SignalKind::terminate(), SignalKind::interrupt()].map(|kind| {
        signal(kind).inspect_err(|source| error!(%source, "cannot listen for a signal")).ok()
    });
    let first = |signals: Option<tokio::signal::unix::Signal>| async {
        match signals {
            Some(mut signals) => {
                signals.recv().await;
            }
            None => std::future::pending().await,
        }
    };
    async move {
        tokio::select! {
            () = first(terminate) => {}
            () = first(interrupt) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn children_are_told_and_waited_for_and_a_panic_harms_nobody() {
        let tasks = Tasks::new();
        let stop = tasks.stop_signal();
        let (done, told) = tokio::sync::oneshot::channel();
        tasks.spawn("patient", async move {
            stop.cancelled().await;
            let _ = done.send(());
        });
        tasks.spawn("broken", async { panic!("on purpose") });
        assert!(tasks.shutdown(Duration::from_secs(5)).await);
        told.await.expect("the patient child was told to stop before shutdown returned");
        assert!(tasks.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_end_is_left_behind_after_its_grace() {
        let grace = Duration::from_secs(2);
        let stop = CancellationToken::new();
        assert_eq!(served(async { 7 }, stop.clone(), grace).await, Some(7));
        stop.cancel();
        let began = tokio::time::Instant::now();
        assert_eq!(served(std::future::pending::<()>(), stop, grace).await, None);
        assert_eq!(began.elapsed(), grace);
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_will_not_stop_is_reported() {
        let tasks = Tasks::new();
        tasks.spawn_light(std::future::pending());
        assert!(!tasks.shutdown(Duration::from_secs(5)).await);
    }
}
