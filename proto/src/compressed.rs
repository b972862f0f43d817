//! Bodies that are compressed with zstd: what a receiver takes, and how they are made and made plain.
//!
//! What can be told from the first bytes of a body stands here without a library, so that whoever only passes
//! frames on counts them by what they will be. Source: WIRE.md, "Compressed bodies".

use crate::codec::{self, Flags, FrameError, RawFrame};
use crate::frame::Kind;
use crate::limits::{COMPRESSED_WINDOW_BYTES_MAX, FRAME_BYTES_MAX, HEADER_BYTES};

/// Where the flags stand in a header, and the byte that holds [`Flags::COMPRESSED`].
const FLAGS_AT: usize = 4;
const COMPRESSED_BYTE: u8 = (Flags::COMPRESSED.0 >> 8) as u8;
/// First bytes of a zstd frame (RFC 8878, 3.1.1).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether the body of this encoded frame is compressed.
pub fn is_compressed(frame: &[u8]) -> bool {
    let flags = frame.get(FLAGS_AT);
    flags.is_some_and(|flags| flags & COMPRESSED_BYTE != 0) && frame.starts_with(&codec::MAGIC)
}

/// Bytes of an encoded frame once its body is plain, header included: what the frame limit counts. A body that is not
/// what it should be, or above every limit, counts as one more than the highest.
pub fn plain_bytes(frame: &[u8]) -> usize {
    if !is_compressed(frame) {
        return frame.len();
    }
    let body = body_at(frame).and_then(|at| Head::read(&frame[at..]).map(|head| (at, head)));
    let bytes = body.map_or(usize::MAX, |(at, head)| at.saturating_add(head.content_bytes));
    bytes.min(FRAME_BYTES_MAX + 1)
}

/// Where the body of an encoded frame begins.
fn body_at(frame: &[u8]) -> Option<usize> {
    let params = frame.get(6..8)?;
    let at = HEADER_BYTES + usize::from(u16::from_be_bytes([params[0], params[1]]));
    (at <= frame.len()).then_some(at)
}

/// What the first bytes of a zstd frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    content_bytes: usize,
}

impl Head {
    /// `None`: it is none, it needs a dictionary, it does not say how long it will be, or its window is above
    /// what may be asked of a device. RFC 8878, 3.1.1.1.
    fn read(body: &[u8]) -> Option<Self> {
        let (&descriptor, mut rest) = body.strip_prefix(&MAGIC)?.split_first()?;
        let (is_reserved, dictionary) = (descriptor & 0x08 != 0, descriptor & 0x03);
        let is_single_segment = descriptor & 0x20 != 0;
        if is_reserved || dictionary != 0 {
            return None;
        }
        let mut window_bytes = None;
        if !is_single_segment {
            let (&window, after) = rest.split_first()?;
            let base = 1u64 << (10 + (window >> 3));
            window_bytes = Some(base + base / 8 * u64::from(window & 0x07));
            rest = after;
        }
        let number = |bytes: usize| {
            let mut number = [0; 8];
            number[..bytes].copy_from_slice(rest.get(..bytes)?);
            Some(u64::from_le_bytes(number))
        };
        let content_bytes = match descriptor >> 6 {
            0 if is_single_segment => number(1)?,
            0 => return None,
            1 => number(2)? + 256,
            2 => number(4)?,
            _ => number(8)?,
        };
        let window_bytes = window_bytes.unwrap_or(content_bytes);
        if window_bytes > COMPRESSED_WINDOW_BYTES_MAX as u64 {
            return None;
        }
        Some(Self { content_bytes: usize::try_from(content_bytes).ok()? })
    }
}

/// Checks a frame that was read while the ability is in force, before anything is reserved for it: its kind may
/// come compressed, and it keeps to the limit once it is plain. Returns how long the plain body is; `None`: it is
/// plain already.
pub fn check(raw: &RawFrame, frame_bytes_max: usize) -> Result<Option<usize>, FrameError> {
    if !raw.flags.has(Flags::COMPRESSED) {
        return Ok(None);
    }
    match Kind::from_byte(raw.kind) {
        Some(Kind::Push | Kind::GroupPush) => {}
        Some(_) => return Err(FrameError::Body("this kind is never compressed")),
        // Skipped or refused, whatever it holds.
        None => return Ok(None),
    }
    let head = Head::read(&raw.body).ok_or(FrameError::Body("no zstd frame that may be sent"))?;
    let whole = (HEADER_BYTES + raw.params.len()).saturating_add(head.content_bytes);
    if whole > frame_bytes_max {
        return Err(FrameError::TooLarge { bytes: whole as u64, max: frame_bytes_max });
    }
    Ok(Some(head.content_bytes))
}

#[cfg(feature = "zstd")]
mod library;
#[cfg(feature = "zstd")]
pub use library::{compress, expand, plain_frame};
