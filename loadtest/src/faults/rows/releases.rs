//! Releases mixed: an access node and devices of an earlier release among today's.

use super::Stage;
use super::network::volatile;
use crate::faults::CannotRun;
use crate::faults::cluster::{APP, BUSINESSES, Cluster, Service};
use crate::faults::done::Done;
use crate::faults::history::now;
use crate::faults::probe::{bearer, client};
use crate::faults::scene::Scene;
use crate::process::Guarded;
use crate::wire::{Credential, Wire};
use anyhow::ensure;
use hawser_loadtest::judge::Payload;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::NodeFrame;
use hawser_proto::rpc::push::{CreateGroupRequest, Message, MulticastRequest, Outcome};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::Request;

const GROUP: &str = "everyone";
const OLDER: usize = 8;
const ROUNDS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(40);
const TAKEOVER_MAX: Duration = Duration::from_secs(1);

/// A line of the device process of the earlier release.
type Lines = Arc<Mutex<Vec<(u64, Value)>>>;

/// Devices on the earlier SDK.
struct Older {
    names: Vec<String>,
    lines: Lines,
    _process: Guarded,
}

impl Older {
    fn start(binary: &Path, cluster: &Cluster) -> anyhow::Result<Self> {
        let names: Vec<String> = (0..OLDER).map(|n| format!("older-{n}")).collect();
        let mut command = Command::new(binary);
        command.args([&cluster.control, APP, BUSINESSES[0], GROUP]).args(&names);
        command.stderr(Stdio::inherit());
        let mut process = Guarded::start(&mut command)?;
        let out = BufReader::new(process.stdout()?).lines();
        let lines = Lines::default();
        let ear = lines.clone();
        // Ends with the process, whose death closes the pipe.
        std::thread::spawn(move || {
            for line in out.map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    ear.lock().unwrap_or_else(PoisonError::into_inner).push((now(), line));
                }
            }
        });
        Ok(Self { names, lines, _process: process })
    }

    fn said(&self, what: &str, since: u64) -> Vec<(String, String)> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        lines
            .iter()
            .filter(|(t, line)| *t >= since && line["what"] == what)
            .map(|(_, line)| (text(&line["device"]), text(&line["value"])))
            .collect()
    }

    /// The node each is on; those that are offline are left out.
    fn nodes(&self) -> BTreeMap<String, String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeMap::new();
        for (_, line) in lines.iter() {
            let device = line["device"].as_str().unwrap_or_default().to_owned();
            match line["what"].as_str() {
                Some("online") => {
                    let connection = line["value"].as_str().unwrap_or_default();
                    let node = connection.split('/').next().unwrap_or_default();
                    all.insert(device, node.to_owned());
                }
                Some("offline" | "closed") => drop(all.remove(&device)),
                _ => {}
            }
        }
        all
    }
}

/// What came of one round of everything.
#[derive(Debug, Default)]
struct Round {
    written: usize,
    unknown: usize,
    others: BTreeMap<&'static str, usize>,
    /// Routers whose multicasts everybody heard; and those that named a node which they could not count:
    /// a node of the earlier release tells of its members to one router only.
    everybody: usize,
    declared: usize,
    silent: usize,
}

impl Stage<'_> {
    pub(super) async fn releases_mixed(&self) -> anyhow::Result<Done> {
        let (Some(hawser), Some(sdk)) = (&self.wanted.old_hawser, &self.wanted.old_sdk) else {
            let needs = "an earlier release: scripts/build-older, --old-hawser and --old-sdk";
            return Err(CannotRun(needs.to_owned()).into());
        };
        let (mut staging, _redis) = self.large(self.wanted.devices.min(16))?;
        staging.shape.access = 2;
        staging.shape.older_access = Some(std::path::absolute(hawser)?);
        staging.requests = 20;
        staging.rate = self.wanted.rate.min(50);
        staging.join = Some(GROUP.to_owned());
        let mut scene = self.scene(staging).await?;
        self.create_group(&scene).await?;
        let older = Older::start(sdk, &scene.cluster)?;
        self.until_older(&mut scene, &older, |nodes| nodes.len() == OLDER).await?;
        scene.pass(Duration::from_secs(3), false).await?;
        let links = scene.links();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for word in links.at(now()).values() {
            *places.entry(format!("today's devices on {}", word.node())).or_default() += 1;
        }
        for node in older.nodes().values() {
            *places.entry(format!("older devices on {node}")).or_default() += 1;
        }
        let begun = now();
        let both = self.round(&mut scene, &older).await?;
        let takeover = self.takeovers(&scene.cluster).await?;
        // Today's node drains: everybody goes to the older one.
        let mut command = scene.cluster.hawser();
        let output = command.args(["node", "drain", "a0", "--rate", "20/s"]).output()?;
        ensure!(output.status.success(), "hawser node drain failed");
        let all_older = self
            .until_older(&mut scene, &older, |nodes| {
                nodes.len() == OLDER && nodes.values().all(|node| node == "a1")
            })
            .await;
        let all_here = scene.until_all_online(PATIENCE).await?;
        scene.pass(Duration::from_secs(2), false).await?;
        let left = scene.cluster.metric(Service::Access(0), "hawser_access_sessions").await?;
        let on_old = self.round(&mut scene, &older).await?;
        let output = scene.cluster.hawser().args(["node", "undrain", "a0"]).output()?;
        ensure!(output.status.success(), "hawser node undrain failed");
        scene.pass(Duration::from_secs(3), false).await?;
        // The older node ends, and everybody comes back; what was stored meanwhile comes with it.
        scene.fault("the older node ends");
        scene.cluster.signal(Service::Access(1), Signal::TERM)?;
        self.until_older(&mut scene, &older, |nodes| {
            nodes.len() == OLDER && nodes.values().all(|node| node == "a0")
        })
        .await?;
        let all = scene.until_all_online(PATIENCE).await?;
        ensure!(all, "not all devices came back within {PATIENCE:?}");
        scene.healed();
        scene.pass(Duration::from_secs(3), false).await?;
        let on_new = self.round(&mut scene, &older).await?;
        let requests = scene.requests(begun);
        let (answered, failed) = (older.said("answered", begun), older.said("failed", begun));
        let wrong = older.said("wrong", 0).len();
        let closed = older.said("closed", 0);
        let crossed =
            older.said("push", 0).iter().filter(|(device, body)| !is_for(device, body)).count();
        scene.cluster.revive(Service::Access(1)).await?;
        drop(older);
        let (mut done, _) = scene.end().await?;
        let places: Vec<String> =
            places.iter().map(|(what, count)| format!("{count} {what}")).collect();
        done.say(places.join(", "));
        for (where_, round) in
            [("on both", &both), ("on the older node", &on_old), ("on today's", &on_new)]
        {
            done.figure(
                format!(
                    "{where_}: volatile {} written, {} unknown, others {:?} (none); a multicast was heard by \
                     everybody through {} routers (at least 1), said to be uncounted by {}, silently short \
                     by {} (0)",
                    round.written,
                    round.unknown,
                    round.others,
                    round.everybody,
                    round.declared,
                    round.silent
                ),
                round.others.is_empty()
                    && round.written > 0
                    && round.everybody > 0
                    && round.silent == 0,
            );
        }
        done.figure(
            format!(
                "drain of today's node: older devices moved: {}, today's: {all_here}, {left} sessions left (0)",
                all_older.is_ok()
            ),
            all_older.is_ok() && all_here && left == 0.0,
        );
        done.figure(
            format!(
                "takeover between old and new node longest {} ms (at most 1,000)",
                takeover.as_millis()
            ),
            takeover <= TAKEOVER_MAX,
        );
        done.figure(
            format!(
                "requests: today's devices {} answered, {} refused, {} in doubt; older ones {} answered, \
                 {} failed while moving, {wrong} wrong (0); {crossed} pushes to the wrong one (0); closed for good {closed:?} (none)",
                requests.answered,
                requests.safe,
                requests.doubtful(),
                answered.len(),
                failed.len()
            ),
            wrong + crossed == 0 && closed.is_empty() && !answered.is_empty() && requests.answered > 0,
        );
        Ok(done)
    }

    async fn create_group(&self, scene: &Scene) -> anyhow::Result<()> {
        let mut request =
            Request::new(CreateGroupRequest { group: GROUP.to_owned(), history: None });
        request.metadata_mut().insert("authorization", bearer(&scene.cluster.keys[0])?);
        client(&scene.cluster.push[0])?.create_group(request).await?;
        Ok(())
    }

    async fn until_older(
        &self,
        scene: &mut Scene,
        older: &Older,
        good: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        while !good(&older.nodes()) {
            ensure!(
                started.elapsed() < PATIENCE,
                "devices of the earlier release are not where they should be: {:?}",
                older.nodes()
            );
            scene.pass(Duration::from_millis(200), false).await?;
        }
        Ok(())
    }

    /// A volatile push to each device through each router, and a multicast to all.
    async fn round(&self, scene: &mut Scene, older: &Older) -> anyhow::Result<Round> {
        let mut round = Round::default();
        let devices: Vec<String> = scene.devices.iter().chain(&older.names).cloned().collect();
        for device in &devices {
            let mut reached = false;
            for router in &scene.cluster.push {
                match volatile(&scene.cluster, router, device).await? {
                    Outcome::Written => (round.written, reached) = (round.written + 1, true),
                    Outcome::Unknown => round.unknown += 1,
                    other => *round.others.entry(other.as_str_name()).or_default() += 1,
                }
            }
            if !reached {
                *round.others.entry("reached by no router").or_default() += 1;
            }
        }
        for number in 0..scene.cluster.push.len() {
            let body = format!("to all {} {number}", now());
            let mut request = Request::new(MulticastRequest {
                group: GROUP.to_owned(),
                message: Some(Message { body: body.clone().into(), ..Message::default() }),
                ..MulticastRequest::default()
            });
            request.metadata_mut().insert("authorization", bearer(&scene.cluster.keys[0])?);
            let answer =
                client(&scene.cluster.push[number])?.multicast(request).await?.into_inner();
            scene.pass(Duration::from_secs(1), false).await?;
            let older_heard = older.said("group", 0);
            let mut heard: BTreeSet<&str> = older_heard
                .iter()
                .filter(|(_, it)| *it == body)
                .map(|(it, _)| it.as_str())
                .collect();
            let today = scene.heard();
            heard.extend(today.who_heard(&body));
            if heard.len() == devices.len() {
                round.everybody += 1;
            } else if answer.nodes.iter().any(|node| node.unknown) {
                round.declared += 1;
            } else {
                round.silent += 1;
            }
        }
        Ok(round)
    }

    /// One device logs in here and there in turn.
    async fn takeovers(&self, cluster: &Cluster) -> anyhow::Result<Duration> {
        let credential = Credential::get(&cluster.control, APP, "wanderer").await?;
        let instance = rand::random();
        let mut longest = Duration::ZERO;
        let mut last: Option<Wire> = None;
        for attempt in 1..=ROUNDS {
            let door = cluster.doors[attempt % 2].tcp;
            let begun = Instant::now();
            let tries = (instance, attempt as u64);
            let (wire, _) = Wire::log_in(door, &credential, BUSINESSES[0], tries).await?;
            if let Some(mut old) = last.replace(wire) {
                let frame = loop {
                    if let NodeFrame::Close(close) = old.hear_within(PATIENCE).await? {
                        break close;
                    }
                };
                ensure!(
                    frame.code == u32::from(CloseCode::Superseded.number()),
                    "the old link was closed with {}",
                    frame.code
                );
                longest = longest.max(begun.elapsed());
            }
        }
        Ok(longest)
    }
}

fn is_for(device: &str, body: &str) -> bool {
    Payload::parse(body).is_some_and(|payload| payload.device == device)
}
