//! The standing comparison: the same load on hawser and on the bare loop, in turn, in one run.
//!
//! Each row of it has a name, a target and a record to beat ([`Part`]). Clients share the cores with the
//! servers, so what is compared is the CPU of the servers' processes, never the wall clock.

mod driven;
mod growth;
mod idle;
mod login;
mod pushes;
mod requests;
mod stage;
mod stored;
mod table;

pub(crate) use growth::{Devices, devices};

use crate::fleet::link::Protocol;
use crate::fleet::share_ms;
use crate::report::{self, Beside, Bound, Row};
use crate::stop::{INTERRUPTED, Stop};
use crate::system;
use anyhow::Context;
use clap::ValueEnum as _;
use stage::{Measured, Stage};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const PER_MILLION: &str = "CPU-s per million deliveries";
/// Members of the group that many multicasts are queued for.
const FEW: usize = 1_000;

/// What to measure, and how often.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// The hawser binary to measure; default: the one beside this program.
    #[arg(long, env = "HAWSER_BIN")]
    hawser: Option<PathBuf>,
    /// Rows to measure, by name; none: all of them. Those of stored pushes need redis-server.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Print the names of the rows, and what each measures.
    #[arg(long)]
    list: bool,
    /// Measure nothing: print the table of these result files in Markdown. Of a row that is in several, the
    /// last counts.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    table: Vec<PathBuf>,
    /// Repeats of each measurement, hawser and bare in turn.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Seconds of load in each repeat.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Members of the large group, and devices that unicasts go to.
    #[arg(long, default_value_t = 10_000)]
    members: usize,
    /// Connections held idle for the memory figures.
    #[arg(long, default_value_t = 15_000)]
    idle: usize,
    /// Multicasts a second.
    #[arg(long, default_value_t = 5)]
    rate: u32,
    /// Payload of each push, in bytes.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Folder for the result file; none: only the table is printed.
    #[arg(long)]
    results: Option<PathBuf>,
}

/// A row of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Multicasts to the large group at a fixed rate, over TCP
    Multicast,
    /// The same, over WebSocket
    MulticastWs,
    /// Multicasts to the large group, the next when all have it
    MulticastNext,
    /// Multicasts to 1,000, 16 queued
    MulticastQueued,
    /// Unicasts through the push API's stream, 512 in flight, 32 targets a message
    UnicastStream,
    /// Single unicasts, 5,000 a second: delay and CPU
    Unicast,
    /// Memory of idle, logged-in connections, over TCP
    Idle,
    /// The same, over WebSocket
    IdleWs,
    /// The same, over TLS
    IdleTls,
    /// The same, over QUIC
    IdleQuic,
    /// Logins over TCP, with a new token and with a resume ticket: CPU and rate
    Login,
    /// The same, over WebSocket
    LoginWs,
    /// The same, over TLS 1.3
    LoginTls,
    /// The same, over QUIC
    LoginQuic,
    /// Requests through a pool to a business and back
    Request,
    /// Stored pushes: rate, CPU, delay, bytes
    Stored,
    /// Groups of 1,000, 10,000 and 100,000, over several access nodes
    Growth,
}

impl Bench {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds))
    }
}

/// Measures everything, prints the table and keeps the result.
pub(crate) async fn run(wanted: Bench) -> anyhow::Result<ExitCode> {
    if wanted.list {
        for part in Part::value_variants() {
            let value = part.to_possible_value().context("a row without a name")?;
            println!("{:18} {}", value.get_name(), value.get_help().context("a row untold")?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !wanted.table.is_empty() {
        table::print(&wanted.table)?;
        return Ok(ExitCode::SUCCESS);
    }
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the descriptor limit")?;
    let binary = system::binary(wanted.hawser.as_deref())?;
    let (mut stop, mut rows) = (Stop::listen()?, Vec::new());
    let measured = stop.or(measure(&wanted, &binary, &mut rows)).await;
    let is_interrupted = measured.is_none();
    measured.transpose()?;
    if is_interrupted {
        let what =
            if rows.is_empty() { "nothing was measured" } else { "the rows above are whole" };
        eprintln!("interrupted: {what}; those under way and after them are missing");
    }
    if let Some(folder) = wanted.results.as_ref().filter(|_| !rows.is_empty()) {
        report::keep(&rows, Some(stage::WORKERS), folder)?;
    }
    Ok(if is_interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// Row by row, each printed once all its repeats are done.
async fn measure(wanted: &Bench, binary: &Path, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for scene in SCENES {
        if scene.parts.iter().any(|part| wanted.wants(*part)) {
            rows.extend(pushed(wanted, binary, scene).await?);
            report::print(rows);
        }
    }
    for part in Part::value_variants().iter().filter(|part| wanted.wants(**part)) {
        let more = part.rows_apart(wanted, binary).await?;
        if !more.is_empty() {
            rows.extend(more);
            report::print(rows);
        }
    }
    Ok(())
}

/// Rows that share their devices.
struct Scene {
    protocol: Protocol,
    /// `None`: the large group.
    members: Option<usize>,
    parts: &'static [Part],
}

const SCENES: &[Scene] = &[
    Scene {
        protocol: Protocol::Tcp,
        members: None,
        parts: &[Part::Multicast, Part::MulticastNext, Part::UnicastStream, Part::Unicast],
    },
    Scene { protocol: Protocol::Ws, members: None, parts: &[Part::MulticastWs] },
    Scene { protocol: Protocol::Tcp, members: Some(FEW), parts: &[Part::MulticastQueued] },
];

/// What the repeats of one row came to.
#[derive(Default)]
struct Figures {
    cpu: Beside,
    late: Beside,
}

impl Figures {
    fn add(&mut self, bare: &Measured, hawser: &Measured) {
        self.cpu.add(hawser.all(), bare.all());
        self.cpu.add_parts(&hawser.cpu);
        let [ours, theirs] = [hawser, bare].map(|side| share_ms(&side.delays, 0.99));
        self.late.add(ours, theirs);
    }

    /// The row of the CPU, and that of the delay.
    fn rows(self, what: &str, bound: Bound, record: &str) -> [Row; 2] {
        let late = format!("{what}: p99, from when it was due to the device's read");
        let cpu = self.cpu.row(what.to_owned(), PER_MILLION);
        [cpu.to_reach(bound, record), self.late.row(late, "ms")]
    }
}

async fn pushed(wanted: &Bench, binary: &Path, scene: &Scene) -> anyhow::Result<Vec<Row>> {
    let parts: Vec<Part> = scene.parts.iter().copied().filter(|it| wanted.wants(*it)).collect();
    let members = scene.members.unwrap_or(wanted.members);
    let mut all: Vec<Figures> = parts.iter().map(|_| Figures::default()).collect();
    for repeat in 1..=wanted.repeats {
        let mut sides = Vec::new();
        for is_bare in [true, false] {
            let mut stage = if is_bare {
                Stage::bare(wanted, members).await?
            } else {
                Stage::hawser(wanted, binary, members, scene.protocol).await?
            };
            let mut side = Vec::new();
            for part in &parts {
                let measured = part.measure(&mut stage, wanted).await;
                let measured = measured.with_context(|| format!("{part:?}, {}", stage.name()))?;
                eprintln!(
                    "{part:?} {repeat}/{}: {} {:.2} CPU-s per million {:.2?}, {:.0}/s, p50 {:.2} ms, p99 \
                     {:.2} ms",
                    wanted.repeats,
                    stage.name(),
                    measured.all(),
                    measured.cpu,
                    measured.per_second,
                    share_ms(&measured.delays, 0.5),
                    share_ms(&measured.delays, 0.99)
                );
                side.push(measured);
            }
            sides.push(side);
        }
        for ((figures, bare), hawser) in all.iter_mut().zip(&sides[0]).zip(&sides[1]) {
            figures.add(bare, hawser);
        }
    }
    Ok(parts.iter().zip(all).flat_map(|(part, figures)| part.rows(wanted, figures)).collect())
}

impl Part {
    async fn measure(self, stage: &mut Stage, wanted: &Bench) -> anyhow::Result<Measured> {
        match self {
            Self::Multicast | Self::MulticastWs => pushes::paced(stage, wanted).await,
            Self::MulticastNext => pushes::closed(stage, wanted, 1).await,
            Self::MulticastQueued => pushes::closed(stage, wanted, pushes::QUEUED).await,
            Self::UnicastStream => pushes::streamed(stage, wanted).await,
            Self::Unicast => pushes::single(stage, wanted).await,
            _ => anyhow::bail!("it is measured elsewhere"),
        }
    }

    /// What the figures of a row about pushes say.
    fn rows(self, wanted: &Bench, figures: Figures) -> Vec<Row> {
        let Bench { members, rate, payload, .. } = wanted;
        let most = Bound::RatioAtMost;
        let rows = match self {
            Self::Multicast => figures.rows(
                &format!("multicast to {members} over TCP, {rate}/s, {payload} bytes"),
                most(1.10),
                "redis 1.14",
            ),
            Self::MulticastWs => figures.rows(
                &format!("multicast to {members} over WebSocket, {rate}/s"),
                most(1.15),
                "nchan 1.20",
            ),
            Self::MulticastNext => figures.rows(
                &format!("multicast to {members}, the next when all have it"),
                most(1.3),
                "nchan 1.58",
            ),
            Self::MulticastQueued => figures.rows(
                &format!("multicast to {FEW}, {} queued", pushes::QUEUED),
                most(0.25),
                "redis 0.27",
            ),
            Self::UnicastStream => figures.rows(
                &format!(
                    "unicast to {members}, push stream, {} in flight, {} a message",
                    pushes::IN_FLIGHT,
                    pushes::TARGETS
                ),
                most(1.3),
                "redis 1.33",
            ),
            Self::Unicast => {
                let what = format!("single unicasts, {}/s", pushes::SINGLES_PER_SECOND);
                let [cpu, late] = figures.rows(&what, most(5.0), "nats 5.2");
                [cpu, late.to_reach(Bound::AtMost(1.0), "nats 1.1 ms")]
            }
            _ => return Vec::new(),
        };
        rows.into()
    }

    /// Measures a row that has a stage of its own. Nothing: it is one of [`SCENES`].
    async fn rows_apart(self, wanted: &Bench, binary: &Path) -> anyhow::Result<Vec<Row>> {
        use Protocol::{Quic, Tcp, Tls, Ws};
        let at_most = Bound::AtMost;
        let idle =
            async |protocol: Protocol, bound: Bound, record: &str| -> anyhow::Result<Vec<Row>> {
                Ok(vec![idle::row(wanted, binary, protocol).await?.to_reach(bound, record)])
            };
        let login = async |protocol: Protocol, bounds: [Option<(Bound, &str)>; 2]| {
            let [token, token_rate, ticket, rate] = login::rows(wanted, binary, protocol).await?;
            let reach = |row: Row, bound: Option<(Bound, &str)>| match bound {
                Some((bound, record)) => row.to_reach(bound, record),
                None => row,
            };
            let [token, ticket] = [reach(token, bounds[0]), reach(ticket, bounds[1])];
            anyhow::Ok(vec![token, token_rate, ticket, rate])
        };
        match self {
            Self::Idle => idle(Tcp, at_most(1_000.0), "mosquitto 1.0 KB").await,
            Self::IdleWs => idle(Ws, at_most(1_200.0), "").await,
            Self::IdleTls => idle(Tls, at_most(8_500.0), "mosquitto 15.6 KB").await,
            Self::IdleQuic => idle(Quic, Bound::RatioAtMost(1.2), "").await,
            Self::Login => {
                let record = "mosquitto 0.62, redis 0.42, without any of it";
                let bounds = [Some((at_most(1.8), "")), Some((at_most(0.6), record))];
                login(Tcp, bounds).await
            }
            Self::LoginWs => login(Ws, [None, None]).await,
            Self::LoginTls => login(Tls, [None, Some((at_most(3.3), "mosquitto 7.2"))]).await,
            Self::LoginQuic => login(Quic, [None, None]).await,
            Self::Request => {
                let row = requests::row(wanted, binary).await?;
                Ok(vec![row.to_reach(Bound::RatioAtMost(4.0), "")])
            }
            Self::Stored => stored::rows(wanted, binary).await,
            Self::Growth => growth::rows(wanted, binary).await,
            _ => Ok(Vec::new()),
        }
    }
}
