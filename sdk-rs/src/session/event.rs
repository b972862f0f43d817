//! What a session is told and what it wants done.

use crate::advice::{AccessPoint, Advice, Protocol};
use crate::backoff::Settings;
use crate::business::GroupError;
use crate::listener::{Left, Push};
use crate::request::{RequestError, Response};
use crate::session::calls::Ask;
use crate::state::{Reason, State};
use crate::storage::Installation;
use bytes::Bytes;
use hawser_proto::code::Retry;
use hawser_proto::codec::{FrameError, RawFrame};
use hawser_proto::params;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What never changes in a session's life.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) app: String,
    pub(crate) device: String,
    /// By name; empty: all that the token allows.
    pub(crate) businesses: Vec<Arc<str>>,
    pub(crate) client: params::Client,
    /// Only these protocols, if any are named.
    pub(crate) protocols: Vec<Protocol>,
    /// Until control says otherwise.
    pub(crate) backoff: Settings,
    /// Instead of asking control.
    pub(crate) pinned: Option<Advice>,
}

/// Why an access call gave nothing.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) retry: Retry,
    pub(crate) retry_after: Duration,
}

/// Everything that can happen to a session.
#[derive(Debug)]
pub(crate) enum Event {
    Start,
    /// The app wants it to end.
    Stop,
    /// The access call ended.
    Advised(Result<Advice, Refusal>),
    /// The dial ended; the failure is for people.
    Dialled(Result<(), String>),
    Frame(RawFrame),
    /// What came is no frame.
    Broken(FrameError),
    /// The link ended, with the transport's own close code if it had one.
    Ended(Option<u16>),
    /// The time of [`super::Session::wake_at`] has come.
    Due,
    Request(u64, Ask),
    Join(u64, Arc<str>, String, Instant),
    Leave(u64, String, Instant),
}

/// Everything a session can want done. In this order, and without waiting.
#[derive(Debug)]
pub(crate) enum Action {
    /// Make the access call; answer with [`Event::Advised`].
    Ask,
    /// Keep the attempt, then dial; answer with [`Event::Dialled`].
    Dial(AccessPoint, Installation),
    /// Drop the link, and the call or dial under way.
    HangUp,
    /// Queue on the link.
    Send(Bytes),
    /// The largest frame the node may send from now on.
    Limit(usize),
    /// Tell the app.
    Tell(State),
    Answer(u64, Result<Response, RequestError>),
    Grouped(u64, Result<(), GroupError>),
    Push(Arc<str>, Push),
    Left(Arc<str>, Left),
}
