//! The words that claim: a new login's, and those of live sessions that the router may have lost, or the
//! store has forgotten.

use super::{Pending, Routers};
use crate::downlink;
use crate::node::Node;
use crate::table::Connection;
use hawser_proto::id::{Epoch, SlotRef};
use hawser_proto::rpc::node::{Bind, InboxPosition, up::What};
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

impl Routers {
    /// The store knows an older session than this one, or none.
    pub(crate) fn forgotten(&self, at: SlotRef) {
        self.forgotten.lock().insert(at);
    }

    /// Announces some of the forgotten sessions.
    pub(crate) fn announce_forgotten(&self, node: &Node, most: usize) {
        let some: Vec<SlotRef> = {
            let mut forgotten = self.forgotten.lock();
            let some: Vec<SlotRef> = forgotten.iter().take(most).copied().collect();
            for at in &some {
                forgotten.remove(at);
            }
            some
        };
        for at in some {
            if let Some((call, word)) = self.announcement(node, at)
                && !self.send(word)
            {
                self.pending.lock().remove(&call);
                node.metrics.uplink_full.inc();
                self.forgotten(at);
            }
        }
    }

    /// The word that a live session is here, with its answer awaited under this number: whoever cannot
    /// send it takes that back. `None`: it has gone.
    fn announcement(&self, node: &Node, at: SlotRef) -> Option<(u64, What)> {
        let session = node.table.with(at, |connection| {
            let identity = connection.identity.as_ref().filter(|it| it.epoch.0 != 0)?;
            Some((identity.app.clone(), identity.device.clone(), identity.epoch))
        });
        let (app, device, epoch) = session.flatten()?;
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let word = bind_of(node, at, call, epoch)?;
        let pending = Pending { at, app, device, tell: None, announced: Some(epoch) };
        self.pending.lock().insert(call, pending);
        Some((call, word))
    }

    /// Announces again what the router could not take before, as far as there is room.
    pub(super) fn announce_refused(&self, node: &Node, queue: &mpsc::Sender<What>) {
        let mut refused = std::mem::take(&mut *self.refused.lock());
        while let Some(at) = refused.pop() {
            let Ok(room) = queue.try_reserve() else {
                refused.push(at);
                break;
            };
            if let Some((_, word)) = self.announcement(node, at) {
                room.send(word);
            }
        }
        self.refused.lock().append(&mut refused);
    }

    /// Tells a router of every live session again, after a stream broke: it may have lost them.
    pub(super) async fn announce(&self, node: &Node, queue: &mpsc::Sender<What>) {
        for slot in 0..node.table.slots_used() {
            let Some(at) = node.table.visit(slot, |at, _| at) else { continue };
            let Some((call, word)) = self.announcement(node, at) else { continue };
            if queue.send(word).await.is_err() {
                self.pending.lock().remove(&call);
                return;
            }
        }
        for word in node.groups.announcements() {
            if queue.send(word).await.is_err() {
                return;
            }
        }
    }
}

pub(super) fn bind_of(node: &Node, at: SlotRef, call: u64, epoch: Epoch) -> Option<What> {
    node.table
        .with(at, |connection| {
            let identity = connection.identity.as_ref()?;
            Some(What::Bind(Bind {
                call,
                app: identity.app.as_str().to_owned(),
                device: identity.device.as_str().to_owned(),
                slot: at.slot,
                generation: at.generation,
                instance: identity.instance.to_vec().into(),
                attempt: identity.attempt,
                businesses: identity.businesses.iter().map(|no| no.0).collect(),
                epoch: epoch.0,
                cursors: positions(connection, epoch.0 == 0),
            }))
        })
        .flatten()
}

/// How far the device of a new login has its inboxes; of a session under way, how far they were ever
/// written: a store that went back must not give out such a position again.
fn positions(connection: &Connection, is_new: bool) -> Vec<InboxPosition> {
    let Some(downlink) = &connection.downlink else { return Vec::new() };
    if is_new {
        downlink::positions(downlink.feeds.sent())
    } else {
        downlink::positions(downlink.feeds.high())
    }
}
