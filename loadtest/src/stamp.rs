//! Bodies that say when they left and for whom, so that a device tells delay and wrong deliveries from
//! the bytes alone.

use bytes::{BufMut, Bytes, BytesMut};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 4] = *b"hws1";
/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 20;

/// Monotonic nanoseconds of this machine: one clock for all processes.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// A body that leaves now, for this device (or group), padded to `bytes`.
pub fn body(target: &str, bytes: usize) -> Bytes {
    due(target, bytes, now())
}

/// The same for one that was to leave at this time: its age counts from then, however late it leaves.
pub fn due(target: &str, bytes: usize, at: u64) -> Bytes {
    let mut body = BytesMut::with_capacity(bytes.max(STAMP_BYTES));
    body.put_slice(&MAGIC);
    body.put_u64(at);
    body.put_u64(xxh3_64(target.as_bytes()));
    body.resize(bytes.max(STAMP_BYTES), b'.');
    body.freeze()
}

/// Classes that devices fall into by their number.
pub const CLASSES: u32 = 64;

/// The class of a device. A body for many devices is stamped for the class of all of them: one that went astray is
/// found out in all but one of so many cases.
pub fn class(number: u32) -> String {
    format!("class {}", number % CLASSES)
}

/// What a stamped body says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Since it left.
    pub age: Duration,
    /// When it left.
    pub left: u64,
    target: u64,
}

impl Stamp {
    /// Reads a body; `None`: it has no stamp.
    pub fn read(body: &[u8]) -> Option<Self> {
        let (magic, rest) = body.split_first_chunk::<4>()?;
        let (left, rest) = rest.split_first_chunk::<8>()?;
        let (target, _) = rest.split_first_chunk::<8>()?;
        let left = u64::from_be_bytes(*left);
        let age = Duration::from_nanos(now().saturating_sub(left));
        (*magic == MAGIC).then_some(Self { age, left, target: u64::from_be_bytes(*target) })
    }

    /// Whether it was for this one.
    pub fn is_for(self, target: &str) -> bool {
        self.target == xxh3_64(target.as_bytes())
    }
}
