//! `hawser group ..`: groups of a business and who is in them.

use super::Desk;
use super::push::stored::position;
use crate::cli::PushArgs;
use crate::failure::{Failure, Outcome};
use crate::push_api::{PushApi, refused, request};
use crate::span::Span;
use clap::{Args, Subcommand};
use hawser_proto::code::ErrorCode;
use hawser_proto::rpc::push as rpc;
use serde_json::{Value, json};

/// Commands on groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Create a group, which devices may then join
    ///
    /// In a live group a member that was too slow learns how many pushes it missed. A group with a history
    /// keeps the newest, so that members recover what they missed, also after a reconnect.
    ///
    /// Examples:
    ///   hawser group create match-42
    ///   hawser group create news --history --history-entries 500 --history-age 1h
    #[command(verbatim_doc_comment)]
    Create {
        /// Group
        group: String,
        /// Keep a history
        #[arg(long)]
        history: bool,
        /// Pushes that the history holds, at most 10000 [default: 1000]
        #[arg(long, requires = "history", value_name = "COUNT")]
        history_entries: Option<u32>,
        /// How long a push stays in it, at most 7d [default: 5m]
        #[arg(long, requires = "history", value_name = "SPAN")]
        history_age: Option<Span>,
        #[command(flatten)]
        push: PushArgs,
    },
    /// Delete a group; its members are told
    Delete {
        /// Group
        group: String,
        #[command(flatten)]
        push: PushArgs,
    },
    /// List the groups of the business
    List {
        #[command(flatten)]
        push: PushArgs,
    },
    /// Show one group: members by node, pushes a second, and what its history holds
    Show {
        /// Group
        group: String,
        #[command(flatten)]
        push: PushArgs,
    },
    /// Put online devices into a group
    ///
    /// Example: hawser group join match-42 --device web-1 --device web-2
    #[command(verbatim_doc_comment)]
    Join(Membership),
    /// Take devices out of a group; they may join again
    Leave(Membership),
    /// Take devices out of a group; they cannot join again on this connection
    Kick(Membership),
}

/// Devices and a group.
#[derive(Debug, Args)]
pub(crate) struct Membership {
    /// Group
    group: String,
    /// Device; repeat for more
    #[arg(long = "device", value_name = "ID", required = true)]
    devices: Vec<String>,
    /// Why, for people; the device sees it
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    push: PushArgs,
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: GroupCommand) -> Outcome {
    let output = desk.output;
    match command {
        GroupCommand::Create { group, history, history_entries, history_age, push } => {
            for (flag, is_zero) in [
                ("--history-entries", history_entries == Some(0)),
                ("--history-age", history_age.is_some_and(|age| age.as_millis() == 0)),
            ] {
                if is_zero {
                    return Err(Failure::usage(format!("{flag} is 0: leave out --history")));
                }
            }
            let history = history.then(|| rpc::History {
                entries_max: history_entries.unwrap_or_default(),
                age_ms_max: history_age.map_or(0, Span::as_millis),
            });
            let call = request(rpc::CreateGroupRequest { group, history });
            let made = desk.push(&push)?.create_group(call).await.map_err(|it| refused(&it))?;
            output.thing(&info(&made.into_inner()));
        }
        GroupCommand::Delete { group, push } => {
            let call = request(rpc::DeleteGroupRequest { group: group.clone() });
            desk.push(&push)?.delete_group(call).await.map_err(|it| refused(&it))?;
            output.done(&format!("group {group} is deleted"));
        }
        GroupCommand::List { push } => {
            let groups = all(desk.push(&push)?).await?;
            output.list(&groups, &["group", "business", "members", "created_ms"]);
        }
        GroupCommand::Show { group, push } => {
            let call = request(rpc::DescribeGroupRequest { group });
            let found = desk.push(&push)?.describe_group(call).await.map_err(|it| refused(&it))?;
            output.thing(&info(&found.into_inner()));
        }
        GroupCommand::Join(membership) => {
            let (mut api, call) = membership.into_call(desk)?;
            results(desk, api.join_group(call).await)?;
        }
        GroupCommand::Leave(membership) => {
            let (mut api, call) = membership.into_call(desk)?;
            results(desk, api.leave_group(call).await)?;
        }
        GroupCommand::Kick(membership) => {
            let (mut api, call) = membership.into_call(desk)?;
            results(desk, api.kick_from_group(call).await)?;
        }
    }
    Ok(())
}

impl Membership {
    fn into_call(self, desk: &Desk) -> Outcome<(PushApi, tonic::Request<rpc::MembershipRequest>)> {
        let Self { group, devices, reason, push } = self;
        let call = request(rpc::MembershipRequest { group, devices, reason });
        Ok((desk.push(&push)?, call))
    }
}

async fn all(mut api: PushApi) -> Outcome<Vec<Value>> {
    let mut groups = Vec::new();
    let mut page_token = String::new();
    loop {
        let call = request(rpc::ListGroupsRequest { page_size: 1_000, page_token });
        let page = api.list_groups(call).await.map_err(|it| refused(&it))?.into_inner();
        groups.extend(page.groups.iter().map(info));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(groups);
        }
    }
}

fn results(
    desk: &Desk,
    answer: Result<tonic::Response<rpc::MembershipResponse>, tonic::Status>,
) -> Outcome {
    let results = answer.map_err(|it| refused(&it))?.into_inner().results;
    let row = |it: &rpc::MembershipResult| {
        let result = match it.status {
            0 => "ok".to_owned(),
            number => ErrorCode::from_number(number)
                .map_or_else(|| format!("error {number}"), |code| code.name().to_owned()),
        };
        json!({"device": it.device, "result": result})
    };
    let rows: Vec<Value> = results.iter().map(row).collect();
    desk.output.list(&rows, &["device", "result"]);
    match results.iter().filter(|it| it.status != 0).count() {
        0 => Ok(()),
        failed => Err(Failure::not_done(format!("{failed} of {} devices failed", results.len()))),
    }
}

fn info(group: &rpc::GroupInfo) -> Value {
    let node = |it: &rpc::GroupNode| json!({"node": it.node, "members": it.members});
    let mut told = json!({
        "group": group.group,
        "business": group.business,
        "members": group.members,
        "created_ms": group.created_ms,
        "pushes_per_second": (group.pushes_per_second * 100.0).round() / 100.0,
        "nodes": group.nodes.iter().map(node).collect::<Vec<_>>(),
    });
    if let Some(history) = &group.history {
        told["history"] =
            json!({"entries_max": history.entries_max, "age_ms_max": history.age_ms_max});
        told["tail"] = position(group.tail_term, group.tail_seq).into();
        told["floor"] = position(group.floor_term, group.floor_seq).into();
    }
    told
}
