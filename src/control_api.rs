//! Calls to control's HTTP API, as any operator's tool would make them.

use crate::dial::{Dialer, Server};
use crate::failure::{Failure, Outcome, chain};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
const PAGE_SIZE: usize = 500;

/// Control's HTTP API at one address, with one credential.
pub(crate) struct ControlApi {
    /// As it was given.
    address: String,
    server: Server,
    /// Admin token or owner key; none for the calls of devices.
    bearer: Option<String>,
    client: Client<Dialer, Full<Bytes>>,
}

impl ControlApi {
    /// `address`: `http://host:port` or `https://host:port`. `ca`: whom to trust beside the CAs of this machine.
    pub(crate) fn new(address: &str, ca: Option<&Path>, bearer: Option<&str>) -> Outcome<Self> {
        let server = Server::new(address, ca, b"http/1.1")?;
        let client = Client::builder(TokioExecutor::new()).build(server.dialer.clone());
        let bearer = bearer.map(str::to_owned);
        Ok(Self { address: address.to_owned(), server, bearer, client })
    }

    /// Reads one thing.
    pub(crate) async fn get(&self, path: &str) -> Outcome<Value> {
        self.call(Method::GET, path, None).await
    }

    /// Makes something, or asks for something to be done.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Changes the named fields.
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Outcome<Value> {
        self.call(Method::PATCH, path, Some(body)).await
    }

    /// Removes one thing.
    pub(crate) async fn delete(&self, path: &str) -> Outcome<Value> {
        self.call(Method::DELETE, path, None).await
    }

    /// Reads a list, all pages of it.
    pub(crate) async fn list(&self, path: &str) -> Outcome<Vec<Value>> {
        let mut all = Vec::new();
        let mut page = format!("{path}?page_size={PAGE_SIZE}");
        loop {
            let mut answer = self.get(&page).await?;
            let Value::Array(items) = answer["items"].take() else {
                return Err(Failure::not_done(format!("control gave no list at {path}")));
            };
            all.extend(items);
            let Some(next) = answer["next_page_token"].as_str() else { return Ok(all) };
            page = format!("{path}?page_size={PAGE_SIZE}&page_token={}", segment(next));
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Outcome<Value> {
        let uri = format!("{}{path}", self.server.base);
        let host = &self.server.authority;
        let mut request = Request::builder().method(method).uri(uri).header(HOST, host);
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {bearer}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(|failure| {
            Failure::usage(format!("{} cannot be called: {failure}", self.address))
        })?;
        let away = |why: &str| {
            Failure::unreachable(format!("cannot reach control at {}: {why}", self.address))
        };

        let answered = tokio::time::timeout(CALL_TIMEOUT, async {
            let response = self.client.request(request).await.map_err(|it| away(&chain(&it)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let bytes = body.map_err(|failure| away(&chain(&*failure)))?.to_bytes();
            Ok((status, bytes))
        });
        let (status, bytes) = answered.await.map_err(|_| away("no answer in time"))??;
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(answer);
        }
        let said = ["detail", "title"].iter().find_map(|field| answer[*field].as_str());
        let code = answer["code"]
            .as_str()
            .map_or_else(|| format!("http {}", status.as_u16()), str::to_owned);
        Err(Failure::refused(&code, said.unwrap_or("control refused")))
    }
}

/// A name as one segment of a path, or as a value of a query.
pub(crate) fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(segment("chat-1.x"), "chat-1.x");
        assert_eq!(segment("../a?b=ü"), "..%2Fa%3Fb%3D%C3%BC");
    }
}
