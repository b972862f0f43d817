//! A business as the catalogue keeps it, with its keys. The stored form is this struct as JSON.

use super::inbox::InboxPolicy;
use super::{Entity, change};
use crate::store::text;
use hawser_proto::id::{AppId, BusinessId};
use hawser_proto::rpc::control as wire;
use serde::{Deserialize, Serialize};

/// One stream of work inside an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Business {
    #[serde(with = "text")]
    pub(crate) app: AppId,
    #[serde(with = "text")]
    pub(crate) name: BusinessId,
    /// Never 0, never reused under this app name.
    pub(crate) number: u32,
    pub(crate) created_at_ms: u64,
    pub(crate) enabled: bool,
    /// `http://host:port` of servers of `hawser.business.v1`.
    pub(crate) endpoints: Vec<String>,
    pub(crate) request_timeout_ms: u32,
    pub(crate) expected_requests_per_second: u32,
    pub(crate) slow_policy: SlowPolicy,
    /// Records of before there were inboxes have none.
    #[serde(default)]
    pub(crate) inbox: InboxPolicy,
    /// Its servers hear when devices that serve it come and go. Older records have no word of it.
    #[serde(default)]
    pub(crate) connection_events: bool,
    pub(crate) keys: Vec<BusinessKey>,
}

/// What happens to volatile pushes a device is too slow for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SlowPolicy {
    DropNewest,
    DropOldest,
    Disconnect,
}

/// What a business key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Scope {
    Push,
    Group,
    Presence,
    Admin,
}

/// Opens the push API for its business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BusinessKey {
    pub(crate) id: String,
    #[serde(with = "hex::serde")]
    pub(crate) sha256: [u8; 32],
    pub(crate) scopes: Vec<Scope>,
    pub(crate) created_at_ms: u64,
    pub(crate) expires_at_ms: Option<u64>,
}

impl BusinessKey {
    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_none_or(|at| now_ms < at)
    }

    pub(super) fn wire(&self, business: &Business) -> Entity {
        Entity::Key(self.wire_key(business))
    }

    pub(super) fn wire_key(&self, business: &Business) -> wire::BusinessKey {
        wire::BusinessKey {
            sha256: self.sha256.to_vec().into(),
            key_id: self.id.clone(),
            app: business.app.as_str().to_owned(),
            business: business.name.as_str().to_owned(),
            scopes: self.scopes.iter().map(|scope| scope.wire().into()).collect(),
            expires_at_ms: self.expires_at_ms.unwrap_or(0) as i64,
        }
    }
}

impl Scope {
    fn wire(self) -> wire::Scope {
        match self {
            Self::Push => wire::Scope::Push,
            Self::Group => wire::Scope::Group,
            Self::Presence => wire::Scope::Presence,
            Self::Admin => wire::Scope::Admin,
        }
    }
}

impl Business {
    pub(super) fn wire(&self) -> Entity {
        Entity::Business(self.wire_business())
    }

    pub(super) fn wire_business(&self) -> wire::Business {
        let slow_policy = match self.slow_policy {
            SlowPolicy::DropNewest => wire::SlowPolicy::DropNewest,
            SlowPolicy::DropOldest => wire::SlowPolicy::DropOldest,
            SlowPolicy::Disconnect => wire::SlowPolicy::Disconnect,
        };
        wire::Business {
            connection_events: self.connection_events,
            app: self.app.as_str().to_owned(),
            business: self.name.as_str().to_owned(),
            number: self.number,
            endpoints: self.endpoints.clone(),
            request_timeout_ms: self.request_timeout_ms,
            expected_requests_per_second: self.expected_requests_per_second,
            slow_policy: slow_policy.into(),
            enabled: self.enabled,
            inbox: Some(self.inbox.wire()),
        }
    }

    /// What watchers hear when this takes the place of `before`: keys that are gone first.
    pub(super) fn heard_after(&self, before: Option<&Self>) -> Vec<wire::Change> {
        let mut heard = change::put_if_new(before.map(Self::wire).as_ref(), self.wire());
        let old_keys = before.map_or(&[][..], |before| &before.keys);
        let is_gone = |key: &&BusinessKey| !self.keys.iter().any(|it| it.sha256 == key.sha256);
        heard.extend(old_keys.iter().filter(is_gone).map(|key| change::removed(key.wire(self))));
        let is_new = |key: &&BusinessKey| !old_keys.contains(key);
        heard.extend(self.keys.iter().filter(is_new).map(|key| change::put(key.wire(self))));
        heard
    }

    /// What watchers hear when it is gone: keys first, so that none opens nothing.
    pub(super) fn heard_at_removal(&self) -> Vec<wire::Change> {
        let keys = self.keys.iter().map(|key| change::removed(key.wire(self)));
        keys.chain([change::removed(self.wire_name())]).collect()
    }

    /// Only what names it.
    fn wire_name(&self) -> Entity {
        Entity::Business(wire::Business {
            app: self.app.as_str().to_owned(),
            business: self.name.as_str().to_owned(),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_before_there_were_inboxes_is_read_with_the_default_bounds() {
        let record = r#"{
            "app": "demo", "name": "chat", "number": 1, "created_at_ms": 5, "enabled": true,
            "endpoints": [], "request_timeout_ms": 3000, "expected_requests_per_second": 100,
            "slow_policy": "DropNewest", "keys": []
        }"#;
        let business: Business = serde_json::from_str(record).expect("still read");
        assert_eq!(business.inbox, InboxPolicy::default());
        assert!(!business.connection_events);
        let again = serde_json::to_string(&business).expect("written");
        assert_eq!(serde_json::from_str::<Business>(&again).expect("read"), business);
    }
}
