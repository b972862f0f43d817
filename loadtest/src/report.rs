//! What a run found: a table for people, a JSON file to keep.

use comfy_table::Table;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Repeats of one figure.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Repeats(Vec<f64>);

impl Repeats {
    /// One more.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The one in the middle; of two, the larger.
    pub fn median(&self) -> f64 {
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
        let median = self.median();
        let decimals = if median < 100.0 { 2 } else { 0 };
        format!("{median:.decimals$} ({least:.decimals$} to {most:.decimals$})")
    }
}

/// One line of the result.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// In what.
    pub unit: &'static str,
    /// Ours.
    pub hawser: Repeats,
    /// What stands beside it.
    pub bare: Option<Repeats>,
    /// Each hawser repeat against the bare one beside it.
    pub ratio: Option<Repeats>,
}

impl Row {
    /// A figure that nothing stands beside.
    pub fn alone(what: String, unit: &'static str, hawser: Repeats) -> Self {
        Self { what, unit, hawser, bare: None, ratio: None }
    }

    /// A figure beside that of the bare loop, or of whoever else does the same.
    pub fn beside(
        what: String,
        unit: &'static str,
        hawser: Repeats,
        bare: Repeats,
        ratio: Repeats,
    ) -> Self {
        Self { what, unit, hawser, bare: Some(bare), ratio: Some(ratio) }
    }
}

/// The machine it was measured on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processor.
    pub cpu: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
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

/// Prints the table.
pub fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.set_header(["what", "unit", "hawser (spread)", "bare (spread)", "ratio (spread)"]);
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
pub fn keep(rows: &[Row], folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let path = folder.join(format!("bench-{now}.json"));
    let result = serde_json::json!({"unix_time": now, "machine": Machine::here(), "rows": rows});
    std::fs::write(&path, serde_json::to_string_pretty(&result)? + "\n")?;
    println!("kept in {}", path.display());
    Ok(())
}
