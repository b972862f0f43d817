//! Which sessions a boot of a node has, so that they can be ended when it dies.
//!
//! They are registered before a claim and let go of after the end, in steps of their own: a script may touch
//! one slot. What is registered and was never claimed does no harm. What a failover lost, and sessions that an
//! earlier release claimed, are registered when their use is noted, once an hour.

use super::answer::NOTED;
use super::call::Caller;
use super::keys::{Lone, REGIONS, Tag, region};
use super::nodes;
use super::script::SCRIPTS;
use super::{Redis, number};
use crate::inbox::{Owner, Session, rules};
use crate::key::Key;
use crate::store::{KeyBytes, Registered, StoreError, WalkMark};
use futures_util::future::{join, join_all};
use hawser_proto::id::{BootId, NodeId, SlotRef};
use parking_lot::Mutex;
use redis::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A boot is told of again after this long: the store may have lost it.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// Boots that are remembered to be known.
const KNOWN_MAX: usize = 4_096;
/// Ends that are brought to the store while their callers have gone on; more wait with their callers.
const BEHIND_MAX: usize = 512;
/// Regions that one step of a walk asks, one after the other, while it finds less than was asked for: of few
/// sessions in many parts, some milliseconds.
const REGIONS_WALKED: usize = 16;

/// Boots that the store was told of lately, and room for what is brought to it later.
#[derive(Debug)]
pub(super) struct Known {
    boots: Mutex<HashMap<(NodeId, BootId), Instant>>,
    behind: Arc<Semaphore>,
}

impl Default for Known {
    fn default() -> Self {
        Self { boots: Mutex::default(), behind: Arc::new(Semaphore::new(BEHIND_MAX)) }
    }
}

impl Known {
    /// Whether the store has to be told of this boot (again).
    fn is_news(&self, node: &NodeId, boot: BootId) -> bool {
        let now = Instant::now();
        let mut known = self.boots.lock();
        let of = (node.clone(), boot);
        if known.get(&of).is_some_and(|since| now.duration_since(*since) < KNOWN_FOR) {
            return false;
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(of, now);
        true
    }
}

impl Redis {
    /// Runs what begins a session, with the session registered before. Where one server has all of it, all
    /// is sent at once: a server does what one connection asks for in its order.
    pub(super) async fn with_session<T>(
        &self,
        device: &Key,
        owner: &Owner,
        begin: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if self.known.is_news(&owner.node, owner.boot) {
            let (caller, node, boot) = (self.caller.clone(), owner.node.clone(), owner.boot);
            self.behind(async move { drop(nodes::know(&caller, &node, boot).await) }).await;
        }
        let tag = Tag::device(device);
        let key = place(&tag, &owner.node, owner.boot);
        let is_together = self.caller.servers.map().is_one(tag.slot(), key.slot);
        let told = register(&self.caller, key, device, owner.at);
        if !is_together {
            told.await?;
            return begin.await;
        }
        // Polled in this order, so sent in this order.
        match join(told, begin).await {
            (Ok(()), done) => done,
            // The session may be there, and is not registered.
            (Err(failure), Ok(_)) if failure.is_refusal() => Err(StoreError::Timeout),
            (Err(failure), _) => Err(failure),
        }
    }

    /// The session is in use, by what an acknowledgement or a sweep answered.
    pub(super) async fn used_session(&self, device: &Key, session: &Session, answer: &[Value]) {
        if answer.first() != Some(&Value::Int(NOTED)) {
            return;
        }
        let (caller, device, owner) = (self.caller.clone(), *device, session.owner.clone());
        let key = place(&Tag::device(&device), &owner.node, owner.boot);
        let again = async move { drop(register(&caller, key, &device, owner.at).await) };
        self.behind(again).await;
    }

    /// A connection has no session of this device any more.
    pub(super) async fn without_session(&self, device: &Key, owner: &Owner) {
        let (caller, device, owner) = (self.caller.clone(), *device, owner.clone());
        let key = place(&Tag::device(&device), &owner.node, owner.boot);
        let gone = async move {
            let args = [device.as_bytes().to_vec(), at_bytes(owner.at)];
            // What stays is found to be over when the boot dies.
            drop(caller.call(&SCRIPTS.unregister, key.slot, &[key.name], &args).await);
        };
        self.behind(gone).await;
    }

    /// Has something done without waiting for it, as long as not too much of it waits already.
    async fn behind(&self, work: impl Future<Output = ()> + Send + 'static) {
        match self.known.behind.clone().try_acquire_owned() {
            Ok(permit) => self.tasks.spawn_light(async move {
                work.await;
                drop(permit);
            }),
            Err(_) => work.await,
        }
    }
}

async fn register(caller: &Caller, key: Lone, device: &Key, at: SlotRef) -> Result<(), StoreError> {
    // A boot that lives longer than its idle sessions are kept registers others meanwhile.
    let keep_ms = 2 * rules::ROUTE_OWNED_KEEP.as_millis() as u64;
    let args = [device.as_bytes().to_vec(), registration(at), number(keep_ms)];
    caller.call(&SCRIPTS.register, key.slot, &[key.name], &args).await.map(drop)
}

/// See [`crate::store::Store::sessions_of`].
pub(super) async fn of(
    caller: &Caller,
    node: &NodeId,
    boot: BootId,
    max: usize,
) -> Result<Vec<KeyBytes>, StoreError> {
    let each = max.div_ceil(usize::from(REGIONS)).max(1);
    let ask = async |region| {
        let key = Lone::sessions(region, node, boot);
        let mut asked = redis::cmd("HRANDFIELD");
        asked.arg(key.name).arg(each);
        // Who asks for all of them waits no longer than for one: the others are to be heard before.
        let asked = caller.command(&asked, key.slot);
        tokio::time::timeout(caller.timeout / 2, asked).await.unwrap_or(Err(StoreError::Timeout))
    };
    let (mut found, mut failed) = (Vec::new(), None);
    for answer in join_all((0..REGIONS).map(ask)).await {
        let some = match answer {
            Ok(Value::Array(some)) => some,
            Ok(_) => return Err(StoreError::Value),
            Err(source) => {
                failed = Some(source);
                continue;
            }
        };
        for device in some {
            let Value::BulkString(device) = device else { return Err(StoreError::Value) };
            found.push(device.into());
        }
    }
    if let Some(source) = failed.filter(|_| found.is_empty()) {
        return Err(source);
    }
    if found.is_empty() {
        nodes::forget(caller, node, boot).await?;
    }
    found.truncate(max);
    Ok(found)
}

/// See [`crate::store::Store::walk_sessions`].
pub(super) async fn walk(
    caller: &Caller,
    node: &NodeId,
    boot: BootId,
    after: &WalkMark,
    max: usize,
) -> Result<(Vec<Registered>, Option<WalkMark>), StoreError> {
    let (mut region, mut cursor) = read_mark(after)?;
    let mut found = Vec::new();
    for _ in 0..REGIONS_WALKED {
        let key = Lone::sessions(region, node, boot);
        let mut asked = redis::cmd("HSCAN");
        asked.arg(key.name).arg(cursor).arg("COUNT").arg(max);
        // Of many that one call asks, none may take the time of all.
        let asked = caller.command(&asked, key.slot);
        let answer = tokio::time::timeout(caller.timeout / 4, asked).await;
        let is_answered = matches!(answer, Ok(Ok(_)));
        cursor = match answer {
            Ok(Ok(answer)) => read_page(&answer, &mut found)?,
            // It is passed over.
            Ok(Err(_)) | Err(_) => 0,
        };
        region += u16::from(cursor == 0);
        if region == REGIONS {
            return Ok((found, None));
        }
        if found.len() >= max || !is_answered {
            break;
        }
    }
    let mark = [&region.to_be_bytes()[..], &cursor.to_be_bytes()[..]].concat();
    Ok((found, Some(mark.into())))
}

/// Region, and where in it.
fn read_mark(mark: &WalkMark) -> Result<(u16, u64), StoreError> {
    let Some((region, cursor)) = mark.split_first_chunk() else { return Ok((0, 0)) };
    let cursor = cursor.try_into().map_err(|_| StoreError::Value)?;
    Ok((u16::from_be_bytes(*region), u64::from_be_bytes(cursor)))
}

/// What one step of a scan found, and where it goes on; 0: it is through.
fn read_page(answer: &Value, found: &mut Vec<Registered>) -> Result<u64, StoreError> {
    let Value::Array(parts) = answer else { return Err(StoreError::Value) };
    let [Value::BulkString(next), Value::Array(pairs)] = &parts[..] else {
        return Err(StoreError::Value);
    };
    for pair in pairs.chunks(2) {
        let [Value::BulkString(device), Value::BulkString(known)] = pair else {
            return Err(StoreError::Value);
        };
        found.push(Registered { device: device.as_slice().into(), at: read_at(known)? });
    }
    let next = std::str::from_utf8(next).map_err(|_| StoreError::Value)?;
    next.parse().map_err(|_| StoreError::Value)
}

/// What is registered of this device, as it stands.
pub(super) async fn seen(
    caller: &Caller,
    device: &Key,
    node: &NodeId,
    boot: BootId,
) -> Result<Option<Vec<u8>>, StoreError> {
    let key = place(&Tag::device(device), node, boot);
    let mut asked = redis::cmd("HGET");
    asked.arg(key.name).arg(device.as_bytes());
    match caller.command(&asked, key.slot).await? {
        Value::Nil => Ok(None),
        Value::BulkString(known) => Ok(Some(known)),
        _ => Err(StoreError::Value),
    }
}

/// Whether what was seen is of this connection.
pub(super) fn is_of(seen: &[u8], at: SlotRef) -> bool {
    seen.starts_with(&at_bytes(at))
}

/// The boot has no session of this device any more, if none was registered since this was seen.
pub(super) async fn forget(
    caller: &Caller,
    device: &Key,
    (node, boot): (&NodeId, BootId),
    seen: Vec<u8>,
) -> Result<(), StoreError> {
    let key = place(&Tag::device(device), node, boot);
    let args = [device.as_bytes().to_vec(), seen];
    caller.call(&SCRIPTS.unregister, key.slot, &[key.name], &args).await.map(drop)
}

fn place(tag: &Tag, node: &NodeId, boot: BootId) -> Lone {
    Lone::sessions(region(tag.slot()), node, boot)
}

fn at_bytes(at: SlotRef) -> Vec<u8> {
    [at.slot.to_be_bytes(), at.generation.to_be_bytes()].concat()
}

/// Behind the connection stands a number: whoever saw one registration does not remove the next.
fn registration(at: SlotRef) -> Vec<u8> {
    [at_bytes(at), rand::random::<u32>().to_be_bytes().to_vec()].concat()
}

fn read_at(known: &[u8]) -> Result<SlotRef, StoreError> {
    let (slot, rest) = known.split_first_chunk().ok_or(StoreError::Value)?;
    let generation = rest.first_chunk().ok_or(StoreError::Value)?;
    Ok(SlotRef { slot: u32::from_be_bytes(*slot), generation: u32::from_be_bytes(*generation) })
}
