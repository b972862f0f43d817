//! What was answered survives a restart.

use crate::harness::{PATIENCE, Server, config};
use crate::signing;
use hawser_control::{Listeners, MasterKey, StartError};
use serde_json::json;
use tokio::net::TcpListener;

#[tokio::test]
async fn a_restart_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_on(config(folder.path())).await;
    let app = server.app("demo").await;
    server.app("gone").await;
    server.delete("/v1/apps/gone").await.expect(204);
    let chat = json!({"business": "chat", "endpoints": ["http://127.0.0.1:1"]});
    server.post("/v1/apps/demo/businesses", chat).await.expect(201);
    server.post("/v1/apps/demo/businesses", json!({"business": "b"})).await.expect(201);
    server.delete("/v1/apps/demo/businesses/b").await.expect(204);
    server.post("/v1/apps/demo/businesses/chat/keys", json!({})).await.expect(201);
    server.post("/v1/apps/demo/revocations", json!({"device": "d"})).await.expect(201);
    server.report_node("n1").await;
    let token = server.open_access("demo", "e").await["token"].as_str().unwrap().to_owned();
    let paths = [
        "/v1/apps",
        "/v1/apps/demo/owner-keys",
        "/v1/apps/demo/businesses",
        "/v1/apps/demo/businesses/chat/keys",
        "/v1/audit",
        "/.well-known/jwks.json",
    ];
    let mut before = Vec::new();
    for path in paths {
        before.push(server.get(path).await.expect(200));
    }
    let seen = signing::snapshot(&server).await;
    server.stop().await;

    let server = Server::start_on(config(folder.path())).await;
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(server.get(path).await.expect(200), before, "{path}");
    }
    let again = signing::snapshot(&server).await;
    assert_eq!(again.revision, seen.revision, "revisions go on from where they were");
    signing::verify(&server, &token).await.expect("the signing key is the same");
    let owner = app["owner_key"].as_str().unwrap();
    server.call("GET", "/v1/apps/demo", owner, None).await.expect(200);
    let number = server.post("/v1/apps/demo/businesses", json!({"business": "b"})).await;
    assert_eq!(number.expect(201)["number"], 3, "the counter is durable");
    assert!(signing::snapshot(&server).await.revision > seen.revision);
    server.stop().await;
}

#[tokio::test]
async fn another_master_key_and_a_busy_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let start = async |config| {
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners { http: listen().await, internal: listen().await };
        hawser_control::start(config, listeners, &prometheus::Registry::new()).await
    };
    let running = start(config(folder.path())).await.unwrap();
    let busy = start(config(folder.path())).await;
    assert!(matches!(busy, Err(StartError::Store(_))), "{busy:?}");
    assert!(running.shutdown(PATIENCE).await);

    let mut other = config(folder.path());
    other.master_key = MasterKey::new([1; 32]);
    let refused = start(other).await;
    assert!(matches!(refused, Err(StartError::MasterKey)), "{refused:?}");
    let mut odd = config(folder.path());
    odd.token_ttl = std::time::Duration::ZERO;
    assert!(matches!(start(odd).await, Err(StartError::Config(_))));
    let running = start(config(folder.path())).await.expect("the right one opens it");
    assert!(running.shutdown(PATIENCE).await);
}
