//! Calls under way, and how they ended. Each has an end, also one that panics.

use super::line::Waiting;
use super::spool::Whom;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

/// The end of a call.
pub(super) struct Told {
    pub(super) whom: Whom,
    /// `Ok`: heard; with whether the store knows it. Those that the store did not say enough of are not known.
    pub(super) outcome: Result<Vec<(Waiting, bool)>, Vec<Waiting>>,
}

/// The calls of one shard; at most one for each line.
#[derive(Default)]
pub(super) struct Calls {
    out: usize,
    ends: Arc<Ends>,
}

/// Ends that nobody has looked at yet.
#[derive(Default)]
pub(super) struct Ends {
    told: Mutex<Vec<Told>>,
    pub(super) more: Notify,
}

/// One call. Dropped, it has ended: as was said last, at first that nobody has heard.
pub(super) struct Call {
    told: Option<Told>,
    ends: Arc<Ends>,
}

impl Calls {
    pub(super) fn begin(&mut self, whom: Whom, batch: Vec<Waiting>) -> Call {
        self.out += 1;
        let told = Some(Told { whom, outcome: Err(batch) });
        Call { told, ends: self.ends.clone() }
    }

    pub(super) fn are_out(&self) -> bool {
        self.out > 0
    }

    pub(super) fn take_ended(&mut self) -> Vec<Told> {
        let ended = std::mem::take(&mut *self.ends.told.lock());
        self.out -= ended.len();
        ended
    }

    pub(super) fn ends(&self) -> Arc<Ends> {
        self.ends.clone()
    }
}

impl Call {
    pub(super) fn end(mut self, outcome: Result<Vec<(Waiting, bool)>, Vec<Waiting>>) {
        if let Some(told) = &mut self.told {
            told.outcome = outcome;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.ends.told.lock().extend(self.told.take());
        self.ends.more.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Marked;
    use hawser_proto::id::{AppId, BusinessNo};

    fn waiting() -> Vec<Waiting> {
        let mark = Marked { device: b"d".as_slice().into(), at: 1 };
        let look = super::super::spool::Look { mark, seen_ms: 1 };
        vec![Waiting { look, events: Vec::new(), read_ms: 1 }]
    }

    #[tokio::test]
    async fn a_call_that_panics_has_not_been_heard() {
        let whom = (AppId::new("demo").unwrap(), BusinessNo(1));
        let mut calls = Calls::default();
        let heard = calls.begin(whom.clone(), waiting());
        heard.end(Ok(vec![(waiting().remove(0), true)]));
        let lost = calls.begin(whom.clone(), waiting());
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _lost = lost;
            panic!("on purpose");
        }));
        assert!(panics.is_err());
        calls.ends().more.notified().await;
        assert!(calls.are_out());
        let ended = calls.take_ended();
        assert!(matches!(&ended[..], [
            Told { outcome: Ok(_), .. },
            Told { outcome: Err(batch), whom: of },
        ] if *batch == waiting() && *of == whom));
        assert!(!calls.are_out());
    }
}
