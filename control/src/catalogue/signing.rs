//! Keys that sign device tokens, and their life: published, active, verifying only, gone.

use super::Entity;
use crate::seal::{SealError, Sealed, Sealer};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use hawser_proto::rpc::control as wire;
use serde::{Deserialize, Serialize};

/// An Ed25519 key pair, the private half sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SigningKey {
    pub(crate) kid: String,
    #[serde(with = "hex::serde")]
    pub(crate) public_key: [u8; 32],
    /// PKCS#8.
    pub(crate) sealed: Sealed,
    /// It is known to verifiers before this time, and signs from it on.
    pub(crate) active_from_ms: u64,
    /// The last token it signed is dead by then. `None`: it may still sign.
    pub(crate) verify_until_ms: Option<u64>,
}

impl SigningKey {
    /// Makes a new pair.
    pub(crate) fn generate(sealer: &Sealer, active_from_ms: u64) -> Result<Self, SealError> {
        let kid = crate::key::new_id();
        let pair = Ed25519KeyPair::generate().map_err(|_| SealError)?;
        let document = pair.to_pkcs8v1().map_err(|_| SealError)?;
        let mut public_key = [0; 32];
        public_key.copy_from_slice(pair.public_key().as_ref());
        let private = sealer.seal(&purpose(&kid), document.as_ref())?;
        Ok(Self { kid, public_key, sealed: private, active_from_ms, verify_until_ms: None })
    }

    pub(crate) fn verifies(&self, now_ms: u64) -> bool {
        self.verify_until_ms.is_none_or(|until| now_ms < until)
    }

    /// The private half, ready to sign.
    pub(crate) fn open(
        &self,
        sealer: &Sealer,
    ) -> Result<hawser_proto::token::SigningKey, SealError> {
        let document = sealer.open(&purpose(&self.kid), &self.sealed)?;
        Ok(hawser_proto::token::SigningKey::from_ed25519_pkcs8(&self.kid, &document))
    }

    pub(super) fn wire(&self) -> Entity {
        Entity::SigningKey(self.wire_key())
    }

    pub(super) fn wire_key(&self) -> wire::SigningKey {
        wire::SigningKey {
            kid: self.kid.clone(),
            public_key: self.public_key.to_vec().into(),
            active_from_ms: self.active_from_ms as i64,
            verify_until_ms: self.verify_until_ms.unwrap_or(0) as i64,
        }
    }
}

fn purpose(kid: &str) -> String {
    format!("signing-key/{kid}")
}

/// Only what names a signing key.
pub(super) fn wire_name(kid: &str) -> Entity {
    Entity::SigningKey(wire::SigningKey { kid: kid.to_owned(), ..Default::default() })
}
