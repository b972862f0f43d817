//! What devices say, and how a login becomes a session.

use super::{BIND, HEARTBEAT_MS, IDLE, Stage};
use crate::net::{MS, Net, Part, SEC, Stream, StreamId};
use crate::ours::{Message, Named, No, Ours, number_of};
use bytes::Bytes;
use hawser_access::cores::session::{self, Malformed, Signal};
use hawser_proto::code::CloseCode;
use hawser_proto::codec::decode_message;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::id::{BusinessNo, Position, SlotRef};
use hawser_proto::limits::FRAME_BYTES_MAX_DEFAULT;
use hawser_proto::params;
use hawser_router::cores::{InboxState, InboxTail};

impl Ours {
    pub(crate) fn from_device(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        bytes: Bytes,
    ) {
        let Some(conn) = self.nodes[node].conn(at) else { return };
        conn.heard = net.now;
        if conn.stage == Stage::Binding {
            return conn.held.push(bytes);
        }
        let frame = decode_message(bytes, conn.session.frame_bytes_max());
        let event = match frame.and_then(DeviceFrame::parse) {
            Ok(frame) => session::Event::Frame(frame),
            Err(error) => session::Event::Malformed(Malformed {
                code: error.close_code(),
                reason: error.to_string(),
            }),
        };
        self.session_event(net, node, at, event);
    }

    /// Tells the session machine, and does the one thing that it says.
    pub(crate) fn session_event(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        event: session::Event,
    ) {
        use session::Action as A;
        let Some(conn) = self.nodes[node].conn(at) else { return };
        let app = conn.app.clone();
        match conn.session.handle(event) {
            A::Authenticate(login) => self.log_in(net, node, at, *login),
            A::Admit => conn.stage = Stage::Active,
            A::Pong { nonce } => {
                let pong = NodeFrame::Pong(params::Ping { nonce });
                self.write(net, node, at, pong.encode());
            }
            A::Ack(ack) => {
                for it in ack.inboxes {
                    let _ = conn.feeds.ack(BusinessNo(it.business), Position::new(it.term, it.seq));
                }
                self.pump(net, node, at);
            }
            A::Resync(resync) => {
                let it = resync.after.unwrap_or_default();
                let _ = conn.feeds.resync(BusinessNo(it.business), Position::new(it.term, it.seq));
                self.pump(net, node, at);
            }
            A::Join(join) => self.join_group(net, node, at, &app, &join),
            A::Leave(leave) => self.leave_group(net, node, at, &app, &leave),
            A::Recover(recover) => {
                let after = Position::new(recover.term, recover.seq);
                self.recover_group(net, node, at, &app, after);
            }
            A::Close { code, .. } => self.close(net, node, at, Some(code)),
            // Nobody asks a business here: there are no answers to wait for.
            A::Detach => self.close(net, node, at, Some(CloseCode::Superseded)),
            A::Vanish => self.close(net, node, at, None),
            A::Nothing
            | A::Refresh { .. }
            | A::Forward(..)
            | A::RefuseRequest { .. }
            | A::GoAway
            | A::Drain => {}
        }
    }

    /// Somebody wants the session to end.
    pub(crate) fn order(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        code: CloseCode,
    ) {
        let signal = match code {
            CloseCode::IdleTimeout => Signal::Idle,
            code => Signal::Ordered(code, String::new()),
        };
        self.session_event(net, node, at, session::Event::Signal(signal));
    }

    /// The login does not hold.
    pub(crate) fn refuse(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        code: CloseCode,
    ) {
        let event = session::Event::Refused(code, String::new());
        self.session_event(net, node, at, event);
    }

    pub(crate) fn log_in(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        login: params::Login,
    ) {
        let Some(stream) = self.way(net, node, Stream::Control) else {
            return self.refuse(net, node, at, CloseCode::RouterUnavailable);
        };
        let Some(conn) = self.nodes[node].conn(at) else { return };
        conn.stage = Stage::Binding;
        (conn.app, conn.device) = (login.app, login.device);
        conn.instance.copy_from_slice(&login.instance);
        conn.attempt = login.attempt;
        let cursor = |it: &params::Cursor| {
            (number_of(&conn.app, &it.business), Position::new(it.term, it.seq))
        };
        conn.cursors = login.cursors.iter().map(cursor).collect();
        let call = self.next_call(node);
        self.bind(net, node, at, stream, call, true);
        net.after(BIND, Part::Node(node), Message::BindOverdue(call));
    }

    pub(crate) fn bind(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        stream: StreamId,
        call: u64,
        is_login: bool,
    ) {
        let Some(of) = self.named(net, node, at) else { return };
        let Some(conn) = self.nodes[node].conn(at) else { return };
        let cursors = if is_login { conn.cursors.clone() } else { conn.feeds.sent().collect() };
        let (instance, attempt) = (conn.instance, conn.attempt);
        self.nodes[node].binds.insert(call, (stream, of.clone(), is_login));
        let message = Message::Bind { call, of, instance, attempt, is_login, cursors };
        net.say(stream, Part::Node(node), message);
    }

    pub(crate) fn announce(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        over: Option<StreamId>,
    ) {
        let Some(stream) = over.or_else(|| self.way(net, node, Stream::Control)) else { return };
        let is_active = self.nodes[node].conn(at).is_some_and(|it| it.stage == Stage::Active);
        if is_active {
            let call = self.next_call(node);
            // Its answer is worth something however late it is; a broken stream asks again.
            self.bind(net, node, at, stream, call, false);
        }
    }

    pub(crate) fn bound(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        call: u64,
        outcome: Result<(u64, Vec<InboxTail>), Option<No>>,
    ) {
        let Some((stream, of, is_login)) = self.nodes[node].binds.remove(&call) else { return };
        let (at, told) = (of.owner.at, of.epoch);
        match outcome {
            Ok((epoch, inboxes)) if is_login => {
                let Some(conn) = self.nodes[node].conn(at) else {
                    return;
                };
                conn.epoch = epoch;
                let frame_bytes_max = FRAME_BYTES_MAX_DEFAULT;
                let bound = session::Event::Bound { frame_bytes_max, abilities: ability::ALL };
                self.session_event(net, node, at, bound);
                let Some(conn) = self.nodes[node].conn(at) else { return };
                for (business, cursor) in conn.cursors.clone() {
                    if cursor > Position::START {
                        conn.feeds.begin(business, cursor);
                    }
                }
                let ok = self.login_ok(net, node, at, &inboxes);
                self.write(net, node, at, ok);
                self.stand(net, node, at, &inboxes);
                let held = self.nodes[node].conn(at).map(|conn| std::mem::take(&mut conn.held));
                for bytes in held.into_iter().flatten() {
                    self.from_device(net, node, at, bytes);
                }
            }
            Ok((epoch, inboxes)) => {
                let Some(conn) = self.nodes[node].conn(at) else {
                    // Its end was faster. What waits may all have been written.
                    let sent = inboxes.iter().map(|it| (it.business, it.tail)).collect();
                    let unbind = Message::Unbind { of: Named { epoch, ..of }, sent };
                    return net.say(stream, Part::Node(node), unbind);
                };
                conn.is_forgotten = false;
                if conn.epoch == told && epoch > told {
                    conn.epoch = epoch;
                    conn.feeds.ask_anew();
                    self.want_sweep(net, node);
                }
                self.stand(net, node, at, &inboxes);
            }
            Err(None) => self.refuse(net, node, at, CloseCode::StaleLogin),
            Err(Some(No::Superseded)) => {
                if self.nodes[node].conn(at).is_some_and(|conn| is_login || conn.epoch == told) {
                    self.order(net, node, at, CloseCode::Superseded);
                }
            }
            Err(Some(_)) if is_login => {
                self.refuse(net, node, at, CloseCode::RouterUnavailable);
            }
            Err(Some(_)) => {
                let pause = net.rng.between(100 * MS, SEC);
                net.after(pause, Part::Node(node), Message::Announce(at));
            }
        }
    }

    pub(crate) fn login_ok(
        &mut self,
        net: &Net<Message>,
        node: usize,
        at: SlotRef,
        inboxes: &[InboxTail],
    ) -> Bytes {
        let connection = self
            .named(net, node, at)
            .map_or_else(String::new, |named| crate::ours::store::shown(&named.owner));
        let Some(conn) = self.nodes[node].conn(at) else { return Bytes::new() };
        let business = |name: &str| params::BusinessNumber {
            name: name.to_owned(),
            number: number_of(&conn.app, name).0,
            status: 0,
        };
        let inbox = |it: &InboxTail| params::Inbox {
            business: it.business.0,
            tail_term: it.tail.term,
            tail_seq: it.tail.seq,
            floor_term: it.floor.term,
            floor_seq: it.floor.seq,
            state: match it.state {
                InboxState::Fine => 0,
                InboxState::TermChanged => params::InboxState::TermChanged as i32,
                InboxState::CursorRefused => params::InboxState::CursorRefused as i32,
            },
        };
        let ok = params::LoginOk {
            connection,
            epoch: conn.epoch,
            businesses: vec![business("chat"), business("mail")],
            heartbeat_ms: HEARTBEAT_MS,
            idle_timeout_ms: (IDLE / MS) as u32,
            server_time_ms: crate::ours::wall_ms(net.now, 0),
            abilities: ability::ALL,
            inboxes: inboxes.iter().map(inbox).collect(),
            ..params::LoginOk::default()
        };
        NodeFrame::LoginOk(ok).encode()
    }

    pub(crate) fn stand(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        inboxes: &[InboxTail],
    ) {
        let Some(conn) = self.nodes[node].conn(at) else { return };
        for inbox in inboxes {
            if inbox.state == InboxState::CursorRefused {
                conn.feeds.begin(inbox.business, inbox.floor);
            }
            conn.feeds.tail(inbox.business, inbox.tail, inbox.priority as u8);
        }
        for (business, at, priority) in std::mem::take(&mut conn.early) {
            conn.feeds.tail(business, at, priority);
        }
        conn.feeds.hurry();
        self.pump(net, node, at);
    }
}
