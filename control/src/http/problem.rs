//! Errors on the wire: RFC 9457 problem documents with a published code.

use crate::refusal::Refusal;
use crate::store::StoreError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hawser_proto::code::ErrorCode;
use serde::Serialize;
use std::borrow::Cow;
use utoipa::ToSchema;

/// A refusal on its way out.
#[derive(Debug)]
pub(super) struct Problem(pub(super) Refusal);

impl Problem {
    pub(super) fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Refusal::new(code, detail))
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self(error.into())
    }
}

/// Why a request was refused (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// Always `about:blank`; branch on `code`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// What the code means.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What was wrong this time.
    detail: String,
    /// The published error code.
    code: &'static str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Refusal { code, detail, retry_after } = self.0;
        let status = code.http_status();
        let body = ProblemBody {
            kind: "about:blank",
            title: code.meaning(),
            status,
            detail: detail.into_owned(),
            code: code.name(),
        };
        let text = serde_json::to_vec(&body).unwrap_or_default();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, kind, text).into_response();
        let headers = response.headers_mut();
        if code == ErrorCode::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1) as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
