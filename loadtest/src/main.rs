//! `hawser-loadtest`: measures hawser beside the bare kernel. Every figure comes from one run on one
//! machine, as a ratio to a bare loop that writes the same bytes to the same number of sockets.

mod bare;
mod bench;
mod fleet;
mod process;
mod report;
mod system;

use clap::{Parser, Subcommand};
use hawser_loadtest::judge;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures hawser beside the bare kernel.
#[derive(Parser)]
#[command(name = "hawser-loadtest", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, print a table, and keep the result as JSON.
    ///
    /// Starts `hawser dev` and the bare loop itself, on loopback and free ports, and stops them again.
    #[command(
        after_help = "Example:\n  cargo build --release --workspace --bins\n  target/release/hawser-loadtest bench"
    )]
    Bench(Bench),
    /// Judge recorded histories: what was lost, doubled, or came to the wrong one.
    ///
    /// Ends with 0 when nothing is found, with 1 otherwise.
    Judge(Judge),
    /// The bare loop: a single-threaded epoll server that does one write per delivery. Run by `bench`.
    #[command(hide = true)]
    Bare,
}

/// What to measure, and how often.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// The hawser binary to measure; default: the one beside this program.
    #[arg(long, env = "HAWSER_BIN")]
    hawser: Option<PathBuf>,
    /// Members of the group that is pushed to.
    #[arg(long, default_value_t = 10_000)]
    members: usize,
    /// Connections held idle for the memory figure.
    #[arg(long, default_value_t = 15_000)]
    idle: usize,
    /// Multicasts a second.
    #[arg(long, default_value_t = 5)]
    rate: u32,
    /// Seconds of load in each repeat.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Repeats of each measurement, hawser and bare in turn.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Payload of each push, in bytes.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Folder for the result file; none: only the table is printed.
    #[arg(long)]
    results: Option<PathBuf>,
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

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Bench(wanted) => bench::run(wanted).await?,
        Command::Judge(wanted) => return pass_judgement(&wanted),
        Command::Bare => bare::run()?,
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
