//! Secrets in configuration files: they stand elsewhere.

use crate::failure::{Failure, Outcome};
use hawser_chassis::secret::Secret;
use serde::de::{Deserialize, Deserializer, Error};

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
