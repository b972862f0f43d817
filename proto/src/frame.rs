//! The frames of the wire as types: one enum for what a device sends, one for what it is sent.
//!
//! Parsing checks every rule of a kind that needs no state: lengths, counts, forms. What a kind means
//! in a state is the session machine's business. Source: WIRE.md, "Frames".

use crate::code::CloseCode;
use crate::codec::{self, Flags, FrameError, RawFrame};
use crate::limits::{
    BUSINESSES_PER_CONNECTION_MAX, GROUP_ECHO_BYTES_MAX, METADATA_BYTES_MAX, METADATA_ENTRIES_MAX,
    METHOD_BYTES_MAX, REASON_BYTES_MAX, TRACEPARENT_BYTES_MAX,
};
use crate::params;
use bytes::Bytes;
use std::collections::HashMap;
use std::hash::BuildHasher;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Kind of a frame. Bit 7 is set on what access nodes send.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[doc = $doc])+ $variant = $number,)+
        }
        impl Kind {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// The published name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
            /// The kind with this byte, if there is one.
            pub fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

kinds! {
    /// Device: who I am.
    Login = 0x01, "LOGIN";
    /// Device: I am here.
    Ping = 0x02, "PING";
    /// Device: a new token, please.
    Refresh = 0x03, "REFRESH";
    /// Device: goodbye.
    Bye = 0x04, "BYE";
    /// Device: a request to a business.
    Request = 0x10, "REQUEST";
    /// Device: into a group.
    Join = 0x20, "JOIN";
    /// Device: out of a group.
    Leave = 0x21, "LEAVE";
    /// Device: handled up to here.
    Ack = 0x30, "ACK";
    /// Device: stored pushes again, from here on.
    Resync = 0x31, "RESYNC";
    /// Device: a group's history again, from here on.
    Recover = 0x32, "RECOVER";
    /// Node: you are in.
    LoginOk = 0x81, "LOGIN_OK";
    /// Node: I am here too.
    Pong = 0x82, "PONG";
    /// Node: your new token.
    Refreshed = 0x83, "REFRESHED";
    /// Node: this connection ends, and what to do now.
    Close = 0x84, "CLOSE";
    /// Node: log in elsewhere, then leave.
    GoAway = 0x85, "GO_AWAY";
    /// Node: the answer of a business.
    Response = 0x90, "RESPONSE";
    /// Node: you are in the group, or why not.
    Joined = 0xa0, "JOINED";
    /// Node: you are out of the group.
    Left = 0xa1, "LEFT";
    /// Node: a push to this device.
    Push = 0xb0, "PUSH";
    /// Node: a push to a group.
    GroupPush = 0xb1, "GROUP_PUSH";
    /// Node: stored pushes that will not come.
    Gap = 0xb2, "GAP";
    /// Node: pushes of a live group that were not written to this device.
    Missed = 0xb3, "MISSED";
    /// Node: what was asked for is no longer in the group's history.
    GroupReset = 0xb4, "GROUP_RESET";
}

/// Bits of `abilities` in LOGIN and LOGIN_OK. Source: WIRE.md, "Abilities".
pub mod ability {
    /// Stored pushes: positions, ACK, RESYNC, GAP. Without it a node writes no stored push.
    pub const INBOX: u32 = 1;
    /// Groups: positions, RECOVER, GROUP_RESET, MISSED. Without it a history group is as a live one.
    pub const HISTORY: u32 = 2;
    /// GO_AWAY. Without it a node that drains closes the connection when its turn comes.
    pub const GO_AWAY: u32 = 4;
    /// A resume ticket in LOGIN_OK, which the next LOGIN may show in place of the token.
    pub const RESUME: u32 = 8;
    /// Bodies of pushes may come compressed. Without it a node writes them plain.
    pub const ZSTD: u32 = 16;
    /// All that this release has.
    pub const ALL: u32 = INBOX | HISTORY | GO_AWAY | RESUME | ZSTD;
}

/// Kinds that a receiver which does not know them skips: 0x60 to 0x7f from devices, 0xe0 to 0xff
/// from access nodes.
pub fn is_ignorable(kind: u8) -> bool {
    kind & 0x60 == 0x60
}

/// What a device sends.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceFrame {
    /// First frame of every connection.
    Login(params::Login),
    /// Heartbeat.
    Ping(params::Ping),
    /// In-band token refresh.
    Refresh(params::Refresh),
    /// Goodbye; the node closes.
    Bye(params::Close),
    /// Request with its opaque body.
    Request(params::Request, Bytes),
    /// Into a group.
    Join(params::Join),
    /// Out of a group.
    Leave(params::Leave),
    /// Handled up to here.
    Ack(params::Ack),
    /// Stored pushes again, from here on.
    Resync(params::Resync),
    /// A group's history again, from here on.
    Recover(params::Recover),
    /// A kind from a later release that may be skipped.
    Ignored(u8),
}

/// What an access node sends.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeFrame {
    /// Login taken.
    LoginOk(params::LoginOk),
    /// Answer to a heartbeat.
    Pong(params::Ping),
    /// Answer to a refresh.
    Refreshed(params::Refreshed),
    /// Last frame of a connection.
    Close(params::Close),
    /// Log in elsewhere, then leave.
    GoAway(params::GoAway),
    /// Answer to a request, with its opaque body.
    Response(params::Response, Bytes),
    /// Answer to a join.
    Joined(params::Joined),
    /// Membership ended.
    Left(params::Left),
    /// Push to this device.
    Push(params::Push, Bytes),
    /// Push to a group.
    GroupPush(params::GroupPush, Bytes),
    /// Stored pushes that will not come.
    Gap(params::Gap),
    /// Pushes of a live group that were not written.
    Missed(params::Missed),
    /// Out of a group's history.
    GroupReset(params::GroupReset),
    /// A kind from a later release that may be skipped.
    Ignored(u8),
}

fn read<M: prost::Message + Default>(raw: &RawFrame) -> Result<M, FrameError> {
    if raw.flags.has(Flags::COMPRESSED) {
        return Err(FrameError::Body("it was not made plain"));
    }
    M::decode(raw.params.clone()).map_err(|_| FrameError::Params("not the message of this kind"))
}

fn no_body(raw: &RawFrame) -> Result<(), FrameError> {
    if raw.body.is_empty() { Ok(()) } else { Err(FrameError::Params("this kind has no body")) }
}

/// Checks metadata against its limits. Shared by the wire and the push API.
pub fn check_metadata<S: BuildHasher>(
    metadata: &HashMap<String, String, S>,
) -> Result<(), &'static str> {
    if metadata.len() > METADATA_ENTRIES_MAX {
        return Err("more than 32 metadata entries");
    }
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err("metadata above 4 KiB");
    }
    Ok(())
}

/// Checks a trace context against its limit; its form is left to whoever reads traces. Shared by the
/// wire and the push API.
pub fn check_traceparent(traceparent: &str) -> Result<(), &'static str> {
    if traceparent.len() > TRACEPARENT_BYTES_MAX {
        return Err("the traceparent is too long");
    }
    Ok(())
}

/// 0 stands for "nobody asked" in answers.
fn check_request_id(request_id: u64) -> Result<(), FrameError> {
    if request_id == 0 { Err(FrameError::Params("the request id is 0")) } else { Ok(()) }
}

/// The answer repeats the group, well formed or not, so its length is bounded here.
fn check_group_echo(group: &str) -> Result<(), FrameError> {
    if group.len() > GROUP_ECHO_BYTES_MAX {
        return Err(FrameError::Params("the group is too long to be answered"));
    }
    Ok(())
}

impl DeviceFrame {
    /// Reads the parameters of a raw frame and checks the rules of its kind.
    pub fn parse(raw: RawFrame) -> Result<Self, FrameError> {
        let Some(kind) = Kind::from_byte(raw.kind) else {
            let from_device = raw.kind & 0x80 == 0;
            return if from_device && is_ignorable(raw.kind) {
                Ok(Self::Ignored(raw.kind))
            } else {
                Err(FrameError::Kind(raw.kind))
            };
        };
        if raw.kind & 0x80 == 0 && kind != Kind::Request {
            no_body(&raw)?;
        }
        Ok(match kind {
            Kind::Login => {
                let login: params::Login = read(&raw)?;
                if login.instance.len() != 16 {
                    return Err(FrameError::Params("the instance is not 16 bytes"));
                }
                if login.attempt == 0 {
                    return Err(FrameError::Params("the attempt starts at 1"));
                }
                if login.businesses.len() > BUSINESSES_PER_CONNECTION_MAX {
                    return Err(FrameError::Params("too many businesses"));
                }
                if login.cursors.len() > BUSINESSES_PER_CONNECTION_MAX {
                    return Err(FrameError::Params("too many cursors"));
                }
                Self::Login(login)
            }
            Kind::Ping => Self::Ping(read(&raw)?),
            Kind::Refresh => {
                let refresh: params::Refresh = read(&raw)?;
                check_request_id(refresh.request_id)?;
                Self::Refresh(refresh)
            }
            Kind::Bye => Self::Bye(read(&raw)?),
            Kind::Request => {
                let request: params::Request = read(&raw)?;
                check_request_id(request.request_id)?;
                if request.method.len() > METHOD_BYTES_MAX {
                    return Err(FrameError::Params("the method is too long"));
                }
                check_metadata(&request.metadata).map_err(FrameError::Params)?;
                check_traceparent(&request.traceparent).map_err(FrameError::Params)?;
                Self::Request(request, raw.body)
            }
            Kind::Join => {
                let join: params::Join = read(&raw)?;
                check_request_id(join.request_id)?;
                check_group_echo(&join.group)?;
                Self::Join(join)
            }
            Kind::Leave => {
                let leave: params::Leave = read(&raw)?;
                check_request_id(leave.request_id)?;
                check_group_echo(&leave.group)?;
                Self::Leave(leave)
            }
            Kind::Ack => {
                let ack: params::Ack = read(&raw)?;
                if ack.inboxes.len() > BUSINESSES_PER_CONNECTION_MAX {
                    return Err(FrameError::Params("too many acknowledgements"));
                }
                Self::Ack(ack)
            }
            Kind::Resync => {
                let resync: params::Resync = read(&raw)?;
                if resync.after.is_none() {
                    return Err(FrameError::Params("no position"));
                }
                Self::Resync(resync)
            }
            Kind::Recover => {
                let recover: params::Recover = read(&raw)?;
                check_group_echo(&recover.group)?;
                Self::Recover(recover)
            }
            Kind::LoginOk
            | Kind::Pong
            | Kind::Refreshed
            | Kind::Close
            | Kind::GoAway
            | Kind::Response
            | Kind::Joined
            | Kind::Left
            | Kind::Push
            | Kind::GroupPush
            | Kind::Gap
            | Kind::Missed
            | Kind::GroupReset => return Err(FrameError::Direction(raw.kind)),
        })
    }

    /// Writes the frame in one piece.
    pub fn encode(&self) -> Bytes {
        let none: &[u8] = &[];
        match self {
            Self::Login(p) => encode(Kind::Login, p, none),
            Self::Ping(p) => encode(Kind::Ping, p, none),
            Self::Refresh(p) => encode(Kind::Refresh, p, none),
            Self::Bye(p) => encode(Kind::Bye, p, none),
            Self::Request(p, body) => encode(Kind::Request, p, body),
            Self::Join(p) => encode(Kind::Join, p, none),
            Self::Leave(p) => encode(Kind::Leave, p, none),
            Self::Ack(p) => encode(Kind::Ack, p, none),
            Self::Resync(p) => encode(Kind::Resync, p, none),
            Self::Recover(p) => encode(Kind::Recover, p, none),
            Self::Ignored(kind) => {
                codec::encode(*kind, Flags::NONE, &params::Ping::default(), none)
            }
        }
    }
}

impl NodeFrame {
    /// Reads the parameters of a raw frame.
    pub fn parse(raw: RawFrame) -> Result<Self, FrameError> {
        let Some(kind) = Kind::from_byte(raw.kind) else {
            let from_node = raw.kind & 0x80 != 0;
            return if from_node && is_ignorable(raw.kind) {
                Ok(Self::Ignored(raw.kind))
            } else {
                Err(FrameError::Kind(raw.kind))
            };
        };
        Ok(match kind {
            Kind::LoginOk => Self::LoginOk(read(&raw)?),
            Kind::Pong => Self::Pong(read(&raw)?),
            Kind::Refreshed => Self::Refreshed(read(&raw)?),
            Kind::Close => Self::Close(read(&raw)?),
            Kind::GoAway => Self::GoAway(read(&raw)?),
            Kind::Response => Self::Response(read(&raw)?, raw.body),
            Kind::Joined => Self::Joined(read(&raw)?),
            Kind::Left => Self::Left(read(&raw)?),
            Kind::Push => Self::Push(read(&raw)?, raw.body),
            Kind::GroupPush => Self::GroupPush(read(&raw)?, raw.body),
            Kind::Gap => Self::Gap(read(&raw)?),
            Kind::Missed => Self::Missed(read(&raw)?),
            Kind::GroupReset => Self::GroupReset(read(&raw)?),
            Kind::Login
            | Kind::Ping
            | Kind::Refresh
            | Kind::Bye
            | Kind::Request
            | Kind::Join
            | Kind::Leave
            | Kind::Ack
            | Kind::Resync
            | Kind::Recover => return Err(FrameError::Direction(raw.kind)),
        })
    }

    /// Writes the frame in one piece.
    pub fn encode(&self) -> Bytes {
        let none: &[u8] = &[];
        match self {
            Self::LoginOk(p) => encode(Kind::LoginOk, p, none),
            Self::Pong(p) => encode(Kind::Pong, p, none),
            Self::Refreshed(p) => encode(Kind::Refreshed, p, none),
            Self::Close(p) => encode(Kind::Close, p, none),
            Self::GoAway(p) => encode(Kind::GoAway, p, none),
            Self::Response(p, body) => encode(Kind::Response, p, body),
            Self::Joined(p) => encode(Kind::Joined, p, none),
            Self::Left(p) => encode(Kind::Left, p, none),
            Self::Push(p, body) => encode(Kind::Push, p, body),
            Self::GroupPush(p, body) => encode(Kind::GroupPush, p, body),
            Self::Gap(p) => encode(Kind::Gap, p, none),
            Self::Missed(p) => encode(Kind::Missed, p, none),
            Self::GroupReset(p) => encode(Kind::GroupReset, p, none),
            Self::Ignored(kind) => {
                codec::encode(*kind, Flags::NONE, &params::Ping::default(), none)
            }
        }
    }

    /// The last frame of a connection. The reason is cut to its limit.
    pub fn close(code: CloseCode, reason: &str, retry_after_ms: u32) -> Self {
        Self::Close(params::Close {
            code: u32::from(code.number()),
            reason: cut(reason),
            retry_after_ms,
            alternatives: Vec::new(),
        })
    }
}

fn encode(kind: Kind, params: &impl prost::Message, body: &[u8]) -> Bytes {
    codec::encode(kind as u8, Flags::NONE, params, body)
}

/// Cuts a sentence for people to [`REASON_BYTES_MAX`], at a character boundary.
pub fn cut(text: &str) -> String {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
