//! What is stored, where, and who leaves for it.

use super::desk::{
    ALL, CHAT, DAY_MS, Desk, HOUR_MS, SHOP, WIDE, bodies, capped, entry, login, owner, stored,
};
use crate::inbox::{Appended, Caps, LostReason, NewEntry, Priority, Session, weight};
use bytes::Bytes;
use hawser_proto::id::Position;

/// Everything in the inbox, in order, as a device that begins at the start is sent it.
async fn all(it: &Desk<'_>, key: &crate::key::Key) -> crate::inbox::Batch {
    let told = it.announce(key, u64::MAX >> 12, login(9, 9, 9), vec![]).await;
    it.fetch(key, &told.session, Position::START).await
}

async fn left(it: &Desk<'_>, key: &crate::key::Key) -> Vec<String> {
    bodies(&all(it, key).await)
}

pub(super) async fn positions_follow_each_other(it: &mut Desk<'_>) {
    let key = it.device("a");
    let (first, before) = stored(it.append(&key, entry("a", it.now_ms), WIDE).await);
    assert_eq!((first, before), (Position::new(it.now_ms, 1), Position::START));
    it.now_ms += 5;
    let (second, before) = stored(it.append(&key, entry("b", it.now_ms), WIDE).await);
    assert_eq!((second, before), (Position::new(first.term, 2), first));
}

pub(super) async fn two_oks_for_one_push_id_name_one_position(it: &mut Desk<'_>) {
    let key = it.device("a");
    let new = entry("a", it.now_ms);
    let (position, _) = stored(it.append(&key, new.clone(), WIDE).await);
    let repeated = Appended::Repeated { position };
    assert_eq!(it.append(&key, new.clone(), WIDE).await, repeated);
    assert_eq!(it.describe(&key).await.entries, 1);
    // Also when it has left since, when the inbox is full, and after a restart.
    let session = it.claim(&key, login(1, 1, 1), vec![(CHAT, position)]).await.session;
    assert_eq!(it.append(&key, new.clone(), capped(0, false)).await, repeated);
    it.restart().await;
    assert_eq!(it.append(&key, new, WIDE).await, repeated);
    assert_eq!(bodies(&it.fetch(&key, &session, position).await), [""; 0]);
}

pub(super) async fn a_push_id_used_for_something_else_is_found(it: &mut Desk<'_>) {
    let key = it.device("a");
    it.push(&key, "a").await;
    let other = NewEntry { digest: 5, ..entry("a", it.now_ms) };
    assert_eq!(it.append(&key, other, WIDE).await, Appended::Reused);
    assert_eq!(it.describe(&key).await.entries, 1);
}

pub(super) async fn a_push_id_is_forgotten_after_the_window_and_not_before(it: &mut Desk<'_>) {
    let key = it.device("a");
    let position = it.push(&key, "a").await;
    it.now_ms += 600_000 - 1;
    let again = entry("a", it.now_ms);
    assert_eq!(it.append(&key, again.clone(), WIDE).await, Appended::Repeated { position });
    it.now_ms += 1;
    assert_eq!(stored(it.append(&key, again, WIDE).await).1, position);
}

pub(super) async fn a_push_id_counts_per_business_and_device(it: &mut Desk<'_>) {
    let (one, other) = (it.device("a"), it.device("b"));
    for key in [&one, &other] {
        for business in [CHAT, SHOP] {
            let new = NewEntry { digest: u64::from(business.0), ..entry("x", it.now_ms) };
            stored(it.append_to(key, business, new, WIDE).await);
        }
    }
}

pub(super) async fn what_is_over_before_it_is_stored_is_refused_and_leaves_no_trace(
    it: &mut Desk<'_>,
) {
    let key = it.device("a");
    let late = NewEntry { expires_at_ms: it.now_ms, ..entry("a", it.now_ms) };
    assert_eq!(it.append(&key, late, WIDE).await, Appended::Expired);
    assert_eq!(it.describe(&key).await, crate::inbox::Described::default());
    it.push(&key, "a").await;
}

pub(super) async fn the_owner_comes_from_the_same_step(it: &mut Desk<'_>) {
    let key = it.device("a");
    let whose = |appended: Appended| match appended {
        Appended::Stored { owner, .. } => owner,
        other => panic!("not stored: {other:?}"),
    };
    let new = |id| entry(id, 1 << 50);
    assert_eq!(whose(it.append(&key, new("a"), WIDE).await), None);
    let bound = it.claim(&key, login(3, 1, 1), vec![]).await;
    let expected = Session { owner: owner(3), epoch: bound.session.epoch };
    assert_eq!(whose(it.append(&key, new("b"), WIDE).await), Some(expected));
    it.release(&key, &bound.session, vec![]).await;
    assert_eq!(whose(it.append(&key, new("c"), WIDE).await), None);
}

pub(super) async fn another_incarnation_begins_a_term_above_all_that_was_given_out(
    it: &mut Desk<'_>,
) {
    let key = it.device("a");
    let before = it.push_all(&key, &["a", "b"]).await;
    it.restart().await;
    let (later, prev) = stored(it.append(&key, entry("c", it.now_ms), WIDE).await);
    assert_eq!((later, prev), (Position::new(before[1].term + 1, 1), before[1]));
    it.now_ms += HOUR_MS;
    it.restart().await;
    let (last, prev) = stored(it.append(&key, entry("d", it.now_ms), WIDE).await);
    assert_eq!((last, prev), (Position::new(it.now_ms, 1), later));
    assert_eq!(left(it, &key).await, ["a", "b", "c", "d"]);
}

pub(super) async fn a_restart_loses_nothing_and_repeats_nothing(it: &mut Desk<'_>) {
    let key = it.device("a");
    let at = it.push_all(&key, &["a", "b", "c"]).await;
    let session = it.claim(&key, login(1, 1, 4), vec![]).await.session;
    it.ack(&key, &session, at[0]).await.expect("the owner");
    let before = it.describe(&key).await;
    it.restart().await;
    assert_eq!(it.describe(&key).await, before);
    assert_eq!(bodies(&it.fetch(&key, &session, at[0]).await), ["b", "c"]);
    let late = it.try_claim(&key, login(2, 1, 3), vec![]).await;
    assert_eq!(late, crate::inbox::Claimed::Stale);
    let repeated = Appended::Repeated { position: at[1] };
    assert_eq!(it.append(&key, entry("b", it.now_ms), WIDE).await, repeated);
}

pub(super) async fn a_clock_set_back_gives_no_position_twice(it: &mut Desk<'_>) {
    let key = it.device("a");
    let first = it.push(&key, "a").await;
    it.now_ms -= DAY_MS;
    let second = it.push(&key, "b").await;
    it.restart().await;
    let third = it.push(&key, "c").await;
    assert!(first < second && second < third, "{first}, {second}, {third}");
}

fn of_kind(id: &str, kind: &'static str, now_ms: u64) -> NewEntry {
    NewEntry { collapse_key: Bytes::from_static(kind.as_bytes()), ..entry(id, now_ms) }
}

pub(super) async fn the_newest_of_one_kind_stays(it: &mut Desk<'_>) {
    let key = it.device("a");
    let now_ms = it.now_ms;
    for (id, kind) in [("a", "score"), ("b", "score"), ("c", "weather"), ("d", "score"), ("e", "")]
    {
        stored(it.append(&key, of_kind(id, kind, now_ms), WIDE).await);
    }
    assert_eq!(left(it, &key).await, ["c", "d", "e"]);
    // One that the device has taken is not replaced, and neither is one of another business.
    let told = it.announce(&key, u64::MAX >> 12, login(9, 9, 9), vec![]).await;
    let tail = it.describe(&key).await.tail;
    it.ack(&key, &told.session, tail).await.expect("the owner");
    stored(it.append(&key, of_kind("f", "score", now_ms), WIDE).await);
    stored(it.append_to(&key, SHOP, of_kind("g", "score", now_ms), WIDE).await);
    assert_eq!(left(it, &key).await, ["f"]);
}

pub(super) async fn a_collapsed_entry_in_the_middle_is_told(it: &mut Desk<'_>) {
    let key = it.device("a");
    let now_ms = it.now_ms;
    let mut at = Vec::new();
    for (id, kind) in [("a", ""), ("b", "score"), ("c", ""), ("d", "score")] {
        at.push(stored(it.append(&key, of_kind(id, kind, now_ms), WIDE).await).0);
    }
    let batch = all(it, &key).await;
    let told: Vec<_> =
        batch.items.iter().map(|one| (one.position, one.prev, one.lost, one.reason)).collect();
    assert_eq!(
        told,
        [
            (at[0], Position::START, 0, LostReason::None),
            (at[2], at[0], 1, LostReason::Expired),
            (at[3], at[2], 0, LostReason::None),
        ]
    );
}

pub(super) async fn a_full_inbox_lets_the_oldest_go_and_says_so(it: &mut Desk<'_>) {
    let key = it.device("a");
    let mut at = Vec::new();
    for id in ["a", "b", "c", "d", "e"] {
        at.push(stored(it.append(&key, entry(id, it.now_ms), capped(3, true)).await).0);
    }
    let batch = all(it, &key).await;
    assert_eq!(bodies(&batch), ["c", "d", "e"]);
    let first = &batch.items[0];
    assert_eq!((first.lost, first.reason), (2, LostReason::Overflow));
    assert_eq!((first.prev, batch.floor), (Position::START, at[1]));
    assert_eq!(it.describe(&key).await.overflowed, 2);
    let repeated = it.append(&key, entry("a", it.now_ms), capped(3, true)).await;
    assert_eq!(repeated, Appended::Repeated { position: at[0] });
}

pub(super) async fn a_full_inbox_that_refuses_says_overflow_and_keeps_all(it: &mut Desk<'_>) {
    let key = it.device("a");
    let caps = capped(2, false);
    for id in ["a", "b"] {
        stored(it.append(&key, entry(id, it.now_ms), caps).await);
    }
    for _ in 0..2 {
        assert_eq!(it.append(&key, entry("c", it.now_ms), caps).await, Appended::Overflow);
    }
    let high = NewEntry { priority: Priority::High, ..entry("d", it.now_ms) };
    assert_eq!(it.append(&key, high, caps).await, Appended::Overflow);
    assert_eq!(left(it, &key).await, ["a", "b"]);
    // The refused id was not used up.
    let told = it.announce(&key, u64::MAX >> 12, login(9, 9, 9), vec![]).await;
    let tail = it.describe(&key).await.tail;
    it.ack(&key, &told.session, tail).await.expect("the owner");
    stored(it.append(&key, entry("c", it.now_ms), caps).await);
}

pub(super) async fn bytes_count_as_entries_do(it: &mut Desk<'_>) {
    let key = it.device("a");
    let sized = |id: &str, bytes: usize| NewEntry {
        blob: Bytes::from(vec![b'x'; bytes]),
        collapse_key: Bytes::from(id.to_owned()),
        ..entry(id, it.now_ms)
    };
    let one = weight(&[0; 300], b"a");
    let caps = Caps { entries_max: 100, bytes_max: 3 * one, drops_oldest: true };
    for id in ["a", "b", "c"] {
        stored(it.append(&key, sized(id, 300), caps).await);
    }
    assert_eq!(it.describe(&key).await.bytes, 3 * one);
    stored(it.append(&key, sized("d", 301), caps).await);
    let described = it.describe(&key).await;
    assert_eq!((described.entries, described.overflowed), (2, 2));
    let refusing = Caps { drops_oldest: false, ..caps };
    stored(it.append(&key, sized("e", 299), refusing).await);
    assert_eq!(it.append(&key, sized("f", 0), refusing).await, Appended::Overflow);
}

pub(super) async fn an_entry_above_the_bound_alone_is_refused_and_nothing_leaves(
    it: &mut Desk<'_>,
) {
    let key = it.device("a");
    it.push(&key, "a").await;
    let large = NewEntry { blob: Bytes::from(vec![0; 500]), ..entry("b", it.now_ms) };
    let caps = Caps { bytes_max: 563, ..WIDE };
    assert_eq!(it.append(&key, large.clone(), caps).await, Appended::Overflow);
    assert_eq!(left(it, &key).await, ["a"]);
    let fits = Caps { bytes_max: 564, ..WIDE };
    stored(it.append(&key, large, fits).await);
    let fresh = it.device("b");
    assert_eq!(it.append(&fresh, entry("a", it.now_ms), capped(0, true)).await, Appended::Overflow);
    assert_eq!(it.describe(&fresh).await, crate::inbox::Described::default());
}

async fn fill(it: &Desk<'_>, key: &crate::key::Key, of: &[(&str, Priority)], caps: Caps) {
    for &(id, priority) in of {
        let new = NewEntry { priority, ..entry(id, it.now_ms) };
        stored(it.append(key, new, caps).await);
    }
}

pub(super) async fn the_lowest_priority_leaves_first(it: &mut Desk<'_>) {
    use Priority::{High, Low, Normal};
    let key = it.device("a");
    let caps = capped(5, true);
    let first = [("n1", Normal), ("l1", Low), ("h1", High), ("l2", Low), ("n2", Normal)];
    fill(it, &key, &first, caps).await;
    fill(it, &key, &[("n3", Normal)], caps).await;
    assert_eq!(left(it, &key).await, ["n1", "h1", "l2", "n2", "n3"]);
    fill(it, &key, &[("h2", High), ("h3", High)], caps).await;
    assert_eq!(left(it, &key).await, ["h1", "n2", "n3", "h2", "h3"]);
    fill(it, &key, &[("h4", High), ("h5", High), ("h6", High)], caps).await;
    assert_eq!(left(it, &key).await, ["h2", "h3", "h4", "h5", "h6"]);
    assert_eq!(it.describe(&key).await.overflowed, 6);
}

pub(super) async fn a_low_one_does_not_push_out_a_higher_one(it: &mut Desk<'_>) {
    use Priority::{High, Low, Normal};
    let key = it.device("a");
    let caps = capped(3, true);
    fill(it, &key, &[("h1", High), ("n1", Normal), ("h2", High)], caps).await;
    let low = NewEntry { priority: Low, ..entry("l1", it.now_ms) };
    assert_eq!(it.append(&key, low, caps).await, Appended::Overflow);
    fill(it, &key, &[("n2", Normal)], caps).await;
    assert_eq!(left(it, &key).await, ["h1", "h2", "n2"]);
}

pub(super) async fn a_replaced_entry_makes_room_for_its_successor(it: &mut Desk<'_>) {
    let key = it.device("a");
    let caps = capped(2, false);
    stored(it.append(&key, of_kind("a", "score", it.now_ms), caps).await);
    stored(it.append(&key, entry("b", it.now_ms), caps).await);
    stored(it.append(&key, of_kind("c", "score", it.now_ms), caps).await);
    assert_eq!(left(it, &key).await, ["b", "c"]);
    let dropping = capped(2, true);
    stored(it.append(&key, of_kind("d", "score", it.now_ms), dropping).await);
    assert_eq!(left(it, &key).await, ["b", "d"]);
    assert_eq!(it.describe(&key).await.overflowed, 0);
}

pub(super) async fn entries_that_are_over_make_room_wherever_they_stand(it: &mut Desk<'_>) {
    let key = it.device("a");
    let caps = capped(3, false);
    let short = |id: &str, now_ms| NewEntry { expires_at_ms: now_ms + 5_000, ..entry(id, now_ms) };
    stored(it.append(&key, short("head", it.now_ms), caps).await);
    stored(it.append(&key, entry("stays", it.now_ms), caps).await);
    stored(it.append(&key, short("middle", it.now_ms), caps).await);
    it.now_ms += 6_000;
    for id in ["x", "y"] {
        stored(it.append(&key, entry(id, it.now_ms), caps).await);
    }
    assert_eq!(it.append(&key, entry("z", it.now_ms), caps).await, Appended::Overflow);
    assert_eq!(left(it, &key).await, ["stays", "x", "y"]);
    assert_eq!(it.describe(&key).await.overflowed, 0);
}

pub(super) async fn smaller_caps_take_effect_with_the_next_append(it: &mut Desk<'_>) {
    let key = it.device("a");
    it.push_all(&key, &["a", "b", "c", "d"]).await;
    stored(it.append(&key, entry("e", it.now_ms), capped(2, true)).await);
    assert_eq!(left(it, &key).await, ["d", "e"]);
}

pub(super) async fn an_inbox_is_forgotten_in_the_end_and_begins_above(it: &mut Desk<'_>) {
    let key = it.device("a");
    let longest = NewEntry { expires_at_ms: u64::MAX, ..entry("a", it.now_ms) };
    let (before, _) = stored(it.append(&key, longest, WIDE).await);
    it.now_ms += 7 * DAY_MS - 1;
    assert_eq!(left(it, &key).await, ["a"]);
    it.now_ms += 1;
    assert_eq!(left(it, &key).await, [""; 0]);
    it.now_ms += 2 * DAY_MS;
    let session = it.claim(&key, login(1, 8, 1), vec![]).await.session;
    let batch = it.try_fetch(&key, &session, Position::START, ALL).await.expect("the owner");
    assert_eq!((batch.items.len(), batch.tail), (0, Position::START));
    let (after, prev) = stored(it.append(&key, entry("b", it.now_ms), WIDE).await);
    assert_eq!((after, prev), (Position::new(it.now_ms, 1), Position::START));
    assert!(after > before);
}
