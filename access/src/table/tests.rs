//! One slot and its connection, over a link that takes what it is told to take.

use super::*;
use crate::link::{Dialled, Link, Readiness, Transport};
use hawser_proto::id::{AppId, DeviceId, Epoch};
use hawser_proto::params::Ping;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::task::Waker;

const WRITE_TIMEOUT_MS: u64 = 10_000;

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
    fn with_stranger(login_deadline_ms: u64) -> Self {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()));
        let write_timeout = Duration::from_millis(WRITE_TIMEOUT_MS);
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
                first_epoch: Epoch(5),
                kicked_epoch: None,
                instance: [0; 16],
                attempt: 1,
                rights: Arc::default(),
                attributes: None,
                client: Arc::default(),
                login_at_ms: 0,
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

impl Place {
    fn check(&self, now_ms: u64) -> Check {
        self.table.check(self.at, now_ms, u64::MAX)
    }

    fn signal(&self) -> Option<Signal> {
        self.table.with(self.at, |connection| connection.signal.as_deref().cloned()).flatten()
    }
}

#[test]
fn a_stranger_has_until_the_login_deadline() {
    let place = Place::with_stranger(3_000);
    assert_eq!(place.check(2_999), Check::Forget, "that look was not planned");
    assert_eq!(place.signal(), None);
    place.table.extend_login(place.at, 10_000);
    assert_eq!(place.check(3_000), Check::Again(10_000), "LOGIN came in time");
    assert_eq!(place.check(10_000), Check::Forget);
    assert_eq!(place.signal(), Some(Signal::LoginDeadline));
}

#[test]
fn a_session_is_looked_at_once_per_idle_time_out_however_much_it_says() {
    let place = Place::with_session();
    let first = place.table.with(place.at, |c| c.scheduled_ms).unwrap();
    place.table.with(place.at, |connection| connection.heard_ms = first);
    assert_eq!(place.check(first), Check::Again(first + 35_000));
    assert_eq!(place.check(first + 34_999), Check::Forget, "nothing is planned before");
    assert_eq!(place.check(first + 35_000), Check::Forget);
    assert_eq!(place.signal(), Some(Signal::Idle));
}

#[test]
fn a_link_that_takes_no_byte_is_ended_and_one_that_takes_some_is_not() {
    let place = Place::with_session();
    place.peer.0.lock().1 = 0;
    assert_eq!(place.push(place.target()), Ok(Written::Queued));
    let stalled = place.table.with(place.at, |c| c.stalled_since_ms).unwrap();
    let due = stalled + WRITE_TIMEOUT_MS;
    let planned = place.table.with(place.at, |c| c.scheduled_ms).unwrap();
    assert!(planned <= due, "the first look comes in time: {planned}");
    // One byte is progress.
    place.peer.reads(1);
    let cx = &mut Context::from_waker(Waker::noop());
    let drained = place.table.with(place.at, |c| c.poll_drain(cx, due - 1)).unwrap();
    assert!(drained.is_pending());
    place.table.with(place.at, |connection| connection.scheduled_ms = due);
    assert_eq!(place.check(due), Check::Again(due - 1 + WRITE_TIMEOUT_MS));
    assert_eq!(place.check(due - 1 + WRITE_TIMEOUT_MS), Check::Forget);
    assert_eq!(place.signal(), Some(Signal::Slow));
}

#[test]
fn a_token_ends_its_session_a_minute_after_its_time() {
    let place = Place::with_session();
    let first = place.table.with(place.at, |c| c.scheduled_ms).unwrap();
    let wall_ms = place.table.wall_ms();
    let expires_in = |ms: u64| {
        place.table.with(place.at, |connection| {
            connection.identity.as_mut().unwrap().token_expires_at_ms = wall_ms - 60_000 + ms;
            connection.heard_ms = first;
        });
    };
    expires_in(1_000);
    assert_eq!(place.check(first), Check::Again(first + 1_000));
    expires_in(0);
    assert_eq!(place.check(first + 1_000), Check::Forget);
    assert_eq!(place.signal(), Some(Signal::TokenExpired));
}

#[test]
fn a_look_beyond_the_wheel_is_planned_within_it() {
    let place = Place::with_stranger(10_000);
    assert_eq!(place.table.plan_within(place.at, 10_000, 4_000), 4_000);
    assert_eq!(place.table.check(place.at, 4_000, 8_000), Check::Again(8_000));
    assert_eq!(place.table.check(place.at, 8_000, 12_000), Check::Again(10_000));
    assert_eq!(place.table.plan_within(place.at, 5_000, 9_000), 5_000);
}

#[test]
fn the_generation_is_odd_while_a_slot_is_taken_and_never_repeats() {
    let place = Place::with_stranger(0);
    let mut at = place.at;
    for _ in 0..5 {
        assert_eq!(at.generation % 2, 1);
        assert!(place.table.remove(at).is_some());
        assert!(place.table.remove(at).is_none(), "freed once");
        assert!(place.table.with(at, |_| ()).is_none());
        let link = Link::Other(Box::new(Peer::default()));
        let remote = Ipv4Addr::LOCALHOST.into();
        let next = Connection::new(link, Form::Stream, Dialled::Attached, remote, 0);
        let next = place.table.insert(next).unwrap();
        assert_eq!((next.slot, next.generation), (at.slot, at.generation + 2));
        at = next;
    }
}

#[test]
fn deadlines_hold_on_a_node_that_is_up_for_two_months() {
    const TWO_MONTHS: Duration = Duration::from_hours(60 * 24);
    let mut place = Place::with_stranger(u64::MAX);
    place.table.started = Instant::now().checked_sub(TWO_MONTHS).expect("the clock reaches back");
    let up_ms = place.table.tick();
    assert!(up_ms > u64::from(u32::MAX), "32 bits of milliseconds are over after 50 days");
    place.table.extend_login(place.at, up_ms + 10_000);
    place.table.look_by(place.at, up_ms + 10_000);
    assert_eq!(place.check(up_ms + 10_000), Check::Forget);
    assert_eq!(place.signal(), Some(Signal::LoginDeadline));
}

#[test]
fn any_word_comes_before_a_drain_and_no_other_is_replaced() {
    let place = Place::with_session();
    let order = |signal: Signal| place.table.with(place.at, |it| it.order(signal)).unwrap();
    let ejected = Signal::Ordered(CloseCode::Ejected, String::new());
    assert!(order(Signal::Drain));
    assert!(order(ejected.clone()), "a drain would tell the device to come back");
    assert!(!order(Signal::Idle));
    assert_eq!(place.signal(), Some(ejected));
}

/// What an idle session pays for stored pushes: a pointer, and nothing behind it until there is something.
#[test]
fn connection_size() {
    assert!(size_of::<Connection>() <= 184, "{}", size_of::<Connection>());
    let downlink = size_of::<crate::downlink::Downlink>();
    assert!(downlink <= 80, "{downlink}");
}

/// However little the link takes at a time, what was said to be written or queued arrives, whole and in order.
#[tokio::test]
async fn pushes_that_wait_together_arrive_whole_and_in_order() {
    let place = Place::with_session();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nonblocking(true).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    socket2::SockRef::from(&stream).set_send_buffer_size(32_768).unwrap();
    let link = Link::Tcp(crate::link::TcpLink::new(stream).unwrap());
    place.table.with(place.at, |connection| connection.link = link);
    let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()));
    let (reports, _reports) = tokio::sync::mpsc::channel(1);
    let push = |n: u8| {
        let (frame, reports) =
            (FrameOut::new(vec![n; 9_000 + usize::from(n)].into()), reports.clone());
        Fanout::new(0, frame, SlowPolicy::DropNewest, None, 1, reports, metrics.clone())
    };
    let (mut sent, mut seen) = (Vec::new(), Vec::new());
    let mut count = [0_usize; 3];
    let read = |seen: &mut Vec<u8>, most: usize| {
        let mut some = vec![0; most];
        if let Ok(read) = (&peer).read(&mut some) {
            seen.extend_from_slice(&some[..read]);
        }
        place.table.with(place.at, |connection| {
            let heard = Readiness { is_writable: true, ..Readiness::default() };
            connection.hear(heard);
            let _ = connection.poll_drain(&mut Context::from_waker(Waker::noop()), 0);
        });
    };
    let deadline = Instant::now() + Duration::from_mins(1);
    for round in 0..120_usize {
        let pushes: Vec<_> = (0..16).map(|n| push((round + n) as u8)).collect();
        let no_word = |_| unreachable!("nothing was missed");
        place.table.write_group(place.at, &pushes, 1, no_word, |n, written| {
            count[written as usize] += 1;
            match written {
                Written::Taken | Written::Queued => {
                    sent.extend_from_slice(pushes[n].frame.bytes(Form::Stream));
                }
                Written::Overflow => {}
                Written::Gone => unreachable!("it is there"),
            }
        });
        // By turns all of it, and less than comes.
        if round % 4 == 0 {
            while seen.len() < sent.len() && Instant::now() < deadline {
                read(&mut seen, 400_000);
            }
        } else {
            read(&mut seen, 5_000);
        }
    }
    assert!(count.iter().all(|&count| count > 100), "each way was gone: {count:?}");
    while seen.len() < sent.len() && Instant::now() < deadline {
        read(&mut seen, 400_000);
    }
    assert!(seen == sent, "{} bytes of {} arrived", seen.len(), sent.len());
}
