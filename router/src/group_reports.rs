//! A node's word that it has members of a group, and the answer to it.
//!
//! The node is noted first, then the history is asked for its tail: a push between the two reaches the node
//! and is in the tail as well, so none is missed, and the one that comes twice is told by its position.

use crate::core::Core;
use crate::group_writer::{self, Look};
use crate::groups::{Group, Reported};
use crate::key::Key;
use crate::node::control::Room;
use crate::nodes::Life;
use crate::push::history::{self, TAIL_ONLY};
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, Position};
use hawser_proto::rpc::node::{GroupReport, GroupResult, down};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

/// The answer for which the store has to be asked first.
pub(crate) struct Later {
    key: Key,
    /// A history group, whose tail is wanted. `None`: the group is not known here.
    group: Option<Arc<Group>>,
    report: GroupReport,
    room: Room,
}

/// A report that was looked at.
enum Seen {
    Answered,
    /// It is about a history group.
    Kept(Arc<Group>),
    Unknown,
}

/// Takes a report, and answers it unless the store has to be asked first.
pub(crate) fn take(core: &Core, life: &Life, report: GroupReport, room: Room) -> Option<Later> {
    let key = AppId::new(&report.app).and_then(|app| Key::group(&app, &report.group));
    let mut room = Some(room);
    let Ok(key) = key else {
        let room = room.filter(|_| report.present)?;
        room.send(down::What::GroupResult(refusal(&report, ErrorCode::GroupNotFound)));
        return None;
    };
    let group = match look(core, life, &key, &report, &mut room) {
        Seen::Answered => return None,
        Seen::Kept(group) => Some(group),
        Seen::Unknown => None,
    };
    let room = room.filter(|_| report.present)?;
    Some(Later { key, group, report, room })
}

/// Notes the report with the group, and answers what can be answered at once.
fn look(
    core: &Core,
    life: &Life,
    key: &Key,
    report: &GroupReport,
    room: &mut Option<Room>,
) -> Seen {
    let mut seen = Seen::Answered;
    core.groups.report(key, life.no, report.seq, report.present, |reported| {
        let result = match reported {
            Reported::Taken(group) if group.history.is_some() => {
                seen = Seen::Kept(group.clone());
                return;
            }
            Reported::Taken(group) => taken(report, group, None),
            Reported::NoGroup => {
                seen = Seen::Unknown;
                return;
            }
            Reported::Stale => {
                core.metrics.group_reports_stale.inc();
                refusal(report, ErrorCode::Unavailable)
            }
        };
        // Word of a leave is not answered.
        if let Some(room) = room.take().filter(|_| report.present) {
            room.send(down::What::GroupResult(result));
        }
    });
    seen
}

impl Later {
    /// Asks the store, then answers.
    pub(crate) async fn answer(
        self,
        core: Arc<Core>,
        life: Arc<Life>,
        permit: OwnedSemaphorePermit,
    ) {
        let Self { key, group, report, room } = self;
        let mut room = Some(room);
        let group = match group {
            Some(group) => group,
            None => match known(&core, &life, &key, &report, &mut room).await {
                Some(group) => group,
                None => return,
            },
        };
        let Some(room) = room else { return };
        let read = history::read(&core, &key, group.clone(), Position::START, TAIL_ONLY).await;
        let (group, result) = match read {
            Ok(Some((group, batch))) => {
                let result = taken(&report, &group, batch.map(|it| (it.tail, it.floor)));
                (group, result)
            }
            // Which of the two will be known in a moment, here and there.
            Ok(None) => (group, refusal(&report, ErrorCode::Unavailable)),
            Err(source) => {
                debug!(%source, "a history could not be asked for its tail");
                (group, refusal(&report, ErrorCode::Unavailable))
            }
        };
        // Word of its end, if it ended meanwhile, has left before this answer or leaves after it: never an
        // answer for a group behind word that it is no more.
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

/// The group was not known here: it is looked for in the store, now, since another router may just have made
/// it, and a node that is told that there is none does not ask again. Returns a history group that is there.
async fn known(
    core: &Core,
    life: &Life,
    key: &Key,
    report: &GroupReport,
    answer: &mut Option<Room>,
) -> Option<Arc<Group>> {
    let refused = match group_writer::find(core, key, Look::Now).await {
        Ok(Some(_)) => match look(core, life, key, report, answer) {
            Seen::Answered => return None,
            Seen::Kept(group) => return Some(group),
            Seen::Unknown => ErrorCode::GroupNotFound,
        },
        Ok(None) => ErrorCode::GroupNotFound,
        Err(source) => {
            debug!(%source, "a group could not be looked for");
            ErrorCode::Unavailable
        }
    };
    answer.take()?.send(down::What::GroupResult(refusal(report, refused)));
    None
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
