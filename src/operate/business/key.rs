//! `hawser business key ..`: keys with which a business's backend calls the push API.

use super::super::Desk;
use super::{Place, path};
use crate::control_api::segment;
use crate::credentials::BusinessKey;
use crate::failure::{Failure, Outcome};
use clap::{Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

/// Commands on business keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; shown once
    ///
    /// Example: hawser business key create orders --app shop --scope push,presence
    #[command(verbatim_doc_comment)]
    Create {
        /// Business
        business: String,
        /// What the key opens; repeat or separate with commas [default: push, group, presence]
        #[arg(long = "scope", value_enum, value_delimiter = ',')]
        scopes: Vec<Scope>,
        /// The key is good for this long, in seconds [default: without end]
        #[arg(long, value_name = "SECONDS")]
        expires_in_s: Option<u64>,
        /// Keep the key in the data directory, where the push commands find it
        #[arg(long)]
        save: bool,
        #[command(flatten)]
        place: Place,
    },
    /// List the ids and scopes of a business's keys
    List {
        /// Business
        business: String,
        #[command(flatten)]
        place: Place,
    },
    /// Replace a key; the old one is good for a while longer
    Rotate {
        /// Business
        business: String,
        /// Id of the key
        key_id: String,
        /// How long the old one is still good, in seconds
        #[arg(long, default_value_t = 86_400)]
        overlap_s: u64,
        /// Keep the new key in the data directory
        #[arg(long)]
        save: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Take a key away at once
    Delete {
        /// Business
        business: String,
        /// Id of the key
        key_id: String,
        #[command(flatten)]
        place: Place,
    },
}

/// What a business key opens.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Scope {
    /// Unicast, batch, multicast, broadcast
    Push,
    /// Group calls
    Group,
    /// Presence calls
    Presence,
    /// Disconnect
    Admin,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Group => "group",
            Self::Presence => "presence",
            Self::Admin => "admin",
        }
    }
}

/// Does the command.
pub(super) async fn run(desk: &mut Desk, command: KeyCommand) -> Outcome {
    let output = desk.output;
    match command {
        KeyCommand::Create { business, scopes, expires_in_s, save, place } => {
            let app = desk.app(&place.app)?;
            let control = desk.control(&place.control, Some(&app))?;
            let mut fields = Map::new();
            if !scopes.is_empty() {
                let names: Vec<_> = scopes.iter().map(|scope| scope.name()).collect();
                fields.insert("scopes".into(), json!(names));
            }
            if let Some(seconds) = expires_in_s {
                fields.insert("expires_in_s".into(), json!(seconds));
            }
            let made =
                control.post(&format!("{}/keys", path(&app, &business)), &fields.into()).await?;
            show_key(desk, &app, &business, &made, save)?;
        }
        KeyCommand::List { business, place } => {
            let app = desk.app(&place.app)?;
            let control = desk.control(&place.control, Some(&app))?;
            let keys = control.list(&format!("{}/keys", path(&app, &business))).await?;
            output.list(&keys, &["key_id", "scopes", "created_at_ms", "expires_at_ms"]);
        }
        KeyCommand::Rotate { business, key_id, overlap_s, save, place } => {
            let app = desk.app(&place.app)?;
            let control = desk.control(&place.control, Some(&app))?;
            let path = format!("{}/keys/{}/rotate", path(&app, &business), segment(&key_id));
            let made = control.post(&path, &json!({"overlap_s": overlap_s})).await?;
            show_key(desk, &app, &business, &made, save)?;
        }
        KeyCommand::Delete { business, key_id, place } => {
            let app = desk.app(&place.app)?;
            let control = desk.control(&place.control, Some(&app))?;
            let path = format!("{}/keys/{}", path(&app, &business), segment(&key_id));
            control.delete(&path).await?;
            output.done(&format!("key {key_id} is deleted"));
        }
    }
    Ok(())
}

fn show_key(desk: &mut Desk, app: &str, business: &str, made: &Value, save: bool) -> Outcome {
    if save {
        let stored = key_of(made)?;
        desk.keep(|all| {
            let app = all.apps.entry(app.to_owned()).or_default();
            app.businesses.insert(business.to_owned(), stored);
        })?;
    } else {
        desk.output.note("The key is not shown again.");
    }
    desk.output.thing(made);
    Ok(())
}

/// The key in control's answer.
pub(crate) fn key_of(made: &Value) -> Outcome<BusinessKey> {
    match (made["key_id"].as_str(), made["key"].as_str()) {
        (Some(id), Some(key)) => Ok(BusinessKey { key_id: id.to_owned(), key: key.to_owned() }),
        _ => Err(Failure::not_done("control's answer holds no key")),
    }
}
