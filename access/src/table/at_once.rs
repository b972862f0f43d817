//! Pushes that wait together for the same member leave in one write, where its link takes that.

use super::{Connection, Written};
use crate::fanout::Fanout;
use crate::frame_out::FrameOut;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::outbox::Keep;
use hawser_proto::frame::ability;
use std::io::IoSlice;
use std::sync::Arc;

/// Pushes written at once: what waits longer in a lane than for so many is as good as a stream of its own, and
/// others of the lane wait for all of them.
pub(crate) const GATHER_MAX: usize = 16;

/// What came of the first of several pushes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AtOnce {
    /// So many were taken whole.
    taken: usize,
    /// Of the one behind them a part was, and the rest waits.
    is_begun: bool,
}

impl AtOnce {
    /// Of the `n`-th; `None`: it was not tried.
    pub(super) fn of(self, n: usize) -> Option<Written> {
        if n < self.taken {
            Some(Written::Taken)
        } else {
            (self.is_begun && n == self.taken).then_some(Written::Queued)
        }
    }
}

impl Connection {
    /// Writes the first of these pushes to a live group, if there are several and nothing has to be said or
    /// written before them. The others are left to be written one by one; so are all of them where the transport
    /// wraps what it sends.
    pub(super) fn write_at_once(
        &mut self,
        pushes: &[Arc<Fanout>],
        group: u32,
        now_ms: u64,
        metrics: &Metrics,
    ) -> AtOnce {
        // Nearly always there is one, and then nothing is to be looked at here.
        if pushes.len() < 2 {
            return AtOnce::default();
        }
        let owes_word =
            self.downlink.as_ref().is_some_and(|downlink| downlink.missed_of(group).is_some());
        let is_open = self.is_admitted && !self.is_closing && self.outbox.is_empty() && !owes_word;
        if !is_open || !matches!(self.link, Link::Tcp(_)) {
            return AtOnce::default();
        }
        let (form, most) = (self.form, self.frame_bytes_max as usize);
        let has_zstd = u32::from(self.abilities) & ability::ZSTD != 0;
        let fits = |push: &&Arc<Fanout>| push.frame.len() <= most;
        let mut frames: [Option<&FrameOut>; GATHER_MAX] = [None; GATHER_MAX];
        let mut pieces = [IoSlice::new(&[]); GATHER_MAX];
        let mut count = 0;
        for push in pushes.iter().take(GATHER_MAX).take_while(fits) {
            let Some(frame) = push.frame.for_device(has_zstd, metrics) else { break };
            frames[count] = Some(frame);
            pieces[count] = IoSlice::new(frame.bytes(form));
            count += 1;
        }
        // An error, also that it takes nothing now: the first that is written by itself finds out.
        let Ok(mut left) = self.link.try_write_gathered(&self.waker, &pieces[..count]) else {
            return AtOnce::default();
        };
        let mut taken = 0;
        while taken < count && left >= pieces[taken].len() {
            left -= pieces[taken].len();
            taken += 1;
        }
        let begun = frames.get(taken).copied().flatten().filter(|_| left > 0);
        if let Some(frame) = begun {
            self.outbox.begin(frame.kept(form).slice(left..), Keep::Group(group), true);
            self.stalled_since_ms = now_ms;
            self.waker.wake_by_ref();
        }
        AtOnce { taken, is_begun: begun.is_some() }
    }
}
