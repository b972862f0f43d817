//! `hawser push ..`: pushes, with the outcome of each target.

pub(super) mod stored;

mod batch;
mod message;

use super::Desk;
use crate::cli::PushArgs;
use crate::failure::{Failure, Outcome};
use crate::push_api::{refused, request, request_within};
use clap::Subcommand;
use hawser_proto::rpc::push as rpc;
use message::MessageArgs;
use serde_json::{Value, json};
use std::path::PathBuf;
use stored::{Durability, StoreArgs, told};

/// Pushes. The exit code is 0 when everything was written, stored or acknowledged, else 1.
#[derive(Debug, Subcommand)]
pub(crate) enum PushCommand {
    /// Push to one device
    ///
    /// Examples:
    ///   hawser push unicast --app demo --device web-1 "hello"
    ///   hawser push unicast --device web-1 --metadata kind=note --body-file note.json
    ///   hawser push unicast --device web-1 --stored --push-id order-7 --ttl 7d "it is on its way"
    ///   hawser push unicast --device web-1 --stored --wait-ack 5s "did you get this?"
    ///
    /// A push that is not --stored reaches the device now or never; the outcome says which. A stored one
    /// waits in the device's inbox of this business. Its outcome is `stored`, with its position and the
    /// durability that was reached; `acked` when the device has handled it; or `overflow` or `expired`.
    #[command(verbatim_doc_comment)]
    Unicast {
        /// Device
        #[arg(long, value_name = "ID")]
        device: String,
        #[command(flatten)]
        message: MessageArgs,
        #[command(flatten)]
        push: PushArgs,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Push to many devices, the same body or one each
    ///
    /// Examples:
    ///   hawser push batch --device web-1 --device web-2 "hello, both"
    ///   hawser push batch --device web-1 --device web-2 --stored --push-id news-12 "read this"
    ///   hawser push batch --targets targets.jsonl
    /// where each line of the file is {"device": "web-1", "body": "hello", "metadata": {"k": "v"}}, with a
    /// "push_id" if each is to have its own
    #[command(verbatim_doc_comment)]
    Batch {
        /// Device; repeat for more
        #[arg(long = "device", value_name = "ID", conflicts_with = "targets")]
        devices: Vec<String>,
        /// File with a JSON object a line, or - for standard input
        #[arg(long, value_name = "FILE", required_unless_present = "devices")]
        #[arg(conflicts_with_all = ["text", "body_file", "metadata"])]
        targets: Option<PathBuf>,
        #[command(flatten)]
        message: MessageArgs,
        #[command(flatten)]
        push: PushArgs,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Push to everyone in a group
    ///
    /// Examples:
    ///   hawser push multicast --group lobby "hello everyone"
    ///   hawser push multicast --group news --push-id news-12 --durability disk "for the record"
    ///   hawser push multicast --group scores --compress --body-file table.json
    ///
    /// In a group with a history the push gets a position, and members that missed it recover it; there
    /// --push-id makes the call safe to repeat.
    #[command(verbatim_doc_comment)]
    Multicast {
        /// Group
        #[arg(long, value_name = "ID")]
        group: String,
        /// In a group with a history: what must be true before the call answers [default: the store's own]
        #[arg(long, value_enum)]
        durability: Option<Durability>,
        #[command(flatten)]
        message: MessageArgs,
        #[command(flatten)]
        push: PushArgs,
    },
    /// Push to every online device of the app that serves the business, paced
    ///
    /// Example: hawser push broadcast --rate 500 "maintenance at noon"
    #[command(verbatim_doc_comment)]
    Broadcast {
        /// Targets a second, over all nodes [default: 10000]
        #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "COUNT")]
        rate: u32,
        #[command(flatten)]
        message: MessageArgs,
        #[command(flatten)]
        push: PushArgs,
    },
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: PushCommand) -> Outcome {
    match command {
        PushCommand::Unicast { device, message, push, store } => {
            unicast(desk, device, message, &push, store).await
        }
        PushCommand::Batch { devices, targets, message, push, store } => {
            let calls = match targets {
                Some(path) => batch::one_body_each(&path, message)?,
                None => batch::one_body(&devices, message)?,
            };
            batch::send(desk, calls, &push, store).await
        }
        PushCommand::Multicast { group, durability, message, push } => {
            multicast(desk, group, durability, message, &push).await
        }
        PushCommand::Broadcast { rate, message, push } => {
            broadcast(desk, rate, message, &push).await
        }
    }
}

async fn unicast(
    desk: &Desk,
    device: String,
    message: MessageArgs,
    push: &PushArgs,
    store: StoreArgs,
) -> Outcome {
    let (message, push_id) = message.read()?;
    let wait = store.wait().unwrap_or_default();
    let (class, store) = store.read()?;
    let call = rpc::UnicastRequest {
        device: device.clone(),
        message: Some(message),
        class: class.into(),
        push_id,
        store,
    };
    let answer = desk.push(push)?.unicast(request_within(call, wait)).await;
    let answer = answer.map_err(|it| refused(&it))?.into_inner();
    let outcome = outcome_name(answer.outcome);
    let push_id = id_text(&answer.push_id);
    let mut said = json!({"device": device, "outcome": outcome, "push_id": push_id});
    if let (Some(stored), Some(said)) = (&answer.stored, said.as_object_mut()) {
        said.extend(told(stored));
    }
    if desk.output.json || class == rpc::Class::Stored {
        desk.output.thing(&said);
    } else {
        println!("{outcome}");
    }
    let missed = if answer.outcome == i32::from(rpc::Outcome::Unknown) {
        let again = if class == rpc::Class::Stored {
            format!("; say it again with --push-id {push_id}, it is stored once")
        } else {
            String::new()
        };
        format!("it is not known whether the push was {}{again}", aim(class))
    } else {
        format!("the push was not {}", aim(class))
    };
    all_done(is_done(answer.outcome), &missed)
}

async fn multicast(
    desk: &Desk,
    group: String,
    durability: Option<Durability>,
    message: MessageArgs,
    push: &PushArgs,
) -> Outcome {
    let (message, push_id) = message.read()?;
    let durability = durability.map(Durability::wire).unwrap_or_default().into();
    let call = rpc::MulticastRequest { group, message: Some(message), push_id, durability };
    let answer =
        desk.push(push)?.multicast(request(call)).await.map_err(|it| refused(&it))?.into_inner();
    let mut said = json!({
        "members": answer.members,
        "written": answer.written,
        "queued": answer.queued,
        "dropped": answer.dropped,
        "push_id": id_text(&answer.push_id),
        "nodes": nodes(&answer.nodes),
    });
    if let (Some(stored), Some(said)) = (&answer.stored, said.as_object_mut()) {
        said.extend(told(stored));
    }
    counts(desk, &said);
    // What stands in the history, members recover by themselves.
    let stands = answer.stored.as_ref().is_some_and(stored::is_stored);
    let complete = stands || is_complete(answer.dropped, &answer.nodes);
    all_done(complete, "the push did not reach every member")
}

async fn broadcast(desk: &Desk, rate: u32, message: MessageArgs, push: &PushArgs) -> Outcome {
    let (message, push_id) = message.read()?;
    let call = rpc::BroadcastRequest { message: Some(message), push_id, targets_per_second: rate };
    // No deadline of our own: a paced broadcast takes as long as it takes, and tells its progress.
    let mut progress =
        desk.push(push)?.broadcast(call).await.map_err(|it| refused(&it))?.into_inner();
    while let Some(now) = progress.message().await.map_err(|it| refused(&it))? {
        let mut told = json!({
            "targets": now.targets,
            "written": now.written,
            "queued": now.queued,
            "dropped": now.dropped,
        });
        if !now.done {
            desk.output.note(&format!("{} of {} so far", now.written + now.queued, now.targets));
            continue;
        }
        told["push_id"] = id_text(&now.push_id).into();
        told["nodes"] = nodes(&now.nodes);
        counts(desk, &told);
        let complete = is_complete(now.dropped, &now.nodes);
        return all_done(complete, "the push did not reach every target");
    }
    Err(Failure::not_done("the broadcast ended without a last word; it may be incomplete"))
}

fn counts(desk: &Desk, told: &Value) {
    if desk.output.json {
        return desk.output.thing(told);
    }
    let number = |field: &str| told[field].as_u64().unwrap_or_default();
    let total = told["members"].as_u64().or(told["targets"].as_u64()).unwrap_or_default();
    let (written, queued, dropped) = (number("written"), number("queued"), number("dropped"));
    println!("{total} targets: {written} written, {queued} queued, {dropped} dropped");
    if let (Some(position), Some(durability)) =
        (told["position"].as_str(), told["durability"].as_str())
    {
        let again = if told["repeated"] == json!(true) { ", by an earlier call" } else { "" };
        println!("in the history at {position}, durability {durability}{again}");
    }
    for node in told["nodes"].as_array().into_iter().flatten() {
        if node["unknown"] == json!(true) {
            println!("node {} gave no answer in time", node["node"].as_str().unwrap_or_default());
        }
    }
}

fn is_complete(dropped: u64, nodes: &[rpc::NodeResult]) -> bool {
    dropped == 0 && nodes.iter().all(|node| !node.unknown)
}

fn nodes(nodes: &[rpc::NodeResult]) -> Value {
    let one = |node: &rpc::NodeResult| {
        json!({
            "node": node.node,
            "members": node.members,
            "written": node.written,
            "queued": node.queued,
            "dropped": node.dropped,
            "unknown": node.unknown,
        })
    };
    nodes.iter().map(one).collect()
}

/// What the outcome is hoped to be.
fn is_done(outcome: i32) -> bool {
    use rpc::Outcome::{Acked, Stored, Written};
    [Written, Stored, Acked].into_iter().any(|done| outcome == i32::from(done))
}

/// In a word.
fn aim(class: rpc::Class) -> &'static str {
    if class == rpc::Class::Stored { "stored" } else { "written" }
}

fn all_done(yes: bool, otherwise: &str) -> Outcome {
    if yes { Ok(()) } else { Err(Failure::not_done(otherwise)) }
}

/// The outcome's name without its prefix: `written`.
fn outcome_name(number: i32) -> String {
    let outcome = rpc::Outcome::try_from(number).unwrap_or_default();
    outcome.as_str_name().trim_start_matches("OUTCOME_").to_lowercase()
}

/// A push id as text; bytes that are not text in hex.
fn id_text(id: &[u8]) -> String {
    match std::str::from_utf8(id) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => hex::encode(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_ids_read_well() {
        assert_eq!(outcome_name(rpc::Outcome::Written.into()), "written");
        assert_eq!(outcome_name(rpc::Outcome::Offline.into()), "offline");
        assert_eq!(outcome_name(99), "unspecified");
        for (outcome, done) in [
            (rpc::Outcome::Written, true),
            (rpc::Outcome::Stored, true),
            (rpc::Outcome::Acked, true),
            (rpc::Outcome::Unspecified, false),
            (rpc::Outcome::Overflow, false),
            (rpc::Outcome::Expired, false),
            (rpc::Outcome::Unknown, false),
        ] {
            assert_eq!(is_done(outcome.into()), done, "{outcome:?}");
        }
        assert_eq!(id_text(b"order-7"), "order-7");
        assert_eq!(id_text(&[0, 255]), "00ff");
    }
}
