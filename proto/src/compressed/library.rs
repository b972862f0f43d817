//! What needs the library: compressing a body, and making one plain. Contexts are kept per thread and lent: half
//! a MiB for a thread that compresses, 100 KiB for one that makes plain, whatever the number of connections.

use super::{Head, body_at, check, is_compressed};
use crate::codec::{Flags, FrameError, RawFrame};
use crate::limits::{COMPRESS_BYTES_MIN, COMPRESSED_WINDOW_BYTES_MAX, FRAME_BYTES_MAX};
use bytes::{BufMut as _, Bytes, BytesMut};
use std::cell::RefCell;
use std::io;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{self, CParameter};

/// Of JSON of some KiB, level 3 takes off 3 % more than level 1, for a third more time and twice the memory.
const LEVEL: i32 = 1;
/// What is taken off must be at least this part of the body: less is not worth a device's time.
const GAIN_MIN: usize = 8;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The body compressed; `None`: it does not pay.
pub fn compress(body: &[u8]) -> Option<Vec<u8>> {
    if body.len() < COMPRESS_BYTES_MIN || body.len() > FRAME_BYTES_MAX {
        return None;
    }
    // What does not fit does not pay.
    let mut out = Vec::with_capacity(body.len() - body.len() / GAIN_MIN);
    COMPRESSOR.with_borrow_mut(|lent| {
        let compressor = match lent {
            Some(compressor) => compressor,
            None => lent.insert(compressor().ok()?),
        };
        compressor.compress_to_buffer(body, &mut out).ok()
    })?;
    Some(out)
}

fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.set_parameter(CParameter::WindowLog(COMPRESSED_WINDOW_BYTES_MAX.ilog2()))?;
    compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
    compressor.set_parameter(CParameter::ChecksumFlag(false))?;
    Ok(compressor)
}

/// `content_bytes`: what its head says, checked against a limit.
fn make_plain(body: &[u8], content_bytes: usize) -> Option<Vec<u8>> {
    // One zstd frame and nothing behind it.
    if zstd_safe::find_frame_compressed_size(body).ok()? != body.len() {
        return None;
    }
    let plain = DECOMPRESSOR.with_borrow_mut(|lent| {
        let decompressor = match lent {
            Some(decompressor) => decompressor,
            None => lent.insert(Decompressor::new().ok()?),
        };
        decompressor.decompress(body, content_bytes).ok()
    })?;
    (plain.len() == content_bytes).then_some(plain)
}

/// A frame that was read while the ability is in force, with its body plain. At most `frame_bytes_max` bytes are
/// reserved, whatever the body claims; an error ends the connection.
pub fn expand(raw: RawFrame, frame_bytes_max: usize) -> Result<RawFrame, FrameError> {
    let Some(content_bytes) = check(&raw, frame_bytes_max)? else { return Ok(raw) };
    let body = make_plain(&raw.body, content_bytes)
        .ok_or(FrameError::Body("it does not become what it says"))?;
    Ok(RawFrame { flags: raw.flags.without(Flags::COMPRESSED), body: body.into(), ..raw })
}

/// An encoded frame with its body plain. `None`: it is not what it should be, or above every limit.
pub fn plain_frame(frame: &Bytes) -> Option<Bytes> {
    if !is_compressed(frame) {
        return Some(frame.clone());
    }
    let (head, body) = frame.split_at(body_at(frame)?);
    let content_bytes = Head::read(body)?.content_bytes;
    if head.len().saturating_add(content_bytes) > FRAME_BYTES_MAX {
        return None;
    }
    let plain = make_plain(body, content_bytes)?;
    let mut out = BytesMut::with_capacity(head.len() + plain.len());
    out.put_slice(head);
    out[4] &= !super::COMPRESSED_BYTE;
    out[8..12].copy_from_slice(&u32::try_from(plain.len()).ok()?.to_be_bytes());
    out.put_slice(&plain);
    Some(out.freeze())
}
