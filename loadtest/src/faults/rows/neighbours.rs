//! Rows in which someone misbehaves, and the others must not feel it. Each asks first whether there was
//! anything to feel.

mod flood;

pub(super) use flood::{Flood, Flooded};

use super::Stage;
use crate::crowd::Told;
use crate::faults::businesses::Mood;
use crate::faults::cluster::{BUSINESSES, Cluster, Service, Shape};
use crate::faults::crowds::{Crowds, Wanted};
use crate::faults::done::Done;
use crate::faults::probe::{Feels, Plan, Probe, bearer, client};
use crate::faults::scene::Scene;
use crate::faults::windows::{Compared, Windows};
use crate::process;
use anyhow::Context;
use hawser_loadtest::redis::Redis;
use hawser_loadtest::stamp;
use hawser_proto::rpc::push::{CreateGroupRequest, Message, MulticastRequest};
use std::time::{Duration, Instant};
use tonic::Request;

const PAIRS: usize = 5;
/// Held for one slow device at the most: its outbox, the kernel's send buffer, and what is on the way.
const SLOW_BYTES_MAX: f64 = 320.0 * 1024.0;
const RECOVERED_MAX: Duration = Duration::from_secs(3);
/// Of what was written to links that are read, this much arrives.
const MOST: f64 = 0.99;
/// A crowd tells what it saw once a second.
const HEARD: Duration = Duration::from_secs(2);

impl Stage<'_> {
    /// A cluster of this shape, with a few devices and stored pushes that are judged at the end, whatever
    /// befalls a row's own crowd.
    pub(super) async fn judged(&self, shape: Shape) -> anyhow::Result<Scene> {
        Scene::beside(self.wanted, self.binary, self.folder, shape).await
    }

    /// Two routers and two nodes over a Redis.
    async fn two_of_each(&self) -> anyhow::Result<(Scene, Redis)> {
        let redis = Redis::start(&self.folder.join("redis"), &super::store::EVERY_SECOND)?;
        let store = format!("redis://{}", redis.address);
        let shape = Shape::sized(&store, self.timers(), 2, 2);
        Ok((self.judged(shape).await?, redis))
    }

    /// A crowd that is not silent for so long that it is taken for gone.
    pub(super) fn crowd(&self, cluster: &Cluster, name: &str, count: usize) -> Wanted {
        let heartbeat = self.timers().heartbeat;
        Wanted { heartbeat, ..Wanted::new(&cluster.control, name, count) }
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
        let (mut scene, _redis) = self.two_of_each().await?;
        let mut probe = self.neighbours(&scene.cluster, Feels::Pushes, 0).await?;
        let slow = 40;
        // What the same pushes cost on their way to devices that read them is not held for slow ones.
        let mut quick = self.crowd(&scene.cluster, "quick", slow);
        quick.nodes = vec![scene.cluster.doors[0].tcp];
        let mut readers = Crowds::start(quick)?;
        readers.until_online(slow, Duration::from_secs(30)).await?;
        let flood = Self::pushes_to(&scene.cluster, "quick", slow)?;
        flood.go();
        tokio::time::sleep(2 * self.window()).await;
        drop((flood, readers));
        let mut wanted = self.crowd(&scene.cluster, "slow", slow);
        // A link that takes nothing is cut, and its device comes back as deaf as before.
        (wanted.deaf, wanted.come_back) = (true, true);
        wanted.nodes = vec![scene.cluster.doors[0].tcp];
        let mut crowd = Crowds::start(wanted)?;
        crowd.until_online(slow, Duration::from_secs(30)).await?;
        let (id, _) = scene.cluster.process(Service::Access(0)).context("the node is down")?;
        let before = process::resident_bytes(id)? as f64;
        let flood = Self::pushes_to(&scene.cluster, "slow", slow)?;
        let mut windows = Windows::default();
        let mut most = before;
        for round in 0..PAIRS {
            if round == 2 {
                scene.was_full_once().await;
            }
            flood.pause();
            windows.calm(self.window()).await;
            flood.go();
            windows.trouble(self.window()).await;
            most = most.max(process::resident_bytes(id)? as f64);
        }
        flood.pause();
        let compared = windows.of(&probe).await;
        probe.check()?;
        let (told, flooded) = (crowd.during(HEARD).await?, flood.seen());
        drop((flood, probe, crowd));
        let each = (most - before) / slow as f64;
        let (mut done, _) = scene.end().await?;
        done.figure(
            format!("neighbours' pushes: {}", compared.shown(1.1)),
            compared.within(1.1) && compared.lost() == 0,
        );
        done.figure(
            format!(
                "{:.0} KiB held for each of {slow} slow devices (at most 320), beyond what devices that read \
                 cost",
                each / 1024.0
            ),
            each <= SLOW_BYTES_MAX,
        );
        Self::to_the_deaf(&mut done, flooded, &told);
        done.say("no clock is in it but the write time-out of 10 s, which is full");
        Ok(done)
    }

    /// 200 pushes of 15 KiB a second, to these devices in turn. Allocators round a frame of a little more than 16 up
    /// to 20.
    fn pushes_to(cluster: &Cluster, name: &'static str, devices: usize) -> anyhow::Result<Flood> {
        let target = move |number: usize| vec![format!("{name}-{}", number % devices)];
        Flood::start(cluster, 0, 200, move |number| (target(number), 15 * 1024))
    }

    /// What shows that devices were pushed to as fast as was meant, and took nothing of it.
    pub(super) fn to_the_deaf(done: &mut Done, flooded: Flooded, told: &Told) {
        // Whoever was cut is away for a moment, and whoever finds a full node for longer.
        let there = flooded.written + flooded.overflow;
        done.figure(
            format!(
                "to devices that read nothing: {flooded}; they heard {} (0), {} of their links were cut",
                told.pushes, told.lost
            ),
            flooded.was_loud()
                && told.pushes == 0
                && flooded.written > 0
                && flooded.overflow > 0
                && 2 * there > flooded.offline,
        );
    }

    /// One business is slow, then silent, then its host is gone; another's requests go on.
    pub(super) async fn slow_business(&self) -> anyhow::Result<Done> {
        let mut staging = self.small("embedded");
        staging.devices = self.wanted.devices.min(8);
        let mut scene = self.scene(staging).await?;
        let mut probe = self.neighbours(&scene.cluster, Feels::Requests, 1).await?;
        let mut wanted = self.crowd(&scene.cluster, "asker", 200);
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
            figures.push((ill, windows.of(&probe).await));
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
        let (scene, _redis) = self.two_of_each().await?;
        let cluster = &scene.cluster;
        let members = self.scaled_down(10_000);
        let mut probe = self.neighbours(cluster, Feels::Pushes, 1).await?;
        let mut request =
            Request::new(CreateGroupRequest { group: "all".to_owned(), history: None });
        request.metadata_mut().insert("authorization", bearer(&cluster.keys[0])?);
        client(&cluster.push[0])?.create_group(request).await?;
        let mut wanted = self.crowd(cluster, "member", members);
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
        let compared = windows.of(&probe).await;
        let told = crowd.during(HEARD).await?;
        probe.check()?;
        drop((probe, crowd));
        let (mut done, _) = scene.end().await?;
        done.figure(
            format!("others' pushes: {}", compared.shown(2.0)),
            compared.within(2.0) && compared.lost() == 0,
        );
        let (all, each) = (sent * members as u64, PAIRS as u64 * self.window().as_secs());
        let most = |count: u64, of: u64| count as f64 >= of as f64 * MOST;
        done.figure(
            format!(
                "{sent} multicasts (at least {each}) to {members} members, {} there, reached {reached} of \
                 {all}, delivered {} (at least 99 %) with {}, wrong {} (0)",
                told.members, told.group_pushes, told.group_delay, told.wrong
            ),
            told.wrong == 0
                && sent >= each
                && most(told.members, members as u64)
                && most(reached, all)
                && most(told.group_pushes, all),
        );
        Ok(done)
    }

    pub(super) async fn hot_device(&self) -> anyhow::Result<Done> {
        let (scene, _redis) = self.two_of_each().await?;
        let cluster = &scene.cluster;
        let mut probe = self.neighbours(cluster, Feels::Pushes, 0).await?;
        let mut wanted = self.crowd(cluster, "hot", 1);
        wanted.nodes = vec![cluster.doors[0].tcp];
        let mut crowd = Crowds::start(wanted)?;
        crowd.until_online(1, Duration::from_secs(30)).await?;
        let flood = Flood::start(cluster, 0, 1_000, |_| (vec!["hot-0".to_owned()], 64))?;
        let compared = Self::beside(&mut probe, &flood, self.window()).await?;
        let (told, flooded) = (crowd.during(HEARD).await?, flood.seen());
        drop((flood, probe, crowd));
        let (mut done, _) = scene.end().await?;
        Self::feel_at_most(&mut done, compared, 1.25, "others' pushes");
        let written = flooded.written as f64;
        done.figure(
            format!(
                "the hot device: {flooded}; it got {} (at least 99 % of the calls)",
                told.pushes
            ),
            flooded.was_loud()
                && told.pushes as f64 >= flooded.calls as f64 * MOST
                && written >= flooded.calls as f64 * MOST,
        );
        Ok(done)
    }

    pub(super) async fn noisy_tenant(&self) -> anyhow::Result<Done> {
        let (scene, _redis) = self.two_of_each().await?;
        let cluster = &scene.cluster;
        let mut probe = self.neighbours(cluster, Feels::Pushes, 1).await?;
        // Batches to devices that are not there, and to some that are: look-ups, and a little to deliver.
        let here = 10;
        let mut wanted = self.crowd(cluster, "noise", here);
        wanted.nodes = vec![cluster.doors[0].tcp];
        let mut crowd = Crowds::start(wanted)?;
        crowd.until_online(here, Duration::from_secs(30)).await?;
        let targets: Vec<String> = (0..here)
            .map(|n| format!("noise-{n}"))
            .chain((here..100).map(|n| format!("nobody-{n}")))
            .collect();
        let flood = Flood::start(cluster, 0, 100, move |_| (targets.clone(), 256))?;
        let compared = Self::beside(&mut probe, &flood, self.window()).await?;
        let (told, flooded) = (crowd.during(HEARD).await?, flood.seen());
        drop((flood, probe, crowd));
        let (mut done, _) = scene.end().await?;
        Self::feel_at_most(&mut done, compared, 2.0, "the other business's pushes");
        done.figure(
            format!(
                "batches of 100 targets, of which {here} are there: {flooded}; they got {} (at least 99 % \
                 of those written)",
                told.pushes
            ),
            flooded.was_loud()
                && flooded.written as f64 >= flooded.answered as f64 * here as f64 * MOST
                && flooded.offline as f64 >= flooded.answered as f64 * (100 - here) as f64 * MOST
                && told.pushes as f64 >= flooded.written as f64 * MOST,
        );
        Ok(done)
    }

    /// Windows of quiet and of flood in turn.
    async fn beside(
        probe: &mut Probe,
        flood: &Flood,
        window: Duration,
    ) -> anyhow::Result<Compared> {
        let mut windows = Windows::default();
        for _ in 0..PAIRS {
            flood.pause();
            windows.calm(window).await;
            flood.go();
            windows.trouble(window).await;
        }
        flood.pause();
        let compared = windows.of(probe).await;
        probe.check()?;
        Ok(compared)
    }

    fn feel_at_most(done: &mut Done, compared: Compared, share: f64, whose: &str) {
        done.figure(
            format!("{whose}: {}", compared.shown(share)),
            compared.within(share) && compared.lost() == 0,
        );
        done.say("no clock is in it");
    }
}
