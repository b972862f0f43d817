//! Device tokens: the claims, and their verification without asking anyone.
//!
//! A token is a JWT signed with EdDSA by control. The time comes in as an argument, and the only
//! algorithm is fixed here. Source: WIRE.md, "Token".

use crate::code::CloseCode;
use crate::id::{AppId, BusinessId, DeviceId};
use crate::limits::CLOCK_LEEWAY;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Audience of every device token.
pub const AUDIENCE: &str = "hawser-access";
/// Issuer of every device token.
pub const ISSUER: &str = "hawser-control";

/// The claims as they stand in the token. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Always [`ISSUER`].
    pub iss: String,
    /// Always [`AUDIENCE`].
    pub aud: String,
    /// Device id.
    pub sub: String,
    /// App id.
    pub app: String,
    /// Businesses the device may serve; empty: all of the app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub biz: Vec<String>,
    /// Unique per token.
    pub jti: String,
    /// Issued at.
    pub iat: u64,
    /// Not valid from this time on (with [`CLOCK_LEEWAY`]).
    pub exp: u64,
    /// Version of the placement policy that was in force.
    #[serde(default)]
    pub pol: u64,
}

/// Whom a verified token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The app.
    pub app: AppId,
    /// The device.
    pub device: DeviceId,
    /// Businesses the device may serve; empty: all of the app.
    pub businesses: Vec<BusinessId>,
    /// When the token was issued, ms since 1970: what revocations compare with.
    pub issued_at_ms: u64,
    /// When it ends, ms since 1970, leeway not included.
    pub expires_at_ms: u64,
}

impl Identity {
    /// Whether the token lets the device serve this business.
    pub fn allows(&self, business: &str) -> bool {
        self.businesses.is_empty() || self.businesses.iter().any(|b| b.as_str() == business)
    }
}

/// When a device should ask for its next token, ms since 1970: 0.7 to 0.9 into the token's life, always
/// the same for one device, so that those who logged in together do not refresh together. Control and
/// access nodes tell this time.
pub fn refresh_at_ms(app: &AppId, device: &DeviceId, issued_at_ms: u64, expires_at_ms: u64) -> u64 {
    let mut key = Vec::with_capacity(160);
    for part in [app.as_str(), device.as_str()] {
        key.extend_from_slice(&(part.len() as u32).to_be_bytes());
        key.extend_from_slice(part.as_bytes());
    }
    // The upper 53 bits, as a number in [0, 1).
    let spread = (xxh3_64(&key) >> 11) as f64 / (1u64 << 53) as f64;
    let life_ms = expires_at_ms.saturating_sub(issued_at_ms) as f64;
    issued_at_ms.saturating_add((life_ms * (0.7 + 0.2 * spread)) as u64)
}

/// Why a token is refused. Each has its close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a JWT, a wrong signature, another algorithm than EdDSA, or claims that cannot be read.
    #[error("token invalid")]
    Invalid,
    /// No key with this id.
    #[error("token signed with an unknown key")]
    UnknownKey,
    /// Made for someone else.
    #[error("token made for another audience")]
    WrongAudience,
    /// Its time is over.
    #[error("token expired")]
    Expired,
    /// Issued further in the future than the leeway forgives.
    #[error("token issued in the future")]
    NotYet,
}

impl TokenError {
    /// The code the connection is closed with.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Invalid | Self::NotYet => CloseCode::TokenInvalid,
            Self::UnknownKey => CloseCode::TokenUnknownKey,
            Self::WrongAudience => CloseCode::TokenWrongAudience,
            Self::Expired => CloseCode::TokenExpired,
        }
    }
}

/// One public key that tokens are verified with.
#[derive(Clone)]
pub struct VerifyingKey(DecodingKey);

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VerifyingKey")
    }
}

impl VerifyingKey {
    /// From the 32 bytes of an Ed25519 public key.
    pub fn from_ed25519(public: &[u8]) -> Self {
        Self(DecodingKey::from_ed_der(public))
    }
}

/// Verifies a token at the time `now_ms` (ms since 1970). `key_of` finds the key with a `kid`.
pub fn verify<'k>(
    token: &str,
    now_ms: u64,
    key_of: impl FnOnce(&str) -> Option<&'k VerifyingKey>,
) -> Result<Identity, TokenError> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
    if header.alg != Algorithm::EdDSA {
        return Err(TokenError::Invalid);
    }
    let kid = header.kid.ok_or(TokenError::UnknownKey)?;
    let key = key_of(&kid).ok_or(TokenError::UnknownKey)?;

    // The signature only: times and audience are compared below, against the caller's clock.
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Claims>(token, &key.0, &validation)
        .map_err(|_| TokenError::Invalid)?
        .claims;

    if claims.aud != AUDIENCE || claims.iss != ISSUER {
        return Err(TokenError::WrongAudience);
    }
    let leeway_ms = CLOCK_LEEWAY.as_millis() as u64;
    let issued_at_ms = claims.iat.saturating_mul(1000);
    let expires_at_ms = claims.exp.saturating_mul(1000);
    if now_ms >= expires_at_ms.saturating_add(leeway_ms) {
        return Err(TokenError::Expired);
    }
    if issued_at_ms > now_ms.saturating_add(leeway_ms) {
        return Err(TokenError::NotYet);
    }
    let businesses: Result<_, _> = claims.biz.iter().map(|b| BusinessId::new(b)).collect();
    Ok(Identity {
        app: AppId::new(&claims.app).map_err(|_| TokenError::Invalid)?,
        device: DeviceId::new(&claims.sub).map_err(|_| TokenError::Invalid)?,
        businesses: businesses.map_err(|_| TokenError::Invalid)?,
        issued_at_ms,
        expires_at_ms,
    })
}

/// One private key that tokens are signed with.
#[derive(Clone)]
pub struct SigningKey {
    kid: String,
    key: EncodingKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}

impl SigningKey {
    /// From the PKCS#8 document of an Ed25519 key.
    pub fn from_ed25519_pkcs8(kid: &str, document: &[u8]) -> Self {
        Self { kid: kid.to_owned(), key: EncodingKey::from_ed_der(document) }
    }

    /// Signs the claims. `Invalid`: the key document was not one.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|_| TokenError::Invalid)
    }
}

#[cfg(test)]
mod tests;
