//! An access node as a router sees it: the two streams, devices that are there by their numbers alone, and
//! pushes that are reported as written at once.

use anyhow::Context;
use futures_util::Stream;
use hawser_proto::rpc::node::node_client::NodeClient;
use hawser_proto::rpc::node::{
    AllTold, Bind, ControlUp, DeliverDown, DeliverUp, Delivery, DeliveryReport, GroupReport, Hello,
    Here, Lease, Up, bind_result, down, up,
};
use hawser_proto::rpc::push::Outcome;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

/// Messages that wait for a stream.
const WAITING_MAX: usize = 64;
/// Sessions told of in one message.
const TOLD_TOGETHER: usize = 256;
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// The window of a stream and of its connection, as nodes have them: a burst must not wait for the reader.
const WINDOW_BYTES: u32 = 4 << 20;
/// Any other than 0.
const GENERATION: u32 = 1;

/// How the devices of a tier are numbered and named.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbering {
    pub(super) nodes: u64,
    pub(super) epoch: u64,
}

impl Numbering {
    /// As long as the ids that apps give.
    pub(super) fn name(number: u64) -> String {
        format!("device-{number:012}")
    }

    /// Of these devices, those of one node.
    fn of_node(self, node: u64, from: u64, to: u64) -> impl Iterator<Item = u64> {
        let first = from + (node + self.nodes - from % self.nodes) % self.nodes;
        (first..to).step_by(self.nodes as usize)
    }

    /// Where a device is on its node.
    fn slot(self, number: u64) -> u32 {
        u32::try_from(number / self.nodes).unwrap_or(u32::MAX)
    }
}

/// What the played nodes were asked, over all of them.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) targets: AtomicU64,
    /// One for each node and multicast.
    pub(super) group_messages: AtomicU64,
    pub(super) claims: AtomicU64,
}

/// One of them, on all routers. Dropped, its streams are cut.
pub(super) struct Played {
    number: u64,
    numbering: Numbering,
    app: String,
    ups: Vec<mpsc::Sender<ControlUp>>,
    _tasks: JoinSet<()>,
}

impl Played {
    pub(super) async fn start(
        number: u64,
        numbering: Numbering,
        app: &str,
        routers: &[String],
        secret: &MetadataValue<Ascii>,
        heard: &Arc<Heard>,
    ) -> anyhow::Result<Self> {
        let mut tasks = JoinSet::new();
        let mut ups = Vec::new();
        for router in routers {
            let endpoint = Endpoint::from_shared(router.clone())?
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .tcp_nodelay(true);
            let channel = tokio::time::timeout(CONNECT_PATIENCE, endpoint.connect())
                .await
                .context("a router does not answer")??;
            let hello = Hello {
                node: format!("played-{number}"),
                boot: number + 1,
                tells_all: true,
                takes_compressed: true,
            };
            ups.push(control(&channel, &hello, secret, heard, &mut tasks).await?);
            deliver(&channel, hello, secret, heard, &mut tasks).await?;
        }
        Ok(Self { number, numbering, app: app.to_owned(), ups, _tasks: tasks })
    }

    async fn say(&self, router: usize, items: Vec<up::What>) -> anyhow::Result<()> {
        let items = items.into_iter().map(|what| Up { what: Some(what) }).collect();
        let said = self.ups[router].send(ControlUp { hello: None, items }).await;
        said.ok().context("a control stream has ended")
    }

    /// Tells all routers of its part of these devices.
    pub(super) async fn announce(&self, from: u64, to: u64, business: u32) -> anyhow::Result<()> {
        let here = |number: u64| {
            up::What::Here(Here {
                app: self.app.clone(),
                device: Numbering::name(number),
                slot: self.numbering.slot(number),
                generation: GENERATION,
                epoch: self.numbering.epoch,
                businesses: vec![business],
            })
        };
        let all: Vec<u64> = self.numbering.of_node(self.number, from, to).collect();
        for some in all.chunks(TOLD_TOGETHER) {
            for router in 0..self.ups.len() {
                self.say(router, some.iter().map(|number| here(*number)).collect()).await?;
            }
        }
        for router in 0..self.ups.len() {
            self.say(router, vec![up::What::AllTold(AllTold {})]).await?;
        }
        Ok(())
    }

    /// Claims its part of these devices from the first router, as logins do.
    pub(super) async fn claim(&self, from: u64, to: u64, business: u32) -> anyhow::Result<()> {
        let all: Vec<u64> = self.numbering.of_node(self.number, from, to).collect();
        for some in all.chunks(CLAIMED_TOGETHER) {
            let bind = |number: &u64| {
                up::What::Bind(Bind {
                    call: *number,
                    app: self.app.clone(),
                    device: format!("claimed-{number:012}"),
                    slot: self.numbering.slot(*number),
                    generation: GENERATION + 1,
                    instance: vec![7; 16].into(),
                    attempt: 1,
                    businesses: vec![business],
                    ..Bind::default()
                })
            };
            self.say(0, some.iter().map(bind).collect()).await?;
        }
        Ok(())
    }

    /// Says that it has members of this group.
    pub(super) async fn join(&self, group: &str) -> anyhow::Result<()> {
        for router in 0..self.ups.len() {
            let group = group.to_owned();
            let report =
                GroupReport { call: 1, app: self.app.clone(), group, seq: 1, present: true };
            self.say(router, vec![up::What::Group(report)]).await?;
        }
        Ok(())
    }
}

/// Logins that reach a router in one message where they come by the thousand a second.
const CLAIMED_TOGETHER: usize = 8;

fn with_secret<M>(message: M, secret: &MetadataValue<Ascii>) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", secret.clone());
    request
}

fn stream_of<M: Send + 'static>(waiting: mpsc::Receiver<M>) -> impl Stream<Item = M> + Send {
    futures_util::stream::unfold(waiting, |mut waiting| async {
        Some((waiting.recv().await?, waiting))
    })
}

async fn control(
    channel: &Channel,
    hello: &Hello,
    secret: &MetadataValue<Ascii>,
    heard: &Arc<Heard>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<mpsc::Sender<ControlUp>> {
    let (sender, waiting) = mpsc::channel(WAITING_MAX);
    sender.try_send(ControlUp { hello: Some(hello.clone()), items: Vec::new() })?;
    let request = with_secret(stream_of(waiting), secret);
    let mut downs = NodeClient::new(channel.clone()).control(request).await?.into_inner();
    let first = downs.message().await?.and_then(|it| it.welcome).context("no welcome")?;
    let renew = sender.clone();
    tasks.spawn(async move {
        let third = Duration::from_millis(u64::from(first.lease_ms / 3).max(1));
        let mut pace = tokio::time::interval(third);
        loop {
            pace.tick().await;
            let items = vec![Up { what: Some(up::What::Lease(Lease {})) }];
            if renew.send(ControlUp { hello: None, items }).await.is_err() {
                return;
            }
        }
    });
    let heard = heard.clone();
    tasks.spawn(async move {
        while let Ok(Some(message)) = downs.message().await {
            let is_bound = |it: &hawser_proto::rpc::node::Down| {
                let Some(down::What::BindResult(bound)) = &it.what else { return false };
                bound.status() == bind_result::Status::Ok
            };
            let bound = message.items.iter().filter(|it| is_bound(it)).count();
            heard.claims.fetch_add(bound as u64, Ordering::Relaxed);
        }
    });
    Ok(sender)
}

async fn deliver(
    channel: &Channel,
    hello: Hello,
    secret: &MetadataValue<Ascii>,
    heard: &Arc<Heard>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let (sender, waiting) = mpsc::channel(WAITING_MAX);
    sender.try_send(DeliverUp { hello: Some(hello), ..DeliverUp::default() })?;
    let mut client = NodeClient::new(channel.clone()).max_decoding_message_size(16 << 20);
    let request = with_secret(stream_of(waiting), secret);
    let mut downs = client.deliver(request).await?.into_inner();
    let heard = heard.clone();
    tasks.spawn(async move {
        while let Ok(Some(DeliverDown { deliveries, .. })) = downs.message().await {
            let reports = deliveries.iter().map(|one| report(one, &heard)).collect();
            if sender.send(DeliverUp { reports, ..DeliverUp::default() }).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn report(delivery: &Delivery, heard: &Heard) -> DeliveryReport {
    let targets = delivery.targets.len();
    let group = u64::from(!delivery.group.is_empty());
    heard.targets.fetch_add(targets as u64, Ordering::Relaxed);
    heard.group_messages.fetch_add(group, Ordering::Relaxed);
    DeliveryReport {
        id: delivery.id,
        outcomes: vec![Outcome::Written as u32; targets],
        members: group,
        written: group,
        done: true,
        ..DeliveryReport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_device_is_on_one_node_in_a_slot_of_its_own() {
        let numbering = Numbering { nodes: 7, epoch: 1 };
        let mut places = BTreeSet::new();
        // As tables grow: in steps that are no multiples of the nodes.
        for (from, to) in [(0, 10), (10, 101)] {
            for node in 0..numbering.nodes {
                for device in numbering.of_node(node, from, to) {
                    assert!((from..to).contains(&device), "{device}");
                    assert!(places.insert((node, numbering.slot(device))), "{device}");
                }
            }
        }
        assert_eq!(places.len(), 101);
    }
}
