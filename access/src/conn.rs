//! One connection: wait, feed the session, do what it says. This task reads and decides; writing is
//! done by whoever has something to say, under the slot's lock (see `table`).

use crate::accept::Unauthenticated;
use crate::control;
use crate::curse::Part;
use crate::downlink::{self, Downlink};
use crate::forward;
use crate::frame_out::{self, Form};
use crate::goodbye;
use crate::groups::GroupKey;
use crate::lane::{Done, Work};
use crate::link::{Dialled, Link};
use crate::login::{self, Admitted, group_key};
use crate::node::Node;
use crate::reader::{Incoming, Malformed, Reader};
use crate::session::{Action, Event, Session};
use crate::table::{Connection, Identity, Linger, Wake};
use futures_util::FutureExt as _;
use futures_util::future::OptionFuture;
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::id::{Position, SlotRef};
use hawser_proto::params::{self, Joined, Left, LeftReason, Ping};
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tracing::{debug, error, warn};

/// Bytes taken from a link at once. One buffer per thread, lent only while bytes are in flight.
const READ_BYTES: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// A link that has just come in.
pub(crate) struct Arrival {
    pub(crate) link: Link,
    pub(crate) form: Form,
    pub(crate) dialled: Dialled,
    pub(crate) remote: IpAddr,
    /// The Origin of a WebSocket upgrade.
    pub(crate) origin: Option<String>,
    pub(crate) accepted: Instant,
    /// When the link was ready for LOGIN.
    pub(crate) ready: Instant,
    pub(crate) place: Unauthenticated,
}

/// Gives a link its slot and starts the connection's task, which lives as long as it does.
///
/// An idle connection keeps the task beside its slot, so what it holds across a wait is kept small: a
/// link, an event or an action never is. It is boxed, since tokio lays its tasks out in steps of 128
/// bytes: a pointer takes one step, and what it points to takes what it needs.
pub(crate) fn start(node: Arc<Node>, arrival: Arrival) {
    let Arrival { link, form, dialled, remote, origin, accepted, ready, place } = arrival;
    let now = node.table.exact_ms();
    let whole = node.config.login_timeout.saturating_sub(accepted.elapsed());
    let after = |patience: Duration| now.saturating_add(patience.as_millis() as u64);
    let deadline_ms =
        after(whole.min(node.config.first_frame_timeout.saturating_sub(ready.elapsed())));
    let login_by_ms = after(whole);
    let socket = link.socket();
    let connection = Connection::new(link, form, dialled, remote, deadline_ms);
    let Some(at) = node.table.insert(connection) else {
        node.metrics.refused_connections.with_label_values(&["full"]).inc();
        return;
    };
    node.metrics.connections.inc();
    let slot = SlotGuard { node, at };
    let node = &slot.node;
    // From the slot on, or what is heard of the socket would find nobody.
    let lane = node.table.lane_of(at.slot);
    if let Some(Err(error)) = socket.map(|socket| node.reactors[lane].add(at, socket)) {
        warn!(%error, "cannot hear of a socket");
        node.metrics.refused_connections.with_label_values(&["exhausted"]).inc();
        return;
    }
    let tasks = node.tasks.clone();
    let conn = Conn {
        slot,
        reader: Reader::new(form),
        session: Session::new(),
        stranger: Some(Box::new(Stranger { origin, login_by_ms, _place: place })),
    };
    tasks.spawn_light(Box::pin(run(conn)));
}

/// A connection's whole life.
#[allow(clippy::manual_async_fn, reason = "an async fn would hold the connection twice")]
fn run(mut conn: Conn) -> impl Future<Output = ()> + Send {
    async move {
        let cause = match AssertUnwindSafe(conn.live()).catch_unwind().await {
            Ok(cause) => cause,
            Err(_) => Some(conn.panicked()),
        };
        conn.slot.node.metrics.close(cause);
        if let Some(code) = cause {
            Box::pin(conn.linger(code)).await;
        }
    }
}

/// Work of a connection that has to wait for somebody.
type Waiting<'c> = Pin<Box<dyn Future<Output = ()> + Send + 'c>>;

/// Frees the slot however the task ends: the device is unbound, the groups are left.
struct SlotGuard {
    node: Arc<Node>,
    at: SlotRef,
}

impl SlotGuard {
    /// The session is over: from here on nothing is delivered to this connection.
    fn detach(&self) {
        let identity = self.node.table.with(self.at, |connection| {
            let dialled = connection.dialled;
            let downlink = connection.downlink.take();
            connection.identity.take().map(|identity| (identity, dialled, downlink))
        });
        if let Some((identity, dialled, downlink)) = identity.flatten() {
            self.release(&identity, dialled, downlink);
        }
    }

    fn release(&self, identity: &Identity, dialled: Dialled, downlink: Option<Box<Downlink>>) {
        let sent = downlink.map(|it| downlink::end(&self.node, *it)).unwrap_or_default();
        if identity.epoch.0 == 0 {
            return;
        }
        self.node.metrics.sessions(&identity.app, dialled).dec();
        let device = (&identity.app, &identity.device);
        self.node.routers.unbind(&self.node, device, self.at, identity.epoch, sent);
        let lane = &self.node.lanes[self.node.table.lane_of(self.at.slot)];
        lane.ended(self.at);
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.detach();
        if self.node.table.remove(self.at).is_some() {
            self.node.metrics.connections.dec();
        }
    }
}

/// What is only there before the login.
struct Stranger {
    origin: Option<String>,
    /// Wheel time (ms) when LOGIN_OK must be out, however fast LOGIN came in.
    login_by_ms: u64,
    _place: Unauthenticated,
}

struct Conn {
    slot: SlotGuard,
    reader: Reader,
    session: Session,
    stranger: Option<Box<Stranger>>,
}

impl Conn {
    /// Until the session closes. `None`: the link just ended.
    async fn live(&mut self) -> Option<CloseCode> {
        while !self.session.is_closed() {
            let event = poll_fn(|cx| self.poll_event(cx)).await;
            OptionFuture::from(self.step(event)).await;
        }
        self.session.cause()
    }

    /// This connection's own code has failed: it is told, as far as that works, and nobody else notices.
    fn panicked(&mut self) -> CloseCode {
        let (node, at, code) = (&self.slot.node, self.slot.at, CloseCode::Internal);
        let conn = node.connection_id(at);
        node.metrics.panicked(Part::Connection);
        error!(%conn, "a connection panicked: it alone is closed");
        self.slot.detach();
        node.table.begin_close(at, code, &goodbye::close(node, code, code.meaning()));
        code
    }

    /// Waits for the next event. Cancel-safe: partial bytes stay in the reader.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let SlotGuard { node, at } = &self.slot;
        loop {
            match self.reader.next(self.session.frame_bytes_max()) {
                Ok(Some(Incoming::Frame(raw))) => match DeviceFrame::parse(raw) {
                    Ok(frame) => return Poll::Ready(Event::Frame(frame)),
                    Err(error) => {
                        let (code, reason) = (error.close_code(), error.to_string());
                        return Poll::Ready(Event::Malformed(Malformed { code, reason }));
                    }
                },
                Ok(Some(Incoming::WebSocketPing(payload))) => {
                    let pong = frame_out::message(frame_out::OP_PONG, &payload);
                    node.table.write_raw(*at, &pong);
                    continue;
                }
                Ok(Some(Incoming::WebSocketClose)) => return Poll::Ready(Event::Goodbye),
                Ok(None) => {}
                Err(malformed) => return Poll::Ready(Event::Malformed(malformed)),
            }
            let reader = &mut self.reader;
            let wake = SCRATCH.with_borrow_mut(|scratch| {
                let wake = std::task::ready!(node.table.poll_wake(*at, cx, scratch));
                if let Wake::Bytes(read) = wake {
                    reader.take(&scratch[..read]);
                }
                Poll::Ready(wake)
            });
            match std::task::ready!(wake) {
                Wake::Bytes(_) => {}
                Wake::Signal(signal) => return Poll::Ready(Event::Signal(signal)),
                Wake::Downlink => downlink::turn(node, *at),
                Wake::Ended => return Poll::Ready(Event::Ended),
            }
        }
    }

    /// Lets the session decide, and does what it says. Returns what has to be waited for.
    fn step(&mut self, event: Event) -> Option<Waiting<'_>> {
        let (node, at) = (&self.slot.node, self.slot.at);
        match self.session.handle(event) {
            // `authenticate` has written the answer before anything that follows `Admit`.
            Action::Nothing | Action::Vanish | Action::Admit => {}
            Action::Authenticate(login) => {
                return Some(Box::pin(async move {
                    let verdict = self.authenticate(*login).await;
                    OptionFuture::from(self.step(verdict)).await;
                }));
            }
            Action::Pong { nonce } => {
                node.table.write(at, &NodeFrame::Pong(Ping { nonce }));
            }
            Action::Refresh { request_id } => control::begin_refresh(node, at, request_id),
            Action::Forward(request, body) => forward::forward(node, at, request, body),
            Action::Join(join) => {
                return Some(Box::pin(self.join(join)));
            }
            Action::Leave(leave) => {
                return Some(Box::pin(self.leave(leave)));
            }
            Action::Ack(ack) => downlink::ack(node, at, &ack),
            Action::Resync(resync) => downlink::resync(node, at, &resync),
            Action::Recover(recover) => {
                return Some(Box::pin(self.recover(recover)));
            }
            Action::RefuseRequest { request_id, code } => {
                node.table.write(at, &forward::refusal(request_id, code, code.meaning()));
            }
            Action::GoAway => {
                node.table.with(at, |connection| connection.is_told = true);
                let deadline = node.drain.leave_within(node, at);
                node.table.write(at, &goodbye::go_away(node, deadline));
            }
            Action::Drain => {
                node.drain.close_soon(at);
                node.table.with(at, Connection::drain);
            }
            Action::Detach => {
                // Nothing but answers from here on; the store's and the groups' side is over at once.
                node.table.with(at, Connection::move_on);
                self.slot.detach();
                node.drain.close_soon(at);
            }
            Action::Close { code, reason } => {
                let conn = node.connection_id(at);
                debug!(%conn, code = code.name(), reason, "closing");
                self.slot.detach();
                node.table.begin_close(at, code, &goodbye::close(node, code, &reason));
            }
        }
        None
    }

    async fn authenticate(&mut self, asked: params::Login) -> Event {
        let (node, at) = (&self.slot.node, self.slot.at);
        let stranger = self.stranger.as_ref();
        let origin = stranger.and_then(|stranger| stranger.origin.as_deref());
        if let Some(stranger) = stranger {
            node.table.extend_login(at, stranger.login_by_ms);
        }
        match login::login(node, at, asked, origin).await {
            Ok(Admitted { answer, idle_timeout, frame_bytes_max, abilities }) => {
                node.table.admit(at, &answer, idle_timeout);
                // What came between the claim and now has waited for LOGIN_OK.
                downlink::turn(node, at);
                self.stranger = None;
                Event::Bound { frame_bytes_max, abilities }
            }
            Err(refused) => refused,
        }
    }

    async fn join(&self, join: params::Join) {
        let (node, at) = (&self.slot.node, self.slot.at);
        let lane = node.table.lane_of(at.slot);
        let agreed = match group_key(node, at, &join.group) {
            Ok(key) => self.agree(&key, lane).await.map(|stay| (key, stay)),
            Err(code) => Err(code),
        };
        match agreed {
            Ok((key, stay)) => {
                let done = Done::Device(join.request_id);
                let last = Position::new(join.last_term, join.last_seq);
                node.lanes[lane].send(Work::Join { at, key, stay, last, done }).await;
            }
            Err(code) => {
                let refused = NodeFrame::Joined(Joined {
                    request_id: join.request_id,
                    group: hawser_proto::frame::cut(&join.group),
                    status: code.number(),
                    message: code.meaning().to_owned(),
                    ..Default::default()
                });
                node.table.write(at, &refused);
            }
        }
    }

    async fn recover(&self, recover: params::Recover) {
        let (node, at) = (&self.slot.node, self.slot.at);
        // A name that is none, or a group the device is not in: there is nothing to recover.
        let Ok(key) = group_key(node, at, &recover.group) else { return };
        let after = Position::new(recover.term, recover.seq);
        node.lanes[node.table.lane_of(at.slot)].send(Work::Recover { at, key, after }).await;
    }

    async fn agree(&self, key: &GroupKey, lane: usize) -> Result<crate::groups::Stay, ErrorCode> {
        let (node, at) = (&self.slot.node, self.slot.at);
        let patience = node.config.router_call_timeout;
        let stay = node.groups.enter(key, lane, &node.routers, patience).await?;
        let serves = node.table.with(at, |connection| {
            let identity = connection.identity.as_ref();
            identity.is_some_and(|it| it.serves(stay.business))
        });
        if serves == Some(true) {
            return Ok(stay);
        }
        node.groups.leave(key, stay.seq, lane, &node.routers);
        Err(ErrorCode::PermissionDenied)
    }

    async fn leave(&self, leave: params::Leave) {
        let (node, at) = (&self.slot.node, self.slot.at);
        match group_key(node, at, &leave.group) {
            Ok(key) => {
                let (reason, message) = (LeftReason::Asked, String::new());
                let done = Done::Device(leave.request_id);
                let work = Work::Leave { at, key, reason, message, done };
                node.lanes[node.table.lane_of(at.slot)].send(work).await;
            }
            Err(code) => {
                let refused = NodeFrame::Left(Left {
                    request_id: leave.request_id,
                    group: hawser_proto::frame::cut(&leave.group),
                    status: code.number(),
                    message: code.meaning().to_owned(),
                    reason: LeftReason::Unspecified.into(),
                });
                node.table.write(at, &refused);
            }
        }
    }

    /// Gets the goodbye out and waits for the peer's end, within bounds.
    async fn linger(&mut self, code: CloseCode) {
        let (node, at) = (&self.slot.node, self.slot.at);
        let mut state = Linger::new();
        let ending = poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| node.table.poll_linger(at, cx, &mut state, scratch))
        });
        // A peer that takes longer has been told all we could.
        let _ = tokio::time::timeout(node.config.linger, ending).await;
        node.table.end_link(at, code.number());
    }
}

/// Bytes that the task of a connection holds across a wait: each idle connection pays for them, and much
/// more means that something large is among them.
#[cfg(test)]
pub(crate) fn held_bytes() -> usize {
    fn held<F: Future>(_: fn(Conn) -> F) -> usize {
        size_of::<F>()
    }
    held(run)
}
