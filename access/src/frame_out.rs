//! A frame on its way out: encoded once per wire form, shared by everyone it goes to. A compressed body is made plain
//! once, for all who do not understand it.

use crate::metrics::Metrics;
use bytes::{BufMut, Bytes, BytesMut};
use hawser_proto::compressed::{is_compressed, plain_bytes, plain_frame};
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
    compressed: Option<Box<Compressed>>,
}

/// Of a frame whose body is compressed.
#[derive(Debug)]
struct Compressed {
    plain_bytes: usize,
    /// The frame with its body plain, made when the first device wants it so; `None`: it cannot be.
    plain: OnceLock<Option<FrameOut>>,
}

impl FrameOut {
    /// From the encoded stream form.
    pub(crate) fn new(stream: Bytes) -> Self {
        let compressed = is_compressed(&stream).then(|| {
            Box::new(Compressed { plain_bytes: plain_bytes(&stream), plain: OnceLock::new() })
        });
        Self { stream, websocket: OnceLock::new(), kept: OnceLock::new(), compressed }
    }

    /// Bytes of the frame with its body plain: what the frame limit counts.
    pub(crate) fn len(&self) -> usize {
        self.compressed.as_ref().map_or(self.stream.len(), |compressed| compressed.plain_bytes)
    }

    /// The frame as a device takes it. `None`: its body is compressed, the device does not understand that, and it
    /// is not what it should be.
    pub(crate) fn for_device(&self, has_zstd: bool, metrics: &Metrics) -> Option<&Self> {
        match &self.compressed {
            None => Some(self),
            Some(_) if has_zstd => Some(self),
            Some(compressed) => {
                let plain = compressed.plain.get_or_init(|| {
                    metrics.made_plain.inc();
                    plain_frame(&self.stream).map(Self::new)
                });
                plain.as_ref()
            }
        }
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
    use hawser_proto::codec::{self, Flags};
    use hawser_proto::limits::FRAME_BYTES_MAX;

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
    fn a_compressed_body_is_made_plain_once_for_all_who_want_it_so() {
        let metrics = Metrics::new(&prometheus::Registry::new());
        let body = b"over and over and over ".repeat(40);
        let small = hawser_proto::compressed::compress(&body).unwrap();
        let params = hawser_proto::params::Push::default();
        let plain = NodeFrame::Push(params.clone(), body.into()).encode();
        let frame = FrameOut::new(codec::encode(0xb0, Flags::COMPRESSED, &params, &small));
        assert_eq!(frame.len(), plain.len(), "the limit counts what it will be");
        let wise = frame.for_device(true, &metrics).unwrap();
        assert!(wise.bytes(Form::Stream).len() < plain.len());
        let [one, other] = [(); 2].map(|()| frame.for_device(false, &metrics).unwrap());
        assert_eq!((one.bytes(Form::Stream), one.len()), (&plain, plain.len()));
        assert!(std::ptr::eq(one, other));
        assert_eq!(metrics.made_plain.get(), 1);
        let bare = FrameOut::new(plain);
        assert!(std::ptr::eq(bare.for_device(false, &metrics).unwrap(), &raw const bare));
    }

    #[test]
    fn what_cannot_be_made_plain_reaches_nobody_who_wants_it_so() {
        let metrics = Metrics::new(&prometheus::Registry::new());
        let params = hawser_proto::params::Push::default();
        let frame = FrameOut::new(codec::encode(0xb0, Flags::COMPRESSED, &params, b"no zstd"));
        assert!(frame.for_device(false, &metrics).is_none());
        assert_eq!(frame.len(), FRAME_BYTES_MAX + 1, "and fits into no limit");
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
