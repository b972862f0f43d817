//! The catalogue as access nodes and routers hold it: apps, businesses, keys and revocations, built
//! from control's snapshot and the changes after it. An immutable value; applying makes the next one.

use crate::id::{AppId, BusinessId, BusinessNo, DeviceId};
use crate::rpc::control::{self as wire, change::Entity, update::What};
#[cfg(feature = "token")]
use crate::token::VerifyingKey;
use std::collections::HashMap;
use std::sync::Arc;

/// All of control's knowledge that the path of a message needs.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Revision of the last update applied; 0: none yet.
    pub revision: u64,
    apps: HashMap<AppId, Arc<wire::App>>,
    businesses: HashMap<(AppId, BusinessNo), Arc<wire::Business>>,
    numbers: HashMap<(AppId, BusinessId), BusinessNo>,
    keys: HashMap<Vec<u8>, Arc<wire::BusinessKey>>,
    #[cfg(feature = "token")]
    signing: HashMap<String, (VerifyingKey, Arc<wire::SigningKey>)>,
    revoked: HashMap<(AppId, Option<DeviceId>), u64>,
    tickets: HashMap<u32, Arc<wire::TicketKey>>,
}

impl Catalogue {
    /// The next catalogue. Entities whose names are malformed are left out.
    #[must_use]
    pub fn apply(&self, update: wire::Update) -> Self {
        let mut next = match &update.what {
            Some(What::Snapshot(_)) => Self::default(),
            _ => self.clone(),
        };
        next.revision = update.revision;
        match update.what {
            Some(What::Snapshot(all)) => {
                all.apps.into_iter().for_each(|it| next.put(Entity::App(it)));
                all.businesses.into_iter().for_each(|it| next.put(Entity::Business(it)));
                all.keys.into_iter().for_each(|it| next.put(Entity::Key(it)));
                all.signing_keys.into_iter().for_each(|it| next.put(Entity::SigningKey(it)));
                all.revocations.into_iter().for_each(|it| next.put(Entity::Revocation(it)));
                all.ticket_keys.into_iter().for_each(|it| next.put(Entity::TicketKey(it)));
            }
            Some(What::Change(wire::Change { entity: Some(entity), removed: false })) => {
                next.put(entity);
            }
            Some(What::Change(wire::Change { entity: Some(entity), removed: true })) => {
                next.remove(&entity);
            }
            Some(What::Change(wire::Change { entity: None, .. })) | None => {}
        }
        next
    }

    /// All of it, as control would send it to whoever begins to watch: to be kept on disk, and applied
    /// while control is away.
    pub fn snapshot(&self) -> wire::Update {
        let revoked = |((app, device), before_ms): (&(AppId, Option<DeviceId>), &u64)| {
            let device = device.as_ref().map_or_else(String::new, |it| it.as_str().to_owned());
            let issued_before_ms = i64::try_from(*before_ms).unwrap_or(i64::MAX);
            wire::Revocation { app: app.as_str().to_owned(), device, issued_before_ms }
        };
        let all = wire::Snapshot {
            apps: self.apps.values().map(|it| (**it).clone()).collect(),
            businesses: self.businesses.values().map(|it| (**it).clone()).collect(),
            keys: self.keys.values().map(|it| (**it).clone()).collect(),
            #[cfg(feature = "token")]
            signing_keys: self.signing.values().map(|(_, it)| (**it).clone()).collect(),
            #[cfg(not(feature = "token"))]
            signing_keys: Vec::new(),
            revocations: self.revoked.iter().map(revoked).collect(),
            ticket_keys: self.tickets.values().map(|it| (**it).clone()).collect(),
        };
        wire::Update { revision: self.revision, what: Some(What::Snapshot(all)) }
    }

    fn put(&mut self, entity: Entity) {
        match entity {
            Entity::App(app) => {
                let Ok(id) = AppId::new(&app.app) else { return };
                self.apps.insert(id, Arc::new(app));
            }
            Entity::Business(business) => {
                let Some((app, name, no)) = business_names(&business) else { return };
                self.numbers.insert((app.clone(), name), no);
                self.businesses.insert((app, no), Arc::new(business));
            }
            Entity::Key(key) => {
                self.keys.insert(key.sha256.to_vec(), Arc::new(key));
            }
            #[cfg(feature = "token")]
            Entity::SigningKey(key) => {
                let verifying = VerifyingKey::from_ed25519(&key.public_key);
                self.signing.insert(key.kid.clone(), (verifying, Arc::new(key)));
            }
            #[cfg(not(feature = "token"))]
            Entity::SigningKey(_) => {}
            Entity::Revocation(revocation) => {
                let Some(whom) = revoked_names(&revocation) else { return };
                self.revoked.insert(whom, revocation.issued_before_ms.max(0) as u64);
            }
            Entity::TicketKey(key) => {
                self.tickets.insert(key.kid, Arc::new(key));
            }
        }
    }

    fn remove(&mut self, entity: &Entity) {
        match entity {
            Entity::App(app) => {
                self.apps.remove(app.app.as_str());
            }
            Entity::Business(business) => {
                let Ok(app) = AppId::new(&business.app) else { return };
                let Ok(name) = BusinessId::new(&business.business) else { return };
                if let Some(no) = self.numbers.remove(&(app.clone(), name)) {
                    self.businesses.remove(&(app, no));
                }
            }
            Entity::Key(key) => {
                self.keys.remove(key.sha256.as_ref());
            }
            #[cfg(feature = "token")]
            Entity::SigningKey(key) => {
                self.signing.remove(&key.kid);
            }
            #[cfg(not(feature = "token"))]
            Entity::SigningKey(_) => {}
            Entity::Revocation(revocation) => {
                if let Some(whom) = revoked_names(revocation) {
                    self.revoked.remove(&whom);
                }
            }
            Entity::TicketKey(key) => {
                self.tickets.remove(&key.kid);
            }
        }
    }

    /// An app, switched on or off.
    pub fn app(&self, app: &AppId) -> Option<&Arc<wire::App>> {
        self.apps.get(app)
    }

    /// An app under the catalogue's own copy of its name: clones of that share one piece of memory.
    pub fn app_entry(&self, app: &AppId) -> Option<(&AppId, &Arc<wire::App>)> {
        self.apps.get_key_value(app)
    }

    /// All apps.
    pub fn apps(&self) -> impl Iterator<Item = (&AppId, &Arc<wire::App>)> {
        self.apps.iter()
    }

    /// A business by its number on the wire.
    pub fn business(&self, app: &AppId, number: BusinessNo) -> Option<&Arc<wire::Business>> {
        self.businesses.get(&(app.clone(), number))
    }

    /// All businesses, with their app and number.
    pub fn businesses(&self) -> impl Iterator<Item = (&(AppId, BusinessNo), &Arc<wire::Business>)> {
        self.businesses.iter()
    }

    /// The number of a business, by name.
    pub fn number(&self, app: &AppId, name: &BusinessId) -> Option<BusinessNo> {
        self.numbers.get(&(app.clone(), name.clone())).copied()
    }

    /// The business key with this SHA-256 that is good at `now_ms`.
    pub fn key(&self, sha256: &[u8], now_ms: u64) -> Option<&Arc<wire::BusinessKey>> {
        let good = |key: &&Arc<wire::BusinessKey>| {
            key.expires_at_ms == 0 || key.expires_at_ms.max(0) as u64 > now_ms
        };
        self.keys.get(sha256).filter(good)
    }

    /// The key that verifies tokens with this `kid` at `now_ms`.
    #[cfg(feature = "token")]
    pub fn verifying_key(&self, kid: &str, now_ms: u64) -> Option<&VerifyingKey> {
        let (verifying, key) = self.signing.get(kid)?;
        is_good(key.verify_until_ms, now_ms).then_some(verifying)
    }

    /// The key to make resume tickets with at `now_ms`: of those in use the newest.
    pub fn ticket_key(&self, now_ms: u64) -> Option<&Arc<wire::TicketKey>> {
        let is_active = |key: &&Arc<wire::TicketKey>| key.active_from_ms.max(0) as u64 <= now_ms;
        let good = self.tickets.values().filter(|key| is_good(key.verify_until_ms, now_ms));
        good.filter(is_active).max_by_key(|key| (key.active_from_ms, key.kid))
    }

    /// The key that a resume ticket names, if it is good at `now_ms`.
    pub fn ticket_key_of(&self, kid: u32, now_ms: u64) -> Option<&Arc<wire::TicketKey>> {
        self.tickets.get(&kid).filter(|key| is_good(key.verify_until_ms, now_ms))
    }

    /// Whether a token issued at `issued_at_ms` was revoked, for the device or its whole app.
    pub fn is_revoked(&self, app: &AppId, device: &DeviceId, issued_at_ms: u64) -> bool {
        let before = |whom: &(AppId, Option<DeviceId>)| self.revoked.get(whom).copied();
        let of_app = before(&(app.clone(), None));
        let of_device = before(&(app.clone(), Some(device.clone())));
        of_app.max(of_device).is_some_and(|limit| issued_at_ms < limit)
    }
}

/// Whether something that ends at `until_ms` (0: never) is good at `now_ms`.
fn is_good(until_ms: i64, now_ms: u64) -> bool {
    until_ms == 0 || until_ms.max(0) as u64 > now_ms
}

fn business_names(business: &wire::Business) -> Option<(AppId, BusinessId, BusinessNo)> {
    let app = AppId::new(&business.app).ok()?;
    let name = BusinessId::new(&business.business).ok()?;
    (business.number != 0).then_some((app, name, BusinessNo(business.number)))
}

fn revoked_names(revocation: &wire::Revocation) -> Option<(AppId, Option<DeviceId>)> {
    let app = AppId::new(&revocation.app).ok()?;
    let device = match revocation.device.as_str() {
        "" => None,
        device => Some(DeviceId::new(device).ok()?),
    };
    Some((app, device))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(revision: u64, what: What) -> wire::Update {
        wire::Update { revision, what: Some(what) }
    }

    fn chat(number: u32) -> wire::Business {
        wire::Business { app: "demo".into(), business: "chat".into(), number, ..Default::default() }
    }

    #[test]
    fn a_snapshot_replaces_and_changes_follow() {
        let app = AppId::new("demo").unwrap();
        let name = BusinessId::new("chat").unwrap();
        let snapshot = wire::Snapshot { businesses: vec![chat(7), chat(0)], ..Default::default() };
        let first = Catalogue::default().apply(update(3, What::Snapshot(snapshot)));
        assert_eq!((first.revision, first.number(&app, &name)), (3, Some(BusinessNo(7))));

        let gone = wire::Change { entity: Some(Entity::Business(chat(7))), removed: true };
        let second = first.apply(update(4, What::Change(gone)));
        assert_eq!(second.number(&app, &name), None);
        assert!(second.business(&app, BusinessNo(7)).is_none());
        assert_eq!(first.number(&app, &name), Some(BusinessNo(7)), "the old value is untouched");
    }

    #[test]
    fn a_snapshot_of_it_makes_the_same_again() {
        let kid = |kid: &str| wire::SigningKey {
            kid: kid.into(),
            public_key: vec![7; 32].into(),
            verify_until_ms: 5_000,
            ..Default::default()
        };
        let all = wire::Snapshot {
            apps: vec![wire::App { app: "demo".into(), enabled: true, ..Default::default() }],
            businesses: vec![chat(7)],
            keys: vec![wire::BusinessKey { sha256: vec![1; 32].into(), ..Default::default() }],
            signing_keys: vec![kid("k1")],
            revocations: ["", "d"]
                .map(|device| wire::Revocation {
                    app: "demo".into(),
                    device: device.into(),
                    issued_before_ms: 900,
                })
                .to_vec(),
            ticket_keys: vec![wire::TicketKey {
                kid: 3,
                verify_until_ms: 4_000,
                ..Default::default()
            }],
        };
        let one = Catalogue::default().apply(update(9, What::Snapshot(all)));
        let other = Catalogue::default().apply(one.snapshot());
        assert_eq!(other.revision, 9);
        let app = AppId::new("demo").unwrap();
        for it in [&one, &other] {
            assert!(it.app(&app).is_some_and(|app| app.enabled));
            assert_eq!(it.number(&app, &BusinessId::new("chat").unwrap()), Some(BusinessNo(7)));
            assert!(it.key(&[1; 32], 0).is_some());
            assert!(it.verifying_key("k1", 4_999).is_some());
            assert!(it.verifying_key("k1", 5_000).is_none(), "its time is kept");
            assert!(it.is_revoked(&app, &DeviceId::new("d").unwrap(), 899));
            assert!(it.is_revoked(&app, &DeviceId::new("e").unwrap(), 899));
            assert!(it.ticket_key_of(3, 3_999).is_some() && it.ticket_key_of(3, 4_000).is_none());
        }
    }

    #[test]
    fn a_revocation_reaches_older_tokens_of_the_device_or_the_app() {
        let app = AppId::new("demo").unwrap();
        let (a, b) = (DeviceId::new("a").unwrap(), DeviceId::new("b").unwrap());
        let revoke = |device: &str, before| {
            let entity = Entity::Revocation(wire::Revocation {
                app: "demo".into(),
                device: device.into(),
                issued_before_ms: before,
            });
            What::Change(wire::Change { entity: Some(entity), removed: false })
        };
        let one = Catalogue::default().apply(update(1, revoke("a", 1000)));
        assert!(one.is_revoked(&app, &a, 999));
        assert!(!one.is_revoked(&app, &a, 1000));
        assert!(!one.is_revoked(&app, &b, 999));
        let all = one.apply(update(2, revoke("", 2000)));
        assert!(all.is_revoked(&app, &a, 1999) && all.is_revoked(&app, &b, 1999));
        assert!(!all.is_revoked(&app, &b, 2000));
    }
}
