//! One event of a history, and how histories are read: one JSON object per line, any number of files,
//! merged by monotonic time.

use anyhow::Context;
use hawser_proto::id::Position;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A backend asks for a push. `volatile` or stored; `expires` when it has an end.
    #[default]
    PushCall,
    /// It was answered: stored at `term`, `seq` with `durability`; or, volatile, written.
    PushOk,
    /// It was refused, and did not happen.
    PushFail,
    /// It may or may not have happened.
    PushUnknown,
    /// The store took a login (`instance`, `attempt`) or an announcement (no `instance`): `epoch`, `node`; and
    /// `inbox`, when it names a business that has to have heard of the session when all is at rest.
    Claim,
    /// A node wrote a push to the link of `app`, `device`, `epoch`.
    Send,
    /// The device's app was handed a push by `process`.
    RecvApp,
    /// The device process has its cursor on disk up to `term`, `seq`.
    Commit,
    /// A device process began: `process` is its number.
    Start,
    /// The store took an acknowledgement of `epoch` up to `term`, `seq`.
    Ack,
    /// An entry left by policy: `push`; or, without one, all up to `term`, `seq` (a purge). `overflow`
    /// says that the device has to be told.
    Evict,
    /// The device was told that what lies above `prev_*` and up to `term`, `seq` will not come.
    Gap,
    /// The device was told that the store went back.
    TermChanged,
    /// The route names `node` (the connection) and `epoch`.
    RouteSet,
    /// The route was removed by the session with `epoch`.
    RouteDel,
    /// Words about a session, heard by the business `inbox`: it began. Words may be repeated.
    Online,
    /// It ended.
    Offline,
    /// A member of the group `inbox` asked to be in, over the link `node`: `prev_*` is what it has. And
    /// again when it was told that it is: `term`, `seq` is the tail it was told.
    Join,
    /// It was told that it is out; without `inbox`: its link ended.
    Leave,
    /// A push to the group `inbox` was acknowledged, having been asked for at `since`; with a position
    /// when the group keeps a history.
    GroupPub,
    /// A member's app was handed a push.
    GroupRecv,
    /// A member was told how many pushes (`count`) it missed.
    GroupGap,
    /// A member was told to go on from `prev_*` (floor) to `term`, `seq` (tail).
    GroupReset,
    /// A fault began: `fault` says which; `since` how far back it reaches, `durability` what it may undo.
    FaultOn,
    /// It ended.
    FaultOff,
    /// The device is connected over `node` and nothing is on its way; or, without `node`, it is offline.
    Rest,
}

/// How well the store keeps something.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// In the memory of the store.
    #[default]
    Memory,
    /// And of a replica.
    Replica,
    /// Synced to disk.
    Disk,
}

/// One event. Fields that mean nothing for its kind are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the kinds say what each field means for them")]
pub struct Event {
    /// Monotonic nanoseconds, of one clock for all files.
    pub t: u64,
    pub kind: Kind,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub app: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// The business; or, of group events, the group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub inbox: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub push: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub term: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub seq: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub prev_term: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub prev_seq: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// The connection, or where it is: any text that names it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    #[serde(skip_serializing_if = "is_false")]
    pub overflow: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
    #[serde(skip_serializing_if = "is_false")]
    pub volatile: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub redelivered: bool,
    /// Which life of the device's process.
    #[serde(skip_serializing_if = "is_zero")]
    pub process: u64,
    /// When its time to live ends, on the clock of `t`; 0: it has none.
    #[serde(skip_serializing_if = "is_zero")]
    pub expires: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub attempt: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub count: u64,
    /// `store_back`: the store may have lost what it took after `since`, at `durability` and below.
    /// `liar`: the device's own inboxes are not judged.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fault: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub since: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Event {
    /// An event of this kind at this time.
    pub fn new(t: u64, kind: Kind) -> Self {
        Self { t, kind, ..Self::default() }
    }

    /// Its position; the start when it has none.
    pub fn position(&self) -> Position {
        Position::new(self.term, self.seq)
    }

    /// The position before it.
    pub fn prev(&self) -> Position {
        Position::new(self.prev_term, self.prev_seq)
    }

    /// The same at this position.
    #[must_use]
    pub fn at(mut self, position: Position) -> Self {
        (self.term, self.seq) = (position.term, position.seq);
        self
    }

    /// The same behind this position.
    #[must_use]
    pub fn behind(mut self, prev: Position) -> Self {
        (self.prev_term, self.prev_seq) = (prev.term, prev.seq);
        self
    }

    /// The same about this device.
    #[must_use]
    pub fn of(mut self, app: &str, device: &str, inbox: &str) -> Self {
        app.clone_into(&mut self.app);
        device.clone_into(&mut self.device);
        inbox.clone_into(&mut self.inbox);
        self
    }
}

/// Reads one history. Lines that are empty are skipped; one that is torn at the very end of a file is
/// what a killed process leaves, and is skipped too.
pub fn read(path: &Path) -> anyhow::Result<Vec<Event>> {
    let file = std::fs::File::open(path)
        .with_context(|| format!("cannot open the history {}", path.display()))?;
    let mut events = Vec::new();
    let mut torn = None;
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        if let Some(error) = torn.take() {
            return Err(error);
        }
        match serde_json::from_str(&line) {
            Ok(event) => events.push(event),
            Err(error) => {
                let at = format!("{}:{}: not an event", path.display(), number + 1);
                torn = Some(anyhow::Error::new(error).context(at));
            }
        }
    }
    Ok(events)
}

/// Several histories as one, by time. Events of one file with the same time keep their order.
pub fn merge(histories: Vec<Vec<Event>>) -> Vec<Event> {
    let mut all: Vec<Event> = histories.into_iter().flatten().collect();
    all.sort_by_key(|event| event.t);
    all
}
