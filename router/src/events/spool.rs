//! What one shard has to tell, and to whom: which marks are read, when a device is looked at again, what waits
//! for which business, when the next call is made, when a mark may go.
//!
//! Pure. Everything here is found again by reading the marks from the beginning, so it may be dropped at any
//! time. A business that does not answer keeps its own line and nothing else: the walk over the marks goes
//! on past its devices, and what finds no room in its line is read again from a place that is remembered,
//! once it answers.

use super::line::{Line, Waiting};
use crate::inbox::Event;
use crate::store::{KeyBytes, Marked};
use hawser_proto::id::{AppId, BusinessNo};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// A business of an app.
pub(super) type Whom = (AppId, BusinessNo);

/// Marks read at once.
pub(super) const PAGE: usize = 128;
/// Devices that are looked at again later. While there are as many, no further mark is read.
const LOOKS_MAX: usize = 16_384;
/// A device of which nothing is due is looked at this long after its mark was first seen: whoever marked it
/// may be about to do what it was marked for. After the last of them no call can still take effect, and the
/// mark goes.
const LOOKS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(10),
];
/// After the store has failed to answer.
const LOOK_RETRY: Duration = Duration::from_secs(1);
/// All marks are read again after this long: whatever was passed over is found, and what was marked below the
/// others because a clock went back. Sooner where they are few.
const WALK_INTERVAL: Duration = Duration::from_mins(5);
const WALK_INTERVAL_OF_FEW: Duration = Duration::from_secs(30);
/// Between two pages of marks that were read before: somebody who does not answer may have left very many.
const WALK_PACE: Duration = Duration::from_millis(250);
/// At least between two pages of new ones, while lines have no room for what they hold.
const FULL_PACE: Duration = Duration::from_millis(100);
/// Events for a business that is gone or does not ask for them (any more) wait this long for it to ask.
const PARKED_MAX: Duration = Duration::from_hours(24);

/// A mark, and when it was first seen here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) mark: Marked,
    pub(super) seen_ms: u64,
}

/// Why a device was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// On the walk over the marks, or when its time had come.
    InTurn,
    /// While looking for what found no room in this line.
    Left(Whom),
}

/// What is to be done with a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: it waits.
    Stays,
    /// It goes.
    Unmark,
    /// Nobody has asked for these for too long: they count as heard, and the mark goes.
    GiveUp(Vec<Event>),
}

/// The times of one step: of the steady clock, and of the wall clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) steady_ms: u64,
    pub(super) wall_ms: u64,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Spool {
    /// Marks up to this one were read.
    front: u64,
    /// No further ones are read before.
    front_from_ms: u64,
    /// And are read again, up to this one; 0: from the oldest.
    walked: u64,
    /// When the walk goes on, or begins again.
    walk_from_ms: Option<u64>,
    looks: BTreeMap<(u64, u64), Look>,
    looks_made: u64,
    pub(super) lines: HashMap<Whom, Line>,
    /// Some marks were passed over because nobody asks for their events.
    has_parked: bool,
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl Spool {
    /// Behind which mark new ones are read, if it is time and there is room for what they hold.
    pub(super) fn read_from(&self, now: Now) -> Option<u64> {
        (self.has_room() && self.front_from_ms <= now.steady_ms).then_some(self.front)
    }

    /// These were read, in order; true: there may be more at once.
    pub(super) fn read(&mut self, marks: &[Marked], now: Now) -> bool {
        self.front = marks.last().map_or(self.front, |last| last.at);
        let (is_full, is_paced) = (marks.len() >= PAGE, self.has_left());
        if is_full && is_paced {
            self.front_from_ms = now.steady_ms + ms(FULL_PACE);
        }
        is_full && !is_paced
    }

    /// Behind which mark those that were read before are read again, if it is time and there is room. `jitter`:
    /// from 0 to 1.
    pub(super) fn walk_from(&mut self, jitter: f64, now: Now) -> Option<u64> {
        // The holder of all shards has taken them at once.
        let first = WALK_INTERVAL_OF_FEW.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let from_ms = *self.walk_from_ms.get_or_insert(now.steady_ms + ms(first));
        (self.has_room() && from_ms <= now.steady_ms).then_some(self.walked)
    }

    /// These were read again, in order.
    pub(super) fn walked(&mut self, marks: &[Marked], now: Now) {
        let last = marks.last().map_or(0, |last| last.at);
        let is_more = marks.len() >= PAGE && last < self.front;
        let pause = match (is_more, self.walked) {
            (true, _) => WALK_PACE,
            (false, 0) => WALK_INTERVAL_OF_FEW,
            (false, _) => WALK_INTERVAL,
        };
        self.walked = if is_more { last } else { 0 };
        self.walk_from_ms = Some(now.steady_ms + ms(pause));
    }

    fn has_room(&self) -> bool {
        self.looks.len() + PAGE <= LOOKS_MAX
    }

    /// All marks are read again, from the oldest on.
    pub(super) fn begin_again(&mut self, now: Now) {
        (self.walked, self.walk_from_ms) = (0, Some(now.steady_ms));
        self.has_parked = false;
    }

    /// Who asks for events has changed.
    pub(super) fn watchers_changed(&mut self, now: Now) {
        if self.has_parked {
            self.begin_again(now);
        }
    }

    /// Devices whose time has come, at most a page of them.
    pub(super) fn take_looks(&mut self, now: Now) -> Vec<Look> {
        let mut taken = Vec::new();
        while taken.len() < PAGE
            && let Some(first) = self.looks.first_entry()
            && first.key().0 <= now.steady_ms
        {
            taken.push(first.remove());
        }
        taken
    }

    fn look_at(&mut self, due_ms: u64, look: Look) {
        self.looks_made += 1;
        self.looks.insert((due_ms, self.looks_made), look);
    }

    /// The store did not say what is due.
    pub(super) fn look_failed(&mut self, look: Look, found: &Found, now: Now) {
        match found {
            Found::InTurn => self.look_at(now.steady_ms + ms(LOOK_RETRY), look),
            Found::Left(whom) => {
                if let Some(line) = self.lines.get_mut(whom) {
                    line.leave(look.mark.at);
                }
            }
        }
    }

    /// A device was looked at, and this is due.
    pub(super) fn looked(
        &mut self,
        look: Look,
        found: &Found,
        due: Vec<Event>,
        app: &AppId,
        is_watching: impl Fn(BusinessNo) -> bool,
        now: Now,
    ) -> Verdict {
        let mut is_wanted = false;
        let mut by_business: BTreeMap<BusinessNo, Vec<Event>> = BTreeMap::new();
        for event in &due {
            if is_watching(event.business) {
                is_wanted = true;
                by_business.entry(event.business).or_default().push(event.clone());
            }
        }
        for (business, events) in by_business {
            let whom = (app.clone(), business);
            let is_left = *found == Found::Left(whom.clone());
            let line = self.lines.entry(whom).or_default();
            line.offer(Waiting { look: look.clone(), events, read_ms: now.steady_ms }, is_left);
        }
        if is_wanted {
            return Verdict::Stays;
        }
        let next = LOOKS.iter().map(|&after| look.seen_ms + ms(after));
        let next = next.filter(|&due_ms| due_ms > now.steady_ms).min();
        if let Some(due_ms) = next {
            // One that was left is looked at in its turn as well.
            if *found == Found::InTurn || self.looks.len() < LOOKS_MAX {
                self.look_at(due_ms, look);
            }
            return Verdict::Stays;
        }
        if due.is_empty() {
            return Verdict::Unmark;
        }
        let marked_ms = look.mark.at / 1_000;
        if now.wall_ms.saturating_sub(marked_ms) < ms(PARKED_MAX) {
            self.has_parked = true;
            return Verdict::Stays;
        }
        Verdict::GiveUp(due)
    }

    /// A line that is empty and answers, and for which marks were passed over: from where on to read them.
    pub(super) fn next_left(&self) -> Option<(Whom, u64)> {
        let left = |(whom, line): (&Whom, &Line)| Some((whom.clone(), line.wants_left()?));
        self.lines.iter().find_map(left)
    }

    /// Marks were read for a line whose place this was; what they held is offered to it now.
    pub(super) fn left_read(&mut self, whom: &Whom, marks: &[Marked]) {
        let Some(line) = self.lines.get_mut(whom) else { return };
        let last = marks.last().map(|last| last.at);
        // Behind the front everything is yet to come.
        let is_more = marks.len() >= PAGE && last.is_some_and(|last| last < self.front);
        line.left_read(last.filter(|_| is_more));
    }

    /// The next call that may be made: to whom, and of which devices.
    pub(super) fn next_call(&mut self, now: Now) -> Option<(Whom, Vec<Waiting>)> {
        let ready = |(_, line): &(&Whom, &mut Line)| line.is_ready(now.steady_ms);
        let (whom, line) = self.lines.iter_mut().find(ready)?;
        Some((whom.clone(), line.begin()))
    }

    /// The business has heard these. Those of which the store does not know it yet are told again.
    pub(super) fn heard(&mut self, whom: &Whom, told: Vec<(Waiting, bool)>, now: Now) {
        let Some(line) = self.lines.get_mut(whom) else { return };
        line.succeed();
        let mut looks = Vec::new();
        for (it, is_known) in told {
            let again = line.forget(&it.look.mark.device);
            let due_ms = if !is_known {
                now.steady_ms + ms(LOOK_RETRY)
            } else if again.is_some() || it.events.last().is_some_and(|last| !last.heard.is_online)
            {
                // After an end the beginning of the next session may be due.
                now.steady_ms
            } else {
                (it.look.seen_ms + ms(LOOKS[LOOKS.len() - 1])).max(now.steady_ms)
            };
            // Whoever is marked again has one mark, the later one.
            let newest = again.into_iter().chain([it.look]).max_by_key(|look| look.mark.at);
            looks.extend(newest.map(|look| (due_ms, look)));
        }
        self.lines.retain(|_, line| !line.is_idle());
        for (due_ms, look) in looks {
            self.look_at(due_ms, look);
        }
    }

    /// The business has not heard these. `jitter`: from 0 to 1.
    pub(super) fn failed(&mut self, whom: &Whom, told: Vec<Waiting>, jitter: f64, now: Now) {
        if let Some(line) = self.lines.get_mut(whom) {
            line.fail(told, jitter, now.steady_ms);
        }
    }

    /// Nobody asks for these events any more: they are not waited for.
    pub(super) fn let_go(&mut self, is_watching: impl Fn(&Whom) -> bool, now: Now) {
        let mut looks = Vec::new();
        self.lines.retain(|whom, line| {
            let stays = is_watching(whom) || line.is_out();
            if !stays {
                looks.extend(line.drain());
            }
            stays
        });
        for look in looks {
            self.look_at(now.steady_ms, look);
        }
    }

    /// When there is something to do next that only time brings.
    pub(super) fn next_ms(&self) -> Option<u64> {
        let looks = self.looks.first_key_value().map(|(&(due_ms, _), _)| due_ms);
        let calls = self.lines.values().filter_map(Line::ready_at);
        calls.chain(looks).min()
    }

    /// Devices that wait in lines.
    pub(super) fn waiting(&self) -> usize {
        self.lines.values().map(Line::len).sum()
    }

    /// Whether some wait that are not in a line, for want of room.
    pub(super) fn has_left(&self) -> bool {
        self.lines.values().any(Line::has_left)
    }

    /// When the oldest that waits in a line was marked, in microseconds; with the line.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.lines.values().filter_map(Line::oldest).min()
    }
}

/// Devices of a line, with the later mark of those that were looked at again meanwhile.
pub(super) type Members = HashMap<KeyBytes, Option<Look>>;

#[cfg(test)]
mod tests;
