//! How a device proves who it is. Pure: secrets, keys and the time come in as arguments. What must be
//! remembered between proofs is in `proof/nonce.rs`, and in the store for device keys.

pub(crate) mod hmac;
pub(crate) mod jwt;
pub(crate) mod nonce;

use crate::refusal::Refusal;
use hawser_proto::code::ErrorCode;

/// Why a proof does not hold. It says which part, never what would have been right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProofError {
    /// A signature, a key id, an algorithm or a claim is wrong.
    #[error("the proof does not hold: {0}")]
    Invalid(&'static str),
    /// Too far from our time, either way.
    #[error("the time of the proof is too far from the server's")]
    Expired,
}

impl From<ProofError> for Refusal {
    fn from(error: ProofError) -> Self {
        let code = match error {
            ProofError::Invalid(_) => ErrorCode::ProofInvalid,
            ProofError::Expired => ErrorCode::ProofExpired,
        };
        Self::new(code, error.to_string())
    }
}
