//! Which certificates are trusted by whoever dials here.

use anyhow::{Context, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// Those of this machine. What cannot be read is missed when a server shows it.
fn machine() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// The ones of a PEM file, beside those that are trusted already.
fn add(mut roots: RootCertStore, file: &Path) -> anyhow::Result<RootCertStore> {
    let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.with_context(|| format!("{} is no PEM", file.display()))?;
        roots.add(certificate)?;
    }
    ensure!(roots.len() > before, "there is no certificate in {}", file.display());
    Ok(roots)
}

/// For control and the push API: those of this machine, and of a file if one is named.
pub(crate) fn beside_machine(file: Option<&Path>) -> anyhow::Result<RootCertStore> {
    match file {
        Some(file) => add(machine(), file),
        None => Ok(machine()),
    }
}

/// For access points: those of a file alone, as devices that pin a CA do it; none named: those of this machine.
pub(crate) fn of_devices(file: Option<&Path>) -> anyhow::Result<RootCertStore> {
    match file {
        Some(file) => add(RootCertStore::empty(), file),
        None => Ok(machine()),
    }
}

/// TLS 1.3 of a client that trusts these.
pub(crate) fn client(roots: RootCertStore, alpn: &[&[u8]]) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}
