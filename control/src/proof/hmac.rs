//! The HMAC proof: the app's client secret signs app, device, time, nonce and device key. The secret
//! sits in every copy of the app, so a device also shows that it holds the private half of its device
//! key, by an Ed25519 signature over the same text.

use super::ProofError;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, verify};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hawser_proto::id::{AppId, DeviceId};
use std::time::Duration;

/// What a device sent, in its right form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HmacProof {
    /// Seconds since 1970.
    pub(crate) time: u64,
    pub(crate) nonce: String,
    pub(crate) signature: [u8; 32],
    pub(crate) device_key: Option<DeviceKey>,
}

/// A device's public key and the signature made with the private half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceKey {
    pub(crate) public: [u8; 32],
    pub(crate) signature: [u8; 64],
}

/// What a device sent, as text. The error names the field and its form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HmacText<'a> {
    pub(crate) time: u64,
    pub(crate) nonce: &'a str,
    pub(crate) signature: &'a str,
    pub(crate) device_key: Option<&'a str>,
    pub(crate) device_signature: Option<&'a str>,
}

impl HmacProof {
    pub(crate) fn parse(text: HmacText<'_>) -> Result<Self, &'static str> {
        let is_nonce = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !(16..=64).contains(&text.nonce.len()) || !text.nonce.bytes().all(is_nonce) {
            return Err("proof.nonce is not 16 to 64 characters of a-z, A-Z, 0-9, - and _");
        }
        let mut signature = [0; 32];
        hex::decode_to_slice(text.signature, &mut signature)
            .map_err(|_| "proof.signature is not 64 hexadecimal digits")?;
        let device_key = match (text.device_key, text.device_signature) {
            (None, None) => None,
            (Some(public), Some(signature)) => Some(DeviceKey {
                public: base64url(public).ok_or("proof.device_key is not base64url of 32 bytes")?,
                signature: base64url(signature)
                    .ok_or("proof.device_signature is not base64url of 64 bytes")?,
            }),
            _ => return Err("proof.device_key and proof.device_signature come together"),
        };
        Ok(Self { time: text.time, nonce: text.nonce.to_owned(), signature, device_key })
    }

    /// The text that both signatures cover.
    fn signed(&self, app: &AppId, device: &DeviceId) -> String {
        let key = self.device_key.as_ref().map(|key| URL_SAFE_NO_PAD.encode(key.public));
        let (time, nonce, key) = (self.time, &self.nonce, key.unwrap_or_default());
        format!("hawser-access-v1\n{app}\n{device}\n{time}\n{nonce}\n{key}")
    }

    /// Whether it holds at `now_ms` for any of the secrets.
    pub(crate) fn check<'s>(
        &self,
        app: &AppId,
        device: &DeviceId,
        secrets: impl IntoIterator<Item = &'s [u8]>,
        window: Duration,
        now_ms: u64,
    ) -> Result<(), ProofError> {
        let time_ms = self.time.saturating_mul(1000);
        if time_ms.abs_diff(now_ms) > window.as_millis() as u64 {
            return Err(ProofError::Expired);
        }
        let text = self.signed(app, device);
        let holds = |secret: &[u8]| {
            verify(&Key::new(HMAC_SHA256, secret), text.as_bytes(), &self.signature).is_ok()
        };
        if !secrets.into_iter().any(holds) {
            return Err(ProofError::Invalid("signature"));
        }
        if let Some(key) = &self.device_key {
            UnparsedPublicKey::new(&ED25519, &key.public)
                .verify(text.as_bytes(), &key.signature)
                .map_err(|_| ProofError::Invalid("device_signature"))?;
        }
        Ok(())
    }

    /// Until then the same proof could be shown again, so its nonce must be remembered.
    pub(crate) fn replayable_until_ms(&self, window: Duration) -> u64 {
        self.time.saturating_mul(1000).saturating_add(window.as_millis() as u64)
    }
}

fn base64url<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
