//! `hawser inbox ..`: what waits for a device.

use super::Desk;
use super::push::stored::position;
use crate::cli::PushArgs;
use crate::failure::Outcome;
use crate::push_api::{refused, request};
use clap::Subcommand;
use hawser_proto::rpc::push as rpc;
use serde_json::{Value, json};

/// Commands on inboxes: each device has one for each business. The key says whose.
#[derive(Debug, Subcommand)]
pub(crate) enum InboxCommand {
    /// Show how much waits in a device's inbox of the business, and between which positions
    ///
    /// `tail` is the position of the newest push that was stored; everything up to `floor` is gone, since
    /// the device has handled it or the inbox's bounds removed it.
    ///
    /// Example: hawser inbox describe web-1
    #[command(verbatim_doc_comment)]
    Describe {
        /// Device
        device: String,
        #[command(flatten)]
        push: PushArgs,
    },
    /// Empty a device's inbox of the business; a device that is behind learns of the gap
    ///
    /// Example: hawser inbox purge web-1 --yes
    #[command(verbatim_doc_comment)]
    Purge {
        /// Device
        device: String,
        /// Really
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        push: PushArgs,
    },
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: InboxCommand) -> Outcome {
    let output = desk.output;
    match command {
        InboxCommand::Describe { device, push } => {
            let call = request(rpc::InboxRequest { device });
            let found = desk.push(&push)?.describe_inbox(call).await.map_err(|it| refused(&it))?;
            output.thing(&info(&found.into_inner()));
        }
        InboxCommand::Purge { device, yes, push } => {
            super::confirmed(yes, &format!("what waits in the inbox of {device}"))?;
            let call = request(rpc::InboxRequest { device: device.clone() });
            let gone = desk.push(&push)?.purge_inbox(call).await.map_err(|it| refused(&it))?;
            let entries = gone.into_inner().entries;
            if output.json {
                output.thing(&json!({"device": device, "entries": entries}));
            } else {
                println!("{entries} removed from the inbox of {device}");
            }
        }
    }
    Ok(())
}

fn info(inbox: &rpc::InboxInfo) -> Value {
    json!({
        "device": inbox.device,
        "entries": inbox.entries,
        "bytes": inbox.bytes,
        "tail": position(inbox.tail_term, inbox.tail_seq),
        "floor": position(inbox.floor_term, inbox.floor_seq),
        "oldest_ms": inbox.oldest_ms,
        "overflowed": inbox.overflowed,
    })
}
