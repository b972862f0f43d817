//! What must not be started on.

use super::cluster::Cluster;
use super::house::{Process, device, open, push, try_open, until};
use crate::config::StoreConfig;
use crate::store::redis::{Redis, Refusal};
use hawser_chassis::secret::Secret;
use prometheus::Registry;

#[tokio::test]
async fn a_server_that_evicts_is_refused_with_the_remedy() {
    for policy in ["allkeys-lru", "volatile-ttl", "volatile-lru"] {
        let Some(process) = Process::start(&["--maxmemory-policy", policy]).await else { return };
        let refused = try_open(&process.single()).await.err().expect("a refusal");
        let told = refused.to_string();
        for part in [policy, "maxmemory-policy noeviction", "CONFIG SET", &process.address()] {
            assert!(told.contains(part), "{told}");
        }
        process.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
        open(&process.single()).await;
    }
}

#[tokio::test]
async fn a_policy_that_turns_bad_later_is_counted_and_served() {
    let Some(process) = Process::start(&[]).await else { return };
    let registry = Registry::new();
    let store =
        Redis::open(&process.single(), super::house::CALL, &registry).await.unwrap().unwrap();
    let gauge = || {
        let families = registry.gather();
        let family = families.iter().find(|it| it.name() == "hawser_router_redis_misconfigured");
        family.map(|it| it.get_metric()[0].get_gauge().get_value() as i64)
    };
    assert_eq!(gauge(), Some(0));
    process.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    until("it is counted", async || gauge() == Some(1)).await;
    push(&store, &device("a"), "one", None).await.unwrap();
    process.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    until("it is well", async || gauge() == Some(0)).await;
}

#[tokio::test]
async fn every_primary_of_a_cluster_is_looked_at_and_kinds_are_not_mixed_up() {
    let Some(cluster) = Cluster::start(0).await else { return };
    cluster.nodes[2].ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lfu"]).await;
    let refused = try_open(&cluster.config()).await.err();
    assert!(
        matches!(&refused, Some(Refusal::Evicts { server, .. }) if *server == cluster.nodes[2].address())
    );
    let mixed = try_open(&cluster.nodes[0].single()).await.err();
    assert!(matches!(mixed, Some(Refusal::Kind { is_cluster: true, .. })), "{mixed:?}");
    let Some(alone) = Process::start(&[]).await else { return };
    let nodes = vec![Secret::new(&format!("redis://{}", alone.address()))];
    let mixed = try_open(&StoreConfig::RedisCluster { nodes }).await;
    // It cannot tell its slots: as good as unreachable, which is said in the log.
    assert!(mixed.is_ok());
}

#[tokio::test]
async fn credentials_are_shown_and_wrong_ones_leave_the_store_unreachable() {
    let Some(process) = Process::start(&["--requirepass", "open sesame"]).await else { return };
    let url = |password: &str| StoreConfig::RedisSingle {
        url: Secret::new(&format!("redis://:{password}@127.0.0.1:{}/2", process.port)),
    };
    let store = open(&url("open%20sesame")).await;
    push(&store, &device("a"), "one", None).await.unwrap();
    let store = open(&url("wrong")).await;
    assert!(push(&store, &device("a"), "two", None).await.is_err());
}
