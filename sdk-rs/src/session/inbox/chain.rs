//! One inbox: what was taken of it, judged by the chain of its positions.

use crate::incoming::Incoming;
use crate::session::Action;
use hawser_proto::frame::DeviceFrame;
use hawser_proto::id::Position;
use hawser_proto::limits::{INBOX_WINDOW_BYTES, INBOX_WINDOW_ENTRIES};
use hawser_proto::params;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A RESYNC after which nothing could be taken is sent again after this.
pub(super) const RESYNC_AGAIN: Duration = Duration::from_secs(5);
/// Items of one business on the shelf, words of gaps and terms included.
pub(super) const SHELF_MAX: usize = 2 * INBOX_WINDOW_ENTRIES;
/// Where a stored push or a gap stands: its position, and the one before it.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct Place {
    pub(in crate::session) at: Position,
    pub(in crate::session) prev: Position,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) received: Position,
    pub(super) handled: Position,
    pub(super) kept: Position,
    pub(super) taken: VecDeque<Taken>,
    pub(super) taken_pushes: usize,
    pub(super) taken_bytes: usize,
    pub(super) last_number: u64,

    // Of this link.
    pub(super) business: u32,
    /// The highest position that it has brought: the node takes no acknowledgement above it.
    pub(super) seen: Position,
    /// The node has been told this much.
    pub(super) acked: Position,
    pub(super) ack_again: bool,
    /// Something was dropped that must come again.
    pub(super) is_missing: bool,
    /// A RESYNC is open until then.
    pub(super) resync_until: Option<Instant>,
    /// The login said that the term has changed; the first push of the new one need not.
    pub(super) is_term_told: bool,
}

/// On the shelf, and not handled.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) number: u64,
    pub(super) upto: Position,
    pub(super) bytes: usize,
    pub(super) is_push: bool,
}

pub(super) enum Verdict {
    /// It was taken before.
    Old,
    /// It follows what was taken.
    Next,
    /// Something between is missing.
    Ahead,
}

impl Inbox {
    pub(super) fn judge(&mut self, Place { at, prev }: Place) -> Verdict {
        self.seen = self.seen.max(at);
        if at <= self.received {
            Verdict::Old
        } else if prev <= self.received {
            Verdict::Next
        } else {
            Verdict::Ahead
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.taken_pushes < INBOX_WINDOW_ENTRIES
            && self.taken_bytes <= INBOX_WINDOW_BYTES
            && self.taken.len() < SHELF_MAX
    }

    pub(super) fn take(&mut self, at: Position) {
        self.received = at;
        self.is_missing = false;
        self.resync_until = None;
    }

    pub(super) fn shelve(
        &mut self,
        business: &Arc<str>,
        item: Incoming,
        bytes: usize,
        out: &mut Vec<Action>,
    ) {
        self.last_number += 1;
        let number = self.last_number;
        let is_push = matches!(item, Incoming::Push(_));
        self.taken_bytes += bytes;
        self.taken_pushes += usize::from(is_push);
        self.taken.push_back(Taken { number, upto: self.received, bytes, is_push });
        out.push(Action::Shelve(business.clone(), number, item));
    }

    /// Word of something that moves nothing. Where nobody listens for long, the older word will do.
    pub(super) fn tell(&mut self, business: &Arc<str>, word: Incoming, out: &mut Vec<Action>) {
        if self.taken.len() < SHELF_MAX {
            self.shelve(business, word, 0, out);
        }
    }

    /// Asks for everything above what was taken, unless that was just asked for.
    pub(super) fn resync(&mut self, is_online: bool, now: Instant, out: &mut Vec<Action>) {
        self.is_missing = true;
        let is_open = self.resync_until.is_some_and(|until| until > now);
        if !is_online || is_open || !self.has_room() {
            return;
        }
        self.resync_until = Some(now + RESYNC_AGAIN);
        let resync = params::Resync { after: Some(self.position(self.received)) };
        out.push(Action::Send(DeviceFrame::Resync(resync).encode()));
    }

    pub(super) fn position(&self, at: Position) -> params::InboxPosition {
        params::InboxPosition { business: self.business, term: at.term, seq: at.seq }
    }
}
