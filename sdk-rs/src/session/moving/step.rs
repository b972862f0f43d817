//! The new link of a move: found, dialled, logged in.

use super::{
    ASK_TIMEOUT, Action, Advice, DIAL_TIMEOUT, Going, HELD, HOLD, Heard, LOGIN_TIMEOUT, Old,
    Reason, Refusal, Retry, SETTLE, Session, Stage, State,
};
use crate::advice::AccessPoint;
use crate::session::online::Online;
use hawser_proto::code::{CloseCode, retry_of};
use hawser_proto::frame::NodeFrame;
use hawser_proto::params;
use std::time::{Duration, Instant};

impl Session {
    /// A round over all that is known, but this node.
    pub(super) fn next_round(&mut self, now: Instant, out: &mut Vec<Action>) {
        let State::Online(online) = &self.state else { return };
        let Some(going) = &mut self.going else { return };
        (going.has_asked, going.told) = (false, Duration::ZERO);
        let here = online.point.clone();
        self.route.avoid(here.clone(), Duration::ZERO, now);
        self.route.restart(None, now);
        self.route.prefer(&going.named, here.protocol, now);
        self.drop_old(now, out);
        self.groups.moving();
        self.next_point(now, out);
    }

    /// The next point of the round; else control; else a while later.
    pub(super) fn next_point(&mut self, now: Instant, out: &mut Vec<Action>) {
        let State::Online(online) = &self.state else { return };
        let has_token = !self.token_refused && self.token().is_some_and(|it| !it.is_dead(now));
        let Some(going) = &mut self.going else { return };
        going.hold_until = None;
        if going.until <= now {
            return self.give_up(now);
        }
        if has_token && let Some(point) = self.route.take_other(&online.point) {
            return self.dial_beside(point, now, out);
        }
        if self.setup.pinned.is_none() && !going.has_asked {
            going.has_asked = true;
            going.stage = Stage::Asking { until: now + ASK_TIMEOUT };
            return out.push(Action::Ask);
        }
        let until = (now + going.pace.failed().max(going.told)).min(going.until);
        going.stage = Stage::Waiting { until };
    }

    fn dial_beside(&mut self, point: AccessPoint, now: Instant, out: &mut Vec<Action>) {
        let Some(going) = &mut self.going else { return };
        self.installation.attempt += 1;
        out.push(Action::DialBeside(point.clone(), self.installation.clone()));
        going.stage = Stage::Dialling { point, until: now + DIAL_TIMEOUT };
    }

    pub(in crate::session) fn move_advised(
        &mut self,
        answer: Result<Advice, Refusal>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(going @ Going { stage: Stage::Asking { .. }, .. }) = &mut self.going else {
            return;
        };
        match answer {
            Ok(mut advice) => {
                let wanted = &self.setup.protocols;
                advice.points.retain(|point| wanted.is_empty() || wanted.contains(&point.protocol));
                let start_after = advice.start_after;
                going.stage = Stage::Waiting { until: now + start_after };
                self.adopt(advice, now);
                if start_after.is_zero() {
                    self.next_point(now, out);
                }
            }
            Err(Refusal { retry: Retry::Never, .. }) => self.give_up(now),
            Err(refusal) => {
                going.told = going.told.max(refusal.retry_after);
                self.next_point(now, out);
            }
        }
    }

    pub(in crate::session) fn move_dialled(
        &mut self,
        dialled: &Result<(), String>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(going) = &mut self.going else { return };
        let Stage::Dialling { point, .. } = &going.stage else { return };
        if dialled.is_err() {
            return self.next_point(now, out);
        }
        going.stage = Stage::Settling { point: point.clone(), until: now + SETTLE };
        going.hold_until = Some(now + SETTLE + HOLD);
        self.move_if_quiet(now, out);
    }

    /// Logs in on the new link as soon as the old one owes nothing.
    pub(in crate::session) fn move_if_quiet(&mut self, now: Instant, out: &mut Vec<Action>) {
        let is_settling = matches!(self.going, Some(Going { stage: Stage::Settling { .. }, .. }));
        if is_settling && self.calls.is_quiet() {
            self.move_log_in(now, out);
        }
    }

    pub(super) fn move_log_in(&mut self, now: Instant, out: &mut Vec<Action>) {
        let (frame, cursors) = self.login(now);
        let Some(going) = &mut self.going else { return };
        let Stage::Settling { point, .. } = &going.stage else { return };
        let point = point.clone();
        out.push(Action::SendBeside(frame));
        going.stage = Stage::LoggingIn { point, until: now + LOGIN_TIMEOUT, cursors };
        going.hold_until = Some(now + HOLD);
    }

    pub(super) fn new_heard(&mut self, heard: Heard, now: Instant, out: &mut Vec<Action>) {
        let Some(going) = &self.going else { return };
        let (point, is_logging_in) = match &going.stage {
            Stage::Settling { point, .. } => (point, false),
            Stage::LoggingIn { point, .. } => (point, true),
            Stage::Waiting { .. }
            | Stage::Asking { .. }
            | Stage::Dialling { .. }
            | Stage::GivenUp => return,
        };
        let point = point.clone();
        let frame = match heard {
            Heard::Frame(raw) => NodeFrame::parse(raw),
            Heard::Ended(Some(number)) => {
                let close = params::Close { code: number.into(), ..params::Close::default() };
                Ok(NodeFrame::Close(close))
            }
            Heard::Broken(_) | Heard::Ended(None) => return self.beside_failed(now, out),
        };
        match frame {
            Ok(NodeFrame::LoginOk(ok)) if is_logging_in => self.moved(ok, point, now, out),
            Ok(NodeFrame::Close(close))
                if is_logging_in && close.code == u32::from(CloseCode::Superseded.number()) =>
            {
                // This login had won, and a newer one has taken over from it.
                let number = CloseCode::Superseded.number();
                self.close(Reason::Code { number, message: close.reason }, now, out);
            }
            Ok(NodeFrame::Close(close)) => self.new_closed(close, point, now, out),
            Ok(
                NodeFrame::LoginOk(_)
                | NodeFrame::Ignored(_)
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
            Err(_) => self.beside_failed(now, out),
        }
    }

    /// The new link gave nothing, and nobody said why.
    pub(super) fn beside_failed(&mut self, now: Instant, out: &mut Vec<Action>) {
        out.push(Action::HangUpBeside);
        if let Some(going) = &mut self.going {
            going.may_have_won |= matches!(going.stage, Stage::LoggingIn { .. });
        }
        self.next_point(now, out);
    }

    /// The node of the new link refused.
    fn new_closed(
        &mut self,
        close: params::Close,
        point: AccessPoint,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let number = u16::try_from(close.code).unwrap_or(0);
        let told = Duration::from_millis(u64::from(close.retry_after_ms));
        out.push(Action::HangUpBeside);
        let named = self.named(close.alternatives);
        let retry = retry_of(number);
        if retry == Retry::NewToken {
            if self.ticket.is_to_blame() {
                return self.dial_beside(point, now, out);
            }
            self.token_refused = true;
            if self.setup.pinned.is_some() {
                return self.give_up(now);
            }
        }
        let like = point.protocol;
        if retry == Retry::Elsewhere {
            self.route.avoid(point, told, now);
        } else if let Some(going) = &mut self.going {
            going.told = going.told.max(told);
        }
        self.route.prefer(&named, like, now);
        self.next_point(now, out);
    }

    /// LOGIN_OK on the new link: it is the one in use.
    fn moved(
        &mut self,
        mut ok: params::LoginOk,
        point: AccessPoint,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let State::Online(old) = std::mem::replace(&mut self.state, State::Idle) else { return };
        let Some(Going { stage: Stage::LoggingIn { cursors, .. }, .. }) = self.going.take() else {
            return;
        };
        if now >= old.since + HELD {
            self.backoff.reset();
            self.token_strike = false;
        }
        self.calls.leave_behind();
        self.with_groups(out, crate::session::groups::Groups::offline);
        self.inboxes.offline();
        self.inboxes.logging_in(&cursors);
        out.push(Action::Swap);
        self.old = Some(Old::new(old, now));
        let told = std::mem::take(&mut ok.inboxes);
        let online = Online::new(ok, point, now, self.backoff.fraction());
        self.go_online(online, told, now, out);
        self.leave_old(now, out);
    }
}
