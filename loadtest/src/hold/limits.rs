//! What stood in the way: what the kernel refused or dropped, memory that ran out, cores without rest.

use std::collections::BTreeMap;

/// Programs must have this much left, or the kernel begins to end them.
pub(super) const MEMORY_LEFT_MIN: f64 = 1_000.0 * 1_048_576.0;
/// Above it, whatever waits, waits for a core.
const BUSY_MAX: f64 = 0.97;

/// Counters that move only when something is turned away, and what each says.
const SIGNS: [(&str, &str); 9] = [
    ("TcpExt.ListenOverflows", "dials found the queue of a listener full"),
    ("TcpExt.ListenDrops", "dials were dropped by a listener"),
    ("TcpExt.TCPReqQFullDrop", "dials were dropped: too many half open"),
    ("TcpExt.TCPAbortOnMemory", "connections were ended for want of TCP memory (tcp_mem)"),
    ("TcpExt.TCPMemoryPressures", "times TCP memory was short (tcp_mem)"),
    ("TcpExt.TCPTimeouts", "segments had to be sent again after a time-out"),
    ("conntrack.drop", "packets were dropped: the table of tracked connections is full"),
    ("conntrack.early_drop", "tracked connections were forgotten to make room"),
    ("vmstat.oom_kill", "processes were killed for want of memory"),
];

/// The counters at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits(BTreeMap<String, f64>);

impl Limits {
    pub(super) fn now() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut all = BTreeMap::new();
        pairs(&text("/proc/net/netstat"), &mut all);
        for line in text("/proc/vmstat").lines() {
            if let Some((name, value)) = line.split_once(' ') {
                all.insert(format!("vmstat.{name}"), value.parse().unwrap_or_default());
            }
        }
        columns(&text("/proc/net/stat/nf_conntrack"), &mut all);
        Self(all)
    }

    /// What moved since then, in words.
    pub(super) fn since(&self, before: &Self) -> Vec<String> {
        let value = |of: &Self, name: &str| of.0.get(name).copied().unwrap_or_default();
        SIGNS
            .iter()
            .map(|(name, what)| (value(self, name) - value(before, name), name, what))
            .filter(|(moved, ..)| *moved > 0.0)
            .map(|(moved, name, what)| format!("{moved:.0} {what} ({name})"))
            .collect()
    }
}

/// What a state of the machine says, in words.
pub(super) fn of_machine(available: f64, busy: f64) -> Vec<String> {
    let mut all = Vec::new();
    if available < MEMORY_LEFT_MIN {
        all.push(format!("memory: {:.0} MiB are left", available / 1_048_576.0));
    }
    if busy > BUSY_MAX {
        all.push(format!("CPU: all cores were busy for {:.0} % of the time", busy * 100.0));
    }
    all
}

/// Lines in pairs: names, then values.
fn pairs(text: &str, into: &mut BTreeMap<String, f64>) {
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks_exact(2) {
        let mut names = pair[0].split_whitespace();
        let prefix = names.next().unwrap_or_default().trim_end_matches(':');
        for (name, value) in names.zip(pair[1].split_whitespace().skip(1)) {
            into.insert(format!("{prefix}.{name}"), value.parse().unwrap_or_default());
        }
    }
}

/// A head, then a line of hexadecimal numbers for each core.
fn columns(text: &str, into: &mut BTreeMap<String, f64>) {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    for line in lines {
        for (name, value) in names.iter().zip(line.split_whitespace()) {
            let value = u64::from_str_radix(value, 16).unwrap_or_default();
            *into.entry(format!("conntrack.{name}")).or_default() += value as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(netstat: &str, conntrack: &str) -> Limits {
        let mut all = BTreeMap::new();
        pairs(netstat, &mut all);
        columns(conntrack, &mut all);
        Limits(all)
    }

    #[test]
    fn what_the_kernel_turned_away_is_said_and_nothing_else() {
        let before = at(
            "TcpExt: TW ListenOverflows TCPTimeouts\nTcpExt: 5 7 1\nIpExt: InOctets\nIpExt: 3\n",
            "entries drop early_drop\n0000000a 00000001 00000000\n0000000a 00000001 00000000\n",
        );
        let after = at(
            "TcpExt: TW ListenOverflows TCPTimeouts\nTcpExt: 9 12 1\nIpExt: InOctets\nIpExt: 9\n",
            "entries drop early_drop\n0000000b 00000010 00000000\n0000000b 00000001 00000000\n",
        );
        let said = after.since(&before);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("5 dials found the queue"), "{said:?}");
        assert!(said[1].starts_with("15 packets were dropped"), "{said:?}");
        assert_eq!(before.since(&before), [""; 0]);
    }

    #[test]
    fn memory_and_cores_are_named_when_they_run_out() {
        assert_eq!(of_machine(2.0 * MEMORY_LEFT_MIN, 0.5), [""; 0]);
        let said = of_machine(0.5 * MEMORY_LEFT_MIN, 0.99);
        assert!(said[0].starts_with("memory: 500 MiB") && said[1].starts_with("CPU:"), "{said:?}");
    }
}
