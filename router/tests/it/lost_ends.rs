//! Ends of sessions that the store was not told of, and that another router finds.

use crate::cluster::state;
use crate::kit::business::{FakeBusiness, watch};
use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, OK, Session, announcement, bind};
use crate::kit::redis::{Cluster, Member};
use crate::kit::store::Mode;
use crate::kit::{LEASE, PATIENCE, eventually, gauge, within};
use hawser_proto::rpc::node::answer::Status as Answered;
use hawser_proto::rpc::push::PresenceState;
use hawser_router::Functions;
use prometheus::Registry;

fn counter(registry: &Registry, name: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).expect("it is registered");
    family.get_metric()[0].get_counter().get_value() as u64
}

fn ended(member: &Member) -> u64 {
    counter(&member.registry, "hawser_router_lost_ends_total")
}

/// Two routers, of which the first does logins alone: what it leaves undone is the other's.
async fn cluster() -> Option<Cluster> {
    Cluster::with(|member, config| {
        if member == 1 {
            config.functions = Functions::LOGINS;
        }
    })
    .await
}

/// One node with streams to both, and its word on both.
async fn on_both(cluster: &Cluster) -> (FakeNode, FakeNode) {
    let first = FakeNode::connect(&cluster.first.internal(), "node-1", 1).await;
    let second = FakeNode::connect(&cluster.second.internal(), "node-1", 1).await;
    (first, second)
}

async fn login(node: &mut FakeNode, device: &str, slot: u32) -> Session {
    let (status, session) = node.try_bind(bind(device, slot, 1, &[CHAT])).await;
    assert_eq!(status, OK, "{device} is bound");
    session
}

#[tokio::test]
async fn an_end_that_a_router_took_with_it_is_told_by_another_once() {
    let Some(cluster) = cluster().await else { return };
    let chat = FakeBusiness::start("chat").await;
    let routers = [&cluster.first.router, &cluster.second.router];
    watch(&cluster.control, &routers, &[("chat", &chat)]).await;
    let (mut bound, mut told) = on_both(&cluster).await;
    let _alive = (bound.keep_alive(), told.keep_alive());
    told.all_told().await;
    let left = login(&mut bound, "left", 1).await;
    told.here(&left, &[CHAT]).await;
    // Its word takes as long as any may.
    let stays = login(&mut bound, "stays", 2).await;
    tokio::time::sleep(LEASE).await;
    told.here(&stays, &[CHAT]).await;
    eventually(async || (chat.events().len() == 2).then_some(())).await;

    let Cluster { first, second, control: _control, redis: _redis } = cluster;
    first.store.set(Mode::Fails);
    bound.unbind(&left).await;
    told.gone(&left).await;
    eventually(async || {
        (gauge(&first.registry, "hawser_router_releases_waiting") == 1).then_some(())
    })
    .await;
    drop(bound);
    first.router.shutdown(PATIENCE).await;
    let lost = "hawser_router_releases_dropped_total";
    assert!(counter(&first.registry, lost) >= 1, "it took the end with it");

    let epochs = [left.epoch, stays.epoch];
    let end = "left -1 closed".to_owned();
    eventually(async || chat.said(&epochs).contains(&end).then_some(())).await;
    within(told.sweep_now()).await;
    assert_eq!(ended(&second), 1);
    let client = second.client().await;
    assert_eq!(state(&client, "left").await, PresenceState::Offline);
    // Longer than any suspect waits.
    tokio::time::sleep(4 * LEASE).await;
    assert_eq!(ended(&second), 1);
    let mut said = chat.said(&epochs);
    said.sort();
    assert_eq!(said, ["left +1", "left -1 closed", "stays +2"]);
    assert_eq!(state(&client, "stays").await, PresenceState::Online);
    assert_eq!(told.pull(&stays, CHAT, (0, 0)).await.status(), Answered::Ok);
}

#[tokio::test]
async fn a_session_that_its_node_did_not_tell_of_comes_back_above_its_end() {
    let Some(cluster) = cluster().await else { return };
    let chat = FakeBusiness::start("chat").await;
    let routers = [&cluster.first.router, &cluster.second.router];
    watch(&cluster.control, &routers, &[("chat", &chat)]).await;
    let (mut bound, mut told) = on_both(&cluster).await;
    let _alive = (bound.keep_alive(), told.keep_alive());
    let untold = login(&mut bound, "untold", 1).await;
    chat.hears(&[untold.epoch], &["untold +1"]).await;
    // Nobody is suspected before a node has told of all.
    tokio::time::sleep(4 * LEASE).await;
    assert_eq!(ended(&cluster.second), 0);
    told.all_told().await;
    within(told.sweep_now()).await;
    assert_eq!(ended(&cluster.second), 1);
    assert_eq!(told.pull(&untold, CHAT, (0, 0)).await.status(), Answered::Forgotten);
    let (status, back) = told.try_bind(announcement(&untold, &[CHAT])).await;
    assert!(status == OK && back.epoch > untold.epoch);
    let epochs = [untold.epoch, back.epoch];
    chat.hears(&epochs, &["untold +1", "untold -1 closed", "untold +2"]).await;
}
