//! Prints each stored push once, also when this process is killed in between.
//!
//! ```text
//! hawser dev
//! cargo run --example inbox -- device-1 /var/tmp
//! hawser push unicast --device device-1 --stored "it waits for you"
//! ```
//!
//! Kill it with `kill -9`, push a few times, start it again: what came meanwhile is printed, and
//! nothing of what was printed before. How far the app has come is kept in a file; what is in it has
//! been acknowledged to hawser or will be. The one window left is the app's own: a process that is
//! killed after it has printed a push and before that is kept (200 ms at most) is given it again,
//! flagged `redelivered`, and the push id tells whether it is the same.

use clap::Parser;
use hawser_sdk::{Client, FileCursors, FileStorage, Incoming};
use std::path::PathBuf;

#[derive(Parser)]
struct Args {
    /// This device's id.
    device: String,
    /// Folder to keep the cursors and the installation in; it must survive what the app survives.
    folder: PathBuf,
    /// Base address of control.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    control: String,
    #[arg(long, default_value = "demo")]
    app: String,
    #[arg(long, default_value = "chat")]
    business: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let client = Client::builder(&args.control, &args.app, &args.device)
        .business(&args.business)
        .storage(FileStorage::new(args.folder.join(format!("{}.installation", args.device))))
        .cursors(FileCursors::new(&args.folder))
        .build()?;
    let mut inbox = client.business(&args.business).listen();
    client.connect().await?;

    // Asking for the next item says that the one before is handled: nothing else acknowledges.
    while let Some(item) = inbox.next_item().await {
        match item {
            Incoming::Push(push) => {
                let place = push.position.map_or("volatile".to_owned(), |at| at.to_string());
                let again = if push.redelivered { " (perhaps again)" } else { "" };
                println!("{place}{again}: {}", String::from_utf8_lossy(&push.body));
            }
            Incoming::Gap(gap) => println!("{} pushes are gone: {:?}", gap.count, gap.reason),
            Incoming::TermChanged(it) => println!("the store went back: {} to {}", it.from, it.to),
            _ => {}
        }
    }
    Ok(())
}
