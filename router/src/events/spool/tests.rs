use super::*;
use crate::inbox::{EventCause, Heard, Owner};
use hawser_proto::id::{BootId, NodeId, SlotRef};
use std::collections::BTreeSet;

const CHAT: BusinessNo = BusinessNo(1);
const SHOP: BusinessNo = BusinessNo(2);
const DAY_MS: u64 = 24 * 3_600_000;

fn app() -> AppId {
    AppId::new("demo").unwrap()
}

fn whom(business: BusinessNo) -> Whom {
    (app(), business)
}

fn at(ms: u64) -> Now {
    Now { steady_ms: ms, wall_ms: ms }
}

fn mark(device: u64, at: u64) -> Marked {
    Marked { device: device.to_be_bytes().as_slice().into(), at }
}

fn look(device: u64, at: u64, seen_ms: u64) -> Look {
    Look { mark: mark(device, at), seen_ms }
}

fn event(business: BusinessNo, epoch: u64) -> Event {
    let at = SlotRef { slot: 1, generation: 1 };
    let owner = Owner { node: NodeId::new("node-1").unwrap(), boot: BootId(1), at };
    let heard = Heard { epoch, is_online: true, owner, is_confirmed: true };
    Event { business, heard, at_ms: epoch, cause: EventCause::None }
}

impl Spool {
    /// A look in its turn that finds an event for each of these.
    fn sees(&mut self, look: Look, businesses: &[BusinessNo], now: Now) -> Verdict {
        let due = businesses.iter().map(|&business| event(business, 1)).collect();
        self.looked(look, &Found::InTurn, due, &app(), |_| true, now)
    }
}

fn known(batch: Vec<Waiting>) -> Vec<(Waiting, bool)> {
    batch.into_iter().map(|it| (it, true)).collect()
}

#[test]
fn what_is_heard_is_looked_at_once_more_and_its_mark_goes() {
    let mut spool = Spool::default();
    assert_eq!(spool.sees(look(1, 5_000, 5), &[CHAT], at(5)), Verdict::Stays);
    let (to, batch) = spool.next_call(at(5)).unwrap();
    assert_eq!((to, batch.len()), (whom(CHAT), 1));
    assert_eq!(spool.next_call(at(5)), None, "one call at a time");
    spool.heard(&whom(CHAT), known(batch), at(50));
    assert_eq!(spool.next_ms(), Some(10_005));
    assert_eq!(spool.take_looks(at(10_004)), []);
    let again = spool.take_looks(at(10_005));
    assert_eq!(again, [look(1, 5_000, 5)]);
    assert_eq!(spool.sees(again[0].clone(), &[], at(10_005)), Verdict::Unmark);
    assert_eq!((spool.waiting(), spool.next_ms(), spool.lines.len()), (0, None, 0));
}

#[test]
fn a_mark_of_which_nothing_is_due_yet_is_looked_at_until_nothing_can_follow() {
    let mut spool = Spool::default();
    let mut times = Vec::new();
    let mut now = at(1_000);
    let mut verdict = spool.sees(look(1, 1, 1_000), &[], now);
    while let Some(due_ms) = spool.next_ms() {
        assert_eq!(verdict, Verdict::Stays);
        times.push(due_ms);
        now = at(due_ms);
        let seen = spool.take_looks(now).remove(0);
        verdict = spool.sees(seen, &[], now);
    }
    assert_eq!((times, verdict), (vec![1_100, 1_500, 3_000, 11_000], Verdict::Unmark));
}

#[test]
fn tries_come_less_and_less_often_and_say_nothing_that_is_old() {
    let table = [(500, 1_000), (1_000, 2_000), (2_000, 4_000), (4_000, 8_000), (8_000, 16_000)];
    for (jitter, pick) in [(0.0, 0), (1.0, 1)] {
        let mut spool = Spool::default();
        spool.sees(look(1, 1, 0), &[CHAT], at(0));
        let mut now_ms = 0;
        for bounds in table {
            let (_, batch) = spool.next_call(at(now_ms)).expect("its time has come");
            spool.failed(&whom(CHAT), batch, jitter, at(now_ms));
            let pause_ms = if pick == 0 { bounds.0 } else { bounds.1 };
            assert_eq!(spool.next_call(at(now_ms + pause_ms - 1)), None);
            now_ms += pause_ms;
        }
        for _ in 0..20 {
            let (_, batch) = spool.next_call(at(now_ms)).expect("its time has come");
            assert_eq!(batch[0].events, [], "it is read again");
            spool.failed(&whom(CHAT), batch, jitter, at(now_ms));
            now_ms += 30_000;
        }
    }
}

#[test]
fn a_business_that_fails_holds_up_nobody_else() {
    let mut spool = Spool::default();
    for device in 0..5_000 {
        spool.sees(look(device, device + 1, 0), &[CHAT], at(0));
        spool.read(&[mark(device, device + 1)], at(0));
    }
    let (_, batch) = spool.next_call(at(0)).unwrap();
    assert_eq!(batch.len(), 128, "there is room for two events of each");
    spool.failed(&whom(CHAT), batch, 1.0, at(0));
    spool.sees(look(9_000, 9_001, 1), &[SHOP, CHAT], at(1));
    let (to, batch) = spool.next_call(at(1)).expect("the other one");
    assert_eq!((to, batch.len()), (whom(SHOP), 1));
    assert_eq!(spool.waiting(), 2_048 + 1, "the lines are bounded");
    assert!(spool.has_left());
    assert_eq!(spool.next_left(), None, "not as long as it fails");
}

#[test]
fn a_device_that_is_marked_again_while_it_is_told_of_is_looked_at_at_once() {
    let mut spool = Spool::default();
    spool.sees(look(1, 1, 0), &[CHAT], at(0));
    let (_, batch) = spool.next_call(at(0)).unwrap();
    spool.sees(look(1, 2, 30), &[CHAT], at(30));
    assert_eq!(spool.next_call(at(30)), None, "it is not told twice at a time");
    spool.heard(&whom(CHAT), known(batch), at(40));
    assert_eq!(spool.take_looks(at(40)).len(), 1);
}

#[test]
fn the_beginning_that_follows_an_end_is_looked_for_at_once() {
    let mut spool = Spool::default();
    let mut ended = event(CHAT, 1);
    ended.heard.is_online = false;
    spool.looked(look(1, 1, 0), &Found::InTurn, vec![ended], &app(), |_| true, at(0));
    let (_, batch) = spool.next_call(at(0)).unwrap();
    spool.heard(&whom(CHAT), known(batch), at(40));
    assert_eq!(spool.take_looks(at(40)).len(), 1);
}

#[test]
fn what_the_store_does_not_know_as_heard_is_told_again() {
    let mut spool = Spool::default();
    spool.sees(look(1, 1, 0), &[CHAT], at(0));
    let (_, mut batch) = spool.next_call(at(0)).unwrap();
    spool.heard(&whom(CHAT), vec![(batch.remove(0), false)], at(10));
    let again = spool.take_looks(at(1_010)).remove(0);
    spool.sees(again, &[CHAT], at(1_010));
    assert!(spool.next_call(at(1_010)).is_some());
}

#[test]
fn events_that_nobody_asks_for_wait_a_day_for_somebody_to_ask() {
    let mut spool = Spool::default();
    let now = |ms| Now { steady_ms: ms, wall_ms: ms };
    let nobody = |_| false;
    let looked = |spool: &mut Spool, ms: u64| {
        let due = vec![event(CHAT, 1)];
        spool.looked(look(1, 1_000, 0), &Found::InTurn, due, &app(), nobody, now(ms))
    };
    spool.read(&[mark(1, 1_000)], at(0));
    assert_eq!(looked(&mut spool, 20_000), Verdict::Stays);
    assert_eq!((spool.waiting(), spool.next_ms()), (0, None), "it takes no room");
    assert_eq!(
        (spool.read_from(at(20_000)), spool.walk_from(0.0, at(20_000))),
        (Some(1_000), None)
    );
    spool.watchers_changed(at(20_000));
    assert_eq!(spool.walk_from(0.0, at(20_000)), Some(0), "somebody may ask now");
    assert_eq!(looked(&mut spool, DAY_MS), Verdict::Stays);
    assert_eq!(looked(&mut spool, DAY_MS + 1), Verdict::GiveUp(vec![event(CHAT, 1)]));
}

#[test]
fn whoever_asks_no_more_is_not_waited_for() {
    let mut spool = Spool::default();
    spool.sees(look(1, 1, 0), &[CHAT, SHOP], at(0));
    spool.let_go(|(_, business)| *business == SHOP, at(7));
    assert_eq!(spool.lines.keys().collect::<Vec<_>>(), [&whom(SHOP)]);
    assert_eq!(spool.take_looks(at(7)).len(), 1);
}

#[test]
fn the_walk_waits_while_too_many_are_to_be_looked_at() {
    let mut spool = Spool::default();
    for device in 0..LOOKS_MAX as u64 {
        assert!(
            device % 7 != 0
                || spool.looks.len() + PAGE > LOOKS_MAX
                || spool.read_from(at(0)).is_some()
        );
        spool.sees(look(device, device + 1, 0), &[], at(0));
    }
    assert_eq!(spool.read_from(at(0)), None);
    while let Some(seen) = spool.take_looks(at(50_000)).pop() {
        assert_eq!(spool.sees(seen, &[], at(50_000)), Verdict::Unmark);
    }
    assert!(spool.read_from(at(0)).is_some());
}

fn page(first: u64) -> Vec<Marked> {
    (first..first + PAGE as u64).map(|at| mark(at, at)).collect()
}

#[test]
fn a_mark_below_those_that_were_read_is_found_soon_where_there_are_few() {
    let mut spool = Spool::default();
    spool.read(&[mark(1, 9_000)], at(0));
    assert_eq!(spool.walk_from(1.0, at(0)), None);
    for round in 1..4 {
        assert_eq!(spool.walk_from(1.0, at(30_000 * round - 1)), None);
        assert_eq!(spool.walk_from(1.0, at(30_000 * round)), Some(0));
        spool.walked(&[mark(2, 5_000)], at(30_000 * round));
    }
    assert_eq!(spool.read_from(at(90_000)), Some(9_000), "new ones are read meanwhile");
    spool.begin_again(at(90_001));
    assert_eq!(spool.walk_from(1.0, at(90_001)), Some(0), "at once, when told so");
}

#[test]
fn marks_that_were_read_are_read_again_at_a_pace() {
    let mut spool = Spool::default();
    for first in [1, 1_001, 2_001] {
        assert!(spool.read(&page(first), at(0)), "new ones at once");
    }
    spool.begin_again(at(0));
    let mut now_ms = 0;
    for (after, first) in [(0, 1), (128, 1_001)] {
        assert_eq!(spool.walk_from(0.0, at(now_ms)), Some(after));
        spool.walked(&page(first), at(now_ms));
        assert_eq!(spool.walk_from(0.0, at(now_ms + 249)), None);
        now_ms += 250;
    }
    assert_eq!(spool.walk_from(0.0, at(now_ms)), Some(1_128));
    spool.walked(&page(2_001), at(now_ms));
    assert_eq!(spool.walk_from(0.0, at(now_ms + 299_999)), None, "that was all");
    assert_eq!(spool.walk_from(0.0, at(now_ms + 300_000)), Some(0));
}

#[test]
fn new_marks_are_read_at_a_pace_while_there_is_no_room_for_them() {
    let mut spool = Spool::default();
    for device in 0..2_050 {
        spool.sees(look(device, device + 1, 0), &[CHAT], at(0));
    }
    assert!(spool.has_left());
    assert!(!spool.read(&page(3_000), at(0)));
    assert_eq!((spool.read_from(at(99)), spool.read_from(at(100))), (None, Some(3_127)));
}

/// Random numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// A store with devices of two businesses, in miniature: of each a number that grows with whatever happens, and
/// the one that each business has heard.
#[derive(Default)]
struct World {
    marks: BTreeSet<(u64, u64)>,
    marked: HashMap<u64, u64>,
    last: u64,
    true_now: HashMap<(u64, BusinessNo), u64>,
    heard: HashMap<(u64, BusinessNo), u64>,
}

impl World {
    fn happens(&mut self, device: u64, business: BusinessNo) {
        self.last += 1;
        if let Some(before) = self.marked.insert(device, self.last) {
            self.marks.remove(&(before, device));
        }
        self.marks.insert((self.last, device));
        *self.true_now.entry((device, business)).or_default() += 1;
    }

    fn due(&self, device: u64) -> Vec<Event> {
        let of = |business| {
            let now = *self.true_now.get(&(device, business))?;
            let heard = self.heard.get(&(device, business)).copied().unwrap_or(0);
            (now > heard).then(|| event(business, now))
        };
        [CHAT, SHOP].into_iter().filter_map(of).collect()
    }

    fn page(&self, after: u64) -> Vec<Marked> {
        let above = self.marks.range((after + 1, 0)..);
        above.take(PAGE).map(|&(at, device)| mark(device, at)).collect()
    }
}

fn number(device: &[u8]) -> u64 {
    u64::from_be_bytes(device.try_into().unwrap())
}

fn look_all(spool: &mut Spool, world: &mut World, looks: Vec<Look>, found: &Found, now: Now) {
    for look in looks {
        let mark = look.mark.clone();
        let due = world.due(number(&mark.device));
        if spool.looked(look, found, due, &app(), |_| true, now) == Verdict::Unmark {
            world.marks.remove(&(mark.at, number(&mark.device)));
        }
    }
}

/// One round as [`super::super::shard`] makes it; calls end when the dice say so.
fn round(spool: &mut Spool, world: &mut World, out: &mut Vec<(Whom, Vec<Waiting>)>, now: Now) {
    let seen = |marks: Vec<Marked>| -> Vec<Look> {
        marks.into_iter().map(|mark| Look { mark, seen_ms: now.steady_ms }).collect()
    };
    if let Some(after) = spool.read_from(now) {
        let marks = world.page(after);
        spool.read(&marks, now);
        look_all(spool, world, seen(marks), &Found::InTurn, now);
    }
    if let Some(after) = spool.walk_from(0.5, now) {
        let marks = world.page(after);
        spool.walked(&marks, now);
        look_all(spool, world, seen(marks), &Found::InTurn, now);
    }
    let looks = spool.take_looks(now);
    look_all(spool, world, looks, &Found::InTurn, now);
    if let Some((whom, from)) = spool.next_left() {
        let marks = world.page(from - 1);
        spool.left_read(&whom, &marks);
        look_all(spool, world, seen(marks), &Found::Left(whom), now);
    }
    while let Some(call) = spool.next_call(now) {
        assert!(!out.iter().any(|(whom, _)| *whom == call.0), "one call at a time");
        out.push(call);
    }
}

fn end_call(
    spool: &mut Spool,
    world: &mut World,
    call: (Whom, Vec<Waiting>),
    is_heard: bool,
    now: Now,
) {
    let (whom, batch) = call;
    if !is_heard {
        return spool.failed(&whom, batch, 0.5, now);
    }
    let hear = |mut it: Waiting| {
        let device = number(&it.look.mark.device);
        if it.events.is_empty() {
            it.events = world.due(device);
            it.events.retain(|event| event.business == whom.1);
        }
        if let Some(last) = it.events.last() {
            let before = world.heard.insert((device, whom.1), last.heard.epoch);
            assert!(before < Some(last.heard.epoch), "in order");
        }
        (it, true)
    };
    let told = batch.into_iter().map(hear).collect();
    spool.heard(&whom, told, now);
}

#[test]
fn in_the_end_everybody_has_heard_everything_and_no_mark_is_left() {
    for seed in 0..24 {
        let (mut dice, mut spool, mut world) = (Dice(seed), Spool::default(), World::default());
        let (mut out, mut now_ms) = (Vec::new(), 0);
        let devices = [50, 4_000][seed as usize % 2];
        for step in 0..400 {
            let is_bad = step < 300;
            if is_bad {
                for _ in 0..dice.below(60) {
                    let business = [CHAT, SHOP][dice.below(2) as usize];
                    world.happens(dice.below(devices), business);
                }
            }
            round(&mut spool, &mut world, &mut out, at(now_ms));
            if dice.below(2) == 0 && !out.is_empty() {
                let call = out.remove(dice.below(out.len() as u64) as usize);
                let is_heard = !is_bad || (call.0.1 == SHOP && dice.below(3) > 0);
                end_call(&mut spool, &mut world, call, is_heard, at(now_ms));
            }
            if dice.below(100) == 0 {
                // Another router takes over, once what is under way has ended.
                for call in std::mem::take(&mut out) {
                    end_call(&mut spool, &mut world, call, dice.below(2) == 0, at(now_ms));
                }
                spool = Spool::default();
            }
            now_ms += dice.below(300);
        }
        for _ in 0..600 {
            round(&mut spool, &mut world, &mut out, at(now_ms));
            for call in std::mem::take(&mut out) {
                end_call(&mut spool, &mut world, call, true, at(now_ms));
            }
            now_ms += 100;
        }
        let unheard: Vec<_> =
            (0..devices).filter(|&device| !world.due(device).is_empty()).collect();
        assert_eq!(unheard, [0; 0], "seed {seed}");
        assert_eq!(world.marks.len(), 0, "seed {seed}");
        assert_eq!(
            (spool.waiting(), spool.looks.len(), spool.lines.len()),
            (0, 0, 0),
            "seed {seed}"
        );
    }
}
