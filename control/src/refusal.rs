//! What a caller is told when something is refused: a published code and a sentence. HTTP makes a
//! problem document of it, gRPC a status.

use hawser_proto::code::ErrorCode;
use std::borrow::Cow;
use std::time::Duration;

/// A code to branch on and a sentence to read. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) detail: Cow<'static, str>,
    /// When another try makes sense.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), retry_after: None }
    }

    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidArgument, detail)
    }

    pub(crate) fn not_found(what: &'static str) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no such {what}"))
    }

    /// What happened is for the log, not for the caller.
    pub(crate) fn internal() -> Self {
        Self::new(ErrorCode::Internal, "something failed on the server's side")
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}
