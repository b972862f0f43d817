//! How access nodes and routers follow the catalogue.

use crate::harness::{CLUSTER, Server, eventually};
use hawser_chassis::grpc::channel;
use hawser_proto::catalogue::Catalogue;
use hawser_proto::id::{AppId, BusinessId};
use hawser_proto::rpc::control as wire;
use hawser_proto::rpc::control::control_client::ControlClient;
use hawser_proto::rpc::control::update::What;
use serde_json::json;
use std::time::Duration;
use tonic::{Code, Request, Streaming};

async fn watch(server: &Server) -> Streaming<wire::Update> {
    let request = wire::WatchRequest { role: "router".into(), node: "r1".into() };
    server.rpc().watch(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_watcher_gets_a_snapshot_and_then_every_change_in_order() {
    let server = Server::start().await;
    server.app("before").await;
    let mut updates = watch(&server).await;
    let first = updates.message().await.unwrap().unwrap();
    assert!(matches!(first.what, Some(What::Snapshot(_))));
    let mut revision = first.revision;
    let mut follower = Catalogue::default().apply(first);
    assert!(follower.app(&AppId::new("before").unwrap()).is_some());

    server.app("demo").await;
    let inbox = json!({"entries_max": 9, "ttl_s_max": 60, "overflow": "drop_oldest"});
    let chat = json!({"business": "chat", "inbox": inbox});
    server.post("/v1/apps/demo/businesses", chat).await.expect(201);
    let made = server.post("/v1/apps/demo/businesses/chat/keys", json!({})).await.expect(201);
    server.delete("/v1/apps/before").await.expect(204);
    let sha256 = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        made["key"].as_str().unwrap().as_bytes(),
    );
    // app, business, key, revocation of the deleted app, its removal
    for _ in 0..5 {
        let update = updates.message().await.unwrap().unwrap();
        assert_eq!(update.revision, revision + 1);
        revision = update.revision;
        follower = follower.apply(update);
    }
    let (app, chat) = (AppId::new("demo").unwrap(), BusinessId::new("chat").unwrap());
    assert_eq!(follower.number(&app, &chat).map(|number| number.0), Some(1));
    let number = follower.number(&app, &chat).expect("it has a number");
    let inbox = follower.business(&app, number).and_then(|chat| chat.inbox);
    let wanted = wire::InboxPolicy {
        entries_max: 9,
        bytes_max: 4 << 20,
        ttl_ms_max: 60_000,
        overflow: wire::InboxOverflow::DropOldest.into(),
    };
    assert_eq!(inbox, Some(wanted));
    let key = follower.key(sha256.as_ref(), 0).expect("routers know the key by its hash");
    assert_eq!(key.key_id, made["key_id"].as_str().unwrap());
    assert!(follower.app(&AppId::new("before").unwrap()).is_none());

    let mut late = watch(&server).await;
    assert_eq!(late.message().await.unwrap().unwrap().revision, revision);
    drop((updates, late));
    server.stop().await;
}

#[tokio::test]
async fn a_removed_app_takes_its_businesses_and_keys_from_watchers() {
    let server = Server::start().await;
    server.app("demo").await;
    server.post("/v1/apps/demo/businesses", json!({"business": "chat"})).await.expect(201);
    let made = server.post("/v1/apps/demo/businesses/chat/keys", json!({})).await.expect(201);
    let mut updates = watch(&server).await;
    let mut follower = Catalogue::default().apply(updates.message().await.unwrap().unwrap());
    server.delete("/v1/apps/demo").await.expect(204);
    for _ in 0..4 {
        follower = follower.apply(updates.message().await.unwrap().unwrap());
    }
    let text = made["key"].as_str().unwrap().as_bytes();
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text);
    assert!(follower.key(sha256.as_ref(), 0).is_none());
    assert_eq!(follower.apps().count() + follower.businesses().count(), 0);
    drop(updates);
    server.stop().await;
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_cut_off_and_may_watch_again() {
    let server = Server::start_with(|config| config.watch_backlog = 4).await;
    // Many long origins make a change large: 300 of them are twice what HTTP/2 takes on credit.
    let origin = |n: usize| format!("https://{}.example", format!("{n:04}").repeat(50));
    let origins: Vec<_> = (0..32).map(origin).collect();
    let mut slow = watch(&server).await;
    assert!(slow.message().await.unwrap().is_some());
    server.post("/v1/apps", json!({"app": "demo"})).await.expect(201);
    let cut_off = || {
        let text =
            prometheus::TextEncoder::new().encode_to_string(&server.registry.gather()).unwrap();
        text.lines().any(|line| line == "hawser_control_watchers_cut_off_total 1")
    };
    // The watcher reads nothing; sooner or later the server cannot send, and then loses it.
    let mut sent = 0;
    while sent < 300 {
        let some = &origins[..31 + sent % 2];
        let patch = json!({"allowed_origins": some});
        let admin = crate::harness::ADMIN;
        server.call("PATCH", "/v1/apps/demo", admin, Some(patch)).await.expect(200);
        sent += 1;
    }
    let status = loop {
        match slow.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Aborted);
    assert!(cut_off());

    let mut again = watch(&server).await;
    let follower = Catalogue::default().apply(again.message().await.unwrap().unwrap());
    let app = follower.app(&AppId::new("demo").unwrap()).unwrap();
    assert_eq!(app.allowed_origins.len(), 31 + (sent - 1) % 2, "the last state");
    drop((slow, again));
    server.stop().await;
}

#[tokio::test]
async fn watchers_are_counted_while_they_watch_and_let_go_at_shutdown() {
    let server = Server::start().await;
    let count = || {
        let families = server.registry.gather();
        let family = families.iter().find(|it| it.name() == "hawser_control_watchers").unwrap();
        family.get_metric()[0].get_gauge().get_value()
    };
    let mut first = watch(&server).await;
    first.message().await.unwrap();
    let second = watch(&server).await;
    assert!((count() - 2.0).abs() < 0.1);
    drop(second);
    eventually("one is left", || async { (count() < 1.5).then_some(()) }).await;

    // A live watcher does not hold up the shutdown; its stream ends.
    server.stop().await;
    let end = tokio::time::timeout(Duration::from_secs(5), first.message()).await.unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}

#[tokio::test]
async fn the_internal_port_wants_the_cluster_secret() {
    let server = Server::start().await;
    let uri = format!("http://{}", server.running.internal_addr());
    for shown in [None, Some("Bearer wrong-secret"), Some(crate::harness::ADMIN), Some(CLUSTER)] {
        let mut client = ControlClient::new(channel(&uri).unwrap());
        let request = |(): ()| {
            let mut request = Request::new(wire::WatchRequest::default());
            if let Some(shown) = shown {
                request.metadata_mut().insert("authorization", shown.parse().unwrap());
            }
            request
        };
        let status = client.watch(request(())).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{shown:?}");
        let status = client.report(wire::NodeReport::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        let status = client.refresh_token(wire::RefreshTokenRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    let long = wire::WatchRequest { role: "x".repeat(65), node: String::new() };
    let status = server.rpc().watch(long).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let bad = wire::NodeReport { node: "B A D".into(), ..Default::default() };
    let status = server.rpc().report(bad).await.unwrap_err();
    assert_eq!(status.metadata().get("hawser-code").unwrap(), "invalid_argument");
    let large = wire::NodeReport { cluster: "x".repeat(100_000), ..Default::default() };
    assert!(server.rpc().report(large).await.is_err(), "above the message limit");
    let answer = server.rpc().report(crate::harness::node("n")).await.unwrap().into_inner();
    assert_eq!(answer.next_report_ms, 3_000);
    server.stop().await;
}
