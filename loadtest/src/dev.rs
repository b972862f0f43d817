//! A `hawser dev` that is started for one command: control, router and access node in one process.

use crate::leash;
use crate::process::Guarded;
use anyhow::{Context, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What it makes at its first start.
pub(crate) const APP: &str = "demo";
pub(crate) const BUSINESS: &str = "chat";
const START_PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// It ends with its owner, and its folder goes with it.
pub(crate) struct Dev {
    /// Before the folder.
    process: Guarded,
    data: tempfile::TempDir,
    /// Control's public API, and the push API.
    pub(crate) control: String,
    pub(crate) push: String,
    /// What devices are to trust.
    pub(crate) trust: PathBuf,
    /// The key of [`BUSINESS`], and the operator's token.
    pub(crate) key: String,
    pub(crate) admin_token: String,
}

impl Dev {
    /// Starts it on free ports and on this store; ready for devices.
    pub(crate) async fn start(binary: &Path, store: &str) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(leash::arguments(binary)).args(["dev", "--ports", "random", "--data-dir"]);
        command.arg(data.path()).env("HAWSER_STORE", store).env("RUST_LOG", "error");
        let mut process = Guarded::start(command.stderr(Stdio::inherit()))?;
        let started = Instant::now();
        let dev = loop {
            if let Ok(dev) = read(&data.path().join("dev.json")) {
                break dev;
            }
            if process.has_ended() || started.elapsed() > START_PATIENCE {
                bail!("hawser dev did not start");
            }
            tokio::time::sleep(LOOK).await;
        };
        let credentials = read(&data.path().join("credentials.json"))?;
        let business = &credentials["apps"][APP]["businesses"][BUSINESS];
        Ok(Self {
            control: text(&dev, "control")?,
            push: text(&dev, "push")?,
            trust: text(&dev, "ca")?.into(),
            key: text(business, "key")?,
            admin_token: text(&credentials, "admin_token")?,
            process,
            data,
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where its data lies.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }
}

fn read(path: &Path) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    let text = value[name].as_str();
    Ok(text.with_context(|| format!("hawser dev tells no {name}"))?.to_owned())
}
