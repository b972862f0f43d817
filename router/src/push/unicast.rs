//! Pushes to devices by name: one, or a batch with one body or one each.
//!
//! [`submit`] never waits: it checks everything, looks up the routes, and queues one delivery per node
//! (one body) or per target (a body each). [`Submitted::wait`] gathers what the nodes report.

use crate::answer::{Outcomes, Waiter};
use crate::auth::Credential;
use crate::core::Core;
use crate::key::Key;
use crate::node::deliver::{NotSent, Sent};
use crate::nodes::Life;
use crate::push::encoded::Encoded;
use crate::push::message;
use crate::refusal::Refusal;
use crate::sessions;
use crate::table::{Owner, Route};
use crate::whereabouts::{self, Whereabouts};
use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::future::join;
use hawser_proto::id::{AppId, DeviceId, IdError};
use hawser_proto::limits::TARGETS_PER_CALL_MAX;
use hawser_proto::rpc::node::{Delivery, Target};
use hawser_proto::rpc::push::{
    self as push, BatchUnicastRequest, BatchUnicastResponse, Message, Outcome, OutcomeCount,
    UnicastRequest,
};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

const OUTCOMES: usize = Outcome::Unknown as usize + 1;

/// A batch on its way.
pub(crate) struct Submitted {
    outcomes: Arc<Outcomes>,
    sent: Vec<Sent>,
    /// What the routes of the targets said, for those that a node finds stale.
    pushed: Vec<Pushed>,
    /// Those without a route, which may be elsewhere: the store is asked.
    unrouted: Vec<(u32, Key)>,
    /// Places that name a device a second time, each with the place of the first.
    repeated: Vec<(u32, u32)>,
    deadline: Instant,
    app: AppId,
    tag: u64,
    push_id: Bytes,
}

/// A route as it was when its target was pushed to.
struct Pushed {
    at: u32,
    key: Key,
    owner: Owner,
    epoch: u64,
}

/// The frames of a batch.
enum Frames {
    One(Encoded),
    Each(Vec<Encoded>),
}

/// Targets of one call on one node, each with its place in the call.
struct Bundle {
    life: Arc<Life>,
    targets: Vec<Target>,
    at: Vec<u32>,
}

/// A push to one device is a batch of one.
pub(crate) fn single(request: UnicastRequest) -> BatchUnicastRequest {
    BatchUnicastRequest {
        message: request.message,
        devices: vec![request.device],
        targets: Vec::new(),
        class: request.class,
        tag: 0,
        push_id: request.push_id,
        store: request.store,
    }
}

/// Checks the batch and sends it on its way. On an error nothing was sent.
pub(crate) fn submit(
    core: &Core,
    by: &Credential,
    request: BatchUnicastRequest,
) -> Result<Submitted, Refusal> {
    let (tag, push_id) = (request.tag, message::push_id(request.push_id.clone())?);
    let metrics = &core.metrics.compression;
    let (devices, frames) = match Targets::of(request)? {
        Targets::One { message, devices } => {
            (devices, Frames::One(message::push_frame(message, push_id.clone(), by, metrics)?))
        }
        Targets::Each(targets) => {
            let mut devices = Vec::with_capacity(targets.len());
            let mut frames = Vec::with_capacity(targets.len());
            for target in targets {
                let id = match target.push_id {
                    id if id.is_empty() => push_id.clone(),
                    id => message::push_id(id)?,
                };
                frames.push(message::push_frame(target.message, id, by, metrics)?);
                devices.push(target.device);
            }
            (devices, Frames::Each(frames))
        }
    };
    Ok(Submitted { tag, push_id, ..send(core, by, devices, &frames) })
}

/// Whom a batch is for, checked in number and form.
pub(crate) enum Targets {
    /// One message for all of these.
    One { message: Option<Message>, devices: Vec<String> },
    /// A message each.
    Each(Vec<push::Target>),
}

impl Targets {
    pub(crate) fn of(request: BatchUnicastRequest) -> Result<Self, Refusal> {
        if request.devices.len() + request.targets.len() > TARGETS_PER_CALL_MAX {
            return Err(Refusal::too_large("more than 1,000 targets in one call"));
        }
        if request.targets.is_empty() {
            check_ids("devices", request.devices.iter().map(String::as_str))?;
            Ok(Self::One { message: request.message, devices: request.devices })
        } else if request.message.is_some() || !request.devices.is_empty() {
            Err(Refusal::invalid("either message and devices, or targets"))
        } else {
            check_ids("targets", request.targets.iter().map(|target| target.device.as_str()))?;
            Ok(Self::Each(request.targets))
        }
    }
}

/// Counts outcomes, for the answer and for the metrics.
pub(crate) fn totals(outcomes: &[i32], count: impl Fn(Outcome, u64)) -> Vec<OutcomeCount> {
    let mut counts = [0u64; OUTCOMES];
    for &outcome in outcomes {
        counts[outcome as usize % OUTCOMES] += 1;
    }
    let mut totals = Vec::with_capacity(2);
    for (number, &targets) in counts.iter().enumerate().filter(|(_, targets)| **targets > 0) {
        let outcome = Outcome::try_from(number as i32).unwrap_or(Outcome::Unknown);
        count(outcome, targets);
        totals.push(OutcomeCount { outcome: outcome.into(), count: targets });
    }
    totals
}

fn check_ids<'a>(field: &str, ids: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    for (index, id) in ids.enumerate() {
        DeviceId::check(id)
            .map_err(|why: IdError| Refusal::id(&format!("{field}[{index}]"), why))?;
    }
    Ok(())
}

/// Sends each target its frame; tag and push id are for the caller to fill in.
fn send(core: &Core, by: &Credential, devices: Vec<String>, frames: &Frames) -> Submitted {
    let deadline = Instant::now() + core.call_timeout;
    let view = core.nodes.view(core.clock.steady_ms());
    let mut known = vec![Outcome::Offline as i32; devices.len()];
    let mut bundles: Vec<Bundle> = Vec::new();
    let mut pushed = Vec::with_capacity(devices.len());
    // One push reaches a device once, also when the list names it twice.
    let mut seen = HashMap::with_hasher(RandomState::default());
    let mut repeated = Vec::new();
    let mut unrouted = Vec::new();
    let looks_twice = matches!(frames, Frames::One(_)) && devices.len() > 1;
    for (index, device) in devices.into_iter().enumerate() {
        let Ok(key) = Key::device(&by.app, &device) else { continue };
        let found = core
            .table
            .look(&key, |owner, route| (owner, route.epoch, route.serves.contains(by.number)));
        let routed = found.and_then(|(owner, epoch, is_served)| {
            Some((owner, epoch, is_served, view.owner(&owner)?))
        });
        let Some((owner, epoch, is_served, life)) = routed else {
            if !view.is_complete() {
                unrouted.push((index as u32, key));
            }
            continue;
        };
        if !is_served {
            continue;
        }
        if looks_twice {
            match seen.entry((life.no, owner.at.slot)) {
                Entry::Occupied(first) => {
                    repeated.push((index as u32, *first.get()));
                    continue;
                }
                Entry::Vacant(place) => {
                    place.insert(index as u32);
                }
            }
        }
        pushed.push(Pushed { at: index as u32, key, owner, epoch });
        known[index] = Outcome::Unknown as i32;
        let (slot, generation) = (owner.at.slot, owner.at.generation);
        let target = Target { slot, generation, epoch, device };
        match bundles.iter_mut().find(|bundle| bundle.life.no == life.no) {
            Some(bundle) => {
                bundle.targets.push(target);
                bundle.at.push(index as u32);
            }
            None => bundles.push(Bundle {
                life: life.clone(),
                targets: vec![target],
                at: vec![index as u32],
            }),
        }
    }
    let outcomes = Outcomes::new(known, pushed.len());
    let mut sent = Vec::with_capacity(bundles.len());
    for bundle in bundles {
        let at: Arc<[u32]> = bundle.at.into();
        let to = bundle.life.deliver();
        let takes_compressed = to.as_ref().is_some_and(|to| to.takes_compressed);
        let delivery = |frame: &Encoded, targets| Delivery {
            id: 0,
            boot: bundle.life.boot.0,
            app: by.app.to_string(),
            business: by.number.0,
            frame: frame.for_node(takes_compressed),
            targets,
            group: String::new(),
            ..Delivery::default()
        };
        let deliveries = match frames {
            Frames::One(frame) => {
                let waiter = Waiter::Targets { call: outcomes.clone(), at: at.clone() };
                vec![(delivery(frame, bundle.targets), waiter)]
            }
            Frames::Each(frames) => {
                let each = bundle.targets.into_iter().zip(at.iter());
                each.map(|(target, &at)| {
                    let waiter = Waiter::Target { call: outcomes.clone(), at };
                    (delivery(&frames[at as usize], vec![target]), waiter)
                })
                .collect()
            }
        };
        let done = to.map_or(Err(NotSent::Gone), |to| to.send(deliveries));
        match done {
            Ok(one) => sent.push(one),
            Err(NotSent::Full) => {
                core.metrics.queue_full.inc_by(at.len() as u64);
                outcomes.settle(&at, &vec![Outcome::Overflow as u32; at.len()]);
            }
            // Its lease holds, but it cannot be heard: the session may well be there.
            Err(NotSent::Gone) => outcomes.settle(&at, &[]),
        }
    }
    let (app, tag, push_id) = (by.app.clone(), 0, Bytes::new());
    Submitted { outcomes, sent, pushed, unrouted, repeated, deadline, app, tag, push_id }
}

impl Pushed {
    /// Its node has no such session: word of its end was lost. The route goes, if it still says what it
    /// said then, and if the login is not so new that its answer may be on the way to the node.
    fn heal(&self, core: &Arc<Core>, app: &AppId) {
        let now_ms = core.clock.now_ms();
        let settled_ms = now_ms.saturating_sub(core.node_lease.as_millis() as u64);
        let settled = |_, route: &Route| (route.at_ms <= settled_ms).then(|| route.serves.clone());
        let Some(serves) = core.table.look(&self.key, settled).flatten() else { return };
        if !core.table.release(&self.key, self.owner.life, self.owner.at, self.epoch) {
            return;
        }
        core.metrics.routes_healed.inc();
        if let Some(life) = core.nodes.view(core.clock.steady_ms()).life(self.owner.life) {
            life.count(app, false);
            sessions::lost(core, self.key, life, (self.owner.at, self.epoch), &serves);
        }
    }
}

impl Submitted {
    /// Waits for the reports, at most until the deadline; what is missing then is `unknown`.
    pub(crate) async fn wait(mut self, core: &Arc<Core>) -> BatchUnicastResponse {
        let (mut outcomes, complete) = if self.unrouted.is_empty() {
            self.outcomes.wait(self.deadline).await
        } else {
            let unrouted = std::mem::take(&mut self.unrouted);
            let asked = whereabouts::ask_all(core, unrouted);
            let ((mut outcomes, complete), found) =
                join(self.outcomes.wait(self.deadline), asked).await;
            for (at, place) in found {
                if place != Whereabouts::Offline {
                    outcomes[at as usize] = Outcome::Unknown.into();
                }
            }
            (outcomes, complete)
        };
        if complete {
            self.sent.drain(..).for_each(Sent::settled);
        }
        for pushed in &self.pushed {
            if outcomes[pushed.at as usize] == Outcome::Stale as i32 {
                pushed.heal(core, &self.app);
            }
        }
        for &(again, first) in &self.repeated {
            outcomes[again as usize] = outcomes[first as usize];
        }
        let totals = totals(&outcomes, |outcome, count| {
            core.metrics.volatile_outcomes.count(outcome, count);
        });
        let (tag, push_id) = (self.tag, self.push_id);
        BatchUnicastResponse { tag, outcomes, totals, push_id, ..Default::default() }
    }
}
