//! Compressed bodies: the app is handed what the business sent; what is not as it should be costs the link.

use crate::node::{Node, Out, Peer, login_ok, soon};
use bytes::Bytes;
use hawser_proto::codec::{self, Flags};
use hawser_proto::compressed::compress;
use hawser_proto::frame::{Kind, NodeFrame, ability};
use hawser_proto::params;
use hawser_sdk::{Backoff, Builder, Client, Protocol};
use std::time::Duration;

fn client(node: &Node) -> Client {
    let fast = Backoff {
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

/// Takes the login; `zstd`: the node has the ability too.
async fn welcome(peer: &mut Peer, zstd: bool) {
    let login = peer.login().await;
    assert_ne!(login.abilities & ability::ZSTD, 0, "the device shows it");
    let mut ok = login_ok();
    ok.abilities |= if zstd { ability::ZSTD } else { 0 };
    peer.send(NodeFrame::LoginOk(ok)).await;
}

async fn write(peer: &Peer, body: &[u8]) {
    let push = params::Push { push_id: "p".into(), business: 5, ..Default::default() };
    peer.write(Out::Bytes(codec::encode(Kind::Push as u8, Flags::COMPRESSED, &push, body))).await;
}

/// Of this frame limit everything but what stands before the body.
fn largest() -> Vec<u8> {
    b"over and over and over ".iter().copied().cycle().take(65_536 - 12 - 5).collect()
}

#[tokio::test]
async fn a_compressed_push_is_handed_over_plain_on_every_transport() {
    for protocol in Protocol::ALL {
        let mut node = Node::start(protocol).await;
        let client = client(&node);
        let mut pushes = client.business("chat").pushes();
        client.start();
        let mut peer = node.accept().await;
        welcome(&mut peer, true).await;
        write(&peer, &compress(&largest()).unwrap()).await;
        let plain = params::Push { business: 5, ..Default::default() };
        peer.send(NodeFrame::Push(plain, Bytes::from_static(b"plain"))).await;
        assert_eq!(soon("a push", pushes.next_push()).await.unwrap().body, largest(), "{protocol}");
        assert_eq!(soon("a push", pushes.next_push()).await.unwrap().body, "plain");
    }
}

#[tokio::test]
async fn a_stored_push_may_come_compressed() {
    let mut node = Node::tcp().await;
    let client = client(&node);
    let mut pushes = client.business("chat").pushes();
    client.start();
    let mut peer = node.accept().await;
    welcome(&mut peer, true).await;
    let place = params::Push { business: 5, term: 9, seq: 1, ..Default::default() };
    let body = compress(&[b'a'; 1_000]).unwrap();
    let frame = codec::encode(Kind::Push as u8, Flags::COMPRESSED, &place, &body);
    peer.write(Out::Bytes(frame)).await;
    assert_eq!(soon("a push", pushes.next_push()).await.unwrap().body, [b'a'; 1_000][..]);
    pushes.ack();
    assert_eq!(peer.ack().await, 1);
}

#[tokio::test]
async fn a_body_that_grows_too_large_or_lies_costs_the_link_and_nothing_else() {
    let one_more = [largest(), b"x".to_vec()].concat();
    let good = compress(&largest()).unwrap();
    // The same content, said to be a byte shorter and a byte longer; its length stands in bytes 5 and 6.
    assert_eq!(good[4] >> 6, 1, "a length of two bytes");
    let [mut shorter, mut longer] = [good.clone(), good.clone()];
    shorter[5] -= 1;
    longer[5] += 1;
    let bad = [
        compress(&one_more).unwrap(),
        shorter,
        longer,
        good[..good.len() - 1].to_vec(),
        [&good[..], b"x"].concat(),
        b"no zstd frame".to_vec(),
    ];
    for protocol in [Protocol::Tcp, Protocol::Ws] {
        let mut node = Node::start(protocol).await;
        let client = client(&node);
        let mut pushes = client.business("chat").pushes();
        client.start();
        for body in &bad {
            let mut peer = node.accept().await;
            welcome(&mut peer, true).await;
            write(&peer, body).await;
            assert_eq!(peer.next().await, None, "it drops the link");
        }
        let mut peer = node.accept().await;
        welcome(&mut peer, true).await;
        write(&peer, &good).await;
        let push = soon("the one that was good", pushes.next_push()).await.unwrap();
        assert_eq!(push.body, largest());
    }
}

#[tokio::test]
async fn a_node_without_the_ability_may_not_compress() {
    let mut node = Node::tcp().await;
    let client = client(&node);
    client.start();
    let mut peer = node.accept().await;
    welcome(&mut peer, false).await;
    write(&peer, &compress(&largest()).unwrap()).await;
    assert_eq!(peer.next().await, None, "it drops the link");
    welcome(&mut node.accept().await, true).await;
}
