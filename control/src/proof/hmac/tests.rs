use super::*;
use aws_lc_rs::hmac::sign;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

const WINDOW: Duration = Duration::from_mins(5);
const NOW: u64 = 1_800_000_000;

fn ids() -> (AppId, DeviceId) {
    (AppId::new("demo").unwrap(), DeviceId::new("d 1").unwrap())
}

/// A good proof, changed by `spoil` before or after it is signed.
fn proof(secret: &[u8], pair: Option<&Ed25519KeyPair>, time: u64) -> HmacProof {
    let (app, device) = ids();
    let public = pair.map(|pair| {
        let public: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
        DeviceKey { public, signature: [0; 64] }
    });
    let mut proof = HmacProof {
        time,
        nonce: "0123456789abcdef".into(),
        signature: [0; 32],
        device_key: public,
    };
    let text = proof.signed(&app, &device);
    proof.signature =
        sign(&Key::new(HMAC_SHA256, secret), text.as_bytes()).as_ref().try_into().unwrap();
    if let (Some(key), Some(pair)) = (&mut proof.device_key, pair) {
        key.signature = pair.sign(text.as_bytes()).as_ref().try_into().unwrap();
    }
    proof
}

fn check(proof: &HmacProof) -> Result<(), ProofError> {
    let (app, device) = ids();
    proof.check(&app, &device, [&b"old"[..], b"new"], WINDOW, NOW * 1000)
}

#[test]
fn the_signed_text_is_the_published_one() {
    let (app, device) = ids();
    let proof = proof(b"new", None, NOW);
    assert_eq!(
        proof.signed(&app, &device),
        "hawser-access-v1\ndemo\nd 1\n1800000000\n0123456789abcdef\n"
    );
}

#[test]
fn any_live_secret_signs_and_no_other() {
    assert_eq!(check(&proof(b"new", None, NOW)), Ok(()));
    assert_eq!(check(&proof(b"old", None, NOW)), Ok(()));
    assert_eq!(check(&proof(b"gone", None, NOW)), Err(ProofError::Invalid("signature")));
}

#[test]
fn the_time_is_within_the_window() {
    for (time, expected) in [
        (NOW - 300, Ok(())),
        (NOW + 300, Ok(())),
        (NOW - 301, Err(ProofError::Expired)),
        (NOW + 301, Err(ProofError::Expired)),
        (0, Err(ProofError::Expired)),
        (u64::MAX, Err(ProofError::Expired)),
    ] {
        assert_eq!(check(&proof(b"new", None, time)), expected, "{time}");
    }
}

#[test]
fn what_is_signed_cannot_be_changed() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let good = proof(b"new", Some(&pair), NOW);
    assert_eq!(check(&good), Ok(()));
    let invalid = ProofError::Invalid;

    let other_nonce = HmacProof { nonce: "0123456789abcdeX".into(), ..good.clone() };
    assert_eq!(check(&other_nonce), Err(invalid("signature")));
    let other_time = HmacProof { time: NOW + 1, ..good.clone() };
    assert_eq!(check(&other_time), Err(invalid("signature")));
    let no_key = HmacProof { device_key: None, ..good.clone() };
    assert_eq!(check(&no_key), Err(invalid("signature")));
    let (app, other) = (AppId::new("demo").unwrap(), DeviceId::new("d 2").unwrap());
    let stolen = good.check(&app, &other, [&b"new"[..]], WINDOW, NOW * 1000);
    assert_eq!(stolen, Err(invalid("signature")));

    let mut forged = good;
    forged.device_key.as_mut().unwrap().signature[5] ^= 1;
    assert_eq!(check(&forged), Err(invalid("device_signature")));
}

#[test]
fn texts_have_one_form() {
    let good = HmacText {
        time: NOW,
        nonce: "0123456789abcdef",
        signature: &"ab".repeat(32),
        device_key: None,
        device_signature: None,
    };
    assert!(HmacProof::parse(good).is_ok());
    let (key, signature) = (URL_SAFE_NO_PAD.encode([1; 32]), URL_SAFE_NO_PAD.encode([2; 64]));
    let with = |key, signature| HmacText { device_key: key, device_signature: signature, ..good };
    assert!(HmacProof::parse(with(Some(&key), Some(&signature))).is_ok());
    for bad in [
        HmacText { nonce: "short", ..good },
        HmacText { nonce: "0123456789abcde\n", ..good },
        HmacText { nonce: &"n".repeat(65), ..good },
        HmacText { signature: "", ..good },
        HmacText { signature: &"zz".repeat(32), ..good },
        HmacText { signature: &"ab".repeat(33), ..good },
        with(Some(&key), None),
        with(None, Some(&signature)),
        with(Some(&signature), Some(&key)),
        with(Some("!"), Some(&signature)),
    ] {
        assert!(HmacProof::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_nonce_is_kept_as_long_as_its_proof_could_be_shown() {
    assert_eq!(proof(b"new", None, 1_000).replayable_until_ms(WINDOW), 1_300_000);
    assert_eq!(proof(b"new", None, u64::MAX).replayable_until_ms(WINDOW), u64::MAX);
}
