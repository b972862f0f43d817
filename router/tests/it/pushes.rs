//! Unicast and batches: who gets what, and what the caller is told.

use crate::kit::control::{CHAT, LIVE};
use crate::kit::node::{FakeNode, STALE, WRITTEN};
use crate::kit::{House, by, say, to_many, to_one, within};
use bytes::{Bytes, BytesMut};
use hawser_proto::codec::decode;
use hawser_proto::frame::NodeFrame;
use hawser_proto::rpc::node::DeliveryReport;
use hawser_proto::rpc::push::{BatchUnicastRequest, Outcome, Target};
use std::time::Instant;

fn push_of(frame: &Bytes) -> (Bytes, u32, Bytes) {
    let mut bytes = BytesMut::from(frame.as_ref());
    let raw = decode(&mut bytes, 1 << 20).unwrap().expect("one whole frame");
    assert!(bytes.is_empty(), "and nothing after it");
    match NodeFrame::parse(raw).unwrap() {
        NodeFrame::Push(params, body) => (params.push_id, params.business, body),
        other => panic!("not a push: {other:?}"),
    }
}

#[tokio::test]
async fn a_push_reaches_the_session_by_its_full_name() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 11).await;
    let session = node.bind("a", 5, &[CHAT]).await;

    let mut request = to_one("a");
    request.push_id = "mine".into();
    let (answer, delivery) = within(async {
        tokio::join!(client.unicast(by("demo-chat", request)), node.deliver(WRITTEN))
    })
    .await;
    let answer = answer.unwrap().into_inner();
    assert_eq!((answer.outcome(), answer.push_id.as_ref()), (Outcome::Written, &b"mine"[..]));
    assert_eq!((delivery.app.as_str(), delivery.business, delivery.boot), ("demo", CHAT, 11));
    let [target] = delivery.targets.as_slice() else { panic!("one target") };
    assert_eq!((target.slot, target.generation, target.epoch), (5, 1, session.epoch));
    assert_eq!(target.device, "a");
    assert_eq!(push_of(&delivery.frame), ("mine".into(), CHAT, "hello".into()));
}

#[tokio::test]
async fn a_push_without_an_id_is_given_one() {
    let house = House::new().await;
    let mut client = house.client().await;
    let answer = client.unicast(by("demo-chat", to_one("nobody"))).await.unwrap().into_inner();
    assert_eq!((answer.outcome(), answer.push_id.len()), (Outcome::Offline, 16));
}

#[tokio::test]
async fn a_batch_is_one_delivery_per_node_and_outcomes_keep_their_order() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let mut two = FakeNode::connect(&house.internal(), "node-2", 2).await;
    one.bind("a", 1, &[CHAT]).await;
    two.bind("b", 1, &[CHAT, LIVE]).await;
    one.bind("c", 2, &[CHAT]).await;
    one.bind("live-only", 3, &[LIVE]).await;

    let request = to_many(&["a", "nobody", "b", "c", "live-only"]);
    let (answer, first, second) = within(async {
        tokio::join!(
            client.batch_unicast(by("demo-chat", request)),
            one.deliver(WRITTEN),
            two.deliver(STALE)
        )
    })
    .await;
    let answer = answer.unwrap().into_inner();
    use Outcome::{Offline, Stale, Written};
    assert_eq!(answer.outcomes().collect::<Vec<_>>(), [Written, Offline, Stale, Written, Offline]);
    let total = |outcome: Outcome| {
        answer.totals.iter().find(|it| it.outcome() == outcome).map_or(0, |it| it.count)
    };
    assert_eq!([Written, Offline, Stale].map(total), [2, 2, 1]);
    assert_eq!(answer.totals.iter().map(|it| it.count).sum::<u64>(), 5);
    assert_eq!((first.targets.len(), second.targets.len()), (2, 1));
    assert_eq!(first.frame, second.frame);
}

#[tokio::test]
async fn a_body_each_goes_to_each() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    node.bind("b", 2, &[CHAT]).await;
    let target = |device: &str, text: &str, push_id: &'static str| Target {
        device: device.into(),
        message: say(text),
        push_id: push_id.into(),
    };
    let targets =
        vec![target("a", "to a", ""), target("b", "to b", "own"), target("c", "to c", "")];
    let request = BatchUnicastRequest { targets, push_id: "all".into(), ..Default::default() };
    let (answer, (first, second)) = within(async {
        tokio::join!(client.batch_unicast(by("demo-chat", request)), async {
            (node.deliver(WRITTEN).await, node.deliver(STALE).await)
        })
    })
    .await;
    let answer = answer.unwrap().into_inner();
    use Outcome::{Offline, Stale, Written};
    assert_eq!(answer.outcomes().collect::<Vec<_>>(), [Written, Stale, Offline]);
    assert_eq!(push_of(&first.frame), ("all".into(), CHAT, "to a".into()));
    assert_eq!(push_of(&second.frame), ("own".into(), CHAT, "to b".into()));
    assert_eq!((first.targets[0].device.as_str(), second.targets[0].device.as_str()), ("a", "b"));
}

#[tokio::test]
async fn a_node_that_does_not_answer_leaves_its_targets_unknown() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut slow = FakeNode::connect(&house.internal(), "slow", 1).await;
    let mut fast = FakeNode::connect(&house.internal(), "fast", 2).await;
    slow.bind("a", 1, &[CHAT]).await;
    fast.bind("b", 1, &[CHAT]).await;

    let request = to_many(&["a", "b"]);
    let call = client.batch_unicast(by("demo-chat", request));
    let (answer, _) = within(async { tokio::join!(call, fast.deliver(WRITTEN)) }).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.outcomes().collect::<Vec<_>>(), [Outcome::Unknown, Outcome::Written]);

    // Its word comes too late for that call and harms no later one.
    slow.deliver(WRITTEN).await;
    let call = client.unicast(by("demo-chat", to_one("a")));
    let (answer, _) = within(async { tokio::join!(call, slow.deliver(STALE)) }).await;
    assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Stale);
}

#[tokio::test]
async fn a_node_that_talks_nonsense_leaves_its_targets_unknown() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    node.bind("b", 2, &[CHAT]).await;
    node.bind("c", 3, &[CHAT]).await;
    for outcomes in [vec![WRITTEN, 2], vec![WRITTEN, 77], vec![WRITTEN, 0, 3, 4, 5]] {
        let call = client.batch_unicast(by("demo-chat", to_many(&["a", "b", "c"])));
        let answering = async {
            let id = node.delivery().await.id;
            let unasked =
                DeliveryReport { id: id + 1_000, outcomes: vec![1], ..Default::default() };
            node.report(unasked).await;
            node.report(DeliveryReport { id, outcomes, done: true, ..Default::default() }).await;
        };
        let (answer, ()) = within(async { tokio::join!(call, answering) }).await;
        let answer = answer.unwrap().into_inner();
        use Outcome::{Unknown, Written};
        assert_eq!(answer.outcomes().collect::<Vec<_>>(), [Written, Unknown, Unknown]);
    }
}

#[tokio::test]
async fn a_broken_stream_is_told_at_once_and_not_at_the_deadline() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let call = client.unicast(by("demo-chat", to_one("a")));
    let started = Instant::now();
    let (answer, ()) = within(async {
        tokio::join!(call, async {
            node.delivery().await;
            drop(node);
        })
    })
    .await;
    assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Unknown);
    assert!(started.elapsed() < crate::kit::CALL_TIMEOUT, "it was told, it did not wait");
}

#[tokio::test]
async fn a_device_named_twice_is_reached_once_and_told_of_twice() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    node.bind("b", 2, &[CHAT]).await;
    let call = client.batch_unicast(by("demo-chat", to_many(&["a", "b", "a", "x", "x"])));
    let (answer, delivery) = within(async { tokio::join!(call, node.deliver(WRITTEN)) }).await;
    assert_eq!(delivery.targets.len(), 2);
    let answer = answer.unwrap().into_inner();
    use Outcome::{Offline, Written};
    let expected = [Written, Written, Written, Offline, Offline];
    assert_eq!(answer.outcomes().collect::<Vec<_>>(), expected);
    assert_eq!(answer.totals.iter().map(|it| it.count).sum::<u64>(), 5);
}

#[tokio::test]
async fn a_batch_of_nobody_is_answered_with_nothing() {
    let house = House::new().await;
    let mut client = house.client().await;
    let answer = client.batch_unicast(by("demo-chat", to_many(&[]))).await.unwrap().into_inner();
    assert!(answer.outcomes.is_empty() && answer.totals.is_empty());
}
