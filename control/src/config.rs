//! What control is started with. Typed, checked once, and with a default for all but secrets.

use hawser_chassis::peers::Peers;
use hawser_chassis::secret::Secret;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

/// Longest token life that may be configured. Revocations are kept this long, whatever the token life
/// was when a token was made.
pub const TOKEN_TTL_MAX: Duration = Duration::from_hours(24);

/// Each ticket key verifies for eleven minutes after its time, and few of them may overlap.
const TICKET_KEY_ROTATION_MIN: Duration = Duration::from_mins(30);

/// The key that seals secrets at rest (AES-256-GCM). Losing it loses every client secret and signing
/// key; it is not stored by control. `Debug` does not show it.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// From its 32 bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// From 64 hexadecimal digits; `None` for any other text.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), bytes.as_mut()).ok()?;
        Some(Self(bytes))
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// How devices wait before they try again; handed out with every token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// First delay. Default 1 s.
    pub base: Duration,
    /// Longest delay. Default 60 s.
    pub max: Duration,
    /// What a delay is multiplied with after each failure. Default 2.
    pub factor: f64,
    /// Share of a delay that is random, 0 to 1. Default 0.5.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), max: Duration::from_mins(1), factor: 2.0, jitter: 0.5 }
    }
}

/// Everything control is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the embedded store; made when missing. One control process at a time.
    pub data_dir: PathBuf,
    /// Opens every call of the HTTP API. At least 16 characters.
    pub admin_token: Secret,
    /// How access nodes and routers are known on the internal port.
    pub peers: Peers,
    /// Seals secrets at rest. The same at every start on one `data_dir`.
    pub master_key: MasterKey,
    /// Where devices and operators reach the HTTP API, for the OpenAPI document. Default: none.
    pub public_url: Option<String>,
    /// Life of a device token. Default 1 h, at most [`TOKEN_TTL_MAX`].
    pub token_ttl: Duration,
    /// How long a new signing key is published before it signs, so that every access node knows it
    /// when the first token made with it arrives. Default 10 s.
    pub signing_activation_delay: Duration,
    /// Lets apps accept devices without any proof, and allows all origins to new apps. For
    /// development only. Default off.
    pub allow_open_access: bool,
    /// How far the time in a proof may be from ours, either way. Default 300 s.
    pub proof_window: Duration,
    /// Proof nonces remembered at most, over all apps (about 100 bytes each); one app may hold half.
    /// When full, HMAC proofs are answered `overloaded`. Default 1,000,000.
    pub nonces_max: usize,
    /// An access node whose last report is older is not handed out. Default 10 s.
    pub node_freshness: Duration,
    /// How often access nodes are asked to report; shorter than `node_freshness`. Default 3 s.
    pub node_report_interval: Duration,
    /// Changes a watcher may be behind before it is cut off and starts anew. Default 1,024.
    pub watch_backlog: usize,
    /// Longest wait for the store, per call. Default 2 s.
    pub store_timeout: Duration,
    /// HTTP requests in work at once; more are answered `overloaded`. Default 1,024.
    pub http_requests_max: usize,
    /// Open HTTP connections; the next ones wait in the kernel's queue. Default 4,096.
    pub http_connections_max: usize,
    /// One HTTP request, answer included. Default 10 s.
    pub http_request_timeout: Duration,
    /// From accept, or the last answer, to the next whole request header. Default 30 s.
    pub http_header_timeout: Duration,
    /// How often what has expired is cleaned up. Default 30 s.
    pub sweep_interval: Duration,
    /// How long audit entries are kept. Default 400 days.
    pub audit_retention: Duration,
    /// Back-off of devices.
    pub backoff: Backoff,
    /// Devices that lost their connection spread their first try over this, where control cannot reckon it
    /// from what the other nodes take; where there is no other node, it is not shorter. Default 15 s.
    pub reconnect_window: Duration,
    /// Gives access nodes the keys of resume tickets, so that devices come back without a signature check.
    /// Default on.
    pub resume_tickets: bool,
    /// A new ticket key is made this often. Default 12 h.
    pub ticket_key_rotation: Duration,
    /// Devices ask for access points again after this, when they connect next. Default 1 h.
    pub access_refresh: Duration,
}

impl Config {
    /// All defaults.
    pub fn new(
        data_dir: PathBuf,
        admin_token: Secret,
        peers: Peers,
        master_key: MasterKey,
    ) -> Self {
        Self {
            data_dir,
            admin_token,
            peers,
            master_key,
            public_url: None,
            token_ttl: Duration::from_hours(1),
            signing_activation_delay: Duration::from_secs(10),
            allow_open_access: false,
            proof_window: Duration::from_mins(5),
            nonces_max: 1_000_000,
            node_freshness: Duration::from_secs(10),
            node_report_interval: Duration::from_secs(3),
            watch_backlog: 1024,
            store_timeout: Duration::from_secs(2),
            http_requests_max: 1024,
            http_connections_max: 4096,
            http_request_timeout: Duration::from_secs(10),
            http_header_timeout: Duration::from_secs(30),
            sweep_interval: Duration::from_secs(30),
            audit_retention: Duration::from_hours(9600),
            backoff: Backoff::default(),
            reconnect_window: Duration::from_secs(15),
            resume_tickets: true,
            ticket_key_rotation: Duration::from_hours(12),
            access_refresh: Duration::from_hours(1),
        }
    }

    /// What is wrong with it, if anything. [`start`](crate::start) refuses it then.
    pub fn problem(&self) -> Option<&'static str> {
        let second = Duration::from_secs(1);
        let backoff = self.backoff;
        if self.admin_token.expose().len() < 16 {
            Some("the admin token is shorter than 16 characters")
        } else if self.token_ttl < second || self.token_ttl > TOKEN_TTL_MAX {
            Some("the token life is not between 1 s and 24 h")
        } else if self.ticket_key_rotation < TICKET_KEY_ROTATION_MIN {
            Some("ticket keys are to be rotated more often than every half an hour")
        } else if self.signing_activation_delay > self.token_ttl {
            Some("the activation delay is longer than the token life")
        } else if [
            self.nonces_max,
            self.watch_backlog,
            self.http_requests_max,
            self.http_connections_max,
        ]
        .contains(&0)
        {
            Some("a bound is zero")
        } else if self.sweep_interval.is_zero() || self.node_report_interval.is_zero() {
            Some("an interval is zero")
        } else if self.node_report_interval >= self.node_freshness {
            Some("nodes report no more often than their reports grow old: none would be handed out")
        } else if backoff.factor.is_nan()
            || backoff.factor < 1.0
            || !(0.0..=1.0).contains(&backoff.jitter)
        {
            Some("the back-off factor is below 1 or its jitter not between 0 and 1")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new(
            "/nowhere".into(),
            Secret::new("an-admin-token-of-length"),
            Peers::secret(&Secret::new("a-cluster-secret")).unwrap(),
            MasterKey::new([7; 32]),
        )
    }

    #[test]
    fn defaults_are_fine_and_bad_values_are_named() {
        assert_eq!(config().problem(), None);
        let spoil: [fn(&mut Config); 8] = [
            |c| c.node_report_interval = Duration::from_hours(1),
            |c| c.node_freshness = c.node_report_interval,
            |c| c.ticket_key_rotation = Duration::from_mins(1),
            |c| c.admin_token = Secret::new("short"),
            |c| c.token_ttl = Duration::from_hours(25),
            |c| c.signing_activation_delay = Duration::from_hours(2),
            |c| c.watch_backlog = 0,
            |c| c.backoff.factor = f64::NAN,
        ];
        for (case, spoil) in spoil.iter().enumerate() {
            let mut config = config();
            spoil(&mut config);
            assert!(config.problem().is_some(), "case {case}");
        }
    }

    #[test]
    fn a_master_key_has_one_text_form_and_hides() {
        assert!(MasterKey::from_hex(&"ab".repeat(32)).is_some());
        for bad in ["", "ab", &"g".repeat(64), &"ab".repeat(33)] {
            assert!(MasterKey::from_hex(bad).is_none(), "{bad}");
        }
        assert_eq!(format!("{:?}", MasterKey::new([1; 32])), "MasterKey(..)");
    }
}
