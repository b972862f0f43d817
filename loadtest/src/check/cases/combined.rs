//! All of it at once: many devices over all protocols hear stored and volatile pushes and multicasts, ask
//! their business, and move to another protocol while more is stored for them. The judge of histories says
//! what was kept of the promises.

use super::groups::multicast;
use crate::check::place::{Device, PATIENCE, Place, until};
use crate::check::said::Found;
use anyhow::ensure;
use futures_util::{StreamExt as _, TryStreamExt as _};
use hawser_loadtest::judge::{self, Durability, Event, Kind, Options, Payload};
use hawser_loadtest::stamp;
use hawser_proto::rpc::push::{Class, Durability as Reached, Outcome};
use hawser_sdk::{
    Business, Client, CursorStorage, Cursors, FileCursors, FileStorage, Protocol, Push, Pushes,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::task::JoinSet;

/// Stored for each device in each half: before the moves, and while they go on.
const STORED: usize = 4;
/// Volatile pushes to each device before the moves.
const VOLATILE: usize = 2;
/// Multicasts before the moves.
const MULTICASTS: usize = 3;
/// Devices, or pushes, under way at once.
const AT_ONCE: usize = 64;
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// What happened, as far as it could be seen from outside.
#[derive(Clone, Debug, Default)]
struct History(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    events: Vec<Event>,
    /// Ids of pushes to the group, by device.
    of_group: BTreeMap<String, BTreeSet<String>>,
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, which happens now.
    fn write(&self, event: Event) {
        let mut seen = self.lock();
        let t = stamp::now();
        seen.events.push(Event { t, ..event });
    }

    /// Pushes that were answered (stored ones, or volatile ones), and those of them that were handed over.
    fn arrived(&self, volatile: bool) -> (usize, usize) {
        let seen = self.lock();
        let ids = |kind| -> BTreeSet<&str> {
            let of_kind =
                seen.events.iter().filter(|it| it.kind == kind && it.volatile == volatile);
            of_kind.map(|it| it.push.as_str()).collect()
        };
        let (answered, handed) = (ids(Kind::PushOk), ids(Kind::RecvApp));
        (answered.len(), answered.intersection(&handed).count())
    }
}

/// Cursors in files; what is kept is in the history.
struct Kept {
    cursors: FileCursors,
    history: History,
    process: u64,
}

impl CursorStorage for Kept {
    fn load(&self, app: &str, device: &str) -> std::io::Result<Cursors> {
        self.cursors.load(app, device)
    }

    fn store(
        &self,
        app: &str,
        device: &str,
        cursors: &Cursors,
        refused: &[Arc<str>],
    ) -> std::io::Result<()> {
        self.cursors.store(app, device, cursors, refused)?;
        for (business, at) in cursors {
            let event = Event::new(0, Kind::Commit).of(app, device, business).at(*at);
            self.history.write(Event { process: self.process, ..event });
        }
        Ok(())
    }
}

/// The load, and what it needs.
struct Load<'a> {
    place: &'a Place,
    protocols: &'a [Protocol],
    group: String,
    folder: PathBuf,
    history: History,
}

/// A device of the load, and the task that listens for it.
struct Listening {
    number: usize,
    client: Client,
    business: Business,
    /// Ends when the client has closed.
    ear: JoinSet<()>,
}

pub(super) async fn all_at_once(place: &Place) -> anyhow::Result<Found> {
    let begun = Instant::now();
    let folder = place.folder().join("combined");
    std::fs::create_dir_all(&folder)?;
    let load = Load {
        place,
        protocols: place.protocols().await?,
        group: place.create_group("combined").await?,
        folder,
        history: History::default(),
    };
    let online = load.begin().await?;
    let answered = load.at_rest(&online).await?;
    let online = load.moving(online).await?;
    load.last_words(&online).await?;
    futures_util::future::join_all(online.iter().map(|it| it.client.close())).await;
    load.judge(begun, answered)
}

impl Load<'_> {
    fn name(&self, number: usize) -> String {
        self.place.name(&format!("all-{number}"))
    }

    /// All of them log in and join.
    async fn begin(&self) -> anyhow::Result<Vec<Listening>> {
        let all: Vec<_> = (0..self.place.devices).map(|number| self.log_in(number, 1)).collect();
        let all = futures_util::stream::iter(all).buffered(AT_ONCE).try_collect().await?;
        self.until_all_joined().await?;
        Ok(all)
    }

    /// One device in its first or second life.
    async fn log_in(&self, number: usize, process: u64) -> anyhow::Result<Listening> {
        let (place, name) = (self.place, self.name(number));
        let over = (number + process as usize) % self.protocols.len();
        let start = Event::new(0, Kind::Start).of(&place.app, &name, "");
        self.history.write(Event { process, ..start });
        let cursors = FileCursors::new(&self.folder);
        let builder = place
            .builder(&name)
            .protocol(self.protocols[over])
            .storage(FileStorage::new(self.folder.join(format!("{name}.installation"))))
            .cursors(Kept { cursors, history: self.history.clone(), process });
        let Device { client, business, pushes, .. } = place.log_in(&name, builder).await?;
        let inbox = (place.app.clone(), name, place.business.clone());
        let mut ear = JoinSet::new();
        ear.spawn(hear(pushes, self.history.clone(), inbox, process));
        business.join(&self.group).await?;
        Ok(Listening { number, client, business, ear })
    }

    /// Everything at once, to devices that stay. The count of requests that were answered.
    async fn at_rest(&self, online: &[Listening]) -> anyhow::Result<usize> {
        let members = self.place.devices as u64;
        let pushes = online.iter().flat_map(|it| {
            let stored = (0..STORED).map(move |_| (it.number, Class::Stored));
            stored.chain((0..VOLATILE).map(move |_| (it.number, Class::Volatile)))
        });
        let pushes = pushes
            .enumerate()
            .map(|(id, (number, class))| self.push(self.name(number), format!("a{id}"), class));
        let pushes: Vec<_> = pushes.collect();
        let pushes = futures_util::stream::iter(pushes).buffer_unordered(AT_ONCE);
        let multicasts = async {
            for number in 0..MULTICASTS {
                self.to_all(&format!("m{number}"), members).await?;
            }
            anyhow::Ok(())
        };
        let asked = online.iter().map(|it| async move {
            it.business.request(&self.place.method, "still there?").await.is_ok()
        });
        let asked: Vec<_> = asked.collect();
        let asked = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        let answered = asked.filter(|it| std::future::ready(*it)).count();
        let (_, (), answered): (Vec<()>, (), usize) =
            tokio::try_join!(pushes.try_collect(), multicasts, async {
                anyhow::Ok(answered.await)
            })?;
        self.until_all_arrived(MULTICASTS).await?;
        Ok(answered)
    }

    /// While more is stored, each device goes and comes back over another protocol.
    async fn moving(&self, online: Vec<Listening>) -> anyhow::Result<Vec<Listening>> {
        let again = online.into_iter().map(|mut it| async move {
            it.client.close().await;
            // What it has heard is written down before its next life begins.
            while it.ear.join_next().await.is_some() {}
            self.log_in(it.number, 2).await
        });
        let again: Vec<_> = again.collect();
        let again = futures_util::stream::iter(again).buffered(AT_ONCE).try_collect();
        let pushes = (0..STORED * self.place.devices).map(|id| {
            self.push(self.name(id % self.place.devices), format!("b{id}"), Class::Stored)
        });
        let pushes: Vec<_> = pushes.collect();
        let pushes = futures_util::stream::iter(pushes).buffer_unordered(AT_ONCE).try_collect();
        let (again, _): (Vec<Listening>, Vec<()>) = tokio::try_join!(again, pushes)?;
        Ok(again)
    }

    /// All are back: the group is whole, and nothing is on its way.
    async fn last_words(&self, online: &[Listening]) -> anyhow::Result<()> {
        self.until_all_joined().await?;
        self.to_all("last", online.len() as u64).await?;
        self.until_all_arrived(MULTICASTS + 1).await
    }

    async fn push(&self, device: String, id: String, class: Class) -> anyhow::Result<()> {
        let Place { app, business, .. } = self.place;
        let event = |kind| Event {
            push: id.clone(),
            volatile: class == Class::Volatile,
            ..Event::new(0, kind).of(app, &device, business)
        };
        let body = Payload { push: &id, app, device: &device, inbox: business }.encode();
        self.history.write(event(Kind::PushCall));
        let answer = self.place.unicast(&device, class, &id, &body).await?;
        let outcome = answer.outcome();
        let is_taken = matches!(outcome, Outcome::Stored | Outcome::Acked | Outcome::Written);
        ensure!(is_taken, "a push to {device} is answered {}", outcome.as_str_name());
        let mut answered = event(Kind::PushOk);
        if let Some(stored) = answer.stored {
            (answered.term, answered.seq) = (stored.term, stored.seq);
            answered.durability = Some(match stored.durability() {
                Reached::Disk => Durability::Disk,
                Reached::Replica => Durability::Replica,
                Reached::Memory | Reached::Unspecified => Durability::Memory,
            });
        }
        self.history.write(answered);
        Ok(())
    }

    async fn to_all(&self, id: &str, members: u64) -> anyhow::Result<()> {
        let answer = multicast(self.place, &self.group, id, id).await?;
        ensure!(
            (answer.members, answer.dropped) == (members, 0),
            "of {members} members, a multicast finds {} and drops {}",
            answer.members,
            answer.dropped
        );
        Ok(())
    }

    async fn until_all_joined(&self) -> anyhow::Result<()> {
        let devices = self.place.devices as u64;
        until("not all are in the group", || async {
            anyhow::Ok(self.place.members(&self.group).await? == devices)
        })
        .await
    }

    async fn until_all_arrived(&self, multicasts: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        let devices = self.place.devices;
        loop {
            let ((stored, have), (written, came)) =
                (self.history.arrived(false), self.history.arrived(true));
            let whole = |it: &BTreeSet<String>| it.len() >= multicasts;
            let heard = self.history.lock().of_group.values().filter(|it| whole(it)).count();
            if (have, came, heard) == (stored, written, devices) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "after {PATIENCE:?} {have} of {stored} stored pushes have arrived, {came} of {written} \
                 volatile ones that were written, and {heard} of {devices} devices heard all multicasts"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    fn judge(&self, begun: Instant, answered: usize) -> anyhow::Result<Found> {
        let mut events = std::mem::take(&mut self.history.lock().events);
        events.sort_by_key(|event| event.t);
        let verdict = judge::judge(&events, Options::default());
        let first = verdict.convictions.first().map(|it| format!("{:?}: {}", it.rule, it.what));
        ensure!(verdict.is_clean(), "{:?}; first {}", verdict.zeros(), first.unwrap_or_default());
        let devices = self.place.devices;
        Ok(Found::Fine(format!(
            "{devices} devices over {} protocols, each moved once; {} stored and {} volatile pushes, {} \
             multicasts, {answered} requests answered; lost 0, wrong device 0, twice 0, cross-tenant 0; {:.1} s",
            self.protocols.len(),
            verdict.stored,
            VOLATILE * devices,
            MULTICASTS + 1,
            begun.elapsed().as_secs_f64()
        )))
    }
}

/// Writes down all that comes, until the client closes.
async fn hear(
    mut pushes: Pushes,
    history: History,
    (app, device, business): (String, String, String),
    process: u64,
) {
    while let Some(push) = pushes.next_push().await {
        let Push { id, group, body, position, redelivered, .. } = push;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if group.is_some() {
            history.lock().of_group.entry(device.clone()).or_default().insert(text(&id));
            continue;
        }
        let event = Event::new(0, Kind::RecvApp).of(&app, &device, &business);
        history.write(Event {
            push: text(&id),
            body: text(&body),
            volatile: position.is_none(),
            redelivered,
            process,
            ..event.at(position.unwrap_or_default())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_and_never_came_is_not_taken_as_arrived() {
        let history = History::default();
        for (kind, push, volatile) in [
            (Kind::PushOk, "a", false),
            (Kind::PushOk, "b", false),
            (Kind::PushOk, "v", true),
            (Kind::RecvApp, "a", false),
            (Kind::RecvApp, "a", false),
            (Kind::RecvApp, "other", false),
            (Kind::RecvApp, "v", true),
        ] {
            let event = Event::new(0, kind);
            history.write(Event { push: push.to_owned(), volatile, ..event });
        }
        assert_eq!(history.arrived(false), (2, 1));
        assert_eq!(history.arrived(true), (1, 1));
    }
}
