//! `hawser-loadtest check`, against a `hawser dev` of its own. Needs a built hawser: beside this program, or
//! where HAWSER_BIN says.

mod hawser;

use hawser::hawser;
use serde_json::Value;
use std::process::{Command, Output};

fn check(arguments: &[&str]) -> std::io::Result<Output> {
    let program = env!("CARGO_BIN_EXE_hawser-loadtest");
    Command::new(program).arg("check").args(arguments).output()
}

#[test]
fn a_started_dev_passes_every_case() {
    let Some(hawser) = hawser() else { return };
    let output =
        check(&["--json", "--devices", "10", "--hawser", &hawser.display().to_string()]).unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{said:#}");
    assert_eq!(said["passed"], true);
    let cases = said["cases"].as_array().unwrap();
    assert!(cases.len() >= 20, "{said:#}");
    // A dev has everything: whatever could not be judged was not tried.
    assert!(cases.iter().all(|case| case["result"] == "passed"), "{said:#}");
    assert_eq!(said["left_behind"].as_array().map(Vec::len), Some(0), "{said:#}");
}

#[test]
fn a_deployment_that_is_not_there_fails() {
    // A port that was free a moment ago, and a key that nobody has.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = format!("http://{free}");
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "nobody").unwrap();
    let place = format!("file:{}", key.path().display());
    let output =
        check(&["--json", "--control", &at, "--push", &at, "--key", &place, "access", "presence"])
            .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said:#}");
    assert_eq!(said["passed"], false);
    assert!(said["cases"].as_array().unwrap().iter().all(|case| case["result"] == "failed"));
}

#[test]
fn cases_are_listed_and_an_unknown_one_is_told() {
    let listed = String::from_utf8(check(&["--list"]).unwrap().stdout).unwrap();
    assert!(listed.contains("stored-offline") && listed.contains("combined"), "{listed}");
    let unknown = check(&["presense"]).unwrap();
    let text = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && text.contains("presence"), "{text}");
}
