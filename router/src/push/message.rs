//! From what a caller wants to say to the frame that every target gets, encoded once.
//!
//! All checks stand here, before anything is sent: ids, metadata, lengths, the app's frame limit.

use crate::auth::Credential;
use crate::blob::{PLACE_BYTES_MAX, blob};
use crate::inbox::Priority;
use crate::refusal::Refusal;
use bytes::Bytes;
use hawser_proto::frame::{NodeFrame, check_metadata, check_traceparent};
use hawser_proto::limits::{HEADER_BYTES, PUSH_ID_BYTES_MAX};
use hawser_proto::params;
use hawser_proto::rpc::push::{Class, Message, StoreOptions};
use prost::Message as _;
use ulid::Ulid;
use xxhash_rust::xxh3::Xxh3;

/// What a class asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nothing is kept.
    Volatile,
    /// It waits in the inbox.
    Stored,
}

/// The class, with no options for a push that is not stored. An unknown number is no class.
pub(crate) fn class(class: i32, options: Option<&StoreOptions>) -> Result<Kept, Refusal> {
    match Class::try_from(class) {
        Ok(Class::Unspecified | Class::Volatile) if options.is_some() => {
            Err(Refusal::invalid("store: these options are for the stored class only"))
        }
        Ok(Class::Unspecified | Class::Volatile) => Ok(Kept::Volatile),
        Ok(Class::Stored) => Ok(Kept::Stored),
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

/// What is kept of a message that is to be stored, and the digest of its content.
pub(crate) struct Storable {
    pub(crate) blob: Bytes,
    pub(crate) digest: u64,
}

/// A message for an inbox. `collapse_key` and `priority` are part of what may not change under one id.
pub(crate) fn storable(
    message: Option<Message>,
    push_id: Bytes,
    (collapse_key, priority): (&[u8], Priority),
    by: &Credential,
) -> Result<Storable, Refusal> {
    let message = check(message)?;
    let digest = digest(&message, collapse_key, priority);
    let params = params::Push {
        push_id,
        business: by.number.0,
        metadata: message.metadata,
        traceparent: message.traceparent,
        ..Default::default()
    };
    check_size(params.encoded_len() + PLACE_BYTES_MAX, message.body.len(), by)?;
    Ok(Storable { blob: blob(&params, &message.body), digest })
}

/// A message for the history of a group.
pub(crate) fn publishable(
    message: Option<Message>,
    push_id: Bytes,
    group: String,
    by: &Credential,
) -> Result<Storable, Refusal> {
    let message = check(message)?;
    let digest = digest(&message, b"", Priority::Normal);
    let params = params::GroupPush {
        push_id,
        business: by.number.0,
        group,
        metadata: message.metadata,
        traceparent: message.traceparent,
        ..Default::default()
    };
    check_size(params.encoded_len() + PLACE_BYTES_MAX, message.body.len(), by)?;
    Ok(Storable { blob: blob(&params, &message.body), digest })
}

/// Digest of what a push id stands for: body, metadata, collapse key, priority. Not the trace context,
/// which is another at each try. Each part goes in behind its length, the metadata by key.
fn digest(message: &Message, collapse_key: &[u8], priority: Priority) -> u64 {
    let mut digest = Xxh3::new();
    let mut add = |part: &[u8]| {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    };
    add(&message.body);
    add(collapse_key);
    add(&[priority as u8]);
    let mut metadata: Vec<_> = message.metadata.iter().collect();
    metadata.sort_unstable();
    for (key, value) in metadata {
        add(key.as_bytes());
        add(value.as_bytes());
    }
    digest.digest()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn message(body: &'static [u8], metadata: &[(&str, &str)]) -> Message {
        let own = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        let metadata: HashMap<_, _> = metadata.iter().map(own).collect();
        Message { body: body.into(), metadata, traceparent: String::new() }
    }

    #[test]
    fn a_digest_is_of_the_content_and_of_nothing_else() {
        let base = message(b"body", &[("a", "1"), ("b", "2")]);
        let of = |message: &Message| digest(message, b"", Priority::Normal);
        let again = Message {
            traceparent: "00-1".to_owned(),
            ..message(b"body", &[("b", "2"), ("a", "1")])
        };
        assert_eq!(of(&base), of(&again));
        for other in [
            message(b"body2", &[("a", "1"), ("b", "2")]),
            message(b"body", &[("a", "1"), ("b", "3")]),
            message(b"body", &[("a", "1b"), ("", "2")]),
            message(b"body", &[("a", "1")]),
        ] {
            assert_ne!(of(&base), of(&other), "{other:?}");
        }
        assert_ne!(of(&base), digest(&base, b"k", Priority::Normal));
        assert_ne!(of(&base), digest(&base, b"", Priority::High));
    }
}
