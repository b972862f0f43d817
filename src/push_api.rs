//! Calls to the push API, as a business's backend would make them.

use crate::dial::Server;
use crate::failure::{Failure, Outcome, chain};
use hawser_chassis::grpc::{ShowBearer, channel};
use hawser_chassis::secret::Secret;
use hawser_proto::rpc::push::push_client::PushClient;
use http::Uri;
use std::path::Path;
use std::time::Duration;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The push API with a business key shown at every call.
pub(crate) type PushApi = PushClient<InterceptedService<Channel, ShowBearer>>;

/// The push API at `address` (`http://host:port` or `https://host:port`). Connects at the first call. `ca`: whom to
/// trust beside the CAs of this machine.
pub(crate) fn connect(address: &str, ca: Option<&Path>, key: &str) -> Outcome<PushApi> {
    let server = Server::new(address, ca, b"h2")?;
    let unusable = |failure: tonic::transport::Error| {
        Failure::usage(format!("{address}: {}", chain(&failure)))
    };
    let channel = if server.is_tls() {
        let origin = Uri::builder().scheme("https").authority(server.authority).path_and_query("/");
        let origin = origin.build().map_err(Failure::usage)?;
        Endpoint::from_shared(server.base)
            .map_err(unusable)?
            .origin(origin)
            .connect_with_connector_lazy(server.dialer)
    } else {
        channel(address).map_err(unusable)?
    };
    let bearer = ShowBearer::new(&Secret::new(key))
        .ok_or_else(|| Failure::usage("the business key holds characters that no key has"))?;
    Ok(PushClient::with_interceptor(channel, bearer))
}

/// A request with the deadline of this tool.
pub(crate) fn request<T>(message: T) -> Request<T> {
    request_within(message, Duration::ZERO)
}

/// A request that the other side is asked to spend some time on, beside the usual.
pub(crate) fn request_within<T>(message: T, longer: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT + longer);
    request
}

/// What a gRPC error means to the one who typed the command.
pub(crate) fn refused(status: &Status) -> Failure {
    let published = status.metadata().get("hawser-code").and_then(|code| code.to_str().ok());
    match (published, status.code()) {
        (Some(code), _) => Failure::refused(code, status.message()),
        (None, Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded) => {
            let why = root(status).map_or_else(|| status.message().to_owned(), ToString::to_string);
            Failure::unreachable(format!("cannot reach the push API: {why}"))
        }
        (None, code) => Failure::refused(&format!("grpc {code:?}"), status.message()),
    }
}

/// The innermost error, which says what really happened.
fn root(status: &Status) -> Option<&(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |error| error.source()).last()
}
