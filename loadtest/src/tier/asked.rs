//! What backends ask of the tier, as fast as it answers with a bounded number under way.

use super::played::Numbering;
use crate::faults::probe::{bearer, client};
use anyhow::{Context, ensure};
use bytes::Bytes;
use hawser_loadtest::delays::Delays;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{
    BatchUnicastRequest, CreateGroupRequest, Message, MulticastRequest, Outcome, PresenceRequest,
    PresenceState, UnicastRequest,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

const BODY_BYTES: usize = 128;
const PATIENCE: Duration = Duration::from_secs(30);

/// A backend with its key.
#[derive(Clone)]
pub(super) struct Backend {
    client: PushClient<Channel>,
    key: MetadataValue<Ascii>,
}

/// What one ask came to: how many of what it was about, and how long each call took.
pub(super) struct Asked {
    pub(super) count: u64,
    pub(super) delay: Delays,
}

/// A way to ask.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Batches of so many targets.
    Batch(usize),
    /// Presence of so many devices.
    Presence(usize),
    /// One device each.
    Single,
    /// To the group.
    Multicast,
}

impl Backend {
    pub(super) fn new(push: &str, key: &str) -> anyhow::Result<Self> {
        Ok(Self { client: client(push)?, key: bearer(key)? })
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.key.clone());
        request
    }

    pub(super) async fn create_group(&self, group: &str) -> anyhow::Result<()> {
        let request = CreateGroupRequest { group: group.to_owned(), history: None };
        self.client.clone().create_group(self.request(request)).await?;
        Ok(())
    }

    /// Asks so many times, with devices from all over.
    pub(super) async fn ask(
        &self,
        way: Way,
        calls: u64,
        at_once: u64,
        devices: u64,
        group: &str,
    ) -> anyhow::Result<Asked> {
        let mut tasks = JoinSet::new();
        for worker in 0..at_once {
            let (one, group) = (self.clone(), group.to_owned());
            let mine = calls * (worker + 1) / at_once - calls * worker / at_once;
            tasks.spawn(async move {
                let mut dice = SmallRng::seed_from_u64(worker);
                let mut asked = Asked { count: 0, delay: Delays::default() };
                for _ in 0..mine {
                    let started = Instant::now();
                    let call = one.call(way, devices, &group, &mut dice);
                    let count = tokio::time::timeout(PATIENCE, call).await;
                    asked.count += count.context("a call was not answered")??;
                    asked.delay.add(started.elapsed());
                }
                anyhow::Ok(asked)
            });
        }
        let mut all = Asked { count: 0, delay: Delays::default() };
        while let Some(one) = tasks.join_next().await {
            let one = one.context("a backend broke")??;
            all.count += one.count;
            all.delay.merge(&one.delay);
        }
        Ok(all)
    }

    async fn call(
        &self,
        way: Way,
        devices: u64,
        group: &str,
        dice: &mut SmallRng,
    ) -> anyhow::Result<u64> {
        let mut client = self.client.clone();
        let mut any = || Numbering::name(dice.random_range(0..devices));
        let body = Bytes::from_static(&[b'.'; BODY_BYTES]);
        let message = Some(Message { body, ..Message::default() });
        match way {
            Way::Batch(size) => {
                let devices: Vec<String> = (0..size).map(|_| any()).collect();
                let request = BatchUnicastRequest { message, devices, ..Default::default() };
                let answer = client.batch_unicast(self.request(request)).await?.into_inner();
                let written = answer.outcomes().filter(|it| *it == Outcome::Written).count();
                ensure!(written == size, "{written} of {size} targets were written");
                Ok(size as u64)
            }
            Way::Presence(size) => {
                let devices = (0..size).map(|_| any()).collect();
                let answer = client.get_presence(self.request(PresenceRequest { devices })).await?;
                let answer = answer.into_inner().devices;
                let online = answer.iter().filter(|it| it.state() == PresenceState::Online).count();
                ensure!(online == size, "{online} of {size} devices are online");
                Ok(size as u64)
            }
            Way::Single => {
                let request = UnicastRequest { device: any(), message, ..Default::default() };
                let answer = client.unicast(self.request(request)).await?.into_inner();
                ensure!(answer.outcome() == Outcome::Written, "it was {:?}", answer.outcome());
                Ok(1)
            }
            Way::Multicast => {
                let group = group.to_owned();
                let request = MulticastRequest { group, message, ..MulticastRequest::default() };
                let answer = client.multicast(self.request(request)).await?.into_inner();
                // One for each node.
                Ok(answer.members)
            }
        }
    }
}
