//! What an operator does to a cluster, over control's public API: apps, businesses and their keys, and
//! where the access nodes are.

use super::shape::Shape;
use super::{ADMIN_TOKEN, APP, BUSINESSES};
use crate::control::Control;
use anyhow::Context;
use http::Method;
use serde_json::{Value, json};

/// Control, as its operator sees it from outside.
#[derive(Clone)]
pub(crate) struct Operator(Control);

impl Operator {
    pub(crate) fn new(control: &str) -> anyhow::Result<Self> {
        Ok(Self(Control::new(control, None)?.with_key(ADMIN_TOKEN)?))
    }

    /// Makes the app and its businesses. Returns a key of each business, in the order of [`BUSINESSES`].
    pub(super) async fn furnish(&self, shape: &Shape) -> anyhow::Result<Vec<String>> {
        let timers = shape.timers;
        let app = json!({
            "app": APP,
            "proof": {"open": true},
            "heartbeat_ms": timers.heartbeat.as_millis() as u64,
            "idle_timeout_ms": timers.idle.as_millis() as u64,
        });
        self.post("/v1/apps", app).await?;
        let mut keys = Vec::new();
        for (number, business) in BUSINESSES.into_iter().enumerate() {
            let mut body = json!({
                "business": business,
                "inbox": {"entries_max": 10_000, "bytes_max": 64 << 20},
                "endpoints": shape.endpoints.get(number).into_iter().collect::<Vec<_>>(),
                "request_timeout_ms": 3_000,
            });
            if shape.events && number == 0 {
                body["connection_events"] = true.into();
            }
            self.post(&format!("/v1/apps/{APP}/businesses"), body).await?;
            let path = format!("/v1/apps/{APP}/businesses/{business}/keys");
            let made = self.post(&path, json!({})).await?;
            keys.push(made["key"].as_str().context("an answer without a key")?.to_owned());
        }
        Ok(keys)
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, body).await
    }

    /// One call with the operator's token.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> anyhow::Result<Value> {
        self.0.call(method, path, &body).await
    }
}
