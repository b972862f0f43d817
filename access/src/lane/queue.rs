//! What a lane can be asked to do, and the bounded way to it.

use super::history::{HistoryAnswer, Whom};
use crate::fanout::Fanout;
use crate::groups::{GroupKey, Stay};
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, BusinessNo, Position, SlotRef};
use hawser_proto::params::LeftReason;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Work for a lane.
pub(crate) enum Work {
    /// Take a connection into a group, which has seen its history up to `last`. The claim on the group
    /// (see `Groups::enter`) comes along.
    Join { at: SlotRef, key: GroupKey, stay: Stay, last: Position, done: Done },
    /// Take a connection out.
    Leave { at: SlotRef, key: GroupKey, reason: LeftReason, message: String, done: Done },
    /// The connection has ended: it leaves everything. Sent by [`LaneHandle::ended`] alone.
    Ended { at: SlotRef },
    /// This stay of the group is over, and what was before it: the group is no more.
    DropGroup { key: GroupKey, seq: u64 },
    /// Write to every member, if it is this business's group.
    Multicast { key: GroupKey, business: BusinessNo, fanout: Arc<Fanout> },
    /// Write to every session of an app that serves a business, this many a second. Sessions with an
    /// epoch above `newest` (0: none are) began after it, and may have had it in an earlier life.
    Broadcast {
        app: AppId,
        business: BusinessNo,
        per_second: u32,
        newest: u64,
        fanout: Arc<Fanout>,
    },
    /// A member asks for a history again, from here on.
    Recover { at: SlotRef, key: GroupKey, after: Position },
    /// The answer to a call for a history above `after`.
    Recovered { key: GroupKey, seq: u64, whom: Whom, after: Position, answer: HistoryAnswer },
    /// The newest position of a history, as a sweep found it, or a push that found no room said.
    HistoryTail { key: GroupKey, tail: Position },
    /// Name a connection's groups.
    Describe { at: SlotRef, groups: oneshot::Sender<Vec<String>> },
}

/// Who is told how a membership change went.
pub(crate) enum Done {
    /// The device, which asked with this request id.
    Device(u64),
    /// The router, on behalf of a business. The device is told of the change, too.
    Business(oneshot::Sender<Option<ErrorCode>>),
}

/// The way to one lane.
#[derive(Clone)]
pub(crate) struct LaneHandle {
    queue: mpsc::Sender<Work>,
    /// Connections whose end found the queue full; looked at with each turn of the wheel.
    pub(super) ended: Arc<Mutex<Vec<SlotRef>>>,
    /// History pushes that found the queue full; looked at likewise.
    pub(super) missed: Arc<Mutex<HashMap<GroupKey, Position>>>,
}

impl LaneHandle {
    /// Hands work over without waiting. `Err`: the lane's queue is full, and the work comes back.
    pub(crate) fn try_send(&self, work: Work) -> Result<(), Work> {
        self.queue.try_send(work).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Says that a connection has ended. Never waits, and is never lost.
    pub(crate) fn ended(&self, at: SlotRef) {
        if self.queue.try_send(Work::Ended { at }).is_err() {
            self.ended.lock().push(at);
        }
    }

    /// Says that a history push was not handed over: the lane has to ask for it.
    pub(crate) fn missed(&self, key: &GroupKey, at: Position) {
        let mut missed = self.missed.lock();
        let known = missed.entry(key.clone()).or_default();
        *known = at.max(*known);
    }

    /// Hands work over that must not be lost; waits for room.
    pub(crate) async fn send(&self, work: Work) {
        // The lane ends only with the node.
        let _ = self.queue.send(work).await;
    }
}

/// Where a lane takes its work from.
pub(crate) struct Queue {
    receiver: mpsc::Receiver<Work>,
    /// Taken off, and found to be something else than was looked for.
    next: Option<Work>,
}

impl Queue {
    /// The next work. Cancel-safe. `None`: there will be none.
    pub(super) async fn recv(&mut self) -> Option<Work> {
        match self.next.take() {
            Some(next) => Some(next),
            None => self.receiver.recv().await,
        }
    }

    /// The next work, if it is there and is one more live push to the members of this group.
    pub(super) fn one_more_push(
        &mut self,
        group: &GroupKey,
        of: BusinessNo,
    ) -> Option<Arc<Fanout>> {
        debug_assert!(self.next.is_none(), "it is taken before anything is looked for");
        match self.receiver.try_recv().ok()? {
            Work::Multicast { key, business, fanout }
                if key == *group && business == of && fanout.place.is_none() =>
            {
                Some(fanout)
            }
            other => {
                self.next = Some(other);
                None
            }
        }
    }
}

/// A queue for a lane that is about to start.
pub(crate) fn queue(bound: usize) -> (LaneHandle, Queue) {
    let (sender, receiver) = mpsc::channel(bound);
    let handle = LaneHandle { queue: sender, ended: Arc::default(), missed: Arc::default() };
    (handle, Queue { receiver, next: None })
}
