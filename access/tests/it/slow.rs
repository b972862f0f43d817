//! Devices that do not read: what waits for them is bounded, and only they suffer.

use crate::fakes::device::{Device, Got};
use crate::fakes::dial::{self, Dial};
use crate::fakes::tokens;
use crate::house::{APP, CHAT, House, app, business, push_frame, push_to};
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::limits::OUTBOX_BYTES_MAX;
use hawser_proto::rpc::control::{self as wire, SlowPolicy, change::Entity};
use hawser_proto::rpc::node::Delivery;
use hawser_proto::rpc::push::Outcome;
use std::time::{Duration, Instant};

const BODY: usize = 8 * 1024;

async fn house_with(policy: SlowPolicy, write_timeout: Duration) -> House {
    let house = House::start_with(|config| {
        config.send_buffer_bytes = 4 * 1024;
        config.write_timeout = write_timeout;
        config.linger = Duration::from_millis(100);
    })
    .await;
    let slow = wire::Business {
        slow_policy: policy.into(),
        ..business(APP, "chat", CHAT, &[&house.business.uri])
    };
    house.put(Entity::Business(slow)).await;
    house
}

/// A logged-in device whose kernel takes next to nothing.
async fn narrow(house: &House, name: &str) -> Device {
    let mut device = dial::narrow(house.node.address("tcp").unwrap()).await;
    let login = device.login_frame(APP, name, tokens::token(APP, name));
    device.send(&DeviceFrame::Login(login)).await;
    device.login_ok().await;
    device
}

/// Pushes numbered bodies to a device that does not read, until one is refused or `most` were sent.
/// Returns how many were taken, and the outcome that ended it.
async fn fill(house: &House, name: &str, most: u32) -> (u32, Option<u32>) {
    for n in 0..most {
        let mut body = vec![0; BODY];
        body[..4].copy_from_slice(&n.to_be_bytes());
        let report = house.router.deliver(push_to(&[house.route(name)], &body)).await;
        if report.outcomes != [Outcome::Written as u32] {
            return (n, Some(report.outcomes[0]));
        }
    }
    (most, None)
}

/// The numbers of everything that was pushed, in order, up to a PONG.
async fn drain(device: &mut Device) -> Vec<u32> {
    device.ping(1).await;
    let mut seen = Vec::new();
    loop {
        match device.frame().await {
            NodeFrame::Push(_, body) => {
                seen.push(u32::from_be_bytes(body[..4].try_into().unwrap()));
            }
            NodeFrame::Pong(_) => return seen,
            other => panic!("{other:?}"),
        }
    }
}

const LONG: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_device_is_bounded_and_the_newest_give_way() {
    let house = house_with(SlowPolicy::DropNewest, LONG).await;
    let mut slow = narrow(&house, "slow").await;
    let mut beside = house.device("beside").await;
    let (taken, ended) = fill(&house, "slow", 1_000).await;
    assert_eq!(ended, Some(Outcome::Overflow as u32));
    // The outbox, and what the two kernels hold.
    let bytes = taken as usize * BODY;
    assert!(bytes > OUTBOX_BYTES_MAX / 2, "{bytes}");
    assert!(bytes < OUTBOX_BYTES_MAX + 192 * 1024, "{bytes}");
    // Neighbours feel nothing.
    let begun = Instant::now();
    house.router.deliver(push_to(&[house.route("beside")], b"quick")).await;
    assert_eq!(beside.pushed().await, b"quick");
    assert!(begun.elapsed() < Duration::from_secs(1));
    let dropped = house.metric("hawser_downlink_pushes_total", &[("outcome", "dropped")]);
    assert_eq!(dropped, 1);
    // What was taken arrives, whole and in order; then there is room again.
    let expected: Vec<u32> = (0..taken).collect();
    assert_eq!(drain(&mut slow).await, expected);
    house.router.deliver(push_to(&[house.route("slow")], b"after")).await;
    assert_eq!(slow.pushed().await, b"after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_give_way_when_the_business_wants_the_newest() {
    let house = house_with(SlowPolicy::DropOldest, LONG).await;
    let mut slow = narrow(&house, "slow").await;
    let (taken, ended) = fill(&house, "slow", 120).await;
    assert_eq!((taken, ended), (120, None), "the new one is always taken");
    let seen = drain(&mut slow).await;
    assert!(seen.len() < 80, "some were dropped: {}", seen.len());
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "in order: {seen:?}");
    let newest: Vec<u32> = (120 - 20..120).collect();
    assert!(seen.ends_with(&newest), "the newest are there: {seen:?}");
    assert_eq!(seen[0], 0, "what had begun to leave, left whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_device_is_cut_off_when_the_business_wants_that() {
    let house = house_with(SlowPolicy::Disconnect, LONG).await;
    let mut slow = narrow(&house, "slow").await;
    let (_, ended) = fill(&house, "slow", 1_000).await;
    assert_eq!(ended, Some(Outcome::Overflow as u32));
    house.metric_is("hawser_access_closes_total", &[("code", "slow_device")], 1).await;
    house.metric_is("hawser_access_sessions", &[], 0).await;
    // It may or may not still get the word; it gets its end.
    while slow.got().await != Got::End {}
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_takes_no_byte_is_closed_on_every_transport() {
    let house = house_with(SlowPolicy::DropNewest, Duration::from_millis(300)).await;
    let mut devices = Vec::new();
    for how in Dial::ALL {
        let (device, _) = house.login(how, how.name()).await;
        let routes = [house.route(how.name())];
        // Until nothing more is taken: kernels and transports hold much more than the outbox.
        for n in 0.. {
            let report = house.router.deliver(push_to(&routes, &vec![0; 48 * 1024])).await;
            if report.outcomes != [Outcome::Written as u32] {
                break;
            }
            assert!(n < 500, "{how:?} takes everything");
        }
        devices.push(device);
    }
    let mut beside = house.device("beside").await;
    house.metric_is("hawser_access_closes_total", &[("code", "slow_device")], 5).await;
    beside.settle().await;
    house.metric_is("hawser_access_sessions", &[], 1).await;
    drop((devices, beside));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_slow_member_does_not_hold_up_a_group() {
    let house = house_with(SlowPolicy::DropNewest, LONG).await;
    house.router.create_group(APP, "room", CHAT);
    let mut slow = narrow(&house, "slow").await;
    let mut quick = house.device("quick").await;
    slow.enter("room").await;
    quick.enter("room").await;
    let mut dropped = 0;
    for n in 0..100u32 {
        let mut body = vec![0; BODY];
        body[..4].copy_from_slice(&n.to_be_bytes());
        let report = house.router.deliver(house.push_group("room", &body)).await;
        assert_eq!(report.members, 2, "a dropped one is a member all the same");
        assert_eq!(report.written + report.queued + report.dropped, 2);
        assert_eq!(quick.pushed().await, body);
        dropped += report.dropped;
    }
    assert!(dropped > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_frame_larger_than_the_bound_is_taken_when_nothing_waits() {
    let house = house_with(SlowPolicy::DropNewest, LONG).await;
    house.put(Entity::App(wire::App { frame_bytes_max: 1024 * 1024, ..app(APP) })).await;
    let mut slow = narrow(&house, "slow").await;
    let large = Delivery {
        frame: push_frame(&vec![5; 600 * 1024]),
        ..push_to(&[house.route("slow")], b"")
    };
    assert_eq!(house.router.deliver(large.clone()).await.outcomes, [Outcome::Written as u32]);
    assert_eq!(house.router.deliver(large).await.outcomes, [Outcome::Overflow as u32]);
    assert_eq!(slow.pushed().await, vec![5; 600 * 1024]);
}
