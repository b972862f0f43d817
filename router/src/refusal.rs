//! How the push API says no: a published code in the `hawser-code` metadata of a gRPC status.

use crate::group_writer::ChangeError;
use crate::groups::Refused;
use crate::node::control::AskError;
use crate::store::StoreError;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::IdError;
use std::borrow::Cow;
use std::fmt;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Name of the metadata that carries the published code.
pub(crate) const CODE_METADATA: &str = "hawser-code";

/// Why a call was refused, before or instead of doing it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Refusal {
    /// The published code.
    pub(crate) code: ErrorCode,
    /// A sentence for people; never holds a payload or a secret.
    pub(crate) detail: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into() }
    }

    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidArgument, detail)
    }

    pub(crate) fn too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::TooLarge, detail)
    }

    /// A malformed id in the named field.
    pub(crate) fn id(field: &str, why: IdError) -> Self {
        Self::invalid(format!("{field}: {why}"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut status =
            Status::new(Code::from_i32(refusal.code.grpc_status()), refusal.detail.into_owned());
        let name = MetadataValue::from_static(refusal.code.name());
        status.metadata_mut().insert(CODE_METADATA, name);
        status
    }
}

impl From<AskError> for Refusal {
    fn from(why: AskError) -> Self {
        let code = match why {
            AskError::Full => ErrorCode::Overloaded,
            AskError::Gone => ErrorCode::Unavailable,
            AskError::Timeout => ErrorCode::DeadlineExceeded,
        };
        Self::new(code, why.to_string())
    }
}

impl From<ChangeError> for Refusal {
    fn from(why: ChangeError) -> Self {
        let code = match &why {
            ChangeError::Refused(Refused::Exists) => ErrorCode::AlreadyExists,
            ChangeError::Refused(Refused::NoGroup) => ErrorCode::GroupNotFound,
            ChangeError::Refused(Refused::NotOwner) => ErrorCode::PermissionDenied,
            ChangeError::Refused(Refused::Quota) => ErrorCode::QuotaExceeded,
            ChangeError::Store(_) | ChangeError::Stopping => ErrorCode::Unavailable,
            ChangeError::Full => ErrorCode::Overloaded,
        };
        Self::new(code, why.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(why: StoreError) -> Self {
        let code = match why {
            StoreError::Overloaded => ErrorCode::Overloaded,
            StoreError::Timeout => ErrorCode::DeadlineExceeded,
            StoreError::Value => ErrorCode::Internal,
            StoreError::Engine(_) | StoreError::ReadOnly | StoreError::Unreachable => {
                ErrorCode::Unavailable
            }
        };
        Self::new(code, why.to_string())
    }
}

/// Gives what the gRPC layer refuses before a call is reached (a message above the limit, one that is
/// no protobuf, a method that is not there) its published code too.
pub(crate) fn published<B>(mut response: http::Response<B>) -> http::Response<B> {
    let headers = response.headers_mut();
    let bare = headers.get("grpc-status").filter(|_| !headers.contains_key(CODE_METADATA));
    let code = match bare.and_then(|status| status.to_str().ok()?.parse().ok()).map(Code::from_i32)
    {
        Some(Code::OutOfRange) => ErrorCode::TooLarge,
        Some(Code::Internal) => ErrorCode::InvalidArgument,
        Some(Code::Unimplemented) => ErrorCode::Unsupported,
        _ => return response,
    };
    headers.insert("grpc-status", code.grpc_status().into());
    headers.insert(CODE_METADATA, http::HeaderValue::from_static(code.name()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_becomes_a_status_that_names_it() {
        for &code in ErrorCode::ALL {
            let status = Status::from(Refusal::new(code, "because"));
            assert_eq!(i32::from(status.code()), code.grpc_status());
            assert_eq!(status.metadata().get(CODE_METADATA).unwrap(), code.name());
        }
    }
}
