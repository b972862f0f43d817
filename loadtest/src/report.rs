//! What a run found: a table for people, a JSON file to keep.

use anyhow::Context as _;
use comfy_table::Table;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Repeats of one figure.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

    /// The least and the most.
    pub fn spread(&self) -> (f64, f64) {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (least, most)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Median and spread, for people.
    pub fn shown(&self) -> String {
        let (least, most) = self.spread();
        let median = self.median();
        let decimals = if median < 100.0 { 2 } else { 0 };
        format!("{median:.decimals$} ({least:.decimals$} to {most:.decimals$})")
    }
}

impl FromIterator<f64> for Repeats {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

/// One figure of both sides, repeat by repeat.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    hawser: Repeats,
    bare: Repeats,
    ratio: Repeats,
    parts: BTreeMap<String, Repeats>,
}

impl Beside {
    /// One more repeat: ours, and of whoever stands beside us.
    pub fn add(&mut self, hawser: f64, bare: f64) {
        self.hawser.add(hawser);
        self.bare.add(bare);
        self.ratio.add(hawser / bare);
    }

    /// What our parts had in that repeat.
    pub fn add_parts(&mut self, parts: &BTreeMap<&'static str, f64>) {
        for (part, value) in parts {
            self.parts.entry((*part).to_owned()).or_default().add(*value);
        }
    }

    /// What the repeats came to.
    pub fn row(self, what: String, unit: &'static str) -> Row {
        let Self { hawser, bare, ratio, parts } = self;
        Row { parts, ..Row::beside(what, unit, hawser, bare, ratio) }
    }
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The ratio to what stands beside it, at most.
    RatioAtMost(f64),
    /// The same, at least.
    RatioAtLeast(f64),
    /// The figure itself, at most.
    AtMost(f64),
}

/// A target, and the record to beat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The target.
    pub bound: Bound,
    /// Who reaches what today.
    pub record: String,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// In what.
    pub unit: String,
    /// Ours.
    pub hawser: Repeats,
    /// What stands beside it.
    pub bare: Option<Repeats>,
    /// Each hawser repeat against the bare one beside it.
    pub ratio: Option<Repeats>,
    /// Ours by part, where parts can be told apart.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, Repeats>,
    /// What is to be reached, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

impl Row {
    /// A figure that nothing stands beside.
    pub fn alone(what: String, unit: &'static str, hawser: Repeats) -> Self {
        let (bare, ratio, target) = (None, None, None);
        Self { what, unit: unit.to_owned(), hawser, bare, ratio, parts: BTreeMap::new(), target }
    }

    /// A figure beside that of the bare loop, or of whoever else does the same.
    pub fn beside(
        what: String,
        unit: &'static str,
        hawser: Repeats,
        bare: Repeats,
        ratio: Repeats,
    ) -> Self {
        Self { bare: Some(bare), ratio: Some(ratio), ..Self::alone(what, unit, hawser) }
    }

    /// With what it is to reach.
    #[must_use]
    pub fn to_reach(self, bound: Bound, record: &str) -> Self {
        Self { target: Some(Target { bound, record: record.to_owned() }), ..self }
    }

    /// Whether the median reaches the target. Nothing: there is no target, or no ratio.
    pub fn is_met(&self) -> Option<bool> {
        let ratio = || self.ratio.as_ref().map(Repeats::median);
        match self.target.as_ref()?.bound {
            Bound::RatioAtMost(most) => Some(ratio()? <= most),
            Bound::RatioAtLeast(least) => Some(ratio()? >= least),
            Bound::AtMost(most) => Some(self.hawser.median() <= most),
        }
    }

    /// The target in words.
    pub fn target_shown(&self) -> String {
        match self.target.as_ref().map(|target| target.bound) {
            None => String::new(),
            Some(Bound::RatioAtMost(most)) => format!("≤ {most:.2} ×"),
            Some(Bound::RatioAtLeast(least)) => format!("≥ {least:.2} ×"),
            Some(Bound::AtMost(most)) => format!("≤ {most}"),
        }
    }
}

/// Everything that one run found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// When it was measured, in seconds since 1970.
    pub unix_time: u64,
    /// On what.
    pub machine: Machine,
    /// Threads of each service that ran its tasks; `None`: as many as cores.
    #[serde(default)]
    pub workers: Option<usize>,
    /// What came out.
    pub rows: Vec<Row>,
}

impl Kept {
    /// Reads a result file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
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
    table.set_header([
        "what",
        "unit",
        "hawser (spread)",
        "bare (spread)",
        "ratio (spread)",
        "target",
        "met",
        "hawser by part",
    ]);
    for row in rows {
        let optional =
            |repeats: &Option<Repeats>| repeats.as_ref().map_or("-".into(), Repeats::shown);
        let met = row.is_met().map_or("", |met| if met { "met" } else { "not met" });
        let parts = row.parts.iter().map(|(part, each)| format!("{part} {:.2}", each.median()));
        table.add_row([
            row.what.clone(),
            row.unit.clone(),
            row.hawser.shown(),
            optional(&row.bare),
            optional(&row.ratio),
            row.target_shown(),
            met.to_owned(),
            parts.collect::<Vec<_>>().join(", "),
        ]);
    }
    println!("{table}");
}

/// Keeps the rows as JSON, named after the time.
pub fn keep(rows: &[Row], workers: Option<usize>, folder: &Path) -> anyhow::Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let machine = Machine::here();
    let result = Kept { unix_time: now, machine, workers, rows: rows.to_vec() };
    keep_as("bench", now, &result, folder)
}

/// Keeps a result as JSON, named after its kind and time.
pub fn keep_as<R: Serialize>(
    kind: &str,
    time: u64,
    result: &R,
    folder: &Path,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("{kind}-{time}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(result)? + "\n")?;
    println!("kept in {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_by_the_median_and_in_its_own_direction() {
        let some = |values: &[f64]| values.iter().copied().collect::<Repeats>();
        let row = Row::beside("it".into(), "s", some(&[9.0]), some(&[1.0]), some(&[1.0, 2.0, 9.0]));
        let met = |row: &Row, bound| row.clone().to_reach(bound, "").is_met();
        assert_eq!(met(&row, Bound::RatioAtMost(2.0)), Some(true));
        assert_eq!(met(&row, Bound::RatioAtMost(1.9)), Some(false));
        assert_eq!(met(&row, Bound::RatioAtLeast(2.0)), Some(true));
        assert_eq!(met(&row, Bound::RatioAtLeast(2.1)), Some(false));
        assert_eq!(met(&row, Bound::AtMost(8.9)), Some(false));
        assert_eq!(row.is_met(), None);
    }

    #[test]
    fn what_was_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let hawser = [1.5, 2.5].into_iter().collect();
        let mut row =
            Row::alone("memory".into(), "bytes", hawser).to_reach(Bound::AtMost(2.0), "x");
        row.parts.insert("access".into(), [1.0].into_iter().collect());
        keep(&[row], None, folder.path()).unwrap();
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
        let read = Kept::read(&file.path()).unwrap();
        assert_eq!(read.rows[0].is_met(), Some(false));
        assert_eq!(read.rows[0].parts["access"].count(), 1);
    }
}
