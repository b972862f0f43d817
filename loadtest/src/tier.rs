//! The router tier by itself: real routers and a real Redis, with access nodes that are played, so that ten
//! million devices are in its tables on a machine that could never hold their connections. Says what a device
//! takes there, and what a look-up, a claim and a fan-out cost as the tables grow.

mod asked;
mod played;

use crate::faults::cluster::{APP, CLUSTER_SECRET, Cluster, Service, Shape, Timers};
use crate::process;
use crate::stop::{INTERRUPTED, Stop};
use crate::system;
use anyhow::{Context, ensure};
use asked::{Asked, Backend, Way};
use comfy_table::Table;
use hawser_loadtest::redis::Redis;
use hawser_loadtest::report::{self, Machine};
use hawser_loadtest::size::{Tier, TierStep};
use played::{Heard, Numbering, Played};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const GROUP: &str = "all";
/// The number of the first business of a new app.
const BUSINESS: u32 = 1;
const ANNOUNCE_PATIENCE: Duration = Duration::from_mins(10);
const CLAIM_PATIENCE: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(50);
/// For what was freed to go back, and for gauges to be refreshed.
const SETTLING: Duration = Duration::from_secs(2);
/// Claims under way, and how often it is looked whether they are answered.
const CLAIMS_AT_ONCE: u64 = 400;
const CLAIMS_LOOK: Duration = Duration::from_millis(1);
/// Calls under way.
const AT_ONCE: u64 = 16;

/// What to fill the tables with.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Devices at each step, growing.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000, 10_000_000])]
    devices: Vec<u64>,
    /// Access nodes that are played.
    #[arg(long, default_value_t = 50)]
    nodes: u64,
    /// Routers; each has all devices in its tables.
    #[arg(long, default_value_t = 1)]
    routers: usize,
    /// Targets and devices that are looked up at each step, for each figure.
    #[arg(long, default_value_t = 400_000)]
    look_ups: u64,
    /// Claims at each step.
    #[arg(long, default_value_t = 20_000)]
    claims: u64,
    /// Folder for the result file; none: only the table is printed.
    #[arg(long)]
    results: Option<PathBuf>,
    /// The hawser binary; default: the one beside this program.
    #[arg(long, env = "HAWSER_BIN")]
    hawser: Option<PathBuf>,
}

/// Everything that runs.
struct Site<'a> {
    wanted: &'a Wanted,
    cluster: Cluster,
    redis: Redis,
    nodes: Vec<Played>,
    heard: Arc<Heard>,
    backend: Backend,
    claimed: u64,
}

/// Fills, asks and prints, until it is done or somebody wants an end.
pub(crate) async fn run(wanted: &Wanted) -> anyhow::Result<ExitCode> {
    Stop::listen()?.or(measure(wanted)).await.unwrap_or_else(|| {
        eprintln!("interrupted: the table above is what was measured");
        Ok(ExitCode::from(INTERRUPTED))
    })
}

async fn measure(wanted: &Wanted) -> anyhow::Result<ExitCode> {
    ensure!(wanted.devices.is_sorted(), "--devices must grow");
    let folder = tempfile::tempdir()?;
    let redis = Redis::start(&folder.path().join("redis"), &[])?;
    let binary = system::binary(wanted.hawser.as_deref())?;
    let store = format!("redis://{}", redis.address);
    let shape = Shape::sized(&store, Timers::FULL, wanted.routers.max(1), 0);
    let cluster = Cluster::start(&binary, folder.path(), shape).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let numbering = Numbering { nodes: wanted.nodes.max(1), epoch: now.as_millis() as u64 };
    let routers: Vec<String> = cluster.internal.iter().map(|at| format!("http://{at}")).collect();
    let secret = format!("Bearer {CLUSTER_SECRET}").parse()?;
    let heard = Arc::<Heard>::default();
    let mut nodes = Vec::new();
    for number in 0..numbering.nodes {
        nodes.push(Played::start(number, numbering, APP, &routers, &secret, &heard).await?);
    }
    let backend = Backend::new(&cluster.push[0], &cluster.keys[0])?;
    backend.create_group(GROUP).await?;
    for node in &nodes {
        node.join(GROUP).await?;
    }
    let mut site = Site { wanted, cluster, redis, nodes, heard, backend, claimed: 0 };
    tokio::time::sleep(SETTLING).await;
    let empty = site.bytes()?;
    let mut steps = Vec::new();
    let mut from = 0;
    for &devices in &wanted.devices {
        steps.push(site.step(from, devices, empty).await?);
        from = devices;
        print(&steps);
    }
    let tier = Tier {
        unix_time: now.as_secs(),
        machine: Machine::here(),
        nodes: wanted.nodes,
        routers: wanted.routers.max(1) as u64,
        steps,
    };
    if let Some(folder) = &wanted.results {
        report::keep_as("tier", tier.unix_time, &tier, folder)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Site<'_> {
    fn routers(&self) -> impl Iterator<Item = Service> + use<> {
        (0..self.wanted.routers.max(1)).map(Service::Router)
    }

    /// Memory of the first router.
    fn bytes(&self) -> anyhow::Result<f64> {
        let (id, _) = self.cluster.process(Service::Router(0)).context("no router")?;
        Ok(process::anonymous_bytes(id)? as f64)
    }

    fn cpu(&self) -> anyhow::Result<f64> {
        self.cluster.cpu_seconds(Service::Router(0))
    }

    /// Grows to so many, and measures.
    async fn step(&mut self, from: u64, devices: u64, empty: f64) -> anyhow::Result<TierStep> {
        let (began, cpu) = (Instant::now(), self.cpu()?);
        let mut tells = Vec::new();
        for node in &self.nodes {
            tells.push(node.announce(from, devices, BUSINESS));
        }
        futures_util::future::try_join_all(tells).await?;
        let deadline = Instant::now() + ANNOUNCE_PATIENCE;
        for router in self.routers() {
            let all = (devices + self.claimed) as f64;
            while self.cluster.metric(router, "hawser_router_routes").await? < all {
                ensure!(Instant::now() < deadline, "{router} does not know all {devices}");
                tokio::time::sleep(LOOK).await;
            }
        }
        let here = (self.cpu()? - cpu) / (devices - from).max(1) as f64;
        println!("{devices} devices are told of, {:.0} s", began.elapsed().as_secs_f64());
        tokio::time::sleep(SETTLING).await;
        let bytes = (self.bytes()? - empty) / (devices + self.claimed) as f64;
        let look_ups = self.wanted.look_ups;
        let (unicast, delay) = self.ask(Way::Batch(500), look_ups / 500, devices).await?;
        let (unicast_32, _) = self.ask(Way::Batch(32), look_ups / 32, devices).await?;
        let (presence, _) = self.ask(Way::Presence(500), look_ups / 500, devices).await?;
        let (single, _) = self.ask(Way::Single, look_ups / 20, devices).await?;
        let (node_message, _) = self.ask(Way::Multicast, look_ups / 20 / 50, devices).await?;
        let (claim, claim_in_redis) = self.claim().await?;
        Ok(TierStep {
            devices,
            bytes,
            here_us: here * 1e6,
            unicast_us: unicast * 1e6,
            unicast_32_us: unicast_32 * 1e6,
            presence_us: presence * 1e6,
            single_us: single * 1e6,
            node_message_us: node_message * 1e6,
            claim_us: claim * 1e6,
            claim_redis_us: claim_in_redis * 1e6,
            batch_p99_ms: delay,
        })
    }

    /// CPU of the router for each, in seconds; and the p99 of a call in milliseconds.
    async fn ask(&self, way: Way, calls: u64, devices: u64) -> anyhow::Result<(f64, f64)> {
        let cpu = self.cpu()?;
        let Asked { count, delay } =
            self.backend.ask(way, calls.max(1), AT_ONCE, devices, GROUP).await?;
        Ok(((self.cpu()? - cpu) / count.max(1) as f64, delay.p99_ms()))
    }

    /// New logins; CPU of the router and of Redis for each, in seconds.
    async fn claim(&mut self) -> anyhow::Result<(f64, f64)> {
        let (before, count) = (self.heard.claims.load(Ordering::Relaxed), self.wanted.claims);
        let (cpu, redis) = (self.cpu()?, self.redis.cpu_seconds()?);
        let (from, to) = (self.claimed, self.claimed + count);
        let deadline = Instant::now() + CLAIM_PATIENCE;
        let mut next = from;
        while next < to {
            // No more at once than a router takes to its store.
            let upto = (next + CLAIMS_AT_ONCE).min(to);
            let claims = self.nodes.iter().map(|node| node.claim(next, upto, BUSINESS));
            futures_util::future::try_join_all(claims).await?;
            next = upto;
            while self.heard.claims.load(Ordering::Relaxed) < before + next - from {
                ensure!(Instant::now() < deadline, "claims were not answered");
                tokio::time::sleep(CLAIMS_LOOK).await;
            }
        }
        self.claimed = to;
        let each = 1.0 / count.max(1) as f64;
        Ok(((self.cpu()? - cpu) * each, (self.redis.cpu_seconds()? - redis) * each))
    }
}

fn print(steps: &[TierStep]) {
    let mut table = Table::new();
    table.set_header([
        "devices",
        "bytes each",
        "told of",
        "unicast of 500",
        "unicast of 32",
        "presence",
        "single unicast",
        "node of a multicast",
        "claim",
        "claim, Redis",
        "batch p99 ms",
    ]);
    for step in steps {
        let micros = [
            step.here_us,
            step.unicast_us,
            step.unicast_32_us,
            step.presence_us,
            step.single_us,
            step.node_message_us,
            step.claim_us,
            step.claim_redis_us,
            step.batch_p99_ms,
        ];
        let mut row = vec![step.devices.to_string(), format!("{:.0}", step.bytes)];
        row.extend(micros.map(|value| format!("{value:.2}")));
        table.add_row(row);
    }
    println!("{table}\nCPU of one router in microseconds for each, system time included");
}
