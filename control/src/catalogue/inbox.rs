//! How much a device's inbox of a business may hold, and for how long. Routers go by it; what is here is
//! its kept form, its bounds and its form on the wire.

use crate::refusal::Refusal;
use hawser_proto::limits::{
    INBOX_BYTES_DEFAULT, INBOX_BYTES_MAX, INBOX_ENTRIES_DEFAULT, INBOX_ENTRIES_MAX, INBOX_TTL_MAX,
};
use hawser_proto::rpc::control as wire;
use serde::{Deserialize, Serialize};

const TTL_S_MAX: u64 = INBOX_TTL_MAX.as_secs();

/// Bounds of each device's inbox of one business. Fields that an older record lacks have their default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct InboxPolicy {
    pub(crate) entries_max: u32,
    pub(crate) bytes_max: u64,
    pub(crate) ttl_s_max: u64,
    pub(crate) overflow: Overflow,
}

/// What happens to a stored push whose inbox is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Overflow {
    #[default]
    Refuse,
    DropOldest,
}

impl Default for InboxPolicy {
    fn default() -> Self {
        Self {
            entries_max: INBOX_ENTRIES_DEFAULT,
            bytes_max: INBOX_BYTES_DEFAULT,
            ttl_s_max: TTL_S_MAX,
            overflow: Overflow::default(),
        }
    }
}

/// What is to be different; `None`: as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InboxPatch {
    pub(crate) entries_max: Option<u32>,
    pub(crate) bytes_max: Option<u64>,
    pub(crate) ttl_s_max: Option<u64>,
    pub(crate) overflow: Option<Overflow>,
}

impl InboxPatch {
    /// The policy with what is to be different, or why that cannot be.
    pub(crate) fn onto(self, policy: InboxPolicy) -> Result<InboxPolicy, Refusal> {
        let patched = InboxPolicy {
            entries_max: self.entries_max.unwrap_or(policy.entries_max),
            bytes_max: self.bytes_max.unwrap_or(policy.bytes_max),
            ttl_s_max: self.ttl_s_max.unwrap_or(policy.ttl_s_max),
            overflow: self.overflow.unwrap_or(policy.overflow),
        };
        for (field, value, max) in [
            ("entries_max", u64::from(patched.entries_max), u64::from(INBOX_ENTRIES_MAX)),
            ("bytes_max", patched.bytes_max, INBOX_BYTES_MAX),
            ("ttl_s_max", patched.ttl_s_max, TTL_S_MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Err(Refusal::invalid(format!("inbox.{field} is not between 1 and {max}")));
            }
        }
        Ok(patched)
    }
}

impl InboxPolicy {
    pub(super) fn wire(self) -> wire::InboxPolicy {
        let overflow = match self.overflow {
            Overflow::Refuse => wire::InboxOverflow::Refuse,
            Overflow::DropOldest => wire::InboxOverflow::DropOldest,
        };
        wire::InboxPolicy {
            entries_max: self.entries_max,
            bytes_max: self.bytes_max,
            ttl_ms_max: self.ttl_s_max.saturating_mul(1_000),
            overflow: overflow.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_what_it_names_within_the_bounds() {
        let policy = InboxPolicy::default();
        assert_eq!(InboxPatch::default().onto(policy).expect("nothing changes"), policy);
        let patch = InboxPatch {
            ttl_s_max: Some(60),
            overflow: Some(Overflow::DropOldest),
            ..Default::default()
        };
        let wanted = InboxPolicy { ttl_s_max: 60, overflow: Overflow::DropOldest, ..policy };
        assert_eq!(patch.onto(policy).expect("within the bounds"), wanted);
        assert_eq!(
            wanted.wire(),
            wire::InboxPolicy {
                entries_max: 1_000,
                bytes_max: 4 << 20,
                ttl_ms_max: 60_000,
                overflow: wire::InboxOverflow::DropOldest.into(),
            }
        );
        for (patch, field) in [
            (InboxPatch { entries_max: Some(0), ..Default::default() }, "inbox.entries_max"),
            (InboxPatch { entries_max: Some(10_001), ..Default::default() }, "inbox.entries_max"),
            (InboxPatch { bytes_max: Some(0), ..Default::default() }, "inbox.bytes_max"),
            (
                InboxPatch { bytes_max: Some((64 << 20) + 1), ..Default::default() },
                "inbox.bytes_max",
            ),
            (InboxPatch { ttl_s_max: Some(0), ..Default::default() }, "inbox.ttl_s_max"),
            (InboxPatch { ttl_s_max: Some(604_801), ..Default::default() }, "inbox.ttl_s_max"),
        ] {
            let refused = patch.onto(policy).expect_err(field);
            assert!(refused.detail.contains(field), "{}", refused.detail);
        }
    }

    #[test]
    fn fields_that_an_older_record_lacks_have_their_default() {
        for (record, wanted) in [
            ("{}", InboxPolicy::default()),
            (r#"{"entries_max": 7}"#, InboxPolicy { entries_max: 7, ..Default::default() }),
        ] {
            assert_eq!(serde_json::from_str::<InboxPolicy>(record).expect(record), wanted);
        }
    }
}
