//! Stored pushes, inboxes and group histories from the terminal's side, with a device that comes and goes.

use crate::process::{Dev, meanwhile};
use hawser_sdk::{Client, FileCursors, FileStorage, Proof, Pushes};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// A device whose installation and cursors lie in `folder`; the same folder is the same device.
async fn device(dev: &Dev, folder: &Path) -> (Client, Pushes) {
    let client = Client::builder(dev.at("control"), "demo", "phone-1")
        .proof(Proof::open())
        .business("news")
        .root_certificate(std::fs::read(dev.at("ca")).expect("the development CA is there"))
        .storage(FileStorage::new(folder.join("installation.json")))
        .cursors(FileCursors::new(folder))
        .build()
        .expect("a client");
    let pushes = client.business("news").pushes();
    timeout(PATIENCE, client.connect()).await.expect("in time").expect("connected");
    (client, pushes)
}

async fn body(pushes: &mut Pushes) -> String {
    let push = timeout(PATIENCE, pushes.next_push()).await.expect("in time").expect("a push");
    assert!(!push.redelivered, "{push:?}");
    String::from_utf8(push.body.to_vec()).expect("UTF-8")
}

/// Runs a command that must succeed.
async fn done(data: &Path, line: &[&str]) -> Value {
    let said = meanwhile(data, line).await;
    assert_eq!(said.code, Some(0), "{line:?}: {}{}", said.out, said.err);
    said.json()
}

async fn until_empty(data: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let inbox = done(data, &["inbox", "describe", "phone-1", "--business", "news"]).await;
        if inbox["entries"] == 0 {
            assert_eq!(inbox["floor"], inbox["tail"]);
            return;
        }
        assert!(Instant::now() < deadline, "still there: {inbox}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_waits_arrives_once_and_survives_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path();
    let dev = Dev::start(data);
    done(data, &["business", "create", "news", "--inbox-entries", "3", "--inbox-ttl", "1d"]).await;
    done(data, &["business", "key", "create", "news", "--save"]).await;
    let push = |id: &'static str, text: &'static str| {
        let to = ["push", "unicast", "--business", "news", "--device", "phone-1", "--stored"];
        [&to as &[&str], &["--push-id", id, text]].concat()
    };

    let first = done(data, &push("n1", "one")).await;
    assert_eq!((&first["outcome"], &first["durability"]), (&json!("stored"), &json!("disk")));
    assert_eq!((&first["push_id"], &first["repeated"]), (&json!("n1"), &json!(false)));
    let again = done(data, &push("n1", "one")).await;
    assert_eq!((&again["position"], &again["repeated"]), (&first["position"], &json!(true)));
    let said = meanwhile(data, &push("n1", "another")).await;
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains("push_id_reused"), "{}", said.err);
    let inbox = done(data, &["inbox", "describe", "phone-1", "--business", "news"]).await;
    assert_eq!((&inbox["entries"], &inbox["tail"]), (&json!(1), &first["position"]));

    // As by `kill -9`.
    drop(dev);
    let dev = Dev::start(data);
    done(data, &push("n2", "two")).await;
    let cursors = folder.path().join("phone");
    std::fs::create_dir(&cursors).expect("a folder");
    let (client, mut pushes) = device(&dev, &cursors).await;
    assert_eq!([body(&mut pushes).await, body(&mut pushes).await], ["one", "two"]);
    let line = [&push("n3", "three")[..], &["--wait-ack", "15s"]].concat();
    let (acked, ()) = tokio::join!(done(data, &line), async {
        assert_eq!(body(&mut pushes).await, "three");
        // Asking for the next one says that this one was handled.
        let none = timeout(Duration::from_secs(3), pushes.next_push()).await;
        assert!(none.is_err(), "{none:?}");
    });
    assert_eq!(acked["outcome"], "acked");
    until_empty(data).await;
    client.close().await;
    drop(pushes);

    for (id, text) in [("n4", "four"), ("n5", "five"), ("n6", "six")] {
        done(data, &push(id, text)).await;
    }
    let said = meanwhile(data, &push("n7", "seven")).await;
    assert_eq!((said.code, &said.json()["outcome"]), (Some(1), &json!("overflow")), "{}", said.err);
    let late = [&push("n8", "late")[..], &["--expires-at", "2001-01-01T00:00:00Z"]].concat();
    let said = meanwhile(data, &late).await;
    assert_eq!((said.code, &said.json()["outcome"]), (Some(1), &json!("expired")), "{}", said.err);
    let (client, mut pushes) = device(&dev, &cursors).await;
    for wanted in ["four", "five", "six"] {
        assert_eq!(body(&mut pushes).await, wanted, "what was handled does not come again");
    }
    let none = timeout(Duration::from_millis(300), pushes.next_push()).await;
    assert!(none.is_err(), "{none:?}");
    until_empty(data).await;
    client.close().await;
    assert_eq!(dev.terminate(), (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_purges_and_histories_are_told_as_they_are() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path();
    let dev = Dev::start(data);

    let batch =
        ["push", "batch", "--device", "a", "--device", "b", "--stored", "--ttl", "1h", "hi"];
    let rows = done(data, &[&batch[..], &["--push-id", "x"]].concat()).await;
    for (row, device) in [(&rows[0], "a"), (&rows[1], "b")] {
        assert_eq!((&row["device"], &row["outcome"]), (&json!(device), &json!("stored")));
        assert_eq!((&row["durability"], &row["repeated"]), (&json!("disk"), &json!(false)));
        assert!(row["position"].as_str().is_some_and(|text| text.ends_with("-1")), "{row}");
    }
    let inbox = done(data, &["inbox", "describe", "a"]).await;
    assert_eq!((&inbox["entries"], &inbox["overflowed"]), (&json!(1), &json!(0)));
    assert!(inbox["bytes"].as_u64().is_some_and(|bytes| bytes > 2), "{inbox}");
    let purged = done(data, &["inbox", "purge", "a", "--yes"]).await;
    assert_eq!(purged, json!({"device": "a", "entries": 1}));
    assert_eq!(done(data, &["inbox", "describe", "a"]).await["entries"], 0);
    let nobody = done(data, &["inbox", "describe", "nobody"]).await;
    assert_eq!((&nobody["entries"], &nobody["tail"]), (&json!(0), &json!("-")));

    let create = ["group", "create", "news", "--history", "--history-entries", "2"];
    let group = done(data, &[&create[..], &["--history-age", "1h"]].concat()).await;
    assert_eq!(group["history"], json!({"entries_max": 2, "age_ms_max": 3_600_000}));
    let multicast = |id| ["push", "multicast", "--group", "news", "--push-id", id, "all"];
    let first = done(data, &multicast("m1")).await;
    assert_eq!((&first["members"], &first["repeated"]), (&json!(0), &json!(false)));
    let again = done(data, &multicast("m1")).await;
    assert_eq!((&again["position"], &again["repeated"]), (&first["position"], &json!(true)));
    for id in ["m2", "m3"] {
        done(data, &multicast(id)).await;
    }
    let group = done(data, &["group", "show", "news"]).await;
    assert_eq!(group["floor"], first["position"], "two are left");
    let live = done(data, &["group", "show", "lobby"]).await;
    assert!(live["history"].is_null() && live["tail"].is_null(), "{live}");
    assert_eq!(dev.terminate(), (Some(0), String::new()));
}
