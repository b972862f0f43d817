//! How the services of one cluster know each other: by mutual TLS with roles, or by a secret that all of
//! them share. Every internal gRPC port is served, and dialled, through [`Peers`].
//!
//! With TLS a certificate names the roles of who shows it, as DNS names: `control.hawser`, `router.hawser`,
//! `access.hawser`, `operator.hawser`. Who dials asks for the role that the other side must have, whatever
//! address it was found at; who serves says which roles may call ([`Peers::guard`]).

mod incoming;
mod issue;
mod tls;
mod validity;

pub use incoming::PeerIo;
pub use issue::{Issued, issue};
pub use tls::PeerFiles;
pub use validity::{Shown, look_at};

use crate::grpc;
use crate::secret::{Secret, bearer};
use crate::shutdown::Tasks;
use crate::tls::TlsError;
use prometheus::Registry;
use rustls_pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tls::Material;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

/// What a service, or a person, is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Keeps the catalogue.
    Control = 1,
    /// Knows who is where.
    Router = 2,
    /// Holds connections.
    Access = 4,
    /// A person with tools. Opens no port between services.
    Operator = 8,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Control, Self::Router, Self::Access, Self::Operator];

    /// As in commands and in names of files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Router => "router",
            Self::Access => "access",
            Self::Operator => "operator",
        }
    }

    /// The DNS name that a certificate of this role carries.
    pub const fn domain(self) -> &'static str {
        match self {
            Self::Control => "control.hawser",
            Self::Router => "router.hawser",
            Self::Access => "access.hawser",
            Self::Operator => "operator.hawser",
        }
    }

    fn server_name(self) -> ServerName<'static> {
        ServerName::try_from(self.domain()).expect("each of them is a DNS name")
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Roles(u8);

impl Roles {
    const ALL: Self = Self(15);

    fn holds(self, role: Role) -> bool {
        self.0 & role as u8 != 0
    }

    fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |all, role| all | role as u8))
    }
}

/// Why services cannot be known or dialled.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The shared secret cannot be sent.
    #[error("the cluster secret holds characters that cannot stand in a header")]
    Secret,
    /// Not an address.
    #[error("{uri} is not an address of the form http://host:port or https://host:port")]
    Address {
        /// What was given.
        uri: String,
    },
    /// `https` without certificates, or `http` with them.
    #[error("{uri} must begin with {expected}://, since services {reason}")]
    Scheme {
        /// What was given.
        uri: String,
        /// What it must begin with.
        expected: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Certificates or keys cannot be used.
    #[error("the certificates between services cannot be used")]
    Tls(#[from] TlsError),
}

/// A channel to another service; clients are made on it with `Client::new`.
pub type PeerChannel = InterceptedService<Channel, Show>;

/// How this service shows itself to others, and knows them. Clones share it.
#[derive(Clone, Debug)]
pub struct Peers(Form);

#[derive(Clone)]
enum Form {
    Secret { asked: Secret, shown: MetadataValue<Ascii> },
    Tls(Arc<Material>),
}

// The header value holds the secret.
impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Secret { .. } => "Secret(..)",
            Self::Tls(_) => "Tls(..)",
        })
    }
}

impl Peers {
    /// All services share this secret, and trust the network between them.
    pub fn secret(secret: &Secret) -> Result<Self, PeersError> {
        let header = format!("Bearer {}", secret.expose());
        let mut shown: MetadataValue<Ascii> = header.parse().map_err(|_| PeersError::Secret)?;
        shown.set_sensitive(true);
        Ok(Self(Form::Secret { asked: secret.clone(), shown }))
    }

    /// Services show certificates that one CA signed.
    pub fn tls(files: PeerFiles) -> Result<Self, PeersError> {
        Ok(Self(Form::Tls(Arc::new(Material::load(files)?))))
    }

    /// Whether what goes between services is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.0, Form::Tls(_))
    }

    /// Reads CA, certificate and key again, for connections from now on; those that are there stay. On an
    /// error what is in use stays. Nothing to do for a secret.
    pub fn reload(&self) -> Result<(), PeersError> {
        match &self.0 {
            Form::Secret { .. } => Ok(()),
            Form::Tls(material) => Ok(material.reload()?),
        }
    }

    /// Shows among the metrics when the first certificate ends (`hawser_internal_certificate_expires_seconds`),
    /// and warns each day when that is near. Nothing to do for a secret.
    pub fn watch(&self, tasks: &Tasks, registry: &Registry) {
        match &self.0 {
            Form::Secret { .. } => {}
            Form::Tls(material) => material.watch(tasks, registry),
        }
    }

    /// Whether `uri` can be dialled: what [`Peers::channel`] would say.
    pub fn check_address(&self, uri: &str) -> Result<(), PeersError> {
        self.endpoint(uri).map(drop)
    }

    /// A channel to a service of this role, that connects when first used and again whenever it broke.
    /// `uri`: `http://host:port`, and `https://host:port` with TLS.
    pub fn channel(&self, uri: &str, role: Role) -> Result<PeerChannel, PeersError> {
        let endpoint = self.endpoint(uri)?;
        let (channel, shown) = match &self.0 {
            Form::Secret { shown, .. } => (endpoint.connect_lazy(), Some(shown.clone())),
            Form::Tls(material) => {
                (endpoint.connect_with_connector_lazy(material.connector(role)), None)
            }
        };
        Ok(InterceptedService::new(channel, Show(shown)))
    }

    fn endpoint(&self, uri: &str) -> Result<Endpoint, PeersError> {
        let (expected, reason) = match &self.0 {
            Form::Secret { .. } => ("http", "show each other a secret, without TLS"),
            Form::Tls(_) => ("https", "show each other certificates"),
        };
        let address = || PeersError::Address { uri: uri.to_owned() };
        let (scheme, rest) = uri.split_once("://").ok_or_else(address)?;
        if scheme != expected {
            let uri = uri.to_owned();
            return Err(PeersError::Scheme { uri, expected, reason });
        }
        // The connector speaks TLS itself; told of `https`, the library would want to.
        let endpoint = grpc::peer_endpoint(&format!("http://{rest}")).map_err(|_| address())?;
        if endpoint.uri().host().is_none() || endpoint.uri().port().is_none() {
            return Err(address());
        }
        Ok(endpoint)
    }

    /// A server for an internal port, with every bound set. Serve it on [`Peers::incoming`], each service
    /// behind [`Peers::guard`].
    pub fn server(&self) -> Server {
        grpc::server()
    }

    /// Connections that have shown what they must before a call. Never ends, and has no errors: one that
    /// fails to greet is dropped, and an accept that fails is tried again.
    pub fn incoming(
        &self,
        listener: TcpListener,
    ) -> impl Stream<Item = io::Result<PeerIo>> + Send + use<> {
        let material = match &self.0 {
            Form::Secret { .. } => None,
            Form::Tls(material) => Some(material.clone()),
        };
        incoming::stream(listener, material)
    }

    /// Lets callers of these roles through, and adds [`Caller`] to what they ask. All that know the secret
    /// have every role.
    pub fn guard(&self, roles: &[Role]) -> Guard {
        Guard { form: self.0.clone(), roles: roles.iter().copied().collect() }
    }
}

/// Shows the secret, if that is how services know each other, with every call.
#[derive(Clone, Debug)]
pub struct Show(Option<MetadataValue<Ascii>>);

impl Interceptor for Show {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(shown) = &self.0 {
            request.metadata_mut().insert("authorization", shown.clone());
        }
        Ok(request)
    }
}

/// Stands before a service; see [`Peers::guard`].
#[derive(Clone, Debug)]
pub struct Guard {
    form: Form,
    roles: Roles,
}

impl Interceptor for Guard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let remote = incoming::remote(&request);
        let roles = match &self.form {
            Form::Secret { asked, .. } => {
                let shown = request.metadata().get("authorization");
                let token = shown.and_then(|value| value.to_str().ok()).and_then(bearer);
                if !token.is_some_and(|token| asked.matches(token)) {
                    return Err(Status::unauthenticated("the cluster secret is missing or wrong"));
                }
                Roles::ALL
            }
            Form::Tls(_) => incoming::roles_of(&request),
        };
        if !roles.meets(self.roles) {
            return Err(Status::permission_denied(
                "the certificate shown is not of a role that may call this",
            ));
        }
        request.extensions_mut().insert(Caller { roles, remote });
        Ok(request)
    }
}

/// Who makes a call that a [`Guard`] let through.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    roles: Roles,
    remote: Option<SocketAddr>,
}

impl Caller {
    /// Of a request. Without a guard before it: somebody without any role.
    pub fn of<T>(request: &Request<T>) -> Self {
        let nobody = Self { roles: Roles::default(), remote: None };
        request.extensions().get().copied().unwrap_or(nobody)
    }

    /// Whether the caller may act as this.
    pub fn is(self, role: Role) -> bool {
        self.roles.holds(role)
    }

    /// Where the call comes from.
    pub fn remote(self) -> Option<SocketAddr> {
        self.remote
    }

    /// Refuses callers without this role.
    pub fn must_be(self, role: Role) -> Result<(), Status> {
        if self.is(role) {
            return Ok(());
        }
        Err(Status::permission_denied("the certificate shown is not of a role that may call this"))
    }
}

#[cfg(test)]
mod tests;
