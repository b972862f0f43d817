//! Text forms in configuration files: spans of time, and secrets that stand elsewhere.

use crate::failure::{Failure, Outcome};
use hawser_chassis::secret::Secret;
use serde::de::{Deserialize, Deserializer, Error};
use std::time::Duration;

/// A span of time: a whole number and `ms`, `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = text[..digits].parse().ok()?;
        let unit_ms = match &text[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        Some(Self(Duration::from_millis(count.checked_mul(unit_ms)?)))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            Error::custom("a span of time is a whole number and ms, s, m or h, such as \"10s\"")
        })
    }
}

/// Where a secret stands: `env:NAME` or `file:/path`. Never in the configuration itself.
#[derive(Clone, Debug)]
pub(super) enum SecretAt {
    Env(String),
    File(String),
}

impl SecretAt {
    /// Reads it. White space around it is not part of it.
    pub(super) fn read(&self) -> Outcome<Secret> {
        let found = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| {
                Failure::usage(format!("the environment variable {name} is not set"))
            })?,
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|failure| Failure::usage(format!("cannot read {path}: {failure}")))?,
        };
        match found.trim() {
            "" => Err(Failure::usage(format!("the secret at {self:?} is empty"))),
            secret => Ok(Secret::new(secret)),
        }
    }
}

impl<'de> Deserialize<'de> for SecretAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            // The text is not repeated: it may be the secret itself.
            _ => Err(Error::custom("say where the secret is: \"env:NAME\" or \"file:/path\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_number_and_a_unit() {
        for (text, wanted_ms) in
            [("0s", 0), ("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000)]
        {
            assert_eq!(Span::parse(text), Some(Span(Duration::from_millis(wanted_ms))), "{text}");
        }
        for bad in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "10 s",
            "1d",
            "99999999999999999999s",
            "9999999999999999999h",
        ] {
            assert_eq!(Span::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_secret_is_read_from_where_it_stands() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secret");
        let at = SecretAt::File(path.display().to_string());
        assert!(at.read().is_err(), "no file");
        std::fs::write(&path, " open sesame \n").expect("written");
        assert!(at.read().expect("read").matches("open sesame"));
        std::fs::write(&path, "\n").expect("written");
        assert!(at.read().is_err(), "empty");
    }
}
