//! Who calls: a business key, and what it may do.
//!
//! App and business come from the key and from nowhere else, so no field of any call can reach another
//! tenant. What a key resolves to is kept until the catalogue changes.

use crate::inbox::Caps;
use crate::refusal::Refusal;
use crate::table::Serves;
use aws_lc_rs::digest::{SHA256, digest};
use foldhash::fast::RandomState;
use hawser_chassis::secret::bearer;
use hawser_proto::catalogue::Catalogue;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, BusinessId, BusinessNo};
use hawser_proto::limits::{
    FRAME_BYTES_MAX, FRAME_BYTES_MAX_DEFAULT, INBOX_BYTES_DEFAULT, INBOX_BYTES_MAX,
    INBOX_ENTRIES_DEFAULT, INBOX_ENTRIES_MAX, INBOX_TTL_MAX,
};
use hawser_proto::rpc::control::update::What;
use hawser_proto::rpc::control::{App, InboxOverflow, InboxPolicy, Scope, Update};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use tonic::metadata::MetadataMap;

/// SHA-256 of a business key's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyDigest([u8; 32]);

/// What a good key stands for.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) app: AppId,
    pub(crate) business: BusinessId,
    pub(crate) number: BusinessNo,
    /// Largest frame the app allows.
    pub(crate) frame_bytes_max: usize,
    /// Bounds of each device's inbox of the business.
    pub(crate) inbox: InboxBounds,
    scopes: Vec<i32>,
    /// 0: never.
    expires_at_ms: u64,
    enabled: bool,
}

/// Bounds of the inboxes of one business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InboxBounds {
    pub(crate) caps: Caps,
    /// How long a push may wait at most, in milliseconds.
    pub(crate) ttl_ms_max: u64,
}

impl InboxBounds {
    /// What the catalogue says, with the defaults filled in and within what is allowed at all.
    fn of(policy: Option<&InboxPolicy>) -> Self {
        let said = policy.copied().unwrap_or_default();
        let or =
            |said: u64, default: u64, max: u64| if said == 0 { default } else { said.min(max) };
        let (entries, entries_max) = (INBOX_ENTRIES_DEFAULT.into(), INBOX_ENTRIES_MAX.into());
        let ttl_ms_max = INBOX_TTL_MAX.as_millis() as u64;
        let caps = Caps {
            entries_max: or(said.entries_max.into(), entries, entries_max) as u32,
            bytes_max: or(said.bytes_max, INBOX_BYTES_DEFAULT, INBOX_BYTES_MAX),
            drops_oldest: said.overflow() == InboxOverflow::DropOldest,
        };
        Self { caps, ttl_ms_max: or(said.ttl_ms_max, ttl_ms_max, ttl_ms_max) }
    }
}

/// The largest frame an app allows.
pub(crate) fn frame_bytes_max(app: Option<&App>) -> usize {
    match app.map_or(0, |app| app.frame_bytes_max) {
        0 => FRAME_BYTES_MAX_DEFAULT,
        bytes => (bytes as usize).min(FRAME_BYTES_MAX),
    }
}

/// A catalogue with what its keys were found to stand for. Replaced as a whole when the catalogue
/// changes.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) catalogue: Catalogue,
    /// It goes back to a snapshot, so that what it lacks is not there.
    is_whole: bool,
    /// Businesses that want to hear who comes and goes, in order; only apps that have any.
    watching: HashMap<AppId, Vec<BusinessNo>, RandomState>,
    /// Only keys that exist get in, so it is as bounded as the catalogue.
    resolved: RwLock<HashMap<KeyDigest, Arc<Credential>, RandomState>>,
}

/// The digest of the key that a call shows.
pub(crate) fn shown(metadata: &MetadataMap) -> Result<KeyDigest, Refusal> {
    let missing = || Refusal::new(ErrorCode::Unauthenticated, "the business key is missing");
    let header = metadata.get("authorization").ok_or_else(missing)?;
    let key = header.to_str().ok().and_then(bearer).ok_or_else(missing)?;
    let digest = digest(&SHA256, key.as_bytes());
    digest.as_ref().try_into().map(KeyDigest).map_err(|_| missing())
}

impl Known {
    /// The catalogue after an update, with nothing resolved yet.
    pub(crate) fn apply(&self, update: Update) -> Self {
        let is_whole = self.is_whole || matches!(update.what, Some(What::Snapshot(_)));
        let catalogue = self.catalogue.apply(update);
        let mut watching: HashMap<AppId, Vec<BusinessNo>, RandomState> = HashMap::default();
        for ((app, number), business) in catalogue.businesses() {
            if business.connection_events && business.enabled {
                watching.entry(app.clone()).or_default().push(*number);
            }
        }
        for numbers in watching.values_mut() {
            numbers.sort_unstable();
        }
        Self { catalogue, is_whole, watching, resolved: RwLock::default() }
    }

    /// The same, from a time that is over: a business that it does not name may have come since.
    pub(crate) fn of_before(self) -> Self {
        Self { is_whole: false, ..self }
    }

    /// Whether there is no such business any more, switched on or off. False as long as that cannot be
    /// known.
    pub(crate) fn is_gone(&self, app: &AppId, business: BusinessNo) -> bool {
        let catalogue = &self.catalogue;
        self.is_whole
            && (catalogue.app(app).is_none() || catalogue.business(app, business).is_none())
    }

    /// Of the businesses that a session serves, those that want to hear of it; in order.
    pub(crate) fn watchers(&self, app: &AppId, serves: &Serves) -> Vec<BusinessNo> {
        let watching = self.watching.get(app).map_or(&[][..], Vec::as_slice);
        watching.iter().copied().filter(|&number| serves.contains(number)).collect()
    }

    /// Whether this business wants to hear who comes and goes.
    pub(crate) fn is_watching(&self, app: &AppId, business: BusinessNo) -> bool {
        let watching = self.watching.get(app);
        watching.is_some_and(|numbers| numbers.binary_search(&business).is_ok())
    }

    /// Whether any business of any app does.
    pub(crate) fn has_watchers(&self) -> bool {
        !self.watching.is_empty()
    }

    /// Whether some business of the app wants to hear who comes and goes.
    pub(crate) fn is_watched(&self, app: &AppId) -> bool {
        self.watching.contains_key(app)
    }

    /// What the key stands for, if it is good at `now_ms` and reaches the scope.
    pub(crate) fn credential(
        &self,
        key: &KeyDigest,
        scope: Scope,
        now_ms: u64,
    ) -> Result<Arc<Credential>, Refusal> {
        let credential = self.check(key, now_ms)?;
        if !credential.scopes.contains(&scope.into()) {
            let name = scope.as_str_name().trim_start_matches("SCOPE_").to_ascii_lowercase();
            let detail = format!("the key does not have the scope {name}");
            return Err(Refusal::new(ErrorCode::PermissionDenied, detail));
        }
        Ok(credential)
    }

    /// What the key stands for, if it is good at `now_ms`, whatever it may reach.
    pub(crate) fn check(&self, key: &KeyDigest, now_ms: u64) -> Result<Arc<Credential>, Refusal> {
        let known = self.resolved.read().get(key).cloned();
        let credential = match known {
            Some(credential) => credential,
            None => self.resolve(key, now_ms)?,
        };
        if credential.expires_at_ms != 0 && credential.expires_at_ms <= now_ms {
            return Err(Refusal::new(ErrorCode::Unauthenticated, "the business key has expired"));
        }
        if !credential.enabled {
            return Err(Refusal::new(ErrorCode::Disabled, "the app or business is switched off"));
        }
        Ok(credential)
    }

    fn resolve(&self, digest: &KeyDigest, now_ms: u64) -> Result<Arc<Credential>, Refusal> {
        if self.catalogue.revision == 0 {
            return Err(Refusal::new(ErrorCode::Unavailable, "the catalogue is not known yet"));
        }
        let unknown = || Refusal::new(ErrorCode::Unauthenticated, "the business key is not known");
        let key = self.catalogue.key(&digest.0, now_ms).ok_or_else(unknown)?;
        let app = AppId::new(&key.app).map_err(|_| unknown())?;
        let business = BusinessId::new(&key.business).map_err(|_| unknown())?;
        let entry = self.catalogue.app(&app);
        let number = self.catalogue.number(&app, &business);
        let served = number.and_then(|number| self.catalogue.business(&app, number));
        let enabled = entry.is_some_and(|app| app.enabled) && served.is_some_and(|it| it.enabled);
        let credential = Arc::new(Credential {
            app,
            business,
            number: number.unwrap_or(BusinessNo(0)),
            frame_bytes_max: frame_bytes_max(entry.map(|app| &**app)),
            inbox: InboxBounds::of(served.and_then(|it| it.inbox.as_ref())),
            scopes: key.scopes.clone(),
            expires_at_ms: key.expires_at_ms.max(0).cast_unsigned(),
            enabled,
        });
        self.resolved.write().insert(*digest, credential.clone());
        Ok(credential)
    }
}
