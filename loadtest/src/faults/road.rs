//! The ways from one device to all access points, each through a proxy of its own, and how they break.

use super::datagrams::{Datagrams, Weather};
use super::proxy::{Proxy, Way};
use crate::control::{Control, token};
use anyhow::Context;
use hawser_sdk::{AccessPoint, Protocol};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::net::SocketAddr;
use std::time::Duration;

enum Carrier {
    Stream(Proxy),
    Datagrams(Datagrams),
}

struct Lane {
    protocol: Protocol,
    server_name: Option<String>,
    /// The node's door.
    address: SocketAddr,
    carrier: Carrier,
}

/// What may happen to a lane that is not the open one.
const ILLS: u32 = 8;

impl Lane {
    fn open(&self) {
        match &self.carrier {
            Carrier::Stream(proxy) => proxy.set(Way::To(self.address)),
            Carrier::Datagrams(proxy) => proxy.set(Weather::Fair),
        }
    }

    /// Ended; sometimes without the node hearing of it, so that the new link takes over from one that the
    /// node believes in.
    fn cut(&self, quietly: bool) {
        match &self.carrier {
            Carrier::Stream(proxy) => proxy.set(if quietly { Way::Abandoned } else { Way::Cut }),
            Carrier::Datagrams(proxy) => proxy.set(Weather::Night),
        }
    }

    /// Usable, or nearly.
    fn ail(&self, dice: &mut SmallRng) {
        let to = self.address;
        match &self.carrier {
            Carrier::Stream(proxy) => proxy.set(match dice.random_range(0..ILLS) {
                0 => Way::Slow(to, Duration::from_millis(dice.random_range(1..150))),
                1 => Way::Stalled(to),
                2 => Way::Mute(to),
                3 => Way::Deaf(to),
                4 => Way::Swallowed(to),
                5 => Way::Torn(to, dice.random_range(1..3_000)),
                6 => Way::Reset,
                _ => Way::Cut,
            }),
            Carrier::Datagrams(proxy) => proxy.set(match dice.random_range(0..3) {
                0 => Weather::Slow(Duration::from_millis(dice.random_range(1..80))),
                1 => Weather::Lossy(dice.random_range(1..25)),
                _ => Weather::Night,
            }),
        }
    }
}

/// All lanes of one device.
pub(super) struct Road {
    lanes: Vec<Lane>,
}

impl Road {
    /// Asks control for a token and the access points, and puts a proxy before each.
    pub(super) async fn pave(
        control: &str,
        app: &str,
        device: &str,
        seed: u64,
    ) -> anyhow::Result<(String, Self)> {
        let answer = Control::new(control, None)?.access(app, device, None).await?;
        let token = token(&answer)?.to_owned();
        let mut lanes = Vec::new();
        for point in answer["access_points"].as_array().context("no access points")? {
            let protocol: Protocol = point["protocol"].as_str().unwrap_or_default().parse()?;
            let port = u16::try_from(point["port"].as_u64().unwrap_or_default())?;
            let host = point["host"].as_str().unwrap_or_default().parse()?;
            let address = SocketAddr::new(host, port);
            let carrier = if protocol == Protocol::Quic {
                let seed = seed ^ lanes.len() as u64;
                Carrier::Datagrams(Datagrams::start(address, seed).await?)
            } else {
                Carrier::Stream(Proxy::start(Way::To(address)).await?)
            };
            let named = point["server_name"].as_str().filter(|name| !name.is_empty());
            let server_name = named.map(str::to_owned);
            lanes.push(Lane { protocol, server_name, address, carrier });
        }
        Ok((token, Self { lanes }))
    }

    pub(super) fn points(&self) -> Vec<AccessPoint> {
        let point = |lane: &Lane| {
            let address = match &lane.carrier {
                Carrier::Stream(proxy) => proxy.address,
                Carrier::Datagrams(proxy) => proxy.address,
            };
            let mut point = AccessPoint::new(lane.protocol, "127.0.0.1", address.port());
            point.server_name.clone_from(&lane.server_name);
            point
        };
        self.lanes.iter().map(point).collect()
    }

    /// Every way is open.
    pub(super) fn open(&self) {
        self.lanes.iter().for_each(Lane::open);
    }

    /// Leaves one lane open at a time; the others are cut or, where `torn`, ail in one way or another, and
    /// the open one too for a part of its time.
    pub(super) async fn break_again_and_again(&self, moves_ms: u64, seed: u64, torn: bool) {
        let mut dice = SmallRng::seed_from_u64(seed);
        loop {
            let open = dice.random_range(0..self.lanes.len());
            let quietly = dice.random_bool(0.3);
            for (number, lane) in self.lanes.iter().enumerate() {
                if number == open {
                    lane.open();
                } else if torn {
                    lane.ail(&mut dice);
                } else {
                    lane.cut(quietly);
                }
            }
            let wait = dice.random_range(moves_ms / 4..=moves_ms.max(4));
            tokio::time::sleep(Duration::from_millis(wait)).await;
            if torn && dice.random_bool(0.5) {
                self.lanes[open].ail(&mut dice);
                tokio::time::sleep(Duration::from_millis(wait / 2)).await;
            }
        }
    }
}
