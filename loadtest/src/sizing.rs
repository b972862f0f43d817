//! `size`: a cluster's size from measured costs, printed with its arithmetic.

use anyhow::{Context, bail};
use hawser_loadtest::costs::Measured;
use hawser_loadtest::size::{self, Goal, Terms, Tier};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// What is wanted, on what terms, by which measurements.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Sizing {
    #[command(flatten)]
    goal: Goal,
    #[command(flatten)]
    terms: Terms,
    /// A result of `hold --apart`; default: the newest in the folder.
    #[arg(long)]
    costs: Option<PathBuf>,
    /// A result of `tier`; default: the newest in the folder.
    #[arg(long)]
    tier: Option<PathBuf>,
    /// Folder of results.
    #[arg(long, default_value = "loadtest/results")]
    results: PathBuf,
}

pub(crate) fn run(wanted: &Sizing) -> anyhow::Result<()> {
    let (costs, measured): (PathBuf, Measured) =
        newest(wanted.costs.as_deref(), &wanted.results, "hold", "hold --apart 20")?;
    let (at, tier): (PathBuf, Tier) =
        newest(wanted.tier.as_deref(), &wanted.results, "tier", "tier")?;
    let name = |path: &Path| path.file_name().map(|it| it.to_string_lossy().into_owned());
    println!(
        "By {} ({} devices held) and {} ({} devices in the tables), both measured on {} cores of {}.\n",
        name(&costs).unwrap_or_default(),
        measured.held,
        name(&at).unwrap_or_default(),
        tier.steps.last().map_or(0, |step| step.devices),
        measured.machine.cores,
        measured.machine.cpu
    );
    print!("{}", size::plan(&wanted.goal, &wanted.terms, &measured, &tier).markdown());
    Ok(())
}

/// The file that was named, or the last of its kind: names hold the time.
fn newest<R: DeserializeOwned>(
    named: Option<&Path>,
    folder: &Path,
    kind: &str,
    makes: &str,
) -> anyhow::Result<(PathBuf, R)> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => last(folder, kind).with_context(|| {
            format!(
                "no {kind}-*.json: run `hawser-loadtest {makes} --results {}`",
                folder.display()
            )
        })?,
    };
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let result = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no result of `{makes}`", path.display()))?;
    Ok((path, result))
}

fn last(folder: &Path, kind: &str) -> anyhow::Result<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|it| it.to_str()).unwrap_or_default();
        let time = name.strip_prefix(kind).and_then(|it| it.strip_prefix('-'));
        if let Some(time) = time.and_then(|it| it.parse::<u64>().ok()) {
            found.push((time, path));
        }
    }
    match found.into_iter().max() {
        Some((_, path)) => Ok(path),
        None => bail!("{} has none", folder.display()),
    }
}
