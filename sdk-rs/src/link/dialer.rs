//! Dialling: from an access point to a link. What many clients of one process share lives here too:
//! trusted roots, TLS configurations and the UDP sockets of QUIC.

use super::pipe::QuicStream;
use super::{Link, Pipe, stream::StreamLink, websocket};
use crate::advice::{AccessPoint, Protocol};
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

/// The protocol name offered on TLS and QUIC.
const ALPN: &[u8] = b"hawser/1";
/// What one QUIC stream may have on its way to us; quinn's default is 1.25 MB, its connections' none.
const QUIC_WINDOW: u32 = 1024 * 1024;

/// Why trusted roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not PEM, or without a certificate.
    #[error("no certificate in the PEM text")]
    Pem(#[source] Option<rustls_pki_types::pem::Error>),
    /// The TLS library does not take it.
    #[error("a root certificate cannot be used")]
    Rustls(#[from] rustls::Error),
    /// The system's store holds no root.
    #[error("the system has no trusted root certificates")]
    System,
    /// QUIC needs a cipher suite that is not there.
    #[error("no cipher suite for QUIC")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Why an access point was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot connect")]
    Connect(#[from] io::Error),
    #[error("the name has no address")]
    NoAddress,
    #[error("not a server name")]
    ServerName(#[from] rustls_pki_types::InvalidDnsNameError),
    #[error(transparent)]
    Trust(#[from] Arc<TrustError>),
    #[error("cannot begin QUIC")]
    QuicBegin(#[from] quinn::ConnectError),
    #[error("QUIC did not come up")]
    Quic(#[from] quinn::ConnectionError),
    #[error("the WebSocket upgrade failed")]
    Upgrade(#[from] Box<tokio_tungstenite::tungstenite::Error>),
}

/// What dialling needs, shared by all clients that are given a clone: pass one to
/// [`crate::Builder::dialer`] in a process with many clients. Without, each client makes its own.
#[derive(Clone)]
pub struct Dialer(Arc<Inner>);

struct Inner {
    roots: Vec<CertificateDer<'static>>,
    /// Made at the first use, since the system's roots are many.
    configs: OnceLock<Result<Configs, Arc<TrustError>>>,
    /// One socket per address family, made at the first use.
    endpoints: Mutex<[Option<quinn::Endpoint>; 2]>,
}

#[derive(Clone)]
struct Configs {
    /// With hawser's ALPN, for access points.
    wire: TlsConnector,
    /// Without, for WebSocket and control.
    web: TlsConnector,
    quic: quinn::ClientConfig,
}

impl Default for Dialer {
    fn default() -> Self {
        Self::with_roots(Vec::new())
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("roots", &self.0.roots.len()).finish_non_exhaustive()
    }
}

impl Dialer {
    /// Trusts the roots of the system.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificates in this PEM text, and nothing else.
    pub fn with_pem(pem: &[u8]) -> Result<Self, TrustError> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let roots = roots.map_err(|source| TrustError::Pem(Some(source)))?;
        if roots.is_empty() {
            return Err(TrustError::Pem(None));
        }
        store(&roots)?;
        Ok(Self::with_roots(roots))
    }

    fn with_roots(roots: Vec<CertificateDer<'static>>) -> Self {
        let (configs, endpoints) = (OnceLock::new(), Mutex::default());
        Self(Arc::new(Inner { roots, configs, endpoints }))
    }

    /// Dials. Ends when told to, by being dropped: the session keeps the time.
    pub(crate) async fn dial(&self, point: &AccessPoint) -> Result<Link, DialError> {
        let (host, port, name) = (&point.host, point.port, point.tls_name());
        Ok(match point.protocol {
            Protocol::Tcp => Link::Stream(StreamLink::new(Pipe::Tcp(tcp(host, port).await?))),
            Protocol::Tls => {
                let wire = self.configs()?.wire;
                Link::Stream(StreamLink::new(tls(wire, host, port, name).await?))
            }
            Protocol::Quic => {
                let quic = self.quic(host, port, name).await?;
                Link::Stream(StreamLink::new(Pipe::Quic(Box::new(quic))))
            }
            Protocol::Ws => {
                let pipe = Pipe::Tcp(tcp(host, port).await?);
                let link = websocket::upgrade(pipe, "ws", name, port).await;
                Link::WebSocket(Box::new(link.map_err(Box::new)?))
            }
            Protocol::Wss => {
                let pipe = self.web(host, port, name).await?;
                let link = websocket::upgrade(pipe, "wss", name, port).await;
                Link::WebSocket(Box::new(link.map_err(Box::new)?))
            }
        })
    }

    /// A pipe for HTTP: plain, or TLS without hawser's ALPN.
    pub(crate) async fn http(
        &self,
        host: &str,
        port: u16,
        is_secure: bool,
    ) -> Result<Pipe, DialError> {
        if is_secure {
            self.web(host, port, host).await
        } else {
            Ok(Pipe::Tcp(tcp(host, port).await?))
        }
    }

    async fn web(&self, host: &str, port: u16, name: &str) -> Result<Pipe, DialError> {
        tls(self.configs()?.web, host, port, name).await
    }

    async fn quic(&self, host: &str, port: u16, name: &str) -> Result<QuicStream, DialError> {
        let config = self.configs()?.quic;
        let address = lookup_host((host, port)).await?.next().ok_or(DialError::NoAddress)?;
        let endpoint = self.endpoint(address)?;
        let connecting = endpoint.connect_with(config, address, name);
        if let Err(quinn::ConnectError::EndpointStopping) = connecting {
            // Its runtime has ended; the next dial makes another.
            *self.0.endpoints.lock() = [None, None];
        }
        let connection = connecting?.await?;
        let (send, recv) = connection.open_bi().await?;
        Ok(QuicStream { connection, send, recv })
    }

    /// The endpoint for an address family.
    fn endpoint(&self, towards: SocketAddr) -> io::Result<quinn::Endpoint> {
        let (family, local) = match towards {
            SocketAddr::V4(_) => (0, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (1, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        let mut endpoints = self.0.endpoints.lock();
        if let Some(endpoint) = &endpoints[family] {
            return Ok(endpoint.clone());
        }
        let made = quinn::Endpoint::client(local)?;
        endpoints[family] = Some(made.clone());
        Ok(made)
    }

    fn configs(&self) -> Result<Configs, Arc<TrustError>> {
        let made = self.0.configs.get_or_init(|| configs(&self.0.roots).map_err(Arc::new));
        made.clone()
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn tls(
    connector: TlsConnector,
    host: &str,
    port: u16,
    name: &str,
) -> Result<Pipe, DialError> {
    let name = ServerName::try_from(name.to_owned())?;
    let stream = connector.connect(name, tcp(host, port).await?).await?;
    Ok(Pipe::Tls(Box::new(stream)))
}

fn store(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    Ok(store)
}

fn configs(roots: &[CertificateDer<'static>]) -> Result<Configs, TrustError> {
    let roots = if roots.is_empty() { system_roots()? } else { store(roots)? };
    let mut web = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A memory per name and client would outweigh the client; resumption gains little on links that
    // live for hours.
    web.resumption = rustls::client::Resumption::in_memory_sessions(32);
    let mut wire = web.clone();
    wire.alpn_protocols = vec![ALPN.to_vec()];
    let mut quic = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(wire.clone())?));
    quic.transport_config(Arc::new(transport()));
    let connector = |config| TlsConnector::from(Arc::new(config));
    Ok(Configs { wire: connector(wire), web: connector(web), quic })
}

fn system_roots() -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _unusable) = store.add_parsable_certificates(found.certs);
    if usable == 0 { Err(TrustError::System) } else { Ok(store) }
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(0u8.into())
        .max_concurrent_uni_streams(0u8.into())
        .stream_receive_window(QUIC_WINDOW.into())
        .receive_window(QUIC_WINDOW.into())
        .send_window(u64::from(QUIC_WINDOW))
        .datagram_receive_buffer_size(None)
        // The session's own heartbeat watches the link; the node's idle time-out still holds.
        .max_idle_timeout(None);
    transport
}
