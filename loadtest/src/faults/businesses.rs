//! The businesses' side: they answer requests, or are slow, or silent, or gone; and they hear of devices
//! that come and go, and write down each word.

use super::cluster::{APP, BUSINESSES};
use super::history::History;
use super::proxy::{Proxy, Way};
use crate::office::{Office, echo};
use hawser_loadtest::judge::{Event, Kind};
use hawser_proto::rpc::business::business_server::Business;
use hawser_proto::rpc::business::connection_event;
use hawser_proto::rpc::business::{
    ConnectionEvents, ConnectionsHeard, HandleRequest, HandleResponse,
};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// How a business does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It answers at once, with the bytes it was given.
    Well,
    /// It takes this long for each.
    Slow(Duration),
    /// It never answers.
    Silent,
    /// It does not hear of connections: each call fails.
    Deaf,
}

/// One business's server, behind a proxy, so that it can die as a host does.
pub(crate) struct Branch {
    front: Proxy,
    office: Office,
    mood: watch::Sender<Mood>,
}

impl Branch {
    /// Opens the business with this number on a free port.
    pub(crate) async fn open(number: usize, history: Arc<History>) -> anyhow::Result<Self> {
        let (mood, seen) = watch::channel(Mood::Well);
        let desk = Desk { name: BUSINESSES[number], mood: seen, history };
        let office = Office::open(None, desk).await?;
        let front = Proxy::start_on(IpAddr::V4(Ipv4Addr::UNSPECIFIED), Way::To(office.at)).await?;
        Ok(Self { front, office, mood })
    }

    /// Where it answers; `apart`: for callers in namespaces, as a pattern for the harness's address.
    pub(crate) fn endpoint(&self, apart: bool) -> String {
        let port = self.front.address.port();
        if apart { format!("http://0.0.0.0:{port}") } else { format!("http://127.0.0.1:{port}") }
    }

    /// From now on.
    pub(crate) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Gone: its connections are reset, and so is whoever tries.
    pub(crate) fn die(&self) {
        self.front.set(Way::Reset);
    }

    /// Back where it was.
    pub(crate) fn come_back(&self) {
        self.front.set(Way::To(self.office.at));
    }
}

#[derive(Clone)]
struct Desk {
    name: &'static str,
    mood: watch::Receiver<Mood>,
    history: Arc<History>,
}

impl Desk {
    async fn work(&self) {
        let mood = *self.mood.borrow();
        match mood {
            Mood::Well | Mood::Deaf => {}
            Mood::Slow(time) => tokio::time::sleep(time).await,
            Mood::Silent => {
                let _ = self.mood.clone().wait_for(|now| *now != Mood::Silent).await;
            }
        }
    }
}

#[tonic::async_trait]
impl Business for Desk {
    async fn handle(
        &self,
        request: Request<HandleRequest>,
    ) -> Result<Response<HandleResponse>, Status> {
        self.work().await;
        Ok(echo(request))
    }

    async fn connections(
        &self,
        request: Request<ConnectionEvents>,
    ) -> Result<Response<ConnectionsHeard>, Status> {
        self.work().await;
        if *self.mood.borrow() == Mood::Deaf {
            return Err(Status::unavailable("deaf"));
        }
        for one in request.into_inner().events {
            let kind = match one.kind() {
                connection_event::Kind::Online => Kind::Online,
                connection_event::Kind::Offline => Kind::Offline,
                connection_event::Kind::Unspecified => continue,
            };
            let event = Event::new(0, kind).of(APP, &one.device, self.name);
            self.history.write(Event { epoch: one.epoch, node: one.connection_id, ..event });
        }
        Ok(Response::new(ConnectionsHeard {}))
    }
}
