//! What is promised of sessions: one at a time, in the order of their epochs, and no word of an old one
//! counts. Rules S6, P1 to P5.

use super::{Court, DeviceKey, Event, Kind, Rule};
use std::collections::{HashMap, HashSet};

/// One device's sessions. Numbers are indexes of events.
#[derive(Debug, Default)]
struct Sessions<'a> {
    /// The claim in force; none when the store went back behind it.
    current: Option<usize>,
    highest: Option<usize>,
    attempts: HashMap<&'a str, usize>,
    route: Option<usize>,
    /// What each business has heard.
    heard: HashMap<&'a str, Heard>,
}

/// All that one business has heard of a device.
#[derive(Debug, Default)]
struct Heard {
    /// The highest word: the newest session, its end above its beginning.
    last: Option<usize>,
    words: HashSet<Word>,
}

/// A session, and whether it ended.
type Word = (u64, bool);

fn word(event: &Event) -> Word {
    (event.epoch, event.kind == Kind::Offline)
}

pub(super) fn judge(court: &mut Court<'_>) {
    let mut all: HashMap<DeviceKey<'_>, Sessions<'_>> = HashMap::new();
    for (index, event) in court.events.iter().enumerate() {
        let key = (event.app.as_str(), event.device.as_str());
        if event.kind == Kind::FaultOn && event.fault == "store_back" {
            for sessions in all.values_mut() {
                let forgotten = |it: &usize| court.events[*it].t >= event.since;
                sessions.current.take_if(|it| forgotten(it));
                sessions.route.take_if(|it| forgotten(it));
            }
        }
        match event.kind {
            Kind::Claim
            | Kind::Ack
            | Kind::RouteSet
            | Kind::RouteDel
            | Kind::Online
            | Kind::Offline
            | Kind::Rest => {}
            _ => continue,
        }
        let sessions = all.entry(key).or_default();
        match event.kind {
            Kind::Claim => sessions.on_claim(court, index, event),
            Kind::Ack => sessions.on_ack(court, index, event),
            Kind::RouteSet => sessions.route = Some(index),
            Kind::RouteDel => sessions.on_removal(court, index, event),
            Kind::Online | Kind::Offline => sessions.on_word(court, index, event),
            _ => sessions.at_rest(court, index, event),
        }
    }
}

impl<'a> Sessions<'a> {
    fn on_claim(&mut self, court: &mut Court<'a>, index: usize, event: &'a Event) {
        let is_login = !event.instance.is_empty();
        if let Some(highest) = self.highest {
            let before = &court.events[highest];
            let same = before.epoch == event.epoch && before.node != event.node;
            let lower = event.epoch < before.epoch || (is_login && event.epoch == before.epoch);
            if (same || lower) && !court.went_back_between(before.t, event.t) {
                let what = format!("epoch {} was taken after epoch {}", event.epoch, before.epoch);
                court.convict(Rule::TwoSessions, what, &[highest, index]);
            }
        }
        if self.highest.is_none_or(|it| court.events[it].epoch <= event.epoch) {
            self.highest = Some(index);
        }
        if is_login {
            if let Some(before) = self.attempts.get(event.instance.as_str()).copied()
                && court.events[before].attempt >= event.attempt
                && !court.went_back_between(court.events[before].t, event.t)
            {
                let what = format!(
                    "attempt {} was taken after attempt {}",
                    event.attempt, court.events[before].attempt
                );
                court.convict(Rule::StaleLogin, what, &[before, index]);
            }
            // The store remembers one installation: the last.
            self.attempts.clear();
            self.attempts.insert(&event.instance, index);
        }
        self.current = Some(index);
    }

    fn on_ack(&mut self, court: &mut Court<'a>, index: usize, event: &Event) {
        let Some(current) = self.current else { return };
        let claim = &court.events[current];
        let other_link =
            !claim.node.is_empty() && !event.node.is_empty() && claim.node != event.node;
        if claim.epoch != event.epoch || other_link {
            let what = format!(
                "an acknowledgement of epoch {} was taken while epoch {} was in force",
                event.epoch, claim.epoch
            );
            court.convict(Rule::StaleAck, what, &[current, index]);
        }
    }

    fn on_removal(&mut self, court: &mut Court<'a>, index: usize, event: &Event) {
        if let Some(route) = self.route
            && court.events[route].kind == Kind::RouteSet
            && court.events[route].epoch != event.epoch
        {
            let what = format!(
                "the route of epoch {} was removed by epoch {}",
                court.events[route].epoch, event.epoch
            );
            court.convict(Rule::StaleRemoval, what, &[route, index]);
        }
        self.route = Some(index);
    }

    fn on_word(&mut self, court: &mut Court<'a>, index: usize, event: &'a Event) {
        let heard = self.heard.entry(&event.inbox).or_default();
        let is_new = heard.words.insert(word(event));
        match heard.last {
            Some(last) if word(event) < word(&court.events[last]) => {
                let newer = &court.events[last];
                if is_new && !court.went_back_between(newer.t, event.t) {
                    let what =
                        format!("word of epoch {} came after epoch {}", event.epoch, newer.epoch);
                    court.convict(Rule::EventOrder, what, &[last, index]);
                }
            }
            _ => heard.last = Some(index),
        }
    }

    /// What the business that has to hear of the session has heard last is what is true.
    fn told_at_rest(&self, court: &mut Court<'a>, index: usize, event: &Event) {
        let claimed = self.current.map(|it| &court.events[it]).filter(|it| !it.inbox.is_empty());
        let Some(claim) = claimed else { return };
        let last = self.heard.get(claim.inbox.as_str()).and_then(|heard| heard.last);
        let last_word = last.map(|last| word(&court.events[last]));
        let is_told = if event.node.is_empty() {
            last_word.is_none_or(|(_, ended)| ended)
        } else {
            last_word == Some((event.epoch, false))
        };
        if !is_told {
            let what = format!("at rest {} has heard {last_word:?} last", claim.inbox);
            let proof: Vec<usize> = last.into_iter().chain([index]).collect();
            court.convict(Rule::Untold, what, &proof);
        }
    }

    fn at_rest(&mut self, court: &mut Court<'a>, index: usize, event: &Event) {
        self.told_at_rest(court, index, event);
        let Some(route) = self.route else { return };
        let named = &court.events[route];
        let agree = match (named.kind, event.node.is_empty()) {
            (Kind::RouteDel, offline) => offline,
            (_, true) => false,
            (_, false) => named.node == event.node && named.epoch == event.epoch,
        };
        if !agree {
            let what = "at rest the route names another link than the live one".to_owned();
            court.convict(Rule::WrongRoute, what, &[route, index]);
        }
    }
}
