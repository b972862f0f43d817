//! Prints each change of state. Stop and start `hawser dev` meanwhile, or let a second device with
//! the same id take over.
//!
//! ```text
//! cargo run --example states -- device-1
//! ```

use clap::Parser;
use hawser_sdk::{Client, FileStorage};
use std::path::PathBuf;
use std::time::Instant;

#[derive(Parser)]
struct Args {
    /// This device's id.
    device: String,
    /// Base address of control.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    control: String,
    #[arg(long, default_value = "demo")]
    app: String,
    /// Trust this CA (PEM) and no other.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Keep who this installation is in this file.
    #[arg(long)]
    storage: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let since = Instant::now();
    let mut builder = Client::builder(&args.control, &args.app, &args.device)
        .on_state(move |state| println!("{:8.3} s  {state}", since.elapsed().as_secs_f64()));
    if let Some(ca) = args.ca {
        builder = builder.root_certificate(std::fs::read(ca)?);
    }
    if let Some(path) = args.storage {
        builder = builder.storage(FileStorage::new(path));
    }
    let client = builder.build()?;
    client.start();

    let mut states = client.states();
    tokio::select! {
        _ = states.wait_for(hawser_sdk::State::is_closed) => {}
        _ = tokio::signal::ctrl_c() => client.close().await,
    }
    Ok(())
}
