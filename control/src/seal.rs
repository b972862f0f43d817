//! Secrets at rest. What must be used again (client secrets, HMAC identity keys, private signing keys)
//! is sealed with AES-256-GCM under the master key; the purpose is bound in, so that one sealed secret
//! can never stand in for another. What must only be recognised is stored as SHA-256, see `key.rs`.

use crate::config::MasterKey;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A secret that only the [`Sealer`] can open: nonce, then ciphertext with tag, in base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sealed(String);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(..)")
    }
}

/// Another master key sealed it, it was sealed for another purpose, or it is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed secret cannot be opened")]
pub(crate) struct SealError;

/// Seals and opens under the master key. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sealer(Arc<RandomizedNonceKey>);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    pub(crate) fn new(key: &MasterKey) -> Result<Self, SealError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.expose()).map_err(|_| SealError)?;
        Ok(Self(Arc::new(key)))
    }

    /// `purpose` names what the secret is and whose; opening needs the same.
    pub(crate) fn seal(&self, purpose: &str, secret: &[u8]) -> Result<Sealed, SealError> {
        let mut body = secret.to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut body)
            .map_err(|_| SealError)?;
        let mut whole = nonce.as_ref().to_vec();
        whole.append(&mut body);
        Ok(Sealed(STANDARD.encode(whole)))
    }

    pub(crate) fn open(
        &self,
        purpose: &str,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let whole = STANDARD.decode(&sealed.0).map_err(|_| SealError)?;
        let (nonce, body) = whole.split_at_checked(NONCE_LEN).ok_or(SealError)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError)?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = self
            .0
            .open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut body)
            .map_err(|_| SealError)?
            .len();
        body.truncate(length);
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&MasterKey::new([byte; 32])).unwrap()
    }

    #[test]
    fn only_the_same_key_and_purpose_open_it() {
        let sealed = sealer(1).seal("a/1", b"secret").unwrap();
        assert_eq!(sealer(1).open("a/1", &sealed).unwrap().as_slice(), b"secret");
        assert_eq!(sealer(2).open("a/1", &sealed).unwrap_err(), SealError);
        assert_eq!(sealer(1).open("a/2", &sealed).unwrap_err(), SealError);
        for damaged in ["", "AAAA", "not base64!", &sealed.0[4..]] {
            assert!(sealer(1).open("a/1", &Sealed(damaged.to_owned())).is_err());
        }
    }

    #[test]
    fn sealing_twice_gives_two_texts() {
        let sealer = sealer(1);
        assert_ne!(sealer.seal("x", b"s").unwrap(), sealer.seal("x", b"s").unwrap());
    }
}
