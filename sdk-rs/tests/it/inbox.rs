//! Stored pushes through the whole client: handled, kept, acknowledged, in this order, and what comes
//! again when it ends between two of them.

use crate::control::Control;
use crate::node::{Node, Peer, login_ok, soon};
use bytes::Bytes;
use futures_util::StreamExt as _;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::params;
use hawser_sdk::{
    Backoff, Builder, Client, CursorStorage, Cursors, FileCursors, GapReason, Incoming,
    MemoryCursors, Position, Protocol, Push, Pushes, Reason, State,
};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

fn builder(node: &Node) -> Builder {
    let fast = Backoff {
        base: Duration::from_millis(10),
        max: Duration::from_millis(50),
        window: Duration::from_millis(20),
        ..Default::default()
    };
    Builder::pinned("demo", "d", "token-1", [node.point.clone()]).business("chat").backoff(fast)
}

/// A client with these cursors, its listener, and the node's side of its connection.
async fn start(
    node: &mut Node,
    cursors: impl CursorStorage,
) -> (Client, Pushes, Peer, Option<u64>) {
    let client = builder(node).cursors(cursors).build().unwrap();
    let pushes = client.business("chat").pushes();
    client.start();
    let mut peer = node.accept().await;
    let cursor = peer.welcome().await.cursors.first().map(|cursor| cursor.seq);
    (client, pushes, peer, cursor)
}

fn stored(seq: u64) -> NodeFrame {
    let push = params::Push {
        business: 5,
        term: 1,
        seq,
        prev_term: u64::from(seq > 1),
        prev_seq: seq - 1,
        ..Default::default()
    };
    NodeFrame::Push(push, Bytes::from(seq.to_string()))
}

async fn next(pushes: &mut Pushes) -> Push {
    soon("a push", pushes.next_push()).await.expect("the client is open")
}

fn seq(push: &Push) -> u64 {
    push.position.expect("it was stored").seq
}

/// A storage that fails when told to, and notes what it was given.
#[derive(Default)]
struct Moody {
    kept: MemoryCursors,
    fails: AtomicBool,
    asked: Mutex<Vec<u64>>,
}

impl CursorStorage for Moody {
    fn load(&self, app: &str, device: &str) -> io::Result<Cursors> {
        self.kept.load(app, device)
    }

    fn store(
        &self,
        app: &str,
        device: &str,
        cursors: &Cursors,
        refused: &[Arc<str>],
    ) -> io::Result<()> {
        self.asked.lock().unwrap().push(cursors[0].1.seq);
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("no room"));
        }
        self.kept.store(app, device, cursors, refused)
    }
}

impl Moody {
    fn kept(&self) -> Option<u64> {
        self.load("demo", "d").unwrap().first().map(|(_, at)| at.seq)
    }
}

#[tokio::test]
async fn a_push_is_acknowledged_after_its_handler_returned_and_its_cursor_is_kept() {
    let mut node = Node::tcp().await;
    let storage = Arc::new(Moody::default());
    let (_client, mut pushes, mut peer, cursor) = start(&mut node, storage.clone()).await;
    assert_eq!(cursor, None);
    let mut first = params::Push { expires_at_ms: 1_000, redelivered: true, ..Default::default() };
    (first.business, first.term, first.seq) = (5, 1, 1);
    peer.send(NodeFrame::Push(first, Bytes::from_static(b"1"))).await;
    peer.send(stored(2)).await;
    let push = next(&mut pushes).await;
    assert_eq!((push.position, push.redelivered), (Some(Position::new(1, 1)), true));
    assert_eq!(push.expires_at, Some(UNIX_EPOCH + Duration::from_secs(1)));
    // The handler is at work: more than the time to the next ACK goes by without one.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((storage.kept(), peer.waiting()), (None, None));
    assert_eq!(seq(&next(&mut pushes).await), 2);
    assert_eq!(peer.ack().await, 1);
    assert_eq!(storage.kept(), Some(1), "kept before it was acknowledged");
    pushes.ack();
    assert_eq!(peer.ack().await, 2);
}

#[tokio::test]
async fn many_are_acknowledged_together() {
    let mut node = Node::tcp().await;
    let (_client, pushes, mut peer, _) = start(&mut node, MemoryCursors::default()).await;
    for seq in 1..=40 {
        peer.send(stored(seq)).await;
    }
    let handled: Vec<u64> = soon("forty", pushes.take(40).map(|push| seq(&push)).collect()).await;
    assert_eq!(handled, (1..=40).collect::<Vec<_>>());
    // The last one was never followed by a question for more.
    let mut acks = vec![peer.ack().await];
    while *acks.last().unwrap() < 39 {
        acks.push(peer.ack().await);
    }
    assert!(acks.len() <= 4 && acks.is_sorted(), "{acks:?}");
}

#[tokio::test]
async fn an_end_between_receipt_and_handler_brings_it_again() {
    let mut node = Node::tcp().await;
    let storage = Arc::new(Moody::default());
    let (client, pushes, peer, _) = start(&mut node, storage.clone()).await;
    peer.send(stored(1)).await;
    peer.send(stored(2)).await;
    drop((client, pushes, peer));
    let (_client, mut pushes, mut peer, cursor) = start(&mut node, storage.clone()).await;
    assert_eq!(cursor, None);
    peer.send(stored(1)).await;
    assert_eq!(seq(&next(&mut pushes).await), 1);
    pushes.ack();
    assert_eq!(peer.ack().await, 1);
}

#[tokio::test]
async fn an_end_in_the_handler_or_before_the_cursor_is_kept_brings_it_again() {
    let mut node = Node::tcp().await;
    let storage = Arc::new(Moody::default());
    let (client, mut pushes, mut peer, _) = start(&mut node, storage.clone()).await;
    for seq in 1..=3 {
        peer.send(stored(seq)).await;
    }
    assert_eq!(seq(&next(&mut pushes).await), 1);
    assert_eq!(seq(&next(&mut pushes).await), 2);
    assert_eq!(peer.ack().await, 1);
    // 2 is handled and cannot be kept, 3 is in its handler.
    storage.fails.store(true, Ordering::Relaxed);
    assert_eq!(seq(&next(&mut pushes).await), 3);
    soon("a try to keep it", async {
        while *storage.asked.lock().unwrap().last().unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    drop((client, pushes));
    assert!(matches!(peer.next().await, Some(DeviceFrame::Bye(_)) | None), "no ACK");
    storage.fails.store(false, Ordering::Relaxed);

    let (_client, mut pushes, peer, cursor) = start(&mut node, storage.clone()).await;
    assert_eq!(cursor, Some(1));
    for seq in 2..=4 {
        peer.send(stored(seq)).await;
    }
    for expected in 2..=4 {
        assert_eq!(seq(&next(&mut pushes).await), expected);
    }
}

#[tokio::test]
async fn an_end_between_cursor_and_ack_brings_nothing_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::tcp().await;
    let (client, mut pushes, peer, _) = start(&mut node, FileCursors::new(folder.path())).await;
    peer.send(stored(1)).await;
    peer.send(stored(2)).await;
    assert_eq!(seq(&next(&mut pushes).await), 1);
    assert_eq!(seq(&next(&mut pushes).await), 2);
    pushes.ack();
    // The node is gone before it hears of it.
    drop(peer);
    soon("closed", client.close()).await;
    drop((client, pushes));

    let storage = FileCursors::new(folder.path());
    let (_client, mut pushes, mut peer, cursor) = start(&mut node, storage).await;
    assert_eq!(cursor, Some(2), "kept before the client was closed");
    // A node that did not look at the cursor.
    for seq in 1..=3 {
        peer.send(stored(seq)).await;
    }
    assert_eq!(peer.ack().await, 2, "said again");
    assert_eq!(seq(&next(&mut pushes).await), 3);
}

#[tokio::test]
async fn an_app_whose_cursors_cannot_be_kept_is_told_once_and_goes_on_when_they_can() {
    let mut node = Node::tcp().await;
    let storage = Arc::new(Moody::default());
    storage.fails.store(true, Ordering::Relaxed);
    let (client, mut pushes, mut peer, _) = start(&mut node, storage.clone()).await;
    let mut words = client.business("chat").listen();
    peer.send(stored(1)).await;
    assert!(matches!(soon("the push", words.next_item()).await, Some(Incoming::Push(_))));
    next(&mut pushes).await;
    pushes.ack();
    let word = soon("word of it", words.next_item()).await;
    assert_eq!(word, Some(Incoming::NotKept("no room".to_owned())));
    soon("another try", async {
        while storage.asked.lock().unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(peer.waiting(), None, "no ACK");
    storage.fails.store(false, Ordering::Relaxed);
    assert_eq!(peer.ack().await, 1);
    peer.send(stored(2)).await;
    let item = soon("the next push", words.next_item()).await;
    assert!(matches!(item, Some(Incoming::Push(_))), "told once: {item:?}");
}

#[tokio::test]
async fn a_damaged_cursor_file_stops_the_client_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::tcp().await;
    let storage = FileCursors::new(folder.path());
    std::fs::write(storage.path("demo", "d"), "hawser-cursors 1\n").unwrap();
    let client = builder(&node).cursors(storage).build().unwrap();
    let failure = soon("closed", client.connect()).await.unwrap_err();
    assert!(matches!(&failure.reason, Reason::Storage(what) if what.contains("delete it")));
}

#[tokio::test]
async fn a_handler_that_panics_acknowledges_nothing_and_the_next_one_is_told() {
    let mut node = Node::tcp().await;
    let (client, mut pushes, mut peer, _) = start(&mut node, MemoryCursors::default()).await;
    peer.send(stored(1)).await;
    peer.send(stored(2)).await;
    let handler = tokio::spawn(async move {
        while let Some(push) = pushes.next_push().await {
            assert_ne!(seq(&push), 2, "the handler's own fault");
        }
    });
    assert!(soon("a panic", handler).await.is_err());
    assert_eq!(peer.ack().await, 1);
    let mut pushes = client.business("chat").pushes();
    let again = next(&mut pushes).await;
    assert_eq!((seq(&again), again.redelivered), (2, true));
    peer.send(stored(3)).await;
    let fresh = next(&mut pushes).await;
    assert_eq!((seq(&fresh), fresh.redelivered), (3, false));
    assert_eq!(peer.ack().await, 2);
}

#[tokio::test]
async fn a_reconnect_repeats_nothing_and_loses_nothing() {
    let mut node = Node::tcp().await;
    let (client, mut pushes, peer, _) = start(&mut node, MemoryCursors::default()).await;
    for seq in 1..=5 {
        peer.send(stored(seq)).await;
    }
    assert_eq!(seq(&next(&mut pushes).await), 1);
    assert_eq!(seq(&next(&mut pushes).await), 2);
    drop(peer);
    let mut peer = node.accept().await;
    peer.welcome().await;
    // From the cursor on, as the node knows it, and one more.
    for seq in 1..=6 {
        peer.send(stored(seq)).await;
    }
    for expected in 3..=6 {
        assert_eq!(seq(&next(&mut pushes).await), expected);
    }
    // Nor does a new start of the same client.
    pushes.ack();
    while peer.ack().await < 6 {}
    peer.send(stored(7)).await;
    assert_eq!(seq(&next(&mut pushes).await), 7);
    soon("closed", client.close()).await;
    assert_eq!(soon("the end", pushes.next_push()).await, None, "which says that 7 is handled");
    let mut pushes = client.business("chat").pushes();
    client.start();
    let mut peer = node.accept().await;
    assert!(
        (6..=7).contains(&peer.welcome().await.cursors[0].seq),
        "told, and perhaps kept by now"
    );
    peer.send(stored(7)).await;
    peer.send(stored(8)).await;
    assert_eq!(seq(&next(&mut pushes).await), 8);
    while peer.ack().await < 7 {}
}

#[tokio::test]
async fn a_session_that_moves_between_transports_loses_and_repeats_nothing() {
    const PUSHES: u64 = 120;
    let mut nodes = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Tls, Protocol::Quic, Protocol::Ws, Protocol::Wss] {
        nodes.push(Node::start(protocol).await);
    }
    let pem: String = nodes.iter().map(|node| node.pem.as_str()).collect();
    let mut control = Control::start().await;
    let client = Client::builder(&control.address, "demo", "d")
        .business("chat")
        .root_certificate(pem)
        .cursors(MemoryCursors::default())
        .build()
        .unwrap();
    let pushes = client.business("chat").pushes();
    client.start();
    let app = tokio::spawn(pushes.take(PUSHES as usize).map(|push| seq(&push)).collect::<Vec<_>>());

    let (mut cursor, mut acked) = (0, 0);
    for round in 0..16 {
        // Each transport three times, and in another order each time.
        let node = &mut nodes[(round * 2 + round / 5) % 5];
        control.asked().await.advise("token", &[&node.point]);
        for is_cut in [true, false] {
            let mut peer = node.accept().await;
            let told = peer.welcome().await.cursors.first().map_or(0, |cursor| cursor.seq);
            assert!(told >= cursor.max(acked), "a cursor never goes back, and is kept first");
            soon("online", client.connect()).await.unwrap();
            (cursor, acked) = (told, told);
            let upto = if round == 15 { PUSHES } else { PUSHES.min(told + 3 + round as u64 % 7) };
            for number in told + 1..=upto {
                peer.send(stored(number)).await;
            }
            if !is_cut && (round % 2 == 0 || round == 15) {
                while acked < upto.min(PUSHES - 1) {
                    acked = peer.ack().await;
                }
            }
            if !is_cut {
                peer.close(CloseCode::TokenExpired, 0).await;
                while peer.next().await.is_some() {} // what it hears of it, it hears before the end
            }
        }
    }
    let handled = soon("all of them", app).await.unwrap();
    assert!(handled.iter().copied().eq(1..=PUSHES), "{handled:?}");
}

#[tokio::test]
async fn what_waits_for_a_listener_waits_and_holes_are_asked_for() {
    let mut node = Node::tcp().await;
    let client = builder(&node).cursors(MemoryCursors::default()).build().unwrap();
    client.start();
    let mut peer = node.accept().await;
    let state = params::InboxState::TermChanged.into();
    let inbox = params::Inbox { business: 5, state, ..Default::default() };
    peer.login().await;
    peer.send(NodeFrame::LoginOk(params::LoginOk { inboxes: vec![inbox], ..login_ok() })).await;
    peer.send(stored(1)).await;
    peer.send(stored(3)).await;
    let Some(DeviceFrame::Resync(resync)) = peer.next().await else { panic!("not a resync") };
    assert_eq!(resync.after.unwrap().seq, 1);
    let gap = params::Gap {
        business: 5,
        after_term: 1,
        after_seq: 1,
        upto_term: 1,
        upto_seq: 2,
        count: 1,
        reason: params::GapReason::Expired.into(),
    };
    peer.send(NodeFrame::Gap(gap)).await;
    peer.send(stored(3)).await;
    soon("online", client.connect()).await.unwrap();
    let mut listener = client.business("chat").listen();
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(match soon("an item", listener.next_item()).await {
            Some(Incoming::Push(push)) => format!("push {}", seq(&push)),
            Some(Incoming::Gap(gap)) => {
                assert_eq!((gap.count, gap.reason), (1, GapReason::Expired));
                format!("gap {}", gap.upto)
            }
            Some(Incoming::TermChanged(_)) => "term".to_owned(),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["term", "push 1", "gap 1-2", "push 3"]);
    listener.ack();
    while peer.ack().await < 3 {}
}

#[tokio::test]
async fn stored_and_volatile_pushes_do_not_starve_each_other() {
    let mut node = Node::tcp().await;
    let (_client, mut pushes, peer, _) = start(&mut node, MemoryCursors::default()).await;
    for seq in 1..=20 {
        peer.send(stored(seq)).await;
        let volatile = params::Push { business: 5, ..Default::default() };
        peer.send(NodeFrame::Push(volatile, Bytes::new())).await;
    }
    let mut kinds = [0, 0];
    for _ in 0..40 {
        kinds[usize::from(next(&mut pushes).await.position.is_some())] += 1;
    }
    assert_eq!(kinds, [20, 20]);
}

#[tokio::test]
async fn a_slow_storage_holds_up_nothing_but_acknowledgements() {
    #[derive(Default)]
    struct Slow(Mutex<()>, MemoryCursors);
    impl CursorStorage for Slow {
        fn load(&self, app: &str, device: &str) -> io::Result<Cursors> {
            self.1.load(app, device)
        }
        fn store(
            &self,
            app: &str,
            device: &str,
            cursors: &Cursors,
            refused: &[Arc<str>],
        ) -> io::Result<()> {
            let _alone = self.0.try_lock().expect("one call at a time");
            std::thread::sleep(Duration::from_millis(50));
            self.1.store(app, device, cursors, refused)
        }
    }
    let mut node = Node::tcp().await;
    let (client, mut pushes, mut peer, _) = start(&mut node, Slow::default()).await;
    for round in 0..4 {
        for seq in round * 50 + 1..=round * 50 + 50 {
            peer.send(stored(seq)).await;
            next(&mut pushes).await;
        }
        pushes.ack();
        while peer.ack().await < round * 50 + 50 {}
    }
    assert!(matches!(client.state(), State::Online { .. }));
}
