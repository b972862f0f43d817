//! The example token and proof of WIRE.md, and what nobody may do to a token.

use crate::cases::NOW_MS;
use crate::{check_file, root};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hawser_proto::code::CloseCode;
use hawser_proto::token::{AUDIENCE, Claims, ISSUER, SigningKey, TokenError, VerifyingKey, verify};
use proptest::prelude::*;
use std::fmt::Write as _;

/// The key of RFC 8032, section 7.1, test 1. It signs nothing but examples.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
/// A PKCS#8 document up to the seed.
const PKCS8: &str = "302e020100300506032b657004220420";

fn signing_key() -> SigningKey {
    SigningKey::from_ed25519_pkcs8("example", &hex::decode(format!("{PKCS8}{SEED}")).unwrap())
}

fn verifying_key() -> VerifyingKey {
    VerifyingKey::from_ed25519(&hex::decode(PUBLIC).unwrap())
}

fn claims() -> Claims {
    Claims {
        iss: ISSUER.into(),
        aud: AUDIENCE.into(),
        sub: "web-1".into(),
        app: "demo".into(),
        biz: vec!["chat".into()],
        jti: "t-1".into(),
        iat: NOW_MS / 1000,
        exp: NOW_MS / 1000 + 3600,
        pol: 1,
    }
}

/// The token of all vectors. Ed25519 signs without chance, so it is always the same.
pub(crate) fn example() -> String {
    signing_key().sign(&claims()).unwrap()
}

fn check(token: &str) -> Result<String, TokenError> {
    let key = verifying_key();
    verify(token, NOW_MS, |kid| (kid == "example").then_some(&key))
        .map(|identity| format!("{:?} {:?}", identity.app, identity.device))
}

#[test]
pub(crate) fn the_example_token_is_what_the_page_says_and_holds() {
    let (header, claims) = (r#"{"typ":"JWT","alg":"EdDSA","kid":"example"}"#, claims());
    let claims = serde_json::to_string(&claims).unwrap();
    let token = example();
    let parts: Vec<_> = token.split('.').map(|p| URL_SAFE_NO_PAD.decode(p).unwrap()).collect();
    assert_eq!(String::from_utf8_lossy(&parts[0]), header);
    assert_eq!(String::from_utf8_lossy(&parts[1]), claims);
    let text = format!("header  {header}\nclaims  {claims}\ntoken   {token}\n");
    check_file("tests/vectors/token.txt", text.as_bytes());
    assert!(check(&token).is_ok());
    let page = std::fs::read_to_string(root().join("WIRE.md")).unwrap();
    assert!(page.contains(&URL_SAFE_NO_PAD.encode(hex::decode(PUBLIC).unwrap())));
}

#[test]
pub(crate) fn the_example_proof_is_what_the_page_says_and_holds() {
    let seed = hex::decode(SEED).unwrap();
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let device_key = URL_SAFE_NO_PAD.encode(hex::decode(PUBLIC).unwrap());
    let secret = hmac::Key::new(hmac::HMAC_SHA256, b"example-client-secret");
    let mut text = String::new();
    for device_key in ["", &device_key] {
        let string =
            format!("hawser-access-v1\ndemo\nweb-1\n1800000000\n0123456789abcdef\n{device_key}");
        let signature = hex::encode(hmac::sign(&secret, string.as_bytes()));
        writeln!(text, "string            {}", string.replace('\n', "\\n")).unwrap();
        writeln!(text, "signature         {signature}").unwrap();
        if !device_key.is_empty() {
            let signature = pair.sign(string.as_bytes());
            let public = UnparsedPublicKey::new(&ED25519, hex::decode(PUBLIC).unwrap());
            public.verify(string.as_bytes(), signature.as_ref()).unwrap();
            writeln!(text, "device_key        {device_key}").unwrap();
            writeln!(text, "device_signature  {}", URL_SAFE_NO_PAD.encode(signature)).unwrap();
        }
    }
    check_file("tests/vectors/proof.txt", text.as_bytes());
}

/// A token with any header and any claims, signed by nobody.
fn forged(header: &str, claims: &[u8], signature: &[u8]) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!("{}.{}.{}", encode(header.as_bytes()), encode(claims), encode(signature))
}

/// Tokens that change the algorithm, to make a verifier use the public key as a shared secret or
/// nothing at all.
pub(crate) fn confused() -> Vec<String> {
    let claims = serde_json::to_vec(&claims()).unwrap();
    let none = |alg: &str| forged(&format!(r#"{{"alg":"{alg}","kid":"example"}}"#), &claims, b"");
    let mut tokens = vec![none("none"), none("None"), none("EdDSA"), none("HS256"), none("RS256")];
    let public = hex::decode(PUBLIC).unwrap();
    for secret in [public.clone(), PUBLIC.into(), URL_SAFE_NO_PAD.encode(&public).into_bytes()] {
        let unsigned = none("HS256");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let tag = hmac::sign(&key, unsigned.trim_end_matches('.').as_bytes());
        tokens.push(format!("{unsigned}{}", URL_SAFE_NO_PAD.encode(tag)));
    }
    tokens
}

#[test]
fn another_algorithm_is_refused_whatever_signed_it() {
    for token in confused() {
        let error = check(&token).unwrap_err();
        assert_eq!(error.close_code(), CloseCode::TokenInvalid, "{token}");
    }
}

proptest! {
    #[test]
    fn a_changed_token_never_holds(at in any::<prop::sample::Index>(), byte in 0x20u8..0x7f) {
        let mut token = example().into_bytes();
        let at = at.index(token.len());
        prop_assume!(token[at] != byte);
        token[at] = byte;
        prop_assert!(check(std::str::from_utf8(&token).unwrap()).is_err());
    }

    #[test]
    fn a_cut_or_grown_token_never_holds(
        keep in any::<prop::sample::Index>(),
        tail in "[A-Za-z0-9_=.-]{0,8}",
    ) {
        let token = example();
        let changed = format!("{}{tail}", &token[..keep.index(token.len() + 1)]);
        prop_assume!(changed != token);
        prop_assert!(check(&changed).is_err());
    }

    #[test]
    fn claims_under_a_foreign_signature_never_hold(
        claims in prop::collection::vec(any::<u8>(), 0..200),
        signature in prop::collection::vec(any::<u8>(), 64),
    ) {
        let token = forged(r#"{"alg":"EdDSA","kid":"example"}"#, &claims, &signature);
        prop_assert!(check(&token).is_err());
    }

    #[test]
    fn no_text_panics_or_holds(text in "\\PC{0,300}") {
        prop_assert!(check(&text).is_err());
    }
}
