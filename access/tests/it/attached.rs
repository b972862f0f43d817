//! A transport that the node has never heard of: the same session rules.

use crate::eventually;
use crate::fakes::device::{Device, Form};
use crate::fakes::tokens;
use crate::house::{APP, CHAT, House, push_to};
use hawser_access::Transport;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf};

/// A pipe in memory.
struct Toy {
    pipe: DuplexStream,
    is_full: bool,
    /// The next read panics.
    is_cursed: Arc<AtomicBool>,
}

impl Transport for Toy {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        assert!(!self.is_cursed.load(Ordering::Relaxed), "on purpose");
        let mut buffer = ReadBuf::new(into);
        let read = Pin::new(&mut self.pipe).poll_read(cx, &mut buffer);
        read.map_ok(|()| buffer.filled().len())
    }

    fn try_write(&mut self, waker: &Waker, bytes: &[u8]) -> io::Result<usize> {
        let cx = &mut Context::from_waker(waker);
        let taken = Pin::new(&mut self.pipe).poll_write(cx, bytes);
        self.is_full = taken.is_pending();
        match taken {
            Poll::Ready(taken) => taken,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn is_holding(&self) -> bool {
        false
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.is_full) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn finish(&mut self) {
        let _ = Pin::new(&mut self.pipe).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }

    fn close(&mut self, _code: u16) {}
}

/// Attaches a pipe of this width, and logs in over it.
async fn attach(house: &House, name: &str, width: usize) -> (Device, Arc<AtomicBool>) {
    let (ours, theirs) = tokio::io::duplex(width);
    let is_cursed = Arc::new(AtomicBool::new(false));
    let toy = Toy { pipe: theirs, is_full: false, is_cursed: is_cursed.clone() };
    assert!(house.node.attach(Box::new(toy), Ipv4Addr::LOCALHOST.into()));
    let mut device = Device::new(ours, Form::Stream);
    let login = device.login_frame(APP, name, tokens::token(APP, name));
    device.send(&DeviceFrame::Login(login)).await;
    device.login_ok().await;
    (device, is_cursed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fifth_way_in_touches_no_session_rule() {
    let house = House::start().await;
    house.router.create_group(APP, "room", CHAT);
    // Wide enough for nothing at once, too: everything then goes through the outbox.
    for width in [64 * 1024, 16] {
        let (mut device, _) = attach(&house, "toy", width).await;
        device.request(1, CHAT, b"hello").await;
        let (response, body) = device.response().await;
        assert_eq!((response.request_id, response.status, &body[..]), (1, 0, &b"hello"[..]));
        let session = house.business.seen().pop().unwrap().session.unwrap();
        assert_eq!(session.transport, "attached");
        house.router.deliver(push_to(&[house.route("toy")], &[7; 1_000])).await;
        assert_eq!(device.pushed().await, [7; 1_000]);
        device.enter("room").await;
        house.router.deliver(house.push_group("room", b"all")).await;
        assert_eq!(device.pushed().await, b"all");
        device.ping(1).await;
        assert!(matches!(device.frame().await, NodeFrame::Pong(_)));
        let login = device.login_frame(APP, "toy", tokens::token(APP, "toy"));
        device.send(&DeviceFrame::Login(login)).await;
        assert_eq!(device.closed().await, CloseCode::LoginTwice);
    }
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_one_session_ends_only_that_one_and_leaves_nothing() {
    let house = House::start().await;
    house.router.create_group(APP, "room", CHAT);
    let (mut doomed, curse) = attach(&house, "doomed", 4_096).await;
    let (mut beside, _) = attach(&house, "beside", 4_096).await;
    let mut over_tcp = house.device("over-tcp").await;
    for device in [&mut doomed, &mut beside, &mut over_tcp] {
        device.enter("room").await;
    }
    curse.store(true, Ordering::Relaxed);
    doomed.ping(1).await;
    eventually("it was unbound", || house.router.route(APP, "doomed").is_none().then_some(()))
        .await;
    house.metric_is("hawser_access_connections", &[], 2).await;
    house.metric_is("hawser_access_sessions", &[], 2).await;
    house.metric_is("hawser_access_panics_total", &[("part", "connection")], 1).await;
    let report = house.router.deliver(house.push_group("room", b"still two")).await;
    assert_eq!((report.members, report.written), (2, 2));
    for device in [&mut beside, &mut over_tcp] {
        assert_eq!(device.pushed().await, b"still two");
        device.settle().await;
    }
    drop((beside, over_tcp));
    house.ends_clean().await;
}
