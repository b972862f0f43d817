//! `hawser ticket-key ..`: the keys of resume tickets.

use super::Desk;
use crate::cli::ControlArgs;
use crate::failure::Outcome;
use clap::Subcommand;
use serde_json::json;

/// Commands on ticket keys.
#[derive(Debug, Subcommand)]
pub(crate) enum TicketKeyCommand {
    /// Make a new key; control does so by itself. No device notices
    Rotate {
        /// No ticket made before is good any more: for when a key was seen by others. Devices that come back
        /// show their tokens
        #[arg(long)]
        at_once: bool,
        #[command(flatten)]
        control: ControlArgs,
    },
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: TicketKeyCommand) -> Outcome {
    let TicketKeyCommand::Rotate { at_once, control } = command;
    let control = desk.control(&control, None)?;
    let body = json!({"at_once": at_once});
    desk.output.thing(&control.post("/v1/ticket-keys/rotate", &body).await?);
    Ok(())
}
