//! The old link of a move: what it still brings, and its end.

use super::{Action, Heard, Session};
use crate::session::LEAVE_TIMEOUT;
use crate::session::inbox::Place;
use crate::session::online::{self, Online};
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::id::Position;
use hawser_proto::limits::GO_AWAY_DEADLINE;
use hawser_proto::params;
use std::time::{Duration, Instant};

/// The groups get this long to be joined on the new link before the old one is left.
const JOINS: Duration = Duration::from_secs(2);
/// A link that was left is kept for its answers no longer than this. Its node closes it when it has
/// given them, and may take as long: that is no sign that the move went wrong.
const LINGER: Duration = GO_AWAY_DEADLINE;

/// A link that is left as soon as its answers are there.
#[derive(Debug)]
pub(in crate::session) struct Old {
    online: Box<Online>,
    /// When it is left, or, after BYE, dropped.
    until: Instant,
    /// Until then the groups are waited for.
    joins_until: Option<Instant>,
    is_said: bool,
}

impl Old {
    pub(super) fn new(online: Box<Online>, now: Instant) -> Self {
        Self { online, until: now + LINGER, joins_until: Some(now + JOINS), is_said: false }
    }

    pub(super) fn wake_at(&self) -> Instant {
        let ping_at = (!self.is_said).then(|| self.online.idle_at());
        [self.joins_until, ping_at].into_iter().flatten().fold(self.until, Instant::min)
    }
}

impl Session {
    pub(super) fn old_heard(&mut self, heard: Heard, now: Instant, out: &mut Vec<Action>) {
        let Some(Old { online, .. }) = &self.old else { return };
        let frame = match heard {
            Heard::Frame(raw) => NodeFrame::parse(raw),
            Heard::Broken(_) | Heard::Ended(_) => return self.old_gone(now, out),
        };
        match frame {
            Ok(NodeFrame::Response(response, body)) => {
                let id = response.request_id;
                if self.calls.finish_behind(id) {
                    out.push(Action::Answer(id, online::answer(response, body)));
                }
            }
            Ok(NodeFrame::Push(push, body)) => {
                let Some(name) = online.name(push.business).cloned() else { return };
                let push = online::device_push(push, body);
                // With a position it comes again on the new link.
                if push.position.is_none() {
                    out.push(Action::Push(name, push));
                }
            }
            Ok(NodeFrame::GroupPush(push, body)) => {
                let Some(name) = online.name(push.business).cloned() else { return };
                let at = Position::new(push.term, push.seq);
                let place = Place { at, prev: Position::new(push.prev_term, push.prev_seq) };
                let push = online::group_push(push, body);
                self.with_groups(out, |groups, outcomes| {
                    groups.push_behind(&name, place, push, outcomes);
                });
            }
            Ok(NodeFrame::Left(left)) => {
                self.last_id += 1;
                let id = self.last_id;
                self.with_groups(out, |groups, outcomes| groups.left_behind(left, id, outcomes));
                self.pump(now, out);
            }
            Ok(NodeFrame::Close(_)) | Err(_) => return self.old_gone(now, out),
            Ok(
                NodeFrame::LoginOk(_)
                | NodeFrame::Ignored(_)
                | NodeFrame::Pong(_)
                | NodeFrame::GoAway(_)
                | NodeFrame::Refreshed(_)
                | NodeFrame::Joined(_)
                | NodeFrame::Gap(_)
                | NodeFrame::Missed(_)
                | NodeFrame::GroupReset(_),
            ) => {}
        }
        self.leave_old(now, out);
    }

    /// Says BYE when nothing is owed any more.
    pub(in crate::session) fn leave_old(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(old @ Old { is_said: false, .. }) = &mut self.old else { return };
        if self.groups.is_joined() {
            old.joins_until = None;
        }
        old.joins_until.take_if(|at| *at <= now);
        let is_owed = old.joins_until.is_some() || !self.calls.is_quiet_behind();
        if is_owed && old.until > now {
            return;
        }
        (old.is_said, old.joins_until) = (true, None);
        old.until = now + LEAVE_TIMEOUT;
        let bye = params::Close { code: 4000, ..params::Close::default() };
        out.push(Action::SendBeside(DeviceFrame::Bye(bye).encode()));
        self.fail_behind(out);
    }

    pub(super) fn old_due(&mut self, now: Instant, out: &mut Vec<Action>) {
        match self.old {
            Some(Old { is_said: true, until, .. }) if until <= now => self.old_gone(now, out),
            Some(_) => self.leave_old(now, out),
            None => {}
        }
        // Its node would close a silent link before it has answered.
        if let Some(Old { online, is_said: false, .. }) = &mut self.old
            && online.idle_at() <= now
        {
            online.last_sent = now;
            let ping = DeviceFrame::Ping(params::Ping { nonce: 0 });
            out.push(Action::SendBeside(ping.encode()));
        }
    }

    /// Another move begins before the old link of the last one is gone.
    pub(super) fn drop_old(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.old.is_some() {
            self.old_gone(now, out);
        }
    }

    fn old_gone(&mut self, now: Instant, out: &mut Vec<Action>) {
        out.push(Action::HangUpBeside);
        self.old = None;
        self.fail_behind(out);
        self.groups.settled(now);
    }
}
