//! How a service is known to the others: by `[internal_tls]`, or by `cluster_secret`.

use super::secret_at::SecretAt;
use crate::failure::{Failure, Outcome, chain};
use hawser_chassis::peers::{PeerFiles, Peers, PeersError};
use hawser_chassis::secret::Secret;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Shorter ones can be guessed.
const SECRET_CHARS_MIN: usize = 16;

/// What a service shows the others with TLS.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an [internal_tls] table")]
pub(super) struct InternalTls {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// What of a file says how services know each other.
pub(super) struct Internal<'f> {
    pub(super) secret: Option<&'f SecretAt>,
    pub(super) tls: Option<&'f InternalTls>,
}

impl Internal<'_> {
    /// What the form alone cannot say. `listen`: the internal port, of services that have one. `dialled`:
    /// addresses of other services.
    pub(super) fn check(
        &self,
        listen: Option<SocketAddr>,
        allow_plain: bool,
        dialled: &[&str],
    ) -> Outcome {
        let peers = match (self.secret, self.tls) {
            (None, None) => {
                return Err(Failure::usage(
                    "say how services know each other: [internal_tls], made by \
                     `hawser certificates create`, or cluster_secret on one machine",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(Failure::usage(
                    "both cluster_secret and [internal_tls] are given: leave the secret out",
                ));
            }
            (Some(_), None) => {
                Peers::secret(&Secret::new("any")).map_err(|failure| unusable(&failure))?
            }
            (None, Some(_)) => {
                for uri in dialled {
                    if !uri.trim_start_matches("dns:").starts_with("https://") {
                        return Err(Failure::usage(format!(
                            "{uri} must begin with https://, since there is [internal_tls]"
                        )));
                    }
                }
                return Ok(());
            }
        };
        for uri in dialled {
            peers
                .check_address(uri.trim_start_matches("dns:"))
                .map_err(|failure| unusable(&failure))?;
        }
        let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback()) else {
            return Ok(());
        };
        if !allow_plain {
            return Err(Failure::usage(format!(
                "internal_listen = {listen} can be reached from other machines, and without \
                 [internal_tls] all that goes there can be read and changed on its way: make \
                 certificates (`hawser certificates create`), listen on loopback, or set \
                 allow_plain_internal = true if that network is trusted"
            )));
        }
        Ok(())
    }

    /// Opens the certificates, as at start. A secret may stand elsewhere than on the machine that checks.
    pub(super) fn open_files(&self) -> Outcome {
        if self.tls.is_some() { self.peers().map(drop) } else { Ok(()) }
    }

    /// Reads the secret or the certificates.
    pub(super) fn peers(&self) -> Outcome<Peers> {
        match (self.secret, self.tls) {
            (_, Some(InternalTls { ca, certificate, key })) => {
                let files = PeerFiles {
                    ca: ca.clone(),
                    certificate: certificate.clone(),
                    key: key.clone(),
                };
                Peers::tls(files).map_err(|failure| unusable(&failure))
            }
            (Some(at), None) => {
                let secret = at.read()?;
                if secret.expose().len() < SECRET_CHARS_MIN {
                    return Err(Failure::usage("the cluster secret is shorter than 16 characters"));
                }
                Peers::secret(&secret).map_err(|failure| unusable(&failure))
            }
            (None, None) => Err(Failure::usage("neither cluster_secret nor [internal_tls]")),
        }
    }
}

fn unusable(failure: &PeersError) -> Failure {
    Failure::usage(chain(failure))
}
