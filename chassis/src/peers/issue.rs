//! Certificates between services, made by hawser itself: one CA, and a leaf for each role.

use super::{Role, look_at};
use crate::tls::{TlsError, read_chain, write_private};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CA_NAME: &str = "hawser internal CA";
const CA_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
/// Clocks of other machines may be this far behind.
const BACKDATED: Duration = Duration::from_hours(1);

/// What was made, and where.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Whom all services trust.
    pub ca: PathBuf,
    /// Signs new leaves; no service needs it.
    pub ca_key: PathBuf,
    /// Whether the CA was there before.
    pub ca_is_old: bool,
    /// For how long the leaves are good: as was asked, unless the CA ends before.
    pub life: Duration,
    /// Role, certificate and key.
    pub leaves: Vec<(Role, PathBuf, PathBuf)>,
}

/// Makes leaves for all roles in `folder`, which live for `life`, and the CA that signs them unless there
/// is one. Leaves live no longer than it. Those that are there are replaced, all of them at the end; keys are
/// readable by their owner alone.
pub fn issue(folder: &Path, life: Duration) -> Result<Issued, TlsError> {
    std::fs::create_dir_all(folder)
        .map_err(|source| TlsError::File { path: folder.to_owned(), source })?;
    let (ca, ca_key) = (folder.join("ca.pem"), folder.join("ca.key"));
    let ca_is_old = ca.exists();
    let issuer = if ca_is_old {
        let text = std::fs::read_to_string(&ca_key)
            .map_err(|source| TlsError::File { path: ca_key.clone(), source })?;
        // Leaves name their issuer and its key; both come out the same again.
        Issuer::new(ca_params(), KeyPair::from_pem(&text)?)
    } else {
        let key = KeyPair::generate()?;
        let certificate = ca_params().self_signed(&key)?;
        write_private(&[(&ca_key, &key.serialize_pem()), (&ca, &certificate.pem())])?;
        Issuer::new(ca_params(), key)
    };
    let ca_end = read_chain(&ca)?.first().and_then(look_at).map_or(u64::MAX, |it| it.not_after);
    let life = life.min(Duration::from_secs(ca_end.saturating_sub(now().as_secs())));
    if life.is_zero() {
        return Err(TlsError::Ended { path: ca });
    }
    let (mut leaves, mut files) = (Vec::new(), Vec::new());
    for role in Role::ALL {
        let certificate = folder.join(format!("{}.pem", role.name()));
        let key_path = folder.join(format!("{}.key", role.name()));
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec![role.domain().to_owned()])?;
        leaf.distinguished_name.push(DnType::CommonName, role.domain());
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        live(&mut leaf, life);
        let signed = leaf.signed_by(&key, &issuer)?;
        files.push((key_path.clone(), key.serialize_pem()));
        files.push((certificate.clone(), signed.pem()));
        leaves.push((role, certificate, key_path));
    }
    let files: Vec<_> = files.iter().map(|(at, text)| (at.as_path(), text.as_str())).collect();
    write_private(&files)?;
    Ok(Issued { ca, ca_key, ca_is_old, life, leaves })
}

fn ca_params() -> CertificateParams {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, CA_NAME);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    live(&mut ca, CA_LIFE);
    ca
}

fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(now.as_secs())
}

fn live(params: &mut CertificateParams, life: Duration) {
    let (now, epoch) = (now(), date_time_ymd(1970, 1, 1));
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + life;
}
