//! Small HTTP servers beside the services: the admin port, and the page of `hawser dev`.

use axum::Router;
use hawser_chassis::shutdown::Tasks;
use tokio::net::TcpListener;
use tracing::error;

/// Serves the routes until the tasks are told to stop.
pub(crate) fn serve(tasks: &Tasks, name: &'static str, listener: TcpListener, routes: Router) {
    let stop = tasks.stop_signal();
    tasks.spawn(name, async move {
        let serving = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(failure) = serving.await {
            error!(%failure, server = name, "a server ended");
        }
    });
}
