//! A scenario: what devices, backends and businesses do, in which stages, and which bounds must hold. Written
//! in TOML; this is its form, and what is checked before anything starts.

mod bound;
mod change;
mod load;
mod shipped;
mod stage;
mod text;

pub(crate) use bound::{Bound, Quantity};
pub(crate) use change::{Changes, Setting, seconds};
pub(crate) use load::{Business, Population, PushKind, Pushes, sizes};
pub(crate) use shipped::Shipped;
pub(crate) use stage::Stage;

use crate::schedule::Schedule;
use crate::system;
use anyhow::ensure;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) about: String,
    /// Of everything random.
    #[serde(default = "one")]
    pub(crate) seed: u64,
    #[serde(default)]
    pub(crate) target: Target,
    pub(crate) stages: Vec<Stage>,
    pub(crate) populations: Vec<Population>,
    #[serde(default)]
    pub(crate) pushes: Vec<Pushes>,
    #[serde(default)]
    pub(crate) businesses: Vec<Business>,
    #[serde(default)]
    pub(crate) bounds: Vec<Bound>,
}

/// What is under load.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// `dev`: `hawser dev` is started for the run; the default, unless `control` is named.
    pub(crate) start: Option<Start>,
    /// Control's public API: `http://host:port`.
    pub(crate) control: Option<String>,
    /// The push API of each router.
    #[serde(default)]
    pub(crate) push: Vec<String>,
    pub(crate) app: Option<String>,
    /// The business that populations and pushes which name none are of.
    pub(crate) business: Option<String>,
    /// Its key: `env:NAME` or `file:/path`.
    pub(crate) key: Option<String>,
    /// The app's client secret, where devices have to show it, likewise; none: the app is open to all.
    pub(crate) client_secret: Option<String>,
    /// PEM file of the CAs that devices trust in place of this machine's, and control and push beside them.
    pub(crate) trust: Option<PathBuf>,
}

/// What the tool can start itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Start {
    Dev,
}

fn one() -> u64 {
    1
}

impl Scenario {
    /// Reads a file's text. Errors name line, column and key.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// What the form alone does not say.
    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.stages.is_empty(), "stages: there must be one at least");
        ensure!(!self.populations.is_empty(), "populations: there must be one at least");
        let target = &self.target;
        ensure!(
            target.control.is_none() || target.start.is_none(),
            "target: either start or control, not both"
        );
        if target.control.is_some() {
            ensure!(target.app.is_some(), "target.app: needed with target.control");
            ensure!(target.business.is_some(), "target.business: needed with target.control");
            let has_push = !target.push.is_empty() && target.key.is_some();
            ensure!(
                has_push || self.pushes.is_empty(),
                "target.push, target.key: needed with target.control when there are pushes"
            );
        }
        let mut names = BTreeSet::new();
        for (n, population) in self.populations.iter().enumerate() {
            let at = format!("populations.{n}");
            ensure!(
                names.insert(&population.name),
                "{at}.name: {} is there twice",
                population.name
            );
            population.check(&at)?;
            self.check_business(&at, population.business.as_deref())?;
        }
        for (n, pushes) in self.pushes.iter().enumerate() {
            let at = format!("pushes.{n}");
            ensure!(names.insert(&pushes.name), "{at}.name: {} is there twice", pushes.name);
            pushes.check(&at, &self.populations)?;
            self.check_business(&at, pushes.business.as_deref())?;
        }
        let mut businesses = BTreeSet::new();
        for (n, business) in self.businesses.iter().enumerate() {
            let at = format!("businesses.{n}");
            ensure!(
                businesses.insert(&business.name),
                "{at}.name: {} is there twice",
                business.name
            );
            business.check(&at, target.control.is_some())?;
        }
        for (n, stage) in self.stages.iter().enumerate() {
            stage.check(&format!("stages.{n}"), self)?;
        }
        Ok(())
    }

    fn check_business(&self, at: &str, name: Option<&str>) -> anyhow::Result<()> {
        let is_known = |name: &str| {
            self.businesses.iter().any(|business| business.name == name)
                || self.target.business.as_deref() == Some(name)
                || (self.target.control.is_none() && name == system::BUSINESS)
        };
        ensure!(
            name.is_none_or(is_known),
            "{at}.business: {} is not one of businesses",
            name.unwrap_or_default()
        );
        Ok(())
    }

    /// How long all stages take.
    pub(crate) fn seconds(&self) -> f64 {
        self.stages.iter().map(|stage| stage.seconds).sum()
    }

    /// New devices of this population, by stage.
    pub(crate) fn logins(&self, of: &Population) -> Schedule {
        let key = format!("{}.logins", of.name);
        stage::schedule(&self.stages, of.logins_per_second, &key, |stage| stage.logins)
    }

    /// Requests of this population, by stage.
    pub(crate) fn requests(&self, of: &Population) -> Schedule {
        let key = format!("{}.requests", of.name);
        stage::schedule(&self.stages, of.requests_per_second, &key, |stage| stage.requests)
    }

    /// Calls of these pushes, by stage.
    pub(crate) fn calls(&self, of: &Pushes) -> Schedule {
        stage::schedule(&self.stages, of.per_second, &of.name, |stage| stage.pushes)
    }

    /// When links are cut, and which share of them.
    pub(crate) fn cuts(&self) -> Vec<(f64, f64)> {
        let mut begin = 0.0;
        let mut cuts = Vec::new();
        for stage in &self.stages {
            if stage.cut > 0.0 {
                cuts.push((begin, stage.cut));
            }
            begin += stage.seconds;
        }
        cuts
    }
}

#[cfg(test)]
mod tests;
