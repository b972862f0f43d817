//! Certificates between services: read from files, read again without a restart.

use super::Role;
use super::validity::look_at;
use crate::shutdown::Tasks;
use crate::tls::{TlsError, read_chain, read_key};
use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use prometheus::{IntGauge, Registry};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower::Service;
use tracing::{error, info, warn};

const ALPN: &[u8] = b"h2";
/// From so many days on before a certificate ends, there is a warning each day.
const DAYS_LEFT_MIN: u64 = 14;
/// Between two looks at how long certificates are still good.
const LOOK_INTERVAL: Duration = Duration::from_hours(24);

/// Where the certificates of a service are.
#[derive(Clone, Debug)]
pub struct PeerFiles {
    /// Whom to trust; several certificates while one takes the place of another.
    pub ca: PathBuf,
    /// The chain that this service shows.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What is in use now.
pub(super) struct Material {
    files: PeerFiles,
    current: ArcSwap<Configs>,
    expires: IntGauge,
}

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// Whatever of it ends first.
    end: Option<End>,
}

/// When a certificate ends.
#[derive(Clone, Debug)]
struct End {
    file: PathBuf,
    /// In seconds since 1970.
    at: u64,
}

impl Material {
    pub(super) fn load(files: PeerFiles) -> Result<Self, TlsError> {
        let expires = IntGauge::new(
            "hawser_internal_certificate_expires_seconds",
            "When the first of this service's internal certificate, its chain and the CA ends, in seconds \
             since 1970; moves when they are read again.",
        )
        .expect("the name is a valid metric name");
        let current = ArcSwap::from_pointee(Configs::read(&files)?);
        let material = Self { files, current, expires };
        material.look();
        Ok(material)
    }

    pub(super) fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(Configs::read(&self.files)?));
        self.look();
        Ok(())
    }

    /// Shows when certificates end, and looks at it every day.
    pub(super) fn watch(self: &Arc<Self>, tasks: &Tasks, registry: &Registry) {
        if let Err(error) = registry.register(Box::new(self.expires.clone())) {
            warn!(%error, "the end of certificates is not among the metrics");
        }
        let (material, stop) = (self.clone(), tasks.stop_signal());
        tasks.spawn("certificates", async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_INTERVAL) => material.look(),
                    () = stop.cancelled() => return,
                }
            }
        });
    }

    /// A certificate that ends takes the whole cluster down, and nobody sees it coming.
    fn look(&self) {
        let current = self.current.load();
        let Some(End { file, at }) = &current.end else { return };
        self.expires.set(i64::try_from(*at).unwrap_or(i64::MAX));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (certificate, days) = (file.display(), at.saturating_sub(now) / 86_400);
        if now >= *at {
            error!(%certificate, "a certificate between services has ended: nobody takes it");
        } else if days < DAYS_LEFT_MIN {
            warn!(%certificate, days, "a certificate between services ends soon; make a new one");
        } else {
            info!(%certificate, days, "certificates between services are good");
        }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load().server.clone())
    }

    #[cfg(test)]
    pub(super) fn client(&self) -> Arc<ClientConfig> {
        self.current.load().client.clone()
    }

    /// Dials, and goes on only with a server of this role.
    pub(super) fn connector(self: &Arc<Self>, role: Role) -> Connector {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(crate::grpc::CONNECT_TIMEOUT));
        Connector { material: self.clone(), role, tcp }
    }
}

/// The first of these certificates to end.
fn first_end(file: &Path, certificates: &[CertificateDer<'_>]) -> Option<End> {
    let ends = certificates.iter().filter_map(look_at).map(|shown| shown.not_after);
    Some(End { file: file.to_owned(), at: ends.min()? })
}

impl Configs {
    fn read(files: &PeerFiles) -> Result<Self, TlsError> {
        let provider = || Arc::new(aws_lc_rs::default_provider());
        let only = &[&rustls::version::TLS13];
        let mut roots = RootCertStore::empty();
        let trusted = read_chain(&files.ca)?;
        let chain = read_chain(&files.certificate)?;
        let ends = [first_end(&files.certificate, &chain), first_end(&files.ca, &trusted)];
        let end = ends.into_iter().flatten().min_by_key(|end| end.at);
        for root in trusted {
            roots.add(root)?;
        }
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(only)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), read_key(&files.key)?)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // A connection lives for hours; one that resumes would not show its certificate again, and one that
        // is trusted no more would come in.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(only)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, read_key(&files.key)?)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self { client: Arc::new(client), server: Arc::new(server), end })
    }
}

/// Makes the connections of a channel.
#[derive(Clone)]
pub(super) struct Connector {
    material: Arc<Material>,
    role: Role,
    tcp: HttpConnector,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<http::Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let dialling = self.tcp.call(uri);
        let tls = TlsConnector::from(self.material.current.load().client.clone());
        let name = self.role.server_name();
        Box::pin(async move {
            let link = dialling.await?.into_inner();
            Ok(TokioIo::new(tls.connect(name, link).await?))
        })
    }
}
