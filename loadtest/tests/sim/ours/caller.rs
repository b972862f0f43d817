//! Backends: what they wish to push, when, and how they try again with the same id until they know.

use super::lane::GROUP;
use super::{Message, Ours};
use crate::fault::TROUBLE;
use crate::net::{MS, Net, Part, SEC};
use hawser_loadtest::judge::{Durability, Event, Kind, Payload};
use hawser_proto::id::Position;

/// Tries of one push. A caller that still does not know gives up.
const TRIES_MAX: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum What {
    Stored {
        ttl_ms: u64,
        replica: bool,
        collapse: bool,
        priority: u64,
    },
    Volatile,
    Purge,
    /// To the app's group, which keeps a history.
    Group,
}

#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) app: &'static str,
    pub(super) device: String,
    pub(super) business: &'static str,
    pub(super) push: String,
    pub(super) body: String,
    pub(super) what: What,
    tries: u32,
    /// The call that is waited for, and when it was made.
    call: Option<u64>,
    called: u64,
    is_known: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Stored(Position, Durability),
    Refused,
    Unknown,
}

impl Ours {
    /// What is wished for in this run, spread over the trouble.
    pub(super) fn plan_wishes(&mut self, net: &mut Net<Message>) {
        for _ in 0..net.rng.between(40, 110) {
            let device = net.rng.below(self.devices.len() as u64) as usize;
            let what = match net.rng.below(100) {
                0..10 => What::Volatile,
                10..12 => What::Purge,
                12..32 => What::Group,
                _ => stored(net),
            };
            let at = net.rng.between(SEC / 5, TROUBLE);
            self.wish(net, device, what, at);
        }
        for _ in 0..net.rng.below(6) {
            let device = net.rng.below(self.devices.len() as u64) as usize;
            let is_in = net.rng.percent(50);
            let at = net.rng.between(SEC, TROUBLE);
            net.after(at, Part::World, Message::Member(device, is_in));
        }
    }

    fn wish(&mut self, net: &mut Net<Message>, device: usize, what: What, at: u64) {
        let it = &self.devices[device];
        let is_group = what == What::Group;
        let business = if is_group { "chat" } else { *net.rng.pick(&["chat", "chat", "mail"]) };
        // Ids collide between devices, businesses and apps: they are unique within an inbox alone.
        let push = format!("p{}", self.wishes.len());
        let mut payload = Payload { push: &push, app: it.app, device: &it.name, inbox: business };
        if is_group {
            (payload.device, payload.inbox) = ("", GROUP);
        }
        let body = payload.encode();
        let (app, device) = (it.app, it.name.clone());
        let wish = self.wishes.len();
        self.wishes.push(Wish {
            app,
            device,
            business,
            push,
            body,
            what,
            tries: 0,
            call: None,
            called: 0,
            is_known: false,
        });
        net.after(at, Part::World, Message::Wish(wish));
    }

    pub(super) fn wish_burst(&mut self, net: &mut Net<Message>, device: usize, dice: u64) {
        // Seventy and more, to one inbox alone, fill a window.
        let one = dice % 70 == 69;
        for _ in 0..20 + dice % 70 {
            let mut what = stored(net);
            if one && let What::Stored { collapse, ttl_ms, .. } = &mut what {
                (*collapse, *ttl_ms) = (false, 0);
            }
            let at = net.rng.below(SEC);
            self.wish(net, device, what, at);
            if one && let Some(wish) = self.wishes.last_mut() {
                let payload = Payload {
                    push: &wish.push,
                    app: wish.app,
                    device: &wish.device,
                    inbox: "chat",
                };
                (wish.body, wish.business) = (payload.encode(), "chat");
            }
        }
    }

    pub(super) fn wish_purge(&mut self, net: &mut Net<Message>, device: usize, dice: u64) {
        self.wish(net, device, What::Purge, dice % SEC);
    }

    fn event(&self, kind: Kind, wish: usize) -> Event {
        let it = &self.wishes[wish];
        let mut event = Event::new(0, kind).of(it.app, &it.device, it.business);
        event.push.clone_from(&it.push);
        event.volatile = it.what == What::Volatile;
        event
    }

    pub(super) fn try_wish(&mut self, net: &mut Net<Message>, wish: usize) {
        let router = net.rng.below(self.routers.len() as u64) as usize;
        self.wishes[wish].tries += 1;
        let call = u64::from(self.wishes[wish].tries);
        (self.wishes[wish].call, self.wishes[wish].called) = (Some(call), net.now);
        if !matches!(self.wishes[wish].what, What::Purge | What::Group) {
            let mut event = self.event(Kind::PushCall, wish);
            if let What::Stored { ttl_ms: ttl @ 1.., .. } = self.wishes[wish].what {
                // Where clocks jump, nobody can say when it ends.
                event.expires = if self.clocks_jump { 1 } else { net.now + ttl * MS };
            }
            net.record(event);
        }
        let delay = net.rng.between(MS, 5 * MS);
        net.after(delay, Part::Router(router), Message::Try { wish, call });
        net.after(1500 * MS, Part::World, Message::Overdue { wish, call });
    }

    pub(super) fn outcome(
        &mut self,
        net: &mut Net<Message>,
        wish: usize,
        call: u64,
        outcome: Outcome,
    ) {
        if self.wishes[wish].call != Some(call) {
            return;
        }
        self.wishes[wish].call = None;
        match outcome {
            Outcome::Stored(position, durability) if self.wishes[wish].what == What::Group => {
                let mut event = Event::new(0, Kind::GroupPub).of(self.wishes[wish].app, "", GROUP);
                event = event.at(position);
                event.push.clone_from(&self.wishes[wish].push);
                event.durability = Some(durability);
                event.since = self.wishes[wish].called;
                net.record(event);
            }
            Outcome::Stored(position, durability) => {
                let mut event = self.event(Kind::PushOk, wish).at(position);
                event.durability = Some(durability);
                net.record(event);
                let was_known = std::mem::replace(&mut self.wishes[wish].is_known, true);
                // Some callers lose their notes and ask once more.
                if !was_known && net.rng.percent(10) {
                    self.try_again(net, wish);
                }
            }
            Outcome::Refused if !matches!(self.wishes[wish].what, What::Purge | What::Group) => {
                let event = self.event(Kind::PushFail, wish);
                net.record(event);
            }
            Outcome::Unknown => self.unknown(net, wish),
            Outcome::Refused => {}
        }
    }

    pub(super) fn overdue(&mut self, net: &mut Net<Message>, wish: usize, call: u64) {
        if self.wishes[wish].call.take_if(|waited| *waited == call).is_some() {
            self.unknown(net, wish);
        }
    }

    fn unknown(&mut self, net: &mut Net<Message>, wish: usize) {
        if self.wishes[wish].what == What::Purge {
            return;
        }
        if self.wishes[wish].what == What::Group {
            return self.try_again(net, wish);
        }
        let event = self.event(Kind::PushUnknown, wish);
        net.record(event);
        // A volatile push is never repeated.
        if matches!(self.wishes[wish].what, What::Stored { .. }) {
            self.try_again(net, wish);
        }
    }

    fn try_again(&mut self, net: &mut Net<Message>, wish: usize) {
        if self.wishes[wish].tries < TRIES_MAX {
            let pause = net.rng.between(SEC / 20, 3 * SEC);
            net.after(pause, Part::World, Message::Wish(wish));
        }
    }
}

fn stored(net: &mut Net<Message>) -> What {
    What::Stored {
        ttl_ms: if net.rng.percent(12) { net.rng.between(300, 8_000) } else { 0 },
        replica: net.rng.percent(25),
        collapse: net.rng.percent(10),
        priority: net.rng.below(3),
    }
}
