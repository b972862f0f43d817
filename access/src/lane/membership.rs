//! Who of a lane's connections is in which group: joins, leaves, and the ends of connections and groups.

use super::{Done, Group, Lane};
use crate::curse::Part;
use crate::groups::{GroupKey, Stay};
use hawser_proto::code::ErrorCode;
use hawser_proto::frame::NodeFrame;
use hawser_proto::id::{BusinessNo, Position, SlotRef};
use hawser_proto::limits::GROUPS_PER_CONNECTION_MAX;
use hawser_proto::params::{Joined, Left, LeftReason};

/// A connection's side of its memberships.
pub(super) struct Memberships {
    pub(super) generation: u32,
    /// Group, and where in its members this connection stands.
    pub(super) groups: Vec<(usize, u32)>,
    pub(super) kicked_from: Vec<GroupKey>,
}

impl Lane {
    pub(super) fn join(
        &mut self,
        at: SlotRef,
        key: &GroupKey,
        stay: Stay,
        last: Position,
        done: Done,
    ) {
        self.in_hand = Some((key.clone(), stay.seq));
        self.node.config.curse.at(Part::Lane, key.1.as_str());
        let refused = self.try_join(at, key, stay);
        self.in_hand = None;
        if refused.is_some() {
            self.node.groups.leave(key, stay.seq, self.index, &self.node.routers);
        }
        // Already in: the claim was given back, and the device hears that it is in.
        let status = refused.filter(|_| !self.is_member(at, key));
        let is_new = refused.is_none();
        let done = match status {
            None => match self.join_history(at, key, last, is_new, done) {
                Some(done) => done,
                None => return,
            },
            Some(_) => done,
        };
        self.answer_join(at, key, is_new, done, joined(0, key, status, stay.business));
    }

    /// Answers whoever wanted the join.
    pub(super) fn answer_join(
        &self,
        at: SlotRef,
        key: &GroupKey,
        is_new: bool,
        done: Done,
        mut joined: Joined,
    ) {
        joined.request_id = match done {
            Done::Device(request_id) => request_id,
            Done::Business(tell) => {
                let _ = tell.send(ErrorCode::from_number(joined.status));
                0
            }
        };
        if joined.status == 0 {
            self.say_where(key, &mut joined);
        }
        if joined.request_id != 0 || (is_new && joined.status == 0) {
            self.node.table.write(at, &NodeFrame::Joined(joined));
        }
    }

    /// `Some`: not taken in as a new member; `AlreadyExists` when it was one before.
    pub(super) fn try_join(
        &mut self,
        at: SlotRef,
        key: &GroupKey,
        stay: Stay,
    ) -> Option<ErrorCode> {
        // Nothing but LOGIN_OK may come first, and a word about a group would: it is never dropped.
        let is_live = self
            .node
            .table
            .with(at, |connection| connection.identity.is_some() && connection.is_admitted);
        if is_live != Some(true) {
            return Some(ErrorCode::DeviceOffline);
        }
        // Asked here, in the lane's own order of work: whatever drops the group comes either before,
        // and is seen now, or after, and finds the member.
        if !self.node.groups.lasts(key, stay.seq) {
            return Some(ErrorCode::GroupNotFound);
        }
        // The word that the stay before this one is over may still be on its way.
        self.drop_group(key, stay.seq.saturating_sub(1));
        if self.is_member(at, key) {
            return Some(ErrorCode::AlreadyExists);
        }
        let memberships = self.memberships(at);
        if memberships.kicked_from.contains(key) {
            return Some(ErrorCode::PermissionDenied);
        }
        if memberships.groups.len() >= GROUPS_PER_CONNECTION_MAX {
            return Some(ErrorCode::TooManyGroups);
        }
        let index = *self.by_key.entry(key.clone()).or_insert_with(|| {
            self.groups_ever = self.groups_ever.wrapping_add(1);
            self.groups.insert(Group {
                key: key.clone(),
                seq: stay.seq,
                business: stay.business,
                number: self.groups_ever,
                members: Vec::new(),
                history: stay.history.then(Box::default),
            })
        });
        let group = &mut self.groups[index];
        let position = group.members.len() as u32;
        group.members.push(at);
        self.in_hand = None;
        self.memberships(at).groups.push((index, position));
        None
    }

    pub(super) fn leave(
        &mut self,
        at: SlotRef,
        key: &GroupKey,
        reason: LeftReason,
        message: String,
        done: Done,
    ) {
        let is_kick = reason == LeftReason::Kicked;
        let index = self.by_key.get(key).copied().filter(|_| self.is_member(at, key));
        if is_kick && index.is_some() {
            self.memberships(at).kicked_from.push(key.clone());
        }
        if let Some(index) = index {
            self.remove_member(at, index, ErrorCode::NotMember);
        }
        let refused = if index.is_some() { None } else { Some(ErrorCode::NotMember) };
        let request_id = match done {
            Done::Device(request_id) => request_id,
            Done::Business(tell) => {
                let _ = tell.send(refused);
                0
            }
        };
        if request_id != 0 || refused.is_none() {
            self.node.table.write(at, &left(request_id, key, refused, reason, message));
        }
    }

    pub(super) fn ended(&mut self, at: SlotRef) {
        let is_current = |memberships: &Memberships| memberships.generation == at.generation;
        if !self.of_slot.get(&at.slot).is_some_and(is_current) {
            return;
        }
        while let Some(&(index, _)) = self.of_slot.get(&at.slot).and_then(|m| m.groups.last()) {
            self.remove_member(at, index, ErrorCode::DeviceOffline);
        }
        self.of_slot.remove(&at.slot);
    }

    /// Takes everybody out of a group whose stay is this one, or was before it.
    pub(super) fn drop_group(&mut self, key: &GroupKey, seq: u64) {
        let found = self.by_key.get(key).copied();
        let Some(index) = found.filter(|&index| self.groups[index].seq <= seq) else { return };
        let members = self.groups[index].members.clone();
        for at in members {
            self.remove_member(at, index, ErrorCode::GroupNotFound);
            let frame = left(0, key, None, LeftReason::GroupDeleted, String::new());
            self.node.table.write(at, &frame);
        }
    }

    /// The record of a connection; one of an earlier life of the slot is left behind first.
    fn memberships(&mut self, at: SlotRef) -> &mut Memberships {
        let old = self.of_slot.get(&at.slot).map(|m| m.generation).filter(|&g| g != at.generation);
        if let Some(generation) = old {
            self.ended(SlotRef { slot: at.slot, generation });
        }
        self.of_slot.entry(at.slot).or_insert_with(|| Memberships {
            generation: at.generation,
            groups: Vec::new(),
            kicked_from: Vec::new(),
        })
    }

    pub(super) fn is_member(&self, at: SlotRef, key: &GroupKey) -> bool {
        let Some(&index) = self.by_key.get(key) else { return false };
        self.of_slot.get(&at.slot).is_some_and(|memberships| {
            memberships.generation == at.generation
                && memberships.groups.iter().any(|&(group, _)| group == index)
        })
    }

    /// Takes a member out, in constant time for the group: the last member takes its place. A join of
    /// it that is not answered yet was for nothing, and hears `why`.
    pub(super) fn remove_member(&mut self, at: SlotRef, index: usize, why: ErrorCode) {
        let Some(memberships) = self.of_slot.get_mut(&at.slot) else { return };
        let Some(nth) = memberships.groups.iter().position(|&(group, _)| group == index) else {
            return;
        };
        let (_, position) = memberships.groups.swap_remove(nth);
        if memberships.groups.is_empty() && memberships.kicked_from.is_empty() {
            self.of_slot.remove(&at.slot);
        }
        let group = &mut self.groups[index];
        let unanswered = match &mut group.history {
            Some(history) => history.forget(at),
            None => Vec::new(),
        };
        let number = group.number;
        self.node.table.with(at, |connection| {
            if let Some(downlink) = &mut connection.downlink {
                downlink.told_missed(number);
            }
        });
        group.members.swap_remove(position as usize);
        if let Some(moved) = group.members.get(position as usize) {
            let theirs = self.of_slot.get_mut(&moved.slot);
            let entry = theirs.and_then(|m| m.groups.iter_mut().find(|(group, _)| *group == index));
            if let Some((_, place)) = entry {
                *place = position;
            }
        }
        self.node.groups.leave(&group.key, group.seq, self.index, &self.node.routers);
        let refused = (!unanswered.is_empty())
            .then(|| (group.key.clone(), joined(0, &group.key, Some(why), group.business)));
        if group.members.is_empty() {
            let group = self.groups.remove(index);
            self.by_key.remove(&group.key);
        }
        let Some((key, refused)) = refused else { return };
        for joining in unanswered {
            self.answer_join(at, &key, joining.is_new, joining.done, refused.clone());
        }
    }

    pub(super) fn describe(&self, at: SlotRef) -> Vec<String> {
        let Some(memberships) = self.of_slot.get(&at.slot) else { return Vec::new() };
        if memberships.generation != at.generation {
            return Vec::new();
        }
        let name = |&(index, _): &(usize, u32)| self.groups[index].key.1.as_str().to_owned();
        memberships.groups.iter().map(name).collect()
    }
}

pub(super) fn joined(
    request_id: u64,
    key: &GroupKey,
    refused: Option<ErrorCode>,
    business: BusinessNo,
) -> Joined {
    Joined {
        request_id,
        group: key.1.as_str().to_owned(),
        status: refused.map_or(0, ErrorCode::number),
        message: refused.map_or_else(String::new, |code| code.meaning().to_owned()),
        business: if refused.is_none() { business.0 } else { 0 },
        ..Default::default()
    }
}

fn left(
    request_id: u64,
    key: &GroupKey,
    refused: Option<ErrorCode>,
    reason: LeftReason,
    message: String,
) -> NodeFrame {
    NodeFrame::Left(Left {
        request_id,
        group: key.1.as_str().to_owned(),
        status: refused.map_or(0, ErrorCode::number),
        message: refused.map_or(message, |code| code.meaning().to_owned()),
        reason: reason.into(),
    })
}
