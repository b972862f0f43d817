//! The same for QUIC: a UDP proxy that delays, loses, reorders or swallows datagrams, by seeded dice.

use anyhow::Context;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

const DATAGRAM_BYTES_MAX: usize = 65_535;
/// A client that has been silent for this long is forgotten.
const SILENCE: Duration = Duration::from_mins(1);

/// What happens to datagrams, in both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Weather {
    /// They arrive.
    Fair,
    /// They arrive after this long, and up to as much again: later ones overtake earlier ones.
    Slow(Duration),
    /// So many of a hundred are lost.
    Lossy(u8),
    /// Nothing arrives.
    Night,
}

/// One proxy. Dropped, it ends.
pub(super) struct Datagrams {
    pub(super) address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Aborted with it.
    _task: JoinSet<()>,
}

impl Datagrams {
    /// Listens on a free port of loopback, for this server.
    pub(super) async fn start(server: SocketAddr, seed: u64) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port")?;
        let address = socket.local_addr()?;
        let (weather, forecast) = watch::channel(Weather::Fair);
        let mut task = JoinSet::new();
        task.spawn(serve(Arc::new(socket), server, forecast, SmallRng::seed_from_u64(seed)));
        Ok(Self { address, weather, _task: task })
    }

    /// From now on.
    pub(super) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn serve(
    near: Arc<UdpSocket>,
    server: SocketAddr,
    weather: watch::Receiver<Weather>,
    mut dice: SmallRng,
) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        while let Some(ended) = tasks.try_join_next() {
            if let Ok(Some(client)) = ended {
                clients.remove(&client);
            }
        }
        // Linux reports a refused datagram here once; the next one is read as ever.
        let Ok((read, client)) = near.recv_from(&mut buffer).await else { continue };
        let far = if let Some(far) = clients.get(&client) {
            far.clone()
        } else {
            let Ok(far) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
            if far.connect(server).await.is_err() {
                continue;
            }
            let far = Arc::new(far);
            clients.insert(client, far.clone());
            let dice = SmallRng::seed_from_u64(dice.random());
            tasks.spawn(back(near.clone(), far.clone(), client, weather.clone(), dice));
            far
        };
        let Some(delay) = fate(*weather.borrow(), &mut dice) else { continue };
        let datagram = buffer[..read].to_vec();
        if delay.is_zero() {
            let _ = far.send(&datagram).await;
        } else {
            tasks.spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = far.send(&datagram).await;
                None
            });
        }
    }
}

async fn back(
    near: Arc<UdpSocket>,
    far: Arc<UdpSocket>,
    client: SocketAddr,
    weather: watch::Receiver<Weather>,
    mut dice: SmallRng,
) -> Option<SocketAddr> {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut late = JoinSet::new();
    loop {
        let Ok(taken) = tokio::time::timeout(SILENCE, far.recv(&mut buffer)).await else {
            return Some(client);
        };
        while late.try_join_next().is_some() {}
        let Ok(read) = taken else { continue };
        let Some(delay) = fate(*weather.borrow(), &mut dice) else { continue };
        let datagram = buffer[..read].to_vec();
        if delay.is_zero() {
            let _ = near.send_to(&datagram, client).await;
        } else {
            let near = near.clone();
            late.spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = near.send_to(&datagram, client).await;
            });
        }
    }
}

/// `None`: it is lost.
fn fate(weather: Weather, dice: &mut SmallRng) -> Option<Duration> {
    match weather {
        Weather::Fair => Some(Duration::ZERO),
        Weather::Slow(least) => Some(least + least.mul_f64(dice.random())),
        Weather::Lossy(percent) => (dice.random_range(0..100) >= percent).then_some(Duration::ZERO),
        Weather::Night => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_loses_the_same_datagrams_and_as_many_as_it_should() {
        let lost = |seed| -> Vec<bool> {
            let mut dice = SmallRng::seed_from_u64(seed);
            (0..2_000).map(|_| fate(Weather::Lossy(20), &mut dice).is_none()).collect()
        };
        assert_eq!(lost(7), lost(7));
        assert_ne!(lost(7), lost(8));
        let count = lost(7).into_iter().filter(|lost| *lost).count();
        assert!((300..500).contains(&count), "{count}");
    }

    #[tokio::test]
    async fn datagrams_come_through_in_fair_weather_and_not_at_night() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let proxy = Datagrams::start(server.local_addr().unwrap(), 1).await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(proxy.address).await.unwrap();
        let mut buffer = [0; 16];
        for weather in [Weather::Fair, Weather::Slow(Duration::from_millis(5))] {
            proxy.set(weather);
            client.send(b"there").await.unwrap();
            let (read, from) = server.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..read], b"there");
            server.send_to(b"back", from).await.unwrap();
            let read = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..read], b"back", "{weather:?}");
        }
        proxy.set(Weather::Night);
        client.send(b"lost").await.unwrap();
        let silence =
            tokio::time::timeout(Duration::from_millis(100), server.recv_from(&mut buffer));
        assert!(silence.await.is_err());
    }
}
