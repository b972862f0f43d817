//! Changes of a scenario from the command line: single values, all sizes, or the length.

use super::{Scenario, text};
use anyhow::{Context, anyhow, ensure};
use std::str::FromStr;
use toml::{Table, Value};

/// What is changed of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) set: Vec<Setting>,
    /// Of all counts of devices and all rates.
    pub(crate) scale: Option<f64>,
    /// Of all stages together.
    pub(crate) seconds: Option<f64>,
}

/// `populations.0.count=20000`.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    path: String,
    value: Value,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
        // What is no value of TOML is a string that needs no quotes here.
        let parsed = format!("value = {value}").parse::<Table>().ok();
        let value = parsed
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::String(value.to_owned()));
        Ok(Self { path: path.trim().to_owned(), value })
    }
}

impl Changes {
    /// The scenario of this text with the changes.
    pub(crate) fn apply(&self, text: &str) -> anyhow::Result<Scenario> {
        // First as it was written, so that an error has its place.
        let mut scenario = Scenario::parse(text)?;
        if !self.set.is_empty() {
            let mut whole: Value = Value::Table(text.parse()?);
            for Setting { path, value } in &self.set {
                set(&mut whole, path, value.clone()).with_context(|| format!("--set {path}"))?;
            }
            scenario = whole.try_into().context("after --set")?;
            scenario.check().context("after --set")?;
        }
        if let Some(scale) = self.scale {
            ensure!(scale > 0.0 && scale.is_finite(), "--scale: {scale} is not above zero");
            scenario.scale(scale);
        }
        if let Some(seconds) = self.seconds {
            ensure!(seconds > 0.0 && seconds.is_finite(), "--seconds: {seconds} is not above zero");
            let factor = seconds / scenario.seconds();
            scenario.stretch(factor);
        }
        Ok(scenario)
    }
}

impl Scenario {
    /// Logins become as much slower, so that as many devices come in each stage.
    fn stretch(&mut self, by: f64) {
        for stage in &mut self.stages {
            stage.seconds *= by;
            let logins = stage.rates.iter_mut().filter(|(name, _)| name.ends_with(".logins"));
            logins.for_each(|(_, rate)| *rate /= by);
        }
        for population in &mut self.populations {
            population.logins_per_second /= by;
        }
    }

    fn scale(&mut self, by: f64) {
        for population in &mut self.populations {
            population.count = ((f64::from(population.count) * by).round() as u32).max(1);
            population.logins_per_second *= by;
            population.requests_per_second *= by;
        }
        for pushes in &mut self.pushes {
            // A multicast reaches as many fewer by itself.
            if pushes.kind != super::PushKind::Multicast {
                pushes.per_second *= by;
            }
        }
        for stage in &mut self.stages {
            let is_multicast = |name: &str| {
                let mut all = self.pushes.iter();
                all.any(|one| one.name == name && one.kind == super::PushKind::Multicast)
            };
            for (name, rate) in &mut stage.rates {
                if !is_multicast(name) {
                    *rate *= by;
                }
            }
        }
    }
}

/// Puts a value where the path leads; its last part may be new, everything before it must be there.
fn set(whole: &mut Value, path: &str, value: Value) -> anyhow::Result<()> {
    let (before, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut here = whole;
    for part in before.split('.').filter(|part| !part.is_empty()) {
        here = match here {
            Value::Table(table) if table.contains_key(part) => &mut table[part],
            Value::Array(array) => part
                .parse::<usize>()
                .ok()
                .and_then(|index| array.get_mut(index))
                .ok_or_else(|| anyhow!("there is no {part} in the list"))?,
            _ => return Err(anyhow!("there is no {part}")),
        };
    }
    match here {
        Value::Table(table) => {
            // A whole number stands for a rate, too.
            let value = match (table.get(last), value) {
                (Some(Value::Float(_)), Value::Integer(whole)) => Value::Float(whole as f64),
                (_, value) => value,
            };
            table.insert(last.to_owned(), value);
        }
        Value::Array(array) => {
            let index = last.parse::<usize>().context("a list is changed by number")?;
            *array.get_mut(index).ok_or_else(|| anyhow!("there is no {index} in the list"))? =
                value;
        }
        _ => return Err(anyhow!("{before} has no parts")),
    }
    Ok(())
}

/// `5m` and `300` alike, for `--seconds`.
pub(crate) fn seconds(written: &str) -> Result<f64, String> {
    written.parse().or_else(|_| text::duration(written).map(|time| time.as_secs_f64()))
}
