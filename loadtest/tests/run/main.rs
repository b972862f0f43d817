//! Small scenarios from end to end: the tool as a process of its own, against a deployment in this one.

mod front;
mod guarded;
#[path = "../check/hawser.rs"]
mod hawser;
mod house;
mod stopped;

use hawser_loadtest::outcome::Outcome;
use house::{APP, BUSINESS, House};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Output, Stdio};
use tokio::process::Command;

/// For the business of the scenario, on an address that nothing else of this machine dials from.
fn some_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 88, 0, 1), 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

fn scenario(house: &House, office: SocketAddr, bounds: &[&str]) -> String {
    let mut text = format!(
        r#"
name = "small"
about = "Some of everything."

[target]
control = "{control}"
push = ["{push}"]
app = "{APP}"
business = "{BUSINESS}"
key = "env:ORDERS_KEY"
trust = "{trust}"

[[stages]]
name = "fill"
seconds = 2
requests = 0
pushes = 0

[[stages]]
name = "work"
seconds = 3

[[populations]]
name = "some"
count = 40
protocols = {{ tcp = 1, tls = 1, websocket = 1, quic = 1 }}
logins_per_second = 100
requests_per_second = 20
groups = [{{ name = "room" }}, {{ name = "half", every = 2 }}]

[[pushes]]
name = "messages"
kind = "multicast"
group = "room"
per_second = 4

[[pushes]]
name = "halves"
kind = "multicast"
group = "half"
per_second = 2

[[pushes]]
name = "notes"
kind = "unicast"
to = "some"
per_second = 20

[[pushes]]
name = "letters"
kind = "stored"
to = "some"
per_second = 10
targets = 3

[[businesses]]
name = "{BUSINESS}"
listen = "{office}"
answers_after = "3ms"
"#,
        control = house.control,
        push = house.push,
        trust = house.trust.display(),
    );
    for bound in bounds {
        text.extend(["\n[[bounds]]\nexpect = \"", bound, "\"\n"]);
    }
    text
}

async fn run(key: &str, folder: &Path, text: &str) -> Output {
    let file = folder.join("small.toml");
    std::fs::write(&file, text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-loadtest"));
    command.arg("run").arg(&file).arg("--results").arg(folder.join("results"));
    command.env("ORDERS_KEY", key).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.expect("it runs")
}

fn result(folder: &Path) -> Outcome {
    let mut files = std::fs::read_dir(folder.join("results")).expect("there is a result");
    let path = files.find_map(|entry| {
        let path = entry.ok()?.path();
        (path.extension()? == "json").then_some(path)
    });
    let text = std::fs::read_to_string(path.expect("one of JSON")).expect("read");
    serde_json::from_str(&text).expect("an outcome")
}

/// What the tool says by its exit code, where the machine was not in the way.
fn code(outcome: &Outcome, otherwise: i32) -> i32 {
    if outcome.limits.is_empty() { otherwise } else { 3 }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_sent_over_every_protocol_arrives_and_the_bounds_are_kept() {
    let office = some_port();
    let house = House::start(office).await;
    let bounds =
        ["online == 100%", "deliveries == 100%", "answers == 100%", "lost == 0", "wrong == 0"];
    let text = scenario(&house, office, &bounds);
    let output = run(&house.key, house.folder(), &text).await;
    let said = String::from_utf8_lossy(&output.stderr);
    let outcome = result(house.folder());
    assert!(outcome.has_passed(), "{:#?}\n{:#?}\n{said}", outcome.bounds, outcome.totals);
    assert_eq!(output.status.code(), Some(code(&outcome, 0)), "{:?}\n{said}", outcome.limits);
    for (name, least) in
        [("multicasts", 18), ("unicasts", 60), ("stored", 90), ("answers", 59), ("logins", 40)]
    {
        assert!(outcome.totals[name] >= least, "{name}: {:#?}", outcome.totals);
    }
    for protocol in ["tcp", "tls", "websocket", "quic"] {
        for what in ["login", "request", "unicast", "stored", "multicast"] {
            let found = outcome
                .delays
                .iter()
                .any(|it| it.what == what && it.protocol == protocol && it.delays.count() > 0);
            assert!(found, "{what} over {protocol}: {:?}", outcome.delays);
        }
    }
    assert_eq!(outcome.stages.len(), 2);
    let kept = std::fs::read_dir(house.folder().join("results")).expect("there are results");
    let is_page = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|it| it.path().extension().is_some_and(|kind| kind == "html"))
    };
    assert_eq!(
        kept.filter_map(|entry| is_page(entry).then_some(())).count(),
        1,
        "a page beside it"
    );
    assert!(
        outcome.samples.len() >= 5 && outcome.samples.iter().any(|it| it.stands["members"] == 60)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_that_is_not_kept_is_told_by_the_exit_code() {
    let office = some_port();
    let house = House::start(office).await;
    let text = scenario(&house, office, &["unicast.p50 <= 1us", "online == 100%"]);
    let output = run(&house.key, house.folder(), &text).await;
    let outcome = result(house.folder());
    let kept: Vec<_> = outcome.bounds.iter().map(|bound| bound.is_kept).collect();
    assert_eq!(kept, [false, true], "{:#?}", outcome.bounds);
    assert_eq!(output.status.code(), Some(code(&outcome, 1)), "{:?}", outcome.limits);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("unicast.p50 <= 1us"), "{said}");
}

#[tokio::test]
async fn a_wrong_scenario_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run("none", folder.path(), "name = \"x\"\nabuot = \"y\"\n").await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("line 2") && said.contains("abuot"), "{said}");
}
