//! Bodies that are to be compressed: once for all targets, in a form that every node understands.

use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, WRITTEN};
use crate::kit::store::id;
use crate::kit::{Client, House, by, create_group, stored, to_group, to_many, within};
use crate::stored::place;
use bytes::{Bytes, BytesMut};
use hawser_proto::codec::decode;
use hawser_proto::compressed::{is_compressed, plain_bytes, plain_frame};
use hawser_proto::frame::NodeFrame;
use hawser_proto::rpc::node::Answer;
use hawser_proto::rpc::push::{
    BatchUnicastRequest, BroadcastRequest, CreateGroupRequest, History, Message, MulticastRequest,
    Target, UnicastRequest,
};
use hawser_router::Config;

/// JSON of some KiB.
fn table() -> Bytes {
    let rows: Vec<String> =
        (0..100).map(|n| format!("{{\"team\":\"blue\",\"points\":{n}}}")).collect();
    format!("[{}]", rows.join(",")).into()
}

fn small_table() -> Option<Message> {
    Some(Message { body: table(), compress: true, ..Message::default() })
}

/// The body of a frame, and whether it came compressed.
fn body_of(frame: &Bytes) -> (Bytes, bool) {
    let plain = plain_frame(frame).expect("it becomes plain");
    assert_eq!(plain_bytes(frame), plain.len());
    let raw = decode(&mut BytesMut::from(plain.as_ref()), 1 << 20).unwrap().expect("a frame");
    let body = match NodeFrame::parse(raw).unwrap() {
        NodeFrame::Push(_, body) | NodeFrame::GroupPush(_, body) => body,
        other => panic!("not a push: {other:?}"),
    };
    (body, is_compressed(frame))
}

/// Bodies that were compressed, and those that were not worth it.
fn counted(house: &House) -> (u64, u64) {
    let families = house.registry.gather();
    let name = "hawser_router_bodies_to_compress_total";
    let family = families.iter().find(|family| family.name() == name).expect("it is registered");
    let of = |outcome: &str| {
        let series = family.get_metric().iter();
        let mut found = series.filter(|it| it.get_label().iter().any(|it| it.value() == outcome));
        found.next().expect("it is counted").get_counter().get_value() as u64
    };
    (of("compressed"), of("not_worth_it"))
}

/// A node of this release and one of the release before.
async fn two_nodes(house: &House) -> [FakeNode; 2] {
    let new = FakeNode::connect(&house.internal(), "new", 1).await;
    [new, FakeNode::connect_older(&house.internal(), "old", 2).await]
}

#[tokio::test]
async fn a_push_is_compressed_once_and_plain_for_nodes_of_a_release_before() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let [mut new, mut old] = two_nodes(&house).await;
    for (node, device) in [(&mut new, "a"), (&mut old, "b")] {
        node.bind(device, 1, &[CHAT]).await;
        node.join("room", 1).await;
    }
    let is_right = |at_new: &Bytes, at_old: &Bytes| {
        assert_eq!(body_of(at_new), (table(), true));
        assert_eq!(body_of(at_old), (table(), false));
        assert!(at_new.len() < at_old.len() / 3);
    };
    let request = MulticastRequest { message: small_table(), ..to_group("room") };
    let call = client.multicast(by("demo-chat", request));
    let (answer, at_new, at_old) =
        within(async { tokio::join!(call, new.deliver_group(1), old.deliver_group(1)) }).await;
    assert_eq!(answer.unwrap().into_inner().written, 2);
    is_right(&at_new.frame, &at_old.frame);

    let batch = BatchUnicastRequest { message: small_table(), ..to_many(&["a", "b"]) };
    let call = client.batch_unicast(by("demo-chat", batch));
    let (answer, at_new, at_old) =
        within(async { tokio::join!(call, new.deliver(WRITTEN), old.deliver(WRITTEN)) }).await;
    assert_eq!(answer.unwrap().into_inner().totals.len(), 1);
    is_right(&at_new.frame, &at_old.frame);

    let each = ["a", "b"].map(|device| Target {
        device: device.to_owned(),
        message: small_table(),
        ..Target::default()
    });
    let batch = BatchUnicastRequest { targets: each.to_vec(), ..Default::default() };
    let call = client.batch_unicast(by("demo-chat", batch));
    let (answer, at_new, at_old) =
        within(async { tokio::join!(call, new.deliver(WRITTEN), old.deliver(WRITTEN)) }).await;
    answer.unwrap();
    is_right(&at_new.frame, &at_old.frame);

    let request = BroadcastRequest { message: small_table(), ..Default::default() };
    let progress = within(client.broadcast(by("demo-chat", request))).await.unwrap();
    is_right(&new.delivery().await.frame, &old.delivery().await.frame);
    drop(progress);
    assert_eq!(counted(&house), (5, 0), "one, one, two, one");
}

#[tokio::test]
async fn what_does_not_pay_or_was_not_asked_for_stays_plain() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "new", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let short = Bytes::from_static(b"{\"points\":1}");
    for (body, compress) in [(short, true), (table(), false)] {
        let message = Some(Message { body: body.clone(), compress, ..Message::default() });
        let request = UnicastRequest { message, ..crate::kit::to_one("a") };
        let call = client.unicast(by("demo-chat", request));
        let (answer, delivery) = within(async { tokio::join!(call, node.deliver(WRITTEN)) }).await;
        answer.unwrap();
        assert_eq!(body_of(&delivery.frame), (body, false));
    }
    assert_eq!(counted(&house), (0, 1));
}

#[tokio::test]
async fn the_limit_counts_the_plain_body() {
    let house = House::new().await;
    let client = house.client().await;
    let body = vec![b'a'; 100_000].into();
    let message = Some(Message { body, compress: true, ..Message::default() });
    let request = UnicastRequest { message, ..crate::kit::to_one("a") };
    let refused = client.clone().unicast(by("demo-chat", request)).await;
    assert_eq!(crate::kit::code(refused), "too_large");
    assert_eq!(counted(&house), (0, 0));
}

async fn push_stored(client: &Client, device: &str, push_id: &str) -> (u64, u64) {
    let request = UnicastRequest { message: small_table(), ..stored(device, push_id) };
    let answer = client.clone().unicast(by("demo-chat", request)).await.unwrap().into_inner();
    place(answer.stored)
}

fn forms(answer: &Answer) -> Vec<(Bytes, bool)> {
    answer.entries.iter().map(|entry| body_of(&entry.frame)).collect()
}

async fn stored_in_every_form(configure: impl FnOnce(&mut Config), is_kept_so: bool) {
    let house = House::with(configure).await;
    let client = house.client().await;
    let [mut new, mut old] = two_nodes(&house).await;
    let (a, b) = (new.bind("a", 1, &[CHAT]).await, old.bind("b", 1, &[CHAT]).await);
    for (device, node, comes_so) in [("a", &mut new, true), ("b", &mut old, false)] {
        push_stored(&client, device, "one").await;
        assert_eq!(body_of(&node.delivery().await.frame), (table(), comes_so), "woken");
    }
    assert_eq!(forms(&new.pull(&a, CHAT, (0, 0)).await), [(table(), is_kept_so)]);
    assert_eq!(forms(&old.pull(&b, CHAT, (0, 0)).await), [(table(), false)]);
    // The id stands for the content, whatever form it was sent in.
    let plain = Message { compress: false, ..small_table().unwrap() };
    let again = UnicastRequest { message: Some(plain), ..stored("a", "one") };
    let again = client.clone().unicast(by("demo-chat", again)).await.unwrap().into_inner();
    assert!(again.stored.unwrap().repeated);
}

#[tokio::test]
async fn a_stored_push_stands_plain_in_the_store_that_older_routers_read() {
    stored_in_every_form(|_| {}, false).await;
}

#[tokio::test]
async fn a_stored_push_may_stand_compressed_and_is_plain_for_nodes_of_a_release_before() {
    stored_in_every_form(|config| config.store_compressed = true, true).await;
}

#[tokio::test]
async fn an_answer_that_was_made_plain_keeps_to_what_was_asked_for() {
    let house = House::with(|config| config.store_compressed = true).await;
    let client = house.client().await;
    let [_, mut old] = two_nodes(&house).await;
    let session = old.bind("b", 1, &[CHAT]).await;
    let message = Message { body: vec![b'a'; 60_000].into(), compress: true, ..Message::default() };
    let mut last = (0, 0);
    for n in 0..12 {
        let push =
            UnicastRequest { message: Some(message.clone()), ..stored("b", &format!("{n}")) };
        let answer = client.clone().unicast(by("demo-chat", push)).await.unwrap().into_inner();
        last = place(answer.stored);
    }
    let mut after = (0, 0);
    let mut seen = 0;
    while after < last {
        let answer = old.pull(&session, CHAT, after).await;
        let bytes: usize = answer.entries.iter().map(|entry| entry.frame.len()).sum();
        assert!(bytes <= 256 * 1024, "{bytes}");
        assert_eq!((answer.tail_term, answer.tail_seq), last, "it knows that there is more");
        let newest = answer.entries.last().expect("at least one").place.unwrap();
        seen += answer.entries.len();
        after = (newest.term, newest.seq);
    }
    assert_eq!(seen, 12);
}

#[tokio::test]
async fn a_history_keeps_the_body_once_and_gives_it_in_every_form() {
    let house = House::with(|config| config.store_compressed = true).await;
    let mut client = house.client().await;
    let history = Some(History::default());
    let request = CreateGroupRequest { group: "room".to_owned(), history };
    client.create_group(by("demo-chat", request)).await.unwrap();
    let [mut new, mut old] = two_nodes(&house).await;
    new.join("room", 1).await;
    old.join("room", 1).await;
    let request = MulticastRequest { message: small_table(), push_id: id("p"), ..to_group("room") };
    let call = client.multicast(by("demo-chat", request));
    let (answer, at_new, at_old) =
        within(async { tokio::join!(call, new.deliver_group(1), old.deliver_group(1)) }).await;
    assert_eq!(answer.unwrap().into_inner().written, 2);
    assert_eq!(body_of(&at_new.frame), (table(), true));
    assert_eq!(body_of(&at_old.frame), (table(), false));
    assert_eq!(forms(&new.pull_history("room", (0, 0)).await), [(table(), true)]);
    assert_eq!(forms(&old.pull_history("room", (0, 0)).await), [(table(), false)]);
    assert_eq!(counted(&house), (1, 0));
}
