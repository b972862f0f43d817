//! The groups this device wants to be in, across connections, and the calls that change them.
//!
//! A membership the app asked for is joined again after each reconnect, until the app leaves, the
//! business ends it, or a join is refused for good.
//!
//! In a group with a history each membership remembers the last position that was handed over, and a
//! join names it: the node sends what came since. A push that leaves something out is dropped, and
//! asked for again (RECOVER), so that positions only grow.

mod behind;
mod echo;
mod history;
mod membership;

use crate::business::GroupError;
use crate::incoming::{GroupReset, Left, LeftReason, Push};
use echo::Echoes;
use hawser_proto::code::ErrorCode;
use hawser_proto::frame::DeviceFrame;
use hawser_proto::id::Position;
use hawser_proto::limits::GROUPS_PER_CONNECTION_MAX;
use hawser_proto::params;
use membership::{Membership, Stage};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Joins and leaves on the wire at once: below what an access node calls flooding.
const ON_WIRE_MAX: usize = 16;
/// Joins and leaves the app may wait for at once. Full: `GroupError::QueueFull`.
const WAITING_MAX: usize = 256;
/// A join after a reconnect that was refused for now is tried again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// A join or leave without an answer after this will have none: it is written again, if still wanted.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the app, or an access node's answer, changed.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// A join or leave of the app has ended.
    Answer(u64, Result<(), GroupError>),
    /// A membership ended unasked.
    Left(Arc<str>, Left),
    /// A push of a group.
    Push(Arc<str>, Push),
    /// A part of a group's history is gone.
    Reset(Arc<str>, GroupReset),
    /// A part of a group's history is wanted.
    Recover(params::Recover),
}

/// A JOIN or LEAVE that was written and not answered.
#[derive(Debug)]
struct OnWire {
    group: String,
    is_join: bool,
    until: Instant,
}

#[derive(Debug)]
enum Waiter {
    Join { group: String, deadline: Instant },
    Leave { deadline: Instant },
}

impl Waiter {
    fn deadline(&self) -> Instant {
        let (Self::Join { deadline, .. } | Self::Leave { deadline }) = self;
        *deadline
    }
}

/// All memberships and group calls of one client.
#[derive(Debug)]
pub(crate) struct Groups {
    wanted: BTreeMap<String, Membership>,
    /// Groups that the business has put this device into, as far as there is something to remember.
    put_in: BTreeMap<String, Membership>,
    waiters: HashMap<u64, Waiter>,
    /// Leaves not yet written.
    leaves: VecDeque<(u64, String)>,
    /// Joins and leaves on the wire.
    on_wire: HashMap<u64, OnWire>,
    max: usize,
    /// The node of this link understands positions.
    has_history: bool,
    /// Number of the link in use.
    line: u32,
    /// While two links are in use, and a little longer.
    echoes: Option<Echoes>,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            wanted: BTreeMap::new(),
            put_in: BTreeMap::new(),
            waiters: HashMap::new(),
            leaves: VecDeque::new(),
            on_wire: HashMap::new(),
            max: GROUPS_PER_CONNECTION_MAX,
            has_history: false,
            line: 0,
            echoes: None,
        }
    }
}

impl Groups {
    /// The app wants in.
    pub(crate) fn join(
        &mut self,
        id: u64,
        business: &Arc<str>,
        group: &str,
        deadline: Instant,
    ) -> Option<Outcome> {
        let refuse = |error| Some(Outcome::Answer(id, Err(error)));
        if self.waiters.len() >= WAITING_MAX {
            return refuse(GroupError::QueueFull);
        }
        let is_full = self.wanted.len() >= self.max;
        match self.wanted.get_mut(group) {
            Some(member) if member.stage == Stage::In => return Some(Outcome::Answer(id, Ok(()))),
            Some(member) if matches!(member.stage, Stage::Again(_)) => member.stage = Stage::Wanted,
            Some(_) => {}
            None if is_full => {
                let status = ErrorCode::TooManyGroups.number();
                return refuse(GroupError::Refused { status, message: String::new() });
            }
            None => {
                let member = match self.put_in.remove(group) {
                    Some(known) => Membership { stage: Stage::Wanted, ..known },
                    None => Membership::new(business.clone()),
                };
                self.wanted.insert(group.to_owned(), member);
            }
        }
        self.waiters.insert(id, Waiter::Join { group: group.to_owned(), deadline });
        None
    }

    /// The app wants out.
    pub(crate) fn leave(
        &mut self,
        id: u64,
        group: &str,
        deadline: Instant,
        is_online: bool,
        out: &mut Vec<Outcome>,
    ) {
        if self.waiters.len() >= WAITING_MAX {
            out.push(Outcome::Answer(id, Err(GroupError::QueueFull)));
            return;
        }
        let member = self.wanted.remove(group);
        self.put_in.remove(group);
        self.answer_joins(group, &Err(GroupError::Left), out);
        let on_node = member
            .is_none_or(|it| it.is_unsure || matches!(it.stage, Stage::In | Stage::Joining(_)));
        if is_online && on_node {
            self.waiters.insert(id, Waiter::Leave { deadline });
            self.leaves.push_back((id, group.to_owned()));
        } else {
            out.push(Outcome::Answer(id, Ok(())));
        }
    }

    /// A connection begins with none of the memberships of the last one.
    pub(crate) fn online(&mut self, groups_max: usize, has_history: bool) {
        self.line = self.line.wrapping_add(1);
        self.max = groups_max;
        self.has_history = has_history;
    }

    /// The link ended, and every membership on it. What the app waits for goes on.
    pub(crate) fn offline(&mut self, out: &mut Vec<Outcome>) {
        self.on_wire.clear();
        self.leaves.clear();
        for member in self.wanted.values_mut().chain(self.put_in.values_mut()) {
            member.stage = Stage::Wanted;
            member.is_unsure = false;
            // The next join asks for it.
            member.is_missing = false;
            member.recover_until = None;
        }
        let left: Vec<u64> = self.ids(|waiter| matches!(waiter, Waiter::Leave { .. }));
        for id in left {
            self.waiters.remove(&id);
            out.push(Outcome::Answer(id, Ok(())));
        }
    }

    /// The next frame to write, while there is room on the wire. Only when online.
    pub(crate) fn next_frame(&mut self, next_id: &mut u64, now: Instant) -> Option<DeviceFrame> {
        if self.on_wire.len() >= ON_WIRE_MAX {
            return None;
        }
        if let Some((request_id, group)) = self.leaves.pop_front() {
            let until = now + ANSWER_TIMEOUT;
            let on_wire = OnWire { group: group.clone(), is_join: false, until };
            self.on_wire.insert(request_id, on_wire);
            return Some(DeviceFrame::Leave(params::Leave { request_id, group }));
        }
        let (group, member) =
            self.wanted.iter_mut().find(|(_, member)| member.stage == Stage::Wanted)?;
        *next_id += 1;
        let request_id = *next_id;
        member.stage = Stage::Joining(request_id);
        let until = now + ANSWER_TIMEOUT;
        self.on_wire.insert(request_id, OnWire { group: group.clone(), is_join: true, until });
        let (group, Position { term, seq }) = (group.clone(), member.last);
        Some(DeviceFrame::Join(params::Join { request_id, group, last_term: term, last_seq: seq }))
    }

    /// JOINED. `business`: its name, where this connection has it.
    pub(crate) fn joined(
        &mut self,
        joined: params::Joined,
        business: Option<&Arc<str>>,
        now: Instant,
        out: &mut Vec<Outcome>,
    ) {
        if joined.request_id == 0 {
            return self.put_in(&joined, business, now, out);
        }
        // Else it came too late, and the group was joined again or left.
        let Some(OnWire { group, .. }) = self.on_wire.remove(&joined.request_id) else { return };
        let stage = Stage::Joining(joined.request_id);
        let Some(member) = self.wanted.get_mut(&group).filter(|it| it.stage == stage) else {
            // Nobody wants it any more: a leave that came in between is on its way, a deadline that
            // passed is not.
            if joined.status == 0 && !self.wanted.contains_key(&group) {
                self.leaves.push_back((joined.request_id, group));
            }
            return;
        };
        if joined.status == 0 {
            member.stage = Stage::In;
            member.held = true;
            member.is_unsure = false;
            member.begin(&joined);
            if member.is_missing {
                member.recover(&group, now, out);
            }
            self.answer_joins(&group, &Ok(()), out);
            return;
        }
        let code = ErrorCode::from_number(joined.status);
        if member.held && is_for_now(code) {
            member.stage = Stage::Again(now + AGAIN_AFTER);
            return;
        }
        let business = member.business.clone();
        let held = member.held;
        self.wanted.remove(&group);
        let error = GroupError::Refused { status: joined.status, message: joined.message };
        self.answer_joins(&group, &Err(error), out);
        if held {
            let reason = LeftReason::Refused(code);
            out.push(Outcome::Left(business, Left { group, reason }));
        }
    }

    /// LEFT, asked for or not.
    pub(crate) fn left(&mut self, left: params::Left, out: &mut Vec<Outcome>) {
        self.put_in.remove(&left.group);
        if left.request_id != 0 {
            self.on_wire.remove(&left.request_id);
            if self.waiters.remove(&left.request_id).is_some() {
                let gone = left.status == 0 || left.status == ErrorCode::NotMember.number();
                let failed = GroupError::Refused { status: left.status, message: left.message };
                let answer = if gone { Ok(()) } else { Err(failed) };
                out.push(Outcome::Answer(left.request_id, answer));
            }
            return;
        }
        let reason = left_reason(&left);
        // While a JOIN is under way its own answer decides, or the next one's where it has none.
        if self.wanted.get(&left.group).is_some_and(|it| it.stage == Stage::In)
            && let Some(member) = self.wanted.remove(&left.group)
        {
            out.push(Outcome::Left(member.business, Left { group: left.group, reason }));
        }
    }

    /// Ends what is past its deadline, and takes up again what was refused for now or never answered.
    pub(crate) fn expire(&mut self, now: Instant, out: &mut Vec<Outcome>) {
        self.forget_echoes(now);
        let late: Vec<_> = self.on_wire.extract_if(|_, it| it.until <= now).collect();
        for id in self.ids(|waiter| waiter.deadline() <= now) {
            let waiter = self.waiters.remove(&id);
            out.push(Outcome::Answer(id, Err(GroupError::DeadlineExceeded)));
            let Some(Waiter::Join { group, .. }) = waiter else { continue };
            let waited_for =
                |it: &Waiter| matches!(it, Waiter::Join { group: g, .. } if *g == group);
            let others = self.waiters.values().any(waited_for);
            if !others && self.wanted.get(&group).is_some_and(|it| !it.held) {
                let gone = self.wanted.remove(&group);
                if gone.is_some_and(|it| it.is_unsure && it.stage == Stage::Wanted) {
                    self.leaves.push_back((id, group));
                }
            }
        }
        for (id, OnWire { group, is_join, .. }) in late {
            self.unanswered(id, group, is_join);
        }
        for (group, member) in self.wanted.iter_mut().chain(&mut self.put_in) {
            if matches!(member.stage, Stage::Again(at) if at <= now) {
                member.stage = Stage::Wanted;
            }
            if member.recover_until.take_if(|until| *until <= now).is_some() && member.is_missing {
                member.recover(group, now, out);
            }
        }
    }

    /// A JOIN or LEAVE had no answer, and will have none.
    fn unanswered(&mut self, id: u64, group: String, is_join: bool) {
        match self.wanted.get_mut(&group) {
            Some(member) if is_join && member.stage == Stage::Joining(id) => {
                // The node may have taken us in all the same.
                member.is_unsure = true;
                member.stage = Stage::Wanted;
            }
            None if is_join || self.waiters.contains_key(&id) => self.leaves.push_back((id, group)),
            // Nobody waits for it, or the group was joined anew behind it, and that must not be undone.
            Some(_) | None => {}
        }
    }

    /// Ends everything.
    pub(crate) fn close(&mut self, out: &mut Vec<Outcome>) {
        let closed = |(id, _)| Outcome::Answer(id, Err(GroupError::Closed));
        out.extend(self.waiters.drain().map(closed));
        *self = Self::default();
    }

    /// The earliest time at which [`Self::expire`] has something to do.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let again = self.wanted.values().filter_map(|member| match member.stage {
            Stage::Again(at) => Some(at),
            Stage::Wanted | Stage::Joining(_) | Stage::In => None,
        });
        let all = self.wanted.values().chain(self.put_in.values());
        let recovers = all.filter_map(|member| member.recover_until);
        let answers = self.on_wire.values().map(|it| it.until);
        let deadlines = self.waiters.values().map(Waiter::deadline);
        deadlines.chain(again).chain(recovers).chain(answers).min()
    }

    fn answer_joins(
        &mut self,
        group: &str,
        answer: &Result<(), GroupError>,
        out: &mut Vec<Outcome>,
    ) {
        for id in self.ids(|it| matches!(it, Waiter::Join { group: g, .. } if g == group)) {
            self.waiters.remove(&id);
            out.push(Outcome::Answer(id, answer.clone()));
        }
    }

    fn ids(&self, wanted: impl Fn(&Waiter) -> bool) -> Vec<u64> {
        self.waiters.iter().filter(|(_, waiter)| wanted(waiter)).map(|(id, _)| *id).collect()
    }
}

fn left_reason(left: &params::Left) -> LeftReason {
    match left.reason() {
        params::LeftReason::Kicked => LeftReason::Kicked,
        params::LeftReason::GroupDeleted => LeftReason::Deleted,
        params::LeftReason::Removed
        | params::LeftReason::Asked
        | params::LeftReason::Unspecified => LeftReason::Removed,
    }
}

/// Whether the same join may well succeed in a moment.
fn is_for_now(code: Option<ErrorCode>) -> bool {
    use ErrorCode as E;
    matches!(
        code,
        Some(
            E::Overloaded | E::DeadlineExceeded | E::Unavailable | E::Internal | E::TooManyRequests
        )
    )
}
