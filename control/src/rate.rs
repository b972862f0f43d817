//! Access requests per app, held to its quota: one token bucket an app, with a second's worth of burst.
//! Pure: the time comes in as an argument.

use hawser_proto::id::AppId;
use std::collections::HashMap;

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at_ms: u64,
}

/// Buckets of the apps that have a quota.
#[derive(Debug, Default)]
pub(crate) struct Rates(HashMap<AppId, Bucket>);

impl Rates {
    /// Whether one more is within the quota. `per_second` 0: there is none.
    pub(crate) fn take(&mut self, app: &AppId, per_second: u32, now_ms: u64) -> bool {
        if per_second == 0 {
            self.0.remove(app);
            return true;
        }
        let rate = f64::from(per_second);
        let new = || Bucket { tokens: rate, filled_at_ms: now_ms };
        let bucket = self.0.entry(app.clone()).or_insert_with(new);
        let passed_ms = now_ms.saturating_sub(bucket.filled_at_ms);
        bucket.tokens = (bucket.tokens + passed_ms as f64 / 1000.0 * rate).min(rate);
        bucket.filled_at_ms = now_ms;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Forgets apps that are gone.
    pub(crate) fn retain(&mut self, exists: impl Fn(&AppId) -> bool) {
        self.0.retain(|app, _| exists(app));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_burst_then_the_rate() {
        let (mut rates, app) = (Rates::default(), AppId::new("a").unwrap());
        let taken =
            |rates: &mut Rates, now_ms| (0..20).filter(|_| rates.take(&app, 10, now_ms)).count();
        assert_eq!(taken(&mut rates, 0), 10);
        assert_eq!(taken(&mut rates, 0), 0);
        assert_eq!(taken(&mut rates, 500), 5);
        assert_eq!(taken(&mut rates, 60_000), 10);
        assert!((0..100).all(|_| rates.take(&app, 0, 60_000)));
        rates.retain(|_| false);
        assert!(rates.0.is_empty());
    }
}
