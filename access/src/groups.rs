//! Which groups have members on this node, and whether the router agreed. The members themselves
//! belong to the lanes; here is only their number.

use crate::metrics::Metrics;
use crate::routers::Routers;
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, BusinessNo, GroupId};
use hawser_proto::rpc::node::{GroupReport, GroupResult, up::What};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// A group's full name.
pub(crate) type GroupKey = (AppId, GroupId);

/// One stay of a group on this node, from its first member to its last. A join that was agreed for
/// one stay does not count for another, whose group may be someone else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stay {
    pub(crate) seq: u64,
    pub(crate) business: BusinessNo,
    /// When the group was made, as the router says: tells it from a later one of the same name.
    pub(crate) created_ms: i64,
    /// It keeps a history.
    pub(crate) history: bool,
}

type Verdict = Result<Stay, ErrorCode>;

enum Entry {
    /// The first member waits for the router's word; others wait with it.
    Announcing { seq: u64, waiting: Vec<(usize, oneshot::Sender<Verdict>)> },
    /// Members may come and go; counted by lane.
    Live { stay: Stay, members: Box<[u32]> },
}

/// The groups of one node.
pub(crate) struct Groups {
    entries: Mutex<HashMap<GroupKey, Entry>>,
    /// Sequence of group reports of this boot: a report that overtakes a later one is refused.
    seq: AtomicU64,
    lanes: usize,
    metrics: Arc<Metrics>,
}

impl Groups {
    pub(crate) fn new(lanes: usize, metrics: Arc<Metrics>) -> Self {
        Self { entries: Mutex::default(), seq: AtomicU64::new(1), lanes, metrics }
    }

    /// Counts a member in, after the router has agreed to the group's first one. The claim must end
    /// in [`Groups::leave`], unless the group is dropped first.
    pub(crate) async fn enter(
        &self,
        key: &GroupKey,
        lane: usize,
        routers: &Routers,
        patience: Duration,
    ) -> Verdict {
        let mut verdict = {
            let mut entries = self.entries.lock();
            match entries.get_mut(key) {
                Some(Entry::Live { stay, members }) => {
                    members[lane] += 1;
                    return Ok(*stay);
                }
                Some(Entry::Announcing { waiting, .. }) => {
                    let (tell, verdict) = oneshot::channel();
                    waiting.push((lane, tell));
                    verdict
                }
                None => {
                    let (tell, verdict) = oneshot::channel();
                    let seq = self.seq.fetch_add(1, Ordering::Relaxed);
                    if !routers.send(report(key, seq, true)) {
                        return Err(ErrorCode::Unavailable);
                    }
                    entries.insert(
                        key.clone(),
                        Entry::Announcing { seq, waiting: vec![(lane, tell)] },
                    );
                    verdict
                }
            }
        };
        match tokio::time::timeout(patience, &mut verdict).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(ErrorCode::Unavailable),
            Err(_) => {
                verdict.close();
                // The word may have come between the two: then the member is counted.
                if let Ok(verdict) = verdict.try_recv() {
                    return verdict;
                }
                self.give_up(key, routers);
                Err(ErrorCode::Unavailable)
            }
        }
    }

    /// A waiter has lost its patience. The last one takes the announcement back.
    fn give_up(&self, key: &GroupKey, routers: &Routers) {
        let mut entries = self.entries.lock();
        if let Some(Entry::Announcing { waiting, .. }) = entries.get_mut(key) {
            waiting.retain(|(_, tell)| !tell.is_closed());
            if waiting.is_empty() {
                entries.remove(key);
                routers.send(report(key, self.seq.fetch_add(1, Ordering::Relaxed), false));
            }
        }
    }

    /// The router's word on a group.
    pub(crate) fn decided(&self, result: &GroupResult, routers: &Routers) -> Option<GroupKey> {
        let key = (AppId::new(&result.app).ok()?, GroupId::new(&result.group).ok()?);
        let refused = ErrorCode::from_number(result.status);
        let mut entries = self.entries.lock();
        match entries.get_mut(&key) {
            Some(Entry::Announcing { seq, waiting }) if *seq == result.call => {
                let business = BusinessNo(result.business);
                let (created_ms, history) = (result.created_ms, result.history);
                let stay = Stay { seq: *seq, business, created_ms, history };
                let verdict = refused.map_or(Ok(stay), Err);
                let mut members = vec![0; self.lanes].into_boxed_slice();
                for (lane, tell) in waiting.drain(..) {
                    if tell.send(verdict).is_ok() {
                        members[lane] += 1;
                    }
                }
                if refused.is_some() {
                    entries.remove(&key);
                } else if members.iter().all(|&count| count == 0) {
                    entries.remove(&key);
                    routers.send(report(&key, self.seq.fetch_add(1, Ordering::Relaxed), false));
                } else {
                    entries.insert(key, Entry::Live { stay, members });
                }
                self.metrics.groups.set(entries.len() as i64);
                None
            }
            // An announcement after a broken stream: the group was deleted meanwhile.
            Some(Entry::Live { .. }) if refused == Some(ErrorCode::GroupNotFound) => {
                entries.remove(&key);
                self.metrics.groups.set(entries.len() as i64);
                Some(key)
            }
            // The same name, and another group: its members never asked to be in this one.
            Some(Entry::Live { stay, .. })
                if refused.is_none()
                    && (stay.business.0, stay.created_ms)
                        != (result.business, result.created_ms) =>
            {
                entries.remove(&key);
                routers.send(report(&key, self.seq.fetch_add(1, Ordering::Relaxed), false));
                self.metrics.groups.set(entries.len() as i64);
                Some(key)
            }
            Some(_) | None => None,
        }
    }

    /// Whether this stay still lasts: what a lane asks before it takes a member in.
    pub(crate) fn lasts(&self, key: &GroupKey, seq: u64) -> bool {
        matches!(self.entries.lock().get(key), Some(Entry::Live { stay, .. }) if stay.seq == seq)
    }

    /// A member has gone. The last one is told to the router.
    pub(crate) fn leave(&self, key: &GroupKey, seq: u64, lane: usize, routers: &Routers) {
        let mut entries = self.entries.lock();
        let Some(Entry::Live { stay, members }) = entries.get_mut(key) else { return };
        if stay.seq != seq {
            return;
        }
        members[lane] = members[lane].saturating_sub(1);
        if members.iter().all(|&count| count == 0) {
            entries.remove(key);
            routers.send(report(key, self.seq.fetch_add(1, Ordering::Relaxed), false));
            self.metrics.groups.set(entries.len() as i64);
        }
    }

    /// The group is no more. False: it had no members here.
    pub(crate) fn drop_group(&self, key: &GroupKey) -> bool {
        let mut entries = self.entries.lock();
        let was_there = entries.remove(key).is_some();
        self.metrics.groups.set(entries.len() as i64);
        was_there
    }

    /// Members on this node, by lane.
    pub(crate) fn members(&self, key: &GroupKey) -> Box<[u32]> {
        match self.entries.lock().get(key) {
            Some(Entry::Live { members, .. }) => members.clone(),
            Some(Entry::Announcing { .. }) | None => Box::default(),
        }
    }

    /// The groups that keep a history and have members here.
    pub(crate) fn histories(&self) -> Vec<GroupKey> {
        let entries = self.entries.lock();
        let has_history = |entry: &Entry| matches!(entry, Entry::Live { stay, .. } if stay.history);
        entries.iter().filter(|(_, it)| has_history(it)).map(|(key, _)| key.clone()).collect()
    }

    /// Reports of all groups, for a router that may have lost them.
    pub(crate) fn announcements(&self) -> Vec<What> {
        let mut entries = self.entries.lock();
        let mut all = Vec::with_capacity(entries.len());
        for (key, entry) in entries.iter_mut() {
            let next = self.seq.fetch_add(1, Ordering::Relaxed);
            if let Entry::Announcing { seq, .. } = entry {
                *seq = next;
            }
            all.push(report(key, next, true));
        }
        all
    }
}

fn report((app, group): &GroupKey, seq: u64, present: bool) -> What {
    What::Group(GroupReport {
        call: seq,
        app: app.as_str().to_owned(),
        group: group.as_str().to_owned(),
        seq,
        present,
    })
}

#[cfg(test)]
mod tests;
