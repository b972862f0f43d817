//! The one place that reads the wall clock; everything else takes the time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    // A clock before 1970 is as good as 1970: tokens made with it are refused everywhere.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
