//! What an operator does to a cluster, over control's public API: apps, businesses and their keys, and
//! where the access nodes are.

use super::shape::Shape;
use super::{ADMIN_TOKEN, APP, BUSINESSES};
use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::time::Duration;

const CALL_PATIENCE: Duration = Duration::from_secs(10);

/// Control, as seen from outside.
#[derive(Clone)]
pub(crate) struct Operator {
    control: String,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Operator {
    pub(crate) fn new(control: &str) -> Self {
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { control: control.to_owned(), http }
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
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.control))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {ADMIN_TOKEN}"))
            .body(Full::new(Bytes::from(body)))?;
        let answer = tokio::time::timeout(CALL_PATIENCE, self.http.request(request)).await??;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        if body.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&body)?)
    }
}
