//! `hawser business ..`: the businesses of an app and their keys.

mod key;
mod settings;

pub(crate) use key::key_of;

use super::Desk;
use crate::cli::{AppArg, ControlArgs};
use crate::control_api::segment;
use crate::failure::{Failure, Outcome};
use clap::{Args, Subcommand};
use key::KeyCommand;
use serde_json::json;
use settings::Settings;

/// Commands on businesses.
#[derive(Debug, Subcommand)]
pub(crate) enum BusinessCommand {
    /// Register a business
    ///
    /// Examples:
    ///   hawser business create orders --app shop --endpoint http://orders.internal:7000
    ///   hawser business create news --inbox-entries 100 --inbox-ttl 1d --inbox-overflow drop-oldest
    #[command(verbatim_doc_comment)]
    Create {
        /// Name: a-z, 0-9 and -, at most 32; unique in the app
        business: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        place: Place,
    },
    /// List the businesses of an app
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Show one business
    Show {
        /// Business
        business: String,
        #[command(flatten)]
        place: Place,
    },
    /// Change settings of a business; what is not named stays
    Update {
        /// Business
        business: String,
        #[command(flatten)]
        settings: Settings,
        /// Switch the business off or on again
        #[arg(long, value_name = "true|false")]
        enabled: Option<bool>,
        #[command(flatten)]
        place: Place,
    },
    /// Delete a business with its keys
    Delete {
        /// Business
        business: String,
        /// Really
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Keys with which the business's backend calls the push API
    #[command(subcommand)]
    Key(KeyCommand),
}

/// In which app, at which control.
#[derive(Debug, Args)]
pub(crate) struct Place {
    #[command(flatten)]
    app: AppArg,
    #[command(flatten)]
    control: ControlArgs,
}

/// Does the command.
pub(crate) async fn run(desk: &mut Desk, command: BusinessCommand) -> Outcome {
    let output = desk.output;
    match command {
        BusinessCommand::Create { business, settings, place } => {
            let app = desk.app(&place.app)?;
            let mut fields = settings.into_fields()?;
            fields.entry("endpoints").or_insert_with(|| json!([]));
            fields.insert("business".into(), json!(business));
            let control = desk.control(&place.control, Some(&app))?;
            output.thing(&control.post(&list_path(&app), &fields.into()).await?);
        }
        BusinessCommand::List { place } => {
            let app = desk.app(&place.app)?;
            let control = desk.control(&place.control, Some(&app))?;
            let all = control.list(&list_path(&app)).await?;
            output
                .list(&all, &["business", "number", "enabled", "endpoints", "request_timeout_ms"]);
        }
        BusinessCommand::Show { business, place } => {
            let app = desk.app(&place.app)?;
            let control = desk.control(&place.control, Some(&app))?;
            output.thing(&control.get(&path(&app, &business)).await?);
        }
        BusinessCommand::Update { business, settings, enabled, place } => {
            let app = desk.app(&place.app)?;
            let mut fields = settings.into_fields()?;
            if let Some(enabled) = enabled {
                fields.insert("enabled".into(), json!(enabled));
            }
            if fields.is_empty() {
                return Err(Failure::usage("nothing to change: name at least one setting"));
            }
            let control = desk.control(&place.control, Some(&app))?;
            output.thing(&control.patch(&path(&app, &business), &fields.into()).await?);
        }
        BusinessCommand::Delete { business, yes, place } => {
            let app = desk.app(&place.app)?;
            super::confirmed(yes, &format!("business {app}/{business} with its keys"))?;
            desk.control(&place.control, Some(&app))?.delete(&path(&app, &business)).await?;
            if desk.credentials.key(&app, &business).is_some() {
                desk.keep(|all| {
                    all.apps.entry(app).or_default().businesses.remove(&business);
                })?;
            }
            output.done(&format!("business {business} is deleted"));
        }
        BusinessCommand::Key(command) => key::run(desk, command).await?,
    }
    Ok(())
}

fn list_path(app: &str) -> String {
    format!("/v1/apps/{}/businesses", segment(app))
}

fn path(app: &str, business: &str) -> String {
    format!("{}/{}", list_path(app), segment(business))
}
