//! What a node refuses before it works for it: too many connections, too many failed logins.

use crate::fakes::device::Device;
use crate::fakes::dial::Dial;
use crate::fakes::router::Binding;
use crate::fakes::tokens;
use crate::house::{APP, CHAT, House, app, push_to};
use crate::{PATIENCE, eventually};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::DeviceFrame;
use hawser_proto::frame::NodeFrame;
use hawser_proto::params;
use hawser_proto::rpc::business::HandleResponse;
use hawser_proto::rpc::control::{self as wire, change::Entity};
use hawser_proto::rpc::node::bind_result::Status;
use hawser_proto::rpc::push::Outcome;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

async fn login(house: &House, name: &str, token: String) -> Device {
    let mut device = house.dial(Dial::Tcp).await;
    let login = device.login_frame(APP, name, token);
    device.send(&DeviceFrame::Login(login)).await;
    device
}

async fn close(device: &mut Device) -> params::Close {
    match device.frame().await {
        NodeFrame::Close(close) => close,
        other => panic!("wanted CLOSE, got {other:?}"),
    }
}

fn code_of(close: &params::Close) -> Option<CloseCode> {
    CloseCode::from_number(close.code)
}

/// Dials, says nothing, and reads until the end.
async fn heard(house: &House, how: Dial) -> Vec<u8> {
    let mut tcp = TcpStream::connect(house.node.address(how.name()).unwrap()).await.unwrap();
    let mut heard = Vec::new();
    tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut heard)).await.unwrap().unwrap();
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_failed_logins_is_refused_until_its_bucket_fills() {
    let house = House::start_with(|config| {
        config.failed_logins_max = 2;
        config.failed_login_interval = Duration::from_mins(10);
    })
    .await;
    let mut early = house.dial(Dial::Tcp).await;
    for _ in 0..2 {
        let mut device = login(&house, "d", "no token".into()).await;
        assert_eq!(device.closed().await, CloseCode::TokenInvalid);
    }
    // Those who are in already are told at their login, however good it is.
    let good = early.login_frame(APP, "early", tokens::token(APP, "early"));
    early.send(&DeviceFrame::Login(good)).await;
    assert_eq!(early.closed().await, CloseCode::RateLimited);
    // The others at the door, and where a frame would cost a handshake not at all.
    let refused = close(&mut house.dial(Dial::Tcp).await).await;
    assert_eq!(code_of(&refused), Some(CloseCode::RateLimited));
    assert!((1_000..=3_000).contains(&refused.retry_after_ms), "{}", refused.retry_after_ms);
    for how in [Dial::Tls, Dial::Wss] {
        assert_eq!(heard(&house, how).await, [0; 0], "{}", how.name());
    }
    // A WebSocket can say it in HTTP.
    let answer = String::from_utf8(heard(&house, Dial::Ws).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let after = answer.lines().find_map(|line| line.strip_prefix("Retry-After: ")).unwrap();
    assert!((1..=3).contains(&after.parse().unwrap()), "{after}");
    let counted = [("cause", "failed_logins")];
    house.metric_is("hawser_access_refused_connections_total", &counted, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_may_try_again_after_a_while() {
    let house = House::start_with(|config| {
        config.failed_logins_max = 1;
        config.failed_login_interval = Duration::from_millis(500);
    })
    .await;
    let mut kept = house.dial(Dial::Tcp).await;
    let mut device = login(&house, "d", "no token".into()).await;
    assert_eq!(device.closed().await, CloseCode::TokenInvalid);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let good = kept.login_frame(APP, "kept", tokens::token(APP, "kept"));
    kept.send(&DeviceFrame::Login(good)).await;
    kept.login_ok().await;
    house.device("d").await.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_logins_and_failures_of_the_house_are_not_counted() {
    let house = House::start_with(|config| {
        config.failed_logins_max = 1;
        config.failed_login_interval = Duration::from_mins(10);
    })
    .await;
    for n in 0..4 {
        house.login(Dial::Tcp, &format!("d{n}")).await;
    }
    house.router.binds(Binding::Refuse(Status::StaleAttempt));
    for _ in 0..4 {
        let mut device = login(&house, "d", tokens::token(APP, "d")).await;
        assert_eq!(device.closed().await, CloseCode::StaleLogin);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_the_rate_are_refused_before_any_work() {
    let house = House::start_with(|config| config.accepts_per_second = 1).await;
    let mut kept = house.device("kept").await;
    // Six in a second or more: not all of them pass.
    let mut dialled = Vec::new();
    for _ in 0..6 {
        dialled.push(house.dial(Dial::Tcp).await);
    }
    let counted = [("cause", "rate")];
    let refusals = || house.metric("hawser_access_refused_connections_total", &counted);
    eventually("a refusal", || (refusals() > 0).then_some(())).await;
    let mut told = None;
    for device in &mut dialled {
        if let Ok(frame) = tokio::time::timeout(Duration::from_millis(200), device.frame()).await {
            told = Some(frame);
        }
    }
    let Some(NodeFrame::Close(refused)) = told else { panic!("wanted CLOSE, got {told:?}") };
    assert_eq!(code_of(&refused), Some(CloseCode::Overloaded));
    // One a second, and behind those who were turned away before.
    assert!((2_000..=9_100).contains(&refused.retry_after_ms), "{}", refused.retry_after_ms);
    kept.settle().await;
    // Nobody has come for a second.
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    house.device("again").await.settle().await;
}

/// All of them come at once, and none of them in vain a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_are_refused_are_told_times_that_the_node_can_keep() {
    const RATE: u32 = 20;
    let house = House::start_with(|config| config.accepts_per_second = RATE).await;
    let dialled = (0..120).map(|_| house.dial(Dial::Tcp));
    let mut dialled = futures_util::future::join_all(dialled).await;
    let counted = [("cause", "rate")];
    let refusals = || house.metric("hawser_access_refused_connections_total", &counted);
    eventually("all were looked at", || {
        (refusals() + house.metric("hawser_access_connections", &[]) == 120).then_some(())
    })
    .await;
    let mut told = Vec::new();
    for device in &mut dialled {
        if let Ok(frame) = tokio::time::timeout(Duration::from_millis(20), device.frame()).await {
            let NodeFrame::Close(refused) = frame else { panic!("wanted CLOSE, got {frame:?}") };
            assert_eq!(code_of(&refused), Some(CloseCode::Overloaded));
            told.push(refused.retry_after_ms);
        }
    }
    assert!(told.len() >= 90, "{}", told.len());
    told.sort_unstable();
    for &from in &told {
        let second = told.iter().filter(|&&at| at >= from && at < from + 1_000).count();
        assert!(second <= RATE as usize + 4, "{second} in the second from {from} ms");
    }
    let report = eventually("control hears of it", || {
        let refused: u64 = house.control.reports().iter().map(|report| report.refused).sum();
        (refused == told.len() as u64).then_some(())
    });
    report.await;
    let last = house.control.report().unwrap();
    assert_eq!(last.accepts_per_second_max, RATE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_names_the_others() {
    let house = House::start_with(|config| {
        config.connections_max = 1;
        config.unauthenticated_percent_max = 100;
    })
    .await;
    house.control.advise(|answer| {
        answer.reconnect_window_ms = 20_000;
        answer.alternatives = vec![wire::AccessPoint {
            protocol: "tcp".into(),
            host: "elsewhere".into(),
            port: 7100,
            ..Default::default()
        }];
    });
    let (_kept, _) = house.login(Dial::Tcp, "kept").await;
    let full = eventually("control's word", || {
        let reports = house.control.reports().len();
        (reports > 5).then_some(())
    });
    full.await;
    let refused = close(&mut house.dial(Dial::Tcp).await).await;
    assert_eq!(code_of(&refused), Some(CloseCode::NodeFull));
    assert_eq!(refused.alternatives.len(), 1);
    assert!((1_000..=20_000).contains(&refused.retry_after_ms), "{}", refused.retry_after_ms);
    // QUIC is refused with its first packet: there is no handshake.
    let refused = crate::fakes::dial::try_quic(house.node.address("quic").unwrap()).await;
    assert!(matches!(refused, Err(quinn::ConnectionError::ConnectionClosed(_))), "{refused:?}");
    let counted = [("cause", "full")];
    house.metric_is("hawser_access_refused_connections_total", &counted, 2).await;
    house.metric_is("hawser_access_refused_connections_total", &[("cause", "handshake")], 0).await;
}

/// Under pressure an address must prove itself first (Retry), which a device does not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_is_served_under_pressure_to_those_who_are_where_they_say() {
    let house = House::start_with(|config| config.accepts_per_second = 4).await;
    let mut kept = Vec::new();
    for n in 0..3 {
        kept.push(house.login(Dial::Tcp, &format!("d{n}")).await);
    }
    let (mut device, _) = house.login(Dial::Quic, "quic").await;
    device.settle().await;
    house.metric_is("hawser_access_refused_connections_total", &[], 0).await;
}

/// Without a router every login would be in vain, and every handshake before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_can_take_no_login_does_no_handshake_for_one() {
    let house = House::start().await;
    let mut kept = house.device("kept").await;
    house.router.dies();
    let counted = [("cause", "useless")];
    let refused = || house.metric("hawser_access_refused_connections_total", &counted) > 0;
    let mut told = None;
    let begun = tokio::time::Instant::now();
    while !refused() {
        let mut device = house.dial(Dial::Tcp).await;
        let login = device.login_frame(APP, "new", tokens::token(APP, "new"));
        let _ = device.try_send_bytes(&DeviceFrame::Login(login).encode()).await;
        told = Some(close(&mut device).await);
        assert!(begun.elapsed() < PATIENCE, "refused at the door");
    }
    assert_eq!(code_of(&told.unwrap()), Some(CloseCode::RouterUnavailable));
    assert_eq!(heard(&house, Dial::Tls).await, [0; 0]);
    kept.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_says_of_itself_is_cut_at_64_bytes() {
    let house = House::start().await;
    let mut device = house.dial(Dial::Tcp).await;
    let said = params::Client {
        sdk: format!("{}/1.0", "s".repeat(50)),
        platform: format!("x{}", "ü".repeat(100)),
        app_version: "1.2\n.3".into(),
        ..Default::default()
    };
    let mut login = device.login_frame(APP, "d", tokens::token(APP, "d"));
    login.client = Some(said.clone());
    device.send(&DeviceFrame::Login(login)).await;
    device.login_ok().await;
    device.request(1, CHAT, b"x").await;
    device.response().await;
    let session = house.business.seen().pop().unwrap().session.unwrap();
    assert_eq!((session.sdk, &session.app_version[..]), (said.sdk, "1.2.3"));
    assert_eq!(session.platform, format!("x{}", "ü".repeat(31)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_business_is_told_what_is_left_of_the_deadline() {
    const RUNNING_MAX: u64 = 16;
    let house = House::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    house.business.answer(move |_| {
        let gate = held.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(HandleResponse::default())
        }
    });
    let mut device = house.device("d").await;
    for request_id in 1..=RUNNING_MAX {
        device.request(request_id, CHAT, b"x").await;
    }
    eventually("the pool is at work", || {
        (house.business.seen_count() as u64 == RUNNING_MAX).then_some(())
    })
    .await;
    // This one waits for its turn.
    device.request(RUNNING_MAX + 1, CHAT, b"x").await;
    device.settle().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.add_permits(RUNNING_MAX as usize + 1);
    for _ in 0..=RUNNING_MAX {
        assert_eq!(device.response().await.0.status, 0);
    }
    let told = house.business.seen().pop().unwrap().deadline_ms;
    assert!((1..=4_700).contains(&told), "{told} of 5000 ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_large_for_the_node_itself_is_too_large() {
    let house = House::start().await;
    house.business.answer(|_| async {
        Ok(HandleResponse { body: vec![0; 3 * 1024 * 1024].into(), ..Default::default() })
    });
    let mut device = house.device("d").await;
    device.request(1, CHAT, b"x").await;
    assert_eq!(device.response().await.0.status, ErrorCode::TooLarge.number());
    // The business's own words of the same kind are its own.
    house.business.answer(|_| async { Err(tonic::Status::out_of_range("page 7 of 6")) });
    device.request(2, CHAT, b"x").await;
    assert_eq!(device.response().await.0.status, ErrorCode::BusinessFailed.number());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_frame_limit_that_a_session_was_told_holds_for_its_life() {
    let house = House::start().await;
    let mut before = house.device("before").await;
    house.put(Entity::App(wire::App { frame_bytes_max: 256 * 1024, ..app(APP) })).await;
    let mut after = house.device("after").await;
    house.business.answer(|_| async {
        Ok(HandleResponse { body: vec![0; 100_000].into(), ..Default::default() })
    });
    before.request(1, CHAT, b"x").await;
    assert_eq!(before.response().await.0.status, ErrorCode::TooLarge.number());
    after.request(1, CHAT, b"x").await;
    assert_eq!(after.response().await.1.len(), 100_000);
    // Pushes: to each, and to both as members of a group.
    let large = vec![7; 100_000];
    let routes = [house.route("before"), house.route("after")];
    let outcomes = house.router.deliver(push_to(&routes, &large)).await.outcomes;
    assert_eq!(outcomes, [Outcome::Overflow as u32, Outcome::Written as u32]);
    assert_eq!(after.pushed().await, large);
    house.router.create_group(APP, "g", CHAT);
    for device in [&mut before, &mut after] {
        device.join(2, "g").await;
        assert_eq!(device.joined().await.status, 0);
    }
    let report = house.router.deliver(house.push_group("g", &large)).await;
    assert_eq!((report.members, report.dropped), (2, 1));
    assert!(matches!(after.frame().await, NodeFrame::GroupPush(_, body) if body == large));
    before.settle().await;
    // A limit that is lowered does not take away what was told either.
    house.put(Entity::App(app(APP))).await;
    after.request(3, CHAT, b"x").await;
    assert_eq!(after.response().await.1.len(), 100_000);
}
