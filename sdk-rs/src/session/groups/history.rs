//! Pushes of groups: each once and in order where the group keeps a history, and counted where it
//! does not.

use super::membership::{Membership, Stage};
use super::{Groups, Outcome};
use crate::incoming::{GroupReset, Push};
use crate::session::inbox::Place;
use hawser_proto::id::Position;
use hawser_proto::limits::GROUPS_PER_CONNECTION_MAX;
use hawser_proto::params;
use std::sync::Arc;
use std::time::Instant;

impl Groups {
    /// GROUP_PUSH.
    pub(in crate::session) fn push(
        &mut self,
        business: &Arc<str>,
        place: Place,
        mut push: Push,
        now: Instant,
        out: &mut Vec<Outcome>,
    ) {
        let Some(group) = push.group.clone() else { return };
        if self.is_leaving(&group) {
            return;
        }
        if push.position.is_none() && self.is_echo(self.line, &group, &push.id) {
            return;
        }
        let has_history = self.has_history;
        let is_known = self.wanted.contains_key(&group) || self.put_in.contains_key(&group);
        let Some(member) = (match push.position {
            None if !is_known => None,
            Some(_) | None => self.member(&group, business),
        }) else {
            return out.push(Outcome::Push(business.clone(), push));
        };
        if push.position.is_some() {
            let Place { at, prev } = place;
            // Written before the JOINED that says where this member begins.
            let is_first = member.last == Position::START;
            if at <= member.last {
                return;
            }
            if prev > member.last && !is_first && has_history {
                return member.recover(&group, now, out);
            }
            if at.term != member.last.term && prev < member.last {
                // The store went back behind what this device had.
                let last = member.last;
                let reset = GroupReset { group, last, floor: prev, tail: at };
                out.push(Outcome::Reset(business.clone(), reset));
            }
            member.take(at);
        }
        push.missed = std::mem::take(&mut member.missed);
        out.push(Outcome::Push(business.clone(), push));
    }

    /// The app has left, and the node may not have heard: what is still on its way is for nobody, and
    /// must not look as if the business had put this device in.
    /// Also when it has joined again meanwhile: up to the LEFT it is of the stay before.
    pub(super) fn is_leaving(&self, group: &str) -> bool {
        let mut on_wire = self.on_wire.values().filter(|it| it.group == group);
        let is_wanted = self.wanted.contains_key(group);
        on_wire.any(|it| !is_wanted || !it.is_join) || self.leaves.iter().any(|(_, it)| it == group)
    }

    /// MISSED.
    pub(in crate::session) fn missed(&mut self, missed: &params::Missed, business: &Arc<str>) {
        if let Some(member) = self.member(&missed.group, business) {
            member.missed = member.missed.saturating_add(missed.count);
        }
    }

    /// GROUP_RESET.
    pub(in crate::session) fn reset(&mut self, reset: &params::GroupReset, out: &mut Vec<Outcome>) {
        let wanted = self.wanted.get_mut(&reset.group);
        let Some(member) = wanted.or_else(|| self.put_in.get_mut(&reset.group)) else { return };
        let floor = Position::new(reset.floor_term, reset.floor_seq);
        let tail = Position::new(reset.tail_term, reset.tail_seq);
        let last = member.last;
        if floor <= last && last <= tail {
            return; // nothing that this device lacks is gone
        }
        member.take(floor);
        let reset = GroupReset { group: reset.group.clone(), last, floor, tail };
        out.push(Outcome::Reset(member.business.clone(), reset));
    }

    /// JOINED that nobody asked for: the business has put this device in.
    pub(super) fn put_in(
        &mut self,
        joined: &params::Joined,
        business: Option<&Arc<str>>,
        now: Instant,
        out: &mut Vec<Outcome>,
    ) {
        let Some(business) = business.filter(|_| joined.status == 0) else { return };
        let Some(member) = self.member(&joined.group, business) else { return };
        // While a JOIN is under way its own answer decides.
        if member.stage == Stage::In {
            member.begin(joined);
            if Position::new(joined.tail_term, joined.tail_seq) > member.last && joined.history {
                member.recover(&joined.group, now, out);
            }
        }
    }

    /// A membership that is wanted, or one that the business has made.
    fn member(&mut self, group: &str, business: &Arc<str>) -> Option<&mut Membership> {
        if self.wanted.contains_key(group) {
            return self.wanted.get_mut(group);
        }
        if self.put_in.len() >= GROUPS_PER_CONNECTION_MAX && !self.put_in.contains_key(group) {
            // What is left of earlier connections goes first.
            self.put_in.retain(|_, member| member.stage == Stage::In);
            if self.put_in.len() >= GROUPS_PER_CONNECTION_MAX {
                return None;
            }
        }
        let member = self.put_in.entry(group.to_owned());
        let member = member.or_insert_with(|| Membership::new(business.clone()));
        member.stage = Stage::In;
        Some(member)
    }
}
