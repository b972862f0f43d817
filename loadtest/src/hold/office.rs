//! The business that answers the devices' requests with what they asked. It writes nothing down.

use hawser_proto::rpc::business::business_server::{Business, BusinessServer};
use hawser_proto::rpc::business::{
    ConnectionEvents, ConnectionsHeard, HandleRequest, HandleResponse,
};
use std::net::Ipv4Addr;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Open as long as it lives.
pub(super) struct Office {
    pub(super) endpoint: String,
    /// Aborted with it.
    _task: JoinSet<()>,
}

impl Office {
    /// Opens on a free port.
    pub(super) async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            // It ends with its owner; a listener that breaks is seen as requests that fail.
            let service = BusinessServer::new(Desk);
            let _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Ok(Self { endpoint, _task: task })
    }
}

struct Desk;

#[tonic::async_trait]
impl Business for Desk {
    async fn handle(
        &self,
        request: Request<HandleRequest>,
    ) -> Result<Response<HandleResponse>, Status> {
        let body = request.into_inner().body;
        Ok(Response::new(HandleResponse { body, ..HandleResponse::default() }))
    }

    async fn connections(
        &self,
        _: Request<ConnectionEvents>,
    ) -> Result<Response<ConnectionsHeard>, Status> {
        Ok(Response::new(ConnectionsHeard {}))
    }
}
