//! The device's side as a pure machine: events and times in, actions out. No socket, no task, no
//! clock; [`crate::driver`] brings those.
//!
//! ```text
//!            ┌───────────────────────────── wait over ──────────────────────────┐
//!            ▼                                                                  │
//! Idle ─► Asking ─► Dialling ─► LoggingIn ─► Online ─── ended: now, later, ─► Waiting
//!            │  ▲      │  ▲         │  │        │       elsewhere, new token
//!            │  └──────┘  └─────────┘  │        └ stop ─► Leaving ─► Closed
//!            │   the next access point │
//!            └─────────────────────────┴── refused, ended: never; stop ─► Closed
//! ```
//!
//! A node that will close has the session move while it is online: see [`moving`].

pub(crate) mod calls;
mod connecting;
mod event;
pub(crate) mod groups;
pub(crate) mod inbox;
mod moving;
mod online;
mod route;
#[cfg(test)]
mod tests;
mod ticket;

pub use event::{Action, Event, Refusal, Setup};

use crate::advice::{AccessPoint, Advice, Token};
use crate::backoff::Backoff;
use crate::business::GroupError;
use crate::request::RequestError;
use crate::state::{Reason, State as Seen};
use crate::storage::Installation;
use calls::Calls;
use groups::{Groups, Outcome};
use hawser_proto::code::Retry;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::params;
use inbox::Inboxes;
use moving::{Going, Old};
use online::Online;
use route::Route;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ticket::Ticket;

/// The optional features this device understands.
pub(crate) const DEVICE_ABILITIES: u32 =
    ability::INBOX | ability::HISTORY | ability::GO_AWAY | ability::RESUME | ability::ZSTD;
/// One access call, with all its waiting.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// One access point: name look-up, connect, handshake and upgrade. Then the next one is tried.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// From LOGIN to its answer.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// From BYE to the node's goodbye.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A session that held this long was a good one: what failed before it is forgotten.
const HELD: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum State {
    Idle,
    Asking {
        until: Instant,
    },
    Dialling {
        point: AccessPoint,
        until: Instant,
    },
    LoggingIn {
        point: AccessPoint,
        until: Instant,
    },
    Online(Box<Online>),
    Waiting {
        until: Instant,
    },
    /// `is_said`: BYE is written. Before it come the cursors that were not kept yet.
    Leaving {
        until: Instant,
        is_said: bool,
    },
    Closed,
}

/// One device's session, over all its connections.
#[derive(Debug)]
pub struct Session {
    setup: Arc<Setup>,
    installation: Installation,
    state: State,
    advice: Option<Advice>,
    /// The next connect begins at control, even if the token looks good.
    must_ask: bool,
    /// The node wants another token than this one.
    token_refused: bool,
    /// It already wanted another one, and no session has held since.
    token_strike: bool,
    /// Why the last try failed.
    last: Reason,
    route: Route,
    backoff: Backoff,
    calls: Calls,
    groups: Groups,
    inboxes: Inboxes,
    ticket: Ticket,
    /// Where the last CLOSE said to go.
    named: Vec<AccessPoint>,
    /// While online: the move that the node asked for.
    going: Option<Going>,
    /// While online: the link that the last move has left.
    old: Option<Old>,
    /// When the last two moves began, the newest first.
    moves: [Option<Instant>; 2],
    last_id: u64,
}

impl Session {
    /// Idle. `inboxes`: those of the session before it in this process, or what was kept.
    pub fn new(setup: Arc<Setup>, installation: Installation, inboxes: Inboxes, seed: u64) -> Self {
        Self {
            backoff: Backoff::new(setup.backoff, seed),
            setup,
            installation,
            state: State::Idle,
            advice: None,
            must_ask: false,
            token_refused: false,
            token_strike: false,
            last: Reason::LinkLost,
            route: Route::default(),
            calls: Calls::default(),
            groups: Groups::default(),
            inboxes,
            ticket: Ticket::default(),
            named: Vec::new(),
            going: None,
            old: None,
            moves: [None; 2],
            last_id: 0,
        }
    }

    /// An id for a call that is handed in next.
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Seed of the device key in the installation.
    pub fn device_key(&self) -> Option<[u8; 32]> {
        self.installation.device_key
    }

    /// What the next session of this process goes on with.
    pub fn into_inboxes(mut self, now: Instant) -> Inboxes {
        self.inboxes.settle(now);
        self.inboxes
    }

    /// Decides; touches nothing.
    #[allow(clippy::match_same_arms, reason = "every pair is written out where it belongs")]
    pub fn handle(&mut self, event: Event, now: Instant, out: &mut Vec<Action>) {
        use Event as E;
        use State as S;
        match (&self.state, event) {
            (S::Idle, E::Start) => self.start(now, out),
            (
                S::Idle
                | S::Asking { .. }
                | S::Dialling { .. }
                | S::LoggingIn { .. }
                | S::Waiting { .. },
                E::Stop,
            ) => self.close(Reason::Asked, now, out),
            (S::Online(_), E::Stop) => self.leave(now, out),

            (S::Asking { .. }, E::Advised(Ok(advice))) => self.advised(advice, now, out),
            (S::Asking { .. }, E::Advised(Err(refusal))) => self.refused(refusal, now, out),
            (S::Dialling { .. }, E::Dialled(Ok(()))) => self.log_in(now, out),
            (S::Dialling { .. }, E::Dialled(Err(failure))) => {
                self.try_next(Reason::Unreachable(failure), now, out);
            }

            (S::LoggingIn { .. }, E::Frame(raw)) => self.login_frame(raw, now, out),
            (S::Online(_), E::Frame(raw)) => self.frame(raw, now, out),
            (S::LoggingIn { .. } | S::Online(_), E::Broken(bad)) => {
                self.lost(Reason::BadFrame(bad.to_string()), Duration::ZERO, now, out);
            }
            (S::LoggingIn { .. } | S::Online(_), E::Ended(None)) => {
                self.lost(Reason::LinkLost, Duration::ZERO, now, out);
            }
            (S::LoggingIn { .. } | S::Online(_), E::Ended(Some(number))) => {
                let reason = Reason::Code { number, message: String::new() };
                self.lost(reason, Duration::ZERO, now, out);
            }
            (S::Leaving { .. }, E::Frame(raw)) => {
                if matches!(NodeFrame::parse(raw), Ok(NodeFrame::Close(_)) | Err(_)) {
                    self.close(Reason::Asked, now, out);
                }
            }
            (S::Leaving { .. }, E::Broken(_) | E::Ended(_)) => self.close(Reason::Asked, now, out),

            (S::Online(_), E::Advised(answer)) => self.move_advised(answer, now, out),
            (S::Online(_), E::Dialled(dialled)) => self.move_dialled(&dialled, now, out),
            (S::Online(_), E::Beside(heard)) => self.beside(heard, now, out),

            // In every state: the app and the storage go on whatever the link does.
            (
                S::Idle
                | S::Asking { .. }
                | S::Dialling { .. }
                | S::LoggingIn { .. }
                | S::Online(_)
                | S::Waiting { .. }
                | S::Leaving { .. }
                | S::Closed,
                E::Handled(business, number),
            ) => self.with_inboxes(now, out, |it, out| it.handled(&business, number, now, out)),
            (S::Leaving { .. }, E::Kept(is_ok)) => {
                self.with_inboxes(now, out, |it, out| it.kept(is_ok, now, out));
                self.say_goodbye(now, out);
            }
            (
                S::Idle
                | S::Asking { .. }
                | S::Dialling { .. }
                | S::LoggingIn { .. }
                | S::Online(_)
                | S::Waiting { .. }
                | S::Closed,
                E::Kept(is_ok),
            ) => self.with_inboxes(now, out, |it, out| it.kept(is_ok, now, out)),

            (
                S::Idle
                | S::Asking { .. }
                | S::Dialling { .. }
                | S::LoggingIn { .. }
                | S::Online(_)
                | S::Waiting { .. }
                | S::Leaving { .. }
                | S::Closed,
                E::Due,
            ) => self.due(now, out),

            (S::Leaving { .. } | S::Closed, E::Request(id, _)) => {
                out.push(Action::Answer(id, Err(RequestError::Closed)));
            }
            (S::Leaving { .. } | S::Closed, E::Join(id, ..) | E::Leave(id, ..)) => {
                out.push(Action::Grouped(id, Err(GroupError::Closed)));
            }
            (
                S::Idle
                | S::Asking { .. }
                | S::Dialling { .. }
                | S::LoggingIn { .. }
                | S::Online(_)
                | S::Waiting { .. },
                event @ (E::Request(..) | E::Join(..) | E::Leave(..)),
            ) => self.call(event, now, out),

            // Told twice, or word of something that was given up in the meantime.
            (
                S::Asking { .. }
                | S::Dialling { .. }
                | S::LoggingIn { .. }
                | S::Online(_)
                | S::Waiting { .. }
                | S::Leaving { .. }
                | S::Closed,
                E::Start,
            )
            | (S::Leaving { .. } | S::Closed, E::Stop)
            | (
                S::Idle
                | S::Dialling { .. }
                | S::LoggingIn { .. }
                | S::Waiting { .. }
                | S::Leaving { .. }
                | S::Closed,
                E::Advised(_),
            )
            | (
                S::Idle
                | S::Asking { .. }
                | S::LoggingIn { .. }
                | S::Waiting { .. }
                | S::Leaving { .. }
                | S::Closed,
                E::Dialled(_),
            )
            | (
                S::Idle
                | S::Asking { .. }
                | S::Dialling { .. }
                | S::LoggingIn { .. }
                | S::Waiting { .. }
                | S::Leaving { .. }
                | S::Closed,
                E::Beside(_),
            )
            | (
                S::Idle | S::Asking { .. } | S::Dialling { .. } | S::Waiting { .. } | S::Closed,
                E::Frame(_) | E::Broken(_) | E::Ended(_),
            ) => {}
        }
    }

    /// When [`Event::Due`] is wanted next.
    pub fn wake_at(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Idle | State::Closed => None,
            State::Asking { until }
            | State::Dialling { until, .. }
            | State::LoggingIn { until, .. }
            | State::Waiting { until }
            | State::Leaving { until, .. } => Some(*until),
            State::Online(online) => Some(online.wake_at()),
        };
        let inboxes = self.inboxes.wake_at().filter(|_| !matches!(self.state, State::Closed));
        let moving = self.moving_wake_at();
        let all = [own, self.calls.wake_at(), self.groups.wake_at(), inboxes, moving];
        all.into_iter().flatten().min()
    }

    fn closed_by_node(&mut self, close: params::Close, now: Instant, out: &mut Vec<Action>) {
        let number = u16::try_from(close.code).unwrap_or(0);
        let reason = Reason::Code { number, message: close.reason };
        self.named = self.named(close.alternatives);
        self.lost(reason, Duration::from_millis(u64::from(close.retry_after_ms)), now, out);
    }

    /// The link in use is over, and its end said why.
    fn lost(&mut self, reason: Reason, told: Duration, now: Instant, out: &mut Vec<Action>) {
        let named = std::mem::take(&mut self.named);
        if self.falls_forward(&reason, now, out) {
            return;
        }
        let is_own_login = self.is_own_login(&reason);
        self.end_move(now, out);
        out.push(Action::HangUp);
        let Some((point, was_online)) = self.link_over(now, out) else { return };
        let retry = if is_own_login { Retry::Now } else { reason.retry() };
        match retry {
            Retry::Never => return self.close(reason, now, out),
            Retry::NewToken if !was_online && self.ticket.is_to_blame() => {
                return self.dial(point, now, out);
            }
            Retry::NewToken if self.setup.pinned.is_some() => {
                return self.close(reason, now, out);
            }
            Retry::NewToken => {
                self.token_refused = true;
                self.ticket.forget();
            }
            // The point that worked is tried first; one that gave no login, after the others.
            Retry::Now | Retry::Later => {
                if was_online || matches!(reason, Reason::Code { .. }) {
                    self.route.restart(Some(&point), now);
                }
                self.route.prefer(&named, point.protocol, now);
            }
            Retry::Elsewhere => {
                let like = point.protocol;
                self.route.avoid(point, told, now);
                self.route.prefer(&named, like, now);
                let is_over = self.route.is_over();
                if was_online || is_over {
                    self.route.restart(None, now);
                    self.route.prefer(&named, like, now);
                }
                if !self.route.has_better(now) || (is_over && !was_online) {
                    self.must_ask = true;
                    let retry_in = self.backoff.later(told);
                    return self.wait(reason, retry, retry_in, now, out);
                }
                if !was_online {
                    self.last = reason;
                    return self.dial_next(now, out);
                }
            }
        }
        if self.route.is_over() {
            self.must_ask = true;
            self.route.restart(None, now);
        }
        let retry_in = match retry {
            Retry::Later => self.backoff.later(told),
            // The first time at once: nobody else has lost this token. Then something is wrong with
            // the tokens that control gives.
            Retry::NewToken if !std::mem::replace(&mut self.token_strike, true) => told,
            Retry::NewToken => told + self.backoff.failed(),
            // Another node does not count the time that this one told.
            Retry::Elsewhere => self.backoff.now(Duration::ZERO),
            Retry::Now | Retry::Never => self.backoff.now(told),
        };
        self.wait(reason, retry, retry_in, now, out);
    }

    /// What ends with the link in use. Its point, and whether it was logged in there.
    fn link_over(&mut self, now: Instant, out: &mut Vec<Action>) -> Option<(AccessPoint, bool)> {
        let over = match std::mem::replace(&mut self.state, State::Idle) {
            State::LoggingIn { point, .. } => (point, false),
            State::Online(online) => {
                if now >= online.since + HELD {
                    self.backoff.reset();
                    self.token_strike = false;
                }
                (online.point, true)
            }
            State::Idle
            | State::Asking { .. }
            | State::Dialling { .. }
            | State::Waiting { .. }
            | State::Leaving { .. }
            | State::Closed => return None,
        };
        let lost = self.calls.take_in_flight();
        out.extend(
            lost.into_iter().map(|id| Action::Answer(id, Err(RequestError::ConnectionLost))),
        );
        self.with_groups(out, Groups::offline);
        self.inboxes.offline();
        Some(over)
    }

    fn wait(
        &mut self,
        reason: Reason,
        retry: Retry,
        retry_in: Duration,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.state = State::Waiting { until: now + retry_in };
        out.push(Action::Tell(Seen::Offline { reason, retry, retry_in }));
    }

    fn leave(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.end_move(now, out);
        self.state = State::Leaving { until: now + LEAVE_TIMEOUT, is_said: false };
        self.say_goodbye(now, out);
        self.end_calls(out);
    }

    /// Keeps what the app has handled, acknowledges it, and then says BYE.
    fn say_goodbye(&mut self, now: Instant, out: &mut Vec<Action>) {
        let State::Leaving { is_said: is_said @ false, .. } = &mut self.state else { return };
        if self.inboxes.flush(now, out) {
            return;
        }
        *is_said = true;
        self.inboxes.offline();
        let bye = params::Close { code: 4000, ..params::Close::default() };
        out.push(Action::Send(DeviceFrame::Bye(bye).encode()));
    }

    fn close(&mut self, reason: Reason, now: Instant, out: &mut Vec<Action>) {
        self.end_move(now, out);
        self.ticket.forget();
        out.push(Action::HangUp);
        self.end_calls(out);
        self.inboxes.offline();
        self.inboxes.flush(now, out);
        self.state = State::Closed;
        out.push(Action::Tell(Seen::Closed { code: reason.close_code(), reason }));
    }

    fn end_calls(&mut self, out: &mut Vec<Action>) {
        let open = self.calls.take_all();
        out.extend(open.into_iter().map(|id| Action::Answer(id, Err(RequestError::Closed))));
        self.with_groups(out, Groups::close);
    }

    fn due(&mut self, now: Instant, out: &mut Vec<Action>) {
        let over = self.calls.expire(now);
        let late = |id| Action::Answer(id, Err(RequestError::DeadlineExceeded));
        out.extend(over.into_iter().map(late));
        self.with_groups(out, |groups, outcomes| groups.expire(now, outcomes));
        self.with_inboxes(now, out, |inboxes, out| inboxes.due(now, out));
        match &self.state {
            State::Asking { until } if *until <= now => {
                out.push(Action::HangUp);
                let reason = Reason::ControlUnreachable("no answer in time".to_owned());
                let refusal = Refusal { reason, retry: Retry::Later, retry_after: Duration::ZERO };
                self.refused(refusal, now, out);
            }
            State::Dialling { point, until } if *until <= now => {
                let reason = Reason::Unreachable(format!("{point}: not reached in time"));
                self.try_next(reason, now, out);
            }
            State::LoggingIn { until, .. } if *until <= now => {
                self.lost(Reason::LoginTimeout, Duration::ZERO, now, out);
            }
            State::Waiting { until } if *until <= now => self.connect(now, out),
            State::Leaving { until, .. } if *until <= now => self.close(Reason::Asked, now, out),
            State::Online(_) => {
                self.moving_due(now, out);
                self.online_due(now, out);
            }
            State::Idle
            | State::Closed
            | State::Asking { .. }
            | State::Dialling { .. }
            | State::LoggingIn { .. }
            | State::Waiting { .. }
            | State::Leaving { .. } => {}
        }
    }

    fn call(&mut self, event: Event, now: Instant, out: &mut Vec<Action>) {
        let is_online = matches!(self.state, State::Online(_));
        match event {
            Event::Request(id, ask) => {
                if let Err(full) = self.calls.push(id, ask) {
                    out.push(Action::Answer(id, Err(full)));
                }
            }
            Event::Join(id, business, group, deadline) => {
                self.with_groups(out, |groups, outcomes| {
                    outcomes.extend(groups.join(id, &business, &group, deadline));
                });
            }
            Event::Leave(id, group, deadline) => self.with_groups(out, |groups, outcomes| {
                groups.leave(id, &group, deadline, is_online, outcomes);
            }),
            Event::Start
            | Event::Stop
            | Event::Advised(_)
            | Event::Dialled(_)
            | Event::Frame(_)
            | Event::Broken(_)
            | Event::Ended(_)
            | Event::Beside(_)
            | Event::Due
            | Event::Handled(..)
            | Event::Kept(_) => {}
        }
        self.pump(now, out);
    }

    fn with_groups(
        &mut self,
        out: &mut Vec<Action>,
        change: impl FnOnce(&mut Groups, &mut Vec<Outcome>),
    ) {
        let mut outcomes = Vec::new();
        change(&mut self.groups, &mut outcomes);
        out.extend(outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Answer(id, answer) => Action::Grouped(id, answer),
            Outcome::Left(business, left) => Action::Left(business, left),
            Outcome::Push(business, push) => Action::Push(business, push),
            Outcome::Reset(business, reset) => Action::Reset(business, reset),
            Outcome::Recover(recover) => Action::Send(DeviceFrame::Recover(recover).encode()),
        }));
    }

    fn with_inboxes(
        &mut self,
        now: Instant,
        out: &mut Vec<Action>,
        change: impl FnOnce(&mut Inboxes, &mut Vec<Action>),
    ) {
        let before = out.len();
        change(&mut self.inboxes, out);
        if let State::Online(online) = &mut self.state
            && out[before..].iter().any(|action| matches!(action, Action::Send(_)))
        {
            online.last_sent = now;
        }
    }

    fn token(&self) -> Option<&Token> {
        self.advice.as_ref().map(|advice| &advice.token)
    }

    fn token_mut(&mut self) -> Option<&mut Token> {
        self.advice.as_mut().map(|advice| &mut advice.token)
    }
}
