//! `hawser dev` and everything that can be done with it.

use crate::process::{Dev, meanwhile, on};
use hawser_sdk::{Client, Proof, Protocol};
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

async fn device(dev: &Dev, name: &str, protocol: Protocol) -> Client {
    let ca = std::fs::read(dev.at("ca")).expect("the development CA is there");
    let client = Client::builder(dev.at("control"), "demo", name)
        .proof(Proof::open())
        .business("chat")
        .root_certificate(ca)
        .protocol(protocol)
        .build()
        .expect("a client");
    timeout(PATIENCE, client.connect()).await.expect("in time").expect("connected");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_typed_in_a_terminal_reaches_a_device_and_the_rest_of_the_tour() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path();
    let dev = Dev::start(data);
    let client = device(&dev, "phone-1", Protocol::Tls).await;
    let chat = client.business("chat");
    let mut pushes = chat.pushes();

    let said =
        meanwhile(data, &["push", "unicast", "--app", "demo", "--device", "phone-1", "hello"])
            .await;
    assert_eq!((said.code, &said.json()["outcome"]), (Some(0), &json!("written")), "{}", said.err);
    let push = timeout(PATIENCE, pushes.next_push()).await.expect("in time").expect("a push");
    assert_eq!((push.body.as_ref(), push.group), (b"hello".as_slice(), None));

    let said = meanwhile(data, &["push", "unicast", "--device", "nobody", "hello"]).await;
    assert_eq!((said.code, &said.json()["outcome"]), (Some(1), &json!("offline")), "{}", said.err);

    let batch = ["push", "batch", "--device", "phone-1", "--device", "nobody", "hi"];
    let said = meanwhile(data, &batch).await;
    let wanted = json!([
        {"device": "phone-1", "outcome": "written"},
        {"device": "nobody", "outcome": "offline"},
    ]);
    assert_eq!((said.code, said.json()), (Some(1), wanted));
    let push = timeout(PATIENCE, pushes.next_push()).await.expect("in time").expect("a push");
    assert_eq!(push.body.as_ref(), b"hi");

    chat.join("lobby").await.expect("the lobby is there");
    let said = meanwhile(data, &["group", "show", "lobby"]).await;
    assert_eq!((said.code, &said.json()["members"]), (Some(0), &json!(1)), "{}", said.err);
    let said = meanwhile(data, &["push", "multicast", "--group", "lobby", "all"]).await;
    assert_eq!((said.code, &said.json()["written"]), (Some(0), &json!(1)), "{}", said.err);
    let push = timeout(PATIENCE, pushes.next_push()).await.expect("in time").expect("a push");
    assert_eq!((push.body.as_ref(), push.group.as_deref()), (b"all".as_slice(), Some("lobby")));

    let answer = chat.request("echo", "echo, please").await.expect("answered");
    assert_eq!(answer.body.as_ref(), b"echo, please");
    let answer = chat.request("say", "good morning").await.expect("answered");
    assert_eq!(answer.body.as_ref(), b"ok");
    let push = timeout(PATIENCE, pushes.next_push()).await.expect("in time").expect("a push");
    let told: serde_json::Value = serde_json::from_slice(&push.body).expect("JSON");
    assert_eq!(told, json!({"from": "phone-1", "text": "good morning"}));

    let said = meanwhile(data, &["device", "show", "phone-1"]).await;
    let told = said.json();
    assert_eq!((&told["state"], &told["transport"]), (&json!("online"), &json!("tls")));
    assert_eq!((&told["groups"], &told["businesses"]), (&json!(["lobby"]), &json!(["chat"])));
    let said = meanwhile(data, &["push", "broadcast", "everyone"]).await;
    assert_eq!((said.code, &said.json()["written"]), (Some(0), &json!(1)), "{}", said.err);
    let said = meanwhile(data, &["device", "disconnect", "phone-1", "--eject"]).await;
    assert_eq!((said.code, &said.json()["was_online"]), (Some(0), &json!(true)), "{}", said.err);
    client.close().await;
    let (code, complaints) = dev.terminate();
    assert_eq!((code, complaints.as_str()), (Some(0), ""));
}

#[test]
fn operators_find_everything_at_control() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path();
    let _dev = Dev::start(data);
    let done = |line: &[&str]| {
        let said = on(data, line);
        assert_eq!(said.code, Some(0), "{line:?}: {}", said.err);
        said.json()
    };
    let refused = |line: &[&str], code: &str| {
        let said = on(data, line);
        assert_eq!(said.code, Some(1), "{line:?}: {}{}", said.out, said.err);
        assert!(said.err.contains(code), "{line:?}: {}", said.err);
    };

    assert_eq!(done(&["app", "list"])[0]["app"], "demo");
    assert_eq!(done(&["node", "list"])[0]["node"], "dev");
    let issued = done(&["token", "issue", "--device", "d"]);
    assert!(issued["token"].as_str().is_some_and(|token| token.split('.').count() == 3));
    assert_eq!(issued["access_points"].as_array().map(Vec::len), Some(5));
    done(&["token", "revoke", "--device", "d"]);
    assert!(done(&["signing-key", "rotate"])["kid"].is_string());

    let made = done(&["app", "create", "shop", "--proof", "hmac,jwt", "--save"]);
    assert!(made["client_secret"].is_string());
    refused(&["app", "create", "shop"], "already_exists");
    refused(&["app", "show", "nope"], "not_found");
    let origin = "https://shop.example.com";
    let changed = done(&["app", "update", "shop", "--origin", origin, "--heartbeat-ms", "20000"]);
    assert_eq!(
        (&changed["allowed_origins"], &changed["heartbeat_ms"]),
        (&json!([origin]), &json!(20_000))
    );
    let secret = &done(&["app", "rotate-secret", "shop"])["client_secret"];
    assert_ne!(secret, &made["client_secret"]);
    let key = done(&["app", "owner-key", "create", "shop"]);
    assert_eq!(done(&["app", "owner-key", "list", "shop"]).as_array().map(Vec::len), Some(2));
    let owner = key["key"].as_str().expect("a key");
    assert_eq!(done(&["app", "show", "shop", "--token", owner])["app"], "shop");
    refused(&["app", "show", "demo", "--token", owner], "permission_denied");
    done(&["app", "owner-key", "delete", "shop", key["key_id"].as_str().expect("an id")]);
    refused(&["app", "show", "shop", "--token", owner], "unauthenticated");

    let endpoint = "http://127.0.0.1:1";
    let made = done(&["business", "create", "orders", "--app", "shop", "--endpoint", endpoint]);
    assert_eq!((&made["number"], &made["endpoints"]), (&json!(1), &json!([endpoint])));
    assert_eq!(done(&["business", "list", "--app", "shop"]).as_array().map(Vec::len), Some(1));
    let policy = ["--slow-policy", "drop-oldest", "--request-timeout-ms", "500"];
    let changed = done(&[&["business", "update", "orders", "--app", "shop"], &policy[..]].concat());
    assert_eq!(
        (&changed["slow_policy"], &changed["request_timeout_ms"]),
        (&json!("drop_oldest"), &json!(500))
    );
    let inbox = ["--inbox-entries", "50", "--inbox-ttl", "1h", "--inbox-overflow", "drop-oldest"];
    let changed = done(&[&["business", "update", "orders", "--app", "shop"], &inbox[..]].concat());
    let wanted = json!({
        "entries_max": 50, "bytes_max": 4_194_304, "ttl_s_max": 3_600, "overflow": "drop_oldest",
    });
    assert_eq!(changed["inbox"], wanted);
    let update = ["business", "update", "orders", "--app", "shop", "--inbox-entries", "10001"];
    refused(&update, "invalid_argument");
    let key = done(&[
        "business", "key", "create", "orders", "--app", "shop", "--scope", "push", "--save",
    ]);
    let id = key["key_id"].as_str().expect("an id");
    let rotated = done(&["business", "key", "rotate", "orders", id, "--app", "shop", "--save"]);
    assert_eq!(
        done(&["business", "key", "list", "orders", "--app", "shop"]).as_array().map(Vec::len),
        Some(2)
    );
    refused(&["group", "list", "--app", "shop"], "permission_denied");
    let id = rotated["key_id"].as_str().expect("an id");
    done(&["business", "key", "delete", "orders", id, "--app", "shop"]);
    done(&["business", "delete", "orders", "--app", "shop", "--yes"]);
    refused(&["business", "show", "orders", "--app", "shop"], "unknown_business");
    done(&["app", "delete", "shop", "--yes"]);
    refused(&["app", "show", "shop"], "not_found");

    assert_eq!(done(&["group", "create", "g1"])["group"], "g1");
    refused(&["group", "create", "g1"], "already_exists");
    assert_eq!(done(&["group", "list"]).as_array().map(Vec::len), Some(2));
    done(&["group", "delete", "g1"]);
    let presence = done(&["device", "presence", "a", "b"]);
    assert_eq!(presence[1], json!({"device": "b", "state": "offline", "epoch": 0, "since_ms": 0}));
    let joined = on(data, &["group", "join", "lobby", "--device", "a"]);
    assert_eq!((joined.code, &joined.json()[0]["result"]), (Some(1), &json!("device_offline")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_everything_again_and_devices_come_over_every_transport() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path();
    let dev = Dev::start(data);
    let before = std::fs::read_to_string(data.join("credentials.json")).expect("written");
    let before: serde_json::Value = serde_json::from_str(&before).expect("JSON");
    for name in ["credentials.json", "secrets.json", "dev.json"] {
        let mode = std::fs::metadata(data.join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(meanwhile(data, &["group", "create", "kept"]).await.code, Some(0));
    assert_eq!(dev.terminate(), (Some(0), String::new()));

    let dev = Dev::start(data);
    let after = std::fs::read_to_string(data.join("credentials.json")).expect("written");
    let after: serde_json::Value = serde_json::from_str(&after).expect("JSON");
    assert_eq!(after["apps"], before["apps"], "the same keys");
    assert_eq!(after["admin_token"], before["admin_token"]);
    let groups = meanwhile(data, &["group", "list"]).await.json();
    let names: Vec<_> = groups.as_array().expect("a list").iter().map(|it| &it["group"]).collect();
    assert_eq!(names, ["kept", "lobby"]);

    for protocol in [Protocol::Tcp, Protocol::Tls, Protocol::Quic, Protocol::Ws, Protocol::Wss] {
        let client = device(&dev, "phone-1", protocol).await;
        let chat = client.business("chat");
        let mut pushes = chat.pushes();
        let answer = chat.request("echo", "here").await.expect("answered after the restart");
        assert_eq!(answer.body.as_ref(), b"here", "{protocol:?}");
        let said = meanwhile(data, &["push", "unicast", "--device", "phone-1", "again"]).await;
        assert_eq!(said.code, Some(0), "{protocol:?}: {}{}", said.out, said.err);
        let push = timeout(PATIENCE, pushes.next_push()).await.expect("in time").expect("a push");
        assert_eq!(push.body.as_ref(), b"again");
        client.close().await;
    }
    assert_eq!(dev.terminate(), (Some(0), String::new()));
}
