//! Durations and shares as people write them.

use serde::{Deserialize, Deserializer, de};
use std::time::Duration;

/// `500ms`, `2.5s`, `3m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| letter.is_alphabetic());
    let seconds = match &text[digits.len()..] {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(format!("`{text}` is no duration, such as 500ms, 2.5s, 3m or 1h")),
    };
    let number = digits.trim().parse::<f64>().ok();
    let time = number.and_then(|number| Duration::try_from_secs_f64(number * seconds).ok());
    time.ok_or_else(|| format!("`{text}` is no duration, such as 500ms, 2.5s, 3m or 1h"))
}

/// A duration written as a string.
pub(super) fn written<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    duration(&text).map_err(de::Error::custom)
}

/// The same where there may be none.
pub(super) fn maybe<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    written(from).map(Some)
}

/// A part of a whole, from 0 to 1.
pub(super) fn share<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(from)?;
    if (0.0..=1.0).contains(&share) {
        return Ok(share);
    }
    Err(de::Error::custom(format!("{share} is no share from 0 to 1")))
}

/// A rate or a factor: zero or more.
pub(super) fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let rate = f64::deserialize(from)?;
    if rate >= 0.0 && rate.is_finite() {
        return Ok(rate);
    }
    Err(de::Error::custom(format!("{rate} is below zero, or no number")))
}
