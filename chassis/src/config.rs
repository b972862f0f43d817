//! Configuration files: TOML, read once at start, unknown keys refused by the types that read them.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why a configuration file cannot be used. `Display` names the file; the source has line and column.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or not of the expected form.
    #[error("{path} is not a valid configuration")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

/// Reads a configuration file into its type. Give the type `#[serde(deny_unknown_fields)]`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}
