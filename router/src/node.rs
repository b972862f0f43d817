//! `hawser.node.v1`: the two streams that each access node keeps here.
//!
//! [`control`] carries binds, group reports, kicks and questions; [`deliver`] carries pushes, and what
//! nodes ask of the store ([`asks`]), so that the control stream stays free for binds and kicks. Both
//! begin with a Hello; everything that waits for a stream leaves together ([`outgoing`]).

pub(crate) mod asks;
pub(crate) mod control;
pub(crate) mod deliver;
pub(crate) mod outgoing;

use crate::core::Core;
use crate::node_leases::{self, Taken};
use crate::nodes::{Held, Life};
use control::ControlDownStream;
use deliver::DeliverDownStream;
use hawser_proto::id::{BootId, NodeId};
use hawser_proto::rpc::node::node_server::Node;
use hawser_proto::rpc::node::{ControlUp, DeliverUp, Hello};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// A stream whose Hello does not come is ended.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The service that access nodes dial.
#[derive(Clone)]
pub(crate) struct NodeService(pub(crate) Arc<Core>);

#[tonic::async_trait]
impl Node for NodeService {
    type ControlStream = ControlDownStream;
    type DeliverStream = DeliverDownStream;

    async fn control(
        &self,
        request: Request<Streaming<ControlUp>>,
    ) -> Result<Response<ControlDownStream>, Status> {
        let mut inbound = request.into_inner();
        let first = first(&mut inbound).await?;
        let life = self.admit(first.hello.as_ref()).await?;
        Ok(Response::new(control::open(&self.0, life, first, inbound)))
    }

    async fn deliver(
        &self,
        request: Request<Streaming<DeliverUp>>,
    ) -> Result<Response<DeliverDownStream>, Status> {
        let mut inbound = request.into_inner();
        let first = first(&mut inbound).await?;
        let life = self.admit(first.hello.as_ref()).await?;
        Ok(Response::new(deliver::open(&self.0, life, first, inbound)))
    }
}

impl NodeService {
    async fn admit(&self, hello: Option<&Hello>) -> Result<Arc<Life>, Status> {
        let hello =
            hello.ok_or_else(|| Status::invalid_argument("the first message is a hello"))?;
        let node = NodeId::new(&hello.node)
            .map_err(|why| Status::invalid_argument(format!("node: {why}")))?;
        let (core, boot) = (&self.0, BootId(hello.boot));
        let known = core.nodes.find(&node, boot, core.clock.steady_ms());
        let is_held =
            |life: &Arc<Life>| life.is_just_renewed(core.node_lease, core.clock.steady_ms());
        let taken = match known.filter(|life| is_held(life) && !life.has_left()) {
            Some(_) => Taken::Granted,
            None => node_leases::take(core, &node, boot).await,
        };
        if core.push_tasks.is_stopping() {
            return Err(Status::unavailable("this router is stopping"));
        }
        let admitted = match taken {
            Taken::Held => Err(Held),
            taken => {
                let is_granted = taken == Taken::Granted;
                core.nodes.admit(&node, boot, is_granted, core.clock.steady_ms())
            }
        };
        admitted.map_err(|held| {
            tracing::warn!(%node, %boot, "refused: {held}");
            Status::already_exists(held.to_string())
        })
    }
}

async fn first<M: Send + 'static>(inbound: &mut Streaming<M>) -> Result<M, Status> {
    tokio::time::timeout(HELLO_TIMEOUT, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no hello came"))??
        .ok_or_else(|| Status::invalid_argument("the stream ended before its hello"))
}
