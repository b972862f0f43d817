//! Stored pushes: kept first, then told to the node that holds the device.

use crate::kit::control::{CHAT, LIVE};
use crate::kit::node::{FakeNode, at, bind};
use crate::kit::store::id;
use crate::kit::{Client, House, by, code, say, stored, stored_as, to_many, within};
use bytes::{Bytes, BytesMut};
use hawser_proto::codec::decode;
use hawser_proto::frame::NodeFrame;
use hawser_proto::params;
use hawser_proto::rpc::node::{DeliveryReport, Place};
use hawser_proto::rpc::push::{
    BatchUnicastRequest, Class, Durability, Message, Outcome, Priority, StoreOptions, StoredResult,
    Target, UnicastRequest, UnicastResponse,
};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt as _;

pub fn push_of(frame: &Bytes) -> (params::Push, Bytes) {
    let raw = decode(&mut BytesMut::from(frame.as_ref()), 2 << 20).unwrap().expect("a frame");
    match NodeFrame::parse(raw).unwrap() {
        NodeFrame::Push(params, body) => (params, body),
        other => panic!("not a push: {other:?}"),
    }
}

pub async fn push(client: &Client, request: UnicastRequest) -> UnicastResponse {
    client.clone().unicast(by("demo-chat", request)).await.expect("it is taken").into_inner()
}

pub fn place(stored: Option<StoredResult>) -> (u64, u64) {
    let stored = stored.expect("it says where");
    (stored.term, stored.seq)
}

#[tokio::test]
async fn a_push_to_a_device_that_is_away_is_told_of_at_its_login() {
    let house = House::new().await;
    let client = house.client().await;
    let answer = push(&client, stored("a", "one")).await;
    assert_eq!(answer.outcome(), Outcome::Stored);
    let result = answer.stored.unwrap();
    assert_ne!(result.durability(), Durability::Unspecified);
    assert!(result.term > 0 && result.seq == 1 && !result.repeated);
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let bound = node.bind_result(bind("a", 1, 1, &[CHAT])).await;
    let [tail] = bound.inboxes.as_slice() else { panic!("one inbox: {bound:?}") };
    assert_eq!((tail.business, tail.tail_term, tail.tail_seq), (CHAT, result.term, 1));
    assert_eq!(tail.priority, Priority::Normal as u32);
    let elsewhere = node.bind_result(bind("a", 2, 2, &[LIVE])).await;
    assert_eq!(elsewhere.inboxes, [], "only of what the session serves");
}

#[tokio::test]
async fn the_node_that_holds_the_device_gets_each_push_at_once_numbered_and_chained() {
    let house = House::new().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 11).await;
    let session = node.bind("a", 5, &[CHAT]).await;
    let mut prev = (0, 0);
    for wake in 1..=3 {
        let options = StoreOptions { ttl_ms: 60_000, ..StoreOptions::default() };
        let answer = push(&client, stored_as("a", &format!("p{wake}"), options)).await;
        assert_eq!(answer.outcome(), Outcome::Stored, "nobody waits for the node");
        let here = place(answer.stored);
        let delivery = node.delivery().await;
        assert_eq!((delivery.wake, delivery.boot, delivery.business), (wake, 11, CHAT));
        assert!(!delivery.wants_ack);
        let target = &delivery.targets[0];
        assert_eq!((target.slot, target.epoch, target.device.as_str()), (5, session.epoch, "a"));
        let told = Place { term: here.0, seq: here.1, prev_term: prev.0, prev_seq: prev.1 };
        assert_eq!(delivery.place, Some(told));
        let (params, body) = push_of(&delivery.frame);
        assert_eq!((params.term, params.seq, params.prev_term, params.prev_seq), {
            (here.0, here.1, prev.0, prev.1)
        });
        assert!(!params.redelivered && params.expires_at_ms > here.0);
        assert_eq!((params.push_id, body), (id(&format!("p{wake}")), id("hello")));
        prev = here;
    }
}

#[tokio::test]
async fn a_session_that_does_not_serve_the_business_is_not_woken() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[LIVE]).await;
    assert_eq!(push(&client, stored("a", "one")).await.outcome(), Outcome::Stored);
    let live = UnicastRequest { push_id: id("two"), ..stored("a", "two") };
    client.unicast(by("demo-live", live)).await.unwrap();
    let delivery = node.delivery().await;
    assert_eq!((delivery.business, delivery.wake), (LIVE, 1));
}

#[tokio::test]
async fn a_push_id_is_stored_once_and_not_for_two_contents() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let first = push(&client, stored("a", "same")).await;
    let traced = Message { traceparent: "00-1".to_owned(), ..say("hello").unwrap() };
    let again = UnicastRequest { message: Some(traced), ..stored("a", "same") };
    let again = push(&client, again).await;
    assert_eq!(place(first.stored), place(again.stored));
    assert!(!first.stored.unwrap().repeated && again.stored.unwrap().repeated);
    assert_eq!(again.outcome(), Outcome::Stored);
    let other = UnicastRequest { message: say("other"), ..stored("a", "same") };
    assert_eq!(code(client.unicast(by("demo-chat", other)).await), "push_id_reused");
    let kind = StoreOptions { priority: Priority::High.into(), ..StoreOptions::default() };
    let other = stored_as("a", "same", kind);
    assert_eq!(code(client.unicast(by("demo-chat", other)).await), "push_id_reused");
    // Another device, and another business, have ids of their own.
    assert!(!push(&client, stored("b", "same")).await.stored.unwrap().repeated);
    let theirs = client.unicast(by("demo-live", stored("a", "same"))).await.unwrap();
    assert!(!theirs.into_inner().stored.unwrap().repeated);
    push(&client, stored("a", "next")).await;
    assert_eq!(node.delivery().await.wake, 1);
    let next = node.delivery().await;
    assert_eq!((next.wake, push_of(&next.frame).0.push_id), (2, id("next")), "no second wake-up");
}

#[tokio::test]
async fn a_caller_may_wait_until_the_device_has_acknowledged() {
    let house = House::new().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let waiting = |wait_ack_ms| StoreOptions { wait_ack_ms, ..StoreOptions::default() };
    let said = [(Outcome::Acked as u32, Outcome::Acked), (Outcome::Stored as u32, Outcome::Stored)];
    for (n, (said, expected)) in said.into_iter().enumerate() {
        let call = push(&client, stored_as("a", &format!("p{n}"), waiting(10_000)));
        let answering = async {
            let delivery = node.delivery().await;
            assert!(delivery.wants_ack);
            let (id, outcomes) = (delivery.id, vec![said]);
            node.report(DeliveryReport { id, outcomes, done: true, ..Default::default() }).await;
        };
        let (answer, ()) = within(async { tokio::join!(call, answering) }).await;
        assert_eq!(answer.outcome(), expected);
        assert!(answer.stored.unwrap().seq > 0);
    }
    let began = Instant::now();
    let answer = push(&client, stored_as("a", "p3", waiting(100))).await;
    assert_eq!(answer.outcome(), Outcome::Stored, "no word in time");
    assert!(began.elapsed() >= Duration::from_millis(100));
    let answer = push(&client, stored_as("nobody", "p4", waiting(10_000))).await;
    assert_eq!(answer.outcome(), Outcome::Stored, "nobody is there to wait for");
    let call = push(&client, stored_as("a", "p5", waiting(10_000)));
    let (answer, ()) = within(async {
        tokio::join!(call, async {
            node.delivery().await;
            node.delivery().await;
            drop(node);
        })
    })
    .await;
    assert_eq!(answer.outcome(), Outcome::Stored, "its node is gone");
}

#[tokio::test]
async fn a_batch_is_stored_for_each_device_once_and_counted() {
    let house = House::new().await;
    let mut client = house.client().await;
    push(&client, UnicastRequest { message: say("other"), ..stored("b", "all") }).await;
    push(&client, stored("c", "all")).await;
    let request = BatchUnicastRequest {
        class: Class::Stored.into(),
        push_id: id("all"),
        tag: 7,
        ..to_many(&["a", "b", "c", "a", "d"])
    };
    let answer = client.batch_unicast(by("demo-chat", request)).await.unwrap().into_inner();
    use Outcome::{Denied, Stored};
    assert_eq!(answer.outcomes().collect::<Vec<_>>(), [Stored, Denied, Stored, Stored, Stored]);
    let errors: Vec<u32> = answer.stored.iter().map(|it| it.error).collect();
    assert_eq!(errors, [0, 29, 0, 0, 0]);
    let repeated: Vec<bool> = answer.stored.iter().map(|it| it.repeated).collect();
    assert_eq!(repeated, [false, false, true, false, false]);
    assert_eq!(answer.stored[0], answer.stored[3], "one entry");
    assert_eq!((answer.tag, answer.push_id), (7, id("all")));
    let total = |of| answer.totals.iter().find(|it| it.outcome() == of).map_or(0, |it| it.count);
    assert_eq!((total(Stored), total(Denied)), (4, 1));
    assert_eq!(answer.totals.iter().map(|it| it.count).sum::<u64>(), 5);
}

#[tokio::test]
async fn a_body_each_is_stored_in_order_also_for_one_device() {
    let house = House::new().await;
    let mut client = house.client().await;
    let target = |device: &str, text: &str, push_id: &str| Target {
        device: device.into(),
        message: say(text),
        push_id: id(push_id),
    };
    let mut targets: Vec<_> =
        (0..20).map(|n| target("a", &format!("{n}"), &format!("id{n}"))).collect();
    targets.push(target("b", "hello", ""));
    let request =
        BatchUnicastRequest { targets, class: Class::Stored.into(), ..Default::default() };
    let answer = client.batch_unicast(by("demo-chat", request)).await.unwrap().into_inner();
    let seqs: Vec<u64> = answer.stored.iter().map(|it| it.seq).collect();
    assert_eq!(seqs, (1..=20).chain([1]).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_of_pushes_is_stored_in_its_order_and_wakes_in_that_order() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let requests: Vec<_> = (1..=60)
        .map(|tag| BatchUnicastRequest {
            tag,
            class: Class::Stored.into(),
            ..to_many(&["a", "away"])
        })
        .collect();
    let call = client.stream_unicast(by("demo-chat", tokio_stream::iter(requests)));
    let answers = within(call).await.unwrap().into_inner();
    let answers: Vec<_> = within(answers.map(|answer| answer.unwrap()).collect()).await;
    for (answer, n) in answers.iter().zip(1..) {
        let seqs: Vec<u64> = answer.stored.iter().map(|it| it.seq).collect();
        assert_eq!((answer.tag, seqs), (n, vec![n, n]));
    }
    for wake in 1..=60 {
        let delivery = node.delivery().await;
        assert_eq!((delivery.wake, delivery.place.unwrap().seq), (wake, wake));
    }
}

#[tokio::test]
async fn options_have_bounds_and_known_numbers() {
    let house = House::new().await;
    let mut client = house.client().await;
    let none = StoreOptions::default;
    for bad in [
        StoreOptions { collapse_key: "k".repeat(129), ..none() },
        StoreOptions { wait_ack_ms: 15_001, ..none() },
        StoreOptions { priority: 4, ..none() },
        StoreOptions { durability: 9, ..none() },
    ] {
        let refused = client.unicast(by("demo-chat", stored_as("a", "p", bad.clone()))).await;
        assert_eq!(code(refused), "invalid_argument", "{bad:?}");
    }
    let over = StoreOptions { expires_at_ms: 1_000, ..none() };
    let answer = push(&client, stored_as("a", "p", over)).await;
    assert_eq!((answer.outcome(), place(answer.stored)), (Outcome::Expired, (0, 0)));
    let best = StoreOptions {
        ttl_ms: u64::MAX,
        collapse_key: "k".repeat(128),
        priority: Priority::High.into(),
        durability: Durability::Memory.into(),
        ..none()
    };
    assert_eq!(push(&client, stored_as("a", "p", best)).await.outcome(), Outcome::Stored);
}

#[tokio::test]
async fn of_one_kind_only_the_newest_stays() {
    let house = House::new().await;
    let client = house.client().await;
    let kind = || StoreOptions { collapse_key: "weather".to_owned(), ..StoreOptions::default() };
    for push_id in ["a1", "a2", "a3"] {
        push(&client, stored_as("a", push_id, kind())).await;
    }
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    let entries = node.pull(&session, CHAT, (0, 0)).await.entries;
    assert_eq!(entries.len(), 1);
    assert_eq!(push_of(&entries[0].frame).0.push_id, id("a3"));
}

#[tokio::test]
async fn a_frame_leaves_room_for_where_it_stands() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let limit = 64 * 1024;
    let of = |bytes: usize| {
        let message = Some(Message { body: vec![7; bytes].into(), ..Default::default() });
        UnicastRequest { message, ..stored("a", &format!("{bytes}")) }
    };
    let refused = client.unicast(by("demo-chat", of(limit - 60))).await;
    assert_eq!(code(refused), "too_large");
    assert_eq!(push(&client, of(limit - 100)).await.outcome(), Outcome::Stored);
    assert!(node.delivery().await.frame.len() <= limit);
}

#[tokio::test]
async fn a_wake_up_without_room_makes_the_node_ask_for_everything() {
    let house = House::new().await;
    house.control.change(|_| {});
    let revision = house.control.change(|all| all.apps[0].frame_bytes_max = 1 << 20);
    within(house.router.catalogue(revision)).await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    let _alive = node.keep_alive();
    // What the node does not read waits, up to 32 MiB; what its transport holds comes on top.
    let full = async {
        loop {
            let calls = (0..16).map(|_| {
                let mut client = client.clone();
                let body = Message { body: vec![0; 1_000_000].into(), ..Default::default() };
                let request = UnicastRequest {
                    device: "a".to_owned(),
                    message: Some(body),
                    ..UnicastRequest::default()
                };
                async move { client.unicast(by("demo-chat", request)).await }
            });
            let answers = futures_util::future::join_all(calls).await;
            if answers.into_iter().any(|it| it.unwrap().into_inner().outcome() == Outcome::Overflow)
            {
                return;
            }
        }
    };
    within(full).await;
    let large = Message { body: vec![0; 1_000_000].into(), ..Default::default() };
    let lost = UnicastRequest { message: Some(large), ..stored("a", "lost") };
    assert_eq!(push(&client, lost).await.outcome(), Outcome::Stored);
    within(node.sweep_now()).await;
    // It reads on: the number that was used up shows in the next one.
    let next = async {
        let mut wakes = Vec::new();
        push(&client, stored("a", "small")).await;
        while wakes.last() != Some(&2) {
            wakes.extend(Some(node.delivery().await.wake).filter(|&wake| wake > 0));
            if wakes.is_empty() {
                push(&client, stored("a", "small")).await;
            }
        }
        wakes
    };
    let wakes = within(next).await;
    assert_eq!(wakes, [2], "the first one was lost");
    let pulled = node.pull(&session, CHAT, (0, 0)).await;
    assert_eq!(push_of(&pulled.entries[0].frame).0.push_id, id("lost"));
}

#[tokio::test]
async fn what_an_earlier_session_may_have_been_sent_is_flagged() {
    let house = House::new().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let first = node.bind("a", 1, &[CHAT]).await;
    let one = place(push(&client, stored("a", "one")).await.stored);
    let two = place(push(&client, stored("a", "two")).await.stored);
    node.unbind_at(&first, &[at(CHAT, one)]).await;
    let (_, second) = node.try_bind(bind("a", 2, 2, &[CHAT])).await;
    let entries = node.pull(&second, CHAT, (0, 0)).await.entries;
    let flags: Vec<bool> = entries.iter().map(|it| push_of(&it.frame).0.redelivered).collect();
    assert_eq!(flags, [true, false]);
    // Nobody says how far the second was written to: perhaps everything.
    let (_, third) = node.try_bind(bind("a", 3, 3, &[CHAT])).await;
    let three = place(push(&client, stored("a", "three")).await.stored);
    let entries = node.pull(&third, CHAT, (0, 0)).await.entries;
    let flags: Vec<bool> = entries.iter().map(|it| push_of(&it.frame).0.redelivered).collect();
    assert_eq!(flags, [true, true, false]);
    let places: Vec<_> = entries.iter().map(|it| it.place.unwrap()).collect();
    assert_eq!(places.iter().map(|it| (it.term, it.seq)).collect::<Vec<_>>(), [one, two, three]);
}
