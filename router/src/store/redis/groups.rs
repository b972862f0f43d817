//! Groups. Whether there is one, and how it is, stands in one key beside its history: routers that decide on
//! it at once are told apart there, and the history begins and ends in the same step.
//!
//! Beside that each business has a list of its groups. It is written before a group is made and after one
//! is deleted, so that it names every group and maybe more: what it names is looked up. Then the change is
//! told in a log that all routers read.
//!
//! The release before kept what is known of a group in the list alone. [`all`], which every router asks for
//! when it starts, moves those.

use super::answer::{group_bytes, read_first_meta, read_group};
use super::call::Caller;
use super::keys::{Lone, Tag};
use super::script::{SCRIPTS, Script};
use super::{HISTORY, number};
use crate::key::{self, Key};
use crate::store::{
    GroupChange, GroupChanged, GroupMeta, GroupNews, KeyBytes, LogMark, StoreError, TOMBSTONE_KEEP,
};
use futures_util::future::{join_all, try_join_all};
use hawser_proto::id::AppId;
use redis::Value;
use std::collections::HashMap;

/// Groups read at a time.
const PAGE: usize = 1_000;
/// Groups looked up at a time.
const LOOKED_UP_MAX: usize = 256;
/// Changes that the log keeps, about: at a thousand a second, those of the last ten seconds.
const LOG_MAX: u64 = 10_000;

/// Makes these changes, those of one group in their order. Done again, they are done once.
///
/// One group's fail alone: a primary that is away keeps no other's from being changed.
pub(super) async fn change(
    caller: &Caller,
    changes: Vec<GroupChange>,
) -> Result<Vec<GroupChanged>, StoreError> {
    let mut owners = Vec::new();
    let mut by_group: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (at, change) in changes.iter().enumerate() {
        if let GroupChange::Put(key, meta, _) | GroupChange::Keep(key, meta) = change {
            let (app, _) = split(key)?;
            owners.push((app, meta.owner));
        }
        by_group.entry(change.key().as_bytes()).or_default().push(at);
    }
    let known = know_owners(caller, owners).await;
    let is_delete = |&at: &usize| matches!(changes[at], GroupChange::Delete(..));
    let (with_deletes, put_alone): (Vec<_>, Vec<_>) =
        by_group.into_values().partition(|of_group| of_group.iter().any(is_delete));
    let mut made = vec![GroupChanged::Made; changes.len()];
    let mut news = Vec::new();
    for (groups, is_needed) in [(put_alone, false), (with_deletes, true)] {
        let chains = groups
            .iter()
            .map(|chain| make_in_order(caller, &changes, chain, known.as_ref().err(), is_needed));
        for (at, outcome, is_news) in join_all(chains).await.into_iter().flatten() {
            if is_news {
                news.push(at);
            }
            made[at] = outcome;
        }
    }
    if !news.is_empty() {
        let log = Lone::group_log();
        let groups = news.iter().map(|&at| changes[at].key().as_bytes().to_vec());
        let told: Vec<_> = std::iter::once(number(LOG_MAX)).chain(groups).collect();
        if let Err(source) = caller.call(&SCRIPTS.tell_groups, log.slot, &[log.name], &told).await {
            for at in news {
                made[at] = GroupChanged::Failed(source.clone());
            }
        }
    }
    Ok(made)
}

fn split(key: &Key) -> Result<(&str, &str), StoreError> {
    key::split(key.as_bytes()).ok_or(StoreError::Value)
}

async fn know_owners(caller: &Caller, mut owners: Vec<(&str, u32)>) -> Result<(), StoreError> {
    owners.sort_unstable();
    owners.dedup();
    if owners.is_empty() {
        return Ok(());
    }
    let key = Lone::owners();
    let mut known = redis::cmd("SADD");
    known.arg(key.name);
    for (app, owner) in owners {
        known.arg(format!("{app}:{owner}"));
    }
    caller.command(&known, key.slot).await.map(drop)
}

/// Changes of one group: which, what became of it, and whether others have to hear. After one that fails the
/// others fail, too. `unlisted`: why no business can be listed. `is_needed`: also while memory is used up, since
/// something leaves.
async fn make_in_order(
    caller: &Caller,
    changes: &[GroupChange],
    chain: &[usize],
    unlisted: Option<&StoreError>,
    is_needed: bool,
) -> Vec<(usize, GroupChanged, bool)> {
    let mut done = Vec::with_capacity(chain.len());
    let mut failed: Option<StoreError> = None;
    for &at in chain {
        let made = match (&failed, unlisted, &changes[at]) {
            (Some(source), ..) => Err(source.clone()),
            (None, Some(source), GroupChange::Put(..) | GroupChange::Keep(..)) => {
                Err(source.clone())
            }
            (None, _, GroupChange::Put(key, meta, replaced)) => {
                put(caller, key, meta, replaced.as_ref(), Only::None, is_needed).await
            }
            (None, _, GroupChange::Keep(key, meta)) => {
                put(caller, key, meta, None, Only::UnlessDeleted, is_needed).await
            }
            (None, _, GroupChange::Delete(key, meta)) => delete(caller, key, meta).await,
        };
        let (outcome, is_news) = made.unwrap_or_else(|source| {
            failed = Some(source.clone());
            (GroupChanged::Failed(source), false)
        });
        done.push((at, outcome, is_news));
    }
    done
}

/// What else a group that is put depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Only {
    None,
    /// This very group must not have been deleted, or replaced.
    UnlessDeleted,
}

async fn put(
    caller: &Caller,
    key: &Key,
    meta: &GroupMeta,
    replaced: Option<&GroupMeta>,
    only: Only,
    is_needed: bool,
) -> Result<(GroupChanged, bool), StoreError> {
    let (listing, setting) = if is_needed {
        (&SCRIPTS.list_group, &SCRIPTS.change_group)
    } else {
        (&SCRIPTS.list_new_group, &SCRIPTS.put_group)
    };
    list(caller, listing, key, meta, b"+").await?;
    let goes_on = replaced.is_some_and(|replaced| meta.goes_on_from(replaced));
    match set(caller, setting, key, Some(meta), replaced, goes_on, only).await? {
        Ok(was_so) => {
            if let Some(replaced) = replaced.filter(|it| it.owner != meta.owner) {
                list(caller, &SCRIPTS.list_group, key, replaced, b"-").await?;
            }
            // Put anew by each router after a store may have lost it, it is no news. Whoever has not
            // heard of a group asks for it.
            Ok((GroupChanged::Made, !was_so || replaced.is_some()))
        }
        Err(known) => {
            // It was listed as what it did not become.
            match &known {
                Some(known) if known.owner == meta.owner => {
                    list(caller, &SCRIPTS.list_group, key, known, &group_bytes(meta)).await?;
                }
                _ => list(caller, &SCRIPTS.list_group, key, meta, b"-").await?,
            }
            Ok((GroupChanged::Differs(known), false))
        }
    }
}

async fn delete(
    caller: &Caller,
    key: &Key,
    meta: &GroupMeta,
) -> Result<(GroupChanged, bool), StoreError> {
    match set(caller, &SCRIPTS.change_group, key, None, Some(meta), false, Only::None).await? {
        Ok(_) => {
            // A list that still names it does no harm, another router's new group that it names less would.
            list(caller, &SCRIPTS.list_group, key, meta, b"-").await?;
            Ok((GroupChanged::Made, true))
        }
        Err(known) => Ok((GroupChanged::Differs(known), false)),
    }
}

/// Sets a group from what it is believed to be. Ok: done, and whether it was so before. Err: as it is.
async fn set(
    caller: &Caller,
    script: &Script,
    key: &Key,
    wanted: Option<&GroupMeta>,
    believed: Option<&GroupMeta>,
    goes_on: bool,
    only: Only,
) -> Result<Result<bool, Option<GroupMeta>>, StoreError> {
    let tag = Tag::group(key);
    let keys = [
        tag.group_itself(),
        tag.inboxes(),
        tag.entries(HISTORY),
        tag.collapse(HISTORY),
        tag.tombstones(),
    ];
    let has_history = wanted.is_some_and(|meta| meta.history.is_some());
    let args = [
        number(0),
        wanted.map(group_bytes).unwrap_or_default(),
        believed.map(group_bytes).unwrap_or_default(),
        number(has_history.into()),
        number(wanted.map_or(0, |meta| meta.created_ms)),
        number(goes_on.into()),
        number((only == Only::UnlessDeleted).into()),
        number(TOMBSTONE_KEEP.as_millis() as u64),
    ];
    let answer = caller.call(script, tag.slot(), &keys, &args).await?.answer;
    let Value::Array(answer) = answer else { return Err(StoreError::Value) };
    match &answer[..] {
        [Value::Int(1), Value::Int(was_so)] => Ok(Ok(*was_so == 1)),
        [Value::Int(0), Value::BulkString(known)] if known.is_empty() => Ok(Err(None)),
        [Value::Int(0), Value::BulkString(known)] => {
            Ok(Err(Some(read_group(known).ok_or(StoreError::Value)?)))
        }
        _ => Err(StoreError::Value),
    }
}

async fn list(
    caller: &Caller,
    script: &Script,
    key: &Key,
    meta: &GroupMeta,
    how: &[u8],
) -> Result<(), StoreError> {
    let (app, id) = split(key)?;
    let tag = Tag::owner(app, meta.owner);
    let keys = [tag.group_ids(), tag.group_metas()];
    let args = [id.as_bytes().to_vec(), group_bytes(meta), how.to_vec()];
    caller.call(script, tag.slot(), &keys, &args).await.map(drop)
}

/// One group.
pub(super) async fn one(caller: &Caller, key: &Key) -> Result<Option<GroupMeta>, StoreError> {
    let tag = Tag::group(key);
    let mut asked = redis::cmd("GET");
    asked.arg(tag.group_itself());
    match caller.command(&asked, tag.slot()).await? {
        Value::Nil => Ok(None),
        Value::BulkString(known) => read_group(&known).map(Some).ok_or(StoreError::Value),
        _ => Err(StoreError::Value),
    }
}

/// See [`crate::store::Store::group_news`].
pub(super) async fn news(caller: &Caller, after: &LogMark) -> Result<GroupNews, StoreError> {
    let log = Lone::group_log();
    // Only what a server gave out is one of its marks.
    let is_mark = |mark: &str| {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
        mark.split_once('-').is_some_and(|(time, number)| is_number(time) && is_number(number))
    };
    let mark = if is_mark(after) { after.as_bytes().to_vec() } else { Vec::new() };
    let answer = caller.call(&SCRIPTS.group_news, log.slot, &[log.name], &[mark]).await?.answer;
    let Value::Array(mut answer) = answer else { return Err(StoreError::Value) };
    if answer.len() < 2 {
        return Err(StoreError::Value);
    }
    let groups = answer.split_off(2);
    let (how, mark) = (super::answer::number(&answer[0])?, text(answer.swap_remove(1))?.into());
    if how == 1 {
        return Ok(GroupNews::Reload(mark));
    }
    let mut changed: Vec<KeyBytes> = Vec::with_capacity(groups.len());
    for group in groups {
        let Value::BulkString(group) = group else { return Err(StoreError::Value) };
        // The beginning of a log names none.
        if !group.is_empty() {
            changed.push(group.into());
        }
    }
    Ok(GroupNews::Changed(changed, mark))
}

/// All groups of all businesses.
pub(super) async fn all(caller: &Caller) -> Result<Vec<(KeyBytes, GroupMeta)>, StoreError> {
    let key = Lone::owners();
    let mut asked = redis::cmd("SMEMBERS");
    asked.arg(key.name);
    let answer = caller.command(&asked, key.slot).await?;
    let (Value::Array(owners) | Value::Set(owners)) = answer else {
        return Err(StoreError::Value);
    };
    let mut found = Vec::new();
    for owner in owners {
        let owner = text(owner)?;
        let (app, owner) = owner.split_once(':').ok_or(StoreError::Value)?;
        let owner: u32 = owner.parse().map_err(|_| StoreError::Value)?;
        let mut after = String::new();
        loop {
            let (ids, listed) = page(caller, app, owner, &after, PAGE).await?;
            found.extend(look_up(caller, app, owner, &ids, listed).await?.into_iter().flatten());
            match ids.last() {
                Some(last) if ids.len() == PAGE => after.clone_from(last),
                _ => break,
            }
        }
    }
    Ok(found)
}

/// Ids of a business's groups, in order.
pub(super) async fn ids(
    caller: &Caller,
    app: &str,
    owner: u32,
    after: &str,
    max: usize,
) -> Result<Vec<String>, StoreError> {
    let (mut found, mut after) = (Vec::new(), after.to_owned());
    while found.len() < max {
        let wanted = (max - found.len()).min(PAGE);
        let (ids, listed) = page(caller, app, owner, &after, wanted).await?;
        let is_last = ids.len() < wanted;
        let known = look_up(caller, app, owner, &ids, listed).await?;
        for (id, known) in ids.into_iter().zip(known) {
            after.clone_from(&id);
            if known.is_some() {
                found.push(id);
            }
        }
        if is_last {
            break;
        }
    }
    Ok(found)
}

/// Groups that a list names: each, if it is one of this owner's.
async fn look_up(
    caller: &Caller,
    app: &str,
    owner: u32,
    ids: &[String],
    listed: Vec<Value>,
) -> Result<Vec<Option<(KeyBytes, GroupMeta)>>, StoreError> {
    let app = AppId::new(app).map_err(|_| StoreError::Value)?;
    let mut known = Vec::with_capacity(ids.len());
    let mut listed = listed.into_iter();
    // Other calls want room, too.
    for some in ids.chunks(LOOKED_UP_MAX) {
        let looked_up = some
            .iter()
            .zip(&mut listed)
            .map(|(id, listed)| look_up_one(caller, &app, owner, id, listed));
        known.extend(try_join_all(looked_up).await?);
    }
    Ok(known)
}

/// One that is known in the list alone is moved.
async fn look_up_one(
    caller: &Caller,
    app: &AppId,
    owner: u32,
    id: &str,
    listed: Value,
) -> Result<Option<(KeyBytes, GroupMeta)>, StoreError> {
    let key = Key::group(app, id).map_err(|_| StoreError::Value)?;
    if let Value::BulkString(listed) = listed
        && let Some(meta) = read_first_meta(&listed, owner)
    {
        // Only where there is none; and its history is its own.
        let _ =
            set(caller, &SCRIPTS.change_group, &key, Some(&meta), None, true, Only::UnlessDeleted)
                .await?;
        list(caller, &SCRIPTS.list_group, &key, &meta, &listed).await?;
    }
    let known = one(caller, &key).await?.filter(|known| known.owner == owner);
    Ok(known.map(|known| (key.as_bytes().into(), known)))
}

/// Ids, and how each was listed.
async fn page(
    caller: &Caller,
    app: &str,
    owner: u32,
    after: &str,
    max: usize,
) -> Result<(Vec<String>, Vec<Value>), StoreError> {
    let tag = Tag::owner(app, owner);
    let keys = [tag.group_ids(), tag.group_metas()];
    let range = [after.as_bytes().to_vec(), number(max as u64), number(1)];
    let listed = caller.call(&SCRIPTS.list_groups, tag.slot(), &keys, &range).await?;
    let Value::Array(lists) = listed.answer else { return Err(StoreError::Value) };
    let Ok([Value::Array(ids), Value::Array(known)]) = <[Value; 2]>::try_from(lists) else {
        return Err(StoreError::Value);
    };
    Ok((ids.into_iter().map(text).collect::<Result<_, _>>()?, known))
}

fn text(value: Value) -> Result<String, StoreError> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).map_err(|_| StoreError::Value),
        _ => Err(StoreError::Value),
    }
}
