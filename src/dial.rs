//! How commands reach servers: `http://host:port`, or `https://host:port` with TLS, as a proxy in front of a public
//! port speaks it. Trusted are the CAs of this machine, and those of a file that is named.

use crate::failure::{Failure, Outcome, chain};
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore, version};
use tower::Service;

/// Until a connection stands, its TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One server: what is dialled, and how.
#[derive(Clone)]
pub(crate) struct Server {
    /// What a library is told to dial: always `http`, with a port, since the dialer speaks TLS itself.
    pub(crate) base: String,
    /// Host, and port unless it is the usual one, as the server knows itself.
    pub(crate) authority: String,
    pub(crate) dialer: Dialer,
}

impl Server {
    /// `address`: `http://host:port` or `https://host[:port]`. `ca`: PEM file of CAs that are trusted beside those
    /// of this machine. `alpn`: the protocol that is spoken.
    pub(crate) fn new(address: &str, ca: Option<&Path>, alpn: &[u8]) -> Outcome<Self> {
        let malformed = || {
            let forms = "http://host:port or https://host:port";
            Failure::usage(format!("{address} is not of the form {forms}"))
        };
        let uri: Uri = address.parse().map_err(|_| malformed())?;
        let host = uri.host().ok_or_else(malformed)?;
        let authority = uri.authority().ok_or_else(malformed)?.to_string();
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let (port, tls) = match uri.scheme_str() {
            Some("http") => (80, None),
            Some("https") => {
                let name = host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).map_err(|_| malformed())?;
                (443, Some(Tls { connector: TlsConnector::from(config(ca, alpn)?), name }))
            }
            _ => return Err(malformed()),
        };
        let port = uri.port_u16().unwrap_or(port);
        let base = format!("http://{host}:{port}{}", uri.path().trim_end_matches('/'));
        Ok(Self { base, authority, dialer: Dialer { tcp, tls } })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.dialer.tls.is_some()
    }
}

fn config(ca: Option<&Path>, alpn: &[u8]) -> Outcome<Arc<ClientConfig>> {
    let unusable = |failure: &dyn std::error::Error| Failure::usage(chain(failure));
    let mut roots = RootCertStore::empty();
    // A machine may have none, or some that cannot be read: what is missing is told when a server shows it.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(ca) = ca {
        for root in hawser_chassis::tls::read_chain(ca).map_err(|failure| unusable(&failure))? {
            roots.add(root).map_err(|failure| unusable(&failure))?;
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|failure| unusable(&failure))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// Makes the connections of a client.
#[derive(Clone)]
pub(crate) struct Dialer {
    tcp: HttpConnector,
    tls: Option<Tls>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Dialer {
    type Response = TokioIo<Link>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (dialling, tls) = (self.tcp.call(uri), self.tls.clone());
        let dialling = async move {
            let link = dialling.await?.into_inner();
            let Some(Tls { connector, name }) = tls else { return Ok(Link(Box::new(link))) };
            let secured =
                connector.connect(name, link).await.map_err(|failure| advise(&failure))?;
            Ok::<_, BoxError>(Link(Box::new(secured)))
        };
        Box::pin(async move {
            let dialled = tokio::time::timeout(CONNECT_TIMEOUT, dialling).await;
            Ok(TokioIo::new(dialled.map_err(|_| "no connection in time")??))
        })
    }
}

/// Says of a server that is not trusted what can be done.
fn advise(failure: &io::Error) -> BoxError {
    let inner = failure.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "no CA that is trusted here signed its certificate; name the file of the CA with --ca or HAWSER_CA"
                .into()
        }
        _ => format!("TLS: {failure}").into(),
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, with TLS or without.
pub(crate) struct Link(Box<dyn Stream>);

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_to_dial_and_whether_with_tls() {
        for (address, base, authority, is_tls) in [
            ("http://h:8080", "http://h:8080", "h:8080", false),
            ("http://h:8080/", "http://h:8080", "h:8080", false),
            ("https://h.example", "http://h.example:443", "h.example", true),
            ("https://[::1]:9/in/front/", "http://[::1]:9/in/front", "[::1]:9", true),
        ] {
            let server = Server::new(address, None, b"h2").expect("an address");
            assert_eq!((server.base.as_str(), server.authority.as_str()), (base, authority));
            assert_eq!(server.is_tls(), is_tls, "{address}");
        }
        for wrong in ["ftp://h", "h:8080", "", "https://", "https://not_a name:1"] {
            let failure = Server::new(wrong, None, b"h2").err().expect(wrong);
            assert!(failure.to_string().contains("https://host:port"), "{failure}");
        }
        let nowhere = Server::new("https://h", Some(Path::new("/nowhere.pem")), b"h2").err();
        assert!(nowhere.expect("no file").to_string().contains("/nowhere.pem"));
    }
}
