//! One shard: its duty, the walk over its marks, and the calls.

use super::calls::{Calls, Told};
use super::line::Waiting;
use super::receiver::{CALL_TIMEOUT, told};
use super::spool::{Found, Look, Now, PAGE, Spool, Verdict, Whom};
use crate::core::Core;
use crate::inbox::{Event, Heard};
use crate::key::{self, Key};
use crate::reach::Call;
use crate::store::{Marked, StoreError};
use futures_util::StreamExt as _;
use futures_util::stream;
use hawser_proto::id::{AppId, BusinessNo};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::debug;

/// For how long a duty is taken, and with how much left it is taken again.
const DUTY: Duration = Duration::from_secs(10);
const DUTY_RENEWED: Duration = Duration::from_secs(7);
const DUTY_ASKED_INTERVAL: Duration = Duration::from_secs(3);
/// No call is begun with less than this: the next holder must not call while this one still does.
const DUTY_NEEDED: Duration = Duration::from_secs(CALL_TIMEOUT.as_secs() + 1);
/// Between two tries to take a duty that another router has, and between two looks for marks while nobody
/// says that there are some; longer where no business asks for events.
const POLL: Duration = Duration::from_millis(250);
const POLL_IDLE: Duration = Duration::from_secs(5);
/// Reads of the store at a time.
const TOGETHER: usize = 16;
/// What was read of a device is told of within this time, else it is read again: what lies between may be left
/// out.
const FRESH: Duration = Duration::from_secs(1);
/// A business is late when the oldest of what it has to hear is this old.
const LATE: Duration = Duration::from_secs(30);
/// Between two looks at how late everybody is.
const SHOWN_INTERVAL: Duration = Duration::from_secs(1);

struct Shard {
    core: Arc<Core>,
    number: u16,
    duty: String,
    spool: Spool,
    /// Until then the duty is this router's.
    held_until: Option<Instant>,
    calls: Calls,
    revision: u64,
    /// How often the store may have lost something.
    losses: watch::Receiver<u64>,
    polled: Option<Instant>,
    shown: Instant,
}

/// Does what there is to do, while the duty is this router's, until told to stop.
pub(super) async fn run(core: Arc<Core>, number: u16) {
    let stop = core.tasks.stop_signal();
    let mut shard = Shard {
        duty: format!("events:{number}"),
        spool: Spool::default(),
        held_until: None,
        calls: Calls::default(),
        revision: 0,
        losses: core.store.changes(),
        polled: None,
        shown: Instant::now(),
        core,
        number,
    };
    loop {
        let pause = tokio::select! {
            pause = shard.turn() => pause,
            () = stop.cancelled() => return shard.let_go().await,
        };
        let (core, ends) = (shard.core.clone(), shard.calls.ends());
        tokio::select! {
            () = core.events.shard(number).wake.notified() => shard.polled = None,
            () = ends.more.notified() => {}
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return shard.let_go().await,
        }
    }
}

impl Shard {
    fn now(&self) -> Now {
        let clock = &self.core.clock;
        Now { steady_ms: clock.steady_ms(), wall_ms: clock.now_ms() }
    }

    /// How much of the duty is left.
    fn left(&self) -> Duration {
        let now = Instant::now();
        self.held_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Does what can be done now; returns how long nothing need be done unless something happens.
    async fn turn(&mut self) -> Duration {
        for told in self.calls.take_ended() {
            self.take_end(told);
        }
        if self.core.known.load().catalogue.revision == 0 || self.core.reach.is_down() {
            return POLL;
        }
        if !self.hold().await {
            return POLL * 4;
        }
        self.follow_catalogue();
        if self.losses.has_changed().unwrap_or(false) {
            // Marks may have been lost, and lie below those that were read.
            self.losses.mark_unchanged();
            self.spool.begin_again(self.now());
        }
        match self.work().await {
            Ok(true) => return Duration::ZERO,
            Ok(false) => {}
            Err(source) => {
                debug!(%source, shard = self.number, "connection events cannot be looked for");
                return POLL;
            }
        }
        self.show().await;
        let poll = if self.core.known.load().has_watchers() { POLL } else { POLL_IDLE };
        let due = self.spool.next_ms().map(|at_ms| at_ms.saturating_sub(self.now().steady_ms));
        let until_due = due.map_or(poll, Duration::from_millis);
        until_due.clamp(Duration::from_millis(1), poll.min(DUTY_ASKED_INTERVAL))
    }

    /// Takes the duty, or keeps it. A shard that was another's is read from the start.
    async fn hold(&mut self) -> bool {
        if self.left() >= DUTY_RENEWED {
            return true;
        }
        if self.left().is_zero() && self.calls.are_out() {
            // What an earlier holding left under way comes to its end first. Until then another may have it.
            return false;
        }
        let asked = Instant::now();
        let ttl_ms = DUTY.as_millis() as u64;
        let held = self.core.store.hold_duty(&self.duty, self.core.boot, ttl_ms);
        match self.core.reach.ask(Call::HoldDuty, held).await {
            Ok(true) => {
                if self.left().is_zero() {
                    if self.calls.are_out() {
                        return false;
                    }
                    self.forget();
                }
                self.held_until = Some(asked + DUTY);
            }
            Ok(false) => {
                self.held_until = None;
                self.forget();
            }
            Err(source) => debug!(%source, shard = self.number, "a duty cannot be taken"),
        }
        !self.left().is_zero()
    }

    /// Another router has the shard.
    fn forget(&mut self) {
        for (whom, _) in std::mem::take(&mut self.spool).lines {
            self.core.events.tell_late(&whom, self.number, false);
        }
        self.polled = None;
        self.core.events.show(&self.core, self.number, 0, 0);
    }

    /// The router ends: when the calls that are out have ended, the duty is free at once. They have as long as the
    /// duty lasts, and no longer than the patience with this router.
    async fn let_go(&mut self) {
        let ends = self.calls.ends();
        let ended = async {
            // Who was told has been noted in the store by then.
            loop {
                self.calls.take_ended();
                if !self.calls.are_out() {
                    return;
                }
                ends.more.notified().await;
            }
        };
        let _ = tokio::time::timeout(DUTY, ended).await;
        if !self.left().is_zero() && !self.calls.are_out() {
            let freed = self.core.store.hold_duty(&self.duty, self.core.boot, 1);
            let _ = self.core.reach.ask(Call::HoldDuty, freed).await;
        }
    }

    fn follow_catalogue(&mut self) {
        let known = self.core.known.load();
        if self.revision == known.catalogue.revision {
            return;
        }
        self.revision = known.catalogue.revision;
        let now = self.now();
        self.spool.let_go(|(app, business)| known.is_watching(app, *business), now);
        self.spool.watchers_changed(now);
    }

    /// One round. True: there is more at once.
    async fn work(&mut self) -> Result<bool, StoreError> {
        let mut is_more = false;
        let now = self.now();
        let is_due = self.polled.is_none_or(|at| at.elapsed() >= POLL);
        if is_due && let Some(after) = self.spool.read_from(now) {
            let marks = self.marked(after).await?;
            is_more = self.spool.read(&marks, self.now());
            self.polled = Some(Instant::now()).filter(|_| !is_more);
            self.look_at(self.seen_now(marks), &Found::InTurn).await;
        }
        if let Some(after) = self.spool.walk_from(rand::random_range(0.0..=1.0), self.now()) {
            let marks = self.marked(after).await?;
            self.spool.walked(&marks, self.now());
            self.look_at(self.seen_now(marks), &Found::InTurn).await;
        }
        let looks = self.spool.take_looks(self.now());
        if !looks.is_empty() {
            is_more |= looks.len() >= PAGE;
            self.look_at(looks, &Found::InTurn).await;
        }
        if let Some((whom, from)) = self.spool.next_left() {
            let marks = self.marked(from.saturating_sub(1)).await?;
            self.spool.left_read(&whom, &marks);
            self.look_at(self.seen_now(marks), &Found::Left(whom)).await;
            is_more = true;
        }
        while self.left() >= DUTY_NEEDED
            && let Some((whom, batch)) = self.spool.next_call(self.now())
        {
            self.begin(whom, batch);
        }
        Ok(is_more)
    }

    async fn marked(&self, after: u64) -> Result<Vec<Marked>, StoreError> {
        let asked = self.core.store.marked(self.number, after, PAGE);
        self.core.reach.ask(Call::Marked, asked).await
    }

    fn seen_now(&self, marks: Vec<Marked>) -> Vec<Look> {
        let seen_ms = self.now().steady_ms;
        marks.into_iter().map(|mark| Look { mark, seen_ms }).collect()
    }

    /// Asks what is due of these, and does with each mark what follows from it.
    async fn look_at(&mut self, looks: Vec<Look>, found: &Found) {
        let core = &self.core;
        let asked = looks.into_iter().map(async |look| {
            let due = match device(&look.mark.device) {
                Some((app, _, key)) => due(core, &key).await.map(|due| Some((app, due))),
                // Nobody can be told of what has no name.
                None => Ok(None),
            };
            (look, due)
        });
        let seen: Vec<_> = stream::iter(asked).buffered(TOGETHER).collect().await;
        let known = core.known.load_full();
        let now = self.now();
        let mut over = Vec::new();
        for (look, due) in seen {
            let mark = look.mark.clone();
            let verdict = match due {
                Ok(Some((app, due))) => {
                    let is_watching = |business| known.is_watching(&app, business);
                    self.spool.looked(look, found, due, &app, is_watching, now)
                }
                Ok(None) => Verdict::Unmark,
                Err(_) => {
                    self.spool.look_failed(look, found, now);
                    Verdict::Stays
                }
            };
            match verdict {
                Verdict::Stays => {}
                Verdict::Unmark => over.push((mark, Vec::new())),
                Verdict::GiveUp(events) => over.push((mark, events)),
            }
        }
        let (core, shard) = (&self.core, self.number);
        let ends = over.into_iter().map(|(mark, events)| end(core, shard, mark, events));
        stream::iter(ends).buffer_unordered(TOGETHER).collect::<()>().await;
    }

    fn begin(&mut self, whom: Whom, batch: Vec<Waiting>) {
        let (core, until) = (self.core.clone(), self.held_until);
        let call = self.calls.begin(whom.clone(), batch.clone());
        self.core
            .tasks
            .spawn_light(async move { call.end(tell(&core, &whom, batch, until).await) });
    }

    fn take_end(&mut self, told: Told) {
        let now = self.now();
        match told.outcome {
            Ok(heard) => self.spool.heard(&told.whom, heard, now),
            Err(batch) => {
                let jitter = rand::random_range(0.0..=1.0);
                self.spool.failed(&told.whom, batch, jitter, now);
            }
        }
    }

    /// Shows how much waits, and says who is late.
    async fn show(&mut self) {
        if self.shown.elapsed() < SHOWN_INTERVAL {
            return;
        }
        self.shown = Instant::now();
        let mut waiting = self.spool.waiting() as u64;
        if self.spool.has_left() {
            let asked = self.core.store.marks(self.number);
            waiting = self.core.reach.ask(Call::Marked, asked).await.unwrap_or(waiting);
        }
        let late_us = LATE.as_micros() as u64;
        let now_us = self.core.clock.now_ms() * 1_000;
        for (whom, line) in &self.spool.lines {
            let is_late = line.oldest().is_some_and(|at| at + late_us < now_us);
            self.core.events.tell_late(whom, self.number, is_late);
        }
        let oldest = self.spool.oldest().unwrap_or(0);
        self.core.events.show(&self.core, self.number, waiting, oldest);
    }
}

/// App, id and key of a device that is marked.
fn device(bytes: &[u8]) -> Option<(AppId, String, Key)> {
    let (app, id) = key::split(bytes)?;
    let app = AppId::new(app).ok()?;
    let key = Key::device(&app, id).ok()?;
    Some((app, id.to_owned(), key))
}

async fn due(core: &Core, device: &Key) -> Result<Vec<Event>, StoreError> {
    let asked = core.store.events_due(device, core.clock.now_ms());
    core.reach.ask(Call::EventsDue, asked).await
}

/// Takes a mark away. What nobody asks for any more counts as heard before, so that it is not due for ever.
async fn end(core: &Core, shard: u16, mark: Marked, given_up: Vec<Event>) {
    core.metrics.events.dropped.inc_by(given_up.len() as u64);
    if let Some((_, _, key)) = device(&mark.device) {
        for event in given_up.into_iter().filter(|event| !event.heard.is_online) {
            hear(core, &key, event.business, event).await;
        }
    }
    let taken = core.store.unmark(shard, &mark);
    // One that stays is found again on the next walk.
    let _ = core.reach.ask(Call::Unmark, taken).await;
}

/// Tells the store what a business has heard; true: it knows.
async fn hear(core: &Core, device: &Key, business: BusinessNo, event: Event) -> bool {
    let asked = core.store.event_heard(device, business, event.heard, core.clock.now_ms());
    core.reach.ask(Call::EventHeard, asked).await.is_ok()
}

/// Tells a business of these devices, and the store that it has heard.
async fn tell(
    core: &Core,
    whom: &Whom,
    batch: Vec<Waiting>,
    until: Option<Instant>,
) -> Result<Vec<(Waiting, bool)>, Vec<Waiting>> {
    let read = batch.into_iter().map(|it| read_again(core, whom.1, it));
    let read: Vec<_> = stream::iter(read).buffered(TOGETHER).collect().await;
    let (batch, unread): (Vec<_>, Vec<_>) = read.into_iter().partition(|(_, is_read)| *is_read);
    // What it is about to be told is noted, or its end would not be due if the answer were lost.
    let batch = batch.into_iter().map(|(it, _)| mean(core, whom.1, it));
    let meant: Vec<_> = stream::iter(batch).buffered(TOGETHER).collect().await;
    let (batch, unmeant): (Vec<_>, Vec<_>) = meant.into_iter().partition(|(_, is_meant)| *is_meant);
    let unread: Vec<_> = unread.into_iter().chain(unmeant).collect();
    let mut batch: Vec<Waiting> = batch.into_iter().map(|(it, _)| it).collect();
    let is_held = until.is_some_and(|until| Instant::now() + CALL_TIMEOUT < until);
    if !is_held {
        return Ok(batch
            .into_iter()
            .chain(unread.into_iter().map(|(it, _)| it))
            .map(|it| (it, false))
            .collect());
    }
    let mut events = Vec::new();
    for it in &batch {
        if let Some((_, id, _)) = device(&it.look.mark.device) {
            events.extend(it.events.iter().map(|event| told(&id, event)));
        }
    }
    let count = events.len() as u64;
    if count > 0 {
        let known = core.known.load_full();
        if let Err(source) = core.events.receivers.tell(&known, whom, events).await {
            debug!(app = %whom.0, business = whom.1.0, %source, "connection events were not heard");
            core.metrics.events.failed.inc_by(count);
            batch.extend(unread.into_iter().map(|(it, _)| it));
            return Err(batch);
        }
        core.metrics.events.heard.inc_by(count);
    }
    let known = batch.into_iter().map(async |it| {
        // The last one says it all.
        let is_known = match (device(&it.look.mark.device), it.events.last()) {
            (Some((_, _, key)), Some(last)) => hear(core, &key, whom.1, last.clone()).await,
            _ => true,
        };
        (it, is_known)
    });
    let known: Vec<_> = stream::iter(known).buffered(TOGETHER).collect().await;
    Ok(known.into_iter().chain(unread.into_iter().map(|(it, _)| (it, false))).collect())
}

/// Has the store note of which beginnings the business is about to be told. False: it has not, they must not be
/// told now.
async fn mean(core: &Core, business: BusinessNo, it: Waiting) -> (Waiting, bool) {
    let Some((_, _, key)) = device(&it.look.mark.device) else { return (it, true) };
    let mut is_meant = true;
    for event in it.events.iter().filter(|event| event.heard.is_online) {
        let heard = Heard { is_confirmed: false, ..event.heard.clone() };
        let asked = core.store.event_heard(&key, business, heard, core.clock.now_ms());
        is_meant &= core.reach.ask(Call::EventHeard, asked).await.unwrap_or(false);
    }
    (it, is_meant)
}

/// What is due of a device for one business, as it is now. False: the store did not say.
async fn read_again(core: &Core, business: BusinessNo, mut it: Waiting) -> (Waiting, bool) {
    let now_ms = core.clock.steady_ms();
    if !it.events.is_empty() && it.read_ms + FRESH.as_millis() as u64 > now_ms {
        return (it, true);
    }
    let Some((_, _, key)) = device(&it.look.mark.device) else { return (it, true) };
    match due(core, &key).await {
        Ok(mut events) => {
            events.retain(|event| event.business == business);
            it.events = events;
            it.read_ms = now_ms;
            (it, true)
        }
        Err(_) => (it, false),
    }
}
