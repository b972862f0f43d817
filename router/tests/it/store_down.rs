//! The store is away: sessions stay, nothing stalls, what is refused is refused in time, and afterwards
//! everything is as it should be.

use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, OK, WRITTEN, announcement, bind};
use crate::kit::store::Mode;
use crate::kit::{Client, House, LEASE, by, code, eventually, stored, to_one, within};
use crate::stored::{place, push};
use hawser_chassis::grpc::channel;
use hawser_proto::rpc::node::answer::Status as Answered;
use hawser_proto::rpc::node::bind_result::Status;
use hawser_proto::rpc::node::{Bind, KickDone, SweepNow, down, up};
use hawser_proto::rpc::push::{DisconnectRequest, Outcome, PresenceRequest, PresenceState};
use std::time::{Duration, Instant};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const UNAVAILABLE: i32 = Status::Unavailable as i32;
const TIMEOUT: Duration = Duration::from_millis(200);

async fn house() -> House {
    House::with(|config| config.store_call_timeout = TIMEOUT).await
}

async fn state(client: &Client, device: &str) -> PresenceState {
    let request = PresenceRequest { devices: vec![device.to_owned()] };
    let answer = client.clone().get_presence(by("demo-chat", request)).await.unwrap().into_inner();
    answer.devices[0].state()
}

#[tokio::test]
async fn a_store_that_hangs_disconnects_nobody() {
    sessions_outlive(Mode::Hangs).await;
}

#[tokio::test]
async fn a_store_that_fails_disconnects_nobody() {
    sessions_outlive(Mode::Fails).await;
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_disconnects_nobody() {
    sessions_outlive(Mode::Unreachable).await;
}

#[tokio::test]
async fn a_store_that_takes_no_writes_disconnects_nobody() {
    sessions_outlive(Mode::ReadOnly).await;
}

#[tokio::test]
async fn a_store_that_does_and_does_not_answer_disconnects_nobody() {
    sessions_outlive(Mode::IsSilent).await;
}

async fn sessions_outlive(mode: Mode) {
    let house = house().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    let session = node.bind("a", 1, &[CHAT]).await;
    node.all_told().await;
    house.complete().await;
    house.store.set(mode);
    let began = Instant::now();
    assert_eq!(node.try_bind(bind("b", 2, 1, &[CHAT])).await.0, UNAVAILABLE, "{mode:?}");
    let told = node.try_bind(announcement(&session, &[CHAT])).await;
    assert_eq!(told.0, UNAVAILABLE, "{mode:?}: it will tell again");
    assert!(began.elapsed() < 10 * TIMEOUT, "{mode:?}");
    assert_eq!(state(&client, "a").await, PresenceState::Online);
    assert_eq!(state(&client, "b").await, PresenceState::Offline);
    let pushed = async { client.clone().unicast(by("demo-chat", to_one("a"))).await };
    let (answer, _) = within(async { tokio::join!(pushed, node.deliver(WRITTEN)) }).await;
    assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Written, "{mode:?}");
    // Longer than the lease: who is heard here lives without the store. Who has no route may be elsewhere.
    tokio::time::sleep(LEASE + LEASE / 2).await;
    assert_eq!(state(&client, "a").await, PresenceState::Online, "{mode:?}");
    let now = state(&client, "c").await;
    let can_be_asked = matches!(mode, Mode::ReadOnly | Mode::IsSilent);
    let expected = if can_be_asked { PresenceState::Offline } else { PresenceState::Unknown };
    assert_eq!(now, expected, "{mode:?}");
    house.store.set(Mode::Answers);
    let again = eventually(async || {
        let told = node.try_bind(announcement(&session, &[CHAT])).await;
        (told.0 == OK).then_some(told.1)
    });
    assert_eq!(again.await.epoch, session.epoch, "{mode:?}");
    assert_eq!(node.try_bind(bind("b", 2, 2, &[CHAT])).await.0, OK, "{mode:?}");
}

#[tokio::test]
async fn a_router_that_starts_anew_while_the_store_is_away_believes_the_nodes() {
    let house = house().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    let house = house.restart().await;
    house.store.set(Mode::Fails);
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    assert_eq!(node.try_bind(announcement(&session, &[CHAT])).await.0, UNAVAILABLE);
    assert_eq!(state(&client, "a").await, PresenceState::Online);
    let pushed = async { client.clone().unicast(by("demo-chat", to_one("a"))).await };
    let (answer, _) = within(async { tokio::join!(pushed, node.deliver(WRITTEN)) }).await;
    assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Written);
}

#[tokio::test]
async fn a_hanging_store_stalls_no_control_stream_however_many_log_in() {
    let house = House::with(|config| {
        config.store_call_timeout = Duration::from_secs(3);
        config.call_timeout = Duration::from_secs(3);
    })
    .await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    house.store.set(Mode::Hangs);
    let began = Instant::now();
    for call in 0..1_200u32 {
        let wish = bind(&format!("d{call}"), 100 + call, 1, &[CHAT]);
        node.send(up::What::Bind(Bind { call: 10_000 + u64::from(call), ..wish })).await;
    }
    // Those above the bound are answered at once, and a kick passes them all.
    let request = DisconnectRequest { device: "a".to_owned(), ..Default::default() };
    let call = client.disconnect(by("demo-chat", request));
    let mut refused = 0;
    let reading = async {
        let mut kicked = false;
        while !kicked || refused < 1_200 - 1_024 {
            match node.word().await.expect("the stream is open") {
                down::What::BindResult(result) => {
                    assert_eq!(result.status, UNAVAILABLE);
                    refused += 1;
                }
                down::What::Kick(kick) => {
                    assert_eq!(kick.epoch, session.epoch);
                    let done = KickDone { call: kick.call, matched: true };
                    node.send(up::What::KickDone(done)).await;
                    kicked = true;
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let (answer, ()) = within(async { tokio::join!(call, reading) }).await;
    assert!(answer.unwrap().into_inner().was_online);
    assert!(began.elapsed() < Duration::from_secs(2), "nobody waited for the store");
    while refused < 1_200 {
        if let Some(down::What::BindResult(_)) = within(node.word()).await {
            refused += 1;
        }
    }
    assert!(began.elapsed() >= Duration::from_secs(3), "the others did");
}

#[tokio::test]
async fn an_end_that_the_store_did_not_take_is_told_when_it_is_back() {
    let house = house().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    let session = node.bind("a", 1, &[CHAT]).await;
    node.all_told().await;
    house.complete().await;
    house.store.set(Mode::Fails);
    node.unbind(&session).await;
    eventually(async || (state(&client, "a").await == PresenceState::Offline).then_some(())).await;
    let before = house.store.releases();
    house.store.set(Mode::Answers);
    eventually(async || (house.store.releases() > before).then_some(())).await;
    // Nobody has it any more: a push finds no owner, and a login displaces none.
    push(&client, stored("a", "one")).await;
    let next = node.bind_result(bind("a", 2, 2, &[CHAT])).await;
    assert_eq!((next.status, next.inboxes.len()), (OK, 1));
    push(&client, stored("a", "two")).await;
    let delivery = node.delivery().await;
    assert_eq!((delivery.wake, delivery.targets[0].slot), (1, 2));
}

fn slots(sweep: &SweepNow) -> Vec<u32> {
    sweep.sessions.iter().map(|it| it.slot).collect()
}

#[tokio::test]
async fn a_claim_without_an_answer_has_the_session_of_now_asked_for_and_no_other() {
    let house = house().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    let session = node.bind("a", 1, &[CHAT]).await;
    node.bind("b", 2, &[CHAT]).await;
    house.store.set(Mode::IsSilent);
    assert_eq!(node.try_bind(bind("a", 3, 2, &[CHAT])).await.0, UNAVAILABLE);
    assert_eq!(slots(&within(node.sweep_now()).await), [session.slot]);
}

#[tokio::test]
async fn a_stored_push_is_unknown_or_refused_and_never_stored_twice() {
    let house = house().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    let session = node.bind("a", 1, &[CHAT]).await;
    house.store.set(Mode::ReadOnly);
    let refused = client.unicast(by("demo-chat", stored("a", "p"))).await;
    assert_eq!(code(refused), "unavailable", "certainly not stored");
    house.store.set(Mode::IsSilent);
    let answer = push(&client, stored("a", "p")).await;
    assert_eq!((answer.outcome(), place(answer.stored)), (Outcome::Unknown, (0, 0)));
    // It may be there, so the node is to ask; and it is there.
    assert_eq!(slots(&within(node.sweep_now()).await), [session.slot]);
    house.store.set(Mode::Answers);
    let pulled = node.pull(&session, CHAT, (0, 0)).await;
    assert_eq!(pulled.entries.len(), 1);
    let again = push(&client, stored("a", "p")).await.stored.unwrap();
    let place = pulled.entries[0].place.unwrap();
    assert_eq!((again.term, again.seq, again.repeated), (place.term, place.seq, true));
}

#[tokio::test]
async fn a_push_in_doubt_to_a_device_that_is_not_here_makes_nobody_sweep() {
    let house = house().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    let session = node.bind("a", 1, &[CHAT]).await;
    house.store.set(Mode::Fails);
    for _ in 0..5 {
        assert_eq!(push(&client, stored("away", "p")).await.outcome(), Outcome::Unknown);
    }
    // Long enough for what was put off to be said.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let request = DisconnectRequest { device: "a".to_owned(), ..Default::default() };
    let call = client.disconnect(by("demo-chat", request));
    let told = async {
        let kick = node.kick().await;
        assert_eq!(kick.epoch, session.epoch);
        node.kick_done(&kick, true).await;
    };
    let (answer, ()) = within(async { tokio::join!(call, told) }).await;
    assert!(answer.unwrap().into_inner().was_online);
}

#[tokio::test]
async fn what_nodes_ask_is_answered_unavailable_and_asked_again() {
    let house = house().await;
    let client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    let session = node.bind("a", 1, &[CHAT]).await;
    let here = place(push(&client, stored("a", "p")).await.stored);
    house.store.set(Mode::Hangs);
    let mut calls = Vec::new();
    for _ in 0..600 {
        let pull = hawser_proto::rpc::node::Pull {
            session: Some(session.named()),
            business: CHAT,
            entries_max: 1,
            ..Default::default()
        };
        calls.push(node.send_ask(hawser_proto::rpc::node::ask::What::Pull(pull)).await);
    }
    for call in calls {
        assert_eq!(node.answer(call).await.status(), Answered::Unavailable);
    }
    house.store.set(Mode::Answers);
    let pulled = eventually(async || {
        let pulled = node.pull(&session, CHAT, (0, 0)).await;
        (pulled.status() == Answered::Ok).then_some(pulled)
    });
    assert_eq!(pulled.await.entries.len(), 1);
    assert_eq!(node.ack(&session, CHAT, here).await.status(), Answered::Ok);
}

#[tokio::test]
async fn after_five_seconds_stored_pushes_are_refused_at_once_and_health_says_so() {
    tokio::join!(is_given_up(Mode::Hangs), is_given_up(Mode::Unreachable));
}

async fn is_given_up(mode: Mode) {
    let house = house().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    node.bind("a", 1, &[CHAT]).await;
    let health = async |service: &str| {
        let channel = channel(&format!("http://{}", house.router.push_addr())).unwrap();
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
    };
    const STORED: &str = "hawser.push.v1.Push.stored";
    assert_eq!(health(STORED).await, ServingStatus::Serving);
    house.store.set(mode);
    let _ = client.unicast(by("demo-chat", stored("a", "p"))).await;
    eventually(async || (health(STORED).await == ServingStatus::NotServing).then_some(())).await;
    assert_eq!(health("hawser.push.v1.Push").await, ServingStatus::Serving, "the rest goes on");
    let began = Instant::now();
    let refused = client.unicast(by("demo-chat", stored("a", "q"))).await;
    assert_eq!(code(refused), "unavailable");
    assert_eq!(node.try_bind(bind("b", 2, 1, &[CHAT])).await.0, UNAVAILABLE);
    assert!(began.elapsed() < TIMEOUT, "nobody waits in vain");
    let call = client.unicast(by("demo-chat", to_one("a")));
    let (answer, _) = within(async { tokio::join!(call, node.deliver(WRITTEN)) }).await;
    assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Written);
    house.store.set(Mode::Answers);
    eventually(async || (health(STORED).await == ServingStatus::Serving).then_some(())).await;
    within(node.sweep_now()).await;
    assert_eq!(push(&client, stored("a", "q")).await.outcome(), Outcome::Stored);
}
