//! What the app sees of its connection: a state, and the reason of the last end.

use crate::advice::Protocol;
use hawser_proto::code::{CloseCode, ErrorCode, Retry, retry_of};
use std::fmt;
use std::time::Duration;

/// Where a client stands. Read it with [`crate::Client::state`], watch it with
/// [`crate::Client::states`], or be called back by [`crate::Builder::on_state`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Not started.
    Idle,
    /// On its way: asking control, dialling or logging in.
    Connecting,
    /// Logged in. Told once more, with another epoch and connection and nothing in between, when the
    /// client has moved: an access node that goes away says so first, and is left when another one has
    /// taken the client in.
    Online {
        /// Session epoch of this device; grows with every login.
        epoch: u64,
        /// Text form of the connection id, for logs and support.
        connection: String,
        /// How it is connected.
        protocol: Protocol,
    },
    /// Not connected; the client comes back by itself.
    Offline {
        /// Why.
        reason: Reason,
        /// What it does about it.
        retry: Retry,
        /// When it tries again, counted from the change to this state.
        retry_in: Duration,
    },
    /// Not connected, and the client does not come back by itself.
    Closed {
        /// The close code that ended it, if it was one: `goodbye` after [`crate::Client::close`].
        code: Option<CloseCode>,
        /// Why.
        reason: Reason,
    },
}

impl State {
    /// Whether requests are being sent.
    pub fn is_online(&self) -> bool {
        matches!(self, Self::Online { .. })
    }

    /// Whether the client has ended for good.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Connecting => f.write_str("connecting"),
            Self::Online { epoch, connection, protocol } => {
                write!(f, "online over {protocol} as {connection}, epoch {epoch}")
            }
            Self::Offline { reason, retry, retry_in } => {
                write!(f, "offline: {reason}; retry {} in {retry_in:.1?}", retry.name())
            }
            Self::Closed { reason, .. } => write!(f, "closed: {reason}"),
        }
    }
}

/// Why a connection, or the try to make one, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The access node closed, with this code; also codes this release does not know.
    Code {
        /// The number, 4000 to 4499 for codes of WIRE.md.
        number: u16,
        /// What the node said to people; may be empty.
        message: String,
    },
    /// The link ended without a word.
    LinkLost,
    /// The link has been silent for longer than the access node ever is.
    Silent,
    /// What the access node sent is not the wire of WIRE.md.
    BadFrame(String),
    /// No access point could be reached; the last failure.
    Unreachable(String),
    /// The login was not answered in time.
    LoginTimeout,
    /// Control refused the access call.
    Refused {
        /// HTTP status.
        status: u16,
        /// The error, when it is one this release knows.
        code: Option<ErrorCode>,
        /// What control said to people; may be empty.
        message: String,
    },
    /// Control could not be reached, or its answer could not be used.
    ControlUnreachable(String),
    /// The proof of identity could not be had.
    NoProof(String),
    /// The installation or the cursors cannot be read from their storage, or the installation not be
    /// kept there at its making.
    Storage(String),
    /// The app asked for it, or dropped its last handle.
    Asked,
}

impl Reason {
    /// The close code, when an access node gave one that this release knows.
    pub fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Code { number, .. } => CloseCode::from_number(u32::from(*number)),
            Self::Asked => Some(CloseCode::Goodbye),
            _ => None,
        }
    }

    /// What a device does after a link that ended for this reason.
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Code { number, .. } => retry_of(*number),
            Self::LinkLost | Self::Silent | Self::LoginTimeout => Retry::Now,
            Self::BadFrame(_)
            | Self::Unreachable(_)
            | Self::Refused { .. }
            | Self::ControlUnreachable(_)
            | Self::NoProof(_) => Retry::Later,
            Self::Storage(_) | Self::Asked => Retry::Never,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = |f: &mut fmt::Formatter<'_>, message: &str| match message {
            "" => Ok(()),
            message => write!(f, " ({message})"),
        };
        match self {
            Self::Code { number, message } => {
                match CloseCode::from_number(u32::from(*number)) {
                    Some(code) => write!(f, "{code}")?,
                    None => write!(f, "close code {number}")?,
                }
                with(f, message)
            }
            Self::LinkLost => f.write_str("the link was lost"),
            Self::Silent => f.write_str("the link went silent"),
            Self::BadFrame(what) => write!(f, "the node sent a bad frame: {what}"),
            Self::Unreachable(what) => write!(f, "no access point was reached: {what}"),
            Self::LoginTimeout => f.write_str("the login was not answered in time"),
            Self::Refused { status, code, message } => {
                match code {
                    Some(code) => write!(f, "control refused: {code}")?,
                    None => write!(f, "control refused with HTTP {status}")?,
                }
                with(f, message)
            }
            Self::ControlUnreachable(what) => write!(f, "control was not reached: {what}"),
            Self::NoProof(what) => write!(f, "no proof of identity: {what}"),
            Self::Storage(what) => write!(f, "the storage failed: {what}"),
            Self::Asked => f.write_str("asked to close"),
        }
    }
}
