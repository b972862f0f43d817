//! Rows in which routers and control die.

use super::Stage;
use crate::faults::cluster::{APP, BUSINESSES, Service};
use crate::faults::done::Done;
use crate::faults::history::now;
use crate::faults::presence;
use crate::faults::probe::{Feels, Plan, Probe};
use std::time::Duration;

/// With a second router, pushes go through again within this.
const RECOVERED_MS_MAX: u64 = 2_000;
/// A router is away for longer than that, so that nobody is saved by its return.
const AWAY_MIN: Duration = Duration::from_secs(4);
/// Of the pushes that the load calls in that time, this share was called at the least.
const ASKED_SHARE: f64 = 0.5;
/// How long stored pushes to devices that stay connected may take after the loss of a router.
const AT_REST_PATIENCE: Duration = Duration::from_secs(30);

impl Stage<'_> {
    pub(super) async fn router_killed(&self) -> anyhow::Result<Done> {
        let (mut staging, _redis) = self.large(self.wanted.devices)?;
        staging.requests = 20;
        let rate = f64::from(staging.rate);
        let mut scene = self.scene(staging).await?;
        let mut kills = Vec::new();
        for number in [0, 1, 0] {
            scene.pass(self.load_time() / 6, false).await?;
            let killed = scene.fault("router killed");
            scene.cluster.kill(Service::Router(number))?;
            scene.pass((self.load_time() / 6).max(AWAY_MIN), false).await?;
            kills.push((killed, now()));
            scene.cluster.revive(Service::Router(number)).await?;
        }
        scene.healed();
        scene.pass(self.load_time() / 6, false).await?;
        let logins = scene.logins_since().await;
        let (wrong, first) = presence::wrong_at_rest(
            &scene.cluster,
            &scene.devices,
            || scene.links(),
            AT_REST_PATIENCE,
        )
        .await?;
        let (mut done, arrivals) = scene.end().await?;
        // By now the last of them has its last word, however long that took.
        for (number, (killed, back)) in kills.into_iter().enumerate() {
            let waits = arrivals.answers(killed, back);
            let least = (rate * (back - killed) as f64 / 1e9 * ASKED_SHARE) as usize;
            done.figure(
                format!(
                    "kill {}: {} pushes under way or called meanwhile (at least {least}), answered p99 {} \
                     ms, longest {} ms, retries and all (at most {RECOVERED_MS_MAX}), {} refused or \
                     without an answer (0)",
                    number + 1,
                    waits.count,
                    waits.p99,
                    waits.longest,
                    waits.never
                ),
                waits.longest <= RECOVERED_MS_MAX && waits.never == 0 && waits.count >= least,
            );
        }
        done.figure(format!("{logins} connections dropped (0)"), logins == 0.0);
        done.figure(format!("wrong presence at rest {wrong} (0) {first}"), wrong == 0);
        Ok(done)
    }

    /// Control goes away; devices die and come back, an access node and a router start anew.
    pub(super) async fn control_down(&self) -> anyhow::Result<Done> {
        let (mut staging, _redis) = self.large(self.wanted.devices)?;
        staging.requests = 20;
        let mut scene = self.scene(staging).await?;
        let door = scene.cluster.doors[1].tcp;
        let plan = Plan {
            feels: Feels::Pushes,
            name: "still".to_owned(),
            devices: 10,
            per_second: 20,
            business: BUSINESSES[1],
            key: scene.cluster.keys[1].clone(),
            push: scene.cluster.push[1].clone(),
            doors: vec![door],
        };
        let mut probe = Probe::start(&scene.cluster, plan).await?;
        let credential = crate::wire::Credential::get(&scene.cluster.control, APP, "kept").await?;
        let logins = scene.logins_since().await;
        scene.fault("control down");
        let down = now();
        scene.cluster.kill(Service::Control)?;
        scene.pass(self.load_time() / 3, false).await?;
        let dropped = scene.logins_since().await - logins;
        // Whoever has a token comes in, again and again, on every node.
        let (mut tries, mut in_again) = (0_u64, 0_u64);
        for _ in 0..10 {
            for door in scene.cluster.doors.clone() {
                tries += 1;
                let try_it = crate::wire::Wire::log_in(
                    door.tcp,
                    &credential,
                    BUSINESSES[0],
                    (*b"the-kept-devices", tries),
                );
                in_again += u64::from(try_it.await.is_ok());
            }
            scene.pass(Duration::from_millis(100), false).await?;
        }
        // Services that start meanwhile come up with what they knew.
        let mut started = Vec::new();
        for service in [Service::Router(0), Service::Access(0)] {
            scene.cluster.kill(service)?;
            scene.pass(Duration::from_secs(1), false).await?;
            let revived = scene.cluster.revive(service).await;
            started.push(format!(
                "{service} {}",
                if revived.is_ok() { "starts" } else { "DOES NOT START" }
            ));
        }
        // Its streams to the routers come up as it does: a device that is early asks again.
        let mut newcomer = Err(anyhow::anyhow!("never tried"));
        for again in 1..=10 {
            newcomer = crate::wire::Wire::log_in(
                scene.cluster.doors[0].tcp,
                &credential,
                BUSINESSES[0],
                (*b"the-kept-devices", tries + again),
            )
            .await;
            if newcomer.is_ok() {
                break;
            }
            scene.pass(Duration::from_millis(300), false).await?;
        }
        let all_online = scene.until_all_online(Duration::from_secs(30)).await?;
        scene.pass(self.load_time() / 3, false).await?;
        probe.check()?;
        let (felt, lost) = (probe.between(down, now()), probe.lost_between(down, now()));
        scene.cluster.revive(Service::Control).await?;
        scene.healed();
        scene.pass(self.load_time() / 3, false).await?;
        drop(probe);
        let (mut done, _) = scene.end().await?;
        done.figure(format!("{dropped} connections dropped (0)"), dropped == 0.0);
        done.figure(
            format!("{in_again} of {tries} logins with a valid token succeed (all)"),
            in_again == tries,
        );
        done.figure(
            format!(
                "{}; a login on the new access node: {}; its devices back: {all_online}",
                started.join(", "),
                newcomer.as_ref().map_or_else(|why| format!("{why:#}"), |_| "ok".to_owned())
            ),
            newcomer.is_ok() && all_online && !started.iter().any(|it| it.contains("NOT")),
        );
        done.say(format!("volatile pushes {felt}, {lost} not written"));
        Ok(done)
    }
}
