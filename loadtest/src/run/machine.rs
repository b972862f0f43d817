//! What the kernel says of this machine: who uses its processors, and what it had to turn away.

use crate::process;

/// Processors and sockets at one time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Machine {
    /// Seconds of all processors: at work, and in all.
    pub(super) busy: f64,
    pub(super) whole: f64,
    /// Connections that came while the queue of their listener was full, or were dropped there otherwise.
    pub(super) turned_away: u64,
}

impl Machine {
    pub(super) fn now() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (busy, whole) = ticks(&text("/proc/stat"));
        Self { busy, whole, turned_away: turned_away(&text("/proc/net/netstat")) }
    }
}

/// Memory in bytes and CPU seconds of some processes together.
pub(super) fn usage(ids: impl Iterator<Item = u32>) -> (u64, f64) {
    ids.fold((0, 0.0), |(bytes, seconds), id| {
        let more = process::resident_bytes(id).unwrap_or_default();
        (bytes + more, seconds + process::cpu_seconds(id).unwrap_or_default())
    })
}

/// Seconds from `/proc/stat`, which counts hundredths.
fn ticks(stat: &str) -> (f64, f64) {
    let line = stat.lines().next().unwrap_or_default();
    let all: Vec<f64> = line.split_whitespace().skip(1).filter_map(|it| it.parse().ok()).collect();
    let sum: f64 = all.iter().take(8).sum();
    let idle: f64 = all.iter().skip(3).take(2).sum();
    ((sum - idle) / 100.0, sum / 100.0)
}

/// `ListenOverflows` is a part of `ListenDrops`.
fn turned_away(netstat: &str) -> u64 {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    both.find(|(name, _)| *name == "ListenDrops")
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_name() {
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops Other\nTcpExt: 1 20 23 4\n\
                       IpExt: ListenDrops\nIpExt: 99\n";
        assert_eq!(turned_away(netstat), 23);
        assert_eq!(turned_away(""), 0);
        let (busy, whole) = ticks("cpu  100 0 50 700 50 0 0 100 0 0\ncpu0 1 1\n");
        assert!((busy - 2.5).abs() < 1e-9 && (whole - 10.0).abs() < 1e-9, "{busy} {whole}");
    }
}
