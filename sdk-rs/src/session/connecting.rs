//! A session on its way in: control, access points in turn, login.

use super::online::Online;
use super::{
    ASK_TIMEOUT, Action, DEVICE_ABILITIES, DIAL_TIMEOUT, LOGIN_TIMEOUT, Refusal, Session, State,
};
use crate::advice::{AccessPoint, Advice};
use crate::state::{Reason, State as Seen};
use bytes::Bytes;
use hawser_proto::code::Retry;
use hawser_proto::codec::RawFrame;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::limits::LOGIN_FRAME_BYTES_MAX;
use hawser_proto::params;
use std::time::{Duration, Instant};

impl Session {
    pub(super) fn start(&mut self, now: Instant, out: &mut Vec<Action>) {
        match self.setup.pinned.clone() {
            Some(advice) => {
                out.push(Action::Tell(Seen::Connecting));
                self.take_advice(advice, now, out);
            }
            None => self.connect(now, out),
        }
    }

    /// A new try, from wherever it has to begin.
    pub(super) fn connect(&mut self, now: Instant, out: &mut Vec<Action>) {
        out.push(Action::Tell(Seen::Connecting));
        let good = |advice: &Advice| {
            !advice.token.is_dead(now)
                && !advice.token.wants_refresh(now)
                && advice.stale_at.is_none_or(|at| at > now)
        };
        let asks = self.must_ask || self.token_refused || !self.advice.as_ref().is_some_and(good);
        if self.setup.pinned.is_none() && asks {
            self.state = State::Asking { until: now + ASK_TIMEOUT };
            out.push(Action::Ask);
        } else {
            self.dial_next(now, out);
        }
    }

    pub(super) fn advised(&mut self, mut advice: Advice, now: Instant, out: &mut Vec<Action>) {
        if !self.setup.protocols.is_empty() {
            advice.points.retain(|point| self.setup.protocols.contains(&point.protocol));
        }
        if advice.points.is_empty() {
            let what = "control gave no access point of the wanted protocols";
            let reason = Reason::Unreachable(what.to_owned());
            let retry_in = self.backoff.failed();
            return self.wait(reason, Retry::Later, retry_in, now, out);
        }
        self.take_advice(advice, now, out);
    }

    fn take_advice(&mut self, advice: Advice, now: Instant, out: &mut Vec<Action>) {
        let start_after = advice.start_after;
        self.adopt(advice, now);
        if start_after.is_zero() {
            self.dial_next(now, out);
        } else {
            self.state = State::Waiting { until: now + start_after };
        }
    }

    /// Goes by this answer from now on. A ticket of an earlier token is worth nothing beside it.
    pub(super) fn adopt(&mut self, advice: Advice, now: Instant) {
        self.must_ask = false;
        self.token_refused = false;
        self.ticket.forget();
        if self.setup.pinned.is_none() {
            self.backoff.set(advice.backoff);
        }
        self.route.set(advice.points.clone(), now);
        self.advice = Some(advice);
    }

    pub(super) fn refused(&mut self, refusal: Refusal, now: Instant, out: &mut Vec<Action>) {
        let Refusal { reason, retry, retry_after } = refusal;
        if retry == Retry::Never {
            return self.close(reason, now, out);
        }
        // Control being away must not keep a device out that holds a good token.
        let unreachable = matches!(reason, Reason::ControlUnreachable(_));
        let holds = self.advice.as_ref().is_some_and(|it| !it.token.is_dead(now));
        if unreachable && holds && !self.token_refused {
            self.route.restart(None, now);
            self.dial_next(now, out);
        } else {
            let retry_in = if retry_after.is_zero() {
                self.backoff.failed()
            } else {
                self.backoff.later(retry_after)
            };
            self.wait(reason, retry, retry_in, now, out);
        }
    }

    pub(super) fn dial_next(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(point) = self.route.take() else {
            // Every point was tried: perhaps control knows better ones by now.
            self.must_ask = true;
            self.route.restart(None, now);
            let reason = self.last.clone();
            let retry_in = self.backoff.failed();
            return self.wait(reason, Retry::Later, retry_in, now, out);
        };
        self.dial(point, now, out);
    }

    pub(super) fn dial(&mut self, point: AccessPoint, now: Instant, out: &mut Vec<Action>) {
        self.installation.attempt += 1;
        out.push(Action::Dial(point.clone(), self.installation.clone()));
        self.state = State::Dialling { point, until: now + DIAL_TIMEOUT };
    }

    /// This access point did not work out: the next one of the round, at once.
    pub(super) fn try_next(&mut self, reason: Reason, now: Instant, out: &mut Vec<Action>) {
        out.push(Action::HangUp);
        self.last = reason;
        self.dial_next(now, out);
    }

    pub(super) fn log_in(&mut self, now: Instant, out: &mut Vec<Action>) {
        let State::Dialling { point, .. } = &self.state else { return };
        let point = point.clone();
        let (frame, cursors) = self.login(now);
        self.inboxes.logging_in(&cursors);
        out.push(Action::Send(frame));
        self.state = State::LoggingIn { point, until: now + LOGIN_TIMEOUT };
    }

    /// A LOGIN, and the cursors that it names.
    pub(super) fn login(&mut self, now: Instant) -> (Bytes, Vec<params::Cursor>) {
        let resume_ticket = self.ticket.show(now);
        // Beside a ticket, too: a node of the release before knows no tickets.
        let token = self.token().map(|token| token.text.clone()).unwrap_or_default();
        let mut login = params::Login {
            app: self.setup.app.clone(),
            device: self.setup.device.clone(),
            token,
            instance: Bytes::copy_from_slice(&self.installation.instance),
            attempt: self.installation.attempt,
            businesses: self.setup.businesses.iter().map(ToString::to_string).collect(),
            client: Some(self.setup.client.clone()),
            abilities: DEVICE_ABILITIES,
            cursors: self.inboxes.cursors(&self.setup.businesses),
            resume_ticket,
        };
        // A cursor that finds no room costs a few pushes that come twice and are dropped here.
        let mut cursors = login.cursors.clone();
        let mut frame = DeviceFrame::Login(login.clone()).encode();
        if frame.len() > LOGIN_FRAME_BYTES_MAX && !login.resume_ticket.is_empty() {
            login.token.clear();
            frame = DeviceFrame::Login(login.clone()).encode();
        }
        while frame.len() > LOGIN_FRAME_BYTES_MAX && cursors.pop().is_some() {
            login.cursors.clone_from(&cursors);
            frame = DeviceFrame::Login(login.clone()).encode();
        }
        (frame, cursors)
    }

    pub(super) fn login_frame(&mut self, raw: RawFrame, now: Instant, out: &mut Vec<Action>) {
        let State::LoggingIn { point, .. } = &self.state else { return };
        match NodeFrame::parse(raw) {
            Ok(NodeFrame::LoginOk(mut ok)) => {
                let told = std::mem::take(&mut ok.inboxes);
                let online = Online::new(ok, point.clone(), now, self.backoff.fraction());
                self.go_online(online, told, now, out);
            }
            Ok(NodeFrame::Close(close)) => self.closed_by_node(close, now, out),
            Ok(
                NodeFrame::Ignored(_)
                | NodeFrame::Pong(_)
                | NodeFrame::GoAway(_)
                | NodeFrame::Refreshed(_)
                | NodeFrame::Response(..)
                | NodeFrame::Joined(_)
                | NodeFrame::Left(_)
                | NodeFrame::Push(..)
                | NodeFrame::GroupPush(..)
                | NodeFrame::Gap(_)
                | NodeFrame::Missed(_)
                | NodeFrame::GroupReset(_),
            ) => {}
            Err(bad) => {
                self.lost(Reason::BadFrame(bad.to_string()), Duration::ZERO, now, out);
            }
        }
    }
}
