//! The handle of one business: requests, pushes and groups on the shared connection.

use crate::client::{Call, CallRefused, Handle};
use crate::listener::{Listener, Pushes, Ring};
use crate::request::{DEADLINE_DEFAULT, Request};
use bytes::Bytes;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::GroupId;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Why a join or leave did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The access node refused.
    #[error("refused: {}", named(*status))]
    Refused {
        /// Error number of WIRE.md: `group_not_found`, `permission_denied`, `too_many_groups`, ..
        status: u32,
        /// What was said to people; may be empty.
        message: String,
    },
    /// No answer in time. A group that could not be joined in time is not joined later.
    #[error("no answer in time")]
    DeadlineExceeded,
    /// The app left the group while it was still being joined.
    #[error("left before the join was done")]
    Left,
    /// Too many calls wait already; slow down.
    #[error("too many calls are waiting")]
    QueueFull,
    /// Not the form of a group id: 1 to 128 bytes without control characters.
    #[error("not a group id")]
    Invalid,
    /// The client is closed, or was never started.
    #[error("the client is closed")]
    Closed,
}

impl GroupError {
    /// The published error, when the node gave one that this release knows.
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

/// One business on a client's connection. Cheap to clone. Keeps the client alive.
#[derive(Clone, Debug)]
pub struct Business {
    handle: Arc<Handle>,
    name: Arc<str>,
}

impl Business {
    pub(crate) fn new(handle: Arc<Handle>, name: Arc<str>) -> Self {
        Self { handle, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A request to the business; await it to send it. `method` says what is asked and is opaque to
    /// hawser, at most 128 bytes; so is `body`.
    pub fn request(&self, method: &str, body: impl Into<Bytes>) -> Request {
        Request::new(self.handle.clone(), self.name.clone(), method, body.into())
    }

    /// Listens for pushes of this business, to the device and to its groups, from now on: take it
    /// before connecting to miss none. Each listener gets every push. It holds 256 volatile ones and
    /// 1 MiB; a slow one loses the oldest and is told how many by [`crate::Push::missed`]. Stored
    /// pushes wait for it, and while it does not handle them no more are sent: see [`Pushes`].
    pub fn pushes(&self) -> Pushes {
        Pushes(self.subscribe(false))
    }

    /// As [`Self::pushes`], and also word of memberships that ended unasked, of stored pushes that
    /// will not come, and of histories that have gone.
    pub fn listen(&self) -> Listener {
        Listener(self.subscribe(true))
    }

    /// Joins a group of this business, and stays in it over reconnects until [`Self::leave`], or
    /// until the business ends the membership, which [`Self::listen`] tells. Joining twice is fine.
    /// Offline, it waits for the connection, 10 s in all. Dropping the future does not undo the join.
    pub async fn join(&self, group: &str) -> Result<(), GroupError> {
        let group = checked(group)?;
        let business = self.name.clone();
        self.call(|deadline, reply| Call::Join { business, group, deadline, reply }).await
    }

    /// Leaves a group. Fine when not in it; offline it is done at once.
    pub async fn leave(&self, group: &str) -> Result<(), GroupError> {
        let group = checked(group)?;
        self.call(|deadline, reply| Call::Leave { group, deadline, reply }).await
    }

    async fn call(
        &self,
        call: impl FnOnce(std::time::Instant, oneshot::Sender<Result<(), GroupError>>) -> Call,
    ) -> Result<(), GroupError> {
        let (reply, answer) = oneshot::channel();
        let deadline = (Instant::now() + DEADLINE_DEFAULT).into_std();
        self.handle.call(call(deadline, reply)).map_err(|refused| match refused {
            CallRefused::Full => GroupError::QueueFull,
            CallRefused::Closed => GroupError::Closed,
        })?;
        answer.await.unwrap_or(Err(GroupError::Closed))
    }

    fn subscribe(&self, with_words: bool) -> Arc<Ring> {
        self.handle.shared.listeners.add(&self.name, with_words)
    }
}

fn checked(group: &str) -> Result<String, GroupError> {
    GroupId::new(group).map(|id| id.as_str().to_owned()).map_err(|_| GroupError::Invalid)
}
