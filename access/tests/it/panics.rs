//! What a bug in one part ends: that part.

use crate::fakes::dial::Dial;
use crate::house::{APP, CHAT, House};
use hawser_access::{Curse, Part};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::params;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Strikes once, where `what` is at work in this part.
fn once(part: Part, what: &'static str) -> Curse {
    let is_left = AtomicBool::new(true);
    Curse::new(move |at, at_what| {
        at == part && at_what == what && is_left.swap(false, Ordering::Relaxed)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_panics_closes_its_connections_and_begins_anew() {
    let house = House::start_with(|config| config.curse = once(Part::Lane, "cursed")).await;
    for group in ["room", "cursed", "other"] {
        house.router.create_group(APP, group, CHAT);
    }
    // Two lanes: slots 0, 2 and 1, 3.
    let mut devices = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let mut device = house.device(name).await;
        device.enter("room").await;
        devices.push(device);
    }
    let [a, b, c, d] = &mut devices[..] else { unreachable!("four devices") };
    c.enter("other").await;
    a.join(9, "cursed").await;
    for device in [a, c] {
        let NodeFrame::Close(close) = device.frame().await else { panic!("wanted CLOSE") };
        assert_eq!(close.code, u32::from(CloseCode::Internal.number()));
        assert!((1_000..=3_000).contains(&close.retry_after_ms), "{}", close.retry_after_ms);
    }
    house.metric_is("hawser_access_panics_total", &[("part", "lane")], 1).await;
    house.metric_is("hawser_access_connections", &[], 2).await;
    // The other lane has not noticed.
    let report = house.router.deliver(house.push_group("room", b"two of four")).await;
    assert_eq!((report.members, report.written), (2, 2));
    for device in [&mut *b, &mut *d] {
        assert_eq!(device.pushed().await, b"two of four");
        device.settle().await;
    }
    // Whoever comes back to the lane is served by the new one.
    let mut back = Vec::new();
    for name in ["a", "c"] {
        let mut device = house.device(name).await;
        device.enter("room").await;
        device.enter("cursed").await;
        back.push(device);
    }
    let report = house.router.deliver(house.push_group("room", b"all four")).await;
    assert_eq!((report.members, report.written), (4, 4));
    for device in [b, d].into_iter().chain(&mut back) {
        assert_eq!(device.pushed().await, b"all four");
    }
    // No claim on a group was left behind: the last one to leave says so.
    drop((back, devices));
    for group in ["room", "cursed", "other"] {
        let is_gone = || house.router.group_reports(group).last().is_some_and(|&(_, it)| !it);
        crate::eventually("the last leave is reported", || is_gone().then_some(())).await;
    }
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_the_middle_of_a_fan_out_ends_its_lane_and_no_other() {
    let struck = Arc::new(AtomicBool::new(false));
    let now = struck.clone();
    let curse = Curse::new(move |part, what| {
        part == Part::Lane && what == "room" && now.swap(false, Ordering::Relaxed)
    });
    let house = House::start_with(|config| config.curse = curse).await;
    house.router.create_group(APP, "room", CHAT);
    let (mut a, mut b) = (house.device("a").await, house.device("b").await);
    a.enter("room").await;
    b.enter("room").await;
    struck.store(true, Ordering::Relaxed);
    let hinted = house.router.hint(house.push_group("room", b"once")).await;
    // One of the two lanes was struck after it had written.
    assert_eq!((a.pushed().await, b.pushed().await), (b"once".to_vec(), b"once".to_vec()));
    house.metric_is("hawser_access_panics_total", &[("part", "lane")], 1).await;
    house.metric_is("hawser_access_connections", &[], 1).await;
    let report = house.router.deliver(house.push_group("room", b"one is left")).await;
    assert_eq!(report.members, 1);
    assert!(!house.router.has_report(hinted), "nobody can say what became of the first");
    drop((a, b));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_panics_is_answered_and_the_next_one_is_served() {
    let house = House::start_with(|config| {
        config.curse = Curse::new(|part, what| part == Part::Request && what == "cursed");
    })
    .await;
    let mut device = house.device("d").await;
    let cursed = |request_id| {
        let method = "cursed".to_owned();
        let request = params::Request { request_id, business: CHAT, method, ..Default::default() };
        DeviceFrame::Request(request, bytes::Bytes::new())
    };
    // More than may be in flight at once: none is left behind.
    for request_id in 1..=100 {
        device.send(&cursed(request_id)).await;
        let (response, _) = device.response().await;
        assert_eq!(
            (response.request_id, response.status),
            (request_id, ErrorCode::Internal.number())
        );
    }
    device.request(101, CHAT, b"fine").await;
    assert_eq!(device.response().await.0.status, 0);
    house.metric_is("hawser_access_panics_total", &[("part", "request")], 100).await;
    let (mut other, _) = house.login(Dial::Ws, "other").await;
    other.settle().await;
    drop((device, other));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_over_what_one_socket_says_closes_that_one_and_no_other_is_deaf() {
    let is_armed = Arc::new(AtomicBool::new(false));
    let armed = is_armed.clone();
    let curse = Curse::new(move |part, slot| {
        part == Part::Reactor && slot == "0" && armed.swap(false, Ordering::Relaxed)
    });
    let house = House::start_with(|config| config.curse = curse).await;
    // Two lanes: slots 0, 2 and 1.
    let (mut a, mut b) = (house.device("a").await, house.device("b").await);
    let mut c = house.device("c").await;
    is_armed.store(true, Ordering::Relaxed);
    a.ping(1).await;
    let NodeFrame::Close(close) = a.frame().await else { panic!("wanted CLOSE") };
    assert_eq!(close.code, u32::from(CloseCode::Internal.number()));
    house.metric_is("hawser_access_panics_total", &[("part", "reactor")], 1).await;
    for device in [&mut b, &mut c, &mut house.device("a").await] {
        device.settle().await;
    }
    drop((a, b, c));
    house.ends_clean().await;
}
