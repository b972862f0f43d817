//! Control's HTTP API, plain or over TLS, for whoever of this tool needs it: devices that want in, and operators.

use crate::roots;
use anyhow::{Context, bail, ensure};
use aws_lc_rs::hmac;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// From the call to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer that this tool asks for is larger.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Control, over connections that are kept.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    address: String,
    bearer: Option<HeaderValue>,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Control {
    /// At `http://host:port` or `https://host:port`; nothing is dialled yet. `trust`: see [`roots::beside_machine`].
    pub(crate) fn new(address: &str, trust: Option<&Path>) -> anyhow::Result<Self> {
        let roots = if address.starts_with("https://") {
            roots::beside_machine(trust)?
        } else {
            RootCertStore::empty()
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(roots::client(roots, &[])?)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            address: address.trim_end_matches('/').to_owned(),
            bearer: None,
            http: Client::builder(TokioExecutor::new()).build(connector),
        })
    }

    /// With the key or token of whoever may change things there.
    pub(crate) fn with_key(self, key: &str) -> anyhow::Result<Self> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {key}")).context("an odd key")?;
        bearer.set_sensitive(true);
        Ok(Self { bearer: Some(bearer), ..self })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The answer of a call that was done; an error with its status and text else. The body may be `null`: none.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let answer = tokio::time::timeout(PATIENCE, self.try_call(method, path, body)).await;
        answer.with_context(|| format!("no answer within {PATIENCE:?}"))?
    }

    async fn try_call(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.address))
            .header(CONTENT_TYPE, "application/json");
        let request = match &self.bearer {
            Some(bearer) => request.header(AUTHORIZATION, bearer),
            None => request,
        };
        let answer = self.http.request(request.body(Full::new(Bytes::from(body)))?).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{path}: {error}"))?.to_bytes();
        let text = || String::from_utf8_lossy(&body);
        ensure!(status.is_success(), "{path}: control answers {status}: {}", text());
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).with_context(|| format!("{path}: no JSON: {}", text()))
    }

    /// What control gives to a device that wants in: a token and access points. `secret`: the app's, if it lets
    /// nobody in without a proof.
    pub(crate) async fn access(
        &self,
        app: &str,
        device: &str,
        secret: Option<&ClientSecret>,
    ) -> anyhow::Result<Value> {
        let proof = match secret {
            Some(secret) => secret.proof(app, device)?,
            None => json!({"type": "open"}),
        };
        let body = json!({"app": app, "device": device, "proof": proof});
        self.call(Method::POST, "/v1/access", &body).await
    }
}

/// An app's client secret, with which its devices prove who they are.
#[derive(Clone, Debug)]
pub(crate) struct ClientSecret(hmac::Key);

impl ClientSecret {
    pub(crate) fn new(text: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))
    }

    /// A signature of this moment (WIRE.md, "Proofs").
    fn proof(&self, app: &str, device: &str) -> anyhow::Result<Value> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let nonce = hex::encode(rand::random::<[u8; 16]>());
        let text = format!("hawser-access-v1\n{app}\n{device}\n{time}\n{nonce}\n");
        let signature = hex::encode(hmac::sign(&self.0, text.as_bytes()));
        Ok(json!({"type": "hmac", "time": time, "nonce": nonce, "signature": signature}))
    }
}

/// The token of such an answer.
pub(crate) fn token(access: &Value) -> anyhow::Result<&str> {
    match access["token"].as_str() {
        Some(token) => Ok(token),
        None => bail!("an answer without a token"),
    }
}
