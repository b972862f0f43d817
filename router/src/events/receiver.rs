//! The businesses, as they are called.

use super::spool::Whom;
use crate::auth::Known;
use crate::inbox::{Event, EventCause};
use hawser_chassis::callback::{self, Callbacks};
use hawser_proto::id::ConnId;
use hawser_proto::rpc::business::business_client::BusinessClient;
use hawser_proto::rpc::business::connection_event::{Cause, Kind};
use hawser_proto::rpc::business::{ConnectionEvent, ConnectionEvents};
use hawser_proto::rpc::control::Business;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tracing::warn;

/// A business has this long to say that it has heard, over all of its endpoints.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The answer says nothing; somebody may send more all the same.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why a business has not heard.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotHeard {
    #[error("the business has no endpoint that can be called")]
    NoEndpoint,
    #[error("the business did not answer in time")]
    Late,
    #[error("the business answered {0}")]
    Refused(tonic::Code),
}

/// All that were called.
pub(super) struct Receivers {
    callbacks: Callbacks,
    by_business: Mutex<HashMap<Whom, Arc<Receiver>>>,
}

struct Receiver {
    business: Arc<Business>,
    clients: Vec<BusinessClient<Channel>>,
    next: AtomicUsize,
}

impl Receiver {
    fn new(business: Arc<Business>, callbacks: &Callbacks) -> Self {
        let connect = |uri: &String| match callback::channel(uri, callbacks) {
            Ok(channel) => {
                Some(BusinessClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
            }
            Err(error) => {
                warn!(app = business.app, business = business.business, %error, "endpoint is not a usable address");
                None
            }
        };
        let clients = business.endpoints.iter().filter_map(connect).collect();
        Self { business, clients, next: AtomicUsize::new(0) }
    }

    /// All endpoints, another one first each time.
    fn clients(&self) -> impl Iterator<Item = BusinessClient<Channel>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.clients.len();
        (0..count).map(move |after| self.clients[turn.wrapping_add(after) % count].clone())
    }
}

impl Receivers {
    pub(super) fn new(callbacks: Callbacks) -> Self {
        Self { callbacks, by_business: Mutex::default() }
    }

    fn receiver(&self, known: &Known, whom: &Whom) -> Option<Arc<Receiver>> {
        let business = known.catalogue.business(&whom.0, whom.1)?;
        let mut all = self.by_business.lock();
        if let Some(receiver) = all.get(whom)
            && receiver.business == *business
        {
            return Some(receiver.clone());
        }
        all.retain(|(app, number), _| known.catalogue.business(app, *number).is_some());
        let receiver = Arc::new(Receiver::new(business.clone(), &self.callbacks));
        all.insert(whom.clone(), receiver.clone());
        Some(receiver)
    }

    /// Tells a business. Its endpoints are tried one after the other.
    pub(super) async fn tell(
        &self,
        known: &Known,
        whom: &Whom,
        events: Vec<ConnectionEvent>,
    ) -> Result<(), NotHeard> {
        let receiver = self.receiver(known, whom).ok_or(NotHeard::NoEndpoint)?;
        let deadline = Instant::now() + CALL_TIMEOUT;
        let request = ConnectionEvents {
            app: receiver.business.app.clone(),
            business: receiver.business.business.clone(),
            events,
        };
        let mut failure = NotHeard::NoEndpoint;
        for mut client in receiver.clients() {
            match tokio::time::timeout_at(deadline, client.connections(request.clone())).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) => failure = NotHeard::Refused(status.code()),
                Err(_) => return Err(NotHeard::Late),
            }
        }
        Err(failure)
    }
}

/// An event as a business is told of it.
pub(super) fn told(device: &str, event: &Event) -> ConnectionEvent {
    let owner = event.heard.owner.clone();
    let connection = ConnId { node: owner.node, boot: owner.boot, at: owner.at };
    let kind = if event.heard.is_online { Kind::Online } else { Kind::Offline };
    let cause = match event.cause {
        EventCause::None => Cause::Unspecified,
        EventCause::Closed => Cause::Closed,
        EventCause::Superseded => Cause::Superseded,
        EventCause::NodeLost => Cause::NodeLost,
    };
    ConnectionEvent {
        device: device.to_owned(),
        kind: kind.into(),
        epoch: event.heard.epoch,
        connection_id: connection.to_string(),
        time_ms: event.at_ms.cast_signed(),
        cause: cause.into(),
    }
}
