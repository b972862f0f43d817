//! Chores of the hawser workspace, run as `cargo xtask <chore>`.

mod tidy;

use clap::Parser;

/// Chores of the hawser workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Fails when a crate depends against the grain, or a file breaks a rule of the house.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Tidy => tidy::run(),
    }
}
