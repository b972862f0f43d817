//! What all devices of a fleet count together: deliveries, and how late they were.

use bytes::{BufMut, Bytes, BytesMut};
use hawser_loadtest::stamp;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A payload that was due at this time, for the device with this number; see [`crate::bare`].
pub(crate) fn payload(bytes: usize, due: u64, number: u32) -> Bytes {
    let mut body = BytesMut::with_capacity(bytes);
    body.put_u64(due);
    body.put_u32(number);
    body.resize(bytes.max(body.len()), b'x');
    body.freeze()
}

/// The delay that this share of them does not exceed, in milliseconds.
pub(crate) fn share_ms(delays: &Histogram<u64>, share: f64) -> f64 {
    delays.value_at_quantile(share) as f64 / 1e3
}

/// Longer ones count as this long, in microseconds: nobody waits for longer.
const DELAY_MAX: u64 = 60_000_000;

pub(super) struct Count {
    received: AtomicU64,
    /// How many someone waits for.
    wanted: AtomicU64,
    reached: Notify,
    /// Of microseconds.
    delays: Mutex<Histogram<u64>>,
}

impl Default for Count {
    fn default() -> Self {
        let delays = Histogram::new_with_max(DELAY_MAX, 3);
        let delays = delays.expect("three digits are within what it offers");
        Self {
            received: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            reached: Notify::new(),
            delays: Mutex::new(delays),
        }
    }
}

impl Count {
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    pub(super) fn delays(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one read brought.
    pub(super) fn batch(&self) -> Batch<'_> {
        Batch { count: self, now: stamp::now(), deliveries: 0, delays: None }
    }

    /// Whether that many have arrived, within this time.
    pub(super) async fn wait_for(&self, received: u64, patience: Duration) -> bool {
        self.wanted.store(received, Ordering::SeqCst);
        // Whoever counts looks at what is wanted after it has counted.
        if self.received() < received {
            let _ = tokio::time::timeout(patience, self.reached.notified()).await;
        }
        self.received() >= received
    }
}

/// Added up where it is dropped.
pub(super) struct Batch<'a> {
    count: &'a Count,
    now: u64,
    deliveries: u64,
    delays: Option<MutexGuard<'a, Histogram<u64>>>,
}

impl Batch<'_> {
    pub(super) fn add(&mut self, body: &[u8]) {
        self.deliveries += 1;
        if let Some(due) = body.first_chunk() {
            let late = self.now.saturating_sub(u64::from_be_bytes(*due)) / 1_000;
            self.delays.get_or_insert_with(|| self.count.delays()).saturating_record(late);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.deliveries == 0 {
            return;
        }
        let before = self.count.received.fetch_add(self.deliveries, Ordering::SeqCst);
        let wanted = self.count.wanted.load(Ordering::SeqCst);
        if before < wanted && before + self.deliveries >= wanted {
            self.count.reached.notify_one();
        }
    }
}
