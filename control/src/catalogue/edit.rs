//! What may change in the catalogue, as pure decisions: the catalogue as it is and a wish go in, the
//! changes or a refusal come out. The store runs them one at a time, so each sees the last one's work.

pub(crate) mod app;
pub(crate) mod business;
pub(crate) mod drain;
pub(crate) mod signing;
pub(crate) mod ticket_key;

use super::{Catalogue, Change, Revocation, Tenant, Whom};
use crate::refusal::Refusal;
use hawser_proto::id::{AppId, DeviceId};

/// Changes that become durable together, and what the audit log says about them.
#[derive(Debug)]
pub(crate) struct Edit {
    pub(crate) changes: Vec<Change>,
    /// For example `app.create`.
    pub(crate) action: &'static str,
    pub(crate) app: Option<AppId>,
    /// What was changed within the app, by name or id.
    pub(crate) target: Option<String>,
}

impl Edit {
    fn new(action: &'static str, changes: Vec<Change>) -> Self {
        Self { changes, action, app: None, target: None }
    }

    fn of(mut self, app: &AppId) -> Self {
        self.app = Some(app.clone());
        self
    }

    fn at(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }
}

impl Catalogue {
    /// The app, or the refusal.
    pub(crate) fn require(&self, app: &AppId) -> Result<&Tenant, Refusal> {
        self.tenant(app).ok_or_else(|| Refusal::not_found("app"))
    }
}

/// Revokes the tokens issued until now of a device, or of the whole app.
pub(crate) fn revoke(
    catalogue: &Catalogue,
    app: &AppId,
    device: Option<DeviceId>,
    now_ms: u64,
) -> Result<(Edit, Revocation), Refusal> {
    catalogue.require(app)?;
    let whom = Whom { app: app.clone(), device };
    let revocation = Revocation::until_now(whom, now_ms);
    let target = revocation.whom.device.as_ref().map(|device| format!("device {device}"));
    let mut edit = Edit::new("token.revoke", vec![Change::PutRevocation(revocation.clone())]);
    edit.app = Some(app.clone());
    edit.target = target;
    Ok((edit, revocation))
}

/// Removes what has expired: business keys, client secrets, signing keys, ticket keys and
/// revocations. Bounded, so that one sweep never holds up the others' edits for long. `None`: there is nothing.
pub(crate) fn sweep(catalogue: &Catalogue, now_ms: u64) -> Option<Edit> {
    const CHANGES_MAX: usize = 256;
    let apps = catalogue.tenants().filter_map(|(_, tenant)| {
        let dead = tenant.app.client_secrets.iter().any(|secret| !secret.is_live(now_ms));
        dead.then(|| {
            let mut app = tenant.app.as_ref().clone();
            app.client_secrets.retain(|secret| secret.is_live(now_ms));
            Change::PutApp(Box::new(app))
        })
    });
    let businesses = catalogue
        .tenants()
        .flat_map(|(_, tenant)| tenant.businesses.values())
        .filter(|business| business.keys.iter().any(|key| !key.is_live(now_ms)))
        .map(|business| {
            let mut business = business.as_ref().clone();
            business.keys.retain(|key| key.is_live(now_ms));
            Change::PutBusiness(Box::new(business))
        });
    let signing = catalogue
        .signing_keys()
        .filter(|key| !key.verifies(now_ms))
        .map(|key| Change::RemoveSigningKey(key.kid.clone()));
    let tickets = catalogue
        .ticket_keys()
        .filter(|key| !key.verifies(now_ms))
        .map(|key| Change::RemoveTicketKey(key.kid));
    let revocations = catalogue
        .revocations()
        .filter(|revocation| revocation.forget_at_ms() <= now_ms)
        .map(|revocation| Change::RemoveRevocation(revocation.whom.clone()));
    let changes = signing.chain(tickets).chain(businesses).chain(apps).chain(revocations);
    let changes: Vec<_> = changes.take(CHANGES_MAX).collect();
    (!changes.is_empty()).then(|| Edit::new("expired.remove", changes))
}

/// Forgets the key a device is bound to. There need not be one.
pub(crate) fn release_device_key(
    catalogue: &Catalogue,
    app: &AppId,
    device: &DeviceId,
) -> Result<(Edit, ()), Refusal> {
    let serial = catalogue.require(app)?.app.serial;
    let changes = vec![Change::Unbind(serial, device.clone())];
    Ok((Edit::new("device-key.release", changes).of(app).at(&format!("device {device}")), ()))
}
