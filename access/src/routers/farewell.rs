//! The ends of sessions: `Unbind` to the router that would be asked for the device now, which tells the
//! store, and `Gone` to all others. An end must reach the store, or a device that has gone stays there as
//! one that is online: words that a broken stream may have swallowed are said again elsewhere, and while no
//! router takes them they are kept. Saying one twice is harmless, it names the session in full.

use super::tier::{self, Functions};
use super::{Routers, send};
use crate::node::Node;
use hawser_proto::id::{AppId, DeviceId, Epoch, SlotRef};
use hawser_proto::rpc::node::{Gone, InboxPosition, Unbind, up::What};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Ends kept while no router takes logins: all sessions of a small node may end meanwhile.
const KEPT_MAX: usize = 65_536;
/// How long a stream that is dead may look alive: what was sent within this time may not have arrived.
const IN_DOUBT: Duration = Duration::from_secs(30);
/// Ends remembered for that; a stream that carries more of them works.
const IN_DOUBT_MAX: usize = 16_384;

/// The ends that were sent on a stream a short while ago.
#[derive(Default)]
pub(super) struct Doubtful(VecDeque<(Instant, Unbind)>);

impl Doubtful {
    pub(super) fn sent(&mut self, now: Instant, unbind: &Unbind) {
        if self.0.len() >= IN_DOUBT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, unbind.clone()));
    }

    /// Forgets what has arrived by now.
    pub(super) fn settle(&mut self, now: Instant) {
        while self.0.front().is_some_and(|(sent, _)| now.duration_since(*sent) > IN_DOUBT) {
            self.0.pop_front();
        }
        if self.0.is_empty() {
            self.0.shrink_to(0);
        }
    }

    pub(super) fn take(&mut self) -> impl Iterator<Item = Unbind> {
        std::mem::take(&mut self.0).into_iter().map(|(_, unbind)| unbind)
    }
}

impl Routers {
    /// Tells the routers that a session has ended, and how far its inboxes were written.
    pub(crate) fn unbind(
        &self,
        node: &Node,
        (app, device): (&AppId, &DeviceId),
        at: SlotRef,
        epoch: Epoch,
        sent: Vec<InboxPosition>,
    ) {
        let (app, device) = (app.as_str().to_owned(), device.as_str().to_owned());
        let SlotRef { slot, generation } = at;
        let unbind = Unbind { app, device, slot, generation, epoch: epoch.0, sent };
        let ups = self.ups.load();
        let told = tier::pick(&ups, Functions::LOGINS, key_of(&unbind), node.table.now_ms(), &[]);
        for up in ups.iter().filter(|up| told.is_none_or(|told| told.stream != up.stream)) {
            let word = if up.takes_here { gone(&unbind) } else { What::Unbind(unbind.clone()) };
            send(node, up, word);
        }
        let left = match told {
            Some(up) => send(node, up, What::Unbind(unbind)),
            None => Some(What::Unbind(unbind)),
        };
        if let Some(What::Unbind(unbind)) = left {
            self.keep(node, unbind);
        }
    }

    /// An end that has not reached the store, as far as this node knows.
    pub(super) fn keep(&self, node: &Node, unbind: Unbind) {
        let mut kept = self.kept.lock();
        if kept.len() < KEPT_MAX {
            kept.push_back(unbind);
        } else {
            node.metrics.unbinds_lost.inc();
        }
    }

    /// Says what was kept to those who take it now.
    pub(crate) fn send_kept(&self, node: &Node) {
        let ups = self.ups.load();
        loop {
            let Some(unbind) = self.kept.lock().pop_front() else { return };
            let now_ms = node.table.now_ms();
            let told = tier::pick(&ups, Functions::LOGINS, key_of(&unbind), now_ms, &[]);
            let left = match told {
                Some(up) => up.send(What::Unbind(unbind)),
                None => Some(What::Unbind(unbind)),
            };
            if let Some(What::Unbind(unbind)) = left {
                self.kept.lock().push_front(unbind);
                return;
            }
            node.metrics.unbinds_again.inc();
        }
    }
}

fn key_of(unbind: &Unbind) -> u64 {
    tier::key(&[&unbind.app, &unbind.device])
}

fn gone(unbind: &Unbind) -> What {
    let Unbind { app, device, slot, generation, epoch, .. } = unbind;
    let (slot, generation, epoch) = (*slot, *generation, *epoch);
    What::Gone(Gone { app: app.clone(), device: device.clone(), slot, generation, epoch })
}
