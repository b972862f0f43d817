//! `hawser token ..`: device tokens.

use super::Desk;
use crate::cli::{AppArg, ControlArgs};
use crate::control_api::{ControlApi, segment};
use crate::failure::{Failure, Outcome};
use clap::Subcommand;
use hawser_proto::code::ErrorCode;
use serde_json::{Map, json};

/// Commands on device tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Ask control for a token and access points, as a device with open proof would
    ///
    /// Works for apps that take devices without proof, such as the demo app of `hawser dev`; control must allow
    /// it (allow_open_access), which is for development. Elsewhere devices get tokens through their SDK, with a
    /// proof signed by the app's client secret or its backend; nothing but the app's own keys can stand in for it.
    /// Example: hawser token issue --device my-device --json
    #[command(verbatim_doc_comment)]
    Issue {
        /// Device
        #[arg(long, value_name = "ID")]
        device: String,
        /// Business the token is for; repeat for more [default: all of the app]
        #[arg(long = "for", value_name = "BUSINESS")]
        businesses: Vec<String>,
        /// What the device says it runs on: native, mini-program or web
        #[arg(long, default_value = "native", value_name = "NAME")]
        platform: String,
        #[command(flatten)]
        app: AppArg,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Revoke all tokens issued until now, of one device or of the whole app; live sessions end
    Revoke {
        /// Device; without it the whole app
        #[arg(long, value_name = "ID", required_unless_present = "all_devices")]
        device: Option<String>,
        /// The whole app, really
        #[arg(long, conflicts_with = "device")]
        all_devices: bool,
        #[command(flatten)]
        app: AppArg,
        #[command(flatten)]
        control: ControlArgs,
    },
}

/// Does the command.
pub(crate) async fn run(desk: &Desk, command: TokenCommand) -> Outcome {
    let output = desk.output;
    match command {
        TokenCommand::Issue { device, businesses, platform, app, control } => {
            let app = desk.app(&app)?;
            let sdk = concat!("hawser-cli/", env!("CARGO_PKG_VERSION"));
            let mut fields = Map::new();
            fields.insert("app".into(), json!(app));
            fields.insert("device".into(), json!(device));
            fields.insert("platform".into(), json!(platform));
            fields.insert("sdk".into(), json!(sdk));
            fields.insert("proof".into(), json!({"type": "open"}));
            if !businesses.is_empty() {
                fields.insert("businesses".into(), json!(businesses));
            }
            let ca = control.ca.as_deref();
            let control = ControlApi::new(desk.control_address(&control)?, ca, None)?;
            let answered = control.post("/v1/access", &fields.into()).await;
            let answer = answered.map_err(|failure| advise(failure, &app))?;
            if output.json {
                output.thing(&answer);
                return Ok(());
            }
            println!("{}\n", answer["token"].as_str().unwrap_or_default());
            let points = answer["access_points"].as_array().cloned().unwrap_or_default();
            output.list(&points, &["protocol", "host", "port", "server_name", "node"]);
        }
        TokenCommand::Revoke { device, all_devices: _, app, control } => {
            let app = desk.app(&app)?;
            let whom =
                device.as_ref().map_or_else(|| json!({}), |device| json!({"device": device}));
            let control = desk.control(&control, Some(&app))?;
            control.post(&format!("/v1/apps/{}/revocations", segment(&app)), &whom).await?;
            let of =
                device.map_or_else(|| format!("app {app}"), |device| format!("device {device}"));
            output.done(&format!("all tokens of {of} issued until now are revoked"));
        }
    }
    Ok(())
}

/// Says what to do where this command cannot have a token.
fn advise(failure: Failure, app: &str) -> Failure {
    if failure.code() != Some(ErrorCode::Disabled.name()) {
        return failure;
    }
    Failure::refused(
        ErrorCode::Disabled.name(),
        format!(
            "{}; this command asks without proof, and an admin token does not stand in for one: in production let \
             a device ask with its SDK, with a proof of the app (client secret or JWT); to try things out, set \
             allow_open_access = true at control and run `hawser app update {app} --proof open`",
            failure.message()
        ),
    )
}
