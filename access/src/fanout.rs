//! One push to many connections of this node: counted over all lanes, reported when the last is done.

use crate::feed::Place;
use crate::frame_out::FrameOut;
use crate::metrics::{Metrics, PushCounts};
use crate::outbox::SlowPolicy;
use crate::table::Written;
use hawser_proto::rpc::node::DeliveryReport;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How often a walk that takes its time tells of its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A fan-out on its way through the lanes.
pub(crate) struct Fanout {
    id: u64,
    pub(crate) frame: FrameOut,
    pub(crate) slow: SlowPolicy,
    /// Of a push to a history group.
    pub(crate) place: Option<Place>,
    lanes_left: AtomicUsize,
    members: AtomicU64,
    written: AtomicU64,
    queued: AtomicU64,
    dropped: AtomicU64,
    begun: Instant,
    /// When progress was last told.
    told: Mutex<Instant>,
    reports: mpsc::Sender<DeliveryReport>,
    metrics: Arc<Metrics>,
}

impl Fanout {
    pub(crate) fn new(
        id: u64,
        frame: FrameOut,
        slow: SlowPolicy,
        place: Option<Place>,
        lanes: usize,
        reports: mpsc::Sender<DeliveryReport>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self {
            id,
            frame,
            slow,
            place,
            lanes_left: AtomicUsize::new(lanes),
            members: zero(),
            written: zero(),
            queued: zero(),
            dropped: zero(),
            begun: Instant::now(),
            told: Mutex::new(Instant::now()),
            reports,
            metrics,
        })
    }

    /// One lane has walked its members (or could not: then all counts are 0).
    pub(crate) fn lane_done(&self, tally: Tally) {
        self.add(tally);
        if self.lanes_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.metrics.fanout_seconds.observe(self.begun.elapsed().as_secs_f64());
            self.report(true);
        }
    }

    /// A part of a lane's walk, for broadcasts that take their time.
    pub(crate) fn add(&self, tally: Tally) {
        self.members.fetch_add(tally.members(), Ordering::Relaxed);
        self.written.fetch_add(tally.written, Ordering::Relaxed);
        self.queued.fetch_add(tally.queued, Ordering::Relaxed);
        self.dropped.fetch_add(tally.dropped, Ordering::Relaxed);
        let Tally { written, queued, dropped } = tally;
        self.metrics.pushes(PushCounts { written, queued, dropped });
    }

    /// Tells the router how far it is, about once a second, whichever lane comes first.
    pub(crate) fn report_progress(&self) {
        let Some(mut told) = self.told.try_lock() else { return };
        if told.elapsed() >= PROGRESS_INTERVAL {
            *told = Instant::now();
            drop(told);
            self.report(false);
        }
    }

    /// Tells the router how far it is. A full queue of reports loses this one: the router then says
    /// `unknown` for this node, and counts it.
    pub(crate) fn report(&self, done: bool) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let _ = self.reports.try_send(DeliveryReport {
            id: self.id,
            outcomes: Vec::new(),
            members: count(&self.members),
            written: count(&self.written),
            queued: count(&self.queued),
            dropped: count(&self.dropped),
            done,
        });
    }
}

/// What one walk did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) written: u64,
    pub(crate) queued: u64,
    pub(crate) dropped: u64,
}

impl Tally {
    /// Members that were there; one that has gone meanwhile is none.
    pub(crate) fn members(self) -> u64 {
        self.written + self.queued + self.dropped
    }

    pub(crate) fn count(&mut self, written: Written) {
        match written {
            Written::Taken => self.written += 1,
            Written::Queued => self.queued += 1,
            Written::Overflow => self.dropped += 1,
            Written::Gone => {}
        }
    }
}
