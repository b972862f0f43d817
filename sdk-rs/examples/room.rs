//! A chat room: joins a group, says what is typed, and prints what is said.
//!
//! ```text
//! hawser dev
//! cargo run --example room -- anna
//! cargo run --example room -- ben
//! ```

use clap::Parser;
use hawser_sdk::{Client, Incoming};
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

#[derive(Parser)]
struct Args {
    /// This device's id.
    device: String,
    /// The group to join.
    #[arg(default_value = "lobby")]
    room: String,
    /// Base address of control.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    control: String,
    #[arg(long, default_value = "demo")]
    app: String,
    /// Trust this CA (PEM) and no other.
    #[arg(long)]
    ca: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut builder = Client::builder(&args.control, &args.app, &args.device).business("chat");
    if let Some(ca) = args.ca {
        builder = builder.root_certificate(std::fs::read(ca)?);
    }
    let client = builder.build()?;
    let chat = client.business("chat");
    let mut incoming = chat.listen();
    client.connect().await?;
    chat.join(&args.room).await?;
    println!("in {}; type, and end with Ctrl-D", args.room);

    let mut lines = BufReader::new(stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => {
                    if let Err(error) = chat.request("say", line).metadata("room", &args.room).await {
                        println!("not said: {error}");
                    }
                }
                None => break,
            },
            item = incoming.next_item() => match item {
                Some(Incoming::Push(push)) => {
                    let said: serde_json::Value = serde_json::from_slice(&push.body).unwrap_or_default();
                    println!("{}: {}", said["from"].as_str().unwrap_or("?"), said["text"].as_str().unwrap_or("?"));
                }
                Some(Incoming::Left(left)) => println!("out of {}: {:?}", left.group, left.reason),
                Some(_) => {} // the words of inboxes and histories: see the example `inbox`
                None => break,
            },
        }
    }
    client.close().await;
    Ok(())
}
