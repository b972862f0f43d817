//! Between the node and its router: claims, kicks, and streams that break.

use crate::eventually;
use crate::fakes::device::Device;
use crate::fakes::dial::Dial;
use crate::fakes::router::{Binding, Route};
use crate::fakes::tokens;
use crate::house::{APP, CHAT, House, push_to};
use hawser_proto::code::CloseCode;
use hawser_proto::frame::DeviceFrame;
use hawser_proto::rpc::node::{self as wire, bind_result::Status, down, up};
use hawser_proto::rpc::push::Outcome;
use std::time::Duration;

/// Sends LOGIN and does not wait.
async fn knocking(house: &House, name: &str) -> Device {
    let mut device = house.dial(Dial::Tcp).await;
    let login = device.login_frame(APP, name, tokens::token(APP, name));
    device.send(&DeviceFrame::Login(login)).await;
    device
}

async fn held(house: &House) -> wire::Bind {
    eventually("a claim", || house.router.held().first().cloned()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_login_takes_over_and_the_older_one_is_told() {
    let house = House::start().await;
    for how in Dial::ALL {
        let (mut older, _) = house.login(how, "d").await;
        let (mut newer, _) = house.login(Dial::Tcp, "d").await;
        assert_eq!(older.closed().await, CloseCode::Superseded, "{how:?}");
        newer.settle().await;
        house.router.deliver(push_to(&[house.route("d")], b"to the newer")).await;
        assert_eq!(newer.pushed().await, b"to the newer");
        house.metric_is("hawser_access_sessions", &[], 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bind_says_who_where_and_which_businesses() {
    let house = House::start().await;
    let mut device = house.dial(Dial::Tcp).await;
    let mut login = device.login_frame(APP, "d", tokens::token(APP, "d"));
    login.businesses = vec!["deaf".into()];
    login.attempt = 7;
    device.send(&DeviceFrame::Login(login)).await;
    let ok = device.login_ok().await;
    let bind = |word: &up::What| match word {
        up::What::Bind(bind) => Some(bind.clone()),
        _ => None,
    };
    let bind = house.router.word("a bind", bind).await;
    assert_eq!((&bind.app[..], &bind.device[..], bind.attempt, bind.epoch), (APP, "d", 7, 0));
    assert_eq!((&bind.businesses[..], &bind.instance[..]), (&[2][..], &device.instance[..]));
    assert!(ok.connection.ends_with(&format!("/{}.{}", bind.slot, bind.generation)));
    drop(device);
    let unbind = |word: &up::What| match word {
        up::What::Unbind(unbind) => Some(unbind.clone()),
        _ => None,
    };
    let unbind = house.router.word("an unbind", unbind).await;
    assert_eq!((unbind.slot, unbind.generation), (bind.slot, bind.generation));
    assert_eq!((unbind.epoch, &unbind.device[..]), (ok.epoch, "d"));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_claim_says_why() {
    let house = House::start().await;
    for (status, code) in [
        (Status::StaleAttempt, CloseCode::StaleLogin),
        (Status::Superseded, CloseCode::Superseded),
        (Status::Unavailable, CloseCode::RouterUnavailable),
    ] {
        house.router.binds(Binding::Refuse(status));
        assert_eq!(knocking(&house, "d").await.closed().await, code, "{status:?}");
    }
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_answers_too_late_gets_its_claim_back() {
    let house =
        House::start_with(|config| config.router_call_timeout = Duration::from_millis(150)).await;
    house.router.binds(Binding::Hold);
    let mut device = knocking(&house, "d").await;
    assert_eq!(device.closed().await, CloseCode::RouterUnavailable);
    house.router.answer_held(Status::Ok);
    let unbind = |word: &up::What| match word {
        up::What::Unbind(unbind) => Some(unbind.device.clone()),
        _ => None,
    };
    assert_eq!(house.router.word("the claim is given back", unbind).await, "d");
    assert_eq!(house.router.route(APP, "d"), None);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kick_that_overtakes_the_answer_ends_the_login_with_its_own_code() {
    let house = House::start().await;
    house.router.binds(Binding::Hold);
    for code in [CloseCode::Superseded, CloseCode::Disconnected, CloseCode::Ejected] {
        let mut device = knocking(&house, "d").await;
        let bind = held(&house).await;
        // The router has decided: the next epoch is this session's, and it is kicked at once.
        let route = Route {
            boot: house.node.boot().0,
            app: APP.into(),
            device: "d".into(),
            slot: bind.slot,
            generation: bind.generation,
            epoch: u64::MAX,
        };
        assert!(house.router.kick(&route, code).await, "the node keeps it");
        house.router.answer_held(Status::Ok);
        assert_eq!(device.closed().await, code);
        eventually("the claim is given back", || {
            house.router.route(APP, "d").is_none().then_some(())
        })
        .await;
    }
    house.metric_is("hawser_access_sessions", &[], 0).await;
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kick_must_name_the_session_in_full() {
    let house = House::start().await;
    let mut device = house.device("d").await;
    let route = house.route("d");
    for wrong in [
        Route { boot: route.boot ^ 1, ..route.clone() },
        Route { generation: route.generation + 2, ..route.clone() },
        Route { app: "other".into(), ..route.clone() },
        Route { device: "e".into(), ..route.clone() },
        Route { epoch: route.epoch - 1, ..route.clone() },
    ] {
        // Down the stream of the boot that is there, whatever boot it names.
        let (call, order) = house.router.kick_of(&wrong, CloseCode::Disconnected);
        house.router.tell(route.boot, order);
        let done = |word: &up::What| match word {
            up::What::KickDone(done) if done.call == call => Some(done.matched),
            _ => None,
        };
        assert!(!house.router.word("the kick's answer", done).await, "{wrong:?}");
        device.settle().await;
    }
    for reason in ["boot", "generation", "epoch"] {
        let name = "hawser_access_stale_writes_blocked_total";
        assert_eq!(house.metric(name, &[("reason", reason)]), 1, "{reason}");
    }
    assert!(house.router.kick(&route, CloseCode::Ejected).await);
    let (code, reason, _) = device.closed_with().await;
    assert_eq!((code, &reason[..]), (CloseCode::Ejected, "as the test wants"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_a_broken_stream_and_are_announced_to_an_older_router() {
    let house = House::start().await;
    house.router.create_group(APP, "room", CHAT);
    let mut device = house.device("d").await;
    device.enter("room").await;
    let route = house.route("d");
    let before = house.router.group_reports("room").len();
    house.router.grows_old();
    house.router.cut();
    eventually("the streams are back", || (house.router.hellos() == 2).then_some(())).await;
    house.ready().await;
    let again = |word: &up::What| match word {
        up::What::Bind(bind) if bind.epoch != 0 => Some(bind.clone()),
        _ => None,
    };
    let bind = house.router.word("the session is announced", again).await;
    assert_eq!(
        (bind.slot, bind.generation, bind.epoch),
        (route.slot, route.generation, route.epoch)
    );
    let reports = eventually("the group is announced", || {
        Some(house.router.group_reports("room")).filter(|all| all.len() > before)
    })
    .await;
    assert!(reports.windows(2).all(|pair| pair[0].0 < pair[1].0), "sequence grows: {reports:?}");
    assert!(reports.last().unwrap().1);
    // Nothing was lost on the way.
    house.router.deliver(push_to(&[route], b"still here")).await;
    assert_eq!(device.pushed().await, b"still here");
    house.router.deliver(house.push_group("room", b"all of you")).await;
    assert_eq!(device.pushed().await, b"all of you");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announced_session_that_is_no_longer_the_right_one_is_told() {
    let house = House::start().await;
    let mut device = house.device("d").await;
    house.router.binds(Binding::Refuse(Status::Superseded));
    house.router.grows_old();
    house.router.cut();
    assert_eq!(device.closed().await, CloseCode::Superseded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ended_while_it_was_announced_is_given_back() {
    let house = House::start().await;
    let device = house.device("d").await;
    let route = house.route("d");
    house.router.binds(Binding::Hold);
    house.router.grows_old();
    house.router.cut();
    let bind = held(&house).await;
    assert_eq!(bind.epoch, route.epoch);
    drop(device);
    house.metric_is("hawser_access_connections", &[], 0).await;
    eventually("its unbind", || house.router.route(APP, "d").is_none().then_some(())).await;
    // The router handles the announcement after the unbind, and learns of a session that is no more.
    house.router.answer_held(Status::Ok);
    eventually("it hears of the end again", || {
        let unbinds = |word: &up::What| matches!(word, up::What::Unbind(_));
        (house.router.words().iter().filter(|&word| unbinds(word)).count() == 2).then_some(())
    })
    .await;
    assert_eq!(house.router.route(APP, "d"), None);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_without_a_router_is_told_to_come_back_later() {
    let house = House::start().await;
    house.router.binds(Binding::Hold);
    let mut waiting = knocking(&house, "d").await;
    held(&house).await;
    house.router.cut();
    assert_eq!(waiting.closed().await, CloseCode::RouterUnavailable, "at once, with its stream");
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_described_as_it_is() {
    let house = House::start().await;
    house.router.create_group(APP, "room", CHAT);
    let mut device = house.dial(Dial::Ws).await;
    let mut login = device.login_frame(APP, "d", tokens::token(APP, "d"));
    login.client = Some(hawser_proto::params::Client {
        sdk: "test/1".into(),
        platform: "native".into(),
        network: String::new(),
        app_version: "3.2".into(),
    });
    device.send(&DeviceFrame::Login(login)).await;
    device.login_ok().await;
    device.enter("room").await;
    let route = house.route("d");
    for (epoch, is_found) in [(route.epoch, true), (route.epoch + 1, false)] {
        let call = house.router.call();
        let target = Some(Route { epoch, ..route.clone() }.target());
        let ask = wire::DescribeSession { call, boot: route.boot, app: APP.into(), target };
        house.router.tell(route.boot, down::What::DescribeSession(ask));
        let described = |word: &up::What| match word {
            up::What::Session(it) if it.call == call => Some(it.clone()),
            _ => None,
        };
        let it = house.router.word("a description", described).await;
        assert_eq!(it.found, is_found);
        if is_found {
            assert_eq!((&it.transport[..], &it.remote_ip[..]), ("ws", "127.0.0.1"));
            assert_eq!(
                (&it.sdk[..], &it.platform[..], &it.app_version[..]),
                ("test/1", "native", "3.2")
            );
            assert_eq!(it.groups, ["room"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_of_a_batch_gets_its_own_outcome() {
    let house = House::start().await;
    let (mut a, mut b) = (house.device("a").await, house.device("b").await);
    let gone = house.device("gone").await;
    let stale = house.route("gone");
    drop(gone);
    eventually("it has gone", || house.router.route(APP, "gone").is_none().then_some(())).await;
    let targets = [house.route("a"), stale, house.route("b")];
    let report = house.router.deliver(push_to(&targets, b"x")).await;
    let (written, stale) = (Outcome::Written as u32, Outcome::Stale as u32);
    assert_eq!(report.outcomes, [written, stale, written]);
    assert_eq!((report.members, report.written, report.dropped), (2, 2, 0));
    assert_eq!((a.pushed().await, b.pushed().await), (b"x".to_vec(), b"x".to_vec()));
}
