//! The rules of the house that the compiler does not know: which crate may stand on which, what a file
//! may not be called, what pure code may not mention. Each complaint says what to do instead.

use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each of our crates may stand on. Arrows point down; what is missing here is not allowed.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    ("hawser-proto", &[]),
    ("hawser-chassis", &[]),
    ("hawser-control", &["hawser-proto", "hawser-chassis"]),
    ("hawser-access", &["hawser-proto", "hawser-chassis"]),
    ("hawser-router", &["hawser-proto", "hawser-chassis"]),
    ("hawser-sdk", &["hawser-proto"]),
    ("hawser-loadtest", &["hawser-proto", "hawser-sdk"]),
    ("hawser-xtask", &[]),
    (
        "hawser",
        &[
            "hawser-proto",
            "hawser-chassis",
            "hawser-control",
            "hawser-access",
            "hawser-router",
            "hawser-sdk",
        ],
    ),
];

/// Crates that a crate of ours must never name, and why.
const MUST_NOT_NAME: &[(&str, &str, &str)] = &[
    (
        "hawser-proto",
        "tokio",
        "proto opens no socket and spawns no task: take bytes and times as arguments",
    ),
    ("hawser-proto", "socket2", "proto opens no socket"),
    ("hawser-access", "fjall", "an access node has no store: delivery state belongs to the router"),
    ("hawser-access", "redis", "an access node has no store: delivery state belongs to the router"),
    ("hawser-sdk", "tonic", "the device's side needs no gRPC"),
];

/// One crypto provider serves everything; two in the tree make the default ambiguous.
const MUST_NOT_BE_IN_TREE: &[(&str, &str)] =
    &[("ring", "turn off the default features of whoever brings it, and pick aws-lc-rs")];

/// Files that decide and must not do: what they may not mention.
const PURE: &[(&str, &[&str])] = &[
    ("access/src/session.rs", &["tokio", "std::net", "Arc<", "Mutex", "Instant::now"]),
    ("access/src/session/state.rs", &["tokio", "std::net", "Arc<", "Mutex", "Instant::now"]),
    ("access/src/wheel.rs", &["tokio", "std::net", "Instant::now"]),
    ("access/src/outbox.rs", &["tokio", "std::net", "Instant::now"]),
    ("access/src/reader.rs", &["tokio", "std::net", "Instant::now"]),
    ("router/src/table.rs", &["tokio", "std::net", "tonic", "Instant::now", "SystemTime::now"]),
    ("control/src/placement.rs", &["tokio", "std::net::Tcp", "tonic", "SystemTime::now"]),
    ("sdk-rs/src/session.rs", &["tokio", "std::net", "Instant::now"]),
];

/// Names that say the idea is not found yet.
const VAGUE: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "misc"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

pub(crate) fn run() -> anyhow::Result<()> {
    let metadata = metadata()?;
    let mut complaints = Vec::new();
    dependencies(&metadata, &mut complaints);
    tree(&metadata.workspace_root, &mut complaints)?;
    files(&metadata.workspace_root, &mut complaints)?;
    pure(&metadata.workspace_root, &mut complaints)?;
    if complaints.is_empty() {
        println!("tidy: {} crates stand as they should", metadata.workspace_members.len());
        return Ok(());
    }
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    bail!("{} complaints", complaints.len())
}

fn cargo(arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

fn metadata() -> anyhow::Result<Metadata> {
    let json = cargo(&["metadata", "--format-version", "1", "--no-deps"])?;
    serde_json::from_slice(&json).context("cargo metadata has another form than expected")
}

fn dependencies(metadata: &Metadata, complaints: &mut Vec<String>) {
    for package in metadata.packages.iter().filter(|it| metadata.workspace_members.contains(&it.id))
    {
        let Some((_, allowed)) = MAY_DEPEND.iter().find(|(name, _)| *name == package.name) else {
            complaints.push(format!(
                "{} is not in the table of crates: say there what it may stand on (xtask/src/tidy.rs)",
                package.name
            ));
            continue;
        };
        // What only tests use may come from above: a test may start whole services.
        for dependency in package.dependencies.iter().filter(|it| it.kind.as_deref() != Some("dev"))
        {
            let is_ours = MAY_DEPEND.iter().any(|(name, _)| *name == dependency.name);
            if is_ours && !allowed.contains(&dependency.name.as_str()) {
                complaints.push(format!(
                    "{} must not depend on {}: services meet in gRPC, and what both need belongs in proto or chassis",
                    package.name, dependency.name
                ));
            }
            for (of, name, instead) in MUST_NOT_NAME {
                if *of == package.name && *name == dependency.name {
                    complaints.push(format!("{of} must not depend on {name}: {instead}"));
                }
            }
        }
    }
}

fn tree(root: &Path, complaints: &mut Vec<String>) -> anyhow::Result<()> {
    let manifest = root.join("Cargo.toml");
    let manifest = manifest.to_str().context("the workspace lies in a folder with an odd name")?;
    let listed = cargo(&[
        "tree",
        "--manifest-path",
        manifest,
        "--workspace",
        "--prefix",
        "none",
        "--edges",
        "normal,build",
    ])?;
    let listed = String::from_utf8_lossy(&listed);
    for (name, instead) in MUST_NOT_BE_IN_TREE {
        if listed.lines().any(|line| line.split(' ').next() == Some(name)) {
            complaints.push(format!("{name} is in the dependency tree: {instead}"));
        }
    }
    Ok(())
}

fn files(root: &Path, complaints: &mut Vec<String>) -> anyhow::Result<()> {
    for file in rust_files(root)? {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let shown = file.strip_prefix(root).unwrap_or(&file).display();
        if stem == "mod" {
            complaints.push(format!(
                "{shown}: name it after its folder and put it beside it (foo.rs with foo/)"
            ));
        }
        if VAGUE.contains(&stem) {
            complaints
                .push(format!("{shown}: the best name is `{stem}`, so the idea is not found yet"));
        }
    }
    Ok(())
}

fn rust_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .with_context(|| format!("cannot list {}", folder.display()))?
        {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules"
            {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// The lines of a file before its tests, comments left out.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .filter(|line| !line.trim_start().starts_with("//"))
}

fn pure(root: &Path, complaints: &mut Vec<String>) -> anyhow::Result<()> {
    for (file, banned) in PURE {
        let text = std::fs::read_to_string(root.join(file)).with_context(|| {
            format!("{file} is listed as pure, but cannot be read; correct the list")
        })?;
        for word in *banned {
            if code(&text).any(|line| line.contains(word)) {
                complaints.push(format!(
                    "{file} mentions `{word}`: it decides and does nothing; let its shell do it, and hand in what it needs"
                ));
            }
        }
    }
    Ok(())
}
