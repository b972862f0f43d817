//! Resume tickets: what a verified token said, under a code that only access nodes can make, so that
//! coming back costs one hash instead of a signature check.
//!
//! A ticket is opaque to devices. Its bytes: the key's `kid` (u32, big-endian), the claims (protobuf),
//! and HMAC-SHA-256 over both. It never outlives its token, and a revocation that reaches the token
//! reaches the ticket: the token's own times stand in it. The time comes in as an argument.

use crate::code::CloseCode;
use crate::id::{AppId, BusinessId, DeviceId};
use crate::limits::{CLOCK_LEEWAY, RESUME_TICKET_BYTES_MAX, RESUME_TICKET_LIFE};
use crate::token::Identity;
use aws_lc_rs::hmac;
use bytes::Bytes;
use prost::Message as _;

const KID_BYTES: usize = 4;
const CODE_BYTES: usize = 32;
/// Goes into the code first: a code made with the same key for another purpose is none here.
const PURPOSE: &[u8] = b"hawser resume ticket 1\n";

/// A key that tickets are made and checked with. `Debug` does not show it.
#[derive(Clone)]
pub struct TicketKey {
    kid: u32,
    key: hmac::Key,
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TicketKey({})", self.kid)
    }
}

impl TicketKey {
    /// From the secret bytes: 32 random ones. `None`: there are fewer, and whoever knows that could try
    /// them all.
    pub fn new(kid: u32, secret: &[u8]) -> Option<Self> {
        let is_long = secret.len() >= 32;
        is_long.then(|| Self { kid, key: hmac::Key::new(hmac::HMAC_SHA256, secret) })
    }

    fn code(&self, content: &[u8]) -> hmac::Tag {
        let mut code = hmac::Context::with_key(&self.key);
        code.update(PURPOSE);
        code.update(content);
        code.sign()
    }
}

/// The claims as they stand in a ticket.
#[derive(Clone, PartialEq, prost::Message)]
struct Claims {
    #[prost(string, tag = "1")]
    app: String,
    #[prost(string, tag = "2")]
    device: String,
    /// Those that the token allows; none: all of the app.
    #[prost(string, repeated, tag = "3")]
    businesses: Vec<String>,
    #[prost(uint64, tag = "4")]
    token_issued_at_ms: u64,
    #[prost(uint64, tag = "5")]
    token_expires_at_ms: u64,
    #[prost(uint64, tag = "6")]
    made_at_ms: u64,
    #[prost(uint64, tag = "7")]
    until_ms: u64,
}

/// Why a ticket is refused. Each has its close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// No ticket at all, cut, changed, or made by someone without the key.
    #[error("ticket invalid")]
    Invalid,
    /// Its key has gone, or has not come here yet.
    #[error("ticket made with an unknown key")]
    UnknownKey,
    /// Its time is over.
    #[error("ticket expired")]
    Expired,
    /// Made further in the future than the leeway forgives.
    #[error("ticket made in the future")]
    NotYet,
}

impl TicketError {
    /// The code the connection is closed with, when there is no token to look at instead.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Invalid | Self::NotYet => CloseCode::TokenInvalid,
            // Keys go when all that was made with them is over.
            Self::UnknownKey | Self::Expired => CloseCode::TokenExpired,
        }
    }
}

/// Makes a ticket from what a token said, at `now_ms` (ms since 1970). `None`: the token is over, or
/// names so much that the ticket would be above [`RESUME_TICKET_BYTES_MAX`].
pub fn make(key: &TicketKey, identity: &Identity, now_ms: u64) -> Option<Bytes> {
    let until_ms =
        now_ms.saturating_add(RESUME_TICKET_LIFE.as_millis() as u64).min(identity.expires_at_ms);
    let claims = Claims {
        app: identity.app.as_str().to_owned(),
        device: identity.device.as_str().to_owned(),
        businesses: identity.businesses.iter().map(|it| it.as_str().to_owned()).collect(),
        token_issued_at_ms: identity.issued_at_ms,
        token_expires_at_ms: identity.expires_at_ms,
        made_at_ms: now_ms,
        until_ms,
    };
    let bytes = KID_BYTES + claims.encoded_len() + CODE_BYTES;
    if until_ms <= now_ms || bytes > RESUME_TICKET_BYTES_MAX {
        return None;
    }
    let mut ticket = Vec::with_capacity(bytes);
    ticket.extend_from_slice(&key.kid.to_be_bytes());
    ticket.extend_from_slice(&claims.encode_to_vec());
    let code = key.code(&ticket);
    ticket.extend_from_slice(code.as_ref());
    Some(ticket.into())
}

/// Checks a ticket at `now_ms` (ms since 1970): whom its token speaks for. `key_of` finds the key with a
/// `kid`. Whether the ticket is the caller's own, and whether the token was revoked, is the caller's to
/// compare, as for a token.
pub fn open(
    ticket: &[u8],
    now_ms: u64,
    key_of: impl FnOnce(u32) -> Option<TicketKey>,
) -> Result<Identity, TicketError> {
    if ticket.len() > RESUME_TICKET_BYTES_MAX {
        return Err(TicketError::Invalid);
    }
    let (content, code) = ticket.split_last_chunk::<CODE_BYTES>().ok_or(TicketError::Invalid)?;
    let (kid, claims) = content.split_first_chunk::<KID_BYTES>().ok_or(TicketError::Invalid)?;
    let key = key_of(u32::from_be_bytes(*kid)).ok_or(TicketError::UnknownKey)?;
    let wanted = key.code(content);
    aws_lc_rs::constant_time::verify_slices_are_equal(wanted.as_ref(), code)
        .map_err(|_| TicketError::Invalid)?;
    // From here on the bytes are an access node's; one that wrote nonsense is refused all the same.
    let claims = Claims::decode(claims).map_err(|_| TicketError::Invalid)?;
    let leeway_ms = CLOCK_LEEWAY.as_millis() as u64;
    if now_ms >= claims.until_ms.saturating_add(leeway_ms) {
        return Err(TicketError::Expired);
    }
    if claims.made_at_ms > now_ms.saturating_add(leeway_ms) {
        return Err(TicketError::NotYet);
    }
    let businesses: Result<_, _> = claims.businesses.iter().map(|it| BusinessId::new(it)).collect();
    Ok(Identity {
        app: AppId::new(&claims.app).map_err(|_| TicketError::Invalid)?,
        device: DeviceId::new(&claims.device).map_err(|_| TicketError::Invalid)?,
        businesses: businesses.map_err(|_| TicketError::Invalid)?,
        issued_at_ms: claims.token_issued_at_ms,
        expires_at_ms: claims.token_expires_at_ms,
    })
}

#[cfg(test)]
mod tests;
