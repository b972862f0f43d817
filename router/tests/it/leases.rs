//! Lives of nodes: leases, streams that break, other boots.

use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, OK, STALE, WRITTEN, Wire, announcement, bind};
use crate::kit::{Client, House, LEASE, by, eventually, to_one, within};
use hawser_proto::rpc::node::DeliveryReport;
use hawser_proto::rpc::push::{Outcome, PresenceRequest, PresenceState};
use std::time::{Duration, Instant};
use tonic::Code;

async fn state(client: &Client, device: &str) -> PresenceState {
    let request = PresenceRequest { devices: vec![device.to_owned()] };
    let answer = client.clone().get_presence(by("demo-chat", request)).await.unwrap().into_inner();
    answer.devices[0].state()
}

async fn becomes(client: &Client, device: &str, wanted: PresenceState) {
    eventually(|| async move { (state(client, device).await == wanted).then_some(()) }).await;
}

async fn push(client: &Client, device: &str) -> Outcome {
    let answer = client.clone().unicast(by("demo-chat", to_one(device))).await;
    answer.unwrap().into_inner().outcome()
}

#[tokio::test]
async fn the_welcome_says_who_and_how_long() {
    let house = House::new().await;
    let node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    assert_eq!(node.welcome.router, "router-1");
    assert_eq!(u128::from(node.welcome.lease_ms), LEASE.as_millis());
    assert_ne!(node.welcome.router_boot, 0);
}

#[tokio::test]
async fn when_a_lease_ends_all_its_sessions_are_offline_and_it_is_cut() {
    let house = House::new().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    node.bind("b", 2, &[CHAT]).await;
    node.all_told().await;
    assert_eq!(state(&client, "a").await, PresenceState::Online);
    let bound = Instant::now();
    becomes(&client, "a", PresenceState::Offline).await;
    assert_eq!(state(&client, "b").await, PresenceState::Offline, "all at once");
    assert!(bound.elapsed() > LEASE / 2, "not before");
    assert_eq!(push(&client, "a").await, Outcome::Offline);
    while node.word().await.is_some() {}

    // The same boot comes back: what it does not tell of again stays dead.
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    assert_eq!(node.try_bind(announcement(&session, &[CHAT])).await.0, OK);
    assert_eq!(state(&client, "a").await, PresenceState::Online);
    assert_eq!(state(&client, "b").await, PresenceState::Unknown, "it may tell of it yet");
    node.all_told().await;
    becomes(&client, "b", PresenceState::Offline).await;
    assert_eq!(state(&client, "a").await, PresenceState::Online);
}

#[tokio::test]
async fn a_node_that_is_heard_keeps_its_lease() {
    let house = House::new().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let bound = Instant::now();
    while bound.elapsed() < 2 * LEASE {
        node.renew().await;
        assert_eq!(state(&client, "a").await, PresenceState::Online);
        tokio::time::sleep(LEASE / 6).await;
    }
}

#[tokio::test]
async fn another_boot_is_refused_while_the_lease_holds() {
    let house = House::new().await;
    let wire = Wire::to(house.router.internal_addr()).await;
    let node = FakeNode::connect(&wire.uri(), "node-1", 1).await;
    let refused = FakeNode::try_connect(&house.internal(), "node-1", 2).await;
    assert_eq!(refused.err().map(|status| status.code()), Some(Code::AlreadyExists));
    // It died without a word: its lease ends, then its next boot is taken.
    wire.cut();
    drop(node);
    let internal = &house.internal();
    eventually(|| async move { FakeNode::try_connect(internal, "node-1", 2).await.ok() }).await;
}

#[tokio::test]
async fn a_node_that_said_goodbye_makes_room_at_once() {
    let house = House::new().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    node.goodbye().await;
    while node.word().await.is_some() {}
    let started = Instant::now();
    let mut next = FakeNode::connect(&house.internal(), "node-1", 2).await;
    assert!(started.elapsed() < LEASE / 2);
    assert_eq!(state(&client, "a").await, PresenceState::Offline, "the boot before it has ended");
    assert_eq!(next.try_bind(bind("a", 1, 2, &[CHAT])).await.0, OK);
}

#[tokio::test]
async fn an_older_node_that_ended_its_stream_makes_room_and_may_come_back() {
    let house = House::new().await;
    let client = house.client().await;
    let mut node = FakeNode::connect_older(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    drop(node);
    becomes(&client, "a", PresenceState::Unknown).await;
    let started = Instant::now();
    let mut next = FakeNode::connect_older(&house.internal(), "node-1", 2).await;
    assert!(started.elapsed() < LEASE / 2);
    assert_eq!(state(&client, "a").await, PresenceState::Offline, "the boot before it has ended");
    assert_eq!(next.try_bind(bind("a", 1, 2, &[CHAT])).await.0, OK);
}

#[tokio::test]
async fn a_node_whose_stream_broke_without_goodbye_keeps_its_name() {
    let house = House::new().await;
    let node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    drop(node);
    let refused = FakeNode::try_connect(&house.internal(), "node-1", 2).await;
    assert_eq!(refused.err().map(|status| status.code()), Some(Code::AlreadyExists));
}

#[tokio::test]
async fn a_cut_stream_makes_presence_and_pushes_unknown_until_the_node_is_back() {
    let house = House::new().await;
    let client = house.client().await;
    let wire = Wire::to(house.router.internal_addr()).await;
    let mut node = FakeNode::connect(&wire.uri(), "node-1", 1).await;
    let kept = node.bind("kept", 1, &[CHAT]).await;
    node.bind("ended", 2, &[CHAT]).await;
    wire.cut();
    becomes(&client, "kept", PresenceState::Unknown).await;
    assert_eq!(push(&client, "kept").await, Outcome::Unknown);

    // Back within its lease: pushes flow before it has told of everything again.
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    assert_eq!(state(&client, "kept").await, PresenceState::Online);
    let (outcome, delivery) =
        within(async { tokio::join!(push(&client, "kept"), node.deliver(WRITTEN)) }).await;
    assert_eq!((outcome, delivery.targets[0].epoch), (Outcome::Written, kept.epoch));

    // What it does not tell of has ended while nobody could hear of it.
    assert_eq!(node.try_bind(announcement(&kept, &[CHAT])).await.0, OK);
    let _alive = node.keep_alive();
    assert_eq!(state(&client, "ended").await, PresenceState::Online, "it may tell of it yet");
    node.all_told().await;
    becomes(&client, "ended", PresenceState::Offline).await;
    assert_eq!(state(&client, "kept").await, PresenceState::Online);
}

#[tokio::test]
async fn a_second_control_stream_of_a_boot_takes_the_place_of_the_first() {
    let house = House::new().await;
    let client = house.client().await;
    let mut first = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = first.bind("a", 1, &[CHAT]).await;
    let mut second = FakeNode::connect(&house.internal(), "node-1", 1).await;
    while first.word().await.is_some() {}
    drop(first);
    assert_eq!(second.try_bind(announcement(&session, &[CHAT])).await.0, OK);
    // The end of the first one's streams is not the second's goodbye.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(state(&client, "a").await, PresenceState::Online);
    let (outcome, _) =
        within(async { tokio::join!(push(&client, "a"), second.deliver(WRITTEN)) }).await;
    assert_eq!(outcome, Outcome::Written);
}

#[tokio::test]
async fn a_route_whose_unbind_was_lost_goes_when_its_node_knows_no_such_session() {
    let house = House::new().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    node.bind("a", 1, &[CHAT]).await;
    let bound = Instant::now();
    let stale = async |node: &mut FakeNode| {
        let (outcome, _) = tokio::join!(push(&client, "a"), node.deliver(STALE));
        assert_eq!(outcome, Outcome::Stale);
    };
    within(stale(&mut node)).await;
    assert_eq!(state(&client, "a").await, PresenceState::Online, "its answer may be on the way");
    tokio::time::sleep_until((bound + LEASE).into()).await;
    within(stale(&mut node)).await;
    assert_eq!(state(&client, "a").await, PresenceState::Offline);
    assert_eq!(push(&client, "a").await, Outcome::Offline);
}

#[tokio::test]
async fn a_stale_push_leaves_the_session_that_took_over_meanwhile() {
    let house = House::new().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    node.bind("a", 1, &[CHAT]).await;
    tokio::time::sleep(LEASE).await;
    let moved = async {
        let delivery = node.delivery().await;
        let newer = node.try_bind(bind("a", 2, 2, &[CHAT])).await;
        assert_eq!(newer.0, OK);
        let (id, outcomes) = (delivery.id, vec![STALE]);
        node.report(DeliveryReport { id, outcomes, ..Default::default() }).await;
    };
    let (outcome, ()) = within(async { tokio::join!(push(&client, "a"), moved) }).await;
    assert_eq!(outcome, Outcome::Stale);
    assert_eq!(state(&client, "a").await, PresenceState::Online);
}
