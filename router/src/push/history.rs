//! Pushes to groups with a history: into the history first, then one frame to every node with members, in
//! the order of positions ([`crate::groups::outlet`]).

use crate::answer::Tally;
use crate::auth::Credential;
use crate::blob;
use crate::core::Core;
use crate::group_writer::{self, ChangeError};
use crate::groups::Group;
use crate::inbox::{Appended, Batch, Caps, Limits, NewEntry, Priority};
use crate::key::Key;
use crate::node::deliver::Sent;
use crate::push::encoded::Encoded;
use crate::push::fanout;
use crate::push::message::{self, Storable};
use crate::push::stored::{durability, place_of, result};
use crate::reach::Call;
use crate::refusal::Refusal;
use crate::store::{Durability, HistoryCaps, StoreError};
use bytes::Bytes;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, BusinessNo, Position};
use hawser_proto::limits::{
    FRAME_BYTES_MAX_DEFAULT, HISTORY_AGE_DEFAULT, HISTORY_ENTRIES_DEFAULT, HISTORY_ENTRIES_MAX,
    INBOX_BYTES_MAX, INBOX_TTL_MAX,
};
use hawser_proto::rpc::node::{Delivery, Place};
use hawser_proto::rpc::push::{History, MulticastRequest, MulticastResponse, StoredResult};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Only where a history begins and ends.
pub(crate) const TAIL_ONLY: Limits = Limits { entries_max: 0, bytes_max: 0 };

/// Longest that a history keeps an entry.
const AGE_MAX_MS: u64 = INBOX_TTL_MAX.as_millis() as u64;

/// A push that is stored and on its way to the nodes.
pub(crate) struct Outgoing {
    app: AppId,
    business: BusinessNo,
    group: String,
    frame: Encoded,
    place: Place,
    handed: oneshot::Sender<Handed>,
}

/// What was handed to the nodes.
pub(crate) type Handed = (Arc<Tally>, Vec<Sent>);

/// Checks the bounds of a new history.
pub(crate) fn caps(said: Option<History>) -> Result<Option<HistoryCaps>, Refusal> {
    let Some(said) = said else { return Ok(None) };
    if said.entries_max > HISTORY_ENTRIES_MAX {
        return Err(Refusal::invalid("history.entries_max: at most 10,000"));
    }
    if said.age_ms_max > AGE_MAX_MS {
        return Err(Refusal::invalid("history.age_ms_max: at most 7 days"));
    }
    let or = |said: u64, default: u64| if said == 0 { default } else { said };
    Ok(Some(HistoryCaps {
        entries_max: or(said.entries_max.into(), HISTORY_ENTRIES_DEFAULT.into()) as u32,
        age_ms_max: or(said.age_ms_max, HISTORY_AGE_DEFAULT.as_millis() as u64),
    }))
}

/// The bounds as they are told.
pub(crate) fn told(caps: HistoryCaps) -> History {
    History { entries_max: caps.entries_max, age_ms_max: caps.age_ms_max }
}

/// One publish on its way through the store.
struct Publish {
    core: Arc<Core>,
    group: Arc<Group>,
    key: Key,
    name: String,
    app: AppId,
    business: BusinessNo,
    push_id: Bytes,
    stored: Storable,
    durability: Option<Durability>,
    caps: HistoryCaps,
}

/// What the store said, and what was handed to the nodes unless nothing was added.
type Said = Result<(Appended, Durability, oneshot::Receiver<Handed>), StoreError>;

/// Pushes to the members of a history group, behind everything that is in its history.
pub(crate) async fn multicast(
    core: &Arc<Core>,
    by: &Credential,
    (key, group, caps): (Key, Arc<Group>, HistoryCaps),
    request: MulticastRequest,
) -> Result<MulticastResponse, Refusal> {
    let push_id = message::push_id(request.push_id)?;
    let durability = durability("durability", request.durability)?;
    let name = request.group;
    let stored = message::publishable(
        request.message,
        push_id.clone(),
        name.clone(),
        by,
        &core.metrics.compression,
    )?;
    let kib = stored.len().div_ceil(1024) as u32 + 1;
    let Ok(room) = core.storing_kib.clone().try_acquire_many_owned(kib) else {
        return Err(StoreError::Overloaded.into());
    };
    let (app, business) = (by.app.clone(), by.number);
    let publish = Publish {
        core: core.clone(),
        group: group.clone(),
        key,
        name,
        app,
        business,
        push_id: push_id.clone(),
        stored,
        durability,
        caps,
    };
    let (tell, said) = oneshot::channel::<Said>();
    // A task of its own: what was stored reaches the members also when nobody waits for it any more.
    core.push_tasks.spawn_light(async move {
        let _ = tell.send(publish.run().await);
        drop(room);
    });
    let said = match tokio::time::timeout(core.reach.timeout(), said).await {
        Ok(Ok(said)) => said,
        _ => Err(StoreError::Timeout),
    };
    let (appended, durability, handed) = said?;
    let response = |stored: StoredResult| MulticastResponse {
        push_id: push_id.clone(),
        stored: Some(stored),
        ..MulticastResponse::default()
    };
    match appended {
        Appended::Stored { position, .. } => {
            let response = response(result(position, durability, false));
            match tokio::time::timeout(core.call_timeout, handed).await {
                Ok(Ok((tally, sent))) => Ok(fanout::counted(core, &tally, sent, response).await),
                // It waits for one before it, and leaves behind that.
                _ => Ok(response),
            }
        }
        Appended::Repeated { position } => Ok(response(result(position, durability, true))),
        Appended::Reused => {
            Err(Refusal::new(ErrorCode::PushIdReused, "the push id was used for another content"))
        }
        Appended::Overflow | Appended::Expired => {
            Err(Refusal::too_large("message: above what the group's history may hold"))
        }
        Appended::NoHistory => Err(changed(core, by, &key, &group).await?),
    }
}

/// Why a group that is known here has no history: another router changed it.
async fn changed(
    core: &Core,
    by: &Credential,
    key: &Key,
    known: &Arc<Group>,
) -> Result<Refusal, Refusal> {
    Ok(match group_writer::find_anew(core, key).await? {
        Some(found) if found.owner != by.number => {
            Refusal::new(ErrorCode::PermissionDenied, "the group belongs to another business")
        }
        Some(found) if !Arc::ptr_eq(&found, known) => {
            Refusal::new(ErrorCode::Unavailable, "the group was made anew just now: push again")
        }
        _ => Refusal::new(ErrorCode::GroupNotFound, "there is no such group"),
    })
}

/// A part of a history, of the group as it is in the store: where that is another one than is known here, it is
/// read anew and asked for its history, once. `None`: the store has no such group (any more), or lost it; no batch:
/// it keeps no history.
pub(crate) async fn read(
    core: &Core,
    key: &Key,
    mut group: Arc<Group>,
    after: Position,
    limits: Limits,
) -> Result<Option<(Arc<Group>, Option<Batch>)>, ChangeError> {
    let mut is_read = false;
    loop {
        if group.history.is_none() {
            return Ok(Some((group, None)));
        }
        let of = group.meta();
        let asked = core.store.history(key, &of, after, limits, core.clock.now_ms());
        let batch = core.reach.ask(Call::History, asked).await?;
        // No history that is there stands at the start.
        if batch.tail > Position::START || is_read {
            return Ok(Some((group, Some(batch))));
        }
        match group_writer::find_anew(core, key).await? {
            Some(found) if Arc::ptr_eq(&found, &group) => return Ok(Some((group, Some(batch)))),
            Some(found) => group = found,
            None => return Ok(None),
        }
        is_read = true;
    }
}

/// A ticket of the group's outlet, which comes back however the publish ends.
struct Ticket<'a> {
    core: &'a Core,
    group: &'a Group,
    number: Option<u64>,
}

impl<'a> Ticket<'a> {
    fn take(core: &'a Core, group: &'a Group) -> Self {
        let number = Some(group.outlet.lock().begin());
        Self { core, group, number }
    }

    fn stored(mut self, position: Position, prev: Position, push: Outgoing) {
        let Some(number) = self.number.take() else { return };
        let mut outlet = self.group.outlet.lock();
        let leaving = outlet.stored(number, position, prev, push);
        // Handed out under the lock, so that nobody overtakes; the streams never wait.
        for push in leaving {
            push.hand_out(self.core, self.group);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            let mut outlet = self.group.outlet.lock();
            let leaving = outlet.given_up(number);
            for push in leaving {
                push.hand_out(self.core, self.group);
            }
        }
    }
}

impl Publish {
    async fn run(self) -> Said {
        let core = &self.core;
        let now_ms = core.clock.now_ms();
        let new = NewEntry {
            push_id: self.push_id.clone(),
            digest: self.stored.digest,
            expires_at_ms: now_ms.saturating_add(self.caps.age_ms_max),
            collapse_key: Bytes::new(),
            priority: Priority::Normal,
            blob: self.stored.blob(core.keeps_compressed).clone(),
        };
        let bytes_max = u64::from(self.caps.entries_max) * FRAME_BYTES_MAX_DEFAULT as u64;
        let caps = Caps {
            entries_max: self.caps.entries_max,
            // One frame of the largest app fits into the smallest history.
            bytes_max: bytes_max.clamp(2 << 20, INBOX_BYTES_MAX),
            drops_oldest: true,
        };
        let ticket = Ticket::take(core, &self.group);
        let of = self.group.meta();
        let asked = core.store.publish(&self.key, &of, new, caps, self.durability, now_ms);
        let done = core.reach.ask(Call::Publish, asked).await;
        let (handed, handed_out) = oneshot::channel();
        match done {
            Ok((appended, durability)) => {
                if let Appended::Stored { position, prev, .. } = appended
                    && let Ok(frame) = blob::group_frame(self.stored.blob(true), position, prev)
                {
                    let (frame, place) = (Encoded::new(frame), place_of(position, prev));
                    let (app, business, group) = (self.app, self.business, self.name);
                    let push = Outgoing { app, business, group, frame, place, handed };
                    ticket.stored(position, prev, push);
                }
                Ok((appended, durability, handed_out))
            }
            Err(source) => {
                if !source.is_refusal() {
                    // It may be there, and no member's node was told.
                    let steady_ms = core.clock.steady_ms();
                    for life in self.group.nodes(&core.nodes, steady_ms) {
                        life.want_sweep(steady_ms);
                    }
                }
                Err(source)
            }
        }
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Outgoing {
    fn hand_out(self, core: &Core, group: &Group) {
        let Self { app, business, group: name, frame, place, handed } = self;
        let steady_ms = core.clock.steady_ms();
        group.pushed(steady_ms);
        let lives = group.nodes(&core.nodes, steady_ms);
        let of = (app.as_str(), business);
        let done = fanout::send(core, of, &frame, &lives, false, |_, delivery| Delivery {
            group: name.clone(),
            place: Some(place),
            ..delivery
        });
        let _ = handed.send(done);
    }
}
