//! `hawser business ..`: the businesses of an app and their keys.

use super::Desk;
use crate::cli::{AppArg, ControlArgs};
use crate::control_api::segment;
use crate::credentials::BusinessKey;
use crate::failure::{Failure, Outcome};
use crate::span::Span;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

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

/// In which app, at which control.
#[derive(Debug, Args)]
pub(crate) struct Place {
    #[command(flatten)]
    app: AppArg,
    #[command(flatten)]
    control: ControlArgs,
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

/// What happens to pushes a device is too slow for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SlowPolicy {
    /// Drop the new push
    DropNewest,
    /// Drop the oldest that waits
    DropOldest,
    /// Close the connection
    Disconnect,
}

/// What happens to a stored push whose inbox is full.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum InboxOverflow {
    /// Its outcome is `overflow`
    Refuse,
    /// The oldest of the lowest priority leaves, and the device is told of the gap
    DropOldest,
}

/// Settings of a business.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Where the business serves hawser.business.v1, as http://host:port; repeat for more
    #[arg(long = "endpoint", value_name = "URL")]
    endpoints: Vec<String>,
    /// Longest time for one request
    #[arg(long, value_name = "MS")]
    request_timeout_ms: Option<u32>,
    /// Requests a second that it expects in all; sizes its pools
    #[arg(long, value_name = "COUNT")]
    expected_requests_per_second: Option<u32>,
    /// What happens to pushes a device is too slow for
    #[arg(long, value_enum)]
    slow_policy: Option<SlowPolicy>,
    /// Stored pushes that a device's inbox may hold, at most 10000 [default: 1000]
    #[arg(long, value_name = "COUNT")]
    inbox_entries: Option<u32>,
    /// Bytes that they may take, at most 67108864 [default: 4194304]
    #[arg(long, value_name = "BYTES")]
    inbox_bytes: Option<u64>,
    /// How long a stored push waits for its device, in whole seconds, at most 7d [default: 7d]
    #[arg(long, value_name = "SPAN")]
    inbox_ttl: Option<Span>,
    /// What happens to a stored push whose inbox is full [default: refuse]
    #[arg(long, value_enum)]
    inbox_overflow: Option<InboxOverflow>,
}

impl Settings {
    fn into_fields(self) -> Outcome<Map<String, Value>> {
        let mut fields = Map::new();
        let inbox = self.inbox()?;
        if !inbox.is_empty() {
            fields.insert("inbox".into(), inbox.into());
        }
        if !self.endpoints.is_empty() {
            fields.insert("endpoints".into(), json!(self.endpoints));
        }
        for (name, value) in [
            ("request_timeout_ms", self.request_timeout_ms),
            ("expected_requests_per_second", self.expected_requests_per_second),
        ] {
            if let Some(value) = value {
                fields.insert(name.into(), json!(value));
            }
        }
        if let Some(policy) = self.slow_policy {
            let name = match policy {
                SlowPolicy::DropNewest => "drop_newest",
                SlowPolicy::DropOldest => "drop_oldest",
                SlowPolicy::Disconnect => "disconnect",
            };
            fields.insert("slow_policy".into(), json!(name));
        }
        Ok(fields)
    }

    fn inbox(&self) -> Outcome<Map<String, Value>> {
        let ttl_ms = self.inbox_ttl.map(Span::as_millis);
        if ttl_ms.is_some_and(|ms| ms % 1_000 != 0) {
            return Err(Failure::usage("--inbox-ttl is not in whole seconds"));
        }
        let overflow = self.inbox_overflow.map(|overflow| match overflow {
            InboxOverflow::Refuse => "refuse",
            InboxOverflow::DropOldest => "drop_oldest",
        });
        let named = [
            ("entries_max", self.inbox_entries.map(Value::from)),
            ("bytes_max", self.inbox_bytes.map(Value::from)),
            ("ttl_s_max", ttl_ms.map(|ms| Value::from(ms / 1_000))),
            ("overflow", overflow.map(Value::from)),
        ];
        Ok(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
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
        BusinessCommand::Key(command) => key(desk, command).await?,
    }
    Ok(())
}

async fn key(desk: &mut Desk, command: KeyCommand) -> Outcome {
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

fn list_path(app: &str) -> String {
    format!("/v1/apps/{}/businesses", segment(app))
}

fn path(app: &str, business: &str) -> String {
    format!("{}/{}", list_path(app), segment(business))
}
