//! Every metric of control. No label holds an id of an app, business or device.

use hawser_proto::code::ErrorCode;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Handles of this process's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    access_requests: IntCounterVec,
    pub(crate) access_seconds: Histogram,
    pub(crate) tokens_issued: IntCounter,
    pub(crate) tokens_refreshed: IntCounter,
    pub(crate) watchers: IntGauge,
    pub(crate) watchers_cut_off: IntCounter,
    pub(crate) nodes: IntGauge,
    pub(crate) routers: IntGauge,
    pub(crate) starts_delayed: IntCounter,
    http_requests: IntCounterVec,
    pub(crate) http_connections: IntGauge,
    pub(crate) store_write_seconds: Histogram,
    pub(crate) store_write_failures: IntCounter,
}

/// From a tenth of a millisecond to three seconds.
const SECONDS: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

impl Metrics {
    /// Makes and registers them. An error: the registry holds metrics of another control.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let it = IntCounter::new(name, help)?;
            registry.register(Box::new(it.clone()))?;
            Ok(it)
        };
        let family = |name: &str, help: &str, labels: &[&str]| {
            let it = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(it.clone()))?;
            Ok::<_, prometheus::Error>(it)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let it = IntGauge::new(name, help)?;
            registry.register(Box::new(it.clone()))?;
            Ok(it)
        };
        let histogram = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let it = Histogram::with_opts(opts)?;
            registry.register(Box::new(it.clone()))?;
            Ok(it)
        };
        let metrics = Self {
            access_requests: family(
                "hawser_control_access_requests_total",
                "Grows when a device's access request was answered; outcome is ok or an error code.",
                &["outcome"],
            )?,
            access_seconds: histogram(
                "hawser_control_access_seconds",
                "Time from a device's access request to its answer.",
            )?,
            tokens_issued: counter(
                "hawser_control_tokens_issued_total",
                "Grows when a device got a token for a proof.",
            )?,
            tokens_refreshed: counter(
                "hawser_control_tokens_refreshed_total",
                "Grows when a live session got a new token.",
            )?,
            watchers: gauge(
                "hawser_control_watchers",
                "Access nodes and routers that follow the catalogue.",
            )?,
            watchers_cut_off: counter(
                "hawser_control_watchers_cut_off_total",
                "Grows when a watcher was too slow and has to start anew.",
            )?,
            nodes: gauge(
                "hawser_control_nodes",
                "Access nodes whose last report is fresh, as of the last report or sweep.",
            )?,
            routers: gauge(
                "hawser_control_routers",
                "Routers whose last report is fresh, as of the last sweep.",
            )?,
            starts_delayed: counter(
                "hawser_control_starts_delayed_total",
                "Grows when a device was told to wait before it dials, since more came than nodes take.",
            )?,
            http_requests: family(
                "hawser_control_http_requests_total",
                "Grows when an HTTP request was answered, by route and status class.",
                &["route", "status"],
            )?,
            http_connections: gauge(
                "hawser_control_http_connections",
                "Open connections on the HTTP port.",
            )?,
            store_write_seconds: histogram(
                "hawser_control_store_write_seconds",
                "Time of one durable commit.",
            )?,
            store_write_failures: counter(
                "hawser_control_store_write_failures_total",
                "Grows when a commit failed.",
            )?,
        };
        Ok(metrics)
    }

    /// Counts an access request; `None`: a token was given.
    pub(crate) fn access_outcome(&self, refused: Option<ErrorCode>) {
        let outcome = refused.map_or("ok", ErrorCode::name);
        self.access_requests.with_label_values(&[outcome]).inc();
    }

    /// Counts an HTTP request. `route` is a route's pattern, never a path.
    pub(crate) fn http_request(&self, route: &str, status: u16) {
        let class = match status {
            0..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.http_requests.with_label_values(&[route, class]).inc();
    }
}
