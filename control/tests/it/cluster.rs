//! Nodes and routers of a cluster: what control tells them of each other, drains, and devices in their turn.

use crate::harness::{ADMIN, Server, config, node};
use hawser_proto::rpc::control as wire;
use serde_json::{Value, json};
use std::time::Duration;

fn of(server: &Value, name: &str) -> Value {
    let items = server["items"].as_array().unwrap();
    items
        .iter()
        .find(|it| it["node"] == name)
        .unwrap_or_else(|| panic!("{name}: {items:?}"))
        .clone()
}

async fn report(server: &Server, report: wire::NodeReport) -> wire::ReportResponse {
    server.rpc().report(report).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_drain_is_ordered_followed_and_taken_back() {
    let server = Server::start().await;
    let drain = "/v1/nodes/a1/drain";
    server.post(drain, json!({})).await.refused("not_found");
    assert_eq!(report(&server, node("a1")).await.drain, None);
    for bad in [json!({"per_second": 0}), json!({"per_second": 100_001}), json!({"rate": 1})] {
        server.post(drain, bad).await.refused("invalid_argument");
    }
    server.post("/v1/nodes/Not%20A%20Name/drain", json!({})).await.refused("invalid_argument");
    let ordered = server.call("POST", drain, ADMIN, None).await.expect(202);
    assert_eq!((&ordered["node"], &ordered["per_second"]), (&json!("a1"), &json!(500)));
    assert_eq!((&ordered["boot"], &ordered["fresh"]), (&json!("0000000000000abc"), &json!(true)));
    let shown = of(&server.get("/v1/nodes").await.expect(200), "a1");
    assert_eq!(shown["drain"]["followed"], false);

    let answer = report(&server, node("a1")).await;
    let first = answer.drain.unwrap();
    assert_eq!((json!(first.id), first.sessions_per_second), (ordered["order"].clone(), 500));
    assert_eq!(answer.next_report_ms, 1_000, "whoever waits looks on");
    let under_way = wire::NodeReport {
        draining: true,
        drain_order: first.id,
        drain_sessions: 25,
        drain_told: 10,
        ..node("a1")
    };
    report(&server, under_way.clone()).await;
    let shown = of(&server.get("/v1/nodes").await.expect(200), "a1");
    let wanted = json!({
        "order": first.id, "per_second": 500, "followed": true, "sessions": 25, "told": 10
    });
    assert_eq!((&shown["draining"], &shown["drain"]), (&json!(true), &wanted));

    // Another rate is another order.
    server.post(drain, json!({"per_second": 7})).await.expect(202);
    let second = report(&server, under_way).await.drain.unwrap();
    assert!(second.id > first.id);
    assert_eq!(second.sessions_per_second, 7);

    server.delete(drain).await.expect(204);
    assert_eq!(report(&server, node("a1")).await.drain, None);
    server.delete(drain).await.refused("not_found");
    let shown = of(&server.get("/v1/nodes").await.expect(200), "a1");
    assert!(shown.get("drain").is_none(), "{shown}");

    let audit = server.get("/v1/audit?page_size=3").await.expect(200);
    let seen: Vec<_> = audit["items"].as_array().unwrap().iter().map(|it| &it["action"]).collect();
    assert_eq!(seen, ["node.undrain", "node.drain", "node.drain"]);
    server.app("demo").await;
    let key = server.post("/v1/apps/demo/owner-keys", json!({})).await.expect(201)["key"].clone();
    let owner = server.call("POST", drain, key.as_str().unwrap(), None).await;
    owner.refused("permission_denied");
    server.stop().await;
}

#[tokio::test]
async fn an_order_outlives_control_and_is_not_meant_for_the_next_process_of_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_on(config(folder.path())).await;
    report(&server, node("a1")).await;
    server.post("/v1/nodes/a1/drain", json!({"per_second": 9})).await.expect(202);
    server.stop().await;

    let mut config = config(folder.path());
    config.sweep_interval = Duration::from_millis(20);
    let server = Server::start_on(config).await;
    let order = report(&server, node("a1")).await.drain.expect("it was kept");
    assert_eq!(order.sessions_per_second, 9);
    let next = wire::NodeReport { boot: 0xdef, ..node("a1") };
    assert_eq!(report(&server, next.clone()).await.drain, None);
    // The sweep forgets it, so that it is not there for a process that happens to have the old number.
    crate::harness::eventually("the order is forgotten", || async {
        let deleted = server.delete("/v1/nodes/a1/drain").await;
        (deleted.status == 404).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn an_order_to_a_node_that_is_silent_says_so() {
    let server = Server::start_with(|config| {
        config.node_freshness = Duration::from_millis(2);
        config.node_report_interval = Duration::from_millis(1);
    })
    .await;
    report(&server, node("a1")).await;
    crate::harness::eventually("it has grown old", || async {
        let shown = of(&server.get("/v1/nodes").await.expect(200), "a1");
        (shown["fresh"] == false).then_some(())
    })
    .await;
    let ordered = server.post("/v1/nodes/a1/drain", json!({})).await.expect(202);
    assert_eq!(ordered["fresh"], false);
    server.stop().await;
}

#[tokio::test]
async fn a_node_hears_where_its_devices_can_go_and_how_fast() {
    let server = Server::start().await;
    let at = |name: &str, host: &str| {
        let mut report = wire::NodeReport { accepts_per_second_max: 10, ..node(name) };
        report.access_points.iter_mut().for_each(|point| point.host = host.into());
        report
    };
    let alone = report(&server, at("a1", "10.0.0.1")).await;
    assert_eq!((alone.reconnect_window_ms, alone.alternatives.len()), (15_000, 0), "the default");
    report(&server, at("a2", "10.0.0.2")).await;
    let two = report(&server, at("a1", "10.0.0.1")).await;
    assert_eq!(two.reconnect_window_ms, 3_750, "1.5 x 25 / 10");
    assert!(two.alternatives.iter().all(|point| point.host == "10.0.0.2"));
    let protocols: Vec<_> = two.alternatives.iter().map(|it| it.protocol.as_str()).collect();
    assert_eq!(protocols, ["tls", "quic", "wss", "tcp", "ws"]);
    let leaving = wire::NodeReport { draining: true, ..at("a2", "10.0.0.2") };
    report(&server, leaving).await;
    let alone = report(&server, at("a1", "10.0.0.1")).await;
    assert_eq!((alone.reconnect_window_ms, alone.alternatives.len()), (15_000, 0));
    server.stop().await;
}

#[tokio::test]
async fn devices_are_told_to_start_in_their_turn_and_hot_nodes_come_last() {
    let server = Server::start().await;
    server.app("demo").await;
    report(&server, wire::NodeReport { accepts_per_second_max: 10, ..node("a1") }).await;
    let mut waits = Vec::new();
    for n in 0..30 {
        let access = server.open_access("demo", &format!("d{n}")).await;
        waits.push(access["start_after_ms"].as_u64().unwrap());
    }
    assert!(waits[..10].iter().all(|wait| *wait == 0), "what the nodes take at once: {waits:?}");
    assert!(waits[29] > 500, "{waits:?}");
    let text = prometheus::TextEncoder::new().encode_to_string(&server.registry.gather()).unwrap();
    assert!(!text.contains("hawser_control_starts_delayed_total 0"), "counted");

    report(&server, wire::NodeReport { refused: 5, ..node("a1") }).await;
    report(&server, node("a2")).await;
    for n in 0..20 {
        let access = server.open_access("demo", &format!("d{n}")).await;
        let points = access["access_points"].as_array().unwrap();
        assert_eq!((&points[0]["node"], &points[1]["node"]), (&json!("a2"), &json!("a1")));
    }
    let shown = of(&server.get("/v1/nodes").await.expect(200), "a1");
    assert_eq!((&shown["hot"], &shown["refused"]), (&json!(true), &json!(5)));
    server.stop().await;
}

#[tokio::test]
async fn routers_are_listed_by_what_they_serve() {
    let server = Server::start().await;
    let router = |name: &str, functions| wire::RouterReport {
        router: name.into(),
        boot: 7,
        functions,
        push: format!("http://{name}:9090"),
        routes: 3,
        nodes: 2,
        draining: false,
    };
    for report in [router("all", 0), router("logins", 1), router("push", 2)] {
        let answer = server.rpc().report_router(report).await.unwrap().into_inner();
        assert_eq!(answer.next_report_ms, 3_000);
    }
    let leaving = wire::RouterReport { draining: true, ..router("leaving", 2) };
    server.rpc().report_router(leaving).await.unwrap();
    let names = |answer: Value| -> Vec<_> {
        let items = answer["items"].as_array().unwrap().iter();
        items.map(|it| it["router"].as_str().unwrap().to_owned()).collect()
    };
    let all = server.get("/v1/routers").await.expect(200);
    let boot = all["items"][0]["boot"].as_str().unwrap();
    assert_eq!((boot, &all["items"][0]["routes"]), ("0000000000000007", &json!(3)));
    assert_eq!(all["items"][0]["functions"], json!(["logins", "push", "inbox"]));
    assert_eq!(names(all), ["all", "leaving", "logins", "push"]);
    let push = server.get("/v1/routers?function=push").await.expect(200);
    assert_eq!(names(push), ["all", "push"], "and not the one that leaves");
    let inbox = server.get("/v1/routers?function=inbox").await.expect(200);
    assert_eq!(names(inbox), ["all"]);
    server.get("/v1/routers?function=coffee").await.refused("invalid_argument");

    // A backend finds routers with the key it has, and sees nothing of the others' load.
    server.app("demo").await;
    server.post("/v1/apps/demo/businesses", json!({"business": "chat"})).await.expect(201);
    let path = "/v1/apps/demo/businesses/chat/keys";
    let made = server.post(path, json!({})).await.expect(201);
    let key = made["key"].as_str().unwrap();
    let seen = server.call("GET", "/v1/routers?function=push", key, None).await.expect(200);
    assert_eq!(seen["items"][1]["push"], "http://push:9090");
    assert!(seen["items"][1].get("routes").is_none() && seen["items"][1].get("boot").is_none());
    server.call("GET", "/v1/nodes", key, None).await.refused("unauthenticated");
    server.delete(&format!("{path}/{}", made["key_id"].as_str().unwrap())).await.expect(204);
    server.call("GET", "/v1/routers", key, None).await.refused("unauthenticated");
    server.call("GET", "/v1/routers", "hbk_nonsense", None).await.refused("unauthenticated");
    server.call("GET", "/v1/routers", "", None).await.refused("unauthenticated");
    server.stop().await;
}

#[tokio::test]
async fn a_business_asks_for_connection_events_and_changes_its_mind() {
    let server = Server::start().await;
    server.app("demo").await;
    let all = "/v1/apps/demo/businesses";
    let chat = server.post(all, json!({"business": "chat"})).await.expect(201);
    assert_eq!(chat["connection_events"], false);
    let asked = json!({"business": "news", "connection_events": true});
    assert_eq!(server.post(all, asked).await.expect(201)["connection_events"], true);
    let patch = |value: bool| {
        let body = Some(json!({"connection_events": value}));
        server.call("PATCH", "/v1/apps/demo/businesses/chat", ADMIN, body)
    };
    assert_eq!(patch(true).await.expect(200)["connection_events"], true);
    let watched = |server: &Server| {
        let mut rpc = server.rpc();
        async move {
            let watcher = wire::WatchRequest { role: "router".into(), node: "r".into() };
            let mut updates = rpc.watch(watcher).await.unwrap().into_inner();
            let first = updates.message().await.unwrap().unwrap();
            let Some(wire::update::What::Snapshot(all)) = first.what else { panic!("a snapshot") };
            let events =
                all.businesses.iter().map(|it| (it.business.clone(), it.connection_events));
            let mut events: Vec<_> = events.collect();
            events.sort();
            events
        }
    };
    assert_eq!(watched(&server).await, [("chat".into(), true), ("news".into(), true)]);
    assert_eq!(patch(false).await.expect(200)["connection_events"], false);
    assert_eq!(watched(&server).await, [("chat".into(), false), ("news".into(), true)]);
    server.stop().await;
}
