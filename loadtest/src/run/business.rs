//! A business of the scenario: it answers requests with what it was given, after its time, or fails, or
//! never answers.

use crate::crowd::plan::Spread;
use crate::office::{Office, echo};
use crate::scenario::Business as Wanted;
use anyhow::Context;
use hawser_proto::rpc::business::business_server::Business;
use hawser_proto::rpc::business::{
    ConnectionEvents, ConnectionsHeard, HandleRequest, HandleResponse,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Whoever asks gives up long before.
const STALL: Duration = Duration::from_mins(2);

/// Opens it where the scenario says, else on a free port of loopback.
pub(super) async fn open(wanted: &Wanted, seed: u64) -> anyhow::Result<Office> {
    let desk = Desk {
        delay: wanted.delay(),
        stalls: wanted.stalls,
        fails: wanted.fails,
        dice: Mutex::new(SmallRng::seed_from_u64(seed)),
    };
    let office = Office::open(wanted.listen, desk).await;
    office.with_context(|| format!("businesses: {}", wanted.name))
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
        Ok(echo(request))
    }

    async fn connections(
        &self,
        _: Request<ConnectionEvents>,
    ) -> Result<Response<ConnectionsHeard>, Status> {
        Ok(Response::new(ConnectionsHeard {}))
    }
}
