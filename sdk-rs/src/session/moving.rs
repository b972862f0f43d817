//! Make before break: GO_AWAY has this session log in elsewhere while the link it is told on stays in
//! use, and leave that one when the new one stands.
//!
//! ```text
//!          GO_AWAY                    dialled     nothing in flight,      LOGIN_OK
//! Online ──────────► Waiting ─► Dialling ─► Settling ─ or 1 s ─► LoggingIn ─────────► Online, with
//!                     ▲  ▲ │       │  ▲                              │                 the old link
//!                     │  │ └► Asking ─┘                              │                 beside it
//!                     │  └─────────┴── a round is over ──────────────┘
//!                     └ the deadline: GivenUp, and the link is used until the node closes it
//! ```
//!
//! **Nothing is lost.** What carries a position is taken from one link only: from the old one up to
//! LOGIN_OK, then from the new one, which goes on from the cursors that its LOGIN named. What was
//! written on the old link is still answered there; nothing new is written on it. A volatile push
//! counts whichever link brings it; one to a live group may come on both, and is handed over once
//! (`groups/echo.rs`).
//!
//! **Requests.** The node of the old link closes it (`superseded`) when the new login has won, at once or
//! after the answers that it owes. So before that LOGIN is written, requests in flight get a second for
//! their answers, and new ones wait; and a link that was left is kept until it owes none.
//!
//! **Whose close is it?** `superseded` on the old link means this session's own login as soon as a LOGIN
//! of the move may have won, answered or not. If it was another's after all, that one is superseded in
//! its turn, and does not come back: no ping-pong.

mod behind;
mod step;

use super::{
    ASK_TIMEOUT, Action, DIAL_TIMEOUT, HELD, LOGIN_TIMEOUT, Refusal, Session, State, ability,
};
use crate::advice::{AccessPoint, Advice};
use crate::backoff::Backoff;
use crate::link::Heard;
use crate::request::RequestError;
use crate::state::{Reason, State as Seen};
pub(super) use behind::Old;
use hawser_proto::code::{CloseCode, Retry};
use hawser_proto::limits::ALTERNATIVES_MAX;
use hawser_proto::params;
use std::time::{Duration, Instant};

/// No node can have a device begin more than two moves within this time.
const TWO_MOVES: Duration = Duration::from_secs(10);
/// A shorter deadline is taken for this, so that there is one try at least.
const DEADLINE_MIN: Duration = Duration::from_secs(1);
const DEADLINE_MAX: Duration = Duration::from_mins(10);
/// Requests in flight get this long before the LOGIN; the node waits for it three times as long.
const SETTLE: Duration = Duration::from_secs(1);
/// New requests wait this long for the answer to that LOGIN, before they take the old link again.
const HOLD: Duration = Duration::from_secs(2);

/// A move that was asked for and is not done.
#[derive(Debug)]
pub(super) struct Going {
    stage: Stage,
    /// The node closes the link then.
    until: Instant,
    /// What it named.
    named: Vec<AccessPoint>,
    /// Between rounds.
    pace: Backoff,
    /// The longest time that a node or control told, in this round.
    told: Duration,
    /// Control was asked in this round.
    has_asked: bool,
    /// A LOGIN was written and never answered: it may have won.
    may_have_won: bool,
    /// Requests wait until then.
    hold_until: Option<Instant>,
}

#[derive(Debug)]
enum Stage {
    /// For the first round, or the next.
    Waiting {
        until: Instant,
    },
    Asking {
        until: Instant,
    },
    Dialling {
        point: AccessPoint,
        until: Instant,
    },
    /// The link is there, and requests on the old one are about to be answered.
    Settling {
        point: AccessPoint,
        until: Instant,
    },
    LoggingIn {
        point: AccessPoint,
        until: Instant,
        cursors: Vec<params::Cursor>,
    },
    /// Nothing was found in time.
    GivenUp,
}

impl Going {
    pub(super) fn holds_requests(&self) -> bool {
        self.hold_until.is_some()
    }

    #[cfg(test)]
    pub(super) fn name(&self) -> &'static str {
        match self.stage {
            Stage::Waiting { .. } => "moving: waiting",
            Stage::Asking { .. } => "moving: asking",
            Stage::Dialling { .. } => "moving: dialling",
            Stage::Settling { .. } => "moving: settling",
            Stage::LoggingIn { .. } => "moving: logging in",
            Stage::GivenUp => "moving: given up",
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let stage = match &self.stage {
            Stage::GivenUp => None,
            Stage::Waiting { until }
            | Stage::Asking { until }
            | Stage::Dialling { until, .. }
            | Stage::Settling { until, .. }
            | Stage::LoggingIn { until, .. } => Some(*until),
        };
        [stage, self.hold_until].into_iter().flatten().min()
    }
}

impl Session {
    /// GO_AWAY.
    pub(super) fn go_away(&mut self, told: params::GoAway, now: Instant, out: &mut Vec<Action>) {
        let State::Online(online) = &self.state else { return };
        if online.abilities & ability::GO_AWAY == 0 {
            return;
        }
        let deadline = Duration::from_millis(u64::from(told.deadline_ms));
        let until = now + deadline.clamp(DEADLINE_MIN, DEADLINE_MAX);
        let named = self.named(told.alternatives);
        let may_have_won = match &mut self.going {
            None => false,
            // The word that it had won may come late.
            Some(Going { stage: Stage::GivenUp, may_have_won, .. }) => *may_have_won,
            Some(going) => {
                // Said again: it is the same move.
                going.until = going.until.min(until);
                if !named.is_empty() {
                    going.named = named;
                }
                return;
            }
        };
        let mut pace = self.backoff.clone();
        pace.reset();
        let [last, before] = self.moves;
        let mut at = before.map_or(now, |at| now.max(at + TWO_MOVES));
        if !self.calls.is_quiet_behind() {
            // The link of the last move, which this one drops, still owes answers.
            at = at.max(now + (until - now) / 3);
        }
        self.moves = [Some(at), last];
        self.going = Some(Going {
            stage: Stage::Waiting { until: at },
            until,
            named,
            pace,
            told: Duration::ZERO,
            has_asked: false,
            may_have_won,
            hold_until: None,
        });
        if at <= now {
            self.next_round(now, out);
        }
    }

    /// Access points that a node named, as far as this client may dial them.
    pub(super) fn named(&self, told: Vec<params::AccessPoint>) -> Vec<AccessPoint> {
        let wanted = &self.setup.protocols;
        let may_dial = |point: &AccessPoint| wanted.is_empty() || wanted.contains(&point.protocol);
        let points = told.into_iter().filter_map(AccessPoint::named).filter(may_dial);
        points.take(ALTERNATIVES_MAX).collect()
    }

    pub(super) fn moving_wake_at(&self) -> Option<Instant> {
        let going = self.going.as_ref().and_then(Going::wake_at);
        let old = self.old.as_ref().map(Old::wake_at);
        [going, old].into_iter().flatten().min()
    }

    /// The clocks of a move.
    pub(super) fn moving_due(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.old_due(now, out);
        let Some(going) = &mut self.going else { return };
        going.hold_until.take_if(|until| *until <= now);
        match &going.stage {
            Stage::Waiting { until } if *until <= now => self.next_round(now, out),
            Stage::Asking { until } if *until <= now => {
                out.push(Action::HangUpBeside);
                self.next_point(now, out);
            }
            Stage::Dialling { until, .. } if *until <= now => self.beside_failed(now, out),
            Stage::Settling { until, .. } if *until <= now => self.move_log_in(now, out),
            Stage::LoggingIn { until, .. } if *until <= now => self.beside_failed(now, out),
            Stage::Waiting { .. }
            | Stage::Asking { .. }
            | Stage::Dialling { .. }
            | Stage::Settling { .. }
            | Stage::LoggingIn { .. }
            | Stage::GivenUp => {}
        }
        self.move_if_quiet(now, out);
    }

    /// [`super::Event::Beside`].
    pub(super) fn beside(&mut self, heard: Heard, now: Instant, out: &mut Vec<Action>) {
        if self.old.is_some() {
            return self.old_heard(heard, now, out);
        }
        self.new_heard(heard, now, out);
        self.pump(now, out);
    }

    /// The link in use has ended while a move is under way. True: the new one takes its place. The app
    /// hears of it only where it is not this session's login that ended it.
    pub(super) fn falls_forward(
        &mut self,
        reason: &Reason,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        let is_own = self.is_own_login(reason);
        let retry = if is_own { Retry::Now } else { reason.retry() };
        if matches!(retry, Retry::Never | Retry::NewToken) {
            return false;
        }
        let Some(going) = self.going.take() else { return false };
        let (point, until, cursors) = match going.stage {
            Stage::Settling { point, .. } => (point, None, Vec::new()),
            Stage::LoggingIn { point, until, cursors } => (point, Some(until), cursors),
            Stage::Waiting { .. }
            | Stage::Asking { .. }
            | Stage::Dialling { .. }
            | Stage::GivenUp => {
                self.going = Some(going);
                return false;
            }
        };
        if !is_own {
            out.push(Action::Tell(Seen::Connecting));
        }
        out.push(Action::Swap);
        out.push(Action::HangUpBeside);
        self.link_over(now, out);
        self.groups.settled(now);
        if let Some(until) = until {
            self.inboxes.logging_in(&cursors);
            self.state = State::LoggingIn { point, until };
        } else {
            self.state = State::Dialling { point, until: now + DIAL_TIMEOUT };
            self.log_in(now, out);
        }
        true
    }

    /// Whether `superseded` on the link in use speaks of this session's own login.
    pub(super) fn is_own_login(&self, reason: &Reason) -> bool {
        let may_have_won =
            |going: &Going| going.may_have_won || matches!(going.stage, Stage::LoggingIn { .. });
        reason.close_code() == Some(CloseCode::Superseded)
            && self.going.as_ref().is_some_and(may_have_won)
    }

    /// Whatever was beside the link in use is over, with it.
    pub(super) fn end_move(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.going.take().is_none() && self.old.is_none() {
            return;
        }
        out.push(Action::HangUpBeside);
        self.old = None;
        self.fail_behind(out);
        self.groups.settled(now);
    }

    fn give_up(&mut self, now: Instant) {
        if let Some(going) = &mut self.going {
            going.stage = Stage::GivenUp;
            going.hold_until = None;
        }
        self.groups.settled(now);
    }

    /// Answers what was left behind: it cannot be answered any more.
    fn fail_behind(&mut self, out: &mut Vec<Action>) {
        let lost = self.calls.take_behind().into_iter();
        out.extend(lost.map(|id| Action::Answer(id, Err(RequestError::ConnectionLost))));
    }
}
