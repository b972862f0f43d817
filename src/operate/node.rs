//! `hawser node ..`: the access nodes, as control hears of them.

use super::Desk;
use crate::cli::ControlArgs;
use crate::failure::Outcome;
use clap::Subcommand;

/// Commands on access nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List access nodes with their load and addresses
    List {
        #[command(flatten)]
        control: ControlArgs,
    },
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: NodeCommand) -> Outcome {
    let NodeCommand::List { control } = command;
    let nodes = desk.control(&control, None)?.list("/v1/nodes").await?;
    let columns =
        ["node", "cluster", "region", "connections", "connections_max", "draining", "fresh"];
    desk.output.list(&nodes, &columns);
    Ok(())
}
