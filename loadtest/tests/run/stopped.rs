//! What ctrl-c and SIGTERM leave behind: no process, no folder, and a word on what was measured until then.

use crate::house::{BUSINESS, House};
use crate::{hawser::hawser, result, scenario, some_port};
use hawser_loadtest::redis::free_port;
use hawser_proto::rpc::push::DescribeGroupRequest;
use hawser_proto::rpc::push::push_client::PushClient;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tonic::{Code, Request};

/// Until a command has begun its work, on a machine that does other things too; and until it has ended.
const BEGIN_PATIENCE: Duration = Duration::from_mins(2);
const END_PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);

/// A command at work. Its temporary folder is one of its own, by whose name its children are known, too.
struct AtWork {
    child: Child,
    errors: Lines<BufReader<ChildStderr>>,
    output: Lines<BufReader<ChildStdout>>,
    folder: tempfile::TempDir,
}

impl AtWork {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-loadtest"));
        command.args(arguments).envs(environment.iter().copied()).env("TMPDIR", folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn().expect("it starts");
        let errors = BufReader::new(child.stderr.take().expect("piped")).lines();
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, errors, output, folder }
    }

    /// Until a line says this.
    async fn until(&mut self, word: &str) {
        let mut said = String::new();
        let found = tokio::time::timeout(BEGIN_PATIENCE, async {
            loop {
                let line = tokio::select! {
                    Ok(Some(line)) = self.errors.next_line() => line,
                    Ok(Some(line)) = self.output.next_line() => line,
                    else => return false,
                };
                said += &line;
                said += "\n";
                if line.contains(word) {
                    return true;
                }
            }
        });
        assert!(found.await.unwrap_or(false), "it does not say {word:?}: {said}");
    }

    fn id(&self) -> Pid {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        id.and_then(Pid::from_raw).expect("it runs")
    }

    /// As a terminal does: everything that it started is told, too, unless that has left its group.
    fn press_ctrl_c(&self) {
        kill_process_group(self.id(), Signal::INT).expect("it runs");
    }

    fn terminate(&self) {
        kill_process(self.id(), Signal::TERM).expect("it runs");
    }

    /// How it ended, and what it said in the end. Nothing of it is left.
    async fn end(mut self) -> (ExitStatus, String) {
        let ended = tokio::time::timeout(END_PATIENCE, self.child.wait()).await;
        let ended = ended.expect("it ends soon").expect("it ends");
        let mut said = String::new();
        while let Ok(Some(line)) = self.output.next_line().await {
            said += &line;
            said += "\n";
        }
        while let Ok(Some(line)) = self.errors.next_line().await {
            said += &line;
            said += "\n";
        }
        let left: Vec<_> = std::fs::read_dir(self.folder.path()).expect("it is there").collect();
        assert!(left.is_empty(), "folders are left: {left:?}\n{said}");
        let left = processes_of(self.folder.path());
        assert!(left.is_empty(), "processes are left: {left:?}\n{said}");
        (ended, said)
    }
}

/// What still runs of those whose temporary folder this is.
fn processes_of(folder: &Path) -> Vec<String> {
    let mark = format!("TMPDIR={}", folder.display());
    let all = std::fs::read_dir("/proc").expect("Linux has it").filter_map(Result::ok);
    all.filter_map(|process| {
        let environment = std::fs::read(process.path().join("environ")).ok()?;
        let is_of = environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes());
        let name = std::fs::read(process.path().join("cmdline")).ok()?;
        is_of.then(|| String::from_utf8_lossy(&name).replace('\0', " "))
    })
    .collect()
}

async fn scrape(port: u16) -> String {
    let mut text = String::new();
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return text };
    let ask = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).await.expect("it listens");
    stream.read_to_string(&mut text).await.expect("text");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_tells_what_it_measured_and_leaves_nothing_at_its_target() {
    let office = some_port();
    let house = House::start(office).await;
    let text = scenario(&house, office, &["online == 100%"]);
    let file = house.folder().join("small.toml");
    std::fs::write(&file, text.replace("seconds = 3", "seconds = 600")).expect("written");
    let (results, port) = (house.folder().join("results"), free_port().expect("a port"));
    let metrics = format!("127.0.0.1:{port}");
    let (file, folder) = (file.display().to_string(), results.display().to_string());
    let arguments = ["run", &file, "--results", &folder, "--metrics", &metrics];
    let mut tool = AtWork::start(&arguments, &[("ORDERS_KEY", &house.key)]);
    tool.until("40 online").await;
    // What it counts can be had while it runs.
    let wanted = [
        "content-type: text/plain; version=0.0.4",
        "hawser_loadtest_stands{what=\"online\",scenario=\"small\"} 40",
        "hawser_loadtest_events_total{what=\"logins\",scenario=\"small\"} 40",
        "hawser_loadtest_delay_seconds{protocol=\"tls\",quantile=\"0.99\",what=\"login\",",
    ];
    let scraped = tokio::time::timeout(END_PATIENCE, async {
        loop {
            let text = scrape(port).await;
            if wanted.iter().all(|line| text.contains(line)) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    scraped.await.expect("it serves what it shows");
    tool.press_ctrl_c();
    let (ended, said) = tool.end().await;
    assert_eq!(ended.code(), Some(130), "{said}");
    assert!(said.contains("interrupted after") && said.contains("of 602 s"), "{said}");

    let outcome = result(house.folder());
    assert!(outcome.is_interrupted && outcome.totals["logins"] == 40, "{:?}", outcome.totals);
    assert!(outcome.seconds < 600.0 && !outcome.samples.is_empty(), "{}", outcome.seconds);
    let key = format!("Bearer {}", house.key).parse().expect("a key");
    let mut describe = Request::new(DescribeGroupRequest { group: "room".to_owned() });
    describe.metadata_mut().insert("authorization", key);
    let mut push = PushClient::connect(house.push.clone()).await.expect("a router");
    let group = push.describe_group(describe).await;
    assert_eq!(group.err().map(|status| status.code()), Some(Code::NotFound), "{BUSINESS}: {said}");
}

/// Starts this until a line says that word, ends it by SIGTERM, and gives what it said.
async fn terminated(arguments: &[&str], word: &str) -> String {
    let Some(hawser) = hawser() else { return String::new() };
    let hawser = hawser.display().to_string();
    let mut tool = AtWork::start(arguments, &[("HAWSER_BIN", &hawser)]);
    tool.until(word).await;
    tool.terminate();
    let (ended, said) = tool.end().await;
    assert_eq!(ended.code(), Some(130), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_a_dev_of_its_own_ends_with_it() {
    terminated(&["run", "unicast", "--scale", "0.01"], "50 online").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_ended_says_which_cases_it_left_out() {
    let said = terminated(&["check"], "access passed").await;
    assert!(said.is_empty() || said.contains("not run: interrupted"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_that_is_ended_leaves_no_service() {
    let arguments = "bench --only multicast --members 1000 --rate 20 --seconds 2";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let said = terminated(&arguments, "Multicast 1/5: hawser").await;
    assert!(said.is_empty() || said.contains("interrupted: nothing was measured"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_ended_shows_its_times_and_leaves_no_cluster() {
    let arguments = [
        "hold",
        "--devices",
        "40",
        "--routers",
        "1",
        "--logins-per-second",
        "100",
        "--leave-kernel",
    ];
    let said = terminated(&arguments, "are in; held quietly").await;
    assert!(said.is_empty() || said.contains("interrupted: only these times"), "{said}");
}
