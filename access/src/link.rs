//! A link: bytes in, bytes out, whatever the transport. Four ways to dial end here, and a fifth would
//! touch no session rule.
//!
//! A link lives in its connection's slot, behind the slot's lock, so every method is synchronous and
//! short. Waiting is done by the connection's task, through the `poll_` methods.

mod quic;
mod tcp;
mod tls;

pub(crate) use quic::QuicLink;
pub(crate) use tcp::{Readiness, TcpLink};
pub(crate) use tls::TlsLink;

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::task::{Context, Poll, Waker};

/// How a device dialled. For metrics, logs and session facts only; no rule depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Dialled {
    Tcp,
    Tls,
    Quic,
    Ws,
    Wss,
    /// Handed in by whoever started the node, see `Running::attach`.
    Attached,
}

impl Dialled {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Attached => "attached",
        }
    }
}

/// What a transport other than plain TCP does for its link. All methods are called under the lock of
/// the connection's slot: they must be short and must not wait.
///
/// The bytes are frames that follow each other, as on TCP (WIRE.md, "Transports").
pub trait Transport: Send {
    /// Reads what has arrived. Ready(0): the peer has ended its side.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>>;
    /// Writes what can be taken now. `WouldBlock`: nothing; `waker` is woken when it may get further,
    /// or [`Transport::poll_flush`] tells.
    fn try_write(&mut self, waker: &Waker, bytes: &[u8]) -> io::Result<usize>;
    /// The transport holds bytes of its own that have not left (TLS records).
    fn is_holding(&self) -> bool;
    /// Ready when nothing is held and [`Transport::try_write`] may get further.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ends our side after what was written.
    fn finish(&mut self);
    /// The link is over; `code` is told where the transport can carry it.
    fn close(&mut self, code: u16);
}

/// One link.
pub(crate) enum Link {
    /// Inline, because most links are this and each byte counts.
    Tcp(TcpLink),
    /// Everything else.
    Other(Box<dyn Transport>),
}

impl Link {
    /// The socket that the reactor is to hear of; `None`: this link wakes its connection by itself.
    pub(crate) fn socket(&self) -> Option<RawFd> {
        match self {
            Self::Tcp(tcp) => Some(tcp.fd()),
            Self::Other(_) => None,
        }
    }

    /// Reads what has arrived into `into`. Ready(0): the peer has ended its side.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read(cx, into),
            Self::Other(transport) => transport.poll_read(cx, into),
        }
    }

    /// Writes what can be taken now, waking nobody. `WouldBlock`: nothing could.
    pub(crate) fn try_write(&mut self, waker: &Waker, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write(bytes),
            Self::Other(transport) => transport.try_write(waker, bytes),
        }
    }

    /// As [`Link::try_write`] for several pieces, in one system call where the transport has one.
    pub(crate) fn try_write_gathered(
        &mut self,
        waker: &Waker,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write_gathered(pieces),
            Self::Other(transport) => transport.try_write(waker, &pieces[0]),
        }
    }

    pub(crate) fn is_holding(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Other(transport) => transport.is_holding(),
        }
    }

    /// Ready when a write may get further.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_flush(),
            Self::Other(transport) => transport.poll_flush(cx),
        }
    }

    /// Ends our side after what was written.
    pub(crate) fn finish(&mut self) {
        match self {
            Self::Tcp(tcp) => tcp.finish(),
            Self::Other(transport) => transport.finish(),
        }
    }

    /// The link is over.
    pub(crate) fn close(&mut self, code: u16) {
        if let Self::Other(transport) = self {
            transport.close(code);
        }
    }
}
