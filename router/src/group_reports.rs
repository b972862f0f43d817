//! A node's word that it has members of a group, and the answer to it.
//!
//! The node is noted first, then the history is asked for its tail: a push between the two reaches the node
//! and is in the tail as well, so none is missed, and the one that comes twice is told by its position.

use crate::core::Core;
use crate::groups::{Group, Reported};
use crate::key::Key;
use crate::node::control::Room;
use crate::nodes::Life;
use crate::push::history::TAIL_ONLY;
use crate::reach::Call;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, Position};
use hawser_proto::rpc::node::{GroupReport, GroupResult, down};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

/// The answer for a history group, which the store has to be asked for.
pub(crate) struct Later {
    key: Key,
    group: Arc<Group>,
    report: GroupReport,
    room: Room,
}

/// Takes a report, and answers it unless the store has to be asked first.
pub(crate) fn take(core: &Core, life: &Life, report: GroupReport, room: Room) -> Option<Later> {
    let key = AppId::new(&report.app).and_then(|app| Key::group(&app, &report.group));
    let mut room = Some(room);
    let mut later = None;
    let mut act = |reported: Reported<'_>| {
        let result = match reported {
            Reported::Taken(group) if group.history.is_some() => {
                later = Some(group.clone());
                return;
            }
            Reported::Taken(group) => taken(&report, group, None),
            Reported::NoGroup => refusal(&report, ErrorCode::GroupNotFound),
            Reported::Stale => {
                core.metrics.group_reports_stale.inc();
                refusal(&report, ErrorCode::Unavailable)
            }
        };
        // Word of a leave is not answered.
        if let Some(room) = room.take().filter(|_| report.present) {
            room.send(down::What::GroupResult(result));
        }
    };
    let Ok(key) = key else {
        act(Reported::NoGroup);
        return None;
    };
    core.groups.report(&key, life.no, report.seq, report.present, act);
    let (group, room) = (later?, room.filter(|_| report.present)?);
    Some(Later { key, group, report, room })
}

impl Later {
    /// Asks the store, then answers.
    pub(crate) async fn answer(self, core: Arc<Core>, permit: OwnedSemaphorePermit) {
        let now_ms = core.clock.now_ms();
        let asked = core.store.history(&self.key, Position::START, TAIL_ONLY, now_ms);
        let result = match core.reach.ask(Call::History, asked).await {
            Ok(batch) => taken(&self.report, &self.group, Some((batch.tail, batch.floor))),
            Err(source) => {
                debug!(%source, "a history could not be asked for its tail");
                refusal(&self.report, ErrorCode::Unavailable)
            }
        };
        // Word of its end, if it ended meanwhile, has left before this answer or leaves after it: never an
        // answer for a group behind word that it is no more.
        let Self { group, report, room, .. } = self;
        group.unless_deleted(|lives| {
            let result = if lives { result } else { refusal(&report, ErrorCode::GroupNotFound) };
            room.send(down::What::GroupResult(result));
        });
        drop(permit);
    }

    /// Answers that the store cannot be asked.
    pub(crate) fn refuse(self) {
        self.room.send(down::What::GroupResult(refusal(&self.report, ErrorCode::Unavailable)));
    }
}

fn taken(report: &GroupReport, group: &Group, ends: Option<(Position, Position)>) -> GroupResult {
    let (tail, floor) = ends.unwrap_or_default();
    GroupResult {
        call: report.call,
        app: report.app.clone(),
        group: report.group.clone(),
        status: 0,
        business: group.owner.0,
        created_ms: group.created_ms.cast_signed(),
        history: ends.is_some(),
        tail_term: tail.term,
        tail_seq: tail.seq,
        floor_term: floor.term,
        floor_seq: floor.seq,
    }
}

fn refusal(report: &GroupReport, code: ErrorCode) -> GroupResult {
    let (app, group) = (report.app.clone(), report.group.clone());
    GroupResult { call: report.call, app, group, status: code.number(), ..GroupResult::default() }
}
