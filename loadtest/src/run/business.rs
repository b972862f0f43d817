//! A business of the scenario: it answers requests with what it was given, after its time, or fails, or
//! never answers.

use crate::crowd::plan::Spread;
use crate::scenario::Business as Wanted;
use anyhow::Context;
use hawser_proto::rpc::business::business_server::{Business, BusinessServer};
use hawser_proto::rpc::business::{
    ConnectionEvents, ConnectionsHeard, HandleRequest, HandleResponse,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Whoever asks gives up long before.
const STALL: Duration = Duration::from_mins(2);

/// One business's server.
pub(super) struct Office {
    at: SocketAddr,
    /// Aborted with it.
    _task: JoinSet<()>,
}

impl Office {
    /// Opens it where the scenario says, else on a free port of loopback.
    pub(super) async fn open(wanted: &Wanted, seed: u64) -> anyhow::Result<Self> {
        let at = wanted.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
        let listener = TcpListener::bind(at)
            .await
            .with_context(|| format!("business {} cannot listen on {at}", wanted.name))?;
        let at = listener.local_addr()?;
        let desk = Desk {
            delay: wanted.delay(),
            stalls: wanted.stalls,
            fails: wanted.fails,
            dice: Mutex::new(SmallRng::seed_from_u64(seed)),
        };
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
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.at)
    }
}

struct Desk {
    delay: Spread,
    stalls: f64,
    fails: f64,
    dice: Mutex<SmallRng>,
}

impl Desk {
    fn dice(&self) -> (f64, f64) {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        (dice.random(), dice.random())
    }
}

#[tonic::async_trait]
impl Business for Desk {
    async fn handle(
        &self,
        request: Request<HandleRequest>,
    ) -> Result<Response<HandleResponse>, Status> {
        let (fate, time) = self.dice();
        if fate < self.stalls {
            tokio::time::sleep(STALL).await;
        }
        let delay = self.delay.draw(time);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if fate < self.stalls + self.fails {
            return Err(Status::internal("as the scenario says"));
        }
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
