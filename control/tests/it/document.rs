//! The OpenAPI document is true: what it lists is served, what it does not list is not.

use crate::harness::{ADMIN, Server};
use crate::schema;
use http::Method;
use serde_json::{Value, json};

pub(crate) const METHODS: [&str; 6] = ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"];

/// Every operation, with names filled in that exist nowhere.
pub(crate) fn operations(document: &Value) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    for (pattern, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            if item.get(method.to_lowercase()).is_some() {
                all.push((method, pattern.clone()));
            }
        }
    }
    all
}

fn filled(pattern: &str) -> String {
    pattern
        .split('/')
        .map(|part| if part.starts_with('{') { "nothing" } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

#[tokio::test]
async fn every_operation_is_served_and_every_other_method_is_not() {
    let server = Server::start().await;
    let patterns: Vec<_> = server.document["paths"].as_object().unwrap().keys().cloned().collect();
    assert!(patterns.len() >= 18, "{patterns:?}");
    for pattern in patterns {
        for method in METHODS {
            let path = filled(&pattern);
            let listed = schema::operation(&server.document, method, &path).is_some();
            let answer = server.raw(method.parse().unwrap(), &path, &[], String::new()).await;
            if listed {
                assert_ne!(answer.status, 405, "{method} {pattern} is listed, not served");
                // Without a key the calls that need one are refused, by what stands in the document.
                schema::check_answer(&server.document, method, &path, &answer);
            } else {
                answer.refused("method_not_allowed");
                assert!(answer.headers.contains_key("allow"), "{method} {pattern}");
            }
        }
    }
    for path in ["/", "/v1", "/v1/nothing", "/v1/apps/a/b/c", "/v1/apps/", "/openapi.yaml"] {
        let answer = server.raw(Method::GET, path, &[], "").await;
        answer.refused("not_found");
        assert_eq!(answer.status, 404, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_schema_resolves_and_every_request_body_refuses_unknown_fields() {
    let server = Server::start().await;
    let document = &server.document;
    assert_eq!(document["openapi"], "3.1.0");
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} dangles");
    }
    for (method, pattern) in operations(document) {
        let operation = &document["paths"][&pattern][method.to_lowercase()];
        assert!(operation["summary"].is_string(), "{method} {pattern} has no summary");
        let Some(body) = operation.get("requestBody") else { continue };
        let schema = &body["content"]["application/json"]["schema"];
        let stranger = json!({"no_such_field": 1});
        let stranger = if schema["type"] == "array" { json!([stranger]) } else { stranger };
        let verdict = schema::validate(document, schema, &stranger, "body");
        assert!(verdict.is_err(), "{method} {pattern} would take unknown fields");
        let path = filled(&pattern);
        let answer = server.call(method, &path, ADMIN, Some(stranger)).await;
        answer.refused("invalid_argument");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_public_url_is_named() {
    let server =
        Server::start_with(|it| it.public_url = Some("https://control.example".into())).await;
    assert_eq!(server.document["servers"][0]["url"], "https://control.example");
    let healthy = server.call("GET", "/healthz", "", None).await;
    assert_eq!(healthy.expect(200), "ok\n");
    server.stop().await;
}
