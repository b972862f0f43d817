//! All metrics of an access node, each with a sentence that says when it moves.

use crate::curse::Part;
use crate::link::Dialled;
use hawser_proto::code::CloseCode;
use hawser_proto::id::AppId;
use hawser_proto::params::GapReason;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use std::collections::HashMap;

/// Why a push or an order was refused at the last moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StaleReason {
    /// It names another process start.
    Boot,
    /// It names another life of the slot.
    Generation,
    /// It names another app or device.
    Identity,
    /// It names another session of the device.
    Epoch,
    /// Nobody who logged in lives in the slot.
    Free,
    /// It is for a group that is another business's here.
    Business,
}

impl StaleReason {
    const ALL: [Self; 6] =
        [Self::Boot, Self::Generation, Self::Identity, Self::Epoch, Self::Free, Self::Business];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Generation => "generation",
            Self::Identity => "identity",
            Self::Epoch => "epoch",
            Self::Free => "free",
            Self::Business => "business",
        }
    }
}

/// Where a volatile push ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PushCounts {
    pub(crate) written: u64,
    pub(crate) queued: u64,
    pub(crate) dropped: u64,
}

/// The metrics. Handles are kept where they are used often.
#[derive(Debug)]
pub(crate) struct Metrics {
    stale: HashMap<&'static str, IntCounter>,
    pub(crate) connections: IntGauge,
    sessions: IntGaugeVec,
    logins: IntCounterVec,
    login_seconds: HistogramVec,
    logins_by_token: IntCounter,
    logins_by_ticket: IntCounter,
    closes: IntCounterVec,
    pub(crate) refused_connections: IntCounterVec,
    written: IntCounter,
    queued: IntCounter,
    dropped: IntCounter,
    pub(crate) fanout_seconds: Histogram,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    pub(crate) groups: IntGauge,
    pub(crate) lane_full: IntCounter,
    pub(crate) made_plain: IntCounter,
    pub(crate) router_streams: IntGauge,
    pub(crate) uplink_full: IntCounter,
    pub(crate) uplink_restarts: IntCounter,
    pub(crate) claims_again: IntCounter,
    pub(crate) unbinds_again: IntCounter,
    pub(crate) unbinds_lost: IntCounter,
    pub(crate) group_reports_again: IntCounter,
    pub(crate) catalogue_revision: IntGauge,
    stored_at_wake_up: IntCounter,
    stored_pulled: IntCounter,
    gaps: IntCounterVec,
    pub(crate) unacked: IntGauge,
    pub(crate) acks: IntCounter,
    pub(crate) ack_lies: IntCounter,
    pub(crate) resyncs: IntCounter,
    pub(crate) wakes_lost: IntCounter,
    pub(crate) sweeps: IntCounter,
    pub(crate) asks_late: IntCounter,
    pub(crate) recoveries: IntCounter,
    pub(crate) missed: IntCounter,
    pub(crate) drain_told: IntCounter,
    panics: IntCounterVec,
}

fn buckets() -> Vec<f64> {
    prometheus::exponential_buckets(0.000_1, 2.5, 12).expect("start, factor and count are positive")
}

impl Metrics {
    /// Registers everything. Panics if the registry holds one of these names already.
    pub(crate) fn new(registry: &Registry) -> Self {
        let register = Register(registry);
        let stale = register.counters(
            "hawser_access_stale_writes_blocked_total",
            "Grows when a push or an order named a connection that is no longer there; reason says which check refused it.",
            &["reason"],
        );
        let pushes = register.counters(
            "hawser_downlink_pushes_total",
            "Grows with each push to one device: taken by the kernel, queued in its outbox, or dropped as it was too slow.",
            &["outcome"],
        );
        let proofs = register.counters(
            "hawser_access_login_proofs_total",
            "Grows with each login whose proof held: a token, whose signature was checked, or a resume ticket.",
            &["proof"],
        );
        let stored = register.counters(
            "hawser_downlink_stored_total",
            "Grows with each stored push written to a link: with its wake-up, or pulled from the store.",
            &["how"],
        );
        Self {
            stored_at_wake_up: stored.with_label_values(&["wake_up"]),
            stored_pulled: stored.with_label_values(&["pulled"]),
            gaps: register.counters(
                "hawser_downlink_gaps_total",
                "Grows when a device is told that stored pushes will not come, by reason.",
                &["reason"],
            ),
            unacked: register.gauge(
                "hawser_downlink_unacked",
                "Stored pushes written to a link and not acknowledged by its device.",
            ),
            acks: register.counter(
                "hawser_downlink_acks_total",
                "Grows when an acknowledgement of a device moved an inbox.",
            ),
            ack_lies: register.counter(
                "hawser_downlink_ack_lies_total",
                "Grows when a device acknowledged, or asked again from, what was never sent to it.",
            ),
            resyncs: register.counter(
                "hawser_downlink_resyncs_total",
                "Grows when a device asked for stored pushes again.",
            ),
            wakes_lost: register.counter(
                "hawser_downlink_wakes_lost_total",
                "Grows with each number missing among the wake-ups of a stream; each gap begins a sweep.",
            ),
            sweeps: register.counter(
                "hawser_downlink_sweeps_total",
                "Grows when a hurried sweep of all sessions begins.",
            ),
            asks_late: register.counter(
                "hawser_downlink_asks_late_total",
                "Grows when a call of the store was not answered in time.",
            ),
            recoveries: register.counter(
                "hawser_downlink_recoveries_total",
                "Grows when a member of a history group begins to be written what it missed.",
            ),
            drain_told: register.counter(
                "hawser_access_drain_told_total",
                "Grows with each session that is told to go because the node does.",
            ),
            panics: register.counters(
                "hawser_access_panics_total",
                "Grows when a connection, a request, a lane, or the hearing of a socket panicked; nothing else ended \
                 with it.",
                &["part"],
            ),
            missed: register.counter(
                "hawser_downlink_missed_total",
                "Grows by the pushes of live groups that a device is told it has missed.",
            ),
            stale: StaleReason::ALL
                .map(|reason| (reason.name(), stale.with_label_values(&[reason.name()])))
                .into(),
            connections: register.gauge("hawser_access_connections", "Connections held, logged in or not."),
            sessions: register.gauges(
                "hawser_access_sessions",
                "Sessions online, by app and transport.",
                &["app", "transport"],
            ),
            logins: register.counters(
                "hawser_access_logins_total",
                "Grows with each login, by transport and result: ok, or the name of the close code.",
                &["transport", "result"],
            ),
            login_seconds: register.histograms(
                "hawser_access_login_seconds",
                "From LOGIN to LOGIN_OK: token check and claim at the router.",
                &["transport"],
            ),
            logins_by_token: proofs.with_label_values(&["token"]),
            logins_by_ticket: proofs.with_label_values(&["ticket"]),
            closes: register.counters(
                "hawser_access_closes_total",
                "Grows when a connection ends, by the close code's name; cut: the peer or the network ended it.",
                &["code"],
            ),
            refused_connections: register.counters(
                "hawser_access_refused_connections_total",
                "Grows when a connection was refused before it became one, by cause.",
                &["cause"],
            ),
            written: pushes.with_label_values(&["written"]),
            queued: pushes.with_label_values(&["queued"]),
            dropped: pushes.with_label_values(&["dropped"]),
            fanout_seconds: register.histogram(
                "hawser_downlink_fanout_seconds",
                "From a multicast's arrival at the node to its last lane being done.",
            ),
            requests: register.counters(
                "hawser_forward_requests_total",
                "Grows with each answered request, by app, business and status name.",
                &["app", "business", "status"],
            ),
            request_seconds: register.histograms(
                "hawser_forward_request_seconds",
                "From a request's arrival to its answer, by app and business.",
                &["app", "business"],
            ),
            groups: register.gauge("hawser_access_groups", "Groups with a member on this node."),
            made_plain: register.counter(
                "hawser_access_bodies_made_plain_total",
                "Grows when a compressed body is made plain for a device that does not understand it; once for all members \
                 of a group.",
            ),
            lane_full: register.counter(
                "hawser_downlink_lane_full_total",
                "Grows when a message found its lane's queue full.",
            ),
            router_streams: register.gauge("hawser_access_router_streams", "Streams to routers that are up."),
            uplink_full: register.counter(
                "hawser_access_uplink_full_total",
                "Grows when a word to a router found its queue full, or its stream gone.",
            ),
            uplink_restarts: register.counter(
                "hawser_access_uplink_restarts_total",
                "Grows when a control stream is begun anew because a word for it was lost.",
            ),
            claims_again: register.counter(
                "hawser_access_claims_again_total",
                "Grows when a login is tried at a second router, since the first did not answer it.",
            ),
            unbinds_again: register.counter(
                "hawser_access_unbinds_again_total",
                "Grows with each end of a session that is told again, or later, since no router may have heard of it.",
            ),
            unbinds_lost: register.counter(
                "hawser_access_unbinds_lost_total",
                "Grows with each end of a session that no router was told of: too many ended while none was there.",
            ),
            group_reports_again: register.counter(
                "hawser_access_group_reports_again_total",
                "Grows when a router is told of a group again, since it has not agreed in time.",
            ),
            catalogue_revision: register.gauge(
                "hawser_access_catalogue_revision",
                "Revision of the catalogue this node works with; 0 before control was first heard.",
            ),
        }
    }

    pub(crate) fn stale(&self, reason: StaleReason) {
        if let Some(counter) = self.stale.get(reason.name()) {
            counter.inc();
        }
    }

    pub(crate) fn sessions(&self, app: &AppId, dialled: Dialled) -> IntGauge {
        self.sessions.with_label_values(&[app.as_str(), dialled.name()])
    }

    pub(crate) fn login(&self, dialled: Dialled, result: Result<f64, CloseCode>) {
        let name = result.as_ref().map_or_else(|code| code.name(), |_| "ok");
        self.logins.with_label_values(&[dialled.name(), name]).inc();
        if let Ok(seconds) = result {
            self.login_seconds.with_label_values(&[dialled.name()]).observe(seconds);
        }
    }

    /// A login whose proof held.
    pub(crate) fn login_proof(&self, is_ticket: bool) {
        if is_ticket { self.logins_by_ticket.inc() } else { self.logins_by_token.inc() }
    }

    /// A part of the node panicked.
    pub(crate) fn panicked(&self, part: Part) {
        self.panics.with_label_values(&[part.name()]).inc();
    }

    pub(crate) fn close(&self, code: Option<CloseCode>) {
        self.closes.with_label_values(&[code.map_or("cut", CloseCode::name)]).inc();
    }

    /// Pushes that were queued, and then dropped for newer ones.
    pub(crate) fn evicted(&self, pushes: usize) {
        if pushes > 0 {
            self.dropped.inc_by(pushes as u64);
        }
    }

    pub(crate) fn pushes(&self, counts: PushCounts) {
        self.written.inc_by(counts.written);
        self.queued.inc_by(counts.queued);
        self.dropped.inc_by(counts.dropped);
    }

    pub(crate) fn stored_written(&self, was_pulled: bool) {
        if was_pulled { self.stored_pulled.inc() } else { self.stored_at_wake_up.inc() }
    }

    pub(crate) fn gap(&self, reason: GapReason) {
        let name = match reason {
            GapReason::Unspecified => "unspecified",
            GapReason::Overflow => "overflow",
            GapReason::Expired => "expired",
            GapReason::TooLarge => "too_large",
            GapReason::Purged => "purged",
        };
        self.gaps.with_label_values(&[name]).inc();
    }

    pub(crate) fn request(&self, app: &str, business: &str, status: &str, seconds: f64) {
        self.requests.with_label_values(&[app, business, status]).inc();
        self.request_seconds.with_label_values(&[app, business]).observe(seconds);
    }
}

/// Makes and registers in one step.
struct Register<'r>(&'r Registry);

impl Register<'_> {
    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<C>,
    ) -> C {
        let metric = made.expect("names and labels here are valid");
        self.0
            .register(Box::new(metric.clone()))
            .expect("each name is registered once per registry");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets())))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets()), labels))
    }
}
