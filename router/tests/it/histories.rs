//! Groups that keep a history: positions, order, what comes again, what is asked for later.

use crate::kit::control::CHAT;
use crate::kit::node::FakeNode;
use crate::kit::store::{Mode, id};
use crate::kit::{Client, House, by, code, create_group, eventually, say, to_group, within};
use bytes::{Bytes, BytesMut};
use hawser_proto::codec::decode;
use hawser_proto::frame::NodeFrame;
use hawser_proto::id::AppId;
use hawser_proto::params;
use hawser_proto::rpc::node::Place;
use hawser_proto::rpc::node::answer::Status;
use hawser_proto::rpc::push::{
    CreateGroupRequest, DeleteGroupRequest, DescribeGroupRequest, Durability, GroupInfo, History,
    ListGroupsRequest, MulticastRequest, MulticastResponse,
};
use hawser_router::stores::{GroupChange, GroupMeta, Key, Store};

fn group_push_of(frame: &Bytes) -> params::GroupPush {
    let raw = decode(&mut BytesMut::from(frame.as_ref()), 2 << 20).unwrap().expect("a frame");
    match NodeFrame::parse(raw).unwrap() {
        NodeFrame::GroupPush(params, _) => params,
        other => panic!("not a push to a group: {other:?}"),
    }
}

async fn with_history(client: &Client, group: &str, history: History) -> GroupInfo {
    let request = CreateGroupRequest { group: group.to_owned(), history: Some(history) };
    client.clone().create_group(by("demo-chat", request)).await.unwrap().into_inner()
}

async fn publish(client: &Client, group: &str, push_id: &str) -> MulticastResponse {
    let request = MulticastRequest { push_id: id(push_id), ..to_group(group) };
    client.clone().multicast(by("demo-chat", request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_push_is_kept_and_reaches_the_nodes_with_its_place() {
    let house = House::new().await;
    let client = house.client().await;
    let info = with_history(&client, "room", History::default()).await;
    assert_eq!(info.history, Some(History { entries_max: 1_000, age_ms_max: 300_000 }));
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let joined = node.join("room", 1).await;
    let begin = (joined.created_ms.cast_unsigned(), 0);
    assert!(joined.history && joined.business == CHAT);
    assert_eq!((joined.tail_term, joined.tail_seq), begin, "never (0, 0)");
    assert_eq!((joined.floor_term, joined.floor_seq), begin);
    let mut prev = begin;
    for n in 1..=2 {
        let push_id = format!("p{n}");
        let call = publish(&client, "room", &push_id);
        let (answer, delivery) = within(async { tokio::join!(call, node.deliver_group(3)) }).await;
        let stored = answer.stored.unwrap();
        assert_eq!((answer.members, answer.written, stored.repeated), (3, 3, false));
        assert_ne!(stored.durability(), Durability::Unspecified);
        let here = (stored.term, stored.seq);
        let place = Place { term: here.0, seq: here.1, prev_term: prev.0, prev_seq: prev.1 };
        assert_eq!((delivery.place, delivery.wake), (Some(place), 0));
        let params = group_push_of(&delivery.frame);
        assert_eq!((params.term, params.seq, params.prev_term, params.prev_seq), {
            (here.0, here.1, prev.0, prev.1)
        });
        assert_eq!(params.push_id, id(&push_id));
        prev = here;
    }
    // The same id again: the same place, and no one hears it twice.
    let again = publish(&client, "room", "p2").await;
    let stored = again.stored.unwrap();
    assert!(stored.repeated && (stored.term, stored.seq) == prev);
    assert_eq!(again.nodes.len(), 0);
    let other = MulticastRequest { message: say("x"), push_id: id("p2"), ..to_group("room") };
    assert_eq!(code(client.clone().multicast(by("demo-chat", other)).await), "push_id_reused");
    let late = FakeNode::connect(&house.internal(), "node-2", 2).await.join("room", 1).await;
    assert_eq!((late.tail_term, late.tail_seq), prev);
}

#[tokio::test]
async fn a_history_is_asked_for_from_a_position_and_only_where_there_is_one() {
    let house = House::new().await;
    let mut client = house.client().await;
    with_history(&client, "room", History { entries_max: 3, ..Default::default() }).await;
    create_group(&mut client, "demo-chat", "live").await;
    let mut places = Vec::new();
    for n in 1..=5 {
        let stored = publish(&client, "room", &format!("p{n}")).await.stored.unwrap();
        places.push((stored.term, stored.seq));
    }
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let pulled = node.pull_history("room", places[2]).await;
    assert_eq!(pulled.status(), Status::Ok);
    let told: Vec<_> = pulled.entries.iter().map(|it| group_push_of(&it.frame).seq).collect();
    assert_eq!(told, [4, 5]);
    let pulled = node.pull_history("room", (0, 0)).await;
    assert_eq!((pulled.entries.len(), (pulled.floor_term, pulled.floor_seq)), (3, places[1]));
    assert_eq!((pulled.tail_term, pulled.tail_seq), places[4]);
    for none in ["live", "no such group", ""] {
        assert_eq!(node.pull_history(none, (0, 0)).await.status(), Status::NotFound, "{none}");
    }
    let describe = DescribeGroupRequest { group: "room".to_owned() };
    let info = client.describe_group(by("demo-chat", describe)).await.unwrap().into_inner();
    assert_eq!((info.tail_term, info.tail_seq), places[4]);
    assert_eq!((info.floor_term, info.floor_seq), places[1]);
    let list = client.list_groups(by("demo-chat", ListGroupsRequest::default())).await.unwrap();
    let histories: Vec<_> = list.into_inner().groups.into_iter().map(|it| it.history).collect();
    assert_eq!(histories, [None, Some(History { entries_max: 3, age_ms_max: 300_000 })]);
}

#[tokio::test]
async fn pushes_made_at_once_reach_every_node_in_the_order_of_their_places() {
    let house =
        House::with(|config| config.call_timeout = std::time::Duration::from_secs(10)).await;
    let client = house.client().await;
    with_history(&client, "room", History::default()).await;
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let mut two = FakeNode::connect(&house.internal(), "node-2", 2).await;
    one.join("room", 1).await;
    two.join("room", 1).await;
    let _alive = (one.keep_alive(), two.keep_alive());
    house.store.set(Mode::Dawdles);
    let names: Vec<String> = (0..48).map(|n| format!("p{n}")).collect();
    let calls =
        futures_util::future::join_all(names.iter().map(|name| publish(&client, "room", name)));
    let read = async |node: &mut FakeNode| {
        let mut seqs = Vec::new();
        for _ in 0..48 {
            seqs.push(node.deliver_group(1).await.place.unwrap().seq);
        }
        seqs
    };
    let (answers, first, second) =
        within(async { tokio::join!(calls, read(&mut one), read(&mut two)) }).await;
    let in_order: Vec<u64> = (1..=48).collect();
    assert_eq!((&first, &second), (&in_order, &in_order));
    let mut given: Vec<u64> = answers.iter().map(|it| it.stored.unwrap().seq).collect();
    given.sort_unstable();
    assert_eq!(given, in_order);
    assert!(answers.iter().all(|it| it.members == 2));
}

#[tokio::test]
async fn bounds_of_a_history_are_checked_and_a_live_group_has_none() {
    let house = House::new().await;
    let mut client = house.client().await;
    for bad in [
        History { entries_max: 10_001, age_ms_max: 0 },
        History { entries_max: 0, age_ms_max: 7 * 24 * 3_600_000 + 1 },
    ] {
        let request = CreateGroupRequest { group: "room".to_owned(), history: Some(bad) };
        let refused = client.create_group(by("demo-chat", request)).await;
        assert_eq!(code(refused), "invalid_argument");
    }
    create_group(&mut client, "demo-chat", "live").await;
    let durable = MulticastRequest { durability: Durability::Disk.into(), ..to_group("live") };
    assert_eq!(code(client.multicast(by("demo-chat", durable)).await), "invalid_argument");
    let answer = client.multicast(by("demo-chat", to_group("live"))).await.unwrap().into_inner();
    assert_eq!(answer.stored, None);
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let joined = node.join("live", 1).await;
    assert!(!joined.history && (joined.tail_term, joined.floor_term) == (0, 0));
}

#[tokio::test]
async fn a_history_survives_a_restart_and_ends_with_its_group() {
    let house = House::new().await;
    let client = house.client().await;
    with_history(&client, "room", History { entries_max: 7, ..Default::default() }).await;
    let before = publish(&client, "room", "p1").await.stored.unwrap();
    let house = house.restart().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let joined = node.join("room", 1).await;
    assert_eq!((joined.tail_term, joined.tail_seq), (before.term, before.seq));
    let call = publish(&client, "room", "p2");
    let (after, _) = within(async { tokio::join!(call, node.deliver_group(1)) }).await;
    let after = after.stored.unwrap();
    assert!((after.term, after.seq) > (before.term, before.seq));
    assert_eq!(node.pull_history("room", (0, 0)).await.entries.len(), 2);
    let delete = DeleteGroupRequest { group: "room".to_owned() };
    client.delete_group(by("demo-chat", delete)).await.unwrap();
    assert_eq!(node.pull_history("room", (0, 0)).await.status(), Status::NotFound);
    with_history(&client, "room", History::default()).await;
    let entries = node.pull_history("room", (0, 0)).await.entries;
    assert!(entries.iter().all(|it| it.frame.is_empty()), "it begins anew");
}

#[tokio::test]
async fn a_push_that_may_have_been_kept_makes_the_nodes_ask() {
    let house = House::with(|config| {
        config.store_call_timeout = std::time::Duration::from_millis(100);
    })
    .await;
    let client = house.client().await;
    with_history(&client, "room", History::default()).await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.join("room", 1).await;
    house.store.set(Mode::IsSilent);
    let request = MulticastRequest { push_id: id("p"), ..to_group("room") };
    let refused = client.clone().multicast(by("demo-chat", request)).await;
    assert_eq!(code(refused), "deadline_exceeded");
    within(node.sweep_now()).await;
    house.store.set(Mode::Answers);
    assert_eq!(node.pull_history("room", (0, 0)).await.entries.len(), 1, "it was kept");
    assert!(publish(&client, "room", "p").await.stored.unwrap().repeated);
    // And those behind it are held up no longer.
    let call = publish(&client, "room", "next");
    let (answer, delivery) = within(async { tokio::join!(call, node.deliver_group(1)) }).await;
    assert_eq!((answer.members, delivery.place.unwrap().seq), (1, 2));
}

#[tokio::test]
async fn a_group_that_became_another_business_s_elsewhere_takes_no_push_of_the_one_before() {
    let house = House::new().await;
    let client = house.client().await;
    with_history(&client, "room", History::default()).await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.join("room", 1).await;
    // As another router does it, whose news do not come.
    let key = Key::group(&AppId::new("demo").unwrap(), "room").unwrap();
    let known = house.store.group(&key).await.unwrap().expect("a group");
    let created_ms = known.created_ms + 10_000;
    let theirs = GroupMeta { owner: known.owner + 1, created_ms, ..known.clone() };
    let made = vec![GroupChange::Delete(key, known), GroupChange::Put(key, theirs, None)];
    house.store.change_groups(made).await.unwrap();
    let request = || by("demo-chat", MulticastRequest { push_id: id("p1"), ..to_group("room") });
    assert_eq!(code(client.clone().multicast(request()).await), "permission_denied");
    let answer = node.pull_history("room", (0, 0)).await;
    assert_eq!(answer.tail_term, created_ms, "of the new one");
    assert!(answer.entries.iter().all(|entry| entry.frame.is_empty()), "{answer:?}");
    assert_eq!(code(client.clone().multicast(request()).await), "permission_denied");
}

#[tokio::test]
async fn groups_are_given_to_the_store_again_only_when_the_news_were_read() {
    let house = House::new().await;
    let client = house.client().await;
    create_group(&mut client.clone(), "demo-chat", "hall").await;
    let key = Key::group(&AppId::new("demo").unwrap(), "hall").unwrap();
    let known = house.store.group(&key).await.unwrap().expect("a group");
    house.store.set(Mode::HasNoNews);
    house.store.change_groups(vec![GroupChange::Delete(key, known)]).await.unwrap();
    let before = house.store.news_asked();
    house.store.change();
    // Many more than are asked for by the clock while one keeping is tried.
    eventually(async || (house.store.news_asked() > before + 8).then_some(())).await;
    assert_eq!(house.store.group(&key).await.unwrap(), None);
    house.store.set(Mode::Answers);
    eventually(async || house.store.group(&key).await.unwrap()).await;
}

#[tokio::test]
async fn groups_that_the_store_lost_are_given_to_it_again() {
    let house = House::new().await;
    let client = house.client().await;
    with_history(&client, "room", History::default()).await;
    create_group(&mut client.clone(), "demo-chat", "hall").await;
    let known = house.store.groups().await.unwrap();
    let app = AppId::new("demo").unwrap();
    let lost = ["hall", "room"].map(|id| {
        let key = Key::group(&app, id).unwrap();
        let (_, meta) = known.iter().find(|(of, _)| **of == *key.as_bytes()).unwrap();
        GroupChange::Delete(key, meta.clone())
    });
    house.store.change_groups(lost.to_vec()).await.unwrap();
    let request = || by("demo-chat", MulticastRequest { push_id: id("p1"), ..to_group("room") });
    assert_eq!(code(client.clone().multicast(request()).await), "group_not_found");
    house.store.change();
    eventually(async || client.clone().multicast(request()).await.ok()).await;
    eventually(async || {
        let now = house.store.groups().await.unwrap();
        (now.len() == known.len() && known.iter().all(|one| now.contains(one))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_group_that_cannot_be_read_keeps_no_news_of_others_away() {
    let house = House::new().await;
    let client = house.client().await;
    let app = AppId::new("demo").unwrap();
    let [one, other] = ["hall", "room"].map(|id| Key::group(&app, id).unwrap());
    for id in ["hall", "room"] {
        create_group(&mut client.clone(), "demo-chat", id).await;
    }
    for key in [one, other] {
        let known = house.store.group(&key).await.unwrap().expect("a group");
        house.store.change_groups(vec![GroupChange::Delete(key, known)]).await.unwrap();
    }
    for (unreadable, id) in [(one, "room"), (other, "hall")] {
        house.store.tell(&[one, other], &unreadable);
        eventually(async || {
            let request = MulticastRequest { ..to_group(id) };
            let pushed = client.clone().multicast(by("demo-chat", request)).await;
            pushed.is_err_and(|refused| refused.code() == tonic::Code::NotFound).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn nobody_who_asks_for_a_group_waits_for_changes_of_others() {
    let house = House::new().await;
    let client = house.client().await;
    create_group(&mut client.clone(), "demo-chat", "hall").await;
    let app = AppId::new("demo").unwrap();
    let [hall, room] = ["hall", "room"].map(|id| Key::group(&app, id).unwrap());
    let meta = house.store.group(&hall).await.unwrap().expect("a group");
    // As another router makes it.
    house.store.change_groups(vec![GroupChange::Put(room, meta, None)]).await.unwrap();
    house.store.set(Mode::ChangesHang);
    let request = CreateGroupRequest { group: "slow".to_owned(), history: None };
    let mut creating = client.clone();
    let slow = tokio::spawn(async move { creating.create_group(by("demo-chat", request)).await });
    eventually(async || {
        let key = Key::group(&app, "slow").unwrap();
        house.store.group(&key).await.unwrap()
    })
    .await;
    let pushed = client.clone().multicast(by("demo-chat", to_group("room"))).await;
    assert!(pushed.is_ok() && !slow.is_finished(), "{pushed:?}");
    house.store.set(Mode::Answers);
    slow.await.unwrap().unwrap();
}
