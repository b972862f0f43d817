//! Groups and their histories.

use super::desk::{BEGIN_MS, DAY_MS, Desk, HOUR_MS, WIDE, bodies, capped, entry, stored};
use crate::inbox::{Appended, Limits, LostReason, NewEntry};
use crate::key::Key;
use crate::store::{GroupChange, GroupChanged, GroupMeta};
use hawser_proto::id::{AppId, Position};

async fn change(it: &Desk<'_>, changes: Vec<GroupChange>) {
    let wanted = vec![GroupChanged::Made; changes.len()];
    assert_eq!(it.store.change_groups(changes).await.expect("a store"), wanted);
}

/// Makes a group, whatever is there.
async fn put(it: &Desk<'_>, id: &str, meta: GroupMeta) -> Key {
    let key = it.group(id);
    let known = it.store.group(&key).await.expect("a store");
    change(it, vec![GroupChange::Put(key, meta, known)]).await;
    key
}

pub(super) async fn groups_are_listed_by_owner_in_order_and_by_page(it: &mut Desk<'_>) {
    let app = it.app();
    let longer = AppId::new(&format!("{app}x")).expect("a name");
    let mut all: Vec<GroupChange> = ["b", "a", "c", "ab"]
        .map(|id| GroupChange::Put(it.group(id), Desk::live_group(1), None))
        .into();
    all.push(GroupChange::Put(it.group("x"), Desk::live_group(2), None));
    let theirs = Key::group(&longer, "y").expect("an id");
    all.push(GroupChange::Put(theirs, Desk::live_group(1), None));
    change(it, all).await;
    let list = async |after: &str, max| {
        it.store.groups_of(app.as_str(), 1, after, max).await.expect("a store")
    };
    assert_eq!(list("", 3).await, ["a", "ab", "b"]);
    assert_eq!(list("b", 3).await, ["c"]);
    assert_eq!(list("aa", 1).await, ["ab"]);
    assert_eq!(list("c", 3).await, [""; 0]);
    change(it, vec![GroupChange::Delete(it.group("ab"), Desk::live_group(1))]).await;
    assert_eq!(list("a", 3).await, ["b", "c"]);
    change(it, vec![GroupChange::Delete(theirs, Desk::live_group(1))]).await;
}

pub(super) async fn all_groups_are_there_after_a_restart(it: &mut Desk<'_>) {
    let live = put(it, "live", Desk::live_group(7)).await;
    let with = put(it, "with", Desk::history_group(u32::MAX)).await;
    it.restart().await;
    let all = it.store.groups().await.expect("a store");
    let of = |key: &Key| {
        let found = all.iter().find(|(bytes, _)| bytes.as_ref() == key.as_bytes());
        found.map(|(_, meta)| meta.clone())
    };
    assert_eq!(of(&live), Some(Desk::live_group(7)));
    assert_eq!(of(&with), Some(Desk::history_group(u32::MAX)));
}

pub(super) async fn a_new_history_is_empty_and_not_at_the_start(it: &mut Desk<'_>) {
    let key = put(it, "g", Desk::history_group(1)).await;
    let begin = Position::new(BEGIN_MS, 0);
    let batch = it.history(&key, begin).await;
    assert_eq!((batch.tail, batch.floor, batch.items.len()), (begin, begin, 0));
    it.now_ms -= HOUR_MS;
    let (first, prev) = stored(it.publish(&key, entry("a", it.now_ms), WIDE).await);
    assert_eq!((first, prev), (Position::new(BEGIN_MS + 1, 1), begin));
    assert_eq!(bodies(&it.history(&key, begin).await), ["a"]);
    // Put again, it goes on.
    put(it, "g", Desk::history_group(1)).await;
    assert_eq!(bodies(&it.history(&key, begin).await), ["a"]);
}

pub(super) async fn a_history_is_kept_within_its_bounds(it: &mut Desk<'_>) {
    let key = put(it, "g", Desk::history_group(1)).await;
    let mut at = Vec::new();
    for id in ["a", "b", "c", "d"] {
        at.push(stored(it.publish(&key, entry(id, it.now_ms), capped(3, true)).await).0);
    }
    let batch = it.history(&key, Position::new(BEGIN_MS, 0)).await;
    assert_eq!(
        (bodies(&batch), batch.floor, batch.tail),
        (["b", "c", "d"].map(str::to_owned).into(), at[0], at[3])
    );
    assert_eq!((batch.items[0].lost, batch.items[0].reason), (1, LostReason::Overflow));
    let nothing = Limits { entries_max: 0, bytes_max: 0 };
    let asked = it
        .store
        .history(&key, &Desk::history_group(1), at[1], nothing, it.now_ms)
        .await
        .expect("a store");
    assert_eq!((asked.items.len(), asked.tail, asked.floor), (0, at[3], at[0]));
}

pub(super) async fn a_history_goes_on_after_a_restart(it: &mut Desk<'_>) {
    let key = put(it, "g", Desk::history_group(1)).await;
    let (first, _) = stored(it.publish(&key, entry("a", it.now_ms), WIDE).await);
    it.restart().await;
    let (second, prev) = stored(it.publish(&key, entry("b", it.now_ms), WIDE).await);
    assert!(second.term > first.term && prev == first, "{first}, {prev}, {second}");
    assert_eq!(bodies(&it.history(&key, Position::START).await), ["a", "b"]);
}

pub(super) async fn a_group_without_a_history_takes_nothing(it: &mut Desk<'_>) {
    let live = put(it, "live", Desk::live_group(1)).await;
    for key in [live, it.group("unknown")] {
        let done = it.publish(&key, entry("a", it.now_ms), WIDE).await;
        assert_eq!(done, Appended::NoHistory);
        let batch = it.history(&key, Position::START).await;
        assert_eq!((batch.items.len(), batch.tail), (0, Position::START));
    }
}

pub(super) async fn a_deleted_group_takes_its_history_along(it: &mut Desk<'_>) {
    let key = put(it, "g", Desk::history_group(1)).await;
    let (before, _) = stored(it.publish(&key, entry("a", it.now_ms), WIDE).await);
    change(it, vec![GroupChange::Delete(key, Desk::history_group(1))]).await;
    assert_eq!(it.publish(&key, entry("a", it.now_ms), WIDE).await, Appended::NoHistory);
    assert_eq!(it.history(&key, Position::START).await.tail, Position::START);
    let created_ms = BEGIN_MS + HOUR_MS;
    put(it, "g", GroupMeta { created_ms, ..Desk::history_group(1) }).await;
    let (after, _) = stored(it.publish(&key, entry("a", it.now_ms), WIDE).await);
    assert!(after > before, "the push id is free again");
    assert_eq!(bodies(&it.history(&key, Position::START).await), ["a"]);
    // One that becomes a live group loses its history, too.
    put(it, "g", Desk::live_group(1)).await;
    assert_eq!(it.history(&key, Position::START).await.items, vec![]);
}

pub(super) async fn a_history_forgets_what_is_too_old(it: &mut Desk<'_>) {
    let key = put(it, "g", Desk::history_group(1)).await;
    let aged = |id: &str, now_ms| NewEntry { expires_at_ms: now_ms + 60_000, ..entry(id, now_ms) };
    let (first, _) = stored(it.publish(&key, aged("a", it.now_ms), WIDE).await);
    it.now_ms += 30_000;
    let (second, _) = stored(it.publish(&key, aged("b", it.now_ms), WIDE).await);
    it.now_ms += 30_000;
    let batch = it.history(&key, Position::new(BEGIN_MS, 0)).await;
    assert_eq!((bodies(&batch), batch.floor), (vec!["b".to_owned()], first));
    it.now_ms += 30 * DAY_MS;
    let batch = it.history(&key, first).await;
    assert_eq!((batch.floor, batch.tail), (second, second));
    let (third, prev) = stored(it.publish(&key, aged("c", it.now_ms), WIDE).await);
    assert_eq!((third, prev), (Position::new(second.term, second.seq + 1), second));
}

pub(super) async fn a_history_knows_push_ids(it: &mut Desk<'_>) {
    let key = put(it, "g", Desk::history_group(1)).await;
    let new = entry("a", it.now_ms);
    let (position, _) = stored(it.publish(&key, new.clone(), WIDE).await);
    let again = it.publish(&key, new.clone(), WIDE).await;
    assert_eq!(again, Appended::Repeated { position });
    let other = NewEntry { digest: 1, ..new };
    assert_eq!(it.publish(&key, other, WIDE).await, Appended::Reused);
}
