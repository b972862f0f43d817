//! Plain TCP. The runtime keeps some 300 bytes for each socket that it waits for; this one stands in the
//! epoll of its reactor instead (see `reactor`), and what that says of it is kept in three flags.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, RawFd};
use std::task::{Context, Poll, ready};
use tokio::task::coop;

/// What the reactor has heard of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Readiness {
    /// There is something to read, or its end.
    pub(crate) is_readable: bool,
    /// There is room for more.
    pub(crate) is_writable: bool,
    /// The peer will send no more: there is an end to read behind what is there.
    pub(crate) is_ended: bool,
}

/// A socket that never blocks. Whoever polls it is woken through the connection's waker.
pub(crate) struct TcpLink {
    stream: TcpStream,
    readiness: Readiness,
}

impl TcpLink {
    /// Takes a socket from the runtime.
    pub(crate) fn new(stream: tokio::net::TcpStream) -> io::Result<Self> {
        let stream = stream.into_std()?;
        // What it is was not asked yet: the first read and the first write find out.
        let readiness = Readiness { is_readable: true, is_writable: true, is_ended: false };
        Ok(Self { stream, readiness })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// The reactor was told of something new. What it said before stays true until a read or a write
    /// finds that it no longer is.
    pub(crate) fn hear(&mut self, news: Readiness) {
        self.readiness.is_readable |= news.is_readable;
        self.readiness.is_writable |= news.is_writable;
        self.readiness.is_ended |= news.is_ended;
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if !self.readiness.is_readable {
            return Poll::Pending;
        }
        // A device that sends without end gives way to others.
        let coop = ready!(coop::poll_proceed(cx));
        let read = retried(|| self.stream.read(into));
        match &read {
            Err(again) if again.kind() == io::ErrorKind::WouldBlock => {
                self.readiness.is_readable = false;
                return Poll::Pending;
            }
            // All that was there: of what comes later the reactor hears. But it may have heard of the end
            // together with what was just read, and does not hear of that again.
            Ok(read) if *read < into.len() && !self.readiness.is_ended => {
                self.readiness.is_readable = false;
            }
            _ => {}
        }
        coop.made_progress();
        Poll::Ready(read)
    }

    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_with(|mut stream| stream.write(bytes))
    }

    pub(super) fn try_write_gathered(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_with(|mut stream| stream.write_vectored(pieces))
    }

    fn write_with(
        &mut self,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if !self.readiness.is_writable {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let written = retried(|| write(&self.stream));
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.readiness.is_writable = false;
        }
        written
    }

    /// Ready when a write may get further.
    pub(super) fn poll_flush(&self) -> Poll<io::Result<()>> {
        if self.readiness.is_writable { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Sends FIN. An error means the peer was faster.
    pub(super) fn finish(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }
}

/// A signal that came in between is no answer.
fn retried(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream as Peer};

    async fn pair() -> (TcpLink, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (TcpLink::new(stream).unwrap(), peer)
    }

    fn read(link: &mut TcpLink) -> Poll<io::Result<usize>> {
        link.poll_read(&mut Context::from_waker(Waker::noop()), &mut [0; 64])
    }

    /// What the peer has sent is there when this returns.
    async fn arrived(link: &TcpLink, bytes: usize) {
        while link.stream.peek(&mut [0; 64]).unwrap_or(0) < bytes {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_asked_for_until_the_reactor_hears_of_it() {
        let (mut link, mut peer) = pair().await;
        assert!(read(&mut link).is_pending());
        peer.write_all(b"hello").await.unwrap();
        arrived(&link, 5).await;
        assert!(read(&mut link).is_pending(), "nobody has said so");
        link.hear(Readiness { is_readable: true, ..Readiness::default() });
        assert!(matches!(read(&mut link), Poll::Ready(Ok(5))));
        assert!(!link.readiness.is_readable, "that was all");
    }

    #[tokio::test]
    async fn an_end_that_is_heard_of_with_the_last_bytes_is_read_behind_them() {
        let (mut link, mut peer) = pair().await;
        peer.write_all(b"bye").await.unwrap();
        peer.shutdown().await.unwrap();
        arrived(&link, 3).await;
        link.hear(Readiness { is_readable: true, is_ended: true, ..Readiness::default() });
        assert!(matches!(read(&mut link), Poll::Ready(Ok(3))));
        assert!(link.readiness.is_readable, "of the end nobody is told again");
    }

    #[tokio::test]
    async fn a_full_link_takes_nothing_until_the_reactor_hears_of_room() {
        let (mut link, mut peer) = pair().await;
        let mut written = 0;
        while let Ok(taken) = link.try_write(&[0; 4096]) {
            written += taken;
        }
        assert!(link.poll_flush().is_pending());
        // Everything is read: there is room, and nobody has said so.
        peer.read_exact(&mut vec![0; written]).await.unwrap();
        assert_eq!(link.try_write(b"x").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        link.hear(Readiness { is_writable: true, ..Readiness::default() });
        assert!(link.poll_flush().is_ready() && link.try_write(b"x").is_ok());
    }
}
