//! Groups that several routers decide on.

use super::desk::{ALL, Desk, HOUR_MS, WIDE, bodies, entry, stored};
use crate::inbox::Appended;
use crate::key::Key;
use crate::store::{
    GroupChange, GroupChanged, GroupMeta, GroupNews, HistoryCaps, KeyBytes, LogMark, Store,
};
use hawser_proto::id::Position;

async fn change(store: &dyn Store, change: GroupChange) -> GroupChanged {
    let made = store.change_groups(vec![change]).await.expect("a store");
    let [made] = <[_; 1]>::try_from(made).expect("an answer for each");
    made
}

async fn known(store: &dyn Store, key: &Key) -> Option<GroupMeta> {
    store.group(key).await.expect("a store")
}

fn later(meta: &GroupMeta) -> GroupMeta {
    GroupMeta { created_ms: meta.created_ms + HOUR_MS, ..meta.clone() }
}

pub(super) async fn a_group_is_made_only_where_there_is_none(it: &mut Desk<'_>) {
    let (store, key) = (it.store.clone(), it.group("g"));
    let meta = Desk::history_group(1);
    assert_eq!(known(&*store, &key).await, None);
    assert_eq!(
        change(&*store, GroupChange::Put(key, meta.clone(), None)).await,
        GroupChanged::Made
    );
    assert_eq!(known(&*store, &key).await, Some(meta.clone()));
    stored(it.publish(&key, entry("a", it.now_ms), WIDE).await);
    for other in [Desk::live_group(1), Desk::history_group(2), later(&meta)] {
        let put = change(&*store, GroupChange::Put(key, other, None)).await;
        assert_eq!(put, GroupChanged::Differs(Some(meta.clone())));
    }
    // The very same: as it is.
    assert_eq!(
        change(&*store, GroupChange::Put(key, meta.clone(), None)).await,
        GroupChanged::Made
    );
    assert_eq!(known(&*store, &key).await, Some(meta));
    assert_eq!(bodies(&it.history(&key, Position::START).await), ["a"]);
    let app = it.app();
    let of = async |owner| store.groups_of(app.as_str(), owner, "", 9).await.expect("a store");
    assert_eq!((of(1).await, of(2).await), (vec!["g".to_owned()], vec![]));
}

pub(super) async fn a_group_is_replaced_only_as_it_is_known(it: &mut Desk<'_>) {
    let (store, key) = (it.store.clone(), it.group("g"));
    let (old, new) = (Desk::history_group(1), later(&Desk::history_group(2)));
    let replace = async |believed: &GroupMeta| {
        change(&*store, GroupChange::Put(key, new.clone(), Some(believed.clone()))).await
    };
    assert_eq!(replace(&old).await, GroupChanged::Differs(None));
    assert_eq!(known(&*store, &key).await, None);
    change(&*store, GroupChange::Put(key, old.clone(), None)).await;
    stored(it.publish(&key, entry("a", it.now_ms), WIDE).await);
    assert_eq!(replace(&later(&old)).await, GroupChanged::Differs(Some(old.clone())));
    assert_eq!(bodies(&it.history(&key, Position::START).await), ["a"]);
    assert_eq!(replace(&old).await, GroupChanged::Made);
    // Asked again, as by a caller that did not hear.
    assert_eq!(replace(&old).await, GroupChanged::Made);
    assert_eq!(known(&*store, &key).await, Some(new.clone()));
    assert_eq!(bodies(&it.history(&key, Position::START).await), [""; 0], "one of its own");
    let (first, _) = stored(it.publish(&key, entry("a", it.now_ms), WIDE).await);
    assert!(first.term > new.created_ms, "{first}");
    let app = it.app();
    let of = async |owner| store.groups_of(app.as_str(), owner, "", 9).await.expect("a store");
    assert_eq!((of(1).await, of(2).await), (vec![], vec!["g".to_owned()]));
}

pub(super) async fn a_group_that_goes_on_keeps_its_history(it: &mut Desk<'_>) {
    let (store, key) = (it.store.clone(), it.group("g"));
    let old = Desk::history_group(1);
    let wider = Some(HistoryCaps { entries_max: 99, age_ms_max: 2 * HOUR_MS });
    let wider = GroupMeta { history: wider, ..old.clone() };
    change(&*store, GroupChange::Put(key, old.clone(), None)).await;
    stored(it.publish(&key, entry("a", it.now_ms), WIDE).await);
    let put = GroupChange::Put(key, wider.clone(), Some(old));
    assert_eq!(change(&*store, put).await, GroupChanged::Made);
    assert_eq!(known(&*store, &key).await, Some(wider));
    assert_eq!(bodies(&it.history(&key, Position::START).await), ["a"]);
}

pub(super) async fn a_group_is_deleted_only_as_it_is_known(it: &mut Desk<'_>) {
    let (store, key) = (it.store.clone(), it.group("g"));
    let meta = Desk::history_group(1);
    let delete =
        async |believed: GroupMeta| change(&*store, GroupChange::Delete(key, believed)).await;
    assert_eq!(delete(meta.clone()).await, GroupChanged::Made, "there is none");
    change(&*store, GroupChange::Put(key, meta.clone(), None)).await;
    stored(it.publish(&key, entry("a", it.now_ms), WIDE).await);
    for wrong in [Desk::live_group(1), Desk::history_group(2), later(&meta)] {
        assert_eq!(delete(wrong).await, GroupChanged::Differs(Some(meta.clone())));
    }
    assert_eq!(bodies(&it.history(&key, Position::START).await), ["a"]);
    assert_eq!(delete(meta.clone()).await, GroupChanged::Made);
    assert_eq!(delete(meta).await, GroupChanged::Made);
    assert_eq!(known(&*store, &key).await, None);
    assert_eq!(it.publish(&key, entry("b", it.now_ms), WIDE).await, Appended::NoHistory);
}

pub(super) async fn a_history_is_that_of_the_very_group_alone(it: &mut Desk<'_>) {
    let (store, key) = (it.store.clone(), it.group("g"));
    let (theirs, other) = (Desk::history_group(1), later(&Desk::history_group(2)));
    change(&*store, GroupChange::Put(key, theirs.clone(), None)).await;
    stored(it.publish(&key, entry("a", it.now_ms), WIDE).await);
    change(&*store, GroupChange::Delete(key, theirs.clone())).await;
    change(&*store, GroupChange::Put(key, other.clone(), None)).await;
    // A router that has not heard of it.
    for of in [theirs, later(&Desk::history_group(1)), Desk::history_group(2)] {
        let late = it.store.publish(&key, &of, entry("b", it.now_ms), WIDE, None, it.now_ms).await;
        assert_eq!(late.expect("a store").0, Appended::NoHistory);
        let read = it.store.history(&key, &of, Position::START, ALL, it.now_ms).await;
        let read = read.expect("a store");
        assert_eq!((read.tail, read.items.len()), (Position::START, 0));
    }
    stored(it.publish(&key, entry("c", it.now_ms), WIDE).await);
    assert_eq!(bodies(&it.history(&key, Position::START).await), ["c"]);
}

pub(super) async fn a_group_that_was_deleted_is_not_kept(it: &mut Desk<'_>) {
    let (here, there) = (it.store.clone(), it.other().await);
    let (key, lost) = (it.group("g"), it.group("lost"));
    let (first, second) = (Desk::history_group(1), later(&Desk::live_group(2)));
    let keep = async |meta: &GroupMeta| change(&*there, GroupChange::Keep(key, meta.clone())).await;
    // As where a store lost it.
    let made = change(&*there, GroupChange::Keep(lost, first.clone())).await;
    assert_eq!((made, known(&*here, &lost).await), (GroupChanged::Made, Some(first.clone())));
    assert_eq!(
        change(&*there, GroupChange::Keep(lost, second.clone())).await,
        GroupChanged::Differs(Some(first.clone()))
    );
    change(&*here, GroupChange::Put(key, first.clone(), None)).await;
    assert_eq!(keep(&first).await, GroupChanged::Made);
    let replace = GroupChange::Put(key, second.clone(), Some(first.clone()));
    assert_eq!(change(&*here, replace).await, GroupChanged::Made);
    assert_eq!(keep(&first).await, GroupChanged::Differs(Some(second.clone())));
    change(&*here, GroupChange::Delete(key, second.clone())).await;
    if !it.is_shared() {
        return;
    }
    for gone in [&first, &second] {
        assert_eq!(keep(gone).await, GroupChanged::Differs(None));
        assert_eq!(known(&*here, &key).await, None);
    }
    // Made anew, even as it was, it is a group as any other.
    let again = GroupChange::Put(key, second.clone(), None);
    assert_eq!(change(&*here, again).await, GroupChanged::Made);
    assert_eq!(keep(&second).await, GroupChanged::Made);
    assert_eq!(keep(&first).await, GroupChanged::Differs(Some(second)));
}

pub(super) async fn changes_made_together_are_answered_each(it: &mut Desk<'_>) {
    let (one, two, three) = (it.group("one"), it.group("two"), it.group("three"));
    let (live, history) = (Desk::live_group(1), Desk::history_group(1));
    let made = |changes| async { it.store.change_groups(changes).await.expect("a store") };
    let first = made(vec![
        GroupChange::Put(one, live.clone(), None),
        GroupChange::Delete(two, live.clone()),
        GroupChange::Put(one, history.clone(), None),
        GroupChange::Put(three, live.clone(), Some(history.clone())),
    ])
    .await;
    let differs = GroupChanged::Differs;
    let one_is = differs(Some(live.clone()));
    assert_eq!(first, [GroupChanged::Made, GroupChanged::Made, one_is, differs(None)]);
    // Those of one group in their order.
    let second = made(vec![
        GroupChange::Delete(one, live.clone()),
        GroupChange::Put(two, live.clone(), None),
        GroupChange::Put(one, history.clone(), None),
        GroupChange::Delete(one, live.clone()),
    ])
    .await;
    let one_is = differs(Some(history.clone()));
    assert_eq!(second, [GroupChanged::Made, GroupChanged::Made, GroupChanged::Made, one_is]);
    assert_eq!(known(&*it.store, &one).await, Some(history));
    assert_eq!(known(&*it.store, &two).await, Some(live));
    assert_eq!(known(&*it.store, &three).await, None);
    assert_eq!(made(vec![]).await, []);
}

pub(super) async fn of_two_routers_that_decide_at_once_one_wins(it: &mut Desk<'_>) {
    let (here, there) = (it.store.clone(), it.other().await);
    let app = it.app();
    for round in 0..25 {
        let key = it.group(&format!("g{round:02}"));
        let metas = [Desk::history_group(1), Desk::live_group(2)];
        let put = |at: usize, before: &Option<GroupMeta>| {
            GroupChange::Put(key, later(&metas[at]), before.clone())
        };
        // Half of the groups are replaced, and half of those by one while the other deletes.
        let before = (round % 2 == 1).then(|| Desk::history_group(1));
        if let Some(before) = &before {
            change(&*here, GroupChange::Put(key, before.clone(), None)).await;
        }
        let deletes = round % 4 == 3;
        let second = match &before {
            Some(before) if deletes => GroupChange::Delete(key, before.clone()),
            _ => put(1, &before),
        };
        let made = tokio::join!(change(&*here, put(0, &before)), change(&*there, second));
        let (first, second) = (Some(later(&metas[0])), (!deletes).then(|| later(&metas[1])));
        let winner = known(&*there, &key).await;
        match made {
            (GroupChanged::Made, GroupChanged::Differs(known)) => {
                assert_eq!((&known, &winner), (&first, &first));
            }
            (GroupChanged::Differs(known), GroupChanged::Made) => {
                assert_eq!((&known, &winner), (&second, &second));
            }
            other => panic!("round {round}: {other:?}"),
        }
        let id = format!("g{round:02}");
        for owner in 1..3 {
            let theirs = here.groups_of(app.as_str(), owner, "", 99).await.expect("a store");
            let is_theirs = winner.as_ref().is_some_and(|winner| winner.owner == owner);
            assert_eq!(theirs.contains(&id), is_theirs, "round {round}, owner {owner}: {theirs:?}");
        }
        let wants = winner.is_some_and(|winner| winner.history.is_some());
        let published = it.publish(&key, entry("a", it.now_ms), WIDE).await;
        assert_eq!(published != Appended::NoHistory, wants, "round {round}: {published:?}");
    }
    let all = there.groups().await.expect("a store");
    for (key, meta) in
        all.iter().filter(|(key, _)| crate::key::split(key).unwrap().0 == app.as_str())
    {
        let key = Key::group(&app, crate::key::split(key).unwrap().1).unwrap();
        assert_eq!(known(&*here, &key).await.as_ref(), Some(meta));
    }
}

pub(super) async fn a_group_made_while_it_is_deleted_is_listed(it: &mut Desk<'_>) {
    let (here, there) = (it.store.clone(), it.other().await);
    let app = it.app();
    for round in 0..40 {
        let id = format!("g{round:02}");
        let key = it.group(&id);
        let (old, new) = (Desk::live_group(1), later(&Desk::live_group(1)));
        change(&*here, GroupChange::Put(key, old.clone(), None)).await;
        let delete = async {
            // So that the two meet at each of their steps.
            for _ in 0..round % 4 {
                known(&*there, &key).await;
            }
            change(&*there, GroupChange::Delete(key, old.clone())).await
        };
        let put = change(&*here, GroupChange::Put(key, new.clone(), None));
        let (deleted, put) = tokio::join!(delete, put);
        assert_eq!(deleted, GroupChanged::Made);
        let is_made = put == GroupChanged::Made;
        assert!(is_made || put == GroupChanged::Differs(Some(old)), "{put:?}");
        assert_eq!(known(&*there, &key).await, is_made.then_some(new));
        let theirs = here.groups_of(app.as_str(), 1, "", 99).await.expect("a store");
        assert_eq!(theirs.contains(&id), is_made, "round {round}: {theirs:?}");
    }
}

pub(super) async fn what_one_router_changes_the_others_hear(it: &mut Desk<'_>) {
    let (here, there) = (it.store.clone(), it.other().await);
    let begin = there.group_news(&LogMark::default()).await.expect("a store");
    let GroupNews::Reload(begin) = begin else { panic!("a router begins with all: {begin:?}") };
    let (one, two) = (it.group("one"), it.group("two"));
    let meta = Desk::history_group(1);
    let next = async |mark: &LogMark| -> Vec<KeyBytes> {
        match there.group_news(mark).await.expect("a store") {
            GroupNews::Changed(groups, _) => groups,
            news @ GroupNews::Reload(_) => panic!("{news:?}"),
        }
    };
    assert_eq!(next(&begin).await, Vec::<KeyBytes>::new());
    if !it.is_shared() {
        return;
    }
    let keys =
        |keys: &[&Key]| -> Vec<KeyBytes> { keys.iter().map(|key| key.as_bytes().into()).collect() };
    change(&*here, GroupChange::Put(one, meta.clone(), None)).await;
    change(&*here, GroupChange::Put(two, meta.clone(), None)).await;
    assert_eq!(next(&begin).await, keys(&[&one, &two]));
    assert_eq!(next(&begin).await, keys(&[&one, &two]), "asked for again");
    let told = there.group_news(&begin).await.expect("a store");
    let GroupNews::Changed(_, mark) = told else { panic!("{told:?}") };
    // What changes nothing is no news; a deletion that may not have been told is.
    change(&*here, GroupChange::Put(one, meta.clone(), None)).await;
    change(&*here, GroupChange::Put(one, Desk::live_group(2), None)).await;
    change(&*here, GroupChange::Delete(two, Desk::live_group(2))).await;
    assert_eq!(next(&mark).await, Vec::<KeyBytes>::new());
    change(&*here, GroupChange::Delete(two, meta.clone())).await;
    change(&*there, GroupChange::Put(one, later(&meta), Some(meta.clone()))).await;
    assert_eq!(next(&mark).await, keys(&[&two, &one]));
    // A place that the log does not have.
    let lost = there.group_news(&LogMark::from("1-1")).await.expect("a store");
    assert!(matches!(lost, GroupNews::Reload(_)), "{lost:?}");
}
