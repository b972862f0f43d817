//! Tokens while a session lives: revoked, refreshed, over.

use crate::eventually;
use crate::fakes::control::Refreshing;
use crate::fakes::device::Device;
use crate::fakes::dial::Dial;
use crate::fakes::router::Binding;
use crate::fakes::tokens;
use crate::house::{APP, House, push_to};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::DeviceFrame;
use hawser_proto::id::{AppId, DeviceId};
use hawser_proto::params::Refresh;
use hawser_proto::rpc::node::bind_result::Status;
use hawser_proto::token::refresh_at_ms;
use std::time::{Duration, Instant};

async fn refresh(device: &mut Device, request_id: u64) {
    device.send(&DeviceFrame::Refresh(Refresh { request_id })).await;
}

fn soon_ms() -> u64 {
    (tokens::now_s() + 1) * 1_000
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_ends_live_sessions_and_refuses_their_tokens() {
    let house = House::start().await;
    let mut sessions = Vec::new();
    for how in Dial::ALL {
        sessions.push(house.login(how, how.name()).await.0);
    }
    let mut beside = house.device("beside").await;
    // Issued before the revocation, shown after it.
    let old = tokens::token(APP, "tcp");
    let begun = Instant::now();
    for how in Dial::ALL {
        house.control.revoke(APP, how.name(), soon_ms());
    }
    for mut device in sessions {
        assert_eq!(device.closed().await, CloseCode::TokenRevoked);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    beside.settle().await;
    let mut again = house.dial(Dial::Tcp).await;
    let login = again.login_frame(APP, "tcp", old);
    again.send(&DeviceFrame::Login(login)).await;
    assert_eq!(again.closed().await, CloseCode::TokenRevoked);
    // The whole app, but not another one.
    let mut other = house.dial(Dial::Tcp).await;
    let login = other.login_frame("other", "d", tokens::token("other", "d"));
    other.send(&DeviceFrame::Login(login)).await;
    other.login_ok().await;
    house.control.revoke(APP, "", soon_ms());
    assert_eq!(beside.closed().await, CloseCode::TokenRevoked);
    other.settle().await;
    drop(other);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_comes_while_the_router_thinks_is_not_missed() {
    let house = House::start().await;
    house.router.binds(Binding::Hold);
    let mut device = house.dial(Dial::Tcp).await;
    let login = device.login_frame(APP, "d", tokens::token(APP, "d"));
    device.send(&DeviceFrame::Login(login)).await;
    eventually("a claim", || house.router.held().first().cloned()).await;
    house.control.revoke(APP, "d", soon_ms());
    house.caught_up().await;
    house.router.answer_held(Status::Ok);
    assert_eq!(device.closed().await, CloseCode::TokenRevoked);
    eventually("the claim is given back", || house.router.route(APP, "d").is_none().then_some(()))
        .await;
    house.metric_is("hawser_access_sessions", &[], 0).await;
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_refreshed_on_the_live_connection_and_counts_from_then_on() {
    let house =
        House::start_with(|config| config.first_frame_timeout = Duration::from_millis(500)).await;
    // Over in two seconds, leeway included.
    let mut claims = tokens::claims(APP, "d");
    claims.iat -= 3_600;
    claims.exp = tokens::now_s() - 58;
    claims.biz = vec!["chat".into()];
    let token = tokens::sign(&claims);
    let mut kept = house.dial(Dial::Tcp).await;
    let login = kept.login_frame(APP, "d", token);
    kept.send(&DeviceFrame::Login(login)).await;
    kept.login_ok().await;
    refresh(&mut kept, 8).await;
    let refreshed = kept.refreshed().await;
    assert_eq!((refreshed.request_id, refreshed.status), (8, 0));
    assert!(refreshed.token_refresh_at_ms < refreshed.token_expires_at_ms);
    let asked = house.control.refreshes().pop().unwrap();
    assert_eq!(
        (&asked.app[..], &asked.device[..], &asked.businesses[..]),
        (APP, "d", &["chat".to_owned()][..])
    );
    assert_eq!(asked.issued_at_ms, claims.iat as i64 * 1_000);
    // The old one is over now, and nothing happens.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(3_500) {
        kept.settle().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The new one opens the door, too, and a revocation of the old one leaves it alone.
    house.control.revoke(APP, "d", (claims.iat + 10) * 1_000);
    house.caught_up().await;
    kept.settle().await;
    let mut again = house.dial(Dial::Tcp).await;
    let login = again.login_frame(APP, "d", refreshed.token);
    again.send(&DeviceFrame::Login(login)).await;
    again.login_ok().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refresh_at_a_time() {
    let house = House::start().await;
    let mut device = house.device("d").await;
    house.control.answer_refreshes(Refreshing::Never);
    refresh(&mut device, 1).await;
    refresh(&mut device, 2).await;
    let refused = device.refreshed().await;
    assert_eq!(
        (refused.request_id, refused.status),
        (2, ErrorCode::TooManyRequests.number()),
        "the second one is answered while the first one waits"
    );
    let late = device.refreshed().await;
    assert_eq!((late.request_id, late.status), (1, ErrorCode::Unavailable.number()));
    assert_eq!(house.control.refreshes().len(), 1);
    // Each one after the answer of the one before.
    house.control.answer_refreshes(Refreshing::Token(3_600));
    for request_id in 3..50 {
        refresh(&mut device, request_id).await;
        let refreshed = device.refreshed().await;
        assert_eq!((refreshed.request_id, refreshed.status), (request_id, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_login_answer_tells_the_time_of_refresh_that_control_tells() {
    let house = House::start().await;
    let app = AppId::new(APP).unwrap();
    for name in ["d", "e"] {
        let claims = tokens::claims(APP, name);
        let mut device = house.dial(Dial::Tcp).await;
        let login = device.login_frame(APP, name, tokens::sign(&claims));
        device.send(&DeviceFrame::Login(login)).await;
        let ok = device.login_ok().await;
        let name = DeviceId::new(name).unwrap();
        let told = refresh_at_ms(&app, &name, claims.iat * 1_000, claims.exp * 1_000);
        assert_eq!(ok.token_refresh_at_ms, told);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_fails_says_why_and_the_session_goes_on() {
    let house = House::start().await;
    let mut device = house.device("d").await;
    for (code, expected) in [
        (tonic::Code::PermissionDenied, ErrorCode::Revoked),
        (tonic::Code::Unavailable, ErrorCode::Unavailable),
        (tonic::Code::Internal, ErrorCode::Unavailable),
    ] {
        house.control.answer_refreshes(Refreshing::Refused(code));
        refresh(&mut device, 3).await;
        let refreshed = device.refreshed().await;
        assert_eq!((refreshed.request_id, refreshed.status), (3, expected.number()));
        assert!(refreshed.token.is_empty());
    }
    house.control.go_away();
    refresh(&mut device, 4).await;
    assert_eq!(device.refreshed().await.status, ErrorCode::Unavailable.number());
    // Without control everything else goes on, new logins included.
    device.settle().await;
    house.device("e").await.settle().await;
    house.router.deliver(push_to(&[house.route("d")], b"hello")).await;
    assert_eq!(device.pushed().await, b"hello");
}
