//! A deployment as others have it: TLS in front of control and routers, an app that lets nobody in without a proof.

use crate::front::Front;
use crate::house::{APP, BUSINESS, House};
use crate::{result, scenario, some_port};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use tokio::process::Command;

/// A house with its doors closed, and the fronts that stand before it.
struct Guarded {
    house: House,
    control: Front,
    push: Front,
    office: SocketAddr,
}

impl Guarded {
    async fn start() -> Self {
        let office = some_port();
        let house = House::start(office).await;
        house.close_to_strangers().await;
        let plain = |url: &str| url.trim_start_matches("http://").parse().expect("an address");
        let certificate = (house.chain.as_path(), house.chain_key.as_path());
        let control = Front::open(plain(&house.control), certificate).await;
        let push = Front::open(plain(&house.push), certificate).await;
        Self { house, control, push, office }
    }

    fn control(&self) -> String {
        format!("https://localhost:{}", self.control.at.port())
    }

    fn push(&self) -> String {
        format!("https://localhost:{}", self.push.at.port())
    }

    /// The tool, with the secrets of this house in its environment.
    async fn tool(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-loadtest"));
        command.args(arguments).env("ORDERS_KEY", &self.house.key);
        command.env("SHOP_SECRET", &self.house.client_secret).stdin(Stdio::null());
        command.kill_on_drop(true).output().await.expect("it runs")
    }

    /// A run of the usual scenario, changed like this.
    async fn run(&self, changes: &[&str]) -> Output {
        let bounds = ["online == 100%", "deliveries == 100%", "answers == 100%", "wrong == 0"];
        let text = scenario(&self.house, self.office, &bounds);
        let file = self.house.folder().join("small.toml");
        std::fs::write(&file, text).expect("written");
        let results = self.house.folder().join("results");
        let path = |path: &Path| path.display().to_string();
        let (file, results) = (path(&file), path(&results));
        let control = format!("target.control={}", self.control());
        let push = format!("target.push=[\"{}\"]", self.push());
        let mut arguments = vec!["run", &file, "--results", &results];
        for change in [control.as_str(), &push, "target.client_secret=env:SHOP_SECRET"] {
            arguments.extend(["--set", change]);
        }
        arguments.extend(changes.iter().flat_map(|change| ["--set", *change]));
        self.tool(&arguments).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_gets_through_tls_and_proves_who_its_devices_are() {
    let guarded = Guarded::start().await;
    let output = guarded.run(&[]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() != Some(2), "{said}");
    let outcome = result(guarded.house.folder());
    assert!(outcome.has_passed(), "{:#?}\n{:#?}\n{said}", outcome.bounds, outcome.totals);
    assert_eq!(output.status.code(), Some(crate::code(&outcome, 0)), "{:?}", outcome.limits);
    assert!(!said.contains("still there"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_be_worked_with_is_told_before_anything_starts() {
    let guarded = Guarded::start().await;
    let nothing = some_port();
    let nowhere = format!("target.control=https://{nothing}");
    let no_push = format!("target.push=[\"https://{nothing}\"]");
    for (change, word) in [
        ("target.client_secret=env:ORDERS_KEY", "control answers 401"),
        ("target.app=nobody", "control answers 40"),
        ("target.trust=\"/dev/null\"", "certificate"),
        (nowhere.as_str(), "target.control"),
        (no_push.as_str(), "target.push"),
    ] {
        let output = guarded.run(&[change]).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{change}: {said}");
        assert!(said.contains(word) && !said.contains("online"), "{change}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_gets_through_tls_and_proves_who_its_devices_are() {
    let guarded = Guarded::start().await;
    let (control, push) = (guarded.control(), guarded.push());
    let trust = guarded.house.trust.display().to_string();
    let mut arguments = vec!["check", "--json", "--control", &control, "--push", &push];
    arguments.extend(["--app", APP, "--business", BUSINESS, "--key", "env:ORDERS_KEY"]);
    arguments.extend(["--client-secret", "env:SHOP_SECRET"]);
    arguments.extend(["access", "login-tls", "login-wss", "login-quic", "forged-token"]);
    arguments.extend(["presence", "unicast", "group", "stored-offline"]);
    let said = |output: &Output| -> Value { serde_json::from_slice(&output.stdout).expect("JSON") };
    let all = said(&guarded.tool(&arguments).await);
    let why = all["cases"][0]["why"].as_str().expect("a reason");
    assert!(all["passed"] == false && why.contains("certificate"), "{all:#}");

    arguments.extend(["--ca", &trust]);
    let output = guarded.tool(&arguments).await;
    let all = said(&output);
    assert!(output.status.success(), "{all:#}");
    let cases = all["cases"].as_array().expect("cases");
    assert!(cases.len() == 9 && cases.iter().all(|case| case["result"] == "passed"), "{all:#}");
}
