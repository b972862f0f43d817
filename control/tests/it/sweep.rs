//! What has expired goes by itself.

use crate::harness::{Server, eventually};
use crate::signing::snapshot;
use hawser_proto::rpc::control as wire;
use hawser_proto::rpc::control::change::Entity;
use hawser_proto::rpc::control::update::What;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn an_expired_key_leaves_the_catalogue_and_watchers_hear_of_it() {
    let server =
        Server::start_with(|config| config.sweep_interval = Duration::from_millis(50)).await;
    server.app("demo").await;
    server.post("/v1/apps/demo/businesses", json!({"business": "chat"})).await.expect(201);
    let keys = "/v1/apps/demo/businesses/chat/keys";
    let short = server.post(keys, json!({"expires_in_s": 1})).await.expect(201);
    let kept = server.post(keys, json!({})).await.expect(201);
    let request = wire::WatchRequest { role: "router".into(), node: "r".into() };
    let mut updates = server.rpc().watch(request).await.unwrap().into_inner();
    updates.message().await.unwrap();

    let update = updates.message().await.unwrap().unwrap();
    let Some(What::Change(wire::Change { entity: Some(Entity::Key(gone)), removed: true })) =
        update.what
    else {
        panic!("the expired key is removed: {update:?}")
    };
    assert_eq!(gone.key_id, short["key_id"].as_str().unwrap());
    let listed = server.get(keys).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["key_id"], kept["key_id"]);
    let log = server.get("/v1/audit?page_size=1").await.expect(200);
    assert_eq!(log["items"][0]["action"], "expired.remove");
    drop(updates);
    server.stop().await;
}

#[tokio::test]
async fn old_audit_entries_go_and_nothing_else() {
    let server = Server::start_with(|config| {
        config.sweep_interval = Duration::from_millis(50);
        config.audit_retention = Duration::from_millis(1);
    })
    .await;
    server.app("demo").await;
    eventually("the audit log is empty", || async {
        let log = server.get("/v1/audit").await.expect(200);
        log["items"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(snapshot(&server).await.apps().count(), 1);
    server.stop().await;
}
