//! What ends when nothing happens: logins that do not come, sessions that fall silent, tokens.

use crate::fakes::dial::Dial;
use crate::fakes::router::Binding;
use crate::fakes::tokens;
use crate::house::{APP, House, app};
use hawser_proto::code::CloseCode;
use hawser_proto::frame::DeviceFrame;
use hawser_proto::rpc::control::change::Entity;
use hawser_proto::rpc::node::bind_result::Status;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_never_logs_in_is_told_so_in_time() {
    let limit = Duration::from_millis(300);
    let house = House::start_with(|config| config.first_frame_timeout = limit).await;
    for how in Dial::ALL {
        let mut device = house.dial(how).await;
        let begun = Instant::now();
        if how == Dial::Quic {
            // A stream is not there before its first byte; one that never comes is cut.
            device.send_bytes(b"h").await;
        }
        assert_eq!(device.closed().await, CloseCode::LoginTimeout, "{how:?}");
        let took = begun.elapsed();
        assert!(took >= limit / 2 && took < limit * 8, "{how:?} took {took:?}");
    }
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trickled_login_bytes_extend_nothing() {
    let house =
        House::start_with(|config| config.first_frame_timeout = Duration::from_millis(300)).await;
    let mut device = house.dial(Dial::Tcp).await;
    let login = device.login_frame(APP, "slow", tokens::token(APP, "slow"));
    let login = DeviceFrame::Login(login).encode();
    let begun = Instant::now();
    let mut sent = 0;
    for byte in &login {
        if device.try_send_bytes(&[*byte]).await.is_err() || begun.elapsed().as_millis() > 900 {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(sent < login.len());
    assert_eq!(device.closed().await, CloseCode::LoginTimeout);
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trickled_handshakes_and_upgrades_are_cut_in_time() {
    let limit = Duration::from_millis(200);
    let house = House::start_with(|config| {
        config.handshake_timeout = limit;
        config.upgrade_timeout = limit;
    })
    .await;
    // The beginning of a TLS record, and of an upgrade, a byte at a time.
    let tls: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    let http: &[u8] =
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for (protocol, bytes) in [("tls", tls), ("wss", tls), ("ws", http)] {
        let address = house.node.address(protocol).unwrap();
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let begun = Instant::now();
        let mut byte = bytes.iter().cycle();
        let mut into = [0; 64];
        loop {
            tokio::select! {
                // The end, or a reset.
                read = tcp.read(&mut into) => if read.unwrap_or(0) == 0 { break },
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    let _ = tcp.write_all(&[*byte.next().unwrap()]).await;
                }
            }
            assert!(begun.elapsed() < limit * 20, "{protocol} is still there");
        }
    }
    house.metric_is("hawser_access_connections", &[], 0).await;
    house.metric_is("hawser_access_refused_connections_total", &[("cause", "handshake")], 3).await;
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_came_in_time_is_not_ended_while_the_router_thinks() {
    let house = House::start_with(|config| {
        config.first_frame_timeout = Duration::from_millis(100);
        config.router_call_timeout = Duration::from_secs(5);
    })
    .await;
    house.router.binds(Binding::Hold);
    let mut device = house.dial(Dial::Tcp).await;
    let login = device.login_frame(APP, "d", tokens::token(APP, "d"));
    device.send(&DeviceFrame::Login(login)).await;
    // Well past the deadline of the first frame.
    tokio::time::sleep(Duration::from_millis(300)).await;
    house.router.answer_held(Status::Ok);
    device.login_ok().await;
    device.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_login_has_a_deadline_too() {
    let house = House::start_with(|config| {
        config.first_frame_timeout = Duration::from_millis(100);
        config.login_timeout = Duration::from_millis(300);
        config.router_call_timeout = Duration::from_millis(800);
    })
    .await;
    house.router.binds(Binding::Hold);
    let mut device = house.dial(Dial::Tcp).await;
    let login = device.login_frame(APP, "d", tokens::token(APP, "d"));
    device.send(&DeviceFrame::Login(login)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    house.router.answer_held(Status::Ok);
    assert_eq!(device.closed().await, CloseCode::LoginTimeout);
    house.metric_is("hawser_access_sessions", &[], 0).await;
    crate::eventually("the claim is given back", || {
        house.router.route(APP, "d").is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_ends_a_session_and_a_heartbeat_keeps_it() {
    let house = House::start().await;
    let impatient = hawser_proto::rpc::control::App { idle_timeout_ms: 400, ..app(APP) };
    house.put(Entity::App(impatient)).await;
    let mut sessions = Vec::new();
    for how in Dial::ALL {
        sessions.push(house.login(how, &format!("silent-{}", how.name())).await.0);
    }
    let (mut awake, ok) = house.login(Dial::Tcp, "awake").await;
    assert_eq!(ok.idle_timeout_ms, 400);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_200) {
        awake.settle().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for mut silent in sessions {
        assert_eq!(silent.closed().await, CloseCode::IdleTimeout);
    }
    awake.settle().await;
    house.metric_is("hawser_access_sessions", &[], 1).await;
    assert_eq!(awake.closed().await, CloseCode::IdleTimeout);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_received_byte_counts_as_life() {
    let house = House::start().await;
    let impatient = hawser_proto::rpc::control::App { idle_timeout_ms: 400, ..app(APP) };
    house.put(Entity::App(impatient)).await;
    let mut device = house.device("d").await;
    // One frame, over two time-outs.
    let ping = DeviceFrame::Ping(hawser_proto::params::Ping { nonce: u64::MAX }).encode();
    for byte in &ping {
        device.send_bytes(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(matches!(device.frame().await, hawser_proto::frame::NodeFrame::Pong(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_token() {
    let house =
        House::start_with(|config| config.first_frame_timeout = Duration::from_millis(500)).await;
    let mut device = house.dial(Dial::Tcp).await;
    // Expired, but within the leeway of a minute for two seconds more.
    let mut claims = tokens::claims(APP, "d");
    claims.iat -= 3_600;
    claims.exp = tokens::now_s() - 58;
    let login = device.login_frame(APP, "d", tokens::sign(&claims));
    device.send(&DeviceFrame::Login(login)).await;
    device.login_ok().await;
    device.settle().await;
    assert_eq!(device.closed().await, CloseCode::TokenExpired);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_further_away_than_the_wheel_is_long_is_not_forgotten() {
    // 256 buckets of 1 ms: everything here is further away than that.
    let house = House::start_with(|config| {
        config.wheel_tick = Duration::from_millis(1);
        config.first_frame_timeout = Duration::from_millis(700);
    })
    .await;
    let mut device = house.dial(Dial::Tcp).await;
    assert_eq!(device.closed().await, CloseCode::LoginTimeout);
    let impatient = hawser_proto::rpc::control::App { idle_timeout_ms: 900, ..app(APP) };
    house.put(Entity::App(impatient)).await;
    let mut device = house.device("d").await;
    assert_eq!(device.closed().await, CloseCode::IdleTimeout);
}
