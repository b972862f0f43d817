//! A link to an access point: frames in, frames out, whatever carries them.
//!
//! The client's task is its only user. Nothing here knows what a frame means.

mod dialer;
mod pipe;
mod stream;
mod websocket;

pub(crate) use dialer::DialError;
pub use dialer::{Dialer, TrustError};
pub(crate) use pipe::Pipe;

use bytes::Bytes;
use hawser_proto::codec::{FrameError, RawFrame, Terms};
use std::task::{Context, Poll};
use stream::StreamLink;
use websocket::WebSocketLink;

/// What a link tells.
#[derive(Debug)]
pub enum Heard {
    /// A whole frame.
    Frame(RawFrame),
    /// What came is no frame; nothing more can be read.
    Broken(FrameError),
    /// It is over, with the transport's own close code if it had one.
    Ended(Option<u16>),
}

/// One link.
pub(crate) enum Link {
    Stream(StreamLink),
    WebSocket(Box<WebSocketLink>),
}

impl Link {
    /// Queues a frame; [`Self::next`] writes it. The session bounds what is on the wire, and so this
    /// queue: 64 requests, 16 group calls, a heartbeat, an ACK per 16 pushes of a window or 200 ms, and
    /// one RESYNC or RECOVER per inbox or group and 5 s.
    pub(crate) fn send(&mut self, frame: Bytes) {
        match self {
            Self::Stream(link) => link.send(frame),
            Self::WebSocket(link) => link.send(frame),
        }
    }

    /// Sets what is taken from now on. Frames are told with their bodies plain, however they came.
    pub(crate) fn limit(&mut self, terms: Terms) {
        match self {
            Self::Stream(link) => link.limit(terms),
            Self::WebSocket(link) => link.limit(terms),
        }
    }

    /// Writes what is queued, and the next thing heard. Cancel-safe: a partial frame stays here.
    pub(crate) async fn next(&mut self) -> Heard {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        match self {
            Self::Stream(link) => link.poll(cx),
            Self::WebSocket(link) => link.poll(cx),
        }
    }
}
