//! One slot and its connection, over a link that takes what it is told to take.

use super::*;
use crate::link::Transport;
use hawser_proto::params::Ping;
use std::net::Ipv4Addr;

const WRITE_TIMEOUT_MS: u32 = 10_000;

/// What the peer would see, and how much more it takes.
#[derive(Clone, Default)]
struct Peer(Arc<Mutex<(Vec<u8>, usize)>>);

impl Peer {
    fn reads(&self, bytes: usize) {
        self.0.lock().1 += bytes;
    }

    fn seen(&self) -> Vec<u8> {
        self.0.lock().0.clone()
    }
}

impl Transport for Peer {
    fn poll_read(&mut self, _cx: &mut Context<'_>, _into: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
    fn try_write(&mut self, _waker: &Waker, bytes: &[u8]) -> io::Result<usize> {
        let mut peer = self.0.lock();
        let taken = bytes.len().min(peer.1);
        peer.1 -= taken;
        peer.0.extend_from_slice(&bytes[..taken]);
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }
    fn is_holding(&self) -> bool {
        false
    }
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.lock().1 == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
    fn finish(&mut self) {}
    fn close(&mut self, _code: u16) {}
}

struct Place {
    table: Table,
    at: SlotRef,
    peer: Peer,
}

const BOOT: u64 = 77;

impl Place {
    /// A connection that has not logged in, with its login deadline at this wheel time.
    fn with_stranger(login_deadline_ms: u32) -> Self {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()));
        let write_timeout = Duration::from_millis(WRITE_TIMEOUT_MS.into());
        let table = Table::new(BootId(BOOT), 8, 1, Guards::ALL, write_timeout, metrics);
        let peer = Peer::default();
        peer.reads(1 << 20);
        let link = Link::Other(Box::new(peer.clone()));
        let remote = Ipv4Addr::LOCALHOST.into();
        let connection =
            Connection::new(link, Form::Stream, Dialled::Attached, remote, login_deadline_ms);
        let at = table.insert(connection).unwrap();
        Self { table, at, peer }
    }

    /// The same with an identity and an epoch: bound, and not yet told so.
    fn with_bound() -> Self {
        let place = Self::with_stranger(0);
        place.table.with(place.at, |connection| {
            connection.identity = Some(Box::new(Identity {
                app: AppId::new("demo").unwrap(),
                device: DeviceId::new("d").unwrap(),
                epoch: Epoch(5),
                kicked_epoch: None,
                instance: [0; 16],
                attempt: 1,
                businesses: Arc::new([]),
                client: Arc::default(),
                login_at_ms: 0,
                token_businesses: None,
                token_issued_at_ms: 0,
                token_expires_at_ms: u64::from(u32::MAX) * 1_000,
            }));
        });
        place
    }

    fn with_session() -> Self {
        let place = Self::with_bound();
        place.table.admit(place.at, &frame(), Duration::from_secs(35));
        place
    }

    fn target(&self) -> Target<'static> {
        Target { boot: BOOT, at: self.at, app: "demo", device: "d", epoch: 5 }
    }

    fn push(&self, target: Target<'_>) -> Result<Written, StaleReason> {
        self.table.push(target, &FrameOut::from(&frame()), SlowPolicy::DropNewest)
    }
}

fn frame() -> NodeFrame {
    NodeFrame::Pong(Ping { nonce: 1 })
}

#[test]
fn a_device_is_pushed_nothing_before_it_is_told_that_it_is_in() {
    let place = Place::with_bound();
    assert_eq!(place.push(place.target()), Ok(Written::Gone));
    assert!(place.peer.seen().is_empty());
    place.table.admit(place.at, &frame(), Duration::from_secs(35));
    assert_eq!(place.push(place.target()), Ok(Written::Taken));
    assert_eq!(place.peer.seen(), [frame().encode(), frame().encode()].concat());
}

#[test]
fn a_push_that_names_anything_else_is_refused_for_that_reason() {
    let place = Place::with_session();
    let good = place.target();
    let next = SlotRef { generation: place.at.generation + 2, ..place.at };
    let beside = SlotRef { slot: place.at.slot + 1, ..place.at };
    let nowhere = SlotRef { slot: u32::MAX, ..place.at };
    for (target, reason) in [
        (Target { boot: 78, ..good }, StaleReason::Boot),
        (Target { at: next, ..good }, StaleReason::Generation),
        (Target { at: beside, ..good }, StaleReason::Generation),
        (Target { at: nowhere, ..good }, StaleReason::Free),
        (Target { app: "demo2", ..good }, StaleReason::Identity),
        (Target { device: "e", ..good }, StaleReason::Identity),
        (Target { epoch: 4, ..good }, StaleReason::Epoch),
        (Target { epoch: 6, ..good }, StaleReason::Epoch),
    ] {
        assert_eq!(place.push(target), Err(reason), "{target:?}");
    }
    assert_eq!(place.push(good), Ok(Written::Taken));
    place.table.remove(place.at).unwrap();
    assert_eq!(place.push(good), Err(StaleReason::Generation), "the slot was freed");
}
