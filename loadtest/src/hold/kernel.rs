//! What the kernel gives, and what it holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const PAGE: f64 = 4_096.0;
/// Kinds of objects that are shown.
const KINDS: usize = 10;

/// Settings that were changed; put back with their owner.
pub(super) struct Settings(Vec<(PathBuf, String)>);

impl Settings {
    /// Asks for what so many connections need, both ends on this machine. What cannot be had is said, and
    /// tried without.
    pub(super) fn require(devices: usize, may_set: bool) -> Self {
        let mut changed = Self(Vec::new());
        let sockets = 2 * devices as u64;
        let wants = [
            ("net/core/somaxconn", 4_096, "connections that wait to be accepted"),
            ("net/ipv4/tcp_max_syn_backlog", 4_096, "connections that are being opened"),
            ("fs/file-max", sockets + 200_000, "descriptors of all processes"),
            ("net/netfilter/nf_conntrack_max", sockets + 50_000, "connections that are tracked"),
        ];
        for (name, least, what) in wants {
            let path = Path::new("/proc/sys").join(name);
            let Some(now) = read(&path).and_then(|text| text.parse::<u64>().ok()) else { continue };
            if now < least {
                changed.set(&path, &now.to_string(), &least.to_string(), what, may_set);
            }
        }
        // Pages of all TCP buffers: low, pressure, high. An idle link has none, a busy moment has many.
        let path = Path::new("/proc/sys/net/ipv4/tcp_mem");
        if let Some(now) = read(path) {
            let high = now.split_whitespace().nth(2).and_then(|it| it.parse::<u64>().ok());
            let least = sockets * 2;
            if high.is_some_and(|high| high < least) {
                let wanted = format!("{} {} {least}", least / 2, least * 3 / 4);
                changed.set(path, &now, &wanted, "pages of TCP buffers", may_set);
            }
        }
        let path = Path::new("/proc/sys/net/ipv4/ip_local_port_range");
        if let Some(now) = read(path) {
            let ports: Vec<u64> = now.split_whitespace().filter_map(|it| it.parse().ok()).collect();
            if let [low, high] = ports[..]
                && high.saturating_sub(low) < 25_000
            {
                changed.set(path, &now, "20000 60999", "ports of one address", may_set);
            }
        }
        changed
    }

    fn set(&mut self, path: &Path, now: &str, wanted: &str, what: &str, may_set: bool) {
        let name = path.strip_prefix("/proc/sys").unwrap_or(path).display().to_string();
        let name = name.replace('/', ".");
        if may_set && std::fs::write(path, wanted).is_ok() {
            println!("{name}: {now} is too little ({what}); {wanted} while this runs");
            self.0.push((path.to_owned(), now.to_owned()));
        } else {
            println!(
                "{name}: {now} may be too little ({what}); as root: sysctl -w {name}='{wanted}'"
            );
        }
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for (path, before) in &self.0 {
            // It was written a while ago by the same process.
            let _ = std::fs::write(path, before);
        }
    }
}

fn read(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// What the kernel holds at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    /// Bytes of all objects that cannot be reclaimed.
    pub(super) slab: f64,
    /// Bytes of TCP buffers.
    pub(super) buffers: f64,
    /// Bytes that programs could still have.
    pub(super) available: f64,
    kinds: BTreeMap<String, f64>,
    /// Ticks of all cores: at work, and in all.
    ticks: (f64, f64),
    /// Bytes and packets that went over loopback.
    wire: (f64, f64),
}

impl Kernel {
    pub(super) fn now() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let info = text("/proc/meminfo");
        let kib = |name: &str| -> f64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let value = line.and_then(|it| it.split_whitespace().next()?.parse::<f64>().ok());
            value.unwrap_or_default() * 1_024.0
        };
        let sockstat = text("/proc/net/sockstat");
        let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
        let pages = tcp.split_whitespace().last().and_then(|it| it.parse::<f64>().ok());
        let slabinfo = text("/proc/slabinfo");
        let kinds = slabinfo.lines().skip(2).filter_map(kind).collect();
        Self {
            slab: kib("SUnreclaim"),
            buffers: pages.unwrap_or_default() * PAGE,
            available: kib("MemAvailable"),
            kinds,
            ticks: ticks(&text("/proc/stat")),
            wire: loopback(&text("/proc/net/dev")),
        }
    }

    /// Bytes of objects and buffers that came since then.
    pub(super) fn bytes_since(&self, before: &Self) -> f64 {
        self.slab + self.buffers - before.slab - before.buffers
    }

    /// What grew most since then.
    pub(super) fn by_kind(&self, before: &Self, devices: usize) -> String {
        let mut grown: Vec<(f64, &str)> = self
            .kinds
            .iter()
            .map(|(name, bytes)| {
                (bytes - before.kinds.get(name).copied().unwrap_or_default(), name.as_str())
            })
            .collect();
        grown.sort_by(|one, other| other.0.total_cmp(&one.0));
        let most = grown.into_iter().take(KINDS).filter(|(bytes, _)| *bytes > devices as f64);
        most.map(|(bytes, name)| format!("{name} {:.0}", bytes / devices as f64))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Bytes and packets over loopback from here to a later time.
    pub(super) fn wire(&self, later: &Self) -> (f64, f64) {
        (later.wire.0 - self.wire.0, later.wire.1 - self.wire.1)
    }

    /// Share of all cores that was at work since then.
    pub(super) fn busy(&self, before: &Self) -> f64 {
        (self.ticks.0 - before.ticks.0) / (self.ticks.1 - before.ticks.1).max(1.0)
    }
}

/// A line of slabinfo: name, and the bytes of its slabs.
fn kind(line: &str) -> Option<(String, f64)> {
    let (head, slabdata) = line.split_once(": slabdata")?;
    let fields: Vec<&str> = head.split_whitespace().collect();
    let pages: f64 = fields.get(5)?.parse().ok()?;
    let slabs: f64 = slabdata.split_whitespace().nth(1)?.parse().ok()?;
    Some(((*fields.first()?).to_owned(), slabs * pages * PAGE))
}

/// Received on loopback, which is what was sent there.
fn loopback(devices: &str) -> (f64, f64) {
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    let mut fields = line.unwrap_or_default().split_whitespace().map(|it| it.parse().ok());
    let mut next = || fields.next().flatten().unwrap_or_default();
    (next(), next())
}

fn ticks(stat: &str) -> (f64, f64) {
    let line = stat.lines().next().unwrap_or_default();
    let all: Vec<f64> = line.split_whitespace().skip(1).filter_map(|it| it.parse().ok()).collect();
    let sum: f64 = all.iter().take(8).sum();
    let idle: f64 = all.iter().skip(3).take(2).sum();
    (sum - idle, sum)
}
