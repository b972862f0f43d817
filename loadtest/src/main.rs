//! `hawser-loadtest`: measures hawser beside the bare kernel. Every figure comes from one run on one
//! machine, as a ratio to a bare loop that writes the same bytes to the same number of sockets.

mod bare;
mod bench;
mod check;
mod control;
mod crowd;
mod dev;
mod faults;
mod fleet;
mod hold;
mod leash;
mod office;
mod push_api;
mod roots;
mod run;
mod scenario;
mod schedule;
mod secret;
mod sizing;
mod stop;
mod system;
mod tier;
mod wire;

use clap::{Parser, Subcommand};
use hawser_loadtest::{judge, page, process, report};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures hawser beside the bare kernel.
#[derive(Parser)]
#[command(
    name = "hawser-loadtest",
    version,
    after_help = "ctrl-c or SIGTERM ends a command, everything that it started, and its folders; what was measured \
                  until then is told as the part that it is, and the exit code is 130."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, print a table, and keep the result as JSON.
    ///
    /// Starts the services, each in a process of its own with one thread for its tasks, and the bare loops, on
    /// loopback and free ports, and stops them again. Interrupted (ctrl-c, SIGTERM), it keeps the rows that are
    /// whole, and ends with 130.
    #[command(
        after_help = "Example:\n  cargo build --release --workspace --bins\n  target/release/hawser-loadtest bench\n  \
                      target/release/hawser-loadtest bench --only multicast --only unicast --repeats 1"
    )]
    Bench(bench::Bench),
    /// Judge recorded histories: what was lost, doubled, or came to the wrong one.
    ///
    /// Ends with 0 when nothing is found, with 1 otherwise.
    Judge(Judge),
    /// Draw the results of runs as one page that needs nothing else: pictures, tables, the verdict.
    ///
    /// Several results are drawn beside each other.
    #[command(
        after_help = "Example:\n  hawser-loadtest page before.json after.json --out page.html"
    )]
    Page(page::Page),
    /// See whether a deployment works: small cases with real devices and a business's key, then all at once.
    ///
    /// Without addresses it starts `hawser dev` for it. It may run beside real users: whatever it makes has a
    /// random name and is removed again. Ends with 0 when no case has failed, with 1 when one has, and with
    /// 130 when it was interrupted.
    #[command(after_help = "Examples:\n  hawser-loadtest check\n  \
                      KEY=.. hawser-loadtest check --control https://control.example.com \
                      --push https://push.example.com --app shop --business chat --key env:KEY")]
    Check(check::Check),
    /// Break things under load with real processes, and ask the judge what was kept of the promises.
    ///
    /// Each row starts a cluster of its own on free ports, device processes and backends, injects its
    /// fault, heals it, and waits until everything has arrived. Ends with 0 when every row passes. Rows
    /// with Redis need redis-server and redis-cli.
    ///
    /// Rows that cut networks need root and iproute2; the one about clocks needs libfaketime. A row that
    /// cannot run here has failed, unless --allow-skip.
    #[command(after_help = "Examples:\n  cargo build --release --workspace --bins\n  \
                      target/release/hawser-loadtest faults --all\n  \
                      target/release/hawser-loadtest faults router-killed redis-killed-synced")]
    Faults(Faults),
    /// Hold as many devices as this machine carries, with everything at work, and say what each costs.
    ///
    /// Starts Redis, control, two routers, and as many access and device processes as it takes. Interrupted
    /// (ctrl-c, SIGTERM), it says what it has measured, keeps nothing, and ends with 130.
    #[command(after_help = "Example:\n  cargo build --release --workspace --bins\n  \
                      target/release/hawser-loadtest hold --devices 200000 --apart 20\n  \
                      target/release/hawser-loadtest hold --million --results loadtest/results")]
    Hold(hold::Hold),
    /// Run a scenario against a deployment, or against a `hawser dev` that it starts, and judge it by its
    /// bounds.
    ///
    /// Ends with 0: every bound was kept; 1: one was not; 2: the scenario is wrong; 3: the tool itself or
    /// this machine was the limit, or there was nothing to reach, so that the run says nothing; 130: it was
    /// interrupted (ctrl-c, SIGTERM), and what was measured until then is told, and kept with --results.
    #[command(after_help = run::AFTER_HELP)]
    Run(run::Run),
    /// Fill the tables of real routers with up to ten million devices, and say what each look-up costs.
    ///
    /// Starts Redis, control and routers, and plays the access nodes.
    #[command(
        after_help = "Example:\n  target/release/hawser-loadtest tier --results loadtest/results"
    )]
    Tier(tier::Wanted),
    /// Say how large a cluster has to be, from measured costs.
    ///
    /// Prints the arithmetic as a table of Markdown. Machines and prices are assumptions: give your own.
    #[command(
        after_help = "Example:\n  target/release/hawser-loadtest size --devices 2000000 --connects 500"
    )]
    Size(sizing::Sizing),
    /// A few devices with their cursors in files, and a history. Run by `faults`.
    #[command(hide = true)]
    Device(faults::device::Device),
    /// Devices by the ten thousand on the bare wire. Run by `faults` and `hold`.
    #[command(hide = true)]
    Crowd(crowd::Crowd),
    /// The same with a whole plan. Run by `run`.
    #[command(hide = true)]
    Planned(crowd::Planned),
    /// Becomes another program that ends when whoever started it does. Run by `faults`.
    #[command(hide = true)]
    Leashed(leash::Leashed),
    /// Devices of one access node, for a group that is larger than a process may be. Run by `bench`.
    #[command(hide = true)]
    BenchDevices(bench::Devices),
    /// The bare loop: a single-threaded epoll server that does one write per delivery. Run by `bench`.
    #[command(hide = true)]
    Bare(bare::Bare),
}

/// What to break, and under which load.
#[derive(Clone, clap::Args)]
pub(crate) struct Faults {
    /// Rows to run, by name.
    rows: Vec<String>,
    /// Print the rows, and what each breaks.
    #[arg(long)]
    list: bool,
    /// Run every row.
    #[arg(long, conflicts_with_all = ["rows", "short"])]
    all: bool,
    /// Run the few rows of every day, with scaled clocks.
    #[arg(long, conflicts_with = "rows")]
    short: bool,
    /// Clocks of the cluster are scaled down, and each row says how its figures carry over.
    #[arg(long)]
    scaled: bool,
    /// Share of a row's full number of devices, where it has one.
    #[arg(long, default_value_t = 1.0)]
    size: f64,
    /// A row that cannot run on this machine has not failed.
    #[arg(long)]
    allow_skip: bool,
    /// The hawser binary of an earlier release, for the row that mixes releases; see scripts/build-older.
    #[arg(long, env = "HAWSER_OLD_BIN")]
    old_hawser: Option<PathBuf>,
    /// The device process built against the SDK of that release.
    #[arg(long, env = "HAWSER_OLD_SDK")]
    old_sdk: Option<PathBuf>,
    /// The hawser binary; default: the one beside this program.
    #[arg(long, env = "HAWSER_BIN")]
    hawser: Option<PathBuf>,
    /// Devices, over all their processes.
    #[arg(long, default_value_t = 24)]
    devices: usize,
    /// Device processes.
    #[arg(long, default_value_t = 3)]
    processes: usize,
    /// Stored pushes a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds of load beside what a fault itself takes.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Seconds for which the store cannot be reached, in the row that is about it.
    #[arg(long, default_value_t = 60)]
    outage: u64,
    /// Seed of the load.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for histories, logs and verdicts; none: they are kept only when a row fails.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// What to judge.
#[derive(clap::Args)]
struct Judge {
    /// Histories, one JSON object per line each; they are merged by their monotonic times.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The run was cut short: do not expect that everything has arrived.
    #[arg(long)]
    cut_short: bool,
    /// The verdict as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        // One thread and its own loop: no runtime.
        Command::Crowd(wanted) => {
            leash::put_on()?;
            crowd::run(wanted)?;
        }
        Command::Planned(wanted) => {
            leash::put_on()?;
            crowd::run(wanted.read()?)?;
        }
        Command::Leashed(wanted) => match leash::run(&wanted)? {},
        Command::Bare(wanted) => {
            leash::put_on()?;
            bare::run(&wanted)?;
        }
        command => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            return runtime.block_on(perform(command));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn perform(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Bench(wanted) => return bench::run(wanted).await,
        Command::Judge(wanted) => return pass_judgement(&wanted),
        Command::Page(wanted) => page::run(&wanted)?,
        Command::Check(wanted) => return check::run(&wanted).await,
        Command::Faults(wanted) => return faults::run(&wanted).await,
        Command::Hold(wanted) => return hold::run(&wanted).await,
        Command::Run(wanted) => return run::run(&wanted).await,
        Command::Tier(wanted) => return tier::run(&wanted).await,
        Command::Size(wanted) => sizing::run(&wanted)?,
        Command::Device(wanted) => {
            leash::put_on()?;
            faults::device::run(wanted).await?;
        }
        Command::Leashed(wanted) => match leash::run(&wanted)? {},
        Command::Crowd(wanted) => crowd::run(wanted)?,
        Command::BenchDevices(wanted) => {
            leash::put_on()?;
            bench::devices(wanted).await?;
        }
        Command::Bare(wanted) => bare::run(&wanted)?,
        Command::Planned(wanted) => crowd::run(wanted.read()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn pass_judgement(wanted: &Judge) -> anyhow::Result<ExitCode> {
    let histories: anyhow::Result<Vec<_>> = wanted.files.iter().map(|it| judge::read(it)).collect();
    let options = judge::Options { at_rest: !wanted.cut_short, ..judge::Options::default() };
    let verdict = judge::judge(&judge::merge(histories?), options);
    if wanted.json {
        println!("{:#}", verdict.to_json());
    } else {
        print!("{verdict}");
    }
    Ok(if verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
