//! TLS material: loaded from PEM files or made for development, and replaced without a restart.
//! TLS 1.3 only; one crypto provider, aws-lc-rs.

use arc_swap::ArcSwap;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why TLS material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot access {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not PEM of the expected kind.
    #[error("{path} holds no usable PEM")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not make a pair, or the key's kind is not served.
    #[error("certificate and key cannot be used")]
    Rustls(#[from] rustls::Error),
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// Nothing can be signed any more by a CA that has ended. Whoever trusts it has to be given another one.
    #[error("the CA in {path} has ended; make another one in a new folder")]
    Ended {
        /// Its certificate.
        path: PathBuf,
    },
}

/// The certificate a server shows. Clones share it; [`Certificate::reload`] replaces it for all new
/// handshakes.
#[derive(Clone, Debug)]
pub struct Certificate {
    chain_path: PathBuf,
    key_path: PathBuf,
    current: Arc<ArcSwap<CertifiedKey>>,
}

impl Certificate {
    /// Loads chain and key from PEM files.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let current = Arc::new(ArcSwap::from_pointee(read_pair(chain, key)?));
        Ok(Self { chain_path: chain.to_owned(), key_path: key.to_owned(), current })
    }

    /// Reads the files again. On an error the one in use stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(read_pair(&self.chain_path, &self.key_path)?));
        Ok(())
    }

    /// A server configuration that always shows the certificate in use. `alpn`: protocol names, in
    /// the order of preference; none for plain TLS.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(Resolver(self.current.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}

#[derive(Debug)]
struct Resolver(Arc<ArcSwap<CertifiedKey>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn read_pair(chain: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let (chain, key) = (read_chain(chain)?, read_key(key)?);
    Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
}

/// All certificates of a PEM file.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let source = match chain {
        Ok(chain) if !chain.is_empty() => return Ok(chain),
        Ok(_) => rustls_pki_types::pem::Error::NoItemsFound,
        Err(source) => source,
    };
    Err(TlsError::Pem { path: path.to_owned(), source })
}

/// The private key of a PEM file.
pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.to_owned(), source };
    PrivateKeyDer::from_pem_file(path).map_err(pem)
}

/// A client configuration that trusts the certificates in `roots` (DER), and nothing else.
pub fn client_config(
    roots: &[CertificateDer<'static>],
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// Development certificates in one folder: a CA and a leaf for `localhost` and loopback, made at the
/// first call and kept.
#[derive(Clone, Debug)]
pub struct DevCertificates {
    /// The CA, for clients to trust.
    pub ca: PathBuf,
    /// The server's chain.
    pub chain: PathBuf,
    /// The server's key.
    pub key: PathBuf,
}

impl DevCertificates {
    /// Uses what is in `folder`, or makes it. The key files are readable by their owner alone.
    pub fn load_or_make(folder: &Path) -> Result<Self, TlsError> {
        let paths = Self {
            ca: folder.join("ca.pem"),
            chain: folder.join("server.pem"),
            key: folder.join("server.key"),
        };
        if paths.ca.exists() && paths.chain.exists() && paths.key.exists() {
            return Ok(paths);
        }
        std::fs::create_dir_all(folder)
            .map_err(|source| TlsError::File { path: folder.to_owned(), source })?;
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "hawser development CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca_certificate = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);

        let leaf_key = KeyPair::generate()?;
        let names = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name.push(DnType::CommonName, "localhost");
        let leaf_certificate = leaf.signed_by(&leaf_key, &issuer)?;

        write_private(&[
            (&paths.ca, &ca_certificate.pem()),
            (&paths.chain, &leaf_certificate.pem()),
            (&paths.key, &leaf_key.serialize_pem()),
        ])?;
        Ok(paths)
    }
}

/// Writes files that belong together, and that their owner alone can read. What was there stays, whole, until
/// all of them are on disk: each is written beside its place, and then they are renamed one right after the other.
pub(crate) fn write_private(files: &[(&Path, &str)]) -> Result<(), TlsError> {
    let beside = |path: &Path| path.with_added_extension("new");
    for (path, text) in files {
        write_new(&beside(path), text)
            .map_err(|source| TlsError::File { path: path.to_path_buf(), source })?;
    }
    for (path, _) in files {
        std::fs::rename(beside(path), path)
            .map_err(|source| TlsError::File { path: path.to_path_buf(), source })?;
    }
    Ok(())
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    // One that is left over from a crash may have been made by anybody.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn development_certificates_are_made_once_and_load() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = DevCertificates::load_or_make(folder.path()).expect("made");
        let before = std::fs::read(&made.chain).expect("written");
        let again = DevCertificates::load_or_make(folder.path()).expect("found");
        assert_eq!(before, std::fs::read(&again.chain).expect("kept"));
        let certificate = Certificate::load(&made.chain, &made.key).expect("a pair");
        certificate.server_config(&[b"hawser/1"]).expect("usable");

        let files = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(files, 3, "nothing is left beside them");

        std::fs::write(&made.key, "not a key").expect("written");
        assert!(matches!(certificate.reload(), Err(TlsError::Pem { .. })));
        certificate.server_config(&[]).expect("the one in use stays");
    }
    #[test]
    fn files_that_belong_together_are_replaced_when_all_are_written() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (key, certificate) = (folder.path().join("a.key"), folder.path().join("gone/a.pem"));
        write_private(&[(&key, "old")]).expect("written");
        let both = [(key.as_path(), "new"), (certificate.as_path(), "new")];
        write_private(&both).expect_err("no such folder");
        assert_eq!(std::fs::read_to_string(&key).expect("there"), "old");
        std::fs::create_dir(folder.path().join("gone")).expect("made");
        // What a crash left, for all to read.
        std::fs::write(folder.path().join("a.key.new"), "half").expect("written");
        write_private(&both).expect("written");
        assert_eq!(std::fs::read_to_string(&key).expect("there"), "new");
        let mode = key.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
