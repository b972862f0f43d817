//! A primary under Sentinel.

use super::house::{Process, device, open, push, push_until_stored, read, until};
use crate::config::StoreConfig;
use crate::store::{Durability, Store};
use std::time::Instant;

#[tokio::test]
async fn a_failover_is_followed() {
    let Some(mut primary) = Process::start(&["--repl-diskless-sync-delay", "0"]).await else {
        return;
    };
    let mut replicas = Vec::new();
    for _ in 0..2 {
        let Some(replica) = Process::start(&["--repl-diskless-sync-delay", "0"]).await else {
            return;
        };
        replica.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]).await;
        until("it has caught up", async || replica.info("master_link_status").await == "up").await;
        replicas.push(replica);
    }
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        let Some(sentinel) = Process::sentinel("house", primary.port, 2).await else { return };
        sentinels.push(sentinel);
    }
    for sentinel in &sentinels {
        until("the sentinels know each other and the replicas", async || {
            let master = sentinel.ask(&["SENTINEL", "MASTER", "house"]).await;
            let after = |name: &str| {
                master.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned)
            };
            after("num-other-sentinels").as_deref() == Some("2")
                && after("num-slaves").as_deref() == Some("2")
        })
        .await;
    }
    let config = StoreConfig::RedisSentinel {
        sentinels: sentinels.iter().map(Process::address).collect(),
        master: "house".to_owned(),
        username: None,
        password: None,
        database: 0,
    };
    let store = open(&config).await;
    let device = device("a");
    let (before, reached) =
        push(&store, &device, "before", Some(Durability::Replica)).await.unwrap();
    assert_eq!(reached, Durability::Replica);
    let changes = *store.changes().borrow();
    primary.kill();
    // One sentinel less is enough, too.
    sentinels[0].kill();
    let began = Instant::now();
    let after = push_until_stored(&store, &device, "after").await;
    eprintln!("stored again after {:?}", began.elapsed());
    assert!(after.term > before.term);
    let ids: Vec<_> = read(&store, &device).await.into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids, ["before", "after"]);
    assert!(*store.changes().borrow() > changes);
    // The old primary comes back, is made a replica, and nobody writes to it.
    primary.begin().await;
    until("it follows", async || primary.info("role").await == "slave").await;
    push(&store, &device, "later", None).await.unwrap();
}
