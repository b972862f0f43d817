//! What a device must know before it connects: access points, a token, and how to come back.
//!
//! Control gives it ([`crate::access`] reads the answer), or the caller pins it
//! ([`crate::Builder::pinned`]). Nothing here dials or reads a clock.

use crate::backoff::Settings;
use hawser_proto::params;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The longest token taken: a LOGIN must fit into 4 KiB, and control's tokens stay below 1 KiB.
pub(crate) const TOKEN_BYTES_MAX: usize = 2 * 1024;
/// Access points kept of one answer; the rest is cut.
pub(crate) const ACCESS_POINTS_MAX: usize = 32;
/// The longest name of DNS.
const HOST_BYTES_MAX: usize = 253;

/// How an access point is spoken to. The frames are the same on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Frames on a bare TCP link; for trusted networks and tests.
    Tcp,
    /// Frames on TLS 1.3.
    Tls,
    /// Frames on one QUIC stream.
    Quic,
    /// A frame per binary WebSocket message, unencrypted.
    Ws,
    /// A frame per binary WebSocket message on TLS 1.3.
    Wss,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Tls, Self::Quic, Self::Ws, Self::Wss];

    /// The published name, as in an access answer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = AccessPointError;
    fn from_str(text: &str) -> Result<Self, AccessPointError> {
        let named = |it: &Self| it.name() == text;
        Self::ALL.into_iter().find(named).ok_or(AccessPointError::Protocol)
    }
}

/// One address a device may dial. Text form: `tls://host:port`, and `?name=` for the server name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccessPoint {
    /// How to speak there.
    pub protocol: Protocol,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Name the certificate is checked against, where it is not the host.
    pub server_name: Option<String>,
    /// The access node behind it, where control tells: points of one node fail together.
    pub node: Option<String>,
}

impl AccessPoint {
    /// An access point without a server name of its own.
    pub fn new(protocol: Protocol, host: &str, port: u16) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Self { protocol, host, port, server_name: None, node: None }
    }

    /// One that an access node has named; `None`: nothing that could be dialled.
    pub(crate) fn named(told: params::AccessPoint) -> Option<Self> {
        let is_host = |text: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
            text.len() <= HOST_BYTES_MAX && text.bytes().all(known)
        };
        let port = u16::try_from(told.port).ok().filter(|port| *port != 0)?;
        let point = Self::new(told.protocol.parse().ok()?, &told.host, port);
        let server_name = (!told.server_name.is_empty()).then_some(told.server_name);
        let is_sane = !point.host.is_empty()
            && is_host(&point.host)
            && server_name.as_deref().is_none_or(is_host);
        is_sane.then_some(Self { server_name, ..point })
    }

    /// Whether both are the same address.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.host == other.host && self.port == other.port
    }

    /// The name the certificate is checked against.
    pub fn tls_name(&self) -> &str {
        self.server_name.as_deref().unwrap_or(&self.host)
    }

    /// Whether both are known to lead to the same access node.
    pub(crate) fn shares_node(&self, other: &Self) -> bool {
        self.node.is_some() && self.node == other.node
    }
}

impl fmt::Display for AccessPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{}{close}:{}", self.protocol, self.host, self.port)?;
        match &self.server_name {
            Some(name) => write!(f, "?name={name}"),
            None => Ok(()),
        }
    }
}

/// Why a text is no access point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessPointError {
    /// Not one of tcp, tls, quic, ws, wss.
    #[error("the protocol is not tcp, tls, quic, ws or wss")]
    Protocol,
    /// Not `protocol://host:port`.
    #[error("an access point is written protocol://host:port")]
    Form,
}

impl FromStr for AccessPoint {
    type Err = AccessPointError;
    fn from_str(text: &str) -> Result<Self, AccessPointError> {
        let (protocol, rest) = text.split_once("://").ok_or(AccessPointError::Form)?;
        let (place, name) = match rest.split_once("?name=") {
            Some((place, name)) => (place, Some(name.to_owned())),
            None => (rest, None),
        };
        let (host, port) = place.rsplit_once(':').ok_or(AccessPointError::Form)?;
        let port = port.parse().map_err(|_| AccessPointError::Form)?;
        let point = Self { server_name: name, ..Self::new(protocol.parse()?, host, port) };
        if point.host.is_empty() { Err(AccessPointError::Form) } else { Ok(point) }
    }
}

/// A device token and its times, as this device's own clock sees them. `Debug` hides the text.
#[derive(Clone)]
pub struct Token {
    /// Its text.
    pub text: String,
    /// When to ask for another. None: not known before the login answer tells.
    pub refresh_at: Option<Instant>,
    /// When it is refused.
    pub expires_at: Option<Instant>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl Token {
    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    pub(crate) fn wants_refresh(&self, now: Instant) -> bool {
        self.refresh_at.is_some_and(|at| at <= now)
    }
}

/// Everything one access call answers, checked and in the device's own time.
#[derive(Clone, Debug)]
pub struct Advice {
    /// What the login shows.
    pub token: Token,
    /// In the order control gave; never empty.
    pub points: Vec<AccessPoint>,
    /// How to come back.
    pub backoff: Settings,
    /// Wait this long before the first dial: control spreads a storm.
    pub start_after: Duration,
    /// Ask control again after this, whatever else happens.
    pub stale_at: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_point_reads_back_what_it_prints() {
        for text in ["tcp://127.0.0.1:7001", "wss://a.example:443?name=b.example", "quic://[::1]:1"]
        {
            let point: AccessPoint = text.parse().unwrap();
            assert_eq!(point.to_string(), text);
        }
        for bad in ["", "tcp://", "tcp://:1", "tcp://a", "udp://a:1", "tcp://a:99999", "a:1"] {
            assert!(bad.parse::<AccessPoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_node_names_is_checked() {
        let told = |protocol: &str, host: &str, port, server_name: &str| params::AccessPoint {
            protocol: protocol.into(),
            host: host.into(),
            port,
            server_name: server_name.into(),
        };
        for (good, text) in [
            (told("tcp", "127.0.0.1", 1, ""), "tcp://127.0.0.1:1"),
            (told("wss", "a.example", 65_535, "b.example"), "wss://a.example:65535?name=b.example"),
            (told("quic", "[::1]", 7003, ""), "quic://[::1]:7003"),
        ] {
            assert_eq!(AccessPoint::named(good).unwrap().to_string(), text);
        }
        for bad in [
            told("", "a", 1, ""),
            told("udp", "a", 1, ""),
            told("tcp", "", 1, ""),
            told("tcp", "[]", 1, ""),
            told("tcp", "a", 0, ""),
            told("tcp", "a", 65_536, ""),
            told("ws", "a\r\nX: y", 1, ""),
            told("ws", "a/b", 1, ""),
            told("tls", &"a".repeat(300), 1, ""),
            told("tls", "a", 1, "b c"),
        ] {
            assert_eq!(AccessPoint::named(bad), None);
        }
    }

    #[test]
    fn a_token_never_shows() {
        let token = Token { text: "sesame".into(), refresh_at: None, expires_at: None };
        assert!(!format!("{token:?}").contains("sesame"));
    }
}
