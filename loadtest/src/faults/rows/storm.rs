//! The reconnect storm: thousands of devices lose their nodes in one moment, and come back over TLS.

use super::Stage;
use crate::crowd::Told;
use crate::faults::certificate;
use crate::faults::cluster::{BUSINESSES, Cluster, Service, Shape};
use crate::faults::crowds::{Crowds, Wanted};
use crate::faults::done::Done;
use crate::faults::history::now;
use crate::faults::probe::{Feels, Plan, Probe};
use hawser_loadtest::redis::Redis;
use std::time::{Duration, Instant};

const BACK_MAX: Duration = Duration::from_secs(20);
/// New connections that one node takes a second, as released.
const ACCEPTS_PER_SECOND: u32 = 1_500;
/// More fit into one process only where its descriptor limit is raised.
const DEVICES_PER_PROCESS: usize = 10_000;

impl Stage<'_> {
    pub(super) async fn reconnect_storm(&self) -> anyhow::Result<Done> {
        let devices = self.scaled_down(20_000);
        let redis = Redis::start(&self.folder.join("redis"), &super::store::EVERY_SECOND)?;
        let store = format!("redis://{}", redis.address);
        let mut shape = Shape::sized(&store, self.timers(), 2, 4);
        shape.secure_doors = true;
        shape.accepts_per_second = ACCEPTS_PER_SECOND;
        let mut cluster = Cluster::start(self.binary, self.folder, shape).await?;
        let plan = Plan {
            feels: Feels::Pushes,
            name: "rest".to_owned(),
            devices: 20,
            per_second: 100,
            business: BUSINESSES[1],
            key: cluster.keys[1].clone(),
            push: cluster.push[0].clone(),
            doors: vec![cluster.doors[2].tcp, cluster.doors[3].tcp],
        };
        let mut probe = Probe::start(&cluster, plan).await?;
        let mut wanted = Wanted::new(&cluster.control, "storm", devices);
        wanted.processes = devices.div_ceil(DEVICES_PER_PROCESS).max(2);
        wanted.come_back = true;
        wanted.trust = Some(certificate::authority(self.folder));
        wanted.nodes = cluster.doors.iter().map(|door| door.tls).collect();
        let mut crowd = Crowds::start(wanted)?;
        crowd.until_online(devices, Duration::from_secs((devices / 50) as u64 + 60)).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        crowd.take()?;
        let lost = cluster.metric(Service::Access(0), "hawser_access_sessions").await?
            + cluster.metric(Service::Access(1), "hawser_access_sessions").await?;
        let refused_before = self.refused(&cluster).await?;
        let (killed, begun) = (now(), Instant::now());
        cluster.kill(Service::Access(0))?;
        cluster.kill(Service::Access(1))?;
        let mut told = Told::default();
        let mut all_back = None;
        while begun.elapsed() < Duration::from_mins(2) {
            told.merge(&crowd.during(Duration::from_millis(500)).await?);
            if told.online == devices as u64 && told.back.count() as f64 >= lost {
                all_back = Some(begun.elapsed());
                break;
            }
        }
        let refused = self.refused(&cluster).await? - refused_before;
        probe.check()?;
        let over = now();
        let (others, lost_pushes) = (probe.between(killed, over), probe.lost_between(killed, over));
        // A handshake is wasted when it was done and no login came of it.
        let closed: u64 =
            told.refused.iter().filter(|(code, _)| **code != 0).map(|(_, count)| count).sum();
        let in_vain = closed + told.late;
        let cut = told.refused.get(&0).copied().unwrap_or_default();
        let mut done = Done::unjudged(self.timers().shown());
        let p99 = told.back.at(0.99);
        done.figure(
            format!(
                "{lost} of {devices} devices lost two of four nodes at once; back {} (p99 at most 20 s), \
                 all after {}",
                told.back,
                all_back.map_or("never".to_owned(), |it| format!("{:.1} s", it.as_secs_f64()))
            ),
            p99 <= BACK_MAX && all_back.is_some() && lost > 0.0,
        );
        done.figure(
            format!(
                "{in_vain} handshakes wasted (0): closed after TLS {closed}, not answered {}; {refused} \
                 refused before TLS by the nodes' count, {cut} cut as devices saw it, {} dials, {} logins \
                 of which {} by ticket",
                told.late, told.dials, told.logins, told.by_ticket
            ),
            in_vain == 0,
        );
        done.figure(
            format!("the rest's pushes meanwhile {others}, {lost_pushes} lost (0)"),
            lost_pushes == 0,
        );
        done.say("windows and rates are those of a release; devices and nodes share this machine's cores");
        Ok(done)
    }

    async fn refused(&self, cluster: &Cluster) -> anyhow::Result<f64> {
        let name = "hawser_access_refused_connections_total";
        let mut all = 0.0;
        for node in [2, 3] {
            all += cluster.metric(Service::Access(node), name).await?;
        }
        Ok(all)
    }
}
