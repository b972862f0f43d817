//! Stored pushes on their way to a device: the feed of each session, fed with what the router, the store
//! and the device say, and what it wants done. The feed lives in the connection's slot and is only touched
//! under its lock, where identity was compared first; so a stored push passes the same check at the last
//! moment as any other, and an answer counts only for the session that asked.
//!
//! Nothing here waits. Calls of the store leave through `routers::asks`.

use crate::feed::{Action, Claim, Ended, Entry, Feeds, Place, Pulled, Waiter};
use crate::frame_out::FrameOut;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::outbox::{Keep, SlowPolicy};
use crate::routers::asks::{Waits, Who};
use crate::table::{Connection, Signal, Target, Written};
use bytes::Bytes;
use hawser_proto::code::CloseCode;
use hawser_proto::compressed::{is_compressed, plain_frame};
use hawser_proto::frame::{NodeFrame, ability};
use hawser_proto::id::{AppId, BusinessNo, DeviceId, Epoch, Position, SlotRef};
use hawser_proto::params::{self, InboxState};
use hawser_proto::rpc::node as wire;
use hawser_proto::rpc::push::Outcome;

/// What a connection has beside its outbox, once there is something to keep.
#[derive(Debug, Default)]
pub(crate) struct Downlink {
    pub(crate) feeds: Feeds,
    /// Pushes of live groups that were dropped, by the groups' numbers in the lane.
    missed: Vec<(u32, u64)>,
    /// Wake-ups that were faster than the answer to the claim, the highest of each inbox.
    early: Option<Box<Early>>,
    /// Waits for leave to ask the store something, and stands in the queue of those who do.
    is_waiting: bool,
    /// What of it stands in the gauge of unacknowledged pushes.
    counted: u32,
}

/// Nearly no session has any, so it costs the others a pointer.
#[derive(Debug, Default)]
struct Early(Vec<(BusinessNo, Position, u8)>);

impl Downlink {
    /// One more push of a group was not written.
    pub(crate) fn miss(&mut self, group: u32) {
        match self.missed.iter_mut().find(|(number, _)| *number == group) {
            Some((_, count)) => *count += 1,
            None => self.missed.push((group, 1)),
        }
    }

    pub(crate) fn missed_of(&self, group: u32) -> Option<u64> {
        self.missed.iter().find(|(number, _)| *number == group).map(|&(_, count)| count)
    }

    pub(crate) fn told_missed(&mut self, group: u32) {
        self.missed.retain(|&(number, _)| number != group);
    }

    /// Whether the connection's own task should look after it now that the link has room.
    pub(crate) fn wants_turn(&self, now_ms: u64) -> bool {
        !self.is_waiting && (self.feeds.is_stopped() || self.is_due(now_ms))
    }

    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.feeds.due_ms().is_some_and(|due_ms| due_ms <= now_ms)
    }
}

/// What one turn of a feed leaves to be done outside of the slot's lock.
#[derive(Default)]
struct Rest {
    asks: Vec<Action>,
    tells: Vec<(Waiter, bool)>,
    who: Option<Who>,
    is_queued: bool,
    /// It begins to wait for leave.
    waits: bool,
    due_ms: Option<u64>,
    /// The device understands compressed bodies.
    takes_compressed: bool,
}

// === What the router says ===

/// The businesses' numbers stand for the names of a login by now: how far the device has its inboxes.
pub(crate) fn begin(connection: &mut Connection, cursors: &[(BusinessNo, Position)]) {
    for &(business, cursor) in cursors.iter().filter(|(_, cursor)| *cursor > Position::START) {
        connection.downlink_mut().feeds.begin(business, cursor);
    }
}

/// Which answer says how inboxes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// To a login: LOGIN_OK tells the device the same.
    AtLogin,
    /// To an announcement or a sweep of a session that is under way.
    Meanwhile,
}

/// How the inboxes stand.
///
/// A position that the store refuses stands for a device that would drop whatever comes below it, so the
/// device must go back to the floor, and only LOGIN_OK can tell it to. Meanwhile the session is therefore
/// closed, to log in again: going on from the floor here would write what the device drops, and going on
/// from where it stands would leave it deaf until the store's clock has caught up.
pub(crate) fn stand(connection: &mut Connection, inboxes: &[wire::InboxTail], said: Said) {
    if !connection.has(ability::INBOX) {
        return;
    }
    for inbox in inboxes {
        let business = BusinessNo(inbox.business);
        if !serves(connection, business) {
            continue;
        }
        let is_refused = inbox.state == InboxState::CursorRefused as i32 as u32;
        if is_refused && said == Said::Meanwhile {
            let reason = "the store does not know the inbox's positions".to_owned();
            connection.order(Signal::Ordered(CloseCode::Internal, reason));
            return;
        }
        let feeds = &mut connection.downlink_mut().feeds;
        if is_refused {
            feeds.begin(business, Position::new(inbox.floor_term, inbox.floor_seq));
        }
        let tail = Position::new(inbox.tail_term, inbox.tail_seq);
        feeds.tail(business, tail, inbox.priority as u8);
    }
    if let Some(downlink) = &mut connection.downlink {
        for (business, at, priority) in downlink.early.take().unwrap_or_default().0 {
            downlink.feeds.tail(business, at, priority);
        }
        downlink.feeds.hurry();
    }
}

/// Keeps word of an entry for a session whose claim is still being answered. What the store had at the
/// claim comes with the answer; what it took since comes on another stream, and may be faster. False: the
/// session has its answer, or is none.
fn remember_early(
    node: &Node,
    target: Target<'_>,
    business: BusinessNo,
    at: Position,
    priority: u8,
) -> bool {
    let kept = node.table.with(target.at, |connection| {
        let is_named = node.table.boot.0 == target.boot
            && connection.identity.as_ref().is_some_and(|identity| {
                identity.epoch == Epoch(0)
                    && identity.app.as_str() == target.app
                    && identity.device.as_str() == target.device
            });
        // Bounded by the businesses that the session serves.
        if is_named && connection.has(ability::INBOX) && serves(connection, business) {
            let early = &mut connection.downlink_mut().early.get_or_insert_default().0;
            match early.iter_mut().find(|(of, ..)| *of == business) {
                Some((_, known, most)) => (*known, *most) = (at.max(*known), priority.max(*most)),
                None => early.push((business, at, priority)),
            }
        }
        is_named
    });
    kept == Some(true)
}

/// A wake-up: the entry itself, which is written at once if nothing lies before it.
pub(crate) fn wake(node: &Node, stream: u64, delivery: wire::Delivery) {
    let Some(target) = delivery.targets.first() else { return };
    let business = BusinessNo(delivery.business);
    let named = || Target {
        boot: delivery.boot,
        at: SlotRef { slot: target.slot, generation: target.generation },
        app: &delivery.app,
        device: &target.device,
        epoch: target.epoch,
    };
    let place = place(delivery.place.unwrap_or_default());
    let priority = delivery.priority as u8;
    let waiter = Waiter { stream, id: delivery.id };
    let entry = Entry { place, frame: delivery.frame, lost: 0, lost_reason: 0, priority };
    // First, as it is no stale one: the answer to its claim may be coming in this very moment, and then
    // the session is found below.
    let is_early = remember_early(node, named(), business, place.at, priority);
    let turned = (!is_early).then(|| {
        enter(node, named(), |connection| {
            let takes = connection.has(ability::INBOX) && serves(connection, business);
            if takes {
                let frame = understood(connection, entry.frame, &node.metrics);
                let feeds = &mut connection.downlink_mut().feeds;
                match frame {
                    Some(frame) => feeds.wake(business, Entry { frame, ..entry }),
                    None => feeds.tail(business, place.at, priority),
                }
                if delivery.wants_ack {
                    feeds.wait(business, place.at, waiter);
                }
            }
            takes
        })
    });
    // Whoever is not there, or not yet, will not acknowledge it to this one.
    if turned.flatten() != Some(true) && delivery.wants_ack {
        tell(node, waiter, false);
    }
}

/// An encoded push in a form that the device understands. What is counted of it from here on is what is written.
/// `None`: it is not what it should be.
fn understood(connection: &Connection, frame: Bytes, metrics: &Metrics) -> Option<Bytes> {
    if connection.has(ability::ZSTD) || !is_compressed(&frame) {
        return Some(frame);
    }
    metrics.made_plain.inc();
    plain_frame(&frame)
}

/// The answer to a pull; `None`: it failed.
pub(crate) fn pulled(
    node: &Node,
    who: &Who,
    business: BusinessNo,
    serial: u32,
    answer: Option<Pulled>,
) {
    let now_ms = node.table.exact_ms();
    enter(node, who.target(node), |connection| {
        if let Some(downlink) = &mut connection.downlink {
            downlink.feeds.pulled(business, serial, answer, now_ms);
        }
    });
}

/// The answer to an acknowledgement.
pub(crate) fn ack_told(node: &Node, who: &Who, is_taken: bool) {
    let now_ms = node.table.exact_ms();
    enter(node, who.target(node), |connection| {
        if let Some(downlink) = &mut connection.downlink {
            downlink.feeds.ack_told(is_taken, now_ms);
        }
    });
}

/// A call has failed, and there is another router to make it at: no pause.
pub(crate) fn hurry(node: &Node, who: &Who) {
    enter(node, who.target(node), |connection| {
        if let Some(downlink) = &mut connection.downlink {
            downlink.feeds.hurry();
        }
    });
}

/// The answer to a sweep.
pub(crate) fn swept(node: &Node, who: &Who, inboxes: &[wire::InboxTail]) {
    if !inboxes.is_empty() {
        enter(node, who.target(node), |connection| stand(connection, inboxes, Said::Meanwhile));
    }
}

pub(crate) fn place(place: wire::Place) -> Place {
    Place {
        at: Position::new(place.term, place.seq),
        prev: Position::new(place.prev_term, place.prev_seq),
    }
}

pub(crate) fn entry(entry: wire::Entry) -> Entry {
    Entry {
        place: place(entry.place.unwrap_or_default()),
        frame: entry.frame,
        lost: entry.lost,
        lost_reason: entry.lost_reason as i32,
        priority: entry.priority as u8,
    }
}

// === What the device says ===

pub(crate) fn ack(node: &Node, at: SlotRef, ack: &params::Ack) {
    own(node, at, |connection| {
        for it in &ack.inboxes {
            let (business, upto) = (BusinessNo(it.business), Position::new(it.term, it.seq));
            let feeds = connection.downlink.as_mut().map(|it| &mut it.feeds);
            match feeds.map_or(Claim::Lie, |feeds| feeds.ack(business, upto)) {
                Claim::Taken => node.metrics.acks.inc(),
                Claim::Old => {}
                Claim::Lie => node.metrics.ack_lies.inc(),
            }
        }
    });
}

pub(crate) fn resync(node: &Node, at: SlotRef, resync: &params::Resync) {
    let Some(after) = &resync.after else { return };
    let (business, after) = (BusinessNo(after.business), Position::new(after.term, after.seq));
    own(node, at, |connection| {
        let feeds = connection.downlink.as_mut().map(|it| &mut it.feeds);
        match feeds.map_or(Claim::Lie, |feeds| feeds.resync(business, after)) {
            Claim::Taken => node.metrics.resyncs.inc(),
            Claim::Old => {}
            Claim::Lie => node.metrics.ack_lies.inc(),
        }
    });
}

// === The session ===

/// Something may go on: the link has drained, a pause is over, there is leave to ask.
pub(crate) fn turn(node: &Node, at: SlotRef) {
    own(node, at, |_| ());
}

/// It has left the queue of those who wait for leave.
pub(crate) fn granted(node: &Node, at: SlotRef) {
    own(node, at, |connection| {
        if let Some(downlink) = &mut connection.downlink {
            downlink.is_waiting = false;
        }
    });
}

/// The session is over. Returns how far each inbox was written.
pub(crate) fn end(node: &Node, downlink: Downlink) -> Vec<wire::InboxPosition> {
    node.metrics.unacked.sub(downlink.counted.into());
    let Ended { sent, waiters } = downlink.feeds.end();
    for waiter in waiters {
        tell(node, waiter, false);
    }
    positions(sent.into_iter())
}

/// A session as a sweep names it, with what it has acknowledged. `None`: it takes no stored pushes.
pub(crate) fn sweep_one(at: SlotRef, connection: &Connection) -> Option<(Who, wire::SweepOne)> {
    if !connection.has(ability::INBOX) || !connection.is_admitted {
        return None;
    }
    let who = who(at, connection)?;
    let acked = connection.downlink.as_ref().map(|downlink| positions(downlink.feeds.acked()));
    let session = Some(who.session());
    Some((who, wire::SweepOne { session, acked: acked.unwrap_or_default() }))
}

pub(crate) fn positions(
    all: impl Iterator<Item = (BusinessNo, Position)>,
) -> Vec<wire::InboxPosition> {
    let told = all.filter(|(_, at)| *at > Position::START);
    told.map(|(business, Position { term, seq })| wire::InboxPosition {
        business: business.0,
        term,
        seq,
    })
    .collect()
}

fn serves(connection: &Connection, business: BusinessNo) -> bool {
    let identity = connection.identity.as_ref();
    identity.is_some_and(|identity| identity.serves(business))
}

fn who(at: SlotRef, connection: &Connection) -> Option<Who> {
    let identity = connection.identity.as_ref().filter(|it| it.epoch != Epoch(0))?;
    let (app, device): (AppId, DeviceId) = (identity.app.clone(), identity.device.clone());
    Some(Who { at, app, device, epoch: identity.epoch })
}

/// Enters the slot that is named in full, and turns its feed.
fn enter<R>(
    node: &Node,
    target: Target<'_>,
    event: impl FnOnce(&mut Connection) -> R,
) -> Option<R> {
    let entered = node.table.with_target(target, |connection| {
        let result = event(connection);
        (result, turn_feed(node, target.at, connection))
    });
    let (result, rest) = entered.ok()?;
    finish(node, target.at, rest);
    Some(result)
}

/// Enters a slot for its own connection, which knows that it is there by the generation.
fn own(node: &Node, at: SlotRef, event: impl FnOnce(&mut Connection)) {
    let rest = node.table.with(at, |connection| {
        event(connection);
        turn_feed(node, at, connection)
    });
    finish(node, at, rest.unwrap_or_default());
}

/// Does what the feed wants done, under the slot's lock; what has to leave it comes back.
fn turn_feed(node: &Node, at: SlotRef, connection: &mut Connection) -> Rest {
    let Some(mut downlink) = connection.downlink.take() else { return Rest::default() };
    let mut rest = Rest::default();
    let (now_ms, metrics) = (node.table.exact_ms(), &node.metrics);
    let frame_bytes_max = connection.frame_bytes_max as usize;
    while let Some(action) =
        downlink.feeds.poll(now_ms, frame_bytes_max, node.asks.has_leave(), |len| {
            connection.takes_stored(len)
        })
    {
        let mut write = |frame: &FrameOut| {
            let written =
                connection.write(frame, Keep::Stored, SlowPolicy::DropNewest, now_ms, metrics);
            rest.is_queued |= written == Written::Queued;
        };
        match action {
            Action::Write { frame, was_pulled, .. } => {
                write(&FrameOut::new(frame));
                metrics.stored_written(was_pulled);
            }
            Action::Gap(gap) => {
                metrics.gap(gap.reason());
                write(&FrameOut::from(&NodeFrame::Gap(gap)));
            }
            Action::Tell(waiter, is_handled) => rest.tells.push((waiter, is_handled)),
            ask @ (Action::Pull { .. } | Action::Ack(_)) => rest.asks.push(ask),
        }
    }
    // A window for each of a few inboxes.
    let unacked = downlink.feeds.unacked() as u32;
    metrics.unacked.add(i64::from(unacked) - i64::from(downlink.counted));
    downlink.counted = unacked;
    // Whoever waits already does so once, until it is granted.
    let wants_leave = !node.asks.has_leave() && downlink.feeds.wants_to_ask(now_ms);
    rest.waits = wants_leave && !downlink.is_waiting;
    downlink.is_waiting |= wants_leave;
    rest.due_ms = downlink.feeds.due_ms();
    if !rest.asks.is_empty() {
        rest.takes_compressed = connection.has(ability::ZSTD);
        rest.who = who(at, connection);
    }
    connection.downlink = Some(downlink);
    rest
}

/// Does what must not be done under the slot's lock.
fn finish(node: &Node, at: SlotRef, rest: Rest) {
    let Rest { asks, tells, who, is_queued, waits, due_ms, takes_compressed } = rest;
    if is_queued {
        node.table.watch_queued(at);
    }
    if let Some(due_ms) = due_ms {
        node.table.look_by(at, due_ms);
    }
    for (waiter, is_handled) in tells {
        tell(node, waiter, is_handled);
    }
    if waits && !node.asks.wait(at) {
        node.table.with(at, |connection| {
            if let Some(downlink) = &mut connection.downlink {
                downlink.is_waiting = false;
            }
        });
    }
    let Some(who) = who else { return };
    for ask in asks {
        match ask {
            Action::Pull { business, serial, after, entries_max, bytes_max } => {
                let pull = wire::Pull {
                    session: Some(who.session()),
                    business: business.0,
                    term: after.term,
                    seq: after.seq,
                    entries_max,
                    bytes_max,
                    takes_compressed,
                };
                let waits = Waits::Pull { who: who.clone(), business, serial };
                if !node.asks.ask(node, wire::ask::What::Pull(pull), waits) {
                    pulled(node, &who, business, serial, None);
                }
            }
            Action::Ack(upto) => {
                let upto = positions(upto.into_iter());
                let ack = wire::Ack { session: Some(who.session()), upto };
                let waits = Waits::Ack { who: who.clone() };
                if !node.asks.ask(node, wire::ask::What::Ack(ack), waits) {
                    ack_told(node, &who, false);
                }
            }
            Action::Write { .. } | Action::Gap(_) | Action::Tell(..) => {}
        }
    }
}

/// Reports to the router that waits for it: acknowledged, or still stored.
fn tell(node: &Node, waiter: Waiter, is_handled: bool) {
    let outcome = if is_handled { Outcome::Acked } else { Outcome::Stored };
    node.routers.report(
        waiter.stream,
        wire::DeliveryReport {
            id: waiter.id,
            outcomes: vec![outcome as u32],
            done: true,
            ..Default::default()
        },
    );
}
