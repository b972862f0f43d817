//! Random operations against the engine and against the reference: every answer is the same.
//!
//! Times are arguments, and terms come from times, so answers are compared as they are; only an engine
//! that starts another incarnation by itself would differ.

use super::Harness;
use super::desk::{BEGIN_MS, CHAT, DAY_MS, Desk, HOUR_MS, SHOP, login};
use crate::inbox::{Caps, Heard, Limits, Login, NewEntry, Owner, Priority, Session};
use crate::key::Key;
use crate::store::memory::InMemory;
use crate::store::{Durability, GroupChange, GroupMeta, HistoryCaps, Positions, Store};
use bytes::Bytes;
use hawser_proto::id::{AppId, BusinessNo, Position};
use std::collections::HashMap;
use std::sync::Arc;

/// Random numbers from a seed (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<T: Clone>(&mut self, some: &[T]) -> T {
        some[self.below(some.len() as u64) as usize].clone()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// One operation, with everything it needs; it is made twice.
#[derive(Clone, Debug)]
enum Operation {
    Claim {
        device: Key,
        slot: u32,
        instance: u8,
        attempt: u64,
        cursors: Positions,
        watchers: Vec<BusinessNo>,
    },
    Announce {
        device: Key,
        epoch: u64,
        slot: u32,
        instance: u8,
        attempt: u64,
        sent: Positions,
        may_raise: bool,
        watchers: Vec<BusinessNo>,
    },
    Release {
        device: Key,
        session: Session,
        sent: Positions,
    },
    Append {
        device: Key,
        business: BusinessNo,
        new: NewEntry,
        caps: Caps,
    },
    Fetch {
        device: Key,
        session: Session,
        business: BusinessNo,
        after: Position,
        limits: Limits,
    },
    Ack {
        device: Key,
        session: Session,
        upto: Positions,
    },
    Sweep {
        device: Key,
        session: Session,
        acked: Positions,
    },
    Describe {
        device: Key,
        business: BusinessNo,
    },
    Purge {
        device: Key,
        business: BusinessNo,
    },
    Publish {
        group: Key,
        new: NewEntry,
        caps: Caps,
    },
    History {
        group: Key,
        after: Position,
        limits: Limits,
    },
    ChangeGroup {
        change: GroupChange,
    },
    Group {
        group: Key,
    },
    GroupsOf {
        owner: u32,
    },
    Raise {
        device: Key,
        session: Session,
        above: u64,
    },
    EndLost {
        device: Key,
        owner: Owner,
    },
    EndGone {
        device: Key,
        session: Session,
    },
    Route {
        device: Key,
    },
    Due {
        device: Key,
    },
    /// Some of what is due is heard, and something that was due once.
    Hear {
        device: Key,
        count: usize,
        old: Option<(BusinessNo, Heard)>,
    },
}

/// The group as a router knows it that is up to date; some other one where there is none.
async fn known(store: &dyn Store, group: &Key) -> GroupMeta {
    let known = store.group(group).await.expect("a store");
    known.unwrap_or_else(|| Desk::history_group(1))
}

/// The answer as text: whatever differs, differs there. Durability is the engine's own affair.
async fn make(store: &dyn Store, app: &str, operation: Operation, now_ms: u64) -> String {
    let memory = Some(Durability::Memory);
    match operation {
        Operation::Claim { device, slot, instance, attempt, cursors, watchers } => {
            let login = Login { watchers, ..login(slot, instance, attempt) };
            format!("{:?}", store.claim(&device, login, cursors, now_ms).await)
        }
        Operation::Announce {
            device,
            epoch,
            slot,
            instance,
            attempt,
            sent,
            may_raise,
            watchers,
        } => {
            let login = Login { watchers, ..login(slot, instance, attempt) };
            format!("{:?}", store.announce(&device, epoch, login, sent, may_raise, now_ms).await)
        }
        Operation::Release { device, session, sent } => {
            format!("{:?}", store.release(&device, session, sent, false, now_ms).await)
        }
        Operation::Append { device, business, new, caps } => {
            let done = store.append(&device, business, new, caps, memory, now_ms).await;
            format!("{:?}", done.map(|(appended, _)| appended))
        }
        Operation::Fetch { device, session, business, after, limits } => {
            let done = store.fetch(&device, &session, business, after, limits, now_ms).await;
            format!("{done:?}")
        }
        Operation::Ack { device, session, upto } => {
            format!("{:?}", store.ack(&device, &session, upto, now_ms).await)
        }
        Operation::Sweep { device, session, acked } => {
            format!("{:?}", store.sweep(&device, &session, acked, now_ms).await)
        }
        Operation::Describe { device, business } => {
            format!("{:?}", store.describe(&device, business).await)
        }
        Operation::Purge { device, business } => {
            format!("{:?}", store.purge(&device, business).await)
        }
        Operation::Publish { group, new, caps } => {
            let of = known(store, &group).await;
            let done = store.publish(&group, &of, new, caps, memory, now_ms).await;
            format!("{:?}", done.map(|(appended, _)| appended))
        }
        Operation::History { group, after, limits } => {
            let of = known(store, &group).await;
            format!("{:?}", store.history(&group, &of, after, limits, now_ms).await)
        }
        Operation::ChangeGroup { change } => {
            format!("{:?}", store.change_groups(vec![change]).await)
        }
        Operation::GroupsOf { owner } => {
            format!("{:?}", store.groups_of(app, owner, "", 10).await)
        }
        Operation::Group { group } => format!("{:?}", store.group(&group).await),
        Operation::Raise { device, session, above } => {
            format!("{:?}", store.raise(&device, session, above, true, now_ms).await)
        }
        Operation::EndLost { device, owner } => {
            format!("{:?}", store.end_lost(&device, &owner.node, owner.boot, now_ms).await)
        }
        Operation::EndGone { device, session } => {
            format!("{:?}", store.end_gone(&device, &session, now_ms).await)
        }
        Operation::Route { device } => format!("{:?}", store.route(&device, now_ms).await),
        Operation::Due { device } => {
            format!("{:?}", store.events_due(&device, now_ms).await)
        }
        Operation::Hear { device, count, old } => {
            let due = store.events_due(&device, now_ms).await;
            let mut noted = Vec::new();
            for event in due.iter().flatten().take(count) {
                // Of some it is only known that they are told.
                let is_confirmed = !event.heard.is_online || (now_ms / 3).is_multiple_of(2);
                let heard = Heard { is_confirmed, ..event.heard.clone() };
                noted.push(store.event_heard(&device, event.business, heard, now_ms).await);
            }
            if let Some((business, heard)) = old {
                noted.push(store.event_heard(&device, business, heard, now_ms).await);
            }
            format!("{due:?} {noted:?}")
        }
    }
}

/// Makes up operations that are likely to matter to each other.
struct Player {
    dice: Dice,
    now_ms: u64,
    app: AppId,
    pushed: u64,
    attempt: u64,
    /// Positions that may have been given out: what cursors and acknowledgements are made of.
    heard: Vec<Position>,
    sessions: Vec<(Key, Session)>,
    /// The newest position of each inbox: what was given out once is behind it for ever.
    newest: HashMap<(Vec<u8>, BusinessNo), Position>,
    /// Groups as they are.
    groups: HashMap<Vec<u8>, GroupMeta>,
}

impl Player {
    fn device(&mut self) -> Key {
        let id = self.dice.one_of(&["one", "two", "three"]);
        Key::device(&self.app, id).expect("an id")
    }

    fn group(&mut self) -> Key {
        let id = self.dice.one_of(&["red", "blue"]);
        Key::group(&self.app, id).expect("an id")
    }

    fn business(&mut self) -> BusinessNo {
        self.dice.one_of(&[CHAT, SHOP])
    }

    fn position(&mut self) -> Position {
        let heard = if self.heard.is_empty() {
            Position::START
        } else {
            // Mostly the newest ones.
            let reach = if self.dice.chance(70) { 12 } else { self.heard.len() };
            let from = self.heard.len().saturating_sub(reach);
            let some = self.heard[from..].to_vec();
            self.dice.one_of(&some)
        };
        match self.dice.below(24) {
            0 => Position::START,
            1 => Position::new(heard.term, heard.seq + self.dice.below(5)),
            2 => Position::new(heard.term + self.dice.below(400_000), self.dice.below(9)),
            3 => Position::new(self.now_ms + self.dice.below(2 * 300_000), 1),
            4 => Position::new(u64::MAX, u64::MAX),
            5 => Position::new(heard.term, heard.seq.saturating_sub(self.dice.below(6))),
            _ => heard,
        }
    }

    fn positions(&mut self) -> Positions {
        let mut some = Vec::new();
        for business in [CHAT, SHOP] {
            if self.dice.chance(60) {
                some.push((business, self.position()));
            }
        }
        some
    }

    /// A session of the past, mostly the last one of its device; sometimes forged.
    fn session(&mut self) -> (Key, Session) {
        if self.sessions.is_empty() || self.dice.chance(3) {
            let session = Session { owner: login(1, 1, 1).owner, epoch: self.dice.below(1 << 42) };
            return (self.device(), session);
        }
        let reach = if self.dice.chance(85) { 3 } else { self.sessions.len() };
        let from = self.sessions.len().saturating_sub(reach);
        let some = self.sessions[from..].to_vec();
        self.dice.one_of(&some)
    }

    fn new_entry(&mut self) -> NewEntry {
        // Some ids again, and some of these with another body.
        let number = if self.dice.chance(15) && self.pushed > 0 {
            self.pushed - self.dice.below(self.pushed.min(20))
        } else {
            self.pushed += 1;
            self.pushed
        };
        let other = u64::from(self.dice.chance(3));
        let bytes = self.dice.one_of(&[3, 3, 3, 60, 250]);
        let lives_ms = self.dice.one_of(&[1, 800, 5_000, 60_000, DAY_MS, 30 * DAY_MS]);
        let late = if self.dice.chance(3) { 10 } else { 0 };
        NewEntry {
            push_id: Bytes::from(format!("push-{number}")),
            digest: number + other,
            expires_at_ms: (self.now_ms + lives_ms).saturating_sub(late),
            collapse_key: Bytes::from(self.dice.one_of(&["", "", "", "score", "weather"])),
            priority: self.dice.one_of(&Priority::ALL),
            blob: Bytes::from(vec![b'a' + (number % 26) as u8; bytes]),
        }
    }

    fn caps(&mut self) -> Caps {
        Caps {
            entries_max: self.dice.one_of(&[0, 2, 6, 6, 6, 12]),
            bytes_max: self.dice.one_of(&[200, 900, 900, 5_000]),
            drops_oldest: self.dice.chance(70),
        }
    }

    fn limits(&mut self) -> Limits {
        Limits {
            entries_max: self.dice.one_of(&[0, 1, 3, 32]),
            bytes_max: self.dice.one_of(&[0, 100, 10_000]),
        }
    }

    fn watchers(&mut self) -> Vec<BusinessNo> {
        self.dice.one_of(&[vec![], vec![CHAT], vec![CHAT, SHOP], vec![CHAT, SHOP]])
    }

    fn event(&mut self) -> Operation {
        let device = self.device();
        if self.dice.chance(50) {
            return Operation::Due { device };
        }
        let (_, Session { owner, epoch }) = self.session();
        let is_online = self.dice.chance(50);
        let is_confirmed = !is_online || self.dice.chance(50);
        let heard = Heard { epoch, is_online, owner, is_confirmed };
        let old = (self.business(), heard);
        let old = Some(old).filter(|_| self.dice.chance(20));
        Operation::Hear { device, count: self.dice.below(4) as usize, old }
    }

    fn operation(&mut self) -> Operation {
        match self.dice.below(100) {
            0..10 => {
                let instance = self.dice.below(2) as u8;
                if self.dice.chance(80) {
                    self.attempt += 1;
                }
                let (device, slot) = (self.device(), self.dice.below(4) as u32);
                let attempt = self.attempt.saturating_sub(self.dice.below(2));
                let (cursors, watchers) = (self.positions(), self.watchers());
                Operation::Claim { device, slot, instance, attempt, cursors, watchers }
            }
            10..14 => {
                let (device, session) = self.session();
                let epoch = session.epoch + self.dice.below(2);
                let (slot, instance) = (self.dice.below(4) as u32, self.dice.below(2) as u8);
                let (attempt, sent, watchers) = (self.attempt, self.positions(), self.watchers());
                let may_raise = self.dice.below(4) > 0;
                Operation::Announce {
                    device,
                    epoch,
                    slot,
                    instance,
                    attempt,
                    sent,
                    may_raise,
                    watchers,
                }
            }
            14..17 => {
                let (device, session) = self.session();
                Operation::Release { device, session, sent: self.positions() }
            }
            17 => {
                let (device, session) = self.session();
                let Session { owner, epoch } = session.clone();
                match self.dice.below(7) {
                    0 => Operation::Route { device },
                    5 | 6 => Operation::EndGone { device, session },
                    1 | 2 => {
                        Operation::Raise { device, above: epoch + self.dice.below(9), session }
                    }
                    _ => Operation::EndLost { device, owner },
                }
            }
            18..26 => self.event(),
            26..50 => Operation::Append {
                device: self.device(),
                business: self.business(),
                new: self.new_entry(),
                caps: self.caps(),
            },
            50..64 => {
                let (device, session) = self.session();
                let (business, after) = (self.business(), self.position());
                Operation::Fetch { device, session, business, after, limits: self.limits() }
            }
            64..72 => {
                let (device, session) = self.session();
                Operation::Ack { device, session, upto: self.positions() }
            }
            72..78 => {
                let (device, session) = self.session();
                Operation::Sweep { device, session, acked: self.positions() }
            }
            78..83 => Operation::Describe { device: self.device(), business: self.business() },
            83..85 => Operation::Purge { device: self.device(), business: self.business() },
            85..92 => {
                Operation::Publish { group: self.group(), new: self.new_entry(), caps: self.caps() }
            }
            92..96 => Operation::History {
                group: self.group(),
                after: self.position(),
                limits: self.limits(),
            },
            96..99 => {
                let key = self.group();
                let history = Some(HistoryCaps { entries_max: 5, age_ms_max: 60_000 });
                let history = history.filter(|_| self.dice.chance(80));
                let owner = self.dice.one_of(&[1, 1, 1, 2]);
                let meta = GroupMeta { owner, created_ms: self.now_ms, history };
                let mut known = self.groups.get(key.as_bytes()).cloned();
                if self.dice.chance(15) {
                    // Somebody else was faster.
                    known = Some(GroupMeta { created_ms: 5, ..meta.clone() });
                }
                let change = match known {
                    Some(known) if self.dice.chance(30) => GroupChange::Delete(key, known),
                    Some(known) if self.dice.chance(15) => GroupChange::Put(key, known, None),
                    Some(known) if self.dice.chance(20) => {
                        // The same life, with other bounds or without.
                        let meta = GroupMeta { history, ..known.clone() };
                        GroupChange::Put(key, meta, Some(known))
                    }
                    known => GroupChange::Put(key, meta, known),
                };
                Operation::ChangeGroup { change }
            }
            _ if self.dice.chance(50) => Operation::Group { group: self.group() },
            _ => Operation::GroupsOf { owner: 1 },
        }
    }

    fn pass_time(&mut self) {
        let dice = &mut self.dice;
        match dice.below(1_000) {
            0..600 => self.now_ms += dice.below(3),
            600..950 => self.now_ms += dice.below(2_000),
            950..980 => self.now_ms += dice.below(11 * 60_000),
            980..990 => self.now_ms -= dice.below(HOUR_MS),
            990..997 => self.now_ms += dice.below(DAY_MS),
            _ => self.now_ms += dice.below(9 * DAY_MS),
        }
    }

    /// Takes positions and sessions from an answer, to use them later.
    fn learn(&mut self, operation: &Operation, answer: &str) {
        let number = |text: &str, name: &str| -> Option<u64> {
            let (_, rest) = text.split_once(name)?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        };
        for part in answer.split("Position {").skip(1) {
            if let (Some(term), Some(seq)) = (number(part, "term: "), number(part, "seq: ")) {
                self.heard.push(Position::new(term, seq));
            }
        }
        let bound = |owner: Owner, epoch| Session { owner, epoch };
        match operation {
            Operation::Append { device, business, .. } if answer.starts_with("Ok(Stored") => {
                let at = Position::new(
                    number(answer, "term: ").expect("a term"),
                    number(answer, "seq: ").expect("a number"),
                );
                let inbox = (device.as_bytes().to_vec(), *business);
                let before = self.newest.insert(inbox, at);
                assert!(before < Some(at), "{at} after {before:?}");
            }
            Operation::ChangeGroup { change } if answer == "Ok([Made])" => match change {
                GroupChange::Put(key, meta, _) => {
                    self.groups.insert(key.as_bytes().to_vec(), meta.clone());
                }
                GroupChange::Delete(key, _) => drop(self.groups.remove(key.as_bytes())),
                GroupChange::Keep(..) => {}
            },
            Operation::Claim { device, slot, .. } | Operation::Announce { device, slot, .. }
                if answer.starts_with("Ok(Bound") =>
            {
                if let Some(epoch) = number(answer, "epoch: ") {
                    self.sessions.push((*device, bound(login(*slot, 0, 0).owner, epoch)));
                }
            }
            _ => {}
        }
    }
}

/// Plays `rounds` seeds with `operations` each against the engine and the reference.
/// `HAWSER_MODEL_SEED` names the first seed.
pub(crate) async fn run_model(harness: &mut dyn Harness, rounds: u64, operations: usize) {
    let named = std::env::var("HAWSER_MODEL_SEED").ok();
    let first = named.and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    for round in 0..rounds {
        let seed = first.wrapping_add(round);
        eprintln!("model: HAWSER_MODEL_SEED={seed}, {operations} operations");
        play(harness, seed, operations).await;
    }
}

async fn play(harness: &mut dyn Harness, seed: u64, operations: usize) {
    let reference = Arc::new(InMemory::new());
    let mut store = harness.store();
    // Another app in each round, so that one engine serves all of them.
    let app = AppId::new(&format!("model-{seed:016x}")).expect("a name");
    let mut player = Player {
        dice: Dice(seed),
        now_ms: BEGIN_MS,
        app: app.clone(),
        pushed: 0,
        attempt: 0,
        heard: Vec::new(),
        sessions: Vec::new(),
        newest: HashMap::new(),
        groups: HashMap::new(),
    };
    for step in 0..operations {
        player.pass_time();
        if player.dice.below(300) == 0 {
            drop(store);
            harness.restart().await;
            store = harness.store();
            reference.restart();
        }
        let (operation, now_ms) = (player.operation(), player.now_ms);
        let right = make(&*reference, app.as_str(), operation.clone(), now_ms).await;
        let answer = make(&*store, app.as_str(), operation.clone(), now_ms).await;
        assert_eq!(answer, right, "seed {seed}, step {step}, at {now_ms}: {operation:?}");
        player.learn(&operation, &right);
    }
}
