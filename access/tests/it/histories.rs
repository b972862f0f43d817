//! Groups: what a member missed is recovered where the group keeps a history, and counted where not.

use crate::eventually;
use crate::fakes::device::Device;
use crate::fakes::dial::{self, Dial};
use crate::fakes::store::Answering;
use crate::fakes::tokens;
use crate::house::{APP, CHAT, House, business, push_to};
use hawser_proto::code::ErrorCode;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::id::Position;
use hawser_proto::params;
use hawser_proto::rpc::control::{self as control, SlowPolicy, change::Entity};
use hawser_proto::rpc::node::answer::Status;
use hawser_proto::rpc::node::{Delivery, SweepNow, ask, down};
use std::time::Duration;

const START: Position = Position::START;
const LONG: Duration = Duration::from_mins(1);
/// Pushes of 8 KiB: more than the outbox and both kernels hold.
const ALL: u64 = 120;

fn at(seq: u64) -> Position {
    Position::new(5, seq)
}

fn body(seq: u64) -> Vec<u8> {
    format!("body {seq}").into_bytes()
}

async fn house_with_history() -> House {
    let house = House::start().await;
    house.router.create_group(APP, "room", CHAT);
    house.router.keep_history(APP, "room");
    house
}

async fn able(house: &House, name: &str) -> Device {
    house.able(Dial::Tcp, name, START).await.0
}

async fn joins(device: &mut Device, group: &str, last: Position) {
    let Position { term: last_term, seq: last_seq } = last;
    let join = params::Join { request_id: 3, group: group.into(), last_term, last_seq };
    device.send(&DeviceFrame::Join(join)).await;
}

/// Joins with a position, and returns the tail that JOINED names.
async fn enters(device: &mut Device, last: Position) -> Position {
    joins(device, "room", last).await;
    let joined = device.joined().await;
    assert_eq!((joined.status, joined.history, joined.business), (0, true, CHAT));
    Position::new(joined.tail_term, joined.tail_seq)
}

/// Appends `from..=to` without a word to the node.
fn append(house: &House, from: u64, to: u64) -> Vec<Delivery> {
    (from..=to).map(|seq| house.router.history_push(APP, "room", CHAT, &body(seq))).collect()
}

async fn push(house: &House, from: u64, to: u64) {
    for delivery in append(house, from, to) {
        house.router.deliver(delivery).await;
    }
}

async fn reads(device: &mut Device, from: u64, to: u64) {
    for seq in from..=to {
        assert_eq!(device.stored().await, (at(seq), body(seq)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_begins_with_what_comes_or_with_what_it_missed() {
    let house = house_with_history().await;
    push(&house, 1, 5).await;
    let mut members = Vec::new();
    for (n, how) in Dial::ALL.into_iter().enumerate() {
        let (mut new, _) = house.able(how, &format!("new-{n}"), START).await;
        assert_eq!(enters(&mut new, START).await, at(5));
        let (mut back, _) = house.able(how, &format!("back-{n}"), START).await;
        assert_eq!(enters(&mut back, at(2)).await, at(5));
        reads(&mut back, 3, 5).await;
        members.extend([new, back]);
    }
    push(&house, 6, 8).await;
    for member in &mut members {
        reads(member, 6, 8).await;
        member.settle().await;
    }
    house.metric_is("hawser_downlink_recoveries_total", &[], 5).await;
    drop(members);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_without_the_ability_is_a_member_as_of_any_group() {
    let house = house_with_history().await;
    push(&house, 1, 3).await;
    let mut old = house.device("old").await;
    joins(&mut old, "room", at(1)).await;
    assert_eq!(old.joined().await.status, 0);
    push(&house, 4, 4).await;
    reads(&mut old, 4, 4).await;
    old.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_never_came_is_pulled_for_all_before_the_next() {
    let house = house_with_history().await;
    let mut members = Vec::new();
    for n in 0..4 {
        let mut member = able(&house, &format!("m-{n}")).await;
        enters(&mut member, START).await;
        members.push(member);
    }
    push(&house, 1, 2).await;
    append(&house, 3, 80);
    push(&house, 81, 82).await;
    for member in &mut members {
        reads(member, 1, 82).await;
        member.settle().await;
    }
    // The last of all, which no other follows: a sweep finds it.
    append(&house, 83, 84);
    house.router.tell(house.node.boot().0, down::What::Sweep(SweepNow::default()));
    for member in &mut members {
        reads(member, 83, 84).await;
    }
    // And so does the one after a broken stream.
    house.router.cut_deliver();
    append(&house, 85, 86);
    for member in &mut members {
        reads(member, 85, 86).await;
        member.settle().await;
    }
    // What comes twice, or late, is old.
    let again = house.router.history_push(APP, "room", CHAT, &body(87));
    for _ in 0..3 {
        house.router.deliver(again.clone()).await;
    }
    for member in &mut members {
        reads(member, 87, 87).await;
        member.settle().await;
    }
    drop(members);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_what_was_missed_and_what_is_live_nothing_is_lost_and_nothing_comes_twice() {
    const ROUNDS: u64 = 60;
    const EACH: u64 = 12;
    let house = house_with_history().await;
    let mut steady = able(&house, "steady").await;
    enters(&mut steady, START).await;
    push(&house, 1, 10).await;
    reads(&mut steady, 1, 10).await;
    let mut tail = 10;
    for round in 0..ROUNDS {
        let mut device = able(&house, &format!("d-{}", round % 7)).await;
        let seen = 1 + (round * 7) % tail;
        let deliveries = append(&house, tail + 1, tail + EACH);
        tail += EACH;
        let to = house.router.deliver_sender().await;
        // Some of them get lost, and the joins go on meanwhile.
        let pushing = tokio::spawn(async move {
            for (n, delivery) in deliveries.into_iter().enumerate() {
                if (n as u64 + round) % 5 != 4 {
                    let down = hawser_proto::rpc::node::DeliverDown {
                        deliveries: vec![delivery],
                        answers: Vec::new(),
                    };
                    to.send(Ok(down)).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        });
        enters(&mut device, at(seen)).await;
        pushing.await.unwrap();
        // The last may be among the lost: one more shows that they are.
        push(&house, tail + 1, tail + 1).await;
        tail += 1;
        reads(&mut device, seen + 1, tail).await;
        device.settle().await;
        reads(&mut steady, tail - EACH, tail).await;
    }
    steady.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_out_of_the_history_is_told_and_the_rest_follows() {
    let house = house_with_history().await;
    push(&house, 1, 20).await;
    let trim = |upto: u64| {
        let mut store = house.router.store.lock();
        store.histories.get_mut(&(APP.to_owned(), "room".to_owned())).unwrap().trim(at(upto));
    };
    trim(12);
    let mut back = able(&house, "back").await;
    let mut live = able(&house, "live").await;
    enters(&mut live, START).await;
    enters(&mut back, at(3)).await;
    let is_reset = |frame: NodeFrame, floor: u64, tail: u64| match frame {
        NodeFrame::GroupReset(it) => {
            assert_eq!((&it.group[..], it.business), ("room", CHAT));
            assert_eq!((it.floor_term, it.floor_seq, it.tail_seq), (5, floor, tail));
        }
        other => panic!("{other:?}"),
    };
    is_reset(back.frame().await, 12, 20);
    reads(&mut back, 13, 20).await;
    // The whole node missed more than the history holds.
    append(&house, 21, 40);
    trim(30);
    push(&house, 41, 41).await;
    for device in [&mut back, &mut live] {
        is_reset(device.frame().await, 30, 41);
        reads(device, 31, 41).await;
        device.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_asks_for_a_part_again() {
    let house = house_with_history().await;
    let mut device = able(&house, "d").await;
    enters(&mut device, START).await;
    push(&house, 1, 100).await;
    reads(&mut device, 1, 100).await;
    let recover = |seq: u64, group: &str| {
        let Position { term, seq } = at(seq);
        DeviceFrame::Recover(params::Recover { group: group.into(), term, seq })
    };
    device.send(&recover(98, "room")).await;
    reads(&mut device, 99, 100).await;
    // Where nothing is to be had, nothing comes.
    for (seq, group) in [(100, "room"), (1, "nowhere"), (1, "a\nb")] {
        device.send(&recover(seq, group)).await;
    }
    device.settle().await;
    push(&house, 101, 101).await;
    reads(&mut device, 101, 101).await;
    // Ahead of the history: a store that went back, or a lie. The device is told where to go on.
    device.send(&recover(500, "room")).await;
    match device.frame().await {
        NodeFrame::GroupReset(it) => {
            assert_eq!((it.floor_term, it.floor_seq, it.tail_term, it.tail_seq), (5, 101, 5, 101));
        }
        other => panic!("{other:?}"),
    }
    push(&house, 102, 102).await;
    reads(&mut device, 102, 102).await;
    device.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_waits_while_its_history_cannot_be_asked_for_a_moment() {
    let house = house_with_history().await;
    push(&house, 1, 2).await;
    let mut device = able(&house, "d").await;
    house.router.answers(Answering::With(Status::Unavailable));
    joins(&mut device, "room", START).await;
    eventually("the question again", || {
        let store = house.router.store.lock();
        let asked = store.asked.iter().filter_map(|what| match what {
            ask::What::History(pull) => Some((pull.entries_max, pull.bytes_max)),
            _ => None,
        });
        let asked: Vec<_> = asked.collect();
        assert!(asked.iter().all(|&most| most == (0, 0)), "the tail alone");
        (asked.len() >= 2).then_some(())
    })
    .await;
    house.router.answers(Answering::Truly);
    let joined = device.joined().await;
    assert_eq!((joined.status, joined.tail_seq), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_history_cannot_be_asked_takes_nobody_in() {
    let house = house_with_history().await;
    push(&house, 1, 2).await;
    let mut device = able(&house, "d").await;
    house.router.answers(Answering::With(Status::Unavailable));
    joins(&mut device, "room", at(1)).await;
    let joined = device.joined().await;
    assert_eq!(ErrorCode::from_number(joined.status), Some(ErrorCode::Unavailable));
    house.metric_is("hawser_access_groups", &[], 0).await;
    house.router.answers(Answering::Truly);
    enters(&mut device, at(1)).await;
    reads(&mut device, 2, 2).await;
    // A recovery that fails is tried again.
    house.router.answers(Answering::With(Status::Unavailable));
    let (term, seq) = (5, 1);
    let recover = params::Recover { group: "room".into(), term, seq };
    device.send(&DeviceFrame::Recover(recover)).await;
    append(&house, 3, 3);
    push(&house, 4, 4).await;
    device.settle().await;
    house.router.answers(Answering::Truly);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(device.stored().await.0.seq);
    }
    assert_eq!(seen, [2, 3, 4]);
    device.settle().await;
    drop(device);
    house.ends_clean().await;
}

// === Slow members ===

async fn narrow(house: &House, name: &str) -> Device {
    let mut device = dial::narrow(house.node.address("tcp").unwrap()).await;
    let mut login = device.login_frame(APP, name, tokens::token(APP, name));
    login.abilities = ability::ALL;
    device.send(&DeviceFrame::Login(login)).await;
    device.login_ok().await;
    device
}

async fn narrow_house(policy: SlowPolicy) -> House {
    let house = House::start_with(|config| {
        config.send_buffer_bytes = 4 * 1024;
        config.write_timeout = LONG;
    })
    .await;
    let slow = control::Business {
        slow_policy: policy.into(),
        ..business(APP, "chat", CHAT, &[&house.business.uri])
    };
    house.put(Entity::Business(slow)).await;
    house.router.create_group(APP, "room", CHAT);
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_member_is_sent_everything_later_and_need_not_ask() {
    let house = narrow_house(SlowPolicy::DropOldest).await;
    house.router.keep_history(APP, "room");
    let mut slow = narrow(&house, "slow").await;
    let mut quick = able(&house, "quick").await;
    for device in [&mut slow, &mut quick] {
        enters(device, START).await;
    }
    for seq in 1..=200u64 {
        let mut large = vec![0; 8 * 1024];
        large[..8].copy_from_slice(&seq.to_be_bytes());
        let delivery = house.router.history_push(APP, "room", CHAT, &large);
        house.router.deliver(delivery).await;
        assert_eq!(quick.stored().await.0, at(seq));
        if seq % 4 == 0 {
            // What is volatile gives way, or pushes older volatile ones out; never what is of a history.
            house.router.deliver(push_to(&[house.route("slow")], &vec![1; 8 * 1024])).await;
        }
    }
    let mut next = 1;
    while next <= 200 {
        let (place, large) = slow.stored().await;
        if place != START {
            assert_eq!((place, &large[..8]), (at(next), &next.to_be_bytes()[..]));
            next += 1;
        }
    }
    assert!(house.metric("hawser_downlink_recoveries_total", &[]) > 0, "it was behind");
    let delivery = house.router.history_push(APP, "room", CHAT, b"after");
    house.router.deliver(delivery).await;
    assert_eq!(slow.stored().await, (at(201), b"after".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_a_live_group_learns_how_many_it_missed() {
    for policy in [SlowPolicy::DropNewest, SlowPolicy::DropOldest] {
        let house = narrow_house(policy).await;
        let mut slow = narrow(&house, "slow").await;
        slow.enter("room").await;
        for _ in 0..ALL {
            house.router.deliver(house.push_group("room", &vec![7; 8 * 1024])).await;
        }
        // Room again, and one push more that fits.
        let mut seen = 0;
        let mut missed = 0;
        slow.ping(1).await;
        loop {
            match slow.frame().await {
                NodeFrame::GroupPush(..) => seen += 1,
                NodeFrame::Missed(it) => missed += it.count,
                NodeFrame::Pong(_) => break,
                other => panic!("{other:?}"),
            }
        }
        house.router.deliver(house.push_group("room", b"last")).await;
        match slow.frame().await {
            NodeFrame::Missed(it) => {
                assert_eq!((&it.group[..], it.business), ("room", CHAT));
                missed += it.count;
            }
            other => panic!("{policy:?}: wanted MISSED, got {other:?} after {seen}"),
        }
        assert_eq!(slow.pushed().await, b"last");
        assert_eq!(seen + missed, ALL, "{policy:?}: {seen} seen, {missed} missed");
        assert!(missed > 0);
        let metric = house.metric("hawser_downlink_missed_total", &[]);
        assert_eq!(metric, missed as i64);
        // Once told, it is told no more.
        let report = house.router.deliver(house.push_group("room", b"next")).await;
        assert_eq!(report.dropped, 0);
        assert_eq!(slow.pushed().await, b"next");
        // One without the ability is not told.
        let mut old = dial::narrow(house.node.address("tcp").unwrap()).await;
        let login = old.login_frame(APP, "old", tokens::token(APP, "old"));
        old.send(&DeviceFrame::Login(login)).await;
        old.login_ok().await;
        old.enter("room").await;
        for _ in 0..ALL {
            house.router.deliver(house.push_group("room", &vec![7; 8 * 1024])).await;
        }
        old.ping(1).await;
        let mut last_seen = false;
        while !last_seen {
            match old.frame().await {
                NodeFrame::GroupPush(..) => {}
                NodeFrame::Pong(_) => last_seen = true,
                other => panic!("{other:?}"),
            }
        }
        house.router.deliver(house.push_group("room", b"last")).await;
        assert_eq!(old.pushed().await, b"last");
    }
}
