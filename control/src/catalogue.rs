//! The catalogue: apps with their businesses, keys, signing keys and revocations, as one value in
//! memory. Pure: it reads no clock and no disk. The store keeps it durable, the watch hands out its
//! changes, edits (`edit.rs`) decide what may change.

pub(crate) mod app;
pub(crate) mod business;
mod change;
mod drain;
pub(crate) mod edit;
pub(crate) mod inbox;
pub(crate) mod revocation;
pub(crate) mod signing;
mod ticket_key;

pub(crate) use app::App;
pub(crate) use business::Business;
pub(crate) use change::Change;
pub(crate) use drain::DrainOrder;
pub(crate) use revocation::{Revocation, Whom};
pub(crate) use signing::SigningKey;
pub(crate) use ticket_key::TicketKey;

use hawser_proto::id::{AppId, BusinessId, DeviceId, NodeId};
use hawser_proto::rpc::control::{self as wire, change::Entity};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One app and what belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) app: Arc<App>,
    pub(crate) businesses: BTreeMap<BusinessId, Arc<Business>>,
}

/// Numbers that only grow, also over restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Counters {
    /// Of the last change that watchers were told of.
    pub(crate) revision: u64,
    /// Of the app made last; names an app's life, so that nothing of a deleted app reaches a new one.
    pub(crate) serial: u64,
    /// Of the last audit entry.
    pub(crate) audit: u64,
}

/// Everything but device bindings and the audit log, which stay in the store.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    pub(crate) counters: Counters,
    tenants: BTreeMap<AppId, Tenant>,
    owner_keys: HashMap<[u8; 32], (AppId, String)>,
    business_keys: HashMap<[u8; 32], (AppId, BusinessId)>,
    /// The last business number of each app name, kept when the app is gone.
    numbers: HashMap<AppId, u32>,
    signing: BTreeMap<String, Arc<SigningKey>>,
    revocations: HashMap<Whom, Revocation>,
    tickets: BTreeMap<u32, Arc<TicketKey>>,
    drains: BTreeMap<NodeId, DrainOrder>,
}

impl Catalogue {
    pub(crate) fn tenant(&self, app: &AppId) -> Option<&Tenant> {
        self.tenants.get(app)
    }

    pub(crate) fn tenants(&self) -> impl Iterator<Item = (&AppId, &Tenant)> {
        self.tenants.iter()
    }

    /// Apps named after `after`, in the order of their names.
    pub(crate) fn tenants_after(&self, after: Option<&AppId>) -> impl Iterator<Item = &Tenant> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.tenants.range::<AppId, _>((from, Bound::Unbounded)).map(|(_, tenant)| tenant)
    }

    pub(crate) fn business(&self, app: &AppId, name: &BusinessId) -> Option<&Arc<Business>> {
        self.tenants.get(app)?.businesses.get(name)
    }

    /// App and key id of the owner key with this SHA-256.
    pub(crate) fn owner(&self, sha256: &[u8; 32]) -> Option<&(AppId, String)> {
        self.owner_keys.get(sha256)
    }

    /// Whether this is the SHA-256 of a business key that opens something at `now_ms`.
    pub(crate) fn knows_business_key(&self, sha256: &[u8; 32], now_ms: u64) -> bool {
        let found = self.business_keys.get(sha256);
        let business = found.and_then(|(app, name)| self.business(app, name));
        let is_it = |key: &business::BusinessKey| key.sha256 == *sha256 && key.is_live(now_ms);
        business.is_some_and(|business| business.enabled && business.keys.iter().any(is_it))
    }

    pub(crate) fn last_number(&self, app: &AppId) -> u32 {
        self.numbers.get(app).copied().unwrap_or(0)
    }

    pub(crate) fn signing_keys(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        self.signing.values()
    }

    /// The key that signs at `now_ms`: the one that became active last, and of two at the same time the
    /// one that is not retired. When our clock went back before the first activation, the earliest.
    pub(crate) fn signer(&self, now_ms: u64) -> Option<&Arc<SigningKey>> {
        let verifying = || self.signing.values().filter(|key| key.verifies(now_ms));
        let active = verifying().filter(|key| key.active_from_ms <= now_ms);
        active
            .max_by_key(|key| (key.active_from_ms, key.verify_until_ms.is_none()))
            .or_else(|| verifying().min_by_key(|key| key.active_from_ms))
    }

    pub(crate) fn ticket_keys(&self) -> impl Iterator<Item = &Arc<TicketKey>> {
        self.tickets.values()
    }

    pub(crate) fn drain(&self, node: &NodeId) -> Option<&DrainOrder> {
        self.drains.get(node)
    }

    pub(crate) fn drains(&self) -> impl Iterator<Item = &DrainOrder> {
        self.drains.values()
    }

    pub(crate) fn revocations(&self) -> impl Iterator<Item = &Revocation> {
        self.revocations.values()
    }

    /// Tokens of this device issued before this time are refused; 0: none.
    pub(crate) fn revoked_before_ms(&self, app: &AppId, device: &DeviceId) -> u64 {
        let before = |whom| self.revocations.get(&whom).map_or(0, |it| it.issued_before_ms);
        let of_app = before(Whom { app: app.clone(), device: None });
        of_app.max(before(Whom { app: app.clone(), device: Some(device.clone()) }))
    }

    /// What watchers hear when this change is applied, in order. The changes of one edit name different
    /// entities, so each can be asked for before any of them is applied.
    pub(crate) fn heard(&self, change: &Change) -> Vec<wire::Change> {
        match change {
            Change::PutApp(app) => {
                let before = self.tenants.get(&app.name).map(|tenant| tenant.app.wire());
                change::put_if_new(before.as_ref(), app.wire())
            }
            Change::RemoveApp(name) => {
                let Some(tenant) = self.tenants.get(name) else { return Vec::new() };
                let businesses = tenant.businesses.values().flat_map(|it| it.heard_at_removal());
                businesses.chain([change::removed(app::wire_name(name))]).collect()
            }
            Change::PutBusiness(after) => {
                let before = self.business(&after.app, &after.name);
                after.heard_after(before.map(AsRef::as_ref))
            }
            Change::RemoveBusiness(app, name) => {
                self.business(app, name).map_or_else(Vec::new, |it| it.heard_at_removal())
            }
            Change::LastNumber(..)
            | Change::Unbind(..)
            | Change::PutDrain(_)
            | Change::RemoveDrain(_) => Vec::new(),
            Change::PutTicketKey(key) => vec![change::put(key.wire())],
            Change::RemoveTicketKey(kid) => vec![change::removed(ticket_key::wire_name(*kid))],
            Change::PutSigningKey(key) => vec![change::put(key.wire())],
            Change::RemoveSigningKey(kid) => vec![change::removed(signing::wire_name(kid))],
            Change::PutRevocation(revocation) => vec![change::put(revocation.wire())],
            Change::RemoveRevocation(whom) => {
                let gone = self.revocations.get(whom);
                gone.map(|it| change::removed(it.wire())).into_iter().collect()
            }
        }
    }

    /// Takes a change over.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::PutApp(app) => self.put_app(*app),
            Change::RemoveApp(name) => {
                if let Some(tenant) = self.tenants.remove(&name) {
                    self.forget_owner_keys(&tenant.app);
                    for business in tenant.businesses.values() {
                        self.forget_business_keys(business);
                    }
                }
            }
            Change::PutBusiness(business) => {
                if let Some(tenant) = self.tenants.get_mut(&business.app) {
                    let place = (business.app.clone(), business.name.clone());
                    let keys: Vec<_> = business.keys.iter().map(|key| key.sha256).collect();
                    let before = tenant.businesses.insert(place.1.clone(), Arc::new(*business));
                    if let Some(before) = before {
                        self.forget_business_keys(&before);
                    }
                    self.business_keys.extend(keys.into_iter().map(|key| (key, place.clone())));
                }
            }
            Change::RemoveBusiness(app, name) => {
                let tenant = self.tenants.get_mut(&app);
                if let Some(gone) = tenant.and_then(|tenant| tenant.businesses.remove(&name)) {
                    self.forget_business_keys(&gone);
                }
            }
            Change::LastNumber(app, number) => {
                self.numbers.insert(app, number);
            }
            Change::PutSigningKey(key) => {
                self.signing.insert(key.kid.clone(), Arc::new(*key));
            }
            Change::RemoveSigningKey(kid) => {
                self.signing.remove(&kid);
            }
            Change::PutRevocation(revocation) => {
                self.revocations.insert(revocation.whom.clone(), revocation);
            }
            Change::RemoveRevocation(whom) => {
                self.revocations.remove(&whom);
            }
            Change::PutTicketKey(key) => {
                self.tickets.insert(key.kid, Arc::new(*key));
            }
            Change::RemoveTicketKey(kid) => {
                self.tickets.remove(&kid);
            }
            Change::PutDrain(order) => {
                self.drains.insert(order.node.clone(), order);
            }
            Change::RemoveDrain(node) => {
                self.drains.remove(&node);
            }
            Change::Unbind(..) => {}
        }
    }

    fn put_app(&mut self, app: App) {
        if let Some(before) = self.tenants.get(&app.name).map(|tenant| tenant.app.clone()) {
            self.forget_owner_keys(&before);
        }
        for key in &app.owner_keys {
            self.owner_keys.insert(key.sha256, (app.name.clone(), key.id.clone()));
        }
        let app = Arc::new(app);
        let new = || Tenant { app: app.clone(), businesses: BTreeMap::new() };
        self.tenants.entry(app.name.clone()).or_insert_with(new).app = app.clone();
    }

    fn forget_owner_keys(&mut self, app: &App) {
        for key in &app.owner_keys {
            self.owner_keys.remove(&key.sha256);
        }
    }

    fn forget_business_keys(&mut self, business: &Business) {
        for key in &business.keys {
            self.business_keys.remove(&key.sha256);
        }
    }

    /// All that a new watcher needs; of ticket keys only an access node may see it.
    pub(crate) fn snapshot(&self) -> wire::Update {
        let businesses = || self.tenants.values().flat_map(|tenant| tenant.businesses.values());
        let keys = businesses().flat_map(|it| it.keys.iter().map(|key| key.wire_key(it)));
        let snapshot = wire::Snapshot {
            apps: self.tenants.values().map(|tenant| tenant.app.wire_app()).collect(),
            businesses: businesses().map(|business| business.wire_business()).collect(),
            keys: keys.collect(),
            signing_keys: self.signing.values().map(|key| key.wire_key()).collect(),
            revocations: self.revocations.values().map(Revocation::wire_revocation).collect(),
            ticket_keys: self.tickets.values().map(|key| key.wire_key()).collect(),
        };
        wire::Update {
            revision: self.counters.revision,
            what: Some(wire::update::What::Snapshot(snapshot)),
        }
    }
}

#[cfg(test)]
mod tests;
