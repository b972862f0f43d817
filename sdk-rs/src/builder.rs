//! The description of a client, from what the app says to what the session needs.

use crate::access::{Control, ControlAddressError};
use crate::advice::{AccessPoint, Advice, Protocol, TOKEN_BYTES_MAX, Token};
use crate::backoff::Settings;
use crate::client::{Client, Inbox, Listeners, OnState, Shared};
use crate::cursors::CursorStorage;
use crate::link::{Dialer, TrustError};
use crate::proof::Proof;
use crate::session::Setup;
use crate::state::State;
use crate::storage::Storage;
use hawser_proto::id::{AppId, BusinessId, DeviceId, IdError};
use hawser_proto::limits::BUSINESSES_PER_CONNECTION_MAX;
use hawser_proto::params;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// What a device says of itself is cut to this, so that a login stays below its 4 KiB.
const FACT_BYTES_MAX: usize = 64;

/// Why a description makes no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Not `[a-z0-9-]{1,32}`.
    #[error("the app's name is malformed")]
    App(#[source] IdError),
    /// Not 1 to 128 bytes without control characters.
    #[error("the device's id is malformed")]
    Device(#[source] IdError),
    /// Not `[a-z0-9-]{1,32}`.
    #[error("the name of a business is malformed")]
    Business(#[source] IdError),
    /// One connection serves at most 32.
    #[error("more than 32 businesses")]
    TooManyBusinesses,
    /// Control's address.
    #[error(transparent)]
    Control(#[from] ControlAddressError),
    /// The root certificate.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A pinned client without a token of 1 to 2048 bytes, or without an access point.
    #[error("a pinned client needs a token and an access point")]
    Pinned,
}

/// Describes a client; made by [`Client::builder`] or [`Builder::pinned`].
///
/// ```no_run
/// # async fn example(pem: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
/// use hawser_sdk::{Client, FileStorage, Proof};
/// let client = Client::builder("http://127.0.0.1:8080", "demo", "device-1")
///     .proof(Proof::open())
///     .business("chat")
///     .root_certificate(pem)
///     .storage(FileStorage::new("/var/lib/my-app/hawser"))
///     .build()?;
/// client.connect().await?;
/// # Ok(()) }
/// ```
#[must_use = "a builder does nothing until built"]
pub struct Builder {
    control: Option<String>,
    pinned: Option<(String, Vec<AccessPoint>)>,
    app: String,
    device: String,
    proof: Proof,
    businesses: Vec<String>,
    protocols: Vec<Protocol>,
    backoff: Settings,
    platform: String,
    network: String,
    app_version: String,
    pem: Option<Vec<u8>>,
    dialer: Option<Dialer>,
    storage: Option<Arc<dyn Storage>>,
    cursors: Option<Arc<dyn CursorStorage>>,
    on_state: Option<OnState>,
}

impl Builder {
    pub(crate) fn new(control: Option<&str>, app: &str, device: &str) -> Self {
        Self {
            control: control.map(ToOwned::to_owned),
            pinned: None,
            app: app.to_owned(),
            device: device.to_owned(),
            proof: Proof::open(),
            businesses: Vec::new(),
            protocols: Vec::new(),
            backoff: Settings::default(),
            platform: "native".to_owned(),
            network: String::new(),
            app_version: String::new(),
            pem: None,
            dialer: None,
            storage: None,
            cursors: None,
            on_state: None,
        }
    }

    /// A client that never asks control: it dials these access points, in this order, with this
    /// token. For tests and load tools. When the token is over, the client closes.
    pub fn pinned(
        app: &str,
        device: &str,
        token: &str,
        points: impl IntoIterator<Item = AccessPoint>,
    ) -> Self {
        let pinned = Some((token.to_owned(), points.into_iter().collect()));
        Self { pinned, ..Self::new(None, app, device) }
    }

    /// How the device proves who it is. Default [`Proof::open`].
    pub fn proof(mut self, proof: Proof) -> Self {
        self.proof = proof;
        self
    }

    /// A business to serve on the connection; call it once for each, up to 32. None named: all that
    /// the token allows.
    pub fn business(mut self, name: &str) -> Self {
        self.businesses.push(name.to_owned());
        self
    }

    /// Trusts the certificates of this PEM text, and nothing else. Default: the system's.
    pub fn root_certificate(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.pem = Some(pem.as_ref().to_vec());
        self
    }

    /// Shares trust and sockets with other clients of this process, in place of
    /// [`Self::root_certificate`].
    pub fn dialer(mut self, dialer: Dialer) -> Self {
        self.dialer = Some(dialer);
        self
    }

    /// Where the installation is kept. Without, each client value is an installation of its own.
    pub fn storage(mut self, storage: impl Storage) -> Self {
        self.storage = Some(Arc::new(storage));
        self
    }

    /// Where the cursors of the inboxes are kept: stored pushes are acknowledged once their cursor is.
    /// Without, they are acknowledged once handled, and the next process gets again what this one had
    /// not acknowledged.
    pub fn cursors(mut self, cursors: impl CursorStorage) -> Self {
        self.cursors = Some(Arc::new(cursors));
        self
    }

    /// Dials only these protocols, still in control's order; call it once for each. Default: all.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocols.push(protocol);
        self
    }

    /// How to come back, for a pinned client, and for others until control has answered once.
    pub fn backoff(mut self, settings: Settings) -> Self {
        self.backoff = settings;
        self
    }

    /// "native" (default), "mini-program" or "web"; told to control and access node.
    pub fn platform(mut self, platform: &str) -> Self {
        platform.clone_into(&mut self.platform);
        self
    }

    /// "wifi", "cellular" or "wired", where the app knows.
    pub fn network(mut self, network: &str) -> Self {
        network.clone_into(&mut self.network);
        self
    }

    /// The app's own version.
    pub fn app_version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.app_version);
        self
    }

    /// Called at each change of state, from the client's task: it must return at once.
    pub fn on_state(mut self, callback: impl Fn(&State) + Send + Sync + 'static) -> Self {
        self.on_state = Some(Box::new(callback));
        self
    }

    /// Checks the description. The client is idle until [`Client::start`] or [`Client::connect`].
    pub fn build(self) -> Result<Client, BuildError> {
        AppId::new(&self.app).map_err(BuildError::App)?;
        DeviceId::new(&self.device).map_err(BuildError::Device)?;
        for name in &self.businesses {
            BusinessId::new(name).map_err(BuildError::Business)?;
        }
        if self.businesses.len() > BUSINESSES_PER_CONNECTION_MAX {
            return Err(BuildError::TooManyBusinesses);
        }
        let control = match &self.control {
            Some(address) => Some(Control::new(address, self.proof)?),
            None => None,
        };
        let pinned = match self.pinned {
            Some((token, points)) => Some(pinned(token, points, &self.protocols, self.backoff)?),
            None => None,
        };
        let dialer = match (self.dialer, &self.pem) {
            (Some(dialer), _) => dialer,
            (None, Some(pem)) => Dialer::with_pem(pem)?,
            (None, None) => Dialer::new(),
        };
        let setup = Setup {
            app: self.app,
            device: self.device,
            businesses: self.businesses.into_iter().map(Arc::from).collect(),
            client: params::Client {
                sdk: concat!("hawser-rs/", env!("CARGO_PKG_VERSION")).to_owned(),
                platform: cut(self.platform),
                network: cut(self.network),
                app_version: cut(self.app_version),
            },
            protocols: self.protocols,
            backoff: self.backoff,
            pinned,
        };
        let wake = Arc::new(Notify::new());
        Ok(Client::from_shared(Shared {
            setup: Arc::new(setup),
            control,
            dialer,
            storage: self.storage,
            installation: Mutex::new(None),
            inbox: Mutex::new(Inbox::default()),
            cursors: self.cursors,
            inboxes: Mutex::new(None),
            keeps: AtomicU64::new(0),
            newest_keep: Mutex::new(0),
            wake: wake.clone(),
            state: watch::Sender::new(State::Idle),
            on_state: self.on_state,
            listeners: Listeners::new(wake),
        }))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("control", &self.control)
            .field("app", &self.app)
            .field("device", &self.device)
            .field("proof", &self.proof)
            .field("businesses", &self.businesses)
            .finish_non_exhaustive()
    }
}

fn pinned(
    text: String,
    mut points: Vec<AccessPoint>,
    protocols: &[Protocol],
    backoff: Settings,
) -> Result<Advice, BuildError> {
    points.retain(|point| protocols.is_empty() || protocols.contains(&point.protocol));
    if text.is_empty() || text.len() > TOKEN_BYTES_MAX || points.is_empty() {
        return Err(BuildError::Pinned);
    }
    Ok(Advice {
        token: Token { text, refresh_at: None, expires_at: None },
        points,
        backoff,
        start_after: Duration::ZERO,
        stale_at: None,
    })
}

fn cut(mut text: String) -> String {
    let mut end = text.len().min(FACT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_checked_once() {
        let builder = |app, device| Client::builder("http://127.0.0.1:1", app, device);
        assert!(builder("demo", "d").business("chat").build().is_ok());
        assert!(matches!(builder("Demo", "d").build(), Err(BuildError::App(_))));
        assert!(matches!(builder("demo", "").build(), Err(BuildError::Device(_))));
        let business = builder("demo", "d").business("a b").build();
        assert!(matches!(business, Err(BuildError::Business(_))));
        let pem = builder("demo", "d").root_certificate("no pem").build();
        assert!(matches!(pem, Err(BuildError::Trust(TrustError::Pem(_)))));
        let pinned = Builder::pinned("demo", "d", "", ["tcp://h:1".parse().unwrap()]).build();
        assert!(matches!(pinned, Err(BuildError::Pinned)));
        let pinned = Builder::pinned("demo", "d", "t", []).build();
        assert!(matches!(pinned, Err(BuildError::Pinned)));
    }
}
