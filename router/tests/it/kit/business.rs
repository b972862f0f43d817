//! The server of a business that hears who comes and goes.

use super::control::FakeControl;
use super::eventually;
use hawser_chassis::grpc;
use hawser_proto::rpc::business::business_server::{Business, BusinessServer};
use hawser_proto::rpc::business::connection_event::{Cause, Kind};
use hawser_proto::rpc::business::{
    ConnectionEvent, ConnectionEvents, ConnectionsHeard, HandleRequest, HandleResponse,
};
use hawser_router::Running;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What it does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Hears,
    /// Says that it failed.
    Fails,
    /// Says nothing until the mood is another.
    Hangs,
    /// Notes it, and says nothing.
    Mute,
}

pub struct FakeBusiness {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    heard: Arc<Mutex<Vec<ConnectionEvent>>>,
    calls: Arc<Mutex<u64>>,
    serving: tokio::task::AbortHandle,
}

struct Service {
    app: String,
    business: String,
    mood: watch::Receiver<Mood>,
    heard: Arc<Mutex<Vec<ConnectionEvent>>>,
    calls: Arc<Mutex<u64>>,
}

impl FakeBusiness {
    /// One of the businesses of `demo`.
    pub async fn start(business: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mood = watch::Sender::new(Mood::Hears);
        let (heard, calls) = (Arc::default(), Arc::default());
        let service = Service {
            app: "demo".to_owned(),
            business: business.to_owned(),
            mood: mood.subscribe(),
            heard: Arc::clone(&heard),
            calls: Arc::clone(&calls),
        };
        let serving = grpc::server()
            .add_service(BusinessServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let serving = tokio::spawn(serving).abort_handle();
        Self { address, mood, heard, calls, serving }
    }

    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Calls that came, whatever became of them.
    pub fn calls(&self) -> u64 {
        *self.calls.lock().expect("no test panics here")
    }

    /// All events so far of calls that did not fail, as `a +7`, `a -7 closed`: device, kind, number of the session
    /// in the order of this list, cause.
    pub fn said(&self, epochs: &[u64]) -> Vec<String> {
        let heard = self.heard.lock().expect("no test panics here");
        heard.iter().map(|event| text(event, epochs)).collect()
    }

    pub fn events(&self) -> Vec<ConnectionEvent> {
        self.heard.lock().expect("no test panics here").clone()
    }

    /// Waits until it has heard this much, and checks that it is this.
    pub async fn hears(&self, epochs: &[u64], wanted: &[&str]) {
        let seen = eventually(async || {
            let seen = self.said(epochs);
            (seen.len() >= wanted.len()).then_some(seen)
        });
        assert_eq!(seen.await, wanted);
    }
}

impl Drop for FakeBusiness {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn text(event: &ConnectionEvent, epochs: &[u64]) -> String {
    let number = epochs.iter().position(|&epoch| epoch == event.epoch);
    let session = number.map_or_else(|| "?".to_owned(), |at| (at + 1).to_string());
    let device = &event.device;
    match (event.kind(), event.cause()) {
        (Kind::Online, Cause::Unspecified) => format!("{device} +{session}"),
        (Kind::Offline, Cause::Closed) => format!("{device} -{session} closed"),
        (Kind::Offline, Cause::Superseded) => format!("{device} -{session} superseded"),
        (Kind::Offline, Cause::NodeLost) => format!("{device} -{session} lost"),
        other => panic!("{other:?}"),
    }
}

#[tonic::async_trait]
impl Business for Service {
    async fn handle(
        &self,
        _request: Request<HandleRequest>,
    ) -> Result<Response<HandleResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn connections(
        &self,
        request: Request<ConnectionEvents>,
    ) -> Result<Response<ConnectionsHeard>, Status> {
        let told = request.into_inner();
        assert_eq!((&told.app, &told.business), (&self.app, &self.business));
        assert!(!told.events.is_empty() && told.events.len() <= 256);
        *self.calls.lock().expect("no test panics here") += 1;
        let mood =
            *self.mood.clone().wait_for(|mood| *mood != Mood::Hangs).await.expect("it lives");
        if mood == Mood::Fails {
            return Err(Status::unavailable("on purpose"));
        }
        if mood == Mood::Mute {
            self.heard.lock().expect("no test panics here").extend(told.events);
            let _ = self.mood.clone().wait_for(|mood| *mood != Mood::Mute).await;
            return Err(Status::unavailable("its answer is lost"));
        }
        self.heard.lock().expect("no test panics here").extend(told.events);
        Ok(Response::new(ConnectionsHeard {}))
    }
}

/// Has businesses of `demo` ask for events, each at its server.
pub async fn watch(control: &FakeControl, router: &[&Running], asking: &[(&str, &FakeBusiness)]) {
    let mut revision = 0;
    // A snapshot is every other revision.
    for _ in 0..2 {
        revision = control.change(|all| {
            for business in &mut all.businesses {
                let server = asking.iter().find(|(name, _)| *name == business.business);
                if let Some((_, server)) = server
                    && business.app == "demo"
                {
                    business.endpoints = vec![server.uri()];
                    business.connection_events = true;
                }
            }
        });
    }
    for router in router {
        super::within(router.catalogue(revision)).await;
    }
}
