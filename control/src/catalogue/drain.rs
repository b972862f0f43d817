//! Orders to drain an access node. Kept durably: a control that starts again must not end a drain under way.

use crate::store::text;
use hawser_proto::id::{BootId, NodeId};
use hawser_proto::rpc::control as wire;
use serde::{Deserialize, Serialize};

/// One process of an access node is to send its devices elsewhere. The next process of the same name is not
/// meant: a node that was drained, ended and started anew takes devices again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainOrder {
    #[serde(with = "text")]
    pub(crate) node: NodeId,
    boot: u64,
    /// Never 0, and higher than that of the order before.
    pub(crate) id: u64,
    pub(crate) sessions_per_second: u32,
    pub(crate) ordered_at_ms: u64,
}

impl DrainOrder {
    pub(crate) fn new(
        node: NodeId,
        boot: BootId,
        id: u64,
        sessions_per_second: u32,
        ordered_at_ms: u64,
    ) -> Self {
        Self { node, boot: boot.0, id, sessions_per_second, ordered_at_ms }
    }

    /// Whether it is meant for this process.
    pub(crate) fn is_for(&self, boot: BootId) -> bool {
        self.boot == boot.0
    }

    pub(crate) fn wire(&self) -> wire::DrainOrder {
        wire::DrainOrder { id: self.id, sessions_per_second: self.sessions_per_second }
    }
}
