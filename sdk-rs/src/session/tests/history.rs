//! Groups with a history: positions over reconnects, holes, resets, and what live groups missed; and
//! stored pushes as far as the whole session has a part in them.

use super::*;
use crate::incoming::Incoming;
use hawser_proto::id::Position;
use std::collections::VecDeque;

fn pos(term: u64, seq: u64) -> Position {
    Position::new(term, seq)
}

fn group_push(at: Position, prev: Position) -> NodeFrame {
    let push = params::GroupPush {
        business: 5,
        group: "g".into(),
        term: at.term,
        seq: at.seq,
        prev_term: prev.term,
        prev_seq: prev.seq,
        ..Default::default()
    };
    NodeFrame::GroupPush(push, Bytes::new())
}

fn stored(seq: u64) -> NodeFrame {
    let prev_term = u64::from(seq > 1);
    let push = params::Push {
        business: 5,
        term: 1,
        seq,
        prev_term,
        prev_seq: seq - 1,
        ..Default::default()
    };
    NodeFrame::Push(push, Bytes::new())
}

fn joined_at(request_id: u64, tail: Position) -> NodeFrame {
    let Position { term: tail_term, seq: tail_seq } = tail;
    let group = "g".into();
    let history = true;
    NodeFrame::Joined(params::Joined {
        request_id,
        group,
        business: 5,
        tail_term,
        tail_seq,
        history,
        ..Default::default()
    })
}

fn member_at(tail: Position) -> Rig {
    let mut rig = Rig::online(&["tcp://h:1"]);
    rig.join("g");
    rig.hear(&joined_at(rig.session.last_id, tail));
    rig
}

/// The last position that the next JOIN names.
fn rejoin(rig: &mut Rig) -> Position {
    let mut out = Vec::new();
    rig.session.handle(Event::Ended(None), rig.now, &mut out);
    rig.due();
    rig.feed(Event::Dialled(Ok(())));
    let mut out = Vec::new();
    rig.session.handle(Event::Frame(raw(&NodeFrame::LoginOk(login_ok()))), rig.now, &mut out);
    let join = out.into_iter().find_map(|action| match action {
        Action::Send(frame) => {
            match DeviceFrame::parse(codec::decode_message(frame, FRAME_BYTES_MAX).unwrap()) {
                Ok(DeviceFrame::Join(join)) => Some(join),
                _ => None,
            }
        }
        _ => None,
    });
    let join = join.expect("it joins again");
    pos(join.last_term, join.last_seq)
}

const PUSH: &str = "push chat \"g\"";

#[test]
fn positions_of_a_group_only_grow_and_outlive_the_link() {
    let mut rig = member_at(pos(3, 7));
    assert_eq!(rig.hear(&group_push(pos(3, 7), pos(3, 6))), "", "it was there before");
    assert_eq!(rig.hear(&group_push(pos(3, 8), pos(3, 7))), PUSH);
    assert_eq!(rig.hear(&group_push(pos(3, 8), pos(3, 7))), "", "twice");
    assert_eq!(rig.hear(&group_push(pos(3, 10), pos(3, 9))), "send RECOVER g");
    assert_eq!(rig.hear(&group_push(pos(3, 11), pos(3, 10))), "", "one at a time");
    let began = rig.now;
    assert_eq!(rig.due(), "send RECOVER g");
    assert_eq!(rig.now - began, 5 * SECOND);
    for seq in 9..=11 {
        assert_eq!(rig.hear(&group_push(pos(3, seq), pos(3, seq - 1))), PUSH);
    }
    assert_eq!(rejoin(&mut rig), pos(3, 11));
    let id = rig.session.last_id;
    assert_eq!(rig.hear(&joined_at(id, pos(3, 20))), "", "the tail is no start for this one");
    assert_eq!(rig.hear(&group_push(pos(3, 12), pos(3, 11))), PUSH);
}

#[test]
fn an_empty_history_is_a_place_too() {
    let mut rig = member_at(pos(4, 0));
    assert_eq!(rejoin(&mut rig), pos(4, 0), "all that came since, and not the tail");
    rig.hear(&joined_at(rig.session.last_id, pos(4, 2)));
    assert_eq!(rig.hear(&group_push(pos(4, 1), pos(4, 0))), PUSH);
    assert_eq!(rig.hear(&group_push(pos(4, 2), pos(4, 1))), PUSH);
}

#[test]
fn a_push_that_overtakes_the_answer_to_the_join_counts() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    rig.join("g");
    let id = rig.session.last_id;
    assert_eq!(rig.hear(&group_push(pos(3, 8), pos(3, 7))), PUSH);
    rig.hear(&joined_at(id, pos(3, 7)));
    assert_eq!(rig.hear(&group_push(pos(3, 8), pos(3, 7))), "");
    assert_eq!(rig.hear(&group_push(pos(3, 9), pos(3, 8))), PUSH);
}

#[test]
fn who_has_left_hears_nothing_more_and_begins_anew() {
    let mut rig = member_at(pos(3, 7));
    let (id, deadline) = (rig.session.next_id(), rig.now + 10 * SECOND);
    assert_eq!(rig.feed(Event::Leave(id, "g".into(), deadline)), "send LEAVE g");
    assert_eq!(rig.hear(&group_push(pos(3, 8), pos(3, 7))), "");
    let answer = params::Left { request_id: id, group: "g".into(), ..Default::default() };
    rig.hear(&NodeFrame::Left(answer));
    rig.join("g");
    assert_eq!(rejoin(&mut rig), Position::START, "it is no member of before");
}

#[test]
fn a_history_that_is_gone_is_told_once() {
    let mut rig = member_at(pos(3, 7));
    assert_eq!(rejoin(&mut rig), pos(3, 7));
    let reset = NodeFrame::GroupReset(params::GroupReset {
        group: "g".into(),
        business: 5,
        floor_term: 3,
        floor_seq: 90,
        tail_term: 3,
        tail_seq: 99,
    });
    assert_eq!(rig.hear(&reset), "reset chat g");
    assert_eq!(rig.hear(&reset), "");
    assert_eq!(rig.hear(&group_push(pos(3, 91), pos(3, 90))), PUSH);

    // The store of the history went back.
    assert_eq!(rig.hear(&group_push(pos(4, 1), pos(3, 80))), format!("reset chat g, {PUSH}"));
    assert_eq!(rejoin(&mut rig), pos(4, 1));
}

#[test]
fn a_group_that_the_business_put_the_device_into_has_a_history_too() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    assert_eq!(rig.hear(&joined_at(0, pos(3, 7))), "");
    assert_eq!(rig.hear(&group_push(pos(3, 8), pos(3, 7))), PUSH);
    assert_eq!(rig.hear(&group_push(pos(3, 8), pos(3, 7))), "");
    assert!(!reconnect(&mut rig).contains("JOIN"), "the app did not ask for it");
    assert_eq!(rig.hear(&joined_at(0, pos(3, 10))), "send RECOVER g", "put in again");
    for seq in 9..=10 {
        assert_eq!(rig.hear(&group_push(pos(3, seq), pos(3, seq - 1))), PUSH);
    }
    // From now on the app wants it: it goes on from there.
    rig.join("g");
    assert_eq!(rejoin(&mut rig), pos(3, 10));
    // Without word of it, its first push is where it begins.
    let mut rig = Rig::online(&["tcp://h:1"]);
    assert_eq!(rig.hear(&group_push(pos(3, 8), pos(3, 7))), PUSH);
    assert_eq!(rig.hear(&group_push(pos(3, 10), pos(3, 9))), "send RECOVER g");
    rig.hear(&left(params::LeftReason::Removed));
    assert_eq!(rig.hear(&group_push(pos(3, 8), pos(3, 7))), PUSH, "forgotten");
}

#[test]
fn a_history_that_lies_below_the_device_is_gone_on_from() {
    let mut rig = member_at(pos(3, 7));
    let reset = NodeFrame::GroupReset(params::GroupReset {
        group: "g".into(),
        business: 5,
        floor_term: 2,
        floor_seq: 4,
        tail_term: 2,
        tail_seq: 9,
    });
    assert_eq!(rig.hear(&reset), "reset chat g");
    assert_eq!(rig.hear(&group_push(pos(2, 5), pos(2, 4))), PUSH);
}

#[test]
fn a_live_group_tells_how_many_were_missed() {
    let mut rig = member();
    let missed =
        |count| NodeFrame::Missed(params::Missed { group: "g".into(), business: 5, count });
    rig.hear(&missed(3));
    rig.hear(&missed(4));
    for expected in [7, 0] {
        let mut out = Vec::new();
        let frame = raw(&group_push(Position::START, Position::START));
        rig.session.handle(Event::Frame(frame), rig.now, &mut out);
        let [Action::Push(_, push)] = &out[..] else { panic!("{out:?}") };
        assert_eq!((push.missed, push.position), (expected, None));
    }
    assert_eq!(rejoin(&mut rig), Position::START);
}

/// A history of bounded length, a link that loses, doubles and cuts, and a member: every push reaches
/// it once and in order, unless a reset said that it would not.
#[test]
fn random_histories_of_a_group_lose_nothing_in_silence() {
    let (mut recovers, mut resets) = (0, 0);
    for seed in 0..400 {
        let mut dice = Backoff::new(settings(), seed);
        let mut roll = move |sides: u64| (dice.fraction() * sides as f64) as u64;
        let mut rig = member_at(pos(1, 1));
        let (mut floor, mut tail, mut sent) = (1u64, 1u64, 1);
        let mut wire: VecDeque<NodeFrame> = VecDeque::new();
        let mut last = 1;
        for step in 0..400 {
            let is_quiet = step >= 300;
            match roll(20) {
                0..5 if !is_quiet => {
                    tail += 1;
                    floor = floor.max(tail.saturating_sub(12));
                }
                0..10 if sent < tail => {
                    sent = sent.max(floor) + 1;
                    let prev = if sent == floor + 1 { floor } else { sent - 1 };
                    wire.push_back(group_push(pos(1, sent), pos(1, prev)));
                }
                10 if !is_quiet => drop(wire.pop_back()),
                11 if !is_quiet => {
                    let pushes = |it: &&NodeFrame| matches!(it, NodeFrame::GroupPush(..));
                    wire.extend(wire.front().filter(pushes).cloned());
                }
                12 if !is_quiet && roll(3) == 0 => {
                    wire.clear();
                    sent = rejoin(&mut rig).seq;
                    rig.hear(&joined_at(rig.session.last_id, pos(1, tail)));
                }
                _ => {
                    let Some(frame) = wire.pop_front() else { continue };
                    let mut out = Vec::new();
                    rig.session.handle(Event::Frame(raw(&frame)), rig.now, &mut out);
                    for action in out {
                        match action {
                            Action::Push(_, push) => {
                                let seq = push.position.unwrap().seq;
                                assert_eq!(seq, last + 1, "seed {seed}");
                                last = seq;
                            }
                            Action::Reset(_, reset) => {
                                resets += 1;
                                last = reset.floor.seq;
                            }
                            Action::Send(_) => {
                                recovers += 1;
                                sent = last;
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                }
            }
            if sent < floor {
                // What the member is behind of is gone.
                wire.push_back(NodeFrame::GroupReset(params::GroupReset {
                    group: "g".into(),
                    business: 5,
                    floor_term: 1,
                    floor_seq: floor,
                    tail_term: 1,
                    tail_seq: tail,
                }));
                sent = floor;
            }
        }
        // The link is cut once more, and everything follows from the last position.
        let mut at = rejoin(&mut rig).seq;
        assert_eq!(at, last, "seed {seed}");
        rig.hear(&joined_at(rig.session.last_id, pos(1, tail)));
        while at < tail {
            at += 1;
            let seen = rig.hear(&group_push(pos(1, at), pos(1, at - 1)));
            assert!(seen == PUSH || at <= floor, "seed {seed}: {seen}");
        }
    }
    assert!(recovers > 100 && resets > 100, "{recovers} {resets}");
}

#[test]
fn the_login_names_what_is_kept_and_stays_below_its_limit() {
    let cursors = (0..32).map(|n| (Arc::from(format!("{n:032}")), pos(u64::MAX - 1, u64::MAX - n)));
    let mut rig = Rig::new(Some(&["tcp://h:1"]));
    rig.session.inboxes = Inboxes::new(cursors.clone());
    let businesses = cursors.map(|(name, _)| name).collect();
    let token = "t".repeat(2000);
    let setup = Setup { businesses, ..(*rig.session.setup).clone() };
    rig.session.setup = Arc::new(setup);
    rig.feed(Event::Start);
    rig.session.token_mut().unwrap().text = token;
    let mut out = Vec::new();
    rig.session.handle(Event::Dialled(Ok(())), rig.now, &mut out);
    let [Action::Send(frame)] = &out[..] else { panic!("{out:?}") };
    assert!(frame.len() <= hawser_proto::limits::LOGIN_FRAME_BYTES_MAX);
    let raw = codec::decode_message(frame.clone(), FRAME_BYTES_MAX).unwrap();
    let Ok(DeviceFrame::Login(login)) = DeviceFrame::parse(raw) else { panic!("not a login") };
    assert!((5..32).contains(&login.cursors.len()), "as many as fit: {}", login.cursors.len());
}

#[test]
fn what_was_handled_is_kept_before_goodbye() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    assert_eq!(rig.hear(&stored(1)), "shelve chat 1");
    assert_eq!(rig.hear(&stored(2)), "shelve chat 2");
    assert_eq!(rig.feed(Event::Handled("chat".into(), 1)), "");
    let keep = rig.feed(Event::Stop);
    assert!(keep.starts_with("keep") && !keep.contains("BYE"), "{keep}");
    assert_eq!(rig.feed(Event::Handled("chat".into(), 2)), "");
    let again = rig.feed(Event::Kept(true));
    assert!(again.starts_with("send ACK, keep"), "{again}");
    assert_eq!(rig.feed(Event::Kept(true)), "send ACK, send BYE");

    // A storage that hangs holds the goodbye up for two seconds and no longer.
    let mut rig = Rig::online(&["tcp://h:1"]);
    rig.hear(&stored(1));
    rig.feed(Event::Handled("chat".into(), 1));
    rig.feed(Event::Stop);
    assert!(rig.due().contains("tell closed"));
    // And one that fails is not waited for.
    let mut rig = Rig::online(&["tcp://h:1"]);
    rig.hear(&stored(1));
    rig.feed(Event::Handled("chat".into(), 1));
    rig.feed(Event::Stop);
    assert_eq!(rig.feed(Event::Kept(false)), "send BYE");
}

#[test]
fn the_next_start_goes_on_where_this_one_ended() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    for seq in 1..=3 {
        rig.hear(&stored(seq));
    }
    rig.feed(Event::Handled("chat".into(), 1));
    let seen = rig.close(CloseCode::Superseded, Duration::ZERO);
    assert!(seen.contains("keep"), "{seen}");
    // The storage never answered.
    let Rig { session, now } = rig;
    let setup = session.setup.clone();
    let installation = session.installation.clone();
    let inboxes = session.into_inboxes(now);
    let mut rig = Rig { session: Session::new(setup, installation, inboxes, 1), now };
    rig.feed(Event::Start);
    rig.feed(Event::Advised(Ok(advice(now, &["tcp://h:1"]))));
    rig.feed(Event::Dialled(Ok(())));
    rig.hear(&NodeFrame::LoginOk(login_ok()));
    for seq in 1..=3 {
        assert_eq!(rig.hear(&stored(seq)), "", "{seq} is handled, or on the shelf");
    }
    assert_eq!(rig.hear(&stored(4)), "shelve chat 4");
    assert!(rig.due().starts_with("keep"));
    let mut out = Vec::new();
    rig.session.handle(Event::Handled("chat".into(), 3), rig.now, &mut out);
    rig.session.handle(Event::Kept(true), rig.now, &mut out);
    let shelved = |it: &Action| matches!(it, Action::Shelve(_, _, Incoming::Push(_)));
    assert!(!out.iter().any(shelved) && !out.is_empty(), "{out:?}");
}
