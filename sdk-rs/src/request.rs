//! Requests to a business, and their answers.

use crate::client::{Call, CallRefused, Handle};
use crate::session::calls::Ask;
use bytes::Bytes;
use hawser_proto::code::ErrorCode;
use hawser_proto::frame::check_metadata;
use hawser_proto::limits::METHOD_BYTES_MAX;
use std::collections::HashMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a request waits when nothing else is said, waiting for a connection included.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
/// A W3C trace context is 55 bytes; later versions may be longer.
const TRACEPARENT_BYTES_MAX: usize = 128;

/// The answer of a business. The body is opaque to hawser.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Bytes of the business.
    pub body: Bytes,
    /// Small facts beside the body.
    pub metadata: HashMap<String, String>,
}

/// Why a request has no answer. `outcome_is_known` tells whether the business may have seen it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The access node or the business answered with an error.
    #[error("refused: {}", named(*status))]
    Refused {
        /// Error number of WIRE.md.
        status: u32,
        /// What was said to people; may be empty.
        message: String,
    },
    /// No answer in time. When the client was offline all along, the request was never sent.
    #[error("no answer in time")]
    DeadlineExceeded,
    /// The link ended after the request was written: the business may have seen it or not.
    #[error("the connection was lost before the answer")]
    ConnectionLost,
    /// Too many requests wait already; slow down.
    #[error("too many requests are waiting")]
    QueueFull,
    /// The frame is above the limit of this connection.
    #[error("the request is above the limit of {max} bytes")]
    TooLarge {
        /// The limit in force, everything included.
        max: usize,
    },
    /// The request breaks a rule of the wire and was not sent.
    #[error("{0}")]
    Invalid(&'static str),
    /// The client is closed, or was never started.
    #[error("the client is closed")]
    Closed,
}

impl RequestError {
    /// The published error, when the node or the business gave one that this release knows.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { status, .. } => ErrorCode::from_number(*status),
            _ => None,
        }
    }
}

fn named(status: u32) -> String {
    ErrorCode::from_number(status).map_or_else(|| status.to_string(), |code| code.to_string())
}

/// A request that is sent when awaited. Made by [`crate::Business::request`].
///
/// ```no_run
/// # async fn example(chat: hawser_sdk::Business) -> Result<(), hawser_sdk::RequestError> {
/// let answer = chat.request("say", "hello").metadata("room", "lobby").await?;
/// # Ok(()) }
/// ```
/// Offline, it waits for the connection within its deadline. It is written at most once. Dropping the
/// future is fine: the answer, if one comes, is thrown away.
#[must_use = "a request is sent when awaited"]
pub struct Request {
    handle: Arc<Handle>,
    business: Arc<str>,
    method: String,
    metadata: HashMap<String, String>,
    traceparent: String,
    body: Bytes,
    deadline: Duration,
}

impl Request {
    pub(crate) fn new(handle: Arc<Handle>, business: Arc<str>, method: &str, body: Bytes) -> Self {
        Self {
            handle,
            business,
            method: method.to_owned(),
            metadata: HashMap::new(),
            traceparent: String::new(),
            body,
            deadline: DEADLINE_DEFAULT,
        }
    }

    /// Adds a small fact beside the body: at most 32 of them and 4 KiB in all.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// How long to wait, from the moment it is awaited. The access node and the business are told
    /// what is left of it. Default [`DEADLINE_DEFAULT`].
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// A W3C trace context that the business will see.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = traceparent.into();
        self
    }

    async fn send(self) -> Result<Response, RequestError> {
        if self.method.len() > METHOD_BYTES_MAX {
            return Err(RequestError::Invalid("the method is above 128 bytes"));
        }
        if self.traceparent.len() > TRACEPARENT_BYTES_MAX {
            return Err(RequestError::Invalid("the trace context is above 128 bytes"));
        }
        check_metadata(&self.metadata).map_err(RequestError::Invalid)?;
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            business: self.business,
            method: self.method,
            metadata: self.metadata,
            traceparent: self.traceparent,
            body: self.body,
            deadline: (Instant::now() + self.deadline).into_std(),
        };
        self.handle.call(Call::Request(ask, reply)).map_err(|refused| match refused {
            CallRefused::Full => RequestError::QueueFull,
            CallRefused::Closed => RequestError::Closed,
        })?;
        // The driver keeps the deadline, so that requests need no timers of their own. It drops what
        // it has not answered only when it ends.
        answer.await.unwrap_or(Err(RequestError::Closed))
    }
}

impl IntoFuture for Request {
    type Output = Result<Response, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { business, method, deadline, .. } = self;
        f.debug_struct("Request")
            .field("business", business)
            .field("method", method)
            .field("deadline", deadline)
            .finish_non_exhaustive()
    }
}
