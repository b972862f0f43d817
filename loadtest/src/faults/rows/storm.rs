//! The reconnect storm: thousands of devices lose two nodes of four in one moment, and come back over TLS;
//! then, with those two back and empty, one more node with half of all devices on it. Stored pushes go on.

mod stored;

use super::Stage;
use crate::crowd::Told;
use crate::faults::certificate;
use crate::faults::cluster::{BUSINESSES, Cluster, Service, Shape};
use crate::faults::crowds::Crowds;
use crate::faults::done::Done;
use crate::faults::history::now;
use crate::faults::probe::{Feels, Plan, Probe};
use crate::faults::scene::Scene;
use hawser_loadtest::redis::Redis;
use std::time::{Duration, Instant};
use stored::Stores;

/// Of two nodes of four; and of one.
const STORM_MAX: Duration = Duration::from_secs(20);
const NODE_MAX: Duration = Duration::from_secs(15);
const BACK_PATIENCE: Duration = Duration::from_mins(2);
/// New connections that one node takes a second, as released.
const ACCEPTS_PER_SECOND: u32 = 1_500;
/// More fit into one process only where its descriptor limit is raised.
const DEVICES_PER_PROCESS: usize = 10_000;
/// Stored pushes a second, to all devices; and from then on they are there.
const STORED_PER_SECOND: u32 = 100;
const STORED_PATIENCE: Duration = Duration::from_secs(30);
const NODES: usize = 4;

impl Stage<'_> {
    pub(super) async fn reconnect_storm(&self) -> anyhow::Result<Done> {
        let devices = self.scaled_down(20_000);
        let redis = Redis::start(&self.folder.join("redis"), &super::store::EVERY_SECOND)?;
        let store = format!("redis://{}", redis.address);
        let mut shape = Shape::sized(&store, self.timers(), 2, NODES);
        shape.secure_doors = true;
        shape.accepts_per_second = ACCEPTS_PER_SECOND;
        let mut scene = self.judged(shape).await?;
        let plan = Plan {
            feels: Feels::Pushes,
            name: "rest".to_owned(),
            devices: 20,
            per_second: 100,
            business: BUSINESSES[1],
            key: scene.cluster.keys[1].clone(),
            push: scene.cluster.push[0].clone(),
            doors: vec![scene.cluster.doors[3].tcp],
        };
        let mut probe = Probe::start(&scene.cluster, plan).await?;
        let mut wanted = self.crowd(&scene.cluster, "storm", devices);
        wanted.processes = devices.div_ceil(DEVICES_PER_PROCESS).max(2);
        wanted.come_back = true;
        wanted.trust = Some(certificate::authority(self.folder));
        wanted.nodes = scene.cluster.doors.iter().map(|door| door.tls).collect();
        let mut crowd = Crowds::start(wanted)?;
        crowd.until_online(devices, Duration::from_secs((devices / 50) as u64 + 60)).await?;
        let stores = Stores::start(&scene.cluster, "storm", devices, STORED_PER_SECOND)?;
        let mut told = crowd.during(Duration::from_secs(5)).await?;
        let from = now();
        let two = fall(&mut scene, &mut crowd, devices, &[0, 1]).await?;
        for node in [0, 1] {
            scene.cluster.revive(Service::Access(node)).await?;
        }
        told.merge(&two.told);
        scene.was_full_once().await;
        told.merge(&crowd.during(Duration::from_secs(5)).await?);
        let one = fall(&mut scene, &mut crowd, devices, &[2]).await?;
        told.merge(&one.told);
        scene.cluster.revive(Service::Access(2)).await?;
        let to = now();
        let counts = stores.stop().await?;
        let asked = Instant::now();
        while told.stored_new < counts.stored && asked.elapsed() < STORED_PATIENCE {
            told.merge(&crowd.during(Duration::from_millis(500)).await?);
        }
        probe.settled(to).await;
        probe.check()?;
        let (others, lost_pushes) = (probe.between(from, to), probe.lost_between(from, to));
        drop((probe, crowd));
        let (mut done, _) = scene.end().await?;
        two.judge(&mut done, "two of four nodes", devices, STORM_MAX);
        one.judge(&mut done, "one of four nodes", devices, NODE_MAX);
        done.figure(
            format!(
                "stored pushes to them: {} stored, {} unknown, {} arrived (all), {} with a hole before them \
                 (0), {} twice (0), {} at another (0)",
                counts.stored, counts.unknown, told.stored_new, told.holes, told.repeated, told.wrong
            ),
            counts.stored > 0
                && (counts.stored..=counts.stored + counts.unknown).contains(&told.stored_new)
                && told.holes + told.repeated + told.wrong == 0,
        );
        done.figure(
            format!("the rest's pushes meanwhile {others}, {lost_pushes} lost (0)"),
            lost_pushes == 0 && others.count() > 0,
        );
        done.say("windows and rates are those of a release; devices and nodes share this machine's cores");
        Ok(done)
    }
}

/// What came of killing some nodes.
struct Fall {
    /// Sessions of the crowd that they had, at the least.
    sessions: u64,
    told: Told,
    all_back: Option<Duration>,
    /// By the nodes that were left, before TLS.
    refused: f64,
}

async fn fall(
    scene: &mut Scene,
    crowd: &mut Crowds,
    devices: usize,
    nodes: &[usize],
) -> anyhow::Result<Fall> {
    let cluster = &scene.cluster;
    let mut sessions = 0.0;
    for node in nodes {
        sessions += cluster.metric(Service::Access(*node), "hawser_access_sessions").await?;
    }
    // Those that are judged stand beside the crowd, on any node.
    let sessions = (sessions as u64).saturating_sub(scene.devices.len() as u64);
    let before = refused(cluster, nodes).await?;
    scene.fault(&format!("{} nodes killed", nodes.len()));
    let begun = Instant::now();
    for node in nodes {
        scene.cluster.kill(Service::Access(*node))?;
    }
    let (mut told, mut all_back) = (Told::default(), None);
    while begun.elapsed() < BACK_PATIENCE {
        told.merge(&crowd.during(Duration::from_millis(500)).await?);
        let noticed = told.lost > 0 && told.lost >= sessions;
        if noticed && told.online == devices as u64 && told.back.count() >= told.lost {
            all_back = Some(begun.elapsed());
            break;
        }
    }
    scene.healed();
    // What was stored meanwhile is on its way.
    told.merge(&crowd.during(Duration::from_secs(2)).await?);
    let refused = refused(&scene.cluster, nodes).await? - before;
    Ok(Fall { sessions, told, all_back, refused })
}

/// Connections that the nodes which are left have refused.
async fn refused(cluster: &Cluster, killed: &[usize]) -> anyhow::Result<f64> {
    let mut all = 0.0;
    for node in (0..NODES).filter(|node| !killed.contains(node)) {
        let name = "hawser_access_refused_connections_total";
        all += cluster.metric(Service::Access(node), name).await?;
    }
    Ok(all)
}

impl Fall {
    fn judge(&self, done: &mut Done, what: &str, devices: usize, most: Duration) {
        let Self { sessions, told, all_back, refused } = self;
        let all_back = all_back.map(|it| format!("{:.1} s", it.as_secs_f64()));
        done.figure(
            format!(
                "{} of {devices} devices lost {what} at once (at least {sessions}); back {} (p99 at most {} \
                 s), all after {}",
                told.lost,
                told.back,
                most.as_secs(),
                all_back.as_deref().unwrap_or("never")
            ),
            told.back.at(0.99) <= most && all_back.is_some() && *sessions > 0,
        );
        done.figure(
            format!(
                "stored pushes until then: {} (p99 at most {} s)",
                told.push_delay,
                most.as_secs()
            ),
            told.push_delay.at(0.99) <= most && told.push_delay.count() > 0,
        );
        // A handshake is wasted when it was done and no login came of it.
        let closed: u64 =
            told.refused.iter().filter(|(code, _)| **code != 0).map(|(_, count)| count).sum();
        let cut = told.refused.get(&0).copied().unwrap_or_default();
        done.figure(
            format!(
                "{} handshakes wasted (0): closed after TLS {closed}, not answered {}; {refused} refused \
                 before TLS by the nodes' count, {cut} cut as devices saw it, {} dials, {} logins of which \
                 {} by ticket",
                closed + told.late,
                told.late,
                told.dials,
                told.logins,
                told.by_ticket
            ),
            closed + told.late == 0,
        );
    }
}
