//! One stored push, from its turn to the wake-up of its device.

use super::{Parcel, Shared, Told};
use crate::answer::{Outcomes, Waiter};
use crate::blob::{self, Placed};
use crate::core::Core;
use crate::inbox::{self, Appended, NewEntry};
use crate::key::Key;
use crate::node::deliver::{NotSent, Sent};
use crate::reach::{Call, PATIENCE_MAX};
use crate::store::StoreError;
use crate::turns::Turn;
use crate::whereabouts::{self, Whereabouts};
use hawser_proto::id::Position;
use hawser_proto::rpc::node::{self, Delivery};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Has one target stored, and waits for it in time.
pub(super) async fn one(core: &Arc<Core>, shared: &Arc<Shared>, mut push: Parcel) -> Told {
    let patience = core.reach.timeout();
    let turn = match push.place.take() {
        Some(place) => match tokio::time::timeout(patience, place.turn()).await {
            Ok(turn) => Some(turn),
            // What came before it hangs; this one was not begun.
            Err(_) => return Told::Failed(StoreError::Overloaded),
        },
        None => None,
    };
    let (tell, told) = oneshot::channel();
    let (of, shared) = (core.clone(), shared.clone());
    core.push_tasks.spawn_light(async move {
        let told = store(&of, &shared, &push, turn).await;
        let is_in_doubt = matches!(&told, Told::Failed(source) if !source.is_refusal());
        // Nobody waits: then nobody waits for the device's acknowledgement either.
        let _ = tell.send(told);
        if is_in_doubt {
            hint(&of, &push.key).await;
        }
    });
    match tokio::time::timeout(patience, told).await {
        Ok(Ok(told)) => told,
        _ => Told::Failed(StoreError::Timeout),
    }
}

/// Stores one push and wakes its device.
async fn store(core: &Arc<Core>, shared: &Shared, push: &Parcel, turn: Option<Turn>) -> Told {
    let options = &shared.options;
    let new = NewEntry {
        push_id: push.push_id.clone(),
        digest: push.kept.digest,
        expires_at_ms: options.expires_at_ms,
        collapse_key: options.collapse_key.clone(),
        priority: options.priority,
        blob: push.kept.blob(core.keeps_compressed).clone(),
    };
    let (caps, now_ms) = (shared.bounds.caps, core.clock.now_ms());
    let asked =
        core.store.append(&push.key, shared.business, new, caps, options.durability, now_ms);
    let done = core.reach.ask(Call::Append, asked).await;
    let told = match done {
        Ok((appended, durability)) => {
            let waits = match &appended {
                Appended::Stored { position, prev, owner: Some(owner) } => {
                    wake(core, shared, push, (*position, *prev), owner)
                }
                _ => None,
            };
            Told::Done { appended, durability, waits }
        }
        Err(source) => Told::Failed(source),
    };
    // Only now may the next one to this device be stored: its wake-up leaves behind this one's.
    drop(turn);
    told
}

/// Tells the node that holds the device, with the push itself, which it writes if nothing is in between.
fn wake(
    core: &Core,
    shared: &Shared,
    push: &Parcel,
    (position, prev): (Position, Position),
    owner: &inbox::Session,
) -> Option<(Arc<Outcomes>, Sent)> {
    let steady_ms = core.clock.steady_ms();
    let at = owner.owner.at;
    // A node that this router does not reach is told by nobody: its sweep, which it makes again and again while
    // a stream of its is broken, finds the push within 25 s.
    let life = core.nodes.find(&owner.owner.node, owner.owner.boot, steady_ms)?;
    // What is known of the session here spares the node a push that it would not write.
    let serves = core.table.look(&push.key, |known, route| {
        (known.life, known.at, route.epoch) != (life.no, at, owner.epoch)
            || route.serves.contains(shared.business)
    });
    if serves == Some(false) {
        return None;
    }
    let placed =
        Placed { position, prev, redelivered: false, expires_at_ms: shared.options.expires_at_ms };
    // Without a stream nothing needs to be said: a node whose stream broke asks for everything.
    let to = life.deliver()?;
    let frame = blob::push_frame(push.kept.blob(to.takes_compressed), &placed).ok()?;
    let target = node::Target {
        slot: at.slot,
        generation: at.generation,
        epoch: owner.epoch,
        device: push.device.clone(),
    };
    let delivery = Delivery {
        boot: life.boot.0,
        app: shared.app.to_string(),
        business: shared.business.0,
        frame,
        targets: vec![target],
        place: Some(place_of(position, prev)),
        priority: shared.options.priority as u32 + 1,
        ..Delivery::default()
    };
    let call = (!shared.options.wait_ack.is_zero()).then(Outcomes::stored);
    let waiter = call.clone().map(|call| Waiter::Stored { call });
    match to.wake(delivery, waiter) {
        Ok(sent) => {
            core.metrics.wakes.inc();
            call.zip(sent)
        }
        Err(NotSent::Full) => {
            core.metrics.wakes_lost.inc();
            life.want_sweep_of(at, steady_ms);
            None
        }
        Err(NotSent::Gone) => None,
    }
}

/// A place as nodes are told of it.
pub(crate) fn place_of(position: Position, prev: Position) -> node::Place {
    node::Place { term: position.term, seq: position.seq, prev_term: prev.term, prev_seq: prev.seq }
}

/// Something may have been stored, and nobody said for whom: whoever holds the device is to ask.
///
/// A session that is being bound has no route yet, and may have been told of its inboxes before: its turn
/// is waited for. One that is told of here later hears of its inboxes then. So with no route there is
/// nobody to wake if all routes are known; else the store is asked whose it is, which may be a node that has
/// not told of it yet.
async fn hint(core: &Core, key: &Key) {
    let patience = core.reach.timeout() * PATIENCE_MAX;
    let turn = tokio::time::timeout(patience, core.turns.take(key).turn()).await;
    let steady_ms = core.clock.steady_ms();
    if turn.is_err() {
        return core.nodes.sweep_all(steady_ms);
    }
    let (known, is_complete) = {
        let view = core.nodes.view(steady_ms);
        let owner = core.table.look(key, |owner, _| owner);
        let known = owner.and_then(|owner| Some((view.life(owner.life)?.clone(), owner.at)));
        (known, view.is_complete())
    };
    let known = match known {
        None if !is_complete => match whereabouts::ask(core, key).await {
            Whereabouts::Elsewhere(owner, _) => {
                let life = core.nodes.find(&owner.node, owner.boot, steady_ms);
                life.map(|life| (life, owner.at))
            }
            Whereabouts::Offline | Whereabouts::Unknown => None,
        },
        known => known,
    };
    if let Some((life, at)) = known {
        life.want_sweep_of(at, steady_ms);
    }
}
