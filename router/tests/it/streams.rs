//! The streaming form of a batch: pipelined, in order, and not ended by a bad message.

use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, STALE, WRITTEN};
use crate::kit::{House, PATIENCE, by, code, say, to_many, within};
use hawser_proto::code::ErrorCode;
use hawser_proto::rpc::push::{BatchUnicastRequest, Class, Message, Outcome, StoreOptions};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

fn tagged(tag: u64, devices: &[&str]) -> BatchUnicastRequest {
    BatchUnicastRequest { tag, ..to_many(devices) }
}

#[tokio::test]
async fn many_messages_are_in_flight_and_answered_in_order() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let requests: Vec<_> = (1..=5).map(|tag| tagged(tag, &["a", "nobody"])).collect();
    let call = client.stream_unicast(by("demo-chat", tokio_stream::iter(requests)));
    let mut answers = within(call).await.unwrap().into_inner();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(node.delivery().await.id);
    }
    // All five are here before one is answered; now the last comes first.
    for (n, id) in ids.into_iter().enumerate().rev() {
        let outcomes = vec![if n == 2 { STALE } else { WRITTEN }];
        let report = hawser_proto::rpc::node::DeliveryReport { id, outcomes, ..Default::default() };
        node.report(report).await;
    }
    for tag in 1..=5 {
        let answer = within(answers.next()).await.expect("an answer each").unwrap();
        let first = if tag == 3 { Outcome::Stale } else { Outcome::Written };
        assert_eq!((answer.tag, answer.error), (tag, 0));
        assert_eq!(answer.outcomes().collect::<Vec<_>>(), [first, Outcome::Offline]);
    }
    assert!(within(answers.next()).await.is_none(), "and then the end");
}

#[tokio::test]
async fn a_bad_message_is_answered_and_the_stream_goes_on() {
    let house = House::new().await;
    let mut client = house.client().await;
    let big = Message { body: vec![0; 70_000].into(), ..Default::default() };
    let stored = Class::Stored.into();
    let bad_options = Some(StoreOptions { wait_ack_ms: 15_001, ..StoreOptions::default() });
    let requests = vec![
        tagged(1, &["a"]),
        BatchUnicastRequest { message: Some(big), ..tagged(2, &["a"]) },
        BatchUnicastRequest { class: stored, store: bad_options, ..tagged(3, &["a"]) },
        tagged(4, &["bad\nid"]),
        BatchUnicastRequest { message: None, ..tagged(5, &["a"]) },
        tagged(6, &["a"]),
    ];
    let call = client.stream_unicast(by("demo-chat", tokio_stream::iter(requests)));
    let answers = within(call).await.unwrap().into_inner();
    let answers: Vec<_> =
        within(answers.map(|answer| answer.expect("the stream goes on")).collect()).await;
    let errors: Vec<_> = answers.iter().map(|answer| (answer.tag, answer.error)).collect();
    let (large, invalid) = (ErrorCode::TooLarge.number(), ErrorCode::InvalidArgument.number());
    assert_eq!(errors, [(1, 0), (2, large), (3, invalid), (4, invalid), (5, invalid), (6, 0)]);
    assert!(answers.iter().all(|answer| (answer.error == 0) == answer.error_message.is_empty()));
}

#[tokio::test]
async fn a_message_above_four_mebibytes_ends_the_stream_with_its_code() {
    let house = House::new().await;
    let mut client = house.client().await;
    let huge = Message { body: vec![0; 5 << 20].into(), ..Default::default() };
    let request = BatchUnicastRequest { message: Some(huge), ..tagged(1, &["a"]) };
    let call = client.stream_unicast(by("demo-chat", tokio_stream::iter([request])));
    let mut answers = within(call).await.unwrap().into_inner();
    assert_eq!(code(within(answers.next()).await.expect("word of it")), "too_large");
}

#[tokio::test]
async fn a_key_that_is_taken_back_ends_the_stream() {
    let house = House::new().await;
    let mut client = house.client().await;
    let (requests, outbound) = mpsc::channel(4);
    let call = client.stream_unicast(by("demo-chat", ReceiverStream::new(outbound)));
    requests.send(tagged(1, &["a"])).await.unwrap();
    let mut answers = within(call).await.unwrap().into_inner();
    assert_eq!(within(answers.next()).await.unwrap().unwrap().tag, 1);
    house.control.change(|_| {});
    let revision = house.control.change(|all| all.keys.retain(|key| key.key_id != "demo-chat"));
    within(house.router.catalogue(revision)).await;
    requests.send(tagged(2, &["a"])).await.unwrap();
    assert_eq!(code(within(answers.next()).await.expect("word of it")), "unauthenticated");
}

#[tokio::test]
async fn an_open_stream_does_not_hold_up_a_shutdown() {
    let house = House::new().await;
    let mut client = house.client().await;
    let (requests, outbound) = mpsc::channel(4);
    let request = BatchUnicastRequest { message: say("x"), ..tagged(1, &["a"]) };
    requests.send(request).await.unwrap();
    let call = client.stream_unicast(by("demo-chat", ReceiverStream::new(outbound)));
    let mut answers = within(call).await.unwrap().into_inner();
    within(answers.next()).await.unwrap().unwrap();
    let ended = tokio::spawn(house.router.shutdown(PATIENCE));
    assert!(!matches!(within(answers.next()).await, Some(Ok(_))), "nothing more comes");
    drop((requests, answers, client));
    assert!(within(ended).await.unwrap(), "and nothing was left behind");
}
