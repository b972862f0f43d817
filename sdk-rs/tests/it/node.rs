//! An access node played by the test: it accepts, hands out what it hears, sends what it is told.

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use hawser_proto::code::CloseCode;
use hawser_proto::codec;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::limits::FRAME_BYTES_MAX;
use hawser_proto::params;
use hawser_sdk::{AccessPoint, Protocol};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let in_time = tokio::time::timeout(PATIENCE, future).await;
    in_time.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

/// What a peer is told to write.
pub(crate) enum Out {
    Bytes(Bytes),
    Text(&'static str),
    /// The transport's own close, with this code.
    Close(u16),
}

/// One accepted connection. Dropping it cuts the link.
pub(crate) struct Peer {
    heard: mpsc::Receiver<DeviceFrame>,
    out: mpsc::Sender<Out>,
}

impl Peer {
    /// The next frame that is no heartbeat; `None`: the device is gone.
    pub(crate) async fn next(&mut self) -> Option<DeviceFrame> {
        loop {
            match soon("a frame of the device", self.heard.recv()).await {
                Some(DeviceFrame::Ping(ping)) => self.send(NodeFrame::Pong(ping)).await,
                other => return other,
            }
        }
    }

    pub(crate) async fn send(&self, frame: NodeFrame) {
        self.write(Out::Bytes(frame.encode())).await;
    }

    pub(crate) async fn write(&self, out: Out) {
        // A device that is gone already needs nothing written.
        let _ = self.out.send(out).await;
    }

    pub(crate) async fn close(&self, code: CloseCode, retry_after_ms: u32) {
        self.send(NodeFrame::close(code, "", retry_after_ms)).await;
    }

    pub(crate) async fn login(&mut self) -> params::Login {
        match self.next().await {
            Some(DeviceFrame::Login(login)) => login,
            other => panic!("not a login: {other:?}"),
        }
    }

    pub(crate) async fn request(&mut self) -> (params::Request, Bytes) {
        match self.next().await {
            Some(DeviceFrame::Request(request, body)) => (request, body),
            other => panic!("not a request: {other:?}"),
        }
    }

    pub(crate) async fn join(&mut self) -> params::Join {
        match self.next().await {
            Some(DeviceFrame::Join(join)) => join,
            other => panic!("not a join: {other:?}"),
        }
    }

    /// The next acknowledgement: up to which number of its one inbox.
    pub(crate) async fn ack(&mut self) -> u64 {
        match self.next().await {
            Some(DeviceFrame::Ack(ack)) => ack.inboxes[0].seq,
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }

    /// A frame that is there already, if there is one.
    pub(crate) fn waiting(&mut self) -> Option<DeviceFrame> {
        self.heard.try_recv().ok()
    }

    /// Answers a join with ok.
    pub(crate) async fn joined(&self, join: params::Join) {
        let params::Join { request_id, group, .. } = join;
        let joined = params::Joined { request_id, group, business: 5, ..Default::default() };
        self.send(NodeFrame::Joined(joined)).await;
    }

    /// Takes the login, and answers with ok.
    pub(crate) async fn welcome(&mut self) -> params::Login {
        let login = self.login().await;
        self.send(NodeFrame::LoginOk(login_ok())).await;
        login
    }
}

pub(crate) fn login_ok() -> params::LoginOk {
    params::LoginOk {
        connection: "fake/1/1.1".into(),
        epoch: 7,
        businesses: vec![params::BusinessNumber { name: "chat".into(), number: 5, status: 0 }],
        heartbeat_ms: 25_000,
        idle_timeout_ms: 35_000,
        server_time_ms: 1_000_000,
        frame_bytes_max: 65_536,
        groups_max: 100,
        requests_in_flight_max: 64,
        abilities: hawser_proto::frame::ability::INBOX | hawser_proto::frame::ability::HISTORY,
        ..Default::default()
    }
}

/// A listener for one protocol.
pub(crate) struct Node {
    pub(crate) point: AccessPoint,
    /// The CA to trust.
    pub(crate) pem: String,
    accepted: mpsc::Receiver<Peer>,
}

impl Node {
    pub(crate) async fn tcp() -> Self {
        Self::start(Protocol::Tcp).await
    }

    pub(crate) async fn start(protocol: Protocol) -> Self {
        let (pem, tls) = certificate();
        let (peers, accepted) = mpsc::channel(64);
        let port = match protocol {
            Protocol::Quic => start_quic(tls, peers),
            Protocol::Tcp | Protocol::Tls | Protocol::Ws | Protocol::Wss => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let port = listener.local_addr().unwrap().port();
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(serve(protocol, stream, tls.clone(), peers.clone()));
                    }
                });
                port
            }
        };
        let point = AccessPoint {
            server_name: Some("localhost".into()),
            ..AccessPoint::new(protocol, "127.0.0.1", port)
        };
        Self { point, pem, accepted }
    }

    pub(crate) async fn accept(&mut self) -> Peer {
        soon("a connection", self.accepted.recv()).await.expect("the listener lives")
    }

    /// A connection that is there already, if there is one.
    pub(crate) fn accepted(&mut self) -> Option<Peer> {
        self.accepted.try_recv().ok()
    }
}

async fn serve(protocol: Protocol, tcp: TcpStream, tls: ServerConfig, peers: mpsc::Sender<Peer>) {
    let secured = async |tcp| TlsAcceptor::from(Arc::new(tls)).accept(tcp).await;
    match protocol {
        Protocol::Tcp => drop(pump(tcp, peers).await),
        Protocol::Tls => {
            if let Ok(stream) = secured(tcp).await {
                pump(stream, peers).await;
            }
        }
        Protocol::Ws => drop(pump_messages(tcp, peers).await),
        Protocol::Wss => {
            if let Ok(stream) = secured(tcp).await {
                pump_messages(stream, peers).await;
            }
        }
        Protocol::Quic => unreachable!("not on TCP"),
    }
}

fn start_quic(mut tls: ServerConfig, peers: mpsc::Sender<Peer>) -> u16 {
    tls.alpn_protocols = vec![b"hawser/1".to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let port = endpoint.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let peers = peers.clone();
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                let Ok((send, recv)) = connection.accept_bi().await else { return };
                let code = pump(tokio::io::join(recv, send), peers).await;
                connection.close(u32::from(code.unwrap_or(0)).into(), b"");
            });
        }
    });
    port
}

fn peer() -> (Peer, mpsc::Sender<DeviceFrame>, mpsc::Receiver<Out>) {
    let (heard_to, heard) = mpsc::channel(256);
    let (out, out_from) = mpsc::channel(256);
    (Peer { heard, out }, heard_to, out_from)
}

/// Frames on a stream of bytes, until one side ends. Answers the code it was told to close with.
async fn pump<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    peers: mpsc::Sender<Peer>,
) -> Option<u16> {
    let (peer, heard, mut out) = peer();
    peers.send(peer).await.ok()?;
    let mut input = BytesMut::new();
    loop {
        tokio::select! {
            read = stream.read_buf(&mut input) => {
                if !matches!(read, Ok(bytes) if bytes > 0) {
                    return None;
                }
                while let Some(raw) = codec::decode(&mut input, FRAME_BYTES_MAX).unwrap() {
                    heard.send(DeviceFrame::parse(raw).unwrap()).await.ok()?;
                }
            }
            told = out.recv() => match told? {
                Out::Bytes(bytes) => {
                    stream.write_all(&bytes).await.ok()?;
                    stream.flush().await.ok()?;
                }
                Out::Text(_) => panic!("not a WebSocket"),
                Out::Close(code) => return Some(code),
            },
        }
    }
}

#[allow(clippy::result_large_err, reason = "the library's signature")]
async fn pump_messages<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peers: mpsc::Sender<Peer>,
) -> Option<()> {
    let echo = |request: &Request, mut response: Response| {
        let offered = request.headers().get("sec-websocket-protocol").unwrap();
        assert_eq!(offered, "hawser.1");
        response.headers_mut().insert("sec-websocket-protocol", offered.clone());
        Ok(response)
    };
    let mut socket: WebSocketStream<S> =
        tokio_tungstenite::accept_hdr_async(stream, echo).await.ok()?;
    let (peer, heard, mut out) = peer();
    peers.send(peer).await.ok()?;
    loop {
        tokio::select! {
            message = socket.next() => match message?.ok()? {
                Message::Binary(bytes) => {
                    let raw = codec::decode_message(bytes, FRAME_BYTES_MAX).unwrap();
                    heard.send(DeviceFrame::parse(raw).unwrap()).await.ok()?;
                }
                Message::Close(_) => return None,
                _ => {}
            },
            told = out.recv() => match told? {
                Out::Bytes(bytes) => socket.send(Message::Binary(bytes)).await.ok()?,
                Out::Text(text) => socket.send(Message::Text(text.into())).await.ok()?,
                Out::Close(code) => {
                    let close = CloseFrame { code: code.into(), reason: "".into() };
                    socket.send(Message::Close(Some(close))).await.ok()?;
                }
            },
        }
    }
}

/// A CA, and a server configuration with a leaf of it for localhost.
pub(crate) fn certificate() -> (String, ServerConfig) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let chain = vec![CertificateDer::from(leaf)];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (pem, config)
}
