//! Whatever comes, the answer is a problem with a code, and nothing changes.

use crate::harness::{ADMIN, PATIENCE, Server};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const BEARER: (&str, &str) = ("authorization", "Bearer the-admin-token-of-tests");
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused() {
    let server = Server::start().await;
    let large = format!("{{\"app\": \"{}\"}}", "x".repeat(65_536));
    let deep = "[".repeat(10_000);
    for (headers, body, code) in [
        (vec![BEARER, JSON], "", "invalid_argument"),
        (vec![BEARER, JSON], "{", "invalid_argument"),
        (vec![BEARER, JSON], "[]", "invalid_argument"),
        (vec![BEARER, JSON], "null", "invalid_argument"),
        (vec![BEARER, JSON], "{} trailing", "invalid_argument"),
        (vec![BEARER, JSON], r#"{"app": 7}"#, "invalid_argument"),
        (vec![BEARER, JSON], r#"{"app": "a", "app": "b"}"#, "invalid_argument"),
        (vec![BEARER, JSON], r#"{"app": "a", "extra": 1}"#, "invalid_argument"),
        (vec![BEARER, JSON], r#"{"app": "a", "proof": {"magic": true}}"#, "invalid_argument"),
        (vec![BEARER, JSON], r#"{"app": "a", "heartbeat_ms": -1}"#, "invalid_argument"),
        (vec![BEARER, JSON], r#"{"app": "a", "heartbeat_ms": 4294967296}"#, "invalid_argument"),
        (vec![BEARER, JSON], &deep, "invalid_argument"),
        (vec![BEARER, JSON], &large, "too_large"),
        (vec![BEARER], r#"{"app": "a"}"#, "invalid_argument"),
        (vec![BEARER, ("content-type", "text/plain")], r#"{"app": "a"}"#, "invalid_argument"),
        (vec![JSON], "{", "unauthenticated"),
        (vec![JSON, ("authorization", "Basic YTpi")], "{}", "unauthenticated"),
    ] {
        let answer = server.raw(Method::POST, "/v1/apps", &headers, body.to_owned()).await;
        answer.refused(code);
    }
    let not_utf8 = bytes::Bytes::from_static(b"{\"app\": \"\xff\"}");
    server
        .raw(Method::POST, "/v1/apps", &[BEARER, JSON], not_utf8)
        .await
        .refused("invalid_argument");
    let charset = [BEARER, ("content-type", "application/json; charset=utf-8")];
    let fine = server.raw(Method::POST, "/v1/apps", &charset, r#"{"app": "a"}"#).await;
    assert_eq!(fine.status, 201);
    assert_eq!(server.get("/v1/apps").await.expect(200)["items"].as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn fields_out_of_their_form_are_refused() {
    let server = Server::start().await;
    server.app("demo").await;
    server.post("/v1/apps/demo/businesses", json!({"business": "chat"})).await.expect(201);
    let apps = "/v1/apps";
    let businesses = "/v1/apps/demo/businesses";
    let many: Vec<_> = (0..17).map(|n| format!("http://h:{}", n + 1)).collect();
    for (method, path, body) in [
        ("POST", apps, json!({"app": ""})),
        ("POST", apps, json!({"app": "Demo"})),
        ("POST", apps, json!({"app": "a".repeat(33)})),
        ("POST", apps, json!({"app": "a/b"})),
        ("POST", apps, json!({"app": "a", "allowed_origins": ["example.com"]})),
        ("POST", apps, json!({"app": "a", "idle_timeout_ms": 25_000})),
        ("POST", apps, json!({"app": "a", "frame_bytes_max": 4_095})),
        ("PATCH", "/v1/apps/demo", json!({"app": "other"})),
        ("PATCH", "/v1/apps/demo", json!({"heartbeat_ms": 40_000})),
        ("PATCH", "/v1/apps/Demo", json!({})),
        ("POST", businesses, json!({"business": "b", "endpoints": ["127.0.0.1:1"]})),
        ("POST", businesses, json!({"business": "b", "endpoints": ["https://a:1"]})),
        ("POST", businesses, json!({"business": "b", "endpoints": many})),
        ("POST", businesses, json!({"business": "b", "request_timeout_ms": 0})),
        ("POST", businesses, json!({"business": "b", "expected_requests_per_second": 0})),
        ("POST", businesses, json!({"business": "b", "slow_policy": "whatever"})),
        ("POST", businesses, json!({"business": "b", "inbox": 1_000})),
        ("POST", businesses, json!({"business": "b", "inbox": {"entries": 1}})),
        ("POST", businesses, json!({"business": "b", "inbox": {"entries_max": 0}})),
        ("POST", businesses, json!({"business": "b", "inbox": {"entries_max": 10_001}})),
        ("POST", businesses, json!({"business": "b", "inbox": {"bytes_max": 67_108_865}})),
        ("POST", businesses, json!({"business": "b", "inbox": {"bytes_max": -1}})),
        ("POST", businesses, json!({"business": "b", "inbox": {"ttl_s_max": 604_801}})),
        ("POST", businesses, json!({"business": "b", "inbox": {"overflow": "grow"}})),
        ("POST", "/v1/apps/demo/businesses/A/keys", json!({})),
        ("POST", "/v1/apps/demo/client-secret", json!({"overlap_s": 2_592_001})),
        ("POST", "/v1/apps/demo/client-secret", json!({"overlap_s": -1})),
        ("POST", "/v1/apps/demo/revocations", json!({"device": ""})),
        ("POST", "/v1/apps/demo/revocations", json!({"device": "a\u{7}"})),
        ("DELETE", "/v1/apps/demo/device-keys/%07", Value::Null),
        ("DELETE", "/v1/apps/demo/device-keys/%ff", Value::Null),
    ] {
        let body = (!body.is_null()).then_some(body);
        let answer = server.call(method, path, ADMIN, body.clone()).await;
        assert_eq!(
            answer.body["code"], "invalid_argument",
            "{method} {path} {body:?}: {}",
            answer.body
        );
    }
    // An empty body must not mean the whole app.
    server.call("POST", "/v1/apps/demo/revocations", ADMIN, None).await.refused("invalid_argument");
    server.stop().await;
}

#[tokio::test]
async fn access_requests_out_of_their_form_are_refused() {
    let server = Server::start().await;
    server.report_node("n1").await;
    server.app("demo").await;
    let with = |patch: Value| {
        let mut body = json!({"app": "demo", "device": "d", "proof": {"type": "open"}});
        for (name, value) in patch.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    server.access(with(json!({}))).await.expect(200);
    server.access(with(json!({"app": "nobody"}))).await.refused("not_found");
    let names: Vec<_> = (0..33).map(|n| format!("b{n}")).collect();
    for patch in [
        json!({"app": "NO"}),
        json!({"device": ""}),
        json!({"device": "x".repeat(129)}),
        json!({"device": "a\nb"}),
        json!({"platform": ""}),
        json!({"platform": "x".repeat(65)}),
        json!({"network": "a\u{0}"}),
        json!({"sdk": 1}),
        json!({"businesses": ["NO"]}),
        json!({"businesses": names}),
        json!({"unknown": 1}),
        json!({"proof": {"type": "magic"}}),
        json!({"proof": {"type": "open", "extra": 1}}),
        json!({"proof": {"type": "jwt"}}),
        json!({"proof": {"type": "jwt", "token": "a", "extra": 1}}),
        json!({"proof": {"type": "hmac", "time": 1}}),
        json!({"proof": {"type": "hmac", "time": -1, "nonce": "n".repeat(16), "signature": "00".repeat(32)}}),
        json!({"proof": {"type": "hmac", "time": 1, "nonce": "short", "signature": "00".repeat(32)}}),
        json!({"proof": {"type": "hmac", "time": 1, "nonce": "n".repeat(16), "signature": "xx"}}),
        json!({"proof": {"type": "hmac", "time": 1, "nonce": "n".repeat(16), "signature": "00".repeat(32), "device_key": "AA"}}),
        json!({"proof": null}),
    ] {
        let answer = server.access(with(patch.clone())).await;
        assert_eq!(answer.body["code"], "invalid_argument", "{patch}: {}", answer.body);
    }
    server.stop().await;
}

/// Sends bytes as they are and returns what comes until the server closes.
async fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.running.http_addr()).await.unwrap();
    // The server may refuse and close before all is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn bytes_that_are_not_http_harm_nobody() {
    let server = Server::start().await;
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
    for bytes in ["nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", &long, &many] {
        let answer = exchange(&server, bytes.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    server.get("/v1/apps").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let server =
        Server::start_with(|config| config.http_request_timeout = Duration::from_millis(200)).await;
    let head = format!(
        "POST /v1/apps HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{{"
    );
    let answer = exchange(&server, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(answer.contains("deadline_exceeded"));
    server.stop().await;
}

#[tokio::test]
async fn more_requests_than_places_are_told_to_come_later() {
    let server = Server::start_with(|config| {
        config.http_requests_max = 1;
        config.http_request_timeout = Duration::from_secs(5);
    })
    .await;
    // One request holds the only place by not finishing its body.
    let mut holder = TcpStream::connect(server.running.http_addr()).await.unwrap();
    let head = format!(
        "POST /v1/apps HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN}\r\n\
         content-type: application/json\r\ncontent-length: 14\r\n\r\n{{"
    );
    holder.write_all(head.as_bytes()).await.unwrap();
    let refused = crate::harness::eventually("the place is taken", || async {
        let answer = server.raw(Method::GET, "/healthz", &[], "").await;
        (answer.status == 429).then_some(answer)
    });
    let refused = refused.await;
    refused.refused("overloaded");
    assert_eq!(refused.headers["retry-after"], "1");
    holder.write_all(br#""app": "abc"}"#).await.unwrap();
    let mut answer = [0; 12];
    holder.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 201", "the one in work was finished");
    drop(holder);
    server.get("/v1/apps").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let server =
        Server::start_with(|config| config.http_header_timeout = Duration::from_millis(200)).await;
    for bytes in [&b""[..], b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut stream = TcpStream::connect(server.running.http_addr()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        closed.expect("the server closes").unwrap();
    }
    server.stop().await;
}
