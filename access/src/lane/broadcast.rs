//! Broadcasts: a paced walk over every session of a lane, whatever groups it is in.

use super::{Lane, WRITES_PER_TURN};
use crate::fanout::{Fanout, Tally};
use crate::outbox::Keep;
use hawser_proto::id::{AppId, BusinessNo};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A broadcast's pace is kept in steps of this length.
const BROADCAST_STEP: Duration = Duration::from_millis(50);
/// Broadcasts one business may have under way, so that none keeps the others out.
const BROADCASTS_PER_BUSINESS_MAX: usize = 4;
/// Broadcasts one lane works on at once; more are refused.
const BROADCASTS_MAX: usize = 16;

pub(super) struct Broadcast {
    app: AppId,
    business: BusinessNo,
    per_step: f64,
    allowance: f64,
    next_slot: u32,
    next_step: Instant,
    newest: u64,
    fanout: Arc<Fanout>,
}

impl Lane {
    pub(super) fn start_broadcast(
        &mut self,
        app: AppId,
        business: BusinessNo,
        per_second: u32,
        newest: u64,
        fanout: Arc<Fanout>,
    ) {
        let is_same = |other: &&Broadcast| other.app == app && other.business == business;
        let of_same = self.broadcasts.iter().filter(is_same).count();
        if self.broadcasts.len() >= BROADCASTS_MAX || of_same >= BROADCASTS_PER_BUSINESS_MAX {
            // Never reported as done: the router then says that this node's outcome is unknown.
            self.node.metrics.lane_full.inc();
            return;
        }
        let steps_per_second = 1.0 / BROADCAST_STEP.as_secs_f64();
        let now = Instant::now();
        self.broadcasts.push(Broadcast {
            app,
            business,
            per_step: f64::from(per_second.max(1)) / steps_per_second,
            allowance: 0.0,
            next_slot: self.index as u32,
            next_step: now,
            newest: if newest == 0 { u64::MAX } else { newest },
            fanout,
        });
    }

    pub(super) fn next_broadcast_step(&self) -> Option<Instant> {
        self.broadcasts.iter().map(|broadcast| broadcast.next_step).min()
    }

    pub(super) async fn step_broadcasts(&mut self) {
        let now = Instant::now();
        let slots = self.node.table.slots_used();
        let lanes = self.node.lanes.len() as u32;
        for broadcast in &mut self.broadcasts {
            if broadcast.next_step > now {
                continue;
            }
            broadcast.next_step = now + BROADCAST_STEP;
            broadcast.allowance =
                (broadcast.allowance + broadcast.per_step).min(broadcast.per_step.max(1.0));
            let mut tally = Tally::default();
            let mut seen = 0;
            while broadcast.allowance >= 1.0 && broadcast.next_slot < slots {
                let at = self.node.table.visit(broadcast.next_slot, |at, connection| {
                    let identity = connection.identity.as_ref()?;
                    let is_theirs = identity.epoch.0 != 0
                        && identity.first_epoch.0 <= broadcast.newest
                        && identity.app == broadcast.app
                        && identity.serves(broadcast.business);
                    is_theirs.then_some(at)
                });
                broadcast.next_slot += lanes;
                if let Some(at) = at.flatten() {
                    let Fanout { frame, slow, .. } = &*broadcast.fanout;
                    tally.count(self.node.table.write_shared(at, frame, Keep::Droppable, *slow));
                    broadcast.allowance -= 1.0;
                }
                seen += 1;
                if seen % WRITES_PER_TURN == 0 {
                    super::give_way().await;
                }
            }
            if broadcast.next_slot < slots {
                broadcast.fanout.add(tally);
                broadcast.fanout.report_progress();
            } else {
                broadcast.fanout.lane_done(tally);
            }
        }
        self.broadcasts.retain(|broadcast| broadcast.next_slot < slots);
    }
}
