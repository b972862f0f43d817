//! Broadcasts: everyone of the app, at a pace, with progress.

use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, bind};
use crate::kit::{House, by, say, within};
use hawser_proto::rpc::node::{Bind, DeliveryReport};
use hawser_proto::rpc::push::{BroadcastProgress, BroadcastRequest};
use tokio_stream::StreamExt as _;
use tonic::Streaming;

fn request(targets_per_second: u32) -> BroadcastRequest {
    BroadcastRequest { message: say("all hands"), targets_per_second, ..Default::default() }
}

async fn last(mut progress: Streaming<BroadcastProgress>) -> (usize, BroadcastProgress) {
    let mut count = 0;
    while let Some(word) = within(progress.next()).await {
        let word = word.expect("no error");
        count += 1;
        if word.done {
            assert!(within(progress.next()).await.is_none(), "done is the last word");
            return (count, word);
        }
    }
    panic!("it ended without being done")
}

#[tokio::test]
async fn each_node_gets_its_share_of_the_pace_and_progress_comes_until_all_are_done() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let mut two = FakeNode::connect(&house.internal(), "node-2", 2).await;
    let mut strangers = FakeNode::connect(&house.internal(), "node-3", 3).await;
    for slot in 1..=3 {
        one.bind(&format!("a{slot}"), slot, &[CHAT]).await;
    }
    two.bind("b", 1, &[CHAT]).await;
    let foreign = Bind { app: "other".into(), ..bind("z", 1, 1, &[CHAT]) };
    strangers.try_bind(foreign).await;
    let _alive = (one.keep_alive(), two.keep_alive());

    let progress = client.broadcast(by("demo-chat", request(1_000))).await.unwrap().into_inner();
    let (first, second) = (one.delivery().await, two.delivery().await);
    let pace = |delivery: &hawser_proto::rpc::node::Delivery| {
        delivery.broadcast.map(|it| it.targets_per_second)
    };
    assert_eq!((pace(&first), pace(&second)), (Some(750), Some(250)));
    assert_eq!((first.app.as_str(), first.business), ("demo", CHAT));
    let report = |id, members, done| DeliveryReport {
        id,
        members,
        written: members,
        done,
        ..Default::default()
    };
    two.report(report(second.id, 1, true)).await;
    one.report(report(first.id, 1, false)).await;
    let rest = async {
        tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
        one.report(report(first.id, 3, true)).await;
    };
    let ((count, word), ()) = tokio::join!(last(progress), rest);
    assert!(count >= 2, "there was word in between");
    assert_eq!((word.targets, word.written, word.nodes.len()), (4, 4, 2));
    assert!(word.nodes.iter().all(|node| !node.unknown));
}

#[tokio::test]
async fn a_session_that_begins_after_a_broadcast_is_told_apart_by_its_epoch() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let before = node.bind("a", 1, &[CHAT]).await;
    let _progress = client.broadcast(by("demo-chat", request(0))).await.unwrap().into_inner();
    let newest = node.delivery().await.broadcast.expect("a broadcast").newest_epoch;
    assert!(before.epoch <= newest, "it was there");
    // Epochs are times: of the millisecond of the start both may be.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let after = node.bind("b", 2, &[CHAT]).await;
    assert!(after.epoch > newest, "it came later");
}

#[tokio::test]
async fn a_node_that_falls_silent_is_given_up() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let _alive = node.keep_alive();
    let progress = client.broadcast(by("demo-chat", request(0))).await.unwrap().into_inner();
    let delivery = node.delivery().await;
    assert_eq!(delivery.broadcast.map(|it| it.targets_per_second), Some(10_000));
    let (_, word) = last(progress).await;
    assert!(word.nodes[0].unknown);
}

#[tokio::test]
async fn a_broadcast_to_nobody_is_done_at_once() {
    let house = House::new().await;
    let mut client = house.client().await;
    let progress = client.broadcast(by("demo-chat", request(0))).await.unwrap().into_inner();
    let (count, word) = last(progress).await;
    assert_eq!((count, word.targets, word.push_id.len()), (1, 0, 16));
}
