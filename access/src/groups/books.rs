//! What is written down of one group: who is in it or waits to be, and which routers have not agreed yet.

use super::{GroupKey, Stay, Verdict};
use crate::routers::tier::{Functions, Up};
use hawser_proto::code::ErrorCode;
use std::cmp::Ordering;
use std::time::Instant;
use tokio::sync::oneshot;

/// One who wants in, and its lane.
pub(super) type Waiting = (usize, oneshot::Sender<Verdict>);

pub(super) struct Entry {
    /// Names this stay.
    pub(super) seq: u64,
    pub(super) state: State,
    /// Routers that were told and have not agreed. Nearly always empty.
    pub(super) told: Vec<Told>,
}

pub(super) enum State {
    /// The first member waits for the routers' word; others wait with it.
    Announcing { waiting: Vec<Waiting>, best: Option<Stay>, refused: Option<ErrorCode> },
    /// Members may come and go; counted by lane.
    Live { stay: Stay, members: Box<[u32]> },
}

/// A router that was told of the group on this stream.
pub(super) struct Told {
    pub(super) stream: u64,
    /// The number of what it was told last; an answer to another one is too old.
    call: u64,
    /// It has answered, and will be told again. Until then a join waits for it.
    has_disagreed: bool,
    /// How often it said that there is no such group.
    pub(super) refusals: u8,
    pub(super) tries: u8,
}

impl Entry {
    pub(super) fn new(seq: u64, first: Waiting) -> Self {
        let state = State::Announcing { waiting: vec![first], best: None, refused: None };
        Self { seq, state, told: Vec::new() }
    }

    /// Of a live one.
    pub(super) fn stay(&self) -> Option<&Stay> {
        match &self.state {
            State::Live { stay, .. } => Some(stay),
            State::Announcing { .. } => None,
        }
    }

    /// What is known of the group, though a join may still wait for other routers.
    pub(super) fn known(&self) -> Option<&Stay> {
        match &self.state {
            State::Live { stay, .. } => Some(stay),
            State::Announcing { best, .. } => best.as_ref(),
        }
    }

    /// A router is told with this call, perhaps not for the first time. False: it takes no pushes, and
    /// what it says to groups is of no interest.
    pub(super) fn tell(&mut self, up: &Up, call: u64) -> bool {
        self.told.retain(|told| told.stream != up.stream);
        let counts = up.router.does(Functions::PUSH);
        if counts {
            self.told.push(Told::new(up.stream, call));
        }
        counts
    }
}

impl Told {
    fn new(stream: u64, call: u64) -> Self {
        Self { stream, call, has_disagreed: false, refusals: 0, tries: 0 }
    }

    pub(super) fn is(&self, stream: u64, call: u64) -> bool {
        self.stream == stream && self.call == call
    }

    /// It has not answered, and may have agreed all the same.
    pub(super) fn is_awaited(&self) -> bool {
        !self.has_disagreed
    }

    /// It knows the group in another way, or not, or cannot say; nobody waits for it any longer.
    pub(super) fn disagrees(&mut self) {
        self.has_disagreed = true;
    }

    pub(super) fn again(&mut self, call: u64) {
        self.call = call;
        self.tries = self.tries.saturating_add(1);
    }
}

/// A router that has not agreed yet, to be told again.
pub(super) struct Again {
    pub(super) due: Instant,
    pub(super) key: GroupKey,
    pub(super) stream: u64,
    pub(super) call: u64,
}

/// The one that is due first is the greatest.
impl Ord for Again {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.call, other.stream).cmp(&(self.due, self.call, self.stream))
    }
}

impl PartialOrd for Again {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Again {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Again {}
