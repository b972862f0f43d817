//! What is promised of pushes to one device: nothing stored is lost, nothing comes twice, in order, for
//! this device alone. Rules S1 to S8, V1, V2, M1.

use super::{Court, DeviceKey, Durability, Event, Kind, Payload, Rule};
use hawser_proto::id::Position;
use hawser_proto::limits::INBOX_WINDOW_ENTRIES;
use std::collections::HashMap;

type InboxKey<'a> = (&'a str, &'a str, &'a str);
type PushKey<'a> = (&'a str, &'a str, &'a str, &'a str);

/// One push id, over all calls that named it. Numbers are indexes of events.
#[derive(Debug, Default)]
struct Push {
    calls: Vec<usize>,
    oks: Vec<usize>,
    sends: Vec<usize>,
    handed: Vec<usize>,
    evicted: Option<usize>,
}

/// One inbox as its device sees it.
#[derive(Debug, Default)]
struct Inbox {
    /// The last one handed over by this process.
    last: Option<usize>,
    process: u64,
    /// Highest position any process was handed.
    seen: Position,
    /// What is on disk at the device.
    committed: Position,
    /// Positions handed over since, by any process: what may come again after a crash.
    uncommitted: Vec<Position>,
    given: HashMap<Position, usize>,
    gaps: Vec<usize>,
    purges: Vec<usize>,
    told_of_return: bool,
}

#[derive(Debug, Default)]
struct Inboxes<'a> {
    pushes: HashMap<PushKey<'a>, Push>,
    inboxes: HashMap<InboxKey<'a>, Inbox>,
}

pub(super) fn judge(court: &mut Court<'_>) {
    let mut all = Inboxes::default();
    for (index, event) in court.events.iter().enumerate() {
        let inbox = (event.app.as_str(), event.device.as_str(), event.inbox.as_str());
        let key = (inbox.0, inbox.1, inbox.2, event.push.as_str());
        match event.kind {
            Kind::PushCall => all.pushes.entry(key).or_default().calls.push(index),
            Kind::PushOk => all.on_ok(court, index, event),
            Kind::Send => all.on_send(court, index, event),
            Kind::RecvApp => all.on_handed(court, index, event),
            Kind::Commit => {
                let inbox = all.inboxes.entry(inbox).or_default();
                inbox.committed = inbox.committed.max(event.position());
                let committed = inbox.committed;
                inbox.uncommitted.retain(|position| *position > committed);
            }
            Kind::Evict if event.push.is_empty() => {
                all.inboxes.entry(inbox).or_default().purges.push(index);
            }
            Kind::Evict => {
                all.pushes.entry(key).or_default().evicted.get_or_insert(index);
            }
            Kind::Gap => all.inboxes.entry(inbox).or_default().gaps.push(index),
            Kind::TermChanged => all.inboxes.entry(inbox).or_default().told_of_return = true,
            _ => {}
        }
    }
    all.at_the_end(court);
}

impl<'a> Inboxes<'a> {
    fn on_ok(&mut self, court: &mut Court<'a>, index: usize, event: &'a Event) {
        let key = (event.app.as_str(), event.device.as_str(), event.inbox.as_str());
        let push = self.pushes.entry((key.0, key.1, key.2, event.push.as_str())).or_default();
        let earlier = push.oks.iter().rev().copied().find(|it| {
            let ok = &court.events[*it];
            ok.term != 0
                && event.t - ok.t <= court.options.dedup_window
                && !court.may_have_lost(first_call(court, push), ok.t, reached(ok))
        });
        push.oks.push(index);
        if event.term == 0 {
            return;
        }
        if let Some(earlier) = earlier
            && court.events[earlier].position() != event.position()
        {
            let what = format!(
                "push {} was stored at {} and again at {}",
                event.push,
                court.events[earlier].position(),
                event.position()
            );
            court.convict(Rule::TwoPositions, what, &[earlier, index]);
        }
        let called = push.calls.last().copied();
        let inbox = self.inboxes.entry(key).or_default();
        match inbox.given.get(&event.position()).copied() {
            Some(other) if court.events[other].push != event.push => {
                let what = format!(
                    "position {} was given to {} and to {}",
                    event.position(),
                    court.events[other].push,
                    event.push
                );
                court.convict(Rule::PositionReused, what, &[other, index]);
            }
            Some(_) => {}
            None => {
                inbox.given.insert(event.position(), index);
            }
        }
        // Only a push that was accepted after the device had seen more: a repeated call names the old place.
        if let Some(call) = called
            && let Some(last) = inbox.last
            && push.calls.len() == 1
            && court.events[last].t < court.events[call].t
            && event.position() <= court.events[last].position()
            && court.events[last].push != event.push
        {
            let what = format!(
                "push {} was stored at {} when the device had seen {}",
                event.push,
                event.position(),
                court.events[last].position()
            );
            court.convict(Rule::PositionReused, what, &[last, call, index]);
        }
    }

    fn on_send(&mut self, court: &mut Court<'a>, index: usize, event: &'a Event) {
        check_target(court, index, event);
        if event.volatile || event.term == 0 {
            let key = (
                event.app.as_str(),
                event.device.as_str(),
                event.inbox.as_str(),
                event.push.as_str(),
            );
            let push = self.pushes.entry(key).or_default();
            if let Some(first) = push.sends.first() {
                let what = format!("volatile push {} was written twice", event.push);
                court.convict(Rule::VolatileTwice, what, &[*first, index]);
            }
            push.sends.push(index);
        }
    }

    fn on_handed(&mut self, court: &mut Court<'a>, index: usize, event: &'a Event) {
        court.verdict.handed += 1;
        check_target(court, index, event);
        if court.liars.contains(&(event.app.as_str(), event.device.as_str())) {
            return;
        }
        let key = (event.app.as_str(), event.device.as_str(), event.inbox.as_str());
        let last = self.inboxes.get(&key).and_then(|inbox| inbox.last);
        let is_last_gone = last.is_some_and(|last| self.is_gone(court, last, event.t));
        let push = self.pushes.entry((key.0, key.1, key.2, event.push.as_str())).or_default();
        let before = push.handed.last().copied();
        push.handed.push(index);
        if event.volatile || event.term == 0 {
            if let Some(before) = before {
                let what = format!("volatile push {} was handed over twice", event.push);
                court.convict(Rule::VolatileTwice, what, &[before, index]);
            }
            if let Some(send) = push.sends.first()
                && event.epoch != 0
                && court.events[*send].epoch != event.epoch
            {
                let what = format!("volatile push {} reached another session", event.push);
                court.convict(Rule::OutsideSession, what, &[*send, index]);
            }
            return;
        }
        let inbox = self.inboxes.entry(key).or_default();
        if inbox.process != event.process {
            inbox.process = event.process;
            inbox.last = None;
        }
        if let Some(before) = before {
            let first = &court.events[before];
            // The store may have forgotten that it was ever sent.
            let is_flagged = event.redelivered || court.went_back_between(first.t, event.t);
            let again = is_flagged
                && first.process != event.process
                && first.position() == event.position()
                && event.position() > inbox.committed
                && inbox.uncommitted.len() <= INBOX_WINDOW_ENTRIES;
            // The store forgot the entry, its push id with it, and took it anew.
            let ok = push.oks.first().map_or(first, |ok| &court.events[*ok]);
            let called = push.calls.first().map_or(first, |call| &court.events[*call]);
            let anew = event.position() > first.position()
                && (court.may_have_lost(called.t, ok.t.max(called.t), reached(ok))
                    || event.t - called.t > court.options.dedup_window);
            if again {
                court.verdict.redelivered += 1;
            } else if !anew {
                let what = format!(
                    "push {} was handed over twice (cursor on disk {}, {} above it, redelivered {})",
                    event.push,
                    inbox.committed,
                    inbox.uncommitted.len(),
                    event.redelivered
                );
                court.convict(Rule::Duplicate, what, &[before, index]);
            }
        } else if event.position() <= inbox.committed {
            let what = format!("{} lies below the cursor {}", event.position(), inbox.committed);
            court.convict(Rule::Order, what, &[index]);
        }
        if let Some(last) = inbox.last {
            let last_event = &court.events[last];
            if event.position() <= last_event.position() {
                let what = format!("{} came after {}", event.position(), last_event.position());
                court.convict(Rule::Order, what, &[last, index]);
            } else if event.term > last_event.term
                && event.prev() != Position::START
                && event.prev() < last_event.position()
                && !inbox.told_of_return
                && !is_last_gone
            {
                let what = format!(
                    "{} follows {}, the device had {}, and was not told",
                    event.position(),
                    event.prev(),
                    last_event.position()
                );
                court.convict(Rule::SilentReturn, what, &[last, index]);
            }
        }
        inbox.told_of_return = false;
        inbox.last = Some(index);
        inbox.seen = inbox.seen.max(event.position());
        if !inbox.uncommitted.contains(&event.position()) {
            inbox.uncommitted.push(event.position());
        }
    }

    /// Whether what was handed over has left the store by policy: then what follows it names another.
    fn is_gone(&self, court: &Court<'a>, handed: usize, now: u64) -> bool {
        let event = &court.events[handed];
        let key = (event.app.as_str(), event.device.as_str(), event.inbox.as_str());
        let is_purged = self.inboxes.get(&key).is_some_and(|inbox| {
            inbox.purges.iter().any(|purge| event.position() <= court.events[*purge].position())
        });
        let push = self.pushes.get(&(key.0, key.1, key.2, event.push.as_str()));
        is_purged
            || push.is_some_and(|push| {
                let is_over = |call: &usize| (1..=now).contains(&court.events[*call].expires);
                push.evicted.is_some() || push.calls.iter().any(is_over)
            })
    }

    fn at_the_end(&self, court: &mut Court<'a>) {
        // Sorted by the first call, so that the same history gives the same verdict.
        let mut pushes: Vec<_> = self.pushes.iter().collect();
        pushes.sort_by_key(|(key, push)| (push.calls.first().copied(), **key));
        for (key, push) in pushes {
            let Some(ok) = push.oks.iter().rev().copied().find(|ok| court.events[*ok].term != 0)
            else {
                continue;
            };
            court.verdict.stored += 1;
            let device: DeviceKey<'a> = (key.0, key.1);
            if court.liars.contains(&device) || !push.handed.is_empty() {
                continue;
            }
            let Some(rest) = court.rest_of(device) else { continue };
            self.missing(court, *key, push, ok, rest);
        }
    }

    /// An acknowledged push that was never handed over: is there an excuse?
    fn missing(&self, court: &mut Court<'a>, key: PushKey<'a>, push: &Push, ok: usize, rest: u64) {
        let event = &court.events[ok];
        if event.t > rest {
            return;
        }
        let before = push.calls.iter().rev().find(|call| **call < ok);
        let called = before.map_or(event, |call| &court.events[*call]);
        let position = event.position();
        let inbox = self.inboxes.get(&(key.0, key.1, key.2));
        let covers = |gap: &&usize| {
            let gap = &court.events[**gap];
            gap.prev() < position && position <= gap.position()
        };
        let gap = inbox.and_then(|inbox| inbox.gaps.iter().find(covers)).copied();
        let purged = inbox.is_some_and(|inbox| {
            inbox.purges.iter().any(|purge| {
                let purge = &court.events[*purge];
                let upto = purge.position();
                if upto == Position::START { event.t <= purge.t } else { position <= upto }
            })
        });
        // The call that was taken counts, whichever it was.
        let expired = push.calls.iter().any(|call| {
            let expires = court.events[*call].expires;
            expires != 0 && expires <= rest
        });
        let by_policy = match push.evicted {
            Some(evict) if court.events[evict].overflow => {
                if gap.is_none() {
                    let what = format!("{} left at an overflow, and no gap says so", event.push);
                    court.convict(Rule::SilentRemoval, what, &[ok, evict]);
                }
                true
            }
            Some(_) => true,
            None => gap.is_some() && !court.options.evictions_known,
        };
        if by_policy || purged || expired {
            court.verdict.removed_by_policy += 1;
        } else if court.may_have_lost(called.t, event.t, reached(event)) {
            court.verdict.lost_as_declared += 1;
        } else {
            let what = format!(
                "push {} was stored at {position} ({:?}) and never reached its device",
                event.push,
                reached(event)
            );
            let mut proof = vec![ok];
            proof.extend(gap);
            court.convict(Rule::Lost, what, &proof);
        }
    }
}

fn first_call(court: &Court<'_>, push: &Push) -> u64 {
    push.calls.first().map_or(0, |call| court.events[*call].t)
}

fn reached(ok: &Event) -> Durability {
    ok.durability.unwrap_or_default()
}

/// A payload that says for whom it is came to someone else.
fn check_target(court: &mut Court<'_>, index: usize, event: &Event) {
    if event.body.is_empty() {
        return;
    }
    let Some(payload) = Payload::parse(&event.body) else {
        let what = format!("the payload of {} is not whole", event.push);
        return court.convict(Rule::Corrupt, what, &[index]);
    };
    if payload.app != event.app || payload.inbox != event.inbox {
        let what = format!(
            "a payload of {} / {} came to {} / {}",
            payload.app, payload.inbox, event.app, event.inbox
        );
        court.convict(Rule::CrossTenant, what, &[index]);
    }
    if payload.device != event.device {
        let what = format!("a payload for {} came to {}", payload.device, event.device);
        court.convict(Rule::WrongDevice, what, &[index]);
    }
    if payload.push != event.push {
        let what = format!("the payload of {} came as {}", payload.push, event.push);
        court.convict(Rule::Corrupt, what, &[index]);
    }
}
