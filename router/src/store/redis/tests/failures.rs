//! A server that is away, paused or full.

use super::house::{
    CALL, CAPS, Process, device, entry, now_ms, open, open_patiently, push, push_until_stored,
    read, until,
};
use crate::config::StoreConfig;
use crate::inbox::Limits;
use crate::key::Key;
use crate::store::redis::Redis;
use crate::store::{GroupChange, GroupChanged, GroupMeta, HistoryCaps, Store, StoreError};
use futures_util::future::join_all;
use hawser_chassis::secret::Secret;
use hawser_proto::id::{AppId, Position};
use prometheus::Registry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_paused_server_holds_no_call_beyond_its_time() {
    let Some(process) = Process::start(&["--appendonly", "yes"]).await else { return };
    let store = open(&process.single()).await;
    let device = device("a");
    push_until_stored(&store, &device, "before").await;
    process.signal("STOP");
    let pause = if std::env::var_os("HAWSER_REDIS_ALL").is_some() { 60 } else { 3 };
    let end = Instant::now() + Duration::from_secs(pause);
    let mut sent = 0;
    while Instant::now() < end {
        let calls = (0..100).map(|n| {
            let (store, device) = (&store, &device);
            async move {
                let began = Instant::now();
                let done = push(store, device, &format!("during-{sent}-{n}"), None).await;
                assert!(done.is_err(), "nobody can have stored this");
                began.elapsed()
            }
        });
        let longest = join_all(calls).await.into_iter().max().unwrap();
        assert!(longest < CALL + Duration::from_millis(200), "{longest:?}");
        sent += 1;
    }
    process.signal("CONT");
    let began = Instant::now();
    push_until_stored(&store, &device, "after").await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let ids: Vec<_> = read(&store, &device).await.into_iter().map(|(_, id)| id).collect();
    assert_eq!((ids.first(), ids.last()), (Some(&"before".into()), Some(&"after".into())));
}

#[tokio::test]
async fn more_calls_than_may_wait_are_refused_at_once() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open(&process.single()).await;
    let device = device("a");
    process.signal("STOP");
    let began = Instant::now();
    let calls = (0..3_000).map(|n| {
        let (store, device) = (&store, &device);
        async move { push(store, device, &n.to_string(), None).await }
    });
    let done = join_all(calls).await;
    let refused = done.iter().filter(|it| matches!(it, Err(StoreError::Overloaded))).count();
    assert_eq!(refused, 3_000 - 2_048);
    assert!(began.elapsed() < CALL + Duration::from_secs(1));
    process.signal("CONT");
    push_until_stored(&store, &device, "after").await;
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_found_later() {
    let Some(mut process) = Process::start(&["--appendonly", "yes"]).await else { return };
    process.kill();
    let began = Instant::now();
    let store = open(&process.single()).await;
    assert!(began.elapsed() < Duration::from_secs(2), "the start waits for nobody");
    let device = device("a");
    let refused = push(&store, &device, "one", None).await;
    assert!(matches!(refused, Err(StoreError::Unreachable)), "{refused:?}");
    process.begin().await;
    push_until_stored(&store, &device, "two").await;
    let changes = *store.changes().borrow();
    // Gone and back.
    process.kill();
    assert!(push(&store, &device, "three", None).await.is_err());
    process.begin().await;
    push_until_stored(&store, &device, "three").await;
    assert!(*store.changes().borrow() > changes);
}

#[tokio::test]
async fn every_connection_cut_costs_no_call() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open(&process.single()).await;
    let device = device("a");
    for n in 0..20 {
        let (id, words) = (n.to_string(), ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let (done, _) = tokio::join!(push(&store, &device, &id, None), process.ask(&words));
        done.unwrap();
    }
    assert_eq!(read(&store, &device).await.len(), 20, "each once");
}

#[tokio::test]
async fn a_connection_that_broke_is_no_loss() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open(&process.single()).await;
    let device = device("a");
    for n in 0..5 {
        process.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        push_until_stored(&store, &device, &n.to_string()).await;
    }
    assert_eq!(*store.changes().borrow(), 0, "it is the one that it was");
}

#[tokio::test]
async fn a_slow_server_is_no_other_one_and_is_not_connected_to_again() {
    let Some(process) = Process::start(&[]).await else { return };
    let (port, slow) = may_be_slow(process.port).await;
    let url = Secret::new(&format!("redis://127.0.0.1:{port}/0"));
    let registry = Registry::new();
    let store = Redis::open(&StoreConfig::RedisSingle { url }, CALL, &registry).await;
    let store = store.expect("it is there").expect("a place of Redis");
    let device = device("a");
    push_until_stored(&store, &device, "before").await;
    let connects = || value(&registry, "hawser_router_redis_connects_total");
    let before = connects();
    slow.store(true, Relaxed);
    // What it is takes longer to say than it is given; others are answered meanwhile.
    let end = Instant::now() + 6 * CALL;
    let pushers = (0..16).map(|pusher| {
        let (store, device) = (&store, &device);
        async move {
            let mut stored = 0;
            while Instant::now() < end {
                let id = format!("{pusher}-{stored}");
                stored += usize::from(push(store, device, &id, None).await.is_ok());
            }
            stored
        }
    });
    let stored: usize = join_all(pushers).await.into_iter().sum();
    assert!(stored > 0, "it answers");
    assert_eq!((connects(), *store.changes().borrow()), (before, 0), "{stored} stored");
    slow.store(false, Relaxed);
    push_until_stored(&store, &device, "after").await;
}

fn value(registry: &Registry, name: &str) -> f64 {
    let all = registry.gather();
    let of = all.iter().find(|family| family.name() == name).expect("a metric");
    of.get_metric()[0].get_counter().get_value()
}

/// One address in front of a server. While it is slow, answers come through at 8 KiB a second.
async fn may_be_slow(server: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = is_slow.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let slow = slow.clone();
            tokio::spawn(async move {
                let behind = TcpStream::connect(("127.0.0.1", server)).await?;
                let ((mut asks, mut hears), (mut answers, mut takes)) =
                    (client.into_split(), behind.into_split());
                let asked = tokio::io::copy(&mut asks, &mut takes);
                let answered = async {
                    let mut piece = vec![0; 409];
                    loop {
                        let read = answers.read(&mut piece).await?;
                        if read == 0 {
                            return std::io::Result::Ok(());
                        }
                        if slow.load(Relaxed) {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        hears.write_all(&piece[..read]).await?;
                    }
                };
                tokio::select! { done = asked => done.map(drop), done = answered => done }
            });
        }
    });
    (port, is_slow)
}

#[tokio::test]
async fn scripts_that_were_flushed_are_sent_again() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open(&process.single()).await;
    process.ask(&["SCRIPT", "FLUSH"]).await;
    push(&store, &device("a"), "one", None).await.unwrap();
    process.ask(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(read(&store, &device("a")).await.len(), 1);
}

#[tokio::test]
async fn memory_used_up_refuses_writes_and_lets_devices_drain() {
    let Some(process) = Process::start(&["--maxmemory", "3mb"]).await else { return };
    let store = open(&process.single()).await;
    let device = device("a");
    let body = "x".repeat(20_000);
    let mut stored = 0;
    let refused = loop {
        match push(&store, &device, &format!("{stored}-{body}"), None).await {
            Ok(_) => stored += 1,
            Err(why) => break why,
        }
        assert!(stored < 1_000, "memory is used up in the end");
    };
    assert!(matches!(refused, StoreError::ReadOnly), "{refused:?}");
    assert!(refused.is_refusal());
    // A login, a read, and an acknowledgement that frees it.
    let read = read(&store, &device).await;
    assert_eq!(read.len(), stored);
    assert_eq!(store.purge(&device, super::house::CHAT).await.unwrap(), stored as u64);
    until("there is room again", async || push(&store, &device, "small", None).await.is_ok()).await;
}

#[tokio::test]
async fn a_group_is_deleted_with_its_history_while_memory_is_used_up_and_none_is_made() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open(&process.single()).await;
    let key = |id| Key::group(&AppId::new("demo").unwrap(), id).unwrap();
    let (old, new) = (key("old"), key("new"));
    let history = Some(HistoryCaps { entries_max: 10, age_ms_max: 60_000 });
    let meta = GroupMeta { owner: 7, created_ms: now_ms(), history };
    store.change_groups(vec![GroupChange::Put(old, meta.clone(), None)]).await.unwrap();
    store.publish(&old, &meta, entry("one"), CAPS, None, now_ms()).await.unwrap();
    process.ask(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let delete = GroupChange::Delete(old, meta.clone());
    let limits = Limits { entries_max: 10, bytes_max: u32::MAX };
    let both = vec![GroupChange::Put(new, meta.clone(), None), delete];
    let done = store.change_groups(both).await.unwrap();
    assert_eq!(done, [GroupChanged::Failed(StoreError::ReadOnly), GroupChanged::Made]);
    assert_eq!(store.groups().await.unwrap(), vec![]);
    let gone = store.history(&old, &meta, Position::START, limits, now_ms()).await.unwrap();
    assert_eq!(gone.items.len(), 0);
}

/// One address in front of a server that loses the answer to what carries `word`, once, and then has the
/// server refuse writes.
async fn loses_an_answer(server: u16, word: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let is_lost = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let is_lost = is_lost.clone();
            tokio::spawn(async move {
                let mut behind = TcpStream::connect(("127.0.0.1", server)).await?;
                let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
                loop {
                    tokio::select! {
                        read = client.read(&mut asked) => {
                            let asked = &asked[..read?];
                            behind.write_all(asked).await?;
                            let has = asked.windows(word.len()).any(|it| it == word);
                            if asked.is_empty() || has && !is_lost.swap(true, Relaxed) {
                                if has {
                                    behind.read_exact(&mut answered[..1]).await?;
                                    let refuse = b"CONFIG SET min-replicas-to-write 1\r\n";
                                    let mut other =
                                        TcpStream::connect(("127.0.0.1", server)).await?;
                                    other.write_all(refuse).await?;
                                    other.read_exact(&mut answered[..5]).await?;
                                }
                                return std::io::Result::Ok(());
                            }
                        }
                        read = behind.read(&mut answered) => {
                            let answered = &answered[..read?];
                            client.write_all(answered).await?;
                            if answered.is_empty() {
                                return Ok(());
                            }
                        }
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_refusal_after_a_lost_answer_is_no_certain_refusal() {
    let Some(process) = Process::start(&[]).await else { return };
    let port = loses_an_answer(process.port, b"lost-push").await;
    let url = Secret::new(&format!("redis://127.0.0.1:{port}/0"));
    let store = open_patiently(&StoreConfig::RedisSingle { url }).await;
    let device = device("a");
    let done = push(&store, &device, "lost-push", None).await;
    assert!(done.as_ref().is_err_and(|why| !why.is_refusal()), "{done:?}");
    let later = push(&store, &device, "later", None).await;
    assert!(later.as_ref().is_err_and(StoreError::is_refusal), "{later:?}");
    assert_eq!(read_stored(&process).await, 1, "it was stored");
}

async fn read_stored(process: &Process) -> usize {
    process.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    read(&open(&process.single()).await, &device("a")).await.len()
}

#[tokio::test]
async fn a_server_that_cannot_save_takes_no_pushes() {
    let Some(process) = Process::start(&["--min-replicas-to-write", "1"]).await else { return };
    let store = open(&process.single()).await;
    let refused = push(&store, &device("a"), "one", None).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
    process.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    push(&store, &device("a"), "one", None).await.unwrap();
}
