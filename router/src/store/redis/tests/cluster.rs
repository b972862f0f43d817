//! Three primaries, with replicas or without.

use super::house::{
    CHAT, Process, all, device, judge, now_ms, open, push, push_until_stored, read, until,
};
use crate::config::StoreConfig;
use crate::inbox::{Login, Owner};
use crate::key::Key;
use crate::store::Store;
use crate::store::redis::keys::{Lone, Tag, nodes_slot};
use crate::store::{GroupChange, GroupChanged, GroupMeta};
use hawser_chassis::secret::Secret;
use hawser_proto::id::{AppId, BootId, NodeId, SlotRef};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(super) struct Cluster {
    /// Primaries first, then their replicas, in their order.
    pub(super) nodes: Vec<Process>,
}

const RANGES: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

impl Cluster {
    /// Three primaries with this many replicas each. `None`: there is no program.
    pub(super) async fn start(replicas: usize) -> Option<Self> {
        let mut nodes = Vec::new();
        for _ in 0..3 * (1 + replicas) {
            let settings = [
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1500",
                "--cluster-require-full-coverage",
                "no",
                "--repl-diskless-sync-delay",
                "0",
                "--cluster-replica-validity-factor",
                "0",
            ];
            nodes.push(Process::start(&settings).await?);
        }
        let cluster = Self { nodes };
        for (node, (first, last)) in cluster.nodes.iter().zip(RANGES) {
            let range = [&first.to_string()[..], &last.to_string()];
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", range[0], range[1]]).await;
        }
        for (epoch, node) in cluster.nodes.iter().enumerate() {
            // Each another one, or they have to agree first.
            let epoch = (epoch + 1).to_string();
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
        }
        for node in &cluster.nodes[1..] {
            let port = cluster.nodes[0].port.to_string();
            let bus = node_bus(&cluster.nodes[0]).await;
            node.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
        let count = cluster.nodes.len();
        for node in &cluster.nodes {
            until("all nodes know each other", async || {
                let nodes = node.ask(&["CLUSTER", "NODES"]).await;
                nodes.lines().count() == count && !nodes.contains("handshake")
            })
            .await;
        }
        for (at, replica) in cluster.nodes.iter().enumerate().skip(3) {
            let primary = cluster.id(at % 3).await;
            until("it follows", async || {
                replica.try_ask(&["CLUSTER", "REPLICATE", &primary]).await.is_ok()
            })
            .await;
        }
        for node in &cluster.nodes {
            until("the cluster is well", async || {
                let state = node.ask(&["CLUSTER", "INFO"]).await;
                state.contains("cluster_state:ok") && state.contains("cluster_slots_ok:16384")
            })
            .await;
        }
        for replica in &cluster.nodes[3..] {
            until("it has caught up", async || replica.info("master_link_status").await == "up")
                .await;
        }
        Some(cluster)
    }

    pub(super) fn config(&self) -> StoreConfig {
        let nodes = self.nodes.iter().take(3);
        let url = |node: &Process| Secret::new(&format!("redis://{}", node.address()));
        StoreConfig::RedisCluster { nodes: nodes.map(url).collect() }
    }

    async fn id(&self, node: usize) -> String {
        self.nodes[node].ask(&["CLUSTER", "MYID"]).await
    }

    /// The primary of a slot, as it began.
    fn home(slot: u16) -> usize {
        RANGES.iter().position(|&(first, last)| first <= slot && slot <= last).expect("a slot")
    }

    /// Moves a slot with all that is in it.
    async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let (from_id, to_id) = (self.id(from).await, self.id(to).await);
        let slot = slot.to_string();
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        target.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        source.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
        loop {
            // Few at a time, so that calls meet a slot that is half here and half there.
            let keys = source.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "20"]).await;
            if keys.is_empty() {
                break;
            }
            let port = target.port.to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.lines());
            source.ask(&words).await;
        }
        for node in [target, source] {
            node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
        }
        for node in &self.nodes {
            let _ = node.try_ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
        }
    }
}

async fn node_bus(node: &Process) -> String {
    let nodes = node.ask(&["CLUSTER", "NODES"]).await;
    let own = nodes.lines().find(|line| line.contains("myself")).expect("itself");
    let (_, bus) = own.split_whitespace().nth(1).and_then(|at| at.split_once('@')).expect("a bus");
    bus.split(',').next().expect("a port").to_owned()
}

fn slot(device: &Key) -> u16 {
    Tag::device(device).slot()
}

#[tokio::test]
async fn slots_are_those_that_the_cluster_computes() {
    let Some(cluster) = Cluster::start(0).await else { return };
    let store = open(&cluster.config()).await;
    for id in ["a", "web-1", "odd}{id%", "{x}", "%7D", "ключ"] {
        let device = device(id);
        push(&store, &device, "one", None).await.unwrap();
        let key = String::from_utf8(Tag::device(&device).inboxes()).unwrap();
        let computed = cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", &key]).await;
        assert_eq!(computed, slot(&device).to_string(), "{id}");
        assert_eq!(read(&store, &device).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_under_load_and_nothing_is_lost() {
    let Some(cluster) = Cluster::start(0).await else { return };
    let store = Arc::new(open(&cluster.config()).await);
    let devices: Vec<Key> = (0..6).map(|n| device(&format!("mover-{n}"))).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = Vec::new();
    for device in devices.clone() {
        let (store, stop) = (store.clone(), stop.clone());
        senders.push(tokio::spawn(async move {
            let (mut stored, mut sent) = (Vec::new(), HashSet::new());
            let mut slowest = Duration::ZERO;
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("push-{n}");
                sent.insert(id.clone());
                let began = Instant::now();
                if let Ok((position, _)) = push(&store, &device, &id, None).await {
                    stored.push((position, id));
                }
                slowest = slowest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (stored, sent, slowest)
        }));
    }
    let rounds = if std::env::var_os("HAWSER_REDIS_ALL").is_some() { 2 } else { 1 };
    for _ in 0..rounds {
        for device in &devices {
            let (slot, home) = (slot(device), Cluster::home(slot(device)));
            let away = (home + 1) % 3;
            cluster.move_slot(slot, home, away).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            cluster.move_slot(slot, away, home).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for (device, sender) in devices.iter().zip(senders) {
        let (stored, sent, slowest) = sender.await.unwrap();
        let read = read(&store, device).await;
        eprintln!("{} of {} stored, slowest {slowest:?}", stored.len(), sent.len());
        judge(&read, &stored, &sent);
        assert!(!stored.is_empty());
        assert!(slowest < Duration::from_millis(800), "{slowest:?}");
    }
    assert!(*store.changes().borrow() > 0, "other primaries were seen");
}

#[tokio::test]
async fn a_slot_moves_to_a_primary_that_has_none_yet() {
    let Some(cluster) = Cluster::start(0).await else { return };
    let device = device("a");
    let (slot, from) = (slot(&device), Cluster::home(slot(&device)));
    // One of the three hands all of its slots to another, and so has none.
    let (to, other) = ((from + 1) % 3, (from + 2) % 3);
    let (first, last) = RANGES[to];
    for node in [other, to, from] {
        let mut words = vec!["CLUSTER", "DELSLOTSRANGE"];
        let (first, last) = (first.to_string(), last.to_string());
        words.extend([&first[..], &last[..]]);
        cluster.nodes[node].ask(&words).await;
        if node == other {
            words[1] = "ADDSLOTSRANGE";
            cluster.nodes[node].ask(&words).await;
        }
    }
    until("all know who has them", async || {
        let slots = cluster.nodes[from].ask(&["CLUSTER", "SLOTS"]).await;
        let empty = cluster.nodes[to].port.to_string();
        let state = cluster.nodes[from].ask(&["CLUSTER", "INFO"]).await;
        !slots.lines().any(|line| line == empty) && state.contains("cluster_slots_ok:16384")
    })
    .await;
    let store = open(&cluster.config()).await;
    push(&store, &device, "one", None).await.unwrap();
    let (from_id, to_id) = (cluster.id(from).await, cluster.id(to).await);
    let (slot, port) = (slot.to_string(), cluster.nodes[to].port.to_string());
    let source = &cluster.nodes[from];
    cluster.nodes[to].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
    source.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
    let keys = source.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "20"]).await;
    let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
    words.extend(keys.lines());
    source.ask(&words).await;
    // The slot is not handed over yet, and all that is in it is there.
    let described = store.describe(&device, CHAT).await.unwrap();
    assert_eq!(described.entries, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_dies_and_its_replica_takes_over() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let store = open(&cluster.config()).await;
    let device = device("a");
    let home = Cluster::home(slot(&device));
    let (before, reached) =
        push(&store, &device, "before", Some(crate::store::Durability::Replica)).await.unwrap();
    assert_eq!(reached, crate::store::Durability::Replica);
    let seen = *store.changes().borrow();
    cluster.nodes[home].kill();
    let began = Instant::now();
    let after = push_until_stored(&store, &device, "after").await;
    eprintln!("stored again after {:?}", began.elapsed());
    assert!(after.term > before.term, "{after} begins a term after {before}");
    let ids: Vec<_> = read(&store, &device).await.into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids, ["before", "after"]);
    assert!(*store.changes().borrow() > seen);
    // The other primaries' devices were served all along; and the dead one comes back as a replica.
    cluster.nodes[home].begin().await;
    until("it follows now", async || cluster.nodes[home].info("role").await == "slave").await;
    push(&store, &device, "later", None).await.unwrap();
}

#[tokio::test]
async fn while_one_primary_is_away_groups_and_sessions_of_the_others_are_changed() {
    if !all() {
        return;
    }
    let Some(cluster) = Cluster::start(0).await else { return };
    let store = open(&cluster.config()).await;
    // Not the one that has what belongs to all groups, or to all nodes.
    let common = [Lone::owners().slot, Lone::group_log().slot, nodes_slot()].map(Cluster::home);
    let Some(away) = (0..3).find(|home| !common.contains(home)) else { panic!("{common:?}") };
    let app = AppId::new("demo").unwrap();
    let is_away = |tag: &Tag| Cluster::home(tag.slot()) == away;
    let owner = (1..1_000).find(|&owner| !is_away(&Tag::owner("demo", owner))).unwrap();
    let meta = GroupMeta { owner, created_ms: now_ms(), history: None };
    let groups: Vec<Key> = (0..12).map(|n| Key::group(&app, &format!("g-{n}")).unwrap()).collect();
    let devices: Vec<Key> = (0..12).map(|n| device(&format!("d-{n}"))).collect();
    let node = NodeId::new("node-1").unwrap();
    for (slot, device) in devices.iter().enumerate() {
        let at = SlotRef { slot: slot as u32, generation: 1 };
        let owner = Owner { node: node.clone(), boot: BootId(7), at };
        let login = Login { owner, instance: [1; 16], attempt: 1, watchers: Vec::new() };
        store.claim(device, login, vec![], now_ms()).await.unwrap();
    }
    cluster.nodes[away].signal("STOP");
    let put = |key: &Key| GroupChange::Put(*key, meta.clone(), None);
    let done = store.change_groups(groups.iter().map(put).collect()).await.unwrap();
    for (key, done) in groups.iter().zip(&done) {
        assert_eq!(*done == GroupChanged::Made, !is_away(&Tag::group(key)), "{done:?}");
    }
    let known: HashSet<_> =
        store.sessions_of(&node, BootId(7), 99).await.unwrap().into_iter().collect();
    for device in &devices {
        let is_there = known.contains(device.as_bytes());
        assert_eq!(is_there, Cluster::home(slot(device)) != away, "{device:?}");
    }
    cluster.nodes[away].signal("CONT");
}

#[tokio::test]
async fn while_one_primary_is_away_the_others_serve() {
    if !all() {
        return;
    }
    let Some(cluster) = Cluster::start(0).await else { return };
    let store = open(&cluster.config()).await;
    let devices: Vec<Key> = (0..12).map(|n| device(&format!("d-{n}"))).collect();
    cluster.nodes[0].signal("STOP");
    tokio::time::sleep(Duration::from_secs(3)).await;
    for one in &devices {
        let began = Instant::now();
        let done = push(&store, one, "x", None).await;
        assert!(began.elapsed() < Duration::from_millis(700));
        assert_eq!(done.is_ok(), Cluster::home(slot(one)) != 0, "{done:?}");
    }
    cluster.nodes[0].signal("CONT");
    for one in &devices {
        push_until_stored(&store, one, "y").await;
    }
}
