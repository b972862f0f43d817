//! gRPC between services: a server builder with every bound set, and the bearer secret on both ends.

use crate::secret::{Secret, bearer};
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

/// Header list of one call; tonic's own default is 16 MiB.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Calls one connection may have open.
const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// Flow-control window of one stream and of a connection: a large push never waits for acknowledgements
/// of its first 64 KiB.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Until a connection stands, its greeting included.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Whoever has gone is let go of.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between services, a connection over a network that has been cut is given up sooner: after some seconds
/// of cut the kernel waits as long again before it says anything over the old one, and a new one is faster.
const PEER_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const PEER_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A server with every bound set; add services to it.
pub fn server() -> Server {
    Server::builder()
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .tcp_nodelay(true)
}

/// A channel that connects when first used and again whenever it broke. `uri`: `http://host:port`.
pub fn channel(uri: &str) -> Result<Channel, tonic::transport::Error> {
    Ok(endpoint(uri)?.connect_lazy())
}

/// Where a channel goes, with every bound set.
pub(crate) fn endpoint(uri: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(uri.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .tcp_nodelay(true))
}

/// The same to another service of the cluster.
pub(crate) fn peer_endpoint(uri: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(endpoint(uri)?
        .http2_keep_alive_interval(PEER_KEEPALIVE_INTERVAL)
        .keep_alive_timeout(PEER_KEEPALIVE_TIMEOUT))
}

/// Refuses calls that do not show the secret as `authorization: Bearer ..`.
#[derive(Clone, Debug)]
pub struct RequireBearer(pub Secret);

impl Interceptor for RequireBearer {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        match shown.and_then(bearer) {
            Some(token) if self.0.matches(token) => Ok(request),
            _ => Err(Status::unauthenticated("the cluster secret is missing or wrong")),
        }
    }
}

/// Shows the secret with every call.
#[derive(Clone, Debug)]
pub struct ShowBearer(MetadataValue<Ascii>);

impl ShowBearer {
    /// `None`: the secret holds characters that cannot stand in a header.
    pub fn new(secret: &Secret) -> Option<Self> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", secret.expose()).parse().ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

impl Interceptor for ShowBearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}
