//! `hawser token ..`: device tokens.

use super::Desk;
use crate::cli::{AppArg, ControlArgs};
use crate::control_api::{ControlApi, segment};
use crate::failure::Outcome;
use clap::Subcommand;
use serde_json::{Map, json};

/// Commands on device tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Ask control for a token and access points, as a device with open proof would
    ///
    /// Works for apps that take devices without proof, such as the demo app of `hawser dev`.
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
            let control = ControlApi::new(desk.control_address(&control)?, None)?;
            let answer = control.post("/v1/access", &fields.into()).await?;
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
