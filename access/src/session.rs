//! The session machine: what a frame, a verdict or an order means now. Pure: no socket, no clock, no
//! task, and no idea which transport the device dialled over. `conn` feeds it and does what it says.

mod state;

use crate::reader::Malformed;
use crate::table::Signal;
use bytes::Bytes;
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::codec::FrameError;
use hawser_proto::frame::{DeviceFrame, Kind, ability};
use hawser_proto::limits::LOGIN_FRAME_BYTES_MAX;
use hawser_proto::params;
use state::{Input, Reaction, State};

/// What can happen to a session.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "moved into the session at once, never stored")]
pub enum Event {
    /// The device sent a frame.
    Frame(DeviceFrame),
    /// The device sent bytes that are none.
    Malformed(Malformed),
    /// The login holds and the router has claimed the device for this connection.
    Bound {
        /// The app's limit.
        frame_bytes_max: usize,
        /// Those in force from here on.
        abilities: u32,
    },
    /// The login does not hold.
    Refused(CloseCode, String),
    /// A deadline passed, or someone wants the session to end.
    Signal(Signal),
    /// The device said goodbye in its transport's way.
    Goodbye,
    /// The link is over.
    Ended,
}

/// What `conn` does about it: exactly one thing per event.
#[derive(Debug)]
pub enum Action {
    /// Go on.
    Nothing,
    /// Check the login and claim the device; answer with `Bound` or `Refused`.
    Authenticate(Box<params::Login>),
    /// The session is there.
    Admit,
    /// Answer a PING.
    Pong {
        /// Of the PING.
        nonce: u64,
    },
    /// Get a new token.
    Refresh {
        /// Of the REFRESH.
        request_id: u64,
    },
    /// Hand the request to its business.
    Forward(params::Request, Bytes),
    /// Take the device into a group.
    Join(params::Join),
    /// Take it out.
    Leave(params::Leave),
    /// Stored pushes were handled up to here.
    Ack(params::Ack),
    /// Stored pushes again, from here on.
    Resync(params::Resync),
    /// A group's history again, from here on.
    Recover(params::Recover),
    /// Answer the request with this error, and go on.
    RefuseRequest {
        /// Of the REQUEST.
        request_id: u64,
        /// Why.
        code: ErrorCode,
    },
    /// Say GO_AWAY, and see to its deadline.
    GoAway,
    /// Wait for what is in flight, then close with `draining`.
    Drain,
    /// The device has logged in elsewhere: the session is over here. Close once what is in flight is answered.
    Detach,
    /// Say goodbye with this code, and end.
    Close {
        /// Why.
        code: CloseCode,
        /// For people.
        reason: String,
    },
    /// Nobody is there to say goodbye to.
    Vanish,
}

/// One session, from accept to close.
#[derive(Debug)]
pub struct Session {
    state: State,
    frame_bytes_max: u32,
    /// Those in force: none before the login.
    abilities: u32,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A link that has just come in.
    pub fn new() -> Self {
        Self {
            state: State::AwaitLogin,
            frame_bytes_max: LOGIN_FRAME_BYTES_MAX as u32,
            abilities: 0,
        }
    }

    /// Limit of the next frame, in bytes.
    pub fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max as usize
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// The code it was closed with; none while it lives, or when the link just ended.
    pub fn cause(&self) -> Option<CloseCode> {
        match self.state {
            State::Closed(cause) => cause,
            State::AwaitLogin
            | State::Binding
            | State::Active
            | State::Leaving
            | State::Draining
            | State::Moved => None,
        }
    }

    /// Decides; touches nothing.
    pub fn handle(&mut self, event: Event) -> Action {
        match event {
            Event::Frame(frame) => self.on_frame(frame),
            Event::Malformed(malformed) => {
                self.close_by(Input::Malformed(malformed.code), &malformed.reason)
            }
            Event::Bound { frame_bytes_max, abilities } => match self.state.on(Input::Bound) {
                Reaction::Admit => {
                    self.frame_bytes_max = frame_bytes_max as u32;
                    self.abilities = abilities;
                    Action::Admit
                }
                other => plain(other, ""),
            },
            Event::Refused(code, reason) => self.close_by(Input::Refused(code), &reason),
            Event::Signal(Signal::Drain) if self.has(ability::GO_AWAY) => {
                plain(self.state.on(Input::GoAway), "")
            }
            Event::Signal(Signal::Drain | Signal::LeaveBy) => {
                plain(self.state.on(Input::Drain), "")
            }
            Event::Signal(signal) => {
                let (code, reason) = match signal {
                    Signal::LoginDeadline => (CloseCode::LoginTimeout, String::new()),
                    Signal::Idle => (CloseCode::IdleTimeout, String::new()),
                    Signal::Slow => (CloseCode::SlowDevice, String::new()),
                    Signal::TokenExpired => (CloseCode::TokenExpired, String::new()),
                    Signal::Ordered(code, reason) => (code, reason),
                    // Taken by the arms above.
                    Signal::Drain | Signal::LeaveBy => (CloseCode::Draining, String::new()),
                };
                self.close_by(Input::Ordered(code), &reason)
            }
            // Fine in every state, as the end of a TCP stream is.
            Event::Goodbye => plain(self.state.on(Input::Ordered(CloseCode::Goodbye)), ""),
            Event::Ended => plain(self.state.on(Input::Ended), ""),
        }
    }

    fn close_by(&mut self, input: Input, reason: &str) -> Action {
        plain(self.state.on(input), reason)
    }

    fn has(&self, ability: u32) -> bool {
        self.abilities & ability != 0
    }

    /// A kind whose ability is not in force is answered as by a node that does not have it.
    fn unknown(&mut self, kind: Kind) -> Action {
        let error = FrameError::Kind(kind as u8);
        self.close_by(Input::Malformed(error.close_code()), &error.to_string())
    }

    fn on_frame(&mut self, frame: DeviceFrame) -> Action {
        match frame {
            DeviceFrame::Login(login) => match self.state.on(Input::Login) {
                Reaction::Authenticate => Action::Authenticate(Box::new(login)),
                other => plain(other, ""),
            },
            DeviceFrame::Ping(ping) => match self.state.on(Input::Ping) {
                Reaction::Pong => Action::Pong { nonce: ping.nonce },
                other => plain(other, ""),
            },
            DeviceFrame::Refresh(refresh) => match self.state.on(Input::Refresh) {
                Reaction::Refresh => Action::Refresh { request_id: refresh.request_id },
                other => plain(other, ""),
            },
            DeviceFrame::Bye(_) => plain(self.state.on(Input::Bye), ""),
            DeviceFrame::Request(request, body) => match self.state.on(Input::Request) {
                Reaction::Forward => Action::Forward(request, body),
                Reaction::RefuseRequest => Action::RefuseRequest {
                    request_id: request.request_id,
                    code: ErrorCode::Unavailable,
                },
                other => plain(other, ""),
            },
            DeviceFrame::Join(join) => match self.state.on(Input::Join) {
                Reaction::Join => Action::Join(join),
                other => plain(other, ""),
            },
            DeviceFrame::Leave(leave) => match self.state.on(Input::Leave) {
                Reaction::Leave => Action::Leave(leave),
                other => plain(other, ""),
            },
            DeviceFrame::Ack(_) if !self.has(ability::INBOX) => self.unknown(Kind::Ack),
            DeviceFrame::Ack(ack) => match self.state.on(Input::Ack) {
                Reaction::Ack => Action::Ack(ack),
                other => plain(other, ""),
            },
            DeviceFrame::Resync(_) if !self.has(ability::INBOX) => self.unknown(Kind::Resync),
            DeviceFrame::Resync(resync) => match self.state.on(Input::Resync) {
                Reaction::Resync => Action::Resync(resync),
                other => plain(other, ""),
            },
            DeviceFrame::Recover(_) if !self.has(ability::HISTORY) => self.unknown(Kind::Recover),
            DeviceFrame::Recover(recover) => match self.state.on(Input::Recover) {
                Reaction::Recover => Action::Recover(recover),
                other => plain(other, ""),
            },
            DeviceFrame::Ignored(_) => plain(self.state.on(Input::Ignorable), ""),
        }
    }
}

/// Reactions that need nothing of the event. The others were taken by their events above; the state
/// table has no cell that pairs them differently, and a test walks all of it.
fn plain(reaction: Reaction, reason: &str) -> Action {
    match reaction {
        Reaction::Close(code) => {
            let reason =
                if reason.is_empty() { code.meaning().to_owned() } else { reason.to_owned() };
            Action::Close { code, reason }
        }
        Reaction::Vanish => Action::Vanish,
        Reaction::GoAway => Action::GoAway,
        Reaction::Drain => Action::Drain,
        Reaction::Detach => Action::Detach,
        Reaction::Nothing
        | Reaction::Authenticate
        | Reaction::Admit
        | Reaction::Pong
        | Reaction::Refresh
        | Reaction::Forward
        | Reaction::RefuseRequest
        | Reaction::Join
        | Reaction::Leave
        | Reaction::Ack
        | Reaction::Resync
        | Reaction::Recover => Action::Nothing,
    }
}
