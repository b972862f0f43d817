//! Several routers: pushes from all of them, asks to one of them, and groups that all must know.

use crate::eventually;
use crate::fakes::device::Device;
use crate::fakes::dial::Dial;
use crate::fakes::router::{INBOX, LOGINS, PUSH, Route, Router, Tier};
use crate::fakes::store::Answering;
use crate::house::{APP, CHAT, DEAF, House, push_to};
use hawser_access::Config;
use hawser_proto::code::ErrorCode;
use hawser_proto::frame::DeviceFrame;
use hawser_proto::id::Position;
use hawser_proto::params::{self, LeftReason};
use hawser_proto::rpc::node::answer::Status;
use hawser_proto::rpc::node::{DropGroup, down, up};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ALL: u32 = LOGINS | PUSH | INBOX;
/// The shortest pause before something that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

async fn house_of(functions: &[u32]) -> House {
    house_with(functions, |_| {}).await
}

async fn house_with(functions: &[u32], change: impl FnOnce(&mut Config)) -> House {
    let tier = Tier::default();
    let mut routers = Vec::new();
    for (n, &functions) in functions.iter().enumerate() {
        routers.push(Router::start_in(&tier, &format!("r-{n}"), functions).await);
    }
    let house = House::start_on(routers, change).await;
    for router in &house.routers {
        eventually("a router is told all", || (router.told_all() > 0).then_some(())).await;
    }
    house
}

fn at(seq: u64) -> Position {
    Position::new(5, seq)
}

fn body(seq: u64) -> Vec<u8> {
    format!("body {seq}").into_bytes()
}

async fn able(house: &House, name: &str) -> Device {
    house.able(Dial::Tcp, name, Position::START).await.0
}

async fn reads(device: &mut Device, from: u64, to: u64) {
    for seq in from..=to {
        assert_eq!(device.stored().await, (at(seq), body(seq)));
    }
}

fn store(house: &House, name: &str, from: u64, to: u64) {
    for seq in from..=to {
        house.router.store_push(APP, name, CHAT, &body(seq));
    }
}

async fn route_at(router: &Router, name: &str) -> Route {
    eventually("the route", || router.route(APP, name)).await
}

// === Asks ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbox_of_a_session_is_asked_for_at_one_router_that_keeps_inboxes() {
    let house = house_of(&[LOGINS | PUSH, INBOX, INBOX]).await;
    let mut devices = Vec::new();
    for n in 0..16 {
        let name = format!("d-{n}");
        store(&house, &name, 1, 100);
        let mut device = able(&house, &name).await;
        for seq in 1..=100 {
            reads(&mut device, seq, seq).await;
            device.ack(CHAT, at(seq)).await;
        }
        devices.push(device);
    }
    assert!(!house.routers[0].was_asked());
    let (one, two) = (house.routers[1].pulled_here(), house.routers[2].pulled_here());
    assert!(!one.is_empty() && !two.is_empty(), "the load is shared");
    assert!(one.iter().all(|device| !two.contains(device)), "and each device's stays together");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_of_a_router_that_breaks_or_refuses_is_asked_of_another_at_once() {
    for breaks in [true, false] {
        let house = house_of(&[LOGINS | PUSH, INBOX, INBOX]).await;
        let (one, two) = (&house.routers[1], &house.routers[2]);
        // A pause is never shorter than this; a machine that is busy may take longer than that by itself.
        let mut is_at_once = false;
        for round in 0..20 {
            let name = format!("d-{round}");
            store(&house, &name, 1, 3);
            let mut device = able(&house, &name).await;
            reads(&mut device, 1, 3).await;
            let is_its_own = one.pulled_here().contains(&name);
            let (its_own, other) = if is_its_own { (one, two) } else { (two, one) };
            its_own.asks(Some(Answering::Never));
            store(&house, &name, 4, 5);
            house.router.push_stored(APP, &name, CHAT, &body(6)).await;
            let asked = || its_own.pulled_here().iter().filter(|it| **it == name).count();
            eventually("it asks again", || (asked() == 2).then_some(())).await;
            let sweeps = || house.metric("hawser_downlink_sweeps_total", &[]);
            let (begun, before) = (Instant::now(), sweeps());
            if breaks {
                its_own.dies();
            } else {
                its_own.refuse_held_asks().await;
            }
            reads(&mut device, 4, 6).await;
            // The sweeps that follow its beginning come to its help, too.
            is_at_once |= begun.elapsed() < PAUSE && sweeps() == before;
            assert!(other.pulled_here().contains(&name));
            if is_at_once {
                break;
            }
            its_own.asks(None);
            its_own.comes_back();
            its_own.deliver_sender().await;
            // Until the one that refused is asked first again.
            tokio::time::sleep(5 * PAUSE).await;
        }
        assert!(is_at_once, "breaks: {breaks}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_cannot_ask_the_store_is_passed_over() {
    let house = house_of(&[LOGINS | PUSH, INBOX, INBOX]).await;
    house.routers[1].asks(Some(Answering::With(Status::Unavailable)));
    for n in 0..8 {
        let name = format!("d-{n}");
        store(&house, &name, 1, 3);
        let mut device = able(&house, &name).await;
        reads(&mut device, 1, 3).await;
        device.ack(CHAT, at(3)).await;
        device.settle().await;
    }
    assert!(house.routers[1].was_asked());
    eventually("what was acknowledged has left the store", || {
        let store = house.router.store.lock();
        store.inboxes.values().all(|inbox| inbox.entries.is_empty()).then_some(())
    })
    .await;
}

// === Pushes ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_and_volatile_pushes_of_several_routers_do_not_harm_each_other() {
    const EACH: u64 = 60;
    let house = house_of(&[ALL, ALL, ALL]).await;
    let mut device = able(&house, "d").await;
    let mut pushing = Vec::new();
    for router in &house.routers {
        let route = route_at(router, "d").await;
        let router = router.clone();
        pushing.push(tokio::spawn(async move {
            for n in 0..EACH {
                // Each wakes for what it has stored itself; in whatever order they come.
                router.hint(router.store_to_wake(&route, CHAT, b"stored")).await;
                let report =
                    router.deliver(push_to(std::slice::from_ref(&route), &n.to_be_bytes())).await;
                assert_eq!(report.written, 1);
            }
        }));
    }
    let (mut last, mut volatile) = (Position::START, 0);
    while last < at(3 * EACH) || volatile < 3 * EACH {
        match device.frame().await {
            hawser_proto::frame::NodeFrame::Push(push, _) if push.seq > 0 => {
                let place = Position::new(push.term, push.seq);
                assert_eq!(Position::new(push.prev_term, push.prev_seq), last, "in order");
                last = place;
                device.ack(CHAT, place).await;
            }
            hawser_proto::frame::NodeFrame::Push(..) => volatile += 1,
            other => panic!("{other:?}"),
        }
    }
    for task in pushing {
        task.await.unwrap();
    }
    device.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_whose_places_come_out_of_order_from_two_routers_is_written_in_order() {
    let house = house_of(&[ALL, ALL]).await;
    for router in &house.routers {
        router.create_group(APP, "room", CHAT);
        router.keep_history(APP, "room");
    }
    let (first, second) = (&house.routers[0], &house.routers[1]);
    let mut member = able(&house, "d").await;
    let join = params::Join { request_id: 3, group: "room".into(), ..Default::default() };
    member.send(&DeviceFrame::Join(join)).await;
    assert_eq!(member.joined().await.status, 0);
    for round in 0..10 {
        let earlier = first.history_push(APP, "room", CHAT, &body(2 * round + 1));
        let later = second.history_push(APP, "room", CHAT, &body(2 * round + 2));
        // The later one makes the lane pull what lies before it; the earlier one is old then.
        second.deliver(later).await;
        reads(&mut member, 2 * round + 1, 2 * round + 2).await;
        let report = first.deliver(earlier).await;
        assert_eq!((report.written, report.queued, report.dropped), (0, 0, 0));
        member.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_a_group_of_the_same_name_of_another_business_reaches_nobody() {
    let house = house_of(&[ALL, ALL]).await;
    for router in &house.routers {
        router.create_group(APP, "room", CHAT);
    }
    let mut device = house.device("d").await;
    device.enter("room").await;
    let theirs = hawser_proto::rpc::node::Delivery {
        business: DEAF,
        ..house.push_group("room", b"not for you")
    };
    let report = house.routers[1].deliver(theirs).await;
    assert_eq!((report.members, report.written), (0, 0));
    device.settle().await;
    let labels = [("reason", "business")];
    assert_eq!(house.metric("hawser_access_stale_writes_blocked_total", &labels), 1);
    house.routers[1].deliver(house.push_group("room", b"for you")).await;
    assert_eq!(device.pushed().await, b"for you");
}

// === Groups ===

/// The last report of a group at a router.
async fn report(
    router: &Router,
    group: &str,
    count: usize,
) -> hawser_proto::rpc::node::GroupReport {
    eventually("a report", || {
        let mut reports = router.words().into_iter().filter_map(|word| match word {
            up::What::Group(report) if report.group == group => Some(report),
            _ => None,
        });
        reports.nth(count - 1)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_waits_for_the_routers_that_take_pushes_but_not_for_ever() {
    let short = |config: &mut Config| config.router_call_timeout = Duration::from_millis(300);
    let house = house_with(&[LOGINS | INBOX, PUSH, PUSH], short).await;
    let slow = &house.routers[2];
    house.routers[0].answers_groups(false);
    house.routers[1].create_group(APP, "room", CHAT);
    slow.create_group(APP, "room", CHAT);
    let mut a = house.device("a").await;
    let begun = Instant::now();
    a.enter("room").await;
    assert!(begun.elapsed() < Duration::from_millis(300), "one without pushes is not waited for");
    assert_eq!(report(&house.routers[0], "room", 1).await.seq, report(slow, "room", 1).await.seq);

    // One that does not answer is waited for, and then told again until it does.
    a.leave(9, "room").await;
    a.left().await;
    assert!(!report(slow, "room", 2).await.present);
    slow.answers_groups(false);
    let begun = Instant::now();
    a.enter("room").await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let (third, fourth) = (report(slow, "room", 3).await, report(slow, "room", 4).await);
    assert!(third.present && fourth.present && fourth.seq > third.seq);
    slow.answer_group(house.node.boot().0, &fourth);
    slow.deliver(house.push_group("room", b"x")).await;
    assert_eq!(a.pushed().await, b"x");
    assert!(house.metric("hawser_access_group_reports_again_total", &[]) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_waits_for_a_router_goes_on_when_that_dies() {
    let house = house_of(&[ALL, ALL]).await;
    for router in &house.routers {
        router.create_group(APP, "room", CHAT);
    }
    house.routers[1].answers_groups(false);
    let mut device = house.device("d").await;
    device.join(5, "room").await;
    report(&house.routers[1], "room", 1).await;
    house.routers[1].dies();
    assert_eq!(device.joined().await.status, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_several_routers_say_is_gone_is_gone_once() {
    let house = house_of(&[ALL, ALL, ALL]).await;
    let create = |created_ms: i64| {
        for router in &house.routers {
            router.create_group_at(APP, "room", CHAT, created_ms);
        }
    };
    let boot = house.node.boot().0;
    let gone = |router: &Arc<Router>, created_ms: i64| {
        let order = DropGroup { app: APP.into(), group: "room".into(), created_ms };
        router.tell(boot, down::What::DropGroup(order));
    };
    create(100);
    let mut device = house.device("d").await;
    device.enter("room").await;
    for router in &house.routers {
        router.forget_group(APP, "room");
    }
    gone(&house.routers[0], 100);
    let left = device.left().await;
    assert_eq!((left.status, left.reason()), (0, LeftReason::GroupDeleted));
    assert_eq!(device.enter_refused("room").await, Some(ErrorCode::GroupNotFound));
    // Made anew, before the others have said that the old one is gone.
    create(200);
    device.enter("room").await;
    for router in &house.routers[1..] {
        gone(router, 100);
        router.is_obeyed(boot).await;
    }
    for router in &house.routers {
        router.deliver(house.push_group("room", b"still in")).await;
        assert_eq!(device.pushed().await, b"still in");
    }
    device.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_groups_of_one_name_members_stay_in_the_newest_alone() {
    let short = |config: &mut Config| config.router_call_timeout = Duration::from_millis(200);
    let house = house_with(&[ALL, ALL], short).await;
    let (behind, ahead) = (&house.routers[0], &house.routers[1]);
    behind.create_group_at(APP, "room", CHAT, 100);
    ahead.create_group_at(APP, "room", DEAF, 200);
    // Both answer: the newest counts, and it is a business that this device does not serve.
    let mut device = house.dial(Dial::Tcp).await;
    let token = crate::fakes::tokens::token(APP, "d");
    let mut login = device.login_frame(APP, "d", token);
    login.businesses = vec!["chat".into()];
    device.send(&DeviceFrame::Login(login)).await;
    device.login_ok().await;
    assert_eq!(device.enter_refused("room").await, Some(ErrorCode::PermissionDenied));
    // The one that is ahead is late: the device is in the old one for a moment, and then out.
    ahead.answers_groups(false);
    report(ahead, "room", 2).await;
    device.enter("room").await;
    let newest = report(ahead, "room", 3).await;
    ahead.answer_group(house.node.boot().0, &newest);
    assert_eq!(device.left().await.reason(), LeftReason::GroupDeleted);
    house.metric_is("hawser_access_groups", &[], 0).await;
}
