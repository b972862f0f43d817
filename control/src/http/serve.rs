//! Connections of the HTTP port: bounded in number, with a deadline on their headers, told to finish at
//! shutdown. HTTP/1.1 only: its one deadline covers a silent connection from its first moment.

use super::service;
use crate::STOP_GRACE;
use crate::shared::Shared;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Then a connection is told to finish, so that one that never reads its answers ends too.
const AGE_MAX: Duration = Duration::from_mins(10);
/// The wait after an accept that failed for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until told to stop.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let app = service(&shared);
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.http_header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX);
    let places = Arc::new(Semaphore::new(shared.config.http_connections_max));
    let stop = shared.tasks.stop_signal();
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(failure) => {
                warn!(%failure, "cannot accept on the HTTP port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (shared, builder, app) = (shared.clone(), builder.clone(), app.clone());
        shared.clone().tasks.spawn_light(async move {
            shared.metrics.http_connections.inc();
            connection(&shared, &builder, app, stream).await;
            shared.metrics.http_connections.dec();
            drop(place);
        });
    }
}

async fn connection(shared: &Shared, builder: &Builder, app: axum::Router, stream: TcpStream) {
    if let Err(failure) = stream.set_nodelay(true) {
        debug!(%failure, "no nodelay");
    }
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut serving = std::pin::pin!(serving);
    let stop = shared.tasks.stop_signal();
    let enough = async {
        let _ = tokio::time::timeout(AGE_MAX, stop.cancelled()).await;
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = enough => {
            // Lets the request in work finish, and takes no other.
            serving.as_mut().graceful_shutdown();
            let patience = if stop.is_cancelled() {
                shared.config.http_request_timeout.min(STOP_GRACE)
            } else {
                shared.config.http_request_timeout
            };
            tokio::time::timeout(patience, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(failure) = ended {
        debug!(%failure, "HTTP connection ended");
    }
}
