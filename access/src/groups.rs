//! Which groups have members on this node, and whether the routers agreed. The members themselves belong
//! to the lanes; here is only their number.
//!
//! Every router hears of a group's first member and of its last. A join waits for all routers that take
//! pushes, so that a push through any of them finds the member, but not for one that does not answer in
//! time: that one is told again until it has. What a router said of an older state of the group never
//! counts against what another one said of a newer.

mod books;

use crate::metrics::Metrics;
use crate::routers::Routers;
use crate::routers::tier::{Functions, Up};
use books::{Again, Entry, State, Told};
use hawser_proto::code::ErrorCode;
use hawser_proto::id::{AppId, BusinessNo, GroupId};
use hawser_proto::rpc::node::{GroupReport, GroupResult, up::What};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The first pause before a router is told again; it doubles. Longer than a router remembers that there is
/// no such group.
const AGAIN_AFTER: Duration = Duration::from_millis(1_200);
const AGAIN_DOUBLINGS_MAX: u8 = 5;
/// Routers told again with one look, so that the books are not kept from others for long.
const AGAIN_AT_ONCE_MAX: usize = 4_096;
/// Entries looked at for that. Nearly all have been answered by then, and each first join makes one for each router:
/// at ten looks a second more are taken off than joins can put there.
const AGAIN_SEEN_MAX: usize = 65_536;
/// A router that does not know a live group, though another one does, is believed after so many answers.
const REFUSALS_BELIEVED: u8 = 2;

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

#[derive(Default)]
struct Books {
    entries: HashMap<GroupKey, Entry>,
    /// The next one first.
    again: BinaryHeap<Again>,
}

/// The groups of one node.
pub(crate) struct Groups {
    books: Mutex<Books>,
    /// Sequence of group reports of this boot: a report that overtakes a later one is refused.
    seq: AtomicU64,
    lanes: usize,
    metrics: Arc<Metrics>,
}

impl Groups {
    pub(crate) fn new(lanes: usize, metrics: Arc<Metrics>) -> Self {
        Self { books: Mutex::default(), seq: AtomicU64::new(1), lanes, metrics }
    }

    fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a member in, after the routers have agreed to the group's first one. The claim must end
    /// in [`Groups::leave`], unless the group is dropped first.
    pub(crate) async fn enter(
        &self,
        key: &GroupKey,
        lane: usize,
        routers: &Routers,
        patience: Duration,
    ) -> Verdict {
        let mut verdict = {
            let mut books = self.books.lock();
            let (tell, verdict) = oneshot::channel();
            if let Some(entry) = books.entries.get_mut(key) {
                match &mut entry.state {
                    State::Live { stay, members } => {
                        members[lane] += 1;
                        return Ok(*stay);
                    }
                    State::Announcing { waiting, .. } => waiting.push((lane, tell)),
                }
            } else {
                let seq = self.next_seq();
                let mut entry = Entry::new(seq, (lane, tell));
                // A router that comes up later is told of it then.
                for up in routers.ups().iter() {
                    if up.send(report(key, seq, true)).is_none() && entry.tell(up, seq) {
                        books.again.push(again(key, up.stream, seq, Instant::now()));
                    }
                }
                books.entries.insert(key.clone(), entry);
            }
            verdict
        };
        match tokio::time::timeout(patience, &mut verdict).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(ErrorCode::Unavailable),
            Err(_) => {
                let mut books = self.books.lock();
                // Those that have answered are enough, if one of them agreed.
                self.settle(&mut books, key, routers, Settle::WithWhatIsThere);
                verdict.close();
                // The word may have come between the two: then the member is counted.
                if let Ok(verdict) = verdict.try_recv() {
                    return verdict;
                }
                self.give_up(&mut books, key, routers);
                Err(ErrorCode::Unavailable)
            }
        }
    }

    /// A waiter has lost its patience. The last one takes the announcement back.
    fn give_up(&self, books: &mut MutexGuard<'_, Books>, key: &GroupKey, routers: &Routers) {
        let Some(entry) = books.entries.get_mut(key) else { return };
        let State::Announcing { waiting, .. } = &mut entry.state else { return };
        waiting.retain(|(_, tell)| !tell.is_closed());
        if waiting.is_empty() {
            books.entries.remove(key);
            self.tell_all_left(key, routers);
        }
    }

    /// A router's word on a group. `Some`: the members of this stay, which is over, are in it no more.
    pub(crate) fn decided(
        &self,
        stream: u64,
        result: &GroupResult,
        routers: &Routers,
    ) -> Option<(GroupKey, u64)> {
        let key = (AppId::new(&result.app).ok()?, GroupId::new(&result.group).ok()?);
        let mut books = self.books.lock();
        let entry = books.entries.get_mut(&key)?;
        // An answer to what was told before the last time is too old.
        let nth = entry.told.iter().position(|told| told.is(stream, result.call))?;
        let stay = Stay {
            seq: entry.seq,
            business: BusinessNo(result.business),
            created_ms: result.created_ms,
            history: result.history,
        };
        let word = ErrorCode::from_number(result.status).map_or(Ok(stay), Err);
        match &mut entry.state {
            State::Announcing { best, refused, .. } => {
                match word {
                    Ok(stay) if best.is_none_or(|best| best.created_ms <= stay.created_ms) => {
                        // Whoever named an older one has to learn first, and hears of us again.
                        *best = Some(stay);
                        entry.told.swap_remove(nth);
                    }
                    Ok(_) => entry.told[nth].disagrees(),
                    Err(code) => {
                        // Of two reasons the certain one.
                        let is_first = refused.is_none_or(|_| code == ErrorCode::GroupNotFound);
                        *refused = if is_first { Some(code) } else { *refused };
                        entry.told[nth].disagrees();
                    }
                }
                self.settle(&mut books, &key, routers, Settle::WhenAllHaveAnswered);
                None
            }
            State::Live { stay: ours, .. } => {
                let is_over = match word {
                    Ok(theirs) => {
                        let is_same = (theirs.business, theirs.created_ms)
                            == (ours.business, ours.created_ms);
                        if is_same {
                            entry.told.swap_remove(nth);
                        } else {
                            entry.told[nth].disagrees();
                        }
                        // The same name, and a later group: its members never asked to be in that one.
                        !is_same && theirs.created_ms >= ours.created_ms
                    }
                    Err(ErrorCode::GroupNotFound) => {
                        let told = &mut entry.told[nth];
                        told.disagrees();
                        told.refusals += 1;
                        let others = routers.ups();
                        let mut others = others.iter().filter(|up| up.stream != stream);
                        let is_alone = others.all(|up| !up.router.does(Functions::PUSH));
                        is_alone || told.refusals >= REFUSALS_BELIEVED
                    }
                    Err(_) => {
                        entry.told[nth].disagrees();
                        false
                    }
                };
                if !is_over {
                    return None;
                }
                let seq = entry.seq;
                books.entries.remove(&key);
                self.tell_all_left(&key, routers);
                self.metrics.groups.set(books.entries.len() as i64);
                Some((key, seq))
            }
        }
    }

    /// Tells those who wait, if it can be said by now.
    fn settle(
        &self,
        books: &mut MutexGuard<'_, Books>,
        key: &GroupKey,
        routers: &Routers,
        when: Settle,
    ) {
        let Some(entry) = books.entries.get_mut(key) else { return };
        let State::Announcing { waiting, best, refused } = &mut entry.state else { return };
        let has_answers = best.is_some() || refused.is_some();
        let is_awaited = entry.told.iter().any(Told::is_awaited);
        let is_time = match when {
            Settle::WhenAllHaveAnswered => has_answers && !is_awaited,
            Settle::WithWhatIsThere => best.is_some(),
        };
        if !is_time {
            return;
        }
        let verdict = match (*best, *refused) {
            (Some(stay), _) => Ok(stay),
            (None, refused) => Err(refused.unwrap_or(ErrorCode::Unavailable)),
        };
        let mut members = vec![0; self.lanes].into_boxed_slice();
        for (lane, tell) in waiting.drain(..) {
            if tell.send(verdict).is_ok() {
                members[lane] += 1;
            }
        }
        match verdict {
            Ok(stay) if members.iter().any(|&count| count > 0) => {
                entry.state = State::Live { stay, members };
            }
            Ok(_) => {
                books.entries.remove(key);
                self.tell_all_left(key, routers);
            }
            Err(_) => {
                books.entries.remove(key);
            }
        }
        self.metrics.groups.set(books.entries.len() as i64);
    }

    fn tell_all_left(&self, key: &GroupKey, routers: &Routers) {
        let seq = self.next_seq();
        for up in routers.ups().iter() {
            // Without room the stream is begun anew, and this group is not among what is told then.
            let _ = up.send(report(key, seq, false));
        }
    }

    /// Whether this stay still lasts: what a lane asks before it takes a member in.
    pub(crate) fn lasts(&self, key: &GroupKey, seq: u64) -> bool {
        let books = self.books.lock();
        let stay = books.entries.get(key).and_then(Entry::stay);
        stay.is_some_and(|stay| stay.seq == seq)
    }

    /// A member has gone. The last one is told to the routers.
    pub(crate) fn leave(&self, key: &GroupKey, seq: u64, lane: usize, routers: &Routers) {
        let mut books = self.books.lock();
        let Some(entry) = books.entries.get_mut(key) else { return };
        let State::Live { stay, members } = &mut entry.state else { return };
        if stay.seq != seq {
            return;
        }
        members[lane] = members[lane].saturating_sub(1);
        if members.iter().all(|&count| count == 0) {
            books.entries.remove(key);
            self.tell_all_left(key, routers);
            self.metrics.groups.set(books.entries.len() as i64);
        }
    }

    /// A router says that the group is no more which was made then (0: it does not say). `Some`: this stay
    /// is over. A router that has not yet answered what it was told last may mean one of before, even where
    /// it does not say; its answer will.
    pub(crate) fn drop_group(
        &self,
        stream: u64,
        key: &GroupKey,
        created_ms: i64,
        routers: &Routers,
    ) -> Option<u64> {
        let mut books = self.books.lock();
        let entry = books.entries.get(key)?;
        let is_later = |stay: &Stay| created_ms != 0 && stay.created_ms > created_ms;
        let is_of_before = entry.told.iter().any(|told| told.stream == stream);
        if is_of_before || entry.known().is_some_and(is_later) {
            return None;
        }
        let seq = entry.seq;
        books.entries.remove(key);
        self.tell_all_left(key, routers);
        self.metrics.groups.set(books.entries.len() as i64);
        Some(seq)
    }

    /// Members on this node, by lane.
    pub(crate) fn members(&self, key: &GroupKey) -> Box<[u32]> {
        match self.books.lock().entries.get(key).map(|entry| &entry.state) {
            Some(State::Live { members, .. }) => members.clone(),
            Some(State::Announcing { .. }) | None => Box::default(),
        }
    }

    /// The groups that keep a history and have members here.
    pub(crate) fn histories(&self) -> Vec<GroupKey> {
        let books = self.books.lock();
        let has_history = |entry: &Entry| entry.stay().is_some_and(|stay| stay.history);
        let histories = books.entries.iter().filter(|(_, entry)| has_history(entry));
        histories.map(|(key, _)| key.clone()).collect()
    }

    // === Routers that come, go, and do not answer ===

    /// All groups, for a router that is told of them one by one.
    pub(crate) fn keys(&self) -> Vec<GroupKey> {
        self.books.lock().entries.keys().cloned().collect()
    }

    /// The report of a group for one router, which may have lost it. `None`: it has no members any more.
    pub(crate) fn report_to(&self, key: &GroupKey, up: &Up) -> Option<What> {
        let mut books = self.books.lock();
        let call = self.next_seq();
        if books.entries.get_mut(key)?.tell(up, call) {
            books.again.push(again(key, up.stream, call, Instant::now()));
        }
        Some(report(key, call, true))
    }

    /// Tells those routers again that have not agreed in time.
    pub(crate) fn tell_again(&self, routers: &Routers, now: Instant) {
        let mut books = self.books.lock();
        let mut told_again = 0;
        for _ in 0..AGAIN_SEEN_MAX {
            if told_again == AGAIN_AT_ONCE_MAX {
                return;
            }
            if books.again.peek().is_none_or(|next| next.due > now) {
                return;
            }
            let Some(next) = books.again.pop() else { return };
            let Some(entry) = books.entries.get_mut(&next.key) else { continue };
            let Some(told) = entry.told.iter_mut().find(|it| it.is(next.stream, next.call)) else {
                continue;
            };
            let ups = routers.ups();
            let up = ups.iter().find(|up| up.stream == next.stream);
            let call = self.next_seq();
            // Without room the stream is begun anew, and told everything then.
            if up.is_some_and(|up| up.send(report(&next.key, call, true)).is_none()) {
                told.again(call);
                let pause = AGAIN_AFTER * ((1 << told.tries.min(AGAIN_DOUBLINGS_MAX)) - 1);
                books.again.push(again(&next.key, next.stream, call, now + pause));
                self.metrics.group_reports_again.inc();
                told_again += 1;
            }
        }
    }

    /// A stream is gone: nobody waits for its router any more.
    pub(crate) fn stream_broke(&self, stream: u64, routers: &Routers) {
        let mut books = self.books.lock();
        let mut waiting = Vec::new();
        for (key, entry) in &mut books.entries {
            let before = entry.told.len();
            entry.told.retain(|told| told.stream != stream);
            if entry.told.len() < before && entry.stay().is_none() {
                waiting.push(key.clone());
            }
        }
        for key in waiting {
            self.settle(&mut books, &key, routers, Settle::WhenAllHaveAnswered);
        }
    }
}

#[derive(Clone, Copy)]
enum Settle {
    WhenAllHaveAnswered,
    WithWhatIsThere,
}

fn again(key: &GroupKey, stream: u64, call: u64, not_before: Instant) -> Again {
    Again { due: not_before + AGAIN_AFTER, key: key.clone(), stream, call }
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
