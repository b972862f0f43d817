//! Stored pushes: into the inboxes first, then a hint to the nodes that hold the devices.
//!
//! [`submit`] never waits: it checks everything and takes the places that keep the order. Each target is
//! then stored by a task of its own, which goes on when the caller does not wait any more, so that whatever
//! was stored also wakes its device; and what may have been stored without an answer makes the nodes ask.

mod append;

use crate::answer::Outcomes;
use crate::auth::{Credential, InboxBounds};
use crate::core::Core;
use crate::inbox::{Appended, Priority};
use crate::key::Key;
use crate::node::deliver::Sent;
use crate::push::message::{self, Storable};
use crate::push::unicast::{Targets, totals};
use crate::refusal::Refusal;
use crate::store::{Durability, StoreError};
use crate::turns::{Place, Turns};
use append::one;
pub(crate) use append::place_of;
use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, BusinessNo, Position};
use hawser_proto::limits::{COLLAPSE_KEY_BYTES_MAX, WAIT_ACK_MAX};
use hawser_proto::rpc::push::{
    self as wire, BatchUnicastRequest, BatchUnicastResponse, Outcome, StoreOptions, StoredResult,
};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Targets of one call that are stored at the same time.
const TOGETHER: usize = 64;

/// How a push is to be stored, checked.
struct Options {
    expires_at_ms: u64,
    collapse_key: Bytes,
    priority: Priority,
    durability: Option<Durability>,
    wait_ack: Duration,
}

/// A batch whose targets are about to be stored.
pub(crate) struct Submitted {
    shared: Arc<Shared>,
    pushes: Vec<Parcel>,
    /// For each target of the call its place in `pushes`: a device that is named twice has one push.
    at: Vec<usize>,
    acked_by: Option<Instant>,
    tag: u64,
    push_id: Bytes,
}

/// What all targets of a call have in common.
struct Shared {
    app: AppId,
    business: BusinessNo,
    bounds: InboxBounds,
    options: Options,
    /// Room for all of it, until the last of them is stored or is not.
    _room: OwnedSemaphorePermit,
}

/// One target.
struct Parcel {
    key: Key,
    device: String,
    push_id: Bytes,
    kept: Arc<Storable>,
    place: Option<Place>,
}

/// What came of one target.
enum Told {
    Done { appended: Appended, durability: Durability, waits: Option<(Arc<Outcomes>, Sent)> },
    Failed(StoreError),
}

/// Checks how a push is to be stored.
fn options(
    said: Option<StoreOptions>,
    bounds: &InboxBounds,
    now_ms: u64,
) -> Result<Options, Refusal> {
    let said = said.unwrap_or_default();
    let priority = match wire::Priority::try_from(said.priority) {
        Ok(wire::Priority::Low) => Priority::Low,
        Ok(wire::Priority::Unspecified | wire::Priority::Normal) => Priority::Normal,
        Ok(wire::Priority::High) => Priority::High,
        Err(_) => return Err(Refusal::invalid("store.priority: no such priority")),
    };
    if said.collapse_key.len() > COLLAPSE_KEY_BYTES_MAX {
        return Err(Refusal::invalid("store.collapse_key: at most 128 bytes"));
    }
    let wait_ack = Duration::from_millis(said.wait_ack_ms.into());
    if wait_ack > WAIT_ACK_MAX {
        return Err(Refusal::invalid("store.wait_ack_ms: at most 15,000"));
    }
    let durability = durability("store.durability", said.durability)?;
    let ttl_ms = match said.ttl_ms {
        0 => bounds.ttl_ms_max,
        ttl_ms => ttl_ms.min(bounds.ttl_ms_max),
    };
    let mut expires_at_ms = now_ms.saturating_add(ttl_ms);
    if said.expires_at_ms != 0 {
        expires_at_ms = expires_at_ms.min(said.expires_at_ms);
    }
    let collapse_key = said.collapse_key.into();
    Ok(Options { expires_at_ms, collapse_key, priority, durability, wait_ack })
}

/// Reads a durability; `None`: the store's own.
pub(crate) fn durability(field: &str, said: i32) -> Result<Option<Durability>, Refusal> {
    match wire::Durability::try_from(said) {
        Ok(wire::Durability::Unspecified) => Ok(None),
        Ok(wire::Durability::Memory) => Ok(Some(Durability::Memory)),
        Ok(wire::Durability::Replica) => Ok(Some(Durability::Replica)),
        Ok(wire::Durability::Disk) => Ok(Some(Durability::Disk)),
        Err(_) => Err(Refusal::invalid(format!("{field}: no such durability"))),
    }
}

/// Where something stands, as a caller is told.
pub(crate) fn result(at: Position, durability: Durability, repeated: bool) -> StoredResult {
    let durability = match durability {
        Durability::Memory => wire::Durability::Memory,
        Durability::Replica => wire::Durability::Replica,
        Durability::Disk => wire::Durability::Disk,
    };
    let (term, seq, durability) = (at.term, at.seq, durability.into());
    StoredResult { term, seq, durability, repeated, error: 0 }
}

/// Checks the batch and takes its places. On an error nothing is stored. `turns`: of the stream that it
/// came on, whose messages are stored in order for each device.
pub(crate) fn submit(
    core: &Core,
    by: &Credential,
    request: BatchUnicastRequest,
    turns: Option<&Arc<Turns>>,
) -> Result<Submitted, Refusal> {
    let now_ms = core.clock.now_ms();
    let push_id = message::push_id(request.push_id.clone())?;
    let (tag, options) = (request.tag, options(request.store.clone(), &by.inbox, now_ms)?);
    let kind = (options.collapse_key.as_ref(), options.priority);
    let metrics = &core.metrics.compression;
    let mut pushes: Vec<Parcel> = Vec::new();
    let mut at = Vec::new();
    let mut bytes = 0;
    let key = |device: &str| Key::device(&by.app, device).map_err(|why| Refusal::id("device", why));
    match Targets::of(request)? {
        Targets::One { message, devices } => {
            let stored = Arc::new(message::storable(message, push_id.clone(), kind, by, metrics)?);
            bytes += stored.len();
            let mut seen = HashMap::with_hasher(RandomState::default());
            for device in devices {
                match seen.entry(device.clone()) {
                    Entry::Occupied(first) => at.push(*first.get()),
                    Entry::Vacant(place) => {
                        at.push(pushes.len());
                        place.insert(pushes.len());
                        let (key, stored) = (key(&device)?, stored.clone());
                        let push_id = push_id.clone();
                        pushes.push(Parcel { key, device, push_id, kept: stored, place: None });
                    }
                }
            }
        }
        Targets::Each(targets) => {
            for target in targets {
                let push_id = match target.push_id {
                    id if id.is_empty() => push_id.clone(),
                    id => message::push_id(id)?,
                };
                let stored = message::storable(target.message, push_id.clone(), kind, by, metrics)?;
                bytes += stored.len();
                let (device, stored) = (target.device, Arc::new(stored));
                at.push(pushes.len());
                let key = key(&device)?;
                pushes.push(Parcel { key, device, push_id, kept: stored, place: None });
            }
        }
    }
    // A KiB for each target beside its body.
    let kib = (bytes.div_ceil(1024) + pushes.len()) as u32;
    let full = |_| Refusal::from(StoreError::Overloaded);
    let room = core.storing_kib.clone().try_acquire_many_owned(kib).map_err(full)?;
    // One device may be named more than once, in one call with a body each or in many of one stream.
    let own = Arc::new(Turns::default());
    let turns = turns.unwrap_or(&own);
    for push in &mut pushes {
        push.place = Some(turns.take(&push.key));
    }
    let acked_by = (!options.wait_ack.is_zero()).then(|| Instant::now() + options.wait_ack);
    let (app, business, bounds) = (by.app.clone(), by.number, by.inbox);
    let shared = Arc::new(Shared { app, business, bounds, options, _room: room });
    Ok(Submitted { shared, pushes, at, acked_by, tag, push_id })
}

impl Submitted {
    /// Waits until all are stored or are not, and if it was asked for until the devices have acknowledged.
    /// An error: the store took none, and certainly so.
    pub(crate) async fn wait(self, core: &Arc<Core>) -> Result<BatchUnicastResponse, Refusal> {
        let shared = &self.shared;
        let told: Vec<Told> = stream::iter(self.pushes)
            .map(|push| one(core, shared, push))
            .buffered(TOGETHER)
            .collect()
            .await;
        let is_refused = |told: &Told| matches!(told, Told::Failed(source) if source.is_refusal());
        if let Some(Told::Failed(source)) = told.first()
            && told.iter().all(is_refused)
        {
            return Err(source.clone().into());
        }
        let told = join_all(told.into_iter().map(|told| answer(core, told, self.acked_by))).await;
        let outcomes: Vec<i32> = self.at.iter().map(|&at| told[at].0.into()).collect();
        let stored = self.at.iter().map(|&at| told[at].1).collect();
        let totals = totals(&outcomes, |outcome, count| {
            core.metrics.stored_outcomes.count(outcome, count);
        });
        let (tag, push_id) = (self.tag, self.push_id);
        Ok(BatchUnicastResponse { tag, outcomes, totals, push_id, stored, ..Default::default() })
    }
}

/// Outcome and place of one target, once nothing more is waited for.
async fn answer(core: &Core, told: Told, acked_by: Option<Instant>) -> (Outcome, StoredResult) {
    let nowhere = StoredResult::default();
    let (appended, durability, waits) = match told {
        Told::Done { appended, durability, waits } => (appended, durability, waits),
        Told::Failed(source) => {
            let error = if source.is_refusal() { Refusal::from(source).code.number() } else { 0 };
            return (Outcome::Unknown, StoredResult { error, ..nowhere });
        }
    };
    match appended {
        Appended::Stored { position, .. } => {
            let mut outcome = Outcome::Stored;
            if let Some(((call, sent), until)) = waits.zip(acked_by) {
                let stop = core.push_tasks.stop_signal();
                tokio::select! {
                    (outcomes, _) = call.wait(until) => {
                        if outcomes.first() == Some(&Outcome::Acked.into()) {
                            outcome = Outcome::Acked;
                        }
                    }
                    () = stop.cancelled() => {}
                }
                drop(sent);
            }
            (outcome, result(position, durability, false))
        }
        Appended::Repeated { position } => (Outcome::Stored, result(position, durability, true)),
        Appended::Reused => {
            let error = ErrorCode::PushIdReused.number();
            (Outcome::Denied, StoredResult { error, ..nowhere })
        }
        Appended::Expired => (Outcome::Expired, nowhere),
        Appended::Overflow => (Outcome::Overflow, nowhere),
        // Of histories alone.
        Appended::NoHistory => (Outcome::Unknown, nowhere),
    }
}
