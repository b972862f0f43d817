//! The control stream to one router: our words up, its orders down.

use super::GATHER_MAX;
use super::announce::Walk;
use super::farewell::Doubtful;
use super::orders;
use super::tier::{Functions, Router, Up};
use crate::node::Node;
use crate::retry::Retry;
use hawser_chassis::peers::Role;
use hawser_proto::rpc::node as wire;
use hawser_proto::rpc::node::node_client::NodeClient;
use hawser_proto::rpc::node::up::What;
use hawser_proto::rpc::node::{ControlDown, ControlUp};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Messages between us and the HTTP/2 stream; each may hold many words.
const STREAM_QUEUE: usize = 16;
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long the last words and the goodbye may take.
const GOODBYE_WITHIN: Duration = Duration::from_millis(500);

/// Keeps the stream up until the node ends, or the router leaves the list.
pub(super) async fn keep(node: Arc<Node>, router: Arc<Router>) {
    let mut retry = Retry::until("router control", router.stop.clone());
    loop {
        let begun = Instant::now();
        let outcome = run(&node, &router).await;
        if !retry.pause_after(begun, outcome).await {
            return;
        }
    }
}

/// Runs the stream until it breaks.
async fn run(node: &Arc<Node>, router: &Arc<Router>) -> Result<(), Status> {
    let (out, outbound) = mpsc::channel(STREAM_QUEUE);
    let connected = tokio::select! {
        connected = connect(node, router, outbound, &out) => connected?,
        () = router.stop.cancelled() => return Ok(()),
    };
    let (welcome, mut inbound) = connected;
    router.heard(&welcome.router, Functions::said(welcome.functions));
    let mut life = Life::begin(node, router, welcome.takes_here);
    // The order to sweep may have been lost with the stream before.
    node.sweeps.request();
    let lease = Duration::from_millis(u64::from(welcome.lease_ms.max(300)));
    life.run(&out, &mut inbound, lease).await?;
    drop(out);
    if node.links.is_stopping() {
        // The router ends its side when it has read the last word.
        let ended = async { while let Ok(Some(_)) = inbound.message().await {} };
        let _ = tokio::time::timeout(GOODBYE_WITHIN, ended).await;
    }
    Ok(())
}

async fn connect(
    node: &Node,
    router: &Router,
    outbound: mpsc::Receiver<ControlUp>,
    out: &mpsc::Sender<ControlUp>,
) -> Result<(wire::Welcome, Streaming<ControlDown>), Status> {
    let channel = node.config.peers.channel(&router.uri, Role::Router);
    let channel = channel.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let mut client = NodeClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let first = ControlUp { hello: Some(hello(node)), items: Vec::new() };
    // The channel is new, so there is room.
    let _ = out.try_send(first);
    let mut inbound = client.control(ReceiverStream::new(outbound)).await?.into_inner();
    let first = inbound.message().await?.ok_or_else(broken)?;
    Ok((first.welcome.unwrap_or_default(), inbound))
}

/// First on both streams.
pub(super) fn hello(node: &Node) -> wire::Hello {
    let (node, boot) = (node.config.node.as_str().to_owned(), node.table.boot.0);
    wire::Hello { node, boot, tells_all: true, takes_compressed: true }
}

fn broken() -> Status {
    Status::unavailable("the stream is gone")
}

/// A stream that is up. However it ends, what it leaves undone is done elsewhere.
struct Life {
    node: Arc<Node>,
    up: Arc<Up>,
    words: mpsc::Receiver<What>,
    walk: Walk,
    doubtful: Doubtful,
}

impl Life {
    fn begin(node: &Arc<Node>, router: &Arc<Router>, takes_here: bool) -> Self {
        let (up, words) = Up::new(router.clone(), node.routers.next_stream(), takes_here);
        node.routers.control_is_up(node, &up);
        let (walk, doubtful) = (Walk::Sessions(0), Doubtful::default());
        Self { node: node.clone(), up, words, walk, doubtful }
    }

    async fn run(
        &mut self,
        out: &mpsc::Sender<ControlUp>,
        inbound: &mut Streaming<ControlDown>,
        lease: Duration,
    ) -> Result<(), Status> {
        let (node, up) = (self.node.clone(), self.up.clone());
        let mut renew = tokio::time::interval(lease / 3);
        let mut words = Vec::with_capacity(GATHER_MAX);
        loop {
            tokio::select! {
                // Words are only taken with room to send them in hand: while there is none, what comes
                // down is still read, or two full streams would wait for each other for ever.
                room = self.take(out, &mut words) => {
                    let room = room.ok_or_else(broken)?;
                    if !words.is_empty() {
                        room.send(self.message(&mut words));
                    }
                }
                message = inbound.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    for item in message.items {
                        if let Some(what) = item.what {
                            orders::obey(&node, &up, what).await;
                        }
                    }
                }
                _ = renew.tick() => {
                    self.doubtful.settle(Instant::now());
                    // Without room there are words on their way, and each of them renews the lease.
                    let items = vec![wire::Up { what: Some(What::Lease(wire::Lease {})) }];
                    let _ = out.try_send(ControlUp { hello: None, items });
                }
                () = up.has_lost.notified() => {
                    node.metrics.uplink_restarts.inc();
                    return Err(Status::resource_exhausted("a word was lost; telling all again"));
                }
                () = up.router.stop.cancelled() => break,
            }
        }
        if node.links.is_stopping() {
            // What is left then is lost with the process.
            let _ = tokio::time::timeout(GOODBYE_WITHIN, self.say_goodbye(out)).await;
        }
        Ok(())
    }

    /// Waits for words, or takes the next ones of the walk, and waits for room to send them. `None`: the
    /// stream is gone. Cancel-safe: words are only taken when this resolves.
    async fn take<'s>(
        &mut self,
        out: &'s mpsc::Sender<ControlUp>,
        words: &mut Vec<What>,
    ) -> Option<mpsc::Permit<'s, ControlUp>> {
        let room = out.reserve().await.ok()?;
        if self.walk.is_over() {
            self.words.recv_many(words, GATHER_MAX).await;
        } else {
            // What was queued before goes before what the walk finds now.
            while words.len() < GATHER_MAX
                && let Ok(word) = self.words.try_recv()
            {
                words.push(word);
            }
            self.walk.step(&self.node, &self.up, words, 2 * GATHER_MAX);
        }
        Some(room)
    }

    fn message(&mut self, words: &mut Vec<What>) -> ControlUp {
        let now = Instant::now();
        let mut items = Vec::with_capacity(words.len());
        for word in words.drain(..) {
            match &word {
                // A claim that was given up meanwhile; granted now, it would be nobody's.
                What::Bind(bind) if !self.node.routers.is_wanted(bind.call) => continue,
                What::Unbind(unbind) => self.doubtful.sent(now, unbind),
                _ => {}
            }
            items.push(wire::Up { what: Some(word) });
        }
        ControlUp { hello: None, items }
    }

    /// The last words, and that they are.
    async fn say_goodbye(&mut self, out: &mpsc::Sender<ControlUp>) {
        let mut words = Vec::with_capacity(GATHER_MAX);
        while let Ok(word) = self.words.try_recv() {
            words.push(word);
            if words.len() == GATHER_MAX {
                let _ = out.send(self.message(&mut words)).await;
            }
        }
        words.push(What::Goodbye(wire::Goodbye {}));
        let _ = out.send(self.message(&mut words)).await;
        self.doubtful = Doubtful::default();
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let (node, up) = (&self.node, &self.up);
        self.words.close();
        let unsent = std::iter::from_fn(|| self.words.try_recv().ok());
        let unsent = unsent.filter_map(|word| match word {
            What::Unbind(unbind) => Some(unbind),
            _ => None,
        });
        for unbind in self.doubtful.take().chain(unsent) {
            node.routers.keep(node, unbind);
        }
        node.routers.control_is_down(node, up);
    }
}
