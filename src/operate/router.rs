//! `hawser router list`: the routers, as control hears of them.

use super::Desk;
use crate::cli::ControlArgs;
use crate::failure::Outcome;
use clap::{Subcommand, ValueEnum};

/// What a router can be there for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Function {
    /// Logins and presence
    Logins,
    /// Pushes and groups
    Push,
    /// Inboxes and connection events
    Inbox,
}

/// Commands on routers.
#[derive(Debug, Subcommand)]
pub(crate) enum RouterCommand {
    /// List routers: what they serve, and where backends dial them
    List {
        /// Only those that serve this and are there now
        #[arg(long, value_enum)]
        function: Option<Function>,
        #[command(flatten)]
        control: ControlArgs,
    },
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: RouterCommand) -> Outcome {
    let RouterCommand::List { function, control } = command;
    let path = match function {
        None => "/v1/routers",
        Some(Function::Logins) => "/v1/routers?function=logins",
        Some(Function::Push) => "/v1/routers?function=push",
        Some(Function::Inbox) => "/v1/routers?function=inbox",
    };
    // It comes in one page.
    let answer = desk.control(&control, None)?.get(path).await?;
    let routers = answer["items"].as_array().cloned().unwrap_or_default();
    let columns = ["router", "push", "functions", "routes", "nodes", "draining", "fresh"];
    desk.output.list(&routers, &columns);
    Ok(())
}
