//! Bytes to raw frames and back: the header, and nothing of what the parameters mean.
//!
//! Lengths are checked against the limit in force before a byte is reserved. Source: WIRE.md, "Header".

use crate::code::CloseCode;
use crate::limits::{HEADER_BYTES, PARAMS_BYTES_MAX};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// First two bytes of every frame: "hw".
pub const MAGIC: [u8; 2] = *b"hw";
/// The version of the wire written and read here.
pub const VERSION: u8 = 1;

/// Flags of a frame. The low byte holds optional ones, ignored when unknown; the high byte holds
/// required ones, refused when unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The body is compressed with zstd. Known only to a device, and only while the ability is in force.
    pub const COMPRESSED: Self = Self(0x0100);
    const REQUIRED: u16 = 0xff00;

    /// Whether all of `flags` are set.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The same with none of `flags` set.
    #[must_use]
    pub fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }

    fn has_required_besides(self, known: Self) -> bool {
        self.0 & Self::REQUIRED & !known.0 != 0
    }
}

/// What a receiver takes just now. Made from a number it is that limit, and no required flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The frame limit in force, header included.
    pub frame_bytes_max: usize,
    /// Required flags that may be set.
    pub known: Flags,
}

impl From<usize> for Terms {
    fn from(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max, known: Flags::NONE }
    }
}

/// A frame whose header was read; kind and parameters are not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// Kind byte, see [`crate::frame::Kind`].
    pub kind: u8,
    /// Flags, all required ones known.
    pub flags: Flags,
    /// Common parameters: one protobuf message.
    pub params: Bytes,
    /// Opaque business bytes.
    pub body: Bytes,
}

/// Why bytes are not a frame. Each ends the connection, with [`FrameError::close_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not the magic.
    #[error("bad magic")]
    Magic,
    /// A version that is not served.
    #[error("unsupported version {0}")]
    Version(u8),
    /// A required flag that is not known.
    #[error("unknown required flag in {0:#06x}")]
    Flags(u16),
    /// A length above the limit in force.
    #[error("a length of {bytes} bytes is above the limit of {max}")]
    TooLarge {
        /// What the header says: of the parameters, or of the whole frame, header included.
        bytes: u64,
        /// What is allowed for that just now.
        max: usize,
    },
    /// Kind not known, and not ignorable.
    #[error("unknown kind {0:#04x}")]
    Kind(u8),
    /// A kind that only the other side sends.
    #[error("kind {0:#04x} is not sent in this direction")]
    Direction(u8),
    /// The parameters cannot be read or break a rule.
    #[error("bad parameters: {0}")]
    Params(&'static str),
    /// A compressed body that is not what it should be, or where there may be none.
    #[error("bad compressed body: {0}")]
    Body(&'static str),
    /// A message transport delivered less or more than one frame.
    #[error("a message must hold exactly one frame")]
    NotOneFrame,
}

impl FrameError {
    /// The code the connection is closed with.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Magic => CloseCode::BadMagic,
            Self::Version(_) => CloseCode::UnsupportedVersion,
            Self::Flags(_) => CloseCode::UnsupportedFeature,
            Self::TooLarge { .. } => CloseCode::FrameTooLarge,
            Self::Kind(_) => CloseCode::UnknownKind,
            Self::Direction(_) => CloseCode::UnexpectedFrame,
            Self::Params(_) | Self::Body(_) | Self::NotOneFrame => CloseCode::BadFrame,
        }
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: u8,
    flags: Flags,
    params_len: usize,
    body_len: usize,
}

impl Header {
    /// Checks everything a header alone can tell. `None`: more bytes are needed; a wrong magic or
    /// version is told as soon as its bytes are there.
    fn peek(bytes: &[u8], terms: Terms) -> Result<Option<Self>, FrameError> {
        let Terms { frame_bytes_max, known } = terms;
        let seen = bytes.len().min(2);
        if bytes[..seen] != MAGIC[..seen] {
            return Err(FrameError::Magic);
        }
        if let Some(&version) = bytes.get(2)
            && version != VERSION
        {
            return Err(FrameError::Version(version));
        }
        let Some(mut rest) = bytes.get(3..HEADER_BYTES) else { return Ok(None) };
        let kind = rest.get_u8();
        let flags = Flags(rest.get_u16());
        let params_len = rest.get_u16() as usize;
        let body_len = rest.get_u32();
        if flags.has_required_besides(known) {
            return Err(FrameError::Flags(flags.0));
        }
        let whole = HEADER_BYTES as u64 + params_len as u64 + u64::from(body_len);
        if params_len > PARAMS_BYTES_MAX {
            return Err(FrameError::TooLarge { bytes: params_len as u64, max: PARAMS_BYTES_MAX });
        }
        if whole > frame_bytes_max as u64 {
            return Err(FrameError::TooLarge { bytes: whole, max: frame_bytes_max });
        }
        Ok(Some(Self { kind, flags, params_len, body_len: body_len as usize }))
    }

    fn whole(self) -> usize {
        HEADER_BYTES + self.params_len + self.body_len
    }
}

/// Takes the first frame off `buffer`, sharing its bytes. `None`: more bytes are needed; the buffer
/// is untouched, and it is left to the caller to read on.
///
/// `terms`: the limit in force, header included, and the required flags that are known.
pub fn decode(
    buffer: &mut BytesMut,
    terms: impl Into<Terms>,
) -> Result<Option<RawFrame>, FrameError> {
    if buffer.is_empty() {
        return Ok(None);
    }
    let Some(header) = Header::peek(buffer, terms.into())? else { return Ok(None) };
    if buffer.len() < header.whole() {
        return Ok(None);
    }
    let mut bytes = buffer.split_to(header.whole()).freeze();
    bytes.advance(HEADER_BYTES);
    let params = bytes.split_to(header.params_len);
    Ok(Some(RawFrame { kind: header.kind, flags: header.flags, params, body: bytes }))
}

/// How many bytes the frame at the start of `bytes` still lacks before [`decode`] can take it: at
/// least 1. Lets a reader reserve once for a large frame.
pub fn missing(bytes: &[u8], terms: impl Into<Terms>) -> Result<usize, FrameError> {
    match Header::peek(bytes, terms.into())? {
        Some(header) => Ok(header.whole().saturating_sub(bytes.len()).max(1)),
        None => Ok(HEADER_BYTES.saturating_sub(bytes.len()).max(1)),
    }
}

/// Reads a message that must be exactly one frame (WebSocket).
pub fn decode_message(message: Bytes, terms: impl Into<Terms>) -> Result<RawFrame, FrameError> {
    let header = Header::peek(&message, terms.into())?.ok_or(FrameError::NotOneFrame)?;
    if message.len() != header.whole() {
        return Err(FrameError::NotOneFrame);
    }
    let mut bytes = message;
    bytes.advance(HEADER_BYTES);
    let params = bytes.split_to(header.params_len);
    Ok(RawFrame { kind: header.kind, flags: header.flags, params, body: bytes })
}

/// Writes one frame in one piece.
///
/// # Panics
/// If the parameters are above [`PARAMS_BYTES_MAX`] or the body above `u32`: whoever builds a frame
/// has checked its limits before.
pub fn encode(kind: u8, flags: Flags, params: &impl prost::Message, body: &[u8]) -> Bytes {
    let mut out = begin(kind, flags, params.encoded_len(), body.len());
    params.encode(&mut out).expect("a BytesMut grows as needed");
    out.put_slice(body);
    out.freeze()
}

/// Writes one frame whose parameters are encoded already, in several pieces that are one message
/// together. Panics as [`encode`] does.
pub fn encode_pieces(kind: u8, flags: Flags, params: &[&[u8]], body: &[u8]) -> Bytes {
    let params_len = params.iter().map(|piece| piece.len()).sum();
    let mut out = begin(kind, flags, params_len, body.len());
    for piece in params {
        out.put_slice(piece);
    }
    out.put_slice(body);
    out.freeze()
}

/// The header, with room for what follows.
fn begin(kind: u8, flags: Flags, params_len: usize, body_len: usize) -> BytesMut {
    assert!(
        params_len <= PARAMS_BYTES_MAX,
        "parameters are checked against their limit when built"
    );
    let whole = HEADER_BYTES + params_len + body_len;
    let body_len = u32::try_from(body_len).expect("bodies are checked against their limit before");
    let mut out = BytesMut::with_capacity(whole);
    out.put_slice(&MAGIC);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_u16(flags.0);
    out.put_u16(params_len as u16);
    out.put_u32(body_len);
    out
}
