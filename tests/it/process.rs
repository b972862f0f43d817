//! Running the binary: commands to their end, and `hawser dev` until it is told to stop.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest time for a process to come up or to end.
const PATIENCE: Duration = Duration::from_mins(1);

/// The binary under test, with nothing of this environment.
pub(crate) fn hawser() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser"));
    for name in ["CONTROL", "TOKEN", "KEY", "PUSH", "APP", "BUSINESS", "DATA", "STORE", "CA"] {
        command.env_remove(format!("HAWSER_{name}"));
    }
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// What a finished command said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("output is UTF-8"),
            err: String::from_utf8(output.stderr).expect("errors are UTF-8"),
        }
    }

    /// Runs a command to its end.
    pub(crate) fn by(mut command: Command) -> Self {
        Self::of(command.output().expect("the binary runs"))
    }

    /// Its standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|failure| panic!("{failure}: {}{}", self.out, self.err))
    }
}

/// Runs a command line to its end.
pub(crate) fn run(line: &[&str]) -> Said {
    let mut command = hawser();
    command.args(line);
    Said::by(command)
}

/// Runs a command over a data directory, with JSON as its answer.
pub(crate) fn on(data_dir: &Path, line: &[&str]) -> Said {
    let data_dir = data_dir.to_str().expect("UTF-8");
    run(&[line, &["--json", "--data-dir", data_dir]].concat())
}

/// Runs a command off the runtime's threads, which the device needs meanwhile.
pub(crate) async fn meanwhile(data_dir: &Path, line: &[&str]) -> Said {
    let data_dir = data_dir.to_owned();
    let line: Vec<String> = line.iter().map(ToString::to_string).collect();
    let running = tokio::task::spawn_blocking(move || {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        on(&data_dir, &line)
    });
    tokio::time::timeout(PATIENCE, running).await.expect("in time").expect("no panic")
}

/// `hawser dev --ports random` over a data directory.
pub(crate) struct Dev {
    child: Child,
    /// What it printed when it was ready.
    pub(crate) at: Value,
}

impl Dev {
    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start(data_dir: &Path) -> Self {
        let mut child = hawser()
            .args(["dev", "--ports", "random", "--json", "--data-dir"])
            .arg(data_dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it is read");
        let at = serde_json::from_str(&line).unwrap_or_else(|_| {
            let mut said = String::new();
            let _ = child.stderr.as_mut().expect("it is piped").read_to_string(&mut said);
            panic!("hawser dev did not come up: {line}{said}")
        });
        Self { child, at }
    }

    /// An address it printed.
    pub(crate) fn at(&self, name: &str) -> &str {
        self.at[name].as_str().expect("an address")
    }

    /// Ends it as a supervisor would, and returns its exit code and what it had to complain about.
    pub(crate) fn terminate(mut self) -> (Option<i32>, String) {
        end(&mut self.child)
    }
}

/// Tells a process to end, and waits until it has.
fn end(child: &mut Child) -> (Option<i32>, String) {
    let id = child.id().to_string();
    let told = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
    assert!(told.success());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().expect("it is our child") {
            Some(status) => break status,
            None if Instant::now() > deadline => panic!("it does not end"),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut said = String::new();
    let stderr = child.stderr.as_mut().expect("it is piped");
    stderr.read_to_string(&mut said).expect("it is read");
    (status.code(), said)
}

/// One service in a process of its own.
pub(crate) struct Service {
    name: String,
    child: Child,
    admin: SocketAddr,
}

impl Service {
    /// Starts it on a configuration. `admin`: where its admin port is.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        config: &Path,
        admin: SocketAddr,
    ) -> Self {
        let child = command
            .arg("--config")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        Self { name: name.to_owned(), child, admin }
    }

    /// Waits until its admin port says that it is ready.
    pub(crate) fn until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready() {
            if self.child.try_wait().expect("it is our child").is_some() {
                let mut said = String::new();
                let _ = self.child.stderr.as_mut().expect("it is piped").read_to_string(&mut said);
                panic!("{} ended: {said}", self.name);
            }
            assert!(Instant::now() < deadline, "{} does not become ready", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.admin) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let request =
            format!("GET /readyz HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin);
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }

    /// Ends it as a supervisor would, and returns its exit code and what it had to complain about.
    pub(crate) fn terminate(mut self) -> (Option<i32>, String) {
        end(&mut self.child)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
