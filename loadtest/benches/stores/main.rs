//! The stores alone, without the push API: how many appends they take, what one costs, and how much room
//! it needs; each beside what stands under it (the engine's own append loop; the same script on the same
//! Redis, driven by `redis-benchmark`), in turn, in one run.
//!
//! `cargo bench -p hawser-loadtest --bench stores -- --repeats 5 --results loadtest/results`

mod embedded;
mod load;
mod redis;

use clap::Parser;
use hawser_loadtest::report::{self, Row};
use std::path::PathBuf;
use std::time::Duration;

// As in the hawser binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures the stores beside what stands under them.
#[derive(Parser)]
#[command(name = "stores")]
pub(crate) struct Wanted {
    /// Repeats of each measurement, hawser and bare in turn.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Seconds of load in each repeat.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Body of each push, in bytes.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Which store; none named: both. Redis needs redis-server, redis-cli and redis-benchmark.
    #[arg(long, value_enum)]
    only: Vec<Engine>,
    /// Folder in which the stores live while they are measured; default: that of temporary files.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Folder for the result file; none: only the table is printed.
    #[arg(long)]
    results: Option<PathBuf>,
    /// Said by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    Embedded,
    Redis,
}

impl Wanted {
    fn wants(&self, engine: Engine) -> bool {
        self.only.is_empty() || self.only.contains(&engine)
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// A folder that goes with its owner.
    fn scratch(&self) -> std::io::Result<tempfile::TempDir> {
        self.folder.as_ref().map_or_else(tempfile::tempdir, tempfile::tempdir_in)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let wanted = Wanted::parse();
    let mut rows: Vec<Row> = Vec::new();
    if wanted.wants(Engine::Embedded) {
        rows.extend(embedded::rows(&wanted).await?);
        report::print(&rows);
    }
    if wanted.wants(Engine::Redis) {
        rows.extend(redis::rows(&wanted).await?);
        report::print(&rows);
    }
    if let Some(folder) = &wanted.results {
        report::keep(&rows, None, folder)?;
    }
    Ok(())
}
