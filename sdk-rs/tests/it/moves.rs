//! A node that goes away: the device is elsewhere before it leaves. Over real links.

use crate::node::{Node, Out, Peer, login_ok, soon};
use bytes::Bytes;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::params;
use hawser_sdk::{AccessPoint, Backoff, Builder, Client, Protocol, State};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ABILITIES: u32 = ability::INBOX | ability::HISTORY | ability::GO_AWAY | ability::RESUME;

/// A client that knows the first node only, and what it was told of its state.
fn client(one: &Node, two: &Node) -> (Client, Arc<Mutex<Vec<String>>>) {
    let fast = Backoff {
        base: Duration::from_millis(10),
        max: Duration::from_millis(50),
        window: Duration::from_millis(20),
        ..Default::default()
    };
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = told.clone();
    let client = Builder::pinned("demo", "d", "token-1", [one.point.clone()])
        .business("chat")
        .root_certificate(format!("{}{}", one.pem, two.pem))
        .backoff(fast)
        .on_state(move |state| noted.lock().unwrap().push(state.to_string()))
        .build()
        .unwrap();
    client.start();
    (client, told)
}

fn ok(epoch: u64, ticket: &'static str) -> NodeFrame {
    NodeFrame::LoginOk(params::LoginOk {
        epoch,
        abilities: ABILITIES,
        resume_ticket: Bytes::from_static(ticket.as_bytes()),
        ..login_ok()
    })
}

fn go_away(to: &AccessPoint) -> NodeFrame {
    NodeFrame::GoAway(params::GoAway {
        deadline_ms: 20_000,
        reason: "an upgrade".into(),
        alternatives: vec![params::AccessPoint {
            protocol: to.protocol.name().into(),
            host: to.host.clone(),
            port: to.port.into(),
            server_name: to.server_name.clone().unwrap_or_default(),
        }],
    })
}

fn push(id: &'static str) -> NodeFrame {
    let push = params::Push { push_id: id.into(), business: 5, ..Default::default() };
    NodeFrame::Push(push, Bytes::from_static(id.as_bytes()))
}

async fn online(node: &mut Node, ticket: &'static str) -> Peer {
    let mut peer = node.accept().await;
    peer.login().await;
    peer.send(ok(7, ticket)).await;
    peer
}

async fn moved(client: &Client, epoch: u64) {
    let is_there = |state: &State| matches!(state, State::Online { epoch: e, .. } if *e == epoch);
    soon("the move", client.states().wait_for(is_there)).await.unwrap();
}

/// One word of `connecting`, and then nothing but `online`.
fn was_online_all_the_time(told: &Arc<Mutex<Vec<String>>>) {
    let told = told.lock().unwrap();
    let away: Vec<_> = told.iter().filter(|it| !it.starts_with("online")).collect();
    assert_eq!(away, ["connecting"], "{told:?}");
}

#[tokio::test]
async fn a_device_moves_on_every_transport() {
    for protocol in Protocol::ALL {
        let (mut one, mut two) = (Node::start(protocol).await, Node::start(protocol).await);
        let (client, told) = client(&one, &two);
        let chat = client.business("chat");
        let mut pushes = chat.pushes();
        let mut old = online(&mut one, "ticket-1").await;
        let asking = tokio::spawn(chat.request("echo", "early").into_future());
        let (request, _) = old.request().await;
        let joining = {
            let chat = chat.clone();
            tokio::spawn(async move { chat.join("lobby").await })
        };
        let join = old.join().await;
        old.joined(join).await;
        soon("the join", joining).await.unwrap().unwrap();

        old.send(go_away(&two.point)).await;
        let mut new = two.accept().await;
        old.send(push("on the old link")).await;
        let answer = params::Response { request_id: request.request_id, ..Default::default() };
        old.send(NodeFrame::Response(answer, Bytes::new())).await;
        soon("the answer", asking).await.unwrap().unwrap();
        let login = new.login().await;
        assert_eq!(
            (login.attempt, &*login.token, &*login.resume_ticket),
            (2, "token-1", &b"ticket-1"[..])
        );
        new.send(ok(8, "ticket-2")).await;
        let join = new.join().await;
        new.send(push("on the new link")).await;
        new.joined(join).await;
        assert!(matches!(old.next().await, Some(DeviceFrame::Bye(_))), "{protocol}");
        old.close(CloseCode::Superseded, 0).await;
        moved(&client, 8).await;
        let mut heard = Vec::new();
        for _ in 0..2 {
            heard.push(soon("a push", pushes.next_push()).await.unwrap().body);
        }
        heard.sort();
        assert_eq!(heard, ["on the new link", "on the old link"], "{protocol}");

        assert!(one.accepted().is_none() && two.accepted().is_none(), "one login each");
        was_online_all_the_time(&told);
    }
}

#[tokio::test]
async fn superseded_before_the_answer_is_no_reason_to_stay_away() {
    for protocol in [Protocol::Tcp, Protocol::Quic, Protocol::Ws] {
        let (mut one, mut two) = (Node::start(protocol).await, Node::start(protocol).await);
        let (client, told) = client(&one, &two);
        let old = online(&mut one, "").await;
        old.send(go_away(&two.point)).await;
        let mut new = two.accept().await;
        new.login().await;
        old.close(CloseCode::Superseded, 0).await;
        if protocol != Protocol::Tcp {
            old.write(Out::Close(CloseCode::Superseded.number())).await;
        }
        drop(old);
        // Only when the device has seen the end of the old link, which is not told to anyone.
        new.send(ok(8, "")).await;
        moved(&client, 8).await;
        let asking = tokio::spawn(client.business("chat").request("echo", "x").into_future());
        let (request, body) = new.request().await;
        let answer = params::Response { request_id: request.request_id, ..Default::default() };
        new.send(NodeFrame::Response(answer, body)).await;
        soon("the answer", asking).await.unwrap().unwrap();
        was_online_all_the_time(&told);
    }
}

#[tokio::test]
async fn a_node_of_the_release_before_is_gone_to_with_the_token() {
    let (mut one, mut two) = (Node::tcp().await, Node::tcp().await);
    let (client, told) = client(&one, &two);
    let mut old = online(&mut one, "ticket-1").await;
    old.send(go_away(&two.point)).await;
    // It skips the ticket, and goes by the token beside it.
    let mut new = two.accept().await;
    assert_eq!(new.login().await.token, "token-1");
    let before = ability::INBOX | ability::HISTORY;
    let ok = params::LoginOk { epoch: 8, abilities: before, ..login_ok() };
    new.send(NodeFrame::LoginOk(ok)).await;
    assert!(matches!(old.next().await, Some(DeviceFrame::Bye(_))));
    moved(&client, 8).await;
    was_online_all_the_time(&told);
    // It never says GO_AWAY, but closes.
    new.close(CloseCode::Draining, 0).await;
    let mut back = one.accept().await;
    assert!(back.login().await.resume_ticket.is_empty(), "nor does it give a ticket");
}

#[tokio::test]
async fn a_request_that_takes_long_is_answered_where_it_was_sent() {
    let (mut one, mut two) = (Node::tcp().await, Node::tcp().await);
    let (client, told) = client(&one, &two);
    let chat = client.business("chat");
    let mut old = online(&mut one, "").await;
    let asking = tokio::spawn(chat.request("slow", "x").into_future());
    let (request, _) = old.request().await;
    old.send(go_away(&two.point)).await;
    let mut new = two.accept().await;
    new.login().await;
    new.send(ok(8, "")).await;
    moved(&client, 8).await;
    let next = tokio::spawn(chat.request("quick", "y").into_future());
    let (quick, _) = new.request().await;
    assert_eq!(quick.method, "quick");
    let answer = |request_id| {
        let response = params::Response { request_id, ..Default::default() };
        NodeFrame::Response(response, Bytes::new())
    };
    new.send(answer(quick.request_id)).await;
    soon("the quick answer", next).await.unwrap().unwrap();
    assert!(old.waiting().is_none(), "no BYE while an answer is owed");
    old.send(answer(request.request_id)).await;
    soon("the slow answer", asking).await.unwrap().unwrap();
    assert!(matches!(old.next().await, Some(DeviceFrame::Bye(_))));
    was_online_all_the_time(&told);
}

#[tokio::test]
async fn closing_in_the_middle_of_a_move_ends_both_links() {
    let (mut one, mut two) = (Node::tcp().await, Node::tcp().await);
    let (client, _) = client(&one, &two);
    let mut old = online(&mut one, "").await;
    old.send(go_away(&two.point)).await;
    let mut new = two.accept().await;
    new.login().await;
    let closing = {
        let client = client.clone();
        tokio::spawn(async move { client.close().await })
    };
    assert!(new.next().await.is_none());
    assert!(matches!(old.next().await, Some(DeviceFrame::Bye(_))));
    old.close(CloseCode::Goodbye, 0).await;
    soon("closed", closing).await.unwrap();
}
