//! Small HTTP servers beside the services: the admin port, and the page of `hawser dev`.

use axum::Router;
use hawser_chassis::shutdown::{Tasks, served};
use std::future::IntoFuture as _;
use std::time::Duration;
use tokio::net::TcpListener;
use tracing::error;

/// Answers under way may finish; a browser's idle connection holds nobody up.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// Serves the routes until the tasks are told to stop.
pub(crate) fn serve(tasks: &Tasks, name: &'static str, listener: TcpListener, routes: Router) {
    let stop = tasks.stop_signal();
    tasks.spawn(name, async move {
        let serving = axum::serve(listener, routes)
            .with_graceful_shutdown(stop.clone().cancelled_owned())
            .into_future();
        if let Some(Err(failure)) = served(serving, stop, GRACE).await {
            error!(%failure, server = name, "a server ended");
        }
    });
}
