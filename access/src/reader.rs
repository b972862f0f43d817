//! Bytes of one connection to frames. Holds nothing while nothing is half there.

use crate::frame_out::{Form, OP_BINARY, OP_CLOSE, OP_CONTINUATION, OP_PING, OP_PONG, OP_TEXT};
use bytes::{Buf, Bytes, BytesMut};
use hawser_proto::code::CloseCode;
use hawser_proto::codec::{self, RawFrame};

/// What the bytes held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// One frame of the wire.
    Frame(RawFrame),
    /// A WebSocket ping, to be answered with its payload.
    WebSocketPing(Bytes),
    /// A WebSocket close: the peer says goodbye.
    WebSocketClose,
}

/// Why the bytes are not what they should be: the code to close with, and a reason for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The code to close with.
    pub code: CloseCode,
    /// For people.
    pub reason: String,
}

/// The reading side of one connection: 16 bytes while nothing is half there.
#[derive(Debug)]
pub(crate) struct Reader {
    form: Form,
    held: Option<Box<Held>>,
}

/// What is half there.
#[derive(Debug, Default)]
struct Held {
    /// Bytes of which no frame was made yet.
    buffer: BytesMut,
    /// A WebSocket message that comes in fragments.
    fragments: Option<BytesMut>,
}

impl Reader {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, held: None }
    }

    /// Takes bytes that were read.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.held.get_or_insert_default().buffer.extend_from_slice(bytes);
    }

    /// The next whole thing, or `None` when more bytes are needed. `frame_bytes_max` is the limit in
    /// force now: it grows at login.
    pub(crate) fn next(&mut self, frame_bytes_max: usize) -> Result<Option<Incoming>, Malformed> {
        let Some(held) = self.held.as_deref_mut() else { return Ok(None) };
        let next = match self.form {
            Form::Stream => codec::decode(&mut held.buffer, frame_bytes_max)
                .map(|frame| frame.map(Incoming::Frame))
                .map_err(malformed),
            Form::WebSocket => next_message(held, frame_bytes_max),
        };
        if held.buffer.is_empty() {
            // Let go of the allocations: an idle connection holds no buffer.
            match held.fragments {
                None => self.held = None,
                Some(_) => held.buffer = BytesMut::new(),
            }
        }
        next
    }
}

fn malformed(error: codec::FrameError) -> Malformed {
    Malformed { code: error.close_code(), reason: error.to_string() }
}

fn bad(reason: &str) -> Malformed {
    Malformed { code: CloseCode::BadWebSocket, reason: reason.into() }
}

/// RFC 6455, sections 5.2 to 5.5, for what a device sends.
fn next_message(held: &mut Held, frame_bytes_max: usize) -> Result<Option<Incoming>, Malformed> {
    let Held { buffer, fragments: begun } = held;
    loop {
        let Some(header) = FrameHeader::peek(buffer)? else { return Ok(None) };
        let is_control = header.operation >= OP_CLOSE;
        let begun_bytes = begun.as_ref().filter(|_| !is_control).map_or(0, BytesMut::len);
        if header.payload_len.saturating_add(begun_bytes as u64) > frame_bytes_max as u64 {
            let reason = "a message above the limit".into();
            return Err(Malformed { code: CloseCode::FrameTooLarge, reason });
        }
        let payload_len = header.payload_len as usize;
        if buffer.len() < header.header_len + payload_len {
            return Ok(None);
        }
        buffer.advance(header.header_len);
        let mut payload = buffer.split_to(payload_len);
        for (byte, key) in payload.iter_mut().zip(header.mask.iter().cycle()) {
            *byte ^= key;
        }
        let whole = match (header.operation, header.is_final, begun.take()) {
            (OP_PING, true, fragments) => {
                *begun = fragments;
                return Ok(Some(Incoming::WebSocketPing(payload.freeze())));
            }
            (OP_CLOSE, true, _) => return Ok(Some(Incoming::WebSocketClose)),
            (OP_PONG, true, fragments) => {
                *begun = fragments;
                continue;
            }
            (OP_BINARY, true, None) => payload.freeze(),
            (OP_BINARY, false, None) => {
                *begun = Some(BytesMut::from(&payload[..]));
                continue;
            }
            (OP_CONTINUATION, is_final, Some(mut fragments)) => {
                fragments.extend_from_slice(&payload);
                if !is_final {
                    *begun = Some(fragments);
                    continue;
                }
                fragments.split().freeze()
            }
            (OP_TEXT, ..) => return Err(bad("text messages are not served")),
            (OP_BINARY, _, Some(_)) => return Err(bad("a new message inside a fragmented one")),
            (OP_CONTINUATION, _, None) => return Err(bad("a continuation of nothing")),
            _ => return Err(bad("an unknown operation or a fragmented control frame")),
        };
        let frame = codec::decode_message(whole, frame_bytes_max).map_err(malformed)?;
        return Ok(Some(Incoming::Frame(frame)));
    }
}

struct FrameHeader {
    operation: u8,
    is_final: bool,
    mask: [u8; 4],
    payload_len: u64,
    header_len: usize,
}

impl FrameHeader {
    fn peek(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(bad("a reserved bit is set"));
        }
        if second & 0x80 == 0 {
            return Err(bad("a frame from a device must be masked"));
        }
        let operation = first & 0x0f;
        let (payload_len, len_bytes) = match second & 0x7f {
            126 => match rest.first_chunk() {
                Some(len) => (u64::from(u16::from_be_bytes(*len)), 2),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(len) => (u64::from_be_bytes(*len), 8),
                None => return Ok(None),
            },
            short => (u64::from(short), 0),
        };
        if operation >= OP_CLOSE && payload_len > 125 {
            return Err(bad("a control frame above 125 bytes"));
        }
        let Some(&mask) = rest[len_bytes..].first_chunk::<4>() else { return Ok(None) };
        let is_final = first & 0x80 != 0;
        Ok(Some(Self { operation, is_final, mask, payload_len, header_len: 2 + len_bytes + 4 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::frame::DeviceFrame;
    use hawser_proto::params::Ping;

    const MAX: usize = 4096;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x11, 0x22, 0x33, 0x44];
        let mut out = vec![first, 0x80 | payload.len() as u8];
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        out
    }

    fn ping() -> Vec<u8> {
        DeviceFrame::Ping(Ping { nonce: 77 }).encode().to_vec()
    }

    fn read_all(mut reader: Reader, bytes: &[u8], step: usize) -> Result<Vec<Incoming>, CloseCode> {
        let mut seen = Vec::new();
        for piece in bytes.chunks(step) {
            reader.take(piece);
            while let Some(next) = reader.next(MAX).map_err(|malformed| malformed.code)? {
                seen.push(next);
            }
        }
        assert!(reader.held.is_none(), "nothing is held once all is read");
        Ok(seen)
    }

    #[test]
    fn frames_come_out_the_same_however_the_bytes_are_cut() {
        let glued = [ping(), ping(), ping()].concat();
        let whole = read_all(Reader::new(Form::Stream), &glued, glued.len()).unwrap();
        assert_eq!(whole.len(), 3);
        for step in 1..glued.len() {
            assert_eq!(read_all(Reader::new(Form::Stream), &glued, step).unwrap(), whole, "{step}");
        }
    }

    #[test]
    fn websocket_fragments_are_joined_and_control_frames_may_stand_between() {
        let frame = ping();
        let (a, b) = frame.split_at(5);
        let bytes =
            [masked(0x02, a), masked(0x89, b"hi"), masked(0x8a, b""), masked(0x80, b)].concat();
        for step in 1..bytes.len() {
            let seen = read_all(Reader::new(Form::WebSocket), &bytes, step).unwrap();
            assert_eq!(seen.len(), 2, "{step}");
            assert_eq!(seen[0], Incoming::WebSocketPing(Bytes::from_static(b"hi")));
            assert!(matches!(&seen[1], Incoming::Frame(raw) if raw.kind == 0x02));
        }
    }

    #[test]
    fn a_control_frame_does_not_count_toward_the_message_it_stands_in() {
        let frame = ping();
        let (a, b) = frame.split_at(frame.len() - 1);
        let mut reader = Reader::new(Form::WebSocket);
        reader.take(&[masked(0x02, a), masked(0x89, b"hello"), masked(0x80, b)].concat());
        let max = frame.len();
        assert!(matches!(reader.next(max), Ok(Some(Incoming::WebSocketPing(_)))));
        assert!(matches!(reader.next(max), Ok(Some(Incoming::Frame(_)))));
    }

    #[test]
    fn broken_websocket_frames_are_told_apart() {
        let mut unmasked = masked(0x82, b"x");
        unmasked[1] &= 0x7f;
        let mut long_ping = vec![0x89, 0xfe, 0, 200];
        long_ping.extend([0; 4]);
        for (bytes, code) in [
            (masked(0x81, b"text"), CloseCode::BadWebSocket),
            (masked(0xc2, &ping()), CloseCode::BadWebSocket),
            (unmasked, CloseCode::BadWebSocket),
            (masked(0x80, b"of nothing"), CloseCode::BadWebSocket),
            ([masked(0x02, b"a"), masked(0x82, b"b")].concat(), CloseCode::BadWebSocket),
            (masked(0x09, b"fragmented ping"), CloseCode::BadWebSocket),
            (masked(0x83, b"?"), CloseCode::BadWebSocket),
            (long_ping, CloseCode::BadWebSocket),
            (
                vec![0x82, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
                CloseCode::FrameTooLarge,
            ),
            (masked(0x82, &ping()[..6]), CloseCode::BadFrame),
            (masked(0x82, &[ping(), vec![0]].concat()), CloseCode::BadFrame),
            (masked(0x82, b"GET / HTTP/1.1"), CloseCode::BadMagic),
        ] {
            assert_eq!(
                read_all(Reader::new(Form::WebSocket), &bytes, bytes.len()),
                Err(code),
                "{bytes:02x?}"
            );
        }
    }
}
