//! `hawser signing-key ..`: the keys that sign device tokens.

use super::Desk;
use crate::cli::ControlArgs;
use crate::failure::Outcome;
use clap::Subcommand;
use serde_json::json;

/// Commands on signing keys.
#[derive(Debug, Subcommand)]
pub(crate) enum SigningKeyCommand {
    /// Make a new key. It is published before it signs, and the old one verifies until its last token
    /// is dead: no device notices
    Rotate {
        #[command(flatten)]
        control: ControlArgs,
    },
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: SigningKeyCommand) -> Outcome {
    let SigningKeyCommand::Rotate { control } = command;
    let control = desk.control(&control, None)?;
    desk.output.thing(&control.post("/v1/signing-keys/rotate", &json!({})).await?);
    Ok(())
}
