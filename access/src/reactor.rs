//! Where plain TCP links wait: an epoll for each lane, which itself waits in the runtime's.
//!
//! The runtime's own way keeps a record of 256 bytes and a handle of 24 for each socket. Here a socket costs
//! nothing but the kernel's part: an event names the slot, and the slot holds who is to be woken. TLS and
//! QUIC links, which are far larger anyhow, are the runtime's.

use crate::curse::Part;
use crate::link::Readiness;
use crate::node::Node;
use crate::table::Signal;
use hawser_proto::code::CloseCode;
use hawser_proto::id::SlotRef;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tracing::error;

/// Sockets heard of at once; more are heard of after others have had their turn.
const EVENTS_MAX: usize = 128;

/// Where the sockets of one lane are registered.
pub(crate) struct Reactor(Registry);

/// The events of one reactor, to be handed on by [`run`].
pub(crate) struct Source(AsyncFd<Poll>);

impl Reactor {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new() -> io::Result<(Self, Source)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        #[allow(
            deprecated,
            reason = "the other form is `unsafe`, for what may close its descriptor; a `Poll` never does"
        )]
        let source = AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)?;
        Ok((Self(registry), Source(source)))
    }

    /// Hears of this socket until it is closed. Events name the slot alone: one that is late may speak of
    /// the socket that was there before, and then costs a read or a write that finds nothing.
    pub(crate) fn add(&self, at: SlotRef, fd: RawFd) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.0.register(&mut SourceFd(&fd), Token(at.slot as usize), both)
    }
}

/// Tells a connection what was heard of its socket. One that panics over it is closed; the others are heard.
fn hand_on(node: &Node, slot: u32, news: Readiness) {
    let told = catch_unwind(AssertUnwindSafe(|| {
        node.table.visit(slot, |_, connection| {
            node.config.curse.at_slot(Part::Reactor, slot);
            connection.hear(news);
        });
    }));
    if told.is_err() {
        node.metrics.panicked(Part::Reactor);
        error!(slot, "hearing of a socket panicked: its connection is closed");
        // Whatever is broken there: then its deadlines end it.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let order = Signal::Ordered(CloseCode::Internal, String::new());
            node.table.visit(slot, |_, connection| connection.order(order));
        }));
    }
}

/// Hands on what is heard until the node stops.
pub(crate) async fn run(node: Arc<Node>, Source(mut source): Source) {
    let stop = node.links.stop_signal();
    let mut events = Events::with_capacity(EVENTS_MAX);
    loop {
        let ready = tokio::select! {
            ready = source.readable_mut() => ready,
            () = stop.cancelled() => return,
        };
        // An error: the runtime goes.
        let Ok(mut ready) = ready else { return };
        match ready.get_inner_mut().poll(&mut events, Some(Duration::ZERO)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                error!(%error, "cannot hear of sockets");
                ready.clear_ready();
                continue;
            }
        }
        // Fewer than asked for: there are no others, and the next makes this ready again.
        let is_all = events.iter().count() < EVENTS_MAX;
        if is_all {
            ready.clear_ready();
        }
        for event in &events {
            let news = Readiness {
                is_readable: event.is_readable() || event.is_read_closed() || event.is_error(),
                is_writable: event.is_writable() || event.is_write_closed() || event.is_error(),
                is_ended: event.is_read_closed() || event.is_error(),
            };
            hand_on(&node, event.token().0 as u32, news);
        }
        if !is_all {
            tokio::task::yield_now().await;
        }
    }
}
