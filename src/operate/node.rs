//! `hawser node ..`: the access nodes, as control hears of them, and their drains.

mod drain;

use super::Desk;
use crate::cli::ControlArgs;
use crate::control_api::segment;
use crate::failure::Outcome;
use crate::span::Span;
use clap::Subcommand;
use drain::Rate;
use serde_json::{Value, json};

/// Commands on access nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List access nodes with their load, and how far drains are
    List {
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Send the devices of a node elsewhere, at a rate; it takes no new ones
    ///
    /// Each device logs in elsewhere first, and leaves then. The node's process stays up and drains until it
    /// ends, or until `hawser node undrain`; the next process of its name takes devices again.
    ///
    /// With --wait, it is done (0) when the node says that it has no connection left, or when another process has
    /// its name. It fails (1) when the node falls silent before, while control hears others: then its process has
    /// ended, or is cut off, with the connections that it last told of. Control may be away for a minute, as when
    /// it is restarted; after that the command gives up (3), and the drain itself goes on.
    ///
    /// Example: hawser node drain a1 --rate 500/s --wait && systemctl restart hawser-access@a1
    #[command(verbatim_doc_comment)]
    Drain {
        /// Node
        node: String,
        /// Sessions told to go in a second, as 500/s. What leaves here logs in at the other nodes: stay below
        /// the sum of what they take
        #[arg(long, default_value = "500/s", value_name = "COUNT/s")]
        rate: Rate,
        /// Wait until no connection is left; progress goes to standard error
        #[arg(long)]
        wait: bool,
        /// Give up waiting after this; the drain itself goes on
        #[arg(long, default_value = "1h", value_name = "SPAN", requires = "wait")]
        timeout: Span,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Take the order to drain back: the node takes devices again
    Undrain {
        /// Node
        node: String,
        #[command(flatten)]
        control: ControlArgs,
    },
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: NodeCommand) -> Outcome {
    match command {
        NodeCommand::List { control } => {
            let mut nodes = desk.control(&control, None)?.list("/v1/nodes").await?;
            if !desk.output.json {
                nodes.iter_mut().for_each(summarise);
            }
            let columns = [
                "node",
                "cluster",
                "region",
                "connections",
                "connections_max",
                "state",
                "accepts_per_second_max",
                "fresh",
            ];
            desk.output.list(&nodes, &columns);
        }
        NodeCommand::Drain { node, rate, wait, timeout, control } => {
            let control = desk.control(&control, None)?;
            let body = json!({"per_second": rate.per_second()});
            let order = control.post(&path(&node), &body).await?;
            if order["fresh"] == false {
                eprintln!("{node} is silent: it drains only if control hears of it again");
            }
            if wait {
                let end = drain::wait(&control, &node, &order, timeout.0).await?;
                desk.output.done(&end.sentence(&node));
            } else {
                desk.output.thing(&order);
            }
        }
        NodeCommand::Undrain { node, control } => {
            desk.control(&control, None)?.delete(&path(&node)).await?;
            desk.output.done(&format!("{node} takes devices again"));
        }
    }
    Ok(())
}

fn path(node: &str) -> String {
    format!("/v1/nodes/{}/drain", segment(node))
}

/// What a person wants to know first, in a word.
fn summarise(node: &mut Value) {
    let drain = &node["drain"];
    let state = match (node["draining"].as_bool(), node["hot"].as_bool()) {
        _ if node["fresh"] == false => "silent".to_owned(),
        _ if drain.is_object() && drain["sessions"].as_u64() > Some(0) => {
            format!("draining, {} of {} told", drain["told"], drain["sessions"])
        }
        (Some(true), _) => "draining".to_owned(),
        _ if drain.is_object() => "ordered to drain".to_owned(),
        (_, Some(true)) => "hot".to_owned(),
        _ => "takes devices".to_owned(),
    };
    node["state"] = json!(state);
}
