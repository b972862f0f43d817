//! A business's server: it answers what devices ask, as its desk says.

use anyhow::Context;
use hawser_proto::rpc::business::business_server::{Business, BusinessServer};
use hawser_proto::rpc::business::{
    ConnectionEvents, ConnectionsHeard, HandleRequest, HandleResponse,
};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Open as long as it lives.
pub(crate) struct Office {
    pub(crate) at: SocketAddr,
    /// Aborted with it.
    _task: JoinSet<()>,
}

impl Office {
    /// Opens it here; none: on a free port of loopback.
    pub(crate) async fn open(at: Option<SocketAddr>, desk: impl Business) -> anyhow::Result<Self> {
        let at = at.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
        let listener = TcpListener::bind(at).await;
        let listener = listener.with_context(|| format!("a business cannot listen on {at}"))?;
        let at = listener.local_addr()?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            // It ends with its owner; a listener that breaks is seen as a business that is gone.
            let service = BusinessServer::new(desk);
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Ok(Self { at, _task: task })
    }

    /// Where it answers.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.at)
    }
}

/// Answers at once, with what it was asked, and writes nothing down.
pub(crate) struct Echo;

#[tonic::async_trait]
impl Business for Echo {
    async fn handle(
        &self,
        request: Request<HandleRequest>,
    ) -> Result<Response<HandleResponse>, Status> {
        Ok(echo(request))
    }

    async fn connections(
        &self,
        _: Request<ConnectionEvents>,
    ) -> Result<Response<ConnectionsHeard>, Status> {
        Ok(Response::new(ConnectionsHeard {}))
    }
}

/// What was asked, as the answer.
pub(crate) fn echo(request: Request<HandleRequest>) -> Response<HandleResponse> {
    let body = request.into_inner().body;
    Response::new(HandleResponse { body, ..HandleResponse::default() })
}
