//! What was answered to be as durable as this, is; what is lost is seen, and hides nothing.

use super::house::{Process, device, judge, open, push, push_until_stored, read, until};
use crate::store::{Durability, Store};
use std::collections::HashSet;
use std::time::Duration;

async fn replica_of(primary: &Process) -> Option<Process> {
    let replica = Process::start(&["--repl-diskless-sync-delay", "0"]).await?;
    replica.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]).await;
    until("it has caught up", async || replica.info("master_link_status").await == "up").await;
    Some(replica)
}

/// `kill -9` in the middle of pushes, again and again. `disk`: each answer was synced.
async fn killed(fsync: &str, is_synced: bool) {
    let settings = ["--appendonly", "yes", "--appendfsync", fsync];
    let Some(mut process) = Process::start(&settings).await else { return };
    let store = open(&process.single()).await;
    let device = device("a");
    let (mut stored, mut sent, mut synced) = (Vec::new(), HashSet::new(), 0);
    let rounds = if std::env::var_os("HAWSER_REDIS_ALL").is_some() { 30 } else { 3 };
    for round in 0..rounds {
        for n in 0..42 {
            let id = format!("{round}-{n}");
            sent.insert(id.clone());
            if n == 40 {
                process.kill();
            }
            if let Ok((position, reached)) = push(&store, &device, &id, None).await {
                // Less than there is may be told, by a server that is slow to say what it is.
                assert!(is_synced || reached == Durability::Memory, "{id}: {reached:?}");
                synced += usize::from(reached == Durability::Disk);
                stored.push((position, id));
            }
        }
        process.begin().await;
        let id = format!("{round}-after");
        sent.insert(id.clone());
        stored.push((push_until_stored(&store, &device, &id).await, id));
    }
    assert!(stored.is_sorted(), "no position was given twice");
    let read = read(&store, &device).await;
    eprintln!("{synced} of {} told to be synced", stored.len());
    if is_synced {
        assert!(synced > stored.len() / 2);
        judge(&read, &stored, &sent);
    } else {
        // The last second may be gone; what is there is right.
        let lost = stored.iter().filter(|one| !read.contains(one)).count();
        eprintln!("{lost} of {} lost, as may be with everysec", stored.len());
    }
    assert!(*store.changes().borrow() >= rounds);
}

#[tokio::test]
async fn what_was_synced_survives_being_killed() {
    killed("always", true).await;
}

#[tokio::test]
async fn a_log_synced_every_second_promises_memory() {
    killed("everysec", false).await;
}

#[tokio::test]
async fn a_log_that_is_not_there_yet_promises_nothing() {
    let Some(process) = Process::start(&["--appendfsync", "always"]).await else { return };
    let store = open(&process.single()).await;
    for n in 0..20 {
        push(&store, &device(&n.to_string()), "filler", None).await.unwrap();
    }
    // So that the log takes seconds to begin.
    process.ask(&["CONFIG", "SET", "rdb-key-save-delay", "50000"]).await;
    process.ask(&["CONFIG", "SET", "appendonly", "yes"]).await;
    let (device, mut sent) = (device("a"), 0);
    loop {
        let reached = push(&store, &device, &sent.to_string(), None).await.unwrap().1;
        if process.info("aof_rewrite_in_progress").await != "1" {
            break;
        }
        assert_eq!(reached, Durability::Memory, "there is no log yet");
        sent += 1;
    }
    assert!(sent > 20, "it took long enough: {sent}");
    until("the log is there", async || {
        sent += 1;
        let pushed = push(&store, &device, &sent.to_string(), None).await;
        pushed.unwrap().1 == Durability::Disk
    })
    .await;
}

#[tokio::test]
async fn a_replica_is_vouched_for_and_nothing_that_is_not_so() {
    let Some(primary) = Process::start(&[]).await else { return };
    let store = open(&primary.single()).await;
    let device = device("a");
    let want = Some(Durability::Replica);
    let reached = async |id: &str| push(&store, &device, id, want).await.unwrap().1;
    assert_eq!(reached("alone").await, Durability::Memory);
    assert_eq!(
        push(&store, &device, "x", Some(Durability::Disk)).await.unwrap().1,
        Durability::Memory
    );
    let Some(replica) = replica_of(&primary).await else { return };
    until("it is vouched for", async || reached("followed").await == Durability::Replica).await;
    // Many at a time share one wait.
    let many = futures_util::future::join_all((0..200).map(|n| {
        let (store, device) = (&store, &device);
        async move { push(store, device, &format!("many-{n}"), want).await.unwrap().1 }
    }));
    assert!(many.await.iter().all(|&reached| reached == Durability::Replica));
    replica.signal("STOP");
    assert_eq!(reached("stopped").await, Durability::Memory);
    replica.signal("CONT");
    until("it is vouched for again", async || reached("goes on").await == Durability::Replica)
        .await;
    // A repeated push is vouched for as of now.
    assert_eq!(reached("stopped").await, Durability::Replica);
}

#[tokio::test]
async fn a_lagging_replica_is_promoted_and_nothing_accepted_later_is_hidden() {
    let Some(primary) = Process::start(&[]).await else { return };
    let Some(replica) = replica_of(&primary).await else { return };
    let Some(mut front) = Front::start(primary.port).await else { return };
    let store = open(&front.config()).await;
    let device = device("a");
    let mut safe = Vec::new();
    until("a replica follows", async || {
        let id = format!("safe-{}", safe.len());
        let (position, reached) =
            push(&store, &device, &id, Some(Durability::Replica)).await.unwrap();
        safe.push((position, id));
        reached == Durability::Replica
    })
    .await;
    // The link to the replica stands still: what is stored now is on the primary alone.
    replica.ask(&["REPLICAOF", "NO", "ONE"]).await;
    replica.ask(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let mut lost = Vec::new();
    for n in 0..20 {
        let id = format!("lost-{n}");
        lost.push((push(&store, &device, &id, None).await.unwrap().0, id));
    }
    let changes = *store.changes().borrow();
    replica.ask(&["REPLICAOF", "NO", "ONE"]).await;
    front.turn_to(replica.port);
    let mut later = Vec::new();
    for n in 0..20 {
        let id = format!("later-{n}");
        later.push((push_until_stored(&store, &device, &id).await, id));
    }
    let highest = lost.last().expect("some").0;
    for (position, id) in &later {
        assert!(*position > highest, "{id} at {position} lies above {highest}");
    }
    let read = read(&store, &device).await;
    let right: Vec<_> = safe.into_iter().chain(later).collect();
    assert_eq!(read, right, "what was vouched for and what came later, and nothing else");
    assert!(*store.changes().borrow() > changes);
}

/// One address in front of servers, as a name or a virtual address is.
struct Front {
    port: u16,
    target: tokio::sync::watch::Sender<u16>,
}

impl Front {
    async fn start(target: u16) -> Option<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.ok()?;
        let port = listener.local_addr().ok()?.port();
        let target = tokio::sync::watch::Sender::new(target);
        let turned = target.subscribe();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut turned = turned.clone();
                tokio::spawn(async move {
                    let port = *turned.borrow_and_update();
                    let Ok(mut server) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await
                    else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = turned.changed() => {}
                    }
                });
            }
        });
        Some(Self { port, target })
    }

    fn config(&self) -> crate::config::StoreConfig {
        let url = format!("redis://127.0.0.1:{}/0", self.port);
        crate::config::StoreConfig::RedisSingle { url: hawser_chassis::secret::Secret::new(&url) }
    }

    fn turn_to(&mut self, port: u16) {
        self.target.send_replace(port);
    }
}

#[tokio::test]
async fn an_old_primary_that_was_demoted_is_left_at_once() {
    let Some(primary) = Process::start(&[]).await else { return };
    let Some(other) = Process::start(&[]).await else { return };
    let mut front = Front::start(primary.port).await.expect("a port");
    let store = open(&front.config()).await;
    let device = device("a");
    push(&store, &device, "one", None).await.unwrap();
    // Demoted, while the connection stays.
    primary.ask(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]).await;
    let refused = push(&store, &device, "two", None).await;
    assert!(refused.is_err_and(|why| why.is_refusal()));
    front.turn_to(other.port);
    push_until_stored(&store, &device, "three").await;
    tokio::time::sleep(Duration::from_millis(1)).await;
}
