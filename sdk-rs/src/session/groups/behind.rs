//! What a link that the session has moved from still brings.

use super::echo::Echoes;
use super::membership::Stage;
use super::{Groups, Outcome};
use crate::incoming::{Left, Push};
use crate::session::inbox::Place;
use hawser_proto::id::Position;
use hawser_proto::params;
use std::sync::Arc;
use std::time::Instant;

impl Groups {
    /// A move begins: from now on two links may bring the same push.
    pub(in crate::session) fn moving(&mut self) {
        self.echoes.get_or_insert_default().keep();
    }

    /// There is one link again.
    pub(in crate::session) fn settled(&mut self, now: Instant) {
        if let Some(echoes) = &mut self.echoes {
            echoes.end(now);
        }
    }

    /// Whether the link in use has taken up every membership, as far as it will.
    pub(in crate::session) fn is_joined(&self) -> bool {
        let is_under_way = |stage| matches!(stage, Stage::Wanted | Stage::Joining(_));
        !self.wanted.values().any(|member| is_under_way(member.stage))
    }

    /// GROUP_PUSH on the link left behind. What lies further ahead than the next comes on the new one.
    pub(in crate::session) fn push_behind(
        &mut self,
        business: &Arc<str>,
        Place { at, prev }: Place,
        push: Push,
        out: &mut Vec<Outcome>,
    ) {
        let Some(group) = push.group.as_deref() else { return };
        if self.is_leaving(group) {
            return;
        }
        if push.position.is_none() {
            let line = self.line.wrapping_sub(1);
            if !self.is_echo(line, group, &push.id) {
                out.push(Outcome::Push(business.clone(), push));
            }
            return;
        }
        let wanted = self.wanted.get_mut(group);
        let Some(member) = wanted.or_else(|| self.put_in.get_mut(group)) else { return };
        let follows = member.last != Position::START && prev == member.last && at > member.last;
        if follows {
            member.last = at;
            out.push(Outcome::Push(business.clone(), push));
        }
    }

    /// LEFT on the link left behind: the business had ended the membership before the move. `id`: for
    /// the LEAVE that undoes a join on the new link.
    pub(in crate::session) fn left_behind(
        &mut self,
        left: params::Left,
        id: u64,
        out: &mut Vec<Outcome>,
    ) {
        if left.request_id != 0 {
            return;
        }
        self.put_in.remove(&left.group);
        let reason = super::left_reason(&left);
        // One that was never in on the old link is another membership: its own join decides.
        let Some(member) = self.wanted.get(&left.group).filter(|member| member.held) else {
            return;
        };
        let (business, stage) = (member.business.clone(), member.stage);
        self.wanted.remove(&left.group);
        if matches!(stage, Stage::In | Stage::Joining(_)) {
            self.leaves.push_back((id, left.group.clone()));
        }
        out.push(Outcome::Left(business, Left { group: left.group, reason }));
    }

    pub(super) fn is_echo(&mut self, line: u32, group: &str, push_id: &[u8]) -> bool {
        self.echoes.as_mut().is_some_and(|echoes| echoes.is_echo(line, group, push_id))
    }

    pub(super) fn forget_echoes(&mut self, now: Instant) {
        self.echoes.take_if(|echoes: &mut Echoes| echoes.is_over(now));
    }
}
