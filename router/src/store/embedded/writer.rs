//! The one thread that writes: what waits is made together, committed in one step, synced once if any of
//! it asked for the disk, and only then answered.
//!
//! While a sync runs the next calls gather; nobody waits for company. A database that has failed a write
//! takes no more of them: the thread lets reads go on, refuses writes, and opens the database anew on a
//! fresh copy of its journal as soon as there is room for one.

use super::disk::Disk;
use super::form::Kind;
use super::journal;
use super::overlay::Overlay;
use super::queue::Queue;
use super::shelf::OnShelf;
use super::walk::Walk;
use crate::key::Key;
use crate::store::{StoreError, next_mark};
use parking_lot::RwLock;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

/// Calls that share one commit and one sync, and the bytes of what they want to write. At 64 a thousand
/// callers wait for four times as many syncs; a batch of 256 is made in a few milliseconds.
const CALLS_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// After the engine's workers were found behind, until the next look.
const BEHIND: Duration = Duration::from_millis(2);
/// They are waited for no longer than this to merge tables: nothing says that they are about to.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// Free bytes that must be seen before the database is opened anew.
const SPARE_BYTES: usize = 4 * 1024 * 1024;

/// What a call needs before it may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Its batch was committed.
    Commit,
    /// Everything up to its batch was synced.
    Sync,
    /// Its batch was committed; what it speaks of was synced before.
    Durable,
}

/// One call inside the batch that is being gathered.
pub(super) struct Step<'step, 'disk> {
    overlay: &'step mut Overlay<'disk>,
    incarnation: u64,
    is_unsynced: bool,
    need: Need,
    last_mark: &'step mut u64,
}

impl<'disk> Step<'_, 'disk> {
    pub(super) fn device(&mut self, key: &Key) -> OnShelf<&mut Overlay<'disk>> {
        OnShelf::new(self.overlay, Kind::Device, key.as_bytes())
    }

    pub(super) fn group(&mut self, key: &[u8]) -> OnShelf<&mut Overlay<'disk>> {
        OnShelf::new(self.overlay, Kind::Group, key)
    }

    pub(super) fn overlay(&mut self) -> &mut Overlay<'disk> {
        self.overlay
    }

    /// The mark of something that is marked now.
    pub(super) fn next_mark(&mut self, now_ms: u64) -> u64 {
        *self.last_mark = next_mark(*self.last_mark, now_ms);
        *self.last_mark
    }

    /// The incarnation of the store, for appends.
    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Answered only when it is on disk.
    pub(super) fn sync(&mut self) {
        self.need = Need::Sync;
    }

    /// Answered only when what was written before, by whomever, is on disk.
    pub(super) fn sync_what_was_before(&mut self) {
        self.need = if self.is_unsynced { Need::Sync } else { Need::Durable };
    }
}

/// A call that waits for the writer.
pub(super) trait Call: Send {
    /// Makes it. `None`: nobody waits for it any more, or it failed and was told so.
    fn make(self: Box<Self>, step: &mut Step<'_, '_>) -> Option<Box<dyn Answer>>;
    /// Tells it that nothing was done.
    fn refuse(self: Box<Self>, why: StoreError);
}

/// An answer that waits for its batch.
pub(super) trait Answer {
    /// `Ok`: done, and whether it is on disk.
    fn answer(self: Box<Self>, outcome: Result<bool, StoreError>);
}

/// A call: what it does in its step, and what becomes of the result when it is known to be on disk or not.
pub(super) struct Ask<A, V, T> {
    pub(super) act: A,
    pub(super) finish: fn(V, bool) -> T,
    pub(super) answer: oneshot::Sender<Result<T, StoreError>>,
}

struct Made<V, T> {
    value: V,
    finish: fn(V, bool) -> T,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<A, V, T> Call for Ask<A, V, T>
where
    A: FnOnce(&mut Step<'_, '_>) -> Result<V, StoreError> + Send,
    V: Send + 'static,
    T: Send + 'static,
{
    fn make(self: Box<Self>, step: &mut Step<'_, '_>) -> Option<Box<dyn Answer>> {
        let Self { act, finish, answer } = *self;
        if answer.is_closed() {
            return None;
        }
        match caught(|| act(step)) {
            Ok(value) => Some(Box::new(Made { value, finish, answer })),
            Err(failed) => {
                step.overlay.take_back();
                let _ = answer.send(Err(failed));
                None
            }
        }
    }

    fn refuse(self: Box<Self>, why: StoreError) {
        let _ = self.answer.send(Err(why));
    }
}

impl<V, T> Answer for Made<V, T> {
    fn answer(self: Box<Self>, outcome: Result<bool, StoreError>) {
        let Self { value, finish, answer } = *self;
        let _ = answer.send(outcome.map(|is_synced| finish(value, is_synced)));
    }
}

/// What the writer shares with callers and readers.
pub(super) struct Shared {
    /// `None`: it is being opened anew.
    pub(super) disk: RwLock<Option<Arc<Disk>>>,
    pub(super) is_read_only: AtomicBool,
    pub(super) changes: watch::Sender<u64>,
    pub(super) batches: AtomicU64,
    pub(super) syncs: AtomicU64,
}

pub(super) struct Writer {
    pub(super) folder: PathBuf,
    pub(super) mend_interval: Duration,
    pub(super) queue: Arc<Queue<Box<dyn Call>>>,
    pub(super) shared: Arc<Shared>,
    pub(super) walk: Walk,
    incarnation: u64,
    /// Something was committed since the last sync.
    is_unsynced: bool,
    mend_due: Instant,
    /// Routers begin at the oldest mark when they start, so that it counts for this process alone.
    last_mark: u64,
    calls: Vec<Box<dyn Call>>,
}

impl Drop for Writer {
    /// However the thread ends, nobody waits for it in vain.
    fn drop(&mut self) {
        self.queue.close();
        self.queue.drain(&mut self.calls, usize::MAX, usize::MAX);
    }
}

impl Writer {
    pub(super) fn new(
        folder: PathBuf,
        mend_interval: Duration,
        queue: Arc<Queue<Box<dyn Call>>>,
        shared: Arc<Shared>,
        walk: Walk,
    ) -> Self {
        Self {
            folder,
            mend_interval,
            queue,
            shared,
            walk,
            incarnation: new_incarnation(),
            // What was committed before a crash may have been read back without being on disk.
            is_unsynced: true,
            mend_due: Instant::now(),
            last_mark: 0,
            calls: Vec::new(),
        }
    }

    /// Writes until the queue is closed and empty, then syncs.
    pub(super) fn run(mut self) {
        while self.queue.wait(self.patience()).is_some() {
            if self.shared.is_read_only.load(Ordering::Acquire) {
                self.refuse_all();
                self.mend();
                continue;
            }
            let Some(disk) = self.disk() else { continue };
            self.queue.drain(&mut self.calls, CALLS_MAX, BATCH_BYTES_MAX);
            if !self.calls.is_empty() {
                self.make_together(&disk);
            }
            if self.walk.is_due(self.queue.len() == 0) {
                self.walk_on(&disk);
            }
        }
        let disk = self.shared.disk.write().take();
        let Some(disk) = disk.map(alone) else { return };
        match disk.sync() {
            Ok(()) => info!("everything is on disk"),
            Err(source) => error!(%source, "the last sync failed"),
        }
    }

    fn patience(&self) -> Duration {
        let due = if self.shared.is_read_only.load(Ordering::Acquire) {
            self.mend_due
        } else {
            self.walk.due()
        };
        due.saturating_duration_since(Instant::now())
    }

    fn disk(&self) -> Option<Arc<Disk>> {
        self.shared.disk.read().clone()
    }

    fn make_together(&mut self, disk: &Disk) {
        if !wait_for_room(disk) {
            self.fail("the engine has stopped");
            self.refuse_all();
            return;
        }
        let mut overlay = Overlay::new(disk);
        let mut answers: Vec<(Need, Box<dyn Answer>)> = Vec::with_capacity(self.calls.len());
        for call in std::mem::take(&mut self.calls) {
            let is_unsynced = self.is_unsynced || !overlay.is_empty();
            let incarnation = self.incarnation;
            let (need, last_mark) = (Need::Commit, &mut self.last_mark);
            let mut step =
                Step { overlay: &mut overlay, incarnation, is_unsynced, need, last_mark };
            let made = call.make(&mut step);
            let need = step.need;
            overlay.keep();
            let Some(answer) = made else { continue };
            answers.push((need, answer));
        }
        self.finish(disk, overlay, answers);
    }

    fn finish(&mut self, disk: &Disk, overlay: Overlay<'_>, answers: Vec<(Need, Box<dyn Answer>)>) {
        if !overlay.is_empty() {
            self.shared.batches.fetch_add(1, Ordering::Relaxed);
            if let Err(source) = overlay.commit() {
                self.fail(&source);
                let is_refused = matches!(source, fjall::Error::Poisoned);
                let why = if is_refused {
                    StoreError::ReadOnly
                } else {
                    // It may stand in the journal whole, and be there after the next opening.
                    super::disk::engine(source)
                };
                for (_, answer) in answers {
                    answer.answer(Err(why.clone()));
                }
                return;
            }
            self.is_unsynced = true;
        }
        let mut waits = Vec::new();
        for (need, answer) in answers {
            match need {
                Need::Commit => answer.answer(Ok(false)),
                Need::Durable => answer.answer(Ok(true)),
                Need::Sync => waits.push(answer),
            }
        }
        if waits.is_empty() {
            return;
        }
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        let synced = disk.sync();
        match &synced {
            Ok(()) => self.is_unsynced = false,
            Err(source) => self.fail(source),
        }
        for answer in waits {
            answer.answer(synced.clone().map(|()| true));
        }
    }

    fn walk_on(&mut self, disk: &Disk) {
        // A worker may have failed while nobody wrote.
        if !disk.is_sound() {
            self.fail("the engine has stopped");
            return;
        }
        if !disk.has_room(false) {
            self.walk.put_off();
            return;
        }
        let mut overlay = Overlay::new(disk);
        if let Err(source) = caught(|| self.walk.step(disk, &mut overlay, now_ms())) {
            warn!(%source, "the walk over what is over its time was broken off");
            // Of the shelf that it broke off at; those before it are whole.
            overlay.take_back();
        }
        self.finish(disk, overlay, Vec::new());
    }

    fn fail(&mut self, source: impl std::fmt::Display) {
        error!(%source, "the store takes no writes until its folder does");
        self.shared.is_read_only.store(true, Ordering::Release);
        self.mend_due = Instant::now() + self.mend_interval;
    }

    fn refuse_all(&mut self) {
        self.queue.drain(&mut self.calls, usize::MAX, usize::MAX);
        for call in self.calls.drain(..) {
            call.refuse(StoreError::ReadOnly);
        }
    }

    /// Opens the database anew, if there is room for it.
    fn mend(&mut self) {
        if Instant::now() < self.mend_due {
            return;
        }
        self.mend_due = Instant::now() + self.mend_interval;
        if let Err(source) = self.open_anew() {
            warn!(%source, "the store cannot be opened anew yet");
        }
    }

    fn open_anew(&mut self) -> Result<(), StoreError> {
        probe(&self.folder).map_err(super::disk::engine)?;
        // While the old one is open for reads: if there is no room for the copies, reads go on.
        let copies = journal::Copy::make(&self.folder).map_err(super::disk::engine)?;
        let disk = self.shared.disk.write().take();
        drop(disk.map(alone));
        for copy in copies {
            copy.put_in_place().map_err(super::disk::engine)?;
        }
        let disk = Disk::open(&self.folder)?;
        *self.shared.disk.write() = Some(Arc::new(disk));
        self.incarnation = new_incarnation();
        self.is_unsynced = true;
        self.shared.is_read_only.store(false, Ordering::Release);
        self.shared.changes.send_modify(|count| *count += 1);
        info!("the store takes writes again");
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a call of the store panicked")]
struct Panicked;

/// Runs one step. One that panics has failed, alone; the thread goes on for the others.
fn caught<T>(step: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    // What it wrote is taken back by whoever asks, and it holds nothing else.
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
        error!("a call of the store panicked; it is taken back");
        Err(super::disk::engine(Panicked))
    })
}

/// Waits until the engine's workers have caught up. False: they never will.
fn wait_for_room(disk: &Disk) -> bool {
    let begun = Instant::now();
    while !disk.has_room(begun.elapsed() > BEHIND_MAX) {
        if !disk.is_sound() {
            return false;
        }
        std::thread::sleep(BEHIND);
    }
    true
}

/// Waits for the readers that are inside: each is there for one read.
fn alone(mut disk: Arc<Disk>) -> Disk {
    loop {
        match Arc::try_unwrap(disk) {
            Ok(disk) => return disk,
            Err(shared) => disk = shared,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the folder takes some bytes.
fn probe(folder: &std::path::Path) -> std::io::Result<()> {
    let path = folder.join("probe");
    let write = || {
        let mut file = std::fs::File::create(&path)?;
        std::io::Write::write_all(&mut file, &vec![1; SPARE_BYTES])?;
        file.sync_all()
    };
    let written = write();
    let removed = std::fs::remove_file(&path);
    written.and(removed)
}

/// Random per opening; 0 is no store's.
fn new_incarnation() -> u64 {
    rand::random::<u64>() | 1
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
