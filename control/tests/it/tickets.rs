//! The keys of resume tickets: made, rotated, kept sealed, and told to access nodes alone.

use crate::harness::{Server, config};
use hawser_proto::catalogue::Catalogue;
use hawser_proto::limits::{CLOCK_LEEWAY, RESUME_TICKET_LIFE};
use hawser_proto::rpc::control as wire;
use hawser_proto::rpc::control::update::What;
use serde_json::json;
use tonic::Streaming;

async fn watch(server: &Server, role: &str) -> (Streaming<wire::Update>, Catalogue, usize) {
    let request = wire::WatchRequest { role: role.into(), node: "n".into() };
    let mut updates = server.rpc().watch(request).await.unwrap().into_inner();
    let first = updates.message().await.unwrap().unwrap();
    let Some(What::Snapshot(all)) = &first.what else { panic!("a snapshot comes first") };
    let count = all.ticket_keys.len();
    (updates, Catalogue::default().apply(first), count)
}

#[tokio::test]
async fn access_nodes_get_ticket_keys_and_nobody_else_does() {
    let server = Server::start().await;
    let (mut to_access, mut access, count) = watch(&server, "access").await;
    assert_eq!(count, 1, "the first one is made at start");
    let first = access.ticket_key(u64::MAX / 4).unwrap().clone();
    assert_eq!(first.key.len(), 32);
    assert_ne!(first.kid, 0);
    for role in ["router", "", "Access"] {
        assert_eq!(watch(&server, role).await.2, 0, "{role}");
    }

    let (mut to_router, _, _) = watch(&server, "router").await;
    let path = "/v1/ticket-keys/rotate";
    let made = server.post(path, json!({})).await.expect(201);
    assert!(made.get("key").is_none(), "it is never shown");
    // The new key, and the old one with its end.
    for _ in 0..2 {
        access = access.apply(to_access.message().await.unwrap().unwrap());
        let seen = to_router.message().await.unwrap().unwrap();
        assert_eq!(seen.what, None, "only the number of the change");
        assert_eq!(seen.revision, access.revision);
    }
    let now = made["active_from_ms"].as_u64().unwrap();
    let second = access.ticket_key(now).unwrap();
    assert_eq!(json!(second.kid), made["kid"]);
    assert_ne!(second.key, first.key);
    // As long as a ticket lives, and as clocks may differ.
    let over = now + (RESUME_TICKET_LIFE + CLOCK_LEEWAY).as_millis() as u64;
    assert!(access.ticket_key_of(first.kid, over - 1).is_some());
    assert!(access.ticket_key_of(first.kid, over).is_none());

    let only = server.post(path, json!({"at_once": true})).await.expect(201);
    let (_, fresh, count) = watch(&server, "access").await;
    assert_eq!(count, 1, "those of before are gone");
    assert!(fresh.ticket_key_of(only["kid"].as_u64().unwrap() as u32, now).is_some());
    for _ in 0..3 {
        access = access.apply(to_access.message().await.unwrap().unwrap());
    }
    assert!(access.ticket_key_of(first.kid, now).is_none(), "whoever watches drops them too");
    server.post(path, json!({"at_twice": true})).await.refused("invalid_argument");
    let audit = server.get("/v1/audit?page_size=3").await.expect(200);
    let seen: Vec<_> = audit["items"].as_array().unwrap().iter().map(|it| &it["action"]).collect();
    assert_eq!(seen, ["ticket-key.start-over", "ticket-key.rotate", "ticket-key.create"]);
    drop((to_access, to_router));
    server.stop().await;
}

#[tokio::test]
async fn ticket_keys_are_sealed_on_disk_and_the_same_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_on(config(folder.path())).await;
    let (_, before, _) = watch(&server, "access").await;
    let before = before.ticket_key(u64::MAX / 4).unwrap().clone();
    server.stop().await;
    let mut files = vec![folder.path().to_owned()];
    let mut read = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|it| it.unwrap().path()));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        read += bytes.len();
        assert!(!bytes.windows(32).any(|window| window == before.key), "{}", path.display());
    }
    assert!(read > 100, "there was something to look at");

    let server = Server::start_on(config(folder.path())).await;
    let (_, after, count) = watch(&server, "access").await;
    assert_eq!((count, after.ticket_key(u64::MAX / 4)), (1, Some(&before)));
    server.stop().await;

    let mut without = config(folder.path());
    without.resume_tickets = false;
    let server = Server::start_on(without).await;
    assert_eq!(watch(&server, "access").await.2, 0, "switched off, none is left");
    server.post("/v1/ticket-keys/rotate", json!({})).await.refused("disabled");
    server.stop().await;
}
