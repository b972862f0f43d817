use super::*;
use crate::inbox::rules::{ROUTE_KEEP, announce, claim, end_lost, release};
use crate::inbox::shelf::Memory;
use crate::inbox::{Claimed, Login, Session};
use hawser_proto::id::{BootId, NodeId, SlotRef};

const CHAT: BusinessNo = BusinessNo(1);
const SHOP: BusinessNo = BusinessNo(2);

/// One device, and all that its businesses have heard, as `chat+100` or `chat-100 closed`.
struct House {
    shelf: Memory,
    now_ms: u64,
    slots: u32,
    attempt: u64,
    said: Vec<String>,
}

impl House {
    fn new() -> Self {
        Self { shelf: Memory::default(), now_ms: 100, slots: 0, attempt: 0, said: Vec::new() }
    }

    fn login_of(&mut self, watchers: &[BusinessNo]) -> Login {
        self.slots += 1;
        self.attempt += 1;
        let node = NodeId::new("node-1").unwrap();
        let at = SlotRef { slot: self.slots, generation: 1 };
        let owner = Owner { node, boot: BootId(1), at };
        Login { owner, instance: [1; 16], attempt: self.attempt, watchers: watchers.to_vec() }
    }

    /// Logs in 100 ms after whatever was before; the epoch is the time.
    fn login(&mut self, watchers: &[BusinessNo]) -> Session {
        self.now_ms += 100;
        let login = self.login_of(watchers);
        let owner = login.owner.clone();
        match claim(&mut self.shelf, login, &[], self.now_ms).unwrap() {
            Claimed::Bound { epoch, .. } => Session { owner, epoch },
            Claimed::Stale => panic!("a newer attempt"),
        }
    }

    fn end(&mut self, session: &Session) {
        self.now_ms += 1;
        release(&mut self.shelf, session, &[], self.now_ms).unwrap();
    }

    /// The login of this number of attempt is alive, whatever was thought of it.
    fn come_back(&mut self, session: &Session, attempt: u64) {
        let owner = session.owner.clone();
        let login = Login { owner, instance: [1; 16], attempt, watchers: vec![CHAT] };
        announce(&mut self.shelf, session.epoch, login, &[], true, self.now_ms).unwrap();
    }

    fn lose(&mut self, session: &Session) {
        self.now_ms += 1;
        let owner = &session.owner;
        end_lost(&mut self.shelf, &owner.node, owner.boot, self.now_ms).unwrap();
    }

    fn due(&self) -> Vec<Event> {
        events_due(&self.shelf, self.now_ms).unwrap()
    }

    fn hears(&mut self, events: &[Event]) {
        for event in events {
            event_heard(&mut self.shelf, event.business, event.heard.clone()).unwrap();
        }
    }

    /// All that is due is heard, and nobody confirms it.
    fn tell_in_vain(&mut self) {
        let due = self.due();
        self.said.extend(due.iter().map(text));
        for event in due.iter().filter(|event| event.heard.is_online) {
            let heard = Heard { is_confirmed: false, ..event.heard.clone() };
            assert!(event_heard(&mut self.shelf, event.business, heard).unwrap());
        }
    }

    /// All that is due is heard and confirmed, until nothing is.
    fn tell(&mut self) -> Vec<Event> {
        let mut all = Vec::new();
        loop {
            let due = self.due();
            if due.is_empty() {
                return all;
            }
            self.tell_in_vain();
            self.hears(&due);
            all.extend(due);
            assert!(all.len() < 10, "it ends: {all:?}");
        }
    }
}

fn text(event: &Event) -> String {
    let who = if event.business == CHAT { "chat" } else { "shop" };
    let epoch = event.heard.epoch;
    match event.cause {
        EventCause::None => format!("{who}+{epoch}"),
        EventCause::Closed => format!("{who}-{epoch} closed"),
        EventCause::Superseded => format!("{who}-{epoch} superseded"),
        EventCause::NodeLost => format!("{who}-{epoch} lost"),
    }
}

type Story = (&'static str, fn(&mut House), &'static [&'static str]);

const STORIES: &[Story] = &[
    (
        "a device comes and goes",
        |it| {
            let session = it.login(&[CHAT]);
            it.tell();
            it.tell();
            it.end(&session);
            it.tell();
            it.tell();
        },
        &["chat+200", "chat-200 closed"],
    ),
    (
        "nobody asks",
        |it| {
            let session = it.login(&[]);
            it.tell();
            it.end(&session);
            it.tell();
        },
        &[],
    ),
    (
        "a takeover ends one session and begins the next",
        |it| {
            it.login(&[CHAT]);
            it.tell();
            it.login(&[CHAT]);
            it.tell();
        },
        &["chat+200", "chat-200 superseded", "chat+300"],
    ),
    (
        "what came and went before anybody was told is not told",
        |it| {
            let session = it.login(&[CHAT]);
            it.end(&session);
            it.tell();
        },
        &[],
    ),
    (
        "a device that flaps is told of as it was, and as it is",
        |it| {
            it.login(&[CHAT]);
            it.tell();
            for _ in 0..1_000 {
                let session = it.login(&[CHAT]);
                it.end(&session);
            }
            it.login(&[CHAT]);
            it.tell();
        },
        &["chat+200", "chat-200 superseded", "chat+101300"],
    ),
    (
        "a device that flapped and is gone",
        |it| {
            it.login(&[CHAT]);
            it.tell();
            let session = it.login(&[CHAT]);
            it.end(&session);
            it.tell();
        },
        &["chat+200", "chat-200 superseded"],
    ),
    (
        "a lost node",
        |it| {
            let session = it.login(&[CHAT]);
            it.tell();
            it.lose(&session);
            it.tell();
        },
        &["chat+200", "chat-200 lost"],
    ),
    (
        "a lost node of which the business never heard",
        |it| {
            let session = it.login(&[CHAT]);
            it.lose(&session);
            it.tell();
            it.login(&[CHAT]);
            it.tell();
        },
        &["chat+301"],
    ),
    (
        "two businesses hear for themselves",
        |it| {
            let session = it.login(&[CHAT, SHOP]);
            let due = it.due();
            it.said.push(text(&due[1]));
            it.hears(&due[1..]);
            it.end(&session);
            it.tell();
        },
        &["shop+200", "shop-200 closed"],
    ),
    (
        "a session that goes on without a business has ended for it",
        |it| {
            it.login(&[CHAT, SHOP]);
            it.tell();
            it.login(&[SHOP]);
            it.tell();
        },
        &["chat+200", "shop+200", "chat-200 superseded", "shop-200 superseded", "shop+300"],
    ),
    (
        "a confirmation that was lost is asked for again",
        |it| {
            let session = it.login(&[CHAT]);
            let due = it.due();
            it.said.extend(due.iter().map(text));
            it.tell();
            it.end(&session);
            let due = it.due();
            it.said.extend(due.iter().map(text));
            it.tell();
        },
        &["chat+200", "chat+200", "chat-200 closed", "chat-200 closed"],
    ),
    (
        "what was told and not confirmed is told again, and ends",
        |it| {
            let session = it.login(&[CHAT]);
            it.tell_in_vain();
            it.tell_in_vain();
            it.end(&session);
            it.tell_in_vain();
            it.tell();
        },
        &["chat+200", "chat+200", "chat-200 closed", "chat-200 closed"],
    ),
    (
        "what was told and not confirmed is lost with its node",
        |it| {
            let session = it.login(&[CHAT]);
            it.tell_in_vain();
            it.lose(&session);
            it.tell();
        },
        &["chat+200", "chat-200 lost"],
    ),
    (
        "of sessions in a row one at a time is told in vain, and its end before the next",
        |it| {
            it.login(&[CHAT]);
            it.tell_in_vain();
            it.login(&[CHAT]);
            it.tell_in_vain();
            it.login(&[CHAT]);
            it.tell_in_vain();
            it.tell();
        },
        &[
            "chat+200",
            "chat-200 superseded",
            "chat-200 superseded",
            "chat-200 superseded",
            "chat+400",
        ],
    ),
    (
        "the confirmation of an older session changes nothing",
        |it| {
            it.login(&[CHAT]);
            let old = it.tell();
            let session = it.login(&[CHAT]);
            it.tell();
            it.hears(&old);
            it.tell();
            let ended = Event {
                heard: Heard { is_online: false, ..old[0].heard.clone() },
                ..old[0].clone()
            };
            it.hears(&[ended]);
            it.tell();
            it.end(&session);
            it.tell();
        },
        &["chat+200", "chat-200 superseded", "chat+300", "chat-300 closed"],
    ),
    (
        "a begin that is confirmed after the end ends once more",
        |it| {
            let session = it.login(&[CHAT]);
            let began = it.tell();
            it.end(&session);
            it.tell();
            it.hears(&began);
            it.tell();
            it.tell();
        },
        &["chat+200", "chat-200 closed", "chat-200 closed"],
    ),
    (
        "a store that went back hears of the session again, and nothing is said in between",
        |it| {
            let before = it.shelf.clone();
            let session = it.login(&[CHAT]);
            let began = it.tell();
            it.shelf = before;
            it.tell();
            let login = Login { owner: session.owner.clone(), ..it.login_of(&[CHAT]) };
            announce(&mut it.shelf, session.epoch, login, &[], true, it.now_ms).unwrap();
            it.hears(&began);
            it.tell();
            it.end(&session);
            it.tell();
        },
        &["chat+200", "chat-200 closed"],
    ),
    (
        "a store that knows an older session than the business waits for word of the later one, and repeats",
        |it| {
            it.login(&[CHAT]);
            it.tell();
            let before = it.shelf.clone();
            let session = it.login(&[CHAT]);
            let due = it.tell();
            it.shelf = before;
            it.hears(&due[1..]);
            it.tell();
            let login = Login { owner: session.owner.clone(), ..it.login_of(&[CHAT]) };
            announce(&mut it.shelf, session.epoch, login, &[], true, it.now_ms).unwrap();
            it.tell();
        },
        &["chat+200", "chat-200 superseded", "chat+300", "chat-200 superseded", "chat+300"],
    ),
    (
        "the end of an older session is not taken for that of a later one that the store forgot",
        |it| {
            let first = it.login(&[CHAT]);
            it.tell();
            let before = it.shelf.clone();
            let second = it.login(&[CHAT]);
            let due = it.tell();
            it.shelf = before;
            it.lose(&first);
            it.hears(&due[1..]);
            it.tell();
            let login = Login { owner: second.owner.clone(), ..it.login_of(&[CHAT]) };
            announce(&mut it.shelf, second.epoch, login, &[], true, it.now_ms).unwrap();
            it.tell();
        },
        &["chat+200", "chat-200 superseded", "chat+300", "chat-200 lost", "chat+300"],
    ),
    (
        "a session that was taken for lost comes back above its end",
        |it| {
            let session = it.login(&[CHAT]);
            it.tell();
            it.lose(&session);
            it.tell();
            it.now_ms += 100;
            it.come_back(&session, 1);
            it.tell();
        },
        &["chat+200", "chat-200 lost", "chat+301"],
    ),
    (
        "a session that comes back before its end was told has ended all the same",
        |it| {
            let session = it.login(&[CHAT]);
            it.tell();
            it.lose(&session);
            it.come_back(&session, 1);
            it.tell();
        },
        &["chat+200", "chat-200 superseded", "chat+201"],
    ),
    (
        "an end is told also when the route is forgotten",
        |it| {
            let session = it.login(&[CHAT]);
            it.tell();
            it.end(&session);
            it.now_ms += ROUTE_KEEP.as_millis() as u64;
            it.tell();
        },
        &["chat+200", "chat-200 closed"],
    ),
    (
        "a business that begins to ask hears of the next session",
        |it| {
            let session = it.login(&[]);
            it.tell();
            it.end(&session);
            it.login(&[CHAT]);
            it.tell();
        },
        &["chat+301"],
    ),
];

#[test]
fn businesses_hear_what_they_have_to() {
    for (name, play, said) in STORIES {
        let mut house = House::new();
        play(&mut house);
        assert_eq!(house.said, *said, "{name}");
    }
}

#[test]
fn an_end_says_when_it_was() {
    let mut house = House::new();
    let session = house.login(&[CHAT]);
    house.tell();
    house.end(&session);
    house.now_ms += 5_000;
    assert_eq!(house.due()[0].at_ms, 201);
    assert_eq!(house.due()[0].heard.owner, session.owner);
}
