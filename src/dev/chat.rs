//! The demo business: a small chat. A device's request is answered, and multicast to its room. It does
//! what any business would do, with its own key, over the public APIs.

use crate::admin::GRACE;
use crate::push_api::PushApi;
use bytes::Bytes;
use hawser_chassis::shutdown::{Tasks, served};
use hawser_proto::rpc::business::business_server::{Business, BusinessServer};
use hawser_proto::rpc::business::{
    ConnectionEvents, ConnectionsHeard, HandleRequest, HandleResponse,
};
use hawser_proto::rpc::push as rpc;
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tracing::{error, info};

/// A multicast that takes longer is given up, and the device is told.
const MULTICAST_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest message of the chat, in bytes.
const TEXT_BYTES_MAX: usize = 4 * 1024;
/// Session attribute: how many messages the device has said.
const SAID: &str = "said";

/// The demo business. It cannot multicast before it was given its key.
pub(super) struct Chat {
    push: watch::Receiver<Option<PushApi>>,
    lobby: &'static str,
}

impl Chat {
    /// `lobby`: the room of messages that name none.
    pub(super) fn new(push: watch::Receiver<Option<PushApi>>, lobby: &'static str) -> Self {
        Self { push, lobby }
    }

    /// Serves until the tasks are told to stop.
    pub(super) fn serve(self, tasks: &Tasks, listener: TcpListener) {
        let stop = tasks.stop_signal();
        tasks.spawn("demo business", async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let serving = hawser_chassis::grpc::server()
                .add_service(BusinessServer::new(self))
                .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
            if let Some(Err(failure)) = served(serving, stop, GRACE).await {
                error!(%failure, "the demo business ended");
            }
        });
    }

    async fn say(&self, request: HandleRequest) -> Result<HandleResponse, Status> {
        let text = std::str::from_utf8(&request.body)
            .map_err(|_| Status::invalid_argument("a message of this chat is UTF-8 text"))?;
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            return Err(Status::invalid_argument("a message has 1 to 4096 bytes"));
        }
        let room = request.metadata.get("room").map_or(self.lobby, String::as_str);
        let message = json!({"from": request.device, "text": text}).to_string();
        self.multicast(room, message).await?;

        let before = request.session.as_ref().and_then(|session| session.attributes.get(SAID));
        let said: u64 = before.and_then(|count| count.parse().ok()).unwrap_or(0);
        Ok(HandleResponse {
            body: Bytes::from_static(b"ok"),
            set_attributes: HashMap::from([(SAID.to_owned(), said.saturating_add(1).to_string())]),
            ..Default::default()
        })
    }

    async fn multicast(&self, room: &str, message: String) -> Result<(), Status> {
        let push = self.push.borrow().clone();
        let mut push = push.ok_or_else(|| Status::unavailable("the chat is starting"))?;
        let message = rpc::Message { body: Bytes::from(message), ..Default::default() };
        let mut call = Request::new(rpc::MulticastRequest {
            group: room.to_owned(),
            message: Some(message),
            ..Default::default()
        });
        call.set_timeout(MULTICAST_TIMEOUT);
        match tokio::time::timeout(MULTICAST_TIMEOUT, push.multicast(call)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(Status::new(status.code(), status.message())),
            Err(_) => Err(Status::deadline_exceeded("the multicast took too long")),
        }
    }
}

#[tonic::async_trait]
impl Business for Chat {
    async fn handle(
        &self,
        request: Request<HandleRequest>,
    ) -> Result<Response<HandleResponse>, Status> {
        let request = request.into_inner();
        match request.method.as_str() {
            "echo" => {
                Ok(Response::new(HandleResponse { body: request.body, ..Default::default() }))
            }
            "say" => self.say(request).await.map(Response::new),
            _ => Err(Status::invalid_argument("this chat knows the methods echo and say")),
        }
    }

    async fn connections(
        &self,
        request: Request<ConnectionEvents>,
    ) -> Result<Response<ConnectionsHeard>, Status> {
        for event in request.into_inner().events {
            info!(device = event.device, kind = ?event.kind(), epoch = event.epoch, "heard");
        }
        Ok(Response::new(ConnectionsHeard {}))
    }
}
