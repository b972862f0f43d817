//! The contract of all stores, and the model.

use super::cluster::Cluster;
use super::house::{Process, open_patiently};
use crate::store::Store;
use crate::store::contract::{Harness, run_cases, run_model};
use crate::store::redis::Redis;
use std::sync::Arc;

struct Single {
    process: Process,
    store: Arc<Redis>,
}

impl Single {
    async fn start() -> Option<Self> {
        let process = Process::start(&["--appendonly", "yes"]).await?;
        let store = Arc::new(open_patiently(&process.single()).await);
        Some(Self { process, store })
    }
}

#[tonic::async_trait]
impl Harness for Single {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn restart(&mut self) {
        self.store.close().await;
        let _ = self.process.try_ask(&["SHUTDOWN"]).await;
        self.process.kill();
        self.process.begin().await;
        self.store = Arc::new(open_patiently(&self.process.single()).await);
    }

    async fn other(&self) -> Arc<dyn Store> {
        Arc::new(open_patiently(&self.process.single()).await)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

struct Three {
    cluster: Cluster,
    store: Arc<Redis>,
}

#[tonic::async_trait]
impl Harness for Three {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// A whole cluster takes seconds to come back; its primaries are given other ids instead.
    async fn restart(&mut self) {
        self.store.close().await;
        for node in &self.cluster.nodes {
            node.ask(&["DEBUG", "CHANGE-REPL-ID"]).await;
        }
        self.store = Arc::new(open_patiently(&self.cluster.config()).await);
    }

    async fn other(&self) -> Arc<dyn Store> {
        Arc::new(open_patiently(&self.cluster.config()).await)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

impl Three {
    async fn start() -> Option<Self> {
        let cluster = Cluster::start(0).await?;
        let store = Arc::new(open_patiently(&cluster.config()).await);
        Some(Self { cluster, store })
    }
}

fn rounds(everyday: u64) -> u64 {
    if std::env::var_os("HAWSER_REDIS_ALL").is_some() { everyday * 20 } else { everyday }
}

#[tokio::test]
async fn one_server_keeps_the_contract() {
    let Some(mut single) = Single::start().await else { return };
    run_cases(&mut single).await;
}

#[tokio::test]
async fn one_server_answers_as_the_reference_does() {
    let Some(mut single) = Single::start().await else { return };
    run_model(&mut single, rounds(2), 1_000).await;
}

#[tokio::test]
async fn a_cluster_keeps_the_contract() {
    let Some(mut three) = Three::start().await else { return };
    run_cases(&mut three).await;
}

#[tokio::test]
async fn a_cluster_answers_as_the_reference_does() {
    let Some(mut three) = Three::start().await else { return };
    run_model(&mut three, rounds(2), 1_000).await;
}

#[tokio::test]
async fn all_that_expires_is_marked_to_expire() {
    let Some(single) = Single::start().await else { return };
    let device = super::house::device("a");
    super::house::push(&single.store, &device, "one", None).await.unwrap();
    super::house::read(&single.store, &device).await;
    let mut keys = String::new();
    let boots = "n:{n}:boots";
    super::house::until("the boot is told of, behind the claim", async || {
        keys = single.process.ask(&["KEYS", "*"]).await;
        keys.lines().any(|key| key == boots)
    })
    .await;
    assert_eq!(keys.lines().count(), 6, "route, inboxes, entries, push id, session, boots: {keys}");
    // Boots are forgotten when they are found to be dead.
    for key in keys.lines().filter(|key| *key != boots) {
        let left: i64 = single.process.ask(&["TTL", key]).await.parse().unwrap();
        assert!(left > 0, "{key} has {left} s left");
    }
}
