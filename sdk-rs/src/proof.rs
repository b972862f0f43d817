//! How a device proves to control who it is.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Why no identity token could be had. The client tries again later, with its back-off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProofError(String);

impl ProofError {
    /// What happened, for logs.
    pub fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }
}

/// Yields identity tokens: JWTs that the app's own backend signed for this device. Asked before each
/// access call, so it must give one that is still good. Closures that return a future are sources.
pub trait IdentitySource: Send + Sync + 'static {
    /// A fresh token.
    fn identity(&self) -> Pin<Box<dyn Future<Output = Result<String, ProofError>> + Send + '_>>;
}

impl<F, Fut> IdentitySource for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, ProofError>> + Send + 'static,
{
    fn identity(&self) -> Pin<Box<dyn Future<Output = Result<String, ProofError>> + Send + '_>> {
        Box::pin(self())
    }
}

/// An Ed25519 key that control binds to the device at its first access. Whoever loses it is locked
/// out, so keep the seed; `Debug` does not show it.
#[derive(Clone)]
pub struct DeviceKey {
    seed: [u8; 32],
    pair: Arc<Ed25519KeyPair>,
}

impl DeviceKey {
    /// A new key.
    pub fn generate() -> Self {
        Self::from_seed(rand::random())
    }

    /// The key of this seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .expect("any 32 bytes are the seed of an Ed25519 key");
        Self { seed, pair: Arc::new(pair) }
    }

    /// What to keep.
    pub fn seed(&self) -> [u8; 32] {
        self.seed
    }

    fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref())
    }

    fn sign(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()).as_ref())
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceKey(..)")
    }
}

/// How this device proves who it is. `Debug` shows no secret.
#[derive(Clone)]
pub struct Proof(Kind);

#[derive(Clone)]
enum Kind {
    Open,
    Hmac { secret: Arc<str>, device_key: Option<DeviceKey> },
    Identity(Arc<dyn IdentitySource>),
}

impl Proof {
    /// None at all: development only, and refused by control unless it was told otherwise.
    pub fn open() -> Self {
        Self(Kind::Open)
    }

    /// An HMAC under the app's client secret. With [`crate::Builder::storage`] a device key is made
    /// at the first start, kept there and bound; without storage no key is bound, unless
    /// [`Self::device_key`] gives one.
    pub fn hmac(client_secret: &str) -> Self {
        Self(Kind::Hmac { secret: client_secret.into(), device_key: None })
    }

    /// An identity JWT, from `source` for each access call.
    ///
    /// ```
    /// # use hawser_sdk::Proof;
    /// let proof = Proof::identity(|| async { Ok("a fresh token of the app's backend".to_owned()) });
    /// ```
    pub fn identity(source: impl IdentitySource) -> Self {
        Self(Kind::Identity(Arc::new(source)))
    }

    /// Binds this device key, which the app keeps. Only an HMAC proof carries one.
    #[must_use]
    pub fn device_key(self, key: DeviceKey) -> Self {
        match self.0 {
            Kind::Hmac { secret, .. } => Self(Kind::Hmac { secret, device_key: Some(key) }),
            kind => Self(kind),
        }
    }

    /// Whether it wants a device key from storage.
    pub(crate) fn wants_stored_key(&self) -> bool {
        matches!(self.0, Kind::Hmac { device_key: None, .. })
    }

    /// Whether the device's own clock is in it.
    pub(crate) fn is_timed(&self) -> bool {
        matches!(self.0, Kind::Hmac { .. })
    }

    /// The proof for one access call. `stored` is the seed of the key in storage.
    pub(crate) async fn make(
        &self,
        app: &str,
        device: &str,
        unix_s: u64,
        stored: Option<[u8; 32]>,
    ) -> Result<Wire, ProofError> {
        Ok(match &self.0 {
            Kind::Open => Wire::Open,
            Kind::Hmac { secret, device_key } => {
                let key = device_key.clone().or_else(|| stored.map(DeviceKey::from_seed));
                let nonce = hex::encode(rand::random::<[u8; 16]>());
                signed(secret, key.as_ref(), app, device, unix_s, nonce)
            }
            Kind::Identity(source) => Wire::Jwt { token: source.identity().await? },
        })
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Open => "Proof(open)",
            Kind::Hmac { .. } => "Proof(hmac)",
            Kind::Identity(_) => "Proof(jwt)",
        })
    }
}

/// The `proof` of `POST /v1/access`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Wire {
    Open,
    Hmac {
        time: u64,
        nonce: String,
        signature: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        device_key: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        device_signature: Option<String>,
    },
    Jwt {
        token: String,
    },
}

fn signed(
    secret: &str,
    key: Option<&DeviceKey>,
    app: &str,
    device: &str,
    time: u64,
    nonce: String,
) -> Wire {
    let device_key = key.map(DeviceKey::public);
    let public = device_key.as_deref().unwrap_or_default();
    let text = format!("hawser-access-v1\n{app}\n{device}\n{time}\n{nonce}\n{public}");
    let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hex::encode(aws_lc_rs::hmac::sign(&secret, text.as_bytes()));
    let device_signature = key.map(|key| key.sign(&text));
    Wire::Hmac { time, nonce, signature, device_key, device_signature }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn an_hmac_proof_signs_what_the_contract_says() {
        let key = DeviceKey::from_seed([7; 32]);
        let nonce = "0123456789abcdef".to_owned();
        let wire = signed("secret", Some(&key), "demo", "d-1", 1_700_000_000, nonce);
        let Wire::Hmac { signature, device_key, device_signature, .. } = wire else {
            panic!("not an HMAC proof");
        };
        let public = device_key.unwrap();
        let text = format!("hawser-access-v1\ndemo\nd-1\n1700000000\n0123456789abcdef\n{public}");
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"secret");
        let expected = hex::decode(signature).unwrap();
        aws_lc_rs::hmac::verify(&secret, text.as_bytes(), &expected).unwrap();
        let public = URL_SAFE_NO_PAD.decode(public).unwrap();
        let signature = URL_SAFE_NO_PAD.decode(device_signature.unwrap()).unwrap();
        UnparsedPublicKey::new(&ED25519, public).verify(text.as_bytes(), &signature).unwrap();
    }

    #[tokio::test]
    async fn proofs_have_the_json_of_the_contract() {
        let json = async |proof: Proof| {
            let wire = proof.make("demo", "d-1", 5, None).await.unwrap();
            serde_json::to_value(wire).unwrap()
        };
        assert_eq!(json(Proof::open()).await, serde_json::json!({"type": "open"}));
        let identity = Proof::identity(|| async { Ok("a.b.c".to_owned()) });
        assert_eq!(json(identity).await, serde_json::json!({"type": "jwt", "token": "a.b.c"}));
        let hmac = json(Proof::hmac("s")).await;
        assert_eq!((&hmac["type"], &hmac["time"]), (&"hmac".into(), &5.into()));
        assert!(hmac.get("device_key").is_none());
        assert!(!format!("{:?}", Proof::hmac("sesame")).contains("sesame"));
    }
}
