//! The catalogue from the first app to the last.

use crate::harness::{ADMIN, Server};
use serde_json::json;

#[tokio::test]
async fn an_app_and_its_businesses_live_and_go() {
    let server = Server::start().await;
    let created = server.post("/v1/apps", json!({"app": "demo"})).await.expect(201);
    assert!(created["owner_key"].as_str().unwrap().starts_with("hok_"));
    assert!(created["client_secret"].as_str().unwrap().starts_with("hcs_"));
    assert_eq!(created["heartbeat_ms"], 25_000);
    server.post("/v1/apps", json!({"app": "demo"})).await.refused("already_exists");
    let owner = created["owner_key"].as_str().unwrap();

    let patch = json!({"heartbeat_ms": 1_000, "allowed_origins": ["https://a.example"]});
    let patched = server.call("PATCH", "/v1/apps/demo", owner, Some(patch)).await.expect(200);
    assert_eq!(patched["heartbeat_ms"], 1_000);
    assert_eq!(patched["idle_timeout_ms"], 35_000, "what is left out stays");
    assert_eq!(server.get("/v1/apps/demo").await.expect(200), patched);
    assert!(patched.get("owner_key").is_none() && patched.get("client_secret").is_none());

    let business = "/v1/apps/demo/businesses";
    let body = json!({"business": "chat", "endpoints": ["http://127.0.0.1:9000"]});
    let chat = server.call("POST", business, owner, Some(body)).await.expect(201);
    assert_eq!((chat["number"].as_u64(), &chat["slow_policy"]), (Some(1), &json!("drop_newest")));
    let feed = json!({"business": "feed", "slow_policy": "disconnect", "request_timeout_ms": 10});
    server.call("POST", business, owner, Some(feed)).await.expect(201);
    let listed = server.get(business).await.expect(200);
    assert_eq!(listed["items"][0], chat);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    let off = server
        .call("PATCH", &format!("{business}/chat"), owner, Some(json!({"enabled": false})))
        .await
        .expect(200);
    assert_eq!((&off["enabled"], &off["endpoints"]), (&json!(false), &chat["endpoints"]));
    assert_eq!(server.get(&format!("{business}/chat")).await.expect(200), off);
    server.get(&format!("{business}/nothing")).await.refused("unknown_business");

    server.delete(&format!("{business}/feed")).await.expect(204);
    server.delete(&format!("{business}/feed")).await.refused("unknown_business");
    let again = server.post(business, json!({"business": "feed"})).await.expect(201);
    assert_eq!(again["number"], 3, "numbers are not used again");

    server.delete("/v1/apps/demo").await.expect(204);
    server.get("/v1/apps/demo").await.refused("not_found");
    server.get(business).await.refused("not_found");
    server.call("GET", business, owner, None).await.refused("unauthenticated");
    server.post("/v1/apps", json!({"app": "demo"})).await.expect(201);
    assert_eq!(server.get(business).await.expect(200)["items"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn the_bounds_of_inboxes_are_set_changed_and_told() {
    let server = Server::start().await;
    server.app("demo").await;
    let businesses = "/v1/apps/demo/businesses";
    let plain = server.post(businesses, json!({"business": "plain"})).await.expect(201);
    let defaults = json!({
        "entries_max": 1_000, "bytes_max": 4_194_304, "ttl_s_max": 604_800, "overflow": "refuse",
    });
    assert_eq!(plain["inbox"], defaults);
    let body = json!({"business": "feed", "inbox": {"entries_max": 50, "overflow": "drop_oldest"}});
    let feed = server.post(businesses, body).await.expect(201);
    let wanted = json!({
        "entries_max": 50, "bytes_max": 4_194_304, "ttl_s_max": 604_800, "overflow": "drop_oldest",
    });
    assert_eq!(feed["inbox"], wanted);

    let feed = format!("{businesses}/feed");
    let patch = json!({"inbox": {"bytes_max": 10_000, "ttl_s_max": 60}});
    let patched = server.call("PATCH", &feed, ADMIN, Some(patch)).await.expect(200);
    let wanted = json!({
        "entries_max": 50, "bytes_max": 10_000, "ttl_s_max": 60, "overflow": "drop_oldest",
    });
    assert_eq!(patched["inbox"], wanted, "what is left out stays");
    let other = json!({"request_timeout_ms": 10});
    let other = server.call("PATCH", &feed, ADMIN, Some(other)).await.expect(200);
    assert_eq!(other["inbox"], wanted);
    let bad = json!({"enabled": false, "inbox": {"ttl_s_max": 0}});
    let refused = server.call("PATCH", &feed, ADMIN, Some(bad)).await;
    refused.refused("invalid_argument");
    assert_eq!(refused.body["detail"], "inbox.ttl_s_max is not between 1 and 604800");
    assert_eq!(server.get(&feed).await.expect(200), other, "a refused patch changes nothing");

    let audit = server.get("/v1/audit").await.expect(200);
    let lines = audit["items"].as_array().unwrap();
    let of_feed = lines.iter().filter(|line| line["target"] == "feed");
    let actions: Vec<_> = of_feed.map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["business.update", "business.update", "business.create"]);
    server.stop().await;
}

#[tokio::test]
async fn business_keys_are_made_listed_rotated_and_removed() {
    let server = Server::start().await;
    server.app("demo").await;
    server.post("/v1/apps/demo/businesses", json!({"business": "chat"})).await.expect(201);
    let keys = "/v1/apps/demo/businesses/chat/keys";
    let made = server.call("POST", keys, ADMIN, None).await.expect(201);
    let text = made["key"].as_str().unwrap();
    assert!(text.starts_with("hbk_") && text.len() == 47);
    assert_eq!(made["scopes"], json!(["push", "group", "presence"]));
    let body = json!({"scopes": ["admin", "push", "push"], "expires_in_s": 60});
    let short = server.post(keys, body).await.expect(201);
    assert_eq!(short["scopes"], json!(["push", "admin"]));
    let listed = server.get(keys).await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains("hbk_"));

    let rotate = format!("{keys}/{}/rotate", made["key_id"].as_str().unwrap());
    let new = server.post(&rotate, json!({"overlap_s": 5})).await.expect(201);
    assert_eq!(new["replaces"]["key_id"], made["key_id"]);
    assert!(new["replaces"]["expires_at_ms"].is_u64() && new.get("expires_at_ms").is_none());
    assert_ne!(new["key"], made["key"]);
    let now = server.post(&rotate, json!({"overlap_s": 0})).await.expect(201);
    assert_ne!(now["key_id"], new["key_id"]);
    server.post(&rotate, json!({})).await.refused("not_found");

    let path = format!("{keys}/{}", short["key_id"].as_str().unwrap());
    server.delete(&path).await.expect(204);
    server.delete(&path).await.refused("not_found");
    for body in [json!({"scopes": []}), json!({"expires_in_s": 0}), json!({"scopes": ["root"]})] {
        server.post(keys, body).await.refused("invalid_argument");
    }
    server.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = Server::start().await;
    for name in ["c", "a", "e", "b", "d"] {
        server.app(name).await;
    }
    let (mut names, mut path) = (Vec::new(), "/v1/apps?page_size=2".to_owned());
    for _ in 0..3 {
        let page = server.get(&path).await.expect(200);
        for app in page["items"].as_array().unwrap() {
            names.push(app["app"].as_str().unwrap().to_owned());
        }
        let Some(token) = page["next_page_token"].as_str() else { break };
        path = format!("/v1/apps?page_size=2&page_token={token}");
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    for query in ["page_size=0", "page_size=501", "page_size=x", "page_token=!", "page=1"] {
        server.get(&format!("/v1/apps?{query}")).await.refused("invalid_argument");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_with_its_actor() {
    let server = Server::start().await;
    let owner = server.app("demo").await;
    let body = Some(json!({"business": "chat"}));
    let key = owner["owner_key"].as_str().unwrap();
    server.call("POST", "/v1/apps/demo/businesses", key, body).await.expect(201);
    server.post("/v1/apps/demo/businesses", json!({"business": "chat"})).await.expect(409);
    let log = server.get("/v1/audit").await.expect(200);
    let line = |n: usize| {
        let entry = &log["items"][n];
        ["actor", "action", "app", "target"].map(|field| entry[field].as_str().unwrap_or("-"))
    };
    let actor = format!("owner {}", owner["owner_key_id"].as_str().unwrap());
    assert_eq!(line(0), [&actor, "business.create", "demo", "chat"]);
    assert_eq!(line(1), ["admin", "app.create", "demo", "-"]);
    assert_eq!(line(2)[..2], ["control", "ticket-key.create"]);
    assert_eq!(line(3)[..2], ["control", "signing-key.create"]);
    assert_eq!(log["items"].as_array().unwrap().len(), 4, "a refused call changed nothing");

    let first = server.get("/v1/audit?page_size=3").await.expect(200);
    let token = first["next_page_token"].as_str().unwrap();
    let rest = server.get(&format!("/v1/audit?page_token={token}")).await.expect(200);
    assert_eq!(rest["items"][0], log["items"][3]);
    assert!(rest.get("next_page_token").is_none());
    server.stop().await;
}

#[tokio::test]
async fn owner_keys_are_handed_out_by_the_operator() {
    let server = Server::start().await;
    server.app("demo").await;
    let keys = "/v1/apps/demo/owner-keys";
    let made = server.call("POST", keys, ADMIN, None).await.expect(201);
    let text = made["key"].as_str().unwrap();
    server.call("GET", "/v1/apps/demo", text, None).await.expect(200);
    assert_eq!(server.get(keys).await.expect(200)["items"].as_array().unwrap().len(), 2);
    let path = format!("{keys}/{}", made["key_id"].as_str().unwrap());
    server.delete(&path).await.expect(204);
    server.call("GET", "/v1/apps/demo", text, None).await.refused("unauthenticated");
    server.delete(&path).await.refused("not_found");
    server.stop().await;
}

#[tokio::test]
async fn metrics_move() {
    let server = Server::start().await;
    server.app("demo").await;
    server.report_node("n1").await;
    server.open_access("demo", "d").await;
    let nobody = json!({"app": "nobody", "device": "d", "proof": {"type": "open"}});
    server.access(nobody).await.refused("not_found");
    let text = prometheus::TextEncoder::new().encode_to_string(&server.registry.gather()).unwrap();
    for line in [
        r#"hawser_control_access_requests_total{outcome="ok"} 1"#,
        r#"hawser_control_access_requests_total{outcome="not_found"} 1"#,
        "hawser_control_access_seconds_count 2",
        "hawser_control_tokens_issued_total 1",
        "hawser_control_nodes 1",
        r#"hawser_control_http_requests_total{route="/v1/access",status="2xx"} 1"#,
        r#"hawser_control_http_requests_total{route="/v1/access",status="4xx"} 1"#,
        "hawser_control_store_write_seconds_count 3",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is missing in\n{text}");
    }
    server.stop().await;
}
