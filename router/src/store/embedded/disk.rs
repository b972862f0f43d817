//! The database on disk: opening it, whatever state a crash left it in, and looking at it.

use super::form;
use super::journal;
use crate::store::StoreError;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Slice, Snapshot};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const MIB: u64 = 1024 * 1024;
/// Blocks kept in memory.
const CACHE_BYTES: u64 = 32 * MIB;
/// All journals together; the oldest is emptied into tables first.
const JOURNAL_BYTES_MAX: u64 = 256 * MIB;
/// One flushes, one compacts.
const WORKERS: usize = 2;
/// A keyspace with this many full buffers waiting, or this many young tables, takes no more for now. Below
/// the numbers at which the engine waits by itself: it would wait for ever for a worker that has died of a
/// full disk.
const SEALED_MAX: usize = 2;
const YOUNG_TABLES_MAX: usize = 20;

/// Where something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Shelves,
    Entries,
    Remembered,
    Groups,
    Owned,
    Sessions,
    Marks,
}

impl Space {
    /// With their names, and the bytes of writes that each keeps in memory at a time.
    const ALL: [(Self, &str, u64); 7] = [
        (Self::Shelves, "shelves", 16 * MIB),
        (Self::Entries, "entries", 32 * MIB),
        (Self::Remembered, "remembered", 16 * MIB),
        (Self::Groups, "groups", 4 * MIB),
        (Self::Owned, "owned", 4 * MIB),
        (Self::Sessions, "sessions", 4 * MIB),
        (Self::Marks, "marks", 4 * MIB),
    ];
    pub(super) const COUNT: usize = Self::ALL.len();
}

/// Pairs of key and value.
pub(super) type Pairs = Vec<(Slice, Slice)>;

/// What can be looked at: the database at one moment, or the writes that are being gathered over it.
pub(super) trait Source {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError>;

    /// At most `max` pairs from `from` on whose keys begin with `prefix`, in order.
    fn scan(
        &self,
        space: Space,
        from: Bound<Vec<u8>>,
        prefix: &[u8],
        max: usize,
    ) -> Result<Pairs, StoreError>;
}

/// An open database.
pub(super) struct Disk {
    database: Database,
    spaces: Vec<Keyspace>,
}

impl Disk {
    /// Opens or makes the database in `folder`. A torn tail of its journal is cut off.
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        hawser_chassis::private::data_folder(folder).map_err(engine)?;
        journal::cut_torn_tail(folder).map_err(engine)?;
        let database = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(WORKERS)
            .with_compaction_filter_factories(Arc::new(|name| {
                (name == "remembered").then(|| Arc::new(Forgetting) as Arc<dyn Factory>)
            }))
            .open()
            .map_err(engine)?;
        let open = |&(_, name, bytes)| {
            let options = || KeyspaceCreateOptions::default().max_memtable_size(bytes);
            database.keyspace(name, options).map_err(engine)
        };
        let spaces = Space::ALL.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { database, spaces })
    }

    pub(super) fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    pub(super) fn batch(&self) -> fjall::OwnedWriteBatch {
        self.database.batch()
    }

    /// Everything that was committed is on disk when this returns.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        // The system tells one caller of a failed sync. If that was a worker of the engine's, the same sync
        // asked for here says that all is well; the worker then stops the database.
        let synced = self.database.persist(PersistMode::SyncData);
        synced.and_then(|()| self.database.persist(PersistMode::Buffer)).map_err(engine)
    }

    /// Whether it still takes writes. It never does again once it has failed to.
    pub(super) fn is_sound(&self) -> bool {
        self.database.persist(PersistMode::Buffer).is_ok()
    }

    /// Whether the engine's workers keep up: with full buffers, and unless `only_buffers`, with tables.
    pub(super) fn has_room(&self, only_buffers: bool) -> bool {
        self.spaces.iter().all(|space| {
            space.sealed_memtable_count() <= SEALED_MAX
                && (only_buffers || space.l0_table_count() <= YOUNG_TABLES_MAX)
        })
    }

    /// The database as it is now, while it goes on.
    pub(super) fn glance(&self) -> Glance<'_> {
        Glance { disk: self, snapshot: self.database.snapshot() }
    }
}

impl Source for Disk {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        self.space(space).get(key).map_err(engine)
    }

    fn scan(
        &self,
        space: Space,
        from: Bound<Vec<u8>>,
        prefix: &[u8],
        max: usize,
    ) -> Result<Pairs, StoreError> {
        gather(self.space(space).range((from, end_of(prefix))), max)
    }
}

/// The database at one moment.
pub(super) struct Glance<'disk> {
    disk: &'disk Disk,
    snapshot: Snapshot,
}

impl Source for Glance<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        self.snapshot.get(self.disk.space(space), key).map_err(engine)
    }

    fn scan(
        &self,
        space: Space,
        from: Bound<Vec<u8>>,
        prefix: &[u8],
        max: usize,
    ) -> Result<Pairs, StoreError> {
        gather(self.snapshot.range(self.disk.space(space), (from, end_of(prefix))), max)
    }
}

fn gather(found: fjall::Iter, max: usize) -> Result<Pairs, StoreError> {
    found.take(max).map(|guard| guard.into_inner().map_err(engine)).collect()
}

/// Where the keys with this prefix end. A scan without that end would walk over everything that was ever
/// removed behind it.
pub(super) fn end_of(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

/// An error of the engine.
pub(super) fn engine(source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Engine(Arc::new(source))
}

/// Lets go of push ids whose time is over whenever tables are merged: it costs neither a walk nor a write.
struct Forgetting;

impl Factory for Forgetting {
    fn name(&self) -> &'static str {
        "push ids over their time"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Box::new(Over { now_ms: now.as_millis() as u64 })
    }
}

struct Over {
    now_ms: u64,
}

impl CompactionFilter for Over {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let until_ms = form::remembered_until(&item.value()?);
        let is_over = until_ms.is_some_and(|until_ms| until_ms <= self.now_ms);
        Ok(if is_over { Verdict::Remove } else { Verdict::Keep })
    }
}
