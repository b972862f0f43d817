//! Groups: joins and leaves by devices and by businesses, and what reaches the members.

use crate::eventually;
use crate::fakes::device::Device;
use crate::fakes::dial::Dial;
use crate::fakes::router::Route;
use crate::fakes::tokens;
use crate::house::{APP, CHAT, DEAF, House, push_to};
use hawser_proto::code::ErrorCode;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::params::LeftReason;
use hawser_proto::rpc::node::membership::Change;
use hawser_proto::rpc::node::{Broadcast, CountGroup, Delivery, DropGroup, down, up};
use std::time::{Duration, Instant};

async fn house_with(groups: &[&str]) -> House {
    let house = House::start().await;
    for group in groups {
        house.router.create_group(APP, group, CHAT);
    }
    house
}

/// Waits for the reports of a group to end like this.
async fn reported(house: &House, group: &str, expected: &[bool]) {
    eventually("the group's reports", || {
        let seen: Vec<bool> =
            house.router.group_reports(group).into_iter().map(|(_, present)| present).collect();
        (seen == expected).then_some(())
    })
    .await;
}

async fn count(house: &House, group: &str) -> u64 {
    let call = house.router.call();
    let ask = CountGroup { call, app: APP.into(), group: group.into() };
    house.router.tell(house.node.boot().0, down::What::CountGroup(ask));
    let counted = |word: &up::What| match word {
        up::What::GroupCounted(it) if it.call == call => Some(it.members),
        _ => None,
    };
    house.router.word("a count", counted).await
}

async fn is_left(device: &mut Device, group: &str, reason: LeftReason) {
    let left = device.left().await;
    assert_eq!((left.request_id, &left.group[..], left.reason()), (0, group, reason));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_join_is_reported_before_it_is_answered_and_the_last_leave_after() {
    let house = house_with(&["room"]).await;
    let (mut a, mut b) = (house.device("a").await, house.device("b").await);
    a.enter("room").await;
    assert_eq!(house.router.group_reports("room").len(), 1, "reported first");
    a.enter("room").await;
    b.enter("room").await;
    assert_eq!(count(&house, "room").await, 2, "joining twice counts once");
    house.metric_is("hawser_access_groups", &[], 1).await;
    a.leave(9, "room").await;
    let left = a.left().await;
    assert_eq!((left.request_id, left.status, left.reason()), (9, 0, LeftReason::Asked));
    a.leave(10, "room").await;
    assert_eq!(a.left().await.status, ErrorCode::NotMember.number());
    assert_eq!(count(&house, "room").await, 1);
    reported(&house, "room", &[true]).await;
    drop(b);
    reported(&house, "room", &[true, false]).await;
    a.enter("room").await;
    reported(&house, "room", &[true, false, true]).await;
    let reports = house.router.group_reports("room");
    assert!(reports.windows(2).all(|pair| pair[0].0 < pair[1].0), "sequence grows: {reports:?}");
    drop(a);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_cannot_be_says_why() {
    let house = house_with(&["room"]).await;
    house.router.create_group("other", "theirs", 1);
    house.router.create_group(APP, "of-deaf", DEAF);
    let mut device = house.dial(Dial::Tcp).await;
    let mut login = device.login_frame(APP, "d", tokens::token(APP, "d"));
    login.businesses = vec!["chat".into()];
    device.send(&DeviceFrame::Login(login)).await;
    device.login_ok().await;
    for (group, expected) in [
        ("nowhere", ErrorCode::GroupNotFound),
        ("theirs", ErrorCode::GroupNotFound),
        ("of-deaf", ErrorCode::PermissionDenied),
        ("", ErrorCode::InvalidArgument),
        ("a\nb", ErrorCode::InvalidArgument),
        (&"g".repeat(129), ErrorCode::InvalidArgument),
    ] {
        device.join(5, group).await;
        let joined = device.joined().await;
        assert_eq!(ErrorCode::from_number(joined.status), Some(expected), "{group}");
        assert_eq!((joined.request_id, joined.business, &joined.group[..]), (5, 0, group));
        device.leave(6, group).await;
        let left = ErrorCode::from_number(device.left().await.status);
        let malformed = expected == ErrorCode::InvalidArgument;
        let expected = if malformed { expected } else { ErrorCode::NotMember };
        assert_eq!(left, Some(expected), "{group}");
    }
    reported(&house, "of-deaf", &[true, false]).await;
    device.enter("room").await;
    drop(device);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_in_a_hundred_groups_and_no_more() {
    let house = House::start().await;
    let mut device = house.device("d").await;
    for n in 0..=100 {
        house.router.create_group(APP, &format!("g-{n}"), CHAT);
    }
    for n in 0..100 {
        device.enter(&format!("g-{n}")).await;
    }
    assert_eq!(device.enter_refused("g-100").await, Some(ErrorCode::TooManyGroups));
    assert_eq!(device.enter_refused("g-7").await, None, "it is in there already");
    reported(&house, "g-100", &[true, false]).await;
    device.leave(1, "g-3").await;
    device.left().await;
    assert_eq!(device.enter_refused("g-100").await, None);
    drop(device);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_says_nothing_of_a_group_makes_it_unavailable_and_not_for_ever() {
    let house =
        House::start_with(|config| config.router_call_timeout = Duration::from_millis(200)).await;
    house.router.create_group(APP, "room", CHAT);
    house.router.answers_groups(false);
    let (mut a, mut b) = (house.device("a").await, house.device("b").await);
    a.join(1, "room").await;
    b.join(1, "room").await;
    for device in [&mut a, &mut b] {
        assert_eq!(device.joined().await.status, ErrorCode::Unavailable.number());
    }
    reported(&house, "room", &[true, false]).await;
    house.router.answers_groups(true);
    a.enter("room").await;
    drop((a, b));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_business_takes_devices_in_out_and_out_for_good() {
    let house = house_with(&["room"]).await;
    let (mut a, mut b) = (house.device("a").await, house.device("b").await);
    let (at_a, at_b) = (house.route("a"), house.route("b"));
    let wrong = Route { epoch: at_b.epoch + 1, ..at_b.clone() };
    let targets = [at_a.clone(), wrong, at_b.clone()];
    let statuses = house.router.change_members("room", CHAT, Change::Join, &targets).await;
    assert_eq!(statuses, [None, Some(ErrorCode::DeviceOffline), None]);
    for device in [&mut a, &mut b] {
        let joined = device.joined().await;
        assert_eq!((joined.request_id, joined.status, joined.business), (0, 0, CHAT));
    }
    house.router.deliver(house.push_group("room", b"hello")).await;
    assert_eq!((a.pushed().await, b.pushed().await), (b"hello".to_vec(), b"hello".to_vec()));

    let remove =
        house.router.change_members("room", CHAT, Change::Leave, std::slice::from_ref(&at_a)).await;
    assert_eq!(remove, [None]);
    is_left(&mut a, "room", LeftReason::Removed).await;
    let again = house.router.change_members("room", CHAT, Change::Leave, &[at_a]).await;
    assert_eq!(again, [Some(ErrorCode::NotMember)]);
    a.enter("room").await;

    let kick =
        house.router.change_members("room", CHAT, Change::Kick, std::slice::from_ref(&at_b)).await;
    assert_eq!(kick, [None]);
    is_left(&mut b, "room", LeftReason::Kicked).await;
    assert_eq!(b.enter_refused("room").await, Some(ErrorCode::PermissionDenied));
    let forced = house.router.change_members("room", CHAT, Change::Join, &[at_b]).await;
    assert_eq!(forced, [Some(ErrorCode::PermissionDenied)]);
    house.router.deliver(house.push_group("room", b"without b")).await;
    assert_eq!(a.pushed().await, b"without b");
    b.settle().await;
    // On a new connection it may again.
    drop(b);
    let mut b = house.device("b").await;
    b.enter("room").await;
    drop((a, b));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_group_tells_its_members_and_takes_nobody_back() {
    let house = house_with(&["room", "hall"]).await;
    let (mut a, mut b) = (house.device("a").await, house.device("b").await);
    for device in [&mut a, &mut b] {
        device.enter("room").await;
        device.enter("hall").await;
    }
    house.router.forget_group(APP, "room");
    let order = DropGroup { app: APP.into(), group: "room".into(), created_ms: 0 };
    house.router.tell(house.node.boot().0, down::What::DropGroup(order));
    for device in [&mut a, &mut b] {
        is_left(device, "room", LeftReason::GroupDeleted).await;
        assert_eq!(device.enter_refused("room").await, Some(ErrorCode::GroupNotFound));
    }
    let report = house.router.deliver(house.push_group("room", b"x")).await;
    assert_eq!((report.members, report.written, report.done), (0, 0, true));
    // One that was deleted while no stream was up.
    house.router.forget_group(APP, "hall");
    house.router.cut();
    for device in [&mut a, &mut b] {
        is_left(device, "hall", LeftReason::GroupDeleted).await;
    }
    drop((a, b));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_multicast_reaches_every_member_on_every_transport_once() {
    let house = house_with(&["room"]).await;
    let mut members = Vec::new();
    for n in 0..20 {
        let how = Dial::ALL[n % 5];
        let (mut device, _) = house.login(how, &format!("m-{n}")).await;
        device.enter("room").await;
        members.push(device);
    }
    let mut outsider = house.device("outsider").await;
    let report = house.router.deliver(house.push_group("room", b"hello")).await;
    assert_eq!(report.members, 20);
    assert_eq!((report.written + report.queued, report.dropped), (20, 0));
    for member in &mut members {
        match member.frame().await {
            NodeFrame::GroupPush(push, body) => {
                assert_eq!(
                    (&push.group[..], push.business, &body[..]),
                    ("room", CHAT, &b"hello"[..])
                );
            }
            other => panic!("{other:?}"),
        }
        member.settle().await;
    }
    outsider.settle().await;
    // What was meant for another life of the node is nobody's.
    let other_boot = Delivery { boot: house.node.boot().0 ^ 1, ..house.push_group("room", b"x") };
    let report = house.router.deliver(other_boot).await;
    assert_eq!((report.members, report.done), (0, true));
    let blocked = "hawser_access_stale_writes_blocked_total";
    house.metric_is(blocked, &[("reason", "boot")], 1).await;
    // A member that leaves is not counted, and hears nothing.
    members[0].leave(1, "room").await;
    members[0].left().await;
    let report = house.router.deliver(house.push_group("room", b"again")).await;
    assert_eq!(report.members, 19);
    members[0].settle().await;
    drop((members, outsider));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_keeps_its_pace_and_reaches_who_serves_the_business() {
    let house = House::start().await;
    let mut devices = Vec::new();
    for n in 0..30 {
        devices.push(house.device(&format!("d-{n}")).await);
    }
    let mut deaf = house.dial(Dial::Tcp).await;
    let mut login = deaf.login_frame(APP, "deaf", tokens::token(APP, "deaf"));
    login.businesses = vec!["deaf".into()];
    deaf.send(&DeviceFrame::Login(login)).await;
    deaf.login_ok().await;
    let mut other = house.dial(Dial::Tcp).await;
    let login = other.login_frame("other", "d-1", tokens::token("other", "d-1"));
    other.send(&DeviceFrame::Login(login)).await;
    other.login_ok().await;
    let broadcast = Delivery {
        targets: Vec::new(),
        broadcast: Some(Broadcast { targets_per_second: 40, newest_epoch: 0 }),
        ..push_to(&[house.route("d-0")], b"news")
    };
    let begun = Instant::now();
    let report = house.router.deliver(broadcast).await;
    let took = begun.elapsed();
    assert_eq!((report.members, report.written), (30, 30));
    // 30 targets at 40 a second; the first step is free.
    assert!(took > Duration::from_millis(500), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    for device in &mut devices {
        assert_eq!(device.pushed().await, b"news");
        device.settle().await;
    }
    deaf.settle().await;
    other.settle().await;
    drop((devices, deaf, other));
    house.ends_clean().await;
}
