//! The credentials file: where `hawser dev` and `--save` leave addresses and keys, and where the other
//! commands find them. Readable by its owner alone.

use crate::failure::{Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Everything in the file. Absent parts are left out.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    /// Address of control's HTTP API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) control: Option<String>,
    /// Address of the push API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) push: Option<String>,
    /// Opens everything at control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) admin_token: Option<String>,
    /// By app id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) apps: BTreeMap<String, AppCredentials>,
}

/// What is kept of one app.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AppCredentials {
    /// Opens this app at control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner_key: Option<String>,
    /// Signs the proofs of the app's devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_secret: Option<String>,
    /// Business keys, by business id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) businesses: BTreeMap<String, BusinessKey>,
}

/// A business key and its public name.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BusinessKey {
    /// Names the key at control.
    pub(crate) key_id: String,
    /// The key itself.
    pub(crate) key: String,
}

/// Where the file lies in a data directory.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("credentials.json")
}

impl Credentials {
    /// What is in the file; nothing when there is none.
    pub(crate) fn load(data_dir: &Path) -> Outcome<Self> {
        let path = path(data_dir);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|failure| {
                Failure::usage(format!("{} is damaged: {failure}", path.display()))
            }),
            Err(failure) if failure.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(failure) => {
                Err(Failure::usage(format!("cannot read {}: {failure}", path.display())))
            }
        }
    }

    /// Replaces the file in one step.
    pub(crate) fn save(&self, data_dir: &Path) -> Outcome {
        let text = serde_json::to_vec_pretty(self).map_err(Failure::usage)?;
        write_private(&path(data_dir), &text)
    }

    /// The app to use: the named one, the only one there is, or the one of `hawser dev`.
    pub(crate) fn app(&self, named: Option<&str>) -> Outcome<String> {
        if let Some(app) = named {
            return Ok(app.to_owned());
        }
        only(&self.apps, DEV_APP)
            .ok_or_else(|| Failure::usage("which app? say --app NAME or set HAWSER_APP"))
    }

    /// The business of an app to use: the named one, the only one there is, or that of `hawser dev`.
    pub(crate) fn business(&self, app: &str, named: Option<&str>) -> Outcome<String> {
        if let Some(business) = named {
            return Ok(business.to_owned());
        }
        self.apps.get(app).and_then(|app| only(&app.businesses, DEV_BUSINESS)).ok_or_else(|| {
            Failure::usage("which business? say --business NAME or set HAWSER_BUSINESS")
        })
    }

    /// The stored key of a business.
    pub(crate) fn key(&self, app: &str, business: &str) -> Option<&BusinessKey> {
        self.apps.get(app)?.businesses.get(business)
    }
}

/// The app that `hawser dev` makes.
pub(crate) const DEV_APP: &str = "demo";
/// The business of that app.
pub(crate) const DEV_BUSINESS: &str = "chat";

/// The only name there is, or the preferred one of several.
fn only<T>(map: &BTreeMap<String, T>, preferred: &str) -> Option<String> {
    let mut names = map.keys();
    names.find(|name| map.len() == 1 || *name == preferred).cloned()
}

/// Writes a file that only its owner may read, and replaces an older one in one step.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Outcome {
    let wrong = |failure: std::io::Error| {
        Failure::usage(format!("cannot write {}: {failure}", path.display()))
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(wrong)?;
    }
    let beside = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(wrong)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(wrong)?;
    std::fs::rename(&beside, path).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn chat() -> BusinessKey {
        BusinessKey { key_id: "k1".into(), key: "hbk_secret".into() }
    }

    #[test]
    fn what_is_saved_is_found_again_and_private() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let none = Credentials::load(folder.path()).expect("no file is no failure");
        assert!(none.control.is_none() && none.apps.is_empty());

        let mut credentials = Credentials { push: Some("http://p".into()), ..Default::default() };
        credentials.apps.entry("demo".into()).or_default().businesses.insert("chat".into(), chat());
        credentials.save(folder.path()).expect("saved");
        let mode = std::fs::metadata(path(folder.path())).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Credentials::load(folder.path()).expect("loaded");
        assert_eq!(again.key("demo", "chat").map(|key| key.key.as_str()), Some("hbk_secret"));
    }

    #[test]
    fn the_only_app_and_business_need_no_name() {
        let mut credentials = Credentials::default();
        assert!(credentials.app(None).is_err());
        credentials.apps.entry("demo".into()).or_default().businesses.insert("chat".into(), chat());
        assert_eq!(credentials.app(None).expect("the only one"), "demo");
        assert_eq!(credentials.business("demo", None).expect("the only one"), "chat");
        credentials.apps.entry("other".into()).or_default();
        assert_eq!(credentials.app(None).expect("that of dev"), "demo");
        credentials.apps.entry("third".into()).or_default();
        credentials.apps.remove("demo");
        assert!(credentials.app(None).is_err());
        assert_eq!(credentials.app(Some("x")).expect("named"), "x");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(path(folder.path()), "{\"contrl\": 1}").expect("written");
        let failure = Credentials::load(folder.path()).err().expect("refused");
        assert!(failure.to_string().contains("credentials.json is damaged"));
    }
}
