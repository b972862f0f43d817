//! A network of our own: one namespace for each host, and a hub with two bridges between them. `outer`
//! is where devices come in, `inner` is where services talk to each other, so that either can be cut by
//! taking a link down while the other goes on. The harness itself stands on both.
//!
//! Its addresses are of 198.18.0.0/15, which is set aside for measuring networks: nobody lives there, and
//! whoever has a route there all the same keeps it.
//!
//! Needs root and the `ip` of iproute2; [`Net::build`] says so where one of them is missing.

use super::CannotRun;
use anyhow::{Context, ensure};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

/// A namespace is ours when its name begins with this; the harness's process id follows.
const PREFIX: &str = "hwf";

/// One of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Devices and access nodes.
    Outer,
    /// The services among themselves.
    Inner,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Outer, Self::Inner];

    fn bridge(self) -> &'static str {
        match self {
            Self::Outer => "outer",
            Self::Inner => "inner",
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Outer => 'o',
            Self::Inner => 'i',
        }
    }
}

/// The network. Dropped, its namespaces go, and with them every link.
pub(crate) struct Net {
    prefix: String,
    /// Third octet of all addresses: two harnesses on one machine do not meet.
    slot: u8,
    hosts: Vec<String>,
}

/// A host of the network, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host(usize);

impl Net {
    /// Builds it with these hosts; their [`Host`]s are numbered in this order.
    pub(super) fn build(names: &[String]) -> anyhow::Result<Self> {
        clear_leftovers();
        let process = std::process::id();
        let needs = |why: anyhow::Error| {
            let needs = "network namespaces, which root can make with the ip of iproute2";
            CannotRun(format!("{needs}: {why:#}"))
        };
        let routes = routes().map_err(needs)?;
        let slots = (0..=u8::MAX).map(|slot| slot.wrapping_add(process as u8));
        let slot = slots.into_iter().find(|slot| {
            Side::BOTH.iter().all(|side| route_into(&routes, network(*side, *slot)).is_none())
        });
        let slot = slot.ok_or_else(|| {
            let route = route_into(&routes, network(Side::Outer, 0)).unwrap_or_default();
            CannotRun(format!("198.18.0.0/15 for itself, and there is a route: {route}"))
        })?;
        let net = Self { prefix: format!("{PREFIX}{process}"), slot, hosts: names.to_vec() };
        net.wire().map_err(needs)?;
        Ok(net)
    }

    fn wire(&self) -> anyhow::Result<()> {
        let (hub, prefix) = (self.hub(), &self.prefix);
        let mut root = vec![format!("netns add {hub}")];
        root.extend((0..self.hosts.len()).map(|host| format!("netns add {}", self.space(host))));
        batch(None, &root)?;
        let mut at_hub = Vec::new();
        for side in Side::BOTH {
            at_hub.push(format!("link add {} type bridge", side.bridge()));
            at_hub.push(format!("link set {} up", side.bridge()));
        }
        batch(Some(&hub), &at_hub)?;
        // The harness, then each host: a cable to either bridge.
        let (mut root, mut at_hub) = (Vec::new(), Vec::new());
        for side in Side::BOTH {
            let (near, far) = (format!("{prefix}{}", side.letter()), format!("{}0", side.bridge()));
            root.push(format!("link add {near} type veth peer name {far} netns {hub}"));
            root.push(format!("addr add {}/24 dev {near}", self.own_address(side)));
            root.push(format!("link set {near} up"));
            at_hub.push(format!("link set {far} master {} up", side.bridge()));
        }
        for host in 0..self.hosts.len() {
            for side in Side::BOTH {
                let space = self.space(host);
                root.push(format!(
                    "link add {} netns {space} type veth peer name {} netns {hub}",
                    side.bridge(),
                    port(host, side),
                ));
                at_hub.push(format!("link set {} master {} up", port(host, side), side.bridge()));
            }
        }
        batch(None, &root)?;
        batch(Some(&hub), &at_hub)?;
        for host in 0..self.hosts.len() {
            let mut here = vec!["link set lo up".to_owned()];
            for side in Side::BOTH {
                let address = self.address(Host(host), side);
                here.push(format!("addr add {address}/24 dev {}", side.bridge()));
                here.push(format!("link set {} up", side.bridge()));
            }
            batch(Some(&self.space(host)), &here)?;
        }
        Ok(())
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    fn space(&self, host: usize) -> String {
        format!("{}{}", self.prefix, self.hosts[host])
    }

    /// The host with this name.
    pub(super) fn host(&self, name: &str) -> anyhow::Result<Host> {
        self.hosts.iter().position(|host| host == name).map(Host).context("no such host")
    }

    /// Where the harness stands.
    pub(super) fn own_address(&self, side: Side) -> Ipv4Addr {
        self.numbered(side, 1)
    }

    /// Where a host stands.
    pub(super) fn address(&self, host: Host, side: Side) -> Ipv4Addr {
        self.numbered(side, 10 + host.0 as u8)
    }

    fn numbered(&self, side: Side, number: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(network(side, self.slot).to_bits() | u32::from(number))
    }

    /// A command that runs on a host. It becomes the program, so that its process id is the program's.
    pub(super) fn command(&self, host: Host, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(host.0)]).arg(program);
        command
    }

    /// Takes the cable of a host out, on one side: nothing passes, and nobody is told.
    pub(super) fn cut(&self, host: Host, side: Side) -> anyhow::Result<()> {
        batch(Some(&self.hub()), &[format!("link set {} down", port(host.0, side))])
    }

    /// Puts it in again.
    pub(super) fn mend(&self, host: Host, side: Side) -> anyhow::Result<()> {
        batch(Some(&self.hub()), &[format!("link set {} up", port(host.0, side))])
    }

    /// Two hosts hear nothing of each other, on one side, while everybody else does.
    pub(super) fn part(&self, one: Host, other: Host, side: Side) -> anyhow::Result<()> {
        self.both_ways(one, other, side, "add")
    }

    /// They do again.
    pub(super) fn join(&self, one: Host, other: Host, side: Side) -> anyhow::Result<()> {
        self.both_ways(one, other, side, "del")
    }

    fn both_ways(&self, one: Host, other: Host, side: Side, verb: &str) -> anyhow::Result<()> {
        for (here, there) in [(one, other), (other, one)] {
            let route = format!("route {verb} blackhole {}/32", self.address(there, side));
            batch(Some(&self.space(here.0)), &[route])?;
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        remove(&self.prefix);
    }
}

/// The /24 of one side of the harness in this slot.
fn network(side: Side, slot: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, if side == Side::Outer { 18 } else { 19 }, slot, 0)
}

/// All routes of this machine, in every table.
fn routes() -> anyhow::Result<String> {
    let output = Command::new("ip").args(["-4", "route", "show", "table", "all"]).output();
    let output = output.context("ip is not installed: apt-get install iproute2")?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A route other than the default one that leads into this /24, or through it.
fn route_into(routes: &str, network: Ipv4Addr) -> Option<&str> {
    routes.lines().map(str::trim).find(|route| {
        // A type may stand before the destination: local, broadcast, blackhole.
        let destination = route.split(' ').take(2).find_map(|word| {
            let (address, bits) = word.split_once('/').unwrap_or((word, "32"));
            Some((address.parse::<Ipv4Addr>().ok()?, bits.parse::<u32>().ok()?))
        });
        destination.is_some_and(|(address, bits)| {
            let apart = address.to_bits() ^ network.to_bits();
            let shared = bits.min(24);
            shared > 0 && apart.checked_shr(32 - shared).unwrap_or(0) == 0
        })
    })
}

fn port(host: usize, side: Side) -> String {
    format!("{}{}", side.letter(), host + 1)
}

/// Several commands of `ip` in one go; stops at the first that fails.
fn batch(space: Option<&str>, commands: &[String]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    if let Some(space) = space {
        command.args(["-n", space]);
    }
    command.args(["-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("ip is not installed: apt-get install iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may have stopped at an earlier line: its status tells.
        let _ = stdin.write_all((commands.join("\n") + "\n").as_bytes());
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    ensure!(output.status.success(), "ip: {said}");
    Ok(())
}

/// Removes the namespaces of harnesses that were killed.
fn clear_leftovers() {
    let Ok(names) = std::fs::read_dir("/run/netns") else { return };
    for name in names.flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !digits.is_empty() && !Path::new("/proc").join(&digits).exists() {
            remove(&format!("{PREFIX}{digits}"));
        }
    }
}

fn remove(prefix: &str) {
    let Ok(names) = std::fs::read_dir("/run/netns") else { return };
    for name in names.flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        // `hwf12` is not to remove what is of `hwf123`.
        if name.strip_prefix(prefix).is_some_and(|it| !it.starts_with(|c: char| c.is_ascii_digit()))
        {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
    for side in Side::BOTH {
        let _ = Command::new("ip")
            .args(["link", "del", &format!("{prefix}{}", side.letter())])
            .stderr(Stdio::null())
            .status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "default via 192.0.2.1 dev eth0 \n\
        192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2 \n\
        local 198.18.7.1 dev hwf9o table local proto kernel scope host src 198.18.7.1 \n\
        198.19.8.0/24 dev hwf9i proto kernel scope link src 198.19.8.1 \n\
        blackhole 198.18.32.0/20 \n";

    fn taken(side: Side, slot: u8) -> bool {
        route_into(ROUTES, network(side, slot)).is_some()
    }

    #[test]
    fn a_network_that_a_route_leads_into_is_taken() {
        assert!(taken(Side::Outer, 7) && !taken(Side::Inner, 7));
        assert!(taken(Side::Inner, 8) && !taken(Side::Outer, 8));
        assert!(taken(Side::Outer, 32) && taken(Side::Outer, 47) && !taken(Side::Outer, 48));
    }

    #[test]
    fn the_way_to_everywhere_is_no_route_there() {
        assert!(!taken(Side::Outer, 0));
        assert!(
            route_into("default dev eth0\n0.0.0.0/0 dev eth0", network(Side::Outer, 0)).is_none()
        );
        assert!(route_into("198.18.0.0/15 dev tun0", network(Side::Inner, 200)).is_some());
    }
}
