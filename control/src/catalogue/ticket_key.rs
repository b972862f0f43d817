//! Keys that access nodes make and check resume tickets with. Unlike a signing key it is one secret for both,
//! so it is told to access nodes only.

use super::Entity;
use crate::seal::{SealError, Sealed, Sealer};
use hawser_proto::rpc::control as wire;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

const SECRET_BYTES: usize = 32;

/// A ticket key, sealed at rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TicketKey {
    pub(crate) kid: u32,
    sealed: Sealed,
    /// It is known to access nodes before this time, and tickets are made with it from it on.
    pub(crate) active_from_ms: u64,
    /// The last ticket made with it is dead by then. `None`: tickets may still be made with it.
    pub(crate) verify_until_ms: Option<u64>,
    /// As opened at load. Empty until then.
    #[serde(skip)]
    secret: Secret,
}

#[derive(Clone, Default)]
struct Secret(Zeroizing<Vec<u8>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl TicketKey {
    /// Makes a new one. `kid` must be used by no other that still verifies.
    pub(crate) fn generate(
        sealer: &Sealer,
        kid: u32,
        active_from_ms: u64,
    ) -> Result<Self, SealError> {
        let secret = Zeroizing::new(rand::random::<[u8; SECRET_BYTES]>().to_vec());
        Ok(Self {
            kid,
            sealed: sealer.seal(&purpose(kid), &secret)?,
            active_from_ms,
            verify_until_ms: None,
            secret: Secret(secret),
        })
    }

    /// Opens what was read from the store.
    pub(crate) fn open(mut self, sealer: &Sealer) -> Result<Self, SealError> {
        self.secret = Secret(sealer.open(&purpose(self.kid), &self.sealed)?);
        Ok(self)
    }

    pub(crate) fn verifies(&self, now_ms: u64) -> bool {
        self.verify_until_ms.is_none_or(|until| now_ms < until)
    }

    pub(super) fn wire(&self) -> Entity {
        Entity::TicketKey(self.wire_key())
    }

    pub(super) fn wire_key(&self) -> wire::TicketKey {
        wire::TicketKey {
            kid: self.kid,
            key: self.secret.0.to_vec().into(),
            active_from_ms: self.active_from_ms as i64,
            verify_until_ms: self.verify_until_ms.unwrap_or(0) as i64,
        }
    }
}

fn purpose(kid: u32) -> String {
    format!("ticket-key/{kid}")
}

/// Only what names a ticket key.
pub(super) fn wire_name(kid: u32) -> Entity {
    Entity::TicketKey(wire::TicketKey { kid, ..Default::default() })
}
