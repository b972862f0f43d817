//! The five ways in, from the device's side.

use super::device::{Device, Form};
use crate::PATIENCE;
use hawser_chassis::tls::{Certificate, DevCertificates, client_config};
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    Tcp,
    Tls,
    Quic,
    Ws,
    Wss,
}

impl Dial {
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Tls, Self::Quic, Self::Ws, Self::Wss];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

struct Material {
    _folder: tempfile::TempDir,
    certificate: Certificate,
    root: CertificateDer<'static>,
}

/// One certificate for all nodes of all tests.
fn material() -> &'static Material {
    static MADE: OnceLock<Material> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let made = DevCertificates::load_or_make(folder.path()).unwrap();
        let certificate = Certificate::load(&made.chain, &made.key).unwrap();
        let root = CertificateDer::from_pem_file(&made.ca).unwrap();
        Material { _folder: folder, certificate, root }
    })
}

pub fn certificate() -> Certificate {
    material().certificate.clone()
}

fn trust(alpn: &[&[u8]]) -> rustls::ClientConfig {
    client_config(&[material().root.clone()], alpn).unwrap()
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

pub async fn tls(
    address: SocketAddr,
    alpn: &[&[u8]],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(trust(alpn)));
    connector.connect(name(), tcp).await.unwrap()
}

/// A WebSocket upgrade with these headers; the framing after it is the device's own.
pub async fn upgrade<S>(stream: S, headers: &[(&'static str, &str)]) -> (S, Response)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = "ws://localhost/any/path".into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    (socket.into_inner(), response)
}

pub async fn quic(address: SocketAddr) -> (quinn::Endpoint, quinn::Connection) {
    try_quic(address).await.unwrap()
}

pub async fn try_quic(
    address: SocketAddr,
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let crypto = QuicClientConfig::try_from(trust(&[b"hawser/1"])).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let connection = endpoint.connect(address, "localhost").unwrap().await?;
    Ok((endpoint, connection))
}

/// Dials, and does what the transport needs before LOGIN.
pub async fn dial(how: Dial, address: SocketAddr, headers: &[(&'static str, &str)]) -> Device {
    let dialling = async {
        match how {
            Dial::Tcp => Device::new(TcpStream::connect(address).await.unwrap(), Form::Stream),
            Dial::Tls => Device::new(tls(address, &[b"hawser/1"]).await, Form::Stream),
            Dial::Ws => {
                let tcp = TcpStream::connect(address).await.unwrap();
                Device::new(upgrade(tcp, headers).await.0, Form::WebSocket)
            }
            Dial::Wss => {
                let secured = tls(address, &[b"http/1.1"]).await;
                Device::new(upgrade(secured, headers).await.0, Form::WebSocket)
            }
            Dial::Quic => {
                let (endpoint, connection) = quic(address).await;
                let (send, receive) = connection.open_bi().await.unwrap();
                let stream = tokio::io::join(receive, send);
                let mut device = Device::new(stream, Form::Stream);
                device.quic = Some((endpoint, connection));
                device
            }
        }
    };
    tokio::time::timeout(PATIENCE, dialling).await.expect("dialled in time")
}

/// A TCP device whose kernel takes in next to nothing while it does not read.
pub async fn narrow(address: SocketAddr) -> Device {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    Device::new(socket.connect(address).await.unwrap(), Form::Stream)
}
