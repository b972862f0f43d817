//! Answers of the scripts, read; and values that only this store and its scripts know, both ways.

use crate::inbox::{
    Announced, Appended, Batch, Claimed, Described, Entry, Fenced, Fetched, InboxState, InboxTail,
    LostReason, NewEntry, Owner, Priority, Route, Session,
};
use crate::store::{GroupMeta, HistoryCaps, StoreError};
use bytes::Bytes;
use hawser_proto::id::{BootId, BusinessNo, NodeId, Position, SlotRef};
use redis::Value;

/// Before the collapse key in the body of an entry: two times, priority, length of the key.
const BODY_HEAD: usize = 18;
/// One position in an entry.
const POSITION: usize = 14;
/// Before the owner in a route: epoch, time, attempt, instance.
const ROUTE_HEAD: usize = 40;
/// Numbers that say one inbox.
const TAIL_ROW: usize = 8;

type Answer<T> = Result<T, StoreError>;

/// Whole number, never below zero.
pub(super) fn number(value: &Value) -> Answer<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| StoreError::Value),
        _ => Err(StoreError::Value),
    }
}

/// Nothing but numbers.
pub(super) fn numbers(values: &[Value]) -> Answer<Vec<u64>> {
    values.iter().map(number).collect()
}

pub(super) fn bytes(value: &Value) -> Answer<&[u8]> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        _ => Err(StoreError::Value),
    }
}

/// Businesses whose keys a script needs beside those it was given.
pub(super) fn missing(answer: &[Value]) -> Answer<Option<Vec<BusinessNo>>> {
    match answer {
        [Value::Int(3), missing @ ..] => {
            missing.iter().map(business).collect::<Answer<_>>().map(Some)
        }
        _ => Ok(None),
    }
}

fn business(value: &Value) -> Answer<BusinessNo> {
    u32::try_from(number(value)?).map(BusinessNo).map_err(|_| StoreError::Value)
}

/// Term and number. What is too large stays out of every bound.
pub(super) fn position_args(at: Position) -> [Vec<u8>; 2] {
    [super::number(at.term), super::number(at.seq)]
}

/// An owner, compared by scripts and read only here.
pub(super) fn owner_bytes(owner: &Owner) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + owner.node.as_str().len());
    bytes.extend_from_slice(&owner.boot.0.to_be_bytes());
    bytes.extend_from_slice(&owner.at.slot.to_be_bytes());
    bytes.extend_from_slice(&owner.at.generation.to_be_bytes());
    bytes.extend_from_slice(owner.node.as_str().as_bytes());
    bytes
}

pub(super) fn read_owner(mut bytes: &[u8]) -> Option<Owner> {
    let boot = BootId(u64::from_be_bytes(take(&mut bytes)?));
    let slot = u32::from_be_bytes(take(&mut bytes)?);
    let generation = u32::from_be_bytes(take(&mut bytes)?);
    let node = NodeId::new(std::str::from_utf8(bytes).ok()?).ok()?;
    Some(Owner { node, boot, at: SlotRef { slot, generation } })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// The session of a route, if somebody has it. `now_ms`: whether it is still kept; `None`: it is.
fn session(mut route: &[u8], now_ms: Option<u64>) -> Answer<Option<Session>> {
    if route.len() <= ROUTE_HEAD {
        return Ok(None);
    }
    let owner = read_owner(&route[ROUTE_HEAD..]).ok_or(StoreError::Value)?;
    let epoch = u64::from_be_bytes(take(&mut route).ok_or(StoreError::Value)?);
    let at_ms = u64::from_be_bytes(take(&mut route).ok_or(StoreError::Value)?);
    let keep = crate::inbox::rules::ROUTE_OWNED_KEEP.as_millis() as u64;
    let is_kept = now_ms.is_none_or(|now_ms| at_ms.saturating_add(keep) > now_ms);
    Ok(is_kept.then_some(Session { owner, epoch }))
}

/// A route, without what is kept beside it. None: there is none.
pub(super) fn route(answer: &Value) -> Answer<Option<Route>> {
    match answer {
        Value::Nil => Ok(None),
        answer => read_route(bytes(answer)?).map(Some).ok_or(StoreError::Value),
    }
}

fn read_route(mut bytes: &[u8]) -> Option<Route> {
    let epoch = u64::from_be_bytes(take(&mut bytes)?);
    let at_ms = u64::from_be_bytes(take(&mut bytes)?);
    let attempt = u64::from_be_bytes(take(&mut bytes)?);
    let instance = take(&mut bytes)?;
    let owner = if bytes.is_empty() { None } else { Some(read_owner(bytes)?) };
    let (watchers, is_lost) = (Vec::new(), false);
    Some(Route { epoch, owner, instance, attempt, at_ms, watchers, is_lost })
}

/// The body of an entry, as the scripts keep it.
pub(super) fn body_bytes(new: &NewEntry, now_ms: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BODY_HEAD + new.collapse_key.len() + new.blob.len());
    bytes.extend_from_slice(&now_ms.to_be_bytes());
    bytes.extend_from_slice(&new.expires_at_ms.to_be_bytes());
    bytes.push(new.priority as u8);
    // At most 128 bytes: see `COLLAPSE_KEY_BYTES_MAX`.
    bytes.push(new.collapse_key.len() as u8);
    bytes.extend_from_slice(&new.collapse_key);
    bytes.extend_from_slice(&new.blob);
    bytes
}

/// Where an entry stands, and the entry; as `inbox.lua` has it.
fn read_entry(bytes: Vec<u8>) -> Option<(Position, Entry)> {
    let all = Bytes::from(bytes);
    let position = read_position(all.get(..POSITION)?)?;
    let (prev, body_at) = match all.get(POSITION)? {
        0 => (Position::new(position.term, position.seq.checked_sub(1)?), POSITION + 1),
        _ => (read_position(all.get(POSITION + 1..)?)?, 2 * POSITION + 1),
    };
    let mut head = all.get(body_at..body_at + BODY_HEAD)?;
    let at_ms = u64::from_be_bytes(take(&mut head)?);
    let expires_at_ms = u64::from_be_bytes(take(&mut head)?);
    let [priority, key] = take(&mut head)?;
    let key_at = body_at + BODY_HEAD;
    let blob_at = key_at + usize::from(key);
    (blob_at <= all.len()).then(|| {
        let entry = Entry {
            prev,
            at_ms,
            expires_at_ms,
            priority: Priority::from_number(priority.into()),
            collapse_key: all.slice(key_at..blob_at),
            blob: all.slice(blob_at..),
        };
        (position, entry)
    })
}

/// Two numbers of seven bytes.
fn read_position(mut bytes: &[u8]) -> Option<Position> {
    let mut number = || {
        let seven: [u8; 7] = take(&mut bytes)?;
        let mut eight = [0; 8];
        eight[1..].copy_from_slice(&seven);
        Some(u64::from_be_bytes(eight))
    };
    Some(Position::new(number()?, number()?))
}

/// What came of an append, and in which incarnation; 0 where nothing stands.
pub(super) fn appended(answer: &Value, now_ms: u64) -> Answer<(Appended, u64)> {
    let Value::Array(parts) = answer else { return Err(StoreError::Value) };
    Ok(match &parts[..] {
        [Value::Int(0), life, term, seq, prev_term, prev_seq, route] => {
            let position = Position::new(number(term)?, number(seq)?);
            let prev = Position::new(number(prev_term)?, number(prev_seq)?);
            let owner = session(bytes(route)?, Some(now_ms))?;
            (Appended::Stored { position, prev, owner }, number(life)?)
        }
        [Value::Int(1), life, term, seq] => {
            let position = Position::new(number(term)?, number(seq)?);
            (Appended::Repeated { position }, number(life)?)
        }
        [Value::Int(2)] => (Appended::Reused, 0),
        [Value::Int(3)] => (Appended::Expired, 0),
        [Value::Int(4)] => (Appended::Overflow, 0),
        [Value::Int(5)] => (Appended::NoHistory, 0),
        _ => return Err(StoreError::Value),
    })
}

/// What came of a claim.
pub(super) fn claimed(answer: &[Value]) -> Answer<Claimed> {
    match answer {
        [Value::Int(0)] => Ok(Claimed::Stale),
        [Value::Int(1), epoch, displaced, rows @ ..] => Ok(Claimed::Bound {
            epoch: number(epoch)?,
            displaced: session(bytes(displaced)?, None)?,
            inboxes: tails(rows)?,
        }),
        _ => Err(StoreError::Value),
    }
}

/// What came of an announcement.
pub(super) fn announced(answer: &[Value]) -> Answer<Announced> {
    match answer {
        [Value::Int(0), epoch] => Ok(Announced::Superseded { epoch: number(epoch)? }),
        [Value::Int(1), epoch, displaced, rows @ ..] => Ok(Announced::Bound {
            epoch: number(epoch)?,
            displaced: session(bytes(displaced)?, None)?,
            inboxes: tails(rows)?,
        }),
        _ => Err(StoreError::Value),
    }
}

/// The first number, where the use of the session was noted just now.
pub(super) const NOTED: i64 = 5;

/// What came of a sweep; of an acknowledgement, without rows.
pub(super) fn tails_or_fenced(answer: &[Value]) -> Answer<Result<Vec<InboxTail>, Fenced>> {
    match answer {
        [Value::Int(0 | NOTED), rows @ ..] => tails(rows).map(Ok),
        [Value::Int(why)] => fenced(*why).map(Err),
        _ => Err(StoreError::Value),
    }
}

fn fenced(why: i64) -> Answer<Fenced> {
    match why {
        1 => Ok(Fenced::Superseded),
        2 => Ok(Fenced::Forgotten),
        _ => Err(StoreError::Value),
    }
}

fn tails(rows: &[Value]) -> Answer<Vec<InboxTail>> {
    let row = |row: &[Value]| {
        let of = numbers(row)?;
        let [business, term, seq, floor_term, floor_seq, count, state, priority] = of[..] else {
            return Err(StoreError::Value);
        };
        let narrow = |number: u64| u32::try_from(number).map_err(|_| StoreError::Value);
        Ok(InboxTail {
            business: BusinessNo(narrow(business)?),
            tail: Position::new(term, seq),
            floor: Position::new(floor_term, floor_seq),
            count: narrow(count)?,
            state: match state {
                0 => InboxState::Fine,
                1 => InboxState::TermChanged,
                2 => InboxState::CursorRefused,
                _ => return Err(StoreError::Value),
            },
            priority: Priority::from_number(priority),
        })
    };
    let mut tails = rows.chunks(TAIL_ROW).map(row).collect::<Answer<Vec<_>>>()?;
    tails.sort_unstable_by_key(|tail| tail.business);
    Ok(tails)
}

/// What a read found. The words about what is missing are those of [`crate::inbox::rules`].
pub(super) fn batch(answer: Value, after: Position) -> Answer<Result<Batch, Fenced>> {
    let Value::Array(mut parts) = answer else { return Err(StoreError::Value) };
    if let [Value::Int(why)] = parts[..] {
        return fenced(why).map(Err);
    }
    if parts.len() < 14 {
        return Err(StoreError::Value);
    }
    let items = parts.split_off(14);
    let head = numbers(&parts)?;
    let at = |index: usize| Position::new(head[index], head[index + 1]);
    let told =
        Told { tail: at(1), acked: at(5), handed: at(7), overflowed_to: at(9), purged_to: at(11) };
    let mut batch = Batch { items: Vec::new(), tail: told.tail, floor: at(3) };
    let mut last = after;
    for item in items {
        let Value::BulkString(item) = item else { return Err(StoreError::Value) };
        let (position, entry) = read_entry(item).ok_or(StoreError::Value)?;
        let prev = entry.prev;
        batch.items.push(told.item(last, position, Some(entry), prev));
        last = position;
    }
    // Nothing is asked for with nothing: the end is not told then.
    let is_whole = head[13] == 1;
    if is_whole && told.tail > last {
        batch.items.push(told.item(last, told.tail, None, told.tail));
    }
    Ok(Ok(batch))
}

/// What is known of an inbox, as far as its reader is told.
struct Told {
    tail: Position,
    acked: Position,
    handed: Position,
    overflowed_to: Position,
    purged_to: Position,
}

impl Told {
    /// One item, with what is missing between `last` and `upto`.
    fn item(
        &self,
        last: Position,
        position: Position,
        entry: Option<Entry>,
        upto: Position,
    ) -> Fetched {
        let from = last.max(self.acked);
        let gone = if upto <= from {
            0
        } else if upto.term == from.term {
            upto.seq - from.seq
        } else {
            upto.seq
        };
        let reason = if gone == 0 {
            LostReason::None
        } else if self.overflowed_to > last {
            LostReason::Overflow
        } else if self.purged_to > last {
            LostReason::Purged
        } else {
            LostReason::Expired
        };
        let redelivered = entry.is_some() && position <= self.handed;
        Fetched { position, prev: last, entry, redelivered, lost: gone, reason }
    }
}

/// What an operator sees.
pub(super) fn described(answer: &Value) -> Answer<Described> {
    let Value::Array(parts) = answer else { return Err(StoreError::Value) };
    let [figures @ .., oldest] = &parts[..] else { return Err(StoreError::Value) };
    let of = numbers(figures)?;
    let [entries, bytes_held, term, seq, floor_term, floor_seq, overflowed] = of[..] else {
        return Err(StoreError::Value);
    };
    let oldest = bytes(oldest)?;
    Ok(Described {
        entries,
        bytes: bytes_held,
        tail: Position::new(term, seq),
        floor: Position::new(floor_term, floor_seq),
        oldest_ms: read_entry(oldest.to_vec()).map_or(0, |(_, entry)| entry.at_ms),
        overflowed,
    })
}

/// How a group is. Compared by scripts, so that there is one form for each.
pub(super) fn group_bytes(meta: &GroupMeta) -> Vec<u8> {
    let mut bytes = vec![2];
    bytes.extend_from_slice(&meta.owner.to_be_bytes());
    bytes.extend_from_slice(&meta.created_ms.to_be_bytes());
    if let Some(caps) = meta.history {
        bytes.extend_from_slice(&caps.entries_max.to_be_bytes());
        bytes.extend_from_slice(&caps.age_ms_max.to_be_bytes());
    }
    bytes
}

/// The other way. `None`: another version wrote it.
pub(super) fn read_group(mut bytes: &[u8]) -> Option<GroupMeta> {
    let [2] = take(&mut bytes)? else { return None };
    let owner = u32::from_be_bytes(take(&mut bytes)?);
    read_rest(bytes, owner)
}

/// A group as the first version listed it, under its owner. `None`: it is listed as now.
pub(super) fn read_first_meta(mut bytes: &[u8], owner: u32) -> Option<GroupMeta> {
    let [1] = take(&mut bytes)? else { return None };
    read_rest(bytes, owner)
}

fn read_rest(mut bytes: &[u8], owner: u32) -> Option<GroupMeta> {
    let created_ms = u64::from_be_bytes(take(&mut bytes)?);
    let history = match bytes {
        [] => None,
        mut caps => Some(HistoryCaps {
            entries_max: u32::from_be_bytes(take(&mut caps)?),
            age_ms_max: u64::from_be_bytes(take(&mut caps)?),
        }),
    };
    Some(GroupMeta { owner, created_ms, history })
}
