//! Tokens: signing keys and their rotation, revocation, refresh.

use crate::harness::{ADMIN, Server, eventually};
use hawser_proto::catalogue::Catalogue;
use hawser_proto::rpc::control as wire;
use hawser_proto::token::{self, Identity, TokenError};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::Code;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// What a new watcher is told first.
pub(crate) async fn snapshot(server: &Server) -> Catalogue {
    let request = wire::WatchRequest { role: "access".into(), node: "test".into() };
    let mut updates = server.rpc().watch(request).await.unwrap().into_inner();
    Catalogue::default().apply(updates.message().await.unwrap().unwrap())
}

/// Verifies a token as an access node does.
pub(crate) async fn verify(server: &Server, token: &str) -> Result<Identity, TokenError> {
    let catalogue = snapshot(server).await;
    let now_ms = now_ms();
    token::verify(token, now_ms, |kid| catalogue.verifying_key(kid, now_ms))
}

fn kid(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

async fn published(server: &Server) -> Vec<String> {
    let keys = server.call("GET", "/.well-known/jwks.json", "", None).await.expect(200);
    let keys = keys["keys"].as_array().unwrap();
    assert!(keys.iter().all(|key| key["kty"] == "OKP" && key["alg"] == "EdDSA"));
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

async fn token(server: &Server) -> String {
    server.open_access("demo", "d").await["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_rotated_key_is_published_first_and_signs_later() {
    let delay = Duration::from_secs(1);
    let server = Server::start_with(|config| config.signing_activation_delay = delay).await;
    server.app("demo").await;
    server.report_node("n1").await;
    let old_token = token(&server).await;
    let old = kid(&old_token);
    assert_eq!(published(&server).await, [old.as_str()]);

    let rotated = server.call("POST", "/v1/signing-keys/rotate", ADMIN, None).await.expect(201);
    let new = rotated["kid"].as_str().unwrap().to_owned();
    let active_from_ms = rotated["active_from_ms"].as_u64().unwrap();
    assert!(published(&server).await.contains(&new));
    assert!(snapshot(&server).await.verifying_key(&new, now_ms()).is_some());
    let new_token = eventually("the new key signs", || async {
        let token = token(&server).await;
        let signed_at_ms = now_ms();
        if kid(&token) == old {
            return None;
        }
        assert!(signed_at_ms >= active_from_ms, "it signed before it was active");
        Some(token)
    });
    let new_token = new_token.await;
    assert_eq!(kid(&new_token), new);
    verify(&server, &old_token).await.expect("the old key verifies on");
    verify(&server, &new_token).await.expect("the new key verifies");
    assert_eq!(published(&server).await.len(), 2);

    // The old key says when it ends: activation, a token's life, the leeway.
    let request = wire::WatchRequest::default();
    let mut updates = server.rpc().watch(request).await.unwrap().into_inner();
    let Some(wire::update::What::Snapshot(all)) = updates.message().await.unwrap().unwrap().what
    else {
        panic!("a snapshot comes first")
    };
    let key = all.signing_keys.iter().find(|key| key.kid == old).unwrap();
    assert_eq!(key.verify_until_ms as u64, active_from_ms + 3_660_000);
    drop(updates);
    server.stop().await;
}

#[tokio::test]
async fn a_token_is_only_good_unchanged() {
    let server = Server::start().await;
    server.app("demo").await;
    server.report_node("n1").await;
    let token = token(&server).await;
    verify(&server, &token).await.unwrap();
    let (head, tail) = token.split_at(token.len() - 10);
    let flipped = if tail.starts_with('A') { "B" } else { "A" };
    let forged = format!("{head}{flipped}{}", &tail[1..]);
    assert_eq!(verify(&server, &forged).await.unwrap_err(), TokenError::Invalid);
    server.stop().await;
}

fn refresh(device: &str, issued_at_ms: i64) -> wire::RefreshTokenRequest {
    let app = "demo".into();
    wire::RefreshTokenRequest { app, device: device.into(), issued_at_ms, ..Default::default() }
}

#[track_caller]
fn code(status: &tonic::Status) -> (Code, String) {
    let name = status.metadata().get("hawser-code").map(|it| it.to_str().unwrap().to_owned());
    (status.code(), name.unwrap_or_default())
}

#[tokio::test]
async fn a_live_session_gets_a_new_token_with_the_same_rights() {
    let server = Server::start().await;
    server.app("demo").await;
    let mut rpc = server.rpc();
    let wish = wire::RefreshTokenRequest {
        businesses: vec!["chat".into()],
        ..refresh("d", now_ms() as i64)
    };
    let answer = rpc.refresh_token(wish).await.unwrap().into_inner();
    let identity = verify(&server, &answer.token).await.unwrap();
    assert!(identity.allows("chat") && !identity.allows("feed"));
    assert_eq!(identity.expires_at_ms as i64, answer.expires_at_ms);
    assert!(
        answer.issued_at_ms < answer.refresh_at_ms && answer.refresh_at_ms < answer.expires_at_ms
    );

    let hour = 3_600_000;
    for (wish, expected) in [
        (refresh("d", now_ms() as i64 - hour - 61_000), (Code::Unauthenticated, "proof_expired")),
        (refresh("d", now_ms() as i64 + 120_000), (Code::InvalidArgument, "invalid_argument")),
        (refresh("", 0), (Code::InvalidArgument, "invalid_argument")),
        (refresh("d", -1), (Code::InvalidArgument, "invalid_argument")),
        (
            wire::RefreshTokenRequest { app: "nobody".into(), ..refresh("d", 0) },
            (Code::NotFound, "not_found"),
        ),
        (
            wire::RefreshTokenRequest { businesses: vec!["B A D".into()], ..refresh("d", 0) },
            (Code::InvalidArgument, "invalid_argument"),
        ),
    ] {
        let status = rpc.refresh_token(wish.clone()).await.unwrap_err();
        assert_eq!(code(&status), (expected.0, expected.1.to_owned()), "{wish:?}");
    }
    let off = json!({"enabled": false});
    server.call("PATCH", "/v1/apps/demo", ADMIN, Some(off)).await.expect(200);
    let status = rpc.refresh_token(refresh("d", now_ms() as i64)).await.unwrap_err();
    assert_eq!(code(&status), (Code::PermissionDenied, "disabled".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn a_revocation_reaches_watchers_refuses_refresh_and_spares_new_tokens() {
    let server = Server::start().await;
    server.app("demo").await;
    server.report_node("n1").await;
    let request = wire::WatchRequest { role: "access".into(), node: "n1".into() };
    let mut updates = server.rpc().watch(request).await.unwrap().into_inner();
    let mut catalogue = Catalogue::default().apply(updates.message().await.unwrap().unwrap());

    let before = server.open_access("demo", "d").await;
    let other = server.open_access("demo", "e").await;
    let revoked = server.post("/v1/apps/demo/revocations", json!({"device": "d"})).await;
    assert!(revoked.expect(201)["issued_before_ms"].as_u64() > before["issued_at_ms"].as_u64());
    catalogue = catalogue.apply(updates.message().await.unwrap().unwrap());

    let is_revoked = |catalogue: &Catalogue, device: &str, access: &Value| {
        let app = hawser_proto::id::AppId::new("demo").unwrap();
        let device = hawser_proto::id::DeviceId::new(device).unwrap();
        catalogue.is_revoked(&app, &device, access["issued_at_ms"].as_u64().unwrap())
    };
    assert!(is_revoked(&catalogue, "d", &before));
    assert!(!is_revoked(&catalogue, "e", &other));
    let issued = |access: &Value| access["issued_at_ms"].as_i64().unwrap();
    let mut rpc = server.rpc();
    let status = rpc.refresh_token(refresh("d", issued(&before))).await.unwrap_err();
    assert_eq!(code(&status), (Code::PermissionDenied, "revoked".to_owned()));
    rpc.refresh_token(refresh("e", issued(&other))).await.unwrap();

    // The device proves itself again, in the same second, and may stay.
    let after = server.open_access("demo", "d").await;
    assert!(!is_revoked(&catalogue, "d", &after));
    verify(&server, after["token"].as_str().unwrap()).await.expect("not from the future");
    rpc.refresh_token(refresh("d", issued(&after))).await.unwrap();

    server.post("/v1/apps/demo/revocations", json!({})).await.expect(201);
    catalogue = catalogue.apply(updates.message().await.unwrap().unwrap());
    assert!(is_revoked(&catalogue, "e", &other), "the whole app");
    drop(updates);
    server.stop().await;
}

#[tokio::test]
async fn tokens_of_a_deleted_app_are_not_those_of_its_successor() {
    let server = Server::start().await;
    server.app("demo").await;
    server.report_node("n1").await;
    let before = server.open_access("demo", "d").await;
    server.delete("/v1/apps/demo").await.expect(204);
    server.app("demo").await;
    let issued = before["issued_at_ms"].as_i64().unwrap();
    let status = server.rpc().refresh_token(refresh("d", issued)).await.unwrap_err();
    assert_eq!(code(&status), (Code::PermissionDenied, "revoked".to_owned()));
    server.stop().await;
}
