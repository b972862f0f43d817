//! The end of a lane that panicked. Nobody can say any more which of its members are whole, so its
//! connections are closed and come back, its memberships are forgotten, and a new lane begins empty.

use super::Lane;
use crate::curse::Part;
use crate::table::Signal;
use hawser_proto::code::CloseCode;
use tracing::error;

/// Slots looked at between two looks at what else the runtime has to do.
const SLOTS_PER_TURN: u32 = 1024;

impl Lane {
    /// Closes the connections, and gives back the claims on groups that members had. Fan-outs that were
    /// under way are never reported as done: the router then says that this node's outcome is unknown.
    pub(super) async fn bury(self) {
        let Self { node, index, groups, in_hand, .. } = self;
        node.metrics.panicked(Part::Lane);
        for group in groups.into_iter().map(|(_, group)| group) {
            for _ in &group.members {
                node.groups.leave(&group.key, group.seq, index, &node.routers);
            }
        }
        // It was to be a member, and is none.
        if let Some((key, seq)) = in_hand {
            node.groups.leave(&key, seq, index, &node.routers);
        }
        let mut closed = 0;
        let lanes = node.lanes.len() as u32;
        let mine = (index as u32..node.table.slots_used()).step_by(lanes as usize);
        for (turn, slot) in (0..).zip(mine) {
            let order = Signal::Ordered(CloseCode::Internal, String::new());
            let at = node.table.visit(slot, |at, connection| {
                closed += u64::from(connection.order(order));
                at
            });
            // Its deadlines stood in the wheel that has gone; whoever does not end by himself has them yet.
            at.inspect(|&at| node.table.watch_anew(at));
            if turn % SLOTS_PER_TURN == SLOTS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        error!(lane = index, connections = closed, "a lane panicked: its connections are closed");
    }
}
