//! The demo app, its business and its group: made through the public APIs, as anyone would, and found
//! again at the next start.

use super::ports::Addresses;
use crate::control_api::ControlApi;
use crate::credentials::{BusinessKey, Credentials};
use crate::failure::{Failure, Outcome};
use crate::operate::business::key_of;
use crate::push_api::{self, PushApi, refused, request};
use hawser_chassis::secret::Secret;
use hawser_proto::rpc::push as rpc;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The demo app and its business.
pub(super) use crate::credentials::{DEV_APP as APP, DEV_BUSINESS as BUSINESS};
/// The business's group.
pub(super) const GROUP: &str = "lobby";

/// How long what was just made may take to be known everywhere.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Makes or finds the demo app, its business and key, and writes the credentials file. `endpoint`: where
/// the demo business serves.
pub(super) async fn seed(
    at: &Addresses,
    admin_token: &Secret,
    endpoint: &str,
    data_dir: &Path,
) -> Outcome<BusinessKey> {
    let control = ControlApi::new(&at.control, None, Some(admin_token.expose()))?;
    let mut credentials = Credentials::load(data_dir)?;
    credentials.control = Some(at.control.clone());
    credentials.push = Some(at.push.clone());
    credentials.admin_token = Some(admin_token.expose().to_owned());
    let kept = credentials.apps.entry(APP.to_owned()).or_default();

    let app = json!({
        "app": APP,
        "allowed_origins": ["*"],
        "proof": {"hmac": true, "jwt": false, "open": true},
    });
    if let Some(made) = unless_there(control.post("/v1/apps", &app).await)? {
        let text = |field: &str| made[field].as_str().map(str::to_owned);
        kept.owner_key = text("owner_key");
        kept.client_secret = text("client_secret");
    }
    let businesses = format!("/v1/apps/{APP}/businesses");
    let business = json!({"business": BUSINESS, "endpoints": [endpoint]});
    if unless_there(control.post(&businesses, &business).await)?.is_none() {
        // It was there: its port is another one since.
        let endpoints = json!({"endpoints": [endpoint]});
        control.patch(&format!("{businesses}/{BUSINESS}"), &endpoints).await?;
    }
    let keys = format!("{businesses}/{BUSINESS}/keys");
    let known = control.list(&keys).await?;
    let stored = kept.businesses.get(BUSINESS);
    let still_good =
        |key: &&BusinessKey| known.iter().any(|it| it["key_id"] == key.key_id.as_str());
    let key = if let Some(key) = stored.filter(still_good) {
        key.clone()
    } else {
        let scopes = json!({"scopes": ["push", "group", "presence", "admin"]});
        key_of(&control.post(&keys, &scopes).await?)?
    };
    kept.businesses.insert(BUSINESS.to_owned(), key.clone());
    credentials.save(data_dir)?;
    Ok(key)
}

/// What was made; `None`: the name was taken.
fn unless_there(answer: Outcome<serde_json::Value>) -> Outcome<Option<serde_json::Value>> {
    match answer {
        Ok(made) => Ok(Some(made)),
        Err(failure) if failure.code() == Some("already_exists") => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Creates the group, once the router knows the key. Returns the push API with that key.
pub(super) async fn open_lobby(at: &Addresses, key: &BusinessKey) -> Outcome<PushApi> {
    let mut push = push_api::connect(&at.push, None, &key.key)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let call = request(rpc::CreateGroupRequest { group: GROUP.to_owned(), history: None });
        let failure = match push.create_group(call).await {
            Ok(_) => return Ok(push),
            Err(status) => refused(&status),
        };
        if failure.code() == Some("already_exists") {
            return Ok(push);
        }
        if Instant::now() >= deadline {
            return Err(Failure::unreachable(format!(
                "the group {GROUP} cannot be made: {failure}"
            )));
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits until control hands out access points: from then on a device can come in.
pub(super) async fn until_devices_can_come(at: &Addresses) -> Outcome {
    let control = ControlApi::new(&at.control, None, None)?;
    let proof = json!({"type": "open"});
    let call =
        json!({"app": APP, "device": "hawser-dev-start", "platform": "native", "proof": proof});
    let deadline = Instant::now() + PATIENCE;
    loop {
        match control.post("/v1/access", &call).await {
            Ok(_) => return Ok(()),
            Err(failure) if failure.code() != Some("no_access_point") => return Err(failure),
            Err(failure) if Instant::now() >= deadline => {
                return Err(Failure::unreachable(format!("no access node came up: {failure}")));
            }
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}
