//! Businesses hear who comes and goes: which devices are marked and what is due are the store's, by the router's
//! rules; who tells, and when, is a thin copy of what the router does. Calls fail, and answers are lost.

use super::store::{Call, Key, Reply};
use super::{Message, Ours, Then, node_of};
use crate::net::{MS, Net, Ns, Part, SEC};
use hawser_loadtest::judge::{self, Event};
use hawser_proto::id::BusinessNo;
use hawser_router::cores;
use std::collections::BTreeMap;

/// The business of each app that asked.
pub(super) const WATCHING: &str = "chat";
/// For how long the duty is taken.
pub(super) const DUTY: Ns = 4 * SEC;
/// A business answers within this, or is taken for deaf.
const CALL: Ns = SEC;
/// No call of the store that marked before takes effect later than this.
const SETTLED: Ns = 3 * SEC;

/// A device that is marked, with the mark and what is due.
pub(super) type Marked = (Key, u64, Vec<cores::Event>);

/// What a router knows as the one that tells.
#[derive(Debug, Default)]
pub(super) struct Teller {
    /// A call is under way; its number.
    out: Option<u64>,
    calls: u64,
    /// When marks were first seen.
    seen: BTreeMap<(Key, u64), Ns>,
}

pub(super) fn watchers(app: &str) -> Vec<BusinessNo> {
    vec![super::number_of(app, WATCHING)]
}

impl Ours {
    pub(super) fn look_for_events(&mut self, net: &mut Net<Message>, router: usize) {
        if self.routers[router].teller.out.is_none() {
            let then = Then::Events { asked: net.now };
            Self::ask_store(net, router, Call::Marked { router }, then);
        }
        let pause = net.rng.between(SEC / 10, SEC / 2);
        net.after(pause, Part::Router(router), Message::TellAgain);
    }

    /// The store has said what is due; until when the duty is this router's, it knows by itself.
    pub(super) fn tell(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        asked: Ns,
        marked: Vec<Marked>,
    ) {
        let teller = &mut self.routers[router].teller;
        if teller.out.is_some() {
            return;
        }
        let is_there =
            |key: &(Key, u64)| marked.iter().any(|(of, at, _)| (of, at) == (&key.0, &key.1));
        teller.seen.retain(|key, _| is_there(key));
        let mut batch = Vec::new();
        let mut over = Vec::new();
        for (device, at, due) in marked {
            let seen = *teller.seen.entry((device.clone(), at)).or_insert(net.now);
            if !due.is_empty() {
                batch.push((device, due));
            } else if net.now >= seen + SETTLED {
                over.push((device, at));
            }
        }
        let is_held = self.switches.no_duty || net.now + CALL + SEC / 5 < asked + DUTY;
        if !batch.is_empty() && is_held {
            teller.calls += 1;
            let call = teller.calls;
            teller.out = Some(call);
            if self.switches.confirms_first {
                Self::confirm(net, router, &batch);
            }
            // By then what is told has been answered, or is taken for lost.
            net.after(asked + DUTY - net.now, Part::Router(router), Message::ToldOver(call));
            Self::ask_store(net, router, Call::Mean { batch }, Then::Mean { asked, call });
        }
        for (device, at) in over {
            Self::ask_store(net, router, Call::Unmark { device, at }, Then::Nothing);
        }
    }

    /// What the business is about to be told is noted.
    pub(super) fn on_meant(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        asked: Ns,
        call: u64,
        reply: Reply,
    ) {
        let is_held = self.switches.no_duty || net.now + CALL + SEC / 5 < asked + DUTY;
        match reply {
            Reply::Meant(batch) if is_held && self.routers[router].teller.out == Some(call) => {
                let delay = net.rng.between(MS, CALL);
                net.after(delay, Part::World, Message::Tell { router, call, batch });
                net.after(CALL + SEC / 5, Part::Router(router), Message::ToldOver(call));
            }
            _ => self.told_over(router, call),
        }
    }

    /// A call reaches the business.
    pub(super) fn at_business(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        call: u64,
        batch: Vec<(Key, Vec<cores::Event>)>,
    ) {
        if !self.healed && net.rng.percent(25) {
            return;
        }
        for (device, events) in &batch {
            for event in events {
                let kind =
                    if event.heard.is_online { judge::Kind::Online } else { judge::Kind::Offline };
                let name = super::name_of(&device.0, event.business.0);
                let mut word = Event::new(0, kind).of(&device.0, &device.1, name);
                word.epoch = event.heard.epoch;
                net.record(word);
            }
        }
        if self.healed || net.rng.percent(75) {
            let delay = net.rng.between(MS, SEC / 10);
            net.after(delay, Part::Router(router), Message::Told { call, batch });
        }
    }

    /// The business says that it has heard.
    pub(super) fn told(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        call: u64,
        batch: &[(Key, Vec<cores::Event>)],
    ) {
        Self::confirm(net, router, batch);
        self.told_over(router, call);
    }

    pub(super) fn told_over(&mut self, router: usize, call: u64) {
        self.routers[router].teller.out.take_if(|out| *out == call);
    }

    fn confirm(net: &mut Net<Message>, router: usize, batch: &[(Key, Vec<cores::Event>)]) {
        for (device, events) in batch {
            let last: BTreeMap<BusinessNo, &cores::Event> =
                events.iter().map(|event| (event.business, event)).collect();
            for (business, event) in last {
                let (device, heard) = (device.clone(), event.heard.clone());
                let heard = Call::Heard { device, business, heard };
                Self::ask_store(net, router, heard, Then::Nothing);
            }
        }
    }

    /// This life of a node is over, and its lease has ended.
    pub(super) fn end_lost(&mut self, net: &mut Net<Message>, node: usize, boot: u32) {
        let now_ms = super::wall_ms(net.now, self.routers[0].clock_ms);
        for device in &self.devices {
            let key = (device.app.to_owned(), device.name.clone());
            let owner = self.store.route(&key).map(|session| session.owner);
            if let Some(owner) = owner.filter(|owner| node_of(owner) == (node, boot)) {
                self.store.end_lost(&key, &owner, now_ms);
            }
        }
    }

    pub(super) fn on_due(
        &mut self,
        net: &mut Net<Message>,
        router: usize,
        asked: Ns,
        reply: Reply,
    ) {
        if let Reply::Marked(Some(marked)) = reply {
            self.tell(net, router, asked, marked);
        }
    }
}
