//! The secrets of one development installation: made at the first start, kept in the data directory.

use crate::credentials::write_private;
use crate::failure::{Failure, Outcome};
use hawser_chassis::peers::Peers;
use hawser_chassis::secret::Secret;
use hawser_control::MasterKey;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::Path;

/// What the services show each other and seal with.
pub(super) struct Secrets {
    pub(super) admin_token: Secret,
    pub(super) peers: Peers,
    pub(super) master_key: MasterKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    admin_token: String,
    cluster_secret: String,
    master_key: String,
}

impl Secrets {
    /// Reads what is there, or makes it.
    pub(super) fn load_or_make(data_dir: &Path) -> Outcome<Self> {
        let path = data_dir.join("secrets.json");
        let file = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|failure| {
                Failure::usage(format!("{} is damaged: {failure}", path.display()))
            })?,
            Err(failure) if failure.kind() == ErrorKind::NotFound => {
                let file = File {
                    admin_token: format!("hat_{}", random_hex()),
                    cluster_secret: random_hex(),
                    master_key: random_hex(),
                };
                let text = serde_json::to_vec_pretty(&file).map_err(Failure::usage)?;
                write_private(&path, &text)?;
                file
            }
            Err(failure) => {
                return Err(Failure::usage(format!("cannot read {}: {failure}", path.display())));
            }
        };
        let File { admin_token, cluster_secret, master_key } = file;
        let master_key = MasterKey::from_hex(&master_key)
            .ok_or_else(|| Failure::usage(format!("{} holds no master key", path.display())))?;
        let admin_token = Secret::new(&admin_token);
        let peers = Peers::secret(&Secret::new(&cluster_secret)).map_err(Failure::usage)?;
        Ok(Self { admin_token, peers, master_key })
    }
}

/// 256 random bits.
fn random_hex() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn secrets_are_made_once_and_private() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = Secrets::load_or_make(folder.path()).expect("made");
        let again = Secrets::load_or_make(folder.path()).expect("read");
        assert!(again.admin_token.matches(made.admin_token.expose()));
        assert!(!again.admin_token.matches(&"0".repeat(64)));
        let path = folder.path().join("secrets.json");
        let permissions = std::fs::metadata(&path).expect("there").permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600);
        std::fs::write(&path, "{}").expect("written");
        assert!(Secrets::load_or_make(folder.path()).is_err());
    }
}
