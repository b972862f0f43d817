//! The doors: five ways in, each ending in a link and the connection's task. A slow handshake holds up
//! nobody else, and a node that will not take somebody in says so before it works for him.

mod place;

pub(crate) use place::{Strangers, Unauthenticated};

use crate::conn::{self, Arrival};
use crate::frame_out::Form;
use crate::goodbye;
use crate::link::{Dialled, Link, QuicLink, TcpLink, TlsLink, Transport};
use crate::node::{Listeners, Node, StartError};
use hawser_proto::code::CloseCode;
use place::Refused;
use quinn::crypto::rustls::QuicServerConfig;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tracing::{debug, warn};

/// Protocol name of TLS and QUIC (ALPN).
const ALPN: &[u8] = b"hawser/1";
/// Sub-protocol of WebSocket; echoed when a device offers it.
const SUBPROTOCOL: &str = "hawser.1";
/// Pause after accept failed for want of descriptors or memory: links that are there go on.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What one QUIC connection may have in flight, either way.
const QUIC_WINDOW: u32 = 256 * 1024;
/// Connections of one QUIC socket that are not accepted yet and may have bytes buffered.
const QUIC_UNACCEPTED_MAX: u64 = 256;
/// The session's own idle time-out is the one that counts, and an app may set it to two hours: QUIC's
/// only cleans up behind it.
const QUIC_IDLE_TIMEOUT: Duration = Duration::from_hours(3);
/// Bytes buffered for a QUIC connection that is not accepted yet.
const QUIC_INCOMING_BYTES: u64 = 16 * 1024;

/// The addresses of all listeners, with their protocols.
pub(crate) fn addresses(listeners: &Listeners) -> io::Result<Vec<(&'static str, SocketAddr)>> {
    let Listeners { tcp, tls, ws, wss, quic } = listeners;
    let mut all = Vec::new();
    for (dialled, sockets) in
        [(Dialled::Tcp, tcp), (Dialled::Tls, tls), (Dialled::Ws, ws), (Dialled::Wss, wss)]
    {
        for socket in sockets {
            all.push((dialled.name(), socket.local_addr()?));
        }
    }
    for socket in quic {
        all.push((Dialled::Quic.name(), socket.local_addr()?));
    }
    Ok(all)
}

/// Opens all doors.
pub(crate) fn open(node: &Arc<Node>, listeners: Listeners) -> Result<(), StartError> {
    let Listeners { tcp, tls, ws, wss, quic } = listeners;
    let acceptor = |what: &'static str, alpn: &[&[u8]]| -> Result<TlsAcceptor, StartError> {
        let certificate =
            node.config.certificate.as_ref().ok_or(StartError::NoCertificate(what))?;
        Ok(TlsAcceptor::from(Arc::new(certificate.server_config(alpn)?)))
    };
    for listener in tcp {
        let door = node.clone();
        node.doors.spawn("accept tcp", accept(door, listener, Dialled::Tcp, None));
    }
    for listener in ws {
        let door = node.clone();
        node.doors.spawn("accept ws", accept(door, listener, Dialled::Ws, None));
    }
    for listener in tls {
        let (door, tls) = (node.clone(), acceptor("TLS", &[ALPN])?);
        node.doors.spawn("accept tls", accept(door, listener, Dialled::Tls, Some(tls)));
    }
    for listener in wss {
        let (door, tls) = (node.clone(), acceptor("secure WebSocket", &[b"http/1.1"])?);
        node.doors.spawn("accept wss", accept(door, listener, Dialled::Wss, Some(tls)));
    }
    for socket in quic {
        let endpoint = quic_endpoint(node, socket)?;
        node.doors.spawn("accept quic", accept_quic(node.clone(), endpoint));
    }
    Ok(())
}

async fn accept(
    node: Arc<Node>,
    listener: TcpListener,
    dialled: Dialled,
    tls: Option<TlsAcceptor>,
) {
    let stop = node.doors.stop_signal();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if is_about_one_peer(&error) {
                    continue;
                }
                warn!(transport = dialled.name(), %error, "cannot accept");
                node.metrics.refused_connections.with_label_values(&["exhausted"]).inc();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = match Unauthenticated::admit(&node, remote.ip()) {
            Ok(place) => place,
            Err(refused) => {
                refuse(&node, &stream, dialled, refused);
                continue;
            }
        };
        let accepted = Instant::now();
        prepare(&node, &stream);
        match (&tls, dialled) {
            // Straight into the connection's task: nothing to wait for.
            (None, Dialled::Tcp) => {
                let Ok(tcp) = TcpLink::new(stream) else { continue };
                let arrival = Arrival {
                    link: Link::Tcp(tcp),
                    form: Form::Stream,
                    dialled,
                    remote: remote.ip(),
                    origin: None,
                    accepted,
                    ready: accepted,
                    place,
                };
                conn::start(node.clone(), arrival);
            }
            (tls, dialled) => {
                let greeting =
                    greet(node.clone(), stream, remote, dialled, tls.clone(), accepted, place);
                node.tasks.spawn_light(greeting);
            }
        }
    }
}

/// Errors of accept that are about the connection that was to be accepted, not about the listener.
fn is_about_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn prepare(node: &Node, stream: &TcpStream) {
    // Errors here mean the peer has gone already, which the first read tells.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_send_buffer_size(node.config.send_buffer_bytes);
}

/// Tells a device to come back elsewhere or later, where that can be said in the clear and costs nothing:
/// one write that is not waited for. Behind TLS it would cost the very handshake that is to be saved.
fn refuse(node: &Node, stream: &TcpStream, dialled: Dialled, refused: Refused) {
    let Refused { code, retry_after_ms } = refused;
    let word = match dialled {
        Dialled::Tcp => goodbye::refusal(node, code, retry_after_ms).encode(),
        Dialled::Ws => {
            let seconds = retry_after_ms.div_ceil(1_000);
            let answer = format!(
                "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {seconds}\r\n\
                 Connection: close\r\nContent-Length: 0\r\n\r\n"
            );
            answer.into()
        }
        Dialled::Tls | Dialled::Wss | Dialled::Quic | Dialled::Attached => return,
    };
    let _ = stream.try_write(&word);
}

/// Handshake and upgrade, under their deadlines, then the connection's own life.
async fn greet(
    node: Arc<Node>,
    stream: TcpStream,
    remote: SocketAddr,
    dialled: Dialled,
    tls: Option<TlsAcceptor>,
    accepted: Instant,
    place: Unauthenticated,
) {
    let is_websocket = matches!(dialled, Dialled::Ws | Dialled::Wss);
    let greets = place.greets();
    let stop = node.doors.stop_signal();
    // Boxed, so that what a handshake needs is gone when it is over.
    let greeting = Box::pin(async {
        Ok(match tls {
            None => {
                let (stream, origin) = upgrade(&node, stream).await?;
                (Link::Tcp(TcpLink::new(stream)?), origin)
            }
            Some(acceptor) => {
                let secured =
                    timeout(node.config.handshake_timeout, acceptor.accept(stream)).await??;
                let (secured, origin) =
                    if is_websocket { upgrade(&node, secured).await? } else { (secured, None) };
                let (tcp, state) = secured.into_inner();
                (Link::Other(Box::new(TlsLink::new(tcp, state))), origin)
            }
        })
    });
    let greeted: io::Result<(Link, Option<String>)> = tokio::select! {
        greeted = greeting => greeted,
        // Whoever is not through the door when it closes has nothing to lose.
        () = stop.cancelled() => return,
    };
    drop(greets);
    match greeted {
        Ok((link, origin)) => {
            let form = if is_websocket { Form::WebSocket } else { Form::Stream };
            let remote = remote.ip();
            let ready = Instant::now();
            let arrival = Arrival { link, form, dialled, remote, origin, accepted, ready, place };
            // The greeting's own task has been large; the connection gets a small one.
            conn::start(node, arrival);
        }
        Err(error) => {
            debug!(transport = dialled.name(), %error, "handshake failed");
            node.metrics.refused_connections.with_label_values(&["handshake"]).inc();
        }
    }
}

/// The WebSocket upgrade. tungstenite does it; the framing after it is ours, because its buffers per
/// connection break the memory target.
async fn upgrade<S>(node: &Node, stream: S) -> io::Result<(S, Option<String>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut origin = None;
    #[allow(clippy::result_large_err, reason = "the type of tungstenite's callback")]
    let look = |request: &Request, mut response: Response| {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        // An origin that is no text is one that no app allows.
        origin = request.headers().get(header::ORIGIN).map(|it| text(it).unwrap_or_default());
        let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        let is_offered = offered
            .filter_map(|value| value.to_str().ok())
            .any(|list| list.split(',').any(|name| name.trim() == SUBPROTOCOL));
        if is_offered {
            let name = HeaderValue::from_static(SUBPROTOCOL);
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
        }
        Ok(response)
    };
    let config = WebSocketConfig::default().read_buffer_size(4 * 1024);
    let accepting = tokio_tungstenite::accept_hdr_async_with_config(stream, look, Some(config));
    let socket = timeout(node.config.upgrade_timeout, accepting)
        .await?
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((socket.into_inner(), origin))
}

fn quic_endpoint(node: &Node, socket: std::net::UdpSocket) -> Result<quinn::Endpoint, StartError> {
    let certificate = node.config.certificate.as_ref().ok_or(StartError::NoCertificate("QUIC"))?;
    // 0-RTT stays off: a login must not be replayed.
    let crypto = QuicServerConfig::try_from(certificate.server_config(&[ALPN])?)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .incoming_buffer_size(QUIC_INCOMING_BYTES)
        .incoming_buffer_size_total(QUIC_INCOMING_BYTES * QUIC_UNACCEPTED_MAX);
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(1u8.into())
        .max_concurrent_uni_streams(0u8.into())
        .stream_receive_window(QUIC_WINDOW.into())
        .receive_window(QUIC_WINDOW.into())
        .send_window(QUIC_WINDOW.into())
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(quinn::IdleTimeout::try_from(QUIC_IDLE_TIMEOUT).ok());
    config.transport_config(Arc::new(transport));
    socket.set_nonblocking(true)?;
    let runtime = quinn::default_runtime()
        .ok_or_else(|| io::Error::other("a node starts inside a tokio runtime"))?;
    let endpoint =
        quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, runtime)?;
    Ok(endpoint)
}

async fn accept_quic(node: Arc<Node>, endpoint: quinn::Endpoint) {
    let stop = node.doors.stop_signal();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = stop.cancelled() => break,
        };
        let Some(incoming) = incoming else { return };
        let remote = incoming.remote_address().ip();
        if Unauthenticated::look(&node, remote).is_err() {
            incoming.refuse();
            continue;
        }
        // Whoever forges addresses must not use up what the node takes in.
        if place::is_pressed(&node) && !incoming.remote_address_validated() {
            // An error means it was validated meanwhile, or has gone.
            let _ = incoming.retry();
            continue;
        }
        match Unauthenticated::admit(&node, remote) {
            Ok(place) => node.tasks.spawn_light(greet_quic(node.clone(), incoming, place)),
            Err(_) => incoming.refuse(),
        }
    }
    // Connections go on until their own end; the endpoint lives as long as they do.
    endpoint.set_server_config(None);
}

async fn greet_quic(node: Arc<Node>, incoming: quinn::Incoming, place: Unauthenticated) {
    let accepted = Instant::now();
    let remote = incoming.remote_address().ip();
    let greets = place.greets();
    let stop = node.doors.stop_signal();
    let greeting = Box::pin(async {
        let connecting = incoming.accept()?;
        let connection = timeout(node.config.handshake_timeout, connecting).await??;
        let ready = Instant::now();
        let opened = timeout(node.config.first_frame_timeout, connection.accept_bi()).await;
        if opened.is_err() {
            // Without a stream there is no CLOSE, only its number.
            let code = CloseCode::LoginTimeout;
            connection.close(u32::from(code.number()).into(), code.name().as_bytes());
        }
        let (send, receive) = opened??;
        Ok((Link::Other(Box::new(QuicLink::new(connection, send, receive))), ready))
    });
    let greeted: io::Result<(Link, Instant)> = tokio::select! {
        greeted = greeting => greeted,
        () = stop.cancelled() => return,
    };
    drop(greets);
    match greeted {
        Ok((link, ready)) => {
            let (form, dialled, origin) = (Form::Stream, Dialled::Quic, None);
            let arrival = Arrival { link, form, dialled, remote, origin, accepted, ready, place };
            conn::start(node, arrival);
        }
        Err(error) => {
            debug!(transport = "quic", %error, "handshake failed");
            node.metrics.refused_connections.with_label_values(&["handshake"]).inc();
        }
    }
}

/// Takes in a link that somebody else has made.
pub(crate) fn attach(node: &Arc<Node>, transport: Box<dyn Transport>, remote: IpAddr) -> bool {
    let Ok(place) = Unauthenticated::admit(node, remote) else { return false };
    let arrival = Arrival {
        link: Link::Other(transport),
        form: Form::Stream,
        dialled: Dialled::Attached,
        remote,
        origin: None,
        accepted: Instant::now(),
        ready: Instant::now(),
        place,
    };
    conn::start(node.clone(), arrival);
    true
}
