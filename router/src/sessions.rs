//! Sessions between the access nodes and the store: claims, announcements, ends.
//!
//! The store decides; its word is brought to the [`crate::table`], then to the node, then to whoever was
//! displaced. Each runs in a task of its own, one at a time per device ([`crate::turns`]), so that the
//! reader of a control stream never waits for the store, and answers and kicks of one device leave in
//! order. While the store is away nothing is claimed; sessions that live stay where they are, and their
//! nodes tell of them again later.

use crate::core::Core;
use crate::inbox::{self, Announced, Claimed, Fenced, InboxState};
use crate::key::Key;
use crate::node::control::{ControlStream, Room};
use crate::nodes::Life;
use crate::reach::Call;
use crate::releases::{Release, release};
use crate::store::{Positions, StoreError};
use crate::table::{Bound, Owner, Serves, Session};
use crate::turns::Place;
use hawser_proto::code::CloseCode;
use hawser_proto::id::{AppId, BusinessNo, Position, SlotRef};
use hawser_proto::limits::BUSINESSES_PER_CONNECTION_MAX;
use hawser_proto::params;
use hawser_proto::rpc::node::bind_result::Status;
use hawser_proto::rpc::node::{
    Bind, BindResult, Gone, Here, InboxPosition, InboxTail, Kick, Unbind, down,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

/// An epoch is about a time of the wall clock; one further ahead would hold a device for ever.
const EPOCH_AHEAD: Duration = Duration::from_hours(24);
/// Numbers that every store compares exactly; above every position that there is.
const ALL_SENT: Position = Position { term: (1 << 53) - 1, seq: (1 << 53) - 1 };

/// A node's wish to bind, read and checked.
pub(crate) struct Wish {
    pub(crate) key: Key,
    call: u64,
    app: AppId,
    device: String,
    login: inbox::Login,
    serves: Serves,
    positions: Positions,
    /// 0: a new login.
    epoch: u64,
    stamp: u16,
}

/// Where a wish comes from, and what it holds until it is answered.
pub(crate) struct Asked {
    pub(crate) life: Arc<Life>,
    pub(crate) stream: Arc<ControlStream>,
    pub(crate) room: Room,
    pub(crate) permit: OwnedSemaphorePermit,
}

impl Wish {
    /// Reads a bind. `None`: the node sent something that no device could have made it send.
    pub(crate) fn read(core: &Core, bind: Bind, life: &Life, stamp: u16) -> Option<Self> {
        let now_ms = core.clock.now_ms();
        let app = AppId::new(&bind.app).ok()?;
        let key = Key::device(&app, &bind.device).ok()?;
        if bind.epoch > now_ms.saturating_add(EPOCH_AHEAD.as_millis() as u64) {
            return None;
        }
        let instance = bind.instance.as_ref().try_into().ok()?;
        let at = SlotRef { slot: bind.slot, generation: bind.generation };
        let owner = inbox::Owner { node: life.node.clone(), boot: life.boot, at };
        let serves = Serves::new(&bind.businesses);
        let watchers = core.known.load().watchers(&app, &serves);
        let login = inbox::Login { owner, instance, attempt: bind.attempt, watchers };
        let mut positions = positions(&bind.cursors);
        // A session reaches the inboxes of what it serves, and no others.
        positions.retain(|&(business, _)| serves.contains(business));
        let (call, device, epoch) = (bind.call, bind.device, bind.epoch);
        Some(Self { key, call, app, device, login, serves, positions, epoch, stamp })
    }

    /// The session that it wants to be.
    fn session(&self, life: &Life, epoch: u64, since_ms: u64) -> Session {
        let owner = Owner { life: life.no, stamp: self.stamp, at: self.login.owner.at };
        Session { owner, epoch, serves: self.serves.clone(), since_ms }
    }
}

/// Positions as a node names them; more than a connection can have are left out.
pub(crate) fn positions(said: &[InboxPosition]) -> Positions {
    let read = |it: &InboxPosition| (BusinessNo(it.business), Position::new(it.term, it.seq));
    said.iter().take(BUSINESSES_PER_CONNECTION_MAX).map(read).collect()
}

/// Inboxes as a node is told of them.
pub(crate) fn tails(found: &[inbox::InboxTail]) -> Vec<InboxTail> {
    let state = |state| match state {
        InboxState::Fine => params::InboxState::Unspecified,
        InboxState::TermChanged => params::InboxState::TermChanged,
        InboxState::CursorRefused => params::InboxState::CursorRefused,
    };
    let tell = |it: &inbox::InboxTail| InboxTail {
        business: it.business.0,
        tail_term: it.tail.term,
        tail_seq: it.tail.seq,
        floor_term: it.floor.term,
        floor_seq: it.floor.seq,
        state: state(it.state) as u32,
        priority: it.priority as u32 + 1,
    };
    found.iter().map(tell).collect()
}

/// The answer to a bind that bound nothing.
pub(crate) fn refused(call: u64, status: Status, epoch: u64) -> down::What {
    let inboxes = Vec::new();
    down::What::BindResult(BindResult { call, status: status.into(), epoch, inboxes })
}

/// What came of a wish.
enum Verdict {
    Bound { epoch: u64, inboxes: Vec<inbox::InboxTail>, ousted: Vec<Ousted> },
    Refused { status: Status, epoch: u64 },
}

/// A session that is one no more, and has to be told.
struct Ousted {
    life: Arc<Life>,
    at: SlotRef,
    epoch: u64,
}

/// Takes a wish to the store and answers it. `place` keeps the order of this device.
pub(crate) async fn bind(core: Arc<Core>, wish: Wish, asked: Asked, place: Place) {
    let began = Instant::now();
    let Asked { life, stream, room, permit } = asked;
    let Ok(_turn) = tokio::time::timeout(core.call_timeout, place.turn()).await else {
        core.metrics.binds.unavailable.inc();
        return room.send(refused(wish.call, Status::Unavailable, 0));
    };
    let decided = if wish.epoch == 0 {
        claim(&core, &wish, &life, &stream).await
    } else {
        core.nodes.await_announcements(&life, core.clock.steady_ms());
        announce(&core, &wish, &life).await
    };
    let verdict = decided.unwrap_or_else(|source| {
        debug!(%source, "a login could not be decided");
        if !source.is_refusal() {
            doubt(&core, &wish.key);
        }
        Verdict::Refused { status: Status::Unavailable, epoch: 0 }
    });
    let binds = &core.metrics.binds;
    match verdict {
        Verdict::Bound { epoch, inboxes, ousted } => {
            binds.ok.inc();
            if core.known.load().is_watched(&wish.app) {
                core.events.wake(&wish.key);
            }
            let inboxes = tell_inboxes(&core, &wish, inboxes);
            let (call, status) = (wish.call, Status::Ok.into());
            room.send(down::What::BindResult(BindResult { call, status, epoch, inboxes }));
            // After the answer: on one node it is in order, and elsewhere it does not matter.
            for it in ousted {
                kick(&core, &wish.app, &wish.device, &it);
            }
        }
        Verdict::Refused { status, epoch } => {
            match status {
                Status::StaleAttempt => binds.stale.inc(),
                Status::Superseded => binds.superseded.inc(),
                _ => binds.unavailable.inc(),
            }
            room.send(refused(wish.call, status, epoch));
        }
    }
    drop(permit);
    core.metrics.bind_seconds.observe(began.elapsed().as_secs_f64());
}

async fn claim(
    core: &Arc<Core>,
    wish: &Wish,
    life: &Arc<Life>,
    stream: &ControlStream,
) -> Result<Verdict, StoreError> {
    let now_ms = core.clock.now_ms();
    let asked = core.store.claim(&wish.key, wish.login.clone(), wish.positions.clone(), now_ms);
    let (mut epoch, displaced, inboxes) = match core.reach.ask(Call::Claim, asked).await? {
        Claimed::Stale => return Ok(Verdict::Refused { status: Status::StaleAttempt, epoch: 0 }),
        Claimed::Bound { epoch, displaced, inboxes } => (epoch, displaced, inboxes),
    };
    // The node that asked is not there to hear it. It asks elsewhere, and gets the same session, or ends it; one
    // of an earlier release does not end it.
    if stream.is_cut() {
        if !life.tells_all() {
            end(core, wish, epoch);
        }
        return Err(StoreError::Timeout);
    }
    let mut replaced = None;
    loop {
        match core.table.bind(&wish.key, wish.session(life, epoch, now_ms)) {
            Bound::Taken { fresh, replaced: before } => {
                count(core, &wish.app, life, fresh, before);
                replaced = replaced.or(before);
                break;
            }
            // A session is known here that is above this one. Either the store has forgotten it: it went back
            // in time, and its clock is behind as well. Epochs only grow, so this one goes above. Or it is of a
            // later login that another router took, and word of it was faster than the store's answer to this
            // one: then the store names that one by now.
            Bound::Behind { epoch: known } => {
                let above = known.saturating_add(1);
                let claimed = inbox::Session { owner: wish.login.owner.clone(), epoch };
                let is_watched = !wish.login.watchers.is_empty();
                let asked = core.store.raise(&wish.key, claimed, above, is_watched, now_ms);
                let status = match core.reach.ask(Call::Announce, asked).await? {
                    Ok(()) => {
                        epoch = above;
                        continue;
                    }
                    Err(Fenced::Superseded) => Status::Superseded,
                    Err(Fenced::Forgotten) => Status::Unavailable,
                };
                return Ok(Verdict::Refused { status, epoch: 0 });
            }
        }
    }
    Ok(Verdict::Bound { epoch, inboxes, ousted: ousted(core, displaced, replaced) })
}

async fn announce(core: &Arc<Core>, wish: &Wish, life: &Arc<Life>) -> Result<Verdict, StoreError> {
    let now_ms = core.clock.now_ms();
    // An epoch is the time when its session began, unless clocks were set back in between.
    let session = |epoch: u64| wish.session(life, epoch, epoch.min(now_ms));
    let told = session(wish.epoch);
    // A session that ended and came back has another epoch, and its node has to hear which: one of an earlier
    // release would not heed it, and whatever it said from then on would be refused. Nor does a session come
    // back above a later one that the store has forgotten.
    let may_raise = life.tells_all() && !core.table.has_later(&wish.key, &told.owner, wish.epoch);
    let (login, sent) = (wish.login.clone(), wish.positions.clone());
    let asked = core.store.announce(&wish.key, wish.epoch, login, sent, may_raise, now_ms);
    match core.reach.ask(Call::Announce, asked).await {
        Ok(Announced::Bound { epoch, displaced, inboxes }) => {
            if epoch != wish.epoch {
                core.metrics.epochs_raised.inc();
            }
            match core.table.bind(&wish.key, session(epoch)) {
                Bound::Taken { fresh, replaced } => {
                    count(core, &wish.app, life, fresh, replaced);
                    let ousted = ousted(core, displaced, replaced);
                    Ok(Verdict::Bound { epoch, inboxes, ousted })
                }
                // The store went back in time; a newer one is still known here, and will say so.
                Bound::Behind { epoch } => {
                    Ok(Verdict::Refused { status: Status::Superseded, epoch })
                }
            }
        }
        Ok(Announced::Superseded { epoch: newer }) => {
            if core.table.release(&wish.key, life.no, wish.login.owner.at, wish.epoch) {
                life.count(&wish.app, false);
            }
            Ok(Verdict::Refused { status: Status::Superseded, epoch: newer })
        }
        Err(source) => {
            if core.table.vouch(&wish.key, told) == Some(true) {
                life.count(&wish.app, true);
            }
            Err(source)
        }
    }
}

fn count(core: &Core, app: &AppId, life: &Life, fresh: bool, replaced: Option<(Owner, u64)>) {
    if fresh {
        life.count(app, true);
    }
    if let Some((owner, _)) = replaced
        && let Some(life) = core.nodes.view(core.clock.steady_ms()).life(owner.life)
    {
        life.count(app, false);
    }
}

/// The store may have given the device to a connection that will never be its session. Whoever is known to
/// have it asks for its inboxes, and learns whether it has it still.
fn doubt(core: &Core, key: &Key) {
    let steady_ms = core.clock.steady_ms();
    let view = core.nodes.view(steady_ms);
    let Some(owner) = core.table.look(key, |owner, _| owner) else { return };
    if let Some(life) = view.life(owner.life) {
        life.want_sweep_of(owner.at, steady_ms);
    }
}

/// Who has to be told: the one that the store names, and the one that was known here. Mostly they are the
/// same. A node that cannot be heard learns it when it tells of its sessions again.
fn ousted(
    core: &Core,
    displaced: Option<inbox::Session>,
    replaced: Option<(Owner, u64)>,
) -> Vec<Ousted> {
    let mut ousted = Vec::new();
    if let Some(inbox::Session { owner, epoch }) = displaced
        && let Some(life) = core.nodes.find(&owner.node, owner.boot, core.clock.steady_ms())
    {
        ousted.push(Ousted { life, at: owner.at, epoch });
    }
    if let Some((owner, epoch)) = replaced
        && let Some(life) = core.nodes.view(core.clock.steady_ms()).life(owner.life)
        && !ousted.iter().any(|it| it.life.no == life.no && (it.at, it.epoch) == (owner.at, epoch))
    {
        ousted.push(Ousted { life: life.clone(), at: owner.at, epoch });
    }
    ousted
}

/// Tells the older connection that a newer login took over.
fn kick(core: &Core, app: &AppId, device: &str, ousted: &Ousted) {
    let Some(stream) = ousted.life.control() else { return };
    core.metrics.superseded.inc();
    stream.tell(down::What::Kick(Kick {
        call: 0,
        app: app.to_string(),
        device: device.to_owned(),
        slot: ousted.at.slot,
        generation: ousted.at.generation,
        epoch: ousted.epoch,
        code: CloseCode::Superseded.number().into(),
        reason: "a newer login of this device took over".to_owned(),
        boot: ousted.life.boot.0,
    }));
}

/// What the node is told of the inboxes of its session.
fn tell_inboxes(core: &Core, wish: &Wish, mut found: Vec<inbox::InboxTail>) -> Vec<InboxTail> {
    found.retain(|it| wish.serves.contains(it.business));
    for it in &found {
        match it.state {
            InboxState::Fine => {}
            InboxState::TermChanged => core.metrics.terms_changed.inc(),
            InboxState::CursorRefused => core.metrics.cursors_refused.inc(),
        }
    }
    tails(&found)
}

fn end(core: &Arc<Core>, wish: &Wish, epoch: u64) {
    let session = inbox::Session { owner: wish.login.owner.clone(), epoch };
    let is_watched = !wish.login.watchers.is_empty();
    let sent = Positions::new();
    release(core, Release { key: wish.key, session, sent, is_watched }, None);
}

/// A node says that a session has ended.
pub(crate) fn unbind(core: &Arc<Core>, life: &Life, unbind: &Unbind) {
    let Ok(app) = AppId::new(&unbind.app) else { return };
    let Ok(key) = Key::device(&app, &unbind.device) else { return };
    let at = SlotRef { slot: unbind.slot, generation: unbind.generation };
    let is_watched = core.known.load().is_watched(&app);
    if core.table.release(&key, life.no, at, unbind.epoch) {
        life.count(&app, false);
        core.metrics.unbinds.inc();
    } else {
        core.metrics.unbinds_stale.inc();
    }
    // The store compares for itself: it may know of this session what is not known here.
    let owner = inbox::Owner { node: life.node.clone(), boot: life.boot, at };
    let session = inbox::Session { owner, epoch: unbind.epoch };
    let sent = positions(&unbind.sent);
    let place = core.turns.take(&key);
    release(core, Release { key, session, sent, is_watched }, Some(place));
}

/// A session lives on a node whose claim another router took to the store. Nobody is asked, and a route with a
/// higher epoch stays.
pub(crate) fn here(core: &Core, life: &Arc<Life>, stamp: u16, here: &Here) {
    let now_ms = core.clock.now_ms();
    let ahead_ms = EPOCH_AHEAD.as_millis() as u64;
    let key = AppId::new(&here.app)
        .and_then(|app| Ok((Key::device(&app, &here.device)?, app)))
        .ok()
        .filter(|_| here.epoch > 0 && here.epoch <= now_ms.saturating_add(ahead_ms));
    let Some((key, app)) = key else { return core.metrics.binds.malformed.inc() };
    core.metrics.heres.inc();
    core.nodes.await_announcements(life, core.clock.steady_ms());
    let at = SlotRef { slot: here.slot, generation: here.generation };
    let owner = Owner { life: life.no, stamp, at };
    // The epoch is the time of the login, unless clocks were set back in between.
    let (epoch, since_ms) = (here.epoch, here.epoch.min(now_ms));
    let session = Session { owner, epoch, serves: Serves::new(&here.businesses), since_ms };
    let Bound::Taken { fresh, replaced } = core.table.bind(&key, session) else {
        if core.table.has_later(&key, &owner, epoch) {
            // Its node could not be heard when a later one took over.
            kick(core, &app, &here.device, &Ousted { life: life.clone(), at, epoch });
        }
        return;
    };
    count(core, &app, life, fresh, replaced);
    // Whoever took the claim has told the older session, unless it does not reach that node. Nobody here knows
    // whether it does, and word that comes twice finds no session. On one node it certainly did: the claim
    // came from there.
    let Some((before, older)) = replaced.filter(|(before, _)| before.life != life.no) else {
        return;
    };
    let view = core.nodes.view(core.clock.steady_ms());
    if older < epoch
        && let Some(other) = view.life(before.life)
    {
        let ousted = Ousted { life: other.clone(), at: before.at, epoch: older };
        kick(core, &app, &here.device, &ousted);
    }
}

/// A session has ended on a node that tells another router, and with it the store.
pub(crate) fn gone(core: &Core, life: &Life, gone: &Gone) {
    let Ok(app) = AppId::new(&gone.app) else { return };
    let Ok(key) = Key::device(&app, &gone.device) else { return };
    let at = SlotRef { slot: gone.slot, generation: gone.generation };
    if core.table.release(&key, life.no, at, gone.epoch) {
        life.count(&app, false);
        core.metrics.gones.inc();
    }
}

/// A live node has no such session: word of its end was lost, and nobody knows how far it was written to.
pub(crate) fn lost(
    core: &Arc<Core>,
    key: Key,
    life: &Life,
    (at, epoch): (SlotRef, u64),
    serves: &Serves,
) {
    let owner = inbox::Owner { node: life.node.clone(), boot: life.boot, at };
    let session = inbox::Session { owner, epoch };
    let sent = serves.iter().map(|business| (business, ALL_SENT)).collect();
    let app = crate::key::split(key.as_bytes()).and_then(|(app, _)| AppId::new(app).ok());
    let is_watched = app.is_some_and(|app| core.known.load().is_watched(&app));
    release(core, Release { key, session, sent, is_watched }, None);
}
