//! What nodes ask of inboxes, who may, and what a business sees of them.

use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, at, bind};
use crate::kit::store::Mode;
use crate::kit::{Client, House, by, code, eventually, stored, within};
use crate::stored::{place, push, push_of};
use hawser_proto::rpc::control::{InboxOverflow, InboxPolicy};
use hawser_proto::rpc::node::answer::Status;
use hawser_proto::rpc::node::{Sweep, SweepOne, Swept, ask, down};
use hawser_proto::rpc::push::{InboxInfo, InboxRequest, Outcome};

async fn describe(client: &Client, device: &str) -> InboxInfo {
    let request = InboxRequest { device: device.to_owned() };
    client.clone().describe_inbox(by("demo-chat", request)).await.unwrap().into_inner()
}

fn ids(entries: &[hawser_proto::rpc::node::Entry]) -> Vec<String> {
    let id = |it: &hawser_proto::rpc::node::Entry| {
        String::from_utf8(push_of(&it.frame).0.push_id.to_vec()).unwrap()
    };
    entries.iter().map(id).collect()
}

#[tokio::test]
async fn what_waits_is_pulled_acknowledged_and_gone() {
    let house = House::new().await;
    let client = house.client().await;
    let mut places = Vec::new();
    for push_id in ["one", "two", "three"] {
        places.push(place(push(&client, stored("a", push_id)).await.stored));
    }
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    let pulled = node.pull(&session, CHAT, (0, 0)).await;
    assert_eq!(pulled.status(), Status::Ok);
    assert_eq!(ids(&pulled.entries), ["one", "two", "three"]);
    assert_eq!((pulled.tail_term, pulled.tail_seq), places[2]);
    let again = node.pull(&session, CHAT, places[1]).await;
    assert_eq!(ids(&again.entries), ["three"], "above a position");
    assert_eq!(node.ack(&session, CHAT, places[1]).await.status(), Status::Ok);
    let info = describe(&client, "a").await;
    assert_eq!((info.entries, (info.floor_term, info.floor_seq)), (1, places[1]));
    assert_eq!(((info.tail_term, info.tail_seq), info.overflowed), (places[2], 0));
    assert!(info.oldest_ms > 0 && info.bytes > 64);
    node.ack(&session, CHAT, places[2]).await;
    assert_eq!(describe(&client, "a").await.entries, 0);
    // Logged in again with what it has taken: nothing waits.
    node.unbind(&session).await;
    let mut back = bind("a", 2, 2, &[CHAT]);
    back.cursors = vec![at(CHAT, places[2])];
    assert_eq!(node.bind_result(back).await.inboxes, []);
}

#[tokio::test]
async fn a_cursor_trims_at_login_and_one_that_cannot_be_is_refused() {
    let house = House::new().await;
    let client = house.client().await;
    let one = place(push(&client, stored("a", "one")).await.stored);
    push(&client, stored("a", "two")).await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let mut login = bind("a", 1, 1, &[CHAT]);
    login.cursors = vec![at(CHAT, one), at(99, (1, 1))];
    assert_eq!(node.bind_result(login).await.inboxes.len(), 1);
    assert_eq!(describe(&client, "a").await.entries, 1);
    let mut liar = bind("a", 2, 2, &[CHAT]);
    liar.cursors = vec![at(CHAT, (u64::MAX, 1))];
    let bound = node.bind_result(liar).await;
    assert_eq!(bound.inboxes[0].state, 2, "INBOX_STATE_CURSOR_REFUSED");
    assert_eq!(describe(&client, "a").await.entries, 1);
}

#[tokio::test]
async fn a_sweep_tells_of_each_session_for_itself() {
    let house = House::new().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let (a, b) = (node.bind("a", 1, &[CHAT]).await, node.bind("b", 2, &[CHAT]).await);
    let one = place(push(&client, stored("a", "one")).await.stored);
    let two = place(push(&client, stored("a", "two")).await.stored);
    let ghost = crate::kit::node::Session { device: "ghost".to_owned(), ..a.clone() };
    let sweep = |acked| {
        let one = |session: &crate::kit::node::Session, acked| SweepOne {
            session: Some(session.named()),
            acked,
        };
        let sessions = vec![one(&b, vec![]), one(&a, acked), one(&ghost, vec![])];
        ask::What::Sweep(Sweep { sessions })
    };
    let answer = node.ask(sweep(vec![at(CHAT, one)])).await;
    let statuses: Vec<_> = answer.swept.iter().map(Swept::status).collect();
    assert_eq!(statuses, [Status::Ok, Status::Ok, Status::Forgotten]);
    assert_eq!(answer.swept[0].inboxes, []);
    let tail = answer.swept[1].inboxes[0];
    assert_eq!((tail.tail_term, tail.tail_seq), two);
    assert_eq!((tail.floor_term, tail.floor_seq), one, "the acknowledgement was repeated");
    let answer = node.ask(sweep(vec![at(CHAT, two)])).await;
    assert_eq!(answer.swept[1].inboxes, []);
}

#[tokio::test]
async fn nobody_but_the_session_reaches_its_inbox() {
    let house = House::new().await;
    let client = house.client().await;
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let mut two = FakeNode::connect(&house.internal(), "node-2", 2).await;
    let session = one.bind("a", 1, &[CHAT]).await;
    let here = place(push(&client, stored("a", "one")).await.stored);
    // The same slot on another node: where it is comes from the stream, not from the question.
    assert_eq!(two.pull(&session, CHAT, (0, 0)).await.status(), Status::Superseded);
    assert_eq!(two.ack(&session, CHAT, here).await.status(), Status::Superseded);
    let other = |epoch, slot| crate::kit::node::Session { slot, epoch, ..session.clone() };
    // The very connection may not know yet that its session has come back above its end.
    let older = other(session.epoch - 1, 1);
    assert_eq!(one.pull(&older, CHAT, (0, 0)).await.status(), Status::Forgotten);
    assert_eq!(one.ack(&other(session.epoch, 2), CHAT, here).await.status(), Status::Superseded);
    let newer = other(session.epoch + 1, 1);
    assert_eq!(one.ack(&newer, CHAT, here).await.status(), Status::Forgotten);
    assert_eq!(describe(&client, "a").await.entries, 1, "nothing moved");
    two.try_bind(bind("a", 9, 2, &[CHAT])).await;
    assert_eq!(one.pull(&session, CHAT, (0, 0)).await.status(), Status::Superseded);
    assert_eq!(one.ack(&session, CHAT, here).await.status(), Status::Superseded);
    assert_eq!(describe(&client, "a").await.entries, 1);
    let nonsense = ask::What::Pull(hawser_proto::rpc::node::Pull::default());
    assert_eq!(one.ask(nonsense).await.status(), Status::Unavailable);
}

#[tokio::test]
async fn the_answer_to_a_greedy_question_is_bounded() {
    let house = House::new().await;
    let mut client = house.client().await;
    let body = vec![1; 20_000];
    for n in 0..100 {
        let mut request = stored("a", &format!("p{n:03}"));
        request.message = Some(hawser_proto::rpc::push::Message {
            body: body.clone().into(),
            ..Default::default()
        });
        client.unicast(by("demo-chat", request)).await.unwrap();
        client.unicast(by("demo-chat", stored("b", &format!("p{n:03}")))).await.unwrap();
    }
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    for (device, slot) in [("a", 1), ("b", 2)] {
        let session = node.bind(device, slot, &[CHAT]).await;
        let pull = hawser_proto::rpc::node::Pull {
            session: Some(session.named()),
            business: CHAT,
            entries_max: u32::MAX,
            bytes_max: u32::MAX,
            ..Default::default()
        };
        let answer = node.ask(ask::What::Pull(pull)).await;
        let bytes: usize = answer.entries.iter().map(|it| it.frame.len()).sum();
        assert!(bytes <= 520 * 1024 && answer.entries.len() <= 64, "{bytes}");
        assert!(answer.entries.len() >= 26);
    }
}

#[tokio::test]
async fn the_catalogue_bounds_an_inbox() {
    let house = House::new().await;
    let mut client = house.client().await;
    let policy = |overflow: InboxOverflow| InboxPolicy {
        entries_max: 2,
        overflow: overflow.into(),
        ..Default::default()
    };
    let set = |policy| {
        // Every other change is read as a snapshot.
        house.control.change(|_| {});
        let revision = house.control.change(|all| all.businesses[0].inbox = Some(policy));
        house.router.catalogue(revision)
    };
    within(set(policy(InboxOverflow::Refuse))).await;
    let mut outcomes = Vec::new();
    for push_id in ["one", "two", "three"] {
        outcomes.push(push(&client, stored("a", push_id)).await.outcome());
    }
    assert_eq!(outcomes, [Outcome::Stored, Outcome::Stored, Outcome::Overflow]);
    within(set(policy(InboxOverflow::DropOldest))).await;
    assert_eq!(push(&client, stored("a", "four")).await.outcome(), Outcome::Stored);
    let info = describe(&client, "a").await;
    assert_eq!((info.entries, info.overflowed), (2, 1));
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    let entries = node.pull(&session, CHAT, (0, 0)).await.entries;
    assert_eq!((entries[0].lost, entries[0].lost_reason), (1, 1), "GAP_REASON_OVERFLOW");
    assert_eq!(ids(&entries), ["two", "four"]);
    // Of another business nothing changed.
    for push_id in ["one", "two", "three"] {
        let done = client.unicast(by("demo-live", stored("a", push_id))).await.unwrap();
        assert_eq!(done.into_inner().outcome(), Outcome::Stored);
    }
}

#[tokio::test]
async fn a_purge_empties_the_inbox_and_the_gap_is_told() {
    let house = House::new().await;
    let mut client = house.client().await;
    for push_id in ["one", "two"] {
        push(&client, stored("a", push_id)).await;
    }
    let request = || InboxRequest { device: "a".to_owned() };
    let other = client.purge_inbox(by("demo-live", request())).await.unwrap().into_inner();
    assert_eq!(other.entries, 0, "another business's inbox");
    let purged = client.purge_inbox(by("demo-chat", request())).await.unwrap().into_inner();
    assert_eq!(purged.entries, 2);
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    let entries = node.pull(&session, CHAT, (0, 0)).await.entries;
    assert_eq!((entries.len(), entries[0].lost, entries[0].lost_reason), (1, 2, 4));
    assert!(entries[0].frame.is_empty());
    let bad = InboxRequest { device: String::new() };
    assert_eq!(code(client.describe_inbox(by("demo-chat", bad)).await), "invalid_argument");
}

#[tokio::test]
async fn sweeps_leave_the_store_room_for_others() {
    let house = House::new().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    house.store.set(Mode::Hangs);
    let one = || SweepOne { session: Some(session.named()), acked: vec![] };
    let mut calls = Vec::new();
    for _ in 0..30 {
        let sessions = std::iter::repeat_with(one).take(64).collect();
        calls.push(node.send_ask(ask::What::Sweep(Sweep { sessions })).await);
    }
    let full = eventually(async || (house.store.swept_together() >= 128).then_some(()));
    full.await;
    house.store.set(Mode::Answers);
    for call in calls {
        assert_eq!(
            node.answer(call).await.swept.len(),
            64,
            "each is told of, or told to ask again"
        );
    }
    assert_eq!(house.store.swept_together(), 128);
}

#[tokio::test]
async fn a_store_that_may_have_lost_something_makes_all_nodes_ask() {
    let house = House::new().await;
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let mut two = FakeNode::connect(&house.internal(), "node-2", 2).await;
    house.store.change();
    for node in [&mut one, &mut two] {
        let word = within(node.word()).await;
        let Some(down::What::Sweep(sweep)) = word else { panic!("{word:?}") };
        assert_eq!(sweep.sessions, [], "for everything");
    }
}
