//! TLS 1.3 over TCP. tokio-rustls does the handshake; after it the connection state is driven here,
//! over non-blocking reads and writes, so that any writer can use it under the slot's lock.

use super::Transport;
use rustls::ServerConnection;
use std::io::{self, Read as _, Write as _};
use std::task::{Context, Poll, Waker, ready};
use tokio::net::TcpStream;

/// Ciphertext the TLS state may hold for a slow link; what does not fit waits as plaintext in the
/// outbox, whose bound then counts it.
const HELD_BYTES_MAX: usize = 32 * 1024;

pub(crate) struct TlsLink {
    tcp: TcpStream,
    tls: ServerConnection,
}

impl TlsLink {
    /// From a finished handshake.
    pub(crate) fn new(tcp: TcpStream, mut tls: ServerConnection) -> Self {
        tls.set_buffer_limit(Some(HELD_BYTES_MAX));
        Self { tcp, tls }
    }

    /// Moves held records into the socket as far as it goes.
    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut NonBlocking(&self.tcp))?;
        }
        Ok(())
    }
}

impl Transport for TlsLink {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.tls.reader().read(into) {
                Err(again) if again.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that goes without a close_notify has ended all the same: frames have lengths,
                // so a cut is seen by what is missing.
                Err(cut) if cut.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(0));
                }
                done => return Poll::Ready(done),
            }
            ready!(self.tcp.poll_read_ready(cx))?;
            match self.tls.read_tls(&mut NonBlocking(&self.tcp)) {
                Err(again) if again.kind() == io::ErrorKind::WouldBlock => continue,
                Err(failed) => return Poll::Ready(Err(failed)),
                // The end: the reader tells it on the next turn, as an end or a cut.
                Ok(_) => {}
            }
            let processed = self.tls.process_new_packets();
            // An alert or a key update is due, good or bad; what the socket does not take now is held.
            match self.flush() {
                Err(again) if again.kind() == io::ErrorKind::WouldBlock => {}
                other => other?,
            }
            processed.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
        }
    }

    fn try_write(&mut self, _waker: &Waker, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let taken = self.tls.writer().write(bytes)?;
        match self.flush() {
            Err(again) if again.kind() == io::ErrorKind::WouldBlock => {}
            other => other?,
        }
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn is_holding(&self) -> bool {
        self.tls.wants_write()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.flush() {
                Err(again) if again.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn finish(&mut self) {
        self.tls.send_close_notify();
        // Best effort: a link that takes no byte now is closed without the notify.
        let _ = self.flush();
        // An error means the peer was faster.
        let _ = socket2::SockRef::from(&self.tcp).shutdown(std::net::Shutdown::Write);
    }

    fn close(&mut self, _code: u16) {}
}

/// The socket as rustls wants it.
struct NonBlocking<'a>(&'a TcpStream);

impl io::Read for NonBlocking<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl io::Write for NonBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
