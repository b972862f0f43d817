//! The way to the routers: two streams to each. Control carries binds, unbinds and group reports up, kicks
//! and membership orders down; deliveries bring pushes and take their outcomes back, and asks of the store
//! and their answers, apart, so that a large push never delays a kick.
//!
//! Every router is told of all sessions and groups here (`announce`). One of those that take logins is asked
//! for a login (`claims`, and `lost_claims` when nobody answered) and told of its end (`farewell`), one of those that keep inboxes is asked for what
//! is stored (`asks`): the same one for a device, as long as it is up and answers (`tier`).

mod announce;
pub(crate) mod asks;
mod claims;
mod control_stream;
mod deliver_stream;
mod discovery;
mod farewell;
mod lost_claims;
mod orders;
pub(crate) mod tier;

use crate::node::Node;
use arc_swap::ArcSwap;
use claims::Pending;
use hawser_proto::code::CloseCode;
use hawser_proto::id::{Epoch, SlotRef};
use hawser_proto::rpc::node::{DeliveryReport, InboxTail, Unbind, up::What};
use lost_claims::LostClaim;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tier::{Deliver, Functions, Up};

pub(crate) use discovery::start;

/// Items gathered into one stream message.
const GATHER_MAX: usize = 256;

/// A claim that holds.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) epoch: Epoch,
    pub(crate) inboxes: Vec<InboxTail>,
}

/// A claim that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unbound {
    /// An older login of the same installation came late.
    StaleAttempt,
    /// A newer session took over meanwhile.
    Superseded,
    /// A kick with this code overtook the answer.
    Kicked(CloseCode),
    /// No router could be asked, or none answered in time.
    Unavailable,
}

/// All routers of one node.
#[derive(Default)]
pub(crate) struct Routers {
    /// Control streams that are up.
    ups: ArcSwap<Vec<Arc<Up>>>,
    /// Deliver streams that are up.
    delivers: ArcSwap<Vec<Arc<Deliver>>>,
    streams: AtomicU64,
    /// A router that keeps inboxes has been met since the start.
    has_met_inboxes: AtomicBool,
    calls: AtomicU64,
    pending: Mutex<HashMap<u64, Pending>>,
    /// Sessions that the store has forgotten, to be announced at a bounded rate.
    forgotten: Mutex<HashSet<SlotRef>>,
    /// Ends of sessions that no router has taken yet.
    kept: Mutex<VecDeque<Unbind>>,
    /// Claims that nobody answered.
    lost_claims: Mutex<VecDeque<LostClaim>>,
}

impl Routers {
    /// Whether logins can succeed. Sessions need a router that keeps inboxes, too; but one that has gone
    /// makes stored pushes late and nothing worse, so a node that met one once goes on without: if every
    /// node left with the last of them, nobody could log in for what works.
    pub(crate) fn is_ready(&self) -> bool {
        let ups = self.ups.load();
        ups.iter().any(|up| up.router.does(Functions::LOGINS))
            && self.has_met_inboxes.load(Ordering::Acquire)
    }

    /// The control streams that are up. Whoever changes what a router should know does that first, and
    /// looks here afterwards: a stream that is not here yet is told everything after it was put here.
    pub(crate) fn ups(&self) -> arc_swap::Guard<Arc<Vec<Arc<Up>>>> {
        self.ups.load()
    }

    fn pick_up(
        &self,
        function: Functions,
        key: u64,
        now_ms: u64,
        tried: &[u32],
    ) -> Option<Arc<Up>> {
        tier::pick(&self.ups.load(), function, key, now_ms, tried).cloned()
    }

    /// The way for a call of the store about this key, with the number of the stream.
    fn ask_up(&self, key: u64, now_ms: u64) -> Option<Arc<Deliver>> {
        tier::pick(&self.delivers.load(), Functions::INBOX, key, now_ms, &[]).cloned()
    }

    /// Whether the store can be asked at all.
    pub(crate) fn can_ask(&self) -> bool {
        self.delivers.load().iter().any(|up| up.router.does(Functions::INBOX))
    }

    /// Whether a call that failed can be made again at once, at a router that has not just failed.
    fn can_ask_again(&self, now_ms: u64) -> bool {
        let is_able =
            |up: &Arc<Deliver>| up.router.does(Functions::INBOX) && !up.router.is_refusing(now_ms);
        self.delivers.load().iter().any(is_able)
    }

    /// Reports what became of a delivery up the stream that it came on. Lost if that has ended: whoever waits
    /// for it there knows, and the same number on the next stream is another delivery.
    pub(crate) fn report(&self, stream: u64, report: DeliveryReport) {
        let delivers = self.delivers.load();
        if let Some(up) = delivers.iter().find(|up| up.stream == stream) {
            let _ = up.reports.try_send(report);
        }
    }

    /// Waits until everything queued has been handed to a stream, for as long as the patience lasts.
    pub(crate) async fn flush(&self, patience: Duration) {
        let emptied = async {
            while !self.ups.load().iter().all(|up| up.is_empty()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // What is left then is lost with the process, and the lease ends it at the router.
        let _ = tokio::time::timeout(patience, emptied).await;
    }

    // === Streams that come and go ===

    fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn control_is_up(&self, node: &Node, up: &Arc<Up>) {
        self.ups.rcu(|ups| {
            let mut ups = Vec::clone(ups);
            ups.push(up.clone());
            ups
        });
        node.metrics.router_streams.inc();
        if up.router.does(Functions::INBOX) {
            self.has_met_inboxes.store(true, Ordering::Release);
        }
        // What a router does is known from its control stream, and it may keep inboxes now.
        asks::routers_changed(node);
        self.send_kept(node);
    }

    /// What waited for this stream, or was lost with it, goes elsewhere.
    fn control_is_down(&self, node: &Node, up: &Up) {
        self.ups.rcu(|ups| {
            let others = ups.iter().filter(|other| other.stream != up.stream);
            others.cloned().collect::<Vec<_>>()
        });
        node.metrics.router_streams.dec();
        self.claims_broke(node, up.stream);
        node.groups.stream_broke(up.stream, self);
        self.send_kept(node);
    }

    fn deliver_is_up(&self, node: &Node, up: &Arc<Deliver>) {
        self.delivers.rcu(|delivers| {
            let mut delivers = Vec::clone(delivers);
            delivers.push(up.clone());
            delivers
        });
        asks::routers_changed(node);
    }

    fn deliver_is_down(&self, node: &Node, stream: u64) {
        self.delivers.rcu(|delivers| {
            let others = delivers.iter().filter(|other| other.stream != stream);
            others.cloned().collect::<Vec<_>>()
        });
        asks::routers_changed(node);
    }
}

/// Queues a word on a stream, and counts one that will not be sent there, which comes back.
fn send(node: &Node, up: &Up, word: What) -> Option<What> {
    let left = up.send(word);
    if left.is_some() {
        node.metrics.uplink_full.inc();
    }
    left
}

#[cfg(test)]
mod tests;
