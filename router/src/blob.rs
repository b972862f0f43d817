//! What the stores keep of a push, and the frame that is made of it.
//!
//! A blob is: one byte (the form of its body: 1 plain, 2 compressed), the length of the parameters (u32, big-endian),
//! the parameters of PUSH or GROUP_PUSH without those that say where it stands, and then the body. Where it stands is known
//! only once it is stored, and whether it comes again only when it is read; fields of protobuf may come in
//! any order, so those fields are put behind the others, and the body is copied once. The frame of a
//! wake-up and that of a pull are made here, by one function each kind, and are the same bytes.

use bytes::{BufMut as _, Bytes, BytesMut};
use hawser_proto::codec::{self, Flags};
use hawser_proto::frame::Kind;
use hawser_proto::id::Position;
use hawser_proto::params;
use prost::Message;

/// How the body of a blob stands there. Routers of releases before know plain ones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Plain = 1,
    Compressed = 2,
}

const HEAD_BYTES: usize = 1 + 4;
/// Room that [`frame`] needs beside the parameters in the blob: four numbers, a time and a flag.
pub(crate) const PLACE_BYTES_MAX: usize = 5 * 11 + 2;

/// Not written by [`blob`]: by a later release, perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored push that cannot be read")]
pub(crate) struct Unreadable;

/// Where a push stands, and what only its reading tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) position: Position,
    pub(crate) prev: Position,
    pub(crate) redelivered: bool,
    pub(crate) expires_at_ms: u64,
}

/// The blob of a push: `params` without a place.
pub(crate) fn blob(params: &impl Message, body: &[u8], form: Body) -> Bytes {
    let len = params.encoded_len();
    let mut blob = BytesMut::with_capacity(HEAD_BYTES + len + body.len());
    blob.put_u8(form as u8);
    blob.put_u32(len as u32);
    params.encode(&mut blob).expect("a BytesMut grows as needed");
    blob.put_slice(body);
    blob.freeze()
}

/// The PUSH frame of an entry of an inbox.
pub(crate) fn push_frame(blob: &[u8], placed: &Placed) -> Result<Bytes, Unreadable> {
    let place = params::Push {
        term: placed.position.term,
        seq: placed.position.seq,
        prev_term: placed.prev.term,
        prev_seq: placed.prev.seq,
        redelivered: placed.redelivered,
        expires_at_ms: placed.expires_at_ms,
        ..params::Push::default()
    };
    frame(Kind::Push, blob, &place)
}

/// The GROUP_PUSH frame of an entry of a group's history.
pub(crate) fn group_frame(
    blob: &[u8],
    position: Position,
    prev: Position,
) -> Result<Bytes, Unreadable> {
    let place = params::GroupPush {
        term: position.term,
        seq: position.seq,
        prev_term: prev.term,
        prev_seq: prev.seq,
        ..params::GroupPush::default()
    };
    frame(Kind::GroupPush, blob, &place)
}

fn frame(kind: Kind, blob: &[u8], place: &impl Message) -> Result<Bytes, Unreadable> {
    let (form, params, body) = split(blob).ok_or(Unreadable)?;
    let flags = match form {
        Body::Plain => Flags::NONE,
        Body::Compressed => Flags::COMPRESSED,
    };
    let place = place.encode_to_vec();
    if params.len() + place.len() > hawser_proto::limits::PARAMS_BYTES_MAX {
        return Err(Unreadable);
    }
    Ok(codec::encode_pieces(kind as u8, flags, &[params, &place], body))
}

fn split(blob: &[u8]) -> Option<(Body, &[u8], &[u8])> {
    let (&form, rest) = blob.split_first()?;
    let form = match form {
        1 => Body::Plain,
        2 => Body::Compressed,
        _ => return None,
    };
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (params, body) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    Some((form, params, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::frame::NodeFrame;

    fn read(frame: Bytes) -> NodeFrame {
        NodeFrame::parse(codec::decode_message(frame, 1 << 20).unwrap()).unwrap()
    }

    #[test]
    fn a_frame_is_put_together_from_its_blob_and_its_place() {
        let params = params::Push {
            push_id: "p".into(),
            business: 7,
            metadata: [("k".to_owned(), "v".to_owned())].into(),
            ..params::Push::default()
        };
        let placed = Placed {
            position: Position::new(u64::MAX, u64::MAX),
            prev: Position::new(u64::MAX, u64::MAX - 1),
            redelivered: true,
            expires_at_ms: u64::MAX,
        };
        let made = push_frame(&blob(&params, b"body", Body::Plain), &placed).unwrap();
        let bare = NodeFrame::Push(params.clone(), "body".into()).encode();
        assert_eq!(made.len(), bare.len() + PLACE_BYTES_MAX, "the most there can be");
        let whole = params::Push {
            term: u64::MAX,
            seq: u64::MAX,
            prev_term: u64::MAX,
            prev_seq: u64::MAX - 1,
            redelivered: true,
            expires_at_ms: u64::MAX,
            ..params
        };
        assert_eq!(read(made), NodeFrame::Push(whole, "body".into()));
    }

    #[test]
    fn a_frame_of_a_group_carries_its_place_too() {
        let params = params::GroupPush { group: "room".into(), ..params::GroupPush::default() };
        let (position, prev) = (Position::new(5, 2), Position::new(5, 1));
        let made = group_frame(&blob(&params, b"", Body::Plain), position, prev).unwrap();
        let NodeFrame::GroupPush(params, body) = read(made) else { panic!("a push to a group") };
        assert_eq!((params.term, params.seq, params.prev_seq), (5, 2, 1));
        assert_eq!((params.group.as_str(), body.len()), ("room", 0));
    }

    #[test]
    fn a_compressed_body_gives_a_frame_that_says_so() {
        let body = b"over and over and over ".repeat(40);
        let small = hawser_proto::compressed::compress(&body).unwrap();
        let params = params::GroupPush { group: "room".into(), ..params::GroupPush::default() };
        let (position, prev) = (Position::new(5, 2), Position::new(5, 1));
        let of =
            |body: &[u8], form| group_frame(&blob(&params, body, form), position, prev).unwrap();
        let (made, plain) = (of(&small, Body::Compressed), of(&body, Body::Plain));
        assert!(made.len() < plain.len());
        assert_eq!(hawser_proto::compressed::plain_frame(&made), Some(plain));
    }

    #[test]
    fn what_was_not_written_here_is_not_read() {
        let good = blob(&params::Push::default(), b"body", Body::Plain);
        let placed = Placed {
            position: Position::START,
            prev: Position::START,
            redelivered: false,
            expires_at_ms: 0,
        };
        for bad in [&b""[..], &b"\x03"[..], &good[..3], &b"\x01\0\0\0\x09"[..]] {
            assert_eq!(push_frame(bad, &placed), Err(Unreadable), "{bad:?}");
        }
    }
}
