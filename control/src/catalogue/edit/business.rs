//! Edits of businesses and their keys.

use super::Edit;
use super::app::Made;
use crate::catalogue::business::{Business, BusinessKey, Scope, SlowPolicy};
use crate::catalogue::inbox::{InboxPatch, InboxPolicy};
use crate::catalogue::{Catalogue, Change};
use crate::key::{self, KeyKind};
use crate::refusal::Refusal;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, BusinessId};
use std::time::Duration;

const REQUEST_TIMEOUT_MS_DEFAULT: u32 = 3_000;
const EXPECTED_REQUESTS_PER_SECOND_DEFAULT: u32 = 100;

/// What is to be different; `None`: as it is, or the default for a new business.
#[derive(Clone, Debug, Default)]
pub(crate) struct BusinessPatch {
    pub(crate) enabled: Option<bool>,
    pub(crate) endpoints: Option<Vec<String>>,
    pub(crate) request_timeout_ms: Option<u32>,
    pub(crate) expected_requests_per_second: Option<u32>,
    pub(crate) slow_policy: Option<SlowPolicy>,
    pub(crate) inbox: InboxPatch,
    pub(crate) connection_events: Option<bool>,
}

impl BusinessPatch {
    fn patch(self, business: &mut Business) -> Result<(), Refusal> {
        business.enabled = self.enabled.unwrap_or(business.enabled);
        business.slow_policy = self.slow_policy.unwrap_or(business.slow_policy);
        business.connection_events = self.connection_events.unwrap_or(business.connection_events);
        if let Some(endpoints) = self.endpoints {
            business.endpoints = endpoints;
        }
        if let Some(timeout) = self.request_timeout_ms {
            if !(1..=60_000).contains(&timeout) {
                return Err(Refusal::invalid("request_timeout_ms is not between 1 and 60000"));
            }
            business.request_timeout_ms = timeout;
        }
        if let Some(rate) = self.expected_requests_per_second {
            if !(1..=10_000_000).contains(&rate) {
                return Err(Refusal::invalid(
                    "expected_requests_per_second is not between 1 and 10000000",
                ));
            }
            business.expected_requests_per_second = rate;
        }
        business.inbox = self.inbox.onto(business.inbox)?;
        Ok(())
    }
}

/// A new business with the next number of its app.
pub(crate) fn create(
    catalogue: &Catalogue,
    app: &AppId,
    name: &BusinessId,
    patch: BusinessPatch,
    now_ms: u64,
) -> Result<(Edit, Business), Refusal> {
    let tenant = catalogue.require(app)?;
    if tenant.businesses.contains_key(name) {
        return Err(Refusal::new(ErrorCode::AlreadyExists, "a business of this name exists"));
    }
    if tenant.businesses.len() >= tenant.app.quotas.businesses_max as usize {
        let detail = "the app has as many businesses as its quota allows";
        return Err(Refusal::new(ErrorCode::QuotaExceeded, detail));
    }
    let Some(number) = catalogue.last_number(app).checked_add(1) else {
        return Err(Refusal::new(ErrorCode::QuotaExceeded, "all business numbers are used up"));
    };
    let mut business = Business {
        app: app.clone(),
        name: name.clone(),
        number,
        created_at_ms: now_ms,
        enabled: true,
        endpoints: Vec::new(),
        request_timeout_ms: REQUEST_TIMEOUT_MS_DEFAULT,
        expected_requests_per_second: EXPECTED_REQUESTS_PER_SECOND_DEFAULT,
        slow_policy: SlowPolicy::DropNewest,
        inbox: InboxPolicy::default(),
        connection_events: false,
        keys: Vec::new(),
    };
    patch.patch(&mut business)?;
    let changes = vec![
        Change::LastNumber(app.clone(), number),
        Change::PutBusiness(Box::new(business.clone())),
    ];
    Ok((Edit::new("business.create", changes).of(app).at(name.as_str()), business))
}

fn require(catalogue: &Catalogue, app: &AppId, name: &BusinessId) -> Result<Business, Refusal> {
    catalogue.require(app)?;
    catalogue
        .business(app, name)
        .map(|business| business.as_ref().clone())
        .ok_or_else(|| Refusal::new(ErrorCode::UnknownBusiness, "the app has no such business"))
}

fn put(action: &'static str, business: Business) -> Edit {
    let (app, name) = (business.app.clone(), business.name.clone());
    let changes = vec![Change::PutBusiness(Box::new(business))];
    Edit::new(action, changes).of(&app).at(name.as_str())
}

pub(crate) fn update(
    catalogue: &Catalogue,
    app: &AppId,
    name: &BusinessId,
    patch: BusinessPatch,
) -> Result<(Edit, Business), Refusal> {
    let mut business = require(catalogue, app, name)?;
    patch.patch(&mut business)?;
    Ok((put("business.update", business.clone()), business))
}

pub(crate) fn remove(
    catalogue: &Catalogue,
    app: &AppId,
    name: &BusinessId,
) -> Result<(Edit, ()), Refusal> {
    require(catalogue, app, name)?;
    let changes = vec![Change::RemoveBusiness(app.clone(), name.clone())];
    Ok((Edit::new("business.delete", changes).of(app).at(name.as_str()), ()))
}

fn add(
    catalogue: &Catalogue,
    business: &mut Business,
    scopes: Vec<Scope>,
    expires_at_ms: Option<u64>,
    now_ms: u64,
) -> Result<Made<BusinessKey>, Refusal> {
    let quota = catalogue.require(&business.app)?.app.quotas.keys_per_business_max as usize;
    let live = business.keys.iter().filter(|key| key.is_live(now_ms)).count();
    if live >= quota {
        let detail = "the business has as many keys as the app's quota allows";
        return Err(Refusal::new(ErrorCode::QuotaExceeded, detail));
    }
    let text = key::new_text(KeyKind::Business);
    let sha256 = key::sha256(&text);
    let made =
        BusinessKey { id: key::new_id(), sha256, scopes, created_at_ms: now_ms, expires_at_ms };
    business.keys.push(made.clone());
    Ok(Made { what: made, text })
}

pub(crate) fn add_key(
    catalogue: &Catalogue,
    app: &AppId,
    name: &BusinessId,
    scopes: Vec<Scope>,
    expires_in: Option<Duration>,
    now_ms: u64,
) -> Result<(Edit, Made<BusinessKey>), Refusal> {
    let mut business = require(catalogue, app, name)?;
    let expires_at_ms = expires_in.map(|life| now_ms + life.as_millis() as u64);
    let made = add(catalogue, &mut business, scopes, expires_at_ms, now_ms)?;
    Ok((put("key.create", business).at(&format!("{name}/{}", made.what.id)), made))
}

pub(crate) fn remove_key(
    catalogue: &Catalogue,
    app: &AppId,
    name: &BusinessId,
    key_id: &str,
) -> Result<(Edit, ()), Refusal> {
    let mut business = require(catalogue, app, name)?;
    let before = business.keys.len();
    business.keys.retain(|key| key.id != key_id);
    if business.keys.len() == before {
        return Err(Refusal::not_found("key"));
    }
    Ok((put("key.delete", business).at(&format!("{name}/{key_id}")), ()))
}

/// A new key with the scopes and the life of an old one, which ends after the overlap.
pub(crate) fn rotate_key(
    catalogue: &Catalogue,
    app: &AppId,
    name: &BusinessId,
    key_id: &str,
    overlap: Duration,
    now_ms: u64,
) -> Result<(Edit, (Made<BusinessKey>, BusinessKey)), Refusal> {
    let mut business = require(catalogue, app, name)?;
    let old = business
        .keys
        .iter_mut()
        .find(|key| key.id == key_id && key.is_live(now_ms))
        .ok_or_else(|| Refusal::not_found("key"))?;
    let life_ms = old.expires_at_ms.map(|at| at.saturating_sub(old.created_at_ms));
    let end = now_ms + overlap.as_millis() as u64;
    old.expires_at_ms = Some(old.expires_at_ms.map_or(end, |at| at.min(end)));
    let old = old.clone();
    let expires_at_ms = life_ms.map(|life| now_ms + life);
    let made = add(catalogue, &mut business, old.scopes.clone(), expires_at_ms, now_ms)?;
    Ok((put("key.rotate", business).at(&format!("{name}/{key_id}")), (made, old)))
}
