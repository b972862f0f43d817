//! From what a caller wants to say to the frame that every target gets, encoded once.
//!
//! All checks stand here, before anything is sent: ids, metadata, lengths, the app's frame limit.

use crate::auth::Credential;
use crate::refusal::Refusal;
use bytes::Bytes;
use hawser_proto::code::ErrorCode;
use hawser_proto::frame::{NodeFrame, check_metadata, check_traceparent};
use hawser_proto::limits::{HEADER_BYTES, PUSH_ID_BYTES_MAX};
use hawser_proto::params;
use hawser_proto::rpc::push::{Class, Message};
use prost::Message as _;
use ulid::Ulid;

/// Whether the class is served. An unknown number is no class.
pub(crate) fn check_class(class: i32) -> Result<(), Refusal> {
    match Class::try_from(class) {
        Ok(Class::Unspecified | Class::Volatile) => Ok(()),
        Ok(Class::Stored) => {
            Err(Refusal::new(ErrorCode::Unsupported, "stored pushes are not served yet"))
        }
        Err(_) => Err(Refusal::invalid("class: no such class")),
    }
}

/// The caller's push id, or one made up when it is empty.
pub(crate) fn push_id(given: Bytes) -> Result<Bytes, Refusal> {
    if given.len() > PUSH_ID_BYTES_MAX {
        return Err(Refusal::invalid("push_id: at most 128 bytes"));
    }
    Ok(if given.is_empty() { Bytes::copy_from_slice(&Ulid::generate().to_bytes()) } else { given })
}

/// The PUSH frame of a message.
pub(crate) fn push_frame(
    message: Option<Message>,
    push_id: Bytes,
    by: &Credential,
) -> Result<Bytes, Refusal> {
    let message = check(message)?;
    let params = params::Push {
        push_id,
        business: by.number.0,
        metadata: message.metadata,
        traceparent: message.traceparent,
        ..Default::default()
    };
    check_size(params.encoded_len(), message.body.len(), by)?;
    Ok(NodeFrame::Push(params, message.body).encode())
}

/// The GROUP_PUSH frame of a message.
pub(crate) fn group_frame(
    message: Option<Message>,
    push_id: Bytes,
    group: String,
    by: &Credential,
) -> Result<Bytes, Refusal> {
    let message = check(message)?;
    let params = params::GroupPush {
        push_id,
        business: by.number.0,
        group,
        metadata: message.metadata,
        traceparent: message.traceparent,
        ..Default::default()
    };
    check_size(params.encoded_len(), message.body.len(), by)?;
    Ok(NodeFrame::GroupPush(params, message.body).encode())
}

fn check(message: Option<Message>) -> Result<Message, Refusal> {
    let message = message.ok_or_else(|| Refusal::invalid("message: missing"))?;
    check_metadata(&message.metadata)
        .map_err(|why| Refusal::too_large(format!("message.metadata: {why}")))?;
    check_traceparent(&message.traceparent)
        .map_err(|why| Refusal::invalid(format!("message.traceparent: {why}")))?;
    Ok(message)
}

fn check_size(params: usize, body: usize, by: &Credential) -> Result<(), Refusal> {
    let (bytes, max) = (HEADER_BYTES + params + body, by.frame_bytes_max);
    if bytes <= max {
        return Ok(());
    }
    Err(Refusal::too_large(format!("message: a frame of {bytes} bytes is above the app's {max}")))
}
