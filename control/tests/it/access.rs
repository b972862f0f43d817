//! Devices come in: each proof, good and bad.

use crate::harness::{ADMIN, Server, node};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hawser_proto::id::{AppId, DeviceId};
use http::Method;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The body of an access request with an HMAC proof, as a device writes it.
struct Hmac<'a> {
    secret: &'a str,
    device: &'a str,
    time: u64,
    nonce: &'a str,
    pair: Option<&'a Ed25519KeyPair>,
}

impl Hmac<'_> {
    fn body(&self) -> Value {
        let Self { secret, device, time, nonce, pair } = self;
        let key = pair.map(|pair| URL_SAFE_NO_PAD.encode(pair.public_key()));
        let shown = key.as_deref().unwrap_or_default();
        let text = format!("hawser-access-v1\ndemo\n{device}\n{time}\n{nonce}\n{shown}");
        let tag = sign(&Key::new(HMAC_SHA256, secret.as_bytes()), text.as_bytes());
        let mut proof = json!({
            "type": "hmac", "time": time, "nonce": nonce, "signature": hex::encode(tag),
        });
        if let (Some(key), Some(pair)) = (key, pair) {
            proof["device_key"] = json!(key);
            let signature = pair.sign(text.as_bytes());
            proof["device_signature"] = json!(URL_SAFE_NO_PAD.encode(signature));
        }
        json!({"app": "demo", "device": device, "proof": proof})
    }
}

fn nonce(n: u32) -> String {
    format!("nonce-of-the-test-{n:04}")
}

#[tokio::test]
async fn an_admitted_device_gets_all_it_needs() {
    let server = Server::start().await;
    server.app("demo").await;
    let none = json!({"app": "demo", "device": "d", "proof": {"type": "open"}});
    let answer = server.access(none.clone()).await;
    answer.refused("no_access_point");
    assert!(answer.headers.contains_key("retry-after"));

    server.report_node("n1").await;
    let mut wish = none;
    for (field, value) in
        [("platform", "ios"), ("network", "wifi"), ("sdk", "rs/0.1"), ("app_version", "3.2")]
    {
        wish[field] = json!(value);
    }
    wish["businesses"] = json!(["feed", "chat", "chat"]);
    let answer = server.access(wish.clone()).await.expect(200);
    let first = &answer["access_points"][0];
    assert_eq!(first["protocol"], "tls");
    assert_eq!((&first["server_name"], &first["weight"]), (&json!("localhost"), &json!(75)));
    assert_eq!(answer["access_points"].as_array().unwrap().len(), 5);
    assert!(answer["access_points"][3].get("server_name").is_none(), "tcp has none");
    assert_eq!(
        (&answer["heartbeat_ms"], &answer["idle_timeout_ms"]),
        (&json!(25_000), &json!(35_000))
    );
    let identity =
        crate::signing::verify(&server, answer["token"].as_str().unwrap()).await.unwrap();
    assert_eq!(identity.app, AppId::new("demo").unwrap());
    assert_eq!(identity.device, DeviceId::new("d").unwrap());
    assert!(identity.allows("chat") && identity.allows("feed") && !identity.allows("other"));
    assert_eq!(identity.expires_at_ms - identity.issued_at_ms, 3_600_000);
    assert_eq!(answer["issued_at_ms"], identity.issued_at_ms);

    wish["platform"] = json!("web");
    let web = server.access(wish).await.expect(200);
    let protocols: Vec<_> = web["access_points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["protocol"].as_str().unwrap())
        .collect();
    assert_eq!(protocols, ["wss", "ws"]);
    server.stop().await;
}

#[tokio::test]
async fn draining_and_full_nodes_are_not_handed_out() {
    let server = Server::start().await;
    server.app("demo").await;
    let mut rpc = server.rpc();
    let full = hawser_proto::rpc::control::NodeReport { connections: 100, ..node("full") };
    rpc.report(full).await.unwrap();
    rpc.report(node("fine")).await.unwrap();
    let nodes = |answer: &Value| -> Vec<String> {
        let points = answer["access_points"].as_array().unwrap();
        points.iter().map(|point| point["node"].as_str().unwrap().to_owned()).collect()
    };
    assert!(nodes(&server.open_access("demo", "d").await).iter().all(|name| name == "fine"));
    let shown = server.get("/v1/nodes").await.expect(200);
    assert_eq!(shown["items"][0]["node"], "fine");
    assert_eq!(
        (&shown["items"][1]["connections"], &shown["items"][1]["fresh"]),
        (&json!(100), &json!(true))
    );
    let draining = hawser_proto::rpc::control::NodeReport { draining: true, ..node("fine") };
    rpc.report(draining).await.unwrap();
    let body = json!({"app": "demo", "device": "d", "proof": {"type": "open"}});
    server.access(body).await.refused("no_access_point");
    server.stop().await;
}

#[tokio::test]
async fn hmac_proofs_hold_once_and_only_unchanged() {
    let server = Server::start().await;
    server.report_node("n1").await;
    let app = server.app("demo").await;
    let secret = app["client_secret"].as_str().unwrap();
    let (n1, n2, n3) = (nonce(1), nonce(2), nonce(3));
    let good = Hmac { secret, device: "d", time: now(), nonce: &n1, pair: None };
    server.access(good.body()).await.expect(200);
    server.access(good.body()).await.refused("proof_replayed");
    server.access(Hmac { device: "e", ..good }.body()).await.expect(200);

    let late = Hmac { time: now() - 302, nonce: &n2, ..good };
    server.access(late.body()).await.refused("proof_expired");
    let early = Hmac { time: now() + 302, nonce: &n2, ..good };
    server.access(early.body()).await.refused("proof_expired");
    let other = Hmac { secret: "hcs_other", nonce: &n2, ..good };
    server.access(other.body()).await.refused("proof_invalid");
    let mut stolen = Hmac { nonce: &n2, ..good }.body();
    stolen["device"] = json!("someone-else");
    server.access(stolen).await.refused("proof_invalid");
    server.access(Hmac { nonce: &n2, ..good }.body()).await.expect(200);

    // After a rotation both secrets hold, until the overlap ends.
    let rotate = "/v1/apps/demo/client-secret";
    let new = server.call("POST", rotate, ADMIN, None).await.expect(200);
    let new = new["client_secret"].as_str().unwrap().to_owned();
    server.access(Hmac { nonce: &n3, ..good }.body()).await.expect(200);
    server.access(Hmac { secret: &new, nonce: &nonce(4), ..good }.body()).await.expect(200);
    server.post(rotate, json!({"overlap_s": 0})).await.expect(200);
    server.access(Hmac { nonce: &nonce(5), ..good }.body()).await.refused("proof_invalid");
    server
        .access(Hmac { secret: &new, nonce: &nonce(5), ..good }.body())
        .await
        .refused("proof_invalid");
    server.stop().await;
}

#[tokio::test]
async fn a_device_key_is_bound_at_its_first_access() {
    let server = Server::start().await;
    server.report_node("n1").await;
    let app = server.app("demo").await;
    let secret = app["client_secret"].as_str().unwrap();
    let (mine, thief) = (Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
    let ask =
        |n: u32, pair| Hmac { secret, device: "d", time: now(), nonce: &nonce(n), pair }.body();
    server.access(ask(1, Some(&mine))).await.expect(200);
    server.access(ask(2, Some(&mine))).await.expect(200);
    server.access(ask(3, Some(&thief))).await.refused("device_key_mismatch");
    server.access(ask(4, None)).await.refused("device_key_mismatch");
    let mut forged = ask(5, Some(&mine));
    forged["proof"]["device_signature"] = ask(6, Some(&mine))["proof"]["device_signature"].take();
    server.access(forged).await.refused("proof_invalid");

    server.delete("/v1/apps/demo/device-keys/d").await.expect(204);
    server.access(ask(7, Some(&thief))).await.expect(200);
    server.access(ask(8, Some(&mine))).await.refused("device_key_mismatch");

    // A later app of the same name does not inherit the binding.
    server.delete("/v1/apps/demo").await.expect(204);
    let again = server.app("demo").await;
    let secret = again["client_secret"].as_str().unwrap();
    let proof = Hmac { secret, device: "d", time: now(), nonce: &nonce(9), pair: Some(&mine) };
    server.access(proof.body()).await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn of_two_first_accesses_at_once_one_key_is_bound() {
    let server = Server::start().await;
    server.report_node("n1").await;
    let app = server.app("demo").await;
    let secret = app["client_secret"].as_str().unwrap();
    let pairs: Vec<_> = (0..16).map(|_| Ed25519KeyPair::generate().unwrap()).collect();
    let asks = pairs.iter().enumerate().map(|(n, pair)| {
        let nonce = nonce(n as u32);
        let body =
            Hmac { secret, device: "d", time: now(), nonce: &nonce, pair: Some(pair) }.body();
        server.access(body)
    });
    let answers = futures_util::future::join_all(asks).await;
    let admitted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(admitted, 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.refused("device_key_mismatch");
    }
    server.stop().await;
}

#[tokio::test]
async fn identity_jwts_are_taken_with_registered_keys_only() {
    let server = Server::start().await;
    server.report_node("n1").await;
    server.app("demo").await;
    let put = |body| server.call("PUT", "/v1/apps/demo/identity-keys", ADMIN, Some(body));
    let registered = put(json!([
        {"kid": "h1", "alg": "HS256", "key": STANDARD.encode([5; 32])},
    ]));
    let registered = registered.await.expect(200);
    assert_eq!(
        registered["items"],
        json!([{"kid": "h1", "alg": "HS256"}]),
        "no HMAC key comes back"
    );
    assert_eq!(server.get("/v1/apps/demo/identity-keys").await.expect(200), registered);

    let token = |kid: &str, key: &[u8], claims: Value| {
        let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(key)).unwrap()
    };
    let ask = |token: String| json!({"app": "demo", "device": "d", "proof": {"type": "jwt", "token": token}});
    let claims = json!({"sub": "d", "aud": "demo", "exp": now() + 60});
    server.access(ask(token("h1", &[5; 32], claims.clone()))).await.expect(200);
    let old = json!({"sub": "d", "aud": "demo", "exp": now() - 61});
    for (token, code) in [
        (token("h2", &[5; 32], claims.clone()), "proof_invalid"),
        (token("h1", &[6; 32], claims.clone()), "proof_invalid"),
        (
            token("h1", &[5; 32], json!({"sub": "e", "aud": "demo", "exp": now() + 60})),
            "proof_invalid",
        ),
        (
            token("h1", &[5; 32], json!({"sub": "d", "aud": "x", "exp": now() + 60})),
            "proof_invalid",
        ),
        (token("h1", &[5; 32], old), "proof_expired"),
        ("no token".to_owned(), "proof_invalid"),
    ] {
        server.access(ask(token)).await.refused(code);
    }
    put(json!([])).await.expect(200);
    server.access(ask(token("h1", &[5; 32], claims))).await.refused("proof_invalid");

    for bad in [
        json!([{"kid": "a", "alg": "HS256", "key": "c2hvcnQ="}]),
        json!([{"kid": "", "alg": "HS256", "key": STANDARD.encode([5; 32])}]),
        json!([{"kid": "a", "alg": "none", "key": ""}]),
        json!([{"kid": "a", "alg": "EdDSA", "key": "-----BEGIN PRIVATE KEY-----"}]),
        json!([{"kid": "a", "alg": "HS256", "key": STANDARD.encode([5; 32])},
               {"kid": "a", "alg": "HS256", "key": STANDARD.encode([6; 32])}]),
    ] {
        put(bad).await.refused("invalid_argument");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_app_takes_only_the_proofs_it_chose() {
    let server = Server::start_with(|config| config.allow_open_access = false).await;
    server.report_node("n1").await;
    let open = json!({"app": "demo", "proof": {"open": true}});
    server.post("/v1/apps", open).await.refused("disabled");
    let closed = json!({"app": "demo", "proof": {"hmac": false, "jwt": false}});
    let app = server.post("/v1/apps", closed).await.expect(201);
    assert_eq!(app["allowed_origins"], json!([]));
    let secret = app["client_secret"].as_str().unwrap();
    let hmac = Hmac { secret, device: "d", time: now(), nonce: &nonce(1), pair: None }.body();
    for proof in
        [hmac["proof"].clone(), json!({"type": "open"}), json!({"type": "jwt", "token": "x"})]
    {
        let body = json!({"app": "demo", "device": "d", "proof": proof});
        server.access(body).await.refused("disabled");
    }
    let patch = json!({"proof": {"hmac": true}});
    server.call("PATCH", "/v1/apps/demo", ADMIN, Some(patch)).await.expect(200);
    server.access(hmac).await.expect(200);
    let off = json!({"enabled": false});
    server.call("PATCH", "/v1/apps/demo", ADMIN, Some(off)).await.expect(200);
    let proof = Hmac { secret, device: "d", time: now(), nonce: &nonce(2), pair: None };
    server.access(proof.body()).await.refused("disabled");
    server.stop().await;
}

#[tokio::test]
async fn pages_of_allowed_origins_may_ask() {
    let server = Server::start().await;
    server.report_node("n1").await;
    server.app("demo").await;
    let patch = json!({"allowed_origins": ["https://good.example"]});
    server.call("PATCH", "/v1/apps/demo", ADMIN, Some(patch)).await.expect(200);
    let ask = json!({"app": "demo", "device": "d", "proof": {"type": "open"}}).to_string();
    for (origin, status) in
        [("https://good.example", 200), ("https://evil.example", 403), ("null", 403)]
    {
        let preflight = [("origin", origin), ("access-control-request-method", "POST")];
        let answer = server.raw(Method::OPTIONS, "/v1/access", &preflight, "").await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.headers["access-control-allow-origin"], origin);
        assert_eq!(answer.headers["access-control-allow-methods"], "POST");
        assert_eq!(answer.headers["access-control-allow-headers"], "content-type");

        let headers = [("origin", origin), ("content-type", "application/json")];
        let answer = server.raw(Method::POST, "/v1/access", &headers, ask.clone()).await;
        assert_eq!(answer.status, status, "{origin}");
        assert_eq!(answer.headers["access-control-allow-origin"], origin, "it may read why");
        assert_eq!(answer.headers["vary"], "origin");
    }
    let other =
        server.raw(Method::GET, "/healthz", &[("origin", "https://good.example")], "").await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));
    server.stop().await;
}

#[tokio::test]
async fn a_quota_bounds_access_requests() {
    let server = Server::start().await;
    server.report_node("n1").await;
    server.app("demo").await;
    let patch = json!({"quotas": {"accesses_per_second_max": 1}});
    server.call("PATCH", "/v1/apps/demo", ADMIN, Some(patch)).await.expect(200);
    let body = json!({"app": "demo", "device": "d", "proof": {"type": "open"}});
    let asks = (0..8).map(|_| server.access(body.clone()));
    let answers = futures_util::future::join_all(asks).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(!refused.is_empty(), "one a second, not eight at once");
    for answer in refused {
        answer.refused("quota_exceeded");
        assert_eq!(answer.headers["retry-after"], "1");
    }
    server.stop().await;
}
