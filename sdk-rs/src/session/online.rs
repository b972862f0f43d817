//! A session while it is logged in: frames of the node, heartbeats, token refresh, and what waits to
//! be written.

use super::inbox::Place;
use super::moving::Going;
use super::{Action, DEVICE_ABILITIES, Session, State};
use crate::advice::{AccessPoint, TOKEN_BYTES_MAX};
use crate::incoming::Push;
use crate::request::{RequestError, Response};
use crate::state::{Reason, State as Seen};
use bytes::Bytes;
use hawser_proto::code::ErrorCode;
use hawser_proto::codec::{Flags, RawFrame, Terms};
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::id::Position;
use hawser_proto::limits::{
    FRAME_BYTES_MAX, FRAME_BYTES_MAX_DEFAULT, GROUPS_PER_CONNECTION_MAX, HEARTBEAT,
    REQUESTS_IN_FLIGHT_MAX,
};
use hawser_proto::params;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// A node that keeps silent for this long after a PING is gone; sooner where heartbeats are quicker.
const PONG_WAIT_MAX: Duration = Duration::from_secs(10);
/// And it is given at least this long.
const PONG_WAIT_MIN: Duration = Duration::from_millis(500);
/// The node is told a deadline that ends before ours by this, or by a tenth if that is less, so that
/// its own word of it still arrives.
const DEADLINE_MARGIN: Duration = Duration::from_millis(250);
/// No node can talk a device into a busy loop.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// A REFRESH without an answer, or refused for now, is sent again after this.
const REFRESH_AGAIN: Duration = Duration::from_secs(30);
/// Nothing in a session is planned further ahead.
const FAR: Duration = Duration::from_hours(24 * 365);

/// What the login answer fixed, and the clocks that run on it.
#[derive(Debug)]
pub(super) struct Online {
    pub(super) point: AccessPoint,
    pub(super) since: Instant,
    connection: String,
    epoch: u64,
    /// Number, name, and the error when it is not served.
    businesses: Vec<(u32, Arc<str>, u32)>,
    pub(super) abilities: u32,
    /// Over how long the first try after a loss is to be spread; zero: as control said.
    window: Duration,
    ticket: Bytes,
    frame_bytes_max: usize,
    in_flight_max: usize,
    groups_max: usize,
    heartbeat: Duration,
    pong_wait: Duration,
    pub(super) last_sent: Instant,
    last_heard: Instant,
    pinged_at: Option<Instant>,
    /// The node's clock at `since`.
    server_time_ms: u64,
    token_times: (u64, u64),
    refresh_at: Option<Instant>,
    refresh_id: Option<u64>,
    spread: f64,
}

impl Online {
    /// Reads a login answer. `spread`: this device's place in time among those told the same.
    pub(super) fn new(ok: params::LoginOk, point: AccessPoint, now: Instant, spread: f64) -> Self {
        let or = |told: u32, default: Duration| match told {
            0 => default,
            told => Duration::from_millis(u64::from(told)),
        };
        let limit = |told: u32, default: usize| if told == 0 { default } else { told as usize };
        let heartbeat = or(ok.heartbeat_ms, HEARTBEAT).max(HEARTBEAT_MIN);
        let businesses = ok.businesses.into_iter();
        let businesses =
            businesses.take(1024).map(|it| (it.number, it.name.into(), it.status)).collect();
        let mut online = Self {
            point,
            since: now,
            connection: ok.connection,
            epoch: ok.epoch,
            businesses,
            abilities: ok.abilities & DEVICE_ABILITIES,
            window: Duration::from_millis(u64::from(ok.reconnect_window_ms)),
            ticket: ok.resume_ticket,
            frame_bytes_max: limit(ok.frame_bytes_max, FRAME_BYTES_MAX_DEFAULT)
                .min(FRAME_BYTES_MAX),
            in_flight_max: limit(ok.requests_in_flight_max, REQUESTS_IN_FLIGHT_MAX),
            groups_max: limit(ok.groups_max, GROUPS_PER_CONNECTION_MAX),
            heartbeat,
            pong_wait: heartbeat.clamp(PONG_WAIT_MIN, PONG_WAIT_MAX),
            last_sent: now,
            last_heard: now,
            pinged_at: None,
            server_time_ms: ok.server_time_ms,
            token_times: (ok.token_refresh_at_ms, ok.token_expires_at_ms),
            refresh_at: None,
            refresh_id: None,
            spread,
        };
        online.plan_refresh(now);
        online
    }

    /// What the node may send on this connection.
    fn terms(&self) -> Terms {
        let has_zstd = self.abilities & ability::ZSTD != 0;
        let known = if has_zstd { Flags::COMPRESSED } else { Flags::NONE };
        Terms { frame_bytes_max: self.frame_bytes_max, known }
    }

    /// A time of the node's clock in ours; `None`: not told.
    fn our_time(&self, server_ms: u64) -> Option<Instant> {
        if server_ms == 0 || self.server_time_ms == 0 {
            return None;
        }
        let ahead = Duration::from_millis(server_ms.saturating_sub(self.server_time_ms));
        Some(self.since + ahead.min(FAR))
    }

    fn plan_refresh(&mut self, now: Instant) {
        let (refresh_ms, expires_ms) = self.token_times;
        self.refresh_at = self.our_time(refresh_ms).map(|at| {
            let room = self.our_time(expires_ms).map_or(Duration::ZERO, |it| it - at.min(it)) / 10;
            at.max(now) + room.mul_f64(self.spread)
        });
    }

    /// When the node is to hear something again.
    pub(super) fn idle_at(&self) -> Instant {
        self.last_sent + self.heartbeat
    }

    fn ping_at(&self) -> Instant {
        let oldest = match self.pinged_at {
            Some(_) => self.last_sent,
            None => self.last_sent.min(self.last_heard),
        };
        oldest + self.heartbeat
    }

    fn silent_at(&self) -> Option<Instant> {
        self.pinged_at.map(|at| at + self.pong_wait)
    }

    pub(super) fn wake_at(&self) -> Instant {
        let others = [self.silent_at(), self.refresh_at].into_iter().flatten();
        others.fold(self.ping_at(), Instant::min)
    }

    /// The number of a business on this connection, or the error a request to it gets.
    fn number(&self, business: &str) -> Result<u32, u32> {
        let found = self.businesses.iter().find(|(_, name, _)| name.as_ref() == business);
        match found {
            Some((number, _, 0)) if *number != 0 => Ok(*number),
            Some((_, _, status)) if *status != 0 => Err(*status),
            Some(_) | None => Err(ErrorCode::UnknownBusiness.number()),
        }
    }

    pub(super) fn name(&self, number: u32) -> Option<&Arc<str>> {
        let found = self.businesses.iter().find(|(it, ..)| *it == number && number != 0);
        found.map(|(_, name, _)| name)
    }
}

impl Session {
    /// `told`: what LOGIN_OK says of the inboxes.
    pub(super) fn go_online(
        &mut self,
        mut online: Online,
        told: Vec<params::Inbox>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        out.push(Action::Limit(online.terms()));
        self.backoff.logged_in(online.window);
        let has_ticket = online.abilities & ability::RESUME != 0;
        let ticket = std::mem::take(&mut online.ticket);
        self.ticket.given(if has_ticket { ticket } else { Bytes::new() }, now);
        self.groups.online(online.groups_max, online.abilities & ability::HISTORY != 0);
        let times = online.token_times;
        let (refresh_at, expires_at) = (online.our_time(times.0), online.our_time(times.1));
        if let Some(token) = self.token_mut() {
            token.refresh_at = refresh_at.or(token.refresh_at);
            token.expires_at = expires_at.or(token.expires_at);
        }
        out.push(Action::Tell(Seen::Online {
            epoch: online.epoch,
            connection: online.connection.clone(),
            protocol: online.point.protocol,
        }));
        let has_inbox = online.abilities & ability::INBOX != 0;
        self.inboxes.online(&online.businesses, told, has_inbox, now, out);
        self.state = State::Online(Box::new(online));
        self.pump(now, out);
    }

    /// A frame while online.
    pub(super) fn frame(&mut self, raw: RawFrame, now: Instant, out: &mut Vec<Action>) {
        let State::Online(online) = &mut self.state else { return };
        online.last_heard = now;
        online.pinged_at = None;
        let bytes = raw.params.len() + raw.body.len();
        match NodeFrame::parse(raw) {
            Ok(NodeFrame::Pong(_) | NodeFrame::Ignored(_)) => {}
            Ok(NodeFrame::GoAway(told)) => self.go_away(told, now, out),
            Ok(NodeFrame::Response(response, body)) => {
                let id = response.request_id;
                if self.calls.finish(id) {
                    out.push(Action::Answer(id, answer(response, body)));
                }
                self.move_if_quiet(now, out);
                self.pump(now, out);
            }
            Ok(NodeFrame::Push(push, body)) => {
                let Some(name) = online.name(push.business).cloned() else { return };
                let number = push.business;
                let at = Position::new(push.term, push.seq);
                let place = Place { at, prev: Position::new(push.prev_term, push.prev_seq) };
                let push = device_push(push, body);
                match push.position {
                    None => out.push(Action::Push(name, push)),
                    Some(_) => self.with_inboxes(now, out, |inboxes, out| {
                        inboxes.push((number, &name), place, push, bytes, now, out);
                    }),
                }
            }
            Ok(NodeFrame::GroupPush(push, body)) => {
                let Some(name) = online.name(push.business).cloned() else { return };
                let at = Position::new(push.term, push.seq);
                let place = Place { at, prev: Position::new(push.prev_term, push.prev_seq) };
                let push = group_push(push, body);
                self.with_groups(out, |groups, outcomes| {
                    groups.push(&name, place, push, now, outcomes);
                });
            }
            Ok(NodeFrame::Gap(gap)) => {
                let Some(name) = online.name(gap.business).cloned() else { return };
                self.with_inboxes(now, out, |it, out| it.gap(&name, &gap, now, out));
            }
            Ok(NodeFrame::Missed(missed)) => {
                let Some(name) = online.name(missed.business).cloned() else { return };
                self.groups.missed(&missed, &name);
            }
            Ok(NodeFrame::GroupReset(reset)) => {
                self.with_groups(out, |groups, outcomes| groups.reset(&reset, outcomes));
            }
            Ok(NodeFrame::Joined(joined)) => {
                let name = online.name(joined.business).cloned();
                self.with_groups(out, |groups, outcomes| {
                    groups.joined(joined, name.as_ref(), now, outcomes);
                });
                self.pump(now, out);
                self.leave_old(now, out);
            }
            Ok(NodeFrame::Left(left)) => {
                self.with_groups(out, |groups, outcomes| groups.left(left, outcomes));
                self.pump(now, out);
            }
            Ok(NodeFrame::Refreshed(refreshed)) => self.refreshed(refreshed, now),
            Ok(NodeFrame::Close(close)) => self.closed_by_node(close, now, out),
            Ok(NodeFrame::LoginOk(_)) => {
                let reason = Reason::BadFrame("a second login answer".to_owned());
                self.lost(reason, Duration::ZERO, now, out);
            }
            Err(bad) => self.lost(Reason::BadFrame(bad.to_string()), Duration::ZERO, now, out),
        }
    }

    fn refreshed(&mut self, refreshed: params::Refreshed, now: Instant) {
        let State::Online(online) = &mut self.state else { return };
        if online.refresh_id != Some(refreshed.request_id) {
            return;
        }
        online.refresh_id = None;
        let usable = !refreshed.token.is_empty() && refreshed.token.len() <= TOKEN_BYTES_MAX;
        if refreshed.status == 0 && usable {
            online.token_times = (refreshed.token_refresh_at_ms, refreshed.token_expires_at_ms);
            online.plan_refresh(now);
            // A refresh time that lies in the past would have us ask without end.
            online.refresh_at = online.refresh_at.map(|at| at.max(now + REFRESH_AGAIN));
            let times = online.token_times;
            let (refresh_at, expires_at) = (online.our_time(times.0), online.our_time(times.1));
            if let Some(token) = self.token_mut() {
                token.text = refreshed.token;
                token.refresh_at = refresh_at;
                token.expires_at = expires_at;
            }
            // Also when there is none: the one before speaks for the old token, and ends with it.
            self.ticket.given(refreshed.resume_ticket, now);
        } else if ErrorCode::from_number(refreshed.status) == Some(ErrorCode::Revoked) {
            // The node will close; until then there is nothing to ask for.
            online.refresh_at = None;
            self.token_refused = true;
            self.ticket.forget();
        } else {
            online.refresh_at = Some(now + REFRESH_AGAIN);
        }
    }

    /// The clocks of a live session.
    pub(super) fn online_due(&mut self, now: Instant, out: &mut Vec<Action>) {
        let State::Online(online) = &mut self.state else { return };
        if online.silent_at().is_some_and(|at| at <= now) {
            return self.lost(Reason::Silent, Duration::ZERO, now, out);
        }
        if online.refresh_at.is_some_and(|at| at <= now) {
            self.last_id += 1;
            let request_id = self.last_id;
            online.refresh_id = Some(request_id);
            online.refresh_at = Some(now + REFRESH_AGAIN);
            online.last_sent = now;
            let refresh = DeviceFrame::Refresh(params::Refresh { request_id });
            out.push(Action::Send(refresh.encode()));
        }
        if online.ping_at() <= now {
            online.last_sent = now;
            online.pinged_at.get_or_insert(now);
            let ping = DeviceFrame::Ping(params::Ping { nonce: 0 });
            out.push(Action::Send(ping.encode()));
        }
        self.pump(now, out);
    }

    /// Writes what waits, as far as there is room on the wire.
    pub(super) fn pump(&mut self, now: Instant, out: &mut Vec<Action>) {
        let State::Online(online) = &mut self.state else { return };
        let is_held = self.going.as_ref().is_some_and(Going::holds_requests);
        let in_flight_max = if is_held { 0 } else { online.in_flight_max };
        while let Some((id, ask)) = self.calls.next(in_flight_max) {
            let number = match online.number(&ask.business) {
                Ok(number) => number,
                Err(status) => {
                    self.calls.finish(id);
                    let refused = RequestError::Refused { status, message: String::new() };
                    out.push(Action::Answer(id, Err(refused)));
                    continue;
                }
            };
            let left = ask.deadline.saturating_duration_since(now);
            let told = left.saturating_sub(DEADLINE_MARGIN.min(left / 10)).as_millis();
            let request = params::Request {
                request_id: id,
                business: number,
                method: ask.method,
                metadata: ask.metadata,
                traceparent: ask.traceparent,
                deadline_ms: u32::try_from(told).unwrap_or(u32::MAX).max(1),
            };
            let max = online.frame_bytes_max;
            // The body alone decides before anything is copied; parameters are below 32 KiB by the
            // limits that every request was checked against.
            if ask.body.len() > max {
                self.calls.finish(id);
                out.push(Action::Answer(id, Err(RequestError::TooLarge { max })));
                continue;
            }
            let frame = DeviceFrame::Request(request, ask.body).encode();
            if frame.len() > max {
                self.calls.finish(id);
                out.push(Action::Answer(id, Err(RequestError::TooLarge { max })));
                continue;
            }
            online.last_sent = now;
            out.push(Action::Send(frame));
        }
        while let Some(frame) = self.groups.next_frame(&mut self.last_id, now) {
            online.last_sent = now;
            out.push(Action::Send(frame.encode()));
        }
    }
}

pub(super) fn device_push(push: params::Push, body: Bytes) -> Push {
    let at = Position::new(push.term, push.seq);
    Push {
        id: push.push_id,
        body,
        metadata: push.metadata,
        traceparent: push.traceparent,
        position: (at != Position::START).then_some(at),
        redelivered: push.redelivered,
        expires_at: (push.expires_at_ms != 0)
            .then(|| UNIX_EPOCH.checked_add(Duration::from_millis(push.expires_at_ms)))
            .flatten(),
        ..Push::default()
    }
}

pub(super) fn group_push(push: params::GroupPush, body: Bytes) -> Push {
    let at = Position::new(push.term, push.seq);
    Push {
        id: push.push_id,
        group: Some(push.group),
        body,
        metadata: push.metadata,
        traceparent: push.traceparent,
        position: (at != Position::START).then_some(at),
        ..Push::default()
    }
}

pub(super) fn answer(response: params::Response, body: Bytes) -> Result<Response, RequestError> {
    match response.status {
        0 => Ok(Response { body, metadata: response.metadata }),
        status => Err(RequestError::Refused { status, message: response.message }),
    }
}
