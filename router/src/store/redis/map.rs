//! Which servers take writes for which slots, at one moment.

use super::server::Server;
use redis::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Slots of a cluster. Outside of one they all belong to one server.
pub(super) const SLOTS: usize = 16_384;

/// First and last slot, and the address of the primary that has them.
pub(super) type Range = (u16, u16, String);

/// Who takes writes, as far as is known.
#[derive(Default)]
pub(super) struct Map {
    /// Grows with each change.
    pub(super) generation: u64,
    /// Those that are connected.
    pub(super) servers: HashMap<String, Arc<Server>>,
    /// First and last slot, and whose they are. Not in a cluster: one range.
    pub(super) ranges: Vec<Range>,
}

impl Map {
    /// The primary of a slot, if it is connected.
    pub(super) fn server_of(&self, slot: u16) -> Option<&Arc<Server>> {
        let of = |range: &&Range| range.0 <= slot && slot <= range.1;
        let (.., address) = self.ranges.iter().find(of)?;
        self.server_at(address)
    }

    /// Whether both slots are known to be one primary's.
    pub(super) fn is_one(&self, slot: u16, other: u16) -> bool {
        let of = |slot| self.server_of(slot).map(|server| server.number);
        of(slot).is_some_and(|server| of(other) == Some(server))
    }

    /// The one with this address.
    pub(super) fn server_at(&self, address: &str) -> Option<&Arc<Server>> {
        self.servers.get(address).filter(|server| !server.is_gone())
    }

    /// Whether every slot has a primary that is connected.
    pub(super) fn is_whole(&self) -> bool {
        let covered: usize = self
            .ranges
            .iter()
            .map(|(first, last, _)| usize::from(last.saturating_sub(*first)) + 1)
            .sum();
        covered >= SLOTS && self.ranges.iter().all(|(.., at)| self.server_at(at).is_some())
    }

    /// Whether calls would go the same ways by both.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_server = |(at, server): (&String, &Arc<Server>)| {
            other.servers.get(at).is_some_and(|it| it.number == server.number)
        };
        self.ranges == other.ranges
            && self.servers.len() == other.servers.len()
            && self.servers.iter().all(same_server)
    }
}

/// Reads `CLUSTER SLOTS`: first, last, then the primary as host and port.
pub(super) fn read_slots(answer: &Value, asked: &str) -> Vec<Range> {
    let Value::Array(ranges) = answer else { return Vec::new() };
    let range = |range: &Value| {
        let Value::Array(parts) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &parts[..] else {
            return None;
        };
        let [host, Value::Int(port), ..] = &primary[..] else { return None };
        let host = match host {
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            _ => "",
        };
        // A node that does not know its own address is where it was asked.
        let host = if host.is_empty() || host == "?" { asked.rsplit_once(':')?.0 } else { host };
        let slot = |number: &i64| u16::try_from(*number).ok().filter(|it| usize::from(*it) < SLOTS);
        Some((slot(first)?, slot(last)?, format!("{host}:{port}")))
    };
    let mut ranges: Vec<_> = ranges.iter().filter_map(range).collect();
    ranges.sort_unstable();
    ranges
}
