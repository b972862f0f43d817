//! Coming back, groups, requests, refresh and takeover, over real TCP.

use crate::node::{Node, login_ok, soon};
use bytes::Bytes;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::params;
use hawser_sdk::{
    Backoff, Builder, Client, FileStorage, GroupError, Incoming, LeftReason, MemoryStorage,
    RequestError, Retry, State,
};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn builder(nodes: &[&Node]) -> Builder {
    let fast = Backoff {
        base: Duration::from_millis(10),
        max: Duration::from_millis(50),
        window: Duration::from_millis(20),
        ..Default::default()
    };
    let points: Vec<_> = nodes.iter().map(|node| node.point.clone()).collect();
    Builder::pinned("demo", "d", "token-1", points).business("chat").backoff(fast)
}

fn start(node: &Node) -> Client {
    let client = builder(&[node]).build().unwrap();
    client.start();
    client
}

#[tokio::test]
async fn a_group_is_joined_again_after_a_cut_and_not_after_a_kick() {
    let mut node = Node::tcp().await;
    let client = start(&node);
    let chat = client.business("chat");
    let mut listener = chat.listen();
    let mut peer = node.accept().await;
    peer.welcome().await;
    let joining = {
        let chat = chat.clone();
        tokio::spawn(async move { chat.join("lobby").await })
    };
    let join = peer.join().await;
    assert_eq!(join.group, "lobby");
    peer.joined(join).await;
    soon("the join", joining).await.unwrap().unwrap();

    drop(peer);
    let mut peer = node.accept().await;
    peer.welcome().await;
    let join = peer.join().await;
    peer.joined(join).await;
    let kicked = params::LeftReason::Kicked.into();
    let left = params::Left { group: "lobby".into(), reason: kicked, ..Default::default() };
    peer.send(NodeFrame::Left(left)).await;
    let Some(Incoming::Left(left)) = soon("word of it", listener.next_item()).await else {
        panic!("not a lost membership");
    };
    assert_eq!((&*left.group, left.reason), ("lobby", LeftReason::Kicked));

    drop(peer);
    let mut peer = node.accept().await;
    peer.welcome().await;
    let asking = tokio::spawn(chat.request("echo", "x").into_future());
    peer.request().await; // and no join before it
    asking.abort();
}

#[tokio::test]
async fn each_advice_is_followed() {
    let (mut one, mut two) = (Node::tcp().await, Node::tcp().await);
    let seen: Arc<Mutex<Vec<Retry>>> = Arc::default();
    let noted = seen.clone();
    let client = builder(&[&one, &two])
        .on_state(move |state| {
            if let State::Offline { retry, .. } = state {
                noted.lock().unwrap().push(*retry);
            }
        })
        .build()
        .unwrap();
    client.start();
    let mut peer = one.accept().await;
    peer.welcome().await;
    peer.close(CloseCode::IdleTimeout, 0).await;
    let mut peer = one.accept().await;
    peer.welcome().await;
    let told = Instant::now();
    peer.close(CloseCode::Overloaded, 300).await;
    let mut peer = one.accept().await;
    assert!(told.elapsed() >= Duration::from_millis(300), "later is not sooner");
    peer.welcome().await;
    peer.close(CloseCode::Draining, 0).await;
    let mut peer = two.accept().await;
    peer.welcome().await;
    assert!(one.accepted().is_none(), "elsewhere is not here");
    peer.close(CloseCode::TokenRevoked, 0).await;
    soon("closed", client.states().wait_for(State::is_closed)).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [Retry::Now, Retry::Later, Retry::Elsewhere]);
}

#[tokio::test]
async fn a_takeover_is_not_fought() {
    let mut node = Node::tcp().await;
    let client = start(&node);
    let pending = {
        let mut peer = node.accept().await;
        peer.welcome().await;
        let pending = tokio::spawn(client.business("chat").request("echo", "x").into_future());
        peer.request().await;
        peer.close(CloseCode::Superseded, 0).await;
        assert_eq!(peer.next().await, None, "the device hangs up");
        pending
    };
    let answer = soon("an answer", pending).await.unwrap();
    assert_eq!(answer, Err(RequestError::ConnectionLost));
    let failure = client.states().wait_for(State::is_closed).await.unwrap().clone();
    assert!(matches!(failure, State::Closed { code: Some(CloseCode::Superseded), .. }));
    assert!(node.accepted().is_none());
    let answer = client.business("chat").request("echo", "x").await;
    assert_eq!(answer, Err(RequestError::Closed));
    assert_eq!(client.business("chat").join("g").await, Err(GroupError::Closed));

    // The app may want it all the same.
    client.start();
    let mut peer = node.accept().await;
    assert_eq!(peer.welcome().await.attempt, 2, "one installation, one row of attempts");
    soon("online", client.connect()).await.unwrap();
}

#[tokio::test]
async fn a_refreshed_token_is_used_at_the_next_login() {
    let mut node = Node::tcp().await;
    let _client = start(&node);
    let mut peer = node.accept().await;
    assert_eq!(peer.login().await.token, "token-1");
    let due = params::LoginOk {
        token_refresh_at_ms: 1_000_001,
        token_expires_at_ms: 1_000_001,
        ..login_ok()
    };
    peer.send(NodeFrame::LoginOk(due)).await;
    let Some(DeviceFrame::Refresh(refresh)) = peer.next().await else { panic!("not a refresh") };
    let refreshed = params::Refreshed {
        request_id: refresh.request_id,
        token: "token-2".into(),
        token_refresh_at_ms: 9_000_000,
        token_expires_at_ms: 9_900_000,
        ..Default::default()
    };
    peer.send(NodeFrame::Refreshed(refreshed)).await;
    drop(peer);
    let mut peer = node.accept().await;
    assert_eq!(peer.welcome().await.token, "token-2");
}

#[tokio::test]
async fn a_request_outlives_being_offline_but_not_its_deadline() {
    let mut node = Node::tcp().await;
    let client = start(&node);
    let chat = client.business("chat");
    let waiting = tokio::spawn(chat.request("echo", "early").into_future());
    let mut peer = node.accept().await;
    peer.welcome().await;
    let (request, body) = peer.request().await;
    assert!(request.deadline_ms <= 10_000 && request.deadline_ms > 5_000);
    // The node keeps the next one waiting, and answers the first after it.
    let late = chat.request("echo", "late").deadline(Duration::from_millis(50)).await;
    assert_eq!(late, Err(RequestError::DeadlineExceeded));
    let (forgotten, _) = peer.request().await;
    for request_id in [forgotten.request_id, 999, request.request_id] {
        let response = params::Response { request_id, ..Default::default() };
        peer.send(NodeFrame::Response(response, body.clone())).await;
    }
    assert_eq!(soon("an answer", waiting).await.unwrap().unwrap().body, "early");
}

#[tokio::test]
async fn an_abandoned_request_harms_nobody() {
    let mut node = Node::tcp().await;
    let client = start(&node);
    let chat = client.business("chat");
    let mut peer = node.accept().await;
    peer.welcome().await;
    let abandoned = tokio::spawn(chat.request("echo", "1").into_future());
    let (first, _) = peer.request().await;
    abandoned.abort();
    let kept = tokio::spawn(chat.request("echo", "2").into_future());
    let (second, _) = peer.request().await;
    for request_id in [first.request_id, second.request_id] {
        let response = params::Response { request_id, status: 6, ..Default::default() };
        peer.send(NodeFrame::Response(response, Bytes::new())).await;
    }
    let answer = soon("an answer", kept).await.unwrap();
    assert_eq!(answer.unwrap_err().code(), Some(hawser_sdk::ErrorCode::Overloaded));
}

#[tokio::test]
async fn the_installation_outlives_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("installation");
    let mut instances = Vec::new();
    for attempt in 1..=3 {
        let mut node = Node::tcp().await;
        let client = builder(&[&node]).storage(FileStorage::new(&path)).build().unwrap();
        client.start();
        let mut peer = node.accept().await;
        let login = peer.welcome().await;
        assert_eq!(login.attempt, attempt);
        instances.push(login.instance);
    }
    instances.dedup();
    assert_eq!(instances.len(), 1);

    std::fs::write(&path, "damaged").unwrap();
    let node = Node::tcp().await;
    let client = builder(&[&node]).storage(FileStorage::new(&path)).build().unwrap();
    assert!(soon("closed", client.connect()).await.is_err());
}

#[tokio::test]
async fn the_last_handle_says_goodbye() {
    let mut node = Node::tcp().await;
    let client = builder(&[&node]).storage(MemoryStorage::default()).build().unwrap();
    client.start();
    let chat = client.business("chat");
    let mut peer = node.accept().await;
    peer.welcome().await;
    soon("online", client.connect()).await.unwrap();
    drop(client);
    let asking = tokio::spawn(chat.request("echo", "x").into_future());
    peer.request().await;
    drop(chat);
    asking.abort();
    assert!(matches!(peer.next().await, Some(DeviceFrame::Bye(_))));
    assert_eq!(peer.next().await, None, "it does not wait for ever");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_takes_the_login_and_says_nothing_is_left() {
    let (mut mute, mut good) = (Node::tcp().await, Node::tcp().await);
    let client = builder(&[&mute, &good]).build().unwrap();
    client.start();
    let mut held = mute.accept().await;
    held.login().await;
    let mut peer = good.accept().await;
    peer.welcome().await;
    soon("online", client.connect()).await.unwrap();
}
