//! The access call, and what its answers do.

use crate::control::Control;
use crate::node::{Node, certificate, soon};
use hawser_proto::code::CloseCode;
use hawser_sdk::{
    AccessPoint, Builder, Client, ErrorCode, MemoryStorage, Proof, ProofError, Protocol, Reason,
    State,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn builder(control: &Control) -> Builder {
    let fast = hawser_sdk::Backoff {
        base: Duration::from_millis(10),
        max: Duration::from_millis(50),
        window: Duration::from_millis(20),
        ..Default::default()
    };
    Client::builder(&control.address, "demo", "d").business("chat").backoff(fast)
}

#[tokio::test]
async fn the_points_are_dialled_in_the_order_given() {
    let mut control = Control::start().await;
    let mut node = Node::tcp().await;
    // A port that was free a moment ago, and a protocol that this node does not speak.
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        AccessPoint::new(Protocol::Tcp, "127.0.0.1", port)
    };
    let client = builder(&control).app_version("1.2").network("wifi").build().unwrap();
    client.start();
    let asked = control.asked().await;
    assert_eq!(asked.body["app"], "demo");
    assert_eq!(asked.body["device"], "d");
    assert_eq!(asked.body["businesses"], serde_json::json!(["chat"]));
    assert_eq!(asked.body["proof"]["type"], "open");
    assert_eq!(asked.body["app_version"], "1.2");
    asked.advise("token-1", &[&closed, &node.point]);
    let mut peer = node.accept().await;
    let login = peer.welcome().await;
    assert_eq!((&*login.token, login.attempt), ("token-1", 2));
    soon("online", client.connect()).await.unwrap();
}

#[tokio::test]
async fn a_refused_token_is_asked_for_again_with_a_fresh_proof() {
    let mut control = Control::start().await;
    let mut node = Node::tcp().await;
    let given = AtomicU32::new(0);
    let identity = move || {
        let number = given.fetch_add(1, Ordering::Relaxed);
        async move {
            match number {
                0 => Err(ProofError::new("not signed in yet")),
                number => Ok(format!("jwt-{number}")),
            }
        }
    };
    let client = builder(&control).proof(Proof::identity(identity)).build().unwrap();
    client.start();
    for number in 1..=2 {
        let asked = control.asked().await;
        assert_eq!(asked.body["proof"]["token"], format!("jwt-{number}"));
        asked.advise(&format!("token-{number}"), &[&node.point]);
        let mut peer = node.accept().await;
        assert_eq!(peer.welcome().await.token, format!("token-{number}"));
        peer.close(CloseCode::TokenExpired, 0).await;
    }
}

#[tokio::test]
async fn a_refusal_for_now_is_tried_again_and_one_for_good_is_not() {
    let mut control = Control::start().await;
    let client = builder(&control).proof(Proof::hmac("wrong")).build().unwrap();
    client.start();
    control.asked().await.refuse("503 Service Unavailable", "no_access_point");
    control.asked().await.refuse("500 Internal Server Error", "");
    control.asked().await.refuse("401 Unauthorized", "proof_invalid");
    let error = soon("closed", client.connect()).await.unwrap_err();
    let code = Some(ErrorCode::ProofInvalid);
    assert!(matches!(&error.reason, Reason::Refused { status: 401, code: c, .. } if *c == code));
    assert_eq!(error.to_string(), "the client closed: control refused: proof_invalid (because)");
}

#[tokio::test]
async fn control_may_go_away_while_the_token_is_good() {
    let mut control = Control::start().await;
    let mut node = Node::tcp().await;
    let client = builder(&control).build().unwrap();
    client.start();
    control.asked().await.advise("token-1", &[&node.point]);
    let mut peer = node.accept().await;
    peer.welcome().await;
    drop(control);
    for code in [CloseCode::Internal, CloseCode::Draining, CloseCode::IdleTimeout] {
        peer.close(code, 0).await;
        peer = node.accept().await;
        assert_eq!(peer.welcome().await.token, "token-1", "{code}");
    }
    soon("online", client.connect()).await.unwrap();
}

#[tokio::test]
async fn a_device_key_is_made_once_and_kept() {
    let storage: &'static MemoryStorage = Box::leak(Box::default());
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut control = Control::start().await;
        let client =
            builder(&control).proof(Proof::hmac("s")).storage(Shared(storage)).build().unwrap();
        client.start();
        let asked = control.asked().await;
        assert!(asked.body["proof"]["device_signature"].is_string());
        keys.push(asked.body["proof"]["device_key"].as_str().unwrap().to_owned());
    }
    assert_eq!(keys[0], keys[1]);
}

struct Shared(&'static MemoryStorage);

impl hawser_sdk::Storage for Shared {
    fn load(&self) -> std::io::Result<Option<hawser_sdk::Installation>> {
        self.0.load()
    }
    fn store(&self, installation: &hawser_sdk::Installation) -> std::io::Result<()> {
        self.0.store(installation)
    }
}

#[tokio::test]
async fn control_is_asked_over_tls_too() {
    let (pem, tls) = certificate();
    let mut control = Control::start_with(Some(tls)).await;
    let mut node = Node::tcp().await;
    let client = builder(&control).root_certificate(pem).build().unwrap();
    client.start();
    control.asked().await.advise("token-1", &[&node.point]);
    let mut peer = node.accept().await;
    peer.welcome().await;
    soon("online", client.states().wait_for(State::is_online)).await.unwrap();

    let (stranger, _) = certificate();
    let client = builder(&control).root_certificate(stranger).build().unwrap();
    client.start();
    let mut states = client.states();
    let offline = |state: &State| matches!(state, State::Offline { .. });
    let seen = soon("offline", states.wait_for(offline)).await.unwrap().clone();
    assert!(matches!(seen, State::Offline { reason: Reason::ControlUnreachable(_), .. }), "{seen}");
}

#[tokio::test]
async fn a_wrong_clock_is_set_once() {
    let mut control = Control::start().await;
    let client = builder(&control).proof(Proof::hmac("s")).build().unwrap();
    client.start();
    control.asked().await.refuse("401 Unauthorized", "proof_expired");
    let asked = control.asked().await;
    let (time, date) = (asked.body["proof"]["time"].as_u64().unwrap(), 784_111_777);
    assert!((date..date + 60).contains(&time), "the Date header's time, not ours: {time}");
    asked.refuse("401 Unauthorized", "proof_expired");
    assert!(soon("closed", client.connect()).await.is_err());
}
