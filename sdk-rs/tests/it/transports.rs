//! The same session over each of the five transports.

use crate::node::{Node, Out, login_ok, soon};
use bytes::Bytes;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::params;
use hawser_sdk::{Builder, Client, Protocol, Reason, State};
use std::time::Duration;

fn client(node: &Node) -> Client {
    let fast = hawser_sdk::Backoff {
        base: Duration::from_millis(10),
        max: Duration::from_millis(50),
        window: Duration::from_millis(20),
        ..Default::default()
    };
    Builder::pinned("demo", "d", "token", [node.point.clone()])
        .business("chat")
        .root_certificate(&node.pem)
        .backoff(fast)
        .build()
        .unwrap()
}

#[tokio::test]
async fn requests_pushes_and_goodbye_on_every_transport() {
    for protocol in Protocol::ALL {
        let mut node = Node::start(protocol).await;
        let client = client(&node);
        let chat = client.business("chat");
        let mut pushes = chat.pushes();
        client.start();
        let mut peer = node.accept().await;
        let login = peer.welcome().await;
        assert_eq!((&*login.app, &*login.token, login.attempt), ("demo", "token", 1));
        soon("online", client.connect()).await.unwrap();
        assert!(
            matches!(client.state(), State::Online { epoch: 7, protocol: p, .. } if p == protocol)
        );

        // Larger than any buffer on the way, both ways.
        let body = Bytes::from(vec![b'x'; 60_000]);
        let asking = chat.request("echo", body.clone()).metadata("a", "b").into_future();
        let asking = tokio::spawn(asking);
        let (request, heard) = peer.request().await;
        assert_eq!((request.business, &*request.method), (5, "echo"));
        assert_eq!((request.metadata["a"].as_str(), heard.len()), ("b", 60_000));
        let response = params::Response { request_id: request.request_id, ..Default::default() };
        peer.send(NodeFrame::Response(response, heard)).await;
        assert_eq!(soon("an answer", asking).await.unwrap().unwrap().body, body, "{protocol}");

        for number in 0..100u32 {
            let group = params::GroupPush { business: 5, group: "g".into(), ..Default::default() };
            let body = Bytes::from(number.to_string());
            peer.send(NodeFrame::GroupPush(group, body)).await;
        }
        for number in 0..100u32 {
            let push = soon("a push", pushes.next_push()).await.unwrap();
            assert_eq!((push.body, push.group), (number.to_string().into(), Some("g".into())));
        }

        let closing = {
            let client = client.clone();
            tokio::spawn(async move { client.close().await })
        };
        assert!(matches!(peer.next().await, Some(DeviceFrame::Bye(_))), "{protocol}");
        peer.close(CloseCode::Goodbye, 0).await;
        soon("closed", closing).await.unwrap();
        let goodbye = Some(CloseCode::Goodbye);
        assert!(matches!(client.state(), State::Closed { code, .. } if code == goodbye));
        assert!(soon("the end", pushes.next_push()).await.is_none());
    }
}

#[tokio::test]
async fn a_transports_own_close_code_counts_without_a_close_frame() {
    for protocol in [Protocol::Quic, Protocol::Ws, Protocol::Wss] {
        let mut node = Node::start(protocol).await;
        let client = client(&node);
        client.start();
        let mut peer = node.accept().await;
        peer.welcome().await;
        soon("online", client.connect()).await.unwrap();
        peer.write(Out::Close(CloseCode::Superseded.number())).await;
        soon("closed", client.states().wait_for(State::is_closed)).await.unwrap();
        let superseded = Some(CloseCode::Superseded);
        assert!(matches!(client.state(), State::Closed { code, .. } if code == superseded));
    }
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_not_logged_in_to() {
    for protocol in [Protocol::Tls, Protocol::Quic, Protocol::Wss] {
        let mut node = Node::start(protocol).await;
        let stranger = Node::start(protocol).await;
        node.pem.clone_from(&stranger.pem);
        let client = client(&node);
        client.start();
        let mut states = client.states();
        let offline = |state: &State| matches!(state, State::Offline { .. });
        let seen = soon("offline", states.wait_for(offline)).await.unwrap().clone();
        let State::Offline { reason: Reason::Unreachable(what), .. } = seen else {
            panic!("{protocol}: {seen}");
        };
        assert!(what.contains("certificate") || what.contains("cryptographic"), "{what}");
        assert!(node.accepted().is_none());
    }
}

#[tokio::test]
async fn junk_from_the_node_ends_the_link_and_nothing_else() {
    let mut seed = 0x1234_5678_u32;
    let mut byte = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    for protocol in [Protocol::Tcp, Protocol::Ws] {
        let mut node = Node::start(protocol).await;
        let client = client(&node);
        client.start();
        for round in 0..30 {
            let mut peer = node.accept().await;
            if round % 3 > 0 {
                peer.login().await;
                peer.send(NodeFrame::LoginOk(login_ok())).await;
            }
            let mut junk: Vec<u8> = (0..64).map(|_| byte()).collect();
            if round % 2 == 0 {
                // A true header, so that what follows is read as parameters.
                junk[..12].copy_from_slice(&[b'h', b'w', 1, 0, 0, 0, 0, 40, 0, 0, 0, 12]);
                junk[3] = 0x80 | byte();
            }
            match protocol {
                Protocol::Ws if round % 5 == 0 => peer.write(Out::Text("hello")).await,
                _ => peer.write(Out::Bytes(junk.into())).await,
            }
            // Some junk may be a frame that is skipped: the cut ends those.
        }
        let mut peer = node.accept().await;
        peer.welcome().await;
        soon("online", client.connect()).await.unwrap();
        assert!(client.state().is_online(), "{protocol}: it still works");
    }
}
