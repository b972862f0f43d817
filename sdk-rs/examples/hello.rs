//! Connects, asks the chat for an echo, and prints pushes.
//!
//! ```text
//! hawser dev
//! cargo run --example hello -- device-1
//! hawser push unicast --app demo --device device-1 "hello"
//! ```

use clap::Parser;
use hawser_sdk::{Client, Protocol};
use std::path::PathBuf;

#[derive(Parser)]
struct Args {
    /// This device's id.
    device: String,
    /// Base address of control.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    control: String,
    #[arg(long, default_value = "demo")]
    app: String,
    #[arg(long, default_value = "chat")]
    business: String,
    /// Trust this CA (PEM) and no other.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Dial only this: tcp, tls, quic, ws or wss.
    #[arg(long)]
    protocol: Option<Protocol>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut builder =
        Client::builder(&args.control, &args.app, &args.device).business(&args.business);
    if let Some(ca) = args.ca {
        builder = builder.root_certificate(std::fs::read(ca)?);
    }
    if let Some(protocol) = args.protocol {
        builder = builder.protocol(protocol);
    }
    let client = builder.build()?;
    let business = client.business(&args.business);
    let mut pushes = business.pushes(); // before connecting, to miss none

    client.connect().await?;
    println!("{}", client.state());

    let answer = business.request("echo", "hello").await?;
    println!("the {} answered {:?}", args.business, answer.body);

    while let Some(push) = pushes.next_push().await {
        let from = push.group.as_deref().unwrap_or("push");
        println!("{from}: {}", String::from_utf8_lossy(&push.body));
    }
    Ok(())
}
