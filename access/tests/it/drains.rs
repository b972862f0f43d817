//! A node that goes: who is told, how fast, how long they have, and what becomes of those who stay.

use crate::fakes::device::{Device, Got};
use crate::fakes::dial::Dial;
use crate::fakes::router::Binding;
use crate::fakes::tokens;
use crate::house::{APP, CHAT, House, business, push_to};
use crate::{PATIENCE, eventually};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::params::{self, Close, GoAway};
use hawser_proto::rpc::business::HandleResponse;
use hawser_proto::rpc::control::{self, AccessPoint, change::Entity};
use hawser_proto::rpc::node::bind_result::Status;
use hawser_proto::rpc::push::Outcome;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

fn point(host: &str, port: u16) -> AccessPoint {
    AccessPoint {
        protocol: "tcp".into(),
        host: host.into(),
        port: port.into(),
        ..Default::default()
    }
}

/// Control names another node, and by mistake this one.
async fn elsewhere(house: &House) {
    let here = house.node.address("tcp").unwrap();
    let alternatives = vec![point("127.0.0.1", here.port()), point("elsewhere", 7100)];
    house.control.advise(|answer| answer.alternatives = alternatives);
    after_reports(house, 2).await;
}

/// Waits until control has been told, and has answered, so many times more.
async fn after_reports(house: &House, more: usize) {
    let before = house.control.reports().len();
    let look = || (house.control.reports().len() >= before + more).then_some(());
    eventually("reports", look).await;
}

/// A device that knows the word.
async fn wise(house: &House, how: Dial, name: &str) -> Device {
    let mut device = house.dial(how).await;
    let mut login = device.login_frame(APP, name, tokens::token(APP, name));
    login.abilities = ability::GO_AWAY;
    device.send(&DeviceFrame::Login(login)).await;
    assert_eq!(device.login_ok().await.abilities, ability::GO_AWAY);
    device
}

async fn told(device: &mut Device) -> GoAway {
    match device.frame().await {
        NodeFrame::GoAway(told) => told,
        other => panic!("wanted GO_AWAY, got {other:?}"),
    }
}

async fn close(device: &mut Device) -> Close {
    match device.frame().await {
        NodeFrame::Close(close) => close,
        other => panic!("wanted CLOSE, got {other:?}"),
    }
}

fn hosts(points: &[params::AccessPoint]) -> Vec<&str> {
    points.iter().map(|point| &point.host[..]).collect()
}

/// A business that answers when the gate lets it.
fn gated(house: &House) -> Arc<Semaphore> {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    house.business.answer(move |_| {
        let gate = held.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(HandleResponse::default())
        }
    });
    gate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_drain_tells_all_refuses_all_and_is_over_when_the_order_is() {
    let house = House::start().await;
    elsewhere(&house).await;
    let mut all = Vec::new();
    for how in Dial::ALL {
        all.push(wise(&house, how, how.name()).await);
    }
    house.control.order_drain(Some((7, 1_000)));
    for device in &mut all {
        let told = told(device).await;
        assert_eq!((told.deadline_ms, hosts(&told.alternatives)), (30_000, vec!["elsewhere"]));
    }
    // Those who were told are served as before.
    for device in &mut all {
        device.request(1, CHAT, b"still here").await;
        assert_eq!(device.response().await.0.status, 0);
        device.settle().await;
    }
    assert!(!house.node.is_ready());
    let report = eventually("the drain is reported", || {
        house.control.report().filter(|report| report.drain_told == 5)
    })
    .await;
    assert_eq!((report.draining, report.drain_order, report.drain_sessions), (true, 7, 5));
    // Nobody new, on any way in.
    let refused = close(&mut house.dial(Dial::Tcp).await).await;
    assert_eq!(refused.code, u32::from(CloseCode::Draining.number()));
    assert_eq!(hosts(&refused.alternatives), ["elsewhere"]);
    assert!(refused.retry_after_ms >= 1_000);
    let report = eventually("the refusal is reported", || {
        house.control.reports().into_iter().find(|report| report.refused > 0)
    })
    .await;
    assert_eq!(report.refused, 1);
    // They go when they are elsewhere.
    for device in &mut all {
        device.send(&DeviceFrame::Bye(Close::default())).await;
        assert_eq!(device.closed().await, CloseCode::Goodbye);
    }
    house.control.order_drain(None);
    eventually("it accepts again", || house.node.is_ready().then_some(())).await;
    let mut late = wise(&house, Dial::Tcp, "late").await;
    late.settle().await;
    let report =
        eventually("that is reported", || house.control.report().filter(|report| !report.draining))
            .await;
    assert_eq!((report.drain_order, report.drain_sessions, report.drain_told), (0, 0, 0));
    house.metric_is("hawser_access_drain_told_total", &[], 5).await;
    drop((late, all));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stays_beyond_the_deadline_is_closed_once_its_requests_are_answered() {
    let house =
        House::start_with(|config| config.go_away_deadline = Duration::from_millis(400)).await;
    elsewhere(&house).await;
    let gate = gated(&house);
    let mut device = wise(&house, Dial::Tcp, "d").await;
    let mut idle = wise(&house, Dial::Ws, "idle").await;
    device.request(1, CHAT, b"slow").await;
    eventually("the request is there", || (house.business.seen_count() == 1).then_some(())).await;
    let begun = Instant::now();
    house.node.drain(1_000);
    assert_eq!(told(&mut device).await.deadline_ms, 400);
    told(&mut idle).await;
    assert_eq!(idle.closed().await, CloseCode::Draining);
    assert!(begun.elapsed() >= Duration::from_millis(400), "not before its time");
    // Time is over for the other, too: its request is waited for, a new one is not taken.
    let status = loop {
        device.request(2, CHAT, b"new").await;
        match device.response().await.0 {
            refused if refused.status != 0 => break refused.status,
            _ => {}
        }
    };
    assert_eq!(status, ErrorCode::Unavailable.number());
    gate.add_permits(10);
    assert_eq!(device.response().await.0.request_id, 1);
    let close = close(&mut device).await;
    assert_eq!(close.code, u32::from(CloseCode::Draining.number()));
    assert_eq!(hosts(&close.alternatives), ["elsewhere"]);
    assert_eq!(device.got().await, Got::End);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_has_moved_gets_the_answers_it_is_owed_and_nothing_else() {
    const TAKES: Duration = Duration::from_secs(3);
    let house = House::start().await;
    elsewhere(&house).await;
    house.router.create_group(APP, "room", CHAT);
    house.business.answer(|_| async {
        tokio::time::sleep(TAKES).await;
        Ok(HandleResponse::default())
    });
    let mut device = wise(&house, Dial::Ws, "d").await;
    device.enter("room").await;
    device.request(1, CHAT, b"slow").await;
    let begun = Instant::now();
    eventually("the request is there", || (house.business.seen_count() == 1).then_some(())).await;
    house.node.drain(1_000);
    told(&mut device).await;
    let route = house.route("d");
    assert!(house.router.kick(&route, CloseCode::Superseded).await);
    // Its session is over at once, whatever it is still owed.
    eventually("it is unbound", || house.router.route(APP, "d").is_none().then_some(())).await;
    house.metric_is("hawser_access_groups", &[], 0).await;
    house.metric_is("hawser_access_sessions", &[], 0).await;
    let report = house.router.deliver(push_to(std::slice::from_ref(&route), b"not here")).await;
    assert_eq!(report.outcomes, [Outcome::Stale as u32]);
    assert_eq!(house.router.deliver(house.push_group("room", b"nor here")).await.members, 0);
    // It is told of nothing new, and what is new is not done for it.
    device.join(2, "room").await;
    device.request(3, CHAT, b"new").await;
    let (refused, _) = device.response().await;
    assert_eq!((refused.request_id, refused.status), (3, ErrorCode::Unavailable.number()));
    device.settle().await;
    assert!(begun.elapsed() < TAKES, "all this before the answer");
    let (answer, _) = device.response().await;
    assert_eq!((answer.request_id, answer.status), (1, 0));
    assert_eq!(device.closed().await, CloseCode::Superseded);
    assert_eq!(house.business.seen_count(), 1);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_has_moved_and_is_owed_nothing_is_closed_at_once() {
    let house = House::start().await;
    elsewhere(&house).await;
    let gate = gated(&house);
    // The one is owed nothing; the other was not told, so it does not wait for answers either.
    let mut idle = wise(&house, Dial::Tcp, "idle").await;
    house.node.drain(1_000);
    told(&mut idle).await;
    house.node.undrain();
    eventually("it accepts again", || house.node.is_ready().then_some(())).await;
    let mut stays = wise(&house, Dial::Tcp, "stays").await;
    stays.request(1, CHAT, b"slow").await;
    eventually("the request is there", || (house.business.seen_count() == 1).then_some(())).await;
    let begun = Instant::now();
    for (name, device) in [("idle", &mut idle), ("stays", &mut stays)] {
        assert!(house.router.kick(&house.route(name), CloseCode::Superseded).await);
        assert_eq!(device.closed().await, CloseCode::Superseded, "{name}");
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    gate.add_permits(1);
    house.ends_clean().await;
}

/// Requests that are never answered, of a device that goes on asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_moved_keeps_its_place_no_longer_than_requests_have_time() {
    for patience in [None, Some(Duration::from_secs(2))] {
        let house =
            House::start_with(|config| config.go_away_deadline = Duration::from_secs(5)).await;
        elsewhere(&house).await;
        let gate = gated(&house);
        let chat = business(APP, "chat", CHAT, &[&house.business.uri]);
        let patient = control::Business { request_timeout_ms: 60_000, ..chat };
        house.put(Entity::Business(patient)).await;
        let mut device = wise(&house, Dial::Tcp, "d").await;
        device.request(1, CHAT, b"never").await;
        let seen = || (house.business.seen_count() == 1).then_some(());
        eventually("the request is there", seen).await;
        house.node.drain(1_000);
        told(&mut device).await;
        assert!(house.router.kick(&house.route("d"), CloseCode::Superseded).await);
        let begun = Instant::now();
        let ending = patience.map(|patience| tokio::spawn(house.node.clone().shutdown(patience)));
        // Asked one after the other, so that all that is said is heard.
        let close = loop {
            device.request(2, CHAT, b"more").await;
            match device.frame().await {
                NodeFrame::Response(refused, _) => {
                    assert_eq!(refused.status, ErrorCode::Unavailable.number());
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                NodeFrame::Close(close) => break close,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(close.code, u32::from(CloseCode::Superseded.number()));
        let waited = begun.elapsed();
        let limit = patience.unwrap_or(Duration::from_secs(5));
        assert!(waited < limit + Duration::from_secs(1), "{waited:?}");
        assert!(waited > limit / 2, "it has what time there is: {waited:?}");
        drop(device);
        house.metric_is("hawser_access_connections", &[], 0).await;
        gate.add_permits(1);
        if let Some(ending) = ending {
            ending.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_are_told_together_do_not_all_begin_at_the_same_node() {
    let house = House::start().await;
    let here = house.node.address("tcp").unwrap();
    let alternatives = [("one", 7100), ("127.0.0.1", here.port()), ("two", 7100)];
    let alternatives = alternatives.map(|(host, port)| point(host, port)).to_vec();
    house.control.advise(|answer| answer.alternatives = alternatives);
    after_reports(&house, 2).await;
    let mut devices = Vec::new();
    for n in 0..40 {
        devices.push(wise(&house, Dial::Tcp, &format!("d{n}")).await);
    }
    house.node.drain(1_000);
    let mut first = BTreeMap::new();
    for device in &mut devices {
        let told = told(device).await;
        let mut named = hosts(&told.alternatives);
        *first.entry(named[0].to_owned()).or_insert(0) += 1;
        named.sort_unstable();
        assert_eq!(named, ["one", "two"]);
    }
    assert_eq!(first.len(), 2, "{first:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_nowhere_to_go_nobody_waits_long() {
    let house = House::start().await;
    let mut device = wise(&house, Dial::Tcp, "d").await;
    house.node.drain(0);
    let told = told(&mut device).await;
    assert_eq!((told.deadline_ms, told.alternatives.len()), (5_000, 0));
    house.node.undrain();
    eventually("it accepts again", || house.node.is_ready().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_twice_and_who_does_not_know_the_word_is_closed_in_turn() {
    let house = House::start().await;
    elsewhere(&house).await;
    let gate = gated(&house);
    let mut wise = wise(&house, Dial::Tcp, "wise").await;
    let mut plain = house.device("plain").await;
    let mut busy = house.device("busy").await;
    busy.request(1, CHAT, b"slow").await;
    eventually("the request is there", || (house.business.seen_count() == 1).then_some(())).await;
    house.control.order_drain(Some((1, 1_000)));
    told(&mut wise).await;
    let close = close(&mut plain).await;
    assert_eq!(close.code, u32::from(CloseCode::Draining.number()));
    assert_eq!(hosts(&close.alternatives), ["elsewhere"]);
    // The next order comes while the first one's word holds.
    house.control.order_drain(Some((2, 1_000)));
    eventually("the new order is followed", || {
        house.control.report().filter(|report| report.drain_order == 2)
    })
    .await;
    busy.settle().await;
    wise.settle().await;
    gate.add_permits(1);
    assert_eq!(busy.response().await.0.status, 0);
    assert_eq!(busy.closed().await, CloseCode::Draining);
    drop(wise);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_in_the_middle_of_a_drain_is_told_as_well() {
    let house = House::start().await;
    elsewhere(&house).await;
    house.router.binds(Binding::Hold);
    let mut devices = Vec::new();
    for (name, abilities) in [("wise", ability::GO_AWAY), ("plain", 0)] {
        let mut device = house.dial(Dial::Tcp).await;
        let mut login = device.login_frame(APP, name, tokens::token(APP, name));
        login.abilities = abilities;
        device.send(&DeviceFrame::Login(login)).await;
        devices.push(device);
    }
    eventually("both are on their way in", || (house.router.held().len() == 2).then_some(())).await;
    // A stranger has nothing to lose.
    let mut stranger = house.dial(Dial::Tcp).await;
    house.metric_is("hawser_access_connections", &[], 3).await;
    house.node.drain(1_000);
    assert_eq!(stranger.closed().await, CloseCode::Draining);
    house.router.answer_held(Status::Ok);
    let [wise, plain] = &mut devices[..] else { unreachable!("two devices") };
    wise.login_ok().await;
    told(wise).await;
    plain.login_ok().await;
    assert_eq!(plain.closed().await, CloseCode::Draining);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_told_at_the_rate_that_was_set() {
    const RATE: u32 = 40;
    let house = House::start().await;
    elsewhere(&house).await;
    let mut devices = Vec::new();
    for n in 0..100 {
        devices.push(wise(&house, Dial::Tcp, &format!("d{n}")).await);
    }
    house.control.order_drain(Some((1, RATE)));
    let when = devices.iter_mut().map(async |device| {
        told(device).await;
        Instant::now()
    });
    let mut when = futures_util::future::join_all(when).await;
    when.sort();
    let within = |from: Instant| {
        let second = Duration::from_secs(1);
        when.iter().filter(|&&at| at >= from && at < from + second).count()
    };
    let most = when.iter().map(|&from| within(from)).max().unwrap();
    assert!(most <= RATE as usize * 12 / 10, "{most} in a second");
    let whole = *when.last().unwrap() - when[0];
    assert!(whole < Duration::from_secs_f64(100.0 / f64::from(RATE) * 1.5), "{whole:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_keeps_to_its_patience_whoever_stays() {
    let house = House::start().await;
    elsewhere(&house).await;
    // An order comes first, with more time than the end has.
    let mut device = wise(&house, Dial::Tcp, "d").await;
    let mut leaves = wise(&house, Dial::Tls, "leaves").await;
    house.control.order_drain(Some((1, 1_000)));
    assert_eq!(told(&mut device).await.deadline_ms, 30_000);
    told(&mut leaves).await;
    let (begun, patience) = (Instant::now(), Duration::from_secs(3));
    let ending = tokio::spawn(house.node.clone().shutdown(patience));
    leaves.send(&DeviceFrame::Bye(Close::default())).await;
    assert_eq!(leaves.closed().await, CloseCode::Goodbye);
    assert_eq!(device.closed().await, CloseCode::Draining);
    let waited = begun.elapsed();
    assert!(waited > patience / 2, "it has what time there is: {waited:?}");
    assert!(ending.await.unwrap(), "nothing was left");
    assert!(begun.elapsed() < patience);
    // Control no longer says drain, and is not heard any more.
    assert!(!house.node.is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patience_that_is_too_short_makes_the_drain_faster_and_still_ends_it() {
    let house = House::start_with(|config| config.drain_per_second = 5).await;
    let mut devices = Vec::new();
    for n in 0..60 {
        devices.push(house.device(&format!("d{n}")).await);
    }
    let begun = Instant::now();
    let ending = tokio::spawn(house.node.clone().shutdown(Duration::from_secs(3)));
    for device in &mut devices {
        assert_eq!(device.closed().await, CloseCode::Draining);
    }
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(3) && waited > Duration::from_secs(1), "{waited:?}");
    assert!(ending.await.unwrap());
    assert!(begun.elapsed() < PATIENCE);
}
