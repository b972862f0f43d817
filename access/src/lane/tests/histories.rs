//! Histories in a lane: what a member is written when a part is gone or its link is full, and that every
//! join is answered.

use super::super::history::{HistoryAnswer, PAUSE_MS, Recovered, Recovering, Whom};
use super::super::recovery::is_at_rest;
use super::*;
use crate::feed::{Entry, Place as EntryPlace};
use crate::outbox::{Keep, SlowPolicy};
use bytes::Bytes;
use hawser_proto::params::{GroupPush, Joined};

fn at(seq: u64) -> Position {
    Position::new(7, seq)
}

/// A push of the group, as the store hands it out: `prev` is the survivor before it.
fn entry(seq: u64, prev: u64, lost: u64, bytes: usize) -> Entry {
    of_business(1, seq, prev, lost, bytes)
}

fn of_business(business: u32, seq: u64, prev: u64, lost: u64, bytes: usize) -> Entry {
    let push = GroupPush { group: "g-0".into(), business, term: 7, seq, ..Default::default() };
    let frame = NodeFrame::GroupPush(push, Bytes::from(vec![0; bytes])).encode();
    let place = EntryPlace { at: at(seq), prev: at(prev) };
    Entry { place, frame, lost, lost_reason: 1, priority: 2 }
}

fn answer(entries: Vec<Entry>, tail: u64) -> HistoryAnswer {
    HistoryAnswer::Entries(Recovered { entries, tail: at(tail), floor: at(0) })
}

/// `push 5`, `reset 3`, `joined 9 status 18`, `left`.
fn seen(peer: &Mute) -> Vec<String> {
    let print = |frame: NodeFrame| match frame {
        NodeFrame::GroupPush(push, _) => format!("push {}", push.seq),
        NodeFrame::GroupReset(reset) => format!("reset {}", reset.floor_seq),
        NodeFrame::Joined(Joined { request_id, status, .. }) => {
            format!("joined {request_id} {:?}", ErrorCode::from_number(status))
        }
        NodeFrame::Left(left) => format!("left {}", left.request_id),
        other => panic!("{other:?}"),
    };
    peer.seen().into_iter().map(print).collect()
}

impl Place {
    async fn history_stay(&mut self, key: &GroupKey) -> Stay {
        let seq = self.claim(key).await;
        Stay { seq, business: BusinessNo(1), created_ms: 0, history: true }
    }

    fn history(&mut self, key: &GroupKey) -> &mut History {
        let index = self.lane.by_key[key];
        self.lane.groups[index].history.as_mut().unwrap()
    }

    /// A live member of a lane that has written up to `last`.
    async fn member(&mut self, at: SlotRef, key: &GroupKey, last: Position) -> Stay {
        let stay = self.history_stay(key).await;
        assert_eq!(self.lane.try_join(at, key, stay), None);
        self.history(key).last = Some(last);
        stay
    }

    /// The member is pulled for, from `after`.
    fn pulls_for(&mut self, key: &GroupKey, member: SlotRef, after: Position) {
        let recovering = Recovering { at: member, after, is_pulling: true, not_before_ms: 0 };
        self.history(key).recovering.insert(member.slot, recovering);
    }

    fn recovering(&mut self, key: &GroupKey, member: SlotRef) -> Option<(Position, bool)> {
        let now_ms = self.node.table.now_ms();
        let recovering = self.history(key).recovering.get(&member.slot)?;
        Some((recovering.after, recovering.not_before_ms >= now_ms + PAUSE_MS))
    }
}

#[tokio::test]
async fn a_member_whose_link_took_nothing_is_not_pulled_for_again_at_once() {
    let mut place = Place::new().await;
    let peer = Mute::default();
    let (member, key) = (place.session_on(&peer), key(0));
    let stay = place.member(member, &key, at(3)).await;
    assert_eq!(is_at_rest(&place.node.table, member), Some(true));

    // Room for something small is no room for what waits in the history.
    peer.fail(io::ErrorKind::WouldBlock);
    let small = FrameOut::new(entry(9, 8, 0, 100).frame);
    place.node.table.write_shared(member, &small, Keep::Droppable, SlowPolicy::DropNewest);
    assert_eq!(is_at_rest(&place.node.table, member), Some(false));

    // Nor does what filled the link while the call was under way let it spin.
    place.pulls_for(&key, member, at(0));
    let large = || answer(vec![entry(1, 0, 0, 65_500), entry(2, 1, 0, 10)], 3);
    place.lane.recovered(&key, stay.seq, Whom::Member(member), at(0), large()).await;
    assert_eq!(place.recovering(&key, member), Some((at(0), true)));
    assert_eq!(place.lane.recoveries.waiting.len(), 1);

    // Where something was written, nothing but the link itself is waited for.
    let member = place.session_on(&peer);
    place.member(member, &key, at(3)).await;
    place.pulls_for(&key, member, at(0));
    place.lane.recovered(&key, stay.seq, Whom::Member(member), at(0), large()).await;
    assert_eq!(place.recovering(&key, member), Some((at(1), false)));
}

#[tokio::test]
async fn what_was_not_written_does_not_count_as_written() {
    let mut place = Place::new().await;
    let peer = Mute::default();
    let (member, key) = (place.session_on(&peer), key(0));
    let stay = place.member(member, &key, at(2)).await;
    place.pulls_for(&key, member, at(0));
    peer.fail(io::ErrorKind::BrokenPipe);
    let answer = answer(vec![entry(1, 0, 0, 1), entry(2, 1, 0, 1)], 2);
    place.lane.recovered(&key, stay.seq, Whom::Member(member), at(0), answer).await;
    assert_eq!(place.recovering(&key, member), Some((at(0), true)), "it is not live");
}

#[tokio::test]
async fn what_policy_removed_from_a_history_is_told_to_one_who_recovers() {
    let mut place = Place::new().await;
    let peer = Mute::default();
    let (member, key) = (place.session_on(&peer), key(0));
    let stay = place.member(member, &key, at(9)).await;
    place.pulls_for(&key, member, at(2));
    let entries = vec![entry(3, 2, 0, 1), entry(6, 3, 2, 1), entry(7, 6, 0, 1), entry(9, 7, 1, 1)];
    let answer = answer(entries, 9);
    place.lane.recovered(&key, stay.seq, Whom::Member(member), at(2), answer).await;
    let told = ["push 3", "reset 5", "push 6", "push 7", "reset 8", "push 9"];
    assert_eq!(seen(&peer), told);
    assert_eq!(place.recovering(&key, member), None, "it is live");
}

#[tokio::test]
async fn a_push_of_another_business_is_passed_over() {
    let mut place = Place::new().await;
    let (live, late) = (Mute::default(), Mute::default());
    let key = key(0);
    let member = place.session_on(&live);
    place.member(member, &key, at(2)).await;
    let behind = place.session_on(&late);
    let stay = place.member(behind, &key, at(2)).await;
    place.pulls_for(&key, behind, at(0));
    let all = |from: u64| {
        let entries = [of_business(2, 1, 0, 0, 1), entry(2, 1, 0, 1), of_business(2, 3, 2, 0, 1)];
        let entries = entries.into_iter().chain([entry(4, 3, 0, 1), of_business(2, 5, 4, 0, 1)]);
        answer(entries.filter(|entry| entry.place.at > at(from)).collect(), 5)
    };
    place.history(&key).pulling = Some(at(5));
    place.lane.recovered(&key, stay.seq, Whom::Lane, at(2), all(2)).await;
    assert_eq!(seen(&live), ["push 4"]);
    assert_eq!(place.history(&key).last, Some(at(5)), "nothing is left to ask for");
    place.lane.recovered(&key, stay.seq, Whom::Member(behind), at(0), all(0)).await;
    assert_eq!(seen(&late), ["push 2", "push 4"]);
    assert_eq!(place.recovering(&key, behind), None, "it is live");
}

#[tokio::test]
async fn what_policy_removed_from_a_history_is_told_to_all_who_are_behind() {
    let mut place = Place::new().await;
    let key = key(0);
    let peers = [Mute::default(), Mute::default()];
    let mut stay = None;
    for peer in &peers {
        let member = place.session_on(peer);
        stay = Some(place.member(member, &key, at(2)).await);
    }
    let history = place.history(&key);
    history.pulling = Some(at(6));
    let answer = answer(vec![entry(3, 2, 0, 1), entry(6, 3, 2, 1)], 6);
    place.lane.recovered(&key, stay.unwrap().seq, Whom::Lane, at(2), answer).await;
    for peer in &peers {
        assert_eq!(seen(peer), ["push 3", "reset 5", "push 6"]);
    }
    assert_eq!(place.history(&key).last, Some(at(6)));
}

/// Whatever ends the membership while the lane does not know where the group stands.
#[tokio::test]
async fn a_join_that_waits_for_the_tail_is_answered_when_its_membership_ends() {
    for (end, expected) in [
        ("left", ["joined 5 Some(NotMember)", "left 6"]),
        ("kicked", ["joined 5 Some(NotMember)", "left 0"]),
        ("dropped", ["joined 5 Some(GroupNotFound)", "left 0"]),
    ] {
        let mut place = Place::new().await;
        let peer = Mute::default();
        let (member, other, key) = (place.session_on(&peer), place.session(), key(0));
        // Someone else was first, and the call for the tail is under way.
        place.member(other, &key, at(1)).await;
        let history = place.history(&key);
        (history.last, history.pulling) = (None, Some(Position::START));
        let stay = place.history_stay(&key).await;
        place.lane.join(member, &key, stay, Position::START, Done::Device(5));
        assert_eq!(seen(&peer), [""; 0], "{end}");
        let nothing = String::new;
        match end {
            "left" => {
                place.lane.leave(member, &key, LeftReason::Asked, nothing(), Done::Device(6));
            }
            "kicked" => {
                let (tell, _) = oneshot::channel();
                let done = Done::Business(tell);
                place.lane.leave(member, &key, LeftReason::Kicked, nothing(), done);
            }
            _ => place.lane.drop_group(&key, u64::MAX),
        }
        assert_eq!(seen(&peer), expected, "{end}");
        assert!(!place.lane.is_member(member, &key), "{end}");
    }
}

/// The business that put the device in hears of its end, too.
#[tokio::test]
async fn a_business_hears_of_a_join_whose_connection_ended() {
    let mut place = Place::new().await;
    let (member, other, key) = (place.session(), place.session(), key(0));
    place.member(other, &key, at(1)).await;
    let history = place.history(&key);
    (history.last, history.pulling) = (None, Some(Position::START));
    let stay = place.history_stay(&key).await;
    let (tell, mut told) = oneshot::channel();
    place.lane.join(member, &key, stay, Position::START, Done::Business(tell));
    assert!(told.try_recv().is_err());
    place.lane.ended(member);
    assert_eq!(told.try_recv(), Ok(Some(ErrorCode::DeviceOffline)));
}
