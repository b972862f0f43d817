//! How a node ends, refuses and survives, and what is left of a storm: nothing.

use crate::fakes::dial::Dial;
use crate::fakes::tokens;
use crate::house::{APP, CHAT, House};
use crate::{PATIENCE, eventually};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::params::Close;
use hawser_proto::rpc::business::HandleResponse;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_goes_lets_requests_finish_and_says_where_to_go() {
    let house = House::start().await;
    house.router.create_group(APP, "room", CHAT);
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    house.business.answer(move |asked| {
        let gate = held.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(HandleResponse { body: asked.body, ..Default::default() })
        }
    });
    let mut busy = house.device("busy").await;
    busy.request(1, CHAT, b"hello").await;
    eventually("the request is there", || (house.business.seen_count() == 1).then_some(())).await;
    let mut idle = Vec::new();
    for how in Dial::ALL {
        idle.push(house.login(how, how.name()).await.0);
    }
    let address = house.node.address("tcp").unwrap();
    let ending = tokio::spawn(house.node.clone().shutdown(PATIENCE));
    for mut device in idle {
        assert_eq!(device.closed().await, CloseCode::Draining, "nothing in flight: at once");
    }
    eventually("it is no longer advertised", || {
        house.control.report().filter(|report| report.draining)
    })
    .await;
    assert!(TcpStream::connect(address).await.is_err(), "the doors are shut");
    assert!(!house.node.is_ready());
    // The one with a request in flight is served on, but takes up no new work.
    busy.settle().await;
    busy.request(2, CHAT, b"more").await;
    assert_eq!(busy.response().await.0.status, ErrorCode::Unavailable.number());
    busy.enter("room").await;
    gate.add_permits(1);
    let (response, body) = busy.response().await;
    assert_eq!((response.request_id, response.status, &body[..]), (1, 0, &b"hello"[..]));
    assert_eq!(busy.closed().await, CloseCode::Draining);
    assert!(ending.await.unwrap(), "nothing was left");
    eventually("every session was given back", || {
        let is_gone = |name| house.router.route(APP, name).is_none();
        ["busy", "tcp", "tls", "quic", "ws", "wss"].into_iter().all(is_gone).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_never_ends_does_not_keep_the_node() {
    let house = House::start().await;
    house.business.answer(|_| std::future::pending());
    let mut device = house.device("d").await;
    device.request(1, CHAT, b"hello").await;
    eventually("the request is there", || (house.business.seen_count() == 1).then_some(())).await;
    let begun = Instant::now();
    let ending = tokio::spawn(house.node.clone().shutdown(Duration::from_secs(2)));
    assert_eq!(device.closed().await, CloseCode::Draining);
    // The call itself ends with its own deadline; the node does not claim it was clean.
    ending.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4));
}

/// More sockets than a node hears of at a time. One thread: while it ends them, the node has no turn.
#[tokio::test]
async fn those_who_end_at_once_are_all_heard_of() {
    let many = 300;
    let house = House::start_with(|config| {
        config.lanes = 1;
        config.unauthenticated_percent_max = 100;
        config.first_frame_timeout = Duration::from_hours(1);
        config.login_timeout = Duration::from_hours(1);
    })
    .await;
    let address = house.node.address("tcp").unwrap();
    let mut links = Vec::new();
    for _ in 0..many {
        links.push(TcpStream::connect(address).await.unwrap());
    }
    house.metric_is("hawser_access_connections", &[], many).await;
    drop(links);
    house.metric_is("hawser_access_connections", &[], 0).await;
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_not_logged_in_does_not_hold_up_the_end() {
    let house = House::start().await;
    // Three that never began, and one of each kind that is in and says nothing.
    let mut outside = Vec::new();
    for protocol in ["tls", "ws", "wss"] {
        outside.push(TcpStream::connect(house.node.address(protocol).unwrap()).await.unwrap());
    }
    let mut inside = Vec::new();
    for how in [Dial::Tcp, Dial::Tls, Dial::Ws, Dial::Wss] {
        inside.push(house.dial(how).await);
    }
    house.metric_is("hawser_access_connections", &[], 4).await;
    let begun = Instant::now();
    let ending = tokio::spawn(house.node.clone().shutdown(PATIENCE));
    for mut device in inside {
        assert_eq!(device.closed().await, CloseCode::Draining);
    }
    for mut tcp in outside {
        // The end, or a reset.
        let read = tokio::time::timeout(PATIENCE, tcp.read(&mut [0; 16])).await.unwrap();
        assert_eq!(read.unwrap_or(0), 0);
    }
    assert!(ending.await.unwrap());
    assert!(begun.elapsed() < PATIENCE / 3, "at once, not when the patience is half over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_says_so_and_serves_those_it_has() {
    let house = House::start_with(|config| {
        config.connections_max = 3;
        config.unauthenticated_percent_max = 100;
    })
    .await;
    let mut devices = Vec::new();
    for name in ["a", "b", "c"] {
        devices.push(house.device(name).await);
    }
    let mut refused = house.dial(Dial::Tcp).await;
    assert_eq!(refused.closed().await, CloseCode::NodeFull);
    for device in &mut devices {
        device.settle().await;
    }
    drop(devices.pop());
    house.metric_is("hawser_access_connections", &[], 2).await;
    let _welcome = house.device("d").await;
    house.metric_is("hawser_access_refused_connections_total", &[("cause", "full")], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_cannot_fill_a_node() {
    let house = House::start_with(|config| {
        config.connections_max = 20;
        config.unauthenticated_percent_max = 20;
    })
    .await;
    let mut strangers = Vec::new();
    for _ in 0..4 {
        strangers.push(house.dial(Dial::Tcp).await);
    }
    house.metric_is("hawser_access_connections", &[], 4).await;
    assert_eq!(house.dial(Dial::Tcp).await.closed().await, CloseCode::Overloaded);
    drop(strangers.pop());
    house.metric_is("hawser_access_connections", &[], 3).await;
    let _device = house.device("d").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_storm() {
    let house = House::start().await;
    for group in ["g-0", "g-1", "g-2"] {
        house.router.create_group(APP, group, CHAT);
    }
    for round in 0..3 {
        let storm = (0..60).map(async |n: usize| {
            let how = Dial::ALL[n % 5];
            let (mut device, _) = house.login(how, &format!("d-{}", n % 40)).await;
            // Some have just been superseded: then these are not answered.
            let frames = [
                DeviceFrame::Join(hawser_proto::params::Join {
                    request_id: 1,
                    group: format!("g-{}", n % 3),
                    ..Default::default()
                }),
                DeviceFrame::Bye(Close::default()),
            ];
            for frame in &frames[..(n + round) % 3] {
                let bytes = device.form(&frame.encode());
                let _ = device.try_send_bytes(&bytes).await;
            }
            if n.is_multiple_of(7) {
                // Half a login from another one.
                let mut half = house.dial(Dial::Tcp).await;
                let login = half.login_frame(APP, "half", tokens::token(APP, "half"));
                half.send_bytes(&DeviceFrame::Login(login).encode()[..50]).await;
            }
        });
        futures_util::future::join_all(storm).await;
    }
    eventually("every route is gone", || {
        let is_gone = |n| house.router.route(APP, &format!("d-{n}")).is_none();
        (0..40).all(is_gone).then_some(())
    })
    .await;
    for group in ["g-0", "g-1", "g-2"] {
        eventually("the last leave is reported", || {
            let reports = house.router.group_reports(group);
            reports.last().is_some_and(|&(_, present)| !present).then_some(())
        })
        .await;
    }
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_is_answered_and_nothing_after_it() {
    let house = House::start().await;
    for how in Dial::ALL {
        let (mut device, _) = house.login(how, "d").await;
        let bye = DeviceFrame::Bye(Close::default()).encode();
        let ping = DeviceFrame::Ping(hawser_proto::params::Ping { nonce: 1 }).encode();
        let both = [device.form(&ping), device.form(&bye), device.form(&ping)].concat();
        device.send_bytes(&both).await;
        let (code, _, before) = device.closed_with().await;
        assert_eq!(code, CloseCode::Goodbye);
        assert_eq!(before, [NodeFrame::Pong(hawser_proto::params::Ping { nonce: 1 })], "{how:?}");
    }
    house.ends_clean().await;
}
