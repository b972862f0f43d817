//! A frame on its way out: encoded once per wire form, shared by everyone it goes to.

use bytes::{BufMut, Bytes, BytesMut};
use hawser_proto::frame::NodeFrame;
use std::sync::OnceLock;

/// Which form of the wire a link speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Frames follow each other: TCP, TLS, a QUIC stream.
    Stream,
    /// One binary message is one frame.
    WebSocket,
}

/// One frame in both forms; the WebSocket form is made when the first such link wants it.
#[derive(Debug)]
pub(crate) struct FrameOut {
    stream: Bytes,
    websocket: OnceLock<Bytes>,
    /// The stream form in memory of its own, when the first link has no room for it.
    kept: OnceLock<Bytes>,
}

impl FrameOut {
    /// From the encoded stream form.
    pub(crate) fn new(stream: Bytes) -> Self {
        Self { stream, websocket: OnceLock::new(), kept: OnceLock::new() }
    }

    /// Bytes of the frame itself: what the frame limit counts.
    pub(crate) fn len(&self) -> usize {
        self.stream.len()
    }

    /// The bytes for a link of this form.
    pub(crate) fn bytes(&self, form: Form) -> &Bytes {
        match form {
            Form::Stream => &self.stream,
            Form::WebSocket => self.websocket.get_or_init(|| message(OP_BINARY, &self.stream)),
        }
    }

    /// The same to wait with. A frame from a router is a part of the buffer that it was read into, which may be
    /// larger than all that is waited with, and stays for as long as any part does. Copied once for all.
    pub(crate) fn kept(&self, form: Form) -> &Bytes {
        match form {
            Form::Stream => self.kept.get_or_init(|| Bytes::copy_from_slice(&self.stream)),
            Form::WebSocket => self.bytes(form),
        }
    }
}

impl From<&NodeFrame> for FrameOut {
    fn from(frame: &NodeFrame) -> Self {
        Self::new(frame.encode())
    }
}

/// Operation codes of RFC 6455, section 5.2.
pub(crate) const OP_CONTINUATION: u8 = 0x0;
pub(crate) const OP_TEXT: u8 = 0x1;
pub(crate) const OP_BINARY: u8 = 0x2;
pub(crate) const OP_CLOSE: u8 = 0x8;
pub(crate) const OP_PING: u8 = 0x9;
pub(crate) const OP_PONG: u8 = 0xa;

/// One unmasked, unfragmented WebSocket message (RFC 6455, section 5.2).
pub(crate) fn message(operation: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 10);
    out.put_u8(0x80 | operation);
    match payload.len() {
        short @ 0..=125 => out.put_u8(short as u8),
        medium @ 126..=0xffff => {
            out.put_u8(126);
            out.put_u16(medium as u16);
        }
        long => {
            out.put_u8(127);
            out.put_u64(long as u64);
        }
    }
    out.put_slice(payload);
    out.freeze()
}

/// The WebSocket Close that follows a CLOSE frame, with the same number.
pub(crate) fn close_message(number: u16) -> Bytes {
    message(OP_CLOSE, &number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_copied_once_and_keeps_no_buffer() {
        let buffer = Bytes::from(vec![7; 1_000]);
        let frame = FrameOut::new(buffer.slice(10..20));
        assert_eq!(frame.bytes(Form::Stream).as_ptr(), buffer[10..].as_ptr(), "written as it came");
        let kept = frame.kept(Form::Stream).clone();
        assert_eq!(kept, frame.bytes(Form::Stream));
        assert_eq!(kept.as_ptr(), frame.kept(Form::Stream).as_ptr(), "one for all who wait");
        drop(frame);
        assert!(buffer.is_unique(), "nothing holds it any more");
        assert_eq!(kept, &[7; 10][..]);
    }

    #[test]
    fn message_lengths_take_the_shortest_form() {
        for (len, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let out = message(OP_BINARY, &vec![7; len]);
            assert_eq!(out.len(), header + len, "{len}");
            assert_eq!(out[0], 0x82);
            assert!(out[header..].iter().all(|&b| b == 7));
        }
        assert_eq!(&close_message(4408)[..], [0x88, 2, 0x11, 0x38]);
    }
}
