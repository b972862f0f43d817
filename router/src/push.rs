//! `hawser.push.v1`: what business backends call.
//!
//! Each call is authenticated here, done in a neighbour, and answered or refused with a published code:
//! [`unicast`] and [`stored`] for devices, [`fanout`] and [`history`] for groups and broadcasts, [`groups`],
//! [`presence`], [`inboxes`].

pub(crate) mod encoded;
mod fanout;
mod groups;
pub(crate) mod history;
mod inboxes;
mod message;
mod presence;
mod stored;
mod unicast;

use crate::auth::{Credential, KeyDigest, shown};
use crate::core::Core;
use crate::functions::Functions;
use crate::refusal::Refusal;
use crate::turns::Turns;
use futures_util::{Stream, StreamExt as _};
use hawser_proto::code::ErrorCode;
use hawser_proto::rpc::control::Scope;
use hawser_proto::rpc::node::membership::Change;
use hawser_proto::rpc::push::push_server::Push;
use hawser_proto::rpc::push::{
    BatchUnicastRequest, BatchUnicastResponse, BroadcastProgress, BroadcastRequest,
    CreateGroupRequest, DeleteGroupRequest, DeleteGroupResponse, DescribeDeviceRequest,
    DescribeGroupRequest, DeviceInfo, DisconnectRequest, DisconnectResponse, GroupInfo, InboxInfo,
    InboxRequest, ListGroupsRequest, ListGroupsResponse, MembershipRequest, MembershipResponse,
    MulticastRequest, MulticastResponse, Outcome, PresenceRequest, PresenceResponse,
    PurgeInboxResponse, UnicastRequest, UnicastResponse,
};
use message::Kept;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tonic::service::Interceptor;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

/// Messages of one stream that wait for reports at the same time.
const STREAM_MESSAGES_IN_FLIGHT: usize = 64;

/// The service that backends call.
#[derive(Clone)]
pub(crate) struct PushService(pub(crate) Arc<Core>);

/// Refuses calls without a known key before a byte of their message is read.
#[derive(Clone)]
pub(crate) struct Authenticate(pub(crate) Arc<Core>);

impl Interceptor for Authenticate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let known = shown(request.metadata()).and_then(|key| {
            self.0.known.load().check(&key, self.0.clock.now_ms())?;
            Ok(key)
        });
        match known {
            Ok(key) => {
                request.extensions_mut().insert(key);
                Ok(request)
            }
            Err(refusal) => Err(self.0.refuse(refusal)),
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl PushService {
    fn caller(
        &self,
        call: &Extensions,
        function: Functions,
        scope: Scope,
    ) -> Result<Arc<Credential>, Refusal> {
        self.0.functions.must_do(function)?;
        self.0.caller(key_of(call)?, scope)
    }

    /// Wraps up: an answer, or a status with its published code, counted.
    fn finish<T>(&self, done: Result<T, Refusal>) -> Result<Response<T>, Status> {
        done.map(Response::new).map_err(|refusal| self.0.refuse(refusal))
    }

    /// A message of a stream that could not be read ends it, with the published code.
    fn broken(&self, status: Status) -> Status {
        match status.code() {
            Code::OutOfRange => self.0.refuse(Refusal::too_large("a message above 4 MiB")),
            Code::Internal => self.0.refuse(Refusal::invalid("a message that cannot be read")),
            _ => status,
        }
    }

    async fn batch(
        &self,
        call: &Extensions,
        request: BatchUnicastRequest,
    ) -> Result<BatchUnicastResponse, Refusal> {
        let by = self.caller(call, Functions::PUSH, Scope::Push)?;
        self.submit(&by, request, None)?.wait(&self.0).await
    }

    /// Checks a batch and takes it on. `turns`: of the stream that it came on.
    fn submit(
        &self,
        by: &Credential,
        request: BatchUnicastRequest,
        turns: Option<&Arc<Turns>>,
    ) -> Result<Submitted, Refusal> {
        Ok(match message::class(request.class, request.store.as_ref())? {
            Kept::Volatile => Submitted::Volatile(unicast::submit(&self.0, by, request)?),
            Kept::Stored => Submitted::Stored(stored::submit(&self.0, by, request, turns)?),
        })
    }

    async fn membership(
        &self,
        request: Request<MembershipRequest>,
        change: Change,
    ) -> Result<Response<MembershipResponse>, Status> {
        let by = self.caller(request.extensions(), Functions::PUSH, Scope::Group);
        self.finish(match by {
            Ok(by) => groups::change(&self.0, &by, request.into_inner(), change).await,
            Err(refusal) => Err(refusal),
        })
    }

    /// One message of a stream: sent on its way now, or queued behind what is stored for the same devices, in
    /// order; what is returned only waits.
    fn step(
        &self,
        key: &KeyDigest,
        turns: &Arc<Turns>,
        message: Result<BatchUnicastRequest, Status>,
    ) -> impl Future<Output = Result<BatchUnicastResponse, Status>> + Send + use<> {
        let taken = message.map_err(|status| self.broken(status)).and_then(|request| {
            // Asked anew for each message: a key that was taken back ends the stream.
            let by = self.0.caller(key, Scope::Push).map_err(|refusal| self.0.refuse(refusal))?;
            let tag = request.tag;
            Ok((tag, self.submit(&by, request, Some(turns))))
        });
        let service = self.clone();
        async move {
            let (tag, submitted) = taken?;
            let answered = match submitted {
                Ok(submitted) => submitted.wait(&service.0).await,
                Err(refusal) => Err(refusal),
            };
            match answered {
                Ok(answer) => Ok(answer),
                Err(refusal) => {
                    let (error, error_message) = (refusal.code.number(), refusal.to_string());
                    let _counted = service.0.refuse(refusal);
                    Ok(BatchUnicastResponse { tag, error, error_message, ..Default::default() })
                }
            }
        }
    }
}

/// A batch that was taken on.
enum Submitted {
    Volatile(unicast::Submitted),
    Stored(stored::Submitted),
}

impl Submitted {
    async fn wait(self, core: &Arc<Core>) -> Result<BatchUnicastResponse, Refusal> {
        match self {
            Self::Volatile(submitted) => Ok(submitted.wait(core).await),
            Self::Stored(submitted) => submitted.wait(core).await,
        }
    }
}

/// The answer to a push to one device, of which a push id used twice is no outcome but a mistake.
fn single(answer: BatchUnicastResponse) -> Result<UnicastResponse, Refusal> {
    let stored = answer.stored.into_iter().next();
    let reused = ErrorCode::PushIdReused;
    if stored.is_some_and(|stored| stored.error == reused.number()) {
        return Err(Refusal::new(reused, "push_id: used for another content"));
    }
    let outcome = answer.outcomes.first().copied().unwrap_or(Outcome::Unknown.into());
    Ok(UnicastResponse { outcome, push_id: answer.push_id, stored })
}

/// The key that [`Authenticate`] saw.
fn key_of(call: &Extensions) -> Result<&KeyDigest, Refusal> {
    let missing = || Refusal::new(ErrorCode::Unauthenticated, "the business key is missing");
    call.get::<KeyDigest>().ok_or_else(missing)
}

#[tonic::async_trait]
impl Push for PushService {
    async fn unicast(
        &self,
        request: Request<UnicastRequest>,
    ) -> Result<Response<UnicastResponse>, Status> {
        let started = Instant::now();
        let (_, call, request) = request.into_parts();
        let done = self.batch(&call, unicast::single(request)).await;
        self.0.metrics.unicast_seconds.observe(started.elapsed().as_secs_f64());
        self.finish(done.and_then(single))
    }

    async fn batch_unicast(
        &self,
        request: Request<BatchUnicastRequest>,
    ) -> Result<Response<BatchUnicastResponse>, Status> {
        let started = Instant::now();
        let (_, call, request) = request.into_parts();
        let done = self.batch(&call, request).await;
        self.0.metrics.batch_seconds.observe(started.elapsed().as_secs_f64());
        self.finish(done)
    }

    type StreamUnicastStream = Answers<BatchUnicastResponse>;

    async fn stream_unicast(
        &self,
        request: Request<Streaming<BatchUnicastRequest>>,
    ) -> Result<Response<Self::StreamUnicastStream>, Status> {
        let call = request.extensions();
        let opened =
            self.caller(call, Functions::PUSH, Scope::Push).and_then(|_| key_of(call).copied());
        let key = opened.map_err(|refusal| self.0.refuse(refusal))?;
        let (service, turns) = (self.clone(), Arc::new(Turns::default()));
        let answers = request
            .into_inner()
            .take_until(self.0.push_tasks.stop_signal().cancelled_owned())
            .map(move |message| service.step(&key, &turns, message))
            .buffered(STREAM_MESSAGES_IN_FLIGHT);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn multicast(
        &self,
        request: Request<MulticastRequest>,
    ) -> Result<Response<MulticastResponse>, Status> {
        let started = Instant::now();
        let done = match self.caller(request.extensions(), Functions::PUSH, Scope::Push) {
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
            .caller(request.extensions(), Functions::PUSH, Scope::Push)
            .and_then(|by| fanout::broadcast(&self.0, &by, request.into_inner()));
        self.finish(begun.map(|progress| Box::pin(progress) as Self::BroadcastStream))
    }

    async fn create_group(
        &self,
        request: Request<CreateGroupRequest>,
    ) -> Result<Response<GroupInfo>, Status> {
        self.finish(match self.caller(request.extensions(), Functions::PUSH, Scope::Group) {
            Ok(by) => groups::create(&self.0, &by, request.into_inner()).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        let done = match self.caller(request.extensions(), Functions::PUSH, Scope::Group) {
            Ok(by) => groups::delete(&self.0, &by, &request.get_ref().group).await,
            Err(refusal) => Err(refusal),
        };
        self.finish(done.map(|()| DeleteGroupResponse {}))
    }

    async fn describe_group(
        &self,
        request: Request<DescribeGroupRequest>,
    ) -> Result<Response<GroupInfo>, Status> {
        self.finish(match self.caller(request.extensions(), Functions::PUSH, Scope::Group) {
            Ok(by) => groups::describe(&self.0, &by, &request.get_ref().group).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        self.finish(match self.caller(request.extensions(), Functions::PUSH, Scope::Group) {
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
        self.finish(match self.caller(request.extensions(), Functions::LOGINS, Scope::Presence) {
            Ok(by) => presence::presence(&self.0, &by, request.into_inner()).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn describe_device(
        &self,
        request: Request<DescribeDeviceRequest>,
    ) -> Result<Response<DeviceInfo>, Status> {
        self.finish(match self.caller(request.extensions(), Functions::LOGINS, Scope::Presence) {
            Ok(by) => presence::describe(&self.0, &by, request.into_inner().device).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn disconnect(
        &self,
        request: Request<DisconnectRequest>,
    ) -> Result<Response<DisconnectResponse>, Status> {
        self.finish(match self.caller(request.extensions(), Functions::LOGINS, Scope::Admin) {
            Ok(by) => presence::disconnect(&self.0, &by, request.into_inner()).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn describe_inbox(
        &self,
        request: Request<InboxRequest>,
    ) -> Result<Response<InboxInfo>, Status> {
        self.finish(match self.caller(request.extensions(), Functions::INBOX, Scope::Presence) {
            Ok(by) => inboxes::describe(&self.0, &by, request.into_inner().device).await,
            Err(refusal) => Err(refusal),
        })
    }

    async fn purge_inbox(
        &self,
        request: Request<InboxRequest>,
    ) -> Result<Response<PurgeInboxResponse>, Status> {
        self.finish(match self.caller(request.extensions(), Functions::INBOX, Scope::Push) {
            Ok(by) => inboxes::purge(&self.0, &by, &request.get_ref().device).await,
            Err(refusal) => Err(refusal),
        })
    }
}
