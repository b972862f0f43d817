//! `hawser push batch`: many targets, in as many calls as it takes.

use super::message::{MessageArgs, read_targets};
use super::stored::{StoreArgs, told};
use super::{Desk, aim, all_done, is_done, outcome_name};
use crate::cli::PushArgs;
use crate::failure::{Failure, Outcome};
use crate::push_api::{refused, request_within};
use bytes::Bytes;
use hawser_proto::limits::TARGETS_PER_CALL_MAX;
use hawser_proto::rpc::push as rpc;
use serde_json::json;
use std::path::Path;

/// A call and the devices it is for, in the order of its outcomes.
type Call = (Vec<String>, rpc::BatchUnicastRequest);

/// Calls that push one body to all devices.
pub(super) fn one_body(devices: &[String], message: MessageArgs) -> Outcome<Vec<Call>> {
    let (message, push_id) = message.read()?;
    let one = |devices: &[String]| {
        let call = rpc::BatchUnicastRequest {
            message: Some(message.clone()),
            devices: devices.to_vec(),
            push_id: push_id.clone(),
            ..Default::default()
        };
        (devices.to_vec(), call)
    };
    Ok(devices.chunks(TARGETS_PER_CALL_MAX).map(one).collect())
}

/// Calls that push to each target of a file what stands there.
pub(super) fn one_body_each(path: &Path, message: MessageArgs) -> Outcome<Vec<Call>> {
    let targets = read_targets(path, message.compress)?;
    let push_id = Bytes::from(message.push_id);
    if targets.is_empty() {
        return Err(Failure::usage("no target: the file is empty"));
    }
    let one = |targets: &[rpc::Target]| {
        let call = rpc::BatchUnicastRequest {
            targets: targets.to_vec(),
            push_id: push_id.clone(),
            ..Default::default()
        };
        (targets.iter().map(|target| target.device.clone()).collect(), call)
    };
    Ok(targets.chunks(TARGETS_PER_CALL_MAX).map(one).collect())
}

/// Sends the calls one after the other, and prints a row for each target.
pub(super) async fn send(
    desk: &Desk,
    calls: Vec<Call>,
    push: &PushArgs,
    store: StoreArgs,
) -> Outcome {
    let mut api = desk.push(push)?;
    let wait = store.wait().unwrap_or_default();
    let (class, store) = store.read()?;
    let (mut rows, mut missed, mut unknown) = (Vec::new(), 0, 0);
    for (devices, mut call) in calls {
        call.class = class.into();
        call.store.clone_from(&store);
        let answer = api.batch_unicast(request_within(call, wait)).await;
        let answer = answer.map_err(|it| refused(&it))?.into_inner();
        missed += answer.outcomes.iter().filter(|outcome| !is_done(**outcome)).count();
        let is_unknown = |outcome: &&i32| **outcome == i32::from(rpc::Outcome::Unknown);
        unknown += answer.outcomes.iter().filter(is_unknown).count();
        for (at, (device, outcome)) in devices.iter().zip(&answer.outcomes).enumerate() {
            let mut row = json!({"device": device, "outcome": outcome_name(*outcome)});
            if let (Some(stored), Some(row)) = (answer.stored.get(at), row.as_object_mut()) {
                row.extend(told(stored));
            }
            rows.push(row);
        }
    }
    let columns = ["device", "outcome", "position", "durability", "repeated", "error"];
    let shown = if class == rpc::Class::Stored { &columns[..] } else { &columns[..2] };
    desk.output.list(&rows, shown);
    let total = rows.len();
    let unknown = if unknown == 0 {
        String::new()
    } else {
        format!("; of {unknown} of them it is not known whether they were")
    };
    let aim = aim(class);
    all_done(missed == 0, &format!("{missed} of {total} pushes were not {aim}{unknown}"))
}
