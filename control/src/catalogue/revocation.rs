//! Tokens that are refused before their time is over.

use super::Entity;
use crate::config::TOKEN_TTL_MAX;
use crate::store::text;
use hawser_proto::id::{AppId, DeviceId};
use hawser_proto::limits::CLOCK_LEEWAY;
use hawser_proto::rpc::control as wire;
use serde::{Deserialize, Serialize};

/// A device, or a whole app.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Whom {
    #[serde(with = "text")]
    pub(crate) app: AppId,
    #[serde(with = "text::optional")]
    pub(crate) device: Option<DeviceId>,
}

/// Tokens issued before the time are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revocation {
    pub(crate) whom: Whom,
    pub(crate) issued_before_ms: u64,
}

impl Revocation {
    /// Covers every token issued until `now_ms`. Tokens carry whole seconds, so the time is that of the
    /// next second; a token made in the meantime is dated there, see [`issue_time_ms`].
    pub(crate) fn until_now(whom: Whom, now_ms: u64) -> Self {
        Self { whom, issued_before_ms: (now_ms / 1000 + 1) * 1000 }
    }

    /// Every token it reaches has expired by then, whatever the token life was.
    pub(crate) fn forget_at_ms(&self) -> u64 {
        self.issued_before_ms + (TOKEN_TTL_MAX + CLOCK_LEEWAY).as_millis() as u64
    }

    pub(super) fn wire(&self) -> Entity {
        Entity::Revocation(self.wire_revocation())
    }

    pub(super) fn wire_revocation(&self) -> wire::Revocation {
        wire::Revocation {
            app: self.whom.app.as_str().to_owned(),
            device: self.whom.device.as_ref().map_or_else(String::new, ToString::to_string),
            issued_before_ms: self.issued_before_ms as i64,
        }
    }
}

/// The time a token made now is dated, in whole seconds: never before a revocation that is already in
/// force, or the device could not come back within the second of its revocation. At most 1 s ahead,
/// which the clock leeway of access nodes forgives.
pub(crate) fn issue_time_ms(now_ms: u64, revoked_before_ms: u64) -> u64 {
    (now_ms / 1000 * 1000).max(revoked_before_ms.min((now_ms / 1000 + 1) * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_reaches_tokens_of_its_second_and_spares_the_next() {
        let whom = Whom { app: AppId::new("demo").unwrap(), device: None };
        for now_ms in [5_000, 5_001, 5_999] {
            let revocation = Revocation::until_now(whom.clone(), now_ms);
            assert_eq!(revocation.issued_before_ms, 6_000);
            let same_second = issue_time_ms(now_ms, 0);
            assert!(same_second < revocation.issued_before_ms);
            let after = issue_time_ms(now_ms, revocation.issued_before_ms);
            assert!(after >= revocation.issued_before_ms && after <= now_ms + 1_000);
        }
    }
}
