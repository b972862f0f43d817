//! `hawser device ..`: what is known of devices, and the end of their sessions.

use super::Desk;
use crate::cli::PushArgs;
use crate::failure::Outcome;
use crate::push_api::{refused, request};
use clap::Subcommand;
use hawser_proto::limits::TARGETS_PER_CALL_MAX;
use hawser_proto::rpc::push as rpc;
use serde_json::{Value, json};

/// Commands on devices.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Show a device's session: node, transport, address, businesses, groups
    ///
    /// Example: hawser device show web-1
    #[command(verbatim_doc_comment)]
    Show {
        /// Device
        device: String,
        #[command(flatten)]
        push: PushArgs,
    },
    /// Say which devices are online
    Presence {
        /// Devices
        #[arg(required = true)]
        devices: Vec<String>,
        #[command(flatten)]
        push: PushArgs,
    },
    /// End a device's session; it comes back later, unless ejected
    Disconnect {
        /// Device
        device: String,
        /// Tell the device not to come back by itself
        #[arg(long)]
        eject: bool,
        /// Why, for people; the device sees it
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        push: PushArgs,
    },
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: DeviceCommand) -> Outcome {
    let output = desk.output;
    match command {
        DeviceCommand::Show { device, push } => {
            let call = request(rpc::DescribeDeviceRequest { device });
            let found = desk.push(&push)?.describe_device(call).await.map_err(|it| refused(&it))?;
            output.thing(&info(&found.into_inner()));
        }
        DeviceCommand::Presence { devices, push } => {
            let mut api = desk.push(&push)?;
            let mut rows = Vec::with_capacity(devices.len());
            for devices in devices.chunks(TARGETS_PER_CALL_MAX) {
                let call = request(rpc::PresenceRequest { devices: devices.to_vec() });
                let answer = api.get_presence(call).await.map_err(|it| refused(&it))?.into_inner();
                rows.extend(answer.devices.iter().map(presence));
            }
            output.list(&rows, &["device", "state", "epoch", "since_ms"]);
        }
        DeviceCommand::Disconnect { device, eject, reason, push } => {
            let call = request(rpc::DisconnectRequest { device: device.clone(), eject, reason });
            let answer = desk.push(&push)?.disconnect(call).await.map_err(|it| refused(&it))?;
            let was_online = answer.into_inner().was_online;
            if output.json {
                output.thing(&json!({"device": device, "was_online": was_online}));
            } else if was_online {
                println!("{device} was told to go");
            } else {
                println!("{device} had no session");
            }
        }
    }
    Ok(())
}

/// The state's name without its prefix: `online`.
fn state_name(number: i32) -> String {
    let state = rpc::PresenceState::try_from(number).unwrap_or_default();
    state.as_str_name().trim_start_matches("PRESENCE_STATE_").to_lowercase()
}

fn presence(device: &rpc::DevicePresence) -> Value {
    json!({
        "device": device.device,
        "state": state_name(device.state),
        "epoch": device.epoch,
        "since_ms": device.since_ms,
    })
}

fn info(device: &rpc::DeviceInfo) -> Value {
    json!({
        "device": device.device,
        "state": state_name(device.state),
        "connection_id": device.connection_id,
        "node": device.node,
        "epoch": device.epoch,
        "since_ms": device.since_ms,
        "transport": device.transport,
        "remote_ip": device.remote_ip,
        "platform": device.platform,
        "sdk": device.sdk,
        "app_version": device.app_version,
        "businesses": device.businesses,
        "groups": device.groups,
    })
}
