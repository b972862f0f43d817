//! What nodes ask of the store: pulls, acknowledgements, sweeps, histories.
//!
//! Each is answered once, on the stream that it came on, from a task of its own; how many run at a time and
//! how many bytes their answers may hold is bounded per node. Which node and which of its process starts
//! asks is taken from the stream and never from the question, so that no node can move another's inbox.

use crate::auth::frame_bytes_max;
use crate::blob::{self, Placed};
use crate::core::Core;
use crate::functions::Functions;
use crate::group_writer::{self, ChangeError, Look};
use crate::inbox::{Batch, Fenced, Fetched, Limits, LostReason, Owner, Session};
use crate::key::Key;
use crate::node::deliver::{ANSWERS_KIB_MAX, DeliverStream};
use crate::nodes::Life;
use crate::reach::Call;
use crate::sessions::{positions, tails};
use crate::store::StoreError;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use hawser_proto::compressed::{is_compressed, plain_bytes, plain_frame};
use hawser_proto::id::{AppId, BusinessNo, Position, SlotRef};
use hawser_proto::limits::FRAME_BYTES_MAX_DEFAULT;
use hawser_proto::params::GapReason;
use hawser_proto::rpc::node::answer::Status;
use hawser_proto::rpc::node::{
    self as wire, Ack, Answer, Ask, Entry, Place, Pull, PullHistory, Sweep, Swept, ask,
};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Entries of one answer, whatever was asked for.
const ENTRIES_MAX: u32 = 64;
/// Bytes of blobs of one answer, whatever was asked for. One larger entry comes alone.
const BYTES_MAX: u32 = 512 * 1024;
/// Sessions of one sweep; nodes send 64.
const SWEEP_SESSIONS_MAX: usize = 256;
/// Sessions of one sweep that the store is asked about at the same time.
const SWEPT_TOGETHER: usize = 16;
/// Sessions of all sweeps that the store is asked about at the same time: enough to keep it busy, and a sixteenth of
/// what it takes, so that logins and pushes find room however many nodes sweep.
pub(crate) const SWEPT_MAX: usize = 128;
/// What an answer that holds no entries takes at most, in KiB: a sweep of 64 sessions with many inboxes.
const SMALL_KIB: u32 = 64;

/// What came of a question.
enum Said {
    /// Entries of an inbox or a history.
    Entries(Batch, Vec<Entry>),
    Swept(Vec<Swept>),
    Done,
    Refused(Status),
}

impl From<Fenced> for Said {
    fn from(fenced: Fenced) -> Self {
        Self::Refused(fenced_status(fenced))
    }
}

impl From<StoreError> for Said {
    fn from(source: StoreError) -> Self {
        debug!(%source, "a node's question could not be answered");
        Self::Refused(Status::Unavailable)
    }
}

fn fenced_status(fenced: Fenced) -> Status {
    match fenced {
        Fenced::Superseded => Status::Superseded,
        Fenced::Forgotten => Status::Forgotten,
    }
}

/// Takes a question. Never waits.
pub(crate) fn take(core: &Arc<Core>, life: &Arc<Life>, stream: &Arc<DeliverStream>, ask: Ask) {
    let call = ask.call;
    let Some(what) = ask.what else {
        // Of a later release.
        return stream.refuse(answer(call, Said::Refused(Status::Unavailable)));
    };
    core.metrics.asks.of(&what).inc();
    if !core.functions.contains(Functions::INBOX) {
        core.metrics.asks.refused.inc();
        return stream.refuse(answer(call, Said::Refused(Status::Unavailable)));
    }
    let Ok(place) = stream.asks.clone().try_acquire_owned() else {
        core.metrics.asks.refused.inc();
        return stream.refuse(answer(call, Said::Refused(Status::Unavailable)));
    };
    let (of, life, stream) = (core.clone(), life.clone(), stream.clone());
    core.tasks.spawn_light(async move {
        // Room for its bytes first, as much as it may bring; what it does not need goes back.
        let kib = kib_of(&of, &what);
        let room = stream.answer_kib.clone().acquire_many_owned(kib);
        let Ok(Ok(mut room)) = tokio::time::timeout(of.call_timeout, room).await else {
            of.metrics.asks.refused.inc();
            return stream.answer(answer(call, Said::Refused(Status::Unavailable)), vec![place]);
        };
        let said = match what {
            ask::What::Pull(it) => pull(&of, &life, it).await,
            ask::What::Ack(it) => ack(&of, &life, it).await,
            ask::What::Sweep(it) => sweep(&of, &life, it).await,
            ask::What::History(it) => history(&of, it).await,
        };
        let answer = answer(call, said);
        shrink(&mut room, kib, &answer);
        stream.answer(answer, vec![place, room]);
    });
}

fn kib_of(core: &Core, what: &ask::What) -> u32 {
    let (app, bytes_max) = match what {
        ask::What::Pull(it) => (it.session.as_ref().map(|it| it.app.as_str()), it.bytes_max),
        // Of its tail alone.
        ask::What::History(it) if it.entries_max == 0 => return 1,
        ask::What::History(it) => (Some(it.app.as_str()), it.bytes_max),
        ask::What::Ack(_) => return 1,
        ask::What::Sweep(_) => return SMALL_KIB,
    };
    // One entry may come alone that is above `bytes_max`; none is above what its app allows.
    let app = app.and_then(|app| AppId::new(app).ok());
    let frame_max = app.map_or(FRAME_BYTES_MAX_DEFAULT, |app| {
        frame_bytes_max(core.known.load().catalogue.app(&app).map(|app| &**app))
    });
    bytes_max.min(BYTES_MAX).max(frame_max as u32).div_ceil(1024) + 1
}

/// Gives back the room that the answer does not need.
fn shrink(room: &mut OwnedSemaphorePermit, kib: u32, answer: &Answer) {
    let bytes: usize = answer.entries.iter().map(|entry| entry.frame.len()).sum();
    let needed = bytes.div_ceil(1024).min(ANSWERS_KIB_MAX) + 1;
    if answer.swept.is_empty()
        && let Some(spare) = (kib as usize).checked_sub(needed).filter(|&spare| spare > 0)
    {
        drop(room.split(spare));
    }
}

fn answer(call: u64, said: Said) -> Answer {
    let status = |status: Status| status.into();
    match said {
        Said::Entries(batch, entries) => Answer {
            call,
            status: status(Status::Ok),
            entries,
            tail_term: batch.tail.term,
            tail_seq: batch.tail.seq,
            floor_term: batch.floor.term,
            floor_seq: batch.floor.seq,
            swept: Vec::new(),
        },
        Said::Swept(swept) => {
            Answer { call, status: status(Status::Ok), swept, ..Answer::default() }
        }
        Said::Done => Answer { call, status: status(Status::Ok), ..Answer::default() },
        Said::Refused(why) => Answer { call, status: status(why), ..Answer::default() },
    }
}

/// The session that a question is about, as the store must name it.
fn session_of(life: &Life, said: Option<wire::Session>) -> Option<(Key, Session)> {
    let said = said?;
    let app = AppId::new(&said.app).ok()?;
    let key = Key::device(&app, &said.device).ok()?;
    let at = SlotRef { slot: said.slot, generation: said.generation };
    let owner = Owner { node: life.node.clone(), boot: life.boot, at };
    Some((key, Session { owner, epoch: said.epoch }))
}

fn limits(entries_max: u32, bytes_max: u32) -> Limits {
    Limits { entries_max: entries_max.min(ENTRIES_MAX), bytes_max: bytes_max.min(BYTES_MAX) }
}

async fn pull(core: &Core, life: &Life, pull: Pull) -> Said {
    let Some((key, session)) = session_of(life, pull.session) else {
        return Said::Refused(Status::Unavailable);
    };
    let (business, after) = (BusinessNo(pull.business), Position::new(pull.term, pull.seq));
    let limits = limits(pull.entries_max, pull.bytes_max);
    let asked = core.store.fetch(&key, &session, business, after, limits, core.clock.now_ms());
    match core.reach.ask(Call::Fetch, asked).await {
        Ok(Ok(mut batch)) => {
            let items = std::mem::take(&mut batch.items);
            let form = Form { takes_compressed: pull.takes_compressed, bytes_max: pull.bytes_max };
            Said::Entries(batch, entries(core, items, Source::Inbox, form))
        }
        Ok(Err(fenced)) => fenced.into(),
        Err(source) => source.into(),
    }
}

async fn ack(core: &Core, life: &Life, ack: Ack) -> Said {
    let Some((key, session)) = session_of(life, ack.session) else {
        return Said::Refused(Status::Unavailable);
    };
    let asked = core.store.ack(&key, &session, positions(&ack.upto), core.clock.now_ms());
    match core.reach.ask(Call::Ack, asked).await {
        Ok(Ok(())) => Said::Done,
        Ok(Err(fenced)) => fenced.into(),
        Err(source) => source.into(),
    }
}

async fn sweep(core: &Core, life: &Life, sweep: Sweep) -> Said {
    if sweep.sessions.len() > SWEEP_SESSIONS_MAX {
        return Said::Refused(Status::Unavailable);
    }
    let until = Instant::now() + core.reach.timeout();
    let swept = sweep.sessions.into_iter().map(async |one| {
        let unavailable = Swept { status: Status::Unavailable.into(), inboxes: Vec::new() };
        let Some((key, session)) = session_of(life, one.session) else { return unavailable };
        let turn = tokio::time::timeout_at(until, core.sweeping.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return unavailable };
        let asked = core.store.sweep(&key, &session, positions(&one.acked), core.clock.now_ms());
        match core.reach.ask(Call::Sweep, asked).await {
            Ok(Ok(found)) => Swept { status: Status::Ok.into(), inboxes: tails(&found) },
            Ok(Err(fenced)) => Swept { status: fenced_status(fenced).into(), inboxes: Vec::new() },
            Err(_) => unavailable,
        }
    });
    Said::Swept(stream::iter(swept).buffered(SWEPT_TOGETHER).collect().await)
}

async fn history(core: &Core, pull: PullHistory) -> Said {
    let key = AppId::new(&pull.app).and_then(|app| Key::group(&app, &pull.group));
    let Ok(key) = key else { return Said::Refused(Status::NotFound) };
    let group = match group_writer::find(core, &key, Look::Lately).await {
        Ok(Some(group)) => group,
        Ok(None) => return Said::Refused(Status::NotFound),
        Err(_) => return Said::Refused(Status::Unavailable),
    };
    let (after, limits) =
        (Position::new(pull.term, pull.seq), limits(pull.entries_max, pull.bytes_max));
    match crate::push::history::read(core, &key, group, after, limits).await {
        Ok(Some((_, Some(mut batch)))) => {
            let items = std::mem::take(&mut batch.items);
            let form = Form { takes_compressed: pull.takes_compressed, bytes_max: pull.bytes_max };
            Said::Entries(batch, entries(core, items, Source::History, form))
        }
        Ok(Some((_, None))) => Said::Refused(Status::NotFound),
        Err(ChangeError::Store(source)) => source.into(),
        // `None`: deleted just now, or the store lost it; that will be known in a moment.
        Ok(None) | Err(_) => Said::Refused(Status::Unavailable),
    }
}

/// What an entry was read from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Inbox,
    History,
}

/// How the one who asks takes bodies.
#[derive(Clone, Copy)]
struct Form {
    takes_compressed: bool,
    bytes_max: u32,
}

/// Entries as the node writes them. Bodies that are made plain for it may be many times what was read: where they are
/// more than was asked for, the rest is left out, and asked for next. The first one always comes.
fn entries(core: &Core, items: Vec<Fetched>, from: Source, form: Form) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(items.len());
    let mut bytes = 0;
    for item in items {
        let (lost, reason) = (item.lost, reason_of(item.reason));
        let mut entry = entry(item, from);
        if !form.takes_compressed && is_compressed(&entry.frame) {
            let plain = plain_bytes(&entry.frame);
            if !entries.is_empty() && plain.saturating_add(bytes) > form.bytes_max as usize {
                break;
            }
            entry.frame = plain_frame(&entry.frame).unwrap_or_else(|| {
                warn!("a stored push whose body cannot be made plain is told as lost");
                entry.lost += 1;
                Bytes::new()
            });
        }
        if from == Source::Inbox {
            core.metrics.inbox_lost.of(reason).inc_by(lost);
        }
        bytes += entry.frame.len();
        entries.push(entry);
    }
    entries
}

fn reason_of(reason: LostReason) -> GapReason {
    match reason {
        LostReason::None => GapReason::Unspecified,
        LostReason::Overflow => GapReason::Overflow,
        LostReason::Expired => GapReason::Expired,
        LostReason::Purged => GapReason::Purged,
    }
}

/// An entry as it stands in the store.
fn entry(item: Fetched, from: Source) -> Entry {
    let Fetched { position, prev, entry, redelivered, lost, reason } = item;
    let reason = reason_of(reason);
    let place = Some(Place {
        term: position.term,
        seq: position.seq,
        prev_term: prev.term,
        prev_seq: prev.seq,
    });
    let mut told = Entry { place, lost, lost_reason: reason as u32, ..Entry::default() };
    let Some(entry) = entry else { return told };
    told.priority = entry.priority as u32 + 1;
    let frame = match from {
        Source::Inbox => {
            let expires_at_ms = entry.expires_at_ms;
            blob::push_frame(&entry.blob, &Placed { position, prev, redelivered, expires_at_ms })
        }
        Source::History => blob::group_frame(&entry.blob, position, prev),
    };
    match frame {
        Ok(frame) => told.frame = frame,
        Err(source) => {
            warn!(%source, "a stored push is told as lost");
            told.lost += 1;
        }
    }
    told
}
