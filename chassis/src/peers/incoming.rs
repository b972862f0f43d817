//! Connections of other services, and what they have shown.

use super::Roles;
use super::tls::Material;
use super::validity::named;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, FuturesUnordered};
use rustls::server::ParsedCertificate;
use std::io;
use std::net::SocketAddr;
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

/// Connections that greet at a time; the next ones wait in the kernel.
const HANDSHAKES_MAX: usize = 256;
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

type Greeting = BoxFuture<'static, io::Result<PeerIo>>;

struct Door {
    listener: TcpListener,
    material: Option<Arc<Material>>,
    greeting: FuturesUnordered<Greeting>,
}

pub(super) fn stream(
    listener: TcpListener,
    material: Option<Arc<Material>>,
) -> impl Stream<Item = io::Result<PeerIo>> + Send + use<> {
    let door = Door { listener, material, greeting: FuturesUnordered::new() };
    stream::unfold(door, async |mut door: Door| {
        let next = door.next().await;
        Some((Ok(next), door))
    })
}

impl Door {
    async fn next(&mut self) -> PeerIo {
        loop {
            let has_room = self.greeting.len() < HANDSHAKES_MAX;
            tokio::select! {
                accepted = self.listener.accept(), if has_room => match accepted {
                    Ok((link, _)) => {
                        // Calls are small and wait for each other; a link without it is slower, no worse.
                        let _ = link.set_nodelay(true);
                        match &self.material {
                            None => return PeerIo { link: Link::Plain(link), roles: Roles::default() },
                            Some(material) => {
                                self.greeting.push(Box::pin(greet(material.clone(), link)));
                            }
                        }
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection of another service");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(greeted) = self.greeting.next(), if !self.greeting.is_empty() => match greeted {
                    Ok(peer) => return peer,
                    Err(error) => debug!(%error, "a connection did not greet as a service does"),
                },
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
