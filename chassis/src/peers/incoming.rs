//! Connections of other services, and what they have shown.

use super::Roles;
use super::tls::Material;
use super::validity::named;
use futures_util::future::{AbortHandle, Aborted, BoxFuture, FutureExt as _, abortable};
use futures_util::stream::{self, FuturesUnordered};
use rustls::server::ParsedCertificate;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Request;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// Connections that greet at a time, some tens of KiB each. Beyond it an older one of whoever has most of them
/// is dropped: links that are silent must not hold up a service whose lease runs out meanwhile.
const GREETINGS_MAX: usize = 256;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After an accept that failed, for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection of another service.
#[derive(Debug)]
pub struct PeerIo {
    link: Link,
    roles: Roles,
}

#[derive(Debug)]
enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is known of a connection since it greeted.
#[derive(Clone, Copy, Debug)]
pub struct PeerRoles {
    roles: Roles,
    remote: Option<SocketAddr>,
}

impl Connected for PeerIo {
    type ConnectInfo = PeerRoles;

    fn connect_info(&self) -> PeerRoles {
        let link = match &self.link {
            Link::Plain(link) => link,
            Link::Tls(link) => link.get_ref().0,
        };
        PeerRoles { roles: self.roles, remote: link.peer_addr().ok() }
    }
}

/// The roles that the certificate of the request's connection names.
pub(super) fn roles_of<T>(request: &Request<T>) -> Roles {
    request.extensions().get::<PeerRoles>().map_or(Roles::default(), |shown| shown.roles)
}

/// Where a request comes from.
pub(super) fn remote<T>(request: &Request<T>) -> Option<SocketAddr> {
    request.extensions().get::<PeerRoles>().and_then(|shown| shown.remote)
}

/// `None`: dropped, to make room.
type Greeting = BoxFuture<'static, Option<(u64, io::Result<PeerIo>)>>;

struct Door {
    listener: TcpListener,
    material: Option<Arc<Material>>,
    greeting: FuturesUnordered<Greeting>,
    crowd: Crowd,
}

/// Who greets now, the oldest first.
#[derive(Default)]
struct Crowd {
    numbers: u64,
    all: VecDeque<(u64, IpAddr, AbortHandle)>,
}

impl Crowd {
    /// One more, after room was made for it.
    fn enter(&mut self, from: IpAddr, handle: AbortHandle) -> u64 {
        if self.all.len() >= GREETINGS_MAX {
            self.make_room();
        }
        self.numbers += 1;
        self.all.push_back((self.numbers, from, handle));
        self.numbers
    }

    fn leave(&mut self, number: u64) {
        self.all.retain(|(other, ..)| *other != number);
    }

    /// Drops the oldest of the address that has most.
    fn make_room(&mut self) {
        let mut counts = HashMap::new();
        for (_, from, _) in &self.all {
            *counts.entry(*from).or_insert(0) += 1;
        }
        let most = counts.values().copied().max().unwrap_or(0);
        let oldest = self.all.iter().position(|(_, from, _)| counts[from] == most);
        if let Some((_, from, handle)) = oldest.and_then(|at| self.all.remove(at)) {
            debug!(%from, "too many connections greet at a time: the oldest of this address is dropped");
            handle.abort();
        }
    }
}

pub(super) fn stream(
    listener: TcpListener,
    material: Option<Arc<Material>>,
) -> impl Stream<Item = io::Result<PeerIo>> + Send + use<> {
    let (greeting, crowd) = (FuturesUnordered::new(), Crowd::default());
    let door = Door { listener, material, greeting, crowd };
    stream::unfold(door, async |mut door: Door| {
        let next = door.next().await;
        Some((Ok(next), door))
    })
}

impl Door {
    async fn next(&mut self) -> PeerIo {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((link, from)) => {
                        // Calls are small and wait for each other; a link without it is slower, no worse.
                        let _ = link.set_nodelay(true);
                        match &self.material {
                            None => return PeerIo { link: Link::Plain(link), roles: Roles::default() },
                            Some(material) => {
                                let (greeting, handle) = abortable(greet(material.clone(), link));
                                let number = self.crowd.enter(from.ip(), handle);
                                let numbered = move |ended: Result<_, Aborted>| {
                                    Some((number, ended.ok()?))
                                };
                                self.greeting.push(greeting.map(numbered).boxed());
                            }
                        }
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection of another service");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(greeted) = self.greeting.next(), if !self.greeting.is_empty() => {
                    let Some((number, greeted)) = greeted else { continue };
                    self.crowd.leave(number);
                    match greeted {
                        Ok(peer) => return peer,
                        Err(error) => debug!(%error, "a connection did not greet as a service does"),
                    }
                }
            }
        }
    }
}

async fn greet(material: Arc<Material>, link: TcpStream) -> io::Result<PeerIo> {
    let link = tokio::time::timeout(HANDSHAKE_TIMEOUT, material.acceptor().accept(link)).await??;
    let shown = link.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.map(ParsedCertificate::try_from).transpose().map_err(io::Error::other)?;
    let roles = shown.as_ref().map_or(Roles::default(), named);
    Ok(PeerIo { link: Link::Tls(Box::new(link)), roles })
}

impl AsyncRead for PeerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.link {
            Link::Plain(link) => Pin::new(link).poll_read(cx, buf),
            Link::Tls(link) => Pin::new(link).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PeerIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.link {
            Link::Plain(link) => Pin::new(link).poll_write(cx, buf),
            Link::Tls(link) => Pin::new(link).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.link {
            Link::Plain(link) => Pin::new(link).poll_flush(cx),
            Link::Tls(link) => Pin::new(link).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.link {
            Link::Plain(link) => Pin::new(link).poll_shutdown(cx),
            Link::Tls(link) => Pin::new(link).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.link {
            Link::Plain(link) => Pin::new(link).poll_write_vectored(cx, bufs),
            Link::Tls(link) => Pin::new(link).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.link {
            Link::Plain(link) => link.is_write_vectored(),
            Link::Tls(link) => link.is_write_vectored(),
        }
    }
}
