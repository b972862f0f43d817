//! The identity JWT: the app's own backend signed who the device is. The algorithm is fixed by the key
//! that was registered, never by the token; times are compared with the caller's clock.

use super::ProofError;
use crate::refusal::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hawser_proto::id::{AppId, DeviceId};
use hawser_proto::limits::CLOCK_LEEWAY;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use zeroize::Zeroizing;

/// A longer token is not looked at.
pub(crate) const JWT_BYTES_MAX: usize = 8 * 1024;
/// RFC 7518, 3.2: as long as the hash.
const HS256_KEY_BYTES_MIN: usize = 32;
const HS256_KEY_BYTES_MAX: usize = 512;
const PEM_BYTES_MAX: usize = 8 * 1024;

/// The algorithms served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyAlg {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

/// A key in its right form: a public one as PEM, or the bytes of an HMAC key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ParsedKey {
    Hmac(Zeroizing<Vec<u8>>),
    Public(String),
}

/// Checks a key as it is registered: better refused here than at every device's access.
pub(crate) fn parse_key(alg: KeyAlg, text: &str) -> Result<ParsedKey, Refusal> {
    if alg == KeyAlg::Hs256 {
        let text = text.trim().trim_end_matches('=');
        // Standard or URL alphabet, padded or not.
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .or_else(|_| STANDARD.decode(format!("{text}{}", &"==="[..(4 - text.len() % 4) % 4])))
            .map_err(|_| Refusal::invalid("an HS256 key is not base64"))?;
        let bytes = Zeroizing::new(bytes);
        if !(HS256_KEY_BYTES_MIN..=HS256_KEY_BYTES_MAX).contains(&bytes.len()) {
            return Err(Refusal::invalid("an HS256 key is not 32 to 512 bytes"));
        }
        return Ok(ParsedKey::Hmac(bytes));
    }
    if text.len() > PEM_BYTES_MAX {
        return Err(Refusal::invalid("a key is larger than 8 KiB"));
    }
    if text.contains("PRIVATE KEY") {
        return Err(Refusal::invalid("that is a private key; register the public one"));
    }
    let key = public_key(alg, text)
        .ok_or_else(|| Refusal::invalid("a key is not a public key in PEM of its algorithm"))?;
    let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    let fits = match alg {
        KeyAlg::Hs256 => false,
        // 2,048 bits of modulus, an exponent and their frame; at most 8,192 bits.
        KeyAlg::Rs256 => (260..=1_100).contains(&bytes),
        // An uncompressed point on P-256.
        KeyAlg::Es256 => bytes == 65,
        KeyAlg::EdDsa => bytes == 32,
    };
    if !fits {
        return Err(Refusal::invalid("a key has a size or curve its algorithm does not take"));
    }
    Ok(ParsedKey::Public(text.to_owned()))
}

fn public_key(alg: KeyAlg, pem: &str) -> Option<DecodingKey> {
    match alg {
        KeyAlg::Hs256 => None,
        KeyAlg::Rs256 => DecodingKey::from_rsa_pem(pem.as_bytes()).ok(),
        KeyAlg::Es256 => DecodingKey::from_ec_pem(pem.as_bytes()).ok(),
        KeyAlg::EdDsa => DecodingKey::from_ed_pem(pem.as_bytes()).ok(),
    }
}

/// The key id a token names; what it says of itself is not trusted further.
pub(crate) fn kid(token: &str) -> Result<String, ProofError> {
    if token.len() > JWT_BYTES_MAX {
        return Err(ProofError::Invalid("token too large"));
    }
    let header =
        jsonwebtoken::decode_header(token).map_err(|_| ProofError::Invalid("token malformed"))?;
    header.kid.ok_or(ProofError::Invalid("token without kid"))
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    app: Option<String>,
    #[serde(default)]
    aud: Option<Audience>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn holds(&self, app: &str) -> bool {
        match self {
            Self::One(it) => it == app,
            Self::Many(all) => all.iter().any(|it| it == app),
        }
    }
}

/// Whether the token, checked with this key, says that this device of this app asks at `now_ms`.
pub(crate) fn check(
    token: &str,
    alg: KeyAlg,
    key: &ParsedKey,
    app: &AppId,
    device: &DeviceId,
    now_ms: u64,
) -> Result<(), ProofError> {
    let (key, alg) = match (key, alg) {
        (ParsedKey::Hmac(bytes), KeyAlg::Hs256) => {
            (Some(DecodingKey::from_secret(bytes)), Algorithm::HS256)
        }
        (ParsedKey::Public(pem), KeyAlg::Rs256) => (public_key(alg, pem), Algorithm::RS256),
        (ParsedKey::Public(pem), KeyAlg::Es256) => (public_key(alg, pem), Algorithm::ES256),
        (ParsedKey::Public(pem), KeyAlg::EdDsa) => (public_key(alg, pem), Algorithm::EdDSA),
        _ => (None, Algorithm::EdDSA),
    };
    let key = key.ok_or(ProofError::Invalid("key unusable"))?;
    // The signature only: all claims are compared below.
    let mut validation = Validation::new(alg);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
        .map_err(|_| ProofError::Invalid("token"))?
        .claims;

    let (now, leeway) = (now_ms as f64 / 1000.0, CLOCK_LEEWAY.as_secs_f64());
    if claims.sub != device.as_str() {
        return Err(ProofError::Invalid("sub is not the device"));
    }
    let named = claims.app.as_deref() == Some(app.as_str());
    if !named && !claims.aud.is_some_and(|aud| aud.holds(app.as_str())) {
        return Err(ProofError::Invalid("neither app nor aud is the app"));
    }
    if claims.app.is_some() && !named {
        return Err(ProofError::Invalid("app is another app"));
    }
    // Written so that a NaN is refused.
    let alive = claims.exp + leeway > now && claims.nbf.is_none_or(|nbf| nbf - leeway <= now);
    if alive { Ok(()) } else { Err(ProofError::Expired) }
}

#[cfg(test)]
mod tests;
