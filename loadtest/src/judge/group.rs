//! What is promised of groups: members alone receive, in order, without a hole that nobody names.
//! Rules G1, G2, G4, G5.

use super::{Court, Durability, Event, Kind, Payload, Rule};
use hawser_proto::id::Position;
use std::collections::{HashMap, HashSet};

/// One device in one group, over all its links of one process. Numbers are indexes of events.
#[derive(Debug, Default)]
struct Member<'a> {
    process: u64,
    /// Links it is in over, and links it was in over.
    links: HashMap<&'a str, bool>,
    /// Where it stands: everything up to here was handed over or named by a reset.
    last: Option<(Position, usize)>,
    from: Position,
    handed: HashSet<Position>,
    resets: Vec<(Position, Position)>,
    live: HashMap<&'a str, usize>,
}

type MemberKey<'a> = (&'a str, &'a str, &'a str);

pub(super) fn judge(court: &mut Court<'_>) {
    let mut members: HashMap<MemberKey<'_>, Member<'_>> = HashMap::new();
    let mut published: Vec<usize> = Vec::new();
    for (index, event) in court.events.iter().enumerate() {
        let key = (event.app.as_str(), event.device.as_str(), event.inbox.as_str());
        match event.kind {
            Kind::GroupPub if event.term != 0 => published.push(index),
            Kind::Join => {
                let member = members.entry(key).or_default();
                member.enter(event.process);
                member.links.insert(&event.node, true);
                // Asked anew: whatever it had before is over.
                if event.position() == Position::START && event.prev() == Position::START {
                    (member.last, member.from) = (None, Position::START);
                    member.handed.clear();
                    member.resets.clear();
                }
                if event.prev() != Position::START && member.last.is_none() {
                    member.last = Some((event.prev(), index));
                    member.from = event.prev();
                }
                if event.position() != Position::START && member.last.is_none() {
                    member.last = Some((event.position(), index));
                    member.from = event.position();
                }
            }
            Kind::Leave if event.inbox.is_empty() => {
                let own = members.iter_mut().filter(|(it, _)| (it.0, it.1) == (key.0, key.1));
                for (_, member) in own {
                    if let Some(is_in) = member.links.get_mut(event.node.as_str()) {
                        *is_in = false;
                    }
                }
            }
            Kind::Leave => {
                let member = members.entry(key).or_default();
                if let Some(is_in) = member.links.get_mut(event.node.as_str()) {
                    *is_in = false;
                }
                // Whoever comes back later begins anew, unless it says where it stood.
                member.last = None;
                member.from = Position::START;
            }
            Kind::GroupRecv => {
                court.verdict.handed += 1;
                check_target(court, index, event);
                members.entry(key).or_default().on_handed(court, index, event);
            }
            Kind::GroupReset => {
                let member = members.entry(key).or_default();
                let after = member.last.map_or(Position::START, |(last, _)| last);
                member.resets.push((after, event.prev()));
                if after < event.prev() {
                    member.last = Some((event.prev(), index));
                }
            }
            Kind::Start => {
                let own = members.iter_mut().filter(|(it, _)| (it.0, it.1) == (key.0, key.1));
                own.for_each(|(_, member)| member.enter(event.process));
            }
            _ => {}
        }
    }
    at_the_end(court, &members, &published);
}

impl<'a> Member<'a> {
    fn enter(&mut self, process: u64) {
        if self.process != process {
            *self = Self { process, live: std::mem::take(&mut self.live), ..Self::default() };
        }
    }

    fn on_handed(&mut self, court: &mut Court<'a>, index: usize, event: &'a Event) {
        match self.links.get(event.node.as_str()) {
            Some(true) => {}
            Some(false) => {
                let what = format!("{} came over a link that had left", event.push);
                court.convict(Rule::AfterLeave, what, &[index]);
            }
            None => {
                let what = format!("{} came over a link that never joined", event.push);
                court.convict(Rule::NotAMember, what, &[index]);
            }
        }
        if event.term == 0 {
            if let Some(before) = self.live.insert(&event.push, index) {
                let what = format!("{} was handed over twice", event.push);
                court.convict(Rule::VolatileTwice, what, &[before, index]);
            }
            return;
        }
        let position = event.position();
        if let Some((last, at)) = self.last {
            if position <= last {
                let what = format!("{position} came after {last}");
                court.convict(Rule::GroupOrder, what, &[at, index]);
            } else if event.prev() > last {
                let what = format!("{position} follows {}, the member had {last}", event.prev());
                court.convict(Rule::GroupHole, what, &[at, index]);
            }
        } else {
            self.from = event.prev();
        }
        self.handed.insert(position);
        if self.last.is_none_or(|(last, _)| last < position) {
            self.last = Some((position, index));
        }
    }
}

fn check_target(court: &mut Court<'_>, index: usize, event: &Event) {
    if event.body.is_empty() {
        return;
    }
    match Payload::parse(&event.body) {
        Some(payload) if payload.app != event.app || payload.inbox != event.inbox => {
            let what = format!(
                "a payload of {} / {} came to {} / {}",
                payload.app, payload.inbox, event.app, event.inbox
            );
            court.convict(Rule::CrossTenant, what, &[index]);
        }
        Some(payload) if !payload.device.is_empty() => {
            let what = format!("a payload for {} alone came through a group", payload.device);
            court.convict(Rule::WrongDevice, what, &[index]);
        }
        Some(_) => {}
        None => {
            let what = format!("the payload of {} is not whole", event.push);
            court.convict(Rule::Corrupt, what, &[index]);
        }
    }
}

/// At rest a member has everything since it came, but for what a reset or a declared fault took.
fn at_the_end<'a>(
    court: &mut Court<'a>,
    members: &HashMap<MemberKey<'a>, Member<'a>>,
    published: &[usize],
) {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(key, _)| **key);
    for (key, member) in members {
        let Some(rest) = court.rest_of((key.0, key.1)) else { continue };
        let Some((_, last)) = member.last else { continue };
        if !member.links.values().any(|is_in| *is_in) {
            continue;
        }
        for publication in published {
            let event = &court.events[*publication];
            let position = event.position();
            let named =
                |(after, floor): &(Position, Position)| *after < position && position <= *floor;
            let durability = event.durability.unwrap_or(Durability::Memory);
            let asked = if event.since == 0 { event.t } else { event.since };
            if (event.app.as_str(), event.inbox.as_str()) != (key.0, key.2)
                || event.t > rest
                || position <= member.from
                || member.handed.contains(&position)
                || member.resets.iter().any(named)
                || court.may_have_lost(asked, event.t, durability)
            {
                continue;
            }
            let what = format!("{} of {} never got {position}", key.1, key.2);
            court.convict(Rule::GroupHole, what, &[last, *publication]);
        }
    }
}
