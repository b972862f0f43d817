//! What the fuzz targets call. The property tests of hawser-proto include this file too, so that a
//! stable compiler runs the same checks over the corpus and over perturbed copies of it.

use bytes::{Bytes, BytesMut};
use hawser_proto::codec::{self, Flags, FrameError, RawFrame};
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::limits::{
    FRAME_BYTES_MAX, FRAME_BYTES_MAX_DEFAULT, HEADER_BYTES, LOGIN_FRAME_BYTES_MAX, PARAMS_BYTES_MAX,
};
use hawser_proto::token::{VerifyingKey, verify};

/// The example of WIRE.md: the one token that the key below has signed.
const EXAMPLE: &str = include_str!("../../tests/vectors/token.txt");
/// Public key of RFC 8032, section 7.1, test 1.
const PUBLIC: [u8; 32] = [
    0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a,
    0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
];
/// When the example token holds, ms since 1970.
const NOW_MS: u64 = 1_800_000_000_000;

/// Any bytes at the start of a stream or as a message: a frame within the limit that holds exactly
/// these bytes, an error, or a wish for more that stays within the limit. Nothing is reserved.
pub fn decode(data: &[u8]) {
    for limit in [LOGIN_FRAME_BYTES_MAX, FRAME_BYTES_MAX_DEFAULT, FRAME_BYTES_MAX] {
        let mut buffer = BytesMut::from(data);
        let capacity = buffer.capacity();
        let missing = codec::missing(&buffer, limit);
        let decoded = codec::decode(&mut buffer, limit);
        assert!(buffer.capacity() <= capacity, "memory was reserved by what a header claims");
        let taken = data.len() - buffer.len();
        match &decoded {
            Ok(Some(frame)) => {
                assert_eq!(taken, HEADER_BYTES + frame.params.len() + frame.body.len());
                assert!(taken <= limit && frame.params.len() <= PARAMS_BYTES_MAX);
                assert_eq!(data[3], frame.kind);
                assert_eq!(data[HEADER_BYTES..taken], [&frame.params[..], &frame.body].concat());
                assert_eq!(missing, Ok(1), "a whole frame lacks nothing");
            }
            Ok(None) => {
                assert_eq!(taken, 0, "an unfinished frame stays in the buffer");
                let missing = missing.expect("decode saw no error");
                assert!(missing >= 1 && data.len() + missing <= limit);
            }
            Err(error) => {
                assert_eq!(taken, 0);
                // `missing` is only asked about what is there.
                assert!(data.is_empty() || missing == Err(*error));
            }
        }
        let message = codec::decode_message(Bytes::copy_from_slice(data), limit);
        match (decoded, message) {
            (Ok(Some(frame)), Ok(same)) => assert_eq!((taken, frame), (data.len(), same)),
            (Ok(Some(_)), Err(error)) => {
                assert!(taken < data.len() && error == FrameError::NotOneFrame);
            }
            (Ok(None), message) => assert_eq!(message, Err(FrameError::NotOneFrame)),
            (Err(error), message) => assert_eq!(message, Err(error)),
        }
    }
}

/// Kind, length of the parameters (two bytes), parameters, body: never a panic, and what was parsed
/// can be written and parses to the same.
pub fn parse(data: &[u8]) {
    let Some((&[kind, high, low], rest)) = data.split_first_chunk::<3>() else { return };
    let params_len = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
    let (params, body) = rest.split_at(params_len);
    let raw = RawFrame {
        kind,
        flags: Flags::NONE,
        params: Bytes::copy_from_slice(params),
        body: Bytes::copy_from_slice(body),
    };
    // A negative enum may take five bytes more when it is written again.
    let writable = params.len() < PARAMS_BYTES_MAX - 16;
    if let Ok(frame) = DeviceFrame::parse(raw.clone()) {
        assert!(kind & 0x80 == 0, "a node's kind was taken from a device");
        if writable {
            let again = codec::decode_message(frame.encode(), usize::MAX).expect("just written");
            assert_eq!(DeviceFrame::parse(again), Ok(frame));
        }
    }
    if let Ok(frame) = NodeFrame::parse(raw) {
        assert!(kind & 0x80 != 0, "a device's kind was taken from a node");
        if writable {
            let again = codec::decode_message(frame.encode(), usize::MAX).expect("just written");
            assert_eq!(NodeFrame::parse(again), Ok(frame));
        }
    }
}

/// Eight bytes that choose where a stream is split, then the stream: split or whole, the same frames
/// and the same end.
pub fn stream_splits(data: &[u8]) {
    let Some((seed, stream)) = data.split_first_chunk::<8>() else { return };
    let mut state = u64::from_le_bytes(*seed) | 1;
    let mut pieces = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let longest = if state & 0x100 == 0 { 3 } else { 40 };
        let (piece, after) = rest.split_at(rest.len().min(1 + (state >> 32) as usize % longest));
        pieces.push(piece);
        rest = after;
    }
    assert_eq!(read(&pieces), read(&[stream]));
}

/// The frames of a stream, and the error that ends it or how many bytes are left.
fn read(pieces: &[&[u8]]) -> (Vec<RawFrame>, Result<usize, FrameError>) {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match codec::decode(&mut buffer, FRAME_BYTES_MAX_DEFAULT) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(buffer.len()))
}

/// Any text as a token: never a panic, and never taken, but for the one that was signed.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let key = VerifyingKey::from_ed25519(&PUBLIC);
    if verify(text, NOW_MS, |_| Some(&key)).is_ok() {
        let signed = EXAMPLE.lines().find_map(|line| line.strip_prefix("token   "));
        assert_eq!(Some(text), signed, "a token was taken that nobody signed");
    }
}
