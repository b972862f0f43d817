//! Logins: takeover, late ones, announcements, ends.

use crate::kit::control::{CHAT, LIVE};
use crate::kit::node::{FakeNode, OK, WRITTEN, announcement, bind, superseded};
use crate::kit::store::Mode;
use crate::kit::{Client, House, PATIENCE, by, eventually, to_one, within};
use hawser_proto::rpc::node::answer::Status as AnswerStatus;
use hawser_proto::rpc::node::bind_result::Status;
use hawser_proto::rpc::node::{Bind, Unbind, down, up};
use hawser_proto::rpc::push::{Outcome, PresenceRequest, PresenceState};
use std::time::Duration;

const STALE_ATTEMPT: i32 = Status::StaleAttempt as i32;
const SUPERSEDED: i32 = Status::Superseded as i32;

async fn state(client: &mut Client, device: &str) -> PresenceState {
    let request = PresenceRequest { devices: vec![device.to_owned()] };
    let answer = client.get_presence(by("demo-chat", request)).await.unwrap().into_inner();
    answer.devices[0].state()
}

#[tokio::test]
async fn a_newer_login_takes_over_and_the_older_connection_is_told() {
    let house = House::new().await;
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let mut two = FakeNode::connect(&house.internal(), "node-2", 2).await;
    let first = one.bind("a", 1, &[CHAT]).await;
    let (status, second) = two.try_bind(bind("a", 9, 2, &[CHAT])).await;
    assert_eq!(status, OK);
    assert!(second.epoch > first.epoch);
    let kick = one.kick().await;
    assert!(superseded(&kick, &first) && kick.boot == 1, "{kick:?}");

    // The older one's end does not take the newer one's route.
    one.unbind(&first).await;
    let mut client = house.client().await;
    let call = client.unicast(by("demo-chat", to_one("a")));
    let (answer, delivery) = within(async { tokio::join!(call, two.deliver(WRITTEN)) }).await;
    assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Written);
    assert_eq!(delivery.targets[0].epoch, second.epoch);
}

#[tokio::test]
async fn a_takeover_on_one_node_answers_before_it_kicks() {
    let house = House::new().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    for (call, slot, attempt) in [(101, 1, 1), (102, 2, 2), (103, 3, 3)] {
        node.send(up::What::Bind(Bind { call, ..bind("a", slot, attempt, &[CHAT]) })).await;
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(match node.word().await.expect("the stream is open") {
            down::What::BindResult(result) => format!("bound {}", result.call),
            down::What::Kick(kick) => format!("kick {}", kick.slot),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["bound 101", "bound 102", "kick 1", "bound 103", "kick 2"]);
}

#[tokio::test]
async fn an_old_login_that_comes_late_is_refused() {
    let house = House::new().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let (_, session) = node.try_bind(bind("a", 1, 5, &[CHAT])).await;
    for attempt in [4, 5] {
        assert_eq!(node.try_bind(bind("a", 2, attempt, &[CHAT])).await.0, STALE_ATTEMPT);
    }
    node.unbind(&session).await;
    assert_eq!(node.try_bind(bind("a", 2, 5, &[CHAT])).await.0, STALE_ATTEMPT);
    assert_eq!(node.try_bind(bind("a", 2, 6, &[CHAT])).await.0, OK);
    let other = Bind { instance: vec![8; 16].into(), ..bind("a", 3, 1, &[CHAT]) };
    assert_eq!(node.try_bind(other).await.0, OK, "another installation counts for itself");
}

#[tokio::test]
async fn the_same_device_id_in_another_app_is_another_device() {
    let house = House::new().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let theirs = Bind { app: "other".into(), ..bind("a", 2, 1, &[CHAT]) };
    assert_eq!(node.try_bind(theirs).await.0, OK);
    let mut client = house.client().await;
    for (key, app, slot) in [("demo-chat", "demo", 1), ("other-chat", "other", 2)] {
        let call = client.unicast(by(key, to_one("a")));
        let (answer, delivery) = within(async { tokio::join!(call, node.deliver(WRITTEN)) }).await;
        assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Written);
        assert_eq!((delivery.app.as_str(), delivery.targets[0].slot), (app, slot));
    }
}

#[tokio::test]
async fn a_session_that_ended_is_offline_and_only_its_own_end_counts() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    for wrong in [
        crate::kit::node::Session { epoch: session.epoch + 1, ..session.clone() },
        crate::kit::node::Session { slot: 2, ..session.clone() },
    ] {
        node.unbind(&wrong).await;
    }
    // Handled in order: once this is answered, the two before it were looked at.
    node.bind("b", 7, &[CHAT]).await;
    assert_eq!(state(&mut client, "a").await, PresenceState::Online);
    node.unbind(&session).await;
    node.bind("c", 8, &[CHAT]).await;
    assert_eq!(state(&mut client, "a").await, PresenceState::Offline);
    let answer = client.unicast(by("demo-chat", to_one("a"))).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), Outcome::Offline);
}

#[tokio::test]
async fn an_announcement_is_taken_in_place_and_refused_when_superseded() {
    let house = House::new().await;
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let mut two = FakeNode::connect(&house.internal(), "node-2", 2).await;
    let session = one.bind("a", 1, &[CHAT]).await;
    let (status, again) = one.try_bind(announcement(&session, &[CHAT, LIVE])).await;
    assert_eq!((status, again.epoch), (OK, session.epoch));
    let (_, newer) = two.try_bind(bind("a", 1, 2, &[CHAT])).await;
    let (status, told) = one.try_bind(announcement(&session, &[CHAT])).await;
    assert_eq!((status, told.epoch), (SUPERSEDED, newer.epoch));
}

#[tokio::test]
async fn a_session_that_was_taken_for_over_comes_back_under_a_new_epoch() {
    let house = House::new().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let before = node.bind("a", 1, &[CHAT]).await;
    node.unbind(&before).await;
    let (status, now) = node.try_bind(announcement(&before, &[CHAT])).await;
    assert_eq!(status, OK);
    assert!(now.epoch > before.epoch, "businesses may have heard that the one of before has ended");
    let (status, again) = node.try_bind(announcement(&before, &[CHAT])).await;
    assert_eq!((status, again.epoch), (OK, now.epoch), "the answer was lost");

    let mut client = house.client().await;
    let call = client.unicast(by("demo-chat", to_one("a")));
    let (answer, delivery) = within(async { tokio::join!(call, node.deliver(WRITTEN)) }).await;
    assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Written);
    assert_eq!(delivery.targets[0].epoch, now.epoch);
    let forgotten = AnswerStatus::Forgotten;
    assert_eq!(node.pull(&before, CHAT, (0, 0)).await.status(), forgotten, "it may tell of itself");
    assert_eq!(node.ack(&now, CHAT, (1, 1)).await.status(), AnswerStatus::Ok);

    // Its end is the end of what it is now.
    for (session, state_then) in [(&before, PresenceState::Online), (&now, PresenceState::Offline)]
    {
        node.unbind(session).await;
        node.bind("b", 7, &[CHAT]).await;
        assert_eq!(state(&mut client, "a").await, state_then);
    }
}

#[tokio::test]
async fn a_node_of_an_earlier_release_keeps_the_epoch_that_it_knows() {
    let house = House::new().await;
    let mut node = FakeNode::connect_older(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    node.unbind(&session).await;
    let (status, now) = node.try_bind(announcement(&session, &[CHAT])).await;
    assert_eq!((status, now.epoch), (OK, session.epoch));
    assert_eq!(node.ack(&session, CHAT, (1, 1)).await.status(), AnswerStatus::Ok);
}

/// It was cut off while its device logged in elsewhere.
#[tokio::test]
async fn a_node_that_tells_of_a_session_that_was_taken_over_is_told() {
    let house = House::new().await;
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let first = one.bind("a", 1, &[CHAT]).await;
    drop(one);
    let mut two = FakeNode::connect(&house.internal(), "node-2", 2).await;
    let (status, second) = two.try_bind(bind("a", 9, 2, &[CHAT])).await;
    assert_eq!(status, OK);
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    one.here(&first, &[CHAT]).await;
    assert!(superseded(&one.kick().await, &first));
    two.here(&second, &[CHAT]).await;
    two.bind("b", 3, &[CHAT]).await;
    let mut client = house.client().await;
    assert_eq!(state(&mut client, "a").await, PresenceState::Online);
}

#[tokio::test]
async fn a_login_under_way_is_answered_before_the_router_cuts_its_streams() {
    let house = House::new().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    house.store.set(Mode::IsLate);
    node.send(up::What::Bind(Bind { call: 77, ..bind("a", 1, 1, &[CHAT]) })).await;
    eventually(async || (house.store.claims() == 1).then_some(())).await;
    let ending = tokio::spawn(house.router.shutdown(PATIENCE));
    assert!(matches!(node.word().await, Some(down::What::Leaving(_))));
    // It takes no more of them, and waits for those that it took.
    let mut answers = Vec::new();
    for call in 78.. {
        let wish = bind(&format!("b-{call}"), call, 1, &[CHAT]);
        node.send(up::What::Bind(Bind { call: call.into(), ..wish })).await;
        let word = tokio::time::timeout(Duration::from_millis(20), node.word()).await;
        if let Ok(word) = word {
            let Some(down::What::BindResult(result)) = word else { panic!("{word:?}") };
            assert_eq!(result.status(), Status::Unavailable);
            break;
        }
    }
    house.store.set(Mode::Answers);
    while let Some(word) = node.word().await {
        if let down::What::BindResult(result) = word {
            answers.push((result.call, result.status()));
        }
    }
    assert!(answers.contains(&(77, Status::Ok)), "{answers:?}");
    assert!(ending.await.unwrap());
}

#[tokio::test]
async fn malformed_binds_are_refused_and_harm_nobody() {
    let house = House::new().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let good = || bind("a", 1, 1, &[CHAT]);
    for bad in [
        Bind { app: "No Such".into(), ..good() },
        Bind { device: String::new(), ..good() },
        Bind { device: "x".repeat(129), ..good() },
        Bind { instance: vec![1; 15].into(), ..good() },
        Bind { epoch: u64::MAX, ..good() },
    ] {
        assert_eq!(node.try_bind(bad).await.0, Status::Unavailable as i32);
    }
    node.send(up::What::Unbind(Unbind::default())).await;
    node.report_group("", "", 1, true).await;
    assert_eq!(node.try_bind(good()).await.0, OK);
}

#[tokio::test]
async fn many_devices_churn_and_the_last_login_of_each_is_where_pushes_go() {
    let house = House::new().await;
    let mut nodes = Vec::new();
    for n in 0..3u64 {
        nodes.push(FakeNode::connect(&house.internal(), &format!("node-{n}"), n + 1).await);
    }
    let mut last = std::collections::HashMap::new();
    for round in 1..=20u64 {
        for device in 0..30u64 {
            let at = ((round * 7 + device * 3) % 3) as usize;
            let (slot, name) = ((round * 100 + device) as u32, format!("d{device}"));
            let (status, session) = nodes[at].try_bind(bind(&name, slot, round, &[CHAT])).await;
            assert_eq!(status, OK);
            last.insert(name, (at, session));
        }
    }
    let mut client = house.client().await;
    for (name, (at, session)) in last {
        let call = client.unicast(by("demo-chat", to_one(&name)));
        let (answer, delivery) =
            within(async { tokio::join!(call, nodes[at].deliver(WRITTEN)) }).await;
        assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Written);
        let target = &delivery.targets[0];
        assert_eq!((target.slot, target.epoch), (session.slot, session.epoch));
    }
    let offline = eventually(|| {
        let mut client = client.clone();
        async move { Some(state(&mut client, "nobody").await) }
    });
    assert_eq!(offline.await, PresenceState::Offline);
}
