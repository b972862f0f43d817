//! Ways to a deployment: control's HTTP API, the push API and access points, plain or over TLS 1.3, with one
//! idea of whom to trust.

use crate::wire::Io;
use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, version};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// Until a connection stands, its TLS included; and until control has answered.
const PATIENCE: Duration = Duration::from_secs(15);
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const HTTP: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";
/// Frames on TLS.
const WIRE: &[u8] = b"hawser/1";

/// Whom to trust, and how to get there.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    roots: Arc<RootCertStore>,
}

/// Scheme, host and port of an address.
struct Server {
    is_tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Server {
    fn parse(address: &str) -> anyhow::Result<Self> {
        let wrong = || format!("{address} is not http://host:port or https://host:port");
        let uri: Uri = address.parse().with_context(wrong)?;
        let authority = uri.authority().with_context(wrong)?;
        let (is_tls, usual) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => bail!(wrong()),
        };
        Ok(Self {
            is_tls,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(usual),
            authority: authority.to_string(),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl Ways {
    /// `trust`: PEM file of the only CAs to trust; none: those of this machine.
    pub(super) fn new(trust: Option<&Path>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        match trust {
            Some(path) => {
                let wrong = || format!("no certificates in {}", path.display());
                for root in CertificateDer::pem_file_iter(path).with_context(wrong)? {
                    roots.add(root.with_context(wrong)?).with_context(wrong)?;
                }
            }
            // A machine may have none: that is told when a server shows a certificate.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        Ok(Self { roots: Arc::new(roots) })
    }

    /// To an access point, for frames on the bare wire.
    pub(super) async fn to_point(
        &self,
        host: &str,
        port: u16,
        tls_name: Option<&str>,
    ) -> anyhow::Result<Box<dyn Io>> {
        self.to(host, port, tls_name.map(|name| (name, WIRE))).await
    }

    async fn to(
        &self,
        host: &str,
        port: u16,
        tls: Option<(&str, &[u8])>,
    ) -> anyhow::Result<Box<dyn Io>> {
        let dialled = tokio::time::timeout(PATIENCE, async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            let Some((name, alpn)) = tls else {
                return anyhow::Ok(Box::new(stream) as Box<dyn Io>);
            };
            let name = ServerName::try_from(name.to_owned())?;
            Ok(Box::new(self.connector(alpn)?.connect(name, stream).await?) as Box<dyn Io>)
        });
        let link = dialled.await.context("the dial was not answered")?;
        link.with_context(|| format!("cannot reach {host}:{port}"))
    }

    fn connector(&self, alpn: &[u8]) -> anyhow::Result<TlsConnector> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// The push API, dialled at the first call.
    pub(super) fn push(&self, address: &str) -> anyhow::Result<Channel> {
        let server = Arc::new(Server::parse(address)?);
        let scheme = if server.is_tls { "https" } else { "http" };
        let origin: Uri = format!("{scheme}://{}", server.authority).parse()?;
        let ways = self.clone();
        // The dialer speaks TLS itself: to the library every server is plain.
        let endpoint = Endpoint::from_shared(format!("http://{}", server.authority))?;
        Ok(endpoint.origin(origin).connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (ways, server) = (ways.clone(), server.clone());
            async move {
                let tls = server.is_tls.then_some((server.host.as_str(), HTTP2));
                let link = ways.to(&server.host, server.port, tls).await;
                link.map(TokioIo::new).map_err(|error| std::io::Error::other(format!("{error:#}")))
            }
        })))
    }

    /// Asks control for something, as a device does.
    pub(super) async fn post(
        &self,
        control: &str,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let asked = tokio::time::timeout(PATIENCE, self.ask(control, path, body));
        asked.await.context("control did not answer in time")?
    }

    async fn ask(&self, control: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let server = Server::parse(control)?;
        let tls = server.is_tls.then_some((server.host.as_str(), HTTP));
        let link = self.to(&server.host, server.port, tls).await?;
        let (mut sender, link) = hyper::client::conn::http1::handshake(TokioIo::new(link)).await?;
        let request = Request::post(format!("{}{path}", server.path))
            .header(HOST, &server.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            if !status.is_success() {
                bail!("control answers {status}: {}", String::from_utf8_lossy(&body));
            }
            Ok(serde_json::from_slice(&body)?)
        };
        // The link has to be driven while we wait; its own end tells less than the exchange does.
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            _ = link => exchange.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_its_usual_port() {
        let check = |address: &str, expected: Option<(bool, &str, u16)>| {
            let server = Server::parse(address).ok();
            let read = server.as_ref().map(|it| (it.is_tls, it.host.as_str(), it.port));
            assert_eq!(read, expected, "{address}");
        };
        check("http://127.0.0.1:8080", Some((false, "127.0.0.1", 8080)));
        check("https://control.example.com", Some((true, "control.example.com", 443)));
        check("https://[::1]:9/base/", Some((true, "::1", 9)));
        check("control.example.com:8080", None);
        check("ftp://control.example.com", None);
    }
}
