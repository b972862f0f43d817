//! What several routers share, where it goes wrong, and as the release before left it.

use super::house::{CAPS, Process, device, entry, now_ms, open, open_patiently, read, until};
use crate::inbox::{Appended, Limits, Login, Owner, Session};
use crate::key::Key;
use crate::store::redis::Redis;
use crate::store::redis::keys::{Lone, Tag};
use crate::store::redis::sessions;
use crate::store::{
    GroupChange, GroupChanged, GroupMeta, GroupNews, HistoryCaps, LogMark, Store, StoreError,
    WalkMark,
};
use hawser_proto::id::{AppId, BootId, NodeId, Position, SlotRef};
use std::collections::HashSet;

fn group(id: &str) -> Key {
    Key::group(&AppId::new("demo").unwrap(), id).unwrap()
}

fn meta(owner: u32) -> GroupMeta {
    let history = Some(HistoryCaps { entries_max: 10, age_ms_max: u64::from(u32::MAX) });
    GroupMeta { owner, created_ms: now_ms() - 1_000, history }
}

async fn put(store: &Redis, id: &str, meta: &GroupMeta) {
    let put = GroupChange::Put(group(id), meta.clone(), None);
    assert_eq!(store.change_groups(vec![put]).await.unwrap(), [GroupChanged::Made]);
}

async fn known(store: &Redis, id: &str) -> GroupMeta {
    store.group(&group(id)).await.unwrap().unwrap_or_else(|| meta(7))
}

async fn publish(store: &Redis, id: &str, push: &str) -> bool {
    let of = known(store, id).await;
    let done = store.publish(&group(id), &of, entry(push), CAPS, None, now_ms()).await.unwrap();
    matches!(done.0, Appended::Stored { .. })
}

async fn in_history(store: &Redis, id: &str) -> usize {
    let limits = Limits { entries_max: 100, bytes_max: u32::MAX };
    let of = known(store, id).await;
    let batch = store.history(&group(id), &of, Position::START, limits, now_ms()).await.unwrap();
    batch.items.iter().filter(|item| item.entry.is_some()).count()
}

/// Asks past the store.
async fn ask(store: &Redis, words: &[&[u8]]) -> redis::Value {
    let mut command = redis::cmd(std::str::from_utf8(words[0]).unwrap());
    for word in &words[1..] {
        command.arg(*word);
    }
    store.caller.command(&command, 0).await.unwrap()
}

fn login(node: &str, boot: u64, slot: u32) -> Login {
    let (node, at) = (NodeId::new(node).unwrap(), SlotRef { slot, generation: 7 });
    let owner = Owner { node, boot: BootId(boot), at };
    Login { owner, instance: [1; 16], attempt: 1, watchers: Vec::new() }
}

/// As it listed groups: what is known of one stood in the list of its owner, and nowhere else.
async fn list_as_before(store: &Redis, id: &str, meta: &GroupMeta) {
    let mut known = vec![1];
    known.extend(meta.created_ms.to_be_bytes());
    if let Some(caps) = meta.history {
        known.extend(caps.entries_max.to_be_bytes());
        known.extend(caps.age_ms_max.to_be_bytes());
    }
    let list = Tag::owner("demo", meta.owner);
    let owner = format!("demo:{}", meta.owner);
    ask(store, &[b"SADD", b"l:owners", owner.as_bytes()]).await;
    ask(store, &[b"ZADD", &list.group_ids(), b"0", id.as_bytes()]).await;
    ask(store, &[b"HSET", &list.group_metas(), id.as_bytes(), &known]).await;
    ask(store, &[b"DEL", &Tag::group(&group(id)).group_itself()]).await;
}

#[tokio::test]
async fn groups_of_the_release_before_are_moved_with_their_histories() {
    let Some(process) = Process::start(&[]).await else { return };
    let (one, two) = (open(&process.single()).await, open(&process.single()).await);
    let (with, without) = (meta(7), GroupMeta { history: None, ..meta(8) });
    put(&one, "with", &with).await;
    assert!(publish(&one, "with", "a").await);
    list_as_before(&one, "with", &with).await;
    list_as_before(&one, "without", &without).await;
    // Two routers start at once.
    let (mut all, again) = tokio::join!(one.groups(), two.groups());
    let key = |id: &str| -> Box<[u8]> { group(id).as_bytes().into() };
    let wanted = [(key("with"), with.clone()), (key("without"), without.clone())];
    for all in [&mut all, &mut { again }] {
        let all = all.as_mut().unwrap();
        all.sort_by_key(|(_, meta)| meta.owner);
        assert_eq!(*all, wanted);
    }
    assert_eq!(two.group(&group("with")).await.unwrap(), Some(with.clone()));
    assert_eq!(in_history(&one, "with").await, 1);
    assert!(publish(&two, "with", "b").await);
    // Deleted by one, it is not moved anew by another.
    let delete = GroupChange::Delete(group("with"), with);
    assert_eq!(two.change_groups(vec![delete]).await.unwrap(), [GroupChanged::Made]);
    assert_eq!(one.groups().await.unwrap(), [(key("without"), without.clone())]);
    assert_eq!(one.groups_of("demo", 7, "", 9).await.unwrap(), [""; 0]);
    assert_eq!(one.groups_of("demo", 8, "", 9).await.unwrap(), ["without"]);
    let replace = GroupChange::Put(group("without"), meta(7), Some(without));
    assert_eq!(two.change_groups(vec![replace]).await.unwrap(), [GroupChanged::Made]);
    assert_eq!(one.groups_of("demo", 8, "", 9).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_list_that_names_too_much_names_no_group() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open(&process.single()).await;
    let known = meta(7);
    put(&store, "a", &known).await;
    put(&store, "b", &known).await;
    put(&store, "c", &known).await;
    // A router died between the two steps of making one, or of deleting one.
    ask(&store, &[b"DEL", &Tag::group(&group("b")).group_itself()]).await;
    assert_eq!(store.groups_of("demo", 7, "", 2).await.unwrap(), ["a", "c"]);
    assert_eq!(store.groups_of("demo", 7, "a", 1).await.unwrap(), ["c"]);
    let mut ids: Vec<_> = store.groups().await.unwrap().into_iter().map(|(key, _)| key).collect();
    ids.sort();
    assert_eq!(ids, ["a", "c"].map(|id| group(id).as_bytes().into()));
    // Another business's group of that name is its own.
    put(&store, "b", &meta(8)).await;
    assert_eq!(store.groups_of("demo", 7, "", 9).await.unwrap(), ["a", "c"]);
    assert_eq!(store.groups_of("demo", 8, "", 9).await.unwrap(), ["b"]);
}

#[tokio::test]
async fn a_log_that_lost_something_says_so() {
    let Some(process) = Process::start(&[]).await else { return };
    let (one, two) = (open(&process.single()).await, open(&process.single()).await);
    let reload = async |store: &Redis, mark: &LogMark| match store.group_news(mark).await.unwrap() {
        GroupNews::Reload(mark) => mark,
        news @ GroupNews::Changed(..) => panic!("{news:?}"),
    };
    let changed = async |store: &Redis, mark: &LogMark| match store.group_news(mark).await.unwrap()
    {
        GroupNews::Changed(groups, mark) => (groups.len(), mark),
        news @ GroupNews::Reload(_) => panic!("{news:?}"),
    };
    let begin = reload(&one, &LogMark::default()).await;
    assert_eq!(reload(&two, &LogMark::default()).await, begin);
    put(&one, "a", &meta(7)).await;
    let (count, mark) = changed(&two, &begin).await;
    assert_eq!(count, 1);
    // A place that the log still has survives that others leave.
    put(&one, "b", &meta(7)).await;
    ask(&one, &[b"XTRIM", &Lone::group_log().name, b"MAXLEN", b"2"]).await;
    assert_eq!(changed(&two, &mark).await.0, 1);
    let after = reload(&two, &begin).await;
    assert_eq!(changed(&two, &after).await, (0, after.clone()));
    // All is gone, and nobody said so.
    process.ask(&["FLUSHALL"]).await;
    let anew = reload(&two, &after).await;
    assert_eq!(reload(&one, &after).await, anew);
    put(&one, "c", &meta(7)).await;
    assert_eq!(changed(&two, &anew).await.0, 1);
    assert_eq!(changed(&two, &anew).await.0, 1);
    // Of another engine.
    reload(&two, &LogMark::from("alone")).await;
}

#[tokio::test]
async fn the_log_is_bounded() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open_patiently(&process.single()).await;
    let known = GroupMeta { history: None, ..meta(7) };
    for round in 0..24 {
        let put = |n| GroupChange::Put(group(&format!("{round}-{n}")), known.clone(), None);
        store.change_groups((0..500).map(put).collect()).await.unwrap();
    }
    let redis::Value::Int(kept) = ask(&store, &[b"XLEN", &Lone::group_log().name]).await else {
        panic!("a number")
    };
    assert!((10_000..10_200).contains(&kept), "{kept} of 12000");
    assert_eq!(store.groups().await.unwrap().len(), 12_000);
}

#[tokio::test]
async fn a_session_is_registered_ahead_of_its_claim_in_one_go() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open(&process.single()).await;
    let device = device("a");
    store.claim(&device, login("node", 1, 1), vec![], now_ms()).await.unwrap();
    process.ask(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]).await;
    process.ask(&["CONFIG", "SET", "slowlog-max-len", "1000"]).await;
    process.ask(&["SLOWLOG", "RESET"]).await;
    let next = Login { attempt: 2, ..login("node", 1, 2) };
    store.claim(&device, next, vec![], now_ms()).await.unwrap();
    let log = process.ask(&["SLOWLOG", "GET", "1000"]).await;
    let scripts = &crate::store::redis::script::SCRIPTS;
    // The newest first.
    let at = |sha: &str| log.find(sha).unwrap_or_else(|| panic!("{sha} is not in {log}"));
    assert!(at(&scripts.claim.sha) < at(&scripts.register.sha), "{log}");
    assert_eq!(log.matches(&scripts.claim.sha).count(), 1);
}

#[tokio::test]
async fn a_registration_that_was_lost_is_made_again_by_use() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open(&process.single()).await;
    let (device, login) = (device("a"), login("node", 1, 1));
    let owner = login.owner.clone();
    let began = now_ms();
    let claimed = store.claim(&device, login, vec![], began).await.unwrap();
    let crate::inbox::Claimed::Bound { epoch, .. } = claimed else { panic!("{claimed:?}") };
    let session = Session { owner: owner.clone(), epoch };
    let registered = async || store.sessions_of(&owner.node, owner.boot, 9).await.unwrap().len();
    assert_eq!(registered().await, 1);
    for key in process.ask(&["KEYS", "s:*"]).await.lines() {
        process.ask(&["DEL", key]).await;
    }
    assert_eq!(registered().await, 0);
    let hour = 3_600_000;
    store.sweep(&device, &session, vec![], began + hour - 1).await.unwrap().unwrap();
    assert_eq!(registered().await, 0, "no oftener than its use is noted");
    store.sweep(&device, &session, vec![], began + hour).await.unwrap().unwrap();
    until("it is registered again", async || registered().await == 1).await;
}

#[tokio::test]
async fn a_registration_made_again_outlives_the_end_of_the_one_before() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open(&process.single()).await;
    let (device, login) = (device("a"), login("node", 1, 1));
    let Owner { node, boot, .. } = login.owner.clone();
    store.claim(&device, login.clone(), vec![], now_ms()).await.unwrap();
    let seen = sessions::seen(&store.caller, &device, &node, boot).await.unwrap().unwrap();
    // By the same connection, which had been given up.
    let again = store.announce(&device, now_ms(), login, vec![], true, now_ms()).await;
    assert!(matches!(again, Ok(crate::inbox::Announced::Bound { .. })), "{again:?}");
    sessions::forget(&store.caller, &device, (&node, boot), seen).await.unwrap();
    assert_eq!(store.sessions_of(&node, boot, 9).await.unwrap().len(), 1);
    let seen = sessions::seen(&store.caller, &device, &node, boot).await.unwrap().unwrap();
    sessions::forget(&store.caller, &device, (&node, boot), seen).await.unwrap();
    assert_eq!(store.sessions_of(&node, boot, 9).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_walk_goes_through_parts_that_are_read_in_steps() {
    let Some(process) = Process::start(&["--hash-max-listpack-entries", "4"]).await else { return };
    let store = open(&process.single()).await;
    let Owner { node, boot, .. } = login("node", 1, 1).owner;
    for n in 0..1_000 {
        let device = device(&format!("device-{n}"));
        store.claim(&device, login("node", 1, n), vec![], now_ms()).await.unwrap();
    }
    let (mut met, mut mark, mut steps) = (HashSet::new(), WalkMark::default(), 0);
    loop {
        let (some, next) = store.walk_sessions(&node, boot, &mark, 3).await.unwrap();
        met.extend(some.into_iter().map(|it| it.device));
        steps += 1;
        let Some(next) = next else { break };
        mark = next;
    }
    assert_eq!(met.len(), 1_000);
    assert!(steps > 100, "{steps}");
}

#[tokio::test]
async fn while_memory_is_used_up_devices_come_and_go_and_nodes_live() {
    let Some(process) = Process::start(&[]).await else { return };
    let store = open(&process.single()).await;
    let device = device("a");
    let known = meta(7);
    put(&store, "old", &known).await;
    process.ask(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let put = GroupChange::Put(group("new"), meta(7), None);
    let refused = store.change_groups(vec![put]).await.unwrap();
    assert_eq!(refused, [GroupChanged::Failed(StoreError::ReadOnly)]);
    let node = NodeId::new("node").unwrap();
    assert_eq!(store.renew_node(&node, BootId(1), 10_000).await.unwrap(), Ok(()));
    assert!(store.hold_duty("a", 1, 10_000).await.unwrap());
    assert_eq!(read(&store, &device).await.len(), 0);
    assert_eq!(store.sessions_of(&node, BootId(1), 9).await.unwrap().len(), 1);
    assert!(store.end_lost(&device, &node, BootId(1), now_ms()).await.unwrap());
    assert_eq!(store.sessions_of(&node, BootId(1), 9).await.unwrap().len(), 0);
    let delete = GroupChange::Delete(group("old"), known);
    assert_eq!(store.change_groups(vec![delete]).await.unwrap(), [GroupChanged::Made]);
}
