//! `hawser.push.v1`: what business backends call.
//!
//! Each call is authenticated here, done in a neighbour, and answered or refused with a published code:
//! [`unicast`] for devices, [`fanout`] for groups and broadcasts, [`groups`], [`presence`].

mod fanout;
mod groups;
mod message;
mod presence;
mod unicast;

use crate::auth::{Credential, KeyDigest, shown};
use crate::core::Core;
use crate::refusal::Refusal;
use futures_util::{Stream, StreamExt as _};
use hawser_proto::rpc::control::Scope;
use hawser_proto::rpc::node::membership::Change;
use hawser_proto::rpc::push::push_server::Push;
use hawser_proto::rpc::push::{
    BatchUnicastRequest, BatchUnicastResponse, BroadcastProgress, BroadcastRequest,
    CreateGroupRequest, DeleteGroupRequest, DeleteGroupResponse, DescribeDeviceRequest,
    DescribeGroupRequest, DeviceInfo, DisconnectRequest, DisconnectResponse, GroupInfo,
    ListGroupsRequest, ListGroupsResponse, MembershipRequest, MembershipResponse, MulticastRequest,
    MulticastResponse, Outcome, PresenceRequest, PresenceResponse, UnicastRequest, UnicastResponse,
};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

/// Messages of one stream that wait for reports at the same time.
const STREAM_MESSAGES_IN_FLIGHT: usize = 64;

/// The service that backends call.
#[derive(Clone)]
pub(crate) struct PushService(pub(crate) Arc<Core>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl PushService {
    fn caller(&self, metadata: &MetadataMap, scope: Scope) -> Result<Arc<Credential>, Refusal> {
        self.0.caller(&shown(metadata)?, scope)
    }

    /// Wraps up: an answer, or a status with its published code, counted.
    fn finish<T>(&self, done: Result<T, Refusal>) -> Result<Response<T>, Status> {
        done.map(Response::new).map_err(|refusal| self.refuse(refusal))
    }

    fn refuse(&self, refusal: Refusal) -> Status {
        self.0.metrics.refusals.with_label_values(&[refusal.code.name()]).inc();
        refusal.into()
    }

    /// A message of a stream that could not be read ends it, with the published code.
    fn broken(&self, status: Status) -> Status {
        match status.code() {
            Code::OutOfRange => self.refuse(Refusal::too_large("a message above 4 MiB")),
            Code::Internal => self.refuse(Refusal::invalid("a message that cannot be read")),
            _ => status,
        }
    }

    async fn batch(
        &self,
        metadata: &MetadataMap,
        request: BatchUnicastRequest,
    ) -> Result<BatchUnicastResponse, Refusal> {
        let by = self.caller(metadata, Scope::Push)?;
        Ok(unicast::submit(&self.0, &by, request)?.wait(&self.0).await)
    }

    async fn membership(
        &self,
        request: Request<MembershipRequest>,
        change: Change,
    ) -> Result<Response<MembershipResponse>, Status> {
        let by = self.caller(request.metadata(), Scope::Group);
        self.finish(match by {
            Ok(by) => groups::change(&self.0, &by, request.into_inner(), change).await,
            Err(refusal) => Err(refusal),
        })
    }

    /// One message of a stream: sent on its way now, in order; what is returned only waits.
    fn step(
        &self,
        key: &KeyDigest,
        message: Result<BatchUnicastRequest, Status>,
    ) -> impl Future<Output = Result<BatchUnicastResponse, Status>> + Send + use<> {
        let taken = message.map_err(|status| self.broken(status)).and_then(|request| {
            // Asked anew for each message: a key that was taken back ends the stream.
            let by = self.0.caller(key, Scope::Push).map_err(|refusal| self.refuse(refusal))?;
            let tag = request.tag;
            Ok((tag, unicast::submit(&self.0, &by, request)))
        });
        let service = self.clone();
        async move {
            match taken? {
                (_, Ok(submitted)) => Ok(submitted.wait(&service.0).await),
                (tag, Err(refusal)) => {
                    let (error, error_message) = (refusal.code.number(), refusal.to_string());
                    let _counted = service.refuse(refusal);
                    Ok(BatchUnicastResponse { tag, error, error_message, ..Default::default() })
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Push for PushService {
    async fn unicast(
        &self,
        request: Request<UnicastRequest>,
    ) -> Result<Response<UnicastResponse>, Status> {
        let started = Instant::now();
        let (metadata, _, request) = request.into_parts();
        let done = self.batch(&metadata, unicast::single(request)).await;
        self.0.metrics.unicast_seconds.observe(started.elapsed().as_secs_f64());
        self.finish(done.map(|answer| UnicastResponse {
            outcome: answer.outcomes.first().copied().unwrap_or(Outcome::Unknown.into()),
            push_id: answer.push_id,
        }))
    }

    async fn batch_unicast(
        &self,
        request: Request<BatchUnicastRequest>,
    ) -> Result<Response<BatchUnicastResponse>, Status> {
        let started = Instant::now();
        let (metadata, _, request) = request.into_parts();
        let done = self.batch(&metadata, request).await;
        self.0.metrics.batch_seconds.observe(started.elapsed().as_secs_f64());
        self.finish(done)
    }

    type StreamUnicastStream = Answers<BatchUnicastResponse>;

    async fn stream_unicast(
        &self,
        request: Request<Streaming<BatchUnicastRequest>>,
    ) -> Result<Response<Self::StreamUnicastStream>, Status> {
        let opened = shown(request.metadata()).and_then(|key| {
            self.0.caller(&key, Scope::Push)?;
            Ok(key)
        });
        let key = opened.map_err(|refusal| self.refuse(refusal))?;
        let service = self.clone();
        let answers = request
            .into_inner()
            .take_until(self.0.tasks.stop_signal().cancelled_owned())
            .map(move |message| service.step(&key, message))
            .buffered(STREAM_MESSAGES_IN_FLIGHT);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn multicast(
        &self,
        request: Request<MulticastRequest>,
    ) -> Result<Response<MulticastResponse>, Status> {
        let started = Instant::now();
        let done = match self.caller(request.metadata(), Scope::Push) {
            Ok(by) => fanout::multicast(&self.0, &by, request.into_inner()).await,
            Err(refusal) => Err(refusal),
        };
        self.0.metrics.multicast_seconds.observe(started.elapsed().as_secs_f64());
        self.finish(done)
    }

    type BroadcastStream = Answers<BroadcastProgress>;

    async fn broadcast(
        &self,
        request: Request<BroadcastRequest>,
    ) -> Result<Response<Self::BroadcastStream>, Status> {
        let begun = self
            .caller(request.metadata(), Scope::Push)
            .and_then(|by| fanout::broadcast(&self.0, &by, request.into_inner()));
        self.finish(begun.map(|progress| Box::pin(progress) as Self::BroadcastStream))
    }

    async fn create_group(
        &self,
        request: Request<CreateGroupRequest>,
    ) -> Result<Response<GroupInfo>, Status> {
        self.finish(match self.caller(request.metadata(), Scope::Group) {
            Ok(by) => groups::create(&self.0, &by, &request.get_ref().group).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        let done = match self.caller(request.metadata(), Scope::Group) {
            Ok(by) => groups::delete(&self.0, &by, &request.get_ref().group).await,
            Err(refusal) => Err(refusal),
        };
        self.finish(done.map(|()| DeleteGroupResponse {}))
    }

    async fn describe_group(
        &self,
        request: Request<DescribeGroupRequest>,
    ) -> Result<Response<GroupInfo>, Status> {
        self.finish(match self.caller(request.metadata(), Scope::Group) {
            Ok(by) => groups::describe(&self.0, &by, &request.get_ref().group).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        self.finish(match self.caller(request.metadata(), Scope::Group) {
            Ok(by) => groups::list(&self.0, &by, request.into_inner()).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn join_group(
        &self,
        request: Request<MembershipRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        self.membership(request, Change::Join).await
    }

    async fn leave_group(
        &self,
        request: Request<MembershipRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        self.membership(request, Change::Leave).await
    }

    async fn kick_from_group(
        &self,
        request: Request<MembershipRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        self.membership(request, Change::Kick).await
    }

    async fn get_presence(
        &self,
        request: Request<PresenceRequest>,
    ) -> Result<Response<PresenceResponse>, Status> {
        let done = self
            .caller(request.metadata(), Scope::Presence)
            .and_then(|by| presence::presence(&self.0, &by, request.into_inner()));
        self.finish(done)
    }

    async fn describe_device(
        &self,
        request: Request<DescribeDeviceRequest>,
    ) -> Result<Response<DeviceInfo>, Status> {
        self.finish(match self.caller(request.metadata(), Scope::Presence) {
            Ok(by) => presence::describe(&self.0, &by, request.into_inner().device).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn disconnect(
        &self,
        request: Request<DisconnectRequest>,
    ) -> Result<Response<DisconnectResponse>, Status> {
        self.finish(match self.caller(request.metadata(), Scope::Admin) {
            Ok(by) => presence::disconnect(&self.0, &by, request.into_inner()).await,
            Err(refusal) => Err(refusal),
        })
    }
}
