//! What a business sends to this device, and what the client has to say of it.

use bytes::Bytes;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::Position;
use std::collections::HashMap;
use std::time::SystemTime;

/// A push to this device, or to a group that it is in. A volatile one comes at most once. One with a
/// position was stored: to this device it comes until it was handled, and once at that; to a group it
/// can be recovered after a reconnect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// The id that the business or the router gave it; at most 128 bytes.
    pub id: Bytes,
    /// The group it was sent to; `None`: this device alone.
    pub group: Option<String>,
    /// Bytes of the business.
    pub body: Bytes,
    /// Small facts beside the body.
    pub metadata: HashMap<String, String>,
    /// W3C trace context; may be empty.
    pub traceparent: String,
    /// Volatile pushes lost just before this one: by this listener because it was slow, or by the
    /// access node because the link was, as far as it told (groups).
    pub missed: u64,
    /// Where it stands in this device's inbox of the business, or in its group's history; positions
    /// only grow. `None`: volatile.
    pub position: Option<Position>,
    /// It may have been handed to the app before: by an earlier process that ended before its cursor
    /// was kept, or by a listener of this one that was dropped while it handled it.
    pub redelivered: bool,
    /// When it loses its worth, by the clock of hawser, where the business said so.
    pub expires_at: Option<SystemTime>,
}

/// Word that this device is out of a group without having asked, and that the client will not join
/// it again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The group.
    pub group: String,
    /// Why.
    pub reason: LeftReason,
}

/// Why a membership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftReason {
    /// The business took the device out; it may join again.
    Removed,
    /// The business kicked the device; a join on this connection is refused.
    Kicked,
    /// The group is no more.
    Deleted,
    /// The join after a reconnect was refused for good, with this error if it is a known one.
    Refused(Option<ErrorCode>),
}

/// Stored pushes that will not come. What is above them does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last position before them.
    pub after: Position,
    /// They end here.
    pub upto: Position,
    /// How many they are, at most.
    pub count: u64,
    /// Why.
    pub reason: GapReason,
}

/// Why stored pushes will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// The inbox was full, and its business lets the oldest go.
    Overflow,
    /// Their time was over, or a newer push of the same kind took their place.
    Expired,
    /// They are larger than this connection takes.
    TooLarge,
    /// The business emptied the inbox.
    Purged,
    /// One that this release does not know.
    Unknown,
}

/// The store of the inbox went back in time, or did not know this device's cursor: pushes between the
/// two positions may be lost. What is stored from now on is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermChanged {
    /// How far this device had come.
    pub from: Position,
    /// Where it goes on. Below `from` where the node refused the cursor: then pushes may come again.
    pub to: Position,
}

/// A part of a group's history is gone before this device had it. Fetch what matters by other means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReset {
    /// The group.
    pub group: String,
    /// The last position this device had.
    pub last: Position,
    /// What follows is above this one.
    pub floor: Position,
    /// The newest position of the history.
    pub tail: Position,
}

/// One thing a business handle can hear.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Incoming {
    /// A push.
    Push(Push),
    /// A membership ended.
    Left(Left),
    /// Stored pushes that will not come.
    Gap(Gap),
    /// The store of the inbox went back in time.
    TermChanged(TermChanged),
    /// A part of a group's history is gone.
    GroupReset(GroupReset),
    /// The cursors cannot be kept, for this reason. Nothing is acknowledged until they can, and after
    /// one window nothing more is sent; the client tries again every second, and says this once.
    NotKept(String),
}

impl Incoming {
    /// Bytes, as far as they count against what a listener holds.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Push(push) => push.body.len(),
            Self::Left(left) => left.group.len(),
            Self::GroupReset(reset) => reset.group.len(),
            Self::NotKept(why) => why.len(),
            Self::Gap(_) | Self::TermChanged(_) => 0,
        }
    }
}
