//! The way to the routers: two streams to each. Control carries binds, unbinds and group reports up,
//! kicks and membership orders down; deliveries bring pushes and take their outcomes back, apart, so
//! that a large push never delays a kick.
//!
//! On the embedded store there is exactly one router. With several, each word goes to one that is up.

mod announce;
pub(crate) mod asks;
mod control_stream;
mod deliver_stream;

use crate::downlink;
use crate::node::Node;
use crate::retry::Retry;
use crate::table::Connection;
use announce::bind_of;
use hawser_proto::code::CloseCode;
use hawser_proto::id::{AppId, DeviceId, Epoch, SlotRef};
use hawser_proto::rpc::node::{
    Ask, BindResult, DeliveryReport, InboxPosition, InboxTail, Unbind, bind_result::Status,
    up::What,
};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Words that may wait for one router: all sessions of a small node may end while it is away.
const UPLINK_MAX: usize = 65_536;
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

/// A claim on its way.
struct Pending {
    at: SlotRef,
    app: AppId,
    device: DeviceId,
    /// Empty once nobody waits any more: the answer is then given back.
    tell: Option<oneshot::Sender<Result<Bound, Unbound>>>,
    /// A live session that announced itself again, with this epoch.
    announced: Option<Epoch>,
}

struct Router {
    uri: String,
    queue: mpsc::Sender<What>,
    is_up: AtomicBool,
    /// What goes up its deliver stream, while there is one.
    deliver: Mutex<Option<DeliverUplink>>,
}

/// The way up a deliver stream.
#[derive(Clone)]
struct DeliverUplink {
    /// Tells this stream from those before it.
    stream: u64,
    reports: mpsc::Sender<DeliveryReport>,
    asks: mpsc::Sender<Ask>,
}

/// All routers of one node.
pub(crate) struct Routers {
    all: Vec<Router>,
    calls: AtomicU64,
    pending: Mutex<HashMap<u64, Pending>>,
    /// Announcements of live sessions that the router could not take, to be made again.
    refused: Mutex<Vec<SlotRef>>,
    /// An unbind found no room: the router knows a session that has ended.
    has_lost_unbind: AtomicBool,
    /// Sessions that the store has forgotten, to be announced at a bounded rate.
    forgotten: Mutex<HashSet<SlotRef>>,
}

/// The receiving ends, for the tasks that keep the streams.
pub(crate) type Queues = Vec<mpsc::Receiver<What>>;

impl Routers {
    pub(crate) fn new(uris: &[String]) -> (Self, Queues) {
        let (all, queues) = uris
            .iter()
            .map(|uri| {
                let (queue, receiver) = mpsc::channel(UPLINK_MAX);
                let (is_up, deliver) = (AtomicBool::new(false), Mutex::default());
                (Router { uri: uri.clone(), queue, is_up, deliver }, receiver)
            })
            .unzip();
        (
            Self {
                all,
                calls: AtomicU64::new(1),
                pending: Mutex::default(),
                refused: Mutex::default(),
                has_lost_unbind: AtomicBool::new(false),
                forgotten: Mutex::default(),
            },
            queues,
        )
    }

    /// The router to talk to: one that is up, or else the first.
    fn pick(&self) -> Option<&Router> {
        self.all.iter().find(|router| router.is_up.load(Ordering::Acquire)).or(self.all.first())
    }

    pub(crate) fn is_up(&self) -> bool {
        self.all.iter().any(|router| router.is_up.load(Ordering::Acquire))
    }

    /// Queues a word for the router without waiting; it keeps while no stream is up. False: the queue
    /// is full.
    pub(crate) fn send(&self, word: What) -> bool {
        self.pick().is_some_and(|router| router.queue.try_send(word).is_ok())
    }

    /// The way for a call of the store: up the deliver stream of a router that has one.
    /// It comes with the stream's number.
    pub(crate) fn ask_up(&self) -> Option<(u64, mpsc::Sender<Ask>)> {
        let up = |up: &DeliverUplink| (up.stream, up.asks.clone());
        self.all.iter().find_map(|router| router.deliver.lock().as_ref().map(up))
    }

    /// Reports what became of a delivery. Lost if the stream it came on is not there any more: whoever
    /// waits for it at the router knows of its end.
    pub(crate) fn report(&self, router: usize, report: DeliveryReport) {
        let deliver = self.all.get(router).and_then(|router| router.deliver.lock().clone());
        if let Some(up) = deliver {
            let _ = up.reports.try_send(report);
        }
    }

    /// Waits until everything queued has been handed to a stream, for as long as the patience lasts.
    pub(crate) async fn flush(&self, patience: Duration) {
        let is_empty = |router: &Router| router.queue.capacity() == router.queue.max_capacity();
        let emptied = async {
            while !self.all.iter().all(is_empty) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // What is left then is lost with the process, and the lease ends it at the router.
        let _ = tokio::time::timeout(patience, emptied).await;
    }

    /// Claims a device for a connection whose identity stands in its slot. On success the epoch stands
    /// there too.
    pub(crate) async fn bind(
        &self,
        node: &Node,
        at: SlotRef,
        app: &AppId,
        device: &DeviceId,
    ) -> Result<Bound, Unbound> {
        let Some(router) = self.pick().filter(|router| router.is_up.load(Ordering::Acquire)) else {
            return Err(Unbound::Unavailable);
        };
        let (tell, answer) = oneshot::channel();
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let Some(word) = bind_of(node, at, call, Epoch(0)) else {
            return Err(Unbound::Unavailable);
        };
        let pending = Pending {
            at,
            app: app.clone(),
            device: device.clone(),
            tell: Some(tell),
            announced: None,
        };
        self.pending.lock().insert(call, pending);
        if router.queue.try_send(word).is_err() {
            self.pending.lock().remove(&call);
            node.metrics.uplink_full.inc();
            return Err(Unbound::Unavailable);
        }
        let answer = tokio::time::timeout(node.config.router_call_timeout, answer).await;
        if let Ok(Ok(answer)) = answer {
            return answer;
        }
        // The entry stays until the answer comes or the stream breaks.
        if let Some(pending) = self.pending.lock().get_mut(&call) {
            pending.tell = None;
        }
        Err(Unbound::Unavailable)
    }

    /// The router's answer to a claim. The epoch is set before anything that follows on the stream is
    /// looked at, so a kick for this very epoch finds it.
    fn bound(&self, node: &Node, result: &BindResult) {
        let Some(pending) = self.pending.lock().remove(&result.call) else { return };
        let epoch = Epoch(result.epoch);
        let verdict = match result.status() {
            Status::Ok => Ok(Bound { epoch, inboxes: result.inboxes.clone() }),
            Status::StaleAttempt => Err(Unbound::StaleAttempt),
            Status::Superseded => Err(Unbound::Superseded),
            Status::Unspecified | Status::Unavailable => Err(Unbound::Unavailable),
        };
        if let Some(announced) = pending.announced {
            match verdict {
                // Its unbind may have been faster than the announcement: then the router has just
                // learned of a session that is no more.
                Ok(_) if !node.has_session(pending.at) => {
                    let device = (&pending.app, &pending.device);
                    self.unbind(node, device, pending.at, announced, Vec::new());
                }
                Ok(bound) => {
                    let stand = |connection: &mut Connection| {
                        downlink::stand(connection, &bound.inboxes, downlink::Said::Meanwhile);
                    };
                    node.table.with(pending.at, stand);
                    downlink::turn(node, pending.at);
                    // What it acknowledged while the store did not know it was refused: said again.
                    node.sweeps.once(pending.at);
                }
                Err(Unbound::Superseded) => node.supersede(pending.at),
                // The router could not take it just now: again, with the next lease.
                Err(Unbound::Unavailable) => self.refused.lock().push(pending.at),
                Err(_) => {}
            }
            return;
        }
        let verdict = verdict.and_then(|bound| {
            let is_wanted = pending.tell.as_ref().is_some_and(|tell| !tell.is_closed());
            let taken = if is_wanted {
                node.set_epoch(pending.at, bound.epoch, &bound.inboxes)
            } else {
                Ok(false)
            };
            if taken == Ok(true) {
                return Ok(bound);
            }
            let device = (&pending.app, &pending.device);
            self.unbind(node, device, pending.at, bound.epoch, Vec::new());
            Err(taken.err().unwrap_or(Unbound::Unavailable))
        });
        if let Some(tell) = pending.tell {
            // Whoever waited has just gone: its connection gives the claim back when it ends.
            let _ = tell.send(verdict);
        }
    }

    /// Whether an answer to this claim would still be understood.
    fn is_pending(&self, call: u64) -> bool {
        self.pending.lock().contains_key(&call)
    }

    /// Claims nobody waits for any more are forgotten with the stream that would answer them; the
    /// others learn that there is no router.
    fn stream_broke(&self) {
        self.pending.lock().clear();
        self.refused.lock().clear();
    }

    /// Tells the router that a session has ended, and how far its inboxes were written. Without room the streams are begun again, and the
    /// router forgets whatever is not announced then.
    pub(crate) fn unbind(
        &self,
        node: &Node,
        identity: (&AppId, &DeviceId),
        at: SlotRef,
        epoch: Epoch,
        sent: Vec<InboxPosition>,
    ) {
        let (app, device) = identity;
        let word = What::Unbind(Unbind {
            app: app.as_str().to_owned(),
            device: device.as_str().to_owned(),
            slot: at.slot,
            generation: at.generation,
            epoch: epoch.0,
            sent,
        });
        if !self.send(word) {
            node.metrics.uplink_full.inc();
            self.has_lost_unbind.store(true, Ordering::Release);
        }
    }

    /// Whether an unbind was lost since the last time this was asked.
    fn has_lost_unbind(&self) -> bool {
        self.has_lost_unbind.swap(false, Ordering::AcqRel)
    }
}

/// Starts the tasks that keep the streams up.
pub(crate) fn start(node: &Arc<Node>, queues: Queues) {
    for (index, queue) in queues.into_iter().enumerate() {
        node.links.spawn("router control stream", keep_control(node.clone(), index, queue));
        node.links.spawn("router deliver stream", keep_deliver(node.clone(), index));
    }
}

async fn keep_control(node: Arc<Node>, index: usize, mut queue: mpsc::Receiver<What>) {
    let mut retry = Retry::new("router control", &node.links);
    let router = &node.routers.all[index];
    loop {
        let goes_on = retry.go_on_after(control_stream::run(&node, router, &mut queue)).await;
        router.is_up.store(false, Ordering::Release);
        node.routers.stream_broke();
        if !goes_on {
            return;
        }
    }
}

async fn keep_deliver(node: Arc<Node>, index: usize) {
    let mut retry = Retry::new("router deliver", &node.links);
    while retry.go_on_after(deliver_stream::run(&node, index)).await {}
}
