//! `inbox` in the bodies of businesses: bounds of each device's inbox.

use crate::catalogue::inbox::{self as kept, InboxPatch};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bounds of each device's inbox. What is left out takes its default, or stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InboxWish {
    /// Stored pushes that one device's inbox may hold, 1 to 10000. Default 1000.
    entries_max: Option<u32>,
    /// Bytes that they may take, 1 to 67108864. Default 4194304.
    bytes_max: Option<u64>,
    /// How long a stored push waits for its device at most, in seconds, 1 to 604800. Default 604800.
    ttl_s_max: Option<u64>,
    overflow: Option<Overflow>,
}

/// Bounds of each device's inbox.
#[derive(Serialize, ToSchema)]
pub(super) struct Inbox {
    entries_max: u32,
    bytes_max: u64,
    ttl_s_max: u64,
    overflow: Overflow,
}

/// What happens to a stored push whose inbox is full. `refuse`, the default: its outcome is `overflow`.
/// `drop_oldest`: the oldest of the lowest priority leaves, and the device is told of the gap.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Overflow {
    Refuse,
    DropOldest,
}

impl From<InboxWish> for InboxPatch {
    fn from(wish: InboxWish) -> Self {
        let overflow = wish.overflow.map(|overflow| match overflow {
            Overflow::Refuse => kept::Overflow::Refuse,
            Overflow::DropOldest => kept::Overflow::DropOldest,
        });
        let InboxWish { entries_max, bytes_max, ttl_s_max, .. } = wish;
        Self { entries_max, bytes_max, ttl_s_max, overflow }
    }
}

impl From<kept::InboxPolicy> for Inbox {
    fn from(policy: kept::InboxPolicy) -> Self {
        let overflow = match policy.overflow {
            kept::Overflow::Refuse => Overflow::Refuse,
            kept::Overflow::DropOldest => Overflow::DropOldest,
        };
        let kept::InboxPolicy { entries_max, bytes_max, ttl_s_max, .. } = policy;
        Self { entries_max, bytes_max, ttl_s_max, overflow }
    }
}
