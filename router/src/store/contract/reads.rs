//! What a device is sent, and what it is told of what will not come.

use super::desk::{ALL, CHAT, Desk, HOUR_MS, SHOP, WIDE, bodies, entry, login, stored};
use crate::inbox::{Described, InboxState, Limits, LostReason, NewEntry, Priority};
use bytes::Bytes;
use hawser_proto::id::Position;

pub(super) async fn entries_come_in_order_and_in_pages(it: &mut Desk<'_>) {
    let key = it.device("a");
    let ids: Vec<String> = (0..50).map(|number| format!("p{number:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let at = it.push_all(&key, &ids).await;
    let session = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    let limits = Limits { entries_max: 20, ..ALL };
    let (mut after, mut seen, mut pages) = (Position::START, Vec::new(), 0);
    while after < at[49] {
        let batch = it.try_fetch(&key, &session, after, limits).await.expect("the owner");
        for item in &batch.items {
            assert_eq!((item.prev, item.lost), (after, 0));
            after = item.position;
        }
        assert_eq!(batch.tail, at[49]);
        seen.extend(bodies(&batch));
        pages += 1;
    }
    assert_eq!((seen, pages), (ids.iter().map(|&id| id.to_owned()).collect(), 3));
    assert_eq!(it.fetch(&key, &session, after).await.items, vec![]);
    let beyond = Position::new(after.term + 1, 0);
    assert_eq!(it.fetch(&key, &session, beyond).await.items, vec![]);
}

pub(super) async fn a_large_entry_comes_alone(it: &mut Desk<'_>) {
    let key = it.device("a");
    for (id, bytes) in [("a", 900), ("b", 60), ("c", 40), ("d", 1)] {
        let new = NewEntry { blob: Bytes::from(vec![b'x'; bytes]), ..entry(id, it.now_ms) };
        stored(it.append(&key, new, WIDE).await);
    }
    let session = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    let limits = Limits { entries_max: 10, bytes_max: 100 };
    let mut after = Position::START;
    for expected in [1, 2, 1] {
        let batch = it.try_fetch(&key, &session, after, limits).await.expect("the owner");
        assert_eq!(batch.items.len(), expected);
        after = batch.items[expected - 1].position;
    }
}

pub(super) async fn only_tail_and_floor_are_told_when_nothing_is_asked_for(it: &mut Desk<'_>) {
    let key = it.device("a");
    let at = it.push_all(&key, &["a", "b"]).await;
    let session = it.claim(&key, login(1, 1, 1), vec![(CHAT, at[0])]).await.session;
    let nothing = Limits { entries_max: 0, bytes_max: 1_000 };
    let batch = it.try_fetch(&key, &session, at[0], nothing).await.expect("the owner");
    assert_eq!((batch.items.len(), batch.tail, batch.floor), (0, at[1], at[0]));
}

pub(super) async fn an_acknowledgement_trims_and_a_lower_one_does_nothing(it: &mut Desk<'_>) {
    let key = it.device("a");
    let at = it.push_all(&key, &["a", "b", "c"]).await;
    let session = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    it.ack(&key, &session, at[1]).await.expect("the owner");
    for lower in [at[0], at[1], Position::START] {
        it.ack(&key, &session, lower).await.expect("the owner");
        let described = it.describe(&key).await;
        assert_eq!((described.entries, described.floor), (1, at[1]));
    }
    it.ack(&key, &session, at[2]).await.expect("the owner");
    let described = it.describe(&key).await;
    let empty = Described { tail: at[2], floor: at[2], ..Described::default() };
    assert_eq!(described, empty);
}

pub(super) async fn an_acknowledgement_ahead_of_the_store_is_believed(it: &mut Desk<'_>) {
    for (id, is_known) in [("known", true), ("unknown", false)] {
        let key = it.device(id);
        if is_known {
            it.push(&key, "a").await;
        }
        let session = it.claim(&key, login(1, 1, 1), vec![]).await.session;
        let ahead = Position::new(it.now_ms + 1_000, 3);
        let told = it.sweep(&key, &session, vec![(CHAT, ahead)]).await.expect("the owner");
        assert_eq!((told[0].state, told[0].count), (InboxState::TermChanged, 0), "{id}");
        assert_eq!(it.sweep(&key, &session, vec![(CHAT, ahead)]).await, Ok(vec![]), "{id}");
        assert!(it.push(&key, "b").await > ahead, "{id}");
        let later = Position::new(it.now_ms + 9_000, 3);
        it.ack(&key, &session, later).await.expect("the owner");
        assert!(it.push(&key, "c").await > later, "{id}");
    }
}

pub(super) async fn an_absurd_acknowledgement_changes_nothing(it: &mut Desk<'_>) {
    let key = it.device("a");
    let at = it.push(&key, "a").await;
    let session = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    for absurd in [Position::new(it.now_ms + HOUR_MS, 1), Position::new(at.term, u64::MAX)] {
        it.ack(&key, &session, absurd).await.expect("the owner");
        let swept = it.sweep(&key, &session, vec![(CHAT, absurd)]).await.expect("the owner");
        assert_eq!((swept[0].count, swept[0].state), (1, InboxState::CursorRefused));
    }
    assert_eq!(bodies(&it.fetch(&key, &session, Position::START).await), ["a"]);
}

pub(super) async fn what_was_acknowledged_is_never_called_lost(it: &mut Desk<'_>) {
    let key = it.device("a");
    let at = it.push_all(&key, &["a", "b", "c"]).await;
    let session = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    it.ack(&key, &session, at[1]).await.expect("the owner");
    let batch = it.fetch(&key, &session, Position::START).await;
    let first = &batch.items[0];
    assert_eq!((first.position, first.lost, first.reason), (at[2], 0, LostReason::None));
    it.ack(&key, &session, at[2]).await.expect("the owner");
    let batch = it.fetch(&key, &session, Position::START).await;
    let last = &batch.items[0];
    assert_eq!((last.position, last.lost, last.entry.is_none()), (at[2], 0, true));
}

pub(super) async fn what_is_over_is_passed_by_and_told(it: &mut Desk<'_>) {
    let key = it.device("a");
    let mut at = Vec::new();
    for (id, lives_ms) in [("a", 2_000), ("b", 90_000), ("c", 2_000), ("d", 3_000), ("e", 90_000)] {
        let new = NewEntry { expires_at_ms: it.now_ms + lives_ms, ..entry(id, it.now_ms) };
        at.push(stored(it.append(&key, new, WIDE).await).0);
    }
    let session = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    it.now_ms += 3_000;
    let batch = it.fetch(&key, &session, Position::START).await;
    let told: Vec<_> =
        batch.items.iter().map(|one| (one.position, one.prev, one.lost, one.reason)).collect();
    assert_eq!(
        told,
        [(at[1], Position::START, 1, LostReason::Expired), (at[4], at[1], 2, LostReason::Expired),]
    );
    assert_eq!((batch.floor, batch.tail), (at[0], at[4]));
    let swept = it.sweep(&key, &session, vec![]).await.expect("the owner");
    assert_eq!((swept[0].count, swept[0].floor), (2, at[0]));
}

pub(super) async fn an_inbox_whose_end_is_gone_says_so(it: &mut Desk<'_>) {
    let key = it.device("a");
    let first = it.push(&key, "a").await;
    let short = NewEntry { expires_at_ms: it.now_ms + 1_000, ..entry("b", it.now_ms) };
    let (second, _) = stored(it.append(&key, short, WIDE).await);
    it.now_ms += 1_000;
    let session = it.claim(&key, login(1, 1, 1), vec![(CHAT, first)]).await;
    assert_eq!((session.inboxes[0].count, session.inboxes[0].tail), (0, second));
    let batch = it.fetch(&key, &session.session, first).await;
    let [only] = batch.items.as_slice() else { panic!("one: {batch:?}") };
    assert_eq!((only.position, only.prev, &only.entry), (second, first, &None));
    assert_eq!((only.lost, only.reason), (1, LostReason::Expired));
    assert_eq!(batch.floor, second);
}

pub(super) async fn a_purge_empties_and_the_device_is_told(it: &mut Desk<'_>) {
    let key = it.device("a");
    let at = it.push_all(&key, &["a", "b"]).await;
    stored(it.append_to(&key, SHOP, entry("s", it.now_ms), WIDE).await);
    assert_eq!(it.store.purge(&key, CHAT).await.expect("a store"), 2);
    assert_eq!(it.store.purge(&key, CHAT).await.expect("a store"), 0);
    assert_eq!(it.store.purge(&it.device("none"), CHAT).await.expect("a store"), 0);
    let session = it.claim(&key, login(1, 1, 1), vec![(CHAT, at[0])]).await.session;
    let batch = it.fetch(&key, &session, at[0]).await;
    let [only] = batch.items.as_slice() else { panic!("one: {batch:?}") };
    assert_eq!((only.position, only.lost, only.reason), (at[1], 1, LostReason::Purged));
    assert_eq!(it.push(&key, "c").await, Position::new(at[1].term, 3));
    let shop = it.store.describe(&key, SHOP).await.expect("a store");
    assert_eq!(shop.entries, 1);
}

pub(super) async fn a_sweep_tells_of_what_waits(it: &mut Desk<'_>) {
    let key = it.device("a");
    let session = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    assert_eq!(it.sweep(&key, &session, vec![]).await, Ok(vec![]));
    let at = it.push_all(&key, &["a", "b"]).await;
    for priority in [Priority::High, Priority::Low] {
        let id = format!("{priority:?}");
        let new = NewEntry { priority, ..entry(&id, it.now_ms) };
        stored(it.append_to(&key, SHOP, new, WIDE).await);
    }
    let told = it.sweep(&key, &session, vec![]).await.expect("the owner");
    let told: Vec<_> = told.iter().map(|one| (one.business, one.count, one.priority)).collect();
    assert_eq!(told, [(CHAT, 2, Priority::Normal), (SHOP, 2, Priority::High)]);
    let told = it.sweep(&key, &session, vec![(CHAT, at[1])]).await.expect("the owner");
    assert_eq!(told.iter().map(|one| one.business).collect::<Vec<_>>(), [SHOP]);
}

pub(super) async fn a_sweep_acknowledges(it: &mut Desk<'_>) {
    let key = it.device("a");
    let at = it.push_all(&key, &["a", "b"]).await;
    let session = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    let told = it.sweep(&key, &session, vec![(CHAT, at[0])]).await.expect("the owner");
    assert_eq!((told[0].count, told[0].floor, told[0].tail), (1, at[0], at[1]));
    assert_eq!(it.describe(&key).await.entries, 1);
}

pub(super) async fn describe_counts(it: &mut Desk<'_>) {
    let key = it.device("a");
    assert_eq!(it.describe(&key).await, Described::default());
    let first = it.push(&key, "a").await;
    it.now_ms += 10;
    let second = it.push(&key, "b").await;
    let described = it.describe(&key).await;
    assert_eq!((described.entries, described.bytes), (2, 2 * (64 + 9)));
    assert_eq!((described.tail, described.floor), (second, Position::START));
    assert_eq!(described.oldest_ms, it.now_ms - 10);
    let session = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    it.ack(&key, &session, first).await.expect("the owner");
    let described = it.describe(&key).await;
    assert_eq!((described.oldest_ms, described.floor), (it.now_ms, first));
}

pub(super) async fn inboxes_of_devices_and_businesses_are_apart(it: &mut Desk<'_>) {
    // Names that meet when they are joined without care.
    let (one, other) = (it.device("a"), it.device("aa"));
    let group = it.group("a");
    it.store
        .change_groups(vec![crate::store::GroupChange::Put(group, Desk::history_group(1), None)])
        .await
        .expect("a store");
    stored(it.publish(&group, entry("g", it.now_ms), WIDE).await);
    let at = it.push(&one, "x").await;
    it.push(&other, "y").await;
    let session = it.claim(&one, login(1, 1, 1), vec![(CHAT, at)]).await.session;
    assert_eq!(it.sweep(&one, &session, vec![]).await, Ok(vec![]));
    assert_eq!(it.sweep(&other, &session, vec![]).await, Err(crate::inbox::Fenced::Forgotten));
    assert_eq!(it.describe(&other).await.entries, 1);
    assert_eq!(bodies(&it.history(&group, Position::START).await), ["g"]);
    it.store.purge(&group, CHAT).await.expect("a store");
    assert_eq!(bodies(&it.history(&group, Position::START).await), ["g"]);
}
