//! Functions kept apart: a storm of logins on the routers for logins, and what pushes feel of it on theirs.

use super::Stage;
use crate::crowd::Told;
use crate::faults::cluster::{BUSINESSES, Functions, Shape};
use crate::faults::crowds::Crowds;
use crate::faults::done::Done;
use crate::faults::probe::{Feels, Plan, Probe};
use crate::faults::windows::Windows;
use hawser_loadtest::redis::Redis;
use std::time::Duration;

const PAIRS: usize = 6;
const SHARE: f64 = 1.1;
/// Of the logins that were meant, this much must have come in while it was looked, or there was no storm.
const STORM_SHARE: f64 = 0.75;
const APART: [Functions; 3] = [&["logins"], &["push"], &["inbox"]];

impl Stage<'_> {
    pub(super) async fn functions_apart(&self) -> anyhow::Result<Done> {
        let redis = Redis::start(&self.folder.join("redis"), &super::store::EVERY_SECOND)?;
        let store = format!("redis://{}", redis.address);
        let mut shape = Shape::small(&store, self.timers());
        shape.routers = APART.to_vec();
        let scene = self.judged(shape).await?;
        let cluster = &scene.cluster;
        let plan = Plan {
            feels: Feels::Pushes,
            name: "pushed".to_owned(),
            devices: 20,
            per_second: 200,
            business: BUSINESSES[0],
            key: cluster.keys[0].clone(),
            push: cluster.push[1].clone(),
            doors: vec![cluster.doors[1].tcp],
        };
        let mut probe = Probe::start(cluster, plan).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        // The storm's own CPU must leave the push pool a core's share, or it is the machine that is measured.
        let per_second = (200.0 * self.wanted.size).clamp(40.0, 200.0);
        let stay = Duration::from_millis(500);
        let devices = (per_second * stay.as_secs_f64()) as usize;
        let mut windows = Windows::default();
        let (mut told, mut over) = (Told::default(), Duration::ZERO);
        for _ in 0..PAIRS {
            windows.calm(self.window_of_functions()).await;
            let mut wanted = self.crowd(cluster, "storm", devices);
            (wanted.stay, wanted.nodes) = (Some(stay), vec![cluster.doors[0].tcp]);
            let mut crowd = Crowds::start(wanted)?;
            // What is told from its first word on is what the window sees.
            let mut begun = crowd.during(Duration::from_secs(1)).await?;
            while begun.t == 0 {
                begun = crowd.during(Duration::from_millis(100)).await?;
            }
            windows.trouble(self.window_of_functions()).await;
            let more = crowd.take()?;
            over += Duration::from_nanos(more.t.saturating_sub(begun.t));
            told.merge(&more);
        }
        let compared = windows.of(&probe).await;
        probe.check()?;
        drop(probe);
        let (mut done, _) = scene.end().await?;
        done.figure(
            format!("pushes on their own router: {}", compared.shown(SHARE)),
            compared.within(SHARE) && compared.lost() == 0,
        );
        let rate = told.logins as f64 / over.as_secs_f64().max(1e-3);
        let least = per_second * STORM_SHARE;
        let refused: u64 = told.refused.values().sum();
        done.figure(
            format!(
                "the storm: {rate:.0} logins/s (at least {least:.0}), {} late (0), {refused} refused (0)",
                told.late
            ),
            rate >= least && told.late == 0 && refused == 0,
        );
        done.say("no clock is in it");
        Ok(done)
    }

    fn window_of_functions(&self) -> Duration {
        Duration::from_secs((self.wanted.seconds / 3).max(3))
    }
}
