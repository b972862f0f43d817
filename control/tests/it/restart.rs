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
    let inbox = json!({"entries_max": 7, "overflow": "drop_oldest"});
    let chat = json!({"business": "chat", "endpoints": ["http://127.0.0.1:1"], "inbox": inbox});
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

/// Copies a folder while it is in use: what a `kill -9` at this moment would leave.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The journal files of a folder.
fn journals(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|it| it == "jnl")).collect()
}

#[tokio::test]
async fn a_process_that_was_killed_lost_nothing_it_had_answered() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_on(config(&folder.path().join("live"))).await;
    for n in 0..20 {
        server.app(&format!("app-{n}")).await;
        if [0, 19].contains(&n) {
            let copied = folder.path().join(format!("copy-{n}"));
            copy(&folder.path().join("live"), &copied);
        }
    }
    server.stop().await;
    for n in [0, 19] {
        let server = Server::start_on(config(&folder.path().join(format!("copy-{n}")))).await;
        let apps = server.get("/v1/apps").await.expect(200);
        assert_eq!(apps["items"].as_array().unwrap().len(), n + 1);
        server.post("/v1/apps", json!({"app": "after"})).await.expect(201);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_torn_tail_opens_by_itself_with_all_but_the_torn_change() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    let server = Server::start_on(config(&live)).await;
    server.app("kept").await;
    let journal = journals(&live).pop().expect("there is a journal");
    let whole = |path: &std::path::Path| {
        // Journals are allocated ahead: their end is where the last non-zero byte is.
        let bytes = std::fs::read(path).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1) as u64
    };
    let before = whole(&journal);
    server.app("torn").await;
    let after = whole(&journal);
    assert!(after > before + 10);
    for (n, cut) in [(after - before) / 2, after - before - 1, 1].into_iter().enumerate() {
        let copied = folder.path().join(format!("torn-{n}"));
        copy(&live, &copied);
        let file = journals(&copied).pop().unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        file.set_len(after - cut).unwrap();
        let server = Server::start_on(config(&copied)).await;
        let apps = server.get("/v1/apps").await.expect(200);
        assert_eq!(apps["items"].as_array().unwrap().len(), 1, "cut by {cut}");
        assert_eq!(apps["items"][0]["app"], "kept");
        server.app("torn").await;
        server.stop().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn silent_peers_hold_up_neither_the_end_nor_the_next_start() {
    use tokio::io::AsyncWriteExt as _;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_on(config(folder.path())).await;
    let (http, internal) = (server.running.http_addr(), server.running.internal_addr());
    let mut peers = Vec::new();
    for (address, said) in
        [(http, ""), (http, "POST /v1/ap"), (internal, ""), (internal, "PRI * HTTP/2.0")]
    {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        peers.push(stream);
    }
    // Calls over the same ports: what connected before them was accepted.
    server.app("demo").await;
    server.report_node("n1").await;
    server.stop().await;

    let server = Server::start_on(config(folder.path())).await;
    server.get("/v1/apps/demo").await.expect(200);
    drop(peers);
    server.stop().await;
}
