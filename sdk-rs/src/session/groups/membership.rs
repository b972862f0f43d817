//! One membership: where it stands, and how far its history has come.

use super::Outcome;
use hawser_proto::id::Position;
use hawser_proto::params;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A RECOVER after which nothing followed is sent again after this.
const RECOVER_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Membership {
    pub(super) business: Arc<str>,
    pub(super) stage: Stage,
    /// It was in once: a refusal for now does not end it.
    pub(super) held: bool,
    /// A JOIN on this link was never answered: the node may count this device in.
    pub(super) is_unsure: bool,
    /// History groups: the last push handed over, over all connections.
    pub(super) last: Position,
    /// A push was dropped that must come again.
    pub(super) is_missing: bool,
    /// A RECOVER is open until then.
    pub(super) recover_until: Option<Instant>,
    /// Pushes that were not written, for the next one to tell.
    pub(super) missed: u64,
}

impl Membership {
    pub(super) fn new(business: Arc<str>) -> Self {
        Self {
            business,
            stage: Stage::Wanted,
            held: false,
            is_unsure: false,
            last: Position::START,
            is_missing: false,
            recover_until: None,
            missed: 0,
        }
    }

    /// Where a member begins that has no position yet.
    pub(super) fn begin(&mut self, joined: &params::Joined) {
        if !joined.history {
            self.last = Position::START;
        } else if self.last == Position::START {
            self.last = Position::new(joined.tail_term, joined.tail_seq);
        }
    }

    pub(super) fn take(&mut self, at: Position) {
        self.last = at;
        self.is_missing = false;
        self.recover_until = None;
    }

    /// Asks for everything above the last push, unless that was just asked for.
    pub(super) fn recover(&mut self, group: &str, now: Instant, out: &mut Vec<Outcome>) {
        self.is_missing = true;
        if self.stage == Stage::In && self.recover_until.is_none_or(|until| until <= now) {
            self.recover_until = Some(now + RECOVER_AGAIN);
            let Position { term, seq } = self.last;
            out.push(Outcome::Recover(params::Recover { group: group.to_owned(), term, seq }));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    /// To be joined as soon as there is a connection and room.
    Wanted,
    /// A JOIN with this id is on the wire.
    Joining(u64),
    In,
    /// Refused for now.
    Again(Instant),
}
