//! Connections of the HTTP port: bounded in number, with a deadline on their headers, told to finish at
//! shutdown.

use super::service;
use crate::shared::Shared;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// From accept, or the last answer, to the next whole request header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 * 1024;
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// The wait after an accept that failed for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until told to stop.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let app = service(&shared);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADER_TIMEOUT)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX);
    let builder = Arc::new(builder);
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

async fn connection(
    shared: &Shared,
    builder: &Builder<TokioExecutor>,
    app: axum::Router,
    stream: TcpStream,
) {
    if let Err(failure) = stream.set_nodelay(true) {
        debug!(%failure, "no nodelay");
    }
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut serving = std::pin::pin!(serving);
    let stop = shared.tasks.stop_signal();
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            // Lets the request in work finish, and takes no other.
            serving.as_mut().graceful_shutdown();
            let patience = shared.config.http_request_timeout;
            tokio::time::timeout(patience, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(failure) = ended {
        debug!(failure, "HTTP connection ended");
    }
}
