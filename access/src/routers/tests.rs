//! Routers whose streams a test holds in its own hands.

use super::tier::{Functions, Router, Up};
use super::*;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

impl Routers {
    /// One stream for each, to routers that do this (0: everything), and what is sent on it. Streams are
    /// numbered from 1 on.
    pub(crate) fn fake(functions: &[u32]) -> (Self, Vec<mpsc::Receiver<What>>) {
        let routers = Self::default();
        let words = functions.iter().map(|&bits| routers.fake_one(bits)).collect();
        (routers, words)
    }

    /// One more stream.
    pub(crate) fn fake_one(&self, functions: u32) -> mpsc::Receiver<What> {
        let stream = self.next_stream();
        let router = Router::new(stream as u32, "http://router", CancellationToken::new());
        router.heard(&format!("r-{stream}"), Functions::said(functions));
        let (up, words) = Up::new(Arc::new(router), stream, true);
        self.ups.rcu(|ups| ups.iter().cloned().chain([up.clone()]).collect::<Vec<_>>());
        words
    }

    /// A stream is gone from the list.
    pub(crate) fn fake_break(&self, stream: u64) {
        let is_other = |up: &&Arc<Up>| up.stream != stream;
        self.ups.rcu(|ups| ups.iter().filter(is_other).cloned().collect::<Vec<_>>());
    }
}
