//! One tenant never reaches another: every call of the document, with every kind of wrong key.

use crate::document::operations;
use crate::harness::{ADMIN, Server};
use serde_json::{Value, json};

/// Calls that take no key.
const OPEN: [&str; 4] = ["/v1/access", "/openapi.json", "/healthz", "/.well-known/jwks.json"];

/// A body that would do for the call.
fn body(method: &str, pattern: &str) -> Option<Value> {
    match (method, pattern) {
        ("POST", "/v1/apps") => Some(json!({"app": "third"})),
        ("POST", "/v1/apps/{app}/businesses") => Some(json!({"business": "new"})),
        ("PUT", "/v1/apps/{app}/identity-keys") => Some(json!([])),
        ("POST" | "PATCH", _)
            if !pattern.ends_with("owner-keys") && !pattern.starts_with("/v1/sign") =>
        {
            Some(json!({}))
        }
        _ => None,
    }
}

struct Names {
    app: &'static str,
    key_id: String,
}

impl Names {
    fn fill(&self, pattern: &str) -> String {
        pattern
            .replace("{app}", self.app)
            .replace("{business}", "chat")
            .replace("{key_id}", &self.key_id)
            .replace("{device}", "d")
    }
}

#[tokio::test]
async fn the_key_of_one_app_opens_nothing_of_another() {
    let server = Server::start().await;
    let mine = server.app("mine").await;
    let theirs = server.app("theirs").await;
    let mut key_ids = Vec::new();
    for app in ["mine", "theirs"] {
        let businesses = format!("/v1/apps/{app}/businesses");
        server.post(&businesses, json!({"business": "chat"})).await.expect(201);
        let key = server.post(&format!("{businesses}/chat/keys"), json!({})).await.expect(201);
        key_ids.push(key["key_id"].as_str().unwrap().to_owned());
    }
    let my_key = mine["owner_key"].as_str().unwrap();
    let their_secret = theirs["client_secret"].as_str().unwrap();
    let before = state(&server).await;

    let mut calls = 0;
    for (method, pattern) in operations(&server.document) {
        if OPEN.contains(&pattern.as_str()) {
            continue;
        }
        let other = Names { app: "theirs", key_id: key_ids[1].clone() };
        let missing = Names { app: "nowhere", key_id: key_ids[1].clone() };
        for names in [other, missing] {
            let (path, body) = (names.fill(&pattern), body(method, &pattern));
            let answer = server.call(method, &path, my_key, body.clone()).await;
            if pattern == "/v1/routers" {
                // Which routers there are is for all whom control knows.
                answer.expect(200);
            } else {
                answer.refused("permission_denied");
            }
            for stranger in ["", "hok_wrong", "not-the-admin-token", their_secret] {
                let answer = server.call(method, &path, stranger, body.clone()).await;
                answer.refused("unauthenticated");
                assert_eq!(answer.headers["www-authenticate"], "Bearer");
            }
            calls += 1;
        }
    }
    assert!(calls >= 40, "{calls} calls were tried");
    assert_eq!(state(&server).await, before, "nothing changed");
    server.stop().await;
}

/// What the calls could have changed.
async fn state(server: &Server) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        "/v1/apps",
        "/v1/audit",
        "/v1/apps/theirs/businesses",
        "/v1/apps/theirs/businesses/chat/keys",
        "/v1/apps/theirs/owner-keys",
        "/v1/apps/theirs/identity-keys",
        "/.well-known/jwks.json",
    ] {
        all.push(server.get(path).await.expect(200));
    }
    all
}

#[tokio::test]
async fn an_owner_reaches_all_of_its_app_but_not_the_operators_part() {
    let server = Server::start().await;
    let app = server.app("mine").await;
    let key = app["owner_key"].as_str().unwrap();
    server.post("/v1/apps/mine/businesses", json!({"business": "chat"})).await.expect(201);
    for (method, path, body) in [
        ("GET", "/v1/apps", None),
        ("POST", "/v1/apps", Some(json!({"app": "second"}))),
        ("DELETE", "/v1/apps/mine", None),
        ("GET", "/v1/apps/mine/owner-keys", None),
        ("POST", "/v1/apps/mine/owner-keys", None),
        ("DELETE", "/v1/apps/mine/owner-keys/x", None),
        ("POST", "/v1/signing-keys/rotate", None),
        ("GET", "/v1/nodes", None),
        ("GET", "/v1/audit", None),
        ("PATCH", "/v1/apps/mine", Some(json!({"enabled": true}))),
        ("PATCH", "/v1/apps/mine", Some(json!({"quotas": {"businesses_max": 1_000_000}}))),
    ] {
        server.call(method, path, key, body).await.refused("permission_denied");
    }
    for (method, path, body) in [
        ("GET", "/v1/apps/mine", None),
        ("PATCH", "/v1/apps/mine", Some(json!({"heartbeat_ms": 5_000}))),
        ("POST", "/v1/apps/mine/client-secret", None),
        ("GET", "/v1/apps/mine/identity-keys", None),
        ("GET", "/v1/apps/mine/businesses", None),
        ("POST", "/v1/apps/mine/businesses/chat/keys", None),
        ("POST", "/v1/apps/mine/revocations", Some(json!({"device": "d"}))),
        ("DELETE", "/v1/apps/mine/device-keys/d", None),
        ("DELETE", "/v1/apps/mine/businesses/chat", None),
    ] {
        let answer = server.call(method, path, key, body).await;
        assert!(answer.status.is_success(), "{method} {path}: {}", answer.body);
    }
    let admin = server.call("GET", "/v1/apps/mine", ADMIN, None).await.expect(200);
    assert_eq!(admin["heartbeat_ms"], 5_000);
    server.stop().await;
}
