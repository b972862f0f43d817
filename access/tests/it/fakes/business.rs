//! A business whose answers a test writes.

use super::listen;
use hawser_chassis::grpc;
use hawser_proto::rpc::business::business_server::{self, BusinessServer};
use hawser_proto::rpc::business::{
    ConnectionEvents, ConnectionsHeard, HandleRequest, HandleResponse,
};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

type Answering = Pin<Box<dyn Future<Output = Result<HandleResponse, Status>> + Send>>;
type Handler = Arc<dyn Fn(HandleRequest) -> Answering + Send + Sync>;

#[derive(Clone)]
pub struct Business {
    pub uri: String,
    handler: Arc<Mutex<Handler>>,
    seen: Arc<Mutex<Vec<HandleRequest>>>,
    stop: CancellationToken,
}

impl Business {
    /// Starts one that answers with the body it was sent.
    pub async fn start() -> Self {
        let (listener, _, uri) = listen().await;
        let echo: Handler = Arc::new(|asked| {
            Box::pin(async { Ok(HandleResponse { body: asked.body, ..Default::default() }) })
        });
        let business = Self {
            uri,
            handler: Arc::new(Mutex::new(echo)),
            seen: Arc::default(),
            stop: CancellationToken::new(),
        };
        let (service, stop) = (BusinessServer::new(business.clone()), business.stop.clone());
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let serving = grpc::server().add_service(service);
            serving.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await.unwrap();
        });
        business
    }

    /// From now on requests are answered like this.
    pub fn answer<F, A>(&self, handler: F)
    where
        F: Fn(HandleRequest) -> A + Send + Sync + 'static,
        A: Future<Output = Result<HandleResponse, Status>> + Send + 'static,
    {
        *self.handler.lock() = Arc::new(move |asked| Box::pin(handler(asked)));
    }

    pub fn seen(&self) -> Vec<HandleRequest> {
        self.seen.lock().clone()
    }

    pub fn seen_count(&self) -> usize {
        self.seen.lock().len()
    }
}

#[tonic::async_trait]
impl business_server::Business for Business {
    async fn handle(
        &self,
        request: Request<HandleRequest>,
    ) -> Result<Response<HandleResponse>, Status> {
        let asked = request.into_inner();
        self.seen.lock().push(asked.clone());
        let answering = (self.handler.lock().clone())(asked);
        answering.await.map(Response::new)
    }

    async fn connections(
        &self,
        _request: Request<ConnectionEvents>,
    ) -> Result<Response<ConnectionsHeard>, Status> {
        Err(Status::unimplemented("routers call this, access nodes never"))
    }
}
