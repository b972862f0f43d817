//! What a session is told and what it wants done.

use crate::advice::{AccessPoint, Advice, Protocol};
use crate::backoff::Settings;
use crate::business::GroupError;
use crate::incoming::{GroupReset, Incoming, Left, Push};
use crate::link::Heard;
use crate::request::{RequestError, Response};
use crate::session::calls::Ask;
use crate::state::{Reason, State};
use crate::storage::Installation;
use bytes::Bytes;
use hawser_proto::code::Retry;
use hawser_proto::codec::{FrameError, RawFrame, Terms};
use hawser_proto::id::Position;
use hawser_proto::params;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What never changes in a session's life.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The app's id.
    pub app: String,
    /// The device's id.
    pub device: String,
    /// By name; empty: all that the token allows.
    pub businesses: Vec<Arc<str>>,
    /// What the device says of itself.
    pub client: params::Client,
    /// Only these protocols, if any are named.
    pub protocols: Vec<Protocol>,
    /// Until control says otherwise.
    pub backoff: Settings,
    /// Instead of asking control.
    pub pinned: Option<Advice>,
}

/// Why an access call gave nothing.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// For people.
    pub reason: Reason,
    /// What to do about it.
    pub retry: Retry,
    /// The time that was told; zero: none.
    pub retry_after: Duration,
}

/// Everything that can happen to a session.
#[derive(Debug)]
pub enum Event {
    /// Begin.
    Start,
    /// The app wants it to end.
    Stop,
    /// The access call ended.
    Advised(Result<Advice, Refusal>),
    /// The dial ended; the failure is for people.
    Dialled(Result<(), String>),
    /// The node sent this.
    Frame(RawFrame),
    /// What came is no frame.
    Broken(FrameError),
    /// The link ended, with the transport's own close code if it had one.
    Ended(Option<u16>),
    /// The other link of a move: the one under way, and then the one that is left.
    Beside(Heard),
    /// The time of [`super::Session::wake_at`] has come.
    Due,
    /// The app asks a business: id, request.
    Request(u64, Ask),
    /// The app wants into a group: id, business, group, deadline.
    Join(u64, Arc<str>, String, Instant),
    /// The app wants out of a group: id, group, deadline.
    Leave(u64, String, Instant),
    /// The app has handled every [`Action::Shelve`] of the business up to this number.
    Handled(Arc<str>, u64),
    /// [`Action::Keep`] has ended: true, the cursors are kept.
    Kept(bool),
}

/// Everything a session can want done. In this order, and without waiting.
#[derive(Debug)]
pub enum Action {
    /// Make the access call; answer with [`Event::Advised`].
    Ask,
    /// Keep the attempt, then dial; answer with [`Event::Dialled`].
    Dial(AccessPoint, Installation),
    /// The same for a second link, beside the one in use.
    DialBeside(AccessPoint, Installation),
    /// Drop the link in use, and the call or dial under way.
    HangUp,
    /// Drop the other link, and the call or dial under way.
    HangUpBeside,
    /// The link beside is the one in use from now on, and the one in use the other.
    Swap,
    /// Queue on the other link.
    SendBeside(Bytes),
    /// Queue on the link in use.
    Send(Bytes),
    /// What the node may send from now on: the largest frame, and whether bodies may come compressed.
    Limit(Terms),
    /// Tell the app.
    Tell(State),
    /// A request has ended.
    Answer(u64, Result<Response, RequestError>),
    /// A join or leave has ended.
    Grouped(u64, Result<(), GroupError>),
    /// A volatile push, or one of a group: hand it over, or drop it where the app is slow.
    Push(Arc<str>, Push),
    /// A membership ended.
    Left(Arc<str>, Left),
    /// What a group has missed is no longer in its history.
    Reset(Arc<str>, GroupReset),
    /// A stored push, or word of its inbox. Hand them over in the order of their numbers, each once
    /// in the life of [`super::inbox::Inboxes`]; answer with [`Event::Handled`].
    Shelve(Arc<str>, u64, Incoming),
    /// Keep these cursors, all there are, instead of what was kept of the businesses in the second
    /// list, whose cursors were refused; answer with [`Event::Kept`]. One at a time.
    Keep(Vec<(Arc<str>, Position)>, Vec<Arc<str>>),
}
