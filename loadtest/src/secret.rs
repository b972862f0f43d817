//! Where secrets are: in a variable of the environment or in a file, never on a command line or in a scenario.

use anyhow::{Context, bail};

/// A secret from `env:NAME` or `file:/path`. The text is not repeated in an error: it may be the secret itself.
pub(crate) fn read(place: &str) -> anyhow::Result<String> {
    let found = match place.split_once(':') {
        Some(("env", name)) => {
            std::env::var(name).with_context(|| format!("the variable {name} is not set"))?
        }
        Some(("file", path)) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?
        }
        _ => bail!("say where a secret is: env:NAME or file:/path"),
    };
    match found.trim() {
        "" => bail!("a secret is empty"),
        secret => Ok(secret.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_place_of_its_name_is_not_repeated() {
        let error = read("hbk_very-secret").unwrap_err();
        assert!(!format!("{error:#}").contains("very-secret"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, " abc\n").unwrap();
        assert_eq!(read(&format!("file:{}", path.display())).unwrap(), "abc");
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&format!("file:{}", path.display())).is_err());
    }
}
