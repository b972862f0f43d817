//! Stored pushes to a crowd, each repeated with its id until it is stored: what a storm must not lose.

use crate::faults::cluster::Cluster;
use crate::faults::probe::{bearer, client};
use anyhow::Context;
use bytes::Bytes;
use hawser_loadtest::stamp;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_proto::rpc::push::{Class, Message, Outcome, UnicastRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

const CALL_PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(200);
/// What has no position by then is left unknown.
const GIVE_UP: Duration = Duration::from_mins(1);
const UNDER_WAY_MAX: usize = 512;

/// What came of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Answered with a position.
    pub(crate) stored: u64,
    pub(crate) unknown: u64,
}

/// At work until it is stopped.
pub(crate) struct Stores {
    stop: Arc<AtomicBool>,
    task: JoinSet<anyhow::Result<Counts>>,
}

impl Stores {
    /// Pushes to `name`-0 and so on, so many devices, of the first business.
    pub(crate) fn start(
        cluster: &Cluster,
        name: &'static str,
        devices: usize,
        per_second: u32,
    ) -> anyhow::Result<Self> {
        let clients: anyhow::Result<Vec<_>> = cluster.push.iter().map(|at| client(at)).collect();
        let stop = Arc::<AtomicBool>::default();
        let (key, stored) = (bearer(&cluster.keys[0])?, Arc::default());
        let all = All { clients: clients?, key, stored };
        let mut task = JoinSet::new();
        let stopped = stop.clone();
        task.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
            let (mut calls, mut begun) = (JoinSet::new(), 0_usize);
            while !stopped.load(Ordering::Acquire) {
                pace.tick().await;
                while calls.try_join_next().is_some() {}
                if calls.len() < UNDER_WAY_MAX {
                    begun += 1;
                    // A stride that meets every device, in no order.
                    calls.spawn(
                        all.clone().one(format!("{name}-{}", begun * 7_919 % devices), begun),
                    );
                }
            }
            calls.join_all().await;
            let stored = all.stored.load(Ordering::Relaxed);
            Ok(Counts { stored, unknown: begun as u64 - stored })
        });
        Ok(Self { stop, task })
    }

    /// No new ones; waits until each has its last word.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Counts> {
        self.stop.store(true, Ordering::Release);
        self.task.join_next().await.context("nobody pushes")?.context("the stored pushes broke")?
    }
}

#[derive(Clone)]
struct All {
    clients: Vec<PushClient<Channel>>,
    key: MetadataValue<Ascii>,
    stored: Arc<AtomicU64>,
}

impl All {
    async fn one(mut self, device: String, number: usize) {
        let (begun, router) = (Instant::now(), number % self.clients.len());
        self.clients.rotate_left(router);
        let body = stamp::body(&device, 128);
        let push_id = Bytes::copy_from_slice(&rand::random::<[u8; 16]>());
        while begun.elapsed() < GIVE_UP {
            let mut request = Request::new(UnicastRequest {
                device: device.clone(),
                message: Some(Message { body: body.clone(), ..Message::default() }),
                class: Class::Stored.into(),
                push_id: push_id.clone(),
                ..UnicastRequest::default()
            });
            request.metadata_mut().insert("authorization", self.key.clone());
            let called = self.clients[0].unicast(request);
            let answer = tokio::time::timeout(CALL_PATIENCE, called).await;
            if answer.is_ok_and(|it| it.is_ok_and(|it| it.get_ref().outcome() == Outcome::Stored)) {
                self.stored.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.clients.rotate_left(1);
            tokio::time::sleep(AGAIN).await;
        }
    }
}
