//! Device tokens, good and bad. The keys are those of RFC 8032, section 7.1.

use hawser_proto::rpc::control as wire;
use hawser_proto::token::{AUDIENCE, Claims, ISSUER, SigningKey};
use std::time::{SystemTime, UNIX_EPOCH};

/// An Ed25519 seed with its public key.
pub type Pair = (&'static str, &'static str);

/// The key that control publishes as `k1`.
pub const OURS: Pair = (
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
);
/// A key that nobody published.
pub const THEIRS: Pair = (
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
);

/// The PKCS#8 document of a key.
pub fn pkcs8((seed, _): Pair) -> Vec<u8> {
    hex::decode(format!("302e020100300506032b657004220420{seed}")).unwrap()
}

/// The key as control publishes it.
pub fn published(kid: &str, (_, public): Pair) -> wire::SigningKey {
    let public_key = hex::decode(public).unwrap().into();
    wire::SigningKey { kid: kid.into(), public_key, active_from_ms: 0, verify_until_ms: 0 }
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that hold for an hour.
pub fn claims(app: &str, device: &str) -> Claims {
    Claims {
        iss: ISSUER.into(),
        aud: AUDIENCE.into(),
        sub: device.into(),
        app: app.into(),
        biz: Vec::new(),
        jti: "t-1".into(),
        iat: now_s(),
        exp: now_s() + 3600,
        pol: 0,
    }
}

/// Signs as control does.
pub fn sign(claims: &Claims) -> String {
    SigningKey::from_ed25519_pkcs8("k1", &pkcs8(OURS)).sign(claims).unwrap()
}

/// A good token.
pub fn token(app: &str, device: &str) -> String {
    sign(&claims(app, device))
}
