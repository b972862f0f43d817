//! What a run found: a table for people, a JSON file to keep.

use comfy_table::Table;
use serde::Serialize;
use std::path::Path;

/// Repeats of one figure.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Repeats(Vec<f64>);

impl Repeats {
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn spread(&self) -> (f64, f64) {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (least, most)
    }

    fn shown(&self) -> String {
        let (least, most) = self.spread();
        format!("{:.2} ({least:.2} to {most:.2})", self.median())
    }
}

/// One line of the result.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) hawser: Repeats,
    pub(crate) bare: Option<Repeats>,
    /// Each hawser repeat against the bare one beside it.
    pub(crate) ratio: Option<Repeats>,
}

/// The machine it was measured on.
#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    kernel: String,
    cpu: String,
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| {
                line.strip_prefix("model name")?
                    .split_once(':')
                    .map(|(_, name)| name.trim().to_owned())
            })
            .unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu,
        }
    }
}

pub(crate) fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.set_header(["what", "unit", "hawser (spread)", "bare loop (spread)", "ratio (spread)"]);
    for row in rows {
        let optional =
            |repeats: &Option<Repeats>| repeats.as_ref().map_or("-".into(), Repeats::shown);
        table.add_row([
            row.what.clone(),
            row.unit.to_owned(),
            row.hawser.shown(),
            optional(&row.bare),
            optional(&row.ratio),
        ]);
    }
    println!("{table}");
}

/// Keeps the rows as JSON, named after the time.
pub(crate) fn keep(rows: &[Row], folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let path = folder.join(format!("bench-{now}.json"));
    let result = serde_json::json!({"unix_time": now, "machine": Machine::here(), "rows": rows});
    std::fs::write(&path, serde_json::to_string_pretty(&result)? + "\n")?;
    println!("kept in {}", path.display());
    Ok(())
}
