//! `hawser app ..`: the catalogue's apps, their client secrets and owner keys.

use super::Desk;
use crate::cli::ControlArgs;
use crate::control_api::segment;
use crate::failure::{Failure, Outcome};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

/// Commands on apps.
#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// Create an app; its owner key and client secret are shown once
    ///
    /// Example: hawser app create shop --proof jwt --origin https://shop.example.com
    #[command(verbatim_doc_comment)]
    Create {
        /// Name: a-z, 0-9 and -, at most 32
        app: String,
        #[command(flatten)]
        settings: Settings,
        /// Keep the owner key and the client secret in the data directory
        #[arg(long)]
        save: bool,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// List all apps
    List {
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Show one app
    Show {
        /// App
        app: String,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Change settings of an app; what is not named stays
    ///
    /// Example: hawser app update shop --origin https://shop.example.com --idle-timeout-ms 60000
    #[command(verbatim_doc_comment)]
    Update {
        /// App
        app: String,
        #[command(flatten)]
        settings: Settings,
        /// Switch the app off (its devices are refused) or on again
        #[arg(long, value_name = "true|false")]
        enabled: Option<bool>,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Delete an app with its businesses and keys
    Delete {
        /// App
        app: String,
        /// Really
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Make a new client secret; the old one is good for a while longer
    RotateSecret {
        /// App
        app: String,
        /// How long the old one is still good, in seconds
        #[arg(long, default_value_t = 86_400)]
        overlap_s: u64,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Owner keys: each opens this app, and nothing else, at control
    #[command(subcommand)]
    OwnerKey(OwnerKeyCommand),
}

/// Commands on owner keys.
#[derive(Debug, Subcommand)]
pub(crate) enum OwnerKeyCommand {
    /// Make another owner key; shown once
    Create {
        /// App
        app: String,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// List the ids of an app's owner keys
    List {
        /// App
        app: String,
        #[command(flatten)]
        control: ControlArgs,
    },
    /// Take an owner key away
    Delete {
        /// App
        app: String,
        /// Id of the key
        key_id: String,
        #[command(flatten)]
        control: ControlArgs,
    },
}

/// A way for devices to prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proof {
    /// Signed with the app's client secret
    Hmac,
    /// A JWT signed by the app's own backend
    Jwt,
    /// None at all; only where control allows it, for development
    Open,
}

/// Settings of an app.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Web origin that may connect; `*` allows all; repeat for more
    #[arg(long = "origin", value_name = "ORIGIN")]
    origins: Vec<String>,
    /// How devices may prove who they are; repeat or separate with commas
    #[arg(long = "proof", value_enum, value_delimiter = ',')]
    proofs: Vec<Proof>,
    /// Devices send a heartbeat after this much silence
    #[arg(long, value_name = "MS")]
    heartbeat_ms: Option<u32>,
    /// Nodes close a connection after this much silence
    #[arg(long, value_name = "MS")]
    idle_timeout_ms: Option<u32>,
    /// Largest frame, at most 1048576
    #[arg(long, value_name = "BYTES")]
    frame_bytes_max: Option<u32>,
}

impl Settings {
    fn into_fields(self) -> Map<String, Value> {
        let mut fields = Map::new();
        if !self.origins.is_empty() {
            fields.insert("allowed_origins".into(), json!(self.origins));
        }
        if !self.proofs.is_empty() {
            let takes = |proof| self.proofs.contains(&proof);
            let (hmac, jwt, open) = (takes(Proof::Hmac), takes(Proof::Jwt), takes(Proof::Open));
            fields.insert("proof".into(), json!({"hmac": hmac, "jwt": jwt, "open": open}));
        }
        for (name, value) in [
            ("heartbeat_ms", self.heartbeat_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("frame_bytes_max", self.frame_bytes_max),
        ] {
            if let Some(value) = value {
                fields.insert(name.into(), json!(value));
            }
        }
        fields
    }
}

/// Does the command.
pub(crate) async fn run(desk: &mut Desk, command: AppCommand) -> Outcome {
    let output = desk.output;
    match command {
        AppCommand::Create { app, settings, save, control } => {
            let mut fields = settings.into_fields();
            fields.insert("app".into(), json!(app));
            let made = desk.control(&control, None)?.post("/v1/apps", &fields.into()).await?;
            if save {
                let text = |field: &str| made[field].as_str().map(str::to_owned);
                let address = desk.control_address(&control)?.to_owned();
                desk.keep(|all| {
                    all.control.get_or_insert(address);
                    let kept = all.apps.entry(app).or_default();
                    kept.owner_key = text("owner_key");
                    kept.client_secret = text("client_secret");
                })?;
            } else {
                output.note("The owner key and the client secret are not shown again.");
            }
            output.thing(&made);
        }
        AppCommand::List { control } => {
            let apps = desk.control(&control, None)?.list("/v1/apps").await?;
            output.list(&apps, &["app", "enabled", "proof", "allowed_origins"]);
        }
        AppCommand::Show { app, control } => {
            output.thing(&desk.control(&control, Some(&app))?.get(&path(&app)).await?);
        }
        AppCommand::Update { app, settings, enabled, control } => {
            let mut fields = settings.into_fields();
            if let Some(enabled) = enabled {
                fields.insert("enabled".into(), json!(enabled));
            }
            if fields.is_empty() {
                return Err(Failure::usage("nothing to change: name at least one setting"));
            }
            let control = desk.control(&control, Some(&app))?;
            output.thing(&control.patch(&path(&app), &fields.into()).await?);
        }
        AppCommand::Delete { app, yes, control } => {
            super::confirmed(yes, &format!("app {app} with all its businesses and keys"))?;
            desk.control(&control, Some(&app))?.delete(&path(&app)).await?;
            if desk.credentials.apps.contains_key(&app) {
                desk.keep(|all| drop(all.apps.remove(&app)))?;
            }
            output.done(&format!("app {app} is deleted"));
        }
        AppCommand::RotateSecret { app, overlap_s, control } => {
            let control = desk.control(&control, Some(&app))?;
            let path = format!("{}/client-secret", path(&app));
            let made = control.post(&path, &json!({"overlap_s": overlap_s})).await?;
            if let (true, Some(secret)) =
                (desk.credentials.apps.contains_key(&app), made["client_secret"].as_str())
            {
                let secret = secret.to_owned();
                desk.keep(|all| all.apps.entry(app).or_default().client_secret = Some(secret))?;
            }
            output.thing(&made);
        }
        AppCommand::OwnerKey(command) => owner_key(desk, command).await?,
    }
    Ok(())
}

async fn owner_key(desk: &Desk, command: OwnerKeyCommand) -> Outcome {
    match command {
        OwnerKeyCommand::Create { app, control } => {
            let path = format!("{}/owner-keys", path(&app));
            let made = desk.control(&control, Some(&app))?.post(&path, &json!({})).await?;
            desk.output.note("The key is not shown again.");
            desk.output.thing(&made);
        }
        OwnerKeyCommand::List { app, control } => {
            let path = format!("{}/owner-keys", path(&app));
            let keys = desk.control(&control, Some(&app))?.list(&path).await?;
            desk.output.list(&keys, &["key_id", "created_at_ms"]);
        }
        OwnerKeyCommand::Delete { app, key_id, control } => {
            let path = format!("{}/owner-keys/{}", path(&app), segment(&key_id));
            desk.control(&control, Some(&app))?.delete(&path).await?;
            desk.output.done(&format!("owner key {key_id} is deleted"));
        }
    }
    Ok(())
}

fn path(app: &str) -> String {
    format!("/v1/apps/{}", segment(app))
}
