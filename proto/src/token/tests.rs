//! What a verifier takes and what it refuses, a row each.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::encode;
use serde_json::{Value, json};

/// Seconds since 1970.
const NOW: u64 = 1_800_000_000;
/// Seeds and public keys of RFC 8032, section 7.1, tests 1 and 2.
const OURS: (&str, &str) = (
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
);
const THEIRS: (&str, &str) = (
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
);

fn pkcs8((seed, _): (&str, &str)) -> Vec<u8> {
    hex::decode(format!("302e020100300506032b657004220420{seed}")).unwrap()
}

fn public((_, key): (&str, &str)) -> Vec<u8> {
    hex::decode(key).unwrap()
}

fn good() -> Value {
    json!({
        "iss": "hawser-control", "aud": "hawser-access", "sub": "web-1", "app": "demo",
        "jti": "t-1", "iat": NOW, "exp": NOW + 3600,
    })
}

/// The good claims with some replaced; null takes one out.
fn with(changes: &Value) -> Value {
    let mut claims = good();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn signed_by(pair: (&str, &str), kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = kid.map(str::to_owned);
    encode(&header, claims, &EncodingKey::from_ed_der(&pkcs8(pair))).unwrap()
}

fn signed(claims: &Value) -> String {
    signed_by(OURS, Some("k1"), claims)
}

fn check_at(token: &str, now_ms: u64) -> Result<Identity, TokenError> {
    let key = VerifyingKey::from_ed25519(&public(OURS));
    verify(token, now_ms, |kid| (kid == "k1").then_some(&key))
}

fn check(token: &str) -> Result<Identity, TokenError> {
    check_at(token, NOW * 1000)
}

#[test]
fn a_good_token_says_whom_it_speaks_for() {
    let identity = check(&signed(&with(&json!({"biz": ["chat", "live"], "new": 1})))).unwrap();
    assert_eq!((identity.app.as_str(), identity.device.as_str()), ("demo", "web-1"));
    assert_eq!((identity.issued_at_ms, identity.expires_at_ms), (NOW * 1000, (NOW + 3600) * 1000));
    assert!(identity.allows("chat") && identity.allows("live") && !identity.allows("shop"));
    assert!(check(&signed(&good())).unwrap().allows("shop"), "no list allows all");
}

#[test]
fn what_control_signs_is_taken() {
    let claims: Claims = serde_json::from_value(good()).unwrap();
    let key = SigningKey::from_ed25519_pkcs8("k1", &pkcs8(OURS));
    assert!(check(&key.sign(&claims).unwrap()).is_ok());
    let broken = SigningKey::from_ed25519_pkcs8("k1", b"not a key");
    assert_eq!(broken.sign(&claims), Err(TokenError::Invalid));
    assert_eq!(format!("{key:?}"), "SigningKey(k1)", "a key is not printed");
}

#[test]
fn claims_are_refused_by_what_is_wrong_with_them() {
    use TokenError::{Expired, Invalid, NotYet, WrongAudience};
    for (changes, error) in [
        (json!({"aud": "someone-else"}), WrongAudience),
        (json!({"aud": ["hawser-access"]}), Invalid),
        (json!({"aud": null}), Invalid),
        (json!({"iss": "someone-else"}), WrongAudience),
        (json!({"iss": null}), Invalid),
        (json!({"exp": NOW - 60}), Expired),
        (json!({"exp": 0}), Expired),
        (json!({"exp": null}), Invalid),
        (json!({"exp": -1}), Invalid),
        (json!({"exp": "soon"}), Invalid),
        (json!({"exp": 1e300}), Invalid),
        (json!({"iat": NOW + 61}), NotYet),
        (json!({"iat": u64::MAX, "exp": u64::MAX}), NotYet),
        (json!({"iat": null}), Invalid),
        (json!({"sub": ""}), Invalid),
        (json!({"sub": "a\nb"}), Invalid),
        (json!({"sub": "d".repeat(129)}), Invalid),
        (json!({"sub": null}), Invalid),
        (json!({"app": "Demo"}), Invalid),
        (json!({"app": null}), Invalid),
        (json!({"biz": ["a:b"]}), Invalid),
        (json!({"biz": "chat"}), Invalid),
        (json!({"jti": null}), Invalid),
    ] {
        assert_eq!(check(&signed(&with(&changes))), Err(error), "{changes}");
    }
}

#[test]
fn the_leeway_is_a_minute_on_both_sides() {
    let token = signed(&good());
    let end_ms = (NOW + 3600 + 60) * 1000;
    assert!(check_at(&token, end_ms - 1).is_ok());
    assert_eq!(check_at(&token, end_ms), Err(TokenError::Expired));
    let begin_ms = (NOW - 60) * 1000;
    assert!(check_at(&token, begin_ms).is_ok());
    assert_eq!(check_at(&token, begin_ms - 1), Err(TokenError::NotYet));
}

#[test]
fn keys_are_found_by_name_only() {
    use TokenError::{Invalid, UnknownKey};
    for (token, error) in [
        (signed_by(OURS, None, &good()), UnknownKey),
        (signed_by(OURS, Some("k2"), &good()), UnknownKey),
        (signed_by(OURS, Some(""), &good()), UnknownKey),
        (signed_by(THEIRS, Some("k1"), &good()), Invalid),
    ] {
        assert_eq!(check(&token), Err(error));
    }
    // A public key that is none refuses everything.
    for bytes in [&b""[..], &[0; 31], &[0; 32]] {
        let key = VerifyingKey::from_ed25519(bytes);
        let verified = verify(&signed(&good()), NOW * 1000, |_| Some(&key));
        assert_eq!(verified, Err(Invalid));
    }
}

#[test]
fn no_other_algorithm_is_taken_whatever_the_key() {
    let claims = good();
    // The public key is known to everyone: as a shared secret it must sign nothing.
    let forms = [public(OURS), OURS.1.into(), URL_SAFE_NO_PAD.encode(public(OURS)).into_bytes()];
    for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        for secret in &forms {
            let mut header = Header::new(alg);
            header.kid = Some("k1".into());
            let token = encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap();
            assert_eq!(check(&token), Err(TokenError::Invalid), "{alg:?}");
        }
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for alg in ["none", "None", "NONE", "", "EdDSA", "ES256"] {
        let header = part(&json!({"alg": alg, "kid": "k1"}));
        let token = format!("{header}.{}.", part(&claims));
        assert_eq!(check(&token), Err(TokenError::Invalid), "{alg}");
    }
    // A good signature under a header that was changed afterwards.
    let token = signed(&claims);
    let (_, rest) = token.split_once('.').unwrap();
    let header = part(&json!({"alg": "EdDSA", "kid": "k1", "typ": "other"}));
    assert_eq!(check(&format!("{header}.{rest}")), Err(TokenError::Invalid));
}

#[test]
fn what_is_no_token_at_all_is_invalid() {
    let token = signed(&good());
    let (first, _) = token.rsplit_once('.').unwrap();
    for text in ["", ".", "..", "...", "a.b.c", "é.é.é", first, &format!("{token}."), &token[1..]]
    {
        assert_eq!(check(text), Err(TokenError::Invalid), "{text}");
    }
}

#[test]
fn each_error_has_its_code() {
    for (error, code) in [
        (TokenError::Invalid, CloseCode::TokenInvalid),
        (TokenError::NotYet, CloseCode::TokenInvalid),
        (TokenError::UnknownKey, CloseCode::TokenUnknownKey),
        (TokenError::WrongAudience, CloseCode::TokenWrongAudience),
        (TokenError::Expired, CloseCode::TokenExpired),
    ] {
        assert_eq!(error.close_code(), code);
    }
}
