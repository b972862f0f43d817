//! All metrics of the router.

use hawser_proto::rpc::push::Outcome;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

/// From a tenth of a millisecond to the call time-out and a bit.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// The router's metrics; each field's help text says when it moves.
pub(crate) struct Metrics {
    pub(crate) binds: Binds,
    pub(crate) bind_seconds: Histogram,
    pub(crate) superseded: IntCounter,
    pub(crate) unbinds: IntCounter,
    pub(crate) unbinds_stale: IntCounter,
    pub(crate) routes_healed: IntCounter,
    pub(crate) group_reports_stale: IntCounter,
    pub(crate) reports_stale: IntCounter,
    pub(crate) queue_full: IntCounter,
    pub(crate) routes: IntGauge,
    pub(crate) nodes: IntGauge,
    pub(crate) groups: IntGauge,
    pub(crate) pending: IntGauge,
    pub(crate) writes_waiting: IntGauge,
    pub(crate) catalogue_revision: IntGauge,
    pub(crate) unicast_seconds: Histogram,
    pub(crate) batch_seconds: Histogram,
    pub(crate) multicast_seconds: Histogram,
    pub(crate) refusals: IntCounterVec,
    pub(crate) multicast: Fanout,
    pub(crate) broadcast: Fanout,
    outcomes: Vec<IntCounter>,
}

/// Logins and announcements by what became of them.
pub(crate) struct Binds {
    pub(crate) ok: IntCounter,
    pub(crate) stale: IntCounter,
    pub(crate) superseded: IntCounter,
    pub(crate) unavailable: IntCounter,
    pub(crate) malformed: IntCounter,
}

/// Members that a group push or broadcast met.
pub(crate) struct Fanout {
    pub(crate) written: IntCounter,
    pub(crate) queued: IntCounter,
    pub(crate) dropped: IntCounter,
    pub(crate) nodes_unknown: IntCounter,
}

impl Metrics {
    /// Makes them and puts them into the registry.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Make(registry);
        let binds = make.counters(
            "hawser_router_binds_total",
            "Grows with each login or announcement of a session, by what became of it.",
            &["outcome"],
        )?;
        let outcomes = make.counters(
            "hawser_router_pushes_total",
            "Grows with each target of a unicast or batch, by class and outcome.",
            &["class", "outcome"],
        )?;
        let fanout = make.counters(
            "hawser_router_fanout_total",
            "Grows with the members that access nodes counted for a multicast or broadcast, by what \
             became of the push, and with nodes that gave no word.",
            &["call", "outcome"],
        )?;
        let seconds = make.histograms(
            "hawser_router_push_seconds",
            "Observes each push call from its arrival to its answer.",
            &["call"],
        )?;
        let fanout_of = |call| Fanout {
            written: fanout.with_label_values(&[call, "written"]),
            queued: fanout.with_label_values(&[call, "queued"]),
            dropped: fanout.with_label_values(&[call, "dropped"]),
            nodes_unknown: fanout.with_label_values(&[call, "node_unknown"]),
        };
        let outcome =
            |outcome: i32| outcomes.with_label_values(&["volatile", outcome_name(outcome)]);
        Ok(Self {
            binds: Binds {
                ok: binds.with_label_values(&["ok"]),
                stale: binds.with_label_values(&["stale_attempt"]),
                superseded: binds.with_label_values(&["superseded"]),
                unavailable: binds.with_label_values(&["unavailable"]),
                malformed: binds.with_label_values(&["malformed"]),
            },
            bind_seconds: make.histogram(
                "hawser_router_bind_seconds",
                "Observes how long a login or announcement took to decide.",
            )?,
            superseded: make.counter(
                "hawser_router_sessions_superseded_total",
                "Grows when a connection is told that a newer login took over.",
            )?,
            unbinds: make.counter(
                "hawser_router_unbinds_total",
                "Grows when a session ended and its route was removed.",
            )?,
            unbinds_stale: make.counter(
                "hawser_router_unbinds_stale_total",
                "Grows when a removal did not match the route, which stayed.",
            )?,
            routes_healed: make.counter(
                "hawser_router_routes_healed_total",
                "Grows when a route is removed because its node says that it has no such session.",
            )?,
            group_reports_stale: make.counter(
                "hawser_router_group_reports_stale_total",
                "Grows when a node's word on a group came after a later one and was refused.",
            )?,
            reports_stale: make.counter(
                "hawser_router_delivery_reports_stale_total",
                "Grows when a node reports a delivery that nobody waits for any more.",
            )?,
            queue_full: make.counter(
                "hawser_router_node_queue_full_total",
                "Grows with each target whose push found the queue to its access node full.",
            )?,
            routes: make.gauge(
                "hawser_router_routes",
                "Sessions whose node holds a live lease, refreshed every second.",
            )?,
            nodes: make.gauge("hawser_router_nodes", "Access nodes that hold a live lease.")?,
            groups: make.gauge("hawser_router_groups", "Groups that exist.")?,
            pending: make.gauge(
                "hawser_router_deliveries_pending",
                "Deliveries sent to access nodes and not yet reported.",
            )?,
            writes_waiting: make.gauge(
                "hawser_router_store_writes_waiting",
                "Changes of routes that wait for the store.",
            )?,
            catalogue_revision: make.gauge(
                "hawser_router_catalogue_revision",
                "Revision of the catalogue in use; 0 before the first.",
            )?,
            unicast_seconds: seconds.with_label_values(&["unicast"]),
            batch_seconds: seconds.with_label_values(&["batch"]),
            multicast_seconds: seconds.with_label_values(&["multicast"]),
            refusals: make.counters(
                "hawser_router_refusals_total",
                "Grows when a call of the push API is refused, by published code.",
                &["code"],
            )?,
            multicast: fanout_of("multicast"),
            broadcast: fanout_of("broadcast"),
            outcomes: (0..=Outcome::Unknown as i32).map(outcome).collect(),
        })
    }

    /// Counts outcomes of targets.
    pub(crate) fn count_outcomes(&self, outcome: Outcome, targets: u64) {
        if let Some(counter) = self.outcomes.get(outcome as usize) {
            counter.inc_by(targets);
        }
    }
}

fn outcome_name(outcome: i32) -> &'static str {
    match Outcome::try_from(outcome) {
        Ok(Outcome::Written) => "written",
        Ok(Outcome::Stored) => "stored",
        Ok(Outcome::Acked) => "acked",
        Ok(Outcome::Offline) => "offline",
        Ok(Outcome::Stale) => "stale",
        Ok(Outcome::Expired) => "expired",
        Ok(Outcome::Overflow) => "overflow",
        Ok(Outcome::Denied) => "denied",
        Ok(Outcome::Unknown | Outcome::Unspecified) | Err(_) => "unknown",
    }
}

struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn register<C: Collector + Clone + 'static>(
        &self,
        made: Result<C, prometheus::Error>,
    ) -> Result<C, prometheus::Error> {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.register(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::new(name, help))
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.register(Histogram::with_opts(options))
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.register(HistogramVec::new(options, labels))
    }
}
