//! What a crowd is to do: from the flags that `hold` and `faults` give, or whole, as `run` writes it.

use super::Crowd;
use crate::schedule::Schedule;
use hawser_loadtest::stamp;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a request that nobody gave a size.
const REQUEST_BYTES: usize = 64;

/// Everything that a crowd process needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) control: String,
    pub(crate) app: String,
    pub(crate) business: String,
    pub(crate) name: String,
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) protocol: Protocol,
    /// In place of those that control names.
    pub(crate) nodes: Vec<SocketAddr>,
    /// All devices dial the first of them, and the others only when they come back from there.
    pub(crate) one_node: bool,
    pub(crate) source: Option<IpAddr>,
    /// Certificate that is trusted; none: those of this machine.
    pub(crate) trust: Option<PathBuf>,
    /// When second 0 is, in monotonic nanoseconds.
    pub(crate) begins: u64,
    pub(crate) logins: Schedule,
    pub(crate) under_way_max: u32,
    pub(crate) heartbeat_ms: u64,
    /// What came due is done at this interval and in one go, requests too; none: each at its time.
    pub(crate) tick_ms: Option<u64>,
    pub(crate) groups: Vec<Groups>,
    pub(crate) requests: Schedule,
    /// Only while this file is there.
    pub(crate) ask_while: Option<PathBuf>,
    pub(crate) method: String,
    pub(crate) request_deadline_ms: u32,
    pub(crate) payloads: Payloads,
    pub(crate) come_back: bool,
    pub(crate) forget: bool,
    pub(crate) stay: Option<Spread>,
    pub(crate) behaviours: Behaviours,
    /// At this second, this share of the links is cut.
    pub(crate) cuts: Vec<(f64, f64)>,
    /// Control is shown the app's client secret, which is in the environment under [`CLIENT_SECRET`].
    pub(crate) signs: bool,
    pub(crate) seed: u64,
}

/// Where a crowd finds the client secret: arguments of a process can be read by anyone on its machine.
pub(crate) const CLIENT_SECRET: &str = "HAWSER_LOADTEST_CLIENT_SECRET";

/// How devices reach access nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    Tcp,
    Tls,
    Websocket,
    /// WebSocket inside TLS.
    WebsocketTls,
    Quic,
}

impl Protocol {
    /// As in scenarios and results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Websocket => "websocket",
            Self::WebsocketTls => "websocket-tls",
            Self::Quic => "quic",
        }
    }

    /// As control names its access points.
    pub(crate) fn of_access_point(self) -> &'static str {
        match self {
            Self::Websocket => "ws",
            Self::WebsocketTls => "wss",
            other => other.name(),
        }
    }

    /// Whether the link is TLS over TCP.
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::WebsocketTls)
    }

    /// Whether frames travel as WebSocket messages.
    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::Websocket | Self::WebsocketTls)
    }
}

/// Groups of one name that devices are in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Groups {
    pub(crate) name: String,
    /// 1: the group of this name; more: `NAME-0` and on, and each device is in one of them.
    pub(crate) count: u32,
    /// Only every so many-th device is in one.
    pub(crate) every: u32,
    /// How long a device stays in it; none: as long as it is online.
    pub(crate) stay: Option<Spread>,
    /// Until it joins again.
    pub(crate) away: Spread,
}

impl Groups {
    /// The one that this device is in, if any.
    pub(crate) fn of(&self, device: u32) -> Option<String> {
        device.is_multiple_of(self.every).then(|| self.name_of((device / self.every) % self.count))
    }

    /// The name of one of them.
    pub(crate) fn name_of(&self, number: u32) -> String {
        if self.count == 1 { self.name.clone() } else { format!("{}-{number}", self.name) }
    }
}

/// A time that differs evenly from one to the next: by at most this share of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) ms: f64,
    pub(crate) share: f64,
}

impl Spread {
    /// One of them; `dice` is from 0 to 1.
    pub(crate) fn draw(self, dice: f64) -> Duration {
        Duration::from_secs_f64((self.ms * (1.0 + self.share * (2.0 * dice - 1.0)) / 1e3).max(0.0))
    }
}

/// Shares of the devices that do not behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Behaviours {
    /// Read nothing once they are online.
    pub(crate) deaf: f64,
    /// Say nothing once they are online, no heartbeat either.
    pub(crate) silent: f64,
    /// Lose their link again and again, after this time each.
    pub(crate) flapping: f64,
    pub(crate) flap: Spread,
}

/// How a device behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Well,
    Deaf,
    Silent,
    Flapping,
}

impl Behaviours {
    /// How the device at this place between 0 and 1 behaves.
    pub(crate) fn at(&self, place: f64) -> Behaviour {
        let mut upto = 0.0;
        for (share, behaviour) in [
            (self.deaf, Behaviour::Deaf),
            (self.silent, Behaviour::Silent),
            (self.flapping, Behaviour::Flapping),
        ] {
            upto += share;
            if place < upto {
                return behaviour;
            }
        }
        Behaviour::Well
    }
}

/// Sizes of bodies in bytes, each with its weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Payloads(pub(crate) Vec<(usize, f64)>);

impl Payloads {
    /// The size at this place between 0 and 1.
    pub(crate) fn at(&self, place: f64) -> usize {
        let whole: f64 = self.0.iter().map(|(_, weight)| weight).sum();
        let mut left = place * whole;
        for (bytes, weight) in &self.0 {
            left -= weight;
            if left < 0.0 {
                return *bytes;
            }
        }
        self.0.last().map_or(0, |(bytes, _)| *bytes)
    }
}

impl From<Crowd> for Plan {
    fn from(wanted: Crowd) -> Self {
        let groups = wanted.group.into_iter().map(|name| Groups {
            name,
            count: 1,
            every: wanted.group_every.max(1),
            stay: None,
            away: Spread::default(),
        });
        Self {
            control: wanted.control,
            app: wanted.app,
            business: wanted.business,
            name: wanted.name,
            first: wanted.first,
            count: wanted.count,
            protocol: if wanted.trust.is_some() { Protocol::Tls } else { Protocol::Tcp },
            nodes: wanted.nodes,
            one_node: wanted.one_node,
            source: wanted.source,
            trust: wanted.trust,
            begins: stamp::now(),
            logins: Schedule::steady(f64::from(wanted.logins_per_second)),
            under_way_max: wanted.under_way_max,
            heartbeat_ms: wanted.heartbeat_ms,
            tick_ms: wanted.tick_ms,
            groups: groups.collect(),
            requests: Schedule::steady(f64::from(wanted.requests_per_second)),
            ask_while: wanted.ask_while,
            method: "echo".to_owned(),
            request_deadline_ms: 10_000,
            payloads: Payloads(vec![(REQUEST_BYTES, 1.0)]),
            come_back: wanted.come_back || wanted.stay_ms.is_some(),
            forget: wanted.forget,
            stay: wanted.stay_ms.map(|ms| Spread { ms: ms as f64, share: 0.5 }),
            behaviours: Behaviours {
                deaf: f64::from(u8::from(wanted.deaf)),
                ..Behaviours::default()
            },
            cuts: Vec::new(),
            signs: false,
            seed: wanted.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_weights_are_kept() {
        let behaviours =
            Behaviours { deaf: 0.1, silent: 0.2, flapping: 0.3, ..Behaviours::default() };
        let of = |wanted| {
            (0..1_000).filter(|n| behaviours.at((f64::from(*n) + 0.5) / 1e3) == wanted).count()
        };
        assert_eq!(of(Behaviour::Deaf), 100);
        assert_eq!(of(Behaviour::Silent), 200);
        assert_eq!(of(Behaviour::Flapping), 300);
        assert_eq!(of(Behaviour::Well), 400);
        let payloads = Payloads(vec![(64, 3.0), (1_024, 1.0)]);
        let small = (0..100).filter(|n| payloads.at((f64::from(*n) + 0.5) / 1e2) == 64).count();
        assert_eq!(small, 75);
    }

    #[test]
    fn a_time_stays_within_its_spread() {
        let spread = Spread { ms: 1_000.0, share: 0.5 };
        assert_eq!(spread.draw(0.0), Duration::from_millis(500));
        assert_eq!(spread.draw(1.0), Duration::from_millis(1_500));
        assert_eq!(Spread::default().draw(0.7), Duration::ZERO);
    }

    #[test]
    fn groups_of_one_name_share_the_devices_that_are_in_one() {
        let mut groups = Groups {
            name: "room".to_owned(),
            count: 3,
            every: 2,
            stay: None,
            away: Spread::default(),
        };
        let of: Vec<_> = (0..8).map(|device| groups.of(device)).collect();
        let named = |number| Some(format!("room-{number}"));
        assert_eq!(of, [named(0), None, named(1), None, named(2), None, named(0), None]);
        groups.count = 1;
        assert_eq!(groups.of(4).as_deref(), Some("room"));
    }
}
