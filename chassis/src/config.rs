//! Configuration: a TOML file, over it the environment, over that the command line. Read once at start; unknown
//! keys are refused by the types that read them.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Why a configuration cannot be used. `Display` names the file; the source has line and column.
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
    /// File, environment and command line together are not of the expected form, and none of them alone is to
    /// blame: something is missing.
    #[error("{message}")]
    Merged {
        /// What is wrong.
        message: String,
    },
    /// A setting of the environment or the command line is not of the expected form.
    #[error("{origin}: {message}")]
    Setting {
        /// Where it came from.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// A setting of the environment or the command line cannot be placed.
    #[error("{origin} cannot be set: {reason}")]
    Override {
        /// Where it came from.
        origin: String,
        /// Why not.
        reason: &'static str,
    },
}

/// A setting from outside the file, which wins over it.
#[derive(Clone, Debug)]
pub struct Override {
    /// For whoever has to mend it.
    origin: String,
    path: Vec<String>,
    value: Value,
}

impl Override {
    /// The settings that the environment holds: `PREFIX_KEY`, and `PREFIX_TABLE__KEY` inside of tables. What
    /// Kubernetes puts there for services whose names begin like that is left alone.
    pub fn of_environment(
        prefix: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Vec<Self> {
        let taken = |(name, text): (String, String)| {
            let key = name.strip_prefix(prefix)?.strip_prefix('_')?;
            if key.is_empty() || is_of_kubernetes(key, &text) {
                return None;
            }
            let path = key.split("__").map(str::to_lowercase).collect();
            Some(Self { path, value: value(&text), origin: name })
        };
        let mut all: Vec<_> = variables.into_iter().filter_map(taken).collect();
        // A table that is given whole comes before what is given inside of it.
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    /// A setting as `key=value`, or `table.key=value`.
    pub fn of_flag(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::Override {
            // The value is not repeated: it may be a secret that should not be there.
            origin: format!("--set {}", text.split('=').next().unwrap_or_default()),
            reason: "it is not of the form key=value",
        };
        let (key, text) = text.split_once('=').ok_or_else(wrong)?;
        let path: Vec<_> = key.trim().split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self { origin: format!("--set {key}"), path, value: value(text) })
    }

    fn apply(&self, table: &mut Table) -> Result<(), ConfigError> {
        let Some((last, tables)) = self.path.split_last() else { return Ok(()) };
        let mut at = table;
        for name in tables {
            let next = at.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()));
            at = next.as_table_mut().ok_or_else(|| ConfigError::Override {
                origin: self.origin.clone(),
                reason: "what it is to be in is not a table",
            })?;
        }
        at.insert(last.clone(), self.value.clone());
        Ok(())
    }
}

/// Every pod finds, for each service of its namespace, `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` with one more for
/// each port that has a name, `NAME_PORT=tcp://10.0.0.1:80`, and `NAME_PORT_80_TCP` with three more. A service
/// `hawser-router-push` thus begins as a setting of a router does, and must not keep one from starting. `key`: what
/// follows the prefix. No setting has such a name.
fn is_of_kubernetes(key: &str, text: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    // The whole name, or what stands behind that of a longer one.
    let parts: Vec<_> = key.split('_').collect();
    let is_url = || {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_uppercase());
        scheme.is_some_and(|scheme| PROTOCOLS.contains(&scheme.as_str()))
    };
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
    (0..parts.len()).any(|at| match parts[at..] {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] => true,
        // Whoever means to set a port gives a number.
        ["PORT"] => is_url(),
        ["PORT", number, protocol, ..] => is_number(number) && PROTOCOLS.contains(&protocol),
        _ => false,
    })
}

/// A number, a truth, a list, a table or a quoted text as TOML has them; anything else is the text itself.
fn value(text: &str) -> Value {
    let of_toml = || toml::from_str::<Table>(&format!("it = {text}")).ok()?.remove("it");
    match text.trim().chars().next() {
        Some('"' | '\'' | '[' | '{' | '0'..='9' | '+' | '-' | 't' | 'f') => of_toml(),
        _ => None,
    }
    // An address like 10.0.0.1:80 or a date begins like a number; only what TOML calls one is.
    .filter(|value| !value.is_datetime())
    .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Reads a configuration into its type: the file, if there is one, and over it these settings, the last one
/// winning. Give the type `#[serde(deny_unknown_fields)]`.
pub fn load<T: DeserializeOwned>(
    path: Option<&Path>,
    overrides: &[Override],
) -> Result<T, ConfigError> {
    let text = match path {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?,
        None => String::new(),
    };
    let parse = |source| ConfigError::Parse {
        path: path.unwrap_or(Path::new("")).to_owned(),
        source: Box::new(source),
    };
    if overrides.is_empty() {
        // Read as it stands, mistakes have a place.
        return toml::from_str(&text).map_err(parse);
    }
    let table: Table = toml::from_str(&text).map_err(parse)?;
    let all: Vec<_> = overrides.iter().collect();
    let error = match merged(&table, &all)? {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    let message = said(&error);
    // To blame is the setting without which there would be no mistake, or another one. Of what is missing only
    // the first is told: without a setting that is fine, that one would be missing first.
    let is_missing = |message: &str| message.starts_with("missing field");
    for one in overrides.iter().rev() {
        let others: Vec<_> = overrides.iter().filter(|other| other.path != one.path).collect();
        let is_to_blame = match merged::<T>(&table, &others) {
            Ok(Ok(_)) => true,
            Ok(Err(other)) => {
                let other = said(&other);
                other != message && !(is_missing(&message) && is_missing(&other))
            }
            // It made the place for others.
            Err(_) => false,
        };
        if is_to_blame {
            return Err(ConfigError::Setting { origin: one.origin.clone(), message });
        }
    }
    // Or the file, where the mistake has a place. What is missing could stand in any of them.
    match toml::from_str::<T>(&text) {
        Err(alone) if alone.message() == error.message() && !is_missing(&message) => {
            Err(parse(alone))
        }
        _ => Err(ConfigError::Merged { message }),
    }
}

fn merged<T: DeserializeOwned>(
    file: &Table,
    overrides: &[&Override],
) -> Result<Result<T, toml::de::Error>, ConfigError> {
    let mut table = file.clone();
    for one in overrides {
        one.apply(&mut table)?;
    }
    Ok(Value::Table(table).try_into())
}

/// With the table that it is in, on one line.
fn said(error: &toml::de::Error) -> String {
    error.to_string().trim().replace('\n', ", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct File {
        name: String,
        #[serde(default)]
        count: u32,
        #[serde(default)]
        routers: Vec<String>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        on: bool,
        at: String,
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<Override> {
        let pairs = pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Override::of_environment("HAWSER_ROUTER", pairs)
    }

    fn loaded(file: &str, overrides: &[Override]) -> Result<File, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, file).expect("written");
        load(Some(&path), overrides).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file = "name = \"file\"\ncount = 1\n[inner]\non = false\nat = \"file\"";
        let mut all = environment(&[
            ("HAWSER_ROUTER_COUNT", "2"),
            ("HAWSER_ROUTER_INNER__ON", "true"),
            ("HAWSER_ROUTER_ROUTERS", "[\"http://a:1\", \"http://b:1\"]"),
            ("HAWSER_ROUTER", "not a setting"),
            ("HAWSER_ROUTERS_COUNT", "9"),
            ("HAWSER_ACCESS_COUNT", "9"),
            ("PATH", "/bin"),
        ]);
        let of_environment = loaded(file, &all).expect("read");
        assert_eq!((of_environment.name.as_str(), of_environment.count), ("file", 2));
        assert_eq!(of_environment.routers, ["http://a:1", "http://b:1"]);
        assert_eq!(of_environment.inner, Some(Inner { on: true, at: "file".into() }));
        for flag in ["name=flag", "count=3", "inner.at=10.0.0.1:80"] {
            all.push(Override::of_flag(flag).expect("of the form"));
        }
        let of_flags = loaded(file, &all).expect("read");
        assert_eq!((of_flags.name.as_str(), of_flags.count), ("flag", 3));
        assert_eq!(of_flags.inner, Some(Inner { on: true, at: "10.0.0.1:80".into() }));
        let none: File = load(None, &all).map(|it: File| it).expect("no file is needed");
        assert_eq!(none.count, 3);
    }

    #[test]
    fn texts_need_no_quotes_unless_they_look_like_something_else() {
        for (text, wanted) in [
            ("plain", "plain"),
            ("true-ish", "true-ish"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("2026-01-01", "2026-01-01"),
            ("10s", "10s"),
            ("\"7\"", "7"),
            ("env:SECRET", "env:SECRET"),
            ("a = b", "a = b"),
            ("[::1]:80", "[::1]:80"),
        ] {
            let flag = Override::of_flag(&format!("name={text}")).expect("of the form");
            assert_eq!(loaded("", &[flag]).expect("read").name, wanted, "{text}");
        }
    }

    #[test]
    fn what_kubernetes_leaves_in_the_environment_is_not_ours() {
        let theirs = [
            ("HAWSER_ROUTER_SERVICE_HOST", "10.0.0.1"),
            ("HAWSER_ROUTER_SERVICE_PORT", "9090"),
            ("HAWSER_ROUTER_SERVICE_PORT_PUSH", "9090"),
            ("HAWSER_ROUTER_PORT", "tcp://10.0.0.1:9090"),
            ("HAWSER_ROUTER_PORT_9090_TCP_ADDR", "10.0.0.1"),
            // Of services `hawser-router-push` and `hawser-router-0-port`.
            ("HAWSER_ROUTER_PUSH_SERVICE_HOST", "10.0.0.1"),
            ("HAWSER_ROUTER_PUSH_SERVICE_PORT", "9090"),
            ("HAWSER_ROUTER_PUSH_SERVICE_PORT_GRPC", "9090"),
            ("HAWSER_ROUTER_PUSH_PORT", "tcp://10.0.0.1:9090"),
            ("HAWSER_ROUTER_PUSH_PORT_9090_TCP", "tcp://10.0.0.1:9090"),
            ("HAWSER_ROUTER_PUSH_PORT_9090_TCP_PROTO", "tcp"),
            ("HAWSER_ROUTER_PUSH_PORT_9090_TCP_PORT", "9090"),
            ("HAWSER_ROUTER_PUSH_PORT_9090_TCP_ADDR", "10.0.0.1"),
            ("HAWSER_ROUTER_QUIC_PORT_443_UDP", "udp://10.0.0.1:443"),
            ("HAWSER_ROUTER_0_PORT_SERVICE_HOST", "10.0.0.1"),
        ];
        assert!(environment(&theirs).is_empty(), "{:?}", environment(&theirs));
        for (ours, text) in [
            ("HAWSER_ROUTER_PORTS", "1"),
            ("HAWSER_ROUTER_PORT", "9090"),
            ("HAWSER_ROUTER_PUSH_PORT", "9090"),
            ("HAWSER_ROUTER_PORTA", "tcp://10.0.0.1:9090"),
            ("HAWSER_ROUTER_PORT_TCP", "tcp://10.0.0.1:9090"),
            ("HAWSER_ROUTER_SERVICE", "10.0.0.1"),
            ("HAWSER_ROUTER_SERVICE_HOSTS", "10.0.0.1"),
        ] {
            let said = loaded("name = \"n\"", &environment(&[(ours, text)])).expect_err(ours);
            assert!(said.starts_with(&format!("{ours}: unknown field")), "{said}");
        }
    }

    #[test]
    fn mistakes_name_their_place_and_not_the_value() {
        for (key, wanted) in [
            ("HAWSER_ROUTER_NOTHING", "HAWSER_ROUTER_NOTHING: unknown field `nothing`"),
            (
                "HAWSER_ROUTER_INNER__NOTHING",
                "HAWSER_ROUTER_INNER__NOTHING: unknown field `nothing`",
            ),
            ("HAWSER_ROUTER_INNER", "HAWSER_ROUTER_INNER: invalid type: string"),
            ("HAWSER_ROUTER_NAME__DEEPER", "HAWSER_ROUTER_NAME__DEEPER cannot be set"),
        ] {
            let said = loaded(
                "name = \"n\"\n[inner]\non = true\nat = \"x\"",
                &environment(&[(key, "sesame")]),
            );
            let said = said.expect_err(key);
            assert!(said.contains(wanted), "{key}: {said}");
            assert!(key == "HAWSER_ROUTER_INNER" || !said.contains("sesame"), "{key}: {said}");
        }
        for flag in ["sesame", "=sesame", "a..b=sesame"] {
            let said = Override::of_flag(flag).expect_err(flag).to_string();
            assert!(said.contains("key=value"), "{said}");
        }
        assert!(loaded("", &[]).expect_err("no name").contains("config.toml"));
    }

    #[test]
    fn of_several_settings_the_one_to_blame_is_named() {
        let said = |file: &str, variables: &[(&str, &str)], flags: &[&str]| {
            let mut all = environment(variables);
            all.extend(flags.iter().map(|flag| Override::of_flag(flag).expect("of the form")));
            loaded(file, &all).expect_err("a mistake")
        };
        let fine = ("HAWSER_ROUTER_COUNT", "2");
        let wrong = said("name = \"n\"", &[fine, ("HAWSER_ROUTER_CUONT", "2")], &["name=m"]);
        assert!(wrong.starts_with("HAWSER_ROUTER_CUONT: unknown field `cuont`"), "{wrong}");
        // Both are wrong; the one that won is told.
        let wrong = said("name = \"n\"", &[("HAWSER_ROUTER_COUNT", "x")], &["count=y"]);
        assert!(wrong.starts_with("--set count: invalid type"), "{wrong}");
        // A table that is not whole.
        let wrong = said("name = \"n\"", &[fine], &["inner.on=true"]);
        assert!(wrong.starts_with("--set inner.on: missing field `at`"), "{wrong}");
        // The file is to blame, or nobody.
        let wrong = said("name = \"n\"\nporta = 1", &[fine], &["name=m"]);
        assert!(wrong.contains("config.toml"), "{wrong}");
        let wrong = said("[inner]", &[fine], &["inner.on=true", "name=m"]);
        assert!(wrong.starts_with("missing field `at`"), "{wrong}");
        let wrong = said("", &[fine], &[]);
        assert!(wrong.contains("missing field `name`"), "{wrong}");
    }
}
