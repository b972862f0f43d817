//! Connection events: businesses hear who comes and goes.

use crate::kit::business::{FakeBusiness, Mood, watch};
use crate::kit::control::{CHAT, LIVE};
use crate::kit::node::{FakeNode, OK, Session, bind};
use crate::kit::redis::Cluster;
use crate::kit::store::Mode;
use crate::kit::{House, eventually, gauge};
use hawser_proto::rpc::business::ConnectionEvent;
use std::collections::HashMap;
use std::time::{Duration, Instant};

async fn house(asking: &[(&str, &FakeBusiness)]) -> House {
    let house = House::new().await;
    watch(&house.control, &[&house.router], asking).await;
    house
}

async fn login(node: &mut FakeNode, device: &str, attempt: u64, businesses: &[u32]) -> Session {
    let slot = attempt as u32;
    let (status, session) = node.try_bind(bind(device, slot, attempt, businesses)).await;
    assert_eq!(status, OK, "{device} is bound");
    session
}

/// For each device events come in the order of (epoch, online before offline); repetitions stay in place.
fn assert_in_order(events: &[ConnectionEvent]) {
    let mut last: HashMap<&str, (u64, i32)> = HashMap::new();
    for event in events {
        let place = (event.epoch, event.kind);
        let before = last.insert(&event.device, place).unwrap_or_default();
        assert!(before <= place, "{event:?} after {before:?}");
    }
}

#[tokio::test]
async fn a_business_hears_of_a_login_a_takeover_and_an_end_in_order() {
    let chat = FakeBusiness::start("chat").await;
    let house = house(&[("chat", &chat)]).await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 7).await;
    let _alive = node.keep_alive();
    let began = Instant::now();
    let first = login(&mut node, "a", 1, &[CHAT, LIVE]).await;
    chat.hears(&[first.epoch], &["a +1"]).await;
    assert!(began.elapsed() < Duration::from_secs(5), "it is told soon");
    let second = login(&mut node, "a", 2, &[CHAT]).await;
    let epochs = [first.epoch, second.epoch];
    chat.hears(&epochs, &["a +1", "a -1 superseded", "a +2"]).await;
    node.unbind(&second).await;
    chat.hears(&epochs, &["a +1", "a -1 superseded", "a +2", "a -2 closed"]).await;
    let events = chat.events();
    assert_eq!(events[0].connection_id, "node-1/0000000000000007/1.1");
    assert_eq!(events[3].connection_id, "node-1/0000000000000007/2.1");
    assert!(events.iter().all(|event| event.time_ms > 1_700_000_000_000), "{events:?}");

    // A session that does not serve it is none of its business.
    let other = login(&mut node, "b", 3, &[LIVE]).await;
    let third = login(&mut node, "a", 4, &[CHAT]).await;
    let epochs = [first.epoch, second.epoch, third.epoch, other.epoch];
    eventually(async || (chat.events().len() > 4).then_some(())).await;
    assert_eq!(chat.said(&epochs)[4..], ["a +3"]);
}

#[tokio::test]
async fn a_business_that_fails_hears_all_of_it_once_it_is_back_and_holds_up_nobody() {
    let (chat, live) = (FakeBusiness::start("chat").await, FakeBusiness::start("live").await);
    let house = house(&[("chat", &chat), ("live", &live)]).await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    for (mood, devices) in [(Mood::Fails, ["a", "b"]), (Mood::Hangs, ["c", "d"])] {
        chat.set(mood);
        let (calls, before) = (chat.calls(), live.events().len());
        let first = login(&mut node, devices[0], 1, &[CHAT, LIVE]).await;
        eventually(async || (chat.calls() > calls).then_some(())).await;
        let began = Instant::now();
        let second = login(&mut node, devices[1], 2, &[CHAT, LIVE]).await;
        eventually(async || (live.events().len() == before + 2).then_some(())).await;
        assert!(began.elapsed() < Duration::from_millis(2_500), "the other one hears in time");
        node.unbind(&second).await;
        eventually(async || (live.events().len() == before + 3).then_some(())).await;

        chat.set(Mood::Hears);
        let epochs = [first.epoch, second.epoch];
        let of_first = || {
            let mut said = chat.said(&epochs);
            said.retain(|it| it.starts_with(devices[0]));
            said
        };
        // A device that came and went meanwhile may not be told of at all.
        eventually(async || (!of_first().is_empty()).then_some(())).await;
        assert_eq!(of_first(), [format!("{} +1", devices[0])]);
        node.unbind(&first).await;
        eventually(async || (of_first().len() > 1).then_some(())).await;
        assert_eq!(of_first()[1..], [format!("{} -1 closed", devices[0])]);
    }
    assert_in_order(&chat.events());
    assert_in_order(&live.events());
    assert!(chat.calls() < 60, "tries come less and less often");
}

#[tokio::test]
async fn whoever_was_told_of_a_device_and_did_not_answer_hears_of_its_end() {
    let chat = FakeBusiness::start("chat").await;
    let house = house(&[("chat", &chat)]).await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    chat.set(Mood::Mute);
    let first = login(&mut node, "a", 1, &[CHAT]).await;
    chat.hears(&[first.epoch], &["a +1"]).await;
    node.unbind(&first).await;
    chat.set(Mood::Hears);
    let ended =
        async || chat.said(&[first.epoch]).contains(&"a -1 closed".to_owned()).then_some(());
    eventually(ended).await;
    assert_in_order(&chat.events());
}

#[tokio::test]
async fn a_device_that_flaps_while_the_business_is_away_is_told_of_twice_at_most() {
    let chat = FakeBusiness::start("chat").await;
    let house = house(&[("chat", &chat)]).await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    let first = login(&mut node, "a", 1, &[CHAT]).await;
    chat.hears(&[first.epoch], &["a +1"]).await;
    chat.set(Mood::Fails);
    node.unbind(&first).await;
    for attempt in 2..=1_000 {
        let session = login(&mut node, "a", attempt, &[CHAT]).await;
        node.unbind(&session).await;
    }
    let last = login(&mut node, "a", 1_001, &[CHAT]).await;
    assert_eq!(chat.events().len(), 1);
    eventually(async || {
        let name = "hawser_router_connection_events_waiting";
        (gauge(&house.registry, name) == 1).then_some(())
    })
    .await;
    chat.set(Mood::Hears);
    let epochs = [first.epoch, last.epoch];
    chat.hears(&epochs, &["a +1", "a -1 superseded", "a +2"]).await;
    node.unbind(&last).await;
    chat.hears(&epochs, &["a +1", "a -1 superseded", "a +2", "a -2 closed"]).await;
}

#[tokio::test]
async fn the_end_of_a_dead_node_is_told_for_each_of_its_sessions_once() {
    let chat = FakeBusiness::start("chat").await;
    let house = house(&[("chat", &chat)]).await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let alive = node.keep_alive();
    let mut sessions = Vec::new();
    for number in 1..=20 {
        sessions.push(login(&mut node, &format!("d{number}"), number, &[CHAT]).await);
    }
    eventually(async || (chat.events().len() == 20).then_some(())).await;
    drop(alive);
    drop(node);
    eventually(async || (chat.events().len() == 40).then_some(())).await;
    let events = chat.events();
    assert_in_order(&events);
    for session in &sessions {
        let said = chat.said(&[session.epoch]);
        let device = &session.device;
        assert!(said.contains(&format!("{device} +1")), "{said:?}");
        assert!(said.contains(&format!("{device} -1 lost")), "{said:?}");
    }
}

#[tokio::test]
async fn a_router_that_starts_again_loses_nothing() {
    let chat = FakeBusiness::start("chat").await;
    let house = house(&[("chat", &chat)]).await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let alive = node.keep_alive();
    let kept = login(&mut node, "kept", 1, &[CHAT]).await;
    chat.hears(&[kept.epoch], &["kept +1"]).await;
    chat.set(Mood::Fails);
    node.unbind(&kept).await;
    let fresh = login(&mut node, "fresh", 2, &[CHAT]).await;
    let calls = chat.calls();
    eventually(async || (chat.calls() > calls).then_some(())).await;
    drop(alive);
    drop(node);
    let house = house.restart().await;
    let node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    chat.set(Mood::Hears);
    let epochs = [kept.epoch, fresh.epoch];
    eventually(async || (chat.events().len() >= 3).then_some(())).await;
    let mut said = chat.said(&epochs)[1..].to_vec();
    said.sort();
    assert_eq!(said, ["fresh +2", "kept -1 closed"]);
}

#[tokio::test]
async fn a_business_that_begins_to_ask_hears_of_the_next_session() {
    let chat = FakeBusiness::start("chat").await;
    let house = House::new().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    login(&mut node, "a", 1, &[CHAT]).await;
    watch(&house.control, &[&house.router], &[("chat", &chat)]).await;
    let second = login(&mut node, "a", 2, &[CHAT]).await;
    chat.hears(&[second.epoch], &["a +1"]).await;
}

#[tokio::test]
async fn when_the_router_that_tells_falls_silent_another_one_goes_on() {
    let Some(cluster) = Cluster::start().await else { return };
    let chat = FakeBusiness::start("chat").await;
    let routers = [&cluster.first.router, &cluster.second.router];
    watch(&cluster.control, &routers, &[("chat", &chat)]).await;
    let mut node = FakeNode::connect(&cluster.second.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    let first = login(&mut node, "a", 1, &[CHAT]).await;
    chat.hears(&[first.epoch], &["a +1"]).await;

    // As if it were paused: it neither keeps its duties nor gives them back.
    let (first_told, second_told) =
        (heard(&cluster.first.registry), heard(&cluster.second.registry));
    assert_eq!(first_told + second_told, 1, "one of them told it");
    let (holder, other) = match first_told {
        1 => (&cluster.first, &cluster.second),
        _ => (&cluster.second, &cluster.first),
    };
    holder.store.set(Mode::Hangs);
    let mut node = FakeNode::connect(&other.internal(), "node-2", 2).await;
    let _alive_too = node.keep_alive();
    let second = login(&mut node, "a", 2, &[CHAT]).await;
    let epochs = [first.epoch, second.epoch];
    chat.hears(&epochs, &["a +1", "a -1 superseded", "a +2"]).await;
    holder.store.set(Mode::Answers);
    node.unbind(&second).await;
    chat.hears(&epochs, &["a +1", "a -1 superseded", "a +2", "a -2 closed"]).await;
    assert_in_order(&chat.events());
}

/// Events that businesses have heard from this router.
fn heard(registry: &prometheus::Registry) -> u64 {
    let families = registry.gather();
    let name = "hawser_router_connection_events_total";
    let family = families.iter().find(|family| family.name() == name).expect("it is registered");
    let of_heard = family.get_metric().iter().find(|it| it.get_label()[0].value() == "heard");
    of_heard.map_or(0, |it| it.get_counter().get_value() as u64)
}
