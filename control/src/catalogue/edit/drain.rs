//! Edits of drain orders.

use super::Edit;
use crate::catalogue::{Catalogue, Change, DrainOrder};
use crate::refusal::Refusal;
use hawser_proto::id::{BootId, NodeId};

/// Orders a process of a node to drain, in place of the order before.
pub(crate) fn order(
    catalogue: &Catalogue,
    node: &NodeId,
    boot: BootId,
    sessions_per_second: u32,
    now_ms: u64,
) -> (Edit, DrainOrder) {
    let before = catalogue.drain(node).map_or(0, |order| order.id);
    let id = now_ms.max(before + 1);
    let order = DrainOrder::new(node.clone(), boot, id, sessions_per_second, now_ms);
    let changes = vec![Change::PutDrain(order.clone())];
    (Edit::new("node.drain", changes).at(node.as_str()), order)
}

/// Takes the order back.
pub(crate) fn end(catalogue: &Catalogue, node: &NodeId) -> Result<(Edit, ()), Refusal> {
    catalogue.drain(node).ok_or_else(|| Refusal::not_found("drain order"))?;
    Ok((Edit::new("node.undrain", vec![Change::RemoveDrain(node.clone())]).at(node.as_str()), ()))
}

/// Removes orders that nobody follows any more. `None`: there are none.
pub(crate) fn forget(catalogue: &Catalogue, is_over: impl Fn(&DrainOrder) -> bool) -> Option<Edit> {
    let over = catalogue.drains().filter(|order| is_over(order));
    let changes: Vec<_> = over.map(|order| Change::RemoveDrain(order.node.clone())).collect();
    (!changes.is_empty()).then(|| Edit::new("node.drain-over", changes))
}
