//! QUIC: one bidirectional stream that the device opened. quinn wakes its own driver on a write.

use super::Transport;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

pub(crate) struct QuicLink {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    /// The stream said it is full, and has the task's waker.
    is_full: bool,
}

impl QuicLink {
    pub(crate) fn new(connection: Connection, send: SendStream, receive: RecvStream) -> Self {
        Self { connection, send, receive, is_full: false }
    }
}

impl Transport for QuicLink {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.receive.poll_read(cx, into).map_err(io::Error::from)
    }

    fn try_write(&mut self, waker: &Waker, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut self.send).poll_write(&mut Context::from_waker(waker), bytes) {
            Poll::Ready(taken) => {
                self.is_full = false;
                taken.map_err(io::Error::from)
            }
            Poll::Pending => {
                self.is_full = true;
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    fn is_holding(&self) -> bool {
        false
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Only a write tells whether the stream takes more; a full one has registered the waker.
        if std::mem::take(&mut self.is_full) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn finish(&mut self) {
        // An error means the stream is over already.
        let _ = self.send.finish();
    }

    fn close(&mut self, code: u16) {
        self.connection.close(VarInt::from_u32(code.into()), &[]);
    }
}
