//! Claims: a login wants to become the session of its device, and a live session says that it is. One
//! router is asked at a time; a login that it does not answer is tried once more at another one, which is
//! the same claim to the store and gets the same answer. Whichever answer comes first counts.

use super::announce::bind_of;
use super::lost_claims;
use super::tier::{self, Functions, Up};
use super::{Bound, Routers, Unbound, send};
use crate::downlink;
use crate::node::Node;
use crate::table::Connection;
use hawser_proto::id::{AppId, DeviceId, Epoch, SlotRef};
use hawser_proto::rpc::node::{Bind, BindResult, InboxPosition, bind_result::Status, up::What};
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::mpsc;

/// Routers asked for one login.
const TRIES_MAX: usize = 2;

type Told = (u64, Result<Bound, Unbound>);

/// A claim on its way.
pub(super) struct Pending {
    /// The stream it left on.
    stream: u64,
    pub(super) at: SlotRef,
    pub(super) app: AppId,
    pub(super) device: DeviceId,
    pub(super) purpose: Purpose,
    /// What to ask when nobody answers and the session goes.
    asked: Option<Box<Bind>>,
}

/// Who waits for the answer to a claim.
pub(super) enum Purpose {
    /// A login, for as long as it does: after that the answer is given back.
    Login(mpsc::Sender<Told>),
    /// Nobody: a live session of this epoch that the store had forgotten.
    Forgotten(Epoch),
    /// Nobody: a live session of this epoch, told to a router that does not know Here.
    Told(Epoch),
    /// Nobody: a claim that nobody answered may have been made, and its session has gone.
    Lost(Bind),
}

impl Routers {
    /// Claims a device for a connection whose identity stands in its slot. On success the epoch stands
    /// there too, and every other router that is up will hear of the session before any later word.
    pub(crate) async fn bind(
        &self,
        node: &Node,
        at: SlotRef,
        app: &AppId,
        device: &DeviceId,
    ) -> Result<Bound, Unbound> {
        let begun = Instant::now();
        let key = tier::key(&[app.as_str(), device.as_str()]);
        let (tell, mut told) = mpsc::channel(TRIES_MAX);
        let patience = node.config.router_call_timeout;
        let mut tried = Vec::with_capacity(TRIES_MAX);
        while tried.len() < TRIES_MAX {
            let now_ms = node.table.exact_ms();
            let Some(up) = self.pick_up(Functions::LOGINS, key, now_ms, &tried) else { break };
            if !tried.is_empty() {
                if begun.elapsed() + patience > node.config.login_timeout {
                    break;
                }
                node.metrics.claims_again.inc();
            }
            tried.push(up.router.number);
            let purpose = Purpose::Login(tell.clone());
            let Some(call) = self.claim(node, &up, at, (app, device), purpose) else { continue };
            match tokio::time::timeout(patience, verdict(call, &mut told)).await {
                Ok(Err(Unbound::Unavailable)) => {}
                // The first one may have made the claim and ended it, since it could not answer any more: that is
                // not the device's fault, and its next attempt is above.
                Ok(Err(Unbound::StaleAttempt)) if tried.len() > 1 => break,
                Ok(verdict) => {
                    if tried.len() > 1 && verdict.is_ok() {
                        // So it may yet end it: then it comes back above that.
                        self.forgotten(at);
                    }
                    return verdict;
                }
                Err(_) => up.router.refused(node.table.exact_ms()),
            }
        }
        // Claims that are answered later find nobody waiting, and are given back.
        Err(Unbound::Unavailable)
    }

    /// Sends a claim, and returns its number. `None`: it cannot be sent on this stream, or the
    /// connection has gone.
    pub(super) fn claim(
        &self,
        node: &Node,
        up: &Up,
        at: SlotRef,
        names: (&AppId, &DeviceId),
        purpose: Purpose,
    ) -> Option<u64> {
        let (call, word) = self.claim_word(node, up, at, names, purpose)?;
        if send(node, up, word).is_none() {
            return Some(call);
        }
        self.take_back(call);
        None
    }

    /// A claim that was not sent.
    pub(super) fn take_back(&self, call: u64) {
        self.pending.lock().remove(&call);
    }

    /// The word of a claim that leaves on this stream, with its answer awaited.
    pub(super) fn claim_word(
        &self,
        node: &Node,
        up: &Up,
        at: SlotRef,
        (app, device): (&AppId, &DeviceId),
        purpose: Purpose,
    ) -> Option<(u64, What)> {
        let epoch = match purpose {
            Purpose::Login(_) | Purpose::Lost(_) => Epoch(0),
            Purpose::Forgotten(epoch) | Purpose::Told(epoch) => epoch,
        };
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let bind = match &purpose {
            Purpose::Lost(bind) => Bind { call, ..bind.clone() },
            _ => bind_of(node, at, call, epoch)?,
        };
        let (app, device) = (app.clone(), device.clone());
        let asked = match purpose {
            Purpose::Login(_) | Purpose::Forgotten(_) => Some(Box::new(lost_claims::quest(&bind))),
            Purpose::Told(_) | Purpose::Lost(_) => None,
        };
        let pending = Pending { stream: up.stream, at, app, device, purpose, asked };
        self.pending.lock().insert(call, pending);
        Some((call, What::Bind(bind)))
    }

    /// The router's answer to a claim. The epoch is set before anything that follows on the stream is
    /// looked at, so a kick for this very epoch finds it.
    pub(super) fn bound(&self, node: &Node, up: &Up, result: BindResult) {
        let Some(pending) = self.pending.lock().remove(&result.call) else { return };
        let epoch = Epoch(result.epoch);
        let verdict = match result.status() {
            Status::Ok => Ok(Bound { epoch, inboxes: result.inboxes }),
            Status::StaleAttempt => Err(Unbound::StaleAttempt),
            Status::Superseded => Err(Unbound::Superseded),
            Status::Unspecified | Status::Unavailable => Err(Unbound::Unavailable),
        };
        match &verdict {
            Err(Unbound::Unavailable) => up.router.refused(node.table.exact_ms()),
            _ => up.router.answered(),
        }
        match &pending.purpose {
            Purpose::Login(tell) => {
                let verdict = verdict.and_then(|bound| {
                    self.log_in(node, up, &pending, &bound, tell.is_closed()).map(|()| bound)
                });
                // Whoever waited has just gone: its connection gives the claim back when it ends.
                let _ = tell.try_send((result.call, verdict));
            }
            &Purpose::Forgotten(epoch) | &Purpose::Told(epoch) => {
                self.announced(node, up, &pending, epoch, verdict);
            }
            Purpose::Lost(_) => {
                let is_answered = !matches!(verdict, Err(Unbound::Unavailable));
                self.lost_claim_answered(node, pending, epoch, is_answered);
            }
        }
    }

    /// A login's claim holds. `Err`: it was given back.
    fn log_in(
        &self,
        node: &Node,
        up: &Up,
        pending: &Pending,
        bound: &Bound,
        is_over: bool,
    ) -> Result<(), Unbound> {
        let at = pending.at;
        if is_over && is_session(node, at, bound.epoch) {
            // Another router has given the same answer before.
            return Ok(());
        }
        let taken =
            if is_over { Ok(false) } else { node.set_epoch(at, bound.epoch, &bound.inboxes) };
        if taken == Ok(true) {
            // Queued before anybody learns of the session, so that whatever follows finds it there.
            self.here(node, at, up.stream);
            return Ok(());
        }
        let device = (&pending.app, &pending.device);
        self.unbind(node, device, at, bound.epoch, Vec::new());
        Err(taken.err().unwrap_or(Unbound::Unavailable))
    }

    /// What came of telling of a live session.
    fn announced(
        &self,
        node: &Node,
        up: &Up,
        pending: &Pending,
        epoch: Epoch,
        verdict: Result<Bound, Unbound>,
    ) {
        let at = pending.at;
        match verdict {
            Ok(bound) => {
                let Some(is_raised) = node.raise_epoch(at, epoch, bound.epoch) else {
                    // Its unbind may have been faster than the announcement: then the router has just learned
                    // of a session that is no more.
                    // What waits may all have been written: how far it was, was said with its end.
                    let device = (&pending.app, &pending.device);
                    let sent = bound.inboxes.iter().map(|it| InboxPosition {
                        business: it.business,
                        term: it.tail_term,
                        seq: it.tail_seq,
                    });
                    return self.unbind(node, device, at, bound.epoch, sent.collect());
                };
                if is_raised || matches!(pending.purpose, Purpose::Forgotten(_)) {
                    self.here(node, at, up.stream);
                }
                let stand = |connection: &mut Connection| {
                    downlink::stand(connection, &bound.inboxes, downlink::Said::Meanwhile);
                };
                node.table.with(at, stand);
                downlink::turn(node, at);
                // What it acknowledged while the store did not know it was refused: said again.
                node.sweeps.once(at);
            }
            Err(Unbound::Superseded) => node.supersede(at, epoch),
            // The router could not take it just now.
            Err(Unbound::Unavailable) => self.announce_later(at),
            Err(_) => {}
        }
    }

    /// Whether somebody still waits for this claim, which was not sent yet: a login that was given up meanwhile
    /// must not be granted, and is forgotten.
    pub(super) fn is_wanted(&self, call: u64) -> bool {
        let mut pending = self.pending.lock();
        let Some(claim) = pending.get(&call) else { return false };
        let is_given_up = matches!(&claim.purpose, Purpose::Login(tell) if tell.is_closed());
        if is_given_up {
            pending.remove(&call);
        }
        !is_given_up
    }

    /// A stream is gone, and what was claimed on it will not be answered: logins are told, and try
    /// elsewhere; sessions that the store had forgotten have their turn again.
    pub(super) fn claims_broke(&self, node: &Node, stream: u64) {
        let lost: Vec<(u64, Pending)> =
            self.pending.lock().extract_if(|_, pending| pending.stream == stream).collect();
        for (call, pending) in lost {
            self.claim_is_lost(node, pending.at, pending.asked.map(|asked| *asked));
            match pending.purpose {
                Purpose::Login(tell) => {
                    let _ = tell.try_send((call, Err(Unbound::Unavailable)));
                }
                Purpose::Forgotten(_) => self.forgotten(pending.at),
                // Told again with the next stream.
                Purpose::Told(_) => {}
                Purpose::Lost(bind) => self.claim_is_lost(node, pending.at, Some(bind)),
            }
        }
    }
}

fn is_session(node: &Node, at: SlotRef, epoch: Epoch) -> bool {
    let is_it = |connection: &mut Connection| {
        connection.identity.as_ref().is_some_and(|identity| identity.epoch == epoch)
    };
    node.table.with(at, is_it) == Some(true)
}

/// Waits for what is said of a login: yes or no from whichever router, or that this call is in vain.
async fn verdict(call: u64, told: &mut mpsc::Receiver<Told>) -> Result<Bound, Unbound> {
    loop {
        match told.recv().await {
            Some((of, Err(Unbound::Unavailable))) if of != call => {}
            Some((_, verdict)) => return verdict,
            None => return Err(Unbound::Unavailable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_that_was_given_up_is_not_claimed_and_one_that_waits_is() {
        let routers = Routers::default();
        let (tell, told) = mpsc::channel(1);
        for (call, purpose) in [(1, Purpose::Login(tell)), (2, Purpose::Told(Epoch(5)))] {
            let (app, device) = (AppId::new("demo").unwrap(), DeviceId::new("d").unwrap());
            let at = SlotRef { slot: 0, generation: 1 };
            let pending = Pending { stream: 1, at, app, device, purpose, asked: None };
            routers.pending.lock().insert(call, pending);
        }
        let wanted = || [1, 2, 3].map(|call| routers.is_wanted(call));
        assert_eq!(wanted(), [true, true, false]);
        drop(told);
        assert_eq!(wanted(), [false, true, false]);
        assert_eq!(routers.pending.lock().len(), 1, "and it is forgotten");
    }
}
