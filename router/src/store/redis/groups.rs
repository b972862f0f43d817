//! Lists of groups: ids in order and what is known of each, per business. Histories live elsewhere, each
//! under its group's own tag; so a change of many groups is atomic per business, not in all.

use super::answer::{meta_bytes, read_meta};
use super::call::Caller;
use super::keys::{OWNERS, Tag, owners_slot};
use super::script::{SCRIPTS, Script};
use super::{HISTORY, number};
use crate::key::{self, Key};
use crate::store::{GroupChange, GroupMeta, KeyBytes, StoreError};
use redis::Value;
use std::collections::HashSet;

/// Groups read at a time.
const PAGE: usize = 1_000;

/// Makes these changes, those of one group in their order. Done again, they are done once.
///
/// What may be refused while memory is used up comes first: only then is anything destroyed.
pub(super) async fn change(caller: &Caller, changes: Vec<GroupChange>) -> Result<(), StoreError> {
    let mut owners = Vec::new();
    let mut deleted: HashSet<KeyBytes> = HashSet::new();
    for change in &changes {
        match change {
            GroupChange::Put(key, meta, _) => owners.push(owner_of(key, meta)?),
            GroupChange::Delete(key, _) => drop(deleted.insert(key.as_bytes().into())),
        }
    }
    owners.sort_unstable();
    owners.dedup();
    if !owners.is_empty() {
        let mut known = redis::cmd("SADD");
        known.arg(OWNERS);
        for (app, owner) in owners {
            known.arg(format!("{app}:{owner}"));
        }
        caller.command(&known, owners_slot()).await?;
    }
    let is_put_alone = |change: &GroupChange| match change {
        GroupChange::Put(key, ..) => !deleted.contains(key.as_bytes()),
        GroupChange::Delete(..) => false,
    };
    let (put, rest): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_put_alone);
    make(caller, &SCRIPTS.put_groups, &put).await?;
    make(caller, &SCRIPTS.change_groups, &rest).await
}

fn owner_of<'a>(key: &'a Key, meta: &GroupMeta) -> Result<(&'a str, u32), StoreError> {
    let (app, _) = key::split(key.as_bytes()).ok_or(StoreError::Value)?;
    Ok((app, meta.owner))
}

async fn make(caller: &Caller, script: &Script, changes: &[GroupChange]) -> Result<(), StoreError> {
    // Histories first: a change that failed half-way is made again, and must not leave an old history to
    // a group that begins anew.
    let mut lists: Vec<(String, u32, Vec<Vec<u8>>)> = Vec::new();
    for change in changes {
        let (key, meta, is_put) = match change {
            GroupChange::Put(key, meta, _) => (key, meta, true),
            GroupChange::Delete(key, meta) => (key, meta, false),
        };
        let (app, id) = key::split(key.as_bytes()).ok_or(StoreError::Value)?;
        match meta.history {
            Some(_) if is_put => begin_history(caller, key, meta).await?,
            Some(_) | None => end_history(caller, key).await?,
        }
        let known = if is_put { meta_bytes(meta) } else { Vec::new() };
        let args = [id.as_bytes().to_vec(), known];
        match lists.iter_mut().find(|(of, owner, _)| of == app && *owner == meta.owner) {
            Some((.., list)) => list.extend(args),
            None => lists.push((app.to_owned(), meta.owner, args.into())),
        }
    }
    for (app, owner, args) in lists {
        let tag = Tag::owner(&app, owner);
        let keys = [tag.group_ids(), tag.group_metas()];
        caller.call(script, tag.slot(), &keys, &args).await?;
    }
    Ok(())
}

async fn begin_history(caller: &Caller, key: &Key, meta: &GroupMeta) -> Result<(), StoreError> {
    let tag = Tag::group(key);
    let keys = [tag.inboxes(), tag.entries(HISTORY), tag.collapse(HISTORY)];
    let args = [number(0), number(meta.created_ms)];
    caller.call(&SCRIPTS.begin_history, tag.slot(), &keys, &args).await.map(drop)
}

async fn end_history(caller: &Caller, key: &Key) -> Result<(), StoreError> {
    let tag = Tag::group(key);
    let mut gone = redis::cmd("UNLINK");
    gone.arg(tag.inboxes()).arg(tag.entries(HISTORY)).arg(tag.collapse(HISTORY));
    caller.command(&gone, tag.slot()).await.map(drop)
}

/// All groups of all businesses.
pub(super) async fn all(caller: &Caller) -> Result<Vec<(KeyBytes, GroupMeta)>, StoreError> {
    let mut asked = redis::cmd("SMEMBERS");
    asked.arg(OWNERS);
    let answer = caller.command(&asked, owners_slot()).await?;
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
            let (ids, known) = page(caller, app, owner, &after, PAGE, true).await?;
            for (id, meta) in ids.iter().zip(known) {
                // A group deleted between two looks has none.
                let Value::BulkString(meta) = meta else { continue };
                let meta = read_meta(&meta, owner).ok_or(StoreError::Value)?;
                found.push((key_bytes(app, id), meta));
            }
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
    Ok(page(caller, app, owner, after, max, false).await?.0)
}

async fn page(
    caller: &Caller,
    app: &str,
    owner: u32,
    after: &str,
    max: usize,
    with_metas: bool,
) -> Result<(Vec<String>, Vec<Value>), StoreError> {
    let tag = Tag::owner(app, owner);
    let keys = [tag.group_ids(), tag.group_metas()];
    let range = [after.as_bytes().to_vec(), number(max as u64), number(u64::from(with_metas))];
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

/// As [`Key`] has them.
fn key_bytes(app: &str, id: &str) -> KeyBytes {
    let mut bytes = Vec::with_capacity(1 + app.len() + id.len());
    bytes.push(app.len() as u8);
    bytes.extend_from_slice(app.as_bytes());
    bytes.extend_from_slice(id.as_bytes());
    bytes.into()
}
