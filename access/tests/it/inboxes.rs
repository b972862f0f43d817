//! Stored pushes: written once and in order, to the right session, whatever is lost on the way.

use crate::eventually;
use crate::fakes::device::Device;
use crate::fakes::dial::{self, Dial};
use crate::fakes::router::{Binding, PUSH, Route, Router, Tier};
use crate::fakes::store::{self, Answering};
use crate::fakes::tokens;
use crate::house::{APP, CHAT, DEAF, House, business, push_to};
use hawser_access::Guards;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::id::Position;
use hawser_proto::params::{GapReason, InboxState};
use hawser_proto::rpc::control::{self as control, SlowPolicy, change::Entity};
use hawser_proto::rpc::node::bind_result::Status as BindStatus;
use hawser_proto::rpc::node::{self as wire, DeliverDown, answer::Status, down, up};
use hawser_proto::rpc::push::Outcome;
use std::collections::HashSet;
use std::time::{Duration, Instant};

const START: Position = Position::START;

fn at(seq: u64) -> Position {
    Position::new(5, seq)
}

async fn able(house: &House, name: &str) -> Device {
    house.able(Dial::Tcp, name, START).await.0
}

fn body(seq: u64) -> Vec<u8> {
    format!("body {seq}").into_bytes()
}

/// Stores pushes number `from..=to` of a device, and wakes nobody.
fn store_all(house: &House, device: &str, from: u64, to: u64) {
    for seq in from..=to {
        let place = house.router.store_push(APP, device, CHAT, &body(seq));
        assert_eq!(place.seq, seq);
    }
}

/// Reads stored pushes number `from..=to`, and nothing else.
async fn reads(device: &mut Device, from: u64, to: u64) {
    for seq in from..=to {
        assert_eq!(device.stored().await, (at(seq), body(seq)));
    }
}

/// Waits until the store holds so many entries for a device.
async fn holds(house: &House, device: &str, count: usize) {
    eventually("the store is acknowledged to", || {
        let store = house.router.store.lock();
        let inbox = store.inboxes.get(&(APP.to_owned(), device.to_owned(), CHAT));
        (inbox.map_or(0, |inbox| inbox.entries.len()) == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_push_is_written_with_its_wake_up_on_every_transport() {
    let house = House::start().await;
    for how in Dial::ALL {
        let name = how.name();
        let (mut device, ok) = house.able(how, name, START).await;
        assert!(ok.inboxes.is_empty());
        for seq in 1..=3 {
            house.router.push_stored(APP, name, CHAT, &body(seq)).await;
        }
        reads(&mut device, 1, 3).await;
        house.metric_is("hawser_downlink_unacked", &[], 3).await;
        device.ack(CHAT, at(3)).await;
        holds(&house, name, 0).await;
        house.metric_is("hawser_downlink_unacked", &[], 0).await;
        device.settle().await;
    }
    assert!(house.router.pulls().is_empty(), "one hop, and no call of the store");
    house.metric_is("hawser_downlink_stored_total", &[("how", "wake_up")], 15).await;
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_comes_after_the_login_in_order_and_from_the_cursor_on() {
    let house = House::start().await;
    store_all(&house, "d", 1, 50);
    let (mut device, ok) = house.able(Dial::Ws, "d", START).await;
    let [inbox] = &ok.inboxes[..] else { panic!("{:?}", ok.inboxes) };
    assert_eq!((inbox.business, inbox.tail_term, inbox.tail_seq), (CHAT, 5, 50));
    reads(&mut device, 1, 50).await;
    device.settle().await;
    drop(device);
    let sent = |word: &up::What| match word {
        up::What::Unbind(unbind) => Some(unbind.sent.clone()),
        _ => None,
    };
    let sent = house.router.word("how far it was sent", sent).await;
    assert_eq!(sent, [wire::InboxPosition { business: CHAT, term: 5, seq: 50 }]);
    // It had handled forty of them.
    let (mut device, _) = house.able(Dial::Tcp, "d", at(40)).await;
    reads(&mut device, 41, 50).await;
    device.settle().await;
    house.router.push_stored(APP, "d", CHAT, &body(51)).await;
    reads(&mut device, 51, 51).await;
    drop(device);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_spares_the_first_push_of_a_session_its_pull() {
    let house = House::start().await;
    store_all(&house, "d", 1, 9);
    let (mut device, ok) = house.able(Dial::Tcp, "d", at(9)).await;
    assert!(ok.inboxes.is_empty());
    house.router.push_stored(APP, "d", CHAT, &body(10)).await;
    reads(&mut device, 10, 10).await;
    assert!(house.router.pulls().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_the_window_is_written_before_it_is_acknowledged() {
    let house = House::start().await;
    let mut device = able(&house, "d").await;
    for seq in 1..=100 {
        house.router.push_stored(APP, "d", CHAT, &body(seq)).await;
    }
    reads(&mut device, 1, 64).await;
    device.settle().await;
    device.ack(CHAT, at(16)).await;
    reads(&mut device, 65, 80).await;
    device.settle().await;
    device.ack(CHAT, at(80)).await;
    reads(&mut device, 81, 100).await;
    device.ack(CHAT, at(100)).await;
    holds(&house, "d", 0).await;
    device.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_wake_up_is_found_by_the_next_by_its_number_or_by_a_sweep() {
    let house = House::start().await;
    // The streams are new.
    house.metric_is("hawser_downlink_sweeps_total", &[], 1).await;
    let (mut a, mut b) = (able(&house, "a").await, able(&house, "b").await);
    // The next entry tells.
    store_all(&house, "a", 1, 2);
    house.router.push_stored(APP, "a", CHAT, &body(3)).await;
    reads(&mut a, 1, 3).await;
    a.settle().await;
    // A number is missing: somebody's was lost.
    let lost = house.router.store_push(APP, "b", CHAT, &body(1));
    drop(house.router.wake_up(&house.route("b"), CHAT, lost));
    house.router.push_stored(APP, "a", CHAT, &body(4)).await;
    reads(&mut a, 4, 4).await;
    reads(&mut b, 1, 1).await;
    house.metric_is("hawser_downlink_wakes_lost_total", &[], 1).await;
    // The router says so.
    store_all(&house, "b", 2, 2);
    house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow::default()));
    reads(&mut b, 2, 2).await;
    for device in [&mut a, &mut b] {
        device.settle().await;
    }
    drop((a, b));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slow_sweep_stands_behind_it_all_and_tells_again_what_was_handled() {
    let house =
        House::start_with(|config| config.sweep_interval = Duration::from_millis(500)).await;
    let mut device = able(&house, "d").await;
    house.router.push_stored(APP, "d", CHAT, &body(1)).await;
    reads(&mut device, 1, 1).await;
    device.ack(CHAT, at(1)).await;
    holds(&house, "d", 0).await;
    // The store went back behind the acknowledgement, and nobody was woken for the second.
    let second = house.router.store_push(APP, "d", CHAT, &body(2));
    {
        let mut store = house.router.store.lock();
        let inbox = store.inboxes.get_mut(&(APP.into(), "d".into(), CHAT)).unwrap();
        let first = wire::Place { term: 5, seq: 1, ..Default::default() };
        let frame = store::push(CHAT, &first, body(1));
        let entry = wire::Entry { place: Some(first), frame, ..Default::default() };
        inbox.entries.insert(at(1), entry);
    }
    assert_eq!(second.seq, 2);
    reads(&mut device, 2, 2).await;
    holds(&house, "d", 1).await;
    device.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_acknowledges_and_never_got_moves_nothing() {
    let house = House::start().await;
    let mut device = able(&house, "d").await;
    // The sweeps of the beginning would find what is stored below.
    let two = wire::InboxTail { business: CHAT, tail_term: 5, tail_seq: 2, ..Default::default() };
    house.router.store.lock().swept = Some(two);
    for seq in 1..=2 {
        house.router.push_stored(APP, "d", CHAT, &body(seq)).await;
    }
    reads(&mut device, 1, 2).await;
    store_all(&house, "d", 3, 5);
    for lie in [at(3), at(5), Position::new(6, 1), Position::new(u64::MAX, u64::MAX)] {
        device.ack(CHAT, lie).await;
        device.resync(CHAT, lie).await;
        device.ack(DEAF, lie).await;
        device.ack(999, lie).await;
    }
    device.settle().await;
    house.metric_is("hawser_downlink_ack_lies_total", &[], 16).await;
    house.metric_is("hawser_downlink_unacked", &[], 2).await;
    holds(&house, "d", 5).await;
    let asked = house.router.store.lock().asked.clone();
    assert!(!asked.iter().any(|what| matches!(what, wire::ask::What::Ack(_))));
    device.ack(CHAT, at(2)).await;
    holds(&house, "d", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_brings_everything_again_from_there() {
    let house = House::start().await;
    let mut device = able(&house, "d").await;
    for seq in 1..=5 {
        house.router.push_stored(APP, "d", CHAT, &body(seq)).await;
    }
    reads(&mut device, 1, 5).await;
    for _ in 0..3 {
        device.resync(CHAT, at(2)).await;
        reads(&mut device, 3, 5).await;
    }
    device.settle().await;
    house.metric_is("hawser_downlink_resyncs_total", &[], 3).await;
    house.router.push_stored(APP, "d", CHAT, &body(6)).await;
    reads(&mut device, 6, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_without_the_ability_gets_none_and_what_comes_stays() {
    let house = House::start().await;
    store_all(&house, "d", 1, 3);
    let (mut device, ok) = house.login(Dial::Tcp, "d").await;
    assert_eq!(ok.abilities, 0);
    // The streams are new.
    house.metric_is("hawser_downlink_sweeps_total", &[], 1).await;
    let id = house.router.push_stored(APP, "d", CHAT, &body(4)).await;
    house.router.deliver(push_to(&[house.route("d")], b"volatile")).await;
    assert_eq!(device.pushed().await, b"volatile");
    device.settle().await;
    holds(&house, "d", 4).await;
    // And it is not named in sweeps.
    house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow::default()));
    house.metric_is("hawser_downlink_sweeps_total", &[], 2).await;
    device.settle().await;
    assert!(house.router.store.lock().asked.is_empty());
    assert_ne!(id, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_up_that_is_faster_than_the_login_waits_for_its_answer() {
    let house = House::start().await;
    for round in 1..=20 {
        house.router.binds(Binding::Hold);
        let mut device = house.dial(Dial::Tcp).await;
        device.attempt = round;
        let mut login = device.login_frame(APP, "d", tokens::token(APP, "d"));
        login.abilities = ability::ALL;
        device.send(&DeviceFrame::Login(login)).await;
        eventually("a claim", || (!house.router.held().is_empty()).then_some(())).await;
        house.router.answer_held(BindStatus::Ok);
        house.router.push_stored(APP, "d", CHAT, &body(round)).await;
        device.login_ok().await;
        reads(&mut device, 1, round).await;
        device.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_between_the_claim_and_its_answer_is_pulled_after_it() {
    let house = House::start().await;
    house.router.binds(Binding::Hold);
    let mut device = house.dial(Dial::Tcp).await;
    let mut login = device.login_frame(APP, "d", tokens::token(APP, "d"));
    login.abilities = ability::ALL;
    device.send(&DeviceFrame::Login(login)).await;
    eventually("a claim", || (!house.router.held().is_empty()).then_some(())).await;
    let bind = house.router.held().remove(0);
    let (boot, epoch) = (house.node.boot().0, 77);
    let (slot, generation) = (bind.slot, bind.generation);
    let (app, device_id) = (APP.to_owned(), "d".to_owned());
    // The store has done the claim, and has stored a push since.
    house
        .router
        .store
        .lock()
        .owners
        .insert((app.clone(), device_id.clone()), (slot, generation, epoch));
    let place = house.router.store_push(APP, "d", CHAT, &body(1));
    let route = Route { boot, app, device: device_id, slot, generation, epoch };
    house.router.hint(house.router.wake_up(&route, CHAT, place)).await;
    // What comes behind it on the stream has been looked at, so it has, too.
    let elsewhere = Route { boot: boot ^ 1, ..route };
    house.router.deliver(push_to(&[elsewhere], b"")).await;
    let blocked = "hawser_access_stale_writes_blocked_total";
    house.metric_is(blocked, &[("reason", "boot")], 1).await;
    house.metric_is(blocked, &[("reason", "epoch")], 0).await;
    let status = BindStatus::Ok.into();
    let result = wire::BindResult { call: bind.call, status, epoch, inboxes: Vec::new() };
    house.router.tell(boot, down::What::BindResult(result));
    device.login_ok().await;
    reads(&mut device, 1, 1).await;
    device.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_asks_for_every_session_in_batches() {
    let house = House::start().await;
    let mut devices = Vec::new();
    for n in 0..150 {
        devices.push(able(&house, &format!("d-{n}")).await);
    }
    for n in 0..150 {
        store_all(&house, &format!("d-{n}"), 1, 2);
    }
    house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow::default()));
    for device in &mut devices {
        reads(device, 1, 2).await;
    }
    assert!(asked_sweeps(&house).len() >= 3, "64 in one, at the most");
    drop(devices);
    house.metric_is("hawser_downlink_unacked", &[], 0).await;
    house.ends_clean().await;
}

// === The right session ===

async fn held_pull(house: &House, device: &str) -> wire::Ask {
    eventually("a pull", || {
        let store = house.router.store.lock();
        let of_device = |ask: &&wire::Ask| {
            matches!(&ask.what, Some(wire::ask::What::Pull(pull))
                if pull.session.as_ref().is_some_and(|session| session.device == device))
        };
        store.held.iter().find(of_device).cloned()
    })
    .await
}

async fn answer(house: &House, answer: wire::Answer) {
    let down = DeliverDown { answers: vec![answer], ..Default::default() };
    house.router.deliver_sender().await.send(Ok(down)).await.unwrap();
}

/// A pull of device `a` is answered when its slot is `b`'s, who has one in flight, too. Returns what `b`
/// reads first.
async fn answer_after_reuse(house: &House) -> (Device, Vec<u8>) {
    house.router.answers(Answering::Never);
    store_all(house, "a", 1, 2);
    let a = able(house, "a").await;
    let at_a = house.route("a");
    let asked = held_pull(house, "a").await;
    drop(a);
    house.metric_is("hawser_access_connections", &[], 0).await;
    house.router.store_push(APP, "b", CHAT, b"for b");
    let mut b = able(house, "b").await;
    assert_eq!(house.route("b").slot, at_a.slot, "the slot is used again");
    held_pull(house, "b").await;
    let entries: Vec<_> = {
        let mut store = house.router.store.lock();
        store.held.retain(|ask| ask.call != asked.call);
        store.inboxes[&(APP.to_owned(), "a".to_owned(), CHAT)].entries.values().cloned().collect()
    };
    let all = wire::Answer {
        call: asked.call,
        status: Status::Ok.into(),
        entries,
        tail_term: 5,
        tail_seq: 2,
        ..Default::default()
    };
    answer(house, all).await;
    house.router.answer_held_asks().await;
    house.router.answers(Answering::Truly);
    let (_, first) = b.stored().await;
    (b, first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_finds_another_device_in_the_slot_reaches_nobody() {
    let house = House::start().await;
    let (mut b, first) = answer_after_reuse(&house).await;
    assert_eq!(first, b"for b");
    let blocked = "hawser_access_stale_writes_blocked_total";
    house.metric_is(blocked, &[("reason", "generation")], 1).await;
    b.settle().await;
    // The checks are what does it.
    let none = Guards { boot: false, generation: false, identity: false, epoch: false };
    let careless = House::start_with(|config| config.guards = none).await;
    let (_, first) = answer_after_reuse(&careless).await;
    assert_eq!(first, body(1), "what was stored for a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_up_must_name_the_session_in_full() {
    let house = House::start().await;
    let mut b = able(&house, "b").await;
    let place = house.router.store_push(APP, "b", CHAT, b"for b");
    let right = house.route("b");
    for wrong in [
        Route { epoch: right.epoch - 1, ..right.clone() },
        Route { generation: right.generation + 2, ..right.clone() },
        Route { boot: right.boot ^ 1, ..right.clone() },
    ] {
        house.router.hint(house.router.wake_up(&wrong, CHAT, place)).await;
    }
    let mut other = house.router.wake_up(&right, CHAT, place);
    other.targets[0].device = "a".into();
    house.router.hint(other).await;
    house.metric_is("hawser_access_stale_writes_blocked_total", &[("reason", "identity")], 1).await;
    b.settle().await;
    house.router.hint(house.router.wake_up(&right, CHAT, place)).await;
    assert_eq!(b.stored().await, (at(1), b"for b".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_takeover_the_older_session_writes_nothing_and_each_speaks_for_itself() {
    let house = House::start().await;
    let mut older = able(&house, "d").await;
    house.router.push_stored(APP, "d", CHAT, &body(1)).await;
    reads(&mut older, 1, 1).await;
    house.router.answers(Answering::Never);
    older.ack(CHAT, at(1)).await;
    eventually("its acknowledgement", || house.router.store.lock().held.first().map(|_| ())).await;
    let old_epoch = house.route("d").epoch;
    store_all(&house, "d", 2, 4);
    let (mut newer, _) = house.able(Dial::Tcp, "d", START).await;
    let (code, _, before) = older.closed_with().await;
    assert_eq!(code, CloseCode::Superseded);
    assert!(before.is_empty(), "{before:?}");
    house.router.answers(Answering::Truly);
    house.router.answer_held_asks().await;
    // Its acknowledgement named its own epoch, and was refused.
    reads(&mut newer, 1, 4).await;
    newer.ack(CHAT, at(3)).await;
    holds(&house, "d", 1).await;
    let epochs: Vec<u64> = {
        let asked = house.router.store.lock().asked.clone();
        let epoch = |what: wire::ask::What| match what {
            wire::ask::What::Ack(ack) => Some(ack.session.unwrap().epoch),
            _ => None,
        };
        asked.into_iter().filter_map(epoch).collect()
    };
    assert_eq!(epochs, [old_epoch, house.route("d").epoch]);
    newer.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_store_calls_superseded_is_told() {
    let house = House::start().await;
    house.router.answers(Answering::With(Status::Superseded));
    store_all(&house, "d", 1, 1);
    let mut device = able(&house, "d").await;
    assert_eq!(device.closed().await, CloseCode::Superseded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_store_has_forgotten_is_announced_and_goes_on() {
    let house = House::start().await;
    let mut device = able(&house, "d").await;
    let route = house.route("d");
    house.router.push_stored(APP, "d", CHAT, &body(1)).await;
    reads(&mut device, 1, 1).await;
    house.router.store.lock().owners.clear();
    store_all(&house, "d", 2, 3);
    house.router.push_stored(APP, "d", CHAT, &body(4)).await;
    let again = |word: &up::What| match word {
        up::What::Bind(bind) if bind.epoch != 0 => Some(bind.clone()),
        _ => None,
    };
    let bind = house.router.word("an announcement", again).await;
    assert_eq!(
        (bind.slot, bind.generation, bind.epoch),
        (route.slot, route.generation, route.epoch)
    );
    let written = wire::InboxPosition { business: CHAT, term: 5, seq: 1 };
    assert_eq!(bind.cursors, [written], "no position of these is given out again");
    reads(&mut device, 2, 4).await;
    // What it acknowledged while nobody knew it is said again.
    swept(&house, 1).await;
    device.ack(CHAT, at(4)).await;
    holds(&house, "d", 0).await;
    device.settle().await;
}

/// The announcement that the store waits for, and which it is of those since the start.
async fn announced(house: &House, nth: usize) -> wire::Bind {
    eventually("an announcement", || {
        let mut binds = house.router.words().into_iter().filter_map(|word| match word {
            up::What::Bind(bind) if bind.epoch != 0 => Some(bind),
            _ => None,
        });
        binds.nth(nth - 1)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_taken_for_over_goes_on_under_its_new_epoch() {
    let other = Router::start_in(&Tier::default(), "r-0", PUSH).await;
    let house = House::start_on(vec![Router::start().await, other.clone()], |_| ()).await;
    let mut device = able(&house, "d").await;
    let before = house.route("d");
    house.router.push_stored(APP, "d", CHAT, &body(1)).await;
    reads(&mut device, 1, 1).await;
    // Asked by the epoch of before, and answered afterwards: to no avail, and to no harm.
    house.router.answers(Answering::Never);
    store_all(&house, "d", 2, 3);
    device.ack(CHAT, at(1)).await;
    house.router.push_stored(APP, "d", CHAT, &body(4)).await;
    eventually("a pull and an acknowledgement", || {
        (house.router.store.lock().held.len() >= 2).then_some(())
    })
    .await;
    let held = std::mem::take(&mut house.router.store.lock().held);
    {
        let mut store = house.router.store.lock();
        (store.raises, store.answering) = (500, Answering::Truly);
        store.owners.clear();
    }
    house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow::default()));
    assert_eq!(announced(&house, 1).await.epoch, before.epoch);
    reads(&mut device, 2, 4).await;
    let now = house.route("d");
    assert_eq!(now.epoch, before.epoch + 500);
    house.router.store.lock().held = held;
    house.router.answer_held_asks().await;
    device.ack(CHAT, at(4)).await;
    holds(&house, "d", 0).await;
    eventually("the other router hears", || {
        other.route(APP, "d").filter(|route| route.epoch == now.epoch)
    })
    .await;
    // What names the epoch of before is meant for what has ended.
    assert!(!house.router.kick(&before, CloseCode::Disconnected).await);
    let report = house.router.deliver(push_to(std::slice::from_ref(&before), b"stale")).await;
    assert_eq!(report.outcomes, [Outcome::Stale as u32]);
    let report = house.router.deliver(push_to(std::slice::from_ref(&now), b"hello")).await;
    assert_eq!(report.outcomes, [Outcome::Written as u32]);
    assert_eq!(device.pushed().await, b"hello");
    // It was there before the epoch was raised, so a broadcast of that time reaches it.
    let news = wire::Delivery {
        targets: Vec::new(),
        broadcast: Some(wire::Broadcast { targets_per_second: 100, newest_epoch: before.epoch }),
        ..push_to(&[now], b"news")
    };
    assert_eq!(house.router.deliver(news).await.written, 1);
    assert_eq!(device.pushed().await, b"news");
    device.settle().await;
    drop(device);
    eventually("its end under its new epoch", || {
        house.router.words().iter().find_map(|word| match word {
            up::What::Unbind(unbind) => Some(unbind.epoch),
            _ => None,
        })
    })
    .await;
    assert_eq!(house.router.route(APP, "d"), None);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_the_epoch_of_before_does_not_end_a_session() {
    let house = House::start().await;
    let mut device = able(&house, "d").await;
    let before = house.route("d");
    house.router.binds(Binding::Hold);
    let forget = || {
        house.router.store.lock().owners.clear();
        house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow::default()));
    };
    // Two are on their way: the first one's answer raises the epoch, the second one's is of before.
    for nth in 1..=2 {
        forget();
        assert_eq!(announced(&house, nth).await.epoch, before.epoch);
    }
    let [first, second] = house.router.held().try_into().expect("two are held back");
    let boot = house.node.boot().0;
    let answer = |call: u64, status: BindStatus, epoch: u64| {
        let status = status.into();
        let result = wire::BindResult { call, status, epoch, inboxes: Vec::new() };
        house.router.tell(boot, down::What::BindResult(result));
    };
    answer(first.call, BindStatus::Ok, before.epoch + 7);
    answer(second.call, BindStatus::Superseded, before.epoch + 7);
    // Heard after the two answers.
    assert!(!house.router.kick(&before, CloseCode::Disconnected).await);
    let now = Route { epoch: before.epoch + 7, ..before };
    let report = house.router.deliver(push_to(&[now], b"hello")).await;
    assert_eq!(report.outcomes, [Outcome::Written as u32]);
    assert_eq!(device.pushed().await, b"hello");
    device.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_while_its_epoch_is_raised_ends_there_too() {
    let house = House::start().await;
    let device = able(&house, "d").await;
    let before = house.route("d");
    house.router.binds(Binding::Hold);
    house.router.store.lock().raises = 500;
    house.router.store.lock().owners.clear();
    house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow::default()));
    announced(&house, 1).await;
    drop(device);
    let ends = || -> Vec<u64> {
        let epoch = |word: up::What| match word {
            up::What::Unbind(unbind) => Some(unbind.epoch),
            _ => None,
        };
        house.router.words().into_iter().filter_map(epoch).collect()
    };
    eventually("its end", || (ends() == [before.epoch]).then_some(())).await;
    house.router.answer_held(BindStatus::Ok);
    eventually("the end of what it became", || {
        (ends() == [before.epoch, before.epoch + 500]).then_some(())
    })
    .await;
    assert_eq!(house.router.route(APP, "d"), None);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_told_of_some_sessions_asks_for_those_alone() {
    let house = House::start().await;
    house.metric_is("hawser_downlink_sweeps_total", &[], 1).await;
    let (mut a, _b) = (able(&house, "a").await, able(&house, "b").await);
    let before = asked_sweeps(&house).len();
    store_all(&house, "a", 1, 2);
    store_all(&house, "b", 1, 2);
    let Route { slot, generation, .. } = house.route("a");
    let gone = wire::SessionSlot { slot: 77, generation: 1 };
    let sessions = vec![wire::SessionSlot { slot, generation }, gone];
    house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow { sessions }));
    reads(&mut a, 1, 2).await;
    let asked = asked_sweeps(&house).into_iter().skip(before).flat_map(|sweep| sweep.sessions);
    let devices: Vec<String> = asked.filter_map(|one| Some(one.session?.device)).collect();
    assert_eq!(devices, ["a"]);
    house.metric_is("hawser_downlink_sweeps_total", &[], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_goes_no_faster_than_it_is_answered() {
    let house =
        House::start_with(|config| config.router_call_timeout = Duration::from_secs(1)).await;
    let mut devices = Vec::new();
    for n in 0..400 {
        devices.push(able(&house, &format!("d-{n}")).await);
    }
    house.router.answers(Answering::Never);
    house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow::default()));
    // It could take a step of 64 each tenth of a second. The first question is late after ten.
    let late = || house.metric("hawser_downlink_asks_late_total", &[]);
    eventually("a question without an answer", || (late() > 0).then_some(())).await;
    let sweeps = asked_sweeps(&house).into_iter().flat_map(|sweep| sweep.sessions);
    let asked: HashSet<String> = sweeps.filter_map(|one| Some(one.session?.device)).collect();
    assert!(asked.len() <= 320, "{} of 400", asked.len());
    for n in 0..400 {
        store_all(&house, &format!("d-{n}"), 1, 1);
    }
    house.router.answers(Answering::Truly);
    for device in &mut devices {
        reads(device, 1, 1).await;
    }
}

fn asked_sweeps(house: &House) -> Vec<wire::Sweep> {
    let asked = house.router.store.lock().asked.clone();
    let sweep = |what| if let wire::ask::What::Sweep(sweep) = what { Some(sweep) } else { None };
    asked.into_iter().filter_map(sweep).collect()
}

/// Waits until so many sweeps were asked.
async fn swept(house: &House, count: usize) {
    eventually("a sweep", || (asked_sweeps(house).len() >= count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_sweep_is_asked_again_and_its_circle_is_not() {
    let house = House::start().await;
    let mut device = able(&house, "d").await;
    house.metric_is("hawser_downlink_sweeps_total", &[], 1).await;
    store_all(&house, "d", 1, 2);
    house.router.answers(Answering::With(Status::Unavailable));
    house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow::default()));
    // The third comes more than a second after the circle began.
    swept(&house, 4).await;
    house.router.answers(Answering::Truly);
    reads(&mut device, 1, 2).await;
    house.metric_is("hawser_downlink_sweeps_total", &[], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_positions_the_store_refuses_meanwhile_logs_in_again() {
    let house = House::start().await;
    let mut device = able(&house, "d").await;
    house.router.push_stored(APP, "d", CHAT, &body(1)).await;
    reads(&mut device, 1, 1).await;
    device.ack(CHAT, at(1)).await;
    holds(&house, "d", 0).await;
    let state = InboxState::CursorRefused as i32 as u32;
    house.router.store.lock().swept =
        Some(wire::InboxTail { business: CHAT, state, ..Default::default() });
    house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow::default()));
    assert_eq!(device.closed().await, CloseCode::Internal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_the_store_is_no_storm_of_announcements() {
    let house = House::start_with(|config| config.announcements_per_second = 20).await;
    let mut devices = Vec::new();
    for n in 0..20 {
        devices.push(able(&house, &format!("d-{n}")).await);
    }
    house.router.store.lock().owners.clear();
    for n in 0..20 {
        store_all(&house, &format!("d-{n}"), 1, 1);
    }
    house.router.tell(house.node.boot().0, down::What::Sweep(wire::SweepNow::default()));
    let begun = Instant::now();
    for device in &mut devices {
        reads(device, 1, 1).await;
    }
    // Two each tenth of a second.
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(700), "{took:?}");
    let words = house.router.words();
    let again = words.iter().filter(|it| matches!(it, up::What::Bind(bind) if bind.epoch != 0));
    assert_eq!(again.count(), 20, "each once");
}

// === Calls that fail ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_in_the_middle_of_pulls_loses_and_repeats_nothing() {
    let house = House::start().await;
    for whole in [false, true] {
        let name = if whole { "all" } else { "deliver" };
        house.router.answers(Answering::Never);
        store_all(&house, name, 1, 40);
        let mut device = able(&house, name).await;
        held_pull(&house, name).await;
        house.router.store.lock().held.clear();
        house.router.answers(Answering::Truly);
        if whole {
            house.router.cut();
        } else {
            house.router.cut_deliver();
        }
        reads(&mut device, 1, 40).await;
        device.settle().await;
        house.ready().await;
        device.ack(CHAT, at(40)).await;
        holds(&house, name, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_not_answered_is_made_again_and_its_late_answer_counts_for_nothing() {
    let house =
        House::start_with(|config| config.router_call_timeout = Duration::from_millis(300)).await;
    house.router.answers(Answering::Never);
    store_all(&house, "d", 1, 5);
    let mut device = able(&house, "d").await;
    held_pull(&house, "d").await;
    eventually("its deadline", || {
        (house.metric("hawser_downlink_asks_late_total", &[]) > 0).then_some(())
    })
    .await;
    house.router.answers(Answering::Truly);
    reads(&mut device, 1, 5).await;
    device.resync(CHAT, at(4)).await;
    reads(&mut device, 5, 5).await;
    house.router.answer_held_asks().await;
    device.settle().await;
    for status in [Status::Unavailable, Status::Unspecified] {
        let before = house.router.pulls().len();
        house.router.answers(Answering::With(status));
        device.resync(CHAT, at(4)).await;
        eventually("three tries", || (house.router.pulls().len() >= before + 3).then_some(()))
            .await;
        house.router.answers(Answering::Truly);
        reads(&mut device, 5, 5).await;
    }
    device.settle().await;
}

// === Devices that are slow, and entries that are large ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_device_gets_everything_later_and_its_neighbours_feel_nothing() {
    const EACH: usize = 8 * 1024;
    let house = House::start_with(|config| {
        config.send_buffer_bytes = 4 * 1024;
        config.write_timeout = Duration::from_mins(1);
    })
    .await;
    let slow_policy = SlowPolicy::DropOldest.into();
    let chat = business(APP, "chat", CHAT, &[&house.business.uri]);
    house.put(Entity::Business(control::Business { slow_policy, ..chat })).await;
    let mut slow = dial::narrow(house.node.address("tcp").unwrap()).await;
    let mut login = slow.login_frame(APP, "slow", tokens::token(APP, "slow"));
    login.abilities = ability::ALL;
    slow.send(&DeviceFrame::Login(login)).await;
    slow.login_ok().await;
    let mut beside = able(&house, "beside").await;
    for seq in 1..=300u64 {
        let mut large = vec![0; EACH];
        large[..8].copy_from_slice(&seq.to_be_bytes());
        house.router.push_stored(APP, "slow", CHAT, &large).await;
        if seq % 3 == 0 {
            // Volatile ones fill what is left; they may be dropped, what is stored may not.
            house.router.deliver(push_to(&[house.route("slow")], &vec![1; EACH])).await;
        }
        let begun = Instant::now();
        house.router.push_stored(APP, "beside", CHAT, &body(seq)).await;
        reads(&mut beside, seq, seq).await;
        assert!(begun.elapsed() < Duration::from_secs(1));
        beside.ack(CHAT, at(seq)).await;
    }
    house.metric_is("hawser_access_sessions", &[], 2).await;
    let mut next = 1;
    while next <= 300 {
        let (place, large) = slow.stored().await;
        if place == START {
            continue;
        }
        assert_eq!((place, &large[..8]), (at(next), &next.to_be_bytes()[..]), "in order");
        if next % 16 == 0 || next == 300 {
            slow.ack(CHAT, place).await;
        }
        next += 1;
    }
    holds(&house, "slow", 0).await;
    let dropped = house.metric("hawser_downlink_pushes_total", &[("outcome", "dropped")]);
    assert!(dropped > 0, "the outbox was full in between");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_above_the_frame_limit_is_declared_and_does_not_hold_up_the_next() {
    let house = House::start().await;
    let mut device = able(&house, "d").await;
    house.router.push_stored(APP, "d", CHAT, &body(1)).await;
    reads(&mut device, 1, 1).await;
    house.router.push_stored(APP, "d", CHAT, &vec![0; 100_000]).await;
    house.router.push_stored(APP, "d", CHAT, &body(3)).await;
    match device.frame().await {
        NodeFrame::Gap(gap) => {
            assert_eq!(gap.reason(), GapReason::TooLarge);
            assert_eq!((gap.after_seq, gap.upto_term, gap.upto_seq, gap.count), (1, 5, 2, 1));
        }
        other => panic!("{other:?}"),
    }
    reads(&mut device, 3, 3).await;
    house.metric_is("hawser_downlink_gaps_total", &[("reason", "too_large")], 1).await;
}

// === Those who wait ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_device_hears_when_it_has_handled_the_push_or_has_gone() {
    let house = House::start().await;
    let mut device = able(&house, "d").await;
    let wanted = |seq: u64| {
        let place = house.router.store_push(APP, "d", CHAT, &body(seq));
        let hint = house.router.wake_up(&house.route("d"), CHAT, place);
        wire::Delivery { wants_ack: true, ..hint }
    };
    let first = house.router.hint(wanted(1)).await;
    let second = house.router.hint(wanted(2)).await;
    let third = house.router.hint(wanted(3)).await;
    reads(&mut device, 1, 3).await;
    device.ack(CHAT, at(2)).await;
    for id in [first, second] {
        assert_eq!(house.router.outcome(id).await, Outcome::Acked as u32);
    }
    let route = house.route("d");
    drop(device);
    assert_eq!(house.router.outcome(third).await, Outcome::Stored as u32);
    let place = house.router.store_push(APP, "d", CHAT, &body(4));
    let late = wire::Delivery { wants_ack: true, ..house.router.wake_up(&route, CHAT, place) };
    let late = house.router.hint(late).await;
    assert_eq!(house.router.outcome(late).await, Outcome::Stored as u32);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waited_on_a_stream_that_broke_is_not_answered_on_the_next_one() {
    let house = House::start().await;
    let mut device = able(&house, "d").await;
    let place = house.router.store_push(APP, "d", CHAT, &body(1));
    let hint = house.router.wake_up(&house.route("d"), CHAT, place);
    let id = house.router.hint(wire::Delivery { wants_ack: true, ..hint }).await;
    reads(&mut device, 1, 1).await;
    house.metric_is("hawser_downlink_unacked", &[], 1).await;
    house.router.cut_deliver();
    device.settle().await;
    house.ready().await;
    device.ack(CHAT, at(1)).await;
    // On the new stream the same number means another delivery. What is told there is told in order.
    let place = house.router.store_push(APP, "d", CHAT, &body(2));
    let hint = house.router.wake_up(&house.route("d"), CHAT, place);
    let later = house.router.hint(wire::Delivery { wants_ack: true, ..hint }).await;
    reads(&mut device, 2, 2).await;
    device.ack(CHAT, at(2)).await;
    assert_eq!(house.router.outcome(later).await, Outcome::Acked as u32);
    assert!(!house.router.has_report(id), "it reached whoever has this number now");
}
