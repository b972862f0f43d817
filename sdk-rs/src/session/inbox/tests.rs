//! The inbox as tables, and under thousands of random histories: links cut, frames doubled, swapped
//! and lost, storage that fails, handlers and processes that die, a store that changes its term.

use super::chain::RESYNC_AGAIN;
use super::*;
use bytes::Bytes;
use hawser_proto::codec::decode_message;
use hawser_proto::limits::FRAME_BYTES_MAX;
use hawser_proto::limits::INBOX_WINDOW_ENTRIES;
use std::collections::VecDeque;
use std::fmt::Write as _;

const CHAT: &str = "chat";
const NUMBER: u32 = 5;

fn at(term: u64, seq: u64) -> Position {
    Position::new(term, seq)
}

/// `1-2` as the wire's pair.
fn short(at: Position) -> String {
    at.to_string()
}

fn print(action: &Action) -> String {
    let position = |it: &params::InboxPosition| format!("{}-{}", it.term, it.seq);
    match action {
        Action::Shelve(_, number, Incoming::Push(push)) => {
            format!("shelve {number} push {}", short(push.position.unwrap()))
        }
        Action::Shelve(_, number, Incoming::Gap(gap)) => {
            format!("shelve {number} gap {}..{} {:?}", gap.after, gap.upto, gap.reason)
        }
        Action::Shelve(_, number, Incoming::TermChanged(word)) => {
            format!("shelve {number} term {}..{}", word.from, word.to)
        }
        Action::Keep(cursors, refused) => {
            let at: Vec<String> = cursors.iter().map(|(_, at)| short(*at)).collect();
            let instead = if refused.is_empty() { "" } else { " instead" };
            format!("keep {}{instead}", at.join(" "))
        }
        Action::Send(frame) => {
            let raw = decode_message(frame.clone(), FRAME_BYTES_MAX).unwrap();
            match DeviceFrame::parse(raw).unwrap() {
                DeviceFrame::Ack(ack) => format!("ack {}", position(&ack.inboxes[0])),
                DeviceFrame::Resync(resync) => {
                    format!("resync {}", position(&resync.after.unwrap()))
                }
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
}

/// One inbox, with a clock that only the test moves.
struct Rig {
    inboxes: Inboxes,
    now: Instant,
}

impl Rig {
    fn new(cursor: Position) -> Self {
        let cursors = (cursor > Position::START).then(|| (CHAT.into(), cursor));
        Self { inboxes: Inboxes::new(cursors), now: Instant::now() }
    }

    fn online(cursor: Position) -> Self {
        let mut rig = Self::new(cursor);
        rig.log_in(params::Inbox::default());
        rig
    }

    fn seen(&mut self, change: impl FnOnce(&mut Inboxes, Instant, &mut Vec<Action>)) -> String {
        let mut out = Vec::new();
        change(&mut self.inboxes, self.now, &mut out);
        let printed: Vec<String> = out.iter().map(print).collect();
        printed.join(", ")
    }

    fn log_in(&mut self, told: params::Inbox) -> String {
        let cursors = self.inboxes.cursors(&[]);
        self.inboxes.logging_in(&cursors);
        let told = params::Inbox { business: NUMBER, ..told };
        let businesses = [(NUMBER, CHAT.into(), 0)];
        self.seen(|it, now, out| it.online(&businesses, vec![told], true, now, out))
    }

    fn push(&mut self, at: Position, prev: Position) -> String {
        self.push_of(at, prev, 100)
    }

    fn push_of(&mut self, at: Position, prev: Position, bytes: usize) -> String {
        let push = Push { position: Some(at), ..Push::default() };
        let place = Place { at, prev };
        self.seen(|it, now, out| it.push((NUMBER, &CHAT.into()), place, push, bytes, now, out))
    }

    fn gap(&mut self, after: Position, upto: Position, count: u64) -> String {
        let gap = params::Gap {
            business: NUMBER,
            after_term: after.term,
            after_seq: after.seq,
            upto_term: upto.term,
            upto_seq: upto.seq,
            count,
            reason: params::GapReason::Overflow.into(),
        };
        self.seen(|it, now, out| it.gap(&CHAT.into(), &gap, now, out))
    }

    fn handled(&mut self, number: u64) -> String {
        self.seen(|it, now, out| it.handled(CHAT, number, now, out))
    }

    fn kept(&mut self, is_ok: bool) -> String {
        self.seen(|it, now, out| it.kept(is_ok, now, out))
    }

    /// Moves the clock to where the inbox wants to be woken.
    fn due(&mut self) -> String {
        self.now = self.inboxes.wake_at().expect("something is planned").max(self.now);
        self.seen(Inboxes::due)
    }

    /// Pushes 1-`from` to 1-`upto`, in order.
    fn row(&mut self, from: u64, upto: u64) {
        for seq in from..=upto {
            let seen = self.push(at(1, seq), at(u64::from(seq > 1), seq - 1));
            assert!(seen.starts_with("shelve"), "{seq}: {seen}");
        }
    }
}

/// Received is 2-5, kept 2-3.
#[test]
fn a_push_is_taken_once_and_in_order() {
    let mut table = String::new();
    for (what, position, prev, told) in [
        ("the next one", at(2, 6), at(2, 5), ""),
        ("one behind a hole of the chain", at(2, 9), at(2, 5), ""),
        ("one whose prev was taken long ago", at(2, 7), at(2, 2), ""),
        ("the same again, not kept yet", at(2, 5), at(2, 4), " and then ack 2-3"),
        ("an older one, kept", at(2, 3), at(2, 2), " and then ack 2-3"),
        ("one too far ahead", at(2, 8), at(2, 7), ""),
        ("a later term that follows", at(3, 1), at(2, 5), ""),
        ("a later term from behind", at(3, 1), at(2, 4), ""),
        ("a later term from ahead", at(3, 2), at(3, 1), ""),
        ("an earlier term", at(1, 9), at(1, 8), " and then ack 2-3"),
    ] {
        let mut rig = Rig::online(at(2, 3));
        rig.push(at(2, 4), at(2, 3));
        rig.push(at(2, 5), at(2, 4));
        let mut seen = rig.push(position, prev);
        if seen.is_empty() && rig.inboxes.wake_at().is_some() {
            write!(seen, " and then {}", rig.due()).unwrap();
        }
        assert_eq!(seen.contains("and then"), !told.is_empty(), "{what}: {seen}");
        let seen = if seen.is_empty() { "nothing" } else { seen.trim() };
        writeln!(table, "{what}, {position} after {prev}: {seen}").unwrap();
    }
    assert_eq!(
        table,
        "\
the next one, 2-6 after 2-5: shelve 3 push 2-6
one behind a hole of the chain, 2-9 after 2-5: shelve 3 push 2-9
one whose prev was taken long ago, 2-7 after 2-2: shelve 3 push 2-7
the same again, not kept yet, 2-5 after 2-4: and then ack 2-3
an older one, kept, 2-3 after 2-2: and then ack 2-3
one too far ahead, 2-8 after 2-7: resync 2-5
a later term that follows, 3-1 after 2-5: shelve 3 push 3-1
a later term from behind, 3-1 after 2-4: shelve 3 term 2-5..3-1, shelve 4 push 3-1
a later term from ahead, 3-2 after 3-1: resync 2-5
an earlier term, 1-9 after 1-8: and then ack 2-3
"
    );
}

#[test]
fn handled_is_kept_and_kept_is_acknowledged() {
    let mut rig = Rig::online(Position::START);
    rig.row(1, 40);
    assert_eq!(rig.handled(1), "");
    let began = rig.now;
    assert_eq!(rig.handled(3), "");
    assert_eq!(rig.due(), "keep 1-3");
    assert_eq!(rig.now - began, ACK_DELAY, "counted from the first");
    assert_eq!(rig.handled(19), "", "the storage is at work");
    assert_eq!(rig.kept(true), "ack 1-3, keep 1-19", "sixteen do not wait");
    assert_eq!(rig.kept(true), "ack 1-19");
    assert_eq!(rig.inboxes.wake_at(), None);
    assert_eq!(rig.handled(35), "keep 1-35");
}

#[test]
fn large_pushes_do_not_wait_for_more() {
    let mut rig = Rig::online(Position::START);
    rig.push_of(at(1, 1), Position::START, ACK_BYTES);
    assert_eq!(rig.handled(1), "keep 1-1");
}

#[test]
fn what_could_not_be_kept_is_not_acknowledged() {
    let mut rig = Rig::online(Position::START);
    rig.row(1, 40);
    assert_eq!(rig.handled(16), "keep 1-16");
    assert_eq!(rig.kept(false), "");
    assert_eq!(rig.handled(33), "", "not before its time");
    let failed = rig.now;
    assert_eq!(rig.due(), "keep 1-33");
    assert_eq!(rig.now - failed, KEEP_AGAIN);
    rig.inboxes.offline();
    assert_eq!(rig.inboxes.cursors(&[]).len(), 0, "nothing that is not kept");
    assert_eq!(rig.kept(true), "", "nobody to tell");
    assert_eq!(rig.inboxes.cursors(&[])[0].seq, 33);
}

#[test]
fn one_resync_is_open_at_a_time() {
    let mut rig = Rig::online(Position::START);
    rig.row(1, 1);
    assert_eq!(rig.push(at(1, 5), at(1, 4)), "resync 1-1");
    assert_eq!(rig.push(at(1, 6), at(1, 5)), "");
    let began = rig.now;
    assert_eq!(rig.due(), "resync 1-1");
    assert_eq!(rig.now - began, RESYNC_AGAIN);
    rig.row(2, 3);
    assert_eq!(rig.inboxes.wake_at(), None, "something was taken");
    assert_eq!(rig.push(at(1, 6), at(1, 5)), "resync 1-3", "and another hole is another question");
    rig.inboxes.offline();
    assert_eq!(rig.inboxes.wake_at(), None, "the next login asks");
}

#[test]
fn a_node_that_sends_beyond_its_window_is_asked_again_when_there_is_room() {
    let mut rig = Rig::online(Position::START);
    let window = INBOX_WINDOW_ENTRIES as u64;
    rig.row(1, window);
    for seq in window + 1..window + 9 {
        assert_eq!(rig.push(at(1, seq), at(1, seq - 1)), "", "no room, and no use in asking");
    }
    assert_eq!(rig.handled(1), "resync 1-64");
    let mut rig = Rig::online(Position::START);
    let large = INBOX_WINDOW_BYTES / 2 + 1;
    assert!(rig.push_of(at(1, 1), at(0, 0), large).starts_with("shelve"));
    assert!(rig.push_of(at(1, 2), at(1, 1), large).starts_with("shelve"), "the one above");
    assert_eq!(rig.push_of(at(1, 3), at(1, 2), 1), "");
}

#[test]
fn a_gap_moves_the_cursor_in_its_turn() {
    let mut rig = Rig::online(Position::START);
    rig.row(1, 2);
    assert_eq!(rig.gap(at(1, 2), at(1, 9), 7), "shelve 3 gap 1-2..1-9 Overflow");
    assert_eq!(rig.gap(at(1, 2), at(1, 9), 7), "", "once");
    assert_eq!(rig.push(at(1, 10), at(1, 9)), "shelve 4 push 1-10");
    assert_eq!(rig.gap(at(1, 12), at(1, 14), 2), "resync 1-10", "something lies before it");
    rig.handled(2);
    assert_eq!(rig.due(), "keep 1-2");
    assert_eq!(rig.kept(true), "ack 1-2");
    rig.handled(3);
    assert_eq!(rig.due(), "keep 1-9");

    // Nothing was lost there: no word, and the cursor moves behind what is before it.
    let mut rig = Rig::online(Position::START);
    assert_eq!(rig.gap(at(0, 0), at(1, 3), 0), "");
    assert_eq!(rig.due(), "keep 1-3");
    rig.kept(true);
    rig.push(at(1, 4), at(1, 3));
    assert_eq!(rig.gap(at(1, 4), at(1, 6), 0), "");
    rig.handled(1);
    assert_eq!(rig.due(), "keep 1-6");
}

#[test]
fn a_reconnect_repeats_nothing_that_the_process_holds() {
    let mut rig = Rig::online(Position::START);
    rig.row(1, 5);
    rig.handled(2);
    rig.due();
    rig.kept(true);
    rig.inboxes.offline();
    assert_eq!(rig.log_in(params::Inbox::default()), "");
    let cursor = &rig.inboxes.cursors(&[])[0];
    assert_eq!((cursor.term, cursor.seq), (1, 2), "what is kept");
    for seq in 3..=5 {
        assert_eq!(rig.push(at(1, seq), at(1, seq - 1)), "", "it waits on the shelf");
    }
    rig.row(6, 6);
    rig.handled(6);
    assert_eq!(rig.due(), "keep 1-6, ack 1-2", "what came twice is answered with what is kept");
    // Kept between LOGIN and its answer: the node does not know.
    rig.inboxes.offline();
    let cursors = rig.inboxes.cursors(&[]);
    rig.inboxes.logging_in(&cursors);
    assert_eq!(rig.kept(true), "");
    let businesses = [(NUMBER, CHAT.into(), 0)];
    let seen = rig.seen(|it, now, out| it.online(&businesses, vec![], true, now, out));
    assert_eq!(seen, "", "not above what this link has brought");
    assert_eq!(rig.push(at(1, 6), at(1, 5)), "");
    assert_eq!(rig.due(), "ack 1-6");
}

#[test]
fn what_the_login_says_is_heard() {
    // Another installation of this device has handled up to 1-20: the floor moves nothing by itself,
    // the gap in front of what comes does.
    let mut rig = Rig::new(at(1, 10));
    let floor = params::Inbox { floor_term: 1, floor_seq: 20, ..params::Inbox::default() };
    assert_eq!(rig.log_in(floor), "");
    assert_eq!(rig.gap(at(1, 10), at(1, 20), 0), "");
    assert_eq!(rig.push(at(1, 21), at(1, 20)), "shelve 1 push 1-21");

    let mut rig = Rig::new(at(7, 10));
    let state = params::InboxState::TermChanged.into();
    let back = params::Inbox { state, tail_term: 6, tail_seq: 9, ..params::Inbox::default() };
    assert_eq!(rig.log_in(back), "shelve 1 term 7-10..6-9");
    assert_eq!(rig.push(at(8, 1), at(6, 9)), "shelve 2 push 8-1", "not said twice");

    // The store's word covers one return. It may have been whole from the device's point of view.
    let mut rig = Rig::new(at(7, 10));
    let back = params::Inbox { state, tail_term: 6, tail_seq: 9, ..params::Inbox::default() };
    assert_eq!(rig.log_in(back), "shelve 1 term 7-10..6-9");
    assert_eq!(rig.push(at(8, 1), at(7, 10)), "shelve 2 push 8-1");
    assert_eq!(rig.push(at(8, 2), at(8, 1)), "shelve 3 push 8-2");
    assert_eq!(rig.push(at(9, 1), at(8, 1)), "shelve 4 term 8-2..9-1, shelve 5 push 9-1");

    // What was taken before the cursor was refused no longer moves it.
    let mut rig = Rig::online(at(900, 1));
    rig.push(at(900, 2), at(900, 1));
    rig.inboxes.offline();
    let state = params::InboxState::CursorRefused.into();
    let refused = params::Inbox { state, floor_term: 3, floor_seq: 4, ..params::Inbox::default() };
    assert_eq!(rig.log_in(refused), "shelve 2 term 900-2..3-4, keep 3-4 instead");
    assert_eq!(rig.handled(1), "");
    // Until it is kept, whatever is kept takes its place.
    assert_eq!(rig.kept(false), "");
    assert_eq!(rig.due(), "keep 3-4 instead");
    assert_eq!(rig.kept(true), "");
    assert_eq!(rig.push(at(3, 5), at(3, 4)), "shelve 3 push 3-5");
    rig.handled(3);
    assert_eq!(rig.due(), "keep 3-5");
    assert_eq!(rig.kept(true), "ack 3-5");
}

#[test]
fn a_node_without_the_ability_hears_nothing_it_does_not_know() {
    let mut rig = Rig::new(Position::START);
    let businesses = [(NUMBER, CHAT.into(), 0)];
    rig.seen(|it, now, out| it.online(&businesses, vec![], false, now, out));
    rig.row(1, 1);
    assert_eq!(rig.push(at(1, 3), at(1, 2)), "");
    rig.handled(1);
    assert_eq!(rig.due(), "keep 1-1");
    assert_eq!(rig.kept(true), "");
}

// === Random histories ===

/// SplitMix64: the same seed is the same history.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[derive(Clone, Copy, Debug)]
enum Down {
    Push(Place),
    Gap(Place),
}

/// The node's side of one link.
#[derive(Debug)]
struct Wire {
    sent: Position,
    acked: Position,
    /// Ever sent, or named by the LOGIN.
    highest: Position,
    down: VecDeque<Down>,
    up: VecDeque<DeviceFrame>,
}

/// A store and a node that follow the rules, a link that does not, and an app that dies.
struct World {
    dice: Dice,
    now: Instant,
    /// From 0 to 9: how slow the app is, and how seldom it dies.
    sloth: u64,
    // The store.
    entries: Vec<Place>,
    floor: Position,
    tail: Position,
    /// Removed by policy: these need not reach the app.
    dropped: Vec<Position>,
    wire: Option<Wire>,
    // The device.
    inboxes: Inboxes,
    durable: Option<Position>,
    keeping: Option<Position>,
    shelf: VecDeque<(u64, Option<Position>)>,
    /// Handed to a handler that has not returned.
    open: Option<(u64, Option<Position>)>,
    // What the judge looks at.
    life: Vec<Position>,
    handed: Vec<Position>,
    coverage: [u64; 8],
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            sloth: seed % 10,
            now: Instant::now(),
            entries: Vec::new(),
            floor: Position::START,
            tail: Position::START,
            dropped: Vec::new(),
            wire: None,
            inboxes: Inboxes::default(),
            durable: None,
            keeping: None,
            shelf: VecDeque::new(),
            open: None,
            life: Vec::new(),
            handed: Vec::new(),
            coverage: [0; 8],
        }
    }

    fn append(&mut self) {
        let is_new_term = self.tail == Position::START || self.dice.roll(40) == 0;
        let Position { term, seq } = self.tail;
        let at = if is_new_term { at(term + 1, 1) } else { at(term, seq + 1) };
        self.entries.push(Place { at, prev: self.tail });
        self.tail = at;
        if self.entries.len() > 100 {
            self.drop_oldest(30);
        }
    }

    /// The inbox overflows: the oldest leave, and the next one's `prev` says so.
    fn drop_oldest(&mut self, count: usize) {
        self.coverage[0] += 1;
        let gone = self.entries.drain(..count.min(self.entries.len()));
        self.dropped.extend(gone.map(|entry| entry.at));
        self.floor = self.floor.max(*self.dropped.last().unwrap());
        if let Some(first) = self.entries.first_mut() {
            first.prev = self.floor;
        }
    }

    fn log_in(&mut self) {
        self.wire = None;
        self.inboxes.offline();
        let cursors = self.inboxes.cursors(&[CHAT.into()]);
        self.inboxes.logging_in(&cursors);
        let cursor = cursors.first().map_or(Position::START, |it| Position::new(it.term, it.seq));
        assert!(cursor <= self.durable.unwrap_or_default(), "a LOGIN names what is not kept");
        // Now and then a node goes by what it knows itself, and begins below the cursor.
        let known = if self.dice.roll(4) == 0 { cursor.min(self.floor) } else { cursor };
        self.acked(known);
        let (down, up) = (VecDeque::new(), VecDeque::new());
        self.wire = Some(Wire { sent: known, acked: known, highest: cursor, down, up });
        let told = params::Inbox {
            business: NUMBER,
            floor_term: self.floor.term,
            floor_seq: self.floor.seq,
            ..params::Inbox::default()
        };
        let businesses = [(NUMBER, CHAT.into(), 0)];
        self.device(|it, now, out| it.online(&businesses, vec![told], true, now, out));
    }

    /// The device has handled everything up to here.
    fn acked(&mut self, upto: Position) {
        self.entries.retain(|entry| entry.at > upto);
        self.floor = self.floor.max(upto);
    }

    /// The node sends the next entry, if its window is open.
    fn send(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        let unacked = self.entries.iter().filter(|it| it.at > wire.acked && it.at <= wire.sent);
        if unacked.count() >= INBOX_WINDOW_ENTRIES {
            self.coverage[1] += 1;
            return;
        }
        let Some(next) = self.entries.iter().find(|it| it.at > wire.sent) else { return };
        if next.prev > wire.sent {
            wire.down.push_back(Down::Gap(Place { at: next.prev, prev: wire.sent }));
        }
        wire.down.push_back(Down::Push(*next));
        wire.sent = next.at;
        wire.highest = wire.highest.max(next.at);
    }

    fn hear_device(&mut self) {
        let Some(wire) = &mut self.wire else { return };
        match wire.up.pop_front() {
            Some(DeviceFrame::Ack(ack)) => {
                let upto = Position::new(ack.inboxes[0].term, ack.inboxes[0].seq);
                wire.acked = wire.acked.max(upto);
                self.acked(upto);
            }
            Some(DeviceFrame::Resync(resync)) => {
                let after = resync.after.unwrap();
                wire.sent = Position::new(after.term, after.seq).max(wire.acked);
                self.coverage[2] += 1;
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }

    fn hear_node(&mut self) {
        let Some(down) = self.wire.as_mut().and_then(|wire| wire.down.pop_front()) else { return };
        match down {
            Down::Push(place) => {
                let push = Push { position: Some(place.at), body: Bytes::new(), ..Push::default() };
                self.device(|it, now, out| {
                    it.push((NUMBER, &CHAT.into()), place, push, 10, now, out);
                });
            }
            Down::Gap(Place { at, prev }) => {
                let gap = params::Gap {
                    business: NUMBER,
                    after_term: prev.term,
                    after_seq: prev.seq,
                    upto_term: at.term,
                    upto_seq: at.seq,
                    count: 1,
                    reason: 0,
                };
                self.device(|it, now, out| it.gap(&CHAT.into(), &gap, now, out));
            }
        }
    }

    fn device(&mut self, change: impl FnOnce(&mut Inboxes, Instant, &mut Vec<Action>)) {
        let mut out = Vec::new();
        change(&mut self.inboxes, self.now, &mut out);
        for action in out {
            match action {
                Action::Shelve(_, number, Incoming::Push(push)) => {
                    self.shelf.push_back((number, push.position));
                }
                Action::Shelve(_, number, _) => self.shelf.push_back((number, None)),
                Action::Keep(cursors, _) => {
                    assert!(self.keeping.is_none(), "two storage calls at once");
                    self.keeping = Some(cursors[0].1);
                }
                Action::Send(frame) => {
                    let raw = decode_message(frame, FRAME_BYTES_MAX).unwrap();
                    let frame = DeviceFrame::parse(raw).unwrap();
                    if let DeviceFrame::Ack(ack) = &frame {
                        let upto = Position::new(ack.inboxes[0].term, ack.inboxes[0].seq);
                        assert!(upto <= self.durable.unwrap_or_default(), "ACK before it is kept");
                        let wire = self.wire.as_ref().expect("only online");
                        assert!(upto <= wire.highest, "ACK of what this link has not brought");
                    }
                    self.wire.as_mut().expect("only online").up.push_back(frame);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(self.shelf.len() <= SHELF_MAX, "the shelf has an end");
    }

    fn hand_over(&mut self) {
        if self.open.is_some() {
            return;
        }
        let Some(next) = self.shelf.pop_front() else { return };
        self.open = Some(next);
        if let (_, Some(at)) = next {
            assert!(
                self.life.last().is_none_or(|last| *last < at),
                "{at} after {:?}",
                self.life.last()
            );
            assert!(Some(at) > self.durable, "{at} again, though its cursor was kept");
            self.life.push(at);
            self.handed.push(at);
        }
    }

    fn handler_returns(&mut self) {
        if let Some((number, _)) = self.open.take() {
            self.device(|it, now, out| it.handled(CHAT, number, now, out));
        }
    }

    fn storage_ends(&mut self, is_ok: bool) {
        if let Some(cursor) = self.keeping.take() {
            if is_ok {
                assert!(Some(cursor) >= self.durable, "a cursor went back");
                self.durable = Some(cursor);
            } else {
                self.coverage[3] += 1;
            }
            self.device(|it, now, out| it.kept(is_ok, now, out));
        }
    }

    /// The process dies, and another one starts with what was kept. The storage call that was under
    /// way may have been done or not.
    fn die(&mut self) {
        self.coverage
            [4 + usize::from(self.open.is_some()) + 2 * usize::from(self.keeping.is_some())] += 1;
        if let Some(cursor) = self.keeping.take()
            && self.dice.roll(2) == 0
        {
            self.durable = Some(cursor);
        }
        let cursors = self.durable.filter(|at| *at > Position::START);
        self.inboxes = Inboxes::new(cursors.map(|at| (CHAT.into(), at)));
        self.wire = None;
        self.shelf.clear();
        self.open = None;
        self.life.clear();
    }

    fn wait(&mut self) {
        if let Some(at) = self.inboxes.wake_at() {
            self.now = self.now.max(at);
            self.device(Inboxes::due);
        }
    }

    fn step(&mut self) {
        if self.wire.is_none() && self.dice.roll(10) == 0 {
            return self.log_in();
        }
        match self.dice.roll(100) {
            0..20 => (0..=self.sloth).step_by(3).for_each(|_| self.append()),
            20..40 => (0..=self.sloth).step_by(3).for_each(|_| self.send()),
            40..55 => self.hear_node(),
            55..65 => self.hear_device(),
            65..75 => self.hand_over(),
            75..85 if self.dice.roll(10) >= self.sloth => self.handler_returns(),
            85..89 => self.storage_ends(true),
            89 => self.storage_ends(false),
            90 if self.dice.roll(10) >= self.sloth => self.die(),
            75..85 | 90 => {}
            91 => self.log_in(),
            92 => {
                self.wire = None;
                self.inboxes.offline();
            }
            93..96 => self.wait(),
            96 => self.perturb(|down, at, _| {
                down.remove(at);
            }),
            97 => self.perturb(VecDeque::swap),
            98 => self.perturb(|down, at, other| {
                let again = down[at];
                down.insert(other, again);
            }),
            _ => {
                if !self.entries.is_empty() {
                    self.drop_oldest(3);
                }
            }
        }
    }

    fn perturb(&mut self, change: impl FnOnce(&mut VecDeque<Down>, usize, usize)) {
        let Some(wire) = self.wire.as_mut().filter(|wire| !wire.down.is_empty()) else { return };
        let length = wire.down.len() as u64;
        let (at, other) = (self.dice.roll(length) as usize, self.dice.roll(length) as usize);
        change(&mut wire.down, at, other);
    }

    /// Everything works again: what is stored must reach the app, and be acknowledged.
    fn quiesce(&mut self) {
        self.log_in();
        for _ in 0..5_000 {
            self.send();
            self.hear_node();
            self.hear_device();
            self.hand_over();
            self.handler_returns();
            self.storage_ends(true);
            self.wait();
            if self.entries.is_empty() && self.shelf.is_empty() {
                return;
            }
        }
        panic!("{} entries never reached the app, {:?}", self.entries.len(), self.wire);
    }
}

fn run(seed: u64, steps: u64) -> World {
    let mut world = World::new(seed);
    world.log_in();
    let mut appended = Vec::new();
    for _ in 0..steps {
        world.step();
        if let Some(last) = world.entries.last()
            && appended.last() != Some(&last.at)
        {
            appended.push(last.at);
        }
    }
    world.quiesce();
    for at in appended {
        let is_known = world.handed.contains(&at) || world.dropped.contains(&at);
        assert!(is_known, "seed {seed}: {at} is lost");
    }
    world
}

#[test]
fn random_histories_lose_nothing_and_repeat_nothing_that_was_kept() {
    let mut coverage = [0; 8];
    // A long run: HAWSER_SEEDS=100000.
    let seeds = std::env::var("HAWSER_SEEDS").map_or(1_500, |number| number.parse().unwrap());
    for seed in 0..seeds {
        let world = run(seed, 600);
        for (sum, count) in coverage.iter_mut().zip(world.coverage) {
            *sum += count;
        }
    }
    // Overflow, a full window, a resync, a failed storage call; deaths while idle, in a handler, in a
    // storage call, and in both.
    assert!(coverage.iter().all(|count| *count > 0), "{coverage:?}");
}
