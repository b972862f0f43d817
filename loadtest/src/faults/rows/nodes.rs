//! Rows in which access nodes die, drain, are replaced, and pause.

use super::Stage;
use super::sessions::LateAcks;
use crate::faults::cluster::Service;
use crate::faults::done::Done;
use crate::faults::history::now;
use crate::faults::links::{Links, share};
use crate::faults::presence::{self, Told};
use crate::faults::scene::Scene;
use crate::process;
use anyhow::{Context, ensure};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Devices of a killed node are back within this, counted from the window that the server set.
const BACK_MS_MAX: u64 = 5_000;
/// Stored pushes to them in that time, at the least: fewer say nothing.
const MEANWHILE_MIN: usize = 20;
/// The window at its least; with so few devices to so many nodes it is never longer.
const WINDOW_MS: u64 = 1_000;
/// The peak of reconnects in any second, against the rate that was set. A node tells sessions to go in
/// turns, and a device is back some milliseconds later: the second is not the same for both.
const PEAK_SHARE: f64 = 1.2;
/// At small rates the second's edges weigh more: one device on either side.
const PEAK_SLACK: usize = 2;
/// Less is too coarse to be told from more.
const DRAIN_RATE_MIN: usize = 20;
const AT_REST_PATIENCE: Duration = Duration::from_secs(45);

/// What must hold of presence and connection events once everything is at rest.
struct Rest {
    wrong: (usize, String),
    told: Told,
    links: Links,
}

impl Stage<'_> {
    /// Whether presence and the words to businesses are right at rest; looks until they are.
    async fn at_rest(&self, scene: &mut Scene) -> anyhow::Result<Rest> {
        let all = scene.until_all_online(AT_REST_PATIENCE).await?;
        ensure!(all, "not all devices came back: see the logs in {}", self.folder.display());
        let started = Instant::now();
        let wrong = presence::wrong_at_rest(
            &scene.cluster,
            &scene.devices,
            || scene.links(),
            AT_REST_PATIENCE,
        )
        .await?;
        loop {
            let links = scene.links();
            let told = Told::of(&scene.events()?, &links);
            if told.wrong.is_empty() || started.elapsed() > AT_REST_PATIENCE {
                return Ok(Rest { wrong, told, links });
            }
            scene.pass(Duration::from_millis(500), false).await?;
        }
    }

    /// `noticed`: devices know at once that their session is over. One on a node that sleeps does not, and
    /// the business hears of the end before it.
    fn say_rest(done: &mut Done, rest: &Rest, noticed: bool) {
        let (wrong, first) = &rest.wrong;
        done.figure(
            format!("wrong presence at rest {wrong} (0) {first}").trim().to_owned(),
            *wrong == 0,
        );
        let Told { online, offline, news, ended, over, untold, .. } = &rest.told;
        let (wrong, early) = (&rest.told.wrong, &rest.told.early);
        let first = wrong.iter().chain(untold).chain(early).next().cloned().unwrap_or_default();
        done.figure(
            format!(
                "events: {online} online, {offline} offline, {news} of them news; {over} sessions ended, \
                 {ended} ends told by one new word, {} not told (0); {} wrong at rest (0), {} ends told \
                 before the device knew{} {first}",
                untold.len(),
                wrong.len(),
                early.len(),
                if noticed { " (0)" } else { "" }
            )
            .trim()
            .to_owned(),
            wrong.is_empty() && untold.is_empty() && (early.is_empty() || !noticed),
        );
    }

    pub(super) async fn access_killed(&self) -> anyhow::Result<Done> {
        // 2,000 of them lose their node.
        let (mut staging, _redis) = self.large(self.scaled_down(6_000))?;
        staging.requests = 50;
        let mut scene = self.scene(staging).await?;
        scene.pass(self.load_time() / 3, false).await?;
        let killed = scene.fault("node killed");
        let devices = devices_on(&scene.links(), killed, "a0");
        scene.cluster.kill(Service::Access(0))?;
        scene.pass(self.load_time() / 3, false).await?;
        let healed = scene.healed();
        let rest = self.at_rest(&mut scene).await?;
        let (back, missing) = rest.links.back(killed, "a0");
        scene.cluster.revive(Service::Access(0)).await?;
        scene.pass(self.load_time() / 3, false).await?;
        let (mut done, arrivals) = scene.end().await?;
        let handed = arrivals.handed(killed, healed, &devices);
        done.figure(
            format!(
                "{} stored pushes to them meanwhile (at least {MEANWHILE_MIN}), p99 handed over {} ms \
                 after the kill or their answer (at most the same), {} never (0)",
                handed.count, handed.p99, handed.never
            ),
            handed.p99 <= BACK_MS_MAX + WINDOW_MS
                && handed.never == 0
                && handed.count >= MEANWHILE_MIN,
        );
        let p99 = share(&back, 0.99);
        done.figure(
            format!(
                "{} devices of the node, p99 back {p99} ms after the kill (at most {BACK_MS_MAX} and \
                 the window of {WINDOW_MS}), {missing} not",
                back.len()
            ),
            p99 <= BACK_MS_MAX + WINDOW_MS && missing == 0 && !back.is_empty(),
        );
        Self::say_rest(&mut done, &rest, true);
        done.carries_over("the lease only delays the words of lost sessions, by as much");
        Ok(done)
    }

    /// `hawser node drain`, as an operator types it.
    pub(super) async fn access_drained(&self) -> anyhow::Result<Done> {
        let devices = self.scaled_down(2_000);
        let (mut staging, _redis) = self.large(devices)?;
        staging.requests = 50;
        let rate = (devices / 20).clamp(DRAIN_RATE_MIN, 500);
        let mut scene = self.scene(staging).await?;
        scene.pass(self.load_time() / 3, false).await?;
        let begun = scene.fault("node drained");
        let on_it = devices_on(&scene.links(), begun, "a0").len();
        let mut command = scene.cluster.hawser();
        command.args(["node", "drain", "a0", "--rate", &format!("{rate}/s"), "--wait"]);
        let mut command = tokio::process::Command::from(command);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let patience = Duration::from_secs((on_it / rate) as u64 + 60);
        let drained = tokio::time::timeout(patience, command.output());
        let drained = keep_while(&mut scene, drained).await?;
        let output = drained.context("the drain has not ended")??;
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
        ensure!(output.status.success(), "hawser node drain failed: {said}");
        let over = scene.healed();
        let left = scene.cluster.metric(Service::Access(0), "hawser_access_sessions").await?;
        let rest = self.at_rest(&mut scene).await?;
        let mut command = scene.cluster.hawser();
        let output = command.args(["node", "undrain", "a0"]).output()?;
        ensure!(output.status.success(), "hawser node undrain failed");
        scene.pass(self.load_time() / 3, false).await?;
        let requests = scene.requests(begun);
        let (mut done, _) = scene.end().await?;
        let peak = rest.links.peak(begun, over + 2_000_000_000);
        let most = (rate as f64 * PEAK_SHARE) as usize + PEAK_SLACK;
        done.figure(
            format!("{on_it} devices told to go at {rate}/s, {left} left; peak reconnects {peak}/s (at most {most})"),
            peak <= most && left == 0.0 && on_it > 0,
        );
        let (moves, who) = rest.links.most_moves(begun, over + 2_000_000_000);
        done.figure(format!("moves of one device at most {moves} (1) {who}"), moves <= 1);
        Self::say_moving(&mut done, &rest.links, begun, &requests);
        Self::say_rest(&mut done, &rest, true);
        Ok(done)
    }

    fn say_moving(
        done: &mut Done,
        links: &Links,
        from: u64,
        requests: &crate::faults::requests::Requests,
    ) {
        let holes = links.holes(from, u64::MAX);
        done.say(format!(
            "{} devices were without a link, p99 {} ms",
            holes.len(),
            share(&holes, 0.99)
        ));
        let first = requests.doubtful.iter().next().map_or(String::new(), |(why, _)| why.clone());
        done.figure(
            format!(
                "{} requests answered, {} refused before anything was done, {} that a client would \
                 not retry (0) {first}",
                requests.answered,
                requests.safe,
                requests.doubtful()
            )
            .trim()
            .to_owned(),
            requests.doubtful() == 0 && requests.answered > 0,
        );
    }

    pub(super) async fn rolling_upgrade(&self) -> anyhow::Result<Done> {
        let devices = self.scaled_down(5_000);
        let (mut staging, _redis) = self.large(devices)?;
        let per_second = (devices / 25).clamp(DRAIN_RATE_MIN, 500) as u32;
        let patience = Duration::from_secs(40);
        staging.requests = 100;
        staging.shape.internal_tls = true;
        staging.shape.drain = Some((per_second, patience));
        let mut scene = self.scene(staging).await?;
        scene.pass(self.load_time() / 3, false).await?;
        let begun = scene.fault("rolling upgrade");
        let mut lines = Vec::new();
        let mut restarts = Vec::new();
        for number in 0..3 {
            let node = format!("a{number}");
            let from = now();
            let on_it = devices_on(&scene.links(), from, &node).len();
            restarts.push((from, Some(node.clone())));
            scene.cluster.signal(Service::Access(number), Signal::TERM)?;
            let ended = self.until_ended(&mut scene, Service::Access(number), patience).await?;
            ensure!(ended, "{node} did not end within its patience of {patience:?}");
            let all = scene.until_all_online(AT_REST_PATIENCE).await?;
            ensure!(all, "not all devices of {node} came back in {AT_REST_PATIENCE:?}");
            scene.pass(Duration::from_secs(2), false).await?;
            lines.push(format!("{node}: {on_it} devices in {:.1} s", seconds(from)));
            scene.cluster.revive(Service::Access(number)).await?;
            scene.pass(Duration::from_secs(2), false).await?;
        }
        for number in 0..2 {
            restarts.push((now(), None));
            scene.cluster.signal(Service::Router(number), Signal::TERM)?;
            let ended = self.until_ended(&mut scene, Service::Router(number), patience).await?;
            ensure!(ended, "router {number} did not end in {patience:?}");
            scene.cluster.revive(Service::Router(number)).await?;
            // As an operator waits for readiness, and a little for streams.
            scene.pass(Duration::from_secs(4), false).await?;
        }
        restarts.push((now(), None));
        scene.cluster.signal(Service::Control, Signal::TERM)?;
        let ended = self.until_ended(&mut scene, Service::Control, patience).await?;
        ensure!(ended, "control did not end in {patience:?}");
        scene.cluster.revive(Service::Control).await?;
        scene.pass(self.load_time() / 3, false).await?;
        scene.healed();
        let rest = self.at_rest(&mut scene).await?;
        let requests = scene.requests(begun);
        let (mut done, _) = scene.end().await?;
        let most = (f64::from(per_second) * PEAK_SHARE) as usize + PEAK_SLACK;
        let peak = rest.links.peak(begun, u64::MAX);
        done.figure(
            format!("{devices} devices, {per_second}/s: peak reconnects {peak}/s (at most {most})"),
            peak <= most,
        );
        let moves = rest.links.logins(begun, u64::MAX).count();
        let unasked = unasked(&rest.links, &restarts, u64::MAX);
        let first = unasked.first().cloned().unwrap_or_default();
        done.figure(
            format!(
                "{moves} moves, {} of them second ones of a node's restart, or of devices elsewhere, or \
                 while routers and control restarted (0) {first}",
                unasked.len()
            )
            .trim()
            .to_owned(),
            unasked.is_empty() && moves > 0,
        );
        done.say(lines.join(", "));
        Self::say_moving(&mut done, &rest.links, begun, &requests);
        Self::say_rest(&mut done, &rest, true);
        Ok(done)
    }

    /// Waits for a process that was told to end, with everything else at work.
    async fn until_ended(
        &self,
        scene: &mut Scene,
        service: Service,
        patience: Duration,
    ) -> anyhow::Result<bool> {
        let started = Instant::now();
        while !scene.cluster.has_ended(service)? {
            if started.elapsed() > patience + Duration::from_secs(5) {
                return Ok(false);
            }
            scene.pass(Duration::from_millis(100), false).await?;
        }
        Ok(true)
    }

    /// Words about sessions that are another's by now, refused by all routers so far.
    async fn stale_refused(scene: &Scene) -> anyhow::Result<f64> {
        let mut all = 0.0;
        for number in 0..scene.cluster.shape.routers.len() {
            let router = Service::Router(number);
            all += scene.cluster.metric(router, "hawser_router_unbinds_stale_total").await?;
        }
        Ok(all)
    }

    /// SIGSTOP for longer than the lease and the idle time-out; what the node says when it wakes up is late.
    pub(super) async fn access_paused(&self) -> anyhow::Result<Done> {
        let (mut staging, _redis) = self.large(self.wanted.devices * 2)?;
        staging.requests = 20;
        let mut scene = self.scene(staging).await?;
        scene.pass(self.load_time() / 3, false).await?;
        let mut late = LateAcks::prepare(&scene.cluster, 10, 3).await?;
        late.ping().await?;
        let stopped = scene.fault("node stopped");
        let pause = if self.wanted.scaled { 10 } else { 30 };
        scene.cluster.signal(Service::Access(0), Signal::STOP)?;
        // What it reads before it sleeps, it may well pass on.
        let (id, _) = scene.cluster.process(Service::Access(0)).context("the node is down")?;
        while !process::is_stopped(id)? {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        late.say_and_move().await?;
        // They are as alive on their new links as devices are.
        let silence = scene.cluster.shape.timers.idle / 2;
        // Its devices are wherever they noticed: those that were killed and started anew are elsewhere.
        let moved = scene.kill_process(0);
        let until = Instant::now() + Duration::from_secs(pause);
        while Instant::now() < until {
            late.ping_new().await?;
            scene.pass(silence.min(until.saturating_duration_since(Instant::now())), false).await?;
        }
        let refused = Self::stale_refused(&scene).await?;
        scene.cluster.signal(Service::Access(0), Signal::CONT)?;
        scene.healed();
        late.ping_new().await?;
        scene.pass(Duration::from_secs(2), false).await?;
        let (said, taken) = late.taken().await?;
        let refused = Self::stale_refused(&scene).await? - refused;
        drop(late);
        scene.pass(self.load_time() / 3, false).await?;
        let rest = self.at_rest(&mut scene).await?;
        let ended = scene.cluster.has_ended(Service::Access(0))?;
        let (back, missing) = rest.links.back(stopped, "a0");
        let (mut done, _) = scene.end().await?;
        done.figure(
            format!("{said} acks said to the sleeping node, {taken} taken when it woke (0)"),
            taken == 0 && said > 0,
        );
        done.figure(
            format!("{refused} stale words of the woken node refused by routers (more than 0)"),
            refused > 0.0,
        );
        done.figure(
            format!(
                "{pause} s asleep; of its devices {} logged in again ({} started anew elsewhere), {missing} \
                 did not notice; all are online",
                back.len(),
                moved.len()
            ),
            // Who is not online at rest has ended the row before.
            !back.is_empty(),
        );
        done.figure(format!("the node lives on: {}", !ended), !ended);
        Self::say_rest(&mut done, &rest, false);
        done.carries_over("the pause is longer than lease and idle time-out, as at full timers");
        Ok(done)
    }
}

/// Devices that are on a node at a time.
fn devices_on(links: &Links, at: u64, node: &str) -> BTreeSet<String> {
    let words = links.at(at).into_iter();
    let on_it = words.filter(|(_, word)| word.is_online() && word.node() == node);
    on_it.map(|(device, _)| device.to_owned()).collect()
}

/// Logins that no restart asked for. Of each restart: when it began, and the node that told its devices to
/// go, if it was one; each of them goes once, and nobody else does.
fn unasked(links: &Links, restarts: &[(u64, Option<String>)], to: u64) -> Vec<String> {
    let mut unasked = Vec::new();
    for (number, (from, node)) in restarts.iter().enumerate() {
        let until = restarts.get(number + 1).map_or(to, |(next, _)| *next);
        let mut may_go =
            node.as_deref().map_or_else(BTreeSet::new, |node| devices_on(links, *from, node));
        for word in links.logins(*from, until) {
            if !may_go.remove(&word.device) {
                let which = node.as_deref().unwrap_or("a router or control");
                unasked.push(format!("{} while {which} restarted", word.device));
            }
        }
    }
    unasked
}

fn seconds(since: u64) -> f64 {
    (now() - since) as f64 / 1e9
}

/// Keeps the scene at work while something else is done.
async fn keep_while<T>(scene: &mut Scene, work: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        scene.pass(Duration::from_millis(1), false).await?;
    }
}
