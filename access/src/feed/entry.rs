//! An entry of an inbox as the store hands it out, and what must be said before it.

use super::inbox::Inbox;
use bytes::Bytes;
use hawser_proto::compressed::plain_bytes;
use hawser_proto::id::Position;
use hawser_proto::params::{Gap, GapReason};

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its own position.
    pub at: Position,
    /// The entry before it, or the floor: nothing lies between the two.
    pub prev: Position,
}

/// One entry as the store hands it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// The encoded PUSH, in a form that the device understands. Empty: there is no entry, only word that
    /// nothing up to `place.at` will come.
    pub frame: Bytes,
    /// Entries before it that were removed by policy, at most.
    pub lost: u64,
    /// `hawser.wire.v1.GapReason` of those.
    pub lost_reason: i32,
    /// `hawser.push.v1.Priority`.
    pub priority: u8,
}

/// What a pull brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// In the order of their positions.
    pub entries: Vec<Entry>,
    /// The newest position at that moment.
    pub tail: Position,
}

/// The GAP that must be written before an entry, or in its place.
pub(super) fn gap_before(inbox: &Inbox, entry: &Entry, frame_bytes_max: usize) -> Option<Gap> {
    let Place { at, prev } = entry.place;
    // The limit counts the body as it is once it is plain.
    let is_too_large = plain_bytes(&entry.frame) > frame_bytes_max;
    let (upto, reason) = if is_too_large {
        (at, GapReason::TooLarge as i32)
    } else if entry.frame.is_empty() {
        (at, entry.lost_reason)
    } else if entry.lost > 0 || prev > inbox.sent {
        // Just below the entry: above everything that was lost, and the entry itself is still taken.
        (Position::new(at.term, at.seq.saturating_sub(1)), entry.lost_reason)
    } else {
        return None;
    };
    if upto <= inbox.sent {
        return None;
    }
    Some(Gap {
        business: inbox.business.0,
        after_term: inbox.sent.term,
        after_seq: inbox.sent.seq,
        upto_term: upto.term,
        upto_seq: upto.seq,
        count: entry.lost + u64::from(is_too_large),
        reason,
    })
}
