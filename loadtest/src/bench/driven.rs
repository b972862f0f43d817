//! The script of a stored push on Redis, driven by `redis-benchmark`: what hawser's own rate stands beside.

use anyhow::{Context, ensure};
use hawser_loadtest::redis::Redis;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Clients of `redis-benchmark`.
const CLIENTS: usize = 256;
/// What `redis-benchmark` replaces by as many digits, each time by others.
const ANY: &str = "__rand_int__";
/// As many digits, in the one push that is looked at.
const DIGITS: &str = "000000004242";
const PATIENCE: Duration = Duration::from_secs(10);

/// The device, and the push id, of the push that is to be looked at.
pub(super) fn device() -> String {
    format!("away-{DIGITS}")
}

pub(super) fn push_id() -> String {
    format!("{DIGITS}-{DIGITS}")
}

/// Sees every command of one server.
pub(super) struct Watch {
    monitor: Child,
    lines: mpsc::Receiver<String>,
}

impl Watch {
    /// From now on.
    pub(super) fn start(server: &Redis) -> anyhow::Result<Self> {
        let port = server.address.port().to_string();
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port, "MONITOR"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut monitor =
            command.spawn().context("redis-cli is needed here: apt-get install redis-tools")?;
        let output = monitor.stdout.take().context("it has no output")?;
        let (give, lines) = mpsc::sync_channel(1024);
        // It ends with the monitor.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if give.send(line).is_err() {
                    return;
                }
            }
        });
        let watch = Self { monitor, lines };
        // It says that it watches.
        watch.lines.recv_timeout(PATIENCE).context("redis-cli does not monitor")?;
        Ok(watch)
    }

    /// The call of the script for the push above, as words to be repeated.
    pub(super) fn call(self) -> anyhow::Result<Vec<Vec<u8>>> {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).context("no such call was seen")?;
            let words = words(&line);
            let is_script = words.first().is_some_and(|it| it.eq_ignore_ascii_case(b"EVALSHA"));
            let names = |word: &Vec<u8>| find(word, push_id().as_bytes()).is_some();
            if is_script && words.iter().any(names) {
                return Ok(words);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An error means it has ended already.
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|bytes| bytes == what)
}

/// The quoted words of a line of MONITOR.
fn words(line: &str) -> Vec<Vec<u8>> {
    let (mut words, mut bytes) = (Vec::new(), line.bytes());
    while bytes.by_ref().any(|byte| byte == b'"') {
        let mut word = Vec::new();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => break,
                b'\\' => match bytes.next() {
                    Some(b'x') => {
                        let digits = [bytes.next(), bytes.next()].map(Option::unwrap_or_default);
                        let text = String::from_utf8_lossy(&digits).into_owned();
                        word.push(u8::from_str_radix(&text, 16).unwrap_or_default());
                    }
                    Some(b'n') => word.push(b'\n'),
                    Some(b'r') => word.push(b'\r'),
                    Some(b't') => word.push(b'\t'),
                    Some(b'a') => word.push(7),
                    Some(b'b') => word.push(8),
                    Some(other) => word.push(other),
                    None => break,
                },
                other => word.push(other),
            }
        }
        words.push(word);
    }
    words
}

/// The call so many times, to as many devices, from `redis-benchmark`: calls a second, and CPU-seconds of
/// Redis per million.
///
/// Its random numbers are others in each word, so that one call touches several devices' keys; the script
/// does as much as with one device's.
pub(super) async fn run(
    server: &Redis,
    call: Vec<Vec<u8>>,
    devices: usize,
    count: usize,
) -> anyhow::Result<(f64, f64)> {
    let held: f64 = server.ask(&["DBSIZE"])?.parse()?;
    let before = server.cpu_seconds()?;
    let mut command = Command::new("redis-benchmark");
    command.args(["-p", &server.address.port().to_string(), "--csv"]);
    command.args(["-c", &CLIENTS.to_string(), "-n", &count.to_string()]);
    command.args(["-r", &devices.to_string()]);
    command.args(call.into_iter().map(|word| OsString::from_vec(any(word))));
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.context("redis-benchmark is needed here: apt-get install redis-tools")?;
    ensure!(output.status.success(), "redis-benchmark failed");
    let used = (server.cpu_seconds()? - before) * 1e6 / count as f64;
    let stored = server.ask(&["DBSIZE"])?.parse::<f64>()? - held;
    ensure!(stored > 0.99 * count as f64, "redis-benchmark stored {stored} of {count}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // Name, calls a second, and then the delays: average, least, p50, p95, p99, most.
    let rate = said.trim_end().rsplit(',').nth(6).map(|field| field.trim_matches('"'));
    Ok((rate.and_then(|rate| rate.parse().ok()).context(said)?, used))
}

/// With what `redis-benchmark` replaces. No command line takes a zero byte; the script only stores those.
fn any(mut word: Vec<u8>) -> Vec<u8> {
    while let Some(at) = find(&word, DIGITS.as_bytes()) {
        word[at..at + DIGITS.len()].copy_from_slice(ANY.as_bytes());
    }
    word.into_iter().map(|byte| byte.max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_monitor_is_read_as_it_was_sent() {
        let line = r#"17.1 [0 127.0.0.1:6] "EVALSHA" "a\"b\\" "\x00\xffx\n" """#;
        let read = words(line);
        assert_eq!(read, [&b"EVALSHA"[..], b"a\"b\\", b"\0\xffx\n", b""]);
    }

    #[test]
    fn what_names_device_and_push_becomes_any() {
        let word = format!("x{}:{}\0", device(), push_id()).into_bytes();
        let expected = format!("xaway-{ANY}:{ANY}-{ANY}\u{1}").into_bytes();
        assert_eq!(any(word), expected);
    }
}
