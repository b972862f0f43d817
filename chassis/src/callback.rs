//! Channels to addresses that tenants name: the endpoints of businesses. They are resolved at each connect, and
//! an address that is not public is refused unless the configuration allows it; otherwise a tenant could make
//! hawser call what stands beside it: a metadata service, a database, another tenant's server. What was checked
//! is what is dialled, so a name that resolves otherwise the next time helps nobody. gRPC knows no redirects.

use crate::grpc;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tower::Service;
use tracing::warn;

/// One endpoint's refusals are told of once in this time: every request tries to connect anew.
const TOLD_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Which addresses may be called for tenants: `"public"`, `"any"`, or a list of networks, in which `"public"` may
/// stand too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callbacks {
    networks: Arc<[Network]>,
    public: bool,
    any: bool,
}

impl Callbacks {
    /// Addresses of the internet only.
    pub fn public() -> Self {
        Self { networks: Arc::new([]), public: true, any: false }
    }

    /// All addresses: for one tenant who is trusted, and for development.
    pub fn any() -> Self {
        Self { networks: Arc::new([]), public: false, any: true }
    }

    /// Whether this address may be called.
    pub fn allow(&self, address: IpAddr) -> bool {
        let address = plain(address);
        self.any
            || (self.public && is_public(address))
            || self.networks.iter().any(|network| network.holds(address))
    }

    fn parse<'t>(words: impl IntoIterator<Item = &'t str>) -> Result<Self, String> {
        let mut all = Self { networks: Arc::new([]), public: false, any: false };
        let mut networks = Vec::new();
        for word in words {
            match word {
                "public" => all.public = true,
                "any" => all.any = true,
                network => networks.push(network.parse()?),
            }
        }
        all.networks = networks.into();
        Ok(all)
    }
}

impl<'de> Deserialize<'de> for Callbacks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "callbacks are \"public\", \"any\", or a list of networks")]
        enum Form {
            One(String),
            Many(Vec<String>),
        }
        let parsed = match Form::deserialize(deserializer)? {
            Form::One(word) => Self::parse([word.as_str()]),
            Form::Many(words) => Self::parse(words.iter().map(String::as_str)),
        };
        parsed.map_err(D::Error::custom)
    }
}

/// An address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn holds(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = own.to_bits() ^ other.to_bits();
                differing.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is neither public, any, nor a network like 10.1.0.0/16");
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }
}

/// The address that is meant: one of IPv4 may come in the clothes of IPv6.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// After the registry of special addresses (RFC 6890 and its additions).
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Shared with a carrier's customers; protocol assignments; relays of 6to4; benchmarks.
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && (18..20).contains(&b));
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match parts {
        // Behind a translator (RFC 6052) or a tunnel (6to4) stands the IPv4 address that is written in it.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            is_public_v4(v4(high, low))
        }
        // Protocol assignments, Teredo among them; documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // All else that was given out to be reached from everywhere (RFC 4291, 2.4).
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// A channel to an endpoint of a tenant, that connects when first used and again whenever it broke. `uri`:
/// `http://host:port`. Calls to a refused address fail as those to one that is not there, and the log says why.
pub fn channel(uri: &str, callbacks: &Callbacks) -> Result<Channel, tonic::transport::Error> {
    let connector = Connector {
        endpoint: uri.into(),
        callbacks: callbacks.clone(),
        told: Arc::new(Mutex::new(None)),
    };
    Ok(grpc::endpoint(uri)?.connect_with_connector_lazy(connector))
}

#[derive(Clone)]
struct Connector {
    endpoint: Arc<str>,
    callbacks: Callbacks,
    /// When a refusal was last logged.
    told: Arc<Mutex<Option<Instant>>>,
}

/// Nothing that a name resolves to may be called.
#[derive(Debug)]
struct Refused(IpAddr);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} may not be called for a business", self.0)
    }
}

impl std::error::Error for Refused {}

impl Connector {
    async fn connect(self, uri: http::Uri) -> io::Result<TokioIo<TcpStream>> {
        let host = uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        let port = uri.port_u16().unwrap_or(80);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut refused = None;
        for address in tokio::net::lookup_host((host, port)).await? {
            if !self.callbacks.allow(address.ip()) {
                refused = Some(address);
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(TokioIo::new(stream));
                }
                Err(error) => last = error,
            }
        }
        let Some(refused) = refused else { return Err(last) };
        self.tell(refused);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, Refused(refused.ip())))
    }

    fn tell(&self, address: SocketAddr) {
        let now = Instant::now();
        let mut told = self.told.lock();
        if told.is_some_and(|before| now.duration_since(before) < TOLD_AGAIN_AFTER) {
            return;
        }
        *told = Some(now);
        warn!(
            endpoint = %self.endpoint, %address,
            "an endpoint of a business is not called: its address is not public; the setting \
             `callbacks` allows networks, or any address"
        );
    }
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

#[cfg(test)]
mod tests;
