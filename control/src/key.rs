//! Keys that control hands out once: 256 random bits with a prefix that says what it is.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

/// What a key text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// Opens an app's part of the HTTP API.
    Owner,
    /// Opens the push API for one business.
    Business,
    /// Signs HMAC proofs; sits in every copy of the app.
    Client,
}

impl KeyKind {
    /// What the text begins with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Owner => "hok_",
            Self::Business => "hbk_",
            Self::Client => "hcs_",
        }
    }
}

/// A new key text: the prefix and 43 characters of base64url. Shown once, never logged.
pub(crate) fn new_text(kind: KeyKind) -> Zeroizing<String> {
    let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
    Zeroizing::new(format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(bytes.as_ref())))
}

/// SHA-256 of a whole key text: how it is stored and found. 256 random bits need no salt.
pub(crate) fn sha256(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    out
}

/// A new id for something that is named by control: 80 random bits in hexadecimal. Not a secret.
pub(crate) fn new_id() -> String {
    hex::encode(rand::random::<[u8; 10]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_is_and_is_new_each_time() {
        for kind in [KeyKind::Owner, KeyKind::Business, KeyKind::Client] {
            let (one, two) = (new_text(kind), new_text(kind));
            assert!(one.starts_with(kind.prefix()));
            assert_eq!(one.len(), 47);
            assert_ne!(one, two);
            assert_ne!(sha256(&one), sha256(&two));
        }
        assert_ne!(new_id(), new_id());
    }
}
