//! What was seen so far, in Prometheus' text form. Labels are names of this tool and of protocols, never of a
//! device.

use super::count::Counts;
use anyhow::Context;
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Scrapes at once.
const SCRAPES_MAX: usize = 16;

/// Counts of what has not come yet.
const MAY_FALL: &[&str] = &["lost", "waiting", "unanswered"];

/// What is served; dropped, it is not any more.
pub(super) struct Metrics {
    registry: Registry,
    totals: IntCounterVec,
    stands: IntGaugeVec,
    delays: GaugeVec,
    memory: IntGaugeVec,
    cores: GaugeVec,
    told: BTreeMap<&'static str, u64>,
    /// Aborted with it.
    task: JoinSet<()>,
}

impl Metrics {
    /// Serves at this address.
    pub(super) async fn serve(at: SocketAddr, scenario: &str) -> anyhow::Result<Self> {
        let labels = HashMap::from([("scenario".to_owned(), scenario.to_owned())]);
        let registry = Registry::new_custom(Some("hawser_loadtest".to_owned()), Some(labels))?;
        let listener = TcpListener::bind(at)
            .await
            .with_context(|| format!("--metrics: cannot listen on {at}"))?;
        let totals =
            Opts::new("events_total", "What was counted so far, by the names of the result.");
        let stands =
            Opts::new("stands", "How it stands: devices online or under way, members of groups.");
        let delays = Opts::new("delay_seconds", "Delays so far, from when something was due.");
        let memory = Opts::new("resident_bytes", "Memory of the tool, and of what it has started.");
        let cores = Opts::new("cores", "Processors that they used in the last second.");
        let mut metrics = Self {
            totals: IntCounterVec::new(totals, &["what"])?,
            stands: IntGaugeVec::new(stands, &["what"])?,
            delays: GaugeVec::new(delays, &["what", "protocol", "quantile"])?,
            memory: IntGaugeVec::new(memory, &["part"])?,
            cores: GaugeVec::new(cores, &["part"])?,
            told: BTreeMap::new(),
            registry,
            task: JoinSet::new(),
        };
        metrics.registry.register(Box::new(metrics.totals.clone()))?;
        metrics.registry.register(Box::new(metrics.stands.clone()))?;
        metrics.registry.register(Box::new(metrics.delays.clone()))?;
        metrics.registry.register(Box::new(metrics.memory.clone()))?;
        metrics.registry.register(Box::new(metrics.cores.clone()))?;
        let registry = metrics.registry.clone();
        metrics.task.spawn(accept(listener, registry));
        Ok(metrics)
    }

    /// As of now.
    pub(super) fn set(&mut self, counts: &Counts) {
        for (name, count) in counts.totals() {
            if MAY_FALL.contains(&name) {
                self.stands.with_label_values(&[name]).set(count as i64);
                continue;
            }
            let told = self.told.insert(name, count).unwrap_or_default();
            self.totals.with_label_values(&[name]).inc_by(count.saturating_sub(told));
        }
        if let Some(newest) = counts.newest() {
            for (name, count) in &newest.stands {
                self.stands.with_label_values(&[name.as_str()]).set(*count as i64);
            }
            for (part, bytes) in &newest.memory {
                self.memory.with_label_values(&[part.as_str()]).set(*bytes as i64);
            }
            for (part, cores) in &newest.cores {
                self.cores.with_label_values(&[part.as_str()]).set(*cores);
            }
        }
        for measured in counts.measured() {
            for (quantile, share) in [("0.5", 0.5), ("0.99", 0.99), ("1", 1.0)] {
                let labels = [measured.what.as_str(), measured.protocol.as_str(), quantile];
                let delay = measured.delays.at(share).as_secs_f64();
                self.delays.with_label_values(&labels).set(delay);
            }
        }
    }
}

async fn accept(listener: TcpListener, registry: Registry) {
    let mut scrapes = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if scrapes.len() < SCRAPES_MAX => {
                let Ok((stream, _)) = accepted else { continue };
                let registry = registry.clone();
                scrapes.spawn(async move {
                    let answer = service_fn(move |_| {
                        let text = TextEncoder::new().encode_to_string(&registry.gather());
                        let body = Full::new(Bytes::from(text.unwrap_or_default()));
                        let mut answer = http::Response::new(body);
                        // Prometheus takes nothing whose form it is not told.
                        let form = HeaderValue::from_static(prometheus::TEXT_FORMAT);
                        answer.headers_mut().insert(CONTENT_TYPE, form);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    // Whoever scrapes sees an error itself.
                    let serving = Builder::new(TokioExecutor::new());
                    let _ = serving.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
            Some(_) = scrapes.join_next() => {}
        }
    }
}
