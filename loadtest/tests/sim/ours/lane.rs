//! A node's members of a history group. The real one lives in the lane's task (`access/src/lane/history.rs`)
//! and cannot be taken out of it; this says the same rules again, one for one, without task and table, so
//! that they meet the faults together with the store's rules, the router's outlet and the SDK's groups.

use super::{Ask, Item, Message, Ours};
use crate::net::{MS, Net, Ns, Part};
use bytes::Bytes;
use hawser_proto::frame::NodeFrame;
use hawser_proto::id::{Position, SlotRef};
use hawser_proto::params;
use std::collections::BTreeMap;

/// The one group of each app; of the same name, and not the same.
pub(super) const GROUP: &str = "room";
const PULL_ENTRIES: u32 = 8;
const PAUSE: Ns = 200 * MS;

/// For whom a history was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whom {
    Lane,
    Member(SlotRef, Position),
    /// A sweep wants the tail.
    Tail,
}

#[derive(Debug)]
struct Recovering {
    at: SlotRef,
    after: Position,
    is_pulling: bool,
}

/// One group here.
#[derive(Debug, Default)]
pub(super) struct Lane {
    members: Vec<SlotRef>,
    last: Option<Position>,
    beyond: Position,
    pulling: Option<Position>,
    not_before: Ns,
    joining: Vec<(SlotRef, Position, u64)>,
    recovering: BTreeMap<u32, Recovering>,
}

impl Lane {
    fn is_behind(&self) -> bool {
        self.last.is_none_or(|last| self.beyond > last)
    }

    /// Joins that wait count as members: whatever comes meanwhile is remembered.
    pub(super) fn is_in_use(&self) -> bool {
        !self.members.is_empty()
    }

    pub(super) fn forget(&mut self, at: SlotRef) {
        self.members.retain(|member| *member != at);
        self.joining.retain(|joining| joining.0 != at);
        self.recovering.retain(|_, member| member.at != at);
    }
}

/// Above everything that was lost before an entry, and not above the entry.
fn below(at: Position) -> Position {
    Position::new(at.term, at.seq.saturating_sub(1))
}

type Entries = (Vec<Item>, Position, Position);

impl Ours {
    fn lane(&mut self, node: usize, app: &str) -> &mut Lane {
        self.nodes[node].lanes.entry(app.to_owned()).or_default()
    }

    pub(super) fn join_group(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        app: &str,
        join: &params::Join,
    ) {
        let seen = Position::new(join.last_term, join.last_seq);
        let lane = self.lane(node, app);
        if lane.members.is_empty() {
            // A new stay: nobody has looked after what came meanwhile.
            *lane = Lane::default();
        }
        if !lane.members.contains(&at) {
            lane.members.push(at);
        }
        if lane.last.is_none() {
            lane.joining.push((at, seen, join.request_id));
            return self.pull_for_lane(net, node, app);
        }
        self.admit(net, node, app, (at, seen, join.request_id));
    }

    fn admit(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        (at, seen, request_id): (SlotRef, Position, u64),
    ) {
        let tail = self.lane(node, app).last.unwrap_or_default();
        let joined = params::Joined {
            request_id,
            group: GROUP.to_owned(),
            business: super::number_of(app, "chat").0,
            history: true,
            tail_term: tail.term,
            tail_seq: tail.seq,
            ..params::Joined::default()
        };
        self.write(net, node, at, NodeFrame::Joined(joined).encode());
        if seen > Position::START && seen < tail {
            self.begin_recovery(net, node, app, at, seen);
        }
    }

    pub(super) fn leave_group(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        app: &str,
        leave: &params::Leave,
    ) {
        self.lane(node, app).forget(at);
        let left = params::Left {
            request_id: leave.request_id,
            group: GROUP.to_owned(),
            reason: params::LeftReason::Asked as i32,
            ..params::Left::default()
        };
        self.write(net, node, at, NodeFrame::Left(left).encode());
    }

    pub(super) fn recover_group(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        at: SlotRef,
        app: &str,
        after: Position,
    ) {
        let lane = self.lane(node, app);
        if lane.members.contains(&at) && lane.last.is_some_and(|last| after < last) {
            self.begin_recovery(net, node, app, at, after);
        }
    }

    /// A push, as the router fans it out.
    pub(super) fn group_push(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        item: &Item,
    ) {
        let lane = self.lane(node, app);
        if lane.members.is_empty() {
            return;
        }
        let is_next = match lane.last {
            Some(last) if item.at <= last => return,
            Some(last) => item.prev <= last && lane.pulling.is_none() && lane.beyond <= last,
            None => false,
        };
        if is_next {
            self.write_live(net, node, app, item.at, &item.frame);
        } else {
            lane.beyond = lane.beyond.max(item.at);
            self.pull_for_lane(net, node, app);
        }
    }

    fn write_live(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        at: Position,
        frame: &Bytes,
    ) {
        let lane = self.lane(node, app);
        let last = lane.last.unwrap_or_default();
        let is_live = |member: &&SlotRef| !lane.recovering.contains_key(&member.slot);
        let live: Vec<SlotRef> = lane.members.iter().filter(is_live).copied().collect();
        let mut behind = Vec::new();
        for member in live {
            if self.takes(net, node, member, frame.len()) {
                self.write(net, node, member, frame.clone());
            } else {
                behind.push(member);
            }
        }
        for member in behind {
            self.begin_recovery(net, node, app, member, last);
        }
        self.lane(node, app).last = Some(at);
    }

    fn takes(&mut self, net: &Net<Message>, node: usize, at: SlotRef, bytes: usize) -> bool {
        self.nodes[node].link_of(at).is_some_and(|link| net.has_room(link, bytes))
    }

    fn pull_for_lane(&mut self, net: &mut Net<Message>, node: usize, app: &str) {
        let now = net.now;
        let lane = self.lane(node, app);
        if lane.pulling.is_some() || now < lane.not_before {
            return;
        }
        let (after, most) = match lane.last {
            Some(last) => (last, PULL_ENTRIES),
            None => (Position::START, 0),
        };
        lane.pulling = Some(std::mem::take(&mut lane.beyond));
        if !self.ask_history(net, node, app, after, most, Whom::Lane) {
            self.pull_failed(net, node, app);
        }
    }

    fn pull_failed(&mut self, net: &mut Net<Message>, node: usize, app: &str) {
        let not_before = net.now + PAUSE;
        let lane = self.lane(node, app);
        let known = lane.pulling.take().unwrap_or_default();
        lane.beyond = lane.beyond.max(known);
        lane.not_before = not_before;
        net.after(PAUSE, Part::Node(node), Message::LaneTurn(app.to_owned()));
        if self.lane(node, app).last.is_some() {
            return;
        }
        for (at, _, request_id) in std::mem::take(&mut self.lane(node, app).joining) {
            let joined = params::Joined {
                request_id,
                group: GROUP.to_owned(),
                status: hawser_proto::code::ErrorCode::Unavailable.number(),
                ..params::Joined::default()
            };
            self.lane(node, app).forget(at);
            self.write(net, node, at, NodeFrame::Joined(joined).encode());
        }
    }

    /// With each turn of the wheel: what had to pause goes on.
    pub(super) fn lane_turn(&mut self, net: &mut Net<Message>, node: usize, app: &str) {
        let lane = self.lane(node, app);
        if lane.is_in_use() && lane.is_behind() {
            self.pull_for_lane(net, node, app);
        }
        self.next_recoveries(net, node, app);
    }

    pub(super) fn history_answered(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        whom: Whom,
        answer: Option<Entries>,
    ) {
        match (whom, answer) {
            (Whom::Lane, Some(answer)) => self.lane_recovered(net, node, app, answer),
            (Whom::Lane, None) => self.pull_failed(net, node, app),
            (Whom::Member(at, after), answer) => {
                self.member_recovered(net, node, app, at, after, answer);
            }
            (Whom::Tail, Some((_, tail, _))) => {
                let lane = self.lane(node, app);
                if lane.is_in_use() {
                    lane.beyond = lane.beyond.max(tail);
                    if lane.is_behind() {
                        self.pull_for_lane(net, node, app);
                    }
                }
            }
            (Whom::Tail, None) => self.want_sweep(net, node),
        }
    }

    fn lane_recovered(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        (entries, tail, floor): Entries,
    ) {
        let lane = self.lane(node, app);
        if lane.pulling.take().is_none() {
            return;
        }
        let Some(last) = lane.last else {
            lane.last = Some(tail);
            for joining in std::mem::take(&mut lane.joining) {
                self.admit(net, node, app, joining);
            }
            return self.lane_turn(net, node, app);
        };
        lane.beyond = lane.beyond.max(tail);
        if floor > last {
            self.reset_live(net, node, app, floor, tail);
        }
        let is_progress = floor > last || entries.iter().any(|entry| entry.at > last);
        for entry in entries {
            let last = self.lane(node, app).last.unwrap_or_default();
            if entry.at <= last {
                continue;
            }
            if entry.frame.is_empty() {
                self.reset_live(net, node, app, entry.at, tail);
                continue;
            }
            if entry.prev > last || entry.lost > 0 {
                self.reset_live(net, node, app, below(entry.at), tail);
            }
            self.write_live(net, node, app, entry.at, &entry.frame);
        }
        let not_before = net.now + PAUSE;
        let lane = self.lane(node, app);
        if !is_progress && lane.is_behind() {
            lane.not_before = not_before;
            net.after(PAUSE, Part::Node(node), Message::LaneTurn(app.to_owned()));
        }
        self.lane_turn(net, node, app);
    }

    fn begin_recovery(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        at: SlotRef,
        after: Position,
    ) {
        let lane = self.lane(node, app);
        if let Some(known) = lane.recovering.get_mut(&at.slot).filter(|known| known.at == at) {
            known.after = after;
        } else {
            let recovering = Recovering { at, after, is_pulling: false };
            lane.recovering.insert(at.slot, recovering);
            self.next_recoveries(net, node, app);
        }
    }

    fn next_recoveries(&mut self, net: &mut Net<Message>, node: usize, app: &str) {
        let waiting = self.lane(node, app).recovering.values().filter(|it| !it.is_pulling);
        let waiting: Vec<(SlotRef, Position)> = waiting.map(|it| (it.at, it.after)).collect();
        let mut is_paused = false;
        for (at, after) in waiting {
            let whom = Whom::Member(at, after);
            let takes = self.takes(net, node, at, 1);
            let is_asked = takes && self.ask_history(net, node, app, after, PULL_ENTRIES, whom);
            if let Some(member) = self.lane(node, app).recovering.get_mut(&at.slot) {
                member.is_pulling = is_asked;
            }
            is_paused |= !is_asked;
        }
        if is_paused {
            net.after(PAUSE, Part::Node(node), Message::LaneTurn(app.to_owned()));
        }
    }

    fn member_recovered(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        at: SlotRef,
        after: Position,
        answer: Option<Entries>,
    ) {
        let lane = self.lane(node, app);
        let last = lane.last.unwrap_or_default();
        let Some(member) = lane.recovering.get_mut(&at.slot) else { return };
        if member.at != at || !member.is_pulling {
            return;
        }
        member.is_pulling = false;
        let wants_this = member.after == after;
        let is_over = answer.is_some_and(|answer| {
            wants_this && self.write_recovered(net, node, app, at, last, answer)
        });
        if is_over {
            self.lane(node, app).recovering.remove(&at.slot);
        } else {
            net.after(PAUSE, Part::Node(node), Message::LaneTurn(app.to_owned()));
        }
    }

    fn write_recovered(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        at: SlotRef,
        last: Position,
        (entries, tail, floor): Entries,
    ) -> bool {
        let lane = self.lane(node, app);
        let mut after = lane.recovering.get(&at.slot).map_or(Position::START, |it| it.after);
        if floor > after {
            self.reset_member(net, node, app, at, floor, tail);
            after = floor;
        }
        let mut is_over = entries.is_empty();
        for entry in entries {
            if entry.at > last {
                is_over = true;
                break;
            }
            if entry.at <= after {
                continue;
            }
            if entry.frame.is_empty() {
                self.reset_member(net, node, app, at, entry.at, tail);
            } else if self.takes(net, node, at, entry.frame.len()) {
                if entry.prev > after || entry.lost > 0 {
                    self.reset_member(net, node, app, at, below(entry.at), tail);
                }
                self.write(net, node, at, entry.frame);
            } else {
                break;
            }
            after = entry.at;
        }
        if let Some(member) = self.lane(node, app).recovering.get_mut(&at.slot) {
            member.after = after;
        }
        is_over || after >= last
    }

    fn reset_live(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        floor: Position,
        tail: Position,
    ) {
        let lane = self.lane(node, app);
        lane.last = Some(floor);
        let is_live = |member: &&SlotRef| !lane.recovering.contains_key(&member.slot);
        let live: Vec<SlotRef> = lane.members.iter().filter(is_live).copied().collect();
        for at in live {
            self.reset_member(net, node, app, at, floor, tail);
        }
    }

    fn reset_member(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        at: SlotRef,
        floor: Position,
        tail: Position,
    ) {
        let reset = params::GroupReset {
            group: GROUP.to_owned(),
            business: super::number_of(app, "chat").0,
            floor_term: floor.term,
            floor_seq: floor.seq,
            tail_term: tail.term,
            tail_seq: tail.seq,
        };
        self.write(net, node, at, NodeFrame::GroupReset(reset).encode());
    }

    fn ask_history(
        &mut self,
        net: &mut Net<Message>,
        node: usize,
        app: &str,
        after: Position,
        entries_max: u32,
        whom: Whom,
    ) -> bool {
        let group = (app.to_owned(), GROUP.to_owned());
        let ask = Ask::History { group, after, entries_max };
        self.ask_for_lane(net, node, app, ask, whom)
    }

    /// A sweep asks for the tails of all groups with members here.
    pub(super) fn sweep_lanes(&mut self, net: &mut Net<Message>, node: usize) {
        let used = self.nodes[node].lanes.iter().filter(|(_, lane)| lane.is_in_use());
        let used: Vec<String> = used.map(|(app, _)| app.clone()).collect();
        for app in used {
            if !self.ask_history(net, node, &app, Position::START, 0, Whom::Tail) {
                self.want_sweep(net, node);
            }
        }
    }
}
