use super::*;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RsaKeyPair,
};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

fn public(key: &impl aws_lc_rs::encoding::AsDer<PublicKeyX509Der<'static>>) -> String {
    pem(key.as_der().unwrap().as_ref())
}

/// A signer of each algorithm, and what is registered for it.
fn pairs() -> Vec<(KeyAlg, Algorithm, EncodingKey, String)> {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa_der: Pkcs8V1Der<'_> = rsa.as_der().unwrap();
    // jsonwebtoken takes PKCS#1 inside the PKCS#8 for RSA; PEM lets it find its way.
    let rsa_pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(rsa_der.as_ref())
    );
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let p256_document = ec.to_pkcs8v1().unwrap();
    let ed = Ed25519KeyPair::generate().unwrap();
    let ed25519_document = ed.to_pkcs8v1().unwrap();
    vec![
        (
            KeyAlg::Hs256,
            Algorithm::HS256,
            EncodingKey::from_secret(&[7; 32]),
            STANDARD.encode([7; 32]),
        ),
        (
            KeyAlg::Rs256,
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(rsa_pem.as_bytes()).unwrap(),
            public(rsa.public_key()),
        ),
        (
            KeyAlg::Es256,
            Algorithm::ES256,
            EncodingKey::from_ec_der(p256_document.as_ref()),
            public(ec.public_key()),
        ),
        (
            KeyAlg::EdDsa,
            Algorithm::EdDSA,
            EncodingKey::from_ed_der(ed25519_document.as_ref()),
            public(ed.public_key()),
        ),
    ]
}

fn token(alg: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: Some("k1".into()), ..Header::new(alg) };
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn claims() -> Value {
    json!({"sub": "d 1", "app": "demo", "exp": NOW + 60})
}

fn verdict(token: &str, alg: KeyAlg, key: &ParsedKey) -> Result<(), ProofError> {
    let (app, device) = (AppId::new("demo").unwrap(), DeviceId::new("d 1").unwrap());
    check(token, alg, key, &app, &device, NOW * 1000)
}

#[test]
fn each_algorithm_verifies_with_its_key_and_no_other() {
    let pairs = pairs();
    for (alg, jwt_alg, signer, registered) in &pairs {
        let token = token(*jwt_alg, signer, &claims());
        assert_eq!(kid(&token).unwrap(), "k1");
        for (other, _, _, text) in &pairs {
            let key = parse_key(*other, text).unwrap();
            let expected = other == alg;
            assert_eq!(verdict(&token, *other, &key).is_ok(), expected, "{alg:?} as {other:?}");
        }
        let mut forged = token.clone().into_bytes();
        let at = token.rfind('.').unwrap() + 10;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let key = parse_key(*alg, registered).unwrap();
        assert!(verdict(std::str::from_utf8(&forged).unwrap(), *alg, &key).is_err(), "{alg:?}");
    }
}

#[test]
fn a_public_key_is_never_taken_for_an_hmac_key() {
    // The classic confusion: a token signed by HMAC with the public PEM as its key.
    let (_, _, _, registered) = pairs().swap_remove(1);
    let forged =
        token(Algorithm::HS256, &EncodingKey::from_secret(registered.as_bytes()), &claims());
    let key = parse_key(KeyAlg::Rs256, &registered).unwrap();
    assert_eq!(verdict(&forged, KeyAlg::Rs256, &key), Err(ProofError::Invalid("token")));
    let none = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"k1"}"#),
        URL_SAFE_NO_PAD.encode(claims().to_string())
    );
    assert!(kid(&none).is_err());
    assert!(verdict(&none, KeyAlg::Rs256, &key).is_err());
}

#[test]
fn claims_name_the_device_the_app_and_a_time() {
    let signer = EncodingKey::from_secret(&[7; 32]);
    let key = parse_key(KeyAlg::Hs256, &STANDARD.encode([7; 32])).unwrap();
    let with = |patch: Value| {
        let mut claims = claims();
        for (name, value) in patch.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
            };
        }
        verdict(&token(Algorithm::HS256, &signer, &claims), KeyAlg::Hs256, &key)
    };
    let invalid = ProofError::Invalid;
    for (patch, expected) in [
        (json!({}), Ok(())),
        (json!({"app": null, "aud": "demo"}), Ok(())),
        (json!({"app": null, "aud": ["x", "demo"]}), Ok(())),
        (json!({"exp": NOW - 59}), Ok(())),
        (json!({"nbf": NOW + 60}), Ok(())),
        (json!({"exp": NOW - 60}), Err(ProofError::Expired)),
        (json!({"nbf": NOW + 61}), Err(ProofError::Expired)),
        (json!({"exp": null}), Err(invalid("token"))),
        (json!({"exp": "soon"}), Err(invalid("token"))),
        (json!({"sub": null}), Err(invalid("token"))),
        (json!({"sub": "d 2"}), Err(invalid("sub is not the device"))),
        (json!({"app": null}), Err(invalid("neither app nor aud is the app"))),
        (json!({"app": null, "aud": "other"}), Err(invalid("neither app nor aud is the app"))),
        (json!({"app": "other", "aud": "demo"}), Err(invalid("app is another app"))),
    ] {
        assert_eq!(with(patch.clone()), expected, "{patch}");
    }
}

#[test]
fn keys_are_checked_when_they_are_registered() {
    let pairs = pairs();
    let pem_of = |at: usize| pairs[at].3.clone();
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let long = STANDARD.encode([1; 513]);
    let url = URL_SAFE_NO_PAD.encode([0xff; 32]);
    assert!(parse_key(KeyAlg::Hs256, &url).is_ok());
    assert!(parse_key(KeyAlg::Hs256, &STANDARD.encode([0xff; 33])).is_ok());
    for (alg, text) in [
        (KeyAlg::Hs256, String::new()),
        (KeyAlg::Hs256, STANDARD.encode([1; 31])),
        (KeyAlg::Hs256, long),
        (KeyAlg::Hs256, "not base64!".repeat(10)),
        (KeyAlg::Hs256, "é".repeat(40)),
        (KeyAlg::Rs256, pem_of(2)),
        (KeyAlg::Es256, pem_of(1)),
        (KeyAlg::Es256, pem_of(3)),
        (KeyAlg::EdDsa, pem_of(2)),
        (KeyAlg::Es256, public(p384.public_key())),
        (KeyAlg::EdDsa, "-----BEGIN PRIVATE KEY-----".to_owned()),
        (KeyAlg::EdDsa, String::new()),
        (KeyAlg::Rs256, "x".repeat(9_000)),
    ] {
        let shown = text.get(..40).unwrap_or(&text).to_owned();
        assert!(parse_key(alg, &text).is_err(), "{alg:?} {shown}");
    }
}

#[test]
fn what_is_no_token_is_refused_early() {
    for bad in ["", "a.b.c", "....", &"x".repeat(JWT_BYTES_MAX + 1)] {
        assert!(kid(bad).is_err());
    }
    let header = Header::new(Algorithm::HS256);
    let no_kid =
        jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&[7; 32])).unwrap();
    assert_eq!(kid(&no_kid), Err(ProofError::Invalid("token without kid")));
}
