//! Logs to standard error and the count of panics.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, Registry};
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

fn panics() -> &'static IntCounter {
    static PANICS: OnceLock<IntCounter> = OnceLock::new();
    PANICS.get_or_init(|| {
        IntCounter::new("hawser_panics_total", "Grows when a task of this process panicked.")
            .expect("the name is a valid metric name")
    })
}

/// Starts logging; call once. `filter` is in the form of `RUST_LOG`, which wins when it is set.
pub fn init(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second call (tests in one process) keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        panics().inc();
        before(info);
    }));
}

/// Tasks alive in the runtime of whoever asks. What only grows is a leak.
struct AliveTasks(IntGauge);

impl Collector for AliveTasks {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.0.set(i64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(i64::MAX));
        }
        self.0.collect()
    }
}

fn tasks() -> AliveTasks {
    AliveTasks(
        IntGauge::new("hawser_tasks", "Tasks alive in this process.")
            .expect("the name is a valid metric name"),
    )
}

/// A registry that holds what every process has: CPU, memory, descriptors, tasks and panics.
pub fn registry() -> Registry {
    let registry = Registry::new();
    let process = prometheus::process_collector::ProcessCollector::for_self();
    for collector in
        [Box::new(process) as Box<dyn Collector>, Box::new(panics().clone()), Box::new(tasks())]
    {
        registry.register(collector).expect("a new registry holds no other metric of this name");
    }
    registry
}
