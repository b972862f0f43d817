//! A device process: a few devices on the SDK, with installation and cursors in files, and a history of
//! what each app was handed. It kills itself where it is told to, so that every line between receiving a
//! push and acknowledging it has been the last one of some process.

use super::cluster::BUSINESSES;
use super::devices::Point;
use super::history::History;
use super::links::Journal;
use super::requests::{self, Asked};
use super::road::Road;
use anyhow::Context;
use hawser_loadtest::judge::{Event, Kind};
use hawser_sdk::{Backoff, Client, CursorStorage, Cursors, FileCursors, FileStorage, Incoming};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Signal, getpid, kill_process};
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
    /// The ways are also slowed, torn and muted, not only cut.
    #[arg(long)]
    torn: bool,
    /// Where it is written when each device is online, and over which link.
    #[arg(long)]
    links: PathBuf,
    /// Requests to the businesses, over all devices, and where their ends are written.
    #[arg(long, default_value_t = 0)]
    requests_per_second: u32,
    #[arg(long)]
    requests: Option<PathBuf>,
    /// Devices start one after the other over this long.
    #[arg(long, default_value_t = 0)]
    over_ms: u64,
    /// A group that all devices are in, and where it is written what each hears in it.
    #[arg(long, requires = "heard")]
    join: Option<String>,
    #[arg(long)]
    heard: Option<PathBuf>,
    /// The certificate that access nodes are trusted by.
    #[arg(long)]
    trust: Option<PathBuf>,
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
    let journal = Arc::new(Journal::open(&wanted.links)?);
    let mut all = JoinSet::new();
    let clients = requests::Clients::default();
    let heard = wanted.heard.as_deref().map(Journal::open).transpose()?.map(Arc::new);
    let count = wanted.devices.len().max(1) as u64;
    for (number, device) in wanted.devices.clone().into_iter().enumerate() {
        let start = Event::new(0, Kind::Start).of(&wanted.app, &device, "");
        history.write(Event { process: wanted.process, ..start });
        let life = Life {
            wanted: wanted.clone(),
            device,
            history: history.clone(),
            journal: journal.clone(),
            end: end.clone(),
            seed: random.random(),
            clients: clients.clone(),
            heard: heard.clone(),
        };
        let wait = Duration::from_millis(wanted.over_ms * number as u64 / count);
        all.spawn(async move {
            tokio::time::sleep(wait).await;
            live(life).await
        });
    }
    if let Some(file) = &wanted.requests {
        let asked = Asked::open(file)?;
        all.spawn(requests::ask(clients, asked, wanted.requests_per_second, wanted.seed));
    }
    while let Some(ended) = all.join_next().await {
        ended.context("a device broke")??;
    }
    Ok(())
}

/// What one device lives with.
struct Life {
    wanted: Arc<Device>,
    device: String,
    history: Arc<History>,
    journal: Arc<Journal>,
    end: Arc<End>,
    seed: u64,
    clients: requests::Clients,
    heard: Option<Arc<Journal>>,
}

async fn live(life: Life) -> anyhow::Result<()> {
    let Life { wanted, device, history, journal, end, seed, clients, heard: groups } = life;
    let (builder, road) = if wanted.moves_ms.is_some() {
        let (token, road) = Road::pave(&wanted.control, &wanted.app, &device, seed).await?;
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
    if let Some(trust) = &wanted.trust {
        builder = builder.root_certificate(std::fs::read(trust)?);
    }
    for business in BUSINESSES {
        builder = builder.business(business);
    }
    let name = device.clone();
    let client = builder.on_state(move |state| journal.write(&name, state)).build()?;
    let mut tasks = JoinSet::new();
    for business in BUSINESSES {
        let handle = client.business(business);
        let mut listener = handle.listen();
        clients.add(&device, business, handle);
        let (wanted, history, end) = (wanted.clone(), history.clone(), end.clone());
        let (device, groups) = (device.clone(), groups.clone());
        tasks.spawn(async move {
            while let Some(item) = listener.next_item().await {
                end.at(Point::Handler);
                if let (Incoming::Push(push), Some(groups)) = (&item, &groups)
                    && push.group.is_some()
                {
                    groups.heard(&device, &push.body);
                    continue;
                }
                if let Some(event) = heard(item) {
                    let event = event.of(&wanted.app, &device, business);
                    history.write(Event { process: wanted.process, ..event });
                }
            }
        });
    }
    client.start();
    if let Some(group) = wanted.join.clone() {
        let chat = client.business(BUSINESSES[0]);
        // It waits for the connection; once in, the client joins again by itself.
        tasks.spawn(async move { while chat.join(&group).await.is_err() {} });
    }
    let mut states = client.states();
    if let (Some(road), Some(moves)) = (road, wanted.moves_ms) {
        let (moves_for, torn) = (Duration::from_millis(wanted.moves_for_ms), wanted.torn);
        tasks.spawn(async move {
            // Cut off in the middle of a wait, it leaves one way open: all of them after that.
            let _ = tokio::time::timeout(moves_for, road.break_again_and_again(moves, seed, torn))
                .await;
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
            let mut event = Event::new(0, Kind::RecvApp).at(push.position.unwrap_or_default());
            event.volatile = push.position.is_none();
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
