//! A device process: a few devices on the SDK, with installation and cursors in files, and a history of
//! what each app was handed. It kills itself where it is told to, so that every line between receiving a
//! push and acknowledging it has been the last one of some process.

use super::cluster::BUSINESSES;
use super::devices::Point;
use super::history::History;
use super::proxy::{Proxy, Way};
use anyhow::Context;
use bytes::Bytes;
use hawser_loadtest::judge::{Event, Kind};
use hawser_sdk::{
    AccessPoint, Backoff, Client, CursorStorage, Cursors, FileCursors, FileStorage, Incoming,
    Protocol,
};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// A device that moves all the time comes back at once.
const MOVE_BACKOFF: Duration = Duration::from_millis(50);

/// What a device process is told by the harness.
#[derive(clap::Args)]
pub(crate) struct Device {
    #[arg(long)]
    control: String,
    #[arg(long)]
    app: String,
    /// Where installations and cursors lie.
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    history: PathBuf,
    /// Number of this life, in the history.
    #[arg(long)]
    process: u64,
    #[arg(long)]
    seed: u64,
    #[arg(long, value_enum, requires = "die_every")]
    die_at: Option<Point>,
    #[arg(long)]
    die_every: Option<u32>,
    /// Cut the link after a random time up to this, and come back over another one.
    #[arg(long)]
    moves_ms: Option<u64>,
    /// Then all ways stay open.
    #[arg(long, default_value_t = 10_000)]
    moves_for_ms: u64,
    devices: Vec<String>,
}

/// Where the process ends, at the n-th time it gets there.
#[derive(Debug)]
struct End {
    point: Option<Point>,
    left: AtomicU64,
}

impl End {
    /// We are here; perhaps for the last time.
    fn at(&self, here: Point) {
        if self.point == Some(here) && self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SIGKILL to ourselves: no destructor, no flush, as an operating system does it.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

/// Cursors in files, with the two points at which a process may die.
struct Mortal {
    cursors: FileCursors,
    history: Arc<History>,
    end: Arc<End>,
    process: u64,
}

impl CursorStorage for Mortal {
    fn load(&self, app: &str, device: &str) -> std::io::Result<Cursors> {
        self.cursors.load(app, device)
    }

    fn store(
        &self,
        app: &str,
        device: &str,
        cursors: &Cursors,
        refused: &[Arc<str>],
    ) -> std::io::Result<()> {
        self.end.at(Point::Cursor);
        self.cursors.store(app, device, cursors, refused)?;
        for (business, at) in cursors {
            let event = Event::new(0, Kind::Commit).of(app, device, business).at(*at);
            self.history.write(Event { process: self.process, ..event });
        }
        self.end.at(Point::Ack);
        Ok(())
    }
}

/// Runs until it is killed.
pub(crate) async fn run(wanted: Device) -> anyhow::Result<()> {
    let history = Arc::new(History::open(&wanted.history)?);
    let mut random = SmallRng::seed_from_u64(wanted.seed);
    let every = u64::from(wanted.die_every.unwrap_or(1)).max(1);
    let left = AtomicU64::new(random.random_range(1..=2 * every));
    let end = Arc::new(End { point: wanted.die_at, left });
    let wanted = Arc::new(wanted);
    let mut all = JoinSet::new();
    for device in wanted.devices.clone() {
        let start = Event::new(0, Kind::Start).of(&wanted.app, &device, "");
        history.write(Event { process: wanted.process, ..start });
        let seed = random.random();
        all.spawn(live(wanted.clone(), device, history.clone(), end.clone(), seed));
    }
    while let Some(ended) = all.join_next().await {
        ended.context("a device broke")??;
    }
    Ok(())
}

async fn live(
    wanted: Arc<Device>,
    device: String,
    history: Arc<History>,
    end: Arc<End>,
    seed: u64,
) -> anyhow::Result<()> {
    let (builder, road) = if wanted.moves_ms.is_some() {
        let (token, road) = Road::pave(&wanted, &device).await?;
        let points = road.points();
        let backoff = Backoff {
            base: MOVE_BACKOFF,
            max: 4 * MOVE_BACKOFF,
            window: MOVE_BACKOFF,
            ..Backoff::default()
        };
        let pinned = hawser_sdk::Builder::pinned(&wanted.app, &device, &token, points);
        (pinned.backoff(backoff), Some(road))
    } else {
        (Client::builder(&wanted.control, &wanted.app, &device), None)
    };
    let mut builder = builder
        .storage(FileStorage::new(wanted.folder.join(format!("{device}.installation"))))
        .cursors(Mortal {
            cursors: FileCursors::new(&wanted.folder),
            history: history.clone(),
            end: end.clone(),
            process: wanted.process,
        });
    for business in BUSINESSES {
        builder = builder.business(business);
    }
    let client = builder.build()?;
    let mut tasks = JoinSet::new();
    for business in BUSINESSES {
        let mut listener = client.business(business).listen();
        let (wanted, history, end) = (wanted.clone(), history.clone(), end.clone());
        let device = device.clone();
        tasks.spawn(async move {
            while let Some(item) = listener.next_item().await {
                end.at(Point::Handler);
                if let Some(event) = heard(item) {
                    let event = event.of(&wanted.app, &device, business);
                    history.write(Event { process: wanted.process, ..event });
                }
            }
        });
    }
    client.start();
    let mut states = client.states();
    if let (Some(road), Some(moves)) = (road, wanted.moves_ms) {
        let moves_for = Duration::from_millis(wanted.moves_for_ms);
        tasks.spawn(async move {
            // Cut off in the middle of a wait, it leaves one way open: all of them after that.
            let _ = tokio::time::timeout(moves_for, road.cut_again_and_again(moves, seed)).await;
            road.open();
            // The proxies end with the road.
            std::future::pending::<()>().await;
        });
    }
    let closed = states.wait_for(hawser_sdk::State::is_closed).await?.clone();
    anyhow::bail!("{device}: {closed}");
}

/// What the app was handed, as an event.
fn heard(item: Incoming) -> Option<Event> {
    match item {
        Incoming::Push(push) => {
            let mut event = Event::new(0, Kind::RecvApp).at(push.position?);
            event.push = String::from_utf8_lossy(&push.id).into_owned();
            event.body = String::from_utf8_lossy(&push.body).into_owned();
            event.redelivered = push.redelivered;
            Some(event)
        }
        Incoming::Gap(gap) => {
            let mut event = Event::new(0, Kind::Gap).at(gap.upto).behind(gap.after);
            event.count = gap.count;
            Some(event)
        }
        Incoming::TermChanged(changed) => {
            Some(Event::new(0, Kind::TermChanged).at(changed.to).behind(changed.from))
        }
        _ => None,
    }
}

/// The ways from one device to all access points, each through a proxy of its own.
struct Road {
    lanes: Vec<(Protocol, SocketAddr, Proxy)>,
}

impl Road {
    /// Asks control for a token and the access points, and puts a proxy before each.
    async fn pave(wanted: &Device, device: &str) -> anyhow::Result<(String, Self)> {
        let body = json!({"app": wanted.app, "device": device, "proof": {"type": "open"}});
        let request = http::Request::post(format!("{}/v1/access", wanted.control))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let answer = Http::builder(TokioExecutor::new()).build_http().request(request).await?;
        let answer: Value =
            serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
        let token = answer["token"].as_str().context("control gave no token")?.to_owned();
        let mut lanes = Vec::new();
        for point in answer["access_points"].as_array().context("no access points")? {
            let protocol: Protocol = point["protocol"].as_str().unwrap_or_default().parse()?;
            let port = u16::try_from(point["port"].as_u64().unwrap_or_default())?;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            lanes.push((protocol, address, Proxy::start(Way::To(address)).await?));
        }
        Ok((token, Self { lanes }))
    }

    fn points(&self) -> Vec<AccessPoint> {
        let point = |(protocol, _, proxy): &(Protocol, SocketAddr, Proxy)| {
            AccessPoint::new(*protocol, "127.0.0.1", proxy.address.port())
        };
        self.lanes.iter().map(point).collect()
    }

    /// Every way is open.
    fn open(&self) {
        self.lanes.iter().for_each(|(_, address, proxy)| proxy.set(Way::To(*address)));
    }

    /// Leaves one lane open at a time; sometimes the node does not hear of the old link's end, so that the
    /// new one takes over from a link that the node believes in.
    async fn cut_again_and_again(&self, moves_ms: u64, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        loop {
            let open = random.random_range(0..self.lanes.len());
            let quietly = random.random_bool(0.3);
            for (number, (_, address, proxy)) in self.lanes.iter().enumerate() {
                proxy.set(match (number == open, quietly) {
                    (true, _) => Way::To(*address),
                    (false, true) => Way::Abandoned,
                    (false, false) => Way::Cut,
                });
            }
            let wait = random.random_range(moves_ms / 4..=moves_ms.max(4));
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
}
