//! Rows in which a network is cut for real: links of namespaces that go down.

use super::Stage;
use crate::faults::cluster::{APP, BUSINESSES, Cluster, Service};
use crate::faults::done::Done;
use crate::faults::history::now;
use crate::faults::links::{Links, share};
use crate::faults::net::Side;
use crate::faults::presence;
use crate::faults::probe::{bearer, client};
use crate::faults::scene::Scene;
use hawser_loadtest::judge::Payload;
use hawser_proto::rpc::push::{Message, Outcome, PresenceState, UnicastRequest};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tonic::Request;

const HEALED_MS_MAX: u64 = 2_000;
const AT_REST_PATIENCE: Duration = Duration::from_secs(45);
/// Silence is seen by a wheel that turns every 250 ms, and its sessions are ended one after the other.
const WHEEL: Duration = Duration::from_millis(500);

impl Stage<'_> {
    /// First one router and one node lose each other, then the node loses everyone but its devices: for
    /// less than the lease, and for longer.
    pub(super) async fn access_router_partition(&self) -> anyhow::Result<Done> {
        let (mut staging, _redis) = self.large(self.wanted.devices)?;
        staging.shape.apart = true;
        staging.shape.access = 2;
        let mut scene = self.scene(staging).await?;
        let lease = scene.cluster.shape.timers.lease;
        scene.pass(self.load_time() / 3, false).await?;
        let (r0, a0) =
            (scene.cluster.host(Service::Router(0))?, scene.cluster.host(Service::Access(0))?);
        // One router of two.
        scene.fault("one router parted from a node");
        scene.cluster.net()?.part(r0, a0, Side::Inner)?;
        scene.pass(lease + Duration::from_secs(2), false).await?;
        let one = self.seen(&scene, "a0").await?;
        scene.cluster.net()?.join(r0, a0, Side::Inner)?;
        scene.healed();
        scene.pass(Duration::from_secs(3), false).await?;
        // All routers, for less than the lease.
        scene.fault("all routers parted from a node");
        scene.cluster.net()?.cut(a0, Side::Inner)?;
        // Until the last renewal, a third of it ago at the most, is over.
        scene.pass(lease * 2 / 5, false).await?;
        let all = self.seen(&scene, "a0").await?;
        scene.cluster.net()?.mend(a0, Side::Inner)?;
        let healed = scene.healed();
        scene.pass(self.load_time() / 3, false).await?;
        let short = scene.arrivals_after(healed)?;
        let logins = scene.logins_since().await;
        // And for longer: the node counts as dead, its devices do not know.
        scene.fault("all routers parted from a node for long");
        scene.cluster.net()?.cut(a0, Side::Inner)?;
        scene.pass(lease * 2, false).await?;
        scene.cluster.net()?.mend(a0, Side::Inner)?;
        scene.healed();
        scene.pass(self.load_time() / 3, false).await?;
        let back = scene.until_all_online(AT_REST_PATIENCE).await?;
        let (wrong, first) = presence::wrong_at_rest(
            &scene.cluster,
            &scene.devices,
            || scene.links(),
            AT_REST_PATIENCE,
        )
        .await?;
        let told = presence::Told::of(&scene.events()?, &scene.links());
        let (mut done, arrivals) = scene.end().await?;
        done.figure(
            format!("parted from one router: {one} (there unknown, never offline)"),
            one.presence_is(&[PresenceState::Unknown, PresenceState::Online])
                && one.presence.contains_key(&(PresenceState::Unknown as i32))
                && one.never(Outcome::Offline),
        );
        done.figure(
            format!("parted from all, within the lease: {all} (never offline; volatile unknown)"),
            all.presence_is(&[PresenceState::Unknown, PresenceState::Online])
                && all.only(Outcome::Unknown),
        );
        done.figure(
            format!("stored pushes p99 {short} ms after healing (at most {HEALED_MS_MAX})"),
            short <= HEALED_MS_MAX,
        );
        let long = arrivals.p99_ms();
        done.figure(
            format!("after longer than the lease p99 {long} ms (at most {HEALED_MS_MAX})"),
            long <= HEALED_MS_MAX,
        );
        done.figure(format!("{logins} connections dropped (0)"), logins == 0.0);
        done.figure(
            format!("all devices online: {back}; wrong presence at rest {wrong} (0) {first}"),
            wrong == 0 && back,
        );
        done.figure(
            format!(
                "events wrong at rest {} (0) {}",
                told.wrong.len(),
                told.wrong.first().cloned().unwrap_or_default()
            ),
            told.wrong.is_empty(),
        );
        done.carries_over("times after healing have no timer of ours in them; the partitions scale with the lease");
        Ok(done)
    }

    /// What routers say of the devices on a node, and what comes of volatile pushes to them.
    async fn seen(&self, scene: &Scene, node: &str) -> anyhow::Result<Seen> {
        let links = scene.links();
        let on_it: Vec<String> = links
            .at(now())
            .values()
            .filter(|word| word.is_online() && word.node() == node)
            .map(|word| word.device.clone())
            .collect();
        let mut seen = Seen { devices: on_it.len(), ..Seen::default() };
        for router in &scene.cluster.push {
            for word in presence::ask(router, &scene.cluster.keys[0], &on_it).await? {
                *seen.presence.entry(word.state() as i32).or_default() += 1;
            }
            // At once: each may take as long as a call may.
            let calls = on_it.iter().take(5).map(|device| volatile(&scene.cluster, router, device));
            for outcome in futures_util::future::try_join_all(calls).await? {
                *seen.outcomes.entry(outcome as i32).or_default() += 1;
            }
        }
        Ok(seen)
    }

    /// The devices of a node are cut off: some go elsewhere at once, the others notice by the silence.
    pub(super) async fn half_open(&self) -> anyhow::Result<Done> {
        let (mut staging, _redis) = self.large(self.wanted.devices)?;
        staging.shape.apart = true;
        staging.shape.access = 2;
        let mut scene = self.scene(staging).await?;
        let idle = scene.cluster.shape.timers.idle;
        scene.pass(self.load_time() / 3, false).await?;
        let a0 = scene.cluster.host(Service::Access(0))?;
        let cut = scene.fault("links half open");
        let begun = Instant::now();
        scene.cluster.net()?.cut(a0, Side::Outer)?;
        // A network switch: these come anew over another way, and their old links linger.
        let switched = scene.kill_process(0);
        let (mut last_seen, mut is_gone) = (Duration::ZERO, false);
        let mut lingering = 0_usize;
        while begun.elapsed() < idle + Duration::from_secs(20) {
            scene.pass(Duration::from_millis(100), false).await?;
            let looked = begun.elapsed();
            let sessions =
                scene.cluster.metric(Service::Access(0), "hawser_access_sessions").await?;
            if looked < Duration::from_secs(5) {
                lingering = lingering.max(sessions as usize);
            }
            if sessions == 0.0 {
                is_gone = true;
                break;
            }
            last_seen = looked;
        }
        let all = scene.until_all_online(AT_REST_PATIENCE).await?;
        scene.healed();
        let (wrong, first) = presence::wrong_at_rest(
            &scene.cluster,
            &scene.devices,
            || scene.links(),
            AT_REST_PATIENCE,
        )
        .await?;
        let links = scene.links();
        let wrong_node = links.at(now()).values().filter(|word| word.node() == "a0").count();
        let written = self.written(&scene.cluster, &scene.devices).await?;
        scene.pass(self.load_time() / 3, false).await?;
        scene.cluster.net()?.mend(a0, Side::Outer)?;
        scene.pass(Duration::from_secs(3), false).await?;
        let (mut done, _) = scene.end().await?;
        done.figure(
            format!(
                "{lingering} links lingered; the last was there {:.1} s after the cut (at most {:.0} s, and \
                 {:.1} for the wheel that sees it), then gone: {is_gone}",
                last_seen.as_secs_f64(),
                idle.as_secs_f64(),
                WHEEL.as_secs_f64()
            ),
            is_gone && last_seen <= idle + WHEEL && lingering > 0,
        );
        let back = switched_back(&links, &switched, cut);
        done.figure(
            format!(
                "{} devices switched networks, back p99 {} ms; all online: {all}, {wrong_node} of them \
                 believe in the dead node (0)",
                back.len(),
                share(&back, 0.99)
            ),
            all && wrong_node == 0,
        );
        done.figure(
            format!(
                "volatile pushes to the new links: {written} of {} written (all); wrong presence at \
                 rest {wrong} (0) {first}",
                self.wanted.devices
            ),
            wrong == 0 && written == self.wanted.devices,
        );
        done.carries_over("the old link goes one idle time-out after its last byte");
        Ok(done)
    }

    async fn written(&self, cluster: &Cluster, devices: &[String]) -> anyhow::Result<usize> {
        let mut written = 0;
        for device in devices {
            let outcome = volatile(cluster, &cluster.push[0], device).await?;
            written += usize::from(outcome == Outcome::Written);
        }
        Ok(written)
    }
}

/// What was seen of devices that cannot be reached.
#[derive(Debug, Default)]
struct Seen {
    devices: usize,
    presence: BTreeMap<i32, usize>,
    outcomes: BTreeMap<i32, usize>,
}

impl Seen {
    fn presence_is(&self, allowed: &[PresenceState]) -> bool {
        let allowed: Vec<i32> = allowed.iter().map(|state| *state as i32).collect();
        self.devices > 0 && self.presence.keys().all(|state| allowed.contains(state))
    }

    fn never(&self, outcome: Outcome) -> bool {
        !self.outcomes.contains_key(&(outcome as i32))
    }

    fn only(&self, outcome: Outcome) -> bool {
        self.outcomes.keys().all(|it| *it == outcome as i32)
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} devices, presence", self.devices)?;
        for (state, count) in &self.presence {
            let state = PresenceState::try_from(*state).unwrap_or_default();
            write!(f, " {count} {}", short(state.as_str_name()))?;
        }
        write!(f, ", volatile")?;
        for (outcome, count) in &self.outcomes {
            let outcome = Outcome::try_from(*outcome).unwrap_or_default();
            write!(f, " {count} {}", short(outcome.as_str_name()))?;
        }
        Ok(())
    }
}

fn short(name: &str) -> String {
    name.rsplit('_').next().unwrap_or(name).to_lowercase()
}

/// How long after the cut each of these was back, in milliseconds, sorted.
fn switched_back(links: &Links, devices: &[String], cut: u64) -> Vec<u64> {
    let mut back: Vec<u64> = devices
        .iter()
        .filter_map(|device| links.logins(cut, u64::MAX).find(|word| word.device == *device))
        .map(|word| (word.t - cut) / 1_000_000)
        .collect();
    back.sort_unstable();
    back
}

/// What comes of one volatile push to a device of the scene, whose app is held to what it is handed.
pub(super) async fn volatile(
    cluster: &Cluster,
    router: &str,
    device: &str,
) -> anyhow::Result<Outcome> {
    let push = format!("v-{:016x}", rand::random::<u64>());
    let body = Payload { push: &push, app: APP, device, inbox: BUSINESSES[0] }.encode();
    let mut request = Request::new(UnicastRequest {
        device: device.to_owned(),
        message: Some(Message { body: body.into(), ..Message::default() }),
        push_id: push.into(),
        ..UnicastRequest::default()
    });
    request.metadata_mut().insert("authorization", bearer(&cluster.keys[0])?);
    Ok(client(router)?.unicast(request).await?.into_inner().outcome())
}
