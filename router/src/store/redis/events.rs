//! Connection events: what businesses have heard of a device lies beside its route; which devices have to be
//! looked at, in a few lists of all.

use super::answer::{self, bytes, owner_bytes};
use super::keys::{Lone, Tag};
use super::script::SCRIPTS;
use super::{Redis, number};
use crate::inbox::shelf::{Memory, Shelf as _};
use crate::inbox::{Event, Heard, Route, rules};
use crate::key::Key;
use crate::store::{Marked, StoreError, event_shard};
use hawser_proto::id::BusinessNo;
use redis::Value;

/// Beside businesses' numbers, among what was heard: who wants to hear of the session; that it was lost.
const WATCHERS: &[u8] = b"w";
const IS_LOST: &[u8] = b"l";

/// Numbers of businesses, of four bytes each.
pub(super) fn watchers_bytes(watchers: &[BusinessNo]) -> Vec<u8> {
    watchers.iter().flat_map(|business| business.0.to_be_bytes()).collect()
}

fn read_watchers(bytes: &[u8]) -> Option<Vec<BusinessNo>> {
    let chunks = bytes.chunks(4).map(|chunk| chunk.try_into().ok().map(u32::from_be_bytes));
    chunks.map(|number| number.map(BusinessNo)).collect()
}

/// Epoch, whether it was confirmed, owner; as `heard.lua` writes it.
fn read_heard(bytes: &[u8]) -> Option<Heard> {
    let (epoch, rest) = bytes.split_first_chunk()?;
    let (is_confirmed, owner) = rest.split_first()?;
    let (epoch, is_confirmed) = (u64::from_be_bytes(*epoch), *is_confirmed != 0);
    Some(Heard { epoch, is_online: true, owner: answer::read_owner(owner)?, is_confirmed })
}

impl Redis {
    /// A business may have to hear of the device.
    pub(super) async fn mark(&self, device: &Key) -> Result<(), StoreError> {
        let marks = Lone::marks(event_shard(device.as_bytes()));
        let (keys, args) = ([marks.name], [device.as_bytes().to_vec()]);
        self.caller.call(&SCRIPTS.mark, marks.slot, &keys, &args).await.map(drop)
    }

    pub(super) async fn marks_after(
        &self,
        shard: u16,
        after: u64,
        max: usize,
    ) -> Result<Vec<Marked>, StoreError> {
        let marks = Lone::marks(shard);
        let mut asked = redis::cmd("ZRANGE");
        asked.arg(marks.name).arg(format!("({after}")).arg("+inf").arg("BYSCORE");
        asked.arg("LIMIT").arg(0).arg(max).arg("WITHSCORES");
        let Value::Array(found) = self.caller.command(&asked, marks.slot).await? else {
            return Err(StoreError::Value);
        };
        // In pairs, or flat: by the version of the protocol.
        let flat = found.into_iter().flat_map(|it| match it {
            Value::Array(pair) => pair,
            single => vec![single],
        });
        let flat: Vec<Value> = flat.collect();
        let read = |pair: &[Value]| {
            let [device, at] = pair else { return Err(StoreError::Value) };
            Ok(Marked { device: bytes(device)?.into(), at: score(at)? })
        };
        flat.chunks(2).map(read).collect()
    }

    pub(super) async fn count_marks(&self, shard: u16) -> Result<u64, StoreError> {
        let marks = Lone::marks(shard);
        let mut asked = redis::cmd("ZCARD");
        asked.arg(marks.name);
        answer::number(&self.caller.command(&asked, marks.slot).await?)
    }

    pub(super) async fn take_mark(&self, shard: u16, seen: &Marked) -> Result<(), StoreError> {
        let marks = Lone::marks(shard);
        let (keys, args) = ([marks.name], [seen.device.to_vec(), number(seen.at)]);
        self.caller.call(&SCRIPTS.unmark, marks.slot, &keys, &args).await.map(drop)
    }

    /// The route of a device and what was heard of it, of one moment.
    pub(super) async fn look(&self, device: &Key) -> Result<(Option<Route>, Memory), StoreError> {
        let tag = Tag::device(device);
        let keys = [tag.route(), tag.heard()];
        let called = self.caller.call(&SCRIPTS.look, tag.slot(), &keys, &[]).await?;
        let Value::Array(answer) = called.answer else { return Err(StoreError::Value) };
        let [route, heard] = answer.as_slice() else { return Err(StoreError::Value) };
        let mut route = answer::route(route)?;
        let mut held = Memory::default();
        for (field, value) in pairs(heard)? {
            let (field, value) = (bytes(field)?, bytes(value)?);
            if field == WATCHERS {
                if let Some(route) = &mut route {
                    route.watchers = read_watchers(value).ok_or(StoreError::Value)?;
                }
            } else if field == IS_LOST {
                if let Some(route) = &mut route {
                    route.is_lost = true;
                }
            } else {
                let business = std::str::from_utf8(field).ok().and_then(|it| it.parse().ok());
                let business = BusinessNo(business.ok_or(StoreError::Value)?);
                let heard = read_heard(value).ok_or(StoreError::Value)?;
                held.set_heard(business, Some(heard));
            }
        }
        if let Some(route) = &route {
            held.set_route(route.clone());
        }
        Ok((route, held))
    }

    pub(super) async fn hear(
        &self,
        device: &Key,
        business: BusinessNo,
        heard: &Heard,
    ) -> Result<bool, StoreError> {
        let tag = Tag::device(device);
        let owner = if heard.is_online { owner_bytes(&heard.owner) } else { Vec::new() };
        let is_confirmed = number(heard.is_confirmed.into());
        let args = [number(business.0.into()), number(heard.epoch), owner, is_confirmed];
        let keys = [tag.route(), tag.heard()];
        let called = self.caller.call(&SCRIPTS.heard, tag.slot(), &keys, &args).await?;
        Ok(answer::number(&called.answer)? == 1)
    }

    pub(super) async fn due(&self, device: &Key, now_ms: u64) -> Result<Vec<Event>, StoreError> {
        let (_, held) = self.look(device).await?;
        let Ok(due) = rules::events_due(&held, now_ms);
        Ok(due)
    }
}

/// Fields with their values: flat, or as a map, by the version of the protocol.
fn pairs(answer: &Value) -> Result<Vec<(&Value, &Value)>, StoreError> {
    match answer {
        Value::Map(pairs) => Ok(pairs.iter().map(|(field, value)| (field, value)).collect()),
        Value::Array(flat) => {
            if flat.len() % 2 != 0 {
                return Err(StoreError::Value);
            }
            Ok(flat.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect())
        }
        _ => Err(StoreError::Value),
    }
}

/// A mark as a score: a whole number, whichever way it is written.
fn score(value: &Value) -> Result<u64, StoreError> {
    match value {
        Value::Double(score) if *score >= 0.0 => Ok(*score as u64),
        Value::BulkString(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| StoreError::Value)?;
            let score: f64 = text.parse().map_err(|_| StoreError::Value)?;
            if score >= 0.0 { Ok(score as u64) } else { Err(StoreError::Value) }
        }
        _ => Err(StoreError::Value),
    }
}
