//! Rows in which someone misbehaves, and the others must not feel it.

use super::Stage;
use crate::crowd::Told;
use crate::faults::businesses::Mood;
use crate::faults::cluster::{BUSINESSES, Cluster, Service, Shape};
use crate::faults::crowds::{Crowds, Wanted};
use crate::faults::done::Done;
use crate::faults::probe::{Feels, Plan, Probe, bearer, client};
use crate::faults::scene::Scene;
use crate::faults::windows::Windows;
use crate::process;
use anyhow::Context;
use hawser_loadtest::redis::Redis;
use hawser_loadtest::stamp;
use hawser_proto::rpc::push::{
    BatchUnicastRequest, CreateGroupRequest, Message, MulticastRequest, UnicastRequest,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::Request;

const PAIRS: usize = 5;
/// Held for one slow device at the most: its outbox, the kernel's send buffer, and what is on the way.
const SLOW_BYTES_MAX: f64 = 320.0 * 1024.0;
const RECOVERED_MAX: Duration = Duration::from_secs(3);

impl Stage<'_> {
    /// Two routers and two nodes over a Redis, without device processes.
    async fn bare_cluster(&self) -> anyhow::Result<(Cluster, Redis)> {
        let redis = Redis::start(&self.folder.join("redis"), &super::store::EVERY_SECOND)?;
        let store = format!("redis://{}", redis.address);
        let shape = Shape::sized(&store, self.timers(), 2, 2);
        Ok((Cluster::start(self.binary, self.folder, shape).await?, redis))
    }

    fn window(&self) -> Duration {
        Duration::from_secs((self.wanted.seconds / 4).max(2))
    }

    /// Devices of one business that are pushed to, on the first node.
    async fn neighbours(
        &self,
        cluster: &Cluster,
        feels: Feels,
        business: usize,
    ) -> anyhow::Result<Probe> {
        let plan = Plan {
            feels,
            name: "neighbour".to_owned(),
            devices: 20,
            per_second: 200,
            business: BUSINESSES[business],
            key: cluster.keys[business].clone(),
            push: cluster.push[0].clone(),
            doors: vec![cluster.doors[0].tcp],
        };
        let probe = Probe::start(cluster, plan).await?;
        // The first of anything is slow.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(probe)
    }

    pub(super) async fn slow_device(&self) -> anyhow::Result<Done> {
        let (cluster, _redis) = self.bare_cluster().await?;
        let mut probe = self.neighbours(&cluster, Feels::Pushes, 0).await?;
        let slow = 40;
        let mut wanted = Wanted::new(&cluster.control, "slow", slow);
        (wanted.deaf, wanted.nodes) = (true, vec![cluster.doors[0].tcp]);
        let mut crowd = Crowds::start(wanted)?;
        crowd.until_online(slow, Duration::from_secs(30)).await?;
        let (id, _) = cluster.process(Service::Access(0)).context("the node is down")?;
        let before = process::resident_bytes(id)? as f64;
        let devices: Vec<String> = (0..slow).map(|n| format!("slow-{n}")).collect();
        let flood = Flood::start(&cluster, 0, 200, move |number| {
            let device = devices[number % devices.len()].clone();
            (vec![device], 16 * 1024)
        })?;
        let mut windows = Windows::default();
        let mut most = before;
        for _ in 0..PAIRS {
            flood.pause();
            windows.calm(self.window()).await;
            flood.go();
            windows.trouble(self.window()).await;
            most = most.max(process::resident_bytes(id)? as f64);
        }
        probe.check()?;
        let compared = windows.of(&probe);
        let each = (most - before) / slow as f64;
        let mut done = Done::unjudged(self.timers().shown());
        done.figure(format!("neighbours' pushes: {}", compared.shown(1.1)), compared.within(1.1));
        done.figure(
            format!("{:.0} KiB held for each of {slow} slow devices (at most 320)", each / 1024.0),
            each <= SLOW_BYTES_MAX,
        );
        let overflows = flood.sent();
        done.say(format!("{overflows} pushes of 16 KiB to devices that read nothing"));
        done.say("no clock is in it but the write time-out of 10 s, which is full");
        Ok(done)
    }

    /// One business is slow, then silent, then its host is gone; another's requests go on.
    pub(super) async fn slow_business(&self) -> anyhow::Result<Done> {
        let mut staging = self.small("embedded");
        staging.devices = self.wanted.devices.min(8);
        let mut scene = self.scene(staging).await?;
        let mut probe = self.neighbours(&scene.cluster, Feels::Requests, 1).await?;
        let mut wanted = Wanted::new(&scene.cluster.control, "asker", 200);
        wanted.requests_per_second = 100;
        wanted.nodes = vec![scene.cluster.doors[0].tcp];
        let mut crowd = Crowds::start(wanted)?;
        crowd.until_online(200, Duration::from_secs(30)).await?;
        let mut figures = Vec::new();
        let mut seen = Told::default();
        for ill in ["slow", "silent", "gone"] {
            let mut windows = Windows::default();
            for _ in 0..3 {
                Self::cure(&scene);
                crowd.during(Duration::from_millis(500)).await?;
                scene.pass(Duration::from_millis(1), false).await?;
                windows.calm(self.window() / 2).await;
                match ill {
                    "slow" => scene.offices[0].set(Mood::Slow(Duration::from_millis(1_500))),
                    "silent" => scene.offices[0].set(Mood::Silent),
                    _ => scene.offices[0].die(),
                }
                windows.trouble(self.window() / 2).await;
                seen.merge(&crowd.take()?);
            }
            figures.push((ill, windows.of(&probe)));
        }
        // Back to health: how long until it answers again, by who asks it.
        scene.fault("business gone");
        scene.offices[0].die();
        scene.pass(Duration::from_secs(3), false).await?;
        crowd.take()?;
        let cured = Instant::now();
        Self::cure(&scene);
        let recovered = loop {
            let told = crowd.during(Duration::from_millis(100)).await?;
            if told.answers > 0 {
                break Some(cured.elapsed());
            }
            if cured.elapsed() > Duration::from_secs(20) {
                break None;
            }
        };
        scene.healed();
        scene.pass(Duration::from_secs(2), false).await?;
        probe.check()?;
        drop((probe, crowd));
        let (mut done, _) = scene.end().await?;
        for (ill, compared) in figures {
            done.figure(
                format!("other business while one is {ill}: {}", compared.shown(1.1)),
                compared.within(1.1) && compared.lost() == 0,
            );
        }
        let shown = recovered.map_or("never".to_owned(), |it| format!("{:.1} s", it.as_secs_f64()));
        done.figure(
            format!("answers again {shown} after it came back (at most 3 s)"),
            recovered.is_some_and(|it| it <= RECOVERED_MAX),
        );
        done.say(format!(
            "its askers meanwhile: {} answered, refused {:?}; there is no circuit breaker yet, its pool's \
             bounds and deadlines are what protects the others",
            seen.answers, seen.failures
        ));
        Ok(done)
    }

    fn cure(scene: &Scene) {
        scene.offices[0].set(Mood::Well);
        scene.offices[0].come_back();
    }

    pub(super) async fn huge_group(&self) -> anyhow::Result<Done> {
        let (cluster, _redis) = self.bare_cluster().await?;
        let members = self.scaled_down(10_000);
        let mut probe = self.neighbours(&cluster, Feels::Pushes, 1).await?;
        let mut request =
            Request::new(CreateGroupRequest { group: "all".to_owned(), history: None });
        request.metadata_mut().insert("authorization", bearer(&cluster.keys[0])?);
        client(&cluster.push[0])?.create_group(request).await?;
        let mut wanted = Wanted::new(&cluster.control, "member", members);
        wanted.group = Some("all".to_owned());
        wanted.nodes = cluster.doors.iter().map(|door| door.tcp).collect();
        let mut crowd = Crowds::start(wanted)?;
        crowd.until_online(members, Duration::from_secs((members / 100) as u64 + 60)).await?;
        let key = bearer(&cluster.keys[0])?;
        let mut windows = Windows::default();
        let (mut sent, mut reached) = (0_u64, 0_u64);
        for _ in 0..PAIRS {
            windows.calm(self.window()).await;
            let mut client = client(&cluster.push[0])?;
            let (key, until) =
                (key.clone(), Instant::now() + self.window() + Duration::from_secs(1));
            let loud = async move {
                let mut members = 0;
                let mut sent = 0;
                let mut pace = tokio::time::interval(Duration::from_secs(1));
                while Instant::now() < until {
                    pace.tick().await;
                    let message = Message { body: stamp::body("all", 128), ..Message::default() };
                    let mut request = Request::new(MulticastRequest {
                        group: "all".to_owned(),
                        message: Some(message),
                        ..MulticastRequest::default()
                    });
                    request.metadata_mut().insert("authorization", key.clone());
                    members += client.multicast(request).await?.into_inner().members;
                    sent += 1;
                }
                anyhow::Ok((sent, members))
            };
            let ((), loud) = tokio::join!(windows.trouble(self.window()), loud);
            let (more, members) = loud?;
            (sent, reached) = (sent + more, reached + members);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let told = crowd.take()?;
        probe.check()?;
        let compared = windows.of(&probe);
        let mut done = Done::unjudged(self.timers().shown());
        done.figure(format!("others' pushes: {}", compared.shown(2.0)), compared.within(2.0));
        done.figure(
            format!(
                "{sent} multicasts to {members} members reached {reached}, delivered {} with {}, wrong {}",
                told.group_pushes, told.group_delay, told.wrong
            ),
            told.wrong == 0 && told.group_pushes >= reached * 99 / 100 && reached > 0,
        );
        Ok(done)
    }

    pub(super) async fn hot_device(&self) -> anyhow::Result<Done> {
        let (cluster, _redis) = self.bare_cluster().await?;
        let mut probe = self.neighbours(&cluster, Feels::Pushes, 0).await?;
        let mut wanted = Wanted::new(&cluster.control, "hot", 1);
        wanted.nodes = vec![cluster.doors[0].tcp];
        let mut crowd = Crowds::start(wanted)?;
        crowd.until_online(1, Duration::from_secs(30)).await?;
        let flood = Flood::start(&cluster, 0, 1_000, |_| (vec!["hot-0".to_owned()], 64))?;
        let mut done = self.beside(&mut probe, &flood, 1.25, "others' pushes").await?;
        let told = crowd.take()?;
        done.say(format!("the hot device got {} of {}", told.pushes, flood.sent()));
        Ok(done)
    }

    pub(super) async fn noisy_tenant(&self) -> anyhow::Result<Done> {
        let (cluster, _redis) = self.bare_cluster().await?;
        let mut probe = self.neighbours(&cluster, Feels::Pushes, 1).await?;
        // Batches to devices that are not there, and to some that are: look-ups, and nothing to deliver.
        let targets: Vec<String> = (0..100).map(|n| format!("nobody-{n}")).collect();
        let flood = Flood::start(&cluster, 0, 100, move |_| (targets.clone(), 256))?;
        let mut done = self.beside(&mut probe, &flood, 2.0, "the other business's pushes").await?;
        done.say(format!("{} batches of 100 targets", flood.sent()));
        Ok(done)
    }

    async fn beside(
        &self,
        probe: &mut Probe,
        flood: &Flood,
        share: f64,
        whose: &str,
    ) -> anyhow::Result<Done> {
        let mut windows = Windows::default();
        for _ in 0..PAIRS {
            flood.pause();
            windows.calm(self.window()).await;
            flood.go();
            windows.trouble(self.window()).await;
        }
        flood.pause();
        probe.check()?;
        let compared = windows.of(probe);
        let mut done = Done::unjudged(self.timers().shown());
        done.figure(format!("{whose}: {}", compared.shown(share)), compared.within(share));
        done.say("no clock is in it");
        Ok(done)
    }
}

/// Volatile pushes at a rate, while it is let go; whatever comes of them.
pub(super) struct Flood {
    on: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    /// Aborted with it.
    _task: JoinSet<anyhow::Result<()>>,
}

impl Flood {
    /// `what`: targets and bytes of the push with this number.
    pub(super) fn start(
        cluster: &Cluster,
        business: usize,
        per_second: u32,
        what: impl Fn(usize) -> (Vec<String>, usize) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let client = client(&cluster.push[1 % cluster.push.len()])?;
        let key = bearer(&cluster.keys[business])?;
        let (on, sent) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let (is_on, counted) = (on.clone(), sent.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
            let mut calls = JoinSet::new();
            for number in 0.. {
                pace.tick().await;
                while calls.try_join_next().is_some() {}
                if !is_on.load(Ordering::Acquire) || calls.len() > 512 {
                    continue;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                let (devices, bytes) = what(number);
                let (mut client, key) = (client.clone(), key.clone());
                calls.spawn(async move {
                    let body = stamp::body(&devices[0], bytes);
                    let message = Some(Message { body, ..Message::default() });
                    if let [device] = devices.as_slice() {
                        let device = device.clone();
                        let mut request = Request::new(UnicastRequest {
                            device,
                            message,
                            ..UnicastRequest::default()
                        });
                        request.metadata_mut().insert("authorization", key);
                        let _ = client.unicast(request).await;
                    } else {
                        let mut request = Request::new(BatchUnicastRequest {
                            message,
                            devices,
                            ..BatchUnicastRequest::default()
                        });
                        request.metadata_mut().insert("authorization", key);
                        let _ = client.batch_unicast(request).await;
                    }
                });
            }
            Ok(())
        });
        Ok(Self { on, sent, _task: task })
    }

    pub(super) fn go(&self) {
        self.on.store(true, Ordering::Release);
    }

    pub(super) fn pause(&self) {
        self.on.store(false, Ordering::Release);
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
