//! `hawser push ..`: pushes, with the outcome of each target.

use super::Desk;
use crate::cli::PushArgs;
use crate::failure::{Failure, Outcome};
use crate::push_api::{refused, request};
use bytes::Bytes;
use clap::{Args, Subcommand};
use hawser_proto::limits::TARGETS_PER_CALL_MAX;
use hawser_proto::rpc::push as rpc;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Pushes. The exit code is 0 when everything was written, else 1.
#[derive(Debug, Subcommand)]
pub(crate) enum PushCommand {
    /// Push to one device
    ///
    /// Examples:
    ///   hawser push unicast --app demo --device web-1 "hello"
    ///   hawser push unicast --device web-1 --metadata kind=note --body-file note.json
    #[command(verbatim_doc_comment)]
    Unicast {
        /// Device
        #[arg(long, value_name = "ID")]
        device: String,
        #[command(flatten)]
        message: MessageArgs,
        #[command(flatten)]
        push: PushArgs,
    },
    /// Push to many devices, the same body or one each
    ///
    /// Examples:
    ///   hawser push batch --device web-1 --device web-2 "hello, both"
    ///   hawser push batch --targets targets.jsonl
    /// where each line of the file is {"device": "web-1", "body": "hello", "metadata": {"k": "v"}}
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
    },
    /// Push to everyone in a group
    ///
    /// Example: hawser push multicast --group lobby "hello everyone"
    #[command(verbatim_doc_comment)]
    Multicast {
        /// Group
        #[arg(long, value_name = "ID")]
        group: String,
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

/// What is pushed.
#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// The body, as text
    #[arg(conflicts_with = "body_file")]
    text: Option<String>,
    /// Take the body from a file, or from standard input with -
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// Metadata beside the body; repeat for more
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Your id for this push; made up when left out
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    push_id: String,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not of the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl MessageArgs {
    /// The message and the caller's id for it.
    fn read(self) -> Outcome<(rpc::Message, Bytes)> {
        let body = match (self.text, self.body_file) {
            (Some(text), _) => Bytes::from(text),
            (None, Some(path)) => read_bytes(&path)?.into(),
            (None, None) => return Err(Failure::usage("what to push? give a text or --body-file")),
        };
        let metadata = self.metadata.into_iter().collect();
        let message = rpc::Message { body, metadata, traceparent: String::new() };
        Ok((message, Bytes::from(self.push_id)))
    }
}

fn read_bytes(path: &Path) -> Outcome<Vec<u8>> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|failure| Failure::usage(format!("cannot read {}: {failure}", path.display())))
}

/// A line of a targets file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetLine {
    device: String,
    body: String,
    #[serde(default)]
    metadata: HashMap<String, String>,
}

fn read_targets(path: &Path) -> Outcome<Vec<rpc::Target>> {
    let text = String::from_utf8(read_bytes(path)?)
        .map_err(|_| Failure::usage(format!("{} is not UTF-8", path.display())))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let targets = lines.map(|(at, line)| {
        let line: TargetLine = serde_json::from_str(line).map_err(|failure| {
            Failure::usage(format!("{}, line {}: {failure}", path.display(), at + 1))
        })?;
        let body = Bytes::from(line.body);
        let message = rpc::Message { body, metadata: line.metadata, traceparent: String::new() };
        Ok(rpc::Target { device: line.device, message: Some(message), push_id: Bytes::new() })
    });
    targets.collect()
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: PushCommand) -> Outcome {
    match command {
        PushCommand::Unicast { device, message, push } => {
            unicast(desk, device, message, &push).await
        }
        PushCommand::Batch { devices, targets, message, push } => {
            batch(desk, devices, targets, message, &push).await
        }
        PushCommand::Multicast { group, message, push } => {
            multicast(desk, group, message, &push).await
        }
        PushCommand::Broadcast { rate, message, push } => {
            broadcast(desk, rate, message, &push).await
        }
    }
}

async fn unicast(desk: &Desk, device: String, message: MessageArgs, push: &PushArgs) -> Outcome {
    let (message, push_id) = message.read()?;
    let call = rpc::UnicastRequest {
        device: device.clone(),
        message: Some(message),
        class: rpc::Class::Volatile.into(),
        push_id,
    };
    let answer =
        desk.push(push)?.unicast(request(call)).await.map_err(|it| refused(&it))?.into_inner();
    let outcome = outcome_name(answer.outcome);
    if desk.output.json {
        let push_id = id_text(&answer.push_id);
        desk.output.thing(&json!({"device": device, "outcome": outcome, "push_id": push_id}));
    } else {
        println!("{outcome}");
    }
    all_written(answer.outcome == i32::from(rpc::Outcome::Written), "the push was not written")
}

async fn batch(
    desk: &Desk,
    devices: Vec<String>,
    targets: Option<PathBuf>,
    message: MessageArgs,
    push: &PushArgs,
) -> Outcome {
    let mut api = desk.push(push)?;
    let (calls, names) = if let Some(path) = targets {
        let push_id = Bytes::from(message.push_id);
        let targets = read_targets(&path)?;
        let names: Vec<_> = targets.iter().map(|target| target.device.clone()).collect();
        let one = |targets: &[rpc::Target]| rpc::BatchUnicastRequest {
            targets: targets.to_vec(),
            push_id: push_id.clone(),
            ..Default::default()
        };
        (targets.chunks(TARGETS_PER_CALL_MAX).map(one).collect::<Vec<_>>(), names)
    } else {
        let (message, push_id) = message.read()?;
        let one = |devices: &[String]| rpc::BatchUnicastRequest {
            message: Some(message.clone()),
            devices: devices.to_vec(),
            push_id: push_id.clone(),
            ..Default::default()
        };
        (devices.chunks(TARGETS_PER_CALL_MAX).map(one).collect(), devices.clone())
    };
    if names.is_empty() {
        return Err(Failure::usage("no target: the file is empty"));
    }
    let mut outcomes = Vec::with_capacity(names.len());
    for call in calls {
        let answer =
            api.batch_unicast(request(call)).await.map_err(|it| refused(&it))?.into_inner();
        outcomes.extend(answer.outcomes);
    }
    let rows: Vec<Value> = std::iter::zip(&names, &outcomes)
        .map(|(device, outcome)| json!({"device": device, "outcome": outcome_name(*outcome)}))
        .collect();
    desk.output.list(&rows, &["device", "outcome"]);
    let written = i32::from(rpc::Outcome::Written);
    let missed = outcomes.iter().filter(|outcome| **outcome != written).count();
    let total = names.len();
    all_written(missed == 0, &format!("{missed} of {total} pushes were not written"))
}

async fn multicast(desk: &Desk, group: String, message: MessageArgs, push: &PushArgs) -> Outcome {
    let (message, push_id) = message.read()?;
    let call = rpc::MulticastRequest { group, message: Some(message), push_id };
    let answer =
        desk.push(push)?.multicast(request(call)).await.map_err(|it| refused(&it))?.into_inner();
    let told = json!({
        "members": answer.members,
        "written": answer.written,
        "queued": answer.queued,
        "dropped": answer.dropped,
        "push_id": id_text(&answer.push_id),
        "nodes": nodes(&answer.nodes),
    });
    counts(desk, &told);
    all_written(is_complete(answer.dropped, &answer.nodes), "the push did not reach every member")
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
        return all_written(complete, "the push did not reach every target");
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

fn all_written(yes: bool, otherwise: &str) -> Outcome {
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
        assert_eq!(id_text(b"order-7"), "order-7");
        assert_eq!(id_text(&[0, 255]), "00ff");
    }

    #[test]
    fn targets_are_read_line_by_line_and_mistakes_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("targets.jsonl");
        let good = "{\"device\": \"a\", \"body\": \"x\"}\n\n{\"device\": \"b\", \"body\": \"y\", \"metadata\": {\"k\": \"v\"}}\n";
        std::fs::write(&path, good).expect("written");
        let targets = read_targets(&path).expect("read");
        let devices: Vec<_> = targets.iter().map(|target| target.device.as_str()).collect();
        assert_eq!(devices, ["a", "b"]);
        std::fs::write(&path, "{\"device\": \"a\"}\n").expect("written");
        let failure = read_targets(&path).expect_err("no body");
        assert!(failure.to_string().contains("line 1: missing field `body`"), "{failure}");
    }
}
