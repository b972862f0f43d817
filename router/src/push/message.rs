//! From what a caller wants to say to the frame that every target gets, encoded once.
//!
//! All checks stand here, before anything is sent: ids, metadata, lengths, the app's frame limit. Here too a body is
//! compressed, if that was asked for: once, before anyone counts its targets. Limits count what it will be again.

use crate::auth::Credential;
use crate::blob::{Body, PLACE_BYTES_MAX, blob};
use crate::inbox::Priority;
use crate::metrics::Compression;
use crate::push::encoded::Encoded;
use crate::refusal::Refusal;
use bytes::Bytes;
use hawser_proto::codec::{self, Flags};
use hawser_proto::compressed::compress;
use hawser_proto::frame::{Kind, check_metadata, check_traceparent};
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
    metrics: &Compression,
) -> Result<Encoded, Refusal> {
    let mut message = check(message)?;
    let params = params::Push {
        push_id,
        business: by.number.0,
        metadata: std::mem::take(&mut message.metadata),
        traceparent: std::mem::take(&mut message.traceparent),
        ..Default::default()
    };
    check_size(params.encoded_len(), message.body.len(), by)?;
    Ok(encode(Kind::Push, &params, &message, metrics))
}

/// What is kept of a message that is to be stored, and the digest of its content.
pub(crate) struct Storable {
    plain: Bytes,
    compressed: Option<Bytes>,
    pub(crate) digest: u64,
}

impl Storable {
    fn new(
        params: &impl prost::Message,
        message: &Message,
        digest: u64,
        metrics: &Compression,
    ) -> Self {
        let small = compressed(message, metrics);
        let compressed = small.map(|small| blob(params, &small, Body::Compressed));
        Self { plain: blob(params, &message.body, Body::Plain), compressed, digest }
    }

    /// The blob, with its body compressed where it is and may be so: in a store of which every router understands
    /// it, or on its way to a node that does.
    pub(crate) fn blob(&self, may_be_compressed: bool) -> &Bytes {
        self.compressed.as_ref().filter(|_| may_be_compressed).unwrap_or(&self.plain)
    }

    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        self.plain.len() + self.compressed.as_ref().map_or(0, Bytes::len)
    }
}

/// A message for an inbox. `collapse_key` and `priority` are part of what may not change under one id.
pub(crate) fn storable(
    message: Option<Message>,
    push_id: Bytes,
    (collapse_key, priority): (&[u8], Priority),
    by: &Credential,
    metrics: &Compression,
) -> Result<Storable, Refusal> {
    let mut message = check(message)?;
    let digest = digest(&message, collapse_key, priority);
    let params = params::Push {
        push_id,
        business: by.number.0,
        metadata: std::mem::take(&mut message.metadata),
        traceparent: std::mem::take(&mut message.traceparent),
        ..Default::default()
    };
    check_size(params.encoded_len() + PLACE_BYTES_MAX, message.body.len(), by)?;
    Ok(Storable::new(&params, &message, digest, metrics))
}

/// A message for the history of a group.
pub(crate) fn publishable(
    message: Option<Message>,
    push_id: Bytes,
    group: String,
    by: &Credential,
    metrics: &Compression,
) -> Result<Storable, Refusal> {
    let mut message = check(message)?;
    let digest = digest(&message, b"", Priority::Normal);
    let params = params::GroupPush {
        push_id,
        business: by.number.0,
        group,
        metadata: std::mem::take(&mut message.metadata),
        traceparent: std::mem::take(&mut message.traceparent),
        ..Default::default()
    };
    check_size(params.encoded_len() + PLACE_BYTES_MAX, message.body.len(), by)?;
    Ok(Storable::new(&params, &message, digest, metrics))
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
    metrics: &Compression,
) -> Result<Encoded, Refusal> {
    let mut message = check(message)?;
    let params = params::GroupPush {
        push_id,
        business: by.number.0,
        group,
        metadata: std::mem::take(&mut message.metadata),
        traceparent: std::mem::take(&mut message.traceparent),
        ..Default::default()
    };
    check_size(params.encoded_len(), message.body.len(), by)?;
    Ok(encode(Kind::GroupPush, &params, &message, metrics))
}

/// The frame, with its body compressed if that was asked for and pays.
fn encode(
    kind: Kind,
    params: &impl prost::Message,
    message: &Message,
    metrics: &Compression,
) -> Encoded {
    let frame = match compressed(message, metrics) {
        Some(small) => codec::encode(kind as u8, Flags::COMPRESSED, params, &small),
        None => codec::encode(kind as u8, Flags::NONE, params, &message.body),
    };
    Encoded::new(frame)
}

/// The body compressed, if that was asked for and pays. Some 2 ms for the largest body of the largest app, here and
/// now: the bodies of one call are at most 4 MiB.
fn compressed(message: &Message, metrics: &Compression) -> Option<Vec<u8>> {
    if !message.compress {
        return None;
    }
    let small = compress(&message.body);
    metrics.count(message.body.len(), small.as_ref().map(Vec::len));
    small
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
        Message { body: body.into(), metadata, ..Message::default() }
    }

    #[test]
    fn a_digest_is_of_the_content_and_of_nothing_else() {
        let base = message(b"body", &[("a", "1"), ("b", "2")]);
        let of = |message: &Message| digest(message, b"", Priority::Normal);
        let again = Message {
            traceparent: "00-1".to_owned(),
            compress: true,
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
